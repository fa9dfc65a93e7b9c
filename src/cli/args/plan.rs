//! Options of `run` about attempts: how often, by whom, who judges.

use std::path::PathBuf;

use clap::Args;

use super::limits::time;
use crate::model::{BACKOFF_MAX_MS, Restart, TIER_ATTEMPTS_MAX};

#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Attempts")]
pub struct PlanArgs {
    /// Try it again so many times when the agent fails, in the same session; not after a stop, a breach or a passed limit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..i64::from(TIER_ATTEMPTS_MAX)))]
    pub retries: Option<u32>,
    /// Milliseconds before the second attempt, doubled for each further one up to a minute, and spread; default 1000
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(..=BACKOFF_MAX_MS))]
    pub backoff: Option<u64>,
    /// A shell command that judges an attempt with which the agent is content: exit code 0 accepts, 1 to 125 sends it back, or on, with
    /// what it printed; or JSON with verdict (accept, escalate, error), feedback and summary
    #[arg(long, value_name = "COMMAND")]
    pub verify: Option<String>,
    /// How long the verifier may take; then the attempt counts as an error; default 10m
    #[arg(long, value_name = "TIME", value_parser = time, requires = "verify")]
    pub verify_time: Option<u64>,
    /// A file with tiers (TOML): each an agent or command, tried in order until the verifier accepts
    #[arg(long, value_name = "FILE", conflicts_with_all = ["retries", "verify", "backoff", "checkpoint"])]
    pub ladder: Option<PathBuf>,
    /// Keep the worktree as a commit under refs/beadle: success (attempts that are good), always or never; default: never, and success
    /// with one of the options above
    #[arg(long, value_name = "WHEN", value_parser = checkpointing)]
    pub checkpoint: Option<crate::model::Checkpointing>,
    /// Start its agent once more, and no more than once: on-failure (it was lost with its shim or the machine, or failed), always (or ended
    /// by itself), or no; default: session.restart. With retries, a verifier or a ladder those say what follows an end, and this what
    /// follows a loss. Never after a stop, a breach or a passed limit
    #[arg(long, value_name = "WHEN", value_parser = restart)]
    pub restart: Option<Restart>,
}

fn restart(text: &str) -> Result<Restart, String> {
    Restart::parse(text).ok_or_else(|| "expected no, on-failure or always".to_owned())
}

fn checkpointing(text: &str) -> Result<crate::model::Checkpointing, String> {
    crate::model::Checkpointing::parse(text).ok_or_else(|| "expected success, always or never".to_owned())
}
