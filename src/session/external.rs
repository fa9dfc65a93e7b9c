//! Sessions that the host did not start: an agent in someone's own terminal, known by its hooks alone.
//!
//! Invariants:
//! - such a session is bound to one process (pid and start time), which must be the direct parent of every hook that speaks for it;
//!   what the agent started (a shell, another agent) can therefore not speak in its name;
//! - while the process lives, nobody else takes its conversation id; after its death the id is a new session that names the old one;
//! - it ends with the agent's own word or with its process, whichever comes first; a daemon that starts finds out which.
//!
//! Called by `Manager::hook` and by `recovery`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::command::Command;
use super::hook::{Heard, HookCall, HookOutcome, Tell};
use super::live::{self, Live};
use super::recovery::{self, Gone};
use super::run::Runner;
use super::start::brief::record_of_found;
use super::start::{first, preview, take};
use super::witness::Witnesses;
use super::{COMMAND_TIMEOUT, Error, Inner, LiveSession, Manager, context, moments, state};
use crate::agent::hook::{Hook, HookAnswer, HookEvent};
use crate::agent::{self, Driver};
use crate::model::moment::SessionStart;
use crate::model::{
    Actor, AgentStarted, AttemptEnded, AttemptStarted, By, Channel, Event, Mediation, Outcome, Session, SessionCreated, SessionEnded,
    SessionId, Witness,
};
use crate::process::{self, ProcessId, ShimHandle, Watch};
use crate::store::{Filter, MAX_SESSIONS};

/// Conversations of one agent process that may be live at once.
const PER_PROCESS: usize = 64;
/// Label of a session that takes up a conversation whose earlier record has ended.
const RESUMES: &str = "resumes";
/// Events at the beginning of a log among which its process is named.
const HEAD: usize = 512;
const NOTE: &str = "not started by the host: what the agent asks through its hooks is judged, and an agent whose hooks fail goes on";

/// What a live session of this kind is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct External {
    pub agent_session_id: String,
    pub process: ProcessId,
}

/// One hook call: finds the session it belongs to, or begins one, and lets its task answer.
pub(super) async fn hook(inner: &Arc<Inner>, call: HookCall) -> Result<HookOutcome, Error> {
    let driver = agent::driver(&call.agent)?;
    let hook = driver.hook(&call.body)?;
    if hook.event == HookEvent::Other {
        return Ok(HookOutcome::Reply(driver.hook_answer(HookAnswer::Pass)));
    }
    let hold = call.hold;
    let (id, tell) = match of_started(inner, &call) {
        Some(id) => (id, Tell { agent: driver.name(), hook, by: call.actor(), can_wait: call.can_wait, channel: Channel::Hook }),
        None => {
            let process = call.parent()?;
            let by = call.actor();
            let id = session_of(inner, driver, &hook, process, &by).await?;
            (id, Tell { agent: driver.name(), hook, by, can_wait: call.can_wait, channel: Channel::Hook })
        }
    };
    let (reply, answer) = oneshot::channel();
    let mailbox = inner.live().get(&id).map(|l| l.mailbox.clone()).ok_or_else(|| Error::Ended(id.clone()))?;
    mailbox.send(Command::Hook { tell: Box::new(tell), reply }).await.map_err(|_| Error::Ended(id.clone()))?;
    match tokio::time::timeout(hold, answer).await {
        Ok(Ok(told)) => {
            // why not of the others: one is only a record, and a person's time says nothing of the host.
            if told.as_ref().is_some_and(Heard::is_timed) {
                inner.metrics.hooked(call.begun.elapsed());
            }
            Ok(HookOutcome::Reply(driver.hook_answer(told.as_ref().map_or(HookAnswer::Pass, Heard::as_answer))))
        }
        Ok(Err(_)) => Err(if *inner.shutdown.borrow() { Error::ShuttingDown } else { Error::Ended(id) }),
        // why: the call is on record by now, or the session is busy; either way the client asks again and is joined with it.
        Err(_) if call.can_wait => Ok(HookOutcome::Wait),
        Err(_) => Err(Error::Busy),
    }
}

/// The session of the host's own that the caller runs in.
fn of_started(inner: &Inner, call: &HookCall) -> Option<SessionId> {
    let live = inner.live();
    let shims: Vec<_> = live.iter().filter(|(_, l)| l.external.is_none()).map(|(id, l)| (l.shim.shim(), id)).collect();
    call.chain.iter().find_map(|p| shims.iter().find(|(s, _)| s == p)).map(|(_, id)| (*id).clone())
}

async fn session_of(
    inner: &Arc<Inner>,
    driver: &'static dyn Driver,
    hook: &Hook,
    process: ProcessId,
    by: &Actor,
) -> Result<SessionId, Error> {
    if let Some(id) = bound(inner, driver, hook, process)? {
        return Ok(id);
    }
    let _one = inner.externals.lock().await;
    if let Some(id) = bound(inner, driver, hook, process)? {
        return Ok(id);
    }
    // why: a dead process's session may still be on its way to its end.
    let dead = find(inner, driver, &hook.agent_session_id).map(|(id, _)| id);
    if let Some(id) = dead {
        let manager = Manager { inner: inner.clone() };
        manager.ended(&id, COMMAND_TIMEOUT).await?;
    }
    create(inner, driver, hook, process, by).await
}

fn find(inner: &Inner, driver: &dyn Driver, agent_session_id: &str) -> Option<(SessionId, ProcessId)> {
    let live = inner.live();
    let mut found = live.iter().filter_map(|(id, l)| l.external.as_ref().map(|e| (id, l.agent, e)));
    found.find(|(_, agent, e)| *agent == driver.name() && e.agent_session_id == agent_session_id).map(|(id, _, e)| (id.clone(), e.process))
}

/// The live session of a conversation, if it is this process's; `None` when there is none, or its process is dead.
fn bound(inner: &Inner, driver: &dyn Driver, hook: &Hook, process: ProcessId) -> Result<Option<SessionId>, Error> {
    match find(inner, driver, &hook.agent_session_id) {
        Some((id, owner)) if owner == process => Ok(Some(id)),
        Some((id, owner)) if process::identify(owner.pid) == Some(owner) => Err(Error::OtherProcess { session: id, pid: owner.pid }),
        _ => Ok(None),
    }
}

async fn create(inner: &Arc<Inner>, driver: &'static dyn Driver, hook: &Hook, process: ProcessId, by: &Actor) -> Result<SessionId, Error> {
    let (live, here) = {
        let live = inner.live();
        (live.len() as u64, live.values().filter(|l| l.external.as_ref().is_some_and(|e| e.process == process)).count())
    };
    if live >= inner.config.live_sessions {
        return Err(Error::TooMany(inner.config.live_sessions));
    }
    if here >= PER_PROCESS {
        return Err(Error::Refused {
            what: format!("process {}", process.pid),
            why: format!("has {PER_PROCESS} live conversations, the limit"),
        });
    }
    let watch = Watch::open(process)?;
    let cwd = PathBuf::from(&hook.cwd);
    let reserved = inner.reserve(driver.name())?;
    let id = reserved.id.clone();
    let earlier = earlier(inner, driver, &hook.agent_session_id);
    let mut labels: BTreeMap<String, String> = earlier.map(|old| (RESUMES.to_owned(), old.to_string())).into_iter().collect();
    let two_person = inner.config_of(&cwd).needs_two(&labels);
    let rules = inner.rules().for_session(&id, &hook.cwd, two_person);
    let mut assembled = inner.chains.assemble(Some(&cwd), &rules).await?;
    let argv = process::command_line(process);
    let model = if let HookEvent::Started { model, .. } = &hook.event { model.clone() } else { None };
    let mut record = record_of_found(&cwd, &assembled.config.record)?;
    record.host_tools = assembled.config.host_tools;
    let created = |labels: &BTreeMap<String, String>| -> Event {
        SessionCreated {
            name: driver.name().to_owned(),
            agent: driver.name().to_owned(),
            command: argv.clone(),
            program: None,
            cwd: hook.cwd.clone(),
            home: std::env::var("HOME").ok().filter(|h| Path::new(h).is_absolute()),
            write_root: None,
            labels: labels.clone(),
            env_names: vec![],
            mediation: Mediation::Hooks,
            mediation_note: Some(NOTE.to_owned()),
            keep_open: true,
            created_by: by.clone(),
            unsafe_args: vec![],
            beadle_version: env!("CARGO_PKG_VERSION").to_owned(),
            prompt: None,
            record: record.clone(),
        }
        .into()
    };
    let mut live = Live::default();
    live.account.reporter = Witness::Hook;
    let states = state::of_new_session();
    let mut judged = Vec::new();
    if let Some(draft) = preview(inner, &id, created(&labels)) {
        let start = SessionStart {
            program: argv.first().cloned().unwrap_or_default(),
            args: argv.get(1..).unwrap_or_default().to_vec(),
            model: model.clone(),
            keep_open: true,
            role: by.role.clone(),
            ..SessionStart::default()
        };
        if let Some((ruling, failures)) = moments::judge_session(inner, &assembled.chain.keeping(&states), &draft, &start).await {
            let ruling = take(ruling, &mut labels, &mut assembled.config);
            live.moments.refused.clone_from(&ruling.refused);
            judged = failures;
            judged.push(ruling.into());
            judged.extend(state::changes(&states));
        }
    }
    if !two_person && assembled.config.needs_two(&labels) {
        let rules = inner.rules().for_session(&id, &hook.cwd, true);
        assembled.chain = inner.chains.assemble(Some(&cwd), &rules).await?.chain;
    }
    let mut events: Vec<Event> = vec![created(&labels)];
    events.extend(assembled.events);
    events.extend(context::added(&context::chosen(&assembled.config, None, driver)?, by));
    events.extend(judged);
    events.push(AttemptStarted { argv, pid: process.pid, agent_start: Some(process.start), ..AttemptStarted::default() }.into());
    events.extend(hook.transcript.clone().map(Event::from));
    events.push(AgentStarted { agent_session_id: Some(hook.agent_session_id.clone()), model, ..AgentStarted::default() }.into());
    let done = inner.store.append(first(inner, &id, events, &super::start::How::Now)).await?;
    let external = External { agent_session_id: hook.agent_session_id.clone(), process };
    let witnesses = Witnesses::new(hook.transcript.as_ref(), &done.session);
    spawn(inner, driver, (*done.session).clone(), live, external, watch, assembled.config, assembled.chain, witnesses).await;
    Ok(id)
}

/// The newest ended record of the same conversation, among the newest sessions.
fn earlier(inner: &Inner, driver: &dyn Driver, agent_session_id: &str) -> Option<SessionId> {
    let filter = Filter { agent: Some(driver.name().to_owned()), limit: MAX_SESSIONS, ..Filter::default() };
    // why ignore: the label is a help for people; a page that cannot be read shows itself elsewhere.
    let page = inner.store.sessions(&filter).ok()?;
    page.items.into_iter().find(|s| s.agent_session_id.as_deref() == Some(agent_session_id)).map(|s| s.id)
}

#[allow(clippy::too_many_arguments)] // why: the parts of a session, handed over once.
async fn spawn(
    inner: &Arc<Inner>,
    driver: &'static dyn Driver,
    session: Session,
    live: Live,
    external: External,
    watch: Watch,
    config: Arc<crate::config::Config>,
    chain: Arc<crate::policy::Chain>,
    witnesses: Witnesses,
) {
    let run_dir = inner.run_dir(&session.id, 1);
    let shim = ShimHandle::gone(&run_dir);
    let inbox = process::Inbox::open(&run_dir, 0);
    let (mailbox, commands) = tokio::sync::mpsc::channel(super::run::MAILBOX);
    let made = (chain.generation, chain.rules);
    let (chain, chains) = tokio::sync::watch::channel(chain);
    let cwd = PathBuf::from(&session.cwd);
    let two_person = config.needs_two(&session.labels);
    let entry = LiveSession {
        mailbox,
        chain,
        shim: shim.0.clone(),
        cwd,
        two_person,
        agent: driver.name(),
        stopping: false,
        external: Some(external),
    };
    inner.live().insert(session.id.clone(), entry);
    super::plugins::swap::catch_up(inner, &session.id, made).await;
    let mut runner = Runner::new(inner.clone(), driver, session, live, shim, inbox, config, chains, commands, false, witnesses);
    runner.watch_process(watch);
    tokio::spawn(runner.run(inner.shutdown.subscribe()));
}

/// The process that an open session of this kind is bound to; `None` for sessions of the host's own.
pub(super) fn process_of(inner: &Inner, session: &Session) -> Result<Option<ProcessId>, Error> {
    if session.mediation != Mediation::Hooks {
        return Ok(None);
    }
    let head = inner.store.events(&session.id, 1, HEAD)?;
    Ok(head.iter().find_map(|e| match &e.envelope.event {
        Event::AttemptStarted(a) => a.agent_start.map(|start| ProcessId { pid: a.pid, start }),
        _ => None,
    }))
}

/// Takes up a session of an earlier daemon; true when it goes on.
pub(super) async fn adopt(inner: &Arc<Inner>, session: &Session, process: ProcessId) -> Result<bool, Error> {
    let driver = agent::driver(&session.agent)?;
    let Ok(watch) = Watch::open(process) else {
        let why = "the agent's process ended while no daemon was there, and told no end";
        recovery::settle_end(inner, session, Gone::Lost(why.to_owned())).await?;
        return Ok(false);
    };
    let (live, witnesses) = recovery::rebuild(inner, session)?;
    let cwd = PathBuf::from(&session.cwd);
    let config = inner.config_of(&cwd);
    let rules = inner.rules().for_session(&session.id, &session.cwd, config.needs_two(&session.labels));
    let chain = inner.chains.assemble_or_deny(&cwd, &rules).await;
    let external = External { agent_session_id: session.agent_session_id.clone().unwrap_or_default(), process };
    spawn(inner, driver, session.clone(), live, external, watch, config, chain, witnesses).await;
    Ok(true)
}

impl Runner {
    /// Binds the task to a process that the host did not start.
    fn watch_process(&mut self, watch: Watch) {
        // why: nobody but the agent's own user was ever expected at a terminal of ours.
        self.unattended_since = None;
        if self.session.breaches > 0 && self.config.on_breach == crate::config::OnBreach::Stop {
            self.ending = Some(super::run::Ending::Breach);
        }
        self.external = Some(watch);
    }

    /// Ends the agent on the operator's word: TERM to it, or KILL to its whole family.
    pub(super) fn stop_process(&self, kill: bool) {
        if let Some(watch) = &self.external {
            watch.signal(kill);
        }
    }

    /// The end of a session without a shim: `reason` is the agent's own word, or `None` when only its process is gone.
    pub(super) async fn finish_external(mut self, reason: Option<String>) {
        self.finishing = true;
        self.take_log_back();
        self.consult_last().await;
        self.resolve_all(By::Withdrawn, "the agent ended before the answer", false);
        let outcome = match (self.ending, &reason) {
            (Some(super::run::Ending::Kill), _) => Outcome::Killed,
            (Some(super::run::Ending::Stop), _) => Outcome::Stopped,
            (Some(super::run::Ending::Breach), _) => Outcome::Breach,
            (_, Some(_)) => Outcome::Exited,
            (_, None) => Outcome::Lost,
        };
        let why = match &reason {
            Some(word) if word.is_empty() => "the agent said that it ended".to_owned(),
            Some(word) => format!("the agent said that it ended: {}", live::cut(word, 200)),
            None => "the agent's process is gone and told no end".to_owned(),
        };
        if reason.is_some() {
            self.verify_end(None).await;
        }
        let (outcome, unaccepted) = self.verified_outcome(outcome);
        let why = unaccepted.unwrap_or(why);
        let ended: AttemptEnded = super::finish::unseen(outcome, why.clone());
        self.pending.events.push(ended.into());
        self.pending.events.push(SessionEnded { outcome, reason: Some(why), report: None }.into());
        self.commit().await;
        self.inner.forget(&self.id);
    }
}
