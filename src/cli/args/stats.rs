//! Arguments of `stats`.

use clap::Args;

use crate::cli::args_check::{dimension, label, session_id, since};

#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Model calls, grouped: model, agent, label:KEY, phase, owner, tenant, day, tree (the root of its parents), attempt, session or
    /// source (own agent, sub-agents, what only totals tell). Or tool calls by tool: how many were allowed, denied, asked about,
    /// failed, and their time from start to result
    #[arg(short, long, value_name = "WHAT", value_parser = dimension)]
    pub by: Option<String>,
    /// Since then: 90m, 24h, 7d, 2026-01-31, or a whole time as in 2026-01-31T08:00:00Z. Sessions count by when they were created;
    /// with --by or --session, model calls by when they were answered, tool calls by when they were asked for
    #[arg(long, value_name = "WHEN", value_parser = since)]
    pub since: Option<String>,
    /// Before then, written in the same ways
    #[arg(long, value_name = "WHEN", value_parser = since)]
    pub until: Option<String>,
    /// One session: its model calls, and what the agent itself says they cost
    #[arg(short, long, value_parser = session_id)]
    pub session: Option<String>,
    #[arg(short, long)]
    pub agent: Option<String>,
    /// KEY=VALUE
    #[arg(short, long, value_parser = label)]
    pub label: Option<(String, String)>,
    /// Days of this machine's clock, by its offset from UTC as it is now; otherwise days of UTC
    #[arg(long)]
    pub local: bool,
}
