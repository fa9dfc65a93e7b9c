//! The one task that lets sessions go: it looks who has ended, what that lets go, which leases ran out, and starts what is next.
//!
//! Called by `queue::load`; ends with the daemon.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::broadcast::error::RecvError;

use super::kept::{self, Kept};
use super::pick::{Stage, Taker};
use super::{came_back, dead, lease};
use crate::model::{Dependency, QueueRetried, Session, SessionClaimed, SessionId, Status};
use crate::session::{Error, Inner, TreeError, failpoint, start};
use crate::store;

/// Changes that come together are looked at together.
const GATHER: Duration = Duration::from_millis(10);
/// How long a session rests whose start was refused for a reason of the host's own (too many live, shutting down).
const REST_MS: u64 = 500;
/// The same where the disk takes nothing: its start asks policies and context providers anew each time.
const FULL_REST_MS: u64 = 10_000;
/// The longest sleep: clocks that are set, and wake-ups that were lost, are noticed then.
const LOOK: Duration = Duration::from_secs(30);

pub(super) async fn run(inner: Arc<Inner>) {
    let mut shutdown = inner.shutdown.subscribe();
    let mut wakes = inner.store.watch();
    let (mut all, mut looked) = (true, Instant::now());
    let mut grown: BTreeSet<SessionId> = BTreeSet::new();
    loop {
        // why now and then: what could not be read is read again, and nothing hangs on a wake-up that was lost.
        if all || looked.elapsed() >= LOOK {
            (all, looked) = (true, Instant::now());
        }
        settle(&inner, &mut grown, std::mem::take(&mut all)).await;
        lease::expire(&inner).await;
        loop {
            let taken = inner.queue.board().take(&inner.queue.config(), inner.queue.now(inner.clock.as_ref()), Taker::Host);
            let Some(id) = taken else { break };
            tokio::spawn(go(inner.clone(), id));
        }
        let next = inner.queue.board().next_ms(inner.queue.now(inner.clock.as_ref()));
        let sleep = next.map_or(LOOK, |ms| Duration::from_millis(ms.max(1)).min(LOOK));
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            () = inner.queue.changed.notified() => {}
            () = watch(&inner, &mut wakes, &mut grown, &mut all) => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(sleep) => inner.queue.offered.notify_waiters(),
        }
    }
}

/// Waits until a log grew that the queue cares about.
async fn watch(inner: &Inner, wakes: &mut tokio::sync::broadcast::Receiver<store::Wake>, grown: &mut BTreeSet<SessionId>, all: &mut bool) {
    loop {
        match wakes.recv().await {
            Ok(wake) => {
                if inner.queue.board().cares(&wake.session) {
                    grown.insert(wake.session);
                    return;
                }
            }
            Err(RecvError::Lagged(_)) => {
                *all = true;
                return;
            }
            // The store is closing, and the daemon with it.
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

/// Takes those off the board that have ended, and looks at what others waited for.
async fn settle(inner: &Arc<Inner>, grown: &mut BTreeSet<SessionId>, all: bool) {
    let mut grown = std::mem::take(grown);
    let on_board: Vec<SessionId> = {
        let board = inner.queue.board();
        let of_grown = || grown.iter().filter(|id| board.entries.contains_key(*id)).cloned().collect();
        if all { board.entries.keys().cloned().collect() } else { of_grown() }
    };
    for id in on_board {
        match inner.store.session(&id) {
            Ok(s) if s.status == Status::Ended => inner.leave_queue(&s),
            Err(store::Error::NotFound { .. }) => {
                inner.queue.board().remove(&id);
                kept::forget(&inner.run_root, &id);
            }
            _ => {}
        }
    }
    let mut all = all;
    // why again and again: who is given up here may be what another waits for.
    loop {
        let waiting = inner.queue.board().wanting_a_look(&grown, all);
        if waiting.is_empty() {
            return;
        }
        for (id, after) in waiting {
            look(inner, &id, after).await;
        }
        (all, grown) = (false, BTreeSet::new());
    }
}

/// Looks at all that one session waits for; it may be given up.
async fn look(inner: &Arc<Inner>, id: &SessionId, after: Vec<Dependency>) {
    let mut over = Vec::new();
    for d in after {
        let why = match inner.store.session(&d.session) {
            Ok(s) => match s.outcome {
                Some(o) if d.outcome.takes(o) => {
                    over.push(d);
                    continue;
                }
                Some(o) => format!("session {}, which it waited for, ended {}, not {}", d.session, o.as_str(), d.outcome),
                None => continue,
            },
            Err(store::Error::NotFound { .. }) => format!("session {}, which it waited for, was removed", d.session),
            Err(e) => {
                tracing::error!(session = %id, code = e.code(), error = %e, "what it waits for cannot be read");
                continue;
            }
        };
        let taken = inner.queue.board().entries.get_mut(id).is_some_and(|e| {
            // why both: it may have been moved meanwhile, and wait for others now.
            let mine = e.stage == Stage::Waiting && e.after.contains(&d);
            if mine {
                e.stage = Stage::Taken;
            }
            mine
        });
        if !taken {
            return;
        }
        let given_up = match inner.store.session(id) {
            Ok(session) => dead(inner, &session, why).await,
            Err(e) => Err(e.into()),
        };
        if let Err(e) = given_up {
            tracing::error!(session = %id, code = e.code(), error = %e, "it could not be given up");
            back_to_rest(inner, id, REST_MS);
        }
        return;
    }
    if let Some(entry) = inner.queue.board().entries.get_mut(id) {
        entry.after.retain(|d| !over.contains(d));
    }
}

/// Nothing became of it for now.
fn back_to_rest(inner: &Inner, id: &SessionId, rest_ms: u64) {
    if let Some(entry) = inner.queue.board().entries.get_mut(id) {
        (entry.stage, entry.rest_until) = (Stage::Waiting, inner.clock.boot_ms() + rest_ms);
    }
    inner.queue.stir();
}

/// One session's turn: its agent is started, or it comes back.
async fn go(inner: Arc<Inner>, id: SessionId) {
    failpoint::hit("queue_claiming");
    let Err(e) = start_one(&inner, &id).await else { return };
    if matches!(e, Error::ShuttingDown) || *inner.shutdown.borrow() {
        return;
    }
    tracing::warn!(session = %id, code = e.code(), error = %e, "a queued session was not started");
    let busy_tree = matches!(e, Error::Tree(TreeError::GoesOn { .. } | TreeError::TooMany { .. }));
    // why a conflict: somebody else wrote into its log meanwhile (a note, a change of its place).
    let passing = |e: &store::Error| matches!(e, store::Error::Busy { .. } | store::Error::Full { .. } | store::Error::Conflict { .. });
    let transient = busy_tree || matches!(&e, Error::TooMany(_) | Error::Busy) || matches!(&e, Error::Store(e) if passing(e));
    let conflict = matches!(e, Error::Store(store::Error::Conflict { .. }));
    let rest_ms = if matches!(e, Error::Store(store::Error::Full { .. })) { FULL_REST_MS } else { REST_MS };
    let Ok(session) = inner.store.session(&id) else { return back_to_rest(&inner, &id, rest_ms) };
    let came = match session.status {
        Status::Ended => return inner.leave_queue(&session),
        Status::Queued if transient => return back_to_rest(&inner, &id, rest_ms),
        Status::Queued | Status::Starting => {
            if session.status == Status::Starting {
                clear(&inner, &session);
            }
            came_back(&inner, &session, vec![], !conflict, e.to_string()).await
        }
        // It runs, so it is not ours to judge.
        _ => return,
    };
    if let Err(e) = came {
        tracing::error!(session = %id, code = e.code(), error = %e, "a queued session could not be put back");
        back_to_rest(&inner, &id, rest_ms);
    }
}

/// What a start left that came to nothing would be in the way of the next.
fn clear(inner: &Inner, session: &Session) {
    let dir = inner.run_dir(&session.id, session.attempt + 1);
    if let Err(e) = std::fs::remove_dir_all(&dir)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(session = %session.id, error = %e, "the folder of a failed start stays");
    }
}

async fn start_one(inner: &Arc<Inner>, id: &SessionId) -> Result<(), Error> {
    let session = inner.store.session(id)?;
    let Some(q) = session.queue.clone().filter(|_| session.status == Status::Queued) else {
        // Somebody ended it meanwhile; whoever did takes it off the board.
        return Ok(());
    };
    if let Some(old) = &q.retry_of {
        retried(inner, old, id).await?;
    }
    let kept = Kept::read(&kept::path(&inner.run_root, id), &q.request)?;
    let now = inner.clock.wall_ms();
    let ready = q.not_before.as_ref().map_or(q.since, |n| n.wall_ms.max(q.since));
    let waited_ms = u64::try_from(now.saturating_sub(ready)).unwrap_or(0);
    let claim = SessionClaimed { worker: None, lease_ms: None, waited_ms, without_host_tools: false };
    start::start(inner, kept.request, kept.by, start::How::Claim(&session, claim)).await?;
    if let Some(entry) = inner.queue.board().entries.get_mut(id) {
        entry.stage = Stage::Running;
    }
    inner.queue.numbers().started(&q.lane, now, waited_ms);
    Ok(())
}

/// Notes at a dead letter that it is tried again, before that begins. Nothing where it is noted already, or gone.
pub(super) async fn retried(inner: &Arc<Inner>, old: &SessionId, new: &SessionId) -> Result<(), Error> {
    let by = inner.store.session(new)?.created_by;
    loop {
        let session = match inner.store.session(old) {
            Ok(s) if s.queue.as_ref().is_some_and(|q| q.retried_as.is_none()) => s,
            Ok(_) | Err(store::Error::NotFound { .. }) => break,
            Err(e) => return Err(e.into()),
        };
        let note = QueueRetried { session: new.clone(), by: by.clone() };
        match inner.store.append(inner.append_to(&session, session.attempt.max(1), vec![note.into()])).await {
            Ok(_) => break,
            // why again: its turn and the retry itself may both be at it, and one was first.
            Err(store::Error::Conflict { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    kept::forget(&inner.run_root, old);
    Ok(())
}
