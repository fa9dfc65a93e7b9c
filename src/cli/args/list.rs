//! Options of `ls`.

use clap::Args;

use crate::cli::args_check::{label, moment, outcome, session_id, sort, status};
use crate::model::{Outcome, Sort, Status};

#[derive(Debug, Args)]
pub struct LsArgs {
    /// queued, starting, running, paused, stopping or ended
    #[arg(short, long, value_parser = status)]
    pub status: Option<Status>,
    /// succeeded, failed, missing_report, exited, stopped, killed, timed_out, budget, breach or lost
    #[arg(short, long, value_parser = outcome)]
    pub outcome: Option<Outcome>,
    #[arg(short, long)]
    pub agent: Option<String>,
    /// Whose; Unassigned for those of nobody
    #[arg(long, value_name = "NAME")]
    pub owner: Option<String>,
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    #[arg(long, value_name = "ID")]
    pub mission: Option<String>,
    #[arg(long, value_name = "NAME")]
    pub phase: Option<String>,
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    #[arg(long, value_name = "ID")]
    pub thread: Option<String>,
    /// Those started for this session
    #[arg(long, value_name = "SESSION", value_parser = session_id)]
    pub parent: Option<String>,
    /// KEY=VALUE; may be repeated, and then all must hold
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Started at this time or later: 90m, 24h, 7d, 2026-01-31 or a whole time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Option<String>,
    /// Started before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<String>,
    /// created (newest first), activity (last event first), name (A to Z) or cost (dearest first)
    #[arg(long, value_parser = sort, default_value = "created")]
    pub sort: Sort,
    /// The other way round
    #[arg(short, long)]
    pub reverse: bool,
    /// Most sessions to list
    #[arg(short = 'n', long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub limit: u32,
    /// Each below the one that it was started for, where that is listed, too
    #[arg(long)]
    pub tree: bool,
    /// Every session, however many
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
    /// Go on where an earlier listing ended, with the same filters and order
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,
}
