//! Events that come from elsewhere than a session's own task, into its log in whatever state it is.
//!
//! Invariant: a session that has a task is written by that task only, so the event goes through it; one that has none (it has ended, another
//! program writes it, or nobody has taken it up) is appended to directly, while nobody can take it up.
//!
//! Called by `tree`, `branch` and `tasks`.

use super::{Error, Manager, mask};
use crate::model::{Event, Session, SessionId, Status};
use crate::store::Batch;

/// How often the way is looked for again when the session's task ends meanwhile.
const TRIES: u32 = 8;

impl Manager {
    /// Returns once they are durable.
    pub async fn append_to(&self, id: &SessionId, events: Vec<Event>) -> Result<Session, Error> {
        for _ in 0..TRIES {
            match self.record(id, events.clone()).await {
                Err(Error::Ended(_) | Error::OtherWriter(_)) => {}
                told => return told,
            }
            // why held: a session without a task is taken up under it.
            let _one = self.inner.reconciling.lock().await;
            if self.inner.live().contains_key(id) {
                continue;
            }
            let session = self.inner.store.session(id)?;
            if session.status != Status::Ended && self.inner.is_starting(id) {
                return Err(Error::Busy);
            }
            let batch = Batch {
                session: id.clone(),
                expected: None,
                attempt: session.attempt.max(1),
                at: self.inner.clock.wall_ms(),
                events: events.iter().cloned().map(mask::event).collect(),
                cursor: None,
                frames: vec![],
                taken: None,
                blobs: vec![],
            };
            return Ok((*self.inner.store.append(batch).await?.session).clone());
        }
        Err(Error::Busy)
    }
}
