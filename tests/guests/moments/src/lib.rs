//! Plugins of all kinds that do as their configuration says. For tests only; the components are this crate's examples.
//!
//! Configuration, a JSON object, every key optional:
//!
//! | key | does |
//! | --- | --- |
//! | `allow` | `decide` allows; else it abstains |
//! | `refuse_session`, `refuse_prompt` | refuses, for this reason; prompts only those that contain `unwanted` |
//! | `tighten`, `labels` | objects: settings and labels of a session |
//! | `context` | added to every prompt |
//! | `secret` | replaced by `[redacted]` in every result, and flagged |
//! | `bare` | answers a result with a bare text, which has not its shape |
//! | `verdicts` | a list: of round n the verdict n, else the last; `accept`, or a text that begins with `escalate:` or `error:` |
//! | `trap`, `loop` | the name of the moment that does so |
//! | `keep` | entries at the end that a strategy keeps |
//! | `poison` | a kind of event that a sink cannot deliver |
//! | `busy` | a sink that asks to be tried again after so many milliseconds |

use beadle_plugin::{
    Attempt, Batch, Budget, Call, Decision, Description, Edit, JudgeAttempt, JudgePrompt, JudgeResult, JudgeSession, Outcome, Poison,
    Policy, Prompt, PromptAnswer, Replacement, ResultAnswer, Session, SessionAnswer, Sink, Span, Start, Strategy, ToolResult, Transcript,
    Verdict,
};
use serde_json::Value;

/// Any of the plugins.
pub struct Guest {
    config: Value,
}

impl Guest {
    fn read(config: &str) -> Result<Self, String> {
        let config: Value = serde_json::from_str(config).map_err(|e| e.to_string())?;
        match config.get("fail").and_then(Value::as_str) {
            Some(why) => Err(why.to_owned()),
            None => Ok(Self { config }),
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.config.get(key)?.as_str()
    }

    fn misbehave(&self, moment: &str) {
        assert_ne!(self.text("trap"), Some(moment), "as configured");
        while self.text("loop") == Some(moment) {
            core::hint::black_box(moment);
        }
    }
}

fn description(purpose: &str) -> Description {
    Description::new("moments", "0.1.0", purpose).with_schema(r#"{"type":"object"}"#)
}

impl Policy for Guest {
    fn describe() -> Description {
        description("Answers every moment as configured.")
    }

    fn configure(config: &str) -> Result<Self, String> {
        Self::read(config)
    }

    fn decide(&self, _session: &Session, _call: &Call) -> Decision {
        self.misbehave("decide");
        if self.config["allow"] == true { Decision::allow().because("allow") } else { Decision::abstain() }
    }
}

impl JudgeSession for Guest {
    fn judge_session(&self, session: &Session, start: &Start) -> SessionAnswer {
        self.misbehave("judge-session");
        if let Some(why) = self.text("refuse_session") {
            return SessionAnswer::refuse(format!("{why} ({} in {}, prompt {:?})", session.agent, session.root, start.prompt));
        }
        let mut answer = SessionAnswer::pass();
        for (name, value) in self.config["tighten"].as_object().into_iter().flatten() {
            answer = answer.tighten(name, value);
        }
        for (key, value) in self.config["labels"].as_object().into_iter().flatten() {
            answer = answer.with_label(key, value.as_str().unwrap_or_default());
        }
        answer
    }
}

impl JudgePrompt for Guest {
    fn judge_prompt(&self, _session: &Session, prompt: &Prompt) -> PromptAnswer {
        self.misbehave("judge-prompt");
        if let Some(why) = self.text("refuse_prompt").filter(|_| prompt.text.contains(self.text("unwanted").unwrap_or_default())) {
            return PromptAnswer::refuse(format!("{why} (prompt {} of {})", prompt.number, prompt.role));
        }
        match self.text("context") {
            Some(c) => PromptAnswer::pass().with_context(c),
            None => PromptAnswer::pass(),
        }
    }
}

impl JudgeResult for Guest {
    fn judge_result(&self, _session: &Session, call: &Call, result: &ToolResult) -> ResultAnswer {
        self.misbehave("judge-result");
        if self.config["bare"] == true {
            return ResultAnswer::replace("\"a bare text\"");
        }
        match self.text("secret").and_then(|s| result.redacted(s, "[redacted]")) {
            Some(output) => ResultAnswer::replace(output).with_flag(format!("{} printed a secret", call.tool)),
            None => ResultAnswer::pass(),
        }
    }
}

impl JudgeAttempt for Guest {
    fn judge_attempt(&self, _session: &Session, attempt: &Attempt) -> Verdict {
        self.misbehave("judge-attempt");
        let verdicts = self.config["verdicts"].as_array().map(Vec::as_slice).unwrap_or_default();
        let verdict = verdicts.get(attempt.round as usize).or(verdicts.last()).and_then(Value::as_str).unwrap_or("accept");
        match verdict.split_once(':') {
            Some(("escalate", text)) => Verdict::Escalate(text.trim().to_owned()),
            Some(("error", text)) => Verdict::Error(format!("{} (said: {})", text.trim(), attempt.last_words)),
            _ => Verdict::Accept,
        }
    }
}

/// Replaces the text of old tool results; its description and configuration are its own.
pub struct Masks(Guest);

impl Strategy for Masks {
    fn describe() -> Description {
        description("Masks old results.")
    }

    fn configure(config: &str) -> Result<Self, String> {
        Guest::read(config).map(Self)
    }

    fn plan(&self, _session: &Session, transcript: &dyn Transcript, budget: &Budget) -> Vec<Edit> {
        self.0.misbehave("plan");
        let keep = self.0.config["keep"].as_u64().unwrap_or(0) as u32;
        let (mut edits, mut at, mut left) = (Vec::new(), 0, budget.used);
        while at < transcript.len().saturating_sub(keep) && left > budget.target {
            let page = transcript.entries(at, (transcript.len() - keep - at).min(2));
            for e in &page {
                if let (Some(tool), false) = (&e.tool, e.pinned) {
                    let text = transcript.text(e.id, 0, 8).unwrap_or_default();
                    left -= e.tokens;
                    edits.push(Edit::Replace(Replacement { span: Span { first: e.id, last: e.id }, text: format!("[{tool}: {text}]") }));
                }
            }
            at += page.len() as u32;
        }
        edits
    }
}

/// Accepts all but what it is told not to.
pub struct Drain(Guest);

impl Sink for Drain {
    fn describe() -> Description {
        description("Accepts events.")
    }

    fn configure(config: &str) -> Result<Self, String> {
        Guest::read(config).map(Self)
    }

    fn write(&self, batch: &Batch) -> Outcome {
        self.0.misbehave("write");
        if let Some(ms) = self.0.config["busy"].as_u64().filter(|_| batch.attempt == 1) {
            return Outcome::RetryAfter(ms as u32);
        }
        match batch.events.iter().position(|e| self.0.text("poison") == Some(e.kind.as_str())) {
            Some(at) => Outcome::Poison(Poison { index: at as u32, reason: format!("cannot take {}", batch.events[at].body) }),
            None => Outcome::Accepted(batch.events.len() as u32),
        }
    }
}
