//! The `result` line: how one turn ended and what the agent says it cost. Called by `read`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{text, unparsed, usage};
use crate::agent::usage::nanousd;
use crate::agent::{Output, ReadState, Turn};
use crate::model::Usage;

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
        model_cost: models.map(costs).unwrap_or_default(),
        web_searches: models.map(web_searches).unwrap_or(0),
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
            cache_write_1h: 0,
            reasoning: None,
        }
        .capped();
        let sum = out.entry(base_model(name).to_owned()).or_default();
        *sum = sum.plus(one);
    }
    out
}

fn costs(models: &Map<String, Value>) -> BTreeMap<String, u64> {
    let mut out: BTreeMap<String, u64> = BTreeMap::new();
    for (name, counts) in models {
        if let Some(cost) = counts.get("costUSD").and_then(Value::as_f64).and_then(nanousd) {
            let sum = out.entry(base_model(name).to_owned()).or_default();
            *sum = sum.saturating_add(cost);
        }
    }
    out
}

fn web_searches(models: &Map<String, Value>) -> u64 {
    models.values().filter_map(|m| m.get("webSearchRequests").and_then(Value::as_u64)).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_names_without_the_window_mark() {
        assert_eq!(base_model("claude-opus-4-8[1m]"), "claude-opus-4-8");
        for same in ["claude", "[1m]", "a[b", ""] {
            assert_eq!(base_model(same), same);
        }
    }
}
