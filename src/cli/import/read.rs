//! What one line of another system's log says, as writes. Pure; one function a format, memory of a reader is bounded.
//!
//! Invariants: what a line does not say is left out, never made up; a line that is not of its format is an error with its reason.

use serde_json::{Map, Value, json};

use super::agents;
use crate::cli::args::import::ImportFormat;
use crate::model::Usage;
use crate::model::written::{
    AttemptEnd, AttemptStart, CustomWrite, Invocation, InvocationTry, Response, Text, ToolEnd, ToolStart, WRITE_JSON_MAX, WRITE_NAME_MAX,
    Write, Written,
};

/// Longest folder of a session, in bytes.
const FOLDER_MAX: usize = 4_096;

/// What a line comes to.
#[derive(Debug, Default, PartialEq)]
pub struct Found {
    /// The log's own id of the session; the file's where no line tells.
    pub session: Option<String>,
    pub target: Option<String>,
    pub cwd: Option<String>,
    pub agent: Option<String>,
    pub writes: Vec<Write>,
}

/// What a reader keeps from line to line.
#[derive(Debug, Default)]
pub struct Reader {
    /// Of the newest line that told it.
    pub session: Option<String>,
    pub target: Option<String>,
    pub model: Option<String>,
    pub tally: agents::Counted,
    /// Gemini tells a message again when its tools end: the newest one, and how many of its calls were told.
    pub message: Option<(String, usize)>,
    /// Shannon's tools have no id: the newest that began, and whether it runs.
    tools: u64,
    open_tool: Option<String>,
}

/// Looks whose line it is.
pub fn guess(v: &Value) -> Option<ImportFormat> {
    let has = |keys: &[&str]| keys.iter().all(|k| v.get(*k).is_some());
    let kind = v.get("type").and_then(Value::as_str).unwrap_or_default();
    if has(&["session", "seq", "kind", "body"]) {
        return Some(ImportFormat::Beadle);
    }
    if has(&["timestamp", "payload"]) {
        return Some(ImportFormat::Codex);
    }
    if has(&["data"]) && ["agent_start", "tool_start", "tool_end", "llm_response", "agent_end"].contains(&kind) {
        return Some(ImportFormat::Shannon);
    }
    if has(&["sessionId", "projectHash"]) || (kind == "gemini" && has(&["tokens"])) {
        return Some(ImportFormat::Gemini);
    }
    if has(&["sessionID", "part"]) {
        return Some(ImportFormat::Opencode);
    }
    if v.get("sessionId").is_some() && !kind.is_empty() {
        return Some(ImportFormat::Claude);
    }
    has(&["skill"]).then_some(ImportFormat::Hyperguild)
}

impl Reader {
    /// The writes of one line, in order.
    pub fn line(&mut self, format: ImportFormat, n: u64, v: &Value) -> Result<Found, String> {
        if !v.is_object() {
            return Err("it is no JSON object".to_owned());
        }
        match format {
            ImportFormat::Hyperguild => hyperguild(v),
            ImportFormat::Shannon => self.shannon(v),
            ImportFormat::Claude => agents::claude(self, n, v),
            ImportFormat::Codex => agents::codex(self, n, v),
            ImportFormat::Gemini => agents::gemini(self, n, v),
            ImportFormat::Opencode => agents::opencode(self, n, v),
            ImportFormat::Beadle => beadle(v),
            ImportFormat::Auto => Err("nothing tells whose line it is; give --format".to_owned()),
        }
    }

    /// Words before Shannon's first event: a header of `Name: value` lines. True where it is one.
    pub fn header(&mut self, line: &str) -> bool {
        if let Some(id) = line.strip_prefix("Session: ") {
            self.session = Some(id.trim().to_owned());
        } else if let Some(url) = line.strip_prefix("Web URL: ") {
            self.target = Some(url.trim().to_owned());
        } else {
            return line.starts_with("====") || ["Agent: ", "Attempt: ", "Started: "].iter().any(|p| line.starts_with(p));
        }
        true
    }

    fn shannon(&mut self, v: &Value) -> Result<Found, String> {
        let data = v.get("data").unwrap_or(&Value::Null);
        let at = time(v.get("timestamp"));
        let agent = word(data, &["agentName", "agent_name", "agent"]);
        let mut found = Found { agent: None, ..Found::default() };
        let kind = word(v, &["type"]).ok_or("it has no type")?;
        let what = match kind.as_str() {
            "agent_start" => Written::AttemptStarted(AttemptStart {
                agent,
                model: word(data, &["model"]),
                prompt: text(data, &["prompt"]),
                ..AttemptStart::default()
            }),
            "agent_end" => Written::AttemptEnded(AttemptEnd {
                success: data.get("success").and_then(Value::as_bool),
                duration_ms: number(data, &["duration_ms", "durationMs"]),
                cost_nanousd: data.get("cost_usd").and_then(Value::as_f64).and_then(agents::nanousd),
                error: text(data, &["error"]),
                checkpoint: word(data, &["checkpoint"]),
                is_final: data.get("isFinalAttempt").or_else(|| data.get("is_final_attempt")).and_then(Value::as_bool).unwrap_or(false),
                ..AttemptEnd::default()
            }),
            "tool_start" => {
                self.tools += 1;
                let call_id = format!("{}#{}", at.as_deref().unwrap_or("tool"), self.tools);
                self.open_tool = Some(call_id.clone());
                let tool = word(data, &["toolName", "tool_name", "tool"]).unwrap_or_else(|| "unknown".to_owned());
                let input = data.get("parameters").or_else(|| data.get("input")).cloned().unwrap_or(Value::Null);
                Written::ToolStarted(ToolStart { call_id, tool, input, parent_call_id: None })
            }
            "tool_end" => {
                let call_id = self.open_tool.take().unwrap_or_else(|| format!("{}#end", at.as_deref().unwrap_or("tool")));
                let output = text(data, &["result", "output"]);
                let is_error = data.get("is_error").and_then(Value::as_bool).unwrap_or(false);
                Written::ToolEnded(ToolEnd { call_id, is_error, output, duration_ms: number(data, &["duration_ms"]) })
            }
            "llm_response" => {
                let usage = data.get("usage").map(usage_of);
                match (word(data, &["model"]), usage) {
                    (Some(model), Some(usage)) => Written::ModelResponded(Response {
                        message_id: format!("{}-turn-{}", at.as_deref().unwrap_or("t"), number(data, &["turn"]).unwrap_or(0)),
                        model,
                        usage,
                        text: text(data, &["content"]),
                        ..Response::default()
                    }),
                    _ => Written::AgentReplied(Text { text: text(data, &["content"]).unwrap_or_default() }),
                }
            }
            other => custom("shannon", other, data)?,
        };
        found.writes.push(Write { at, key: None, what });
        Ok(found)
    }
}

/// One skill invocation.
fn hyperguild(v: &Value) -> Result<Found, String> {
    let skill = word(v, &["skill"]).ok_or("it names no skill")?;
    let session = word(v, &["session_id", "sessionId", "session"]).ok_or("it names no session")?;
    let attempts = v.get("attempts").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let tries = attempts.iter().zip(1u32..).map(|(t, n)| InvocationTry {
        number: number(t, &["number", "attempt"]).and_then(|n| u32::try_from(n).ok()).unwrap_or(n),
        model: word(t, &["model", "model_used"]),
        tier: word(t, &["tier"]),
        duration_ms: number(t, &["duration_ms", "durationMs"]),
        warm: flag(t, &["warm", "warm_start"]),
        verified: flag(t, &["verified"]),
        verdict: word(t, &["verdict"]),
        feedback: text(t, &["feedback", "verifier_feedback"]),
        output_summary: text(t, &["output_summary"]),
        runner_output: text(t, &["runner_output"]),
    });
    let project_root = text(v, &["project_root", "projectRoot"]);
    let what = Invocation {
        phase: word(v, &["phase"]),
        input: text(v, &["input", "raw_input"]),
        final_status: word(v, &["final_status", "status"]),
        file: text(v, &["file", "file_path"]),
        model: word(v, &["model", "model_used"]),
        duration_ms: number(v, &["duration_ms", "durationMs"]),
        message: text(v, &["message"]),
        attempts: tries.collect(),
        project_root: project_root.clone(),
        skill,
    };
    let at = time(v.get("timestamp").or_else(|| v.get("time")).or_else(|| v.get("ts")));
    let writes = vec![Write { at, key: None, what: Written::InvocationRecorded(Box::new(what)) }];
    let cwd = project_root.clone().filter(|p| p.starts_with('/'));
    Ok(Found { session: Some(session), target: project_root, cwd, agent: None, writes })
}

/// An event of `beadle export`: what a writer may say is said, the rest is kept as it is.
fn beadle(v: &Value) -> Result<Found, String> {
    let kind = word(v, &["kind"]).ok_or("it has no kind")?;
    let body = v.get("body").cloned().unwrap_or(Value::Null);
    let at = time(v.get("at"));
    let mut found = Found { session: word(v, &["session"]), ..Found::default() };
    let one = |what: Written| vec![Write { at: at.clone(), key: None, what }];
    let excerpt = |key: &str| body.get(key).and_then(|e| text(e, &["text"]));
    found.writes = match kind.as_str() {
        "session_created" => {
            found.target = word(&body, &["target"]).or_else(|| word(&body, &["cwd"]));
            found.cwd = folder(&body);
            found.agent = word(&body, &["agent"]);
            one(custom("beadle", &kind, &body)?)
        }
        "attempt_started" => one(Written::AttemptStarted(AttemptStart {
            agent: word(&body, &["agent"]),
            phase: word(&body, &["phase"]),
            tier: word(&body, &["tier"]),
            model: word(&body, &["model"]),
            warm: flag(&body, &["warm"]),
            ..AttemptStart::default()
        })),
        "attempt_ended" => one(Written::AttemptEnded(AttemptEnd {
            success: flag(&body, &["success"]).or_else(|| match word(&body, &["outcome"])?.as_str() {
                "succeeded" => Some(true),
                "exited" => None,
                _ => Some(false),
            }),
            duration_ms: number(&body, &["duration_ms"]),
            cost_nanousd: number(&body, &["cost"]),
            error: text(&body, &["error", "reason"]),
            model: word(&body, &["model"]),
            is_final: flag(&body, &["is_final"]).unwrap_or(false),
            ..AttemptEnd::default()
        })),
        "prompt_submitted" => one(Written::PromptSubmitted(Text { text: excerpt("prompt").unwrap_or_default() })),
        "agent_replied" => one(Written::AgentReplied(Text { text: text(&body, &["text"]).unwrap_or_default() })),
        "note" => one(Written::Note(Text { text: text(&body, &["text"]).unwrap_or_default() })),
        "tool_ended" if word(&body, &["call_id"]).is_some() => one(Written::ToolEnded(ToolEnd {
            call_id: word(&body, &["call_id"]).unwrap_or_default(),
            is_error: flag(&body, &["is_error"]).unwrap_or(false),
            output: excerpt("output"),
            duration_ms: number(&body, &["duration_ms"]),
        })),
        "model_responded" => one(Written::ModelResponded(Response {
            message_id: word(&body, &["message_id"]).ok_or("it has no message id")?,
            model: word(&body, &["model"]).ok_or("it has no model")?,
            usage: serde_json::from_value(body.get("usage").cloned().unwrap_or(Value::Null)).map_err(|e| e.to_string())?,
            context_used: number(&body, &["context_used"]),
            parent_call_id: word(&body, &["parent_call_id"]),
            text: None,
        })),
        "session_ended" => vec![],
        other => one(custom("beadle", other, &body)?),
    };
    Ok(found)
}

/// What has no kind of its own here, kept as it is while it is small enough.
pub fn custom(of: &str, kind: &str, body: &Value) -> Result<Written, String> {
    let safe: String = kind.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).take(100).collect();
    let size = body.to_string().len();
    let body = if size > WRITE_JSON_MAX { json!({ "left_out_bytes": size }) } else { body.clone() };
    Ok(Written::Custom(CustomWrite { name: format!("{of}.{safe}"), body }))
}

/// A name: a short text; long ones are cut, controls are taken out.
pub fn word(v: &Value, keys: &[&str]) -> Option<String> {
    let text = keys.iter().find_map(|k| v.get(*k)?.as_str())?;
    let clean: String = text.chars().filter(|c| !c.is_control()).collect();
    let clean = clean.trim();
    (!clean.is_empty()).then(|| clean[..clean.floor_char_boundary(WRITE_NAME_MAX)].to_owned())
}

/// The folder that it ran in; one that no session could have (relative, too long, with control characters) is left out, never cut.
pub fn folder(v: &Value) -> Option<String> {
    let path = v.get("cwd")?.as_str()?;
    (path.starts_with('/') && path.len() <= FOLDER_MAX && !path.chars().any(char::is_control)).then(|| path.to_owned())
}

/// A text as it is; what is no text as JSON.
pub fn text(v: &Value, keys: &[&str]) -> Option<String> {
    match keys.iter().find_map(|k| v.get(*k))? {
        Value::Null => None,
        Value::String(s) => Some(s.clone()),
        other => Some(other.to_string()),
    }
}

pub fn number(v: &Value, keys: &[&str]) -> Option<u64> {
    keys.iter().find_map(|k| {
        let v = v.get(*k)?;
        // why a float too: JavaScript has no other numbers.
        v.as_u64().or_else(|| v.as_f64().filter(|f| (0.0..9e15).contains(f)).map(|f| f.round() as u64))
    })
}

fn flag(v: &Value, keys: &[&str]) -> Option<bool> {
    keys.iter().find_map(|k| v.get(*k)?.as_bool())
}

/// RFC 3339 as it stands, or milliseconds; what is neither is left out.
pub fn time(v: Option<&Value>) -> Option<String> {
    match v? {
        Value::String(s) => chrono::DateTime::parse_from_rfc3339(s).is_ok().then(|| s.clone()),
        v => v.as_i64().filter(|n| (0..4_102_444_800_000).contains(n)).map(crate::model::format_ms),
    }
}

/// Counts of the Messages API, as Shannon passes them on.
fn usage_of(u: &Value) -> Usage {
    let n = |k: &str| number(u, &[k]).unwrap_or(0);
    let (input, output) = (n("input_tokens"), n("output_tokens"));
    let (cache_read, cache_write) = (n("cache_read_input_tokens"), n("cache_creation_input_tokens"));
    Usage { input, output, cache_read, cache_write, ..Usage::default() }.capped()
}

/// `Map` without what is empty; for bodies of custom events.
pub fn object(pairs: &[(&str, Option<Value>)]) -> Value {
    let some = pairs.iter().filter_map(|(k, v)| Some(((*k).to_owned(), v.clone()?)));
    Value::Object(some.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_known_by_its_line() {
        for (v, format) in [
            (json!({ "session_id": "s", "skill": "x" }), Some(ImportFormat::Hyperguild)),
            (json!({ "type": "agent_start", "timestamp": "t", "data": {} }), Some(ImportFormat::Shannon)),
            (json!({ "type": "user", "sessionId": "s", "message": {} }), Some(ImportFormat::Claude)),
            (json!({ "timestamp": "t", "type": "session_meta", "payload": {} }), Some(ImportFormat::Codex)),
            (json!({ "sessionId": "s", "projectHash": "h", "kind": "main" }), Some(ImportFormat::Gemini)),
            (json!({ "id": "m", "type": "gemini", "tokens": {} }), Some(ImportFormat::Gemini)),
            (json!({ "type": "text", "sessionID": "s", "part": {} }), Some(ImportFormat::Opencode)),
            (json!({ "session": "s", "seq": 1, "kind": "note", "body": {} }), Some(ImportFormat::Beadle)),
            (json!({ "hello": 1 }), None),
        ] {
            assert_eq!(guess(&v), format, "{v}");
        }
    }

    #[test]
    fn hostile_lines_give_errors_or_writes_that_can_be_kept() {
        let long = "x".repeat(1_000);
        use clap::ValueEnum as _;
        for format in ImportFormat::value_variants().iter().copied() {
            let mut r = Reader::default();
            for v in [
                json!(null),
                json!([]),
                json!({}),
                json!({ "type": long, "skill": long, "session_id": "a\u{1b}b", "kind": long, "data": [], "payload": 5, "timestamp": -1 }),
                json!({ "type": "tool_start", "data": { "toolName": "a\nb" }, "payload": { "type": "function_call" }, "message": { "content": [1, null] } }),
                json!({ "type": "assistant", "sessionId": "s", "message": { "id": long, "model": long, "usage": { "input_tokens": -5 }, "content": 7 } }),
                json!({ "type": "response_item", "payload": { "type": "message", "role": "assistant", "content": {} } }),
                json!({ "type": "gemini", "id": long, "content": long, "tokens": { "input": -5 }, "toolCalls": [1, { "id": "a\nb", "name": long }] }),
                json!({ "type": "tool_use", "sessionID": long, "part": { "callID": "c", "tool": long, "state": { "status": 5, "output": {} } } }),
            ] {
                if let Ok(found) = r.line(format, 1, &v) {
                    for w in found.writes {
                        assert_eq!(w.check(), Ok(()), "{format:?} {v}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_folder_is_whole_or_left_out() {
        let of = |path: &str| folder(&json!({ "cwd": path }));
        let long = format!("/{}", "x".repeat(FOLDER_MAX - 1));
        assert_eq!(of(&long), Some(long.clone()));
        for none in ["", "relative", "/a\nb", &format!("{long}x")] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }
}
