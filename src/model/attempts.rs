//! The attempts of a session, as a fold over its events: one row each, equal to the table that the store keeps.
//!
//! Invariants: a row is begun by its `attempt_started` (an end without one begins it too); what an event of another attempt says of an
//! attempt is added to the row that it names; only the newest attempt of an ended session is final, unless its writer says otherwise.
//! Money is not kept here: the usage ledger has it by attempt, and `cost` is only what a writer told.
//!
//! Called by `store` (the table and its check) and `api`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::event::{Envelope, Event, Excerpt};
use super::moment::Verdict;
use super::session::Outcome;
use super::usage::Nanousd;

/// Attempts of one session that are kept as rows; events of later ones stay in the log only.
pub const ATTEMPTS_MAX: usize = 10_000;

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attempt {
    pub number: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
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
    pub started_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<i64>,
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
    /// Why it is not good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// As its writer told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Nanousd>,
    /// The newest verdict on it; absent where nobody judged.
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
    /// The worktree that the checkpoint is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worktree: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_to: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_final: bool,
}

/// All of a session, by number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attempts(pub BTreeMap<u32, Attempt>);

impl Attempts {
    /// The kinds that change a row.
    pub const KINDS: [&'static str; 7] = [
        "agent_started",
        "attempt_checkpointed",
        "attempt_ended",
        "attempt_rolled_back",
        "attempt_started",
        "attempt_verified",
        "session_ended",
    ];

    /// The attempt that an event changes; `u32::MAX` for the newest there is. None where it changes none.
    pub fn of(e: &Envelope) -> Option<u32> {
        match &e.event {
            Event::AttemptStarted(_) | Event::AttemptEnded(_) | Event::AgentStarted(_) | Event::AttemptVerified(_) => Some(e.attempt),
            Event::AttemptCheckpointed(c) => Some(if c.attempt == 0 { e.attempt } else { c.attempt }),
            Event::AttemptRolledBack(r) => Some(r.attempt),
            Event::SessionEnded(_) => Some(u32::MAX),
            _ => None,
        }
    }

    /// Folds one event of the log, oldest first.
    pub fn fold(&mut self, e: &Envelope) {
        let number = match Self::of(e) {
            None => return,
            Some(u32::MAX) => match self.0.last_key_value() {
                Some((newest, _)) => *newest,
                None => return,
            },
            Some(n) => n,
        };
        if self.0.len() >= ATTEMPTS_MAX && !self.0.contains_key(&number) {
            return;
        }
        let old = self.0.remove(&number);
        if let Some(row) = Attempt::after(old, number, e) {
            self.0.insert(number, row);
        }
    }
}

impl Attempt {
    /// The row after an event that is of it; None where there is none yet and the event begins none.
    pub fn after(old: Option<Self>, number: u32, e: &Envelope) -> Option<Self> {
        let begins = matches!(&e.event, Event::AttemptStarted(_) | Event::AttemptEnded(_));
        if old.is_none() && !begins {
            return None;
        }
        let mut row = old.unwrap_or(Self { number, ..Self::default() });
        match &e.event {
            Event::AttemptStarted(a) => {
                row.agent.clone_from(&a.agent);
                row.phase.clone_from(&a.phase);
                row.tier.clone_from(&a.tier);
                row.model.clone_from(&a.model);
                row.warm = a.warm;
                row.why.clone_from(&a.why);
                row.started_at = Some(e.at);
            }
            Event::AgentStarted(a) => row.model = a.model.clone().or(row.model.take()),
            Event::AttemptEnded(a) => {
                row.ended_at = Some(e.at);
                let span = row.started_at.and_then(|from| u64::try_from(e.at.saturating_sub(from)).ok());
                row.duration_ms = a.duration_ms.or(span);
                row.outcome = Some(a.outcome);
                (row.exit_code, row.signal) = (a.exit_code, a.signal);
                row.success = a.succeeded();
                row.error = a.error.clone().or_else(|| a.reason.clone().filter(|_| row.success == Some(false)));
                row.cost = a.cost.or(row.cost);
                row.model = a.model.clone().or(row.model.take());
                row.output_summary = a.output_summary.clone().or(row.output_summary.take());
                row.runner_output = a.runner_output.clone().or(row.runner_output.take());
                row.is_final |= a.is_final;
            }
            Event::AttemptVerified(v) => {
                row.verdict = Some(v.verdict.clone());
                if let Some(run) = &v.verifier {
                    row.runner_output = Some(run.output.clone());
                    row.output_summary = run.summary.as_ref().map(|s| Excerpt { text: s.clone(), bytes: s.len() as u64, blob: None });
                }
            }
            Event::AttemptCheckpointed(c) => {
                row.checkpoint = Some(c.commit.clone());
                row.checkpoint_ref = Some(c.reference.clone());
                row.worktree = Some(c.cwd.clone());
            }
            Event::AttemptRolledBack(r) => {
                row.rolled_back_at.get_or_insert(e.at);
                row.restored_to = r.restored_to.clone().or(row.restored_to.take());
            }
            Event::SessionEnded(_) => row.is_final = true,
            _ => {}
        }
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Actor, AttemptCheckpointed, AttemptEnded, AttemptRolledBack, AttemptStarted, SessionEnded, SessionId};

    fn fold(events: &[(u32, i64, Event)]) -> Attempts {
        let id = SessionId::parse("s-1-aaaaa").unwrap();
        let mut all = Attempts::default();
        for (i, (attempt, at, event)) in events.iter().enumerate() {
            all.fold(&Envelope { session: id.clone(), seq: i as u64 + 1, at: *at, attempt: *attempt, event: event.clone() });
        }
        all
    }

    fn failed(why: &str) -> Event {
        AttemptEnded { reason: Some(why.to_owned()), ..AttemptEnded::with(Outcome::Failed) }.into()
    }

    #[test]
    fn rows_follow_their_events_and_the_last_is_final() {
        let kept = AttemptCheckpointed { attempt: 2, commit: "c".into(), reference: "r".into(), tree: "t".into(), cwd: "/w".into() };
        let all = fold(&[
            (1, 10, AttemptStarted { tier: Some("small".into()), warm: Some(false), ..AttemptStarted::default() }.into()),
            (1, 25, failed("no")),
            (2, 30, AttemptStarted { why: Some("escalate".into()), ..AttemptStarted::default() }.into()),
            (2, 50, AttemptEnded { duration_ms: Some(7), ..AttemptEnded::with(Outcome::Succeeded) }.into()),
            (2, 50, kept.into()),
            (2, 51, SessionEnded { outcome: Outcome::Succeeded, reason: None, report: None }.into()),
            (2, 60, AttemptRolledBack { attempt: 1, by: Actor::host(), restored_to: None }.into()),
        ]);
        let (a, b) = (&all.0[&1], &all.0[&2]);
        assert_eq!((a.tier.as_deref(), a.duration_ms, a.success, a.error.as_deref()), (Some("small"), Some(15), Some(false), Some("no")));
        assert_eq!((a.is_final, a.rolled_back_at), (false, Some(60)));
        assert_eq!((b.why.as_deref(), b.duration_ms, b.success, b.is_final), (Some("escalate"), Some(7), Some(true), true));
        assert_eq!(b.checkpoint.as_deref(), Some("c"));
    }

    #[test]
    fn an_end_without_a_start_is_a_row_and_other_events_are_none() {
        let all = fold(&[
            (1, 5, failed("the program is missing")),
            (3, 6, AttemptRolledBack { attempt: 9, by: Actor::host(), restored_to: None }.into()),
        ]);
        assert_eq!(all.0.keys().copied().collect::<Vec<_>>(), [1]);
        assert_eq!((all.0[&1].started_at, all.0[&1].duration_ms), (None, None));
    }

    #[test]
    fn every_kind_that_changes_a_row_is_named() {
        for kind in Attempts::KINDS {
            assert!(Event::KINDS.contains(&kind), "{kind}");
        }
    }
}
