//! Frames to the agent: one JSON object and a newline each. Called by the driver and by `read` (refusals).

use serde_json::{Value, json};

use super::OURS;
use crate::agent::Answer;

/// What the agent is told when a denial has no reason.
const NO_REASON: &str = "denied by the session host";

/// The handshake. The agent takes no hooks, tools or prompts from it.
pub fn initialize() -> Vec<u8> {
    frame(&json!({"type": "control_request", "request_id": format!("{OURS}initialize"), "request": {"subtype": "initialize"}}))
}

/// A user message.
pub fn prompt(text: &str) -> Vec<u8> {
    frame(&json!({
        "type": "user",
        "message": {"role": "user", "content": [{"type": "text", "text": text}]},
        "parent_tool_use_id": null,
        "session_id": "",
    }))
}

/// The decision on a `can_use_tool` request. The input is always stated, so that what runs is what was judged.
pub fn decision(request_id: &str, answer: Answer<'_>) -> Vec<u8> {
    response(
        request_id,
        match answer {
            Answer::Allow { input } => json!({"behavior": "allow", "updatedInput": input}),
            Answer::Deny { reason } => json!({"behavior": "deny", "message": if reason.is_empty() { NO_REASON } else { reason }}),
        },
    )
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
    fn prompts_are_one_line() {
        let f = parsed(&prompt("two\nlines \u{2028} and \0"));
        assert_eq!(f["message"]["content"][0]["text"], "two\nlines \u{2028} and \0");
    }
}
