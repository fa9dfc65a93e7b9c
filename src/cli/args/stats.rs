//! Arguments of `stats`.

use clap::Args;

use crate::cli::args_check::{label, since};

#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Sessions created since then: 90m, 24h, 7d, 2026-01-31, or a whole time as in 2026-01-31T08:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = since)]
    pub since: Option<String>,
    #[arg(short, long)]
    pub agent: Option<String>,
    /// KEY=VALUE
    #[arg(short, long, value_parser = label)]
    pub label: Option<(String, String)>,
}
