//! Records as Claude Code writes them, and what is written from them.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn line(uuid: &str, parent: Option<&str>, message: Value, more: Value) -> String {
    let kind = message["role"].as_str().unwrap_or("user").to_owned();
    let mut v = json!({"uuid": uuid, "parentUuid": parent, "type": kind, "message": message, "isSidechain": false,
        "sessionId": "old", "timestamp": "2026-01-01T00:00:00.000Z", "cwd": "/w", "version": "2.1.197"});
    v.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    v.to_string()
}

fn assistant(uuid: &str, parent: &str, id: &str, block: Value) -> String {
    let usage = json!({"input_tokens": 10, "cache_read_input_tokens": 90_000, "cache_creation_input_tokens": 0, "output_tokens": 5});
    line(uuid, Some(parent), json!({"role": "assistant", "id": id, "content": [block], "usage": usage}), json!({}))
}

fn call(id: &str) -> Value {
    json!({"type": "tool_use", "id": id, "name": "Bash", "input": {"command": id}})
}

fn result(uuid: &str, parent: &str, id: &str) -> String {
    let content = json!([{"type": "tool_result", "tool_use_id": id, "content": format!("output of {id}"), "is_error": false}]);
    line(uuid, Some(parent), json!({"role": "user", "content": content}), json!({"toolUseResult": {"stdout": "whole"}}))
}

/// Two calls side by side: the road from the newest line passes by the first result.
fn record() -> String {
    [
        json!({"type": "queue-operation", "sessionId": "old"}).to_string(),
        line("u1", None, json!({"role": "user", "content": "do it"}), json!({})),
        json!({"type": "attachment", "uuid": "at", "parentUuid": "u1", "attachment": {"type": "skills"}, "sessionId": "old"}).to_string(),
        assistant("a1", "at", "m1", json!({"type": "text", "text": "I will"})),
        assistant("a2", "a1", "m1", call("t1")),
        result("r1", "a2", "t1"),
        assistant("a3", "a2", "m1", call("t2")),
        result("r2", "a3", "t2"),
        line("side", None, json!({"role": "user", "content": "a sub-agent's"}), json!({"isSidechain": true})),
        assistant("a4", "r2", "m2", json!({"type": "text", "text": "done"})),
        line("u2", Some("a4"), json!({"role": "user", "content": "again"}), json!({})),
        assistant("a5", "u2", "m3", json!({"type": "text", "text": "done again"})),
        json!({"type": "last-prompt", "leafUuid": "a5", "sessionId": "old"}).to_string(),
    ]
    .join("\n")
}

fn told(pieces: &[Piece]) -> Vec<(u64, EntryKind, u32, u32, String)> {
    pieces.iter().map(|p| (p.entry.id, p.entry.kind, p.message, p.entry.turn, p.text.clone())).collect()
}

fn written(edits: &Rewrite) -> (Vec<u8>, Vec<Object>) {
    let mut n = 0;
    let mut uuid = || {
        n += 1;
        format!("new-{n}")
    };
    let out = rewritten(record().as_bytes(), edits, "conv", &mut uuid).unwrap();
    let lines = out.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect();
    (out, lines)
}

#[test]
fn calls_side_by_side_are_followed_by_their_results() {
    use EntryKind::{Other, Text, ToolCall, ToolResult};
    let pieces = read(record().as_bytes()).unwrap();
    let kinds: Vec<_> = pieces.iter().map(|p| (p.entry.kind, p.message, p.entry.turn)).collect();
    let want = [
        (Text, 1, 1),
        (Other, 2, 1),
        (Text, 3, 1),
        (ToolCall, 3, 1),
        (ToolCall, 3, 1),
        (ToolResult, 4, 1),
        (ToolResult, 5, 1),
        (Text, 6, 1),
        (Text, 7, 2),
        (Text, 8, 2),
    ];
    assert_eq!(kinds, want);
    assert_eq!(pieces[6].entry.tool.as_deref(), Some("Bash"));
    assert!(pieces.windows(2).all(|w| w[0].entry.id < w[1].entry.id));
}

#[test]
fn a_new_record_has_one_road_and_reads_as_was_meant() {
    let pieces = read(record().as_bytes()).unwrap();
    let id = |at: usize| pieces[at].entry.id;
    let edits = Rewrite {
        removed: BTreeSet::from([id(3), id(5), id(7)]),
        texts: BTreeMap::from([(id(6), "masked".to_owned())]),
        summaries: BTreeMap::from([(id(2), "in short".to_owned())]),
        tokens: 77,
    };
    let (bytes, lines) = written(&edits);
    let mut parent = Value::Null;
    for l in &lines {
        assert_eq!((&l["parentUuid"], l["sessionId"].as_str()), (&parent, Some("conv")));
        parent = l["uuid"].clone();
    }
    let texts: Vec<String> = read(&bytes).unwrap().into_iter().map(|p| p.text).collect();
    let attachment = json!({"type": "skills"}).to_string();
    let want = ["do it", &attachment, "in short", "I will", r#"{"command":"t2"}"#, "masked", "again", "done again"];
    assert_eq!(texts, want);
    let again = read(&bytes).unwrap();
    assert_eq!((again[2].entry.kind, again[2].entry.turn), (EntryKind::Summary, 1));
    assert!(
        !String::from_utf8(bytes).unwrap().contains("whole") || lines.iter().all(|l| l["uuid"] != "r2" || !l.contains_key("toolUseResult"))
    );
    assert!(
        lines.iter().filter_map(|l| l.get("message")?["usage"]["input_tokens"].as_u64()).all(|n| n == 77),
        "the agent's own count follows"
    );
    assert!(lines.iter().filter_map(|l| l.get("message")?["usage"]["cache_read_input_tokens"].as_u64()).all(|n| n == 0));
}

#[test]
fn without_edits_the_same_is_read_again() {
    let (bytes, _) = written(&Rewrite { tokens: 5, ..Rewrite::default() });
    assert_eq!(told(&read(&bytes).unwrap()), told(&read(record().as_bytes()).unwrap()));
}

#[test]
fn what_cannot_be_read_is_refused() {
    assert!(read(b"").unwrap_err().contains("no message"));
    assert!(read(b"{\"type\":\"user\"").unwrap_err().contains("not JSON"));
}
