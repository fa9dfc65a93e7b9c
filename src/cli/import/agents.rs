//! Transcripts of agent CLIs as writes: the own records of Claude Code, Codex and Gemini CLI, and the stream of OpenCode. Usage is counted by
//! the readers of `agent::usage`, each message once, so that it goes to the ledger as what a live session's would.

use serde_json::{Value, json};

use super::read::{Found, Reader, custom, folder, number, object, text, time, word};
use crate::agent::usage::{Tally, reports};
use crate::model::written::{Compacted, Response, SubAgent, Text, ToolEnd, ToolStart, Write, Written};
use crate::model::{Nanousd, SIDECHAIN};

/// What was counted so far.
#[derive(Debug, Default)]
pub struct Counted(Tally);

impl Reader {
    /// Model responses that a line adds, with the words that go with them.
    fn responses(&mut self, agent: &str, n: u64, v: &Value) -> Vec<Written> {
        let sub_agent = v.get("isSidechain").and_then(Value::as_bool).unwrap_or(false);
        let mut out = Vec::new();
        for report in reports(agent, v, n) {
            let Some(usage) = self.tally.0.add(&report) else { continue };
            let model = report.model.or_else(|| self.model.clone()).unwrap_or_else(|| "unknown".to_owned());
            out.push(Written::ModelResponded(Response {
                message_id: report.id.chars().filter(|c| !c.is_control()).take(200).collect(),
                model: model.chars().filter(|c| !c.is_control()).take(100).collect(),
                usage,
                // The record does not name the call that started the sub-agent: its own chain stands for it.
                parent_call_id: sub_agent.then(|| SIDECHAIN.to_owned()),
                ..Response::default()
            }));
        }
        out.retain(|w| Write::from(w.clone()).check().is_ok());
        out
    }
}

/// One line of a Claude Code transcript.
pub fn claude(r: &mut Reader, n: u64, v: &Value) -> Result<Found, String> {
    let at = time(v.get("timestamp"));
    let cwd = folder(v);
    let session = word(v, &["sessionId"]).or_else(|| r.session.clone());
    r.session.clone_from(&session);
    let mut what = r.responses("claude", n, v);
    let kind = word(v, &["type"]).ok_or("it has no type")?;
    let content = v.get("message").and_then(|m| m.get("content"));
    let blocks = content.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    match kind.as_str() {
        "user" => {
            let is_compact = v.get("isCompactSummary").and_then(Value::as_bool).unwrap_or(false);
            let is_meta = v.get("isMeta").and_then(Value::as_bool).unwrap_or(false);
            if is_compact {
                what.push(Written::ContextCompacted(Compacted::default()));
            } else if let Some(text) = content.and_then(Value::as_str).filter(|t| !is_meta && !t.is_empty()) {
                what.push(Written::PromptSubmitted(Text { text: text.to_owned() }));
            }
            for b in blocks {
                match b.get("type").and_then(Value::as_str) {
                    Some("tool_result") => what.extend(word(b, &["tool_use_id"]).map(|call_id| {
                        let is_error = b.get("is_error").and_then(Value::as_bool).unwrap_or(false);
                        Written::ToolEnded(ToolEnd { call_id, is_error, output: words(b.get("content")), duration_ms: None })
                    })),
                    Some("text") if !is_meta && !is_compact => what.extend(prompt(b)),
                    _ => {}
                }
            }
        }
        "assistant" => {
            for b in blocks {
                match b.get("type").and_then(Value::as_str) {
                    Some("text") => what.extend(reply(b)),
                    Some("tool_use") => {
                        let Some((call_id, tool)) = word(b, &["id"]).zip(word(b, &["name"])) else { continue };
                        let input = b.get("input").cloned().unwrap_or(Value::Null);
                        if ["Task", "Agent"].contains(&tool.as_str()) {
                            let agent_type = word(&input, &["subagent_type"]).unwrap_or_else(|| "general-purpose".to_owned());
                            let description = word(&input, &["description"]).unwrap_or_default();
                            what.push(Written::SubAgentInvoked(SubAgent { agent_type, description, call_id: Some(call_id.clone()) }));
                        }
                        what.push(Written::ToolStarted(ToolStart { call_id, tool, input, parent_call_id: None }));
                    }
                    _ => {}
                }
            }
        }
        "summary" => what.push(custom("claude", "summary", &object(&[("summary", v.get("summary").cloned())]))?),
        "system" if v.get("subtype").and_then(Value::as_str) == Some("compact_boundary") => {
            let m = v.get("compactMetadata").unwrap_or(&Value::Null);
            let (trigger, tokens_before) = (word(m, &["trigger"]), number(m, &["preTokens"]));
            what.push(Written::ContextCompacted(Compacted { trigger, tokens_before, ..Compacted::default() }));
        }
        // Its own bookkeeping (queues, attachments, snapshots of files) says nothing of what was done.
        _ => {}
    }
    Ok(Found { session, target: cwd.clone(), cwd, agent: Some("claude".to_owned()), writes: timed(at, what) })
}

/// One line of a Codex rollout.
pub fn codex(r: &mut Reader, n: u64, v: &Value) -> Result<Found, String> {
    let at = time(v.get("timestamp"));
    let kind = word(v, &["type"]).ok_or("it has no type")?;
    let p = v.get("payload").filter(|p| p.is_object()).ok_or("it has no payload")?;
    let mut found = Found { agent: Some("codex".to_owned()), ..Found::default() };
    let mut what = Vec::new();
    match (kind.as_str(), p.get("type").and_then(Value::as_str).unwrap_or_default()) {
        ("session_meta", _) => {
            r.session = word(p, &["id", "session_id"]).or_else(|| r.session.clone());
            found.cwd = folder(p);
            r.target.clone_from(&found.cwd);
            let about = [("cli_version", p.get("cli_version").cloned()), ("originator", p.get("originator").cloned())];
            what.push(custom("codex", "session_meta", &object(&about))?);
        }
        ("turn_context", _) => r.model = word(p, &["model"]).or_else(|| r.model.clone()),
        ("event_msg", "thread_settings_applied") => {
            r.model = p.get("thread_settings").and_then(|s| word(s, &["model"])).or_else(|| r.model.clone());
        }
        ("compacted", _) => what.push(Written::ContextCompacted(Compacted::default())),
        ("event_msg", "item_completed") => {
            let item = p.get("item").unwrap_or(&Value::Null);
            // why not of the messages: they are in the response items; what the user typed is only here apart from its wrapping.
            if item.get("type").and_then(Value::as_str) == Some("UserMessage") {
                what.extend(words(item.get("content")).filter(|t| !t.is_empty()).map(|text| Written::PromptSubmitted(Text { text })));
            }
        }
        ("event_msg", "user_message") => {
            what.extend(text(p, &["message"]).filter(|t| !t.is_empty()).map(|text| Written::PromptSubmitted(Text { text })));
        }
        ("response_item", "message") if p.get("role").and_then(Value::as_str) == Some("assistant") => {
            what.extend(words(p.get("content")).filter(|t| !t.is_empty()).map(|text| Written::AgentReplied(Text { text })));
        }
        ("response_item", "function_call" | "custom_tool_call" | "local_shell_call") => {
            if let Some(call_id) = word(p, &["call_id", "id"]) {
                let tool = word(p, &["name"]).unwrap_or_else(|| "shell".to_owned());
                let raw = p.get("arguments").or_else(|| p.get("input")).or_else(|| p.get("action")).cloned().unwrap_or(Value::Null);
                // Arguments are JSON in a text; what is not stays the text.
                let input = match raw.as_str().map(serde_json::from_str::<Value>) {
                    Some(Ok(v)) if v.is_object() => v,
                    _ if raw.is_string() => json!({ "input": raw }),
                    _ => raw,
                };
                what.push(Written::ToolStarted(ToolStart { call_id, tool, input, parent_call_id: None }));
            }
        }
        ("response_item", "function_call_output" | "custom_tool_call_output") => {
            if let Some(call_id) = word(p, &["call_id"]) {
                let output = words(p.get("output"));
                let failed = p.get("success").and_then(Value::as_bool) == Some(false);
                what.push(Written::ToolEnded(ToolEnd { call_id, is_error: failed, output, duration_ms: None }));
            }
        }
        _ => {}
    }
    what.extend(r.responses("codex", n, v));
    found.session.clone_from(&r.session);
    found.target.clone_from(&r.target);
    found.writes = timed(at, what);
    Ok(found)
}

/// One line of a Gemini CLI transcript.
pub fn gemini(r: &mut Reader, n: u64, v: &Value) -> Result<Found, String> {
    r.session = word(v, &["sessionId"]).or_else(|| r.session.take());
    let mut what = r.responses("gemini", n, v);
    let list = |key: &str| v.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    match v.get("type").and_then(Value::as_str) {
        Some("gemini") => {
            let id = word(v, &["id"]).ok_or("it has no id")?;
            let told = r.message.take().filter(|(message, _)| *message == id).map(|(_, calls)| calls);
            if told.is_none() {
                what.extend(words(v.get("content")).filter(|t| !t.is_empty()).map(|text| Written::AgentReplied(Text { text })));
            }
            for call in list("toolCalls").iter().skip(told.unwrap_or(0)) {
                let Some((call_id, tool)) = word(call, &["id"]).zip(word(call, &["name"])) else { continue };
                let input = call.get("args").cloned().unwrap_or(Value::Null);
                what.push(Written::ToolStarted(ToolStart { call_id, tool, input, parent_call_id: None }));
            }
            r.message = Some((id, list("toolCalls").len().max(told.unwrap_or(0))));
        }
        Some("user") => {
            let results = list("content").iter().filter_map(|b| b.get("functionResponse"));
            for result in results {
                let Some(call_id) = word(result, &["id"]) else { continue };
                let response = result.get("response").unwrap_or(&Value::Null);
                let is_error = response.get("error").is_some();
                what.push(Written::ToolEnded(ToolEnd {
                    call_id,
                    is_error,
                    output: text(response, &["output", "error"]),
                    duration_ms: None,
                }));
            }
            what.extend(words(v.get("content")).filter(|t| !t.is_empty()).map(|text| Written::PromptSubmitted(Text { text })));
        }
        // Its header, and changes of its own bookkeeping (`$set`).
        _ => {}
    }
    let session = r.session.clone();
    Ok(Found { session, agent: Some("gemini".to_owned()), writes: timed(time(v.get("timestamp")), what), ..Found::default() })
}

/// One line of OpenCode's stream. It does not name the model.
pub fn opencode(r: &mut Reader, n: u64, v: &Value) -> Result<Found, String> {
    let kind = word(v, &["type"]).ok_or("it has no type")?;
    r.session = word(v, &["sessionID"]).or_else(|| r.session.take());
    let mut what = r.responses("opencode", n, v);
    let part = v.get("part").unwrap_or(&Value::Null);
    match kind.as_str() {
        "text" => what.extend(text(part, &["text"]).filter(|t| !t.is_empty()).map(|text| Written::AgentReplied(Text { text }))),
        "tool_use" => {
            if let Some((call_id, tool)) = word(part, &["callID"]).zip(word(part, &["tool"])) {
                let state = part.get("state").unwrap_or(&Value::Null);
                let input = state.get("input").cloned().unwrap_or(Value::Null);
                let is_error = state.get("status").and_then(Value::as_str) == Some("error");
                let output = text(state, &["output", "error"]);
                what.push(Written::ToolStarted(ToolStart { call_id: call_id.clone(), tool, input, parent_call_id: None }));
                what.push(Written::ToolEnded(ToolEnd { call_id, is_error, output, duration_ms: None }));
            }
        }
        "error" => what.push(custom("opencode", "error", &object(&[("error", v.get("error").cloned())]))?),
        _ => {}
    }
    let session = r.session.clone();
    Ok(Found { session, agent: Some("opencode".to_owned()), writes: timed(time(v.get("timestamp")), what), ..Found::default() })
}

fn timed(at: Option<String>, what: Vec<Written>) -> Vec<Write> {
    what.into_iter().map(|what| Write { at: at.clone(), key: None, what }).collect()
}

fn prompt(block: &Value) -> Option<Written> {
    text(block, &["text"]).filter(|t| !t.is_empty()).map(|text| Written::PromptSubmitted(Text { text }))
}

fn reply(block: &Value) -> Option<Written> {
    text(block, &["text"]).filter(|t| !t.is_empty()).map(|text| Written::AgentReplied(Text { text }))
}

/// The words of a content that is a text, or a list of blocks with texts.
fn words(v: Option<&Value>) -> Option<String> {
    match v? {
        Value::String(s) => Some(s.clone()),
        Value::Array(blocks) => Some(blocks.iter().filter_map(|b| b.get("text")?.as_str()).collect::<Vec<_>>().join("\n")),
        other => text(&json!({ "x": other }), &["x"]),
    }
}

/// Dollars as billionths; `None` for what is no amount of money.
pub fn nanousd(dollars: f64) -> Option<Nanousd> {
    crate::agent::usage::nanousd(dollars)
}
