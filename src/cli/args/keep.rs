//! Arguments of `beadle archive` and `beadle redact`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::args_check::{moment, session_id};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ArchiveArgs {
    /// Session id, a unique beginning of it, or a name
    #[arg(value_parser = session_id, required_unless_present = "ended_before", conflicts_with = "ended_before")]
    pub session: Option<String>,
    /// The first event that stays in the database; without it all of an ended session go
    #[arg(long, value_name = "SEQ", conflicts_with = "ended_before")]
    pub below: Option<u64>,
    /// Write it there instead of into the data folder
    #[arg(long, value_name = "FILE", conflicts_with = "ended_before")]
    pub to: Option<PathBuf>,
    /// All sessions that ended before: 30d, 12h, a day, or a whole time
    #[arg(long, value_name = "AGE", value_parser = moment)]
    pub ended_before: Option<String>,
    #[command(subcommand)]
    pub verb: Option<ArchiveVerb>,
}

#[derive(Debug, Subcommand)]
pub enum ArchiveVerb {
    /// Put what was archived of a session back into the database
    Restore {
        #[arg(value_parser = session_id)]
        session: String,
    },
}

#[derive(Debug, Args)]
pub struct RedactArgs {
    /// Session id, a unique beginning of it, or a name
    #[arg(value_parser = session_id)]
    pub session: String,
    /// The event, as `beadle events` numbers it; left out, every event that holds the pattern
    #[arg(required_unless_present = "pattern")]
    pub seq: Option<u64>,
    /// Erase only this text, letter by letter; `-` reads it from standard input, where no shell keeps it
    #[arg(long, value_name = "TEXT")]
    pub pattern: Option<String>,
    /// Why; it is recorded
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

#[derive(Debug, Args)]
pub struct TranscriptArgs {
    /// Session id, a unique beginning of it, or a name
    #[arg(value_parser = session_id)]
    pub session: String,
    /// That of an attempt; default: the newest that has one
    #[arg(long, value_name = "N")]
    pub attempt: Option<u32>,
    /// One of its files, as --list names them; default: the conversation's own
    #[arg(long, value_name = "FILE")]
    pub source: Option<String>,
    /// Only list what is kept
    #[arg(long, conflicts_with_all = ["attempt", "source"])]
    pub list: bool,
    /// Octets as they are, also on a terminal
    #[arg(long)]
    pub raw: bool,
}
