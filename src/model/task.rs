//! Tasks of a session: small pieces of work with a status, kept by people and by the agent itself.
//!
//! Invariants: an id is given once in a session and stays; the list is a fold over `task_updated` events, so it is as old as the log; at
//! most [`TASKS_MAX`] tasks a session.
//!
//! Called by `session::tasks` (which writes the events), the store (rows) and `api`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::event::{Envelope, Event};

/// Most tasks of one session.
pub const TASKS_MAX: usize = 1_000;
/// Longest title and note in bytes.
pub const TASK_TITLE_MAX: usize = 500;
pub const TASK_NOTE_MAX: usize = 4_000;
/// Longest id in bytes.
pub const TASK_ID_MAX: usize = 64;

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    Pending,
    InProgress,
    Completed,
    Cancelled,
}

impl TaskStatus {
    pub const ALL: [Self; 4] = [Self::Pending, Self::InProgress, Self::Completed, Self::Cancelled];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Something is left to do.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::InProgress)
    }
}

/// Whose list a task is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskSource {
    /// The host's own list: people, programs, and agents through the host's tools.
    #[default]
    Host,
    /// The agent's own list, as seen in its calls.
    Agent,
}

impl TaskSource {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Agent => "agent",
        }
    }
}

/// One task as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    pub id: String,
    pub title: String,
    pub status: TaskStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    pub source: TaskSource,
    pub created_at: i64,
    pub updated_at: i64,
    /// seq of the event that made it, and of the newest that changed it.
    pub began: u64,
    pub changed: u64,
}

/// The tasks of one session by the event that began each: the order in which they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tasks(pub BTreeMap<u64, Task>);

impl Tasks {
    pub fn fold(&mut self, e: &Envelope) {
        let Event::TaskUpdated(t) = &e.event else { return };
        let known = self.0.values().find(|k| k.id == t.task).map(|k| (k.began, k.created_at));
        let (began, created_at) = known.unwrap_or((e.seq, e.at));
        self.0.insert(
            began,
            Task {
                id: t.task.clone(),
                title: t.title.clone(),
                status: t.status,
                owner: t.owner.clone(),
                note: t.note.clone(),
                source: t.source,
                created_at,
                updated_at: e.at,
                began,
                changed: e.seq,
            },
        );
    }

    pub fn get(&self, id: &str) -> Option<&Task> {
        self.0.values().find(|t| t.id == id)
    }
}
