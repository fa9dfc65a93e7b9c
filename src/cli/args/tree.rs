//! Options of what is done to sessions and all below them, of handoffs and of tasks.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::LimitArgs;
use crate::cli::args_check::{environment, session_id, task_status};
use crate::model::TaskStatus;

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Session id, a unique beginning of it, or a name
    #[arg(value_parser = session_id)]
    pub session: String,
    /// All sessions below it, and sub-agents, with what they used together
    #[arg(long)]
    pub tree: bool,
}

#[derive(Debug, Args)]
pub struct StopArgs {
    #[arg(value_parser = session_id)]
    pub session: String,
    /// Milliseconds between TERM and KILL; default: session.grace_ms
    #[arg(short, long, value_name = "MS")]
    pub grace: Option<u64>,
    /// All sessions below it, too, which are told after it
    #[arg(long)]
    pub tree: bool,
    /// Do not wait for the end
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Args)]
pub struct KillArgs {
    /// Session id, a unique beginning of it, or a name
    #[arg(value_parser = session_id)]
    pub session: String,
    /// All sessions below it, too
    #[arg(long)]
    pub tree: bool,
}

/// How a session goes on from another; what is left out is as it was there.
#[derive(Debug, Args, Default)]
pub struct GoOnArgs {
    /// Name of the new session
    #[arg(short, long)]
    pub name: Option<String>,
    /// The agent's model
    #[arg(short, long)]
    pub model: Option<String>,
    /// A file with MCP servers in the agent's own JSON
    #[arg(long, value_name = "FILE")]
    pub mcp_config: Option<PathBuf>,
    /// NAME or NAME=VALUE: hand this variable on although `session.env` does not list it; may be repeated
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = environment)]
    pub env: Vec<(String, Option<String>)>,
    /// Keep the session for further prompts when a turn has ended (always so without a prompt)
    #[arg(short, long)]
    pub keep: bool,
    /// Give the agent a text made from the log, also where its own record is there
    #[arg(long)]
    pub replay: bool,
    /// Start it, print its id, and return
    #[arg(short, long, conflicts_with = "wait")]
    pub detach: bool,
    /// No timeline: wait for the end
    #[arg(short, long)]
    pub wait: bool,
    #[command(flatten)]
    pub limits: LimitArgs,
}

#[derive(Debug, Args)]
pub struct ForkArgs {
    /// Session id, a unique beginning of it, or a name
    #[arg(value_parser = session_id)]
    pub session: String,
    /// What the agent shall do from there on; `-` reads it from standard input
    pub prompt: Option<String>,
    /// The last event that counts, as shown by `beadle events`; default: the newest
    #[arg(long, value_name = "SEQ")]
    pub at: Option<u64>,
    /// The session that it is started for; default: that of the first
    #[arg(long, value_name = "SESSION", value_parser = session_id)]
    pub parent: Option<String>,
    #[command(flatten)]
    pub go_on: GoOnArgs,
}

#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// Session id, a unique beginning of it, or a name
    #[arg(value_parser = session_id)]
    pub session: String,
    /// Of an ended session: what the agent shall do next; `-` reads it from standard input
    #[arg(conflicts_with = "tree")]
    pub prompt: Option<String>,
    /// All paused sessions below it, too, which go on before it
    #[arg(long)]
    pub tree: bool,
    #[command(flatten)]
    pub go_on: GoOnArgs,
}

#[derive(Debug, Args)]
pub struct HandoffArgs {
    /// Session id, a unique beginning of it, or a name
    #[arg(value_parser = session_id)]
    pub session: String,
    /// Name of the agent that goes on
    pub to: String,
    /// Name of the agent that had the work
    #[arg(long, value_name = "NAME")]
    pub from: Option<String>,
    /// The session in which the other agent goes on; it is recorded there, too
    #[arg(long = "session", value_name = "SESSION", value_parser = session_id)]
    pub other: Option<String>,
    /// What the other agent is told; `-` reads it from standard input
    #[arg(short, long, value_name = "TEXT")]
    pub reason: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum TaskVerb {
    /// Add a task
    Add {
        #[arg(value_parser = session_id)]
        session: String,
        title: String,
        /// pending, in_progress, completed or cancelled
        #[arg(short, long, value_parser = task_status)]
        status: Option<TaskStatus>,
        #[arg(short, long, value_name = "NAME")]
        owner: Option<String>,
        #[arg(short, long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// Change a task; an empty owner or note takes it away
    Set {
        #[arg(value_parser = session_id)]
        session: String,
        /// As shown by `task ls`
        task: String,
        /// pending, in_progress, completed or cancelled
        #[arg(short, long, value_parser = task_status)]
        status: Option<TaskStatus>,
        #[arg(short, long)]
        title: Option<String>,
        #[arg(short, long, value_name = "NAME")]
        owner: Option<String>,
        #[arg(short, long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// List tasks: those of the host, and the agent's own as its calls show them
    Ls {
        #[arg(value_parser = session_id)]
        session: String,
        /// Only those with something left to do
        #[arg(long)]
        open: bool,
    },
}
