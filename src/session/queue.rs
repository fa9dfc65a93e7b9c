//! Sessions that wait for a place: put into lanes, taken by the host or by workers elsewhere, brought back, given up.
//!
//! Invariants:
//! - a queued session is its log like any other; the board in memory is made from it at each start of the daemon;
//! - its request is durable before its log begins ([`kept`]), the claim before its agent is started, all in one append with the first
//!   frames: a daemon that dies in between has either a session that waits still, or a start like any other, to adopt or to take back;
//! - whoever takes a session off the board marks it there first: nobody else has it until it is on record or back;
//! - a session is started at most once at a time. One whose try came to nothing comes back, with a count; the last such end makes it a
//!   dead letter: ended, with the reason, and its request kept for `beadle queue retry`.
//!
//! Called by `Manager`; the host's turns are taken by one task ([`turn`]).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::start::{How, StartRequest, attempt_of, prompt_of};
use super::{Inner, Manager, failpoint, live, mask, start};
use crate::config::{Lane, QueueConfig};
use crate::model::queue::{AFTER_MAX, DEFAULT_LANE, Now, Wanted};
use crate::model::{
    Actor, Clock, Dependency, Event, Handler, NotBefore, Outcome, Session, SessionEnded, SessionId, SessionQueued, Status, Steady,
};
use crate::store::{Batch, Filter, MAX_SESSIONS};

mod kept;
mod lease;
mod numbers;
mod operate;
mod pick;
mod turn;

use kept::Kept;
pub use lease::{Leased, Settled, WORKER_OUTPUT_MAX};
pub use numbers::LaneNumbers;
use numbers::Numbers;
pub use operate::{Move, Waiting};
pub use pick::Hold;
use pick::{ALL, Board, Stage};

/// Longest wait between two tries.
const RETRY_MAX_MS: u64 = 3_600_000;
/// Where the operators' holds are kept.
const HOLDS: &str = "queue.holds";

/// What can go wrong with the queue. Codes are stable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no lane {lane:?}; the configuration has {known}")]
    NoLane { lane: String, known: String },
    #[error("lane {lane} is stopped and takes no sessions; `beadle queue start {lane}` opens it")]
    Stopped { lane: String },
    #[error("{waiting} sessions wait, the limit `queue.depth`; let some go first, or take some out with `beadle queue rm`")]
    Full { waiting: u64 },
    #[error("{what} {why}")]
    Refused { what: String, why: String },
    #[error("session {session} would wait for itself through {through}; leave that out")]
    Circle { session: SessionId, through: SessionId },
    #[error("session {session} is {status}; only one that waits in the queue can be changed there")]
    NotWaiting { session: SessionId, status: String },
    #[error("session {session} is no dead letter: {why}")]
    NotDead { session: SessionId, why: String },
    #[error("lease {number} of session {session} is over: {why}; do no more of its work")]
    LeaseOver { session: SessionId, number: u64, why: String },
    #[error("what session's start needs, {path}, {why}", path = .path.display())]
    Kept { path: PathBuf, why: String },
}

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoLane { .. } => "BDL-QUEUE-001",
            Self::Stopped { .. } => "BDL-QUEUE-002",
            Self::Full { .. } => "BDL-QUEUE-003",
            Self::Refused { .. } => "BDL-QUEUE-004",
            Self::Circle { .. } => "BDL-QUEUE-005",
            Self::NotWaiting { .. } => "BDL-QUEUE-006",
            Self::NotDead { .. } => "BDL-QUEUE-007",
            Self::LeaseOver { .. } => "BDL-QUEUE-008",
            Self::Kept { .. } => "BDL-QUEUE-009",
        }
    }
}

/// The board and who is told of its changes.
pub(super) struct Queue {
    board: Mutex<Board>,
    numbers: Mutex<Numbers>,
    changed: Notify,
    /// For workers that wait for a session.
    offered: Notify,
    boot_id: String,
    /// Places and lanes, as the configuration that was read last has them.
    config: Mutex<Arc<QueueConfig>>,
    /// Held while a dead letter is tried again: one is tried again once.
    retrying: tokio::sync::Mutex<()>,
}

impl Queue {
    pub fn new(config: &QueueConfig) -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            board: Mutex::default(),
            numbers: Mutex::default(),
            changed: Notify::new(),
            offered: Notify::new(),
            boot_id: boot_id.trim().to_owned(),
            config: Mutex::new(Arc::new(config.clone())),
            retrying: tokio::sync::Mutex::new(()),
        }
    }

    /// As it stands; one look is of one configuration.
    pub fn config(&self) -> Arc<QueueConfig> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another configuration holds from now on. What waits in a lane that is gone stays there until it is moved, or the lane is back; what
    /// waits keeps who may take it: it was checked for that.
    pub fn reconfigured(&self, config: &QueueConfig) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config.clone());
        self.stir();
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        // why: a panic while it was held leaves it whole.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now<'a>(&'a self, clock: &dyn Clock) -> Now<'a> {
        Now { wall_ms: clock.wall_ms(), boot_ms: clock.boot_ms(), boot_id: &self.boot_id }
    }

    /// Something changed that may let a session go.
    fn stir(&self) {
        self.changed.notify_one();
        self.offered.notify_waiters();
    }

    /// Whether any session waits, runs or is leased here.
    pub fn has_work(&self) -> bool {
        !self.board().entries.is_empty()
    }
}

/// What a caller wants of the queue; see `QueueRequest` of the API.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ask {
    pub lane: Option<String>,
    pub priority: i32,
    /// At this wall time at the earliest, or after so long.
    pub at: Option<i64>,
    pub delay_ms: Option<u64>,
    /// Each a session, or `SESSION:OUTCOME`.
    pub after: Vec<String>,
}

/// The same, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    pub lane: String,
    pub handler: Handler,
    priority: i32,
    not_before: Option<NotBefore>,
    after: Vec<Dependency>,
    retry_of: Option<SessionId>,
}

impl Manager {
    /// Puts a session into the queue: everything about it is checked that can be, and durable when this returns.
    pub async fn enqueue(&self, request: StartRequest, ask: Ask, by: Actor) -> Result<Session, super::Error> {
        let (inner, wish) = (Arc::clone(&self.inner), self.inner.wish(ask)?);
        super::keep::to_the_end(async move { start::start(&inner, request, by, How::Wait(wish)).await }).await
    }

    /// Who takes the sessions of a lane.
    pub fn handler_of(&self, lane: Option<&str>) -> Option<Handler> {
        self.inner.queue.config().lanes.get(lane.unwrap_or(DEFAULT_LANE)).map(|l| l.handler)
    }

    /// Whether any session is in the queue: the daemon stays for it.
    pub fn has_queued(&self) -> bool {
        self.inner.queue.has_work()
    }
}

impl Inner {
    fn lane(&self, name: &str) -> Result<Lane, Error> {
        let config = self.queue.config();
        let known = || config.lanes.keys().cloned().collect::<Vec<_>>().join(", ");
        config.lanes.get(name).cloned().ok_or_else(|| Error::NoLane { lane: live::cut(name, 80), known: known() })
    }

    fn wish(&self, ask: Ask) -> Result<Wish, super::Error> {
        let lane = ask.lane.unwrap_or_else(|| DEFAULT_LANE.to_owned());
        let handler = self.lane(&lane)?.handler;
        self.admits(&self.queue.board(), &lane)?;
        let (not_before, after) = (self.not_before(ask.at, ask.delay_ms), self.dependencies(&ask.after)?);
        Ok(Wish { lane, handler, priority: ask.priority, not_before, after, retry_of: None })
    }

    /// Whether one more may wait in a lane.
    fn admits(&self, board: &Board, lane: &str) -> Result<(), Error> {
        if board.hold_of(lane) == Some(Hold::Stopped) {
            return Err(Error::Stopped { lane: lane.to_owned() });
        }
        let waiting = board.entries.values().filter(|e| e.stage == Stage::Waiting).count() as u64 + board.coming;
        if waiting >= self.queue.config().depth { Err(Error::Full { waiting }) } else { Ok(()) }
    }

    /// A place for one that is about to be put on record.
    fn place(self: &Arc<Self>, lane: &str) -> Result<Place, Error> {
        let mut board = self.queue.board();
        self.admits(&board, lane)?;
        board.coming += 1;
        Ok(Place(Arc::clone(self)))
    }

    /// A time of day goes by the wall clock, a length of time by the boot clock as long as the machine is up.
    fn not_before(&self, at: Option<i64>, delay_ms: Option<u64>) -> Option<NotBefore> {
        let now = self.queue.now(self.clock.as_ref());
        let delay = delay_ms.map(|ms| NotBefore {
            wall_ms: now.wall_ms.saturating_add_unsigned(ms),
            boot: Some(crate::model::BootTime { boot_id: now.boot_id.to_owned(), ms: now.boot_ms.saturating_add(ms) }),
        });
        at.map(|wall_ms| NotBefore { wall_ms, boot: None }).or(delay)
    }

    fn dependencies(&self, after: &[String]) -> Result<Vec<Dependency>, super::Error> {
        if after.len() > AFTER_MAX {
            let (what, why) = (format!("{} sessions to wait for", after.len()), format!("are over the limit of {AFTER_MAX}"));
            return Err(Error::Refused { what, why }.into());
        }
        let one = |text: &String| {
            let (key, outcome) = match text.rsplit_once(':') {
                Some((key, word)) => {
                    (key, word.parse::<Wanted>().map_err(|why| Error::Refused { what: format!("--after {}:", live::cut(text, 200)), why })?)
                }
                None => (text.as_str(), Wanted::Ok),
            };
            Ok(Dependency { session: self.store.find(key)?, outcome })
        };
        after.iter().map(one).collect()
    }

    fn append_to(&self, session: &Session, attempt: u32, events: Vec<Event>) -> Batch {
        Batch {
            session: session.id.clone(),
            expected: Some(session.last_seq),
            attempt,
            at: self.clock.wall_ms(),
            events: events.into_iter().map(mask::event).collect(),
            cursor: None,
            frames: vec![],
            taken: None,
            blobs: vec![],
        }
    }

    /// A session was removed: nothing of it stays, and who waited for it is told.
    pub(super) fn removed_from_queue(&self, id: &SessionId) {
        kept::forget(&self.run_root, id);
        self.queue.board().remove(id);
        self.queue.stir();
    }

    /// Its time in the queue is over. What it was to be started with goes, but for a dead letter's.
    fn leave_queue(&self, session: &Session) {
        let dead = session.queue.as_deref().is_some_and(|q| q.is_dead(session.outcome));
        if !dead {
            kept::forget(&self.run_root, &session.id);
        }
        if let Some(entry) = self.queue.board().remove(&session.id) {
            let lasted = session.started_at.map(|from| session.ended_at.unwrap_or(from).saturating_sub(from));
            self.queue.numbers().ended(&entry.lane, self.clock.wall_ms(), dead, lasted);
        }
        self.queue.stir();
    }
}

/// While it is held, one session more counts as waiting.
struct Place(Arc<Inner>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.queue.board().coming -= 1;
    }
}

/// Begins the log of a session that waits. Called by `start` when everything was checked.
pub(super) async fn enqueue(
    inner: &Arc<Inner>,
    id: &SessionId,
    mut events: Vec<Event>,
    request: StartRequest,
    by: Actor,
    wish: Wish,
) -> Result<Session, super::Error> {
    // why again: it was looked before the policies were asked, and a retry was not looked at at all.
    let place = inner.place(&wish.lane)?;
    let blobs = request.prompt.as_deref().and_then(|p| prompt_of(p).1).into_iter().collect();
    let path = kept::path(&inner.run_root, id);
    let request = tokio::task::block_in_place(|| Kept::new(request, by.clone(), inner.entropy.as_ref()).write(&path))?;
    failpoint::hit("queue_kept");
    let Wish { lane, handler, priority, not_before, after, retry_of } = wish;
    let queued = SessionQueued { lane, priority, handler, not_before, after, request, failures: 0, reason: None, retry_of, by };
    events.push(queued.into());
    let begun = inner.store.append(Batch { blobs, ..start::first(inner, id, events, &How::Now) }).await;
    let session = match begun {
        Ok(done) => done.session,
        Err(e) => {
            kept::forget(&inner.run_root, id);
            return Err(e.into());
        }
    };
    failpoint::hit("queued");
    inner.queue.board().insert(&session);
    drop(place);
    inner.queue.stir();
    Ok((*session).clone())
}

/// The entry with which a session comes back, or stays.
fn again(session: &Session, by: Actor) -> Option<SessionQueued> {
    let q = session.queue.as_deref()?;
    Some(SessionQueued {
        lane: q.lane.clone(),
        priority: q.priority,
        handler: q.handler,
        not_before: None,
        after: q.after.clone(),
        request: q.request.clone(),
        failures: q.failures,
        reason: None,
        retry_of: q.retry_of.clone(),
        by,
    })
}

/// A try came to nothing: `events` end what there was of it. The session comes back after a while, or this was the last try.
async fn came_back(
    inner: &Arc<Inner>,
    session: &Session,
    mut events: Vec<Event>,
    counts: bool,
    reason: String,
) -> Result<Session, super::Error> {
    let reason = live::cut(&reason, 1024);
    let Some(mut next) = again(session, Actor::host()) else { return Ok(session.clone()) };
    let lane = inner.queue.config().lanes.get(&next.lane).cloned().unwrap_or_default();
    next.failures += u32::from(counts);
    if next.failures >= lane.attempts && counts {
        let why = format!("given up after {} tries: {reason}", next.failures);
        events.push(SessionEnded { outcome: Outcome::Failed, reason: Some(why), report: None }.into());
    } else {
        if counts {
            let wait = lane.retry_ms.saturating_mul(1 << (next.failures - 1).min(30)).min(RETRY_MAX_MS);
            next.not_before = inner.not_before(None, Some(wait));
        }
        next.reason = Some(reason);
        events.push(next.into());
    }
    let session = (*inner.store.append(inner.append_to(session, attempt_of(session), events)).await?.session).clone();
    failpoint::hit("queue_back");
    if session.status == Status::Ended {
        inner.leave_queue(&session);
    } else {
        let mut board = inner.queue.board();
        // why the old place: it keeps its order among those that wait, and its time.
        let old = board.entries.get(&session.id).map(|e| (e.order, e.ends_at));
        board.insert(&session);
        if let (Some(old), Some(entry)) = (old, board.entries.get_mut(&session.id)) {
            (entry.order, entry.ends_at) = old;
        }
        drop(board);
        inner.queue.stir();
    }
    Ok(session)
}

/// Ends a session that nobody has started, as a dead letter.
async fn dead(inner: &Arc<Inner>, session: &Session, reason: String) -> Result<(), super::Error> {
    let ended = SessionEnded { outcome: Outcome::Failed, reason: Some(live::cut(&reason, 1024)), report: None };
    let done = inner.store.append(inner.append_to(session, attempt_of(session), vec![ended.into()])).await?;
    inner.leave_queue(&done.session);
    Ok(())
}

/// Makes the board from what is on record, then takes turns. Called once, when everything that runs was adopted.
pub(super) async fn load(inner: &Arc<Inner>) -> Result<(), super::Error> {
    const OPEN: [Status; 5] = [Status::Queued, Status::Starting, Status::Running, Status::Paused, Status::Stopping];
    let mut filter = Filter { status: OPEN.to_vec(), limit: MAX_SESSIONS, reverse: true, ..Filter::default() };
    let mut open = BTreeSet::new();
    loop {
        let page = inner.store.sessions(&filter)?;
        let now = inner.clock.boot_ms();
        for session in page.items.iter().filter(|s| s.queue.is_some()) {
            open.insert(session.id.clone());
            let mut board = inner.queue.board();
            board.insert(session);
            let lease = session.queue.as_ref().and_then(|q| q.lease.clone());
            if let (Some(lease), Some(entry)) = (lease, board.entries.get_mut(&session.id))
                && session.status != Status::Queued
            {
                // why the whole time: nobody could hear the worker while no daemon ran.
                entry.stage =
                    Stage::Leased(pick::Held { number: lease.number, timeout_ms: lease.timeout_ms, until: now + lease.timeout_ms });
                Steady::hold(&mut entry.ends_at, pick::ends_at(session), &*inner.clock);
            }
        }
        match page.next {
            Some(next) => filter.cursor = Some(next),
            None => break,
        }
    }
    inner.queue.board().holds = operate::holds(&inner.store)?;
    numbers::load(inner)?;
    kept::sweep(&inner.run_root, |id| {
        let dead = |s: Session| s.queue.is_some_and(|q| q.is_dead(s.outcome));
        // why kept where it cannot be read: unknown is not over.
        open.contains(id) || !matches!(inner.store.session(id).map(dead), Ok(false) | Err(crate::store::Error::NotFound { .. }))
    });
    tokio::spawn(turn::run(inner.clone()));
    Ok(())
}

/// A start that was on record and never begun, because the daemon died in between: nothing ran, so it goes back, uncounted.
pub(super) async fn take_back(inner: &Arc<Inner>, session: &Session) -> Result<(), super::Error> {
    came_back(inner, session, vec![], false, "the host ended before its agent was started".to_owned()).await.map(drop)
}

/// What the queue alone knows how to take up: a session that waits, or that a worker has.
pub(super) fn is_ours(session: &Session) -> bool {
    let leased = session.queue.as_deref().is_some_and(|q| q.lease.is_some());
    session.status == Status::Queued || leased && session.status != Status::Ended
}
