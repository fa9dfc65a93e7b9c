//! Sessions that workers elsewhere run: taken by lease, kept by word, given back with a result.
//!
//! Invariants:
//! - a lease has a number that only grows; what is said under an older one is refused, so one session has one worker at a time;
//! - its time, and that of its session's limit, goes by the boot clock and is not in the log: a daemon that starts gives every lease its whole time anew, since it could not
//!   hear its workers before;
//! - the worker is given the request without values of the environment; what it does, no gate of this host sees, and the session says so.
//!
//! Called by `Manager` for workers, and by `turn` (leases that run out).

use std::sync::Arc;
use std::time::Duration;

use super::kept::{self, Kept};
use super::pick::{Entry, Held, Stage, Taker, ends_at};
use super::{Error, came_back};
use crate::model::queue::{LANE_NAME_MAX, Lease};
use crate::model::{
    Actor, AgentReplied, AttemptEnded, AttemptStarted, Event, Mediation, MediationLowered, Outcome, PromptSubmitted, Session,
    SessionClaimed, SessionEnded, SessionId, SessionStopping, Status, Steady, UsageLimitsSet,
};
use crate::session::keep::to_the_end;
use crate::session::start::{StartRequest, prompt_of};
use crate::session::{Inner, Manager, failpoint, live, mask, start};
use crate::store::Batch;

/// Most bytes of what a worker says of its result.
pub const WORKER_OUTPUT_MAX: usize = 256 << 10;

/// A session that a worker was given.
#[derive(Debug, Clone)]
pub struct Leased {
    pub session: Session,
    pub lease: Lease,
    /// What it shall do; values of the environment are left out.
    pub request: StartRequest,
    pub env_names: Vec<String>,
}

/// What a worker says of its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// It works on.
    Beat,
    Completed {
        exit_code: Option<i32>,
        output: Option<String>,
    },
    /// `last`: no further try.
    Failed {
        reason: String,
        exit_code: Option<i32>,
        last: bool,
    },
    /// It gives it back undone; no try is counted.
    Released {
        reason: String,
    },
}

impl Manager {
    /// The next session for a worker, waited for at most `wait`.
    pub async fn lease(&self, worker: &str, lanes: &[String], wait: Duration, by: Actor) -> Result<Option<Leased>, crate::session::Error> {
        let refused = |what: &str, why: &str| Error::Refused { what: what.to_owned(), why: why.to_owned() };
        if worker.is_empty() || worker.len() > LANE_NAME_MAX || worker.chars().any(char::is_control) {
            return Err(refused("the worker's name", "must have 1 to 64 bytes without control characters").into());
        }
        for lane in lanes {
            let is_internal = self.inner.lane(lane)?.handler == crate::model::Handler::Internal;
            // why: what waits keeps who may take it, also where a reload gave its lane to the host since.
            let holds_theirs = |e: &Entry| e.lane == *lane && e.handler != crate::model::Handler::Internal;
            if is_internal && !self.inner.queue.board().entries.values().any(holds_theirs) {
                return Err(refused(&format!("lane {lane}"), "is the host's own: its handler is internal").into());
            }
        }
        let inner = &self.inner;
        let deadline = tokio::time::Instant::now() + wait;
        let mut shutdown = inner.shutdown.subscribe();
        loop {
            // why before the look: what is offered in between must not be missed.
            let offered = inner.queue.offered.notified();
            tokio::pin!(offered);
            offered.as_mut().enable();
            let now = inner.queue.now(inner.clock.as_ref());
            let (taken, next) = {
                let mut board = inner.queue.board();
                (board.take(&inner.queue.config(), now, Taker::Worker(lanes)), board.next_ms(now))
            };
            if let Some(id) = taken {
                let (inner, worker, by) = (Arc::clone(inner), worker.to_owned(), by.clone());
                return to_the_end(async move {
                    match give(&inner, &id, &worker, &by).await {
                        Ok(leased) => Ok(Some(leased)),
                        Err(e) => {
                            put_back(&inner, &id, &e).await;
                            Err(e)
                        }
                    }
                })
                .await;
            }
            let until = deadline.min(next.map_or(deadline, |ms| tokio::time::Instant::now() + Duration::from_millis(ms.max(1))));
            tokio::select! {
                _ = shutdown.changed() => return Err(crate::session::Error::ShuttingDown),
                () = offered => {}
                () = tokio::time::sleep_until(until) => if tokio::time::Instant::now() >= deadline { return Ok(None) },
            }
        }
    }

    /// What a worker says under its lease. Told twice, an end is the same end.
    pub async fn settle_lease(&self, id: &SessionId, number: u64, said: Settled, by: Actor) -> Result<Session, crate::session::Error> {
        let inner = &self.inner;
        let session = inner.store.session(id)?;
        let over = |why: &str| Error::LeaseOver { session: id.clone(), number, why: why.to_owned() };
        let held = session.queue.as_deref().and_then(|q| q.lease.clone()).filter(|l| l.number == number);
        let Some(lease) = held else { return Err(over("the session went to another, or back to the queue").into()) };
        if session.status == Status::Ended {
            let same = matches!(
                (&said, session.outcome),
                (Settled::Completed { .. }, Some(Outcome::Succeeded)) | (Settled::Failed { .. }, Some(Outcome::Failed))
            );
            return if same { Ok(session) } else { Err(over("the session has ended").into()) };
        }
        let mine = {
            let now = inner.clock.boot_ms();
            let mut board = inner.queue.board();
            board.entries.get_mut(id).is_some_and(|e| match &mut e.stage {
                Stage::Leased(h) if h.number == number => {
                    h.until = now + h.timeout_ms;
                    if said != Settled::Beat {
                        e.stage = Stage::Taken;
                    }
                    true
                }
                _ => false,
            })
        };
        if !mine {
            return Err(over("it ran out, or is being ended").into());
        }
        if said == Settled::Beat {
            return Ok(session);
        }
        let (inner, id) = (Arc::clone(inner), id.clone());
        to_the_end(async move {
            let settled = end(&inner, &session, said, by).await;
            if settled.is_err()
                && let Some(entry) = inner.queue.board().entries.get_mut(&id)
            {
                // why: it was not recorded, so the worker has it still and says it again.
                entry.stage = Stage::Leased(Held { number, timeout_ms: lease.timeout_ms, until: inner.clock.boot_ms() + lease.timeout_ms });
            }
            settled
        })
        .await
    }
}

/// Records the lease, then hands the request out.
async fn give(inner: &Arc<Inner>, id: &SessionId, worker: &str, by: &Actor) -> Result<Leased, crate::session::Error> {
    let session = inner.store.session(id)?;
    let Some(q) = session.queue.as_deref().filter(|_| session.status == Status::Queued) else {
        return Err(crate::session::Error::Ended(id.clone()));
    };
    if let Some(old) = &q.retry_of {
        super::turn::retried(inner, old, id).await?;
    }
    let Kept { mut request, by: asked, .. } = Kept::read(&kept::path(&inner.run_root, id), &q.request)?;
    let timeout_ms = inner.lane(&q.lane)?.lease_ms;
    let now = inner.clock.wall_ms();
    let ready = q.not_before.as_ref().map_or(q.since, |n| n.wall_ms.max(q.since));
    let waited_ms = u64::try_from(now.saturating_sub(ready)).unwrap_or(0);
    let (lane, lease_ms) = (q.lane.clone(), Some(timeout_ms));
    let mut events: Vec<Event> =
        vec![SessionClaimed { worker: Some(worker.to_owned()), lease_ms, waited_ms, without_host_tools: false }.into()];
    if session.limits.is_none() && !request.limits.is_empty() {
        events.push(UsageLimitsSet { limits: request.limits }.into());
    }
    if session.mediation != Mediation::None {
        let reason = format!("worker {worker} runs it, where no gate of this host is");
        events.push(MediationLowered { to: Mediation::None, reason }.into());
    }
    events.push(AttemptStarted { agent: Some(worker.to_owned()), tier: Some("worker".to_owned()), ..AttemptStarted::default() }.into());
    let mut blobs = vec![];
    if let Some(p) = &request.prompt {
        let (prompt, blob) = prompt_of(p);
        events.push(PromptSubmitted { prompt, by: asked }.into());
        blobs.extend(blob);
    }
    failpoint::hit("queue_leasing");
    let done = inner.store.append(Batch { blobs, ..inner.append_to(&session, session.attempt + 1, events) }).await?;
    failpoint::hit("queue_leased");
    let number = done.first_seq;
    if let Some(entry) = inner.queue.board().entries.get_mut(id) {
        entry.stage = Stage::Leased(Held { number, timeout_ms, until: inner.clock.boot_ms() + timeout_ms });
        Steady::hold(&mut entry.ends_at, ends_at(&done.session), &*inner.clock);
    }
    inner.queue.changed.notify_one();
    inner.queue.numbers().started(&lane, now, waited_ms);
    tracing::info!(session = %id, worker, lease = number, role = %by.role, "a session was leased");
    let env_names = std::mem::take(&mut request.env).into_keys().collect();
    Ok(Leased { session: (*done.session).clone(), lease: Lease { number, worker: worker.to_owned(), timeout_ms }, request, env_names })
}

/// It could not be handed out.
async fn put_back(inner: &Arc<Inner>, id: &SessionId, why: &crate::session::Error) {
    let Ok(session) = inner.store.session(id) else { return };
    let broken = matches!(why, crate::session::Error::Queue(Error::Kept { .. }));
    let done = match session.status {
        Status::Queued if broken => super::dead(inner, &session, why.to_string()).await,
        Status::Queued => {
            if let Some(entry) = inner.queue.board().entries.get_mut(id) {
                entry.stage = Stage::Waiting;
            }
            Ok(())
        }
        _ => Ok(()),
    };
    if let Err(e) = done {
        tracing::error!(session = %id, code = e.code(), error = %e, "a session that was not leased could not be put back");
    }
}

async fn end(inner: &Arc<Inner>, session: &Session, said: Settled, by: Actor) -> Result<Session, crate::session::Error> {
    let done = |outcome: Outcome, exit_code: Option<i32>, reason: Option<String>| AttemptEnded {
        exit_code,
        reason,
        ..AttemptEnded::with(outcome)
    };
    match said {
        Settled::Beat => Ok(session.clone()),
        Settled::Completed { exit_code, output } => {
            let mut events: Vec<Event> = vec![];
            if let Some(text) = output.filter(|t| !t.is_empty()) {
                let text = live::cut(&mask::text(&text), WORKER_OUTPUT_MAX);
                events.push(AgentReplied { text, message_id: None, parent_call_id: None }.into());
            }
            events.push(AttemptEnded { is_final: true, success: Some(true), ..done(Outcome::Succeeded, exit_code, None) }.into());
            events.push(SessionEnded { outcome: Outcome::Succeeded, reason: None, report: None }.into());
            finish(inner, session, events).await
        }
        Settled::Failed { reason, exit_code, last } => {
            let reason = live::cut(&mask::text(&reason), 1024);
            let ended = done(Outcome::Failed, exit_code, Some(reason.clone()));
            if last {
                let why = format!("worker failed it for good: {reason}");
                let over = SessionEnded { outcome: Outcome::Failed, reason: Some(why), report: None };
                return finish(inner, session, vec![AttemptEnded { is_final: true, ..ended }.into(), over.into()]).await;
            }
            came_back(inner, session, vec![ended.into()], true, reason).await
        }
        Settled::Released { reason } => {
            let reason = format!("given back by {}: {}", by.name.as_deref().unwrap_or(&by.role), live::cut(&mask::text(&reason), 512));
            came_back(inner, session, vec![done(Outcome::Stopped, None, Some(reason.clone())).into()], false, reason).await
        }
    }
}

pub(super) async fn finish(inner: &Arc<Inner>, session: &Session, events: Vec<Event>) -> Result<Session, crate::session::Error> {
    let done = inner.store.append(inner.append_to(session, start::attempt_of(session), events)).await?;
    inner.leave_queue(&done.session);
    Ok((*done.session).clone())
}

/// Takes sessions back whose worker was not heard of in time, and ends those that have passed their limit of time.
pub(super) async fn expire(inner: &Arc<Inner>) {
    let now = inner.clock.boot_ms();
    let late: Vec<(SessionId, u64, i64)> = {
        let mut board = inner.queue.board();
        let mut late = vec![];
        for (id, entry) in &mut board.entries {
            if let Stage::Leased(h) = &entry.stage
                && (h.until <= now || entry.ends_at.is_some_and(|at| at.left_at(now) == 0))
            {
                // why by its own end: what the clock of the wall says now may have been set since.
                let wall = entry.ends_at.map_or_else(|| inner.clock.wall_ms(), |at| at.now_ms(&*inner.clock));
                late.push((id.clone(), h.timeout_ms, wall));
                entry.stage = Stage::Taken;
            }
        }
        late
    };
    for (id, timeout_ms, wall) in late {
        let taken = async {
            let session = inner.store.session(&id)?;
            if let Some(over) = session.limits.and_then(|l| l.exceeded(&session, 0, wall)) {
                let (outcome, reason) = (Outcome::Budget, Some(over.reason.clone()));
                let how = "usage limit exceeded".to_owned();
                let attempt = AttemptEnded { is_final: true, reason: reason.clone(), ..AttemptEnded::with(outcome) };
                let stopping = SessionStopping { by: Actor::host(), how, grace_ms: 0 };
                let ended = SessionEnded { outcome, reason, report: None };
                return finish(inner, &session, vec![over.into(), stopping.into(), attempt.into(), ended.into()]).await;
            }
            let worker = session.queue.as_ref().and_then(|q| q.lease.as_ref()).map_or("", |l| l.worker.as_str());
            let reason = format!("worker {worker} was not heard of for {timeout_ms} ms");
            let ended = AttemptEnded { reason: Some(reason.clone()), ..AttemptEnded::with(Outcome::Lost) };
            came_back(inner, &session, vec![ended.into()], true, reason).await
        };
        if let Err(e) = taken.await {
            tracing::error!(session = %id, code = e.code(), error = %e, "a lost lease could not be taken back");
            if let Some(entry) = inner.queue.board().entries.get_mut(&id) {
                // why: it is looked at again; its worker has lost it all the same.
                entry.stage = Stage::Leased(Held { number: 0, timeout_ms, until: now + 1_000 });
                entry.ends_at = entry.ends_at.map(|_| Steady::of(inner.clock.wall_ms() + 1_000, &*inner.clock));
            }
        }
    }
}
