//! Sessions: start, list, show, prompt, stop, processes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{BriefRequest, QueueRequest, SessionQueueDoc};
use crate::model::{
    Actor, AttemptPlan, AttemptScheduled, AttemptsPlanned, Branch, Excerpt, Mediation, Nanousd, Outcome, PauseMode, Reconciliation, Record,
    Session, SessionProgram, Status, Usage, UsageLimitExceeded, UsageLimits, Verdict, format_ms, usd,
};

/// Start a session. The caller's own cwd, umask and allow-listed environment travel with it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// Shown by `ls`; default is the agent or program. Need not be unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `claude`, `generic`, `demo`.
    pub agent: String,
    /// Program to run: required for `generic`, else replaces the agent's usual name on PATH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Arguments that the agent's allow-list refuses; recorded, and they lower mediation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsafe_args: Vec<String>,
    /// Absolute.
    pub cwd: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// Chosen by the caller: allow-listed names and explicit ones. The driver refuses those that would undo the gate.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BriefRequest::is_empty")]
    pub brief: BriefRequest,
    /// Absolute; the only tree the agent may change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_root: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// MCP servers of the operator, in the agent's own JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp_config: Option<Value>,
    /// False: without the host's own tools. Else as configured, for agents that take them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_tools: Option<bool>,
    /// The caller will attach a terminal that answers approvals: asks wait for it from the start, whatever `approvals.unattended` says.
    #[serde(default)]
    pub attach: bool,
    /// True: the agent waits for further prompts. False: its input is closed when a turn ends and no prompt is queued.
    #[serde(default)]
    pub keep_open: bool,
    /// What it may use; passing a limit ends it with the outcome `budget`.
    #[serde(default, skip_serializing_if = "UsageLimits::is_empty")]
    pub limits: UsageLimits,
    /// Wait in the queue; without it, it starts at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueRequest>,
    /// Percent of the model's window, 1 to 100, from which on its conversation is compacted between turns; 100 is never. As configured when
    /// it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compact_at: Option<u64>,
    /// Names of the configured context providers that it gets; as configured when it is left out, none when it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Vec<String>>,
    /// How often it is tried, by whom, and who judges it. Its first tier takes the place of `agent`, `program`, `args` and `model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<AttemptPlan>,
}

/// Money, exact both ways: billionths of a US dollar, and dollars as a decimal string.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    pub nanousd: Nanousd,
    pub usd: String,
}

impl From<Nanousd> for Money {
    fn from(nanousd: Nanousd) -> Self {
        Self { nanousd, usd: usd(nanousd).split_off(1) }
    }
}

/// One session as listed and shown: [`Session`] with times and money readable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionDoc {
    pub id: String,
    pub name: String,
    pub agent: String,
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    pub mediation: Mediation,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mediation_note: Option<String>,
    /// What is run and whether it is attested, for agents whose program can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<SessionProgram>,
    pub command: Vec<String>,
    pub cwd: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_root: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whose it is, what for, and within which bounds.
    #[serde(flatten)]
    pub record: Record,
    /// The first prompt, shortened, with the digest of the whole where that is a blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Excerpt>,
    #[serde(default)]
    pub created_by: Actor,
    pub created_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    pub last_activity_at: String,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_session_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// The mode that the agent says it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission_mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_used: Option<u64>,
    /// Whole percent of the window that is in use; null where nobody has named the window, or nothing was said yet.
    #[serde(default)]
    pub context_percent: Option<u64>,
    /// Percent of the window at which its conversation is compacted; 100 is never, absent as configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compact_at: Option<u64>,
    pub usage: Usage,
    /// Null where no response had a known price; where `unpriced` names models it is a lower bound.
    pub cost: Option<Money>,
    /// Responses that are not in `cost`.
    pub unpriced_count: u64,
    /// Their models, at most 20.
    #[serde(default)]
    pub unpriced: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_cost: Option<Money>,
    /// How the agent's own total stood to ours when its newest turn ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconciled: Option<Reconciliation>,
    /// What it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<UsageLimits>,
    /// The limit that it passed first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exceeded: Option<UsageLimitExceeded>,
    pub turn_count: u64,
    pub call_count: u64,
    pub allowed_count: u64,
    pub denied_count: u64,
    pub asked_count: u64,
    pub rewritten_count: u64,
    pub waiting_count: u64,
    /// Questions that people answered, and that nobody answered in time.
    #[serde(default)]
    pub answered_count: u64,
    #[serde(default)]
    pub expired_count: u64,
    pub breach_count: u64,
    pub plugin_failure_count: u64,
    /// Results that a policy flagged.
    pub flagged_count: u64,
    /// What the policies made of the newest attempt: `accept`, `escalate` or `error`, with its text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_text: Option<String>,
    /// How often it is tried, by whom, and who judges it; absent where it is tried once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned: Option<AttemptsPlanned>,
    /// The attempt that is to come, while none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<AttemptScheduled>,
    /// The attempt that `run --restart` led to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarted: Option<u32>,
    /// Attempts that were taken back; what they used stays in every sum.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub rolled_back: BTreeSet<u32>,
    /// Its time in the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<SessionQueueDoc>,
    /// How, why and since when it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<PauseDoc>,
    /// The report that it left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// Sessions that went on from this one, the newest 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<Branch>,
    #[serde(default, skip_serializing_if = "no_tasks")]
    pub task_open_count: u64,
    #[serde(default, skip_serializing_if = "no_tasks")]
    pub task_closed_count: u64,
    /// Why it ended so, where that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<String>,
    /// Writes that its writers gave up, because they must not block: they are in no log.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub writes_lost: u64,
    pub last_seq: u64,
}

// why by reference: serde calls it so.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// A pause under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseDoc {
    /// `hold`, `freeze`, or `away` (put away at a question, or between turns).
    pub mode: PauseMode,
    pub at: String,
    pub reason: String,
}

// why by reference: serde calls it so.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn no_tasks(n: &u64) -> bool {
    *n == 0
}

/// Rounded down, as where a threshold is compared.
fn percent(used: Option<u64>, window: Option<u64>) -> Option<u64> {
    let (used, window) = (used?, window.filter(|w| *w > 0)?);
    Some(used.saturating_mul(100) / window)
}

impl From<&Session> for SessionDoc {
    fn from(s: &Session) -> Self {
        Self {
            id: s.id.to_string(),
            name: s.name.clone(),
            agent: s.agent.clone(),
            status: s.status,
            outcome: s.outcome,
            mediation: s.mediation,
            mediation_note: s.mediation_note.clone(),
            program: s.program.clone(),
            command: s.command.clone(),
            cwd: s.cwd.clone(),
            write_root: s.write_root.clone(),
            labels: s.labels.clone(),
            record: (*s.record).clone(),
            prompt: s.prompt.clone(),
            created_by: s.created_by.clone(),
            created_at: format_ms(s.created_at),
            started_at: s.started_at.map(format_ms),
            ended_at: s.ended_at.map(format_ms),
            last_activity_at: format_ms(s.last_activity_at),
            attempt: s.attempt,
            in_attempt: s.in_attempt,
            pid: s.pid,
            exit_code: s.exit_code,
            signal: s.signal,
            agent_session_id: s.agent_session_id.clone(),
            agent_version: s.agent_version.clone(),
            permission_mode: s.permission_mode.clone(),
            model: s.model.clone(),
            context_window: s.context_window,
            context_used: s.context_used,
            context_percent: percent(s.context_used, s.context_window),
            compact_at: s.compact_at,
            usage: s.usage,
            cost: s.cost.map(Money::from),
            unpriced_count: s.unpriced,
            unpriced: s.unpriced_models.clone(),
            agent_cost: s.agent_cost.map(Money::from),
            reconciled: s.reconciled.clone(),
            limits: s.limits,
            exceeded: s.exceeded.clone(),
            turn_count: s.turns,
            call_count: s.calls,
            allowed_count: s.allowed,
            denied_count: s.denied,
            asked_count: s.asked,
            rewritten_count: s.rewritten,
            waiting_count: s.waiting,
            answered_count: s.answered,
            expired_count: s.expired,
            breach_count: s.breaches,
            plugin_failure_count: s.plugin_failures,
            flagged_count: s.flagged,
            verdict: s.verdict.clone(),
            last_text: s.last_text.clone(),
            planned: s.planned.clone(),
            scheduled: s.scheduled.clone(),
            restarted: s.restarted,
            rolled_back: s.rolled_back.clone(),
            queue: s.queue.as_deref().map(|q| SessionQueueDoc::of(q, s)),
            pause: s.pause.as_ref().map(|p| PauseDoc { mode: p.mode, at: format_ms(p.at), reason: p.reason.clone() }),
            report: s.report.clone(),
            branches: s.branches.clone(),
            task_open_count: s.tasks_open,
            task_closed_count: s.tasks_closed,
            end_reason: s.end_reason.clone(),
            writes_lost: s.writes_lost,
            last_seq: s.last_seq,
        }
    }
}

/// The next prompt, at most [`PROMPT_MAX`](super::PROMPT_MAX) bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendRequest {
    pub prompt: String,
}

/// Stop a session: TERM, grace, KILL of the whole tree; `kill` skips TERM and grace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    /// Default is the configured `session.grace_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
    #[serde(default)]
    pub kill: bool,
}

/// Removal: a session that has not ended is refused unless `force`, which kills it first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveQuery {
    #[serde(default)]
    pub force: bool,
}

/// How long to wait, at most [`WAIT_MAX_MS`](super::WAIT_MAX_MS).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// One process of a session's tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessDoc {
    pub pid: u32,
    pub ppid: u32,
    /// Start time in clock ticks since boot: with `pid` it names the process for ever.
    pub start: u64,
    /// `shim`, `agent` or `descendant`.
    pub role: String,
    /// The kernel's short name.
    pub name: String,
    /// Arguments, lossily as text, cut to 4 KiB in all.
    pub cmdline: Vec<String>,
    pub rss_kb: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pss_kb: Option<u64>,
    pub cpu_ms: u64,
}
