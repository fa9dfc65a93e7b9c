//! Event bodies of attempts: what is planned, their start, their end, their checkpoint, and that they were taken back.
//!
//! Invariants: an attempt's number is the envelope's, except where an event speaks of an attempt that is over and names it; what is
//! not known is absent, never zero or false. Written by `session` (for agents of the host's own) and by sessions that other programs
//! write; folded into [`crate::model::Session`] and the table of attempts.

use serde::{Deserialize, Serialize};

use super::{Actor, Excerpt};
use crate::model::plan::Restart;
use crate::model::session::Outcome;
use crate::model::usage::Nanousd;

/// Most bytes of the short names of an attempt (agent, phase, tier, model).
pub const ATTEMPT_NAME_MAX: usize = 200;
/// Why an attempt is made that the host makes once, by `run --restart`.
pub const RESTART: &str = "restart";

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AttemptStarted {
    /// What was really executed, after the agent's recipe. Secrets in arguments are replaced. Empty where the host started nothing.
    #[serde(default)]
    pub argv: Vec<String>,
    /// 0 where no process is known.
    #[serde(default)]
    pub pid: u32,
    /// 0 where the host did not start the agent.
    #[serde(default)]
    pub shim_pid: u32,
    /// Start time of the agent's process, where no shim holds it: with the pid it names the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_start: Option<u64>,
    /// Who works: the name of the agent, where it is another than the session's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The phase it works in, where it is another than the session's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// `local`, `sub-agent`, `managed`, or what the writer calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// The model that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// It goes on from an earlier conversation, or its runner was there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<bool>,
    /// `retry`, `escalate` or [`RESTART`], for one that follows another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptEnded {
    pub outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Wall time at which the process ended, as the shim saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rss_kb: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether its work is good, where somebody says so; else the outcome tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it cost as its writer tells; for agents that the host reads, the ledger has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Nanousd>,
    /// The model that did the work, as its writer tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// No further attempt follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_final: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_summary: Option<Excerpt>,
    /// What the runner itself printed, capped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_output: Option<Excerpt>,
}

impl AttemptEnded {
    /// An end of which only the outcome is known.
    pub const fn with(outcome: Outcome) -> Self {
        Self {
            outcome,
            exit_code: None,
            signal: None,
            ended_at: None,
            duration_ms: None,
            user_ms: None,
            system_ms: None,
            max_rss_kb: None,
            reason: None,
            success: None,
            error: None,
            cost: None,
            model: None,
            is_final: false,
            output_summary: None,
            runner_output: None,
        }
    }

    /// Whether its work is good: what was said, else what its outcome means. None where nothing tells.
    pub fn succeeded(&self) -> Option<bool> {
        self.success.or(match self.outcome {
            Outcome::Succeeded => Some(true),
            Outcome::Exited => None,
            _ => Some(false),
        })
    }
}

/// How often the work is tried, by whom, and who judges it. Written once, with the session's first events.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AttemptsPlanned {
    /// From the first to the last; at least one.
    pub tiers: Vec<PlannedTier>,
    /// Milliseconds before the second attempt of a tier; doubled for each further one.
    pub backoff_ms: u64,
    pub backoff_max_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verifier: Option<PlannedVerifier>,
    /// `success` (attempts that are good), `always` or `never`.
    pub checkpoint: String,
    /// BLAKE3 of the kept file with what further attempts need, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// When its agent is started once more, beside what the tiers say.
    #[serde(default, skip_serializing_if = "Restart::is_no")]
    pub restart: Restart,
}

impl AttemptsPlanned {
    /// Whether the tiers, or a verifier, say what follows an attempt that ended.
    pub fn tells_what_follows(&self) -> bool {
        self.verifier.is_some() || self.tiers.iter().map(|t| t.attempts).sum::<u32>() > 1
    }
}

/// One step of the ladder.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PlannedTier {
    pub name: String,
    /// `local`, `sub-agent` or `managed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The host's name of the agent program: `claude`, `generic`, ...
    pub agent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How often it is tried.
    pub attempts: u32,
    /// How long one attempt may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
}

/// The command that judges attempts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PlannedVerifier {
    pub command: Vec<String>,
    pub deadline_ms: u64,
}

/// A further attempt is decided on. Until it starts, the session has no agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptScheduled {
    pub attempt: u32,
    /// Place of its tier in the plan, from 0.
    pub tier: u32,
    /// Wall time in milliseconds before which it does not start.
    pub not_before: i64,
    /// `retry`, `escalate` or [`RESTART`].
    pub why: String,
    /// What went wrong, or what the verifier wants otherwise: handed on in the prompt. Of a restart: why it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<String>,
}

/// The worktree as an attempt left it, kept as a commit that no branch names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptCheckpointed {
    /// 0: the one that was open then, which the envelope names.
    pub attempt: u32,
    /// The commit, hex.
    pub commit: String,
    /// What keeps it from being collected: `refs/beadle/...`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The commit's tree, hex.
    pub tree: String,
    /// The worktree's top folder.
    pub cwd: String,
}

/// An attempt counts no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRolledBack {
    pub attempt: u32,
    pub by: Actor,
    /// The new worktree that holds a checkpoint, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_to: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bodies_of_earlier_versions_are_read_and_nothing_unknown_is_written() {
        let old = json!({"argv": ["a"], "pid": 1, "shim_pid": 2});
        let s: AttemptStarted = serde_json::from_value(old.clone()).unwrap();
        assert_eq!(serde_json::to_value(&s).unwrap(), old);
        let e = AttemptEnded::with(Outcome::Failed);
        assert_eq!(serde_json::to_value(&e).unwrap(), json!({"outcome": "failed"}));
        let c = AttemptCheckpointed { attempt: 1, commit: "c".into(), reference: "r".into(), tree: "t".into(), cwd: "/".into() };
        let v = serde_json::to_value(&c).unwrap();
        assert_eq!(v, json!({"attempt": 1, "commit": "c", "ref": "r", "tree": "t", "cwd": "/"}));
    }

    #[test]
    fn success_is_said_or_follows_from_the_outcome() {
        let said = AttemptEnded { success: Some(false), ..AttemptEnded::with(Outcome::Succeeded) };
        assert_eq!(said.succeeded(), Some(false));
        assert_eq!(AttemptEnded::with(Outcome::Exited).succeeded(), None);
        assert_eq!(AttemptEnded::with(Outcome::Lost).succeeded(), Some(false));
    }
}
