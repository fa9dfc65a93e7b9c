//! Event bodies of the optional moments: what each policy answered, and what came of it. Written by `session::moments`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Excerpt;
use crate::model::decision::{FailureCause, Mode};
use crate::model::moment::{PromptAnswer, SessionAnswer, Tightened, Verdict};

/// One policy's part in a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said<T> {
    /// The policy's name in the configuration.
    pub policy: String,
    /// BLAKE3 of the component, hex.
    pub digest: String,
    pub mode: Mode,
    /// Absent when it failed.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub answer: Option<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailureCause>,
    pub latency_us: u64,
}

// why: the derived default would ask for one of `T`.
const fn none<T>() -> Option<T> {
    None
}

/// What a policy forbids, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub policy: String,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionJudged {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
    /// Settings that this session has tighter than its configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tightened: Vec<Tightened>,
    /// Labels that it was given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What was not taken, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
    pub answers: Vec<Said<SessionAnswer>>,
}

/// Text that a policy adds beside a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptContext {
    pub policy: String,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptJudged {
    /// 1 for the session's first prompt.
    pub number: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
    /// What the agent gets beside the prompt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<PromptContext>,
    /// Why the context was not given, where the agent takes none, or it was too much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_given: Option<String>,
    pub answers: Vec<Said<PromptAnswer>>,
}

/// What a policy said of a result; a replacement itself shows in the call's `tool_ended`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultSaid {
    pub replaced: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flag: Option<String>,
}

/// What became of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// As the tool gave it.
    Whole,
    /// The model was given another.
    Replaced,
    /// The model was given none of it, because a policy failed.
    Withheld,
    /// It should have been replaced or withheld, which the agent does not allow here: the session is stopped.
    Stopped,
    /// The same, and `results.unreplaceable` lets it pass.
    Passed,
}

impl Shown {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Replaced => "replaced",
            Self::Withheld => "withheld",
            Self::Stopped => "stopped",
            Self::Passed => "passed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultJudged {
    /// seq of the `tool_requested` event, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
    pub call_id: String,
    pub tool: String,
    pub is_error: bool,
    pub shown: Shown,
    /// Who wanted it replaced or withheld, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<Refusal>,
    /// What people should know of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<PromptContext>,
    /// Length of the result as the tool gave it, in bytes of JSON.
    pub bytes: u64,
    pub answers: Vec<Said<ResultSaid>>,
    /// Number of the frame that carries the answer to the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptVerified {
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Rounds of feedback before this verdict.
    pub round: u32,
    /// The text was given to the agent as a further prompt.
    pub given: bool,
    /// Why it was not, for an escalation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_given: Option<String>,
    pub answers: Vec<Said<Verdict>>,
    /// The verifier command's run, where one judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verifier: Option<VerifierRun>,
}

/// One run of a verifier command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifierRun {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    pub duration_ms: u64,
    /// What it says was done, in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// What it printed, both streams, capped.
    pub output: Excerpt,
    /// It printed more than was kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wire_shapes_are_stable() {
        let said = Said {
            policy: "p".into(),
            digest: "d".into(),
            mode: Mode::Enforce,
            answer: Some(Verdict::Accept),
            failed: None,
            latency_us: 7,
        };
        let e = AttemptVerified {
            verdict: Verdict::Escalate("more".into()),
            round: 1,
            given: true,
            not_given: None,
            answers: vec![said],
            verifier: None,
        };
        let v = json!({"verdict": "escalate", "text": "more", "round": 1, "given": true, "answers": [
            {"policy": "p", "digest": "d", "mode": "enforce", "answer": {"verdict": "accept"}, "latency_us": 7},
        ]});
        assert_eq!(serde_json::to_value(&e).ok(), Some(v.clone()));
        assert_eq!(serde_json::from_value(v).ok(), Some(e));
    }
}
