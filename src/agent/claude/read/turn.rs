//! The `result` line: how one turn ended and what the agent says it cost. Called by `read`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{text, unparsed, usage};
use crate::agent::{Output, ReadState, Turn};
use crate::model::{Nanousd, Usage};

/// Reads a `result` line.
pub fn result(state: &mut ReadState, v: &Map<String, Value>) -> Vec<Output> {
    let (Some(Value::Bool(is_error)), Some(subtype)) = (v.get("is_error"), text(v, "subtype")) else {
        return unparsed("a result line without is_error or subtype");
    };
    let result = text(v, "result");
    let agent_usage = v.get("usage").and_then(Value::as_object).map(usage);
    // why: a slash command that the agent refuses ends as a success with nothing said, asked or spent; that is not done work.
    // A compaction ends the same way, and is.
    let compacted = std::mem::take(&mut state.compacted);
    let nothing = v.get("num_turns").and_then(Value::as_u64) == Some(0)
        && result.as_deref().is_some_and(str::is_empty)
        && agent_usage.is_some_and(|u| u.total() == 0)
        && !compacted;
    let models = v.get("modelUsage").and_then(Value::as_object);
    state.message = None;
    vec![Output::TurnEnded(Turn {
        is_error: *is_error || nothing,
        subtype: Some(if nothing { "no_model_request".to_owned() } else { subtype }),
        result,
        duration_ms: v.get("duration_ms").and_then(Value::as_u64),
        agent_cost: v.get("total_cost_usd").and_then(Value::as_f64).and_then(nanousd),
        context_window: models.and_then(|m| context_window(state, m)),
        agent_usage,
        denials: v.get("permission_denials").and_then(Value::as_array).and_then(|d| u64::try_from(d.len()).ok()),
        model_usage: models.map(by_model).unwrap_or_default(),
        deferred: v.get("deferred_tool_use").and_then(Value::as_object).and_then(|d| super::id(d, "id")),
    })]
}

/// A model's name without the agent's mark for a larger window: `claude-opus-4-8[1m]` is `claude-opus-4-8` in messages.
pub fn base_model(name: &str) -> &str {
    match name.find('[') {
        Some(at) if at > 0 && name.ends_with(']') => &name[..at],
        _ => name,
    }
}

/// The window of the main model: by its name where that is known, else only when there is just one.
fn context_window(state: &ReadState, models: &Map<String, Value>) -> Option<u64> {
    let main = match state.model.as_ref().and_then(|m| models.get(m)) {
        Some(m) => m,
        None if models.len() == 1 => models.values().next()?,
        None => return None,
    };
    main.get("contextWindow").and_then(Value::as_u64).filter(|n| *n > 0)
}

fn by_model(models: &Map<String, Value>) -> BTreeMap<String, Usage> {
    let mut out: BTreeMap<String, Usage> = BTreeMap::new();
    for (name, counts) in models {
        let n = |key: &str| counts.get(key).and_then(Value::as_u64).unwrap_or(0);
        let one = Usage {
            input: n("inputTokens"),
            output: n("outputTokens"),
            cache_read: n("cacheReadInputTokens"),
            cache_write: n("cacheCreationInputTokens"),
            reasoning: None,
        };
        let sum = out.entry(base_model(name).to_owned()).or_default();
        *sum = sum.plus(one);
    }
    out
}

/// Dollars as billionths, rounded; `None` for what is no amount of money (negative, not finite, over a billion).
fn nanousd(dollars: f64) -> Option<Nanousd> {
    if !(0.0..=1e9).contains(&dollars) {
        return None;
    }
    // why: 0 to 1e18 after the check, so the cast neither wraps nor clamps.
    Some((dollars * 1e9).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_never_wild() {
        assert_eq!(nanousd(0.022_987_499_999_999_998), Some(22_987_500));
        for bad in [-1.0, f64::NAN, f64::INFINITY, 1e10] {
            assert_eq!(nanousd(bad), None);
        }
    }

    #[test]
    fn model_names_without_the_window_mark() {
        assert_eq!(base_model("claude-opus-4-8[1m]"), "claude-opus-4-8");
        for same in ["claude", "[1m]", "a[b", ""] {
            assert_eq!(base_model(same), same);
        }
    }
}
