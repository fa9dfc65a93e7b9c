//! A question to a plugin of any kind, its answer as JSON, and whether that is what a case expects.
//!
//! The plan of a compaction strategy is held to the laws that the host holds it to: what would be refused there is a failure here.
//!
//! Called by `cases`, which makes the questions, and by `test`, `bench` and `dev`, which put them.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::compaction::{Folded, check};
use crate::model::PluginState;
use crate::plugin::{
    AttemptQuestion, Batch, CallFailure, PlanQuestion, Plugin, PromptQuestion, Question, ResultQuestion, Round, SessionQuestion, Used,
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
    Plan(Arc<Plan>),
    Write(Arc<Batch>),
}

/// A conversation to plan for.
pub struct Plan {
    pub question: Arc<PlanQuestion>,
    pub folded: Arc<Folded>,
    pub target: u64,
}

/// What came of it.
pub type Said = Result<Value, Failed>;

/// Why there is no answer.
pub struct Failed {
    /// As `fails` of a case names it.
    pub cause: &'static str,
    pub detail: String,
    /// Functions of the guest that were running, the innermost first.
    pub frames: Vec<String>,
}

impl From<CallFailure> for Failed {
    fn from(f: CallFailure) -> Self {
        Self { cause: f.cause.as_str(), detail: f.detail, frames: f.frames }
    }
}

impl Asked {
    /// The same with the state of this round.
    pub fn in_round(&self, round: &Arc<Round>) -> Self {
        let round = Some(round);
        match self {
            Self::Call(q) => Self::Call(Arc::new((**q).clone().in_round(round))),
            Self::Start(q) => Self::Start(Arc::new((**q).clone().in_round(round))),
            Self::Prompt(q) => Self::Prompt(Arc::new((**q).clone().in_round(round))),
            Self::Result(q) => Self::Result(Arc::new((**q).clone().in_round(round))),
            Self::Attempt(q) => Self::Attempt(Arc::new((**q).clone().in_round(round))),
            // Only policies keep state.
            Self::Plan(_) | Self::Write(_) => self.clone(),
        }
    }

    /// Asks on the engine's threads, as a session does.
    pub async fn put(&self, plugin: &Arc<Plugin>, deadline: Duration) -> Said {
        match self {
            Self::Call(q) => Ok(value(&plugin.decide(q, deadline).await?)),
            Self::Start(q) => Ok(value(&plugin.judge_session(q, deadline).await?)),
            Self::Prompt(q) => Ok(value(&plugin.judge_prompt(q, deadline).await?)),
            Self::Result(q) => Ok(value(&plugin.judge_result(q, deadline).await?)),
            Self::Attempt(q) => Ok(value(&plugin.judge_attempt(q, deadline).await?)),
            Self::Write(q) => Ok(value(&plugin.write(q, deadline).await?)),
            Self::Plan(p) => {
                let edits = plugin.plan(&p.question, deadline).await?;
                let done = check(&p.folded, &edits).map_err(|e| Failed {
                    cause: "refused",
                    detail: format!("the host would refuse this plan: {e} [{}]; its edits: {}", e.code(), value(&edits)),
                    frames: Vec::new(),
                })?;
                Ok(json!({
                    "edits": edits,
                    "tokens_before": done.tokens_before,
                    "tokens_after": done.tokens_after,
                    "reached": done.tokens_after <= p.target,
                    "dropped": done.dropped,
                    "changed": done.changed,
                    "spared": done.spared,
                }))
            }
        }
    }

    /// Asks on this very thread; what is left to do after the answer comes with it. `None` for what is not benched.
    pub fn put_here(&self, plugin: &Plugin, deadline: Duration) -> Option<(Result<(), CallFailure>, Used)> {
        Some(match self {
            Self::Call(q) => done(plugin.decide_then(q, deadline)),
            Self::Plan(p) => done(plugin.plan_then(&p.question, deadline)),
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
        out.push(format!("it failed ({}): {}", f.cause, f.detail));
        return out;
    }
    for (key, want) in expect {
        let got = said.as_ref().ok().and_then(|v| v.get(key));
        match (key.as_str(), want) {
            ("kv" | "files" | "requests", _) => {}
            ("fails", want) => match said {
                Ok(v) => out.push(format!("it should fail ({}) and answered {v}", plain(want))),
                Err(f) if *want != *f.cause => {
                    out.push(format!("it should fail ({}) and failed ({}): {}", plain(want), f.cause, f.detail));
                }
                Err(_) => {}
            },
            // What it failed with is as good a reason as what it answered.
            ("reason", Value::String(text)) if said.is_err() && expect.contains_key("fails") => {
                let why = said.as_ref().err().map_or("", |f| f.detail.as_str());
                out.extend((!why.contains(text.as_str())).then(|| format!("reason: {text:?} is not in {why}")));
            }
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

/// The same for what a case leaves behind: what is kept (`kv`), the files, and the requests that were sent, in order.
pub fn left_behind(expect: &Map<String, Value>, kv: &PluginState, file: &dyn Fn(&str) -> Option<String>, sent: &[String]) -> Vec<String> {
    let mut out = Vec::new();
    let mut texts = |what: &str, of: &dyn Fn(&str) -> Option<String>| match expect.get(what) {
        None => {}
        Some(Value::Object(all)) => {
            for (name, want) in all {
                let got = of(name);
                // `false` stands for nothing there.
                if (want == &Value::Bool(false) && got.is_some()) || (want != &Value::Bool(false) && got.as_deref() != want.as_str()) {
                    let shown = got.map_or_else(|| "nothing".to_owned(), |g| format!("{g:?}"));
                    out.push(format!("{what} {name:?}: {want} expected, there is {shown}"));
                }
            }
        }
        Some(_) => out.push(format!("`expect.{what}` is a table of texts by name; `false` where nothing is to be there")),
    };
    texts("kv", &|key| kv.get(key).map(|v| String::from_utf8_lossy(v).into_owned()));
    texts("files", file);
    if let Some(want) = expect.get("requests") {
        let want: Vec<&str> = want.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if want.len() != sent.len() || want.iter().zip(sent).any(|(w, s)| !s.contains(w)) {
            out.push(format!("requests: {want:?} expected, these were sent: {sent:?}"));
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
        let failed: Said = Err(Failed { cause: "refused", detail: "entry 3 must stay".to_owned(), frames: Vec::new() });
        let refused = |expect: Value| mismatches(expect.as_object().expect("an object"), &failed, &[]);
        assert!(refused(json!({"fails": "refused", "reason": "must stay"})).is_empty());
        assert_eq!(refused(json!({"fails": "refused", "reason": "go"})), ["reason: \"go\" is not in entry 3 must stay"]);
        assert_eq!(refused(json!({"edits": 1})), ["it failed (refused): entry 3 must stay"]);
        assert!(of(json!({"edits": 2}), json!({"edits": [1, 2]}), &[]).is_empty());
        assert_eq!(of(json!({"edits": 1}), json!({"edits": [1, 2]}), &[]), ["edits: 1 expected, there are 2"]);
    }

    #[test]
    fn what_is_left_behind_is_held_to_it_too() {
        let kv: PluginState = [("n".to_owned(), b"3".to_vec())].into();
        let file = |path: &str| (path == "/a").then(|| "x".to_owned());
        let sent = ["POST https://a.example/ {\"n\":1}".to_owned()];
        let of = |expect: Value| left_behind(expect.as_object().expect("an object"), &kv, &file, &sent);
        assert!(of(json!({"kv": {"n": "3", "m": false}, "files": {"/a": "x", "/b": false}, "requests": ["a.example/ {"]})).is_empty());
        assert_eq!(of(json!({"kv": {"n": "2"}})), ["kv \"n\": \"2\" expected, there is \"3\""]);
        assert_eq!(of(json!({"files": {"/b": "x"}})), ["files \"/b\": \"x\" expected, there is nothing"]);
        assert_eq!(of(json!({"requests": []})).len(), 1);
        assert_eq!(of(json!({"kv": 3})).len(), 1);
    }
}
