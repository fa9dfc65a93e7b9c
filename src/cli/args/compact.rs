//! Arguments of `beadle compact`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::session_id;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct CompactArgs {
    /// Session id, a unique beginning of it, or a name
    #[arg(value_parser = session_id, required = true)]
    pub session: Option<String>,
    /// mask-observations, drop-oldest, structured-summary, an installed one (`beadle plugin ls`), or a component's path
    #[arg(long, value_name = "NAME|FILE.wasm")]
    pub strategy: Option<String>,
    /// The strategy's settings, a JSON object
    #[arg(long, value_name = "JSON")]
    pub config: Option<String>,
    /// What the conversation should have at most, in tokens
    #[arg(long, value_name = "TOKENS")]
    pub target: Option<u64>,
    /// Let the strategy touch your own words too, or what the system said
    #[arg(long, value_enum, value_name = "WHOSE")]
    pub unpin: Vec<Unpin>,
    /// Only show what would be done
    #[arg(long)]
    pub dry_run: bool,
    #[command(subcommand)]
    pub verb: Option<CompactVerb>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Unpin {
    User,
    System,
}

#[derive(Debug, Subcommand)]
pub enum CompactVerb {
    /// Score strategies on recorded conversations
    Bench(CompactBenchArgs),
    /// What was compacted of a session, and the conversation as it was before
    Show(CompactShowArgs),
}

#[derive(Debug, Args)]
pub struct CompactShowArgs {
    /// Session id, a unique beginning of it, or a name
    #[arg(value_parser = session_id)]
    pub session: String,
    /// Print the agent's record as it was before, without secrets
    #[arg(long)]
    pub original: bool,
    /// The compaction with this event; the newest when left out
    #[arg(long, value_name = "SEQ", requires = "original")]
    pub seq: Option<u64>,
}

#[derive(Debug, Args)]
pub struct CompactBenchArgs {
    /// A folder of Claude Code's records (*.jsonl), each with its probes beside it (*.probes.json) where there are any
    pub dir: PathBuf,
    /// A strategy to score; all standard ones by default
    #[arg(long, value_name = "NAME|FILE.wasm")]
    pub strategy: Vec<String>,
    /// Settings of the strategies, a JSON object; needs --strategy
    #[arg(long, value_name = "JSON", requires = "strategy")]
    pub config: Option<String>,
    /// What is aimed at, in percent of each conversation
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=99))]
    pub target_percent: u64,
}
