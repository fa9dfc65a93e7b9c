//! Event bodies of sessions that wait for a place. Written by `session::queue`.

use serde::{Deserialize, Serialize};

use super::Actor;
use crate::model::id::SessionId;
use crate::model::queue::{Dependency, Handler, NotBefore};

/// The session waits from here on: when it is made, and each time it comes back because a try came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionQueued {
    pub lane: String,
    #[serde(default)]
    pub priority: i32,
    pub handler: Handler,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<NotBefore>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Dependency>,
    /// BLAKE3 of the file that holds its request, hex: values of the environment are there, not here.
    pub request: String,
    #[serde(default)]
    pub failures: u32,
    /// Why it comes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The ended session that it tries again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<SessionId>,
    pub by: Actor,
}

/// Somebody took it: the host, which is about to start its agent, or a worker, by lease. The seq of this event is the lease's number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionClaimed {
    /// Absent where the host starts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// Since it was queued, or came back.
    pub waited_ms: u64,
    /// It was created with the host's own tools and goes without: they were switched off since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_host_tools: bool,
}

/// It stands elsewhere in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueMoved {
    pub lane: String,
    pub priority: i32,
    pub handler: Handler,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<NotBefore>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Dependency>,
    pub by: Actor,
}

/// The same request was queued again, as another session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRetried {
    #[serde(rename = "as")]
    pub session: SessionId,
    pub by: Actor,
}
