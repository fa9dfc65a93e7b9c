//! What audit sinks are given, and what they answer.
//!
//! Called by `plugin`; the host's side of delivery reads events from the store and keeps a cursor for each sink.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One event as a sink gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkEvent {
    pub session: String,
    pub seq: u64,
    pub at: i64,
    pub attempt: u32,
    pub kind: String,
    /// JSON, as stored.
    pub body: String,
    /// Link of the session's hash chain, hex.
    pub hash: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A sink's answer to one batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Delivery {
    /// So many, counted from the first, are delivered; never more than the batch had.
    Accepted { count: usize },
    /// None is; not before so many milliseconds.
    RetryAfter { ms: u64 },
    /// Those before this place are delivered, this one never will be.
    Poison { index: usize, reason: String },
}

/// Calls wait: audit sinks that must have their events are too far behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub group: String,
    /// Names of those that are behind.
    pub sinks: Vec<String>,
    /// How long a call waits at most before it is denied.
    pub wait_ms: u64,
}

impl Held {
    /// Why a call is denied; the code is stable.
    pub fn reason(&self) -> String {
        format!(
            "audit sinks of group {:?} that must keep up are behind ({}) (BDL-SINK-010); see `beadle sink status`",
            self.group,
            self.sinks.join(", ")
        )
    }
}

/// Whether calls of a session must wait for audit sinks. Asked before each judgement, so it answers at once.
pub trait AuditHold: Send + Sync {
    fn held(&self, labels: &BTreeMap<String, String>) -> Option<Held>;
}
