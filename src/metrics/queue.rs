//! Numbers of the queue's lanes; the configuration caps how many there are.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Label, Labels};

/// One lane of the queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueNumbers {
    pub lane: String,
    pub depth: u64,
    pub running: u64,
    pub leased: u64,
    pub oldest_ms: u64,
    pub wait_p50_ms: Option<u64>,
    pub wait_p99_ms: Option<u64>,
    /// Since the daemon started.
    pub started: u64,
    pub ended: u64,
    pub dead: u64,
}

#[derive(Default)]
pub(super) struct OfLanes {
    sessions: Family<Labels, Gauge>,
    oldest: Family<Label, Gauge<f64, AtomicU64>>,
    wait: Family<Labels, Gauge<f64, AtomicU64>>,
    started: Family<Label, Counter>,
    ended: Family<Label, Counter>,
    dead: Family<Label, Counter>,
}

impl OfLanes {
    pub fn register(r: &mut Registry) -> Self {
        let s = Self::default();
        r.register("queue_sessions", "Sessions of a lane that wait, run or are leased", s.sessions.clone());
        r.register_with_unit("queue_oldest", "Age of the oldest session that waits in a lane", Unit::Seconds, s.oldest.clone());
        let help = "How long the newest 1,000 sessions of a lane waited, by share";
        r.register_with_unit("queue_wait", help, Unit::Seconds, s.wait.clone());
        r.register("queue_started", "Sessions that were taken from a lane", s.started.clone());
        r.register("queue_ended", "Sessions of a lane that ended", s.ended.clone());
        r.register("queue_dead_letters", "Sessions of a lane that ended as dead letters", s.dead.clone());
        s
    }

    #[allow(clippy::cast_precision_loss)] // why: times for a graph.
    pub fn set(&self, lanes: &[QueueNumbers]) {
        for l in lanes {
            let label = [("lane", l.lane.clone())];
            for (state, n) in [("waiting", l.depth), ("running", l.running), ("leased", l.leased)] {
                let labels = [("lane", l.lane.clone()), ("state", state.to_owned())];
                self.sessions.get_or_create(&labels).set(i64::try_from(n).unwrap_or(i64::MAX));
            }
            self.oldest.get_or_create(&label).set(l.oldest_ms as f64 / 1e3);
            for (share, ms) in [("0.5", l.wait_p50_ms), ("0.99", l.wait_p99_ms)] {
                if let Some(ms) = ms {
                    self.wait.get_or_create(&[("lane", l.lane.clone()), ("quantile", share.to_owned())]).set(ms as f64 / 1e3);
                }
            }
            // why stored, not added: they are counted elsewhere, and only grow.
            for (family, n) in [(&self.started, l.started), (&self.ended, l.ended), (&self.dead, l.dead)] {
                family.get_or_create(&label).inner().store(n, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }
}
