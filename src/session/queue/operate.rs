//! What operators do with the queue: hold lanes, move, take out, try again, look.
//!
//! Called by `Manager`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::kept::{self, Kept};
use super::pick::{Hold, Stage};
use super::{Error, HOLDS, Wish, again, lease};
use crate::model::queue::would_circle;
use crate::model::{Actor, AttemptEnded, Dependency, Outcome, QueueMoved, Session, SessionEnded, SessionId, SessionStopping, Status};
use crate::session::keep::to_the_end;
use crate::session::start::How;
use crate::session::{COMMAND_TIMEOUT, Inner, Manager, failpoint, start};
use crate::store::{Filter, MAX_SESSIONS, Store};

/// How often it is looked whether a start is over.
const LOOK: Duration = Duration::from_millis(10);
/// Newest sessions among which dead letters are looked for.
const DEAD_LOOK: usize = 10_000;
/// Retries of retries that are followed.
const RETRIES_LOOKED: usize = 1_000;

/// Where a waiting session shall stand; what is not said stays.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Move {
    pub lane: Option<String>,
    pub priority: Option<i32>,
    pub at: Option<i64>,
    pub delay_ms: Option<u64>,
    /// Instead of what it waits for; empty for nothing.
    pub after: Option<Vec<String>>,
}

/// One session on the board, as it stands.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub session: Session,
    /// Place among those of its lane that wait, from 1; none where it runs.
    pub place: Option<u64>,
    /// `waiting`, `delayed`, `blocked`, `held`, `starting`, `running` or `leased`.
    pub state: &'static str,
    pub left_ms: u64,
    pub after: Vec<Dependency>,
}

/// The holds as they were written last.
pub(super) fn holds(store: &Store) -> Result<BTreeMap<String, Hold>, crate::session::Error> {
    let text = store.setting(HOLDS)?;
    Ok(text.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default())
}

impl Manager {
    /// Holds a lane, or lets it go; without one, the whole queue. Durable.
    pub async fn hold_lane(&self, lane: Option<&str>, hold: Option<Hold>, by: &Actor) -> Result<(), crate::session::Error> {
        let inner = &self.inner;
        if let Some(lane) = lane {
            inner.lane(lane)?;
        }
        let key = lane.unwrap_or(super::ALL).to_owned();
        let text = {
            let mut board = inner.queue.board();
            match hold {
                Some(h) => drop(board.holds.insert(key.clone(), h)),
                None => drop(board.holds.remove(&key)),
            }
            serde_json::to_string(&board.holds).ok()
        };
        inner.store.set_setting(HOLDS, text).await?;
        tracing::info!(lane = %key, ?hold, role = %by.role, pid = by.pid, "the queue's hold was changed");
        inner.queue.stir();
        Ok(())
    }

    /// Everything on the board, or one lane's: what runs first, then in the order of their places.
    pub fn queued(&self, lane: Option<&str>, most: usize) -> Result<Vec<Waiting>, crate::session::Error> {
        let inner = &self.inner;
        let now = inner.queue.now(inner.clock.as_ref());
        let mut rows: Vec<(SessionId, super::pick::Entry, bool)> = {
            let board = inner.queue.board();
            let wanted = |e: &super::pick::Entry| lane.is_none_or(|l| l == e.lane);
            board
                .entries
                .iter()
                .filter(|(_, e)| wanted(e))
                .map(|(id, e)| (id.clone(), e.clone(), board.hold_of(&e.lane).is_some()))
                .collect()
        };
        rows.sort_by_key(|(_, e, _)| (e.lane.clone(), e.stage == Stage::Waiting, std::cmp::Reverse(e.priority), e.order));
        rows.truncate(most);
        let mut places: BTreeMap<String, u64> = BTreeMap::new();
        let mut out = Vec::with_capacity(rows.len());
        for (id, entry, held) in rows {
            // None: it ended, or was removed, meanwhile.
            let Ok(session) = inner.store.session(&id) else { continue };
            let left_ms = entry.left_ms(now);
            let state = match &entry.stage {
                Stage::Taken => "starting",
                Stage::Running => "running",
                Stage::Leased(_) => "leased",
                Stage::Waiting if !entry.after.is_empty() => "blocked",
                Stage::Waiting if left_ms > 0 => "delayed",
                Stage::Waiting if held => "held",
                Stage::Waiting => "waiting",
            };
            let place = (entry.stage == Stage::Waiting).then(|| {
                let place = places.entry(entry.lane.clone()).or_default();
                *place += 1;
                *place
            });
            out.push(Waiting { session, place, state, left_ms, after: entry.after });
        }
        Ok(out)
    }

    /// Moves a session that waits.
    pub async fn requeue(&self, id: &SessionId, to: Move, by: Actor) -> Result<Session, crate::session::Error> {
        let inner = &self.inner;
        let session = inner.store.session(id)?;
        let not_waiting = || Error::NotWaiting { session: id.clone(), status: session.status.as_str().to_owned() };
        let Some(q) = session.queue.clone().filter(|_| session.status == Status::Queued) else { return Err(not_waiting().into()) };
        let lane = to.lane.unwrap_or_else(|| q.lane.clone());
        let handler = if lane == q.lane { q.handler } else { inner.lane(&lane)?.handler };
        if handler != q.handler {
            let (what, why) = (
                format!("lane {lane}"),
                format!("is {}, and the session was checked for one that is {}; queue it anew", handler.as_str(), q.handler.as_str()),
            );
            return Err(Error::Refused { what, why }.into());
        }
        let after = match to.after {
            Some(texts) => inner.dependencies(&texts)?,
            None => q.after.clone(),
        };
        inner.no_circle(id, &after)?;
        let not_before = inner.not_before(to.at, to.delay_ms).or(q.not_before);
        inner.take_waiting(id).ok_or_else(not_waiting)?;
        let moved = QueueMoved { lane, priority: to.priority.unwrap_or(q.priority), handler, not_before, after, by };
        let (inner, id) = (Arc::clone(inner), id.clone());
        to_the_end(async move {
            // why read anew: it may have changed until it was taken.
            let done = match inner.store.session(&id) {
                Ok(now) => inner.store.append(inner.append_to(&now, now.attempt.max(1), vec![moved.into()])).await,
                Err(e) => Err(e),
            };
            let mut board = inner.queue.board();
            let order = board.entries.get(&id).map(|e| e.order);
            if let Ok(done) = &done {
                board.insert(&done.session);
            }
            if let (Some(entry), Some(order)) = (board.entries.get_mut(&id), order) {
                (entry.order, entry.stage) = (order, Stage::Waiting);
            }
            drop(board);
            inner.queue.stir();
            Ok((*done?.session).clone())
        })
        .await
    }

    /// Ends a session that waits, or that a worker has; `None` where the host has it or it was never queued, and others must end it.
    pub(in crate::session) async fn cancel(
        &self,
        id: &SessionId,
        kill: bool,
        by: &Actor,
    ) -> Result<Option<Session>, crate::session::Error> {
        let inner = &self.inner;
        let begun = tokio::time::Instant::now();
        let stage = loop {
            match inner.take_off(id) {
                None | Some(Stage::Running) => return Ok(None),
                // A start is under way: it is on record in a moment.
                Some(Stage::Taken) if begun.elapsed() < COMMAND_TIMEOUT => tokio::time::sleep(LOOK).await,
                Some(Stage::Taken) => return Err(crate::session::Error::Busy),
                Some(stage) => break stage,
            }
        };
        let (inner, id, by) = (Arc::clone(inner), id.clone(), by.clone());
        to_the_end(async move {
            let done = called_off(&inner, &id, kill, by).await;
            if done.is_err()
                && let Some(entry) = inner.queue.board().entries.get_mut(&id)
            {
                entry.stage = stage;
            }
            done.map(Some)
        })
        .await
    }

    /// Takes a session out of the queue that nobody of this host runs: it ends as stopped.
    pub async fn dequeue(&self, id: &SessionId, by: Actor) -> Result<Session, crate::session::Error> {
        if let Some(ended) = self.cancel(id, false, &by).await? {
            return Ok(ended);
        }
        let session = self.inner.store.session(id)?;
        Err(Error::NotWaiting { session: id.clone(), status: session.status.as_str().to_owned() }.into())
    }

    /// Dead letters, newest first.
    pub fn dead_letters(&self, lane: Option<&str>) -> Result<Vec<Session>, crate::session::Error> {
        use Outcome::{Breach, Budget, Failed, Lost, MissingReport, TimedOut};
        let outcome = vec![Failed, MissingReport, TimedOut, Budget, Breach, Lost];
        let mut filter = Filter { status: vec![Status::Ended], outcome, limit: MAX_SESSIONS, ..Filter::default() };
        let (mut out, mut looked) = (Vec::new(), 0);
        loop {
            let page = self.inner.store.sessions(&filter)?;
            looked += page.items.len();
            let dead = |s: &Session| s.queue.as_deref().is_some_and(|q| q.is_dead(s.outcome) && lane.is_none_or(|l| l == q.lane));
            out.extend(page.items.into_iter().filter(dead));
            match page.next {
                Some(next) if looked < DEAD_LOOK => filter.cursor = Some(next),
                _ => return Ok(out),
            }
        }
    }

    /// Queues the request of a dead letter again, as a new session; once. It waits for what the first one waited for and has not ended, or
    /// is tried again itself; who asks for the retry has seen how the others ended.
    pub async fn retry(&self, id: &SessionId, by: Actor) -> Result<Session, crate::session::Error> {
        let inner = &self.inner;
        let _one = inner.queue.retrying.lock().await;
        let session = inner.store.session(id)?;
        let not = |why: String| Error::NotDead { session: id.clone(), why };
        let Some(q) = session.queue.as_deref() else { return Err(not("it never was in the queue".to_owned()).into()) };
        if let Some(new) = &q.retried_as {
            return Err(not(format!("session {new} tries it again")).into());
        }
        if !q.is_dead(session.outcome) {
            let stands = session.outcome.map_or(session.status.as_str(), Outcome::as_str);
            return Err(not(format!("it is {stands}")).into());
        }
        // why the board: a daemon may have died between the new session and the note at the old one.
        if let Some(new) = inner.open_retry_of(id) {
            super::turn::retried(inner, id, &new).await?;
            return Err(not(format!("session {new} tries it again")).into());
        }
        let kept = Kept::read(&kept::path(&inner.run_root, id), &q.request)?;
        let Some(entry) = again(&session, by.clone()) else { return Err(not("it never was in the queue".to_owned()).into()) };
        inner.lane(&entry.lane)?;
        let wish = Wish {
            lane: entry.lane,
            handler: entry.handler,
            priority: entry.priority,
            not_before: None,
            after: inner.still_open(&entry.after),
            retry_of: Some(id.clone()),
        };
        let one = Arc::clone(inner);
        let new = to_the_end(async move { start::start(&one, kept.request, by, How::Wait(wish)).await }).await?;
        failpoint::hit("queue_retried");
        super::turn::retried(inner, id, &new.id).await?;
        Ok(new)
    }
}

/// Records the end of one that was taken off the queue.
async fn called_off(inner: &Arc<Inner>, id: &SessionId, kill: bool, by: Actor) -> Result<Session, crate::session::Error> {
    let session = inner.store.session(id)?;
    let (outcome, how) = if kill { (Outcome::Killed, "kill") } else { (Outcome::Stopped, "stop") };
    let reason = if session.status == Status::Queued { "it still waited in the queue" } else { "its worker is told at its next word" };
    let mut events = vec![SessionStopping { by, how: how.to_owned(), grace_ms: 0 }.into()];
    if session.status != Status::Queued {
        events.push(AttemptEnded { is_final: true, ..AttemptEnded::with(outcome) }.into());
    }
    events.push(SessionEnded { outcome, reason: Some(reason.to_owned()), report: None }.into());
    lease::finish(inner, &session, events).await
}

impl Inner {
    /// Takes one that waits off for a change; nobody else has it until it is put back.
    fn take_waiting(&self, id: &SessionId) -> Option<()> {
        let mut board = self.queue.board();
        let entry = board.entries.get_mut(id).filter(|e| e.stage == Stage::Waiting)?;
        entry.stage = Stage::Taken;
        Some(())
    }

    /// How it stood; one that waits or is leased is nobody else's from then on.
    fn take_off(&self, id: &SessionId) -> Option<Stage> {
        let mut board = self.queue.board();
        let entry = board.entries.get_mut(id)?;
        let stood = entry.stage.clone();
        if matches!(stood, Stage::Waiting | Stage::Leased(_)) {
            entry.stage = Stage::Taken;
        }
        Some(stood)
    }

    /// Of what a dead letter waited for: what goes on still, in the place of those that were tried again the newest try.
    fn still_open(&self, after: &[Dependency]) -> Vec<Dependency> {
        let newest = |id: &SessionId| {
            let mut at = self.store.session(id).ok()?;
            // A chain of retries is as long as somebody typed it; a bound all the same.
            for _ in 0..RETRIES_LOOKED {
                match at.queue.as_deref().and_then(|q| q.retried_as.clone()) {
                    Some(next) => at = self.store.session(&next).ok()?,
                    None => break,
                }
            }
            Some(at).filter(|s| s.status != Status::Ended)
        };
        after.iter().filter_map(|d| Some(Dependency { session: newest(&d.session)?.id, outcome: d.outcome })).collect()
    }

    fn no_circle(&self, id: &SessionId, after: &[Dependency]) -> Result<(), Error> {
        let board = self.queue.board();
        let of = |s: &SessionId| board.entries.get(s).map_or(&[][..], |e| e.after.as_slice());
        let circle = after.iter().find(|d| would_circle(id, std::slice::from_ref(*d), of));
        circle.map_or(Ok(()), |d| Err(Error::Circle { session: id.clone(), through: d.session.clone() }))
    }

    fn open_retry_of(self: &Arc<Self>, id: &SessionId) -> Option<SessionId> {
        let ids: Vec<SessionId> = self.queue.board().entries.keys().cloned().collect();
        let of = |new: &SessionId| self.store.session(new).ok()?.queue?.retry_of;
        tokio::task::block_in_place(|| ids.into_iter().find(|new| of(new).as_ref() == Some(id)))
    }
}
