//! Ids of sessions that are about to begin: none is given twice, however many begin in the same millisecond.
//!
//! Invariant: from when an id is given until its session is live or its start has failed, it is in the set; whoever finds an open session
//! that is not live looks here before calling it left over.
//!
//! Called by `start`, `external` and `reconcile`.

use std::sync::PoisonError;

use super::{Error, Inner};
use crate::model::SessionId;

/// An id of which nobody else will begin a session.
pub(super) struct Reserved<'a> {
    inner: &'a Inner,
    pub id: SessionId,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.inner.starting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Inner {
    /// A new id from a name.
    pub(super) fn reserve(&self, name: &str) -> Result<Reserved<'_>, Error> {
        loop {
            let id = SessionId::new(name, self.clock.as_ref(), self.entropy.as_ref());
            let is_new = self.starting.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
            if !is_new {
                continue;
            }
            let reserved = Reserved { inner: self, id };
            // why the store too: a clock that was set back gives a millisecond twice.
            match self.store.session(&reserved.id) {
                Err(crate::store::Error::NotFound { .. }) => return Ok(reserved),
                Err(e) => return Err(e.into()),
                Ok(_) => {}
            }
        }
    }

    /// The id of a session whose log is there already.
    pub(super) fn reserve_known(&self, id: &SessionId) -> Reserved<'_> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        Reserved { inner: self, id: id.clone() }
    }

    /// Whether its start is under way.
    pub(super) fn is_starting(&self, id: &SessionId) -> bool {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }
}
