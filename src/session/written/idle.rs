//! Written sessions whose writer asked to be ended when it is silent: when each was heard last, and the task that looks at them.
//!
//! Invariants: only time in which the writer could have been heard counts, so not while no daemon was there, nor while the machine slept;
//! of what it says of the time of its events nothing counts. At most [`WATCHED_MAX`] are watched; those over it are not ended by silence.
//!
//! Fed by `written` (each request) and `recovery` (boot); its one task is begun by `Manager::recover` and ends with the daemon.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::model::{Session, SessionId, Status};
use crate::session::Inner;

/// Sessions that are watched at one time.
const WATCHED_MAX: usize = 100_000;
/// The longest sleep.
const LOOK: Duration = Duration::from_secs(30);
/// How long is waited after a session that could not be ended.
const REST: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Watched {
    heard: Instant,
    idle: Duration,
}

#[derive(Debug, Default)]
pub(in crate::session) struct Idle {
    all: Mutex<HashMap<SessionId, Watched>>,
    changed: Notify,
}

impl Idle {
    fn all(&self) -> MutexGuard<'_, HashMap<SessionId, Watched>> {
        // why: a panic while the map was held leaves it whole.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its writer said something, or can be heard from now on.
    pub(in crate::session) fn heard(&self, session: &Session) {
        let idle_ms = session.record.writer.as_ref().and_then(|w| w.idle_ms);
        match idle_ms.filter(|_| session.status != Status::Ended) {
            Some(ms) => self.set(&session.id, Watched { heard: Instant::now(), idle: Duration::from_millis(ms) }),
            None => self.forget(&session.id),
        }
    }

    fn set(&self, id: &SessionId, w: Watched) {
        let mut all = self.all();
        if all.len() < WATCHED_MAX || all.contains_key(id) {
            let is_new = all.insert(id.clone(), w).is_none();
            drop(all);
            if is_new {
                self.changed.notify_one();
            }
        }
    }

    fn forget(&self, id: &SessionId) {
        self.all().remove(id);
    }

    /// `None` for one that is not watched.
    pub(in crate::session) fn silent_ms(&self, id: &SessionId) -> Option<u64> {
        self.all().get(id).map(|w| u64::try_from(w.heard.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Those whose time has come, and how long it is until the next.
    fn look(&self, now: Instant) -> (Vec<SessionId>, Duration) {
        let (mut come, mut next) = (vec![], LOOK);
        for (id, w) in self.all().iter() {
            match w.idle.saturating_sub(now.saturating_duration_since(w.heard)) {
                Duration::ZERO => come.push(id.clone()),
                left => next = next.min(left),
            }
        }
        (come, next)
    }
}

/// Ends them as their time comes.
pub(in crate::session) async fn run(inner: Arc<Inner>) {
    let mut shutdown = inner.shutdown.subscribe();
    loop {
        let (come, mut sleep) = inner.idle.look(Instant::now());
        for id in come {
            let looked = match inner.store.session(&id) {
                Ok(session) => inner.reconcile_written(session).await,
                Err(e) => Err(e.into()),
            };
            match looked {
                Ok(session) if session.status == Status::Ended => inner.idle.forget(&id),
                // A write came between.
                Ok(_) => sleep = Duration::ZERO,
                Err(crate::session::Error::Store(crate::store::Error::NotFound { .. })) => inner.idle.forget(&id),
                Err(e) => {
                    tracing::warn!(session = %id, code = e.code(), error = %e, "a silent writer's session could not be ended; it is tried again");
                    sleep = REST;
                }
            }
        }
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            () = inner.idle.changed.notified() => {}
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_looked_at_in_its_time_and_the_sleep_has_an_end() {
        let (idle, a, b) = (Idle::default(), "a-1-aaaaa".parse::<SessionId>().unwrap(), "b-1-aaaaa".parse::<SessionId>().unwrap());
        let heard = Instant::now();
        let after = |ms| heard + Duration::from_millis(ms);
        assert_eq!(idle.look(heard), (vec![], LOOK));
        idle.set(&a, Watched { heard, idle: Duration::from_millis(100) });
        idle.set(&b, Watched { heard, idle: Duration::MAX });
        assert_eq!(idle.look(after(40)), (vec![], Duration::from_millis(60)));
        assert_eq!(idle.look(after(100)), (vec![a.clone()], LOOK));
        idle.set(&a, Watched { heard: after(90), idle: Duration::from_millis(100) });
        assert_eq!(idle.look(after(100)), (vec![], Duration::from_millis(90)));
        idle.forget(&a);
        assert_eq!((idle.look(after(100)), idle.silent_ms(&a)), ((vec![], LOOK), None));
    }
}
