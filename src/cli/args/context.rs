//! Arguments of `beadle context`, and what `run` says of it.

use clap::{Args, Subcommand, ValueEnum};

use super::SessionArg;
use super::memory::Tier;
use crate::cli::args_check::session_id;
use crate::model::ContextAt;

#[derive(Debug, Args, Default)]
pub struct RunContextArgs {
    /// Only these context providers of the configuration, instead of those that are for every session; may be repeated
    #[arg(long = "context", value_name = "NAME")]
    pub context: Vec<String>,
    /// No context provider
    #[arg(long, conflicts_with = "context")]
    pub no_context: bool,
}

impl RunContextArgs {
    pub fn names(self) -> Option<Vec<String>> {
        (self.no_context || !self.context.is_empty()).then_some(self.context)
    }
}

#[derive(Debug, Subcommand)]
pub enum ContextVerb {
    /// List what adds context beside a session's prompts
    Ls(SessionArg),
    /// Give a live session a provider, from its next prompt on
    ///
    /// With a name alone it is the one of the configuration; else it is described here. A command (after `--`) runs in the session's folder,
    /// without its environment and beside its gate.
    Add(ContextAddArgs),
    /// Take a provider away, from the next prompt on
    Remove {
        #[arg(value_parser = session_id)]
        session: String,
        /// As shown by `context ls`
        name: String,
    },
    /// Print what was added, prompt by prompt, from the log
    Show(SessionArg),
}

#[derive(Debug, Args)]
pub struct ContextAddArgs {
    #[arg(value_parser = session_id)]
    pub session: String,
    /// Name of the provider
    pub name: String,
    /// Where the context comes from; follows from the other options where it is left out
    #[arg(short, long, value_enum)]
    pub kind: Option<Kind>,
    /// start: once, with the next prompt; prompt: with every one (default)
    #[arg(long, value_enum, value_delimiter = ',')]
    pub at: Vec<At>,
    /// Most bytes at a time; default 8192, at most 65536
    #[arg(long, value_name = "N")]
    pub max_bytes: Option<u64>,
    /// Refuse prompts that it cannot add to
    #[arg(long)]
    pub required: bool,
    /// memory: only this tier
    #[arg(short, long, value_enum)]
    pub tier: Option<Tier>,
    /// memory: only with this tag
    #[arg(long)]
    pub tag: Option<String>,
    /// memory: at most so many entries; default 5
    #[arg(short, long, value_name = "N")]
    pub limit: Option<usize>,
    /// files: a path or a pattern (`*`, `?`, `**`) below the session's folder; may be repeated
    #[arg(short, long = "path", value_name = "PATH")]
    pub paths: Vec<String>,
    /// command: end it after so many milliseconds; default 5000, at most 20000
    #[arg(long, value_name = "MS")]
    pub timeout: Option<u64>,
    /// The command
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Memory,
    Files,
    Command,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Files => "files",
            Self::Command => "command",
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum At {
    Start,
    Prompt,
}

impl From<At> for ContextAt {
    fn from(a: At) -> Self {
        match a {
            At::Start => Self::Start,
            At::Prompt => Self::Prompt,
        }
    }
}
