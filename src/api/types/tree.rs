//! Sessions that belong together: trees, acts on them, handoffs, tasks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Money, SessionDoc};
use crate::model::tree::Together;
use crate::model::{BranchKind, PauseMode, SubAgent, Task, TaskSource, TaskStatus, TreeAct, Usage, UsageLimits, format_ms};

/// A session and all below it, parents before their children, each followed by its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TreeDoc {
    pub nodes: Vec<TreeNodeDoc>,
    /// There are more than 10,000; the sums lack them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// One session of a tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TreeNodeDoc {
    /// Generations below the first.
    pub depth: u32,
    pub session: SessionDoc,
    /// Its own numbers with those of all below it, each once.
    pub together: TogetherDoc,
    /// Children that have no log of their own. What they used is in the session's numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sub_agents: Vec<SubAgentDoc>,
}

/// A sum over sessions. `cost` is null where no model call has a known price, and a lower bound where `unpriced_count` is not 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TogetherDoc {
    pub session_count: u64,
    /// Those that have not ended.
    pub open_count: u64,
    pub usage: Usage,
    pub cost: Option<Money>,
    pub unpriced_count: u64,
    pub turn_count: u64,
    pub call_count: u64,
    pub denied_count: u64,
    pub breach_count: u64,
    pub sub_agent_count: u64,
}

impl From<&Together> for TogetherDoc {
    fn from(t: &Together) -> Self {
        Self {
            session_count: t.sessions,
            open_count: t.open,
            usage: t.usage,
            cost: t.cost.map(Money::from),
            unpriced_count: t.unpriced,
            turn_count: t.turns,
            call_count: t.calls,
            denied_count: t.denied,
            breach_count: t.breaches,
            sub_agent_count: t.sub_agents,
        }
    }
}

/// A sub-agent of a session's agent, as far as the agent tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubAgentDoc {
    /// The agent's own id of the call that began it.
    pub call_id: String,
    /// The same of the sub-agent that began this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_call_id: Option<String>,
    pub agent_type: String,
    pub description: String,
    pub began_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    pub is_error: bool,
    pub call_count: u64,
    pub denied_count: u64,
    pub usage: Usage,
    pub cost: Option<Money>,
    pub unpriced_count: u64,
    /// seq of the event that told of it.
    pub seq: u64,
}

impl From<&SubAgent> for SubAgentDoc {
    fn from(s: &SubAgent) -> Self {
        Self {
            call_id: s.call_id.clone(),
            parent_call_id: s.parent_call_id.clone(),
            agent_type: s.agent_type.clone(),
            description: s.description.clone(),
            began_at: format_ms(s.began_at),
            ended_at: s.ended_at.map(format_ms),
            is_error: s.is_error,
            call_count: s.calls,
            denied_count: s.denied,
            usage: s.usage,
            cost: s.cost.map(Money::from),
            unpriced_count: s.unpriced,
            seq: s.seq,
        }
    }
}

/// Stop, kill, pause or resume a session and all below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeActRequest {
    pub act: TreeAct,
    /// Of a stop; default is the configured `session.grace_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
    /// Of a pause; default: `hold` where a session has a gate, else `freeze`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<PauseMode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What was told. Of a stop or kill the ends come after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeActDoc {
    pub act: TreeAct,
    /// Ids of the sessions that it was done to, in that order.
    pub done: Vec<String>,
    /// Those that it could not be done to, each with the reason.
    pub failed: Vec<String>,
}

/// The work of a session goes to another agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandOffRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    pub to: String,
    /// The session in which the other agent goes on: by id, unique prefix of one, or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A new session that goes on from another: a fork at an event, or the work of an ended one taken up again. What is left out is as it was
/// there; folder, arguments, labels and the rest of its record always are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BranchRequestDoc {
    pub how: BranchKind,
    /// The last event that counts; the newest when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// MCP servers in the agent's own JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp_config: Option<Value>,
    /// In place of all those that the first session had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<UsageLimits>,
    #[serde(default)]
    pub keep_open: bool,
    #[serde(default)]
    pub attach: bool,
    /// By id, unique prefix of one, or name; the same parent when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Give a text made from the log also where the agent's own record is there.
    #[serde(default)]
    pub replay: bool,
}

/// One task of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskDoc {
    pub id: String,
    pub title: String,
    pub status: TaskStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// `host`: the host's own list; `agent`: the agent's, as its calls show it.
    pub source: TaskSource,
    pub created_at: String,
    pub updated_at: String,
}

impl From<&Task> for TaskDoc {
    fn from(t: &Task) -> Self {
        Self {
            id: t.id.clone(),
            title: t.title.clone(),
            status: t.status,
            owner: t.owner.clone(),
            note: t.note.clone(),
            source: t.source,
            created_at: format_ms(t.created_at),
            updated_at: format_ms(t.updated_at),
        }
    }
}

/// A new task (`title` is needed), or what changes of one. An empty owner or note takes it away.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<TaskStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
