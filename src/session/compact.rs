//! Compacting a live conversation: between turns the agent is ended, a shorter record of a new conversation is written, and the agent is
//! started anew from that.
//!
//! | step | on record then | a daemon that dies behind it |
//! | --- | --- | --- |
//! | a plan is made and found good | nothing | the agent goes on as it was |
//! | the agent's input is closed | `compaction_began`, with that frame | the next one waits for the agent's end, and goes on below |
//! | the agent has ended; planned again, on the whole record | nothing | the same; a record that was written and not named is nobody's |
//! | the new record stands, synced | `attempt_ended`, `context_compacted`, `transcript_named`, `session_paused`, in one append | [`relaunch`](super::relaunch), from the new conversation |
//!
//! Invariants:
//! - the old record is never written to; until the new one is named the session goes on with the old one, afterwards with the new one;
//! - nothing is compacted in a turn, at an open question, or where ending the agent would end more than the agent;
//! - where the second plan fails, the agent is started anew from the old conversation and the log says why; so it is where the agent does not
//!   take the shorter one ([`failed`]);
//! - prompts that come meanwhile wait, at most [`PROMPTS`], and are given to the agent that comes back.
//!
//! Called by `run` (after each turn), `command` and `park` (the agent's end).

mod failed;
mod kept;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::command::Command;
use super::live::Live;
use super::park::stage::Stage;
use super::plugins::watchdog;
use super::relaunch::Kept;
use super::run::{CLOSE_INPUT, Runner};
use super::transcript::whole::{self, Whole};
use super::witness::Witnesses;
use super::{Error, Inner, Manager, failpoint, finish, live, mask, recovery, start};
use crate::agent::{self, Driver};
use crate::compaction::{Checked, ESTIMATOR, Folded, Unpinned, check};
use crate::config::Config;
use crate::model::{
    Actor, CompactionBegan, ContextCompacted, Edit, Event, HostCompaction, Outcome, Session, SessionId, SessionPaused, Status,
    TranscriptNamed,
};
use crate::plugin::{PlanQuestion, Plugin};
use crate::process::ExitRecord;
use crate::store::Frame;
use crate::whole::apart;

/// Prompts that wait for an agent that is started anew.
const PROMPTS: usize = 16;
/// Looks at a session that is over the threshold and cannot be compacted at once; they are up to a second apart.
const LOOKS: u32 = 10;
/// How often, and how long apart, the agent's record is looked at for its newest words: it is written late.
const RECORD_LOOKS: u32 = 30;
const RECORD_LOOK: Duration = Duration::from_millis(100);

/// What a caller wants; what is left out is as configured.
#[derive(Debug, Clone, Default)]
pub struct CompactRequest {
    pub strategy: Option<String>,
    /// JSON.
    pub config: Option<String>,
    /// Tokens of the conversation, as the estimator counts them.
    pub target: Option<u64>,
    pub unpinned: Unpinned,
    pub dry_run: bool,
}

/// What a plan comes to.
#[derive(Debug, Clone)]
pub struct CompactReport {
    pub strategy: String,
    pub version: String,
    pub digest: String,
    pub target: u64,
    pub tokens_before: u64,
    pub tokens_after: u64,
    pub dropped: u64,
    pub changed: u64,
    pub retained: u64,
    pub spared: u64,
    pub edits: Vec<Edit>,
    /// seq of the event with which it began; none of a dry run.
    pub began: Option<u64>,
}

/// A prompt that came meanwhile, who gave it, and where its answer goes.
type Prompt = (String, Actor, oneshot::Sender<Result<Session, Error>>);

/// What a session's task remembers of compaction. Nothing of it is needed by a later daemon.
#[derive(Default)]
pub(super) struct Compaction {
    /// A turn ended: the threshold is looked at.
    pub due: bool,
    /// How often the threshold was looked at since.
    looks: u32,
    /// The context's size from which on it is tried again, and tries in a row that came to nothing.
    again_at: u64,
    failures: u32,
    prompts: Vec<Prompt>,
    /// Frames of prompts given to an agent that has not shown yet that it took the shorter record.
    given: Vec<Vec<u8>>,
    /// What such an agent said of a failure, and may have said last.
    refusal: Option<crate::agent::Output>,
}

/// A good plan, and the record that it is for.
struct Planned {
    plugin: Arc<Plugin>,
    whole: Whole,
    edits: Vec<Edit>,
    checked: Checked,
    target: u64,
}

impl Planned {
    fn saves(&self) -> bool {
        self.checked.tokens_after < self.checked.tokens_before && !self.checked.rewrite.is_empty()
    }

    fn retained(&self) -> u64 {
        let new = self.checked.rewrite.summaries.len() + self.checked.changed;
        self.checked.pieces.len().saturating_sub(new) as u64
    }

    fn report(&self) -> CompactReport {
        let (d, c) = (self.plugin.describe(), &self.checked);
        CompactReport {
            strategy: d.name.clone(),
            version: d.version.clone(),
            digest: self.plugin.digest().to_owned(),
            target: self.target,
            tokens_before: c.tokens_before,
            tokens_after: c.tokens_after,
            dropped: c.dropped as u64,
            changed: c.changed as u64,
            retained: self.retained(),
            spared: c.spared as u64,
            edits: self.edits.clone(),
            began: None,
        }
    }
}

impl Manager {
    /// Makes the conversation shorter, between turns, or only says what would come of it.
    pub async fn compact(&self, id: &SessionId, request: CompactRequest, by: Actor) -> Result<CompactReport, Error> {
        if request.dry_run {
            return preview(&self.inner, &self.inner.store.session(id)?, request).await;
        }
        self.command(id, |reply| Command::Compact { request, by, reply }).await?
    }
}

/// What would come of it, for a session in any state whose agent keeps a record.
pub(super) async fn preview(inner: &Arc<Inner>, session: &Session, request: CompactRequest) -> Result<CompactReport, Error> {
    let (live, _) = recovery::rebuild(inner, session)?;
    let config = inner.config_of(std::path::Path::new(&session.cwd));
    let wanted = wanted(request, inner, &config);
    let named = (live.parking.root.as_str(), live.parking.conversation.as_str());
    let driver = agent::driver(&session.agent)?;
    if session.status == Status::Running && live.prompts <= live.turns {
        record_follows(driver, session, &live).await;
    }
    Ok(plan(inner, driver, session, named, &wanted, &config).await?.report())
}

fn wanted(mut r: CompactRequest, inner: &Inner, config: &Config) -> CompactRequest {
    let strategy = r.strategy.get_or_insert_with(|| config.compaction.strategy.clone());
    // why only then: the settings of one strategy are not those of another.
    let set = Some(&config.compaction.config).filter(|c| *strategy == config.compaction.strategy && c.trim() != "{}");
    let own = || set.cloned().or_else(|| inner.chains.strategy_config(strategy)).unwrap_or_else(|| "{}".to_owned());
    r.config.get_or_insert_with(own);
    r
}

async fn plan(
    inner: &Arc<Inner>,
    driver: &dyn Driver,
    session: &Session,
    (root, conversation): (&str, &str),
    wanted: &CompactRequest,
    config: &Config,
) -> Result<Planned, Error> {
    let cannot = |why: String| Error::Compaction { session: session.id.clone(), why };
    if conversation.is_empty() {
        return Err(cannot(format!("{} keeps no record of its conversation that is known here", session.agent)));
    }
    let read = || -> Result<(Whole, Folded), String> {
        let whole = whole::read(root, conversation, &session.cwd)?;
        let folded =
            apart(|| driver.conversation(&whole.bytes)).and_then(|read| read).and_then(|pieces| Folded::new(pieces, wanted.unpinned));
        let folded = folded.map_err(|why| format!("the record {}: {why}", whole.path))?;
        Ok((whole, folded))
    };
    let (whole, folded) = tokio::task::block_in_place(read).map_err(cannot)?;
    let (name, settings) = (wanted.strategy.as_deref().unwrap_or_default(), wanted.config.as_deref().unwrap_or("{}"));
    let broken = |why: String| Error::Strategy { session: session.id.clone(), why };
    let plugin = inner.chains.strategy(name, settings).await.map_err(|why| broken(format!("strategy {name} cannot be loaded: {why}")))?;
    let target = wanted.target.unwrap_or_else(|| aim(folded.used(), session, config.compaction.target_percent));
    let budget = folded.budget(session.context_window.unwrap_or_else(|| folded.used()), target);
    let folded = Arc::new(folded);
    let question = Arc::new(PlanQuestion::new(session, folded.clone(), &budget, inner.clock.wall_ms()));
    let failed = |f: crate::plugin::CallFailure| {
        watchdog::broke(inner, plugin.digest(), f.cause);
        broken(format!("strategy {name} failed ({}): {}", f.cause.as_str(), f.detail))
    };
    let edits = plugin.plan(&question, Duration::from_millis(config.compaction.deadline_ms)).await.map_err(failed)?;
    let checked = tokio::task::block_in_place(|| check(&folded, &edits))
        .map_err(|e| broken(format!("the plan of strategy {name} is refused, and nothing of it is done: {e} [{}]", e.code())))?;
    Ok(Planned { plugin, whole, edits, checked, target })
}

/// Waits until the agent has written what it said last.
async fn record_follows(driver: &dyn Driver, session: &Session, live: &Live) {
    let words = live.moments.last_words.trim_end_matches('…');
    let follows = || -> Option<bool> {
        let whole = whole::read(&live.parking.root, &live.parking.conversation, &session.cwd).ok()?;
        Some(apart(|| driver.conversation(&whole.bytes)).ok()?.ok()?.last()?.text.starts_with(words))
    };
    for _ in 0..RECORD_LOOKS {
        if words.is_empty() || tokio::task::block_in_place(follows) == Some(true) {
            return;
        }
        tokio::time::sleep(RECORD_LOOK).await;
    }
}

/// The configured share of the window, less what the agent adds to the conversation; of the conversation itself where that asks for nothing.
fn aim(used: u64, session: &Session, percent: u64) -> u64 {
    let share = |n: u64| n.saturating_mul(percent) / 100;
    let beside = session.context_used.unwrap_or(used).saturating_sub(used);
    session.context_window.map_or(u64::MAX, |w| share(w).saturating_sub(beside)).min(share(used))
}

impl Runner {
    /// What is done when a turn is over: waiting prompts are given, and a context over the threshold is compacted.
    pub(super) async fn between_turns(&mut self) {
        if !self.compaction.prompts.is_empty() && !self.live.parking.turns_over() {
            for (text, by, reply) in std::mem::take(&mut self.compaction.prompts) {
                self.prompt(text, by, reply).await;
            }
        }
        if std::mem::take(&mut self.compaction.due) {
            self.compact_at_threshold().await;
        }
    }

    /// Keeps a prompt for the agent that is being started anew.
    pub(super) fn keep_prompt(&mut self, text: String, by: Actor, reply: oneshot::Sender<Result<Session, Error>>) {
        if self.compaction.prompts.len() < PROMPTS {
            self.compaction.prompts.push((text, by, reply));
        } else {
            let _ = reply.send(Err(Error::Busy));
        }
    }

    async fn compact_at_threshold(&mut self) {
        let percent = self.config.compaction.threshold_percent;
        let (Some(window), Some(used)) = (self.session.context_window, self.session.context_used) else { return };
        let over = percent < 100 && used.saturating_mul(100) >= window.saturating_mul(percent);
        // why: what could not be made small enough is not tried again each turn.
        if !self.compaction.may_try(used, over) {
            return;
        }
        if let Err(why) = self.can_compact().await {
            tracing::debug!(session = %self.id, why, "the context is over its threshold and not compacted now");
            // why again: a process of the turn's last call may still be ending.
            self.compaction.looks += 1;
            self.compaction.due = self.compaction.looks < LOOKS;
            return;
        }
        self.compact_over(used, window).await;
    }

    /// Begins at once, or says why not.
    pub(super) async fn compact(&mut self, request: CompactRequest, by: Actor) -> Result<CompactReport, Error> {
        let cannot = |id: &SessionId, why: String| Error::Compaction { session: id.clone(), why };
        self.can_compact().await.map_err(|why| cannot(&self.id, why))?;
        let wanted = wanted(request, &self.inner, &self.config);
        self.record_follows().await;
        let planned = self.plan_that_saves(&wanted).await?;
        let report = planned.report();
        self.begin(&planned, wanted, "manual", by).await;
        let session = self.recorded()?;
        Ok(CompactReport { began: Some(session.last_seq), ..report })
    }

    /// A turn ended, and the context may be over the threshold.
    pub(super) fn look_at_threshold(&mut self) {
        (self.compaction.due, self.compaction.looks) = (self.session.keep_open, 0);
    }

    async fn record_follows(&self) {
        record_follows(self.driver, &self.session, &self.live).await;
    }

    async fn plan(&self, wanted: &CompactRequest) -> Result<Planned, Error> {
        let named = (self.live.parking.root.as_str(), self.live.parking.conversation.as_str());
        plan(&self.inner, self.driver, &self.session, named, wanted, &self.config).await
    }

    async fn plan_that_saves(&self, wanted: &CompactRequest) -> Result<Planned, Error> {
        let planned = self.plan(wanted).await?;
        if !planned.saves() {
            let (used, target) = (planned.checked.tokens_before, planned.target);
            let strategy = wanted.strategy.clone().unwrap_or_default();
            return Err(Error::NothingSaved { session: self.id.clone(), strategy, used, target });
        }
        Ok(planned)
    }

    /// Whether the agent can be ended now and started anew with nothing lost; the error says what would be.
    async fn can_compact(&self) -> Result<(), String> {
        let p = &self.live.parking;
        let say = |why: &str| Err(why.to_owned());
        if self.external.is_some() {
            return say("it was not started by the host, which can neither end nor start its agent");
        }
        if self.ending.is_some() || self.input_closed {
            return say("it is ending, or takes no further prompts (start it with --keep)");
        }
        if p.stage != Stage::Running {
            return say("its agent is being put away or started anew; try again in a moment");
        }
        if let Some(call) = self.live.waiting.keys().next() {
            return Err(format!("call {call} waits for an answer; answer it first"));
        }
        if self.live.prompts > self.live.turns || self.read_state.in_message() || p.has_open() {
            return say("it is in a turn; try again when the turn has ended");
        }
        if p.had_sub_agents() {
            return say("a sub-agent was started since its agent was, and whether that has ended is not known");
        }
        if let Some(row) = self.live.account.rows().find(|r| self.driver.lingers(&r.tool)) {
            return Err(format!("{} may go on inside the agent, and would end with it", row.tool));
        }
        let Some(kept) = p.kept.as_deref() else {
            return Err(format!("{} was not started so that it can be started anew (Claude with --keep is)", self.session.agent));
        };
        Kept::read(&self.inner.run_dir(&self.id, 1), kept)?;
        let own = [self.shim.shim().pid, self.shim.agent().pid];
        let all = self.shim.processes().await.map_err(|e| e.to_string())?;
        match all.iter().find(|i| !own.contains(&i.id.pid)) {
            Some(other) => Err(format!("process {} ({}) runs in the session, and would end with its agent", other.id.pid, other.comm)),
            None if all.is_empty() => say("its processes cannot be seen"),
            None => Ok(()),
        }
    }

    /// Closes the agent's input; what follows is done at its end.
    async fn begin(&mut self, planned: &Planned, wanted: CompactRequest, trigger: &str, by: Actor) {
        failpoint::hit("compacting");
        let no = self.live.next_frame();
        self.pending.frames.push(Frame { no, bytes: CLOSE_INPUT.to_vec() });
        let began = CompactionBegan {
            trigger: trigger.to_owned(),
            by,
            strategy: wanted.strategy.unwrap_or_default(),
            config: wanted.config.unwrap_or_default(),
            digest: planned.plugin.digest().to_owned(),
            target: planned.target,
            unpinned_user: wanted.unpinned.user,
            unpinned_system: wanted.unpinned.system,
            frame: no,
        };
        self.input_closed = true;
        self.pending.events.push(began.clone().into());
        self.live.parking.stage = Stage::Compacting(Box::new(began));
        self.live.parking.arm(Instant::now());
        self.commit().await;
        failpoint::hit("compaction_began");
    }

    /// The agent has ended: true when that was for a compaction, and the session is paused until it is started anew.
    pub(super) async fn left_to_compact(&mut self, record: &ExitRecord) -> bool {
        // why: what it said last may show more than an end.
        self.drain().await;
        let Some(began) = self.live.parking.compacting().cloned() else { return false };
        if self.ending.is_some() || self.is_usurped {
            return false;
        }
        failpoint::hit("compaction_left");
        self.consult_last().await;
        let done = self.shorten(&began).await;
        let reason = match &done {
            Ok(_) => "the conversation was compacted; the agent is started anew from the shorter one".to_owned(),
            Err(e) => format!("the conversation was not compacted after all and goes on as it was: {}", live::cut(&e.to_string(), 1024)),
        };
        self.pending.events.push(finish::attempt_ended(Outcome::Exited, record, Some(reason.clone())).into());
        let mut named = None;
        match done {
            Ok((compacted, new, blobs)) => {
                self.pending.events.extend([Event::from(compacted), Event::from(new.clone())]);
                self.pending.blobs.extend(blobs);
                named = Some(new);
            }
            Err(e) => {
                self.compaction.failures = self.compaction.failures.saturating_add(1);
                self.pending.events.push(failed::failed(&began.trigger, &began.strategy, "apply", &e).into());
            }
        }
        self.pending.events.push(SessionPaused { reason, ..SessionPaused::default() }.into());
        self.commit().await;
        failpoint::hit("compacted");
        if let Some(named) = named {
            self.live.parking.compacted(&began.trigger, &began.strategy);
            self.live.parking.named(&named);
            self.compaction.given.clear();
            self.witnesses = Witnesses::new(Some(&named), &self.session);
        }
        // why ignore: without it the shim goes by itself after its linger.
        let _ = self.shim.ack_exit().await;
        self.put_away(None);
        true
    }

    /// Plans on the whole record and writes the new one.
    async fn shorten(&self, began: &CompactionBegan) -> Result<(ContextCompacted, TranscriptNamed, Vec<Vec<u8>>), Error> {
        let cannot = |why: String| Error::Compaction { session: self.id.clone(), why };
        let wanted = CompactRequest {
            strategy: Some(began.strategy.clone()),
            config: Some(began.config.clone()),
            target: Some(began.target),
            unpinned: Unpinned { user: began.unpinned_user, system: began.unpinned_system },
            dry_run: false,
        };
        let planned = self.plan_that_saves(&wanted).await?;
        if planned.plugin.digest() != began.digest {
            let why = format!("strategy {} was changed since it began; try again", began.strategy);
            return Err(Error::Strategy { session: self.id.clone(), why });
        }
        let new = start::uuid(&self.inner);
        let write = || -> Result<u64, String> {
            let mut uuid = || start::uuid(&self.inner);
            let bytes = apart(|| self.driver.rewritten(&planned.whole.bytes, &planned.checked.rewrite, &new, &mut uuid))??;
            // why read again: what was written is what the agent will resume from.
            let told = apart(|| self.driver.conversation(&bytes))??;
            let texts = |ps: &[crate::model::Piece]| ps.iter().map(|p| (p.entry.kind, p.text.clone())).collect::<Vec<_>>();
            if texts(&told) != texts(&planned.checked.pieces) {
                return Err("the new record does not read as was planned".to_owned());
            }
            whole::write(&planned.whole, &new, &bytes)?;
            Ok(bytes.len() as u64)
        };
        let written = tokio::task::block_in_place(write).map_err(cannot)?;
        failpoint::hit("compaction_written");
        let (host, blobs) = self.told(&planned, &new);
        let compacted = ContextCompacted {
            trigger: began.trigger.clone(),
            tokens_before: Some(planned.checked.tokens_before),
            tokens_after: Some(planned.checked.tokens_after),
            dropped: None,
            retained: None,
            host: Some(host),
        };
        Ok((compacted, TranscriptNamed { root: self.live.parking.root.clone(), conversation: new, written }, blobs))
    }

    fn told(&self, planned: &Planned, new: &str) -> (HostCompaction, Vec<Vec<u8>>) {
        let r = planned.report();
        let edits = serde_json::to_vec(&planned.edits).unwrap_or_default();
        let (edits, blob) = live::excerpt(mask::bytes(edits));
        let copy = mask::bytes(planned.whole.bytes.clone());
        let digest = |b: &[u8]| blake3::hash(b).to_hex().to_string();
        let host = HostCompaction {
            strategy: r.strategy,
            version: r.version,
            digest: r.digest,
            config_digest: planned.plugin.config_digest().to_owned(),
            estimator: ESTIMATOR.to_owned(),
            target: r.target,
            reached: r.tokens_after <= r.target,
            dropped: r.dropped,
            changed: r.changed,
            retained: r.retained,
            spared: r.spared,
            edits,
            from: self.live.parking.conversation.clone(),
            to: new.to_owned(),
            original: planned.whole.path.clone(),
            original_digest: digest(&planned.whole.bytes),
            copy: (copy.len() <= crate::store::MAX_BLOB).then(|| digest(&copy)),
        };
        let mut blobs: Vec<Vec<u8>> = blob.into_iter().collect();
        blobs.extend((copy.len() <= crate::store::MAX_BLOB).then_some(copy));
        (host, blobs)
    }
}
