//! Arguments of `beadle policy replay`.

use std::path::PathBuf;

use clap::Args;

use super::super::args_check::{session_id, since};

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Only the calls of this session; may be repeated
    #[arg(short, long = "session", value_name = "SESSION", value_parser = session_id)]
    pub sessions: Vec<String>,
    /// Only calls since then: 90m, 24h, 7d, a day, or a whole time
    #[arg(long, value_parser = since)]
    pub since: Option<String>,
    /// Most sessions, newest first
    #[arg(short = 'n', long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// With this component: in the place of the installed plugin that calls itself the same, else as one policy more
    #[arg(long, value_name = "FILE")]
    pub with: Option<PathBuf>,
    /// With this file as the operator's configuration
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}
