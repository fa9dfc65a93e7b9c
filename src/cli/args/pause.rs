//! Options of `pause`.

use clap::{Args, ValueEnum};

use crate::cli::args_check::session_id;
use crate::model::PauseMode;

#[derive(Debug, Args)]
pub struct PauseArgs {
    /// Session id, a unique beginning of it, or a name
    #[arg(value_parser = session_id)]
    pub session: String,
    /// Default: hold where the session has a gate, else freeze
    #[arg(short, long, value_enum)]
    pub mode: Option<Mode>,
    /// All running sessions below it, too, which are told after it
    #[arg(long)]
    pub tree: bool,
    /// Shown with its status
    #[arg(short, long, value_name = "TEXT")]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Mode {
    /// Each tool call waits at the gate; processes and connections go on
    Hold,
    /// Every process of its tree is stopped
    Freeze,
}

impl From<Mode> for PauseMode {
    fn from(m: Mode) -> Self {
        match m {
            Mode::Hold => Self::Hold,
            Mode::Freeze => Self::Freeze,
        }
    }
}
