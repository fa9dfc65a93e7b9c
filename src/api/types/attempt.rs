//! Attempts of a session or a tree, with what each took, and sums by agent, phase and session.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Money;
use crate::model::ledger::{Group, Overflow};
use crate::model::{Attempt, Nanousd, Outcome, Session, Usage, Verdict, format_ms};
use crate::model::{Excerpt, Status};

/// Most sessions of one tree that are looked at.
pub const TREE_MAX: usize = 1_000;
/// Most attempts of one answer, newest sessions first.
pub const ATTEMPTS_SHOWN: usize = 10_000;

/// Which attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttemptsQuery {
    /// Those of the sessions that were started for it as well.
    #[serde(default)]
    pub tree: bool,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptDoc {
    pub session: String,
    pub session_name: String,
    pub number: u32,
    /// Of the attempt, else of its session.
    pub agent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<bool>,
    /// `retry` or `escalate`, for one that followed another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub usage: Usage,
    /// By the ledger; what its writer told, where the ledger has nothing. Null where neither knows.
    pub cost: Option<Money>,
    /// Responses whose price is not known, and so not in `cost`.
    pub unpriced_count: u64,
    /// Somebody judged it.
    pub verified: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_summary: Option<Excerpt>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_output: Option<Excerpt>,
    /// The commit that holds the worktree as it left it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_ref: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_to: Option<String>,
    pub is_final: bool,
}

impl AttemptDoc {
    /// `group` is what the ledger has of it. Errors when a sum does not fit its number.
    pub fn of(s: &Session, a: &Attempt, group: Option<&Group>, now: i64) -> Result<Self, Overflow> {
        let known = group.map(|g| g.sum.cost()).transpose()?.flatten();
        let usage = group.map_or(Some(Usage::default()), |g| g.sum.usage()).ok_or(Overflow)?;
        let running = a.ended_at.is_none() && s.status != Status::Ended;
        let so_far = || a.started_at.filter(|_| running).and_then(|from| u64::try_from(now.saturating_sub(from)).ok());
        Ok(Self {
            session: s.id.to_string(),
            session_name: s.name.clone(),
            number: a.number,
            agent: a.agent.clone().unwrap_or_else(|| s.agent.clone()),
            phase: a.phase.clone().or_else(|| s.record.phase.clone()),
            tier: a.tier.clone(),
            model: a.model.clone(),
            warm: a.warm,
            why: a.why.clone(),
            started_at: a.started_at.map(format_ms),
            ended_at: a.ended_at.map(format_ms),
            duration_ms: a.duration_ms.or_else(so_far),
            outcome: a.outcome,
            exit_code: a.exit_code,
            signal: a.signal,
            success: a.success,
            error: a.error.clone(),
            usage,
            cost: known.or(a.cost).map(Money::from),
            unpriced_count: group.map_or(0, |g| g.sum.unpriced),
            verified: a.verdict.is_some(),
            verdict: a.verdict.clone(),
            output_summary: a.output_summary.clone(),
            runner_output: a.runner_output.clone(),
            checkpoint: a.checkpoint.clone(),
            checkpoint_ref: a.checkpoint_ref.clone(),
            rolled_back_at: a.rolled_back_at.map(format_ms),
            restored_to: a.restored_to.clone(),
            is_final: a.is_final,
        })
    }
}

/// A sum over attempts. Those that were taken back are in it: what they used was used.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AttemptSumDoc {
    pub attempt_count: u64,
    pub succeeded_count: u64,
    pub rolled_back_count: u64,
    /// Of all attempts.
    pub duration_ms: u64,
    /// Of the final attempts only.
    pub final_duration_ms: u64,
    /// Over all attempts; null where none has a known cost.
    pub cost: Option<Money>,
    pub unpriced_count: u64,
}

impl AttemptSumDoc {
    fn add(&mut self, a: &AttemptDoc) -> Result<(), Overflow> {
        self.attempt_count += 1;
        self.succeeded_count += u64::from(a.success == Some(true) && a.rolled_back_at.is_none());
        self.rolled_back_count += u64::from(a.rolled_back_at.is_some());
        self.duration_ms = self.duration_ms.saturating_add(a.duration_ms.unwrap_or(0));
        if a.is_final {
            self.final_duration_ms = self.final_duration_ms.saturating_add(a.duration_ms.unwrap_or(0));
        }
        if let Some(cost) = &a.cost {
            let so_far: Nanousd = self.cost.as_ref().map_or(0, |m| m.nanousd);
            self.cost = Some(Money::from(so_far.checked_add(cost.nanousd).ok_or(Overflow)?));
        }
        self.unpriced_count += a.unpriced_count;
        Ok(())
    }
}

/// The answer: attempts by session and number, and their sums.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct AttemptsDoc {
    pub items: Vec<AttemptDoc>,
    pub all: AttemptSumDoc,
    pub by_agent: BTreeMap<String, AttemptSumDoc>,
    /// `-` is no phase.
    pub by_phase: BTreeMap<String, AttemptSumDoc>,
    pub by_session: BTreeMap<String, AttemptSumDoc>,
    /// There are more than [`ATTEMPTS_SHOWN`] attempts or [`TREE_MAX`] sessions; the rest is in no sum.
    #[serde(default)]
    pub truncated: bool,
}

impl AttemptsDoc {
    /// Adds one attempt. Errors when a sum does not fit its number.
    pub fn add(&mut self, a: AttemptDoc) -> Result<(), Overflow> {
        self.all.add(&a)?;
        self.by_agent.entry(a.agent.clone()).or_default().add(&a)?;
        self.by_phase.entry(a.phase.clone().unwrap_or_else(|| "-".to_owned())).or_default().add(&a)?;
        self.by_session.entry(a.session.clone()).or_default().add(&a)?;
        self.items.push(a);
        Ok(())
    }
}

/// Keep the worktree of a session as a commit, now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointRequest {}

/// The commit that holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointDoc {
    pub session: String,
    pub attempt: u32,
    pub commit: String,
    #[serde(rename = "ref")]
    pub reference: String,
}

/// Take attempts back: mark them, and restore a checkpoint where that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Ids, unique beginnings of one, or names; at least one.
    pub sessions: Vec<String>,
    /// Only this attempt; all where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Only attempts of this agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Only attempts of this phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Those of the sessions that were started for the named ones as well.
    #[serde(default)]
    pub tree: bool,
    /// Absolute: a new worktree, made from the newest checkpoint before what is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<String>,
}

/// What was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RollbackDoc {
    pub items: Vec<RolledBackDoc>,
    /// Attempts that were marked by this call; the others had been before.
    pub marked_count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<RestoredDoc>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBackDoc {
    pub session: String,
    pub attempt: u32,
    /// False: it had been taken back before.
    pub marked: bool,
}

/// The worktree that holds a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredDoc {
    pub session: String,
    pub attempt: u32,
    pub commit: String,
    pub folder: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(agent: &str, ms: u64, cost: Option<u64>, is_final: bool) -> AttemptDoc {
        let s: AttemptDoc = serde_json::from_value(serde_json::json!({
            "session": "s", "session_name": "n", "number": 1, "agent": agent, "usage": Usage::default(), "cost": null,
            "unpriced_count": 0, "verified": false, "is_final": is_final, "duration_ms": ms
        }))
        .unwrap();
        AttemptDoc { cost: cost.map(Money::from), ..s }
    }

    #[test]
    fn sums_are_of_all_attempts_and_an_unknown_cost_is_not_zero() {
        let mut d = AttemptsDoc::default();
        d.add(attempt("a", 5, None, false)).unwrap();
        assert_eq!(d.all.cost, None);
        d.add(attempt("a", 7, Some(3), true)).unwrap();
        d.add(attempt("b", 1, Some(4), true)).unwrap();
        assert_eq!((d.all.duration_ms, d.all.final_duration_ms, d.all.cost.as_ref().map(|m| m.nanousd)), (13, 8, Some(7)));
        assert_eq!((d.by_agent["a"].attempt_count, d.by_agent["a"].duration_ms, d.by_phase["-"].attempt_count), (2, 12, 3));
        assert_eq!(d.add(attempt("b", 1, Some(u64::MAX), true)), Err(Overflow));
    }
}
