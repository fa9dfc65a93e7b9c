//! Sessions that other programs write: one request opens and writes, and can be repeated.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{BriefRequest, SessionDoc};
use crate::model::written::Write;

/// Largest body of a write in bytes.
pub const WRITE_BODY_MAX: usize = 20 << 20;

/// Writes to one session, all of them or none.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteRequest {
    /// By id, unique prefix of one, or name. Either this or `open`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// By its writer's key: begun where it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<OpenRequest>,
    /// Of the whole request: told again, it gets the answer of the first time; with other writes, 409.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// At most [`WRITES_MAX`](crate::model::written::WRITES_MAX).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writes: Vec<Write>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<LostRequest>,
}

/// How a session is found again, and what it begins with. What is said must be what it was begun with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenRequest {
    /// The writer's own name of it, one on this host. Without it, `brief.tenant` and `brief.thread` are that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Default is the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who works, for people and filters; default `external`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `target` is required.
    #[serde(default, skip_serializing_if = "BriefRequest::is_empty")]
    pub brief: BriefRequest,
    /// Milliseconds without a write after which the host ends it; 0 is never. Default is the configured `session.writer_idle_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
}

/// What an emitter that must not block gave up, told with its next write.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LostRequest {
    /// The emitter's own name of this report: told again it is not counted again.
    pub id: String,
    /// Writes that were never sent.
    #[serde(default)]
    pub count: u64,
    /// Keys of writes that were sent and not acknowledged: those that are in the log are not lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// When the first was given up, in epoch milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
    pub why: String,
}

/// What became of the writes; durable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WroteDoc {
    /// The session began with this request.
    pub opened: bool,
    /// Nothing was written: all of it was in the log already.
    pub repeated: bool,
    /// Events that the writes are in the log as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_seq: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seq: Option<u64>,
    /// Writes that were found lost with this request.
    #[serde(default)]
    pub lost: u64,
    /// As it is now.
    pub session: SessionDoc,
}
