//! At boot: every session that has not ended is adopted, or its end is learnt and recorded. Unknown is never dead.
//!
//! What a dead daemon had read, decided or sent is in the log, the cursor and the stored frames; the rest waits in the shim's
//! segments. So adoption is: rebuild the joins from the events, resend frames the shim has not taken, read on.
//!
//! Called once by `daemon` before requests are served; a session's task uses its parts when its link to the shim breaks (`link`).

use std::sync::Arc;

use super::live::Live;
use super::witness::Witnesses;
use super::{Error, Inner, external, rules, start};
use crate::agent;
use crate::model::{Effect, Event, Session, Status};
use crate::policy::Chain;
use crate::process::{self, Adopted, ExitRecord, ProcessId, Shim, ShimHandle, Status as ShimStatus};
use crate::store::{Filter, MAX_SESSIONS};

/// What has not ended.
const OPEN: [Status; 5] = [Status::Queued, Status::Starting, Status::Running, Status::Paused, Status::Stopping];
/// Events read at a time when joins are rebuilt.
const PAGE: usize = 1000;

/// Why a session has no live agent.
pub enum Gone {
    Exited(ExitRecord),
    Lost(String),
}

/// What recovery found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    pub adopted: usize,
    pub ended: usize,
    pub lost: usize,
}

pub(super) async fn recover(inner: &Arc<Inner>) -> Result<Recovered, Error> {
    let mut found = Recovered::default();
    // why before: an adopted session's chain must hold the rules of an answer that it was given.
    let (hold, gone) = rules::decided(inner);
    let mut filter = Filter { status: OPEN.to_vec(), limit: MAX_SESSIONS, ..Filter::default() };
    loop {
        let page = inner.store.sessions(&filter)?;
        for session in &page.items {
            match adopt(inner, session).await {
                Ok(true) => found.adopted += 1,
                Ok(false) => found.ended += 1,
                Err(e) => {
                    // why: one session that cannot be adopted must not keep the others from it; it stays as it is in the log.
                    tracing::error!(session = %session.id, code = e.code(), error = %e, "adoption failed");
                    found.lost += 1;
                }
            }
        }
        match page.next {
            Some(next) => filter.cursor = Some(next),
            None => break,
        }
    }
    for (ids, taken) in [(hold, true), (gone, false)] {
        if let Err(e) = rules::settle(inner, &ids, taken).await {
            // why: what was decided holds already; the next boot writes it down.
            tracing::error!(code = e.code(), error = %e, "rules of answers could not be written down");
        }
    }
    Ok(found)
}

/// True when the session goes on.
async fn adopt(inner: &Arc<Inner>, session: &Session) -> Result<bool, Error> {
    if let Some(process) = external::process_of(inner, session)? {
        return external::adopt(inner, session, process).await;
    }
    let run_dir = inner.run_dir(&session.id, session.attempt);
    let (mut live, witnesses) = rebuild(inner, session)?;
    if live.parking.away() {
        return go_on(inner, session.clone(), live, ShimHandle::gone(&run_dir), witnesses).await.map(|()| true);
    }
    let adopted = match Shim::adopt(&run_dir, session.id.as_str()).await {
        Err(e @ process::Error::Unreachable { .. }) => return silent(inner, session, live, witnesses, e).await,
        adopted => adopted?,
    };
    let (handle, events, status) = match adopted {
        Adopted::Live(handle, events, status) => (handle, events, status),
        // why not settled here: it may have ended to be put away, and the session goes on. Its task finds it ended.
        Adopted::Ended(_) if live.parking.leaving() => {
            return go_on(inner, session.clone(), live, ShimHandle::gone(&run_dir), witnesses).await.map(|()| true);
        }
        Adopted::Ended(record) => return settle_end(inner, session, Gone::Exited(record)).await.map(|()| false),
        Adopted::Lost { leftovers } => {
            let reason = match leftovers.len() {
                0 => "the agent and its shim are gone and left no exit record".to_owned(),
                n => format!("the shim was killed; {n} processes it left were ended"),
            };
            return settle_end(inner, session, Gone::Lost(reason)).await.map(|()| false);
        }
    };
    let mut session = session.clone();
    if session.status == Status::Starting {
        session = start::started(inner, &session, &session.command.clone(), &handle).await?;
    }
    live.last_frame = live.last_frame.max(resend(inner, &session, &handle, &status).await?);
    go_on(inner, session, live, (handle, events), witnesses).await?;
    Ok(true)
}

/// The shim lives and says nothing: its session is taken up without it, and its task waits for it ([`super::link`]).
///
/// Its processes have their session's role from now on, not the operator's.
async fn silent(inner: &Arc<Inner>, session: &Session, live: Live, witnesses: Witnesses, why: process::Error) -> Result<bool, Error> {
    let Some((shim, agent)) = recorded(inner, session)? else {
        // A start that was not recorded: its agent has been told nothing.
        return Err(why.into());
    };
    tracing::warn!(session = %session.id, pid = shim.pid, "the shim is alive and silent; its session waits for it");
    let parts = ShimHandle::silent(&inner.run_dir(&session.id, session.attempt), shim, agent);
    go_on(inner, session.clone(), live, parts, witnesses).await?;
    Ok(true)
}

/// Shim and agent by their recorded pids. While the lock is held the shim's is nobody else's.
fn recorded(inner: &Inner, session: &Session) -> Result<Option<(ProcessId, ProcessId)>, Error> {
    let (mut from, mut newest) = (1, None);
    while from <= session.last_seq {
        let page = inner.store.events(&session.id, from, PAGE)?;
        let started = page.iter().rev().find_map(|e| match &e.envelope.event {
            Event::AttemptStarted(a) => Some((a.shim_pid, a.pid)),
            _ => None,
        });
        newest = started.or(newest);
        let Some(last) = page.last() else { break };
        from = last.envelope.seq + 1;
    }
    let known = |(shim, agent)| process::identify(shim).map(|shim| (shim, process::identify(agent).unwrap_or_default()));
    Ok(newest.and_then(known))
}

/// Starts the task of a session that goes on, with or without an agent.
async fn go_on(
    inner: &Arc<Inner>,
    session: Session,
    live: Live,
    shim: (ShimHandle, process::ShimEvents),
    witnesses: Witnesses,
) -> Result<(), Error> {
    let driver = agent::driver(&session.agent)?;
    let cwd = std::path::PathBuf::from(&session.cwd);
    let config = inner.config_of(&cwd);
    let rules = inner.rules().for_session(&session.id, &session.cwd, config.needs_two(&session.labels));
    let chain = inner.chains.assemble_or_deny(&cwd, &rules).await;
    let cursor = inner.store.cursor(&session.id)?.map_or(0, |c| c.offset);
    start::spawn(inner, driver, session, live, shim, cursor, config, chain, false, witnesses);
    Ok(())
}

/// A session whose agent ended while no daemon was there: what it still said is read, then its end recorded.
pub(super) async fn settle_end(inner: &Arc<Inner>, session: &Session, gone: Gone) -> Result<(), Error> {
    let driver = agent::driver(&session.agent)?;
    let run_dir = inner.run_dir(&session.id, session.attempt);
    let (live, witnesses) = rebuild(inner, session)?;
    let cursor = inner.store.cursor(&session.id)?.map_or(0, |c| c.offset);
    let inbox = crate::process::Inbox::open(&run_dir, cursor);
    let (handle, events) = ShimHandle::gone(&run_dir);
    let (_mailbox, commands) = tokio::sync::mpsc::channel(1);
    // why: nothing is judged any more; a question that was never answered needs no chain to be settled.
    let (_chain, chains) =
        tokio::sync::watch::channel(Arc::new(Chain { slots: vec![], default: Effect::Deny, states: None, generation: 0 }));
    let parts = (handle, events);
    let config = inner.config.clone();
    let runner =
        super::run::Runner::new(inner.clone(), driver, session.clone(), live, parts, inbox, config, chains, commands, false, witnesses);
    runner.finish_lost(gone).await;
    Ok(())
}

/// Folds the joins of a session from its log, and how far its other witnesses were heard.
pub(super) fn rebuild(inner: &Inner, session: &Session) -> Result<(Live, Witnesses), Error> {
    let mut live = Live::default();
    let mut witnesses = Witnesses::new(None, session);
    let mut from = 1;
    loop {
        let page = inner.store.events(&session.id, from, PAGE)?;
        let Some(last) = page.last() else { break };
        from = last.envelope.seq + 1;
        for e in &page {
            live.replay(&e.envelope);
            witnesses.replay(&e.envelope.event, session);
        }
    }
    // why: a question and its answer are one append; only those that wait for a person may be without a decision.
    live.waiting.retain(|_, w| w.asked.expires_at != 0);
    // why the store too: not every frame has an event that names it.
    let (attempt, newest) = inner.store.newest_frame(&session.id)?;
    if attempt == session.attempt.max(1) {
        live.last_frame = live.last_frame.max(newest);
    }
    Ok((live, witnesses))
}

/// Hands over what the shim has not taken; gives the number of the newest frame.
pub(super) async fn resend(inner: &Inner, session: &Session, handle: &ShimHandle, status: &ShimStatus) -> Result<u64, Error> {
    let frames = inner.store.frames_after(&session.id, session.attempt.max(1), status.taken)?;
    let newest = frames.last().map_or(0, |f| f.no).max(status.taken);
    for f in frames {
        super::run::send(handle, &f).await;
    }
    Ok(newest)
}
