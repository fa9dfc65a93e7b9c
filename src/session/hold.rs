//! Audit sinks that must keep up: calls wait while they do not, and a session is not removed before they have it.
//!
//! The sinks themselves are no floor of ours: they are asked through [`AuditHold`]. Called by `gate`, `hook` and `Manager::remove`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Inner, Manager};
use crate::model::{Actor, AuditHold, Held, SessionId};
use crate::store;

/// How often it is looked whether the wait is over.
const LOOK: Duration = Duration::from_millis(20);
/// How long a removal waits for sinks that are a moment behind.
const REMOVAL: Duration = Duration::from_secs(5);

impl Manager {
    /// Says who is asked before each judgement. Called once, before the first session is adopted.
    pub fn hold_for(&self, audit: Arc<dyn AuditHold>) {
        // why ignored: there is one, and it stays.
        let _ = self.inner.audit.set(audit);
    }
}

impl Inner {
    pub(super) fn held(&self, labels: &BTreeMap<String, String>) -> Option<Held> {
        self.audit.get()?.held(labels)
    }

    /// Waits until calls of such a session may be judged. Gives why not, when the wait was too long.
    pub(super) async fn let_go(&self, labels: &BTreeMap<String, String>) -> Option<String> {
        let begun = Instant::now();
        while let Some(held) = self.held(labels) {
            if begun.elapsed() >= Duration::from_millis(held.wait_ms) {
                return Some(held.reason());
            }
            tokio::time::sleep(LOOK).await;
        }
        None
    }

    /// Removes a session from the store; waits a moment for sinks that have not got all of it, then refuses.
    pub(super) async fn remove_delivered(&self, id: &SessionId, by: &Actor) -> store::Result<()> {
        let begun = Instant::now();
        loop {
            match self.store.remove(id, by).await {
                Err(store::Error::Undelivered { .. }) if begun.elapsed() < REMOVAL => tokio::time::sleep(LOOK).await,
                done => return done,
            }
        }
    }
}
