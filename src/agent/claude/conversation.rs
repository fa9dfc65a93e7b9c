//! Claude Code's record of a conversation: which entries it would resume with, and the record of a new conversation made from it.
//!
//! The record is JSON lines. Lines with a `uuid` name the one before them (`parentUuid`); the conversation is the way from the newest message
//! back to the first. Calls of one model message that run side by side make short side roads: their results are found by id.
//!
//! Invariants:
//! - reading gives the same entries, with the same ids, for the same bytes: ids count the blocks of the conversation in order;
//! - a line that is written again keeps all that is not changed here; its parent is the line before it, so the new record has one road;
//! - the old record is only read.
//!
//! As seen on 2.1.197. Called by the driver.

pub mod cut;

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::json;
use super::read::{id, plain, text};
use crate::model::{Entry, EntryKind, EntryRole, Piece, Rewrite};

/// Most lines of a record.
const LINES: usize = 1_000_000;
/// Between two entries: an entry that is put between finds a number.
const STEP: u64 = 16;
/// Marks our own summaries in a record.
const SUMMARY: &str = "beadleSummary";
/// How what policies add to a prompt begins; see `answer::prompt`.
const CONTEXT: &str = "<session-host-context";

type Object = Map<String, Value>;

/// See [`crate::agent::Driver::conversation`].
pub fn read(record: &[u8]) -> Result<Vec<Piece>, String> {
    let lines = road(record)?;
    let mut out = Vec::new();
    walk(&lines, &mut |piece, _| out.push(piece));
    Ok(out)
}

/// See [`crate::agent::Driver::rewritten`].
pub fn rewritten(record: &[u8], edits: &Rewrite, conversation: &str, uuid: &mut dyn FnMut() -> String) -> Result<Vec<u8>, String> {
    let mut lines = road(record)?;
    let mut blocks: Vec<Vec<u64>> = vec![Vec::new(); lines.len()];
    walk(&lines, &mut |piece, line| blocks[line].push(piece.entry.id));
    let mut out = Vec::new();
    let mut parent = Value::Null;
    let mut put = |mut line: Object, parent: &mut Value| {
        line.insert("parentUuid".to_owned(), parent.clone());
        line.insert("sessionId".to_owned(), json!(conversation));
        *parent = line.get("uuid").cloned().unwrap_or_default();
        // why ignored: JSON values with text keys always have a text form.
        _ = serde_json::to_writer(&mut out, &line);
        out.push(b'\n');
    };
    for (line, ids) in lines.iter_mut().zip(blocks) {
        for summary in ids.iter().filter_map(|id| edits.summaries.get(id)) {
            put(summary_line(line, summary, uuid()), &mut parent);
        }
        if !ids.is_empty() && ids.iter().all(|id| edits.removed.contains(id)) {
            continue;
        }
        change(line, &ids, edits);
        put(std::mem::take(line), &mut parent);
    }
    Ok(out)
}

/// The lines of the conversation in order.
fn road(record: &[u8]) -> Result<Vec<Object>, String> {
    let mut lines: Vec<Object> = Vec::new();
    for line in record.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        if lines.len() >= LINES {
            return Err(format!("it has over {LINES} lines"));
        }
        match json::parse(line) {
            Ok(Value::Object(o)) if o.get("uuid").is_some_and(Value::is_string) => lines.push(o),
            Ok(_) => {}
            Err(e) => return Err(format!("it has a line that is not JSON ({e})")),
        }
    }
    let at: HashMap<String, usize> = lines.iter().enumerate().filter_map(|(i, l)| Some((text(l, "uuid")?, i))).collect();
    let is_message = |l: &Object| matches!(kind(l), "user" | "assistant") && !is_sidechain(l);
    let Some(leaf) = lines.iter().rposition(is_message) else { return Err("it holds no message".to_owned()) };
    let mut on = HashSet::new();
    let mut next = Some(leaf);
    while let Some(i) = next.filter(|i| on.insert(*i)) {
        next = text(&lines[i], "parentUuid").and_then(|p| at.get(&p).copied());
    }
    let messages: HashSet<String> = on.iter().filter_map(|i| message_id(&lines[*i])).collect();
    let begins = on.iter().copied().min().unwrap_or(0);
    let of_message = |l: &Object| message_id(l).is_some_and(|m| messages.contains(&m)) && !is_sidechain(l);
    on.extend((begins..lines.len()).filter(|i| of_message(&lines[*i])));
    let calls: HashSet<String> = on.iter().flat_map(|i| blocks(&lines[*i])).filter_map(|b| block_id(b, "tool_use", "id")).collect();
    let answers = |l: &Object| {
        !is_sidechain(l) && blocks(l).iter().any(|b| block_id(b, "tool_result", "tool_use_id").is_some_and(|id| calls.contains(&id)))
    };
    on.extend((begins..lines.len()).filter(|i| answers(&lines[*i])));
    let mut kept: Vec<Object> = lines.into_iter().enumerate().filter(|(i, _)| on.contains(i)).map(|(_, l)| l).collect();
    gather(&mut kept);
    Ok(kept)
}

/// Puts the lines of one model message side by side: results that came before its last call follow it, as the agent sends them.
fn gather(lines: &mut [Object]) {
    let mut i = 0;
    while i < lines.len() {
        if let Some(m) = message_id(&lines[i]) {
            let mut end = i + 1;
            let mut look = end;
            while look < lines.len() {
                match message_id(&lines[look]) {
                    Some(other) if other == m => {
                        lines[end..=look].rotate_right(1);
                        end += 1;
                    }
                    Some(_) => break,
                    None => {}
                }
                look += 1;
            }
            i = end;
        } else {
            i += 1;
        }
    }
}

/// Gives each entry with the number of its line. A line without blocks of its own has one entry or none.
fn walk(lines: &[Object], give: &mut dyn FnMut(Piece, usize)) {
    let mut tools: HashMap<String, String> = HashMap::new();
    let (mut next, mut turn, mut message) = (0u64, 0u32, 0u32);
    let mut open: Option<String> = None;
    for (at, line) in lines.iter().enumerate() {
        let id = message_id(line);
        if id.is_none() || id != open {
            message += 1;
        }
        open = id;
        if is_prompt(line) {
            turn += 1;
        }
        let when = text(line, "timestamp").and_then(|t| chrono::DateTime::parse_from_rfc3339(&t).ok()).map_or(0, |t| t.timestamp_millis());
        for (role, kind, tool, pair, is_error, text) in entries(line, &mut tools) {
            next += STEP;
            let bytes = text.len() as u64;
            let pinned = role == EntryRole::System;
            let entry = Entry { id: next, role, kind, tool, pair, is_error, turn, tokens: 0, bytes, pinned, at: when };
            give(Piece { entry, text, message }, at);
        }
    }
}

type Told = (EntryRole, EntryKind, Option<String>, Option<String>, bool, String);

fn entries(line: &Object, tools: &mut HashMap<String, String>) -> Vec<Told> {
    let simple = |role, kind, text| (role, kind, None, None, false, text);
    match kind(line) {
        "assistant" => blocks(line)
            .iter()
            .map(|b| match b.get("type").and_then(Value::as_str) {
                Some("text") => simple(EntryRole::Assistant, EntryKind::Text, field(b, "text")),
                Some("thinking") => simple(EntryRole::Assistant, EntryKind::Thinking, field(b, "thinking")),
                Some("tool_use") => {
                    let (id, tool) = (field(b, "id"), field(b, "name"));
                    tools.insert(id.clone(), tool.clone());
                    let input = b.get("input").map(Value::to_string).unwrap_or_default();
                    (EntryRole::Assistant, EntryKind::ToolCall, Some(tool), Some(id), false, input)
                }
                _ => simple(EntryRole::Assistant, EntryKind::Other, b.to_string()),
            })
            .collect(),
        "user" => match line.get("message").and_then(|m| m.get("content")) {
            Some(Value::String(s)) => vec![said(line, s)],
            Some(Value::Array(blocks)) => blocks
                .iter()
                .map(|b| match b.get("type").and_then(Value::as_str) {
                    Some("tool_result") => {
                        let id = field(b, "tool_use_id");
                        let tool = tools.get(&id).cloned();
                        let is_error = b.get("is_error").and_then(Value::as_bool).unwrap_or(false);
                        let text = b.get("content").map(plain).unwrap_or_default();
                        (EntryRole::Tool, EntryKind::ToolResult, tool, Some(id), is_error, text)
                    }
                    Some("text") => said(line, &field(b, "text")),
                    Some("image" | "document") => simple(EntryRole::User, EntryKind::Image, String::new()),
                    _ => simple(EntryRole::User, EntryKind::Other, b.to_string()),
                })
                .collect(),
            _ => Vec::new(),
        },
        "attachment" => {
            let text = line.get("attachment").map(Value::to_string).unwrap_or_default();
            vec![simple(EntryRole::System, EntryKind::Other, text)]
        }
        _ => Vec::new(),
    }
}

/// A text in a user's place: the user's own words, the agent's or the host's notes, or a summary.
fn said(line: &Object, s: &str) -> Told {
    let is = |key: &str| line.get(key).and_then(Value::as_bool).unwrap_or(false);
    let (role, kind) = if is(SUMMARY) || is("isCompactSummary") {
        (EntryRole::User, EntryKind::Summary)
    } else if is("isMeta") || s.starts_with(CONTEXT) {
        (EntryRole::System, EntryKind::Text)
    } else {
        (EntryRole::User, EntryKind::Text)
    };
    (role, kind, None, None, false, s.to_owned())
}

fn is_prompt(line: &Object) -> bool {
    kind(line) == "user" && entries(line, &mut HashMap::new()).iter().any(|t| t.0 == EntryRole::User && t.1 == EntryKind::Text)
}

/// Applies the edits to one line, whose entries have these ids.
fn change(line: &mut Object, ids: &[u64], edits: &Rewrite) {
    let changed = ids.iter().any(|id| edits.removed.contains(id) || edits.texts.contains_key(id));
    let Some(message) = line.get_mut("message").and_then(Value::as_object_mut) else { return };
    if let Some(usage) = message.get_mut("usage").and_then(Value::as_object_mut) {
        shrink(usage, edits.tokens);
    }
    if !changed {
        return;
    }
    match message.get_mut("content") {
        Some(Value::String(s)) => {
            if let Some(text) = ids.first().and_then(|id| edits.texts.get(id)) {
                s.clone_from(text);
            }
        }
        Some(Value::Array(blocks)) => {
            let mut of = ids.iter();
            blocks.retain_mut(|b| {
                let Some(id) = of.next() else { return true };
                if let Some(text) = edits.texts.get(id) {
                    set(b, text);
                }
                !edits.removed.contains(id)
            });
        }
        _ => {}
    }
    // why: the result in the tool's own shape is the original's; what the model gets is the message.
    line.remove("toolUseResult");
}

fn set(block: &mut Value, text: &str) {
    match block.get("type").and_then(Value::as_str) {
        Some("tool_result") => block["content"] = json!(text),
        Some("text") => block["text"] = json!(text),
        _ => *block = json!({"type": "text", "text": text}),
    }
}

/// The agent takes the size of its context from the last message's counts: they must not be those of the longer conversation, or it would
/// compact again by itself at the next prompt.
fn shrink(usage: &mut Object, tokens: u64) {
    const CACHED: [&str; 2] = ["cache_creation_input_tokens", "cache_read_input_tokens"];
    let n = |u: &Object, key: &str| u.get(key).and_then(Value::as_u64).unwrap_or(0);
    let all = CACHED.iter().fold(n(usage, "input_tokens"), |sum, key| sum.saturating_add(n(usage, key)));
    usage.insert("input_tokens".to_owned(), json!(all.min(tokens)));
    CACHED.iter().for_each(|key| _ = usage.insert((*key).to_owned(), json!(0)));
}

fn summary_line(like: &Object, text: &str, uuid: String) -> Object {
    const TAKEN: [&str; 7] = ["timestamp", "userType", "entrypoint", "cwd", "version", "gitBranch", "isSidechain"];
    let mut line: Object = TAKEN.iter().filter_map(|k| Some(((*k).to_owned(), like.get(*k)?.clone()))).collect();
    line.insert("type".to_owned(), json!("user"));
    line.insert("message".to_owned(), json!({"role": "user", "content": text}));
    line.insert("isMeta".to_owned(), json!(true));
    line.insert(SUMMARY.to_owned(), json!(true));
    line.insert("uuid".to_owned(), json!(uuid));
    line
}

fn kind(line: &Object) -> &str {
    line.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn is_sidechain(line: &Object) -> bool {
    line.get("isSidechain").and_then(Value::as_bool).unwrap_or(false)
}

/// Of a model message; several lines have the same.
fn message_id(line: &Object) -> Option<String> {
    if kind(line) != "assistant" {
        return None;
    }
    id(line.get("message")?.as_object()?, "id")
}

fn blocks(line: &Object) -> &[Value] {
    line.get("message").and_then(|m| m.get("content")).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn block_id(block: &Value, kind: &str, key: &str) -> Option<String> {
    (block.get("type")?.as_str()? == kind).then(|| id(block.as_object()?, key)).flatten()
}

fn field(block: &Value, key: &str) -> String {
    block.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
