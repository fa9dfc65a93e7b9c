//! Event bodies of sessions that belong together: branches, handoffs, acts on a whole tree, tasks. Written by `session::tree`,
//! `session::branch` and `session::tasks`.

use serde::{Deserialize, Serialize};

use super::{Actor, Excerpt};
use crate::model::id::SessionId;
use crate::model::task::{TaskSource, TaskStatus};

/// How a session goes on from another's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BranchKind {
    /// Another way from an event on; the first session stays what it is.
    Fork,
    /// The work of an ended session is taken up again.
    Resume,
}

impl BranchKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Resume => "resume",
        }
    }
}

/// In the log of the first session: another goes on from here. The other's `session_created` names this log with the same hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionForked {
    pub how: BranchKind,
    pub to: SessionId,
    /// The last event that the other session takes over.
    pub at: u64,
    /// Its hash in this log, hex.
    pub hash: String,
    pub by: Actor,
}

/// The work goes from one agent to another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentHandedOff {
    /// Who had it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    pub to: String,
    /// The session in which the other agent goes on, where it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// What it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Excerpt>,
    #[serde(default)]
    pub by: Actor,
}

/// What is done to a session and all below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TreeAct {
    Stop,
    Kill,
    Pause,
    Resume,
}

impl TreeAct {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }
}

/// In the root's log: from here until `tree_act_ended` nothing new begins below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeActBegan {
    pub act: TreeAct,
    pub by: Actor,
}

/// Everything below the root that was live was told, and for a stop or kill has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeActEnded {
    pub act: TreeAct,
    /// Sessions that it was done to.
    pub done: u64,
    /// Sessions that it could not be done to, at most 100, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
}

/// A task is new, or not as it was: the whole of it as it is from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskUpdated {
    pub task: String,
    pub title: String,
    pub status: TaskStatus,
    /// Its status before; none of a new task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<TaskStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Whose list it is on.
    pub source: TaskSource,
    #[serde(default)]
    pub by: Actor,
}
