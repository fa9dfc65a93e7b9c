//! The optional moments of a session's life at which policies are asked, beside the tool call: what they are told and what they answer.
//!
//! Plain data; limits of an answer are checked where it comes in (`plugin`). Called by `plugin`, `policy` and `session`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An optional moment. A policy takes part by exporting the interface of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// A session is about to start.
    JudgeSession,
    /// A prompt is about to be given to the agent.
    JudgePrompt,
    /// A tool's result is about to be seen by the model.
    JudgeResult,
    /// The agent is done with an attempt.
    JudgeAttempt,
}

impl Moment {
    pub const ALL: [Self; 4] = [Self::JudgeSession, Self::JudgePrompt, Self::JudgeResult, Self::JudgeAttempt];

    /// The name of its interface.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JudgeSession => "judge-session",
            Self::JudgePrompt => "judge-prompt",
            Self::JudgeResult => "judge-result",
            Self::JudgeAttempt => "judge-attempt",
        }
    }
}

/// What would be started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionStart {
    pub program: String,
    pub args: Vec<String>,
    pub unsafe_args: Vec<String>,
    pub env_names: Vec<String>,
    pub write_root: Option<String>,
    pub model: Option<String>,
    pub prompt: Option<String>,
    pub keep_open: bool,
    pub role: String,
}

/// A setting that a session gets tighter than its configuration has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tightened {
    pub setting: String,
    pub value: Value,
}

/// A policy's answer to a session that is about to start. Empty: nothing to say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SessionAnswer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refuse: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tighten: Vec<Tightened>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<(String, String)>,
}

/// A prompt that is about to be given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewPrompt {
    pub text: String,
    /// 1 for the session's first.
    pub number: u64,
    pub role: String,
}

/// A policy's answer to a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PromptAnswer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refuse: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// A tool's result that the model is about to see.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ToolResult {
    /// In the tool's own shape.
    pub output: Value,
    pub is_error: bool,
    pub duration_ms: Option<u64>,
    /// Whether the agent lets it be replaced.
    pub replaceable: bool,
}

/// A policy's answer to a tool's result.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ResultAnswer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flag: Option<String>,
}

/// An attempt with which the agent is done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AttemptSeen {
    pub number: u32,
    /// Rounds of feedback so far.
    pub round: u32,
    pub succeeded: Option<bool>,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub last_words: String,
    pub duration_ms: u64,
    pub can_continue: bool,
}

/// What a verifier makes of an attempt, from the mildest to the strictest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict", content = "text")]
pub enum Verdict {
    Accept,
    /// Not good enough, with feedback for the agent.
    Escalate(String),
    /// Failed, and why.
    Error(String),
}

impl Verdict {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Escalate(_) => "escalate",
            Self::Error(_) => "error",
        }
    }

    /// Feedback or reason; empty for an attempt that is accepted.
    pub fn text(&self) -> &str {
        match self {
            Self::Accept => "",
            Self::Escalate(t) | Self::Error(t) => t,
        }
    }
}

/// Whether `new` can stand where `old` stood: the same keys with values of the same types in every object, each item of a list
/// like some item of the old one. Anything may become null only where it was.
pub fn same_shape(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| same_shape(v, w))),
        (Value::Array(a), Value::Array(b)) => b.iter().all(|w| a.iter().any(|v| same_shape(v, w))),
        (Value::String(_), Value::String(_))
        | (Value::Number(_), Value::Number(_))
        | (Value::Bool(_), Value::Bool(_))
        | (Value::Null, Value::Null) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_those_of_the_interfaces() {
        for m in Moment::ALL {
            assert_eq!(serde_json::to_value(m).ok(), Some(json!(m.as_str())));
        }
    }

    #[test]
    fn verdicts_are_ordered_and_have_a_stable_shape() {
        assert!(Verdict::Accept < Verdict::Escalate("a".into()) && Verdict::Escalate("z".into()) < Verdict::Error("a".into()));
        assert_eq!(serde_json::to_value(Verdict::Escalate("more".into())).ok(), Some(json!({"verdict": "escalate", "text": "more"})));
        assert_eq!(serde_json::to_value(Verdict::Accept).ok(), Some(json!({"verdict": "accept"})));
    }

    #[test]
    fn a_shape_is_kept_or_not() {
        let old = json!({"stdout": "x", "code": 1, "n": null, "list": [{"t": "a"}, 3], "ok": true});
        for (new, same) in [
            (json!({"stdout": "", "code": 2, "n": null, "list": [], "ok": false}), true),
            (json!({"stdout": "", "code": 2, "n": null, "list": [{"t": "b"}], "ok": false}), true),
            (json!({"stdout": "", "code": 2, "n": null, "list": [{"u": "b"}], "ok": false}), false),
            (json!({"stdout": null, "code": 1, "n": null, "list": [], "ok": true}), false),
            (json!({"stdout": "", "code": 1, "n": null, "list": [], "ok": true, "more": 1}), false),
            (json!({"stdout": "", "code": 1, "n": null, "ok": true}), false),
            (json!("x"), false),
        ] {
            assert_eq!(same_shape(&old, &new), same, "{new}");
        }
        assert!(same_shape(&json!("a"), &json!("b")) && !same_shape(&json!("a"), &json!(["b"])));
    }
}
