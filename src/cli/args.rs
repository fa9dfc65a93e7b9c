//! The command line: every verb, its arguments and their words. Only shapes; what a verb does is in its noun's file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod account;
pub mod approvals;
mod attempts;
mod brief;
mod collect;
mod compact;
mod context;
mod doctor;
mod hook;
mod host;
pub mod import;
mod keep;
mod limits;
mod list;
mod memory;
mod operator;
mod pause;
mod plan;
mod plugin;
pub mod plugin_life;
mod queue;
mod record;
mod replay;
pub mod schema;
pub mod session;
mod sink;
mod stats;
mod top;
mod tree;

pub use account::AccountArgs;
pub use attempts::{AttemptsArgs, RollbackArgs};
pub use brief::BriefArgs;
pub use collect::{GcArgs, RestoreArgs};
pub use compact::*;
pub use context::{ContextAddArgs, ContextVerb, Kind as ContextKind, RunContextArgs};
pub use doctor::DoctorArgs;
pub use hook::*;
pub use host::HostVerb;
pub use keep::*;
pub use limits::LimitArgs;
pub use list::LsArgs;
pub use memory::*;
pub use operator::{KeyVerb, OperatorVerb};
pub use pause::PauseArgs;
pub use plan::PlanArgs;
pub use plugin::*;
pub use queue::*;
pub use record::{EventsArgs, LogsArgs};
pub use replay::ReplayArgs;
pub use sink::*;
pub use stats::StatsArgs;
pub use top::TopArgs;
pub use tree::*;

use super::args_check::{environment, label, session_id};

use approvals::{ApprovalsArgs, ApproveArgs, DenyArgs};

/// Beadle runs coding agents and holds every tool call to your policies.
///
/// Exit codes: 0 done, 1 the answer is no or the session failed, 2 wrong usage, 3 not found, 4 the host can't be reached, 125 internal;
/// `run` and `wait` pass on the agent's own code.
#[derive(Debug, Parser)]
#[command(name = "beadle", version, propagate_version = true, max_term_width = 120)]
pub struct Cli {
    /// One JSON document a line on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Only what a script needs
    #[arg(short, long, global = true)]
    pub quiet: bool,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)] // why: there is one of it in a process.
pub enum Verb {
    /// Show a real session with a built-in agent, without key or network
    Demo(DemoArgs),
    /// Start a session and follow it
    Run(RunArgs),
    /// Make a session's conversation shorter, between turns
    Compact(CompactArgs),
    /// Give a session its next prompt
    Send(SendArgs),
    /// Follow a session and answer its questions
    Attach(SessionArg),
    /// List sessions, newest first
    Ls(LsArgs),
    /// Show one session
    Show(ShowArgs),
    /// Show every attempt of a session, and their sums by agent, phase and session
    Attempts(AttemptsArgs),
    /// Keep a session's worktree as a commit that no branch names; index, worktree and HEAD stay as they are
    Checkpoint(SessionArg),
    /// Take attempts back: mark them, and restore a checkpoint into a new worktree
    Rollback(RollbackArgs),
    /// Show the processes of a session with their memory
    Ps(SessionArg),
    /// Print what the agent wrote
    Logs(LogsArgs),
    /// Print events
    Events(EventsArgs),
    /// Stop a session: TERM, grace, then KILL for its whole tree
    Stop(StopArgs),
    /// Kill a session's whole tree at once
    Kill(KillArgs),
    /// Pause a running session: its calls wait at the gate, or its processes are stopped
    Pause(PauseArgs),
    /// Let a paused session go on, or take up the work of an ended one in a new session
    Resume(ResumeArgs),
    /// Go another way from an event of a session, in a new one
    Fork(ForkArgs),
    /// Record that a session's work goes to another agent
    Handoff(HandoffArgs),
    /// Tasks of a session
    #[command(subcommand)]
    Task(TaskVerb),
    /// What is kept over sessions, and found again by its words
    #[command(subcommand)]
    Memory(MemoryVerb),
    /// What adds context beside a session's prompts: memory, files, commands
    #[command(subcommand)]
    Context(ContextVerb),
    /// Wait until a session has ended; exits with the agent's code
    Wait(WaitArgs),
    /// Remove a session and its log
    Rm(RmArgs),
    /// Show the calls that wait for an answer, or all that were asked about
    Approvals(ApprovalsArgs),
    /// Allow a call that waits for an answer
    Approve(ApproveArgs),
    /// Deny a call that waits for an answer
    Deny(DenyArgs),
    /// Join decisions with effects: how each call ended
    Account(AccountArgs),
    /// Prove that the log is whole
    Verify(VerifyArgs),
    /// Print a session's log as JSON lines with its hashes
    Export(SessionArg),
    /// Print the agent's own record of the conversation, as it was when an attempt ended
    Transcript(TranscriptArgs),
    /// Move a session's older events to a compressed file; they are read from there as before
    Archive(ArchiveArgs),
    /// Erase an event's words, or a text, from the log and everything that keeps it
    Redact(RedactArgs),
    /// Read another system's log into sessions: skill invocations, audit logs, transcripts
    Import(import::ImportArgs),
    /// Sessions that other programs write: open, write, end
    #[command(subcommand)]
    Session(session::SessionVerb),
    /// Rules added at run time
    #[command(subcommand)]
    Rule(RuleVerb),
    /// Hooks for sessions that were not started here
    #[command(subcommand)]
    Hook(HookVerb),
    /// Serve the host's own tools to the agent that starts this, by the Model Context Protocol on standard input and output
    ///
    /// For agents that run as a session (`beadle run -- codex ...`) or hold hooks, and have no channel of the host's: name `beadle mcp`
    /// as a server in the agent's own configuration, under the name `beadle`. Each call is judged by the session's policies and done once.
    Mcp,
    /// Policies
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// Plugins: write, build, test, install and look after them
    #[command(subcommand)]
    Plugin(PluginVerb),
    /// Settings and where they come from
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Accept a project's beadle.toml as it is now
    Trust(TrustArgs),
    /// Watch live sessions and answer what they ask, on a whole screen
    Top(TopArgs),
    /// Add up sessions: calls, tokens, cost, time
    Stats(StatsArgs),
    /// Check this machine, or that an installed agent's gate holds
    Doctor(DoctorArgs),
    /// Who may loosen something on this host
    #[command(subcommand)]
    Operator(OperatorVerb),
    /// Audit sinks: where events are delivered
    #[command(subcommand)]
    Sink(SinkVerb),
    /// Sessions that wait for a place: lanes, workers, dead letters
    #[command(subcommand)]
    Queue(QueueVerb),
    /// The daemon on this machine
    #[command(subcommand)]
    Host(HostVerb),
    /// The scripted model
    #[command(subcommand)]
    Model(ModelVerb),
    /// Run the daemon in the foreground
    Daemon(DaemonArgs),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// The tool server of `doctor`
    #[command(hide = true)]
    DoctorNotes { log: PathBuf },
    /// The demo's agent
    #[command(hide = true)]
    DemoAgent {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
}

#[derive(Debug, Args)]
pub struct SessionArg {
    /// Session id, a unique beginning of it, or a name
    #[arg(value_parser = session_id)]
    pub session: String,
}

#[derive(Debug, Args, Default)]
pub struct RunArgs {
    /// What the agent shall do; `-` reads it from standard input
    #[arg(value_name = "PROMPT", conflicts_with = "prompt")]
    pub text: Option<String>,
    /// The same as an option
    #[arg(short, long, value_name = "PROMPT")]
    pub prompt: Option<String>,
    /// claude, demo, or generic for any command; default: generic when a command is given, else claude
    #[arg(short, long)]
    pub agent: Option<String>,
    /// Name of the session
    #[arg(short, long)]
    pub name: Option<String>,
    /// Working directory; default: the present one
    #[arg(short = 'C', long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Deny calls that would write outside of this folder, as far as their paths and shell commands show
    #[arg(long, value_name = "DIR")]
    pub write_root: Option<PathBuf>,
    /// The agent's program, where it is not on PATH under its usual name
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// The agent's model
    #[arg(short, long)]
    pub model: Option<String>,
    /// A file with MCP servers in the agent's own JSON
    #[arg(long, value_name = "FILE")]
    pub mcp_config: Option<PathBuf>,
    /// Do not give it the host's own tools: memory, tasks, handoff, note, report
    #[arg(long)]
    pub no_host_tools: bool,
    /// KEY=VALUE, shown by `ls` and `show`; may be repeated
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    #[command(flatten)]
    pub brief: BriefArgs,
    /// NAME or NAME=VALUE: hand this variable on although `session.env` does not list it; may be repeated
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = environment)]
    pub env: Vec<(String, Option<String>)>,
    /// An argument for the agent that its allow-list refuses; recorded, and lowers mediation; may be repeated
    #[arg(long = "unsafe-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub unsafe_args: Vec<String>,
    /// Keep the session for further prompts when a turn has ended (always so without a prompt)
    #[arg(short, long)]
    pub keep: bool,
    /// Compact its conversation from here on, in percent of the model's window (70%), or `off`; as configured when left out
    #[arg(long, value_name = "PERCENT|off", value_parser = super::args_check::percent_or_off)]
    pub compact_at: Option<u64>,
    /// Start it, print its id, and return
    #[arg(short, long, conflicts_with = "wait")]
    pub detach: bool,
    /// No timeline: wait for the end
    #[arg(short, long)]
    pub wait: bool,
    #[command(flatten)]
    pub context: RunContextArgs,
    #[command(flatten)]
    pub queue: RunQueueArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub plan: PlanArgs,
    /// A command for the generic agent, or arguments for another one
    #[arg(last = true, value_name = "COMMAND OR ARGS")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct SendArgs {
    #[arg(value_parser = session_id)]
    pub session: String,
    /// The prompt; `-` reads it from standard input
    pub prompt: String,
}

#[derive(Debug, Args)]
pub struct WaitArgs {
    #[arg(value_parser = session_id)]
    pub session: String,
    /// Give up after so many seconds, with exit code 1
    #[arg(short, long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

#[derive(Debug, Args)]
pub struct RmArgs {
    #[arg(value_parser = session_id, required = true)]
    pub sessions: Vec<String>,
    /// Kill it first if it has not ended
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Session; all when absent
    #[arg(value_parser = session_id)]
    pub session: Option<String>,
    /// A checkpoint saved before, or the file of a jsonl sink: finds rewriting, cut tails and removals too
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
    /// Write a signed checkpoint of now; keep it on another machine
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum RuleVerb {
    /// Add a rule for all sessions, or for one
    Add {
        effect: RuleEffect,
        /// As in `Bash(git push:*)` or `Read(./src/**)`
        rule: String,
        #[arg(short, long, value_parser = session_id)]
        session: Option<String>,
    },
    /// Take a rule back
    Revoke { id: String },
    /// List rules added at run time
    Ls {
        #[arg(short, long, value_parser = session_id)]
        session: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RuleEffect {
    Allow,
    Ask,
    Deny,
}

#[derive(Debug, Subcommand)]
pub enum PolicyVerb {
    /// List the policies that a session of this folder gets, and when each is asked
    Ls(PolicyLsArgs),
    /// Judge calls, prompts and results given as JSON lines, without a session or a daemon
    Explain(ExplainArgs),
    /// Judge recorded calls anew: what would be decided otherwise now, or with a component or configuration that you try
    ///
    /// Exits with 0 when every call would be decided as it was, with 1 when one would not.
    Replay(ReplayArgs),
    /// Print what the configuration of a standard policy may say, or what Cedar policies speak of
    Schema(schema::SchemaArgs),
}

#[derive(Debug, Args)]
pub struct PolicyLsArgs {
    /// The session's working directory; default: the present one
    #[arg(short = 'C', long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Take this file for the operator's configuration
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// JSON lines, an agent's own hook payload each; default: standard input
    pub file: Option<PathBuf>,
    /// Judge this one shell command instead
    #[arg(short, long, conflicts_with = "file")]
    pub command: Option<String>,
    /// The agent whose tools are meant, where a payload does not tell
    #[arg(short, long, default_value = "claude")]
    pub agent: String,
    /// The session's working directory; default: the present one
    #[arg(short = 'C', long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Take this file for the operator's configuration
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Print every setting with its origin
    ///
    /// With operator.confirm = tty (a code at the terminal) or key (a passphrase's signature), these need it: a yes to a waiting call; an
    /// allow rule, or taking an ask or deny rule back; trusting a project; starting a session without a gate (`run -- COMMAND`) or with
    /// --unsafe-arg; a command that gives a live session context; attesting a program (`doctor AGENT`); taking hooks out; erasing from the log; any act on an installed
    /// plugin but taking a grant back. Operator keys are always guarded. Denying, stopping and
    /// what tightens need nothing.
    Show(ConfigArgs),
    /// Read all of it and say whether it is good
    Check(ConfigArgs),
    /// Print where the files and folders are
    Path,
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Take this file for the operator's configuration
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The folder whose project counts; default: the present one
    #[arg(short = 'C', long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct TrustArgs {
    /// The project's folder
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum ModelVerb {
    /// Play a script over the real model API on 127.0.0.1
    Serve {
        #[arg(long, value_name = "FILE")]
        script: PathBuf,
        /// 0 takes a free one
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// Write the port to this file
        #[arg(long, value_name = "FILE")]
        port_file: Option<PathBuf>,
        /// Append one JSON line a request to this file
        #[arg(long, value_name = "FILE")]
        log: Option<PathBuf>,
        /// Wait so long before each answer
        #[arg(long, value_name = "MS", default_value_t = 0)]
        latency_ms: u64,
    },
}

#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// Leave the caller's terminal session (used when it is started on demand)
    #[arg(long, hide = true)]
    pub detach: bool,
    /// Only check configuration, store and policies, beside a daemon that runs
    #[arg(long, conflicts_with = "detach")]
    pub check: bool,
    /// Bring a copy of the store to this version's schema and verify it (used by an upgrade)
    #[arg(long, hide = true, requires = "check")]
    pub rehearse: bool,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// demo (built in) or claude (the one installed, in a temporary configuration)
    #[arg(short, long, default_value = "demo")]
    pub agent: String,
    /// The agent's program, where it is not on PATH under its usual name
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// Answer what is asked by itself, after showing it
    #[arg(short, long)]
    pub yes: bool,
    /// Keep the temporary folder
    #[arg(long)]
    pub keep: bool,
}
