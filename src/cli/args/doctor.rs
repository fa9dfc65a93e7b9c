//! Arguments of `doctor`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// claude: run the installed agent against the scripted model and record what held; host: look at this machine; default: this
    /// machine, and which agents were checked
    pub what: Option<String>,
    /// The agent's program, where it is not on PATH under its usual name
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// Keep the temporary folder
    #[arg(long)]
    pub keep: bool,
    /// Do not record the result
    #[arg(long)]
    pub no_store: bool,
}
