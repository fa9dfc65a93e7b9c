//! At boot: every session that has not ended is adopted, or its end is learnt and recorded. Unknown is never dead.
//!
//! What a dead daemon had read, decided or sent is in the log, the cursor and the stored frames; the rest waits in the shim's
//! segments. So adoption is: rebuild the joins from the events, resend frames the shim has not taken, read on.
//!
//! Called once by `daemon` before requests are served; a session's task uses its parts when its link to the shim breaks (`link`).

use std::path::Path;
use std::sync::Arc;

use super::live::Live;
use super::witness::Witnesses;
use super::{Error, Inner, external, ladder, queue, rules, start};
use crate::agent;
use crate::model::{Effect, Event, Session, SessionId, Status};
use crate::policy::Chain;
use crate::process::{
    self, Adopted, ExitRecord, ProcessId, Shim, ShimEvents, ShimHandle, Status as ShimStatus, kill_leftovers, kill_silent,
};
use crate::store::{Filter, MAX_SESSIONS};

/// What has not ended.
pub(super) const OPEN: [Status; 5] = [Status::Queued, Status::Starting, Status::Running, Status::Paused, Status::Stopping];
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
            if queue::is_ours(session) {
                continue;
            }
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
pub(super) async fn adopt(inner: &Arc<Inner>, session: &Session) -> Result<bool, Error> {
    if session.record.writer.is_some() {
        // why not ended: nobody can tell whether its writer is gone.
        inner.idle.heard(session);
        return Ok(true);
    }
    if let Some(process) = external::process_of(inner, session)? {
        return external::adopt(inner, session, process).await;
    }
    let run_dir = inner.run_dir(&session.id, start::attempt_of(session));
    if session.status == Status::Starting && session.queue.is_some() && !process::was_tried(&run_dir) {
        return queue::take_back(inner, session).await.map(|()| false);
    }
    let (mut live, witnesses) = rebuild(inner, session)?;
    if live.parking.away() {
        // why: an agent of the next attempt that was started and is not on record is the session's all the same, and ends with it.
        let begun = alive(&inner.run_dir(&session.id, session.attempt + 1), &session.id).await;
        let shim = begun.unwrap_or_else(|| ShimHandle::gone(&run_dir));
        return go_on(inner, session.clone(), live, shim, witnesses).await.map(|()| true);
    }
    let adopted = match Shim::adopt(&run_dir, session.id.as_str()).await {
        Err(e @ process::Error::Unreachable { .. }) => return silent(inner, session, live, witnesses, e).await,
        adopted => adopted?,
    };
    let (handle, events, status) = match adopted {
        Adopted::Live(handle, events, status) => (handle, events, status),
        // why not settled here: it may have ended to be put away, and the session goes on. Its task finds it ended.
        Adopted::Ended(_) if live.parking.leaving() || live.ladder.is_planned() => {
            let session = &recorded_start(inner, session, &mut live, &ShimHandle::gone(&run_dir).0).await?;
            let verifying = alive(&ladder::verifier_dir(&run_dir), &session.id).await;
            go_on(inner, session.clone(), live, ShimHandle::gone(&run_dir), witnesses).await?;
            if let Some((shim, _)) = verifying
                && let Some(entry) = inner.live().get_mut(&session.id)
            {
                entry.shim = shim;
            }
            return Ok(true);
        }
        // why by its task: it starts the next agent, too.
        Adopted::Lost { .. } if live.ladder.restarts_lost() && session.attempt > 0 => {
            return go_on(inner, session.clone(), live, ShimHandle::gone(&run_dir), witnesses).await.map(|()| true);
        }
        Adopted::Ended(record) => return settle_end(inner, session, Gone::Exited(record)).await.map(|()| false),
        Adopted::Lost { leftovers } => {
            return settle_end(inner, session, Gone::Lost(lost(&leftovers))).await.map(|()| false);
        }
    };
    let session = recorded_start(inner, session, &mut live, &handle).await?;
    live.last_frame = live.last_frame.max(resend(inner, &session, &handle, &status).await?);
    go_on(inner, session, live, (handle, events), witnesses).await?;
    Ok(true)
}

/// Why a session is lost whose shim left these processes.
pub(super) fn lost(leftovers: &[u32]) -> String {
    match leftovers.len() {
        0 => "the agent and its shim are gone and left no exit record".to_owned(),
        n => format!("the shim was killed; {n} processes it left were ended"),
    }
}

/// A start that an earlier daemon did not live to record is recorded now.
async fn recorded_start(inner: &Arc<Inner>, session: &Session, live: &mut Live, shim: &ShimHandle) -> Result<Session, Error> {
    if session.status != Status::Starting {
        return Ok(session.clone());
    }
    let session = start::started(inner, session, &session.command.clone(), shim).await?;
    if live.ladder.is_planned() {
        live.ladder.begin(session.last_activity_at);
    }
    Ok(session)
}

/// The shim that lives in a folder, and may be silent: its processes have their session's role from the first request on.
pub(super) async fn alive(run_dir: &Path, id: &SessionId) -> Option<(ShimHandle, ShimEvents)> {
    if !run_dir.exists() {
        return None;
    }
    match Shim::adopt(run_dir, id.as_str()).await {
        Ok(Adopted::Live(handle, events, _)) => Some((handle, events)),
        Err(process::Error::Unreachable { .. }) => {
            let shim = process::shim_in(run_dir).await.unwrap_or_default();
            Some(ShimHandle::silent(run_dir, shim, ProcessId::default()))
        }
        _ => None,
    }
}

/// Ends what of a session runs beside its attempts on record: a verifier, or the agent of an attempt that was about to begin. An earlier
/// daemon left it; once the session has ended, nobody would.
pub(super) async fn end_rest(inner: &Inner, session: &Session) {
    let dir = inner.run_dir(&session.id, session.attempt);
    for dir in [ladder::verifier_dir(&dir), inner.run_dir(&session.id, session.attempt + 1)] {
        let Some((handle, mut events)) = alive(&dir, &session.id).await else { continue };
        tracing::warn!(session = %session.id, path = %dir.display(), "what an earlier daemon left running is ended with its session");
        if handle.is_linked() {
            ladder::end_run(&handle, &mut events).await;
        } else {
            let (shim, marker) = (handle.shim(), session.id.to_string());
            // An error is the runtime's end.
            let _ = tokio::task::spawn_blocking(move || (kill_silent(shim), kill_leftovers(&marker))).await;
        }
    }
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
    shim: (ShimHandle, ShimEvents),
    witnesses: Witnesses,
) -> Result<(), Error> {
    let driver = agent::driver(live.ladder.agent(&session.agent))?;
    let cwd = std::path::PathBuf::from(&session.cwd);
    let config = inner.config_of(&cwd);
    let rules = inner.rules().for_session(&session.id, &session.cwd, config.needs_two(&session.labels));
    let chain = inner.chains.assemble_or_deny(&cwd, &rules).await;
    let cursor = inner.store.cursor(&session.id)?.map_or(0, |c| c.offset);
    start::spawn(inner, driver, session, live, shim, cursor, config, chain, false, witnesses).await;
    Ok(())
}

/// A session whose agent ended while no daemon was there: what it still said is read, then its end recorded.
pub(super) async fn settle_end(inner: &Arc<Inner>, session: &Session, gone: Gone) -> Result<(), Error> {
    let run_dir = inner.run_dir(&session.id, start::attempt_of(session));
    let (live, witnesses) = rebuild(inner, session)?;
    let driver = agent::driver(live.ladder.agent(&session.agent))?;
    let cursor = inner.store.cursor(&session.id)?.map_or(0, |c| c.offset);
    let inbox = crate::process::Inbox::open(&run_dir, cursor);
    let (handle, events) = ShimHandle::gone(&run_dir);
    let (_mailbox, commands) = tokio::sync::mpsc::channel(1);
    // why: nothing is judged any more; a question that was never answered needs no chain to be settled.
    let (_chain, chains) = tokio::sync::watch::channel(Arc::new(Chain {
        slots: vec![],
        default: Effect::Deny,
        states: None,
        generation: 0,
        rules: 0,
        made_of: None,
    }));
    let parts = (handle, events);
    let config = inner.config.clone();
    let mut runner =
        super::run::Runner::new(inner.clone(), driver, session.clone(), live, parts, inbox, config, chains, commands, false, witnesses);
    runner.ending = runner.ending_on_record();
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
    if session.is_held() {
        // why: the agent is told when it goes on.
        return Ok(newest);
    }
    for f in frames {
        super::run::send(handle, &f).await;
    }
    Ok(newest)
}
