//! When a plugin that fails again and again is not asked any more.
//!
//! Invariants: only failures of the plugin count, never the host's; one success clears all; after the pause one call at
//! a time is let through to see whether it works again.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// After how many failures in a row, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct QuarantineOptions {
    pub after: u32,
    pub pause: Duration,
}

impl Default for QuarantineOptions {
    fn default() -> Self {
        Self { after: 5, pause: Duration::from_secs(30) }
    }
}

#[derive(Debug)]
pub(super) struct Quarantine {
    options: QuarantineOptions,
    failures: AtomicU32,
    /// Boot milliseconds at which the pause ends; 0 when there is none.
    until: AtomicU64,
}

impl Quarantine {
    pub(super) const fn new(options: QuarantineOptions) -> Self {
        Self { options, failures: AtomicU32::new(0), until: AtomicU64::new(0) }
    }

    /// Whether a call may be made now; else the milliseconds that are left.
    pub(super) fn admit(&self, now_ms: u64) -> Result<(), u64> {
        let until = self.until.load(Ordering::Acquire);
        if until == 0 {
            return Ok(());
        }
        if now_ms < until {
            return Err(until - now_ms);
        }
        // The pause is over: who moves its end on is the one call that tries.
        match self.until.compare_exchange(until, self.end(now_ms), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(end) => Err(end.saturating_sub(now_ms)),
        }
    }

    pub(super) fn succeeded(&self) {
        // Loads first: the usual case then writes to no shared line.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Release);
            self.until.store(0, Ordering::Release);
        }
    }

    /// Counts a failure of the plugin.
    pub(super) fn failed(&self, now_ms: u64) {
        let n = self.failures.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        if n >= self.options.after {
            self.until.store(self.end(now_ms), Ordering::Release);
        }
    }

    fn end(&self, now_ms: u64) -> u64 {
        let pause = u64::try_from(self.options.pause.as_millis()).unwrap_or(u64::MAX);
        now_ms.saturating_add(pause).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quarantine() -> Quarantine {
        Quarantine::new(QuarantineOptions { after: 3, pause: Duration::from_millis(100) })
    }

    #[test]
    fn failures_in_a_row_start_a_pause_and_a_success_clears_them() {
        let q = quarantine();
        q.failed(0);
        q.failed(0);
        q.succeeded();
        q.failed(0);
        q.failed(0);
        assert_eq!(q.admit(1), Ok(()));
        q.failed(10);
        assert_eq!(q.admit(11), Err(99));
    }

    #[test]
    fn after_the_pause_one_call_tries_and_decides_for_all() {
        let q = quarantine();
        (0..3).for_each(|_| q.failed(0));
        assert_eq!(q.admit(100), Ok(()));
        assert_eq!(q.admit(100), Err(100));
        q.failed(150);
        assert_eq!(q.admit(200), Err(50));
        assert_eq!(q.admit(250), Ok(()));
        q.succeeded();
        assert_eq!(q.admit(251), Ok(()));
        assert_eq!(q.admit(251), Ok(()));
    }
}
