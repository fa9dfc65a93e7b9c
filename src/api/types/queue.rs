//! The queue: its lanes, who waits in them, and what workers elsewhere are given and say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::SessionDoc;
use crate::model::{Dependency, Handler, Lease, QueueState, Session, format_ms};

/// Most sessions that one page of the queue shows.
pub const QUEUE_SHOWN: usize = 1_000;
/// Most bytes of what a worker says of its result.
pub const WORKER_OUTPUT: usize = 256 << 10;

/// Wait for a place instead of starting at once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueRequest {
    /// `default` where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// Higher goes first within its lane.
    #[serde(default)]
    pub priority: i32,
    /// Not before this time, RFC 3339; by the wall clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Not before so long from now, by the clock that no one sets; over a restart of the machine by the wall clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// `SESSION` (must have succeeded or exited) or `SESSION:OUTCOME` (`ok`, `any`, or an outcome), at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
}

/// A session's time in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionQueueDoc {
    pub lane: String,
    pub priority: i32,
    pub handler: Handler,
    /// When it was queued first, and since when it waits, or waited last.
    pub queued_at: String,
    pub since: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Dependency>,
    /// Tries that came to nothing, and why the last one did.
    pub failure_count: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited_ms: Option<u64>,
    /// It ended in a way that `beadle queue retry` can mend, and nobody did.
    pub is_dead: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried_as: Option<String>,
}

impl SessionQueueDoc {
    pub(super) fn of(q: &QueueState, session: &Session) -> Self {
        Self {
            lane: q.lane.clone(),
            priority: q.priority,
            handler: q.handler,
            queued_at: format_ms(q.queued_at),
            since: format_ms(q.since),
            not_before: q.not_before.as_ref().map(|n| format_ms(n.wall_ms)),
            after: q.after.clone(),
            failure_count: q.failures,
            reason: q.reason.clone(),
            lease: q.lease.clone(),
            waited_ms: q.waited_ms,
            is_dead: q.is_dead(session.outcome),
            retry_of: q.retry_of.as_ref().map(ToString::to_string),
            retried_as: q.retried_as.as_ref().map(ToString::to_string),
        }
    }
}

/// Which part of the queue is listed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
}

/// A session that waits, or that came from the queue and has not ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueuedDoc {
    /// Among those of its lane that wait, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<u64>,
    /// `waiting`, `delayed`, `blocked`, `held`, `starting`, `running` or `leased`.
    pub state: String,
    /// Until its time has come.
    pub left_ms: u64,
    /// What it still waits for.
    #[serde(default)]
    pub after: Vec<Dependency>,
    pub session: SessionDoc,
}

/// The queue in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueDoc {
    /// `paused` or `stopped`, where the whole queue is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    pub concurrency: u64,
    pub depth_max: u64,
    pub lanes: Vec<LaneDoc>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneDoc {
    pub lane: String,
    pub handler: Handler,
    /// False where sessions wait in a lane that the configuration has no more: they stay until they are moved.
    pub configured: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    pub priority: i64,
    pub concurrency: u64,
    /// Waiting; of these whose time has not come, and who wait for others.
    pub depth: u64,
    pub delayed: u64,
    pub blocked: u64,
    pub running: u64,
    pub leased: u64,
    pub oldest_ms: u64,
    /// Of the newest 1,000 that were taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_p50_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_p99_ms: Option<u64>,
    /// Of the newest 1,000 ends, those of the last hour.
    pub ended_last_hour: u64,
    pub dead_last_hour: u64,
}

/// Hold a lane, or let it go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneRequest {
    /// The whole queue where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// `start`, `pause` (nothing is taken from it) or `stop` (and nothing is put into it).
    pub act: LaneAct,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaneAct {
    Start,
    Pause,
    Stop,
}

/// Where a waiting session shall stand; what is left out stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueMoveRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// In place of all that it waits for; empty for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Vec<String>>,
}

/// A worker asks for a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// Its name, at most 64 bytes.
    pub worker: String,
    /// Lanes that it serves, external or hybrid; all of these where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lanes: Vec<String>,
    /// How long to wait for one, at most 30 s.
    #[serde(default)]
    pub wait_ms: u64,
}

/// What a worker was given; nothing where none waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeaseDoc {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<LeasedDoc>,
}

/// A leased session: what it was asked to do. Values of the caller's environment stay here; the worker has its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeasedDoc {
    pub session: SessionDoc,
    pub lease: Lease,
    pub agent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    #[serde(default)]
    pub args: Vec<String>,
    pub cwd: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_root: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp_config: Option<Value>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub env_names: Vec<String>,
}

/// What a worker says under its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseWord {
    /// The lease's number.
    pub lease: u64,
    pub act: LeaseAct,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Of `complete`: what came of it, at most [`WORKER_OUTPUT`] bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Of `fail` and `release`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of `fail`: no further try.
    #[serde(default)]
    pub last: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseAct {
    Heartbeat,
    Complete,
    Fail,
    Release,
}
