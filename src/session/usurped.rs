//! A log with another writer: an append was refused because events stand there that this task did not write.
//!
//! Invariants:
//! - two writers would break promise 1, so the agent is ended, nothing more is recorded and nothing more is done, until its end, which is
//!   recorded behind whatever stands there;
//! - nobody is told of success for what was not recorded;
//! - what survived of an append that failed half way is known by its content, never by its length.
//!
//! Called by `run`, `command`, `finish` and `external` (whose agent is not the host's to end: its hooks get no answer, so its calls block).

use super::Error;
use super::run::{Ending, Runner};
use crate::model::{Event, Session};

impl Runner {
    /// Whether what stands behind our newest event is exactly this.
    pub(super) fn survived(&self, now: &Session, events: &[Event]) -> bool {
        now.last_seq == self.session.last_seq + events.len() as u64
            && self.inner.store.events(&self.id, self.session.last_seq + 1, events.len() + 1).is_ok_and(|stored| {
                stored.len() == events.len()
                    && stored
                        .iter()
                        .map(|s| &s.envelope.event)
                        .zip(events)
                        .all(|(s, e)| s.kind() == e.kind() && s.body_bytes() == e.body_bytes())
            })
    }

    /// The session after a commit; an error when that could not be written.
    pub(super) fn recorded(&mut self) -> Result<Session, Error> {
        if let Some(e) = self.unkept.take() {
            return Err(e.into());
        }
        if self.is_usurped { Err(Error::Usurped(self.id.clone())) } else { Ok(self.session.clone()) }
    }

    /// The agent of a log with another writer has ended: its end is recorded behind whatever stands there, and nothing else is.
    pub(super) fn take_log_back(&mut self) {
        if self.is_usurped
            && let Ok(session) = self.inner.store.session(&self.id)
        {
            self.session = session;
            self.is_usurped = false;
            self.unreadable = true;
            self.ending = Some(Ending::Fault);
        }
    }
}
