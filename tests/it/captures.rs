//! Every tool call that a real agent was seen to make becomes a call record with the fields that a policy needs.
//!
//! The payloads are in `tests/golden/captures` (lines of recordings that carry tool calls, unchanged). What each must become is in
//! `expected.txt` beside them, one line a distinct call: file, tool, kind, parse, then commands, paths and urls.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use beadle::model::{Access, Call, Channel, ToolKind};
use beadle::policy::call::{CallInput, build};
use beadle::policy::paths::{Entry, Paths};
use serde_json::{Value, json};

/// Tools that stay `other`, each with its reason.
const OTHER: &[(&str, &str)] = &[
    ("mcp__g__echo", "what a tool of an MCP server does is known to that server only"),
    ("/etc", "OpenCode asks for a folder outside the project under ACP's kind `other`; its paths are listed"),
    ("todowrite", "OpenCode names its list tool under ACP's kind `other` and gives no input"),
];

struct Empty;

impl Paths for Empty {
    fn entry(&self, _: &str) -> Entry {
        Entry::Missing
    }
}

pub struct Seen {
    pub tool: String,
    pub input: Value,
    cwd: String,
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field).and_then(Value::as_str)
}

/// Finds the calls in one recorded document, whatever the agent's envelope.
pub fn calls(value: &Value, cwd: &str, out: &mut Vec<Seen>) {
    let cwd = text(value, "cwd").filter(|c| c.starts_with('/')).unwrap_or(cwd);
    let mut keep = |tool: &str, input: Option<&Value>| {
        out.push(Seen { tool: tool.to_owned(), input: input.cloned().unwrap_or(Value::Null), cwd: cwd.to_owned() });
    };
    match value {
        Value::Object(fields) => {
            let kind = text(value, "type").unwrap_or_default();
            let method = text(value, "method").unwrap_or_default();
            if let Some(tool) = text(value, "tool_name") {
                keep(tool, ["tool_input", "input", "parameters"].iter().find_map(|f| value.get(f)));
            } else if kind == "tool_use" && value.get("name").is_some() {
                keep(text(value, "name").unwrap_or_default(), value.get("input"));
            } else if kind == "custom_tool_call" {
                keep(text(value, "name").unwrap_or_default(), Some(&json!({ "input": value["input"] })));
            } else if matches!(kind, "commandExecution" | "command_execution") {
                keep("commandExecution", Some(value));
            } else if matches!(kind, "fileChange" | "file_change") {
                keep("fileChange", Some(value));
            } else if kind == "permission.asked" {
                keep(text(&value["properties"], "permission").unwrap_or_default(), value["properties"].get("metadata"));
            } else if kind == "tool" && text(&value["state"], "status").is_some_and(|s| s != "pending") {
                // why: OpenCode announces a pending call before its input is known.
                keep(text(value, "tool").unwrap_or_default(), value["state"].get("input"));
            } else if matches!(text(value, "k"), Some("before" | "after")) {
                let (i, o) = (&value["v"]["i"], &value["v"]["o"]);
                keep(text(i, "tool").unwrap_or_default(), o.get("args").or_else(|| i.get("args")));
            } else if method == "item/commandExecution/requestApproval" {
                keep("commandExecution", value.get("params"));
            } else if method == "item/fileChange/requestApproval" {
                keep("fileChange", value.get("params"));
            } else if method == "session/request_permission" {
                let call = &value["params"]["toolCall"];
                keep(text(call, "title").unwrap_or_default(), Some(call));
            }
            if let Some(call) = value.get("functionCall") {
                keep(text(call, "name").unwrap_or_default(), call.get("args"));
            }
            // why: a hook's own copy of the call lies inside these; it is the same call.
            fields
                .iter()
                .filter(|(k, _)| !matches!(k.as_str(), "tool_input" | "tool_response" | "rawInput"))
                .for_each(|(_, v)| calls(v, cwd, out));
        }
        Value::Array(items) => items.iter().for_each(|v| calls(v, cwd, out)),
        _ => {}
    }
}

fn record(agent: &str, seen: &Seen) -> Call {
    let input = CallInput {
        agent,
        tool: &seen.tool,
        input: &seen.input,
        cwd: &seen.cwd,
        write_root: None,
        home: Some("/HOME"),
        call_id: None,
        parent_call_id: None,
        sub_agent: None,
        channel: Channel::Driver,
    };
    build(&input, &Empty)
}

fn line(file: &str, call: &Call) -> String {
    let mut out = format!("{file}: {} {:?} {:?}", call.tool, call.kind, call.parse);
    for c in &call.commands {
        let argv: Vec<String> = c.argv.iter().map(|w| format!("{}{:?}", if w.exact { "" } else { "?" }, w.text)).collect();
        out += &format!(" | run {} {}", c.origin.join("/"), argv.join(" "));
    }
    for p in &call.paths {
        let access = match p.access {
            Access::Read => "reads",
            Access::Write => "writes",
            Access::ReadWrite => "uses",
        };
        out += &format!(" | {access} {}{}", p.resolved, if p.exact { "" } else { " ?" });
    }
    for url in &call.urls {
        out += &format!(" | url {url}");
    }
    out
}

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("golden folder").map(|e| e.expect("entry").path()) {
        if entry.is_dir() { files(&entry, out) } else { out.push(entry) }
    }
}

#[test]
fn every_captured_tool_call_becomes_a_full_record() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/captures");
    let mut all = Vec::new();
    files(&root, &mut all);
    let mut lines = BTreeSet::new();
    let mut per_file: BTreeMap<String, usize> = BTreeMap::new();
    for path in all.iter().filter(|p| p.extension().is_some_and(|e| e == "json" || e == "jsonl")) {
        let name = path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
        let agent = name.split('-').next().unwrap_or_default();
        let content = std::fs::read_to_string(path).expect("golden file");
        let documents: Vec<Value> = match serde_json::from_str(&content) {
            Ok(document) => vec![document],
            Err(_) => content.lines().map(|l| serde_json::from_str(l).expect("a recorded line is JSON")).collect(),
        };
        let mut seen = Vec::new();
        documents.iter().for_each(|d| calls(d, "/CWD", &mut seen));
        assert!(!seen.is_empty(), "{name} carries no tool call");
        *per_file.entry(name.clone()).or_default() += seen.len();
        for one in &seen {
            let call = record(agent, one);
            let named = OTHER.iter().any(|(tool, _)| *tool == call.tool);
            assert!(call.kind != ToolKind::Other || named, "{name}: {} has no kind: {}", call.tool, one.input);
            assert!(
                call.kind != ToolKind::Execute || call.parse == beadle::model::Parse::Partial || !call.commands.is_empty(),
                "{name}: {} runs nothing: {}",
                call.tool,
                one.input
            );
            lines.insert(line(&name, &call));
        }
    }
    let got = lines.into_iter().map(|l| l + "\n").collect::<String>();
    let expected = std::fs::read_to_string(root.join("expected.txt")).unwrap_or_default();
    let (new, gone): (Vec<_>, Vec<_>) = (
        got.lines().filter(|l| !expected.lines().any(|e| e == *l)).collect(),
        expected.lines().filter(|e| !got.lines().any(|l| l == *e)).collect(),
    );
    assert!(new.is_empty() && gone.is_empty(), "not in expected.txt:\n{}\n\nonly in expected.txt:\n{}", new.join("\n"), gone.join("\n"));
    assert!(per_file.len() >= 30, "only {} files", per_file.len());
}
