//! What can go wrong with sessions, each with a stable code: what was wrong, the value, what to do next.
//!
//! Called by everything in `session`; `api` gives each its status.

use crate::model::{ApprovalId, SessionId};

/// What can go wrong with sessions. Codes are stable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("working directory {path} {why}; give an existing folder with --cwd")]
    Cwd { path: String, why: String },
    #[error("program {program:?} {why}; install it, put it on PATH, or give its path")]
    Program { program: String, why: String },
    #[error("{what} {why}")]
    Refused { what: String, why: String },
    #[error("session {session} is {status}; only a running session can be paused, and {next}")]
    NotRunning { session: SessionId, status: String, next: &'static str },
    #[error("session {session} is {status}; only a paused session can be resumed, and {next}")]
    NotPaused { session: SessionId, status: String, next: &'static str },
    #[error("session {session} cannot be paused so: {why}")]
    NotPausable { session: SessionId, why: &'static str },
    #[error(transparent)]
    Record(#[from] crate::model::RecordError),
    #[error("session {0} has ended; see `beadle show {0}`")]
    Ended(SessionId),
    #[error("session {0} takes no further prompts: its input is closed; start it with --keep to send more later")]
    InputClosed(SessionId),
    #[error(
        "session {session} is put away until call {call} is answered; answer it with `beadle approve {session}:{call}` or `beadle deny`, then send again"
    )]
    PutAway { session: SessionId, call: u64 },
    #[error("session {session} cannot be compacted: {why}")]
    Compaction { session: SessionId, why: String },
    #[error("session {session} was not compacted: {why}")]
    Strategy { session: SessionId, why: String },
    #[error(
        "session {session} was not compacted: strategy {strategy} plans nothing that saves tokens; the conversation has {used}, the target is {target}"
    )]
    NothingSaved { session: SessionId, strategy: String, used: u64, target: u64 },
    #[error("the agent of session {session} did not take the shorter conversation: {why}")]
    NotTaken { session: SessionId, why: String },
    #[error("the conversation before event {seq} of session {session} is not kept: {why}")]
    NoOriginal { session: SessionId, seq: u64, why: String },
    #[error("no record of the agent's of session {session} is kept: {why}")]
    NoTranscript { session: SessionId, why: String },
    #[error("agent {0} takes no prompts; its command line is all it gets")]
    NoPrompts(String),
    #[error("session {0} is {1}; stop it first, or remove it with --force")]
    NotEnded(SessionId, &'static str),
    #[error("no call of session {session} waits for an answer under number {call}; see `beadle show {session}`")]
    NothingWaits { session: SessionId, call: u64 },
    #[error("approval {id} was {state} by {by} at {at}: {reason}")]
    Answered { id: ApprovalId, state: &'static str, by: String, at: String, reason: String },
    #[error("no rule is added for approval {id}, which still waits: {why}")]
    NoSuchRule { id: ApprovalId, why: String },
    #[error("approval {id} was taken and the call allowed, but its rule is not in force: {why}; add it with `beadle rule add`")]
    RuleLost { id: ApprovalId, why: String },
    #[error("call {call} of session {session} needs two persons, told apart by their keys; approve it with operator.confirm = \"key\"")]
    Unnamed { session: SessionId, call: u64 },
    #[error("call {call} of session {session} was allowed by {name} already; it needs a second person, with another key")]
    Endorsed { session: SessionId, call: u64, name: String },
    #[error("policy {policy} refuses session {session}, which was not started: {reason}")]
    SessionRefused { session: SessionId, policy: String, reason: String },
    #[error("policy {policy} refuses this prompt of session {session}: {reason}")]
    PromptRefused { session: SessionId, policy: String, reason: String },
    #[error("the configuration as it is now would loosen {count} of {judged} recorded calls; look at them, then give --accept-changes")]
    Loosens { count: u64, judged: u64 },
    #[error("rule {rule:?} is not a rule: {why}")]
    BadRule { rule: String, why: String },
    #[error("there is no rule {0}; see `beadle rule ls`")]
    NoRule(String),
    #[error("{0} sessions are live, the limit `limits.live_sessions`; end some first")]
    TooMany(u64),
    #[error("{agent} would run with mediation {got}, and `session.require_mediation` is {want}; {hint}")]
    Mediation { agent: String, got: &'static str, want: &'static str, hint: &'static str },
    #[error("{agent} at {program} is not attested: {why}; run `beadle doctor {agent}`, or unset `session.require_attested`")]
    NotAttested { agent: String, program: String, why: String },
    #[error(transparent)]
    Queue(#[from] super::queue::Error),
    #[error(transparent)]
    Config(#[from] crate::config::Error),
    #[error("the session's task did not answer within {} s; see `beadle host logs`", super::COMMAND_TIMEOUT.as_secs())]
    Busy,
    #[error(
        "the log of session {0} has another writer, so this was neither recorded nor done and its agent is ended; see `beadle verify` and \
         `beadle host logs`"
    )]
    Usurped(SessionId),
    #[error("the shim of session {0} is alive and does not answer, so nothing was done; try again, or end both with `beadle kill {0}`")]
    Silent(SessionId),
    #[error("session {0} was not started by the host: it takes prompts in its own terminal only")]
    NotOurs(SessionId),
    #[error("the conversation is session {session}, which belongs to process {pid}; that process lives, so no other may speak for it")]
    OtherProcess { session: SessionId, pid: u32 },
    #[error("session {0} is written by another program: the host has no process of it to speak to; end it with `beadle stop {0}`")]
    OtherWriter(SessionId),
    #[error("{field} of session {session} (key {key:?}) is {is:?}, not {said:?}; use its own record, or a new key")]
    OtherRecord { session: SessionId, key: String, field: &'static str, is: String, said: String },
    #[error(transparent)]
    Write(#[from] crate::model::written::WriteError),
    #[error("the host is shutting down; try again in a moment")]
    ShuttingDown,
    #[error(transparent)]
    Tree(#[from] super::TreeError),
    #[error(transparent)]
    Memory(#[from] crate::model::MemoryError),
    #[error(transparent)]
    Context(#[from] crate::model::ContextError),
    #[error(transparent)]
    Agent(#[from] crate::agent::Error),
    #[error(transparent)]
    Plugin(#[from] crate::registry::Error),
    #[error(transparent)]
    Process(#[from] crate::process::Error),
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Self::Cwd { .. } => "BDL-SESSION-001",
            Self::Program { .. } => "BDL-SESSION-002",
            Self::Refused { .. } => "BDL-SESSION-003",
            Self::Record(_) => "BDL-SESSION-050",
            Self::NotRunning { .. } => "BDL-SESSION-051",
            Self::NotPaused { .. } => "BDL-SESSION-052",
            Self::NotPausable { .. } => "BDL-SESSION-053",
            Self::Ended(_) => "BDL-SESSION-004",
            Self::InputClosed(_) => "BDL-SESSION-005",
            Self::PutAway { .. } => "BDL-SESSION-040",
            Self::Compaction { .. } => "BDL-SESSION-041",
            Self::Strategy { .. } => "BDL-SESSION-054",
            Self::NothingSaved { .. } => "BDL-SESSION-055",
            Self::NotTaken { .. } => "BDL-SESSION-056",
            Self::NoOriginal { .. } => "BDL-SESSION-057",
            Self::NoTranscript { .. } => "BDL-SESSION-090",
            Self::NoPrompts(_) => "BDL-SESSION-006",
            Self::NotEnded(..) => "BDL-SESSION-007",
            Self::NothingWaits { .. } => "BDL-SESSION-008",
            Self::BadRule { .. } => "BDL-SESSION-009",
            Self::NoRule(_) => "BDL-SESSION-010",
            Self::TooMany(_) => "BDL-SESSION-011",
            Self::Mediation { .. } => "BDL-SESSION-014",
            Self::Answered { .. } => "BDL-SESSION-015",
            Self::NotAttested { .. } => "BDL-SESSION-030",
            Self::NoSuchRule { .. } => "BDL-SESSION-016",
            Self::RuleLost { .. } => "BDL-SESSION-017",
            Self::Unnamed { .. } => "BDL-SESSION-032",
            Self::Endorsed { .. } => "BDL-SESSION-033",
            Self::SessionRefused { .. } => "BDL-SESSION-036",
            Self::PromptRefused { .. } => "BDL-SESSION-037",
            Self::Loosens { .. } => "BDL-SESSION-058",
            Self::NotOurs(_) => "BDL-SESSION-020",
            Self::OtherProcess { .. } => "BDL-SESSION-021",
            Self::Queue(e) => e.code(),
            Self::Config(e) => e.code(),
            Self::Usurped(_) => "BDL-SESSION-034",
            Self::Silent(_) => "BDL-SESSION-035",
            Self::Busy => "BDL-SESSION-012",
            Self::ShuttingDown => "BDL-SESSION-013",
            Self::Tree(e) => e.code(),
            Self::OtherWriter(_) => "BDL-WRITE-010",
            Self::OtherRecord { .. } => "BDL-WRITE-011",
            Self::Write(_) => "BDL-WRITE-012",
            Self::Memory(e) => e.code(),
            Self::Context(e) => e.code(),
            Self::Agent(e) => e.code(),
            Self::Plugin(e) => e.code(),
            Self::Process(e) => e.code(),
            Self::Store(e) => e.code(),
        }
    }
}
