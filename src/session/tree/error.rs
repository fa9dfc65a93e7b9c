//! What can go wrong with trees, branches and tasks of sessions, each with a stable code.

use crate::model::{SessionId, TASKS_MAX};

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("a session below {parent} would be of generation {depth}; `limits.tree_depth` is {max}: start it higher up")]
    TooDeep { parent: SessionId, depth: u64, max: u64 },
    #[error("session {parent} has {max} children that have not ended, the limit `limits.children`; end some first")]
    TooMany { parent: SessionId, max: u64 },
    #[error("nothing begins below session {root} now: a {act} of its whole tree goes on; try again when it is done")]
    GoesOn { root: SessionId, act: &'static str },
    #[error("{0} acts on trees go on, which is the most; wait until one is done")]
    Busy(usize),
    #[error("what goes on with trees was written down and cannot be read: {0}; see `beadle host logs`")]
    Stored(String),
    #[error("nothing begins below session {root}: {reason}")]
    Spent { root: SessionId, reason: String },
    #[error(
        "a session below {root} counts in its limit of cost, tokens or turns, and {agent} does not tell what it uses; start it elsewhere"
    )]
    Unmeasured { root: SessionId, agent: String },
    #[error("session {0} cannot hand its work to itself; name another session, or none")]
    ToItself(SessionId),
    #[error("session {session} has no task {id:?}; see `beadle task ls {session}`")]
    NoTask { session: SessionId, id: String },
    #[error("session {0} has {TASKS_MAX} tasks, which is the most")]
    TooManyTasks(SessionId),
    #[error("session {session} cannot be taken up from event {at}: {why}")]
    NoBranch { session: SessionId, at: u64, why: String },
}

impl TreeError {
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooDeep { .. } => "BDL-TREE-001",
            Self::TooMany { .. } => "BDL-TREE-002",
            Self::GoesOn { .. } => "BDL-TREE-003",
            Self::Busy(_) => "BDL-TREE-004",
            Self::Stored(_) => "BDL-TREE-005",
            Self::Spent { .. } => "BDL-TREE-006",
            Self::Unmeasured { .. } => "BDL-TREE-007",
            Self::ToItself(_) => "BDL-TREE-008",
            Self::NoTask { .. } => "BDL-TREE-009",
            Self::TooManyTasks(_) => "BDL-TREE-010",
            Self::NoBranch { .. } => "BDL-TREE-011",
        }
    }
}
