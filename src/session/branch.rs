//! Sessions that go on from another's log: a fork at an event, and the work of an ended session taken up again.
//!
//! | the agent | how it is given what was said |
//! | --- | --- |
//! | keeps a record that is there, or of which the host kept a copy (`transcript_kept`, or a compaction's) | its own resume, from a new record cut at the event |
//! | keeps none, or it is gone | a text made from the log, beside the first prompt and apart from it ([`replay`]) |
//!
//! Invariants:
//! - nothing of the first log is copied: the new one names it with seq and hash (`session_created`), the first one names the new
//!   (`session_forked`), and the chain of the first proves all that is before;
//! - the first record is only read; the new one has an id of its own and is synced before the agent is started;
//! - a call stands in the new record with its result or not at all;
//! - the new session starts as any other does: policies, limits, attestation, caps of its tree. It begins with an empty ledger, below the same
//!   parent.
//!
//! Called by `api`, through `Manager`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::transcript::whole;
use super::tree::TreeError;
use super::{Brief, Error, Manager, StartRequest, live, start};
use crate::agent::{self, Cut, Driver, Reached};
use crate::model::{
    Actor, AttemptsPlanned, BranchKind, Event, Excerpt, Origin, PromptContext, Record, Session, SessionCreated, SessionForked, SessionId,
    Status, TranscriptNamed, UNASSIGNED, UsageLimits,
};
use crate::whole::apart;

mod replay;

/// Events read at a time.
const PAGE: usize = 1_000;
/// How often, and how long apart, the agent's record is looked at for what was said last: it is written late.
const LOOKS: u32 = 50;
const LOOK: Duration = Duration::from_millis(100);

/// What a caller wants; what is left out is as it was in the first session.
#[derive(Debug, Clone, Default)]
pub struct BranchRequest {
    /// The last event that counts; the newest when left out.
    pub at: Option<u64>,
    pub name: Option<String>,
    pub prompt: Option<String>,
    pub env: BTreeMap<String, String>,
    pub umask: Option<u32>,
    pub model: Option<String>,
    pub mcp_config: Option<Value>,
    pub limits: Option<UsageLimits>,
    pub keep_open: bool,
    pub attach: bool,
    /// By id, unique prefix of one, or name; the same parent when left out.
    pub parent: Option<String>,
    /// Give a text made from the log also where the agent's record is there.
    pub replay: bool,
}

/// What a session starts with that goes on from another.
#[derive(Debug, Clone, PartialEq)]
pub struct GoingOn {
    pub origin: Origin,
    /// The agent's record that was written for it: where, under which id, and how long it is.
    pub record: Option<TranscriptNamed>,
    /// What is given beside the first prompt.
    pub context: Option<PromptContext>,
    /// The whole of that, where an event holds only its beginning.
    pub blob: Option<Vec<u8>>,
}

/// What the first log says up to the event.
pub(super) struct Past {
    created: SessionCreated,
    hash: String,
    reached: (BTreeSet<String>, BTreeSet<String>),
    /// The newest message with words, and the newest call that ended.
    last: (Option<String>, Option<String>),
    named: Option<TranscriptNamed>,
    /// Digests of copies of records, by the agent's id of the conversation.
    copies: BTreeMap<String, String>,
    held: Held,
    planned: Option<AttemptsPlanned>,
    /// The tier of the attempt that is to come.
    next: u32,
    compact_at: Option<u64>,
    limits: UsageLimits,
    model: Option<String>,
    replay: replay::Replay,
}

/// The attempt that holds the conversation: the newest whose agent has one.
struct Held {
    /// Its place on the ladder.
    tier: u32,
    agent: String,
    argv: Vec<String>,
}

impl Manager {
    /// Starts a session that goes on from another.
    pub async fn branch(&self, id: &SessionId, how: BranchKind, request: BranchRequest, by: Actor) -> Result<Session, Error> {
        let session = self.inner.store.session(id)?;
        let at = request.at.unwrap_or(session.last_seq);
        let cannot = |why: String| Error::from(TreeError::NoBranch { session: id.clone(), at, why });
        if how == BranchKind::Resume && session.status != Status::Ended {
            let why = format!(
                "it is {}; only the work of an ended session is taken up again, and `beadle fork` goes another way",
                session.status.as_str()
            );
            return Err(cannot(why));
        }
        if at == 0 || at > session.last_seq {
            return Err(cannot(format!("its log has the events 1 to {}", session.last_seq)));
        }
        let past = tokio::task::block_in_place(|| self.past(&session, at))?;
        let driver = agent::driver(&past.held.agent)?;
        if !driver.speaks() || driver.prompt("", &[]).is_none() {
            return Err(cannot(format!("{} has no conversation to go on with; start it anew with `beadle run`", past.held.agent)));
        }
        let all = at == session.last_seq && session.status == Status::Ended;
        let mut why_replayed = None;
        let mut record = None;
        let new = start::uuid(&self.inner);
        match self.record_of(driver, &session, &past, all, &new).await {
            _ if request.replay => why_replayed = Some("it was asked for".to_owned()),
            Ok(cut) => record = Some(cut),
            Err(why) if driver.takes_context() => why_replayed = Some(why),
            Err(why) => return Err(cannot(why)),
        }
        let added = record.as_ref().and_then(|(_, cut)| cut.adds.map(str::to_owned));
        let left_out = record.as_ref().and_then(|(_, cut)| cut.left_out.clone());
        let left_out = left_out.or(why_replayed.map(|w| live::cut(&format!("its own record: {w}"), 512)));
        // why: the log has the arguments of the first tier only.
        let args = (past.held.tier > 0).then(|| "the arguments of its tier, which the log does not hold".to_owned());
        let left_out = match (left_out, args) {
            (Some(one), Some(other)) => Some(format!("{one}; {other}")),
            (one, other) => one.or(other),
        };
        let mut origin = Origin {
            how,
            session: id.clone(),
            at,
            hash: past.hash.clone(),
            given: if record.is_some() { "conversation" } else { "replay" }.to_owned(),
            conversation: past.named.as_ref().map(|n| n.conversation.clone()).filter(|_| record.is_some()),
            left_out,
            text: None,
            added,
        };
        let (mut context, mut blob) = (None, None);
        if record.is_none() {
            if request.prompt.is_none() {
                return Err(cannot(
                    "its agent's own record is not there, and what the log holds is given with a prompt: say one".to_owned(),
                ));
            }
            let text = past.replay.text();
            let (excerpt, whole): (Excerpt, Option<Vec<u8>>) = live::excerpt(text.clone().into_bytes());
            origin.text = Some(excerpt);
            blob = whole;
            context = Some(PromptContext { policy: format!("beadle {} of {id}", how.as_str()), text });
        }
        let start =
            start_request(&session, past, request, GoingOn { origin: origin.clone(), record: record.map(|(r, _)| r), context, blob })
                .map_err(cannot)?;
        let started = self.start(start, by.clone()).await?;
        super::failpoint::hit("branched");
        let forked = SessionForked { how, to: started.id.clone(), at, hash: origin.hash, by };
        self.append_to(id, vec![forked.into()]).await?;
        Ok(started)
    }

    /// Records on the other side what a daemon that died left out: an open session that goes on from another, which does not say so.
    pub(super) async fn name_branches(&self) {
        let live: Vec<SessionId> = self.inner.live().keys().cloned().collect();
        for id in live {
            let Ok(session) = self.inner.store.session(&id) else { continue };
            let Some(o) = &session.record.origin else { continue };
            let Ok(source) = self.inner.store.session(&o.session) else { continue };
            if source.branches.iter().any(|b| b.session == id) {
                continue;
            }
            let forked = SessionForked { how: o.how, to: id.clone(), at: o.at, hash: o.hash.clone(), by: session.created_by.clone() };
            if let Err(e) = self.append_to(&o.session, vec![forked.into()]).await {
                tracing::error!(session = %id, code = e.code(), error = %e, "the session that it goes on from does not say so");
            }
        }
    }

    pub(super) fn past(&self, session: &Session, at: u64) -> Result<Past, Error> {
        let (mut from, mut past) = (1, None::<Past>);
        while from <= session.last_seq {
            let page = self.inner.store.events(&session.id, from, PAGE)?;
            let Some(last) = page.last() else { break };
            from = last.envelope.seq + 1;
            for e in &page {
                // why those behind it, too: a copy of the record holds what was said before as well.
                if let Some(p) = &mut past {
                    p.copy(&e.envelope.event);
                }
                if e.envelope.seq > at {
                    continue;
                }
                match (&mut past, &e.envelope.event) {
                    (None, Event::SessionCreated(c)) => past = Some(Past::begin(c.clone())),
                    (Some(p), _) => p.fold(&e.envelope),
                    (None, _) => {}
                }
                if let Some(p) = &mut past {
                    p.hash = e.hash.to_string();
                }
            }
        }
        past.ok_or_else(|| TreeError::NoBranch { session: session.id.clone(), at, why: "its log does not begin as one".to_owned() }.into())
    }

    /// Writes the agent's record for the new session; the error says why there is none.
    pub(super) async fn record_of(
        &self,
        driver: &dyn Driver,
        session: &Session,
        past: &Past,
        all: bool,
        new: &str,
    ) -> Result<(TranscriptNamed, Cut), String> {
        let named =
            past.named.as_ref().ok_or_else(|| format!("{} keeps no record of its conversation that is known here", past.held.agent))?;
        let (messages, calls) = past.reached.clone();
        let upto = if all { Reached::default() } else { Reached { messages: Some(messages), calls: Some(calls) } };
        let holds = |bytes: &[u8]| driver.holds(bytes, past.last.0.as_deref(), past.last.1.as_deref());
        let mut looks = 0;
        let bytes = loop {
            let read = tokio::task::block_in_place(|| whole::read(&named.root, &named.conversation, &session.cwd).map(|w| w.bytes));
            match read {
                Ok(bytes) if holds(&bytes) || (all && looks >= LOOKS) => break bytes,
                Ok(_) if looks < LOOKS => {}
                Ok(_) => return Err("it does not hold what the log has".to_owned()),
                // There may be a copy of it, without secrets.
                Err(why) => match past.copies.get(&named.conversation).and_then(|d| d.parse().ok()) {
                    Some(digest) => break tokio::task::block_in_place(|| self.inner.store.blob(&digest)).map_err(|e| e.to_string())?,
                    None => return Err(why),
                },
            }
            looks += 1;
            tokio::time::sleep(LOOK).await;
        };
        let write = || -> Result<Cut, String> {
            let cut = apart(|| driver.cut(&bytes, &upto, new))??;
            apart(|| driver.conversation(&cut.bytes))??;
            whole::place(&named.root, &session.cwd, new, &cut.bytes)?;
            Ok(cut)
        };
        let cut = tokio::task::block_in_place(write)?;
        let written = cut.bytes.len() as u64;
        Ok((TranscriptNamed { root: named.root.clone(), conversation: new.to_owned(), written }, cut))
    }
}

impl Past {
    /// The record `new`, where an earlier daemon made it from this one and did not come to use it.
    pub(super) fn made(&self, new: &str, cwd: &str, driver: &dyn Driver) -> Option<TranscriptNamed> {
        let root = self.named.as_ref()?.root.clone();
        let bytes = tokio::task::block_in_place(|| whole::read(&root, new, cwd)).ok()?.bytes;
        apart(|| driver.conversation(&bytes)).ok()?.ok()?;
        Some(TranscriptNamed { root, conversation: new.to_owned(), written: bytes.len() as u64 })
    }

    /// What was said and done, as a text.
    pub(super) fn told(&self) -> String {
        self.replay.text()
    }

    fn begin(created: SessionCreated) -> Self {
        Self {
            held: Held { tier: 0, agent: created.agent.clone(), argv: vec![] },
            planned: None,
            next: 0,
            created,
            hash: String::new(),
            reached: Default::default(),
            last: (None, None),
            named: None,
            copies: BTreeMap::new(),
            compact_at: None,
            limits: UsageLimits::default(),
            model: None,
            replay: replay::Replay::default(),
        }
    }

    fn fold(&mut self, e: &crate::model::Envelope) {
        self.replay.fold(e);
        match &e.event {
            Event::AgentReplied(r) if r.parent_call_id.is_none() => {
                if let Some(id) = &r.message_id {
                    self.reached.0.insert(id.clone());
                    self.last.0 = Some(id.clone());
                }
            }
            Event::ToolEnded(t) => {
                if let Some(id) = &t.call_id {
                    self.reached.1.insert(id.clone());
                    if !self.replay.is_of_sub_agent(id) {
                        self.last.1 = Some(id.clone());
                    }
                }
            }
            Event::TranscriptNamed(n) => {
                // Another conversation: what was said last is not in its own words there.
                if self.named.as_ref().is_some_and(|was| was.conversation != n.conversation) {
                    self.last = (None, None);
                }
                self.named = Some(n.clone());
            }
            Event::AttemptsPlanned(p) => self.planned = Some(p.clone()),
            Event::AttemptScheduled(n) => self.next = n.tier,
            Event::AttemptStarted(a) if !a.argv.is_empty() => {
                let planned = self.planned.as_ref().and_then(|p| p.tiers.get(self.next as usize));
                let agent = planned.map_or(&self.created.agent, |t| &t.agent);
                // why: of tiers that only run a command there is nothing to go on with, and their program is not the agent's.
                if agent::driver(agent).is_ok_and(|d| d.speaks()) {
                    self.held = Held { tier: self.next, agent: agent.clone(), argv: a.argv.clone() };
                }
            }
            Event::AgentStarted(a) => self.model = a.model.clone().or(self.model.take()),
            Event::CompactionSet(c) => self.compact_at = Some(c.threshold_percent),
            Event::UsageLimitsSet(l) => self.limits = l.limits,
            _ => {}
        }
    }

    /// Copies of the agent's record: those that compactions kept, and those of the ends of attempts.
    fn copy(&mut self, event: &Event) {
        let (of, copy) = match event {
            Event::ContextCompacted(c) => match &c.host {
                Some(h) => (&h.from, &h.copy),
                None => return,
            },
            Event::TranscriptKept(k) => match k.files.first() {
                Some(f) => (&k.conversation, &f.blob),
                None => return,
            },
            _ => return,
        };
        if let Some(digest) = copy {
            self.copies.insert(of.clone(), digest.clone());
        }
    }

    /// The MCP servers that it was started with, where the log has them whole.
    fn mcp_config(&self) -> Result<Option<Value>, String> {
        // why not the host's own: it is given anew.
        let theirs = |a: &&String| a.as_str() != agent::claude::OWN_SERVER;
        let named = self.held.argv.iter().filter(theirs).find_map(|a| a.strip_prefix("--mcp-config="));
        let Some(text) = named else { return Ok(None) };
        let whole = serde_json::from_str(text).ok().filter(|_| !text.contains(super::mask::MARK));
        whole.map(Some).ok_or_else(|| "the log does not hold its MCP configuration whole; give it again with --mcp-config".to_owned())
    }
}

/// The first session's request again, with what the caller says otherwise.
fn start_request(session: &Session, past: Past, r: BranchRequest, going_on: GoingOn) -> Result<StartRequest, String> {
    let mcp_config = match r.mcp_config.clone() {
        Some(given) => Some(given),
        None => past.mcp_config()?,
    };
    let (c, held) = (past.created, past.held);
    // why: whoever did without them, or without context providers, does so again.
    let host_tools = (!c.record.host_tools).then_some(false);
    let context = session.context.is_empty().then(Vec::new);
    let is_demo = held.agent == "demo";
    // why the newest program: it is the one that the conversation was held with. The host itself is the demo's.
    let program = held.argv.first().or(c.command.first()).filter(|_| !is_demo).cloned();
    let (args, unsafe_args) =
        if held.tier == 0 { (c.command.get(1..).unwrap_or_default().to_vec(), c.unsafe_args) } else { (vec![], vec![]) };
    let model = r.model.or(past.model).or_else(|| session.model.clone());
    Ok(StartRequest {
        name: r.name.or_else(|| Some(c.name.clone())),
        agent: held.agent,
        program,
        args,
        unsafe_args,
        cwd: PathBuf::from(c.cwd),
        umask: r.umask,
        env: r.env,
        keep_open: r.keep_open || r.prompt.is_none(),
        prompt: r.prompt,
        labels: c.labels,
        brief: brief(c.record, r.parent, going_on.origin.clone()),
        write_root: c.write_root.map(PathBuf::from),
        model: model.filter(|_| !is_demo),
        mcp_config,
        host_tools,
        attach: r.attach,
        limits: r.limits.unwrap_or(past.limits),
        compact_at: past.compact_at,
        going_on: Some(going_on),
        context,
        ..StartRequest::default()
    })
}

fn brief(r: Record, parent: Option<String>, origin: Origin) -> Brief {
    Brief {
        target: r.target,
        owner: Some(r.owner).filter(|o| o != UNASSIGNED),
        mission: r.mission,
        assignment: r.assignment,
        phase: r.phase,
        tenant: r.tenant,
        thread: r.thread,
        parent: parent.or_else(|| r.parent.map(|p| p.to_string())),
        allowed_tools: r.allowed_tools,
        read_only_repo: !r.repository_writable,
        expect_report: r.report_expected,
        origin: Some(origin),
    }
}
