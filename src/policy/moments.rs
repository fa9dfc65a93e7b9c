//! The optional moments over all policies of a chain: each that takes part is asked, the strictest answer holds.
//!
//! Invariants:
//! - a policy that fails counts as its `on_failure`: deny and ask forbid (nobody can be asked at these moments), abstain says nothing;
//! - one in monitor mode is asked and written down, and binds nothing; one of a project that is not trusted may only forbid;
//! - a policy that exports no moment is not touched, and a chain without one costs a look at each slot.
//!
//! Called by `session`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use serde_json::Value;

use super::chain::{Chain, Failure, PolicySlot};
use crate::model::moment::{
    AttemptSeen, Moment, NewPrompt, PromptAnswer, ResultAnswer, SessionAnswer, SessionStart, Tightened, ToolResult, Verdict,
};
use crate::model::{Call, Mode, OnFailure, PromptContext, Refusal, ResultSaid, Said, Session};
use crate::plugin::{AttemptQuestion, CallFailure, Plugin, PromptQuestion, ResultQuestion, Round, SessionQuestion};

/// Context that all policies together add to one prompt, in bytes.
pub const CONTEXT_MAX: usize = 64 << 10;
/// Results over this size, in bytes of JSON, are not shown to policies: each then counts as failed.
pub const RESULT_MAX: usize = 4 << 20;

/// Policies that failed at a moment, by name, with what they counted as.
pub type Failures = Vec<(String, Failure, OnFailure)>;

/// What came out for a session that is about to start.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SessionRuling {
    pub refused: Option<Refusal>,
    /// In the order of the policies.
    pub tighten: Vec<Tightened>,
    /// The first policy to name a key holds.
    pub labels: BTreeMap<String, String>,
    pub answers: Vec<Said<SessionAnswer>>,
    pub failures: Failures,
}

/// What came out for a prompt.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PromptRuling {
    pub refused: Option<Refusal>,
    pub context: Vec<PromptContext>,
    /// Policies whose context was over [`CONTEXT_MAX`] together with that of others.
    pub left_out: Vec<String>,
    pub answers: Vec<Said<PromptAnswer>>,
    pub failures: Failures,
}

/// What came out for a tool's result.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ResultRuling {
    /// What the model should see instead, and who said so first.
    pub replaced: Option<(Value, Refusal)>,
    /// It must not be seen at all: a policy failed.
    pub withheld: Option<Refusal>,
    pub flags: Vec<PromptContext>,
    /// It was over [`RESULT_MAX`], and no policy saw it.
    pub unseen: bool,
    pub answers: Vec<Said<ResultSaid>>,
    pub failures: Failures,
}

/// What came out for an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRuling {
    pub verdict: Verdict,
    pub answers: Vec<Said<Verdict>>,
    pub failures: Failures,
}

/// One policy's answer with what it needs to bind.
struct Heard<'c, T> {
    slot: &'c PolicySlot,
    got: Result<T, Failure>,
    latency_us: u64,
}

impl<T: Clone> Heard<'_, T> {
    fn binds(&self) -> bool {
        self.slot.mode == Mode::Enforce
    }

    /// The answer, where it binds.
    fn answer(&self) -> Option<&T> {
        self.got.as_ref().ok().filter(|_| self.binds())
    }

    /// What a failure forbids, where it binds.
    fn forbids(&self) -> Option<Refusal> {
        let f = self.got.as_ref().err().filter(|_| self.binds() && self.slot.on_failure != OnFailure::Abstain)?;
        Some(Refusal { policy: self.slot.name.clone(), reason: failed(f) })
    }

    fn said<U>(&self, of: impl Fn(&T) -> U) -> Said<U> {
        Said {
            policy: self.slot.name.clone(),
            digest: self.slot.policy.as_ref().map(|p| p.digest().to_owned()).unwrap_or_default(),
            mode: self.slot.mode,
            answer: self.got.as_ref().ok().map(of),
            failed: self.got.as_ref().err().map(|f| f.cause),
            latency_us: self.latency_us,
        }
    }

    fn failure(&self) -> Option<(String, Failure, OnFailure)> {
        self.got.as_ref().err().map(|f| (self.slot.name.clone(), f.clone(), self.slot.on_failure))
    }
}

fn failed(f: &Failure) -> String {
    format!("the policy failed ({}): {}", f.cause.as_str(), f.detail)
}

impl Chain {
    /// Whether any policy takes part in a moment.
    pub fn takes_part(&self, moment: Moment) -> bool {
        self.parts(moment).next().is_some()
    }

    fn parts(&self, moment: Moment) -> impl Iterator<Item = (&PolicySlot, &Arc<Plugin>)> {
        self.slots.iter().filter_map(move |s| {
            let plugin = s.policy.as_ref().ok()?.plugin()?;
            plugin.takes_part_in(moment).then_some((s, plugin))
        })
    }

    /// Asks all that take part, at once.
    async fn hear<'c, T, F, A>(&'c self, moment: Moment, ask: F) -> Vec<Heard<'c, T>>
    where
        F: Fn(&'c PolicySlot, &'c Arc<Plugin>) -> A,
        A: Future<Output = Result<T, CallFailure>>,
    {
        join_all(self.parts(moment).map(|(slot, plugin)| heard(slot, ask(slot, plugin)))).await
    }

    /// A session is about to start.
    pub async fn judge_session(&self, session: &Session, start: &SessionStart, at_ms: i64) -> SessionRuling {
        let round = self.round();
        let q = Arc::new(SessionQuestion::new(session, start, at_ms).in_round(round.as_ref()));
        let heard = self
            .hear(Moment::JudgeSession, |s, p| {
                let q = q.clone();
                async move { p.judge_session(&q, s.deadline).await }
            })
            .await;
        keep(round, &heard);
        let mut out = SessionRuling::default();
        for h in &heard {
            if out.refused.is_none() {
                let said = h.answer().and_then(|a| a.refuse.clone()).map(|reason| Refusal { policy: h.slot.name.clone(), reason });
                out.refused = said.or_else(|| h.forbids());
            }
            if let Some(a) = h.answer() {
                out.tighten.extend(a.tighten.iter().cloned());
                // why: a label can loosen what another policy says, so a project that is not trusted gives none.
                for (key, value) in a.labels.iter().filter(|_| !h.slot.tighten_only) {
                    out.labels.entry(key.clone()).or_insert_with(|| value.clone());
                }
            }
            out.answers.push(h.said(Clone::clone));
            out.failures.extend(h.failure());
        }
        out
    }

    /// A prompt is about to be given.
    pub async fn judge_prompt(&self, session: &Session, prompt: &NewPrompt, at_ms: i64) -> PromptRuling {
        let round = self.round();
        let q = Arc::new(PromptQuestion::new(session, prompt, at_ms).in_round(round.as_ref()));
        let heard = self
            .hear(Moment::JudgePrompt, |s, p| {
                let q = q.clone();
                async move { p.judge_prompt(&q, s.deadline).await }
            })
            .await;
        keep(round, &heard);
        let mut out = PromptRuling::default();
        let mut room = CONTEXT_MAX;
        for h in &heard {
            if out.refused.is_none() {
                let said = h.answer().and_then(|a| a.refuse.clone()).map(|reason| Refusal { policy: h.slot.name.clone(), reason });
                out.refused = said.or_else(|| h.forbids());
            }
            if let Some(text) = h.answer().filter(|_| !h.slot.tighten_only).and_then(|a| a.context.clone()) {
                match room.checked_sub(text.len()) {
                    Some(rest) => {
                        room = rest;
                        out.context.push(PromptContext { policy: h.slot.name.clone(), text });
                    }
                    None => out.left_out.push(h.slot.name.clone()),
                }
            }
            out.answers.push(h.said(Clone::clone));
            out.failures.extend(h.failure());
        }
        if out.refused.is_some() {
            out.context.clear();
        }
        out
    }

    /// A tool has ended. One policy after the other, so that two that redact add up.
    pub async fn judge_result(&self, session: &Session, call: &Call, result: &ToolResult, at_ms: i64) -> ResultRuling {
        let mut out = ResultRuling::default();
        let mut now = result.clone();
        let (round, mut answered) = (self.round(), Vec::new());
        let fits = now.output.to_string().len() <= RESULT_MAX;
        out.unseen = !fits;
        for (slot, plugin) in self.parts(Moment::JudgeResult) {
            let h = if fits {
                let q = Arc::new(ResultQuestion::new(session, call, &now, at_ms).in_round(round.as_ref()));
                heard(slot, plugin.judge_result(&q, slot.deadline)).await
            } else {
                let detail = format!("the result is over {RESULT_MAX} bytes, more than policies are shown");
                Heard { slot, got: Err(Failure { cause: crate::model::FailureCause::Memory, detail }), latency_us: 0 }
            };
            if h.got.is_ok() {
                answered.push(slot.name.as_str());
            }
            if out.withheld.is_none() {
                out.withheld = h.forbids();
            }
            if let Some(a) = h.answer() {
                if let Some(new) = a.replace.clone().filter(|_| !slot.tighten_only) {
                    let first = out.replaced.take().map_or_else(|| said_of(slot, a), |(_, by)| by);
                    now.output = new.clone();
                    out.replaced = Some((new, first));
                }
                out.flags.extend(a.flag.clone().map(|text| PromptContext { policy: slot.name.clone(), text }));
            }
            out.answers.push(h.said(|a: &ResultAnswer| ResultSaid { replaced: a.replace.is_some(), flag: a.flag.clone() }));
            out.failures.extend(h.failure());
        }
        if let Some(r) = round {
            r.commit(&answered);
        }
        out
    }

    /// The agent is done with an attempt.
    pub async fn judge_attempt(&self, session: &Session, attempt: &AttemptSeen, at_ms: i64) -> AttemptRuling {
        let round = self.round();
        let q = Arc::new(AttemptQuestion::new(session, attempt, at_ms).in_round(round.as_ref()));
        let heard = self
            .hear(Moment::JudgeAttempt, |s, p| {
                let q = q.clone();
                async move { p.judge_attempt(&q, s.deadline).await }
            })
            .await;
        keep(round, &heard);
        let binding: Vec<(&str, Verdict)> = heard.iter().filter(|h| h.binds()).map(|h| (h.slot.name.as_str(), verdict(h))).collect();
        let answers = heard.iter().map(|h| h.said(Clone::clone)).collect();
        AttemptRuling { verdict: strictest(&binding), answers, failures: heard.iter().filter_map(Heard::failure).collect() }
    }
}

/// Ends a round: what those who answered staged is in force.
fn keep<T>(round: Option<Arc<Round>>, heard: &[Heard<'_, T>]) {
    if let Some(round) = round {
        let answered: Vec<&str> = heard.iter().filter(|h| h.got.is_ok()).map(|h| h.slot.name.as_str()).collect();
        round.commit(&answered);
    }
}

async fn heard<T>(slot: &PolicySlot, ask: impl Future<Output = Result<T, CallFailure>>) -> Heard<'_, T> {
    let begun = Instant::now();
    let got = ask.await.map_err(|f| Failure { cause: f.cause, detail: f.detail });
    Heard { slot, got, latency_us: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX) }
}

fn said_of(slot: &PolicySlot, a: &ResultAnswer) -> Refusal {
    Refusal { policy: slot.name.clone(), reason: a.flag.clone().unwrap_or_else(|| "it gives another result".to_owned()) }
}

fn verdict(h: &Heard<'_, Verdict>) -> Verdict {
    match (&h.got, h.slot.on_failure) {
        (Ok(v), _) => v.clone(),
        (Err(f), OnFailure::Deny) => Verdict::Error(failed(f)),
        (Err(_), OnFailure::Ask) => Verdict::Escalate(String::new()),
        (Err(_), OnFailure::Abstain) => Verdict::Accept,
    }
}

/// The strictest verdict, with the words of all that gave one as strict.
fn strictest(all: &[(&str, Verdict)]) -> Verdict {
    let rank = |v: &Verdict| match v {
        Verdict::Accept => 0,
        Verdict::Escalate(_) => 1,
        Verdict::Error(_) => 2,
    };
    let top = all.iter().map(|(_, v)| rank(v)).max().unwrap_or(0);
    let words: Vec<(&str, &str)> =
        all.iter().filter(|(_, v)| rank(v) == top && !v.text().is_empty()).map(|(name, v)| (*name, v.text())).collect();
    let text = match words.as_slice() {
        [(_, alone)] => (*alone).to_owned(),
        several => several.iter().map(|(name, t)| format!("{name}: {t}")).collect::<Vec<_>>().join("\n\n"),
    };
    match top {
        0 => Verdict::Accept,
        1 => Verdict::Escalate(text),
        _ => Verdict::Error(text),
    }
}

/// The result with nothing of it left but its shape: the first text says why, the others are empty. Words that only name a form
/// (`"type": "text"`) stay, so that the agent still takes it for a result of its tool.
pub fn withheld(output: &Value, why: &str) -> Value {
    fn walk(v: &mut Value, key: &str, why: &mut Option<&str>) {
        match v {
            Value::String(_) if FORMS.contains(&key) => {}
            Value::String(s) => *s = why.take().unwrap_or_default().to_owned(),
            Value::Array(items) => items.iter_mut().for_each(|i| walk(i, key, why)),
            Value::Object(map) => map.iter_mut().for_each(|(k, i)| walk(i, k, why)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    /// Keys whose texts name a form.
    const FORMS: &[&str] = &["type", "mode", "status", "mimeType", "media_type"];
    let mut out = output.clone();
    walk(&mut out, "", &mut Some(why));
    out
}

/// Lines of the original that the replacement has nowhere: what must not show in the result that the agent reports. At most 64,
/// each of 4 bytes or more.
pub fn removed(old: &Value, new: &Value) -> Vec<String> {
    fn texts<'v>(v: &'v Value, out: &mut Vec<&'v str>) {
        match v {
            Value::String(s) => out.push(s),
            Value::Array(items) => items.iter().for_each(|i| texts(i, out)),
            Value::Object(map) => map.values().for_each(|i| texts(i, out)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let (mut before, mut after) = (Vec::new(), Vec::new());
    texts(old, &mut before);
    texts(new, &mut after);
    let lines = before.iter().flat_map(|t| t.lines()).map(str::trim).filter(|l| l.len() >= 4);
    lines.filter(|l| !after.iter().any(|t| t.contains(l))).take(64).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_strictest_verdict_holds_with_all_its_words() {
        let e = |t: &str| Verdict::Escalate(t.into());
        assert_eq!(strictest(&[]), Verdict::Accept);
        assert_eq!(strictest(&[("a", Verdict::Accept), ("b", e("more"))]), e("more"));
        assert_eq!(strictest(&[("a", e("x")), ("b", e("y"))]), e("a: x\n\nb: y"));
        assert_eq!(strictest(&[("a", e("x")), ("b", Verdict::Error("no".into()))]), Verdict::Error("no".into()));
    }

    #[test]
    fn what_is_withheld_keeps_its_shape_only() {
        let old = json!({"stdout": "secret", "stderr": "more", "interrupted": false, "list": [{"type": "text", "text": "s"}], "n": 3});
        let new = withheld(&old, "why");
        assert!(crate::model::moment::same_shape(&old, &new));
        let texts: Vec<&str> = ["stdout", "stderr"].iter().filter_map(|k| new[*k].as_str()).collect();
        assert!(texts.concat().len() <= 3 && new["list"][0]["type"] == "text", "{new}");
        assert!(new.to_string().contains("why") && !new.to_string().contains("secret"));
        assert_eq!(withheld(&json!("text"), "why"), json!("why"));
    }

    #[test]
    fn what_was_removed_is_known_by_its_lines() {
        let old = json!({"stdout": "fine line\nkey SECRET-7\nend", "stderr": ""});
        let new = json!({"stdout": "fine line\nkey [redacted]\nend", "stderr": ""});
        assert_eq!(removed(&old, &new), ["key SECRET-7"]);
        assert!(removed(&old, &old).is_empty());
    }
}
