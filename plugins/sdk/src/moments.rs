//! The optional moments of a session's life, one trait each, and short ways to answer.
//!
//! A policy implements those it wants and names them in [`export_policy!`](crate::export_policy). Each call runs like `decide`: in a
//! fresh instance after `configure`, within the policy's deadline; a panic, a missed deadline or an answer over the limits counts as the
//! operator's `on_failure`. `wit/README.md` has the table of all moments.

use crate::{Attempt, Call, Prompt, PromptAnswer, ResultAnswer, Session, SessionAnswer, Start, Tightened, ToolResult, Verdict};

/// A session is about to start.
pub trait JudgeSession: crate::Policy {
    /// Called once before the agent is started, never again for that session. Failure: `deny` and `ask` refuse the session.
    fn judge_session(&self, session: &Session, start: &Start) -> SessionAnswer;
}

/// A prompt is about to be given to the agent.
pub trait JudgePrompt: crate::Policy {
    /// Called for each prompt, the host's own feedback included. Failure: `deny` and `ask` refuse the prompt.
    fn judge_prompt(&self, session: &Session, prompt: &Prompt) -> PromptAnswer;
}

/// A tool's result is about to be seen by the model.
pub trait JudgeResult: crate::Policy {
    /// Called for each result of a call that ran, one policy after the other. Failure: `deny` and `ask` withhold the result.
    fn judge_result(&self, session: &Session, call: &Call, result: &ToolResult) -> ResultAnswer;
}

/// The agent is done with an attempt.
pub trait JudgeAttempt: crate::Policy {
    /// Called when the last turn ended, and after each round of feedback again. Failure: `deny` is an error, `ask` escalates without
    /// feedback.
    fn judge_attempt(&self, session: &Session, attempt: &Attempt) -> Verdict;
}

impl SessionAnswer {
    /// It may start as it is.
    pub fn pass() -> Self {
        Self { refuse: None, tighten: Vec::new(), labels: Vec::new() }
    }

    /// It must not start.
    pub fn refuse(reason: impl Into<String>) -> Self {
        Self { refuse: Some(reason.into()), ..Self::pass() }
    }

    /// Tightens a setting, by its name in the configuration; the value is JSON.
    #[must_use]
    pub fn tighten(mut self, setting: impl Into<String>, value: impl ToString) -> Self {
        self.tighten.push(Tightened { setting: setting.into(), value: value.to_string() });
        self
    }

    /// Gives the session a label.
    #[must_use]
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((key.into(), value.into()));
        self
    }
}

impl PromptAnswer {
    /// It may be given as it is.
    pub fn pass() -> Self {
        Self { refuse: None, context: None }
    }

    /// It must not reach the agent.
    pub fn refuse(reason: impl Into<String>) -> Self {
        Self { refuse: Some(reason.into()), ..Self::pass() }
    }

    /// Adds text for the agent beside the prompt, at most 16 KiB.
    #[must_use]
    pub fn with_context(mut self, text: impl Into<String>) -> Self {
        self.context = Some(text.into());
        self
    }
}

impl ResultAnswer {
    /// The model may see it as it is.
    pub fn pass() -> Self {
        Self { replace: None, flag: None }
    }

    /// The model sees this JSON instead, which has the shape of the result's output.
    pub fn replace(output: impl Into<String>) -> Self {
        Self { replace: Some(output.into()), ..Self::pass() }
    }

    /// Tells people something of this result.
    #[must_use]
    pub fn with_flag(mut self, text: impl Into<String>) -> Self {
        self.flag = Some(text.into());
        self
    }
}

impl ToolResult {
    /// The output with a text replaced wherever it stands in a string of it; `None` when it stands nowhere. The shape stays.
    pub fn redacted(&self, text: &str, by: &str) -> Option<String> {
        let mut output: serde_json::Value = serde_json::from_str(&self.output).ok()?;
        redact(&mut output, text, by).then(|| output.to_string())
    }
}

fn redact(v: &mut serde_json::Value, text: &str, by: &str) -> bool {
    match v {
        serde_json::Value::String(s) if !text.is_empty() && s.contains(text) => {
            *s = s.replace(text, by);
            true
        }
        // why `|`: every part is visited.
        serde_json::Value::Array(items) => items.iter_mut().fold(false, |any, i| any | redact(i, text, by)),
        serde_json::Value::Object(map) => map.iter_mut().fold(false, |any, (_, i)| any | redact(i, text, by)),
        _ => false,
    }
}

impl Default for Start {
    /// A session without arguments or prompt, started by an operator; for tests.
    fn default() -> Self {
        Self {
            program: "claude".to_owned(),
            args: Vec::new(),
            unsafe_args: Vec::new(),
            env_names: Vec::new(),
            write_root: None,
            model: None,
            prompt: None,
            keep_open: false,
            role: "operator".to_owned(),
            at_ms: 0,
        }
    }
}

impl Default for Attempt {
    /// A first attempt that succeeded, as its agent says; for tests.
    fn default() -> Self {
        Self {
            number: 1,
            round: 0,
            succeeded: Some(true),
            exit_code: None,
            signal: None,
            last_words: String::new(),
            duration_ms: 0,
            can_continue: true,
            at_ms: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redaction_keeps_the_shape() {
        let result = ToolResult {
            output: r#"{"stdout":"key=S3 and S3","list":["S3",1],"ok":true}"#.to_owned(),
            is_error: false,
            duration_ms: None,
            replaceable: true,
            at_ms: 0,
        };
        let out: serde_json::Value = serde_json::from_str(&result.redacted("S3", "[key]").unwrap()).unwrap();
        assert_eq!(out, serde_json::json!({"stdout": "key=[key] and [key]", "list": ["[key]", 1], "ok": true}));
        assert_eq!(result.redacted("none", "x"), None);
        assert_eq!(result.redacted("", "x"), None);
    }

    #[test]
    fn answers_are_built_up() {
        let a = SessionAnswer::pass().tighten("approvals.timeout_ms", 1000).with_label("team", "a");
        assert_eq!((a.tighten[0].value.as_str(), a.labels[0].1.as_str(), a.refuse), ("1000", "a", None));
        assert_eq!(PromptAnswer::refuse("no").refuse.as_deref(), Some("no"));
        assert_eq!(ResultAnswer::pass().with_flag("f").flag.as_deref(), Some("f"));
    }
}
