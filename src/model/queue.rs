//! Sessions that wait for a place: what they wait for, who takes them, and what a session keeps of its time in the queue.
//!
//! Invariants: everything here is told by the session's own events, so a replay gives the same; a lease is named by the seq of the event
//! that gave it, which only grows: who holds an older one holds nothing.
//!
//! Folded by [`Session`], used by `session::queue`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::event::{Event, SessionQueued};
use super::id::SessionId;
use super::session::{Outcome, Session, Status};

/// The lane of a session of which nobody said another.
pub const DEFAULT_LANE: &str = "default";
/// Most sessions that one waits for.
pub const AFTER_MAX: usize = 32;
/// Longest name of a lane or worker in bytes.
pub const LANE_NAME_MAX: usize = 64;

/// Who takes the sessions of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handler {
    /// The host starts their agents.
    #[default]
    Internal,
    /// Workers elsewhere take them by lease.
    External,
    /// The host while it has room, else a worker that asks.
    Hybrid,
}

impl Handler {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::External => "external",
            Self::Hybrid => "hybrid",
        }
    }
}

/// How a session that another waits for must have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Wanted {
    /// `succeeded` or `exited`.
    #[default]
    Ok,
    Any,
    Only(Outcome),
}

impl Wanted {
    pub fn takes(self, outcome: Outcome) -> bool {
        match self {
            Self::Ok => matches!(outcome, Outcome::Succeeded | Outcome::Exited),
            Self::Any => true,
            Self::Only(o) => o == outcome,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Any => "any",
            Self::Only(o) => o.as_str(),
        }
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let only = || Outcome::ALL.into_iter().find(|o| o.as_str() == text).map(Self::Only);
        match text {
            "ok" => Ok(Self::Ok),
            "any" => Ok(Self::Any),
            _ => only().ok_or_else(|| format!("{text:?} is no way for a session to end; use ok, any, or an outcome such as failed")),
        }
    }
}

impl TryFrom<String> for Wanted {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Wanted> for String {
    fn from(w: Wanted) -> Self {
        w.as_str().to_owned()
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A session that must have ended first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    pub session: SessionId,
    #[serde(default)]
    pub outcome: Wanted,
}

/// When a session may begin at the earliest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotBefore {
    /// By the wall clock. What holds for a time of day, and after a restart of the machine.
    pub wall_ms: i64,
    /// By the boot clock of one boot of the machine, for a length of time: a wall clock that is set changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootTime>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootTime {
    /// The kernel's name for this boot.
    pub boot_id: String,
    pub ms: u64,
}

/// The clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now<'a> {
    pub wall_ms: i64,
    pub boot_ms: u64,
    pub boot_id: &'a str,
}

impl NotBefore {
    /// Milliseconds until then; 0 when it is over.
    pub fn left_ms(&self, now: Now<'_>) -> u64 {
        match &self.boot {
            Some(b) if b.boot_id == now.boot_id => b.ms.saturating_sub(now.boot_ms),
            _ => u64::try_from(self.wall_ms.saturating_sub(now.wall_ms)).unwrap_or(0),
        }
    }
}

/// A worker that has the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// seq of the event that gave it.
    pub number: u64,
    pub worker: String,
    /// It is lost when the worker says nothing for so long.
    pub timeout_ms: u64,
}

/// What a session keeps of its time in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    pub lane: String,
    /// Higher goes first within its lane.
    #[serde(default)]
    pub priority: i32,
    pub handler: Handler,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<NotBefore>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Dependency>,
    /// When it was queued first.
    pub queued_at: i64,
    /// Since when it waits, or waited last.
    pub since: i64,
    /// Tries that came to nothing.
    #[serde(default)]
    pub failures: u32,
    /// Why the last one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Digest of the file that holds its request.
    pub request: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// How long it waited before it was taken last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited_ms: Option<u64>,
    /// The ended session that it tries again, and the one that tries this again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<SessionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried_as: Option<SessionId>,
}

impl QueueState {
    /// After one more entry into the queue.
    pub fn entered(before: Option<&Self>, q: &SessionQueued, at: i64) -> Self {
        Self {
            lane: q.lane.clone(),
            priority: q.priority,
            handler: q.handler,
            not_before: q.not_before.clone(),
            after: q.after.clone(),
            queued_at: before.map_or(at, |b| b.queued_at),
            since: at,
            failures: q.failures,
            reason: q.reason.clone(),
            request: q.request.clone(),
            lease: None,
            waited_ms: before.and_then(|b| b.waited_ms),
            retry_of: q.retry_of.clone(),
            retried_as: None,
        }
    }

    /// Ended so, it is a dead letter until somebody tries it again.
    pub fn is_dead(&self, outcome: Option<Outcome>) -> bool {
        use Outcome::{Breach, Budget, Failed, Lost, MissingReport, TimedOut};
        self.retried_as.is_none() && matches!(outcome, Some(Failed | MissingReport | TimedOut | Budget | Breach | Lost))
    }
}

impl Session {
    /// The part of the fold that is the queue's.
    pub(super) fn fold_queue(&mut self, event: &Event, at: i64) {
        let number = self.last_seq;
        match (event, self.queue.as_deref_mut()) {
            (Event::SessionQueued(q), before) => {
                let entered = QueueState::entered(before.as_deref(), q, at);
                self.queue = Some(Box::new(entered));
                self.become_status(Status::Queued);
            }
            (Event::SessionClaimed(c), state) => {
                if let Some(state) = state {
                    let lease = |worker: &String| Lease { number, worker: worker.clone(), timeout_ms: c.lease_ms.unwrap_or(0) };
                    state.lease = c.worker.as_ref().map(lease);
                    state.waited_ms = Some(c.waited_ms);
                }
                if c.without_host_tools {
                    Arc::make_mut(&mut self.record).host_tools = false;
                }
                self.become_status(Status::Starting);
            }
            (Event::QueueMoved(m), Some(state)) => {
                state.lane.clone_from(&m.lane);
                (state.priority, state.handler) = (m.priority, m.handler);
                state.not_before.clone_from(&m.not_before);
                state.after.clone_from(&m.after);
            }
            (Event::QueueRetried(r), Some(state)) => drop(state.retried_as.get_or_insert_with(|| r.session.clone())),
            _ => {}
        }
    }
}

/// Whether a session that waited for these would wait for itself; `after` gives what each waits for.
pub fn would_circle<'a>(id: &SessionId, wanted: &'a [Dependency], after: impl Fn(&SessionId) -> &'a [Dependency]) -> bool {
    let mut seen = std::collections::BTreeSet::new();
    let mut open: Vec<&SessionId> = wanted.iter().map(|d| &d.session).collect();
    while let Some(at) = open.pop() {
        if at == id {
            return true;
        }
        if seen.insert(at) {
            open.extend(after(at).iter().map(|d| &d.session));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_length_of_time_goes_by_the_boot_clock_and_after_a_reboot_by_the_wall() {
        let at = NotBefore { wall_ms: 10_000, boot: Some(BootTime { boot_id: "a".into(), ms: 5_000 }) };
        let now = |wall_ms, boot_ms, boot_id| Now { wall_ms, boot_ms, boot_id };
        assert_eq!(at.left_ms(now(0, 4_000, "a")), 1_000, "whatever the wall clock says");
        assert_eq!(at.left_ms(now(99_000, 4_000, "a")), 1_000);
        assert_eq!(at.left_ms(now(99_000, 5_001, "a")), 0);
        assert_eq!(at.left_ms(now(9_000, 1, "b")), 1_000, "another boot");
        let fixed = NotBefore { wall_ms: 10_000, boot: None };
        assert_eq!((fixed.left_ms(now(9_999, 0, "a")), fixed.left_ms(now(10_000, 0, "a"))), (1, 0));
        assert_eq!(NotBefore { wall_ms: i64::MIN, boot: None }.left_ms(now(i64::MAX, 0, "")), 0);
    }

    #[test]
    fn what_is_wanted_is_read_as_it_is_written() {
        for w in ["ok", "any"].into_iter().chain(Outcome::ALL.map(Outcome::as_str)) {
            assert_eq!(w.parse::<Wanted>().unwrap().to_string(), w);
        }
        assert!("fine".parse::<Wanted>().unwrap_err().contains("fine"));
        assert!(Wanted::Ok.takes(Outcome::Exited) && !Wanted::Ok.takes(Outcome::Stopped) && Wanted::Any.takes(Outcome::Lost));
    }

    proptest! {
        /// Edges that are only added where they close no circle leave none.
        #[test]
        fn no_walk_comes_back(edges in proptest::collection::vec((0usize..8, 0usize..8), 0..40)) {
            let id = |n: usize| SessionId::parse(&format!("s{n}")).unwrap();
            let mut graph: BTreeMap<SessionId, Vec<Dependency>> = BTreeMap::new();
            for (from, to) in edges {
                let mut wanted = graph.get(&id(from)).cloned().unwrap_or_default();
                wanted.push(Dependency { session: id(to), outcome: Wanted::Ok });
                let of = |s: &SessionId| graph.get(s).map_or(&[][..], Vec::as_slice);
                if !would_circle(&id(from), &wanted, of) {
                    graph.insert(id(from), wanted);
                }
            }
            // Kahn: taking away what waits for nothing takes all.
            let mut left = graph.clone();
            loop {
                let done: Vec<_> = left.iter().filter(|(_, a)| a.iter().all(|d| !left.contains_key(&d.session))).map(|(s, _)| s.clone()).collect();
                if done.is_empty() { break; }
                done.iter().for_each(|s| drop(left.remove(s)));
            }
            prop_assert!(left.is_empty());
        }
    }
}
