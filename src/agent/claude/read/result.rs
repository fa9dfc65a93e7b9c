//! A tool's result that the agent shows the host before the model sees it: the only hooks that the host registers, and only in
//! sessions whose policies judge results. Whether this session is one is the caller's to know.

use serde_json::{Map, Value};

use super::{answer, forged, id, text};
use crate::agent::{Output, ShownResult};

/// Reads a `hook_callback` request.
pub(super) fn shown(request_id: String, r: &Map<String, Value>) -> Vec<Output> {
    let Some(event) = r.get("callback_id").and_then(Value::as_str).and_then(|id| answer::RESULTS.iter().find(|(_, name)| *name == id))
    else {
        return forged("hook_callback", "to a hook that the host never registered");
    };
    let Some(Value::Object(input)) = r.get("input") else { return forged("hook_callback", "without an input") };
    if input.get("hook_event_name").and_then(Value::as_str) != Some(event.0) {
        return forged("hook_callback", "of another event than the hook is for");
    }
    let Some(call_id) = id(input, "tool_use_id") else { return forged("hook_callback", "without a usable tool_use_id") };
    let Some(tool) = id(input, "tool_name") else { return forged("hook_callback", "without a usable tool_name") };
    let Some(tool_input @ Value::Object(_)) = input.get("tool_input") else {
        return forged("hook_callback", "with a tool_input that is not an object");
    };
    let is_error = event.0 == "PostToolUseFailure";
    let output = if is_error { input.get("error") } else { input.get("tool_response") };
    vec![Output::Shown(ShownResult {
        request_id,
        call_id,
        tool,
        input: tool_input.clone(),
        output: output.cloned().unwrap_or_default(),
        is_error,
        duration_ms: input.get("duration_ms").and_then(Value::as_u64),
        sub_agent: text(input, "agent_id"),
    })]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(r: Value) -> Output {
        let Value::Object(r) = r else { panic!("an object") };
        shown("q".to_owned(), &r).remove(0)
    }

    #[test]
    fn results_and_failures_are_told_apart_and_all_else_is_forged() {
        let input = json!({"hook_event_name": "PostToolUse", "tool_name": "Bash", "tool_input": {"command": "ls"}, "tool_use_id": "t",
            "tool_response": {"stdout": "x"}, "duration_ms": 3});
        let Output::Shown(s) = read(json!({"callback_id": "bdl-results", "input": input})) else { panic!("a result") };
        assert_eq!((s.call_id.as_str(), s.output, s.is_error, s.duration_ms), ("t", json!({"stdout": "x"}), false, Some(3)));
        let mut failed = input.clone();
        failed["hook_event_name"] = json!("PostToolUseFailure");
        failed["error"] = json!("Exit code 1");
        let Output::Shown(s) = read(json!({"callback_id": "bdl-failures", "input": failed})) else { panic!("a failure") };
        assert_eq!((s.output, s.is_error), (json!("Exit code 1"), true));
        for (callback, input) in [
            ("other", input.clone()),
            ("bdl-failures", input.clone()),
            ("bdl-results", json!({"hook_event_name": "PostToolUse", "tool_name": "Bash", "tool_input": {}})),
            ("bdl-results", json!({"hook_event_name": "PostToolUse", "tool_name": "Bash", "tool_use_id": "t", "tool_input": 1})),
        ] {
            assert!(matches!(read(json!({"callback_id": callback, "input": input})), Output::Forged { .. }), "{callback}");
        }
    }
}
