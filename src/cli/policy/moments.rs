//! `beadle policy explain` at the optional moments: a payload of another hook than the one before a tool call.
//!
//! - a prompt: `hook_event_name` is `UserPromptSubmit` (Gemini: `BeforeAgent`), or the line is `{"prompt": "…"}`;
//! - a result: `PostToolUse` or `AfterTool`, with `tool_response`;
//! - a start: `SessionStart`; - an attempt: `Stop` (Gemini: `AfterAgent`), with `last_assistant_message`.
//!
//! Called by `policy::explain`.

use serde::Serialize;
use serde_json::Value;

use crate::model::moment::{AttemptSeen, Moment, NewPrompt, PromptAnswer, SessionAnswer, SessionStart, ToolResult, Verdict};
use crate::model::{Call, PromptContext, Refusal, ResultSaid, Said, Session};
use crate::policy::Chain;

/// Which moment a payload is about; none for a tool call that has not run.
pub fn of(payload: &Value) -> Option<Moment> {
    match payload.get("hook_event_name").and_then(Value::as_str) {
        Some("UserPromptSubmit" | "BeforeAgent") => Some(Moment::JudgePrompt),
        Some("PostToolUse" | "AfterTool") => Some(Moment::JudgeResult),
        Some("SessionStart") => Some(Moment::JudgeSession),
        Some("Stop" | "AfterAgent") => Some(Moment::JudgeAttempt),
        Some(_) => None,
        None => (payload.get("prompt").is_some_and(Value::is_string) && payload.get("tool_name").is_none()).then_some(Moment::JudgePrompt),
    }
}

/// What the chain said, one line of the answer.
#[derive(Debug, Serialize)]
pub struct Heard {
    pub line: u64,
    pub moment: Moment,
    /// Whether all passes as it is.
    pub passes: bool,
    /// Who refuses, withholds or replaces, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Refusal>,
    /// What the model would see instead of the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Value>,
    /// Text beside the prompt, or flags of the result.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<PromptContext>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    pub answers: Answers,
}

/// Each policy's own answer.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Answers {
    Session(Vec<Said<SessionAnswer>>),
    Prompt(Vec<Said<PromptAnswer>>),
    Result(Vec<Said<ResultSaid>>),
    Attempt(Vec<Said<Verdict>>),
}

/// Asks the chain. `call` is that of the result.
pub async fn hear(
    chain: &Chain,
    session: &Session,
    moment: Moment,
    payload: &Value,
    call: Option<&Call>,
    line: u64,
    at_ms: i64,
) -> Result<Heard, String> {
    let text = |key: &str| payload.get(key).and_then(Value::as_str).map(str::to_owned);
    let heard = |passes, by, answers| Heard { line, moment, passes, by, replaced: None, context: vec![], verdict: None, answers };
    Ok(match moment {
        Moment::JudgeSession => {
            let start = SessionStart {
                program: text("agent").unwrap_or_else(|| session.agent.clone()),
                model: text("model"),
                role: "operator".to_owned(),
                ..SessionStart::default()
            };
            let r = chain.judge_session(session, &start, at_ms).await;
            heard(r.refused.is_none(), r.refused, Answers::Session(r.answers))
        }
        Moment::JudgePrompt => {
            let text = text("prompt").ok_or("it has no `prompt`")?;
            let r = chain.judge_prompt(session, &NewPrompt { text, number: 1, role: "operator".to_owned() }, at_ms).await;
            Heard { context: r.context, ..heard(r.refused.is_none(), r.refused, Answers::Prompt(r.answers)) }
        }
        Moment::JudgeResult => {
            let call = call.ok_or("it names no tool (`tool_name`)")?;
            let output = payload.get("tool_response").or_else(|| payload.get("output")).cloned().ok_or("it has no `tool_response`")?;
            let r = chain
                .judge_result(session, call, &ToolResult { output, is_error: false, duration_ms: None, replaceable: true }, at_ms)
                .await;
            let (replaced, replaced_by) = r.replaced.unzip();
            let by = r.withheld.or(replaced_by);
            Heard { replaced, context: r.flags, ..heard(by.is_none(), by, Answers::Result(r.answers)) }
        }
        Moment::JudgeAttempt => {
            let last_words = text("last_assistant_message").unwrap_or_default();
            let seen = AttemptSeen { number: 1, succeeded: Some(true), last_words, can_continue: true, ..AttemptSeen::default() };
            let r = chain.judge_attempt(session, &seen, at_ms).await;
            Heard { verdict: Some(r.verdict.clone()), ..heard(r.verdict == Verdict::Accept, None, Answers::Attempt(r.answers)) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_payload_is_of_the_moment_that_its_hook_names() {
        for (payload, moment) in [
            (json!({"hook_event_name": "UserPromptSubmit", "prompt": "x"}), Some(Moment::JudgePrompt)),
            (json!({"hook_event_name": "BeforeAgent", "prompt": "x"}), Some(Moment::JudgePrompt)),
            (json!({"prompt": "x"}), Some(Moment::JudgePrompt)),
            (json!({"tool_name": "Agent", "prompt": "x"}), None),
            (json!({"hook_event_name": "PostToolUse", "tool_name": "Bash"}), Some(Moment::JudgeResult)),
            (json!({"hook_event_name": "PreToolUse", "tool_name": "Bash", "prompt": "x"}), None),
            (json!({"hook_event_name": "Stop"}), Some(Moment::JudgeAttempt)),
            (json!({"hook_event_name": "SessionStart"}), Some(Moment::JudgeSession)),
            (json!({"command": "ls"}), None),
        ] {
            assert_eq!(of(&payload), moment, "{payload}");
        }
    }
}
