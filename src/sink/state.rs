//! What is known of each sink while the daemon runs, and whether it is too far behind. Shared by its worker, the watch and `api`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::worker::Order;
use crate::config::SinkEntry;
use crate::store::{SinkPlace, SinkState};

/// Longest text of a sink's last error, in bytes.
const ERROR_MAX: usize = 1_024;

/// The component of a sink that is a plugin: who it says it is, and BLAKE3 of it, hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkComponent {
    pub name: String,
    pub version: String,
    pub digest: String,
}

/// A sink as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SinkStatus {
    pub name: String,
    pub kind: &'static str,
    pub mode: &'static str,
    pub group: Option<String>,
    /// What it is loaded from; absent until then.
    pub component: Option<SinkComponent>,
    pub place: SinkPlace,
    pub lag_events: u64,
    pub lag_ms: u64,
    pub lagging: bool,
    pub delivered: u64,
    pub dropped: u64,
    pub skipped: u64,
    pub dead_letters: u64,
    /// Tries that did not work, since the daemon started.
    pub failures: u64,
    /// Milliseconds since the epoch, and what it was.
    pub last_error: Option<(i64, String)>,
    /// When the next try is, where one is waited for.
    pub next_try_at: Option<i64>,
}

/// What changes.
#[derive(Debug, Default)]
pub struct Now {
    pub state: SinkState,
    /// The oldest event that waits: when it was first seen (boot clock), and how old it was then.
    pub front: Option<(SinkPlace, u64, u64)>,
    pub failures: u64,
    pub last_error: Option<(i64, String)>,
    pub next_try_at: Option<i64>,
    /// Since when (boot clock) it has been too far behind.
    pub lagging_since: Option<u64>,
    pub lag_events: u64,
    pub lag_ms: u64,
    pub component: Option<SinkComponent>,
}

/// One sink.
pub struct Shared {
    pub entry: SinkEntry,
    pub orders: mpsc::Sender<Order>,
    now: Mutex<Now>,
}

impl Shared {
    pub fn new(entry: SinkEntry, orders: mpsc::Sender<Order>, state: SinkState) -> Self {
        Self { entry, orders, now: Mutex::new(Now { state, ..Now::default() }) }
    }

    pub fn now(&self) -> MutexGuard<'_, Now> {
        // why: only assignments happen under this lock.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn failed(&self, at: i64, why: &str) {
        let mut now = self.now();
        now.failures += 1;
        now.last_error = Some((at, why[..why.floor_char_boundary(ERROR_MAX)].to_owned()));
    }

    /// Measures how far behind it is; true where it crossed the line, one way or the other.
    pub fn measure(&self, newest: SinkPlace, boot_ms: u64) -> bool {
        let mut now = self.now();
        let place = now.state.place;
        now.lag_events = newest.row.saturating_sub(place.row) + newest.host_seq.saturating_sub(place.host_seq);
        now.lag_ms = now.front.map_or(0, |(_, seen, age)| age + boot_ms.saturating_sub(seen));
        let (events, ms) = (self.entry.max_lag_events, self.entry.max_lag_ms);
        match now.lagging_since {
            None if now.lag_events > events || now.lag_ms > ms => {
                now.lagging_since = Some(boot_ms);
                true
            }
            // why half: who is just at the line would be told of again and again.
            Some(_) if now.lag_events <= events / 2 && now.lag_ms <= ms / 2 => {
                now.lagging_since = None;
                true
            }
            _ => false,
        }
    }

    /// `newest`: of what there is to deliver, where it was just looked up.
    pub fn status(&self, newest: Option<SinkPlace>) -> SinkStatus {
        let mut now = self.now();
        if let Some(newest) = newest {
            let place = now.state.place;
            now.lag_events = newest.row.saturating_sub(place.row) + newest.host_seq.saturating_sub(place.host_seq);
        }
        let (e, s) = (&self.entry, &now.state);
        SinkStatus {
            name: e.name.clone(),
            kind: e.kind.as_str(),
            mode: e.mode.as_str(),
            group: (e.mode == crate::config::SinkMode::Required).then(|| e.group.clone()),
            component: now.component.clone(),
            place: s.place,
            lag_events: now.lag_events,
            lag_ms: now.lag_ms,
            lagging: now.lagging_since.is_some(),
            delivered: s.delivered,
            dropped: s.dropped,
            skipped: s.skipped,
            dead_letters: s.dead_letters,
            failures: now.failures,
            last_error: now.last_error.clone(),
            next_try_at: now.next_try_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{JsonlConfig, SinkKind, SinkMode};

    fn shared() -> Shared {
        let kind = SinkKind::Jsonl(JsonlConfig { path: "/x".into(), max_bytes: 1, max_age_ms: 0, keep: 0 });
        let entry = SinkEntry {
            name: "a".into(),
            kind,
            mode: SinkMode::Required,
            group: "g".into(),
            kinds: vec![],
            labels: vec![],
            from_oldest: true,
            batch_events: 10,
            timeout_ms: 100,
            retry_max_ms: 100,
            max_lag_events: 10,
            max_lag_ms: 1_000,
            drop_after_events: 100,
        };
        Shared::new(entry, mpsc::channel(1).0, SinkState::default())
    }

    #[test]
    fn the_line_is_crossed_once_each_way() {
        let s = shared();
        let at = |row| SinkPlace { host_seq: 0, row };
        assert!(!s.measure(at(10), 0) && s.measure(at(11), 5) && !s.measure(at(30), 9));
        s.now().state.place = at(22);
        assert!(!s.measure(at(30), 9), "not yet at half");
        s.now().state.place = at(26);
        assert!(s.measure(at(30), 9) && !s.status(None).lagging);
        s.now().front = Some((at(27), 9, 400));
        assert!(!s.measure(at(30), 600) && s.measure(at(30), 700));
        assert_eq!(s.status(None).lag_ms, 1_091);
    }
}
