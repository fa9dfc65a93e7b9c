//! What an append of another program's session says beside its events: keys that make a repeat harmless, and the attempt it belongs to.
//!
//! Invariants: keys are written in the transaction of their events, so after any crash either both are there or neither; what may be
//! appended is decided by the one writer, against the session as it then is, so two programs at once cannot both be right.
//!
//! Made by `session::written`; judged by `sqlite::written`.

use crate::model::SessionId;

/// A key and BLAKE3 of what is written under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteKey {
    pub key: String,
    pub digest: [u8; 32],
}

/// One event of such an append.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WrittenAt {
    /// Wall time in milliseconds.
    pub at: i64,
    /// The attempt that its writer takes it for; 0 where it does not say.
    pub number: u32,
    /// Left out where the log has it already. Several events of one write have the key at the first only.
    pub key: Option<WriteKey>,
    /// Belongs to the event before: left out with it.
    pub follows: bool,
}

/// What the one writer must find, and keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteRule {
    /// Of a new session: by what it is found again.
    pub opens: Option<String>,
    /// Of the whole append.
    pub key: Option<WriteKey>,
    /// As many as there are events.
    pub events: Vec<WrittenAt>,
}

/// Why such an append is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteRefusal {
    #[error("session {session} has no open attempt, so {kind} cannot be written; start one with `beadle session attempt-start {session}`")]
    NoAttempt { session: SessionId, kind: String },
    #[error("attempt {attempt} of session {session} is open; end it first with `beadle session attempt-end {session}`")]
    AttemptOpen { session: SessionId, attempt: u32 },
    #[error("the attempt of session {session} is number {is}, not {said} as its writer says; read the session and write again")]
    AttemptNumber { session: SessionId, is: u32, said: u32 },
    #[error("session {0} has ended; nothing more can be written to it")]
    Ended(SessionId),
    #[error("session {0} is not one that other programs write: its log is the host's own")]
    NotWritten(SessionId),
    #[error("key {key:?} of session {session} stands for another write, events {first_seq} to {last_seq}; use a new key for a new write")]
    KeyTaken { session: SessionId, key: String, first_seq: u64, last_seq: u64 },
}

impl WriteRefusal {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoAttempt { .. } => "BDL-WRITE-001",
            Self::AttemptOpen { .. } => "BDL-WRITE-002",
            Self::AttemptNumber { .. } => "BDL-WRITE-003",
            Self::Ended(_) => "BDL-WRITE-004",
            Self::NotWritten(_) => "BDL-WRITE-005",
            Self::KeyTaken { .. } => "BDL-WRITE-006",
        }
    }
}
