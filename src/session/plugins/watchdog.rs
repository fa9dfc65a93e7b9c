//! Looks after versions that are new: one that fails too often is rolled back by the host.
//!
//! A version is watched for [`WATCHED_FOR`] after its upgrade, while the version before it is kept. More than [`FAILURES`] failed calls
//! (trap, deadline, memory, an answer outside the contract) within [`WINDOW`], over all sessions, put that one in force again.
//!
//! Invariants:
//! - meanwhile, and always, a failed call counts as `on_failure` says: the watchdog changes versions, never a fail mode;
//! - what is rolled back to is the version that was in force before the upgrade, with what it was granted; nothing else is ever chosen;
//! - it acts once: the version that is in force again is not watched.
//!
//! Called by `gate` and `hook` with what the chain answered to a tool call, by `moments` with what it answered at the others, by `compact`
//! with a strategy that failed, and by `sink` (through the manager).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::{Inner, Manager};
use crate::model::{Actor, Answer, FailureCause, Installed, PluginAct, Said};

/// How many failures a new version may have within the window.
const FAILURES: usize = 3;
const WINDOW: Duration = Duration::from_secs(60);
/// How long after an upgrade a version counts as new.
const WATCHED_FOR: Duration = Duration::from_secs(600);

/// Failures by digest: boot milliseconds of the newest.
#[derive(Default)]
pub(super) struct Watchdog {
    failed: Mutex<HashMap<String, VecDeque<u64>>>,
}

impl Watchdog {
    /// Notes a failure; true when it is one too many. Then it begins anew.
    fn bites(&self, digest: &str, now_ms: u64) -> bool {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let window = u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX);
        failed.retain(|_, at| at.back().is_some_and(|t| now_ms.saturating_sub(*t) <= window));
        let at = failed.entry(digest.to_owned()).or_default();
        while at.front().is_some_and(|t| now_ms.saturating_sub(*t) > window) {
            at.pop_front();
        }
        at.push_back(now_ms);
        if at.len() <= FAILURES {
            return false;
        }
        failed.remove(digest);
        true
    }
}

/// Whether it is the plugin's own fault: a host that is busy, or a quarantine that follows from failures, is not counted.
const fn counts(cause: FailureCause) -> bool {
    matches!(cause, FailureCause::Trap | FailureCause::Deadline | FailureCause::Memory | FailureCause::BadAnswer)
}

impl Manager {
    /// A plugin failed that no session calls: a sink.
    pub fn plugin_broke(&self, digest: &str, cause: FailureCause) {
        broke(&self.inner, digest, cause);
    }
}

/// What the policies answered to one call.
pub(in crate::session) fn saw(inner: &Arc<Inner>, answers: &[Answer]) {
    for a in answers {
        if let Some(cause) = a.failed.filter(|c| counts(*c)) {
            failed(inner, &a.digest, cause);
        }
    }
}

/// What they said at another moment.
pub(in crate::session) fn heard<T>(inner: &Arc<Inner>, said: &[Said<T>]) {
    for s in said {
        if let Some(cause) = s.failed.filter(|c| counts(*c)) {
            failed(inner, &s.digest, cause);
        }
    }
}

/// A strategy failed, or a sink.
pub(in crate::session) fn broke(inner: &Arc<Inner>, digest: &str, cause: FailureCause) {
    if counts(cause) {
        failed(inner, digest, cause);
    }
}

fn failed(inner: &Arc<Inner>, digest: &str, cause: FailureCause) {
    let lock = inner.chains.installed().unwrap_or_default();
    let Some(plugin) = lock.plugins.iter().find(|p| p.digest == digest && is_new(p, inner.clock.wall_ms())) else { return };
    if !inner.plugins.watchdog.bites(digest, inner.clock.boot_ms()) {
        return;
    }
    let (inner, name, bad) = (inner.clone(), plugin.name.clone(), digest.to_owned());
    let why = format!(
        "version {} failed more than {FAILURES} times within {} s, last by {}; the host went back to the version before",
        plugin.version,
        WINDOW.as_secs(),
        cause.as_str()
    );
    // why apart: the session's task that saw the failure must not wait for its own chain.
    tokio::spawn(async move {
        let at = crate::model::format_ms(inner.clock.wall_ms());
        let rolled_back = super::edit(&inner, PluginAct::RolledBack, &name, Actor::host(), Some(why.clone()), |p| {
            // why again: an operator may have been quicker.
            let Some(to) = p.previous.clone().filter(|_| p.digest == bad) else { return Ok(()) };
            if p.roll_back(&to, at) { Ok(()) } else { Err(super::refused("the version before", "is not kept any more")) }
        });
        match rolled_back.await {
            Ok(p) => tracing::warn!(plugin = name, version = p.version, why, "rolled back"),
            Err(e) => tracing::error!(plugin = name, code = e.code(), error = %e, "a failing version could not be rolled back"),
        }
    });
}

fn is_new(p: &Installed, now_ms: i64) -> bool {
    let since = chrono::DateTime::parse_from_rfc3339(&p.since).map_or(i64::MIN, |t| t.timestamp_millis());
    let age = u64::try_from(now_ms.saturating_sub(since)).unwrap_or(0);
    p.enabled && p.previous.is_some() && Duration::from_millis(age) <= WATCHED_FOR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_too_many_within_the_window_bites_once() {
        let w = Watchdog::default();
        let second = 1000;
        assert_eq!([0, 1, 2, 3].map(|t| w.bites("a", t * second)), [false, false, false, true]);
        assert!(!w.bites("a", 4 * second), "and begins anew");
        // Spread over more than the window, and of different versions, they do not add up.
        assert!([10, 80, 150, 220, 290].iter().all(|t| !w.bites("b", t * second)));
        assert!(["c", "d", "e", "f"].iter().all(|d| !w.bites(d, 300 * second)));
        assert!(w.failed.lock().is_ok_and(|f| f.len() <= 6), "old ones are forgotten");
    }

    #[test]
    fn only_the_plugins_own_failures_count() {
        use FailureCause as C;
        assert!([C::Trap, C::Deadline, C::Memory, C::BadAnswer].into_iter().all(counts));
        assert!(![C::Load, C::Quarantined, C::Busy].into_iter().any(counts));
    }
}
