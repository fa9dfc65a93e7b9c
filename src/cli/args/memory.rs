//! Arguments of `beadle memory`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::super::args_check::session_id;
use crate::model::MemoryTier;

#[derive(Debug, Subcommand)]
pub enum MemoryVerb {
    /// Keep a text over sessions; secrets in it are masked
    Add(MemoryAddArgs),
    /// Find entries that have any of these words, best first
    Search(MemorySearchArgs),
    /// List entries, newest first
    Ls(MemoryPlaceArgs),
    /// Remove entries
    Rm {
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct MemoryAddArgs {
    /// What is to be kept; `-` reads it from standard input
    pub text: String,
    /// session: for that session only; working: the oldest make room; long-term: until it is removed
    #[arg(short, long, value_enum, default_value = "long-term")]
    pub tier: Tier,
    /// A word to find it by; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Namespace; default: the session's, else the repository or folder that this is run in
    #[arg(short = 'N', long)]
    pub namespace: Option<String>,
    /// Add it for this session: an event of its log
    #[arg(short, long, value_parser = session_id)]
    pub session: Option<String>,
}

#[derive(Debug, Args)]
pub struct MemorySearchArgs {
    #[arg(required = true)]
    pub words: Vec<String>,
    #[command(flatten)]
    pub place: MemoryPlaceArgs,
}

#[derive(Debug, Args)]
pub struct MemoryPlaceArgs {
    /// Namespace; default: the repository or folder that this is run in
    #[arg(short = 'N', long, conflicts_with = "all")]
    pub namespace: Option<String>,
    /// The namespace of this folder
    #[arg(short = 'C', long, value_name = "DIR", conflicts_with_all = ["namespace", "all"])]
    pub cwd: Option<PathBuf>,
    /// All namespaces
    #[arg(short, long)]
    pub all: bool,
    /// Only this tier
    #[arg(short, long, value_enum)]
    pub tier: Option<Tier>,
    /// Only with this tag
    #[arg(long)]
    pub tag: Option<String>,
    /// Only what this session added
    #[arg(short, long, value_parser = session_id)]
    pub session: Option<String>,
    /// At most so many: 10 of a search (at most 50), 100 of a list (at most 1,000)
    #[arg(short, long, value_name = "N")]
    pub limit: Option<usize>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Tier {
    Session,
    Working,
    LongTerm,
}

impl From<Tier> for MemoryTier {
    fn from(t: Tier) -> Self {
        match t {
            Tier::Session => Self::Session,
            Tier::Working => Self::Working,
            Tier::LongTerm => Self::LongTerm,
        }
    }
}
