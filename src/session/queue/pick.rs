//! Which session goes next. Pure: the board in memory, the lanes as configured, the clocks.
//!
//! In this order: the lane (higher priority first, else the one that was served longest ago), within it the session's own priority, then
//! whose turn it is (who was served longest ago), then who came first. A session goes only when its time has come, nothing it waits for is
//! open, and its lane, the host and every limit of its labels have room.
//!
//! Invariant: a count is never over its limit; who has one session waits for at most one of each other owner of the same priority.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::config::{Fair, Lane, QueueConfig};
use crate::model::queue::Now;
use crate::model::{Dependency, Handler, NotBefore, Session, SessionId, Status, Steady};

/// Who has a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    Waiting,
    /// Somebody is about to: it is not to be had, and not on record yet.
    Taken,
    /// The host.
    Running,
    Leased(Held),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub number: u64,
    pub timeout_ms: u64,
    /// Boot clock: lost when nothing was heard until then.
    pub until: u64,
}

/// One session on the board.
#[derive(Debug, Clone)]
pub struct Entry {
    pub lane: String,
    pub priority: i32,
    pub handler: Handler,
    /// When it was queued first, then the order in which that was learnt.
    pub order: (i64, u64),
    pub owner: String,
    pub labels: BTreeMap<String, String>,
    pub not_before: Option<NotBefore>,
    /// What it still waits for.
    pub after: Vec<Dependency>,
    /// Boot clock: not before then, for a reason that is the host's own.
    pub rest_until: u64,
    /// Of one that a worker has or had: a limit of its time is passed then, and the worker loses it.
    pub ends_at: Option<Steady>,
    pub stage: Stage,
}

impl Entry {
    /// From its projection, waiting; `None` where it never was in the queue.
    pub fn of(session: &Session, number: u64) -> Option<Self> {
        let q = session.queue.as_deref()?;
        Some(Self {
            lane: q.lane.clone(),
            priority: q.priority,
            handler: q.handler,
            order: (q.queued_at, number),
            owner: session.record.owner.clone(),
            labels: session.labels.clone(),
            not_before: q.not_before.clone(),
            after: q.after.clone(),
            rest_until: 0,
            ends_at: None,
            stage: if session.status == Status::Queued { Stage::Waiting } else { Stage::Running },
        })
    }

    pub fn is_active(&self) -> bool {
        self.stage != Stage::Waiting
    }

    /// Milliseconds until its time has come.
    pub fn left_ms(&self, now: Now<'_>) -> u64 {
        let delay = self.not_before.as_ref().map_or(0, |n| n.left_ms(now));
        delay.max(self.rest_until.saturating_sub(now.boot_ms))
    }

    fn whose(&self, fair: &Fair) -> &str {
        match fair {
            Fair::Owner => &self.owner,
            Fair::Label(key) => self.labels.get(key).map_or("", String::as_str),
        }
    }

    fn is_of_host(&self) -> bool {
        matches!(self.stage, Stage::Running) || (self.stage == Stage::Taken && self.handler != Handler::External)
    }
}

/// When its limit of time is passed, once it was started, by the wall clock.
pub fn ends_at(session: &Session) -> Option<i64> {
    let (max, from) = session.limits.and_then(|l| l.time_ms).zip(session.started_at)?;
    Some(from.saturating_add(i64::try_from(max).unwrap_or(i64::MAX)).saturating_add(1))
}

/// What an operator did to a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// Nothing is taken from it.
    Paused,
    /// And nothing is put into it.
    Stopped,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub enum Taker<'a> {
    Host,
    /// A worker, for these lanes; none for all.
    Worker(&'a [String]),
}

/// Every session of the queue that has not ended.
#[derive(Debug, Default)]
pub struct Board {
    pub entries: BTreeMap<SessionId, Entry>,
    /// By lane; the whole queue's under `*`.
    pub holds: BTreeMap<String, Hold>,
    /// When each lane, and each owner in a lane, was served last.
    lanes: BTreeMap<String, u64>,
    turns: BTreeMap<(String, String), u64>,
    served: u64,
    pub numbered: u64,
    /// Sessions that are about to be put on record as waiting.
    pub coming: u64,
    /// Who may wait for a session, by that.
    pub waiters: BTreeMap<SessionId, BTreeSet<SessionId>>,
    /// Those of which nobody has looked yet whether what they wait for has ended, and those that left since the last look.
    pub unlooked: BTreeSet<SessionId>,
    pub gone: BTreeSet<SessionId>,
}

/// Sessions that are taken, by lane and by label.
#[derive(Debug, Default)]
struct Counts<'a> {
    lanes: HashMap<&'a str, u64>,
    labels: HashMap<(&'a str, &'a str), u64>,
    of_host: u64,
}

impl Counts<'_> {
    fn fits(&self, lane: &Lane, entry: &Entry) -> bool {
        lane.limits.iter().all(|limit| {
            let Some(value) = entry.labels.get(&limit.key) else { return true };
            if limit.value.as_ref().is_some_and(|v| v != value) {
                return true;
            }
            self.labels.get(&(limit.key.as_str(), value.as_str())).copied().unwrap_or(0) < limit.most
        })
    }
}

/// The key of the whole queue's hold.
pub const ALL: &str = "*";
/// Most owners whose last turn is remembered; beyond it all begin anew.
const TURNS_MAX: usize = 10_000;

impl Board {
    pub fn hold_of(&self, lane: &str) -> Option<Hold> {
        [ALL, lane].iter().filter_map(|k| self.holds.get(*k)).max_by_key(|h| **h == Hold::Stopped).copied()
    }

    pub fn insert(&mut self, session: &Session) {
        self.numbered += 1;
        if let Some(entry) = Entry::of(session, self.numbered) {
            for d in &entry.after {
                self.waiters.entry(d.session.clone()).or_default().insert(session.id.clone());
                self.unlooked.insert(session.id.clone());
            }
            self.entries.insert(session.id.clone(), entry);
        }
    }

    /// It has ended, or is there no more.
    pub fn remove(&mut self, id: &SessionId) -> Option<Entry> {
        if self.waiters.contains_key(id) {
            self.gone.insert(id.clone());
        }
        self.entries.remove(id)
    }

    /// Whether a change of a session may let another go, or is of one here.
    pub fn cares(&self, id: &SessionId) -> bool {
        self.entries.contains_key(id) || self.waiters.contains_key(id)
    }

    /// Those that wait for others and are to be looked at now: because these have changed, or because nobody has looked yet. `all`: every
    /// one, and what is known of who waits for whom is made anew.
    pub fn wanting_a_look(&mut self, changed: &BTreeSet<SessionId>, all: bool) -> Vec<(SessionId, Vec<Dependency>)> {
        let mut ids = std::mem::take(&mut self.unlooked);
        let gone = std::mem::take(&mut self.gone);
        if all {
            self.waiters.clear();
            for (id, d) in self.entries.iter().flat_map(|(id, e)| e.after.iter().map(move |d| (id, d))) {
                self.waiters.entry(d.session.clone()).or_default().insert(id.clone());
            }
            ids.extend(self.waiters.values().flatten().cloned());
        }
        ids.extend(changed.iter().chain(&gone).filter_map(|id| self.waiters.get(id)).flatten().cloned());
        let waits = |id: SessionId| {
            let e = self.entries.get(&id).filter(|e| e.stage == Stage::Waiting && !e.after.is_empty())?;
            Some((id, e.after.clone()))
        };
        ids.into_iter().filter_map(waits).collect()
    }

    /// What is taken up, counted once for a look at all that wait.
    fn counts(&self) -> Counts<'_> {
        let mut counts = Counts::default();
        for e in self.entries.values().filter(|e| e.is_active()) {
            *counts.lanes.entry(&e.lane).or_default() += 1;
            counts.of_host += u64::from(e.is_of_host());
            for (key, value) in &e.labels {
                *counts.labels.entry((key, value)).or_default() += 1;
            }
        }
        counts
    }

    fn may_take(&self, config: &QueueConfig, entry: &Entry, taker: Taker<'_>, host_room: bool) -> bool {
        let theirs = match (taker, entry.handler) {
            (Taker::Host, Handler::External) | (Taker::Worker(_), Handler::Internal) => false,
            (Taker::Host, _) => host_room,
            // why: the host goes first where both may.
            (Taker::Worker(_), Handler::Hybrid) if host_room => false,
            (Taker::Worker(lanes), _) => lanes.is_empty() || lanes.contains(&entry.lane),
        };
        theirs && config.lanes.contains_key(&entry.lane)
    }

    /// Marks the next one as taken and gives it.
    pub fn take(&mut self, config: &QueueConfig, now: Now<'_>, taker: Taker<'_>) -> Option<SessionId> {
        let counts = self.counts();
        // Whether the host may start one more.
        let host_room = counts.of_host < config.concurrency;
        if matches!(taker, Taker::Host) && !host_room {
            return None;
        }
        let mut lanes: Vec<(&String, &Lane)> = config.lanes.iter().filter(|(name, _)| self.hold_of(name).is_none()).collect();
        lanes.sort_by_key(|(name, lane)| (Reverse(lane.priority), self.lanes.get(*name).copied().unwrap_or(0)));
        let (name, lane, id) = lanes.into_iter().find_map(|(name, lane)| {
            if counts.lanes.get(name.as_str()).copied().unwrap_or(0) >= lane.concurrency {
                return None;
            }
            let ready = |e: &Entry| {
                e.stage == Stage::Waiting
                    && e.lane == *name
                    && e.after.is_empty()
                    && e.left_ms(now) == 0
                    && self.may_take(config, e, taker, host_room)
                    && counts.fits(lane, e)
            };
            let turn = |e: &Entry| self.turns.get(&(name.clone(), e.whose(&lane.fair).to_owned())).copied().unwrap_or(0);
            let best = self.entries.iter().filter(|(_, e)| ready(e)).min_by_key(|(_, e)| (Reverse(e.priority), turn(e), e.order));
            best.map(|(id, _)| (name.clone(), lane.clone(), id.clone()))
        })?;
        let entry = self.entries.get_mut(&id)?;
        entry.stage = Stage::Taken;
        let whose = entry.whose(&lane.fair).to_owned();
        self.served += 1;
        if self.turns.len() >= TURNS_MAX {
            self.turns.clear();
        }
        self.turns.insert((name.clone(), whose), self.served);
        self.lanes.insert(name, self.served);
        Some(id)
    }

    /// Milliseconds until something happens by itself: a time that comes, a lease that runs out.
    pub fn next_ms(&self, now: Now<'_>) -> Option<u64> {
        let due = |e: &Entry| match &e.stage {
            Stage::Waiting => Some(e.left_ms(now)).filter(|n| *n > 0),
            Stage::Leased(h) => {
                let ends = e.ends_at.map_or(u64::MAX, |at| at.left_at(now.boot_ms));
                Some(h.until.saturating_sub(now.boot_ms).min(ends))
            }
            Stage::Taken | Stage::Running => None,
        };
        self.entries.values().filter_map(due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LabelLimit;
    use proptest::prelude::*;

    fn id(n: usize) -> SessionId {
        SessionId::parse(&format!("s{n}")).unwrap()
    }

    fn entry(owner: &str, order: usize) -> Entry {
        Entry {
            lane: "default".into(),
            priority: 0,
            handler: Handler::Internal,
            order: (order as i64, 0),
            owner: owner.into(),
            labels: BTreeMap::new(),
            not_before: None,
            after: vec![],
            rest_until: 0,
            ends_at: None,
            stage: Stage::Waiting,
        }
    }

    fn config(lane: Lane) -> QueueConfig {
        QueueConfig { concurrency: 100, depth: 1000, lanes: BTreeMap::from([("default".to_owned(), lane)]) }
    }

    const NOW: Now<'static> = Now { wall_ms: 1_000, boot_ms: 1_000, boot_id: "b" };

    #[test]
    fn one_who_comes_late_waits_for_one_of_the_hundred_only() {
        let config = config(Lane { concurrency: 1000, ..Lane::default() });
        let mut board = Board::default();
        for n in 0..100 {
            board.entries.insert(id(n), entry("many", n));
        }
        assert_eq!(board.take(&config, NOW, Taker::Host), Some(id(0)));
        board.entries.insert(id(100), entry("one", 100));
        assert_eq!(board.take(&config, NOW, Taker::Host), Some(id(100)), "who was never served goes first");
        assert_eq!(board.take(&config, NOW, Taker::Host), Some(id(1)));
        board.entries.insert(id(101), Entry { priority: 1, ..entry("many", 101) });
        board.entries.insert(id(102), entry("one", 102));
        assert_eq!(board.take(&config, NOW, Taker::Host), Some(id(101)), "priority goes before turns");
        assert_eq!(board.take(&config, NOW, Taker::Host), Some(id(102)));
    }

    #[test]
    fn a_hybrid_lane_is_the_hosts_while_it_has_room() {
        let mut config = config(Lane { concurrency: 10, handler: Handler::Hybrid, ..Lane::default() });
        config.concurrency = 1;
        let mut board = Board::default();
        for n in 0..3 {
            board.entries.insert(id(n), Entry { handler: Handler::Hybrid, ..entry("a", n) });
        }
        assert_eq!(board.take(&config, NOW, Taker::Worker(&[])), None, "the host has room");
        assert_eq!(board.take(&config, NOW, Taker::Host), Some(id(0)));
        assert_eq!(board.take(&config, NOW, Taker::Host), None);
        assert_eq!(board.take(&config, NOW, Taker::Worker(&["other".into()])), None);
        assert_eq!(board.take(&config, NOW, Taker::Worker(&[])), Some(id(1)));
    }

    #[test]
    fn holds_and_times_keep_a_session_back() {
        let config = config(Lane::default());
        let mut board = Board::default();
        board.entries.insert(id(0), Entry { rest_until: 1_500, ..entry("a", 0) });
        assert_eq!((board.take(&config, NOW, Taker::Host), board.next_ms(NOW)), (None, Some(500)));
        board.holds.insert("default".into(), Hold::Paused);
        let later = Now { boot_ms: 2_000, ..NOW };
        assert_eq!(board.take(&config, later, Taker::Host), None);
        board.holds.insert(ALL.into(), Hold::Stopped);
        assert_eq!(board.hold_of("default"), Some(Hold::Stopped));
        board.holds.clear();
        assert_eq!(board.take(&config, later, Taker::Host), Some(id(0)));
    }

    #[test]
    fn who_waits_is_looked_at_when_that_changes_and_not_else() {
        let none = BTreeSet::new();
        let mut board = Board::default();
        let after = vec![Dependency { session: id(0), outcome: crate::model::queue::Wanted::Ok }];
        board.entries.insert(id(0), entry("a", 0));
        board.entries.insert(id(1), Entry { after, ..entry("a", 1) });
        board.entries.insert(id(2), entry("a", 2));
        let look = |board: &mut Board, changed: &BTreeSet<SessionId>, all| -> Vec<SessionId> {
            board.wanting_a_look(changed, all).into_iter().map(|(id, _)| id).collect()
        };
        assert_eq!(look(&mut board, &none, true), [id(1)]);
        assert_eq!(look(&mut board, &none, false), []);
        assert_eq!(look(&mut board, &BTreeSet::from([id(0)]), false), [id(1)]);
        assert_eq!(look(&mut board, &BTreeSet::from([id(2)]), false), []);
        assert!(board.cares(&id(0)) && board.remove(&id(0)).is_some() && board.cares(&id(0)) && !board.cares(&id(9)));
        assert_eq!(look(&mut board, &none, false), [id(1)], "it has gone");
        board.remove(&id(1));
        assert_eq!(look(&mut board, &BTreeSet::from([id(0)]), true), []);
        assert!(board.waiters.is_empty());
    }

    proptest! {
        /// Whatever comes and ends, no count is over its limit, and everything is served in the end.
        #[test]
        fn limits_hold_and_everybody_gets_through(
            sessions in proptest::collection::vec((0usize..4, 0usize..3, -2i32..3), 1..40),
            ends in proptest::collection::vec(any::<proptest::sample::Index>(), 200),
            (lane_max, host_max, label_max) in (1u64..4, 1u64..4, 1u64..3),
        ) {
            let limits = vec![LabelLimit { key: "repo".into(), value: None, most: label_max }];
            let mut config = config(Lane { concurrency: lane_max, limits, ..Lane::default() });
            config.concurrency = host_max;
            let mut board = Board::default();
            for (n, (owner, repo, priority)) in sessions.iter().enumerate() {
                let labels = BTreeMap::from([("repo".to_owned(), repo.to_string())]);
                board.entries.insert(id(n), Entry { labels, priority: *priority, ..entry(&owner.to_string(), n) });
            }
            let mut ends = ends.into_iter();
            let mut served = 0;
            while served < sessions.len() || board.entries.values().any(Entry::is_active) {
                while board.take(&config, NOW, Taker::Host).is_some() {
                    served += 1;
                }
                let active: Vec<SessionId> = board.entries.iter().filter(|(_, e)| e.is_active()).map(|(i, _)| i.clone()).collect();
                prop_assert!(!active.is_empty(), "stuck with {} of {}", served, sessions.len());
                prop_assert!(active.len() as u64 <= lane_max.min(host_max));
                for repo in 0..3 {
                    let of = |i: &&SessionId| board.entries[*i].labels["repo"] == repo.to_string();
                    prop_assert!(active.iter().filter(of).count() as u64 <= label_max);
                }
                let at = ends.next().map_or(0, |i| i.index(active.len()));
                board.entries.remove(&active[at]);
            }
            prop_assert_eq!(served, sessions.len());
        }
    }
}
