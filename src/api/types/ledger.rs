//! Model calls, grouped: tokens and cost by model, agent, label, day, attempt, session; and tool calls by tool.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Money;
use crate::model::ledger::{Group, LedgerSum, Overflow};
use crate::model::tool_ledger::ToolSum;
use crate::model::{Reconciliation, Usage};

/// Which model calls, and how they are grouped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerQuery {
    /// `model` (the default), `agent`, `label:KEY`, `day`, `attempt`, `session`, `source`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// RFC 3339: calls answered at or after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// RFC 3339: calls answered before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Id, a unique beginning of one, or a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// `key=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Days begin so many minutes before midnight UTC: 120 for UTC+02:00.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utc_offset_minutes: Option<i32>,
}

/// A sum over model calls. `cost` is null where no call has a known price; where `unpriced` names models it is a lower bound.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LedgerSumDoc {
    pub session_count: u64,
    /// Model calls that were seen.
    pub call_count: u64,
    pub usage: Usage,
    pub cost: Option<Money>,
    /// Calls (and totals without calls) whose cost is not known, and so not in `cost`.
    pub unpriced_count: u64,
    /// Their models, at most 20.
    pub unpriced: BTreeSet<String>,
}

impl LedgerSumDoc {
    /// Errors when a sum does not fit its number.
    pub fn of(sum: &LedgerSum, session_count: u64) -> Result<Self, Overflow> {
        Ok(Self {
            session_count,
            call_count: sum.calls,
            usage: sum.usage().ok_or(Overflow)?,
            cost: sum.cost()?.map(Money::from),
            unpriced_count: sum.unpriced,
            unpriced: sum.unpriced_models.clone(),
        })
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LedgerRow {
    /// The model, agent, day, …; `-` where sessions do not have the label.
    pub key: String,
    #[serde(flatten)]
    pub sum: LedgerSumDoc,
    /// Tool calls of those sessions, where all of a session is in one row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_count: Option<u64>,
    /// From start to end, or until now, of the sessions; of the attempts where they are the rows of one session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

impl LedgerRow {
    pub fn of(key: String, g: &Group) -> Result<Self, Overflow> {
        let sum = LedgerSumDoc::of(&g.sum, g.sessions)?;
        Ok(Self { key, sum, tool_call_count: g.tool_calls, duration_ms: g.duration_ms })
    }
}

/// The answer: all of it, and its rows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LedgerDoc {
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    pub utc_offset_minutes: i32,
    /// Of one session: how the agent's own total stood to ours when its newest turn ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconciled: Option<Reconciliation>,
    #[serde(flatten)]
    pub all: LedgerSumDoc,
    /// Days and attempts in their order, others by cost.
    pub rows: Vec<LedgerRow>,
    /// Rows added up under `(others)`.
    pub left_out_count: u64,
}

/// Which tool calls.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolsQuery {
    /// RFC 3339: calls asked for at or after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// RFC 3339: calls asked for before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Id, a unique beginning of one, or a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// `key=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// What tool calls came to. The times are of calls that ended, from the start to the result; null where none did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ToolSumDoc {
    pub session_count: u64,
    /// Asked for, or told of by another program.
    pub call_count: u64,
    pub allowed_count: u64,
    pub denied_count: u64,
    /// Questions to a person.
    pub asked_count: u64,
    /// Results of calls that were not denied.
    pub ended_count: u64,
    /// Those that were errors.
    pub failed_count: u64,
    pub duration_ms: u64,
    pub median_ms: Option<u64>,
    pub p95_ms: Option<u64>,
}

impl ToolSumDoc {
    pub fn of(mut sum: ToolSum) -> Self {
        Self {
            session_count: sum.sessions,
            call_count: sum.calls,
            allowed_count: sum.allowed,
            denied_count: sum.denied,
            asked_count: sum.asked,
            ended_count: sum.ended,
            failed_count: sum.failed,
            duration_ms: sum.duration_ms(),
            median_ms: sum.percentile_ms(50),
            p95_ms: sum.percentile_ms(95),
        }
    }
}

/// One tool.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ToolRow {
    /// As the agent names it, at most 100 characters; `(unknown)` of calls that are too long ago in their session.
    pub key: String,
    #[serde(flatten)]
    pub sum: ToolSumDoc,
}

/// The answer: all of it, and a row a tool, most calls first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ToolsDoc {
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(flatten)]
    pub all: ToolSumDoc,
    pub rows: Vec<ToolRow>,
    /// Rows added up under `(others)`.
    pub left_out_count: u64,
    /// Sessions that are left out, because their log cannot be read: an archive is away, or it is damaged.
    pub unreadable_count: u64,
    /// More than two million events: older sessions are left out.
    pub truncated: bool,
}
