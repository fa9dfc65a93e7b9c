//! Sinks: where events are delivered, and how far.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Every sink of the configuration, and the key that signed heads among the events are checked with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinksDoc {
    pub sinks: Vec<SinkDoc>,
    /// ed25519, hex.
    pub key: String,
}

/// One sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkDoc {
    pub name: String,
    /// `jsonl`, `http` or `plugin`.
    pub kind: String,
    /// `best-effort`, `at-least-once` or `required`.
    pub mode: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The component of a plugin, once it is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<SinkPluginDoc>,
    pub cursor: SinkCursor,
    pub lag_events: u64,
    pub lag_ms: u64,
    /// Further behind than the configuration allows.
    pub lagging: bool,
    pub delivered: u64,
    pub dropped: u64,
    pub skipped: u64,
    pub dead_letters: u64,
    /// Tries that did not work, since the daemon started.
    pub failures: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<SinkErrorDoc>,
    /// Absent when no try is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_at: Option<String>,
}

/// Who a component says it is, and BLAKE3 of it, hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkPluginDoc {
    pub name: String,
    pub version: String,
    pub digest: String,
}

/// Everything up to here is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkCursor {
    pub host_seq: u64,
    /// Over the events of all sessions, in the order they were written.
    pub row: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkErrorDoc {
    pub at: String,
    pub message: String,
}

/// An event that a sink never took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeadLetterDoc {
    pub id: i64,
    pub at: String,
    pub reason: String,
    pub session: String,
    pub seq: u64,
    pub kind: String,
    pub hash: String,
    pub body: Box<RawValue>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeadLettersQuery {
    /// Only those with a larger number.
    pub after: Option<i64>,
    pub limit: Option<usize>,
}

/// The next try begins now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SinkRetryRequest {
    /// Dead letters are delivered again too.
    pub dead_letters: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkRetryDoc {
    pub sink: String,
    /// Dead letters that were delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redelivered: Option<u64>,
    /// Dead letters that are left.
    pub dead_letters: u64,
    /// Why not all were tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Moves a sink past events that wait; they are kept as dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkSkipRequest {
    /// So many from the front, at most 1,000; or the next one by name, `<session>:<seq>`.
    pub what: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkSkipDoc {
    pub sink: String,
    pub skipped: u64,
}
