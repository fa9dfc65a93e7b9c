//! One line of the agent's output, and what it says.
//!
//! Invariants:
//! - total: any bytes give at least one output, and none panics;
//! - a control line that is not exactly as expected is `Forged`, any other that is not understood is `Unparsed`: neither is
//!   ever read as consent, result or count;
//! - counts come from the agent's own words for a message; a count that cannot be tied to a message is left to the turn's
//!   totals (`Turn::unaccounted`).
//!
//! Called by the driver.

use serde_json::{Map, Value};

use super::{OURS, answer, json};
use crate::agent::{Asked, OpenMessage, Output, ReadState};
use crate::model::Usage;

mod result;
mod turn;

/// The longest id taken from the agent, in bytes.
pub const ID_MAX: usize = 256;

/// Pieces of streamed text, thinking and tool input: nothing in them that does not follow whole. They are the bulk of all
/// lines, so they are known by how they begin and not parsed.
const PIECE: &[u8] = br#"{"type":"stream_event","event":{"type":"content_block_"#;

/// Line types that say nothing for the log.
const QUIET_TYPES: &[&str] = &[
    "auth_status",
    "keep_alive",
    "progress",
    "prompt_suggestion",
    "rate_limit_event",
    "streamlined_text",
    "streamlined_tool_use_summary",
    "tool_progress",
    "tool_use_summary",
];

/// `system` lines that say nothing for the log.
const QUIET_SYSTEM: &[&str] = &[
    "agents_killed",
    "api_error",
    "api_retry",
    "away_summary",
    "background_tasks",
    "commands_changed",
    "elicitation_complete",
    "files_persisted",
    "hook_progress",
    "hook_response",
    "hook_started",
    "informational",
    "local_command_output",
    "memory_recall",
    "memory_saved",
    "mirror_error",
    "model_consent_fallback",
    "model_fallback",
    "model_refusal_fallback",
    "model_refusal_no_fallback",
    "notification",
    "permission_denied",
    "permission_retry",
    "plugin_install",
    "post_turn_summary",
    "scheduled_task_fire",
    "session_state_changed",
    "status",
    "stop_hook_summary",
    "task_notification",
    "task_progress",
    "task_summary",
    "task_updated",
    "thinking",
    "thinking_tokens",
    "turn_duration",
    "turn_starting",
    "worker_shutting_down",
];

/// Content blocks that say nothing for the log.
const QUIET_BLOCKS: &[&str] = &["thinking", "redacted_thinking", "web_search_tool_result", "web_fetch_tool_result"];

/// Reads one line.
pub fn line(state: &mut ReadState, line: &[u8]) -> Vec<Output> {
    if line.starts_with(PIECE) && line.ends_with(b"}") {
        return vec![Output::Quiet];
    }
    let value = match json::parse(line) {
        Ok(Value::Object(o)) => o,
        Ok(_) => return unparsed("a line that is not a JSON object"),
        Err(e) => return unparsed(format!("not JSON: {e}")),
    };
    let Some(kind) = value.get("type").and_then(Value::as_str) else { return unparsed("a line without a type") };
    let mut out = match kind {
        "control_request" => control_request(state, &value),
        "control_response" => control_response(&value),
        "control_cancel_request" => match id(&value, "request_id") {
            Some(request_id) => vec![Output::Cancelled { request_id }],
            None => forged("control_cancel_request", "without a usable request_id"),
        },
        "system" => system(state, &value),
        "assistant" => assistant(&value),
        "user" => user(&value),
        "stream_event" => stream_event(state, &value),
        "result" => turn::result(state, &value),
        k if k.starts_with("control_") => forged("unknown control line", k),
        k if QUIET_TYPES.contains(&k) => Vec::new(),
        k => unparsed(format!("unknown line type {}", shown(k))),
    };
    if out.is_empty() {
        out.push(Output::Quiet);
    }
    out
}

/// Reads one line of the transcript: the same messages, as the agent keeps them for itself.
pub fn record(line: &[u8]) -> Option<Vec<Output>> {
    const MARKS: [&[u8]; 2] = [b"tool_use", b"tool_result"];
    // why: most lines are text and attachments, some of them large.
    if !MARKS.iter().any(|m| line.windows(m.len()).any(|w| w == *m)) {
        return Some(Vec::new());
    }
    let Ok(Value::Object(value)) = json::parse(line) else { return None };
    let mut out = match value.get("type").and_then(Value::as_str) {
        Some("assistant") => assistant(&value),
        Some("user") => user(&value),
        _ => Vec::new(),
    };
    out.retain(|o| matches!(o, Output::ToolUse { .. } | Output::ToolResult { .. }));
    Some(out)
}

/// The tokens of one message in the agent's own record. Each block of a message has a line of its own, all with the same id and counts.
pub fn recorded_usage(line: &[u8], since: i64) -> Option<Output> {
    const MARK: &[u8] = b"\"output_tokens\"";
    if !line.windows(MARK.len()).any(|w| w == MARK) {
        return None;
    }
    let Ok(Value::Object(v)) = json::parse(line) else { return None };
    let written = chrono::DateTime::parse_from_rfc3339(v.get("timestamp")?.as_str()?).ok()?;
    if v.get("type").and_then(Value::as_str) != Some("assistant") || written.timestamp_millis() < since {
        return None;
    }
    let is_sub_agent = v.get("isSidechain").and_then(Value::as_bool).unwrap_or(false);
    let parent = is_sub_agent.then(|| id(&v, "agentId").unwrap_or_else(|| "sub-agent".to_owned()));
    count(&open_message(v.get("message")?.as_object()?, parent)?)
}

fn control_request(state: &ReadState, v: &Map<String, Value>) -> Vec<Output> {
    let Some(request_id) = id(v, "request_id") else { return forged("control_request", "without a usable request_id") };
    let Some(Value::Object(request)) = v.get("request") else { return forged("control_request", "without a request") };
    match request.get("subtype").and_then(Value::as_str) {
        Some("can_use_tool") => can_use_tool(state, request_id, request),
        Some("elicitation") => {
            let answer = answer::decline_elicitation(&request_id);
            let server = request
                .get("mcp_server_name")
                .and_then(Value::as_str)
                .map_or_else(String::new, |s| format!(" of the MCP server {}", shown(s)));
            vec![Output::Declined { request_id, what: format!("a question to the user{server}"), answer }]
        }
        Some("request_user_dialog") => {
            let answer = answer::cancel_dialog(&request_id);
            vec![Output::Declined { request_id, what: "a dialog with the user".to_owned(), answer }]
        }
        Some("hook_callback") if request.get("callback_id").and_then(Value::as_str) == Some(answer::HOLD) => {
            held(state, request_id, request)
        }
        Some("hook_callback") => result::shown(request_id, request),
        Some("mcp_message") => mcp_message(request_id, request),
        Some(other) => forged("control_request that agents do not send", other),
        None => forged("control_request", "without a subtype"),
    }
}

fn can_use_tool(state: &ReadState, request_id: String, r: &Map<String, Value>) -> Vec<Output> {
    match asked(state, request_id, r, "input") {
        Ok(asked) => vec![Output::Asked(asked)],
        Err(why) => forged("can_use_tool", why),
    }
}

/// Whether there is such a server is the session's to know.
fn mcp_message(request_id: String, r: &Map<String, Value>) -> Vec<Output> {
    match (id(r, "server_name"), r.get("message")) {
        (Some(server), Some(message @ Value::Object(_))) => vec![Output::Mcp { request_id, server, message: message.clone() }],
        _ => forged("mcp_message", "without a usable server_name and a message"),
    }
}

/// The callback before a tool use: the same call that the gate then asks about, in a hook's words.
fn held(state: &ReadState, request_id: String, r: &Map<String, Value>) -> Vec<Output> {
    let Some(Value::Object(hook)) = r.get("input") else { return forged("hook_callback", "without an input") };
    if hook.get("hook_event_name").and_then(Value::as_str) != Some("PreToolUse") {
        return forged("hook_callback", "of an event that the host did not ask for");
    }
    match asked(state, request_id, hook, "tool_input") {
        Ok(asked) => vec![Output::Held(asked)],
        Err(why) => forged("hook_callback", why),
    }
}

fn asked(state: &ReadState, request_id: String, r: &Map<String, Value>, input: &str) -> Result<Asked, &'static str> {
    let tool = id(r, "tool_name").ok_or("without a usable tool_name")?;
    let call_id = id(r, "tool_use_id").ok_or("without a usable tool_use_id")?;
    let Some(input @ Value::Object(_)) = r.get(input) else { return Err("with an input that is not an object") };
    let sub_agent = match r.get("agent_id") {
        None | Some(Value::Null) => None,
        Some(_) => Some(id(r, "agent_id").ok_or("with an unusable agent_id")?),
    };
    let parent_call_id =
        sub_agent.as_deref().and_then(|a| state.sub_agents.iter().rev().find(|(id, _)| id == a)).map(|(_, call)| call.clone());
    Ok(Asked { request_id, call_id: Some(call_id), tool, input: input.clone(), parent_call_id, sub_agent })
}

fn control_response(v: &Map<String, Value>) -> Vec<Output> {
    let Some(Value::Object(response)) = v.get("response") else { return forged("control_response", "without a response") };
    match id(response, "request_id") {
        Some(id) if id.starts_with(OURS) => {}
        _ => return forged("control_response", "to a request that the host never sent"),
    }
    match response.get("subtype").and_then(Value::as_str) {
        Some("success") => Vec::new(),
        Some("error") => {
            let why = response.get("error").and_then(Value::as_str).unwrap_or("no reason given");
            unparsed(format!("the agent refused a request of the host: {}", shown(why)))
        }
        _ => forged("control_response", "of an unknown subtype"),
    }
}

fn system(state: &mut ReadState, v: &Map<String, Value>) -> Vec<Output> {
    match v.get("subtype").and_then(Value::as_str) {
        Some("init") => init(state, v),
        Some("compact_boundary") => {
            state.compacted = true;
            let none = Map::new();
            let m = v.get("compact_metadata").and_then(Value::as_object).unwrap_or(&none);
            vec![Output::Compacted {
                trigger: text(m, "trigger").unwrap_or_else(|| "unknown".to_owned()),
                tokens_before: m.get("pre_tokens").and_then(Value::as_u64),
                tokens_after: m.get("post_tokens").and_then(Value::as_u64),
            }]
        }
        Some("task_started") => task_started(state, v),
        Some(s) if QUIET_SYSTEM.contains(&s) => Vec::new(),
        Some(s) => unparsed(format!("unknown system line {}", shown(s))),
        None => unparsed("a system line without a subtype"),
    }
}

fn init(state: &mut ReadState, v: &Map<String, Value>) -> Vec<Output> {
    let names = |key: &str, inner: Option<&str>| -> Vec<String> {
        let items = v.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(|i| inner.map_or(Some(i), |k| i.get(k))?.as_str().map(str::to_owned)).collect()
    };
    state.model = id(v, "model");
    let started = Output::Started {
        agent_session_id: text(v, "session_id"),
        version: text(v, "claude_code_version"),
        model: text(v, "model"),
        permission_mode: text(v, "permissionMode"),
        tools: names("tools", None),
        mcp_servers: names("mcp_servers", Some("name")),
    };
    // why: the agent repeats this line every turn; only a change is news.
    let print = blake3::hash(format!("{started:?}").as_bytes()).to_hex()[..16].to_owned();
    if state.started.as_ref() == Some(&print) {
        return Vec::new();
    }
    state.started = Some(print);
    vec![started]
}

fn task_started(state: &mut ReadState, v: &Map<String, Value>) -> Vec<Output> {
    if v.get("task_type").and_then(Value::as_str) != Some("local_agent") {
        return Vec::new();
    }
    let call_id = id(v, "tool_use_id");
    if let (Some(agent), Some(call)) = (id(v, "task_id"), &call_id) {
        state.sub_agents.retain(|(a, _)| *a != agent);
        if state.sub_agents.len() >= ReadState::SUB_AGENTS {
            state.sub_agents.remove(0);
        }
        state.sub_agents.push((agent, call.clone()));
    }
    vec![Output::SubAgent {
        call_id,
        agent_type: text(v, "subagent_type").unwrap_or_else(|| "unknown".to_owned()),
        description: text(v, "description").unwrap_or_default(),
    }]
}

fn assistant(v: &Map<String, Value>) -> Vec<Output> {
    let Some(Value::Object(message)) = v.get("message") else { return unparsed("an assistant line without a message") };
    let Some(Value::Array(blocks)) = message.get("content") else { return unparsed("an assistant message without content") };
    let parent_call_id = id(v, "parent_tool_use_id");
    let message_id = id(message, "id");
    let mut out = Vec::new();
    for block in blocks {
        match block.get("type").and_then(Value::as_str) {
            Some("text") => match block.get("text").and_then(Value::as_str) {
                Some("") => {}
                Some(text) => out.push(Output::Replied {
                    text: text.to_owned(),
                    message_id: message_id.clone(),
                    parent_call_id: parent_call_id.clone(),
                }),
                None => out.extend(unparsed("a text block without text")),
            },
            Some("tool_use" | "server_tool_use") => {
                let named = block.as_object().and_then(|b| Some((id(b, "id")?, id(b, "name")?)));
                match named {
                    Some((call_id, tool)) => out.push(Output::ToolUse {
                        call_id,
                        tool,
                        input: block.get("input").cloned().unwrap_or_default(),
                        parent_call_id: parent_call_id.clone(),
                    }),
                    None => out.extend(unparsed("a tool_use block without an id or a name")),
                }
            }
            Some(b) if QUIET_BLOCKS.contains(&b) => {}
            Some(b) => out.extend(unparsed(format!("unknown content block {}", shown(b)))),
            None => out.extend(unparsed("a content block without a type")),
        }
    }
    if let Some(open) = open_message(message, parent_call_id) {
        out.extend(count(&open));
    }
    out
}

fn user(v: &Map<String, Value>) -> Vec<Output> {
    let parent_call_id = id(v, "parent_tool_use_id");
    let blocks = match v.get("message").and_then(|m| m.get("content")) {
        Some(Value::Array(blocks)) => blocks,
        // why: the agent's own notes to the model are user messages of plain text.
        Some(Value::String(_)) => return Vec::new(),
        _ => return unparsed("a user line without content"),
    };
    let mut out = Vec::new();
    for block in blocks {
        if block.get("type").and_then(Value::as_str) != Some("tool_result") {
            continue;
        }
        let Some(call_id) = block.as_object().and_then(|b| id(b, "tool_use_id")) else {
            out.extend(unparsed("a tool_result block without a usable tool_use_id"));
            continue;
        };
        let is_error = match block.get("is_error") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(b)) => *b,
            Some(_) => {
                out.extend(unparsed("a tool_result block whose is_error is not a truth value"));
                continue;
            }
        };
        let content = block.get("content").map(plain).unwrap_or_default();
        // why: a shell's exit code comes from nowhere but a run; a denied or malformed call is an error in other words.
        let ran = ran(is_error, &content);
        out.push(Output::ToolResult { call_id, is_error, ran, content, parent_call_id: parent_call_id.clone() });
    }
    out
}

/// Whether a result shows that something was executed: every success does, and an error that only an execution gives.
pub(super) fn ran(is_error: bool, content: &str) -> bool {
    !is_error || content.starts_with("Exit code ")
}

/// A result's content as text: text blocks joined by newlines, others by their type in brackets.
pub(super) fn plain(content: &Value) -> String {
    match content {
        Value::String(s) => s.clone(),
        Value::Array(blocks) => {
            let parts = blocks.iter().map(|b| match (b.get("text").and_then(Value::as_str), b.get("type").and_then(Value::as_str)) {
                (Some(t), _) => t.to_owned(),
                (None, Some(kind)) => format!("[{kind}]"),
                (None, None) => b.to_string(),
            });
            parts.collect::<Vec<_>>().join("\n")
        }
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The parts of a streamed message that count: its beginning names it, a later one has the final tokens.
fn stream_event(state: &mut ReadState, v: &Map<String, Value>) -> Vec<Output> {
    let Some(Value::Object(event)) = v.get("event") else { return unparsed("a stream_event line without an event") };
    let parent_call_id = id(v, "parent_tool_use_id");
    match event.get("type").and_then(Value::as_str) {
        Some("message_start") => {
            // why: not counted yet. A stream that breaks before its first block is tried again, and the agent does not count it.
            state.message = event.get("message").and_then(Value::as_object).and_then(|m| open_message(m, parent_call_id));
            Vec::new()
        }
        Some("message_delta") => {
            let Some(open) = state.message.as_mut().filter(|m| m.parent_call_id == parent_call_id) else { return Vec::new() };
            let Some(Value::Object(u)) = event.get("usage") else { return Vec::new() };
            open.usage = open.usage.max(usage(u));
            count(open).into_iter().collect()
        }
        Some("message_stop") => {
            state.message = None;
            Vec::new()
        }
        Some("content_block_start" | "content_block_delta" | "content_block_stop" | "ping" | "error") => Vec::new(),
        other => unparsed(format!("unknown stream_event {}", shown(other.unwrap_or("without a type")))),
    }
}

fn open_message(m: &Map<String, Value>, parent_call_id: Option<String>) -> Option<OpenMessage> {
    let usage = usage(m.get("usage")?.as_object()?);
    // why: messages that the agent makes up itself (errors, notices) are of the model `<synthetic>`.
    let model = id(m, "model").filter(|m| !m.starts_with('<'))?;
    Some(OpenMessage { id: id(m, "id")?, model: turn::base_model(&model).to_owned(), usage, parent_call_id })
}

fn count(m: &OpenMessage) -> Option<Output> {
    (m.usage.total() > 0).then(|| Output::Usage {
        message_id: m.id.clone(),
        model: m.model.clone(),
        usage: m.usage,
        parent_call_id: m.parent_call_id.clone(),
    })
}

/// Counts as the Messages API has them; what is missing or not a whole number is 0.
fn usage(u: &Map<String, Value>) -> Usage {
    let n = |key: &str| u.get(key).and_then(Value::as_u64).unwrap_or(0);
    Usage {
        input: n("input_tokens"),
        output: n("output_tokens"),
        cache_read: n("cache_read_input_tokens"),
        cache_write: n("cache_creation_input_tokens"),
        cache_write_1h: u.get("cache_creation").and_then(|c| c.get("ephemeral_1h_input_tokens")).and_then(Value::as_u64).unwrap_or(0),
        reasoning: None,
    }
    .capped()
}

/// A non-empty string of at most [`ID_MAX`] bytes.
pub(super) fn id(v: &Map<String, Value>, key: &str) -> Option<String> {
    text(v, key).filter(|s| !s.is_empty() && s.len() <= ID_MAX)
}

pub(super) fn text(v: &Map<String, Value>, key: &str) -> Option<String> {
    v.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn unparsed(reason: impl Into<String>) -> Vec<Output> {
    vec![Output::Unparsed { reason: reason.into() }]
}

fn forged(what: &str, detail: &str) -> Vec<Output> {
    vec![Output::Forged { what: what.to_owned(), detail: detail.chars().take(128).collect() }]
}

fn shown(s: &str) -> String {
    format!("{:?}", s.chars().take(128).collect::<String>())
}

#[cfg(test)]
mod tests;
