//! Arguments of `beadle account`.

use clap::Args;

use super::session_id;

#[derive(Debug, Args)]
pub struct AccountArgs {
    /// Session id, a unique beginning of it, or a name
    #[arg(value_parser = session_id)]
    pub session: String,
    /// Only calls that the log does not explain
    #[arg(short, long)]
    pub unexplained: bool,
}
