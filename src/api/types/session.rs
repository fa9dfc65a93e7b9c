//! Sessions: start, list, show, prompt, stop, processes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{Mediation, Nanousd, Outcome, Session, SessionProgram, Status, Usage, Verdict, format_ms};

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
    /// Absolute; the only tree the agent may change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_root: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// MCP servers of the operator, in the agent's own JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp_config: Option<Value>,
    /// The caller will attach a terminal that answers approvals: asks wait for it from the start, whatever `approvals.unattended` says.
    #[serde(default)]
    pub attach: bool,
    /// True: the agent waits for further prompts. False: its input is closed when a turn ends and no prompt is queued.
    #[serde(default)]
    pub keep_open: bool,
}

/// Which sessions to list.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionsQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// `key=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Money, exact both ways: billionths of a US dollar, and dollars as a decimal string.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    pub nanousd: Nanousd,
    pub usd: String,
}

impl From<Nanousd> for Money {
    fn from(nanousd: Nanousd) -> Self {
        let fraction = format!("{:09}", nanousd % 1_000_000_000);
        let kept = fraction.trim_end_matches('0').len().max(2);
        Self { nanousd, usd: format!("{}.{}", nanousd / 1_000_000_000, &fraction[..kept]) }
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
    pub created_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    pub last_activity_at: String,
    pub attempt: u32,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_used: Option<u64>,
    pub usage: Usage,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Money>,
    pub unpriced_count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_cost: Option<Money>,
    pub turn_count: u64,
    pub call_count: u64,
    pub allowed_count: u64,
    pub denied_count: u64,
    pub asked_count: u64,
    pub rewritten_count: u64,
    pub waiting_count: u64,
    pub breach_count: u64,
    pub plugin_failure_count: u64,
    /// Results that a policy flagged.
    pub flagged_count: u64,
    /// What the policies made of the newest attempt: `accept`, `escalate` or `error`, with its text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_text: Option<String>,
    pub last_seq: u64,
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
            created_at: format_ms(s.created_at),
            started_at: s.started_at.map(format_ms),
            ended_at: s.ended_at.map(format_ms),
            last_activity_at: format_ms(s.last_activity_at),
            attempt: s.attempt,
            pid: s.pid,
            exit_code: s.exit_code,
            signal: s.signal,
            agent_session_id: s.agent_session_id.clone(),
            agent_version: s.agent_version.clone(),
            model: s.model.clone(),
            context_window: s.context_window,
            context_used: s.context_used,
            usage: s.usage,
            cost: s.cost.map(Money::from),
            unpriced_count: s.unpriced,
            agent_cost: s.agent_cost.map(Money::from),
            turn_count: s.turns,
            call_count: s.calls,
            allowed_count: s.allowed,
            denied_count: s.denied,
            asked_count: s.asked,
            rewritten_count: s.rewritten,
            waiting_count: s.waiting,
            breach_count: s.breaches,
            plugin_failure_count: s.plugin_failures,
            flagged_count: s.flagged,
            verdict: s.verdict.clone(),
            last_text: s.last_text.clone(),
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
