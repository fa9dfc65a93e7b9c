//! Reading a session that has not ended: what is told is checked against what there is.
//!
//! Invariants: a session whose shim (or process, where there is none) is gone is not told as running: its end is recorded first; one that
//! cannot be looked at is told as it stands in the log. Unknown is never dead.
//!
//! Called by `api` for listings and details.

use std::time::Duration;

use super::{Manager, queue, recovery};
use crate::model::{Session, SessionId, Status};
use crate::process;

/// How long a reader waits for the end of a session whose shim is gone to be on record.
const SETTLE: Duration = Duration::from_secs(5);

impl Manager {
    /// The session as it is now; `session` as the store had it a moment ago.
    pub async fn reconciled(&self, session: Session) -> Session {
        if session.status == Status::Ended || queue::is_ours(&session) || self.is_sound(&session.id) {
            return session;
        }
        if session.record.writer.is_some() {
            let unknown = session.clone();
            let settled = self.inner.reconcile_written(session).await;
            return settled
                .inspect_err(|e| tracing::warn!(session = %unknown.id, error = %e, "it could not be reconciled"))
                .unwrap_or(unknown);
        }
        let settled = if self.is_live(&session.id) { self.ended(&session.id, SETTLE).await } else { self.left_over(&session.id).await };
        // why as it was: what cannot be read now is unknown.
        settled.inspect_err(|e| tracing::warn!(session = %session.id, error = %e, "it could not be reconciled")).unwrap_or(session)
    }

    fn is_live(&self, id: &SessionId) -> bool {
        self.inner.live().contains_key(id)
    }

    /// Nothing speaks against what the log says: its process is there, or nobody can tell.
    fn is_sound(&self, id: &SessionId) -> bool {
        if self.inner.is_starting(id) || *self.inner.shutdown.borrow() {
            return true;
        }
        let live = self.inner.live();
        let Some(entry) = live.get(id) else { return false };
        let process = entry.external.as_ref().map_or_else(|| entry.shim.shim(), |e| e.process);
        // Pid 0: put away, so there is no process that could be gone.
        process.pid == 0 || process::lives(process)
    }

    /// Open in the log, and no task has it: an adoption failed, which may succeed now.
    async fn left_over(&self, id: &SessionId) -> Result<Session, super::Error> {
        let _one = self.inner.reconciling.lock().await;
        let session = self.inner.store.session(id)?;
        if session.status != Status::Ended && !queue::is_ours(&session) && !self.is_live(id) && !self.inner.is_starting(id) {
            recovery::adopt(&self.inner, &session).await?;
        }
        Ok(self.inner.store.session(id)?)
    }
}
