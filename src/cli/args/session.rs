//! Options of `session`: sessions that other programs write.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::BriefArgs;
use crate::cli::args_check::{label, session_id};

/// Sessions that the host did not start: a program opens one by a key of its own, writes what happens, and ends it. Every write can be
/// repeated under its `--idempotency-key`: the repeat is not written again, and says so.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)] // why: there is one of it in a process.
pub enum SessionVerb {
    /// Open a session by a key, or find the one that is open under it
    Create(CreateArgs),
    /// Begin an attempt; none may be open
    AttemptStart(AttemptStartArgs),
    /// End the open attempt
    AttemptEnd(AttemptEndArgs),
    /// Write events: one given here, or JSON lines from a file or standard input, all of them or none
    Append(AppendArgs),
    /// End the session; its attempts are over
    End(EndArgs),
}

/// Which session, and how hard it is tried.
#[derive(Debug, Args, Default)]
pub struct WhichArgs {
    /// Session id, a unique beginning of it, or a name
    #[arg(value_parser = session_id)]
    pub session: Option<String>,
    /// Its writer's own key instead; where there is no such session, it is begun (with --target)
    #[arg(long, value_name = "KEY", conflicts_with = "session")]
    pub open: Option<String>,
    /// What it works on, where it may have to be begun
    #[arg(long, value_name = "TEXT", conflicts_with = "session")]
    pub target: Option<String>,
    /// The party that it is for; with --thread this names a session, as --open does
    #[arg(long, value_name = "NAME", conflicts_with = "session")]
    pub tenant: Option<String>,
    /// The conversation that it is
    #[arg(long, value_name = "ID", conflicts_with = "session")]
    pub thread: Option<String>,
    #[command(flatten)]
    pub how: HowArgs,
}

#[derive(Debug, Args, Default)]
pub struct HowArgs {
    /// Told again under the same key, a write is not made again; with other content it is refused
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Never wait longer than 100 ms: what is not acknowledged by then is given up, counted, and told with the next write
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The writer's own name of the session, one on this host; or --thread, with --tenant
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Default: the key
    #[arg(short, long)]
    pub name: Option<String>,
    /// Who works, for people and filters; default: external
    #[arg(short, long)]
    pub agent: Option<String>,
    /// Working directory, for people
    #[arg(short = 'C', long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// The prompt it begins with; `-` reads it from standard input
    #[arg(short, long)]
    pub prompt: Option<String>,
    /// KEY=VALUE; may be repeated
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// End it when nothing was written for so many milliseconds; 0: never; default: session.writer_idle_ms
    #[arg(long, value_name = "MS")]
    pub idle_ms: Option<u64>,
    /// Never wait longer than 100 ms: where that is not enough, the next write that names the key (or thread) opens it
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub brief: BriefArgs,
}

#[derive(Debug, Args)]
pub struct AttemptStartArgs {
    #[command(flatten)]
    pub which: WhichArgs,
    /// Refused when this is not the next one
    #[arg(long, value_name = "N")]
    pub number: Option<u32>,
    /// Who works
    #[arg(short, long)]
    pub agent: Option<String>,
    #[arg(long)]
    pub phase: Option<String>,
    /// local, sub-agent, managed, or any other word
    #[arg(long)]
    pub tier: Option<String>,
    #[arg(short, long)]
    pub model: Option<String>,
    /// Its runner was there already
    #[arg(long)]
    pub warm: bool,
    /// The whole prompt, kept with the first attempt only; `-` reads it from standard input
    #[arg(short, long)]
    pub prompt: Option<String>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("result").required(true).args(["success", "failed"]))]
pub struct AttemptEndArgs {
    #[command(flatten)]
    pub which: WhichArgs,
    #[arg(long)]
    pub success: bool,
    #[arg(long)]
    pub failed: bool,
    /// Refused when another one is open
    #[arg(long, value_name = "N")]
    pub number: Option<u32>,
    #[arg(long, value_name = "MS")]
    pub duration_ms: Option<u64>,
    /// What it cost, in billionths of a US dollar, as its runner says
    #[arg(long, value_name = "N")]
    pub cost_nanousd: Option<u64>,
    /// Why it failed
    #[arg(long, value_name = "TEXT")]
    pub error: Option<String>,
    #[arg(short, long)]
    pub model: Option<String>,
    /// The git commit that holds its work
    #[arg(long, value_name = "COMMIT")]
    pub checkpoint: Option<String>,
    /// No further attempt follows
    #[arg(long = "final")]
    pub is_final: bool,
    /// What came of it, in short
    #[arg(long, value_name = "TEXT")]
    pub summary: Option<String>,
}

#[derive(Debug, Args)]
pub struct AppendArgs {
    #[command(flatten)]
    pub which: WhichArgs,
    /// One event: its kind, and its fields as a JSON object, as in `--event note '{"text": "hi"}'`
    #[arg(short, long, num_args = 1..=2, value_names = ["KIND", "JSON"], conflicts_with = "file")]
    pub event: Vec<String>,
    /// JSON lines, each an event with its `kind`; `-`, or nothing at all: standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("outcome").required(true).args(["success", "failed"]))]
pub struct EndArgs {
    #[command(flatten)]
    pub which: WhichArgs,
    #[arg(long)]
    pub success: bool,
    #[arg(long)]
    pub failed: bool,
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// A write as its kind and the rest of its fields.
pub fn document(kind: &str, fields: Option<&str>) -> Result<Value, String> {
    let mut fields: Value = serde_json::from_str(fields.unwrap_or("{}")).map_err(|e| format!("the fields of {kind} are not JSON: {e}"))?;
    let map = fields.as_object_mut().ok_or_else(|| format!("the fields of {kind} are not a JSON object"))?;
    map.insert("kind".to_owned(), Value::String(kind.to_owned()));
    Ok(fields)
}
