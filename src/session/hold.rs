//! Audit sinks that must keep up: calls wait while they do not, and a session is not removed before they have it. So a session is told to
//! end here, past a call that waits, and removed here.
//!
//! The sinks themselves are no floor of ours: they are asked through [`AuditHold`]. Called by `gate`, `hook` and `Manager::remove`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::command::Command;
use super::{COMMAND_TIMEOUT, Error, Inner, Manager, rules};
use crate::model::{Actor, AuditHold, Held, Outcome, Session, SessionId, Status};
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

    /// Ends a session: TERM to the whole tree, `grace` (default: configured), then KILL; `kill` skips TERM and grace.
    pub async fn stop(&self, id: &SessionId, grace: Option<Duration>, kill: bool, by: Actor) -> Result<Session, Error> {
        let session = self.inner.store.session(id)?;
        if session.record.writer.is_some() && session.status != Status::Ended {
            let (outcome, how) = if kill { (Outcome::Killed, "kill") } else { (Outcome::Stopped, "stop") };
            return self.inner.end_written(id, outcome, "ended by an operator", how, &by).await;
        }
        if let Some(ended) = self.cancel(id, kill, &by).await? {
            return Ok(ended);
        }
        if let Some(live) = self.inner.live().get_mut(id) {
            live.stopping = true;
        }
        let done = self.command(id, |reply| Command::Stop { grace, kill, by, reply }).await?;
        // why: nothing of it was done, and the session goes on when its shim answers again.
        if matches!(done, Err(Error::Silent(_)))
            && let Some(live) = self.inner.live().get_mut(id)
        {
            live.stopping = false;
        }
        done
    }

    /// Deletes an ended session's rows and files; the host chain keeps that it was there.
    pub async fn remove(&self, id: &SessionId, force: bool, by: Actor) -> Result<Session, Error> {
        let session = self.inner.store.session(id)?;
        if session.status != Status::Ended {
            if !force {
                return Err(Error::NotEnded(id.clone(), session.status.as_str()));
            }
            self.stop(id, None, true, by.clone()).await?;
            self.ended(id, COMMAND_TIMEOUT).await?;
        }
        // why: a backup that is being made still needs the archives that its copy of the database names.
        let (manager, id) = (self.clone(), id.clone());
        self.alone(async move { manager.remove_now(&id, &by).await }).await
    }

    /// The same of an ended session, by one who holds that lock.
    pub(super) async fn remove_now(&self, id: &SessionId, by: &Actor) -> Result<Session, Error> {
        let session = self.inner.store.session(id)?;
        if session.status != Status::Ended {
            return Err(Error::NotEnded(id.clone(), session.status.as_str()));
        }
        let archives = self.inner.store.archives(id)?;
        self.inner.remove_delivered(id, by).await?;
        for a in archives.iter().filter(|a| a.is_ours()) {
            self.inner.store.drop_file(&a.path)?;
        }
        rules::forget(&self.inner, id).await?;
        self.inner.removed_from_queue(id);
        if let Err(e) = std::fs::remove_dir_all(self.inner.run_dir(id, 1))
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(session = %id, error = %e, "the folder of a removed session stays");
        }
        Ok(session)
    }
}

impl Inner {
    /// It was told to end, and its task may not know yet.
    pub(super) fn is_stopping(&self, id: &SessionId) -> bool {
        self.live().get(id).is_some_and(|l| l.stopping)
    }

    pub(super) fn held(&self, labels: &BTreeMap<String, String>) -> Option<Held> {
        self.audit.get()?.held(labels)
    }

    /// Waits until calls of such a session may be judged. Gives why not, when the wait was too long or the session is to end: its task
    /// hears of that only afterwards.
    pub(super) async fn let_go(&self, id: &SessionId, labels: &BTreeMap<String, String>) -> Option<String> {
        let begun = Instant::now();
        while let Some(held) = self.held(labels) {
            if self.is_stopping(id) {
                return Some(format!("the session was told to end while the call waited: {}", held.reason()));
            }
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
