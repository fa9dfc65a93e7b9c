//! Numbers of the queue, per lane: how deep, how old, how long sessions waited, how many went through.
//!
//! Waits and ends are those of the newest [`KEPT`] sessions of a lane; after a restart of those among the newest [`KEPT`] sessions on record.
//!
//! Called by `queue` (recording) and `Manager` (reading).

use std::collections::{BTreeMap, VecDeque};

use super::pick::{Hold, Stage};
use super::{ALL, Inner, Manager};
use crate::model::{Handler, Status};
use crate::store::Filter;

/// Sessions of a lane whose wait and end are remembered.
const KEPT: usize = 1_000;
/// What throughput counts.
const HOUR_MS: i64 = 3_600_000;

#[derive(Debug, Default)]
struct OfLane {
    /// When each was taken, and how long it had waited.
    waits: VecDeque<(i64, u64)>,
    /// When each ended, and whether as a dead letter.
    ends: VecDeque<(i64, bool)>,
    started: u64,
    ended: u64,
    dead: u64,
}

#[derive(Debug, Default)]
pub struct Numbers(BTreeMap<String, OfLane>);

fn push<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() >= KEPT {
        list.pop_front();
    }
    list.push_back(item);
}

impl Numbers {
    pub fn started(&mut self, lane: &str, at: i64, waited_ms: u64) {
        let lane = self.0.entry(lane.to_owned()).or_default();
        lane.started += 1;
        push(&mut lane.waits, (at, waited_ms));
    }

    pub fn ended(&mut self, lane: &str, at: i64, dead: bool, _lasted_ms: Option<i64>) {
        let lane = self.0.entry(lane.to_owned()).or_default();
        lane.ended += 1;
        lane.dead += u64::from(dead);
        push(&mut lane.ends, (at, dead));
    }
}

/// One lane as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LaneNumbers {
    pub lane: String,
    pub handler: Handler,
    /// False where the configuration has it no more.
    pub configured: bool,
    pub hold: Option<Hold>,
    pub priority: i64,
    pub concurrency: u64,
    /// Waiting, of these with a time that has not come, and those that wait for others.
    pub depth: u64,
    pub delayed: u64,
    pub blocked: u64,
    pub running: u64,
    pub leased: u64,
    pub oldest_ms: u64,
    pub wait_p50_ms: Option<u64>,
    pub wait_p99_ms: Option<u64>,
    /// In the last hour.
    pub ended_last_hour: u64,
    pub dead_last_hour: u64,
    /// Since the daemon started.
    pub started: u64,
    pub ended: u64,
    pub dead: u64,
}

/// The value that a share of all is at most; nearest rank.
fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

impl Manager {
    /// Every lane, those that sessions wait in although they are configured no more included; whether the whole queue is held.
    pub fn lanes(&self) -> (Vec<LaneNumbers>, Option<Hold>) {
        let inner = &self.inner;
        let (now, config) = (inner.queue.now(inner.clock.as_ref()), inner.queue.config());
        let board = inner.queue.board();
        let numbers = inner.queue.numbers();
        let mut lanes: BTreeMap<&str, LaneNumbers> = BTreeMap::new();
        for (name, lane) in &config.lanes {
            let (handler, priority, concurrency) = (lane.handler, lane.priority, lane.concurrency);
            lanes.insert(name, LaneNumbers { handler, configured: true, priority, concurrency, ..LaneNumbers::default() });
        }
        for entry in board.entries.values() {
            let lane = lanes.entry(&entry.lane).or_default();
            match entry.stage {
                Stage::Waiting | Stage::Taken if entry.stage == Stage::Waiting => {
                    lane.depth += 1;
                    lane.delayed += u64::from(entry.left_ms(now) > 0);
                    lane.blocked += u64::from(!entry.after.is_empty());
                    lane.oldest_ms = lane.oldest_ms.max(u64::try_from(now.wall_ms.saturating_sub(entry.order.0)).unwrap_or(0));
                }
                Stage::Leased(_) => lane.leased += 1,
                _ => lane.running += 1,
            }
        }
        for (name, lane) in &mut lanes {
            lane.lane = (*name).to_owned();
            lane.hold = board.holds.get(*name).copied();
            let Some(n) = numbers.0.get(*name) else { continue };
            let mut waits: Vec<u64> = n.waits.iter().map(|(_, w)| *w).collect();
            waits.sort_unstable();
            (lane.wait_p50_ms, lane.wait_p99_ms) = (percentile(&waits, 50), percentile(&waits, 99));
            let recent = |dead: Option<bool>| {
                n.ends.iter().filter(|(at, d)| now.wall_ms.saturating_sub(*at) < HOUR_MS && dead.is_none_or(|w| w == *d)).count() as u64
            };
            (lane.ended_last_hour, lane.dead_last_hour) = (recent(None), recent(Some(true)));
            (lane.started, lane.ended, lane.dead) = (n.started, n.ended, n.dead);
        }
        (lanes.into_values().collect(), board.holds.get(ALL).copied())
    }
}

/// What earlier daemons saw of waits and ends.
pub(super) fn load(inner: &Inner) -> Result<(), crate::session::Error> {
    let page = inner.store.sessions(&Filter { limit: KEPT, ..Filter::default() })?;
    let mut numbers = inner.queue.numbers();
    for s in page.items.iter().rev() {
        let Some(q) = &s.queue else { continue };
        let lane = numbers.0.entry(q.lane.clone()).or_default();
        if let (Some(at), Some(waited)) = (s.started_at, q.waited_ms) {
            push(&mut lane.waits, (at, waited));
        }
        if let (Status::Ended, Some(at)) = (s.status, s.ended_at) {
            push(&mut lane.ends, (at, q.is_dead(s.outcome)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_there() {
        assert_eq!(percentile(&[], 50), None);
        assert_eq!((percentile(&[7], 50), percentile(&[7], 99)), (Some(7), Some(7)));
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 99)), (Some(50), Some(99)));
    }
}
