//! The Anthropic Messages API as bytes: what a request asks for, and a scripted answer as a message, as server-sent
//! events, or as an error.
//!
//! Pure. Shapes follow what Claude Code accepts. Called by `serve` and `script`.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::forms::Failure;
use super::script::{Chosen, Step, Tokens};

/// Longest piece of text or tool input in one streamed event, in characters: clients must join pieces.
const PIECE: usize = 64;

/// A request's body, looked at.
pub(super) struct Request<'a> {
    body: &'a Value,
}

impl<'a> Request<'a> {
    pub fn new(body: &'a Value) -> Self {
        Self { body }
    }

    /// The message of the API's error, when the body is no Messages request at all.
    pub fn problem(&self) -> Option<String> {
        let Some(body) = self.body.as_object() else { return Some("the body is not a JSON object".into()) };
        if !body.get("model").is_some_and(Value::is_string) {
            return Some("model: Field required".into());
        }
        match body.get("messages").and_then(Value::as_array) {
            None => Some("messages: Field required".into()),
            Some(m) if m.is_empty() => Some("messages: at least one message is required".into()),
            Some(m) => {
                m.iter().position(|m| !m.get("role").is_some_and(Value::is_string)).map(|i| format!("messages.{i}.role: Field required"))
            }
        }
    }

    pub fn model(&self) -> &'a str {
        self.body.get("model").and_then(Value::as_str).unwrap_or("")
    }

    pub fn streams(&self) -> bool {
        self.body.get("stream").and_then(Value::as_bool).unwrap_or(false)
    }

    pub fn offers_tools(&self) -> bool {
        self.body.get("tools").and_then(Value::as_array).is_some_and(|t| !t.is_empty())
    }

    /// Whether a text occurs in the system prompt or in any message.
    pub fn contains(&self, needle: &str) -> bool {
        self.system_contains(needle) || self.messages().iter().any(|m| occurs(m, needle))
    }

    /// Whether a text occurs in the system prompt or in the messages up to the first of the user.
    pub fn opening_contains(&self, needle: &str) -> bool {
        let messages = self.messages();
        let first = messages.iter().position(|m| m["role"] == "user").map_or(0, |i| i + 1);
        self.system_contains(needle) || messages[..first].iter().any(|m| occurs(m, needle))
    }

    /// Whether a text occurs in the newest message of the user.
    pub fn last_contains(&self, needle: &str) -> bool {
        self.messages().iter().rfind(|m| m["role"] == "user").is_some_and(|m| occurs(m, needle))
    }

    fn system_contains(&self, needle: &str) -> bool {
        self.body.get("system").is_some_and(|s| occurs(s, needle))
    }

    fn messages(&self) -> &'a [Value] {
        self.body.get("messages").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
}

/// Whether `needle` is in any string of `value`; the parser's own limit bounds the depth.
fn occurs(value: &Value, needle: &str) -> bool {
    match value {
        Value::String(s) => s.contains(needle),
        Value::Array(a) => a.iter().any(|v| occurs(v, needle)),
        Value::Object(o) => o.values().any(|v| occurs(v, needle)),
        _ => false,
    }
}

/// The answer as one whole message; `fresh(prefix)` gives an id that was never given before.
pub(super) fn message(chosen: &Chosen, model: &str, fresh: &dyn Fn(&str) -> String) -> Value {
    let step = &chosen.play;
    json!({
        "id": fresh("msg_"), "type": "message", "role": "assistant", "model": step.model.as_deref().unwrap_or(model),
        "content": content(step, fresh), "stop_reason": stop_reason(step), "stop_sequence": null, "usage": usage(chosen.usage),
    })
}

fn content(step: &Step, fresh: &dyn Fn(&str) -> String) -> Vec<Value> {
    let thinking = step.thinking.iter().map(|t| json!({"type": "thinking", "thinking": t, "signature": "c2NyaXB0ZWQ="}));
    let text = step.text.iter().map(|t| json!({"type": "text", "text": t}));
    let tools = step.tools.iter().map(|t| {
        let id = t.id.clone().unwrap_or_else(|| fresh("toolu_"));
        json!({"type": "tool_use", "id": id, "name": t.name, "input": t.input})
    });
    thinking.chain(text).chain(tools).collect()
}

fn stop_reason(step: &Step) -> &str {
    match &step.stop_reason {
        Some(given) => given,
        None if step.tools.is_empty() => "end_turn",
        None => "tool_use",
    }
}

fn usage(t: Tokens) -> Value {
    json!({
        "input_tokens": t.input, "cache_creation_input_tokens": t.cache_write, "cache_read_input_tokens": t.cache_read,
        "cache_creation": {"ephemeral_5m_input_tokens": t.cache_write, "ephemeral_1h_input_tokens": 0},
        "output_tokens": t.output, "service_tier": "standard",
    })
}

/// The same message as server-sent events, each ready to send.
pub(super) fn events(message: &Value) -> Vec<Bytes> {
    let mut start = message.clone();
    start["content"] = json!([]);
    start["stop_reason"] = Value::Null;
    start["usage"]["output_tokens"] = json!(1);
    let mut out = vec![event(&json!({"type": "message_start", "message": start})), event(&json!({"type": "ping"}))];
    for (index, block) in message["content"].as_array().into_iter().flatten().enumerate() {
        let text = |key: &str| block[key].as_str().unwrap_or_default().to_owned();
        let (empty, deltas): (Value, Vec<Value>) = match block["type"].as_str() {
            Some("text") => {
                (json!({"type": "text", "text": ""}), pieces(&text("text")).map(|p| json!({"type": "text_delta", "text": p})).collect())
            }
            Some("thinking") => (
                json!({"type": "thinking", "thinking": "", "signature": ""}),
                pieces(&text("thinking"))
                    .map(|p| json!({"type": "thinking_delta", "thinking": p}))
                    .chain([json!({"type": "signature_delta", "signature": block["signature"]})])
                    .collect(),
            ),
            _ => (
                json!({"type": "tool_use", "id": block["id"], "name": block["name"], "input": Map::new()}),
                pieces(&block["input"].to_string()).map(|p| json!({"type": "input_json_delta", "partial_json": p})).collect(),
            ),
        };
        out.push(event(&json!({"type": "content_block_start", "index": index, "content_block": empty})));
        out.extend(deltas.iter().map(|d| event(&json!({"type": "content_block_delta", "index": index, "delta": d}))));
        out.push(event(&json!({"type": "content_block_stop", "index": index})));
    }
    out.push(event(&json!({
        "type": "message_delta", "delta": {"stop_reason": message["stop_reason"], "stop_sequence": null}, "usage": message["usage"],
    })));
    out.push(event(&json!({"type": "message_stop"})));
    out
}

fn event(data: &Value) -> Bytes {
    Bytes::from(format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or("error")))
}

/// Cuts at character borders; an empty text is one empty piece.
fn pieces(text: &str) -> impl Iterator<Item = String> {
    let chars: Vec<char> = text.chars().collect();
    let count = chars.len().div_ceil(PIECE).max(1);
    (0..count).map(move |i| chars.iter().skip(i * PIECE).take(PIECE).collect())
}

/// The body of a scripted failure.
pub(super) fn failure(f: &Failure) -> Value {
    f.body.clone().unwrap_or_else(|| {
        error(f.kind.as_deref().unwrap_or_else(|| error_kind(f.status)), f.message.as_deref().unwrap_or("scripted failure"))
    })
}

/// The API's error body.
pub(super) fn error(kind: &str, message: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": message}})
}

/// The API's own name for a status.
pub(super) fn error_kind(status: u16) -> &'static str {
    match status {
        400 | 422 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 | 503 => "overloaded_error",
        _ => "api_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streamed_pieces_join_to_the_message() {
        let long = "ä".repeat(200);
        let m = json!({"id": "msg_1", "content": [
            {"type": "text", "text": long}, {"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": long}}],
            "stop_reason": "tool_use", "usage": usage(Tokens::default())});
        let (mut text, mut input) = (String::new(), String::new());
        for e in events(&m) {
            let e = String::from_utf8(e.to_vec()).unwrap();
            let data: Value = serde_json::from_str(e.split_once("data: ").unwrap().1.trim()).unwrap();
            text += data["delta"]["text"].as_str().unwrap_or("");
            input += data["delta"]["partial_json"].as_str().unwrap_or("");
        }
        assert_eq!(text, long);
        assert_eq!(serde_json::from_str::<Value>(&input).unwrap()["command"], long);
    }

    #[test]
    fn a_body_that_is_no_request_is_told_what_misses() {
        for (body, says) in [
            (json!([]), "object"),
            (json!({"messages": []}), "model"),
            (json!({"model": "m"}), "messages"),
            (json!({"model": "m", "messages": [{"role": "user"}, {}]}), "messages.1.role"),
        ] {
            assert!(Request::new(&body).problem().unwrap().contains(says));
        }
    }
}
