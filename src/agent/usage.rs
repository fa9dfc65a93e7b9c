//! Token counts as each agent CLI reports them, brought to one meaning: pure functions of one line.
//!
//! | agent, line | one report is | `input` holds cached | `output` holds reasoning |
//! | --- | --- | --- | --- |
//! | Claude, transcript `assistant` | a message, repeated for each content block | no | yes |
//! | Codex, rollout `token_usage_record` | a response | yes | yes |
//! | Codex, `thread/tokenUsage/updated` | the thread so far | yes | yes |
//! | Codex, `exec --json` `turn.completed` | a turn | yes | yes |
//! | Gemini, transcript `gemini` | a message, repeated when its tools end | yes | no |
//! | Gemini, stream-json `result` | the process, by model | yes | by the total |
//! | OpenCode, `step_finish` | a step | no | by the total |
//! | OpenCode, `message.updated` | a message so far | no | by the total |
//!
//! Invariants:
//! - one rule for repetitions: reports of one id only grow, and only what grew is counted ([`Tally`]); so a message that is repeated,
//!   a total that runs and a line read twice all count once;
//! - of two lines that tell the same (Codex' `token_count` beside its records, OpenCode's parts beside its messages) one is read;
//! - where a total is given that is more than its parts, the rest is output: reasoning is paid as output;
//! - a count that is missing or no whole number is 0, and none is believed beyond [`TOKENS_MAX`](crate::model::TOKENS_MAX).
//!
//! The Claude driver reads its live stream itself (`claude::read`), by the same rule. Agents that run as `generic` report nothing to the
//! host; these readers are for their records. ACP's `usage_update` and prompt results are not read: they tell of the context or of the
//! last step only.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::model::{Nanousd, Usage};

/// Ids remembered by one tally; what is reported under more is not counted and [`Tally::is_full`] says so.
pub const IDS_MAX: usize = 1_000_000;

/// What one line says of one call, message, turn or thread.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// What repeats have in common; unique within the record.
    pub id: String,
    pub model: Option<String>,
    pub usage: Usage,
    /// What the agent itself says it cost.
    pub agent_cost: Option<Nanousd>,
}

/// Counts reports, each id once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    known: BTreeMap<String, Usage>,
    is_full: bool,
}

impl Tally {
    /// What this report adds to what its id was known for; `None` when it adds nothing.
    pub fn add(&mut self, r: &Report) -> Option<Usage> {
        let had = self.known.get(&r.id).copied().unwrap_or_default();
        let grown = had.max(r.usage.capped());
        if grown == had {
            return None;
        }
        if self.known.len() >= IDS_MAX && !self.known.contains_key(&r.id) {
            self.is_full = true;
            return None;
        }
        self.known.insert(r.id.clone(), grown);
        Some(grown.beyond(had))
    }

    pub fn sum(&self) -> Usage {
        self.known.values().fold(Usage::default(), |sum, u| sum.plus(*u))
    }

    pub const fn is_full(&self) -> bool {
        self.is_full
    }
}

/// The reports in a line of an agent's record or stream; `line` is its number, for those that have no id of their own.
pub fn reports(agent: &str, v: &Value, line: u64) -> Vec<Report> {
    match agent {
        "claude" => claude(v).into_iter().collect(),
        "codex" => codex(v, line).into_iter().collect(),
        "gemini" => gemini(v),
        "opencode" => opencode(v).into_iter().collect(),
        _ => Vec::new(),
    }
}

fn claude(v: &Value) -> Option<Report> {
    let m = v.get("message").filter(|_| word(v, "type") == Some("assistant"))?;
    let model = word(m, "model").filter(|m| !m.starts_with('<'))?;
    let u = m.get("usage")?;
    let usage = Usage {
        input: n(u, "input_tokens"),
        output: n(u, "output_tokens"),
        cache_read: n(u, "cache_read_input_tokens"),
        cache_write: n(u, "cache_creation_input_tokens"),
        cache_write_1h: u.get("cache_creation").map_or(0, |c| n(c, "ephemeral_1h_input_tokens")),
        reasoning: None,
    };
    Some(report(word(m, "id")?, Some(model), usage))
}

fn codex(v: &Value, line: u64) -> Option<Report> {
    if word(v, "method") == Some("thread/tokenUsage/updated") {
        let p = v.get("params")?;
        let u = p.get("tokenUsage")?.get("total")?;
        let names = ["inputTokens", "cachedInputTokens", "cacheWriteInputTokens", "outputTokens", "reasoningOutputTokens"];
        return Some(report(word(p, "threadId")?, None, with_cached(u, names)));
    }
    let names = ["input_tokens", "cached_input_tokens", "cache_write_input_tokens", "output_tokens", "reasoning_output_tokens"];
    match word(v, "type")? {
        "token_usage_record" => {
            let p = v.get("payload")?;
            Some(report(word(p, "response_id")?, None, with_cached(p.get("usage")?, names)))
        }
        "turn.completed" => Some(report(&format!("turn at line {line}"), None, with_cached(v.get("usage")?, names))),
        _ => None,
    }
}

/// Counts whose input holds what was cached: names of input, cached, written, output, reasoning.
fn with_cached(u: &Value, [input, cached, written, output, reasoning]: [&str; 5]) -> Usage {
    let (all, read, write) = (n(u, input), n(u, cached), n(u, written));
    Usage {
        input: all.saturating_sub(read).saturating_sub(write),
        output: n(u, output),
        cache_read: read.min(all),
        cache_write: write.min(all.saturating_sub(read)),
        cache_write_1h: 0,
        reasoning: u.get(reasoning).and_then(Value::as_u64),
    }
    .capped()
}

fn gemini(v: &Value) -> Vec<Report> {
    if let Some(models) = v.get("stats").and_then(|s| s.get("models")).and_then(Value::as_object) {
        return models
            .iter()
            .map(|(model, u)| {
                let (all, cached) = (n(u, "input_tokens"), n(u, "cached"));
                let output = n(u, "output_tokens").max(n(u, "total_tokens").saturating_sub(all));
                let usage = Usage { input: all.saturating_sub(cached), output, cache_read: cached.min(all), ..Usage::default() };
                report(&format!("all of {model}"), Some(model), usage)
            })
            .collect();
    }
    let message = || {
        let u = v.get("tokens").filter(|_| word(v, "type") == Some("gemini"))?;
        // why `tool`: what a tool put into the prompt is prompt, counted beside it.
        let (all, cached, thoughts) = (n(u, "input").saturating_add(n(u, "tool")), n(u, "cached"), n(u, "thoughts"));
        let usage = Usage {
            input: all.saturating_sub(cached),
            output: n(u, "output").saturating_add(thoughts),
            cache_read: cached.min(all),
            reasoning: Some(thoughts),
            ..Usage::default()
        };
        Some(report(word(v, "id")?, word(v, "model"), usage))
    };
    message().into_iter().collect()
}

fn opencode(v: &Value) -> Option<Report> {
    let (id, model, of) = match word(v, "type")? {
        "step_finish" => {
            let part = v.get("part")?;
            (word(part, "id")?, None, part)
        }
        "message.updated" => {
            let info = v.get("properties")?.get("info")?;
            let model = format!("{}/{}", word(info, "providerID")?, word(info, "modelID")?);
            (word(info, "id")?, Some(model), info)
        }
        _ => return None,
    };
    let u = of.get("tokens")?;
    let cache = u.get("cache").unwrap_or(&Value::Null);
    let (input, read, write) = (n(u, "input"), n(cache, "read"), n(cache, "write"));
    let others = input.saturating_add(read).saturating_add(write);
    let usage = Usage {
        input,
        output: n(u, "output").max(n(u, "total").saturating_sub(others)),
        cache_read: read,
        cache_write: write,
        cache_write_1h: 0,
        reasoning: u.get("reasoning").and_then(Value::as_u64),
    };
    let agent_cost = of.get("cost").and_then(Value::as_f64).and_then(nanousd);
    Some(Report { agent_cost, ..report(id, model.as_deref(), usage) })
}

fn report(id: &str, model: Option<&str>, usage: Usage) -> Report {
    Report { id: id.to_owned(), model: model.map(str::to_owned), usage: usage.capped(), agent_cost: None }
}

/// Dollars as billionths, rounded; `None` for what is no amount of money (negative, not finite, over a billion).
pub fn nanousd(dollars: f64) -> Option<Nanousd> {
    if !(0.0..=1e9).contains(&dollars) {
        return None;
    }
    // why: 0 to 1e18 after the check, so the cast neither wraps nor clamps.
    Some((dollars * 1e9).round() as u64)
}

fn n(v: &Value, key: &str) -> u64 {
    v.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn word<'a>(v: &'a Value, key: &str) -> Option<&'a str> {
    v.get(key).and_then(Value::as_str).filter(|s| !s.is_empty() && s.len() <= 256)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Every line twice: a record that is read again, or written twice, counts once.
    fn tally(agent: &str, text: &str) -> (Usage, Vec<Option<Nanousd>>) {
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
        let (mut t, mut costs) = (Tally::default(), Vec::new());
        for _ in 0..2 {
            for (i, v) in lines.iter().enumerate() {
                let v = v.get("msg").unwrap_or(v);
                for r in reports(agent, v, i as u64) {
                    if t.add(&r).is_some() {
                        costs.push(r.agent_cost);
                    }
                }
            }
        }
        (t.sum(), costs)
    }

    #[test]
    fn recorded_sessions_of_two_responses_come_to_the_same() {
        // Each recorded session is two responses of the same scripted model: 1,200 new, 1,000 cached, 34 out.
        let want = |cache_write, reasoning| Usage { input: 2400, output: 68, cache_read: 2000, cache_write, cache_write_1h: 0, reasoning };
        let cases = [
            ("codex", include_str!("../../tests/golden/usage/codex-0.169.0.exec.jsonl"), want(0, Some(0))),
            ("codex", include_str!("../../tests/golden/usage/codex-0.169.0.app-server.jsonl"), want(0, Some(0))),
            ("codex", include_str!("../../tests/golden/usage/codex-0.169.0.rollout.jsonl"), want(0, Some(0))),
            ("gemini", include_str!("../../tests/golden/usage/gemini-cli-0.61.0.stream.jsonl"), want(0, None)),
            ("gemini", include_str!("../../tests/golden/usage/gemini-cli-0.61.0.transcript.jsonl"), want(0, Some(0))),
            ("opencode", include_str!("../../tests/golden/usage/opencode-1.18.33.run.jsonl"), want(0, Some(0))),
            ("claude", include_str!("../../tests/golden/usage/claude-code-2.1.197.transcript.jsonl"), want(100, None)),
        ];
        for (i, (agent, text, want)) in cases.into_iter().enumerate() {
            assert_eq!(tally(agent, text).0, want, "case {i}, {agent}");
        }
        let (_, costs) = tally("opencode", include_str!("../../tests/golden/usage/opencode-1.18.33.run.jsonl"));
        assert_eq!(costs, [Some(4_410_000), Some(4_410_000)]);
    }

    /// The recording ends within the second message: the first is told more than once, and counted once.
    #[test]
    fn a_message_that_is_told_again_and_again_counts_once() {
        let text = include_str!("../../tests/golden/usage/opencode-1.18.33.sse.jsonl");
        assert!(text.lines().filter(|l| l.contains("\"input\": 1200")).count() > 1);
        let want = Usage { input: 1200, output: 34, cache_read: 1000, reasoning: Some(0), ..Usage::default() };
        assert_eq!(tally("opencode", text).0, want);
    }

    #[test]
    fn reasoning_is_part_of_output_for_all() {
        let of = |agent, v: Value| reports(agent, &v, 1)[0].usage;
        let g = of(
            "gemini",
            json!({"type": "gemini", "id": "a", "model": "m", "tokens": {"input": 10, "output": 5, "cached": 4, "thoughts": 7, "tool": 2, "total": 24}}),
        );
        assert_eq!((g.input, g.output, g.cache_read, g.reasoning, g.total()), (8, 12, 4, Some(7), 24));
        let g = of(
            "gemini",
            json!({"type": "result", "stats": {"models": {"m": {"total_tokens": 24, "input_tokens": 12, "output_tokens": 5, "cached": 4}}}}),
        );
        assert_eq!((g.input, g.output, g.total()), (8, 12, 24));
        let step = |total: u64| json!({"type": "step_finish", "part": {"id": "p", "tokens": {"total": total, "input": 10, "output": 5, "reasoning": 7, "cache": {"read": 1, "write": 2}}}});
        assert_eq!(of("opencode", step(25)).output, 12, "beside the output");
        assert_eq!(of("opencode", step(18)).output, 5, "within it");
        let c = of(
            "codex",
            json!({"type": "turn.completed", "usage": {"input_tokens": 10, "cached_input_tokens": 4, "cache_write_input_tokens": 3, "output_tokens": 9, "reasoning_output_tokens": 7}}),
        );
        assert_eq!((c.input, c.cache_read, c.cache_write, c.output, c.reasoning), (3, 4, 3, 9, Some(7)));
    }

    #[test]
    fn wild_numbers_are_no_wild_counts() {
        let v = json!({"type": "turn.completed", "usage": {"input_tokens": -5, "cached_input_tokens": 1e30, "output_tokens": u64::MAX, "reasoning_output_tokens": "x"}});
        let u = reports("codex", &v, 1)[0].usage;
        assert_eq!((u.input, u.cache_read, u.output, u.reasoning), (0, 0, crate::model::TOKENS_MAX, None));
        let v = json!({"type": "turn.completed", "usage": {"input_tokens": 5, "cached_input_tokens": 50, "cache_write_input_tokens": 50}});
        assert_eq!(reports("codex", &v, 1)[0].usage.total(), 5, "parts are not more than the whole");
        for bad in [-1.0, f64::NAN, f64::INFINITY, 1e10] {
            assert_eq!(nanousd(bad), None);
        }
        assert_eq!(nanousd(0.022_987_499_999_999_998), Some(22_987_500));
    }
}
