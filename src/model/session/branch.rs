//! Small parts of the fold: sessions that went on from this one, and how many tasks are open.

use serde::{Deserialize, Serialize};

use crate::model::event::{BranchKind, SessionForked, TaskUpdated};
use crate::model::id::SessionId;

/// Branches that a projection names; the log has all.
const KEPT: usize = 16;

/// A session that went on from this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    pub how: BranchKind,
    pub session: SessionId,
    /// The last event of this one that it took over.
    pub at: u64,
}

/// The newest are kept.
pub(super) fn add(branches: &mut Vec<Branch>, f: &SessionForked) {
    branches.push(Branch { how: f.how, session: f.to.clone(), at: f.at });
    let over = branches.len().saturating_sub(KEPT);
    branches.drain(..over);
}

/// A task counts where it is now, and no more where it was.
pub(super) fn count(t: &TaskUpdated, open: &mut u64, closed: &mut u64) {
    for (status, by) in t.was.map(|s| (s, -1)).into_iter().chain([(t.status, 1)]) {
        let n = if status.is_open() { &mut *open } else { &mut *closed };
        *n = n.saturating_add_signed(by);
    }
}
