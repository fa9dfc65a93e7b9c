//! A question to a plugin of any kind, its answer as JSON, and whether that is what a case expects.
//!
//! Called by `cases`, which makes the questions, and by `test`, `bench` and `dev`, which put them.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::plugin::{
    AttemptQuestion, Batch, CallFailure, PlanQuestion, Plugin, PromptQuestion, Question, ResultQuestion, SessionQuestion, Used,
};

/// Keys whose text need only be contained in the answer's; an empty text means that there is none.
const CONTAINED: [&str; 5] = ["reason", "text", "refuse", "context", "flag"];

/// One question.
#[derive(Clone)]
pub enum Asked {
    Call(Arc<Question>),
    Start(Arc<SessionQuestion>),
    Prompt(Arc<PromptQuestion>),
    Result(Arc<ResultQuestion>),
    Attempt(Arc<AttemptQuestion>),
    Plan(Arc<PlanQuestion>),
    Write(Arc<Batch>),
}

/// What came of it.
pub type Said = Result<Value, CallFailure>;

impl Asked {
    pub fn call(question: Question) -> Self {
        Self::Call(Arc::new(question))
    }

    /// Asks on the engine's threads, as a session does.
    pub async fn put(&self, plugin: &Arc<Plugin>, deadline: Duration) -> Said {
        match self {
            Self::Call(q) => plugin.decide(q, deadline).await.map(|a| value(&a)),
            Self::Start(q) => plugin.judge_session(q, deadline).await.map(|a| value(&a)),
            Self::Prompt(q) => plugin.judge_prompt(q, deadline).await.map(|a| value(&a)),
            Self::Result(q) => plugin.judge_result(q, deadline).await.map(|a| value(&a)),
            Self::Attempt(q) => plugin.judge_attempt(q, deadline).await.map(|a| value(&a)),
            Self::Plan(q) => plugin.plan(q, deadline).await.map(|a| json!({ "edits": a })),
            Self::Write(q) => plugin.write(q, deadline).await.map(|a| value(&a)),
        }
    }

    /// Asks on this very thread; what is left to do after the answer comes with it. `None` for what is not benched.
    pub fn put_here(&self, plugin: &Plugin, deadline: Duration) -> Option<(Result<(), CallFailure>, Used)> {
        Some(match self {
            Self::Call(q) => done(plugin.decide_then(q, deadline)),
            Self::Plan(q) => done(plugin.plan_then(q, deadline)),
            Self::Write(q) => done(plugin.write_then(q, deadline)),
            Self::Start(_) | Self::Prompt(_) | Self::Result(_) | Self::Attempt(_) => return None,
        })
    }
}

fn done<T>((answer, used): (Result<T, CallFailure>, Used)) -> (Result<(), CallFailure>, Used) {
    (answer.map(drop), used)
}

fn value(answer: &impl Serialize) -> Value {
    serde_json::to_value(answer).unwrap_or_default()
}

/// What differs from what is expected, a sentence each; empty when all is well.
pub fn mismatches(expect: &Map<String, Value>, said: &Said, log: &[String]) -> Vec<String> {
    let mut out = Vec::new();
    if let (Err(f), None) = (said, expect.get("fails")) {
        out.push(format!("it failed ({}): {}", f.cause.as_str(), f.detail));
        return out;
    }
    for (key, want) in expect {
        let got = said.as_ref().ok().and_then(|v| v.get(key));
        match (key.as_str(), want) {
            ("fails", want) => match said {
                Ok(v) => out.push(format!("it should fail ({}) and answered {v}", plain(want))),
                Err(f) if *want != *f.cause.as_str() => {
                    out.push(format!("it should fail ({}) and failed ({}): {}", plain(want), f.cause.as_str(), f.detail));
                }
                Err(_) => {}
            },
            ("log", Value::String(text)) if text.is_empty() => {
                if let Some(first) = log.first() {
                    out.push(format!("it should log nothing and logged {first:?}"));
                }
            }
            ("log", Value::String(text)) => {
                let there = log.iter().any(|l| l.contains(text.as_str()));
                out.extend((!there).then(|| format!("no line of its log has {text:?}: {log:?}")));
            }
            ("edits", Value::Number(n)) => {
                let count = got.and_then(Value::as_array).map(Vec::len);
                if count.map(|c| c as u64) != n.as_u64() {
                    out.push(format!("edits: {n} expected, there are {}", count.unwrap_or(0)));
                }
            }
            (_, Value::String(text)) if text.is_empty() => {
                if let Some(got) = got.filter(|g| g.as_str().is_none_or(|t| !t.is_empty()) && !g.is_null()) {
                    out.push(format!("{key}: none expected, it is {}", plain(got)));
                }
            }
            (key, Value::String(text)) if CONTAINED.contains(&key) => {
                let there = got.and_then(Value::as_str).is_some_and(|g| g.contains(text.as_str()));
                out.extend((!there).then(|| format!("{key}: {text:?} is not in {}", got.map_or_else(|| "nothing".to_owned(), plain))));
            }
            (key, want) if got != Some(want) => {
                out.push(format!("{key}: {} expected, it is {}", plain(want), got.map_or_else(|| "nothing".to_owned(), plain)));
            }
            _ => {}
        }
    }
    out
}

fn plain(v: &Value) -> String {
    v.as_str().map_or_else(|| v.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(expect: Value, said: Value, log: &[&str]) -> Vec<String> {
        let log: Vec<String> = log.iter().map(|l| (*l).to_owned()).collect();
        mismatches(expect.as_object().expect("an object"), &Ok(said), &log)
    }

    #[test]
    fn answers_are_held_to_what_is_expected() {
        let deny = json!({"effect": "deny", "reason": "sudo is not allowed", "rule": "sudo"});
        assert!(of(json!({"effect": "deny", "rule": "sudo", "reason": "not allowed", "updated_input": ""}), deny.clone(), &[]).is_empty());
        assert_eq!(of(json!({"effect": "allow"}), deny.clone(), &[]), ["effect: allow expected, it is deny"]);
        assert_eq!(of(json!({"rule": "su"}), deny.clone(), &[]), ["rule: su expected, it is sudo"]);
        assert_eq!(of(json!({"reason": "x"}), deny.clone(), &[]), ["reason: \"x\" is not in sudo is not allowed"]);
        assert_eq!(of(json!({"rule": ""}), deny.clone(), &[]), ["rule: none expected, it is sudo"]);
        assert_eq!(of(json!({"fails": "trap"}), deny.clone(), &[]).len(), 1);
        assert_eq!(of(json!({"log": ""}), deny.clone(), &["x"]).len(), 1);
        assert!(of(json!({"log": "ab"}), deny, &["xaby"]).is_empty());
        assert!(of(json!({"edits": 2}), json!({"edits": [1, 2]}), &[]).is_empty());
        assert_eq!(of(json!({"edits": 1}), json!({"edits": [1, 2]}), &[]), ["edits: 1 expected, there are 2"]);
    }
}
