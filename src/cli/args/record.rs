//! Arguments of `logs` and `events`.

use clap::Args;

use crate::cli::args_check::session_id;

#[derive(Debug, Args)]
pub struct LogsArgs {
    #[arg(value_parser = session_id)]
    pub session: String,
    /// Go on as more comes, until the session ends
    #[arg(short, long)]
    pub follow: bool,
    /// Standard error instead of standard output
    #[arg(short, long)]
    pub err: bool,
    /// Of this attempt; default: the newest
    #[arg(long, value_name = "N")]
    pub attempt: Option<u32>,
    /// Only the last so many bytes
    #[arg(short, long, value_name = "BYTES")]
    pub tail: Option<u64>,
    /// On a terminal too, print octets as they are
    #[arg(long)]
    pub raw: bool,
}

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Session; without it, events of all sessions from now on (needs -f)
    #[arg(value_parser = session_id, required_unless_present = "follow")]
    pub session: Option<String>,
    /// Go on as more comes
    #[arg(short, long)]
    pub follow: bool,
    /// First event wanted
    #[arg(long, value_name = "SEQ", conflicts_with = "tail")]
    pub from: Option<u64>,
    /// Only the last so many
    #[arg(short, long, value_name = "COUNT")]
    pub tail: Option<usize>,
    /// Only these kinds, separated by commas
    #[arg(short, long, value_delimiter = ',', value_name = "KIND")]
    pub kinds: Vec<String>,
    /// Only those of this attempt
    #[arg(long, value_name = "N")]
    pub attempt: Option<u32>,
    /// Of all sessions: those behind this token, which `--json` shows as `cursor`
    #[arg(long, value_name = "TOKEN", requires = "follow", conflicts_with = "session")]
    pub after: Option<String>,
    /// Farther behind the newest event than this, go to the end and say what was missed
    #[arg(long, value_name = "COUNT", requires = "follow")]
    pub max_lag: Option<u64>,
    /// As a timeline instead of one line an event
    #[arg(long)]
    pub timeline: bool,
}
