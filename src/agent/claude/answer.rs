//! Frames to the agent: one JSON object and a newline each. Called by the driver and by `read` (refusals).

use serde_json::{Map, Value, json};

use super::OURS;
use crate::agent::{Answer, Callbacks, mcp::SERVER};
use crate::model::PromptContext;

/// What the agent is told when a denial has no reason.
/// The name of the block that context stands in.
const BLOCK: &str = "session-host-context";
const NO_REASON: &str = "denied by the session host";

/// The names under which the host asks to be shown results, of tools that succeeded and that failed. Nothing else calls them back.
pub const RESULTS: [(&str, &str); 2] = [("PostToolUse", "bdl-results"), ("PostToolUseFailure", "bdl-failures")];
/// How long the agent waits for the answer to a result, in seconds; after it the result would pass. Longer than any daemon is away,
/// and below the 2^31 milliseconds at which the agent's timers fire at once (seen).
const RESULT_PATIENCE: u64 = 20 * 24 * 3600;
/// Name of the callback by which calls are held before the gate.
pub const HOLD: &str = "bdl-hold";
/// How long the agent waits for that callback, in seconds: the most that its timer takes (24 days), after which the call is denied.
const HOLD_PATIENCE: u64 = 2_147_483;

/// The handshake. The agent takes no prompts from it, hooks only for what the host is to be called back, and tools only where it is given
/// the host's own.
pub fn initialize(callbacks: Callbacks) -> Vec<u8> {
    let mut request = json!({"subtype": "initialize"});
    let mut hooks = Map::new();
    let mut hook = |event: &str, id: &str, patience: u64| {
        hooks.insert(event.to_owned(), json!([{"matcher": null, "hookCallbackIds": [id], "timeout": patience}]));
    };
    if callbacks.results {
        RESULTS.iter().for_each(|(event, id)| hook(event, id, RESULT_PATIENCE));
    }
    if callbacks.hold {
        hook("PreToolUse", HOLD, HOLD_PATIENCE);
    }
    if !hooks.is_empty() {
        request["hooks"] = Value::Object(hooks);
    }
    if callbacks.tools {
        request["sdkMcpServers"] = json!([SERVER]);
    }
    frame(&json!({"type": "control_request", "request_id": format!("{OURS}initialize"), "request": request}))
}

/// A user message; what policies add follows the user's words as blocks of its own.
pub fn prompt(text: &str, context: &[PromptContext]) -> Vec<u8> {
    let added = context.iter().map(|c| json!({"type": "text", "text": added(c)}));
    let content: Vec<Value> = std::iter::once(json!({"type": "text", "text": text})).chain(added).collect();
    frame(&json!({
        "type": "user",
        "message": {"role": "user", "content": content},
        "parent_tool_use_id": null,
        "session_id": "",
    }))
}

/// What a policy adds to a prompt, so that it cannot be taken for the user's own words or another policy's.
pub fn added(c: &PromptContext) -> String {
    let from: String = c.policy.chars().filter(|c| !matches!(c, '<' | '>' | '"') && !c.is_control()).collect();
    let body = without_marks(&c.text);
    format!("<{BLOCK} policy=\"{from}\">\n{body}\n</{BLOCK}>")
}

/// The text without what would end its block, or begin another in it.
fn without_marks(text: &str) -> String {
    let mark = |rest: &str| {
        let name = rest.strip_prefix('/').unwrap_or(rest).as_bytes();
        name.get(..BLOCK.len()).is_some_and(|n| n.eq_ignore_ascii_case(BLOCK.as_bytes()))
    };
    let mut parts = text.split('<');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for rest in parts {
        out.push_str(if mark(rest) { "<\\" } else { "<" });
        out.push_str(rest);
    }
    out
}

/// The answer to a `can_use_tool` request, or to the callback before it. The input is always stated, so that what runs is what was judged.
pub fn decision(request_id: &str, answer: Answer<'_>) -> Vec<u8> {
    response(
        request_id,
        match answer {
            Answer::Allow { input } => json!({"behavior": "allow", "updatedInput": input}),
            Answer::Deny { reason } => json!({"behavior": "deny", "message": if reason.is_empty() { NO_REASON } else { reason }}),
            Answer::Pass => json!({}),
            Answer::Defer => json!({"hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": "defer"}}),
        },
    )
}

/// The answer to a result that was shown first.
pub fn result(request_id: &str, replacement: Option<&Value>) -> Vec<u8> {
    response(
        request_id,
        match replacement {
            Some(output) => json!({"hookSpecificOutput": {"hookEventName": "PostToolUse", "updatedToolOutput": output}}),
            None => json!({}),
        },
    )
}

/// The answer to a message to the host's own tool server.
pub fn mcp(request_id: &str, message: &Value) -> Vec<u8> {
    response(request_id, json!({"mcp_response": message}))
}

/// An MCP server's question to the user, declined.
pub fn decline_elicitation(request_id: &str) -> Vec<u8> {
    response(request_id, json!({"action": "decline"}))
}

/// A dialog that nobody sees, cancelled.
pub fn cancel_dialog(request_id: &str) -> Vec<u8> {
    response(request_id, json!({"behavior": "cancelled"}))
}

fn response(request_id: &str, body: Value) -> Vec<u8> {
    frame(&json!({
        "type": "control_response",
        "response": {"subtype": "success", "request_id": request_id, "response": body},
    }))
}

fn frame(v: &Value) -> Vec<u8> {
    let mut bytes = v.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(f: &[u8]) -> Value {
        assert_eq!(f.iter().filter(|b| **b == b'\n').count(), 1);
        assert_eq!(f.last(), Some(&b'\n'));
        serde_json::from_slice(f).expect("json")
    }

    #[test]
    fn decisions_serialize_the_stable_wire_shape() {
        let input = json!({"command": "ls\n-l"});
        assert_eq!(
            parsed(&decision("a\"b", Answer::Allow { input: &input })),
            json!({"type": "control_response", "response": {"subtype": "success", "request_id": "a\"b",
                   "response": {"behavior": "allow", "updatedInput": {"command": "ls\n-l"}}}})
        );
        assert_eq!(
            parsed(&decision("r", Answer::Deny { reason: "no\nway" })),
            json!({"type": "control_response", "response": {"subtype": "success", "request_id": "r",
                   "response": {"behavior": "deny", "message": "no\nway"}}})
        );
        let silent = parsed(&decision("r", Answer::Deny { reason: "" }));
        assert_eq!(silent["response"]["response"]["message"], NO_REASON);
    }

    #[test]
    fn a_held_call_is_passed_on_or_deferred_and_never_consented_to() {
        let body = |a| parsed(&decision("r", a))["response"]["response"].clone();
        assert_eq!(body(Answer::Pass), json!({}));
        assert_eq!(body(Answer::Defer)["hookSpecificOutput"]["permissionDecision"], "defer");
        let hooks = |hold| parsed(&initialize(Callbacks { hold, ..Callbacks::default() }))["request"]["hooks"].clone();
        assert_eq!(hooks(false), Value::Null);
        let hooks = hooks(true);
        assert_eq!(hooks.as_object().map(serde_json::Map::len), Some(1), "before tool uses and nowhere else");
        assert_eq!(hooks["PreToolUse"][0]["hookCallbackIds"], json!([HOLD]));
        assert!(hooks["PreToolUse"][0]["timeout"].as_u64().is_some_and(|s| s * 1000 <= i32::MAX as u64), "a longer timer fires at once");
    }

    #[test]
    fn the_hosts_own_server_is_named_only_where_it_is_given() {
        assert_eq!(parsed(&initialize(Callbacks::default()))["request"], json!({"subtype": "initialize"}));
        let f = parsed(&initialize(Callbacks { tools: true, ..Callbacks::default() }));
        assert_eq!(f["request"], json!({"subtype": "initialize", "sdkMcpServers": ["beadle"]}));
        let f = parsed(&mcp("r", &json!({"id": 1})));
        assert_eq!(f["response"], json!({"subtype": "success", "request_id": "r", "response": {"mcp_response": {"id": 1}}}));
    }

    #[test]
    fn prompts_are_one_line() {
        let f = parsed(&prompt("two\nlines \u{2028} and \0", &[]));
        assert_eq!(f["message"]["content"][0]["text"], "two\nlines \u{2028} and \0");
        assert_eq!(f["message"]["content"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn context_stands_apart_from_the_users_words_and_cannot_end_its_own_block() {
        for (text, safe) in [
            ("a<b </p> < / <", "a<b </p> < / <"),
            ("<Session-Host-Context policy=\"house\">", "<\\Session-Host-Context policy=\"house\">"),
            ("é</SESSION-HOST-CONTEXT>", "é<\\/SESSION-HOST-CONTEXT>"),
            ("<session-host-contex", "<session-host-contex"),
            ("<ésession-host-context", "<ésession-host-context"),
        ] {
            assert_eq!(without_marks(text), safe);
        }
        let c = PromptContext { policy: "a<b\"".into(), text: "x</session-host-context>y".into() };
        let f = parsed(&prompt("go", &[c]));
        assert_eq!(f["message"]["content"][0]["text"], "go");
        let added = f["message"]["content"][1]["text"].as_str().expect("text");
        assert!(
            added.starts_with("<session-host-context policy=\"ab\">") && added.matches("</session-host-context").count() == 1,
            "{added}"
        );
    }

    #[test]
    fn hooks_are_asked_for_only_where_results_are_judged() {
        assert!(parsed(&initialize(Callbacks::default()))["request"].get("hooks").is_none());
        let f = parsed(&initialize(Callbacks { results: true, ..Callbacks::default() }));
        assert_eq!(f["request"]["hooks"]["PostToolUse"][0]["hookCallbackIds"], json!(["bdl-results"]));
        let patience = f["request"]["hooks"]["PostToolUse"][0]["timeout"].as_u64().expect("seconds");
        assert!(patience * 1000 < 1 << 31, "a longer timer fires at once, and the result passes");
        assert_eq!(f["request"]["hooks"].as_object().map(serde_json::Map::len), Some(2));
        assert_eq!(parsed(&result("r", None))["response"]["response"], json!({}));
        let replaced = parsed(&result("r", Some(&json!({"stdout": ""}))));
        assert_eq!(replaced["response"]["response"]["hookSpecificOutput"]["updatedToolOutput"], json!({"stdout": ""}));
    }
}
