//! Model calls, grouped: tokens and cost by model, agent, label, day, attempt, session.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Money;
use crate::model::ledger::{Group, LedgerSum, Overflow};
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
