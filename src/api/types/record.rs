//! What is on record: events, logs, verification.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::model::{BodyError, Event};

/// Which events to read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// First seq wanted; default 1 for a page and a stream of one session, "from now" over all sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Only the newest so many, in rising order (not with `from`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<usize>,
    /// Page only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Comma-separated event kinds; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<String>,
    /// Only events of this attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach: Option<Attach>,
    /// Stream only: farther behind the newest event than this, go to the end and be told what was missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_lag: Option<u64>,
}

/// Events that a follower was not given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissedDoc {
    /// The token before them: a stream that is opened with it as `Last-Event-ID` gives those that are still there.
    pub after: String,
    pub count: u64,
    /// `lag`: the follower was too slow for its `max_lag`; `gone`: their sessions were removed, or moved out.
    pub why: String,
}

/// What an attached reader can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attach {
    /// Answer approvals. Counts where `approvals.unattended` is `deny`: asks then wait while it is connected, and only then.
    Answer,
}

/// One event. `body` is the JSON as stored, byte for byte; times inside it are epoch milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventDoc {
    pub session: String,
    pub seq: u64,
    pub at: String,
    pub attempt: u32,
    pub kind: String,
    pub body: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Of a stream over all sessions: the token to go on from behind this event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl EventDoc {
    /// The typed event; unknown kinds are kept. Errors when a known kind's body has another shape.
    pub fn event(&self) -> Result<Event, BodyError> {
        Event::from_parts(&self.kind, self.body.get().as_bytes())
    }
}

/// Which output of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    #[default]
    Out,
    Err,
}

/// A piece of what the agent wrote, at most [`LOGS_MAX`](super::LOGS_MAX) bytes. What was rotated away is skipped: see [`OFFSET_HEADER`](super::OFFSET_HEADER).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogsQuery {
    #[serde(default)]
    pub stream: LogStream,
    /// Of which attempt; default: the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// First byte wanted; default 0 (with `tail`: counted from the end).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only the last so many bytes (not with `offset`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<u64>,
    /// Wait so long for a first byte, at most [`WAIT_MAX_MS`](super::WAIT_MAX_MS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// One thing that `verify` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingDoc {
    /// Absent: the host chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    pub what: String,
}

/// What verification saw. `findings` is capped at 1,000; `finding_count` is the whole number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerifyDoc {
    pub ok: bool,
    pub session_count: u64,
    pub event_count: u64,
    pub finding_count: u64,
    pub findings: Vec<FindingDoc>,
    /// Archives that were read on into.
    #[serde(default)]
    pub archive_count: u64,
    /// Events whose bodies were erased in the open: no findings. `erasures` has at most 1,000 of them.
    #[serde(default)]
    pub erased_count: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub erasures: Vec<super::ErasureDoc>,
    /// The signed head document of this moment: keep it elsewhere for `verify --against`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Value>,
}

/// Verification of one session or all, and against a checkpoint saved before.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Value>,
}
