//! Arguments of `beadle sink`.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum SinkVerb {
    /// Show how far each audit sink got, and what stands in its way
    Status(SinkStatusArgs),
    /// Try a sink now
    Retry(SinkRetryArgs),
    /// Move a sink past events that wait; they are kept as dead letters
    Skip(SinkSkipArgs),
    /// Show the events that a sink never took
    DeadLetters(DeadLettersArgs),
    /// Print the public key that signed heads among the events are checked with
    Key,
}

#[derive(Debug, Args)]
pub struct SinkStatusArgs {
    /// Only this sink, with all that is known of it; exits with 1 when it is too far behind
    pub name: Option<String>,
}

#[derive(Debug, Args)]
pub struct SinkRetryArgs {
    pub name: String,
    /// Deliver its dead letters again too, after what was delivered since
    #[arg(long)]
    pub dead_letters: bool,
}

#[derive(Debug, Args)]
pub struct SinkSkipArgs {
    pub name: String,
    /// So many events from the front (at most 1,000), or the next one as SESSION:SEQ
    #[arg(value_name = "N|EVENT")]
    pub what: String,
}

#[derive(Debug, Args)]
pub struct DeadLettersArgs {
    pub name: String,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub limit: u16,
}
