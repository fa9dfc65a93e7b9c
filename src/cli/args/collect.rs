//! Arguments of `beadle host gc`, `host backup` and `host restore`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::args_check::{bytes, moment, outcome};
use crate::model::Outcome;

#[derive(Debug, Args)]
pub struct GcArgs {
    /// Sessions that ended before, and files not used since: 30d, 12h, a day, or a whole time
    #[arg(long, value_name = "AGE", value_parser = moment)]
    pub older_than: Option<String>,
    /// Raw output (`beadle logs`) of sessions that ended before; the sessions themselves stay
    #[arg(long, value_name = "AGE", value_parser = moment)]
    pub raw_older_than: Option<String>,
    /// Ended sessions, the oldest first, until all together have no more than this: 500M, 2G
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub over: Option<u64>,
    /// Only sessions that ended so, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "OUTCOME", value_parser = outcome)]
    pub outcome: Vec<Outcome>,
    /// Keep so many of those that ended last, whatever else is said
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub keep: usize,
    /// Only say what would go
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// What `beadle host backup` made
    pub from: PathBuf,
    /// Where there is a data folder already: move it aside
    #[arg(long)]
    pub replace: bool,
}
