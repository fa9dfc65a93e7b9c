//! A session as folded from its events. The store keeps it in the transaction that appends the events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::attestation::SessionProgram;
use super::event::{Envelope, Event};
use super::id::SessionId;
use super::moment::Verdict;
use super::usage::{Nanousd, Usage};

/// Where a session stands. `Ended` is the only final one; how it ended is its [`Outcome`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Queued,
    Starting,
    Running,
    Paused,
    Stopping,
    Ended,
}

impl Status {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Ended => "ended",
        }
    }

    /// The one transition table.
    pub const fn may_become(self, next: Self) -> bool {
        use Status::{Ended, Paused, Queued, Running, Starting, Stopping};
        matches!(
            (self, next),
            (Queued, Starting | Stopping | Ended)
                | (Starting, Running | Stopping | Ended)
                | (Running, Paused | Stopping | Ended)
                | (Paused, Running | Stopping | Ended)
                | (Stopping, Ended)
        )
    }
}

/// How a session or attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Succeeded,
    Failed,
    MissingReport,
    /// Ended by itself, and nothing says whether that is good (no result, no report expected).
    Exited,
    Stopped,
    Killed,
    TimedOut,
    Budget,
    Breach,
    /// The host cannot know: the shim died with the machine or was killed.
    Lost,
}

impl Outcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::MissingReport => "missing_report",
            Self::Exited => "exited",
            Self::Stopped => "stopped",
            Self::Killed => "killed",
            Self::TimedOut => "timed_out",
            Self::Budget => "budget",
            Self::Breach => "breach",
            Self::Lost => "lost",
        }
    }
}

/// What stands between the agent and its tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mediation {
    /// Nothing: the host sees processes and output only.
    None,
    /// Hooks, which fail open when the agent breaks them.
    Hooks,
    /// The agent's own approval channel: no call runs without an answer.
    Gate,
}

impl Mediation {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Hooks => "hooks",
            Self::Gate => "gate",
        }
    }
}

/// A status change that the table does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a session that is {from} cannot become {to}; see `beadle show` for where it stands", from = .from.as_str(), to = .to.as_str())]
pub struct TransitionError {
    pub from: Status,
    pub to: Status,
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
    pub created_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<i64>,
    pub last_activity_at: i64,
    /// 0 before the first start.
    pub attempt: u32,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Tokens the model can hold, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u64>,
    /// Tokens of the newest model request of the main agent: what is in the context now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_used: Option<u64>,
    pub usage: Usage,
    /// Sum over responses with a known price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Nanousd>,
    /// Model responses whose price is not known; their cost is not in `cost`.
    pub unpriced: u64,
    /// The agent's own total, for comparison.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_cost: Option<Nanousd>,
    /// The part of it that earlier attempts told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_cost_before: Option<Nanousd>,
    pub turns: u64,
    pub sub_agents: u64,
    pub calls: u64,
    pub allowed: u64,
    pub denied: u64,
    pub asked: u64,
    pub rewritten: u64,
    pub waiting: u64,
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
            created_at: first.at,
            started_at: None,
            ended_at: None,
            last_activity_at: first.at,
            attempt: 0,
            pid: None,
            exit_code: None,
            signal: None,
            agent_session_id: None,
            agent_version: None,
            model: None,
            context_window: None,
            context_used: None,
            usage: Usage::default(),
            cost: None,
            unpriced: 0,
            agent_cost: None,
            agent_cost_before: None,
            turns: 0,
            sub_agents: 0,
            calls: 0,
            allowed: 0,
            denied: 0,
            asked: 0,
            rewritten: 0,
            waiting: 0,
            breaches: 0,
            plugin_failures: 0,
            flagged: 0,
            verdict: None,
            last_text: None,
            last_seq: first.seq,
        })
    }

    /// Checks a status change against the table; the caller appends the event only if this is `Ok`.
    pub fn check(&self, to: Status) -> Result<(), TransitionError> {
        if self.status.may_become(to) { Ok(()) } else { Err(TransitionError { from: self.status, to }) }
    }

    /// Folds one event in. Pure and total: a log that was accepted can always be folded again.
    pub fn fold(&mut self, e: &Envelope) {
        self.last_seq = e.seq;
        self.fold_event(&e.event, e.at, e.attempt);
    }

    /// The same for an event that is collected and not appended yet, so that it has no seq.
    pub fn fold_event(&mut self, event: &Event, at: i64, attempt: u32) {
        self.last_activity_at = self.last_activity_at.max(at);
        match event {
            Event::SessionCreated(_)
            | Event::SessionJudged(_)
            | Event::PromptJudged(_)
            | Event::PluginLoaded(_)
            | Event::TranscriptNamed(_)
            | Event::EffectsObserved(_)
            | Event::PluginReplaced(_)
            | Event::PluginStateChanged(_)
            | Event::PromptSubmitted(_)
            | Event::ToolStarted(_)
            | Event::ToolDeferred(_)
            | Event::ToolAnswered(_)
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
            | Event::SecretRedacted(_)
            | Event::Note(_)
            | Event::Unknown(_) => {}
            Event::AttemptStarted(a) => {
                if attempt > self.attempt {
                    self.agent_cost_before = self.agent_cost;
                }
                self.attempt = attempt;
                self.pid = Some(a.pid);
                self.started_at.get_or_insert(at);
                self.exit_code = None;
                self.signal = None;
                self.become_status(Status::Running);
            }
            Event::AgentStarted(a) => {
                self.agent_session_id = a.agent_session_id.clone().or(self.agent_session_id.take());
                self.agent_version = a.version.clone().or(self.agent_version.take());
                self.model = a.model.clone().or(self.model.take());
            }
            Event::AttemptEnded(a) => {
                self.pid = None;
                self.exit_code = a.exit_code;
                self.signal = a.signal;
            }
            Event::SessionPaused(_) => self.become_status(Status::Paused),
            Event::SessionStopping(_) => self.become_status(Status::Stopping),
            Event::SessionEnded(x) => {
                self.become_status(Status::Ended);
                self.outcome.get_or_insert(x.outcome);
                self.ended_at.get_or_insert(at);
                self.waiting = 0;
            }
            Event::SubAgentInvoked(_) => self.sub_agents += 1,
            Event::ToolRequested(_) => self.calls += 1,
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
            Event::ApprovalResolved(_) => self.waiting = self.waiting.saturating_sub(1),
            Event::AgentReplied(t) => self.last_text = Some(shorten(&t.text)),
            Event::ModelResponded(m) => {
                self.usage = self.usage.plus(m.usage);
                match m.cost {
                    Some(c) => self.cost = Some(self.cost.unwrap_or(0).saturating_add(c)),
                    None => self.unpriced += 1,
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
                self.context_window = t.context_window.or(self.context_window);
                if let Some(r) = t.result.as_deref().filter(|r| !r.is_empty()) {
                    self.last_text = Some(shorten(r));
                }
            }
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

    /// Follows the table; an event out of order leaves the status as it is (it stays in the log all the same).
    fn become_status(&mut self, next: Status) {
        if self.status.may_become(next) {
            self.status = next;
        }
    }
}

// why by reference: serde calls it so.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn shorten(s: &str) -> String {
    const MAX: usize = 200;
    let line = s.trim();
    let mut out: String = line.chars().take(MAX).collect();
    if line.chars().nth(MAX).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Status; 6] = [Status::Queued, Status::Starting, Status::Running, Status::Paused, Status::Stopping, Status::Ended];

    #[test]
    fn ended_is_final_and_pause_needs_running() {
        for s in ALL {
            assert!(!Status::Ended.may_become(s));
            assert_eq!(s.may_become(Status::Paused), s == Status::Running);
            assert!(!s.may_become(s));
        }
    }

    proptest! {
        #[test]
        fn every_walk_ends_at_ended_or_can_reach_it(walk in proptest::collection::vec(0usize..6, 0..20)) {
            let mut at = Status::Queued;
            for i in walk {
                if at.may_become(ALL[i]) { at = ALL[i]; }
            }
            prop_assert!(at == Status::Ended || at.may_become(Status::Ended));
        }
    }
}
