//! Arguments of `attempts` and `rollback`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::args_check::session_id;

#[derive(Debug, Args)]
pub struct AttemptsArgs {
    /// Session id, a unique beginning of it, or a name
    #[arg(value_parser = session_id)]
    pub session: String,
    /// Also those of the sessions that were started for it
    #[arg(short, long)]
    pub tree: bool,
}

#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// Session ids, unique beginnings of one, or names; they have ended
    #[arg(value_parser = session_id, required = true)]
    pub sessions: Vec<String>,
    /// Only this attempt; all when left out
    #[arg(long, value_name = "N")]
    pub attempt: Option<u32>,
    /// Only attempts of this agent
    #[arg(short, long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Only attempts of this phase
    #[arg(long, value_name = "NAME")]
    pub phase: Option<String>,
    /// Also those of the sessions that were started for them
    #[arg(short, long)]
    pub tree: bool,
    /// Make a new worktree there from the newest checkpoint before what is taken back; a folder that is not empty is refused
    #[arg(long, value_name = "DIR")]
    pub restore: Option<PathBuf>,
}
