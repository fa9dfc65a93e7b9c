//! Processes: starts agents under shims, talks to shims, reads what agents said, finds and ends process trees.
//!
//! Invariants:
//! - an agent's liveness is its shim's lock, never a bare pid; a process is always named by pid *and* start time;
//! - the shim outlives the daemon: dropping a handle ends a connection, nothing else;
//! - everything said by an agent is in its run folder's segments before anyone hears of it, at the same offsets for ever;
//! - all queues are bounded: [`MAX_COMMANDS`] commands, five inputs of at most [`MAX_INPUT`] bytes, events by being newest state only.
//!
//! Knows no sessions: it reports, the session loop records. Called by `session`, `api` (ancestry) and `daemon` (install, adopt).

mod adopt;
mod ancestry;
mod client;
mod exit;
mod inbox;
mod install;
mod launch;
mod lock;
mod logs;
mod program;
mod terminal;
mod tree;
mod watch;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub use crate::wire::{EndedBy, ExitRecord, Frozen, Limits, MAX_INPUT, ProcessId, Stage, Status};
pub use adopt::{Adopted, kill_leftovers, kill_silent, shim_in};
pub use ancestry::{Peer, ancestors, chain_of, descends_from};
pub use client::{MAX_COMMANDS, ShimEvent, ShimEvents, ShimHandle};
pub use exit::read as read_exit;
pub use inbox::{Inbox, Line, MAX_LINE};
pub use install::{STABLE, install, install_bytes, install_stable, is_installed, is_shim_below, keep_host};
pub use launch::was_tried;
pub use lock::held_below;
pub use logs::{LogChunk, MAX_CHUNK, Stream, read_log, read_tail};
pub use program::{FileId, Inspected, Kind as ProgramKind, ProgramFile, Programs};
pub use terminal::{Terminal, terminal_of};
pub use tree::{ProcessInfo, command_line, identify, lives, processes_of, program_of};
pub use watch::Watch;

/// Output kept for `logs` of an ungated agent, and unread output at which a gated one blocks, in bytes.
pub const UNREAD_CAP: u64 = 128 << 20;
/// Output kept for `logs` of a gated agent after it was read, in bytes.
pub const LOG_TAIL: u64 = 64 << 20;
/// Size of a segment, in bytes.
pub const SEGMENT: u64 = 16 << 20;

/// What went wrong with a process. [`Error::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "program {program:?} does not exist (looked up in the session's PATH, or relative to {cwd:?}); check its name and that it is installed"
    )]
    ProgramMissing { program: PathBuf, cwd: PathBuf },
    #[error("program {program:?} cannot be executed: {source}; check its mode (chmod +x), its `#!` line and its architecture")]
    ProgramRefused { program: PathBuf, source: std::io::Error },
    #[error("working directory {cwd:?} cannot be entered: {source}; give one that exists and may be entered")]
    BadCwd { cwd: PathBuf, source: std::io::Error },
    #[error("the launch failed at {}: {source}; the run folder is {run_dir:?}", stage.as_str())]
    Launch { stage: Stage, run_dir: PathBuf, source: std::io::Error },
    #[error("the shim {shim:?} cannot be started: {source}; reinstall beadle or free its data folder's disk")]
    Spawn { shim: PathBuf, source: std::io::Error },
    #[error("the shim gave no answer within {waited_ms} ms and was ended; the machine may be overloaded: try again, and see {log:?}")]
    NoAnswer { waited_ms: u64, log: PathBuf },
    #[error("{what} holds a NUL byte or is over its cap ({bytes} bytes); shorten or clean it")]
    BadSpec { what: &'static str, bytes: usize },
    #[error("run folder {0:?} was used by an earlier run; each run needs a fresh folder")]
    Used(PathBuf),
    #[error("cannot {verb} {path:?}: {source}")]
    File { verb: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the exit record {path:?} is not readable as one ({what}); the disk may be damaged: run `beadle verify`")]
    BadRecord { path: PathBuf, what: &'static str },
    #[error("the shim in {run_dir:?} is alive (its lock is held) but does not answer: {source}; look at it with `beadle ps`, or kill it")]
    Unreachable { run_dir: PathBuf, source: std::io::Error },
    #[error("the connection to the shim has ended; adopt the run folder again")]
    Disconnected,
    #[error("an input of {0} bytes is over the cap of {MAX_INPUT}; send it in parts")]
    InputTooLong(usize),
    #[error("the line at offset {offset} of the agent's output is over the cap of {MAX_LINE} bytes; the attempt must end")]
    LineTooLong { offset: u64 },
    #[error("bytes {from} to {to} of the agent's output are gone from {run_dir:?} before they were read; the attempt must end")]
    OutputGone { from: u64, to: u64, run_dir: PathBuf },
    #[error("a peer cannot be identified: {0}; it is given no role")]
    Peer(&'static str),
    #[error("no person can be asked there: {0}; run the command in a terminal of your own, outside of every session")]
    Terminal(String),
}

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A code that stays the same over releases.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ProgramMissing { .. } => "BDL-PROCESS-001",
            Self::ProgramRefused { .. } => "BDL-PROCESS-002",
            Self::BadCwd { .. } => "BDL-PROCESS-003",
            Self::Launch { .. } => "BDL-PROCESS-004",
            Self::Spawn { .. } => "BDL-PROCESS-005",
            Self::NoAnswer { .. } => "BDL-PROCESS-006",
            Self::BadSpec { .. } => "BDL-PROCESS-007",
            Self::Used(_) => "BDL-PROCESS-008",
            Self::File { .. } => "BDL-PROCESS-009",
            Self::BadRecord { .. } => "BDL-PROCESS-010",
            Self::Unreachable { .. } => "BDL-PROCESS-011",
            Self::Disconnected => "BDL-PROCESS-012",
            Self::InputTooLong(_) => "BDL-PROCESS-013",
            Self::LineTooLong { .. } => "BDL-PROCESS-014",
            Self::Peer(_) => "BDL-PROCESS-015",
            Self::OutputGone { .. } => "BDL-PROCESS-016",
            Self::Terminal(_) => "BDL-PROCESS-020",
        }
    }

    pub(crate) fn file(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { verb, path, source }
    }
}

/// One agent to run. `env` is its whole environment; the session marker is added.
#[derive(Debug, Clone)]
pub struct LaunchSpec {
    /// A fresh folder of this run: lock, socket, segments, exit record. Made 0700 if it is missing.
    pub run_dir: PathBuf,
    /// The session id; every process of the session carries it as `BEADLE_SESSION`.
    pub marker: String,
    /// With a slash: that file (relative to `cwd`); without: looked up in the `PATH` of `env`.
    pub program: PathBuf,
    /// Arguments after the program's own name.
    pub args: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
    pub cwd: PathBuf,
    pub umask: u32,
    /// Unread output blocks the agent; else the oldest output is dropped.
    pub gated: bool,
    /// Stdin is a channel for numbered input; else `/dev/null`.
    pub keep_stdin: bool,
    /// Leave descendants alone that outlive the agent. A stop ends them all the same.
    pub keep_tree: bool,
    pub limits: Limits,
}

impl LaunchSpec {
    /// A gated agent with a stdin channel and default limits.
    pub fn new(run_dir: impl Into<PathBuf>, marker: impl Into<String>, program: impl Into<PathBuf>, cwd: impl Into<PathBuf>) -> Self {
        Self {
            run_dir: run_dir.into(),
            marker: marker.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: cwd.into(),
            umask: 0o022,
            gated: true,
            keep_stdin: true,
            keep_tree: false,
            limits: default_limits(true),
        }
    }

    fn to_wire(&self) -> Result<Vec<u8>> {
        let bytes = |s: &std::ffi::OsStr| s.as_bytes().to_vec();
        let spec = crate::wire::Spec {
            run_dir: bytes(self.run_dir.as_os_str()),
            marker: self.marker.clone().into_bytes(),
            program: bytes(self.program.as_os_str()),
            args: self.args.iter().map(|a| bytes(a)).collect(),
            env: self.env.iter().map(|(k, v)| (bytes(k), bytes(v))).collect(),
            cwd: bytes(self.cwd.as_os_str()),
            umask: self.umask,
            gated: self.gated,
            keep_stdin: self.keep_stdin,
            keep_tree: self.keep_tree,
            limits: self.limits,
        };
        let has_nul = |b: &Vec<u8>| b.contains(&0);
        let bad = |what, b: &[u8]| Err(Error::BadSpec { what, bytes: b.len() });
        for (what, b) in [
            ("the run folder's path", &spec.run_dir),
            ("the marker", &spec.marker),
            ("the program's name", &spec.program),
            ("the working directory's path", &spec.cwd),
        ] {
            if has_nul(b) || b.is_empty() {
                return bad(what, b);
            }
        }
        if let Some(a) = spec.args.iter().find(|a| has_nul(a)) {
            return bad("an argument", a);
        }
        if let Some((k, _)) = spec.env.iter().find(|(k, v)| has_nul(k) || has_nul(v) || k.is_empty() || k.contains(&b'=')) {
            return bad("an environment variable", k);
        }
        let block = spec.encode();
        if block.len() > crate::wire::MAX_SPEC {
            return bad("the spec (arguments and environment together)", &block);
        }
        Ok(block)
    }
}

/// The caps of design: 16 MiB segments, 128 MiB unread, 64 MiB (gated) or 128 MiB (ungated) kept for `logs`.
pub fn default_limits(gated: bool) -> Limits {
    Limits { segment_bytes: SEGMENT, unread_bytes: UNREAD_CAP, retain_bytes: if gated { LOG_TAIL } else { UNREAD_CAP }, linger_ms: 10_000 }
}

/// The two ways to a live shim.
#[derive(Debug)]
pub struct Shim;

impl Shim {
    /// Starts a shim and its agent. Errors say what is wrong with the program or the working directory.
    pub async fn launch(shim_bin: &Path, spec: &LaunchSpec) -> Result<(ShimHandle, ShimEvents)> {
        launch::launch(shim_bin, spec).await
    }

    /// Finds out what became of a run: alive (and connects), ended, or lost (and ends what is left of it).
    /// A live one that is silent for 5 s is [`Error::Unreachable`].
    pub async fn adopt(run_dir: &Path, marker: &str) -> Result<Adopted> {
        adopt::adopt(run_dir, marker).await
    }

    /// The same, waiting for a live but silent shim without a limit.
    pub async fn adopt_patiently(run_dir: &Path, marker: &str) -> Result<Adopted> {
        adopt::adopt_patiently(run_dir, marker).await
    }
}
