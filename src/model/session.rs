//! A session as folded from its events. The store keeps it in the transaction that appends the events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::approval::ApprovalState;
use super::attestation::SessionProgram;
use super::event::{Actor, AttemptScheduled, AttemptsPlanned, Envelope, Event, Excerpt, PauseMode, RESTART, UsageLimitExceeded};
use super::id::SessionId;
use super::limits::UsageLimits;
use super::moment::Verdict;
use super::queue::QueueState;
use super::reconcile::Reconciliation;
use super::usage::{Nanousd, Usage};

mod branch;
mod context;
mod mediation;
mod record;
mod status;

use record::shorten;

pub use branch::Branch;
pub use mediation::Mediation;
pub use record::{ALLOWED_TOOLS_MAX, Origin, Record, RecordError, Repository, TARGET_MAX, TEXT_MAX, UNASSIGNED, Writer, check_text};
pub use status::{Outcome, Status, TransitionError, status_of};

/// A pause under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub mode: PauseMode,
    pub at: i64,
    pub reason: String,
}

/// The listing row and the head of `beadle show`: one session folded from its events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    pub id: SessionId,
    pub name: String,
    pub agent: String,
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    pub mediation: Mediation,
    /// Why mediation is not what the agent's recipe gives, where it was lowered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mediation_note: Option<String>,
    /// What is run, for agents whose program can be attested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<SessionProgram>,
    pub command: Vec<String>,
    pub cwd: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_root: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub keep_open: bool,
    /// The rest of what it was created as.
    #[serde(default)]
    pub record: Arc<Record>,
    #[serde(default)]
    pub created_by: Actor,
    /// The first prompt, shortened; the digest of the whole where that is a blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Excerpt>,
    pub created_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<i64>,
    pub last_activity_at: i64,
    /// 0 before the first start.
    pub attempt: u32,
    /// That attempt has not ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_attempt: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The agent's own id of its conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_session_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// The mode that the agent says it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission_mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Tokens the model can hold, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u64>,
    /// Tokens of the newest model request of the main agent: what is in the context now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_used: Option<u64>,
    /// Percent of the window at which its conversation is compacted; 100 is never, absent as configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compact_at: Option<u64>,
    pub usage: Usage,
    /// Sum over responses with a known price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Nanousd>,
    /// Model responses whose price is not known; their cost is not in `cost`.
    pub unpriced: u64,
    /// Their models, at most [`UNPRICED_MAX`](super::ledger::UNPRICED_MAX).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unpriced_models: BTreeSet<String>,
    /// The agent's own total, for comparison.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_cost: Option<Nanousd>,
    /// The part of it that earlier attempts told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_cost_before: Option<Nanousd>,
    /// How the agent's own total stood to ours when its newest turn ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconciled: Option<Reconciliation>,
    /// What it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<UsageLimits>,
    /// The limit that it passed first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exceeded: Option<UsageLimitExceeded>,
    pub turns: u64,
    pub sub_agents: u64,
    pub calls: u64,
    pub allowed: u64,
    pub denied: u64,
    pub asked: u64,
    pub rewritten: u64,
    pub waiting: u64,
    /// Questions that people answered, and that nobody answered in time.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub answered: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub expired: u64,
    pub breaches: u64,
    pub plugin_failures: u64,
    /// Results that a policy flagged.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub flagged: u64,
    /// What the policies made of the newest attempt, where one verifies attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The last sentence the agent said or its result, shortened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_text: Option<String>,
    /// How often it is tried, by whom, and who judges it; absent where it is tried once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned: Option<AttemptsPlanned>,
    /// The attempt that is to come, while none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<AttemptScheduled>,
    /// The attempt that `run --restart` led to: there is one at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarted: Option<u32>,
    /// Attempts that were taken back.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub rolled_back: BTreeSet<u32>,
    /// Its time in the queue, where it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Box<QueueState>>,
    /// How, why and since when it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// The report that it left: a file, as found at its end, or the event that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// Sessions that went on from this one, the newest of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<Branch>,
    /// Tasks with something left to do, and the others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tasks_open: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tasks_closed: u64,
    /// Why it ended so, where that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<String>,
    /// Writes that its writers gave up, because they must not block.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub writes_lost: u64,
    /// What adds context beside its prompts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<super::context::SessionContext>,
    /// seq of the newest event folded in.
    pub last_seq: u64,
}

impl Session {
    /// The projection of a log's first event, or `None` when that is not `session_created`.
    pub fn begin(first: &Envelope) -> Option<Self> {
        let Event::SessionCreated(c) = &first.event else { return None };
        Some(Self {
            id: first.session.clone(),
            name: c.name.clone(),
            agent: c.agent.clone(),
            status: Status::Starting,
            outcome: None,
            mediation: c.mediation,
            mediation_note: c.mediation_note.clone(),
            program: c.program.clone(),
            command: c.command.clone(),
            cwd: c.cwd.clone(),
            home: c.home.clone(),
            write_root: c.write_root.clone(),
            labels: c.labels.clone(),
            keep_open: c.keep_open,
            record: Arc::new(c.record.clone()),
            created_by: c.created_by.clone(),
            prompt: c.prompt.as_ref().map(|p| Excerpt { text: shorten(&p.text), ..p.clone() }),
            created_at: first.at,
            started_at: None,
            ended_at: None,
            last_activity_at: first.at,
            attempt: 0,
            in_attempt: false,
            pid: None,
            exit_code: None,
            signal: None,
            agent_session_id: None,
            agent_version: None,
            permission_mode: None,
            model: None,
            context_window: None,
            context_used: None,
            compact_at: None,
            usage: Usage::default(),
            cost: None,
            unpriced: 0,
            unpriced_models: BTreeSet::new(),
            agent_cost: None,
            agent_cost_before: None,
            reconciled: None,
            limits: None,
            exceeded: None,
            turns: 0,
            sub_agents: 0,
            calls: 0,
            allowed: 0,
            denied: 0,
            asked: 0,
            rewritten: 0,
            waiting: 0,
            answered: 0,
            expired: 0,
            breaches: 0,
            plugin_failures: 0,
            flagged: 0,
            verdict: None,
            last_text: None,
            planned: None,
            scheduled: None,
            restarted: None,
            rolled_back: BTreeSet::new(),
            queue: None,
            pause: None,
            report: None,
            branches: vec![],
            tasks_open: 0,
            tasks_closed: 0,
            end_reason: None,
            writes_lost: 0,
            context: vec![],
            last_seq: first.seq,
        })
    }

    /// Paused with its agent still there: on somebody's word, not put away.
    pub fn is_held(&self) -> bool {
        self.status == Status::Paused && self.pause.as_ref().is_some_and(|p| p.mode != PauseMode::Away)
    }

    /// Checks a status change against the table; the caller appends the event only if this is `Ok`.
    pub fn check(&self, to: Status) -> Result<(), TransitionError> {
        if self.status.may_become(to) { Ok(()) } else { Err(TransitionError { from: self.status, to }) }
    }

    /// Folds one event in. Pure and total: a log that was accepted can always be folded again.
    pub fn fold(&mut self, e: &Envelope) {
        self.last_seq = e.seq;
        if matches!(e.event, Event::ReportGiven(_)) {
            self.report = Some(format!("event {}", e.seq));
        }
        self.fold_event(&e.event, e.at, e.attempt);
    }

    /// The same for an event that is collected and not appended yet, so that it has no seq.
    pub fn fold_event(&mut self, event: &Event, at: i64, attempt: u32) {
        // why: keeping house is no act of the session.
        if !matches!(event, Event::SecretRedacted(_) | Event::SessionArchived(_) | Event::ArchiveRestored(_)) {
            self.last_activity_at = self.last_activity_at.max(at);
        }
        match event {
            Event::SessionCreated(_)
            | Event::SessionJudged(_)
            | Event::PromptJudged(_)
            | Event::PluginLoaded(_)
            | Event::TranscriptNamed(_)
            | Event::EffectsObserved(_)
            | Event::PluginReplaced(_)
            | Event::PluginStateChanged(_)
            | Event::MemoryRecalled(_)
            | Event::MemoryAdded(_)
            | Event::HostToolAnswered(_)
            | Event::ReportGiven(_)
            | Event::CheckpointResumed(_)
            | Event::InvocationRecorded(_)
            | Event::Custom(_)
            | Event::ToolStarted(_)
            | Event::ToolDeferred(_)
            | Event::ToolAnswered(_)
            | Event::AttemptCheckpointed(_)
            | Event::RelaunchKept(_)
            | Event::SessionResumed(_)
            | Event::ToolEnded(_)
            | Event::OutputUnparsed(_)
            | Event::ApprovalEndorsed(_)
            | Event::RuleAdded(_)
            | Event::RuleRevoked(_)
            | Event::ConfigIgnored(_)
            | Event::CompactionBegan(_)
            | Event::ContextCompacted(_)
            | Event::CompactionFailed(_)
            | Event::SecretRedacted(_)
            | Event::AgentHandedOff(_)
            | Event::TreeActBegan(_)
            | Event::TreeActEnded(_)
            | Event::SessionArchived(_)
            | Event::ArchiveRestored(_)
            | Event::TranscriptKept(_)
            | Event::Note(_)
            | Event::Unknown(_) => {}
            Event::ContextProviderAdded(_) | Event::ContextProviderRemoved(_) | Event::ContextAdded(_) => {
                context::fold(&mut self.context, event);
            }
            Event::CompactionSet(c) => self.compact_at = Some(c.threshold_percent),
            Event::AttemptStarted(a) => {
                if attempt > self.attempt {
                    self.agent_cost_before = self.agent_cost;
                }
                self.attempt = attempt;
                self.in_attempt = true;
                self.pid = Some(a.pid).filter(|p| *p != 0);
                self.started_at.get_or_insert(at);
                self.exit_code = None;
                self.signal = None;
                if self.scheduled.take().is_some() {
                    self.verdict = None;
                }
                self.become_status(Status::Running);
            }
            Event::AttemptsPlanned(p) => self.planned = Some(p.clone()),
            Event::AttemptScheduled(n) => {
                self.scheduled = Some(n.clone());
                if n.why == RESTART {
                    self.restarted.get_or_insert(n.attempt);
                }
            }
            Event::AttemptRolledBack(r) => drop(self.rolled_back.insert(r.attempt)),
            Event::AgentStarted(a) => {
                self.agent_session_id = a.agent_session_id.clone().or(self.agent_session_id.take());
                self.agent_version = a.version.clone().or(self.agent_version.take());
                self.model = a.model.clone().or(self.model.take());
                self.permission_mode = a.permission_mode.clone().or(self.permission_mode.take());
            }
            Event::AttemptEnded(a) => {
                if let Some(cost) = a.cost {
                    self.agent_cost = Some(self.agent_cost_before.unwrap_or(0).saturating_add(cost));
                }
                self.in_attempt = false;
                self.pid = None;
                self.exit_code = a.exit_code;
                self.signal = a.signal;
            }
            Event::SessionPaused(p) => {
                self.become_status(Status::Paused);
                if self.status == Status::Paused {
                    self.pause = Some(Pause { mode: p.mode, at, reason: p.reason.clone() });
                }
            }
            Event::SessionQueued(_) | Event::SessionClaimed(_) | Event::QueueMoved(_) | Event::QueueRetried(_) => {
                self.fold_queue(event, at);
            }
            Event::SessionContinued(_) => self.become_status(Status::Running),
            Event::SessionStopping(_) => self.become_status(Status::Stopping),
            Event::SessionEnded(x) => {
                self.become_status(Status::Ended);
                self.outcome.get_or_insert(x.outcome);
                self.scheduled = None;
                self.ended_at.get_or_insert(at);
                self.waiting = 0;
                self.report = x.report.clone().or(self.report.take());
                self.end_reason = x.reason.clone().or(self.end_reason.take());
            }
            // why only there: what the host starts has its first prompt in its first event.
            Event::PromptSubmitted(p) => {
                if self.record.writer.is_some() && self.prompt.is_none() {
                    self.prompt = Some(Excerpt { text: shorten(&p.prompt.text), ..p.prompt.clone() });
                }
            }
            Event::WritesLost(w) => self.writes_lost = self.writes_lost.saturating_add(w.count),
            Event::SubAgentInvoked(_) => self.sub_agents += 1,
            Event::SessionForked(f) => branch::add(&mut self.branches, f),
            Event::TaskUpdated(t) => branch::count(t, &mut self.tasks_open, &mut self.tasks_closed),
            Event::ToolRequested(_) | Event::ToolReported(_) => self.calls += 1,
            Event::ToolDecided(d) => {
                match d.effect {
                    super::Effect::Allow => self.allowed += 1,
                    // Handed to the agent's own user: what came of it shows in the call's result.
                    super::Effect::Ask => self.asked += 1,
                    _ => self.denied += 1,
                }
                if d.effect == super::Effect::Allow && d.updated_input.is_some() {
                    self.rewritten += 1;
                }
            }
            Event::ApprovalRequested(_) => {
                self.asked += 1;
                self.waiting += 1;
            }
            Event::ApprovalResolved(r) => {
                self.waiting = self.waiting.saturating_sub(1);
                match r.state {
                    Some(ApprovalState::Expired) => self.expired += 1,
                    Some(ApprovalState::Cancelled) => {}
                    _ => self.answered += 1,
                }
            }
            Event::AgentReplied(t) => self.last_text = Some(shorten(&t.text)),
            Event::ModelResponded(m) => {
                self.usage = self.usage.plus(m.usage);
                match m.cost {
                    Some(c) if self.cost.unwrap_or(0).checked_add(c).is_some() => self.cost = Some(self.cost.unwrap_or(0) + c),
                    _ => {
                        self.unpriced += 1;
                        if self.unpriced_models.len() < super::ledger::UNPRICED_MAX {
                            self.unpriced_models.insert(m.model.clone());
                        }
                    }
                }
                if m.parent_call_id.is_none() {
                    self.model = Some(m.model.clone());
                    if let Some(n) = m.context_used {
                        self.context_used = Some(n);
                    }
                }
            }
            Event::TurnEnded(t) => {
                // A deferred turn goes on in the next attempt, which counts its costs from zero.
                self.turns += u64::from(t.deferred.is_none());
                self.agent_cost = t.agent_cost.map(|c| c.saturating_add(self.agent_cost_before.unwrap_or(0))).or(self.agent_cost);
                if t.agent_cost.is_some() {
                    self.reconciled = self.agent_cost.map(|theirs| Reconciliation::of(self.cost, self.unpriced, theirs));
                }
                self.context_window = t.context_window.or(self.context_window);
                if let Some(r) = t.result.as_deref().filter(|r| !r.is_empty()) {
                    self.last_text = Some(shorten(r));
                }
            }
            Event::UsageDisagreed(d) => {
                if let Some(r) = &mut self.reconciled {
                    r.why = Some(d.why.clone());
                }
            }
            Event::UsageLimitsSet(l) => self.limits = Some(l.limits).filter(|l| !l.is_empty()),
            Event::UsageLimitExceeded(x) => drop(self.exceeded.get_or_insert_with(|| x.clone())),
            Event::ResultJudged(r) => self.flagged += u64::from(!r.flags.is_empty()),
            Event::AttemptVerified(v) => self.verdict = Some(v.verdict.clone()),
            Event::PluginFailed(_) => self.plugin_failures += 1,
            Event::MediationBreached(_) => self.breaches += 1,
            Event::MediationLowered(m) => {
                self.mediation = self.mediation.min(m.to);
                self.mediation_note = Some(m.reason.clone());
            }
        }
    }
}

// why by reference: serde calls it so.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}
