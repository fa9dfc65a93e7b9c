//! Claude Code's hook payloads and answers, as of 2.1.197.
//!
//! Invariants:
//! - a payload that is not exactly understood is an error, which the client turns into *blocked*;
//! - a denial is exit code 2 with the reason on standard error: it blocks even when every byte of the reason is lost, where a
//!   denial in JSON that is cut short would let the call run;
//! - never `"continue": false` (before a call the tool still runs, after a failed one the model still sees its message: tried), never a
//!   shape of another event.
//!
//! Called by the driver.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::answer;
use super::json;
use super::read::{ID_MAX, id, plain, ran, text};
use crate::agent::hook::{Hook, HookAnswer, HookAsked, HookEvent, HookReply};
use crate::agent::{Output, ShownResult, Turn};
use crate::model::TranscriptNamed;

/// Exit code that blocks a tool call.
const BLOCKED: u8 = 2;
/// Permission modes in which the agent's own prompt may not reach a person.
const NEVER_ASKS: &[&str] = &["bypassPermissions", "dontAsk", "auto"];
/// What the agent is told when a denial has no reason.
const NO_REASON: &str = "denied by the session host";

/// Reads a payload; the error says what is wrong with it.
pub fn read(payload: &[u8]) -> Result<Hook, String> {
    let v = match json::parse(payload) {
        Ok(Value::Object(o)) => o,
        Ok(_) => return Err("it is not a JSON object".to_owned()),
        Err(e) => return Err(format!("it is not JSON: {e}")),
    };
    let agent_session_id = id(&v, "session_id").ok_or(format!("session_id is not a text of 1 to {ID_MAX} bytes"))?;
    let name = id(&v, "hook_event_name").ok_or("hook_event_name is missing")?;
    let cwd = id_path(&v).ok_or("cwd is not an absolute path")?;
    let prompts = !text(&v, "permission_mode").is_some_and(|m| NEVER_ASKS.contains(&m.as_str()));
    let transcript = transcript(&v, &agent_session_id);
    Ok(Hook { agent_session_id, cwd, prompts, transcript, event: event(&name, &v)? })
}

fn id_path(v: &Map<String, Value>) -> Option<String> {
    text(v, "cwd").filter(|p| p.starts_with('/') && p.len() <= 4096 && !p.contains('\0'))
}

/// `<root>/<folder>/<conversation>.jsonl`; anything else names nothing.
fn transcript(v: &Map<String, Value>, conversation: &str) -> Option<TranscriptNamed> {
    let path = text(v, "transcript_path").filter(|p| p.len() <= 4096 && !p.contains('\0')).map(PathBuf::from)?;
    let root = path.parent()?.parent().filter(|r| r.is_absolute())?;
    let fits = path.extension().is_some_and(|x| x == "jsonl") && path.file_stem().is_some_and(|s| s == conversation);
    fits.then(|| Some(TranscriptNamed { root: root.to_str()?.to_owned(), conversation: conversation.to_owned(), written: 0 }))?
}

fn event(name: &str, v: &Map<String, Value>) -> Result<HookEvent, String> {
    Ok(match name {
        "SessionStart" => HookEvent::Started { source: text(v, "source").unwrap_or_default(), model: id(v, "model") },
        "UserPromptSubmit" => HookEvent::Prompt { text: text(v, "prompt").ok_or("prompt is missing")? },
        "PreToolUse" => {
            let tool = id(v, "tool_name").ok_or("tool_name is missing")?;
            let Some(input @ Value::Object(_)) = v.get("tool_input") else { return Err("tool_input is not an object".to_owned()) };
            let call_id = optional(v, "tool_use_id")?;
            HookEvent::Asked(HookAsked { call_id, tool, input: input.clone(), sub_agent: optional(v, "agent_id")? })
        }
        "PostToolUse" => result(v, false, v.get("tool_response").map(response).unwrap_or_default(), "tool_response")?,
        "PostToolUseFailure" => result(v, true, text(v, "error").unwrap_or_default(), "error")?,
        "SubagentStart" => HookEvent::Said(vec![Output::SubAgent {
            call_id: None,
            agent_type: text(v, "agent_type").unwrap_or_else(|| "unknown".to_owned()),
            description: id(v, "agent_id").unwrap_or_default(),
        }]),
        "PostCompact" => HookEvent::Said(vec![Output::Compacted {
            trigger: text(v, "trigger").unwrap_or_else(|| "unknown".to_owned()),
            tokens_before: None,
            tokens_after: None,
        }]),
        "Stop" => {
            let reply = text(v, "last_assistant_message").filter(|t| !t.is_empty());
            let reply = reply.map(|text| Output::Replied { text, message_id: None, parent_call_id: None });
            let turn = Output::TurnEnded(Turn { subtype: Some("stop".to_owned()), ..Turn::default() });
            HookEvent::Said(reply.into_iter().chain([turn]).collect())
        }
        "SessionEnd" => HookEvent::Ended { reason: text(v, "reason").unwrap_or_default() },
        _ => HookEvent::Other,
    })
}

fn optional(v: &Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match v.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => id(v, key).map(Some).ok_or_else(|| format!("{key} is not a text of 1 to {ID_MAX} bytes")),
    }
}

fn result(v: &Map<String, Value>, is_error: bool, content: String, key: &str) -> Result<HookEvent, String> {
    let call_id = id(v, "tool_use_id").ok_or("tool_use_id is missing")?;
    let ran = ran(is_error, &content);
    let result = ShownResult {
        request_id: String::new(),
        call_id: call_id.clone(),
        tool: id(v, "tool_name").unwrap_or_default(),
        input: v.get("tool_input").filter(|i| i.is_object()).cloned().unwrap_or_else(|| json!({})),
        output: v.get(key).cloned().unwrap_or_default(),
        is_error,
        duration_ms: v.get("duration_ms").and_then(Value::as_u64),
        sub_agent: id(v, "agent_id"),
    };
    let said = Output::ToolResult { call_id, is_error, ran, content, parent_call_id: None };
    Ok(HookEvent::Shown { result: Box::new(result), said: Box::new(said) })
}

/// A shell's output as it was printed; other tools' answers as the agent gives them.
pub fn response(v: &Value) -> String {
    match (v.get("stdout").and_then(Value::as_str), v.get("stderr").and_then(Value::as_str)) {
        (Some(out), Some("") | None) => out.to_owned(),
        (Some(out), Some(err)) => format!("{out}\n{err}"),
        _ => match v.get("content") {
            Some(content) => plain(content),
            None => plain(v),
        },
    }
}

/// What the hook command prints, and its exit code.
pub fn answer(answer: HookAnswer<'_>) -> HookReply {
    let decision = |word: &str, reason: &str, input: Option<&Value>| {
        let mut o = json!({"hookEventName": "PreToolUse", "permissionDecision": word, "permissionDecisionReason": reason});
        if let Some(input) = input {
            o["updatedInput"] = input.clone();
        }
        said(&json!({"hookSpecificOutput": o}))
    };
    match answer {
        HookAnswer::Allow { reason, input } => decision("allow", reason, input),
        HookAnswer::Ask { reason } => decision("ask", reason, None),
        HookAnswer::Deny { reason } => {
            let reason = if reason.is_empty() { NO_REASON } else { reason };
            HookReply { exit: BLOCKED, body: format!("{reason}\n").into_bytes() }
        }
        HookAnswer::Refuse { reason } => HookReply { exit: BLOCKED, body: format!("{reason}\n").into_bytes() },
        HookAnswer::Context(context) => {
            let text = context.iter().map(answer::added).collect::<Vec<_>>().join("\n");
            said(&json!({"hookSpecificOutput": {"hookEventName": "UserPromptSubmit", "additionalContext": text}}))
        }
        HookAnswer::Instead(output) => said(&json!({"hookSpecificOutput": {"hookEventName": "PostToolUse", "updatedToolOutput": output}})),
        HookAnswer::Pass => HookReply::default(),
    }
}

fn said(v: &Value) -> HookReply {
    HookReply { exit: 0, body: v.to_string().into_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PromptContext;
    use proptest::prelude::*;

    fn payload(name: &str, more: Value) -> Vec<u8> {
        let mut v = json!({"session_id": "s-1", "cwd": "/w", "hook_event_name": name, "permission_mode": "default"});
        if let (Some(v), Value::Object(more)) = (v.as_object_mut(), more) {
            v.extend(more);
        }
        v.to_string().into_bytes()
    }

    fn event_of(name: &str, more: Value) -> HookEvent {
        read(&payload(name, more)).expect(name).event
    }

    #[test]
    fn the_record_that_is_named_is_the_conversations_own() {
        let named = |path: &str| read(&payload("Stop", json!({ "transcript_path": path }))).expect("a hook").transcript;
        let good = TranscriptNamed { root: "/u/.claude/projects".into(), conversation: "s-1".into(), written: 0 };
        assert_eq!(named("/u/.claude/projects/-w/s-1.jsonl"), Some(good));
        for other in ["/u/.claude/projects/-w/s-2.jsonl", "/s-1.jsonl", "a/b/s-1.jsonl", "/u/p/-w/s-1.json", "", "/u/p/-w/s-1.jsonl\0"] {
            assert_eq!(named(other), None, "{other:?}");
        }
        assert_eq!(read(&payload("Stop", json!({}))).expect("a hook").transcript, None);
    }

    #[test]
    fn events_are_told_apart() {
        let asked =
            event_of("PreToolUse", json!({"tool_name": "Bash", "tool_input": {"command": "ls"}, "tool_use_id": "t", "agent_id": "a"}));
        let HookEvent::Asked(a) = asked else { panic!("{asked:?}") };
        assert_eq!((a.call_id.as_deref(), a.tool.as_str(), a.sub_agent.as_deref()), (Some("t"), "Bash", Some("a")));
        assert_eq!(event_of("SessionStart", json!({"source": "resume"})), HookEvent::Started { source: "resume".into(), model: None });
        assert_eq!(event_of("UserPromptSubmit", json!({"prompt": "hi"})), HookEvent::Prompt { text: "hi".into() });
        let ran = |out: &str, is_error, tool: &str, output: Value| HookEvent::Shown {
            result: Box::new(ShownResult {
                request_id: String::new(),
                call_id: "t".into(),
                tool: tool.into(),
                input: json!({}),
                output,
                is_error,
                duration_ms: None,
                sub_agent: None,
            }),
            said: Box::new(Output::ToolResult { call_id: "t".into(), is_error, ran: true, content: out.into(), parent_call_id: None }),
        };
        let response = json!({"stdout": "out", "stderr": "", "interrupted": false});
        let shown = event_of("PostToolUse", json!({"tool_name": "Bash", "tool_use_id": "t", "tool_response": response}));
        assert_eq!(shown, ran("out", false, "Bash", response));
        let failed = event_of("PostToolUseFailure", json!({"tool_use_id": "t", "error": "Exit code 1"}));
        assert_eq!(failed, ran("Exit code 1", true, "", json!("Exit code 1")));
        let HookEvent::Said(said) = event_of("Stop", json!({"last_assistant_message": "Done."})) else { panic!("a turn") };
        assert!(matches!(&said[..], [Output::Replied { .. }, Output::TurnEnded(_)]));
        assert_eq!(event_of("SessionEnd", json!({"reason": "clear"})), HookEvent::Ended { reason: "clear".into() });
        for other in ["MessageDisplay", "PostToolBatch", "PermissionRequest", "Tomorrow"] {
            assert_eq!(event_of(other, json!({})), HookEvent::Other);
        }
    }

    #[test]
    fn a_prompt_of_the_agents_own_counts_only_where_it_asks() {
        for (mode, prompts) in [("default", true), ("acceptEdits", true), ("plan", true), ("bypassPermissions", false), ("dontAsk", false)]
        {
            let h = read(&payload("Stop", json!({"permission_mode": mode}))).expect(mode);
            assert_eq!(h.prompts, prompts, "{mode}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for bad in [
            &b""[..],
            b"[]",
            br#"{"session_id":"","cwd":"/w","hook_event_name":"Stop"}"#,
            br#"{"session_id":"s","cwd":"w","hook_event_name":"Stop"}"#,
            br#"{"session_id":"s","cwd":"/w"}"#,
            br#"{"session_id":"s","session_id":"t","cwd":"/w","hook_event_name":"Stop"}"#,
            br#"{"session_id":"s","cwd":"/w","hook_event_name":"PreToolUse","tool_name":"Bash","tool_input":"ls"}"#,
            br#"{"session_id":"s","cwd":"/w","hook_event_name":"PreToolUse","tool_input":{}}"#,
            br#"{"session_id":"s","cwd":"/w","hook_event_name":"PreToolUse","tool_name":"Bash","tool_input":{},"tool_use_id":7}"#,
            br#"{"session_id":"s","cwd":"/w","hook_event_name":"PostToolUse","tool_name":"Bash"}"#,
        ] {
            assert!(read(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn a_denial_is_the_exit_code() {
        let r = answer(HookAnswer::Deny { reason: "no" });
        assert_eq!((r.exit, r.body.as_slice()), (2, &b"no\n"[..]));
        assert_eq!(answer(HookAnswer::Deny { reason: "" }).exit, 2);
        assert_eq!(answer(HookAnswer::Pass), HookReply { exit: 0, body: vec![] });
        let input = json!({"command": "ls"});
        let r = answer(HookAnswer::Allow { reason: "fine", input: Some(&input) });
        let v: Value = serde_json::from_slice(&r.body).expect("json");
        assert_eq!(r.exit, 0);
        assert_eq!(v["hookSpecificOutput"]["permissionDecision"], "allow");
        assert_eq!(v["hookSpecificOutput"]["updatedInput"], input);
        let v: Value = serde_json::from_slice(&answer(HookAnswer::Ask { reason: "?" }).body).expect("json");
        assert_eq!(v["hookSpecificOutput"]["permissionDecision"], "ask");
        assert!(v["hookSpecificOutput"].get("updatedInput").is_none());
    }

    #[test]
    fn prompts_and_results_are_answered_in_the_shape_of_their_event() {
        let of = |a| {
            let r = answer(a);
            (r.exit, serde_json::from_slice::<Value>(&r.body).ok())
        };
        assert_eq!(answer(HookAnswer::Refuse { reason: "no" }), HookReply { exit: 2, body: b"no\n".to_vec() });
        let context = [PromptContext { policy: "house".into(), text: "be brief".into() }];
        let (exit, said) = of(HookAnswer::Context(&context));
        let said = said.expect("json");
        assert_eq!((exit, &said["hookSpecificOutput"]["hookEventName"]), (0, &json!("UserPromptSubmit")));
        let text = said["hookSpecificOutput"]["additionalContext"].as_str().expect("a text");
        assert!(text.contains("be brief") && text.contains("policy=\"house\""), "{text}");
        let new = json!({"stdout": "[redacted]"});
        let said = json!({"hookSpecificOutput": {"hookEventName": "PostToolUse", "updatedToolOutput": new}});
        assert_eq!(of(HookAnswer::Instead(&new)), (0, Some(said)));
    }

    proptest! {
        /// Whatever the reasons and inputs are, only an allow can be read as one, and nothing stops the turn instead of the call.
        #[test]
        fn no_answer_but_allow_reads_as_consent(reason in "\\PC{0,60}", command in "\\PC{0,40}") {
            let input = json!({"command": command});
            for (a, word) in [
                (HookAnswer::Allow { reason: &reason, input: Some(&input) }, Some("allow")),
                (HookAnswer::Ask { reason: &reason }, Some("ask")),
                (HookAnswer::Deny { reason: &reason }, None),
            ] {
                let r = answer(a);
                prop_assert_eq!(r.exit == 0, word.is_some());
                if let Some(word) = word {
                    let v: Value = serde_json::from_slice(&r.body).expect("json");
                    prop_assert_eq!(v["hookSpecificOutput"]["permissionDecision"].as_str(), Some(word));
                    prop_assert_eq!(v.as_object().map(Map::len), Some(1));
                }
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
