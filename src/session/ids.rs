//! Ids of sessions that are about to begin: none is given twice, however many begin in the same millisecond.
//!
//! Invariant: from when an id is given until its session is live or its start has failed, it is in the set; whoever finds an open session
//! that is not live looks here before calling it left over.
//!
//! Called by `start`, `external` and `reconcile`.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

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

/// The first of these ids that is in nobody's hands; from now on in the caller's.
fn of_nobody(starting: &Mutex<HashSet<SessionId>>, mut new: impl FnMut() -> SessionId) -> SessionId {
    loop {
        let id = new();
        if starting.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone()) {
            return id;
        }
    }
}

impl Inner {
    /// A new id from a name.
    pub(super) fn reserve(&self, name: &str) -> Result<Reserved<'_>, Error> {
        loop {
            let id = of_nobody(&self.starting, || SessionId::new(name, self.clock.as_ref(), self.entropy.as_ref()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Clock, Entropy};
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A clock that stands, and randomness that says everything four times.
    struct Poor(AtomicU32);

    impl Clock for Poor {
        fn wall_ms(&self) -> i64 {
            1
        }
        fn boot_ms(&self) -> u64 {
            1
        }
    }

    impl Entropy for Poor {
        fn fill(&self, buf: &mut [u8]) {
            let n = self.0.fetch_add(1, Ordering::SeqCst) / 4;
            for (at, byte) in buf.iter_mut().enumerate() {
                *byte = u8::try_from((n >> (at * 5)) & 31).unwrap_or(0);
            }
        }
    }

    #[test]
    fn a_thousand_that_begin_at_once_have_a_thousand_ids() {
        const STARTS: usize = 1_000;
        let (starting, poor, gate) = (Mutex::new(HashSet::new()), Poor(AtomicU32::new(0)), Barrier::new(STARTS));
        let ids: HashSet<SessionId> = std::thread::scope(|s| {
            let one = || {
                gate.wait();
                of_nobody(&starting, || SessionId::new("same", &poor, &poor))
            };
            let begin = || std::thread::Builder::new().stack_size(128 << 10).spawn_scoped(s, one).expect("a thread");
            let all: Vec<_> = (0..STARTS).map(|_| begin()).collect();
            all.into_iter().map(|t| t.join().expect("no panic")).collect()
        });
        assert_eq!((ids.len(), starting.into_inner().expect("whole").len()), (STARTS, STARTS));
    }
}
