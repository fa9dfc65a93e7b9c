//! The tools of the agents we know: what each does, and which fields of its input name commands, paths and urls.
//!
//! A pure table. Names are matched without regard to case, over all agents: where two agents use one name, they mean the same.
//! `Task` and `Agent` are one tool. A field that should be there and is not, or has a wrong type, makes the call not readable
//! (`shell` holds [`Shell::Unreadable`]), never a call without a command.
//!
//! Called by `policy::call`.

use serde_json::Value;

use crate::model::{Access, ToolKind};

/// What a call runs in a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shell {
    Text(String),
    /// Without a shell around it.
    Argv(Vec<String>),
    /// Text that some tool we do not know could run: what it names counts, that it is not understood does not.
    Perhaps(String),
    /// Code that is no shell command, or input to a program that runs already: the reason.
    Opaque(&'static str),
    /// The command should be in the input and is not.
    Unreadable,
}

/// A tool call's input as understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolUse {
    pub kind: ToolKind,
    pub shell: Vec<Shell>,
    pub paths: Vec<(String, Access)>,
    pub urls: Vec<String>,
    /// The directory that the call itself asks for.
    pub cwd: Option<String>,
    /// Something is not in the input that a policy should know: the result is never complete.
    pub partial: bool,
}

struct Row {
    names: &'static [&'static str],
    kind: ToolKind,
    paths: &'static [&'static str],
    access: Access,
    shell: &'static [&'static str],
    urls: &'static [&'static str],
}

const fn row(names: &'static [&'static str], kind: ToolKind, paths: &'static [&'static str], access: Access) -> Row {
    Row { names, kind, paths, access, shell: &[], urls: &[] }
}

/// Fields that name one file, over all agents.
const FILE: &[&str] = &["file_path", "filePath", "filepath", "path", "paths", "absolute_path", "notebook_path", "file", "abs_path"];
/// Fields that name a folder or a set of files.
const PLACE: &[&str] = &["path", "dir_path", "directory", "paths", "include", "parentDir"];
const CWD: &[&str] = &["cwd", "workdir", "dir_path", "directory"];
const URLS: &[&str] = &["url", "urls", "prompt"];

const TABLE: &[Row] = &[
    // Claude Code, Codex hooks, OpenCode, Gemini, ACP agents: shells.
    Row {
        names: &[
            "bash",
            "run_shell_command",
            "exec_command",
            "shell",
            "shell_command",
            "local_shell",
            "container.exec",
            "unified_exec",
            "execute_command",
            "terminal",
            "commandexecution",
            "powershell",
            "monitor",
        ],
        kind: ToolKind::Execute,
        paths: &[],
        access: Access::Read,
        shell: &["command", "cmd"],
        urls: &[],
    },
    row(&["read", "notebookread", "read_file", "read_many_files", "view_image", "view", "lsp"], ToolKind::Read, FILE, Access::Read),
    row(
        &["write", "edit", "multiedit", "notebookedit", "write_file", "replace", "str_replace", "create_file", "edit_file"],
        ToolKind::Edit,
        FILE,
        Access::Write,
    ),
    row(&["delete", "delete_file"], ToolKind::Delete, FILE, Access::Write),
    row(&["move", "rename", "move_file"], ToolKind::Move, &["source", "destination", "from", "to", "old_path", "new_path"], Access::Write),
    row(
        &["glob", "grep", "ls", "list", "list_directory", "search_file_content", "grep_search", "find_files", "codesearch", "toolsearch"],
        ToolKind::Search,
        PLACE,
        Access::Read,
    ),
    row(&["external_directory"], ToolKind::Other, &["filepath", "parentDir"], Access::ReadWrite),
    Row { names: &["webfetch", "web_fetch", "fetch"], kind: ToolKind::Fetch, paths: &[], access: Access::Read, shell: &[], urls: URLS },
    row(&["websearch", "web_search", "google_web_search"], ToolKind::Fetch, &[], Access::Read),
    row(
        &[
            "task",
            "agent",
            "todowrite",
            "todoread",
            "taskcreate",
            "taskupdate",
            "tasklist",
            "taskget",
            "taskoutput",
            "taskstop",
            "skill",
            "exitplanmode",
            "enterplanmode",
            "askuserquestion",
            "bashoutput",
            "killshell",
            "killbash",
            "structuredoutput",
            "reportfindings",
            "sendmessage",
            "update_plan",
            "create_goal",
            "get_goal",
            "update_goal",
            "request_user_input",
            "spawn_agent",
            "collaborationspawn_agent",
            "write_todos",
            "save_memory",
            "activate_skill",
            "ask_user",
            "question",
            "batch",
            "codebase_investigator",
        ],
        ToolKind::Think,
        &[],
        Access::Read,
    ),
];

/// Reads a tool call of any agent we know.
pub fn read(tool: &str, input: &Value) -> ToolUse {
    if input.get("toolCallId").is_some() && input.get("kind").is_some() {
        return acp(input);
    }
    let name = tool.to_ascii_lowercase();
    match name.as_str() {
        "apply_patch" | "patch" => return patch(input),
        "filechange" => return file_change(input),
        "write_stdin" => return opaque("input to a program that runs already"),
        "exec" => return opaque("code in another language"),
        _ => {}
    }
    let Some(row) = TABLE.iter().find(|row| row.names.contains(&name.as_str())) else { return other(input) };
    let mut out = ToolUse { kind: row.kind, shell: Vec::new(), paths: Vec::new(), urls: Vec::new(), cwd: None, partial: false };
    for field in row.paths {
        texts(input.get(field), &mut |text| out.paths.push((text.to_owned(), row.access)));
    }
    if !row.shell.is_empty() {
        // why: which of two fields the tool takes is not known, so both count.
        out.shell.extend(row.shell.iter().filter_map(|f| input.get(f)).map(|v| command(Some(v))));
        if out.shell.is_empty() {
            out.shell.push(Shell::Unreadable);
        }
        out.cwd = CWD.iter().find_map(|f| input.get(f)).and_then(Value::as_str).map(str::to_owned);
        if input.get("shell").is_some_and(|s| !s.is_null()) {
            out.partial = true;
        }
    }
    for field in row.urls {
        texts(input.get(field), &mut |text| urls_in(text, &mut out.urls));
    }
    match row.kind {
        // why: a search with no folder reads the working directory; an absolute pattern reads where it starts.
        ToolKind::Search => {
            if out.paths.is_empty() {
                out.paths.push((".".to_owned(), Access::Read));
            }
            for field in ["pattern", "glob"] {
                let pattern = input.get(field).and_then(Value::as_str).unwrap_or_default();
                if name != "grep"
                    && name != "grep_search"
                    && name != "search_file_content"
                    && (pattern.starts_with(['/', '~']) || pattern.contains(".."))
                {
                    let stem = pattern.find(['*', '?', '[', '{']).map_or(pattern, |n| &pattern[..n]);
                    out.paths.push((stem[..stem.rfind('/').map_or(stem.len(), |n| n + 1)].to_owned(), Access::Read));
                }
            }
        }
        ToolKind::Read | ToolKind::Edit | ToolKind::Delete | ToolKind::Move => out.partial = out.paths.is_empty(),
        _ => {}
    }
    out
}

fn opaque(reason: &'static str) -> ToolUse {
    ToolUse { kind: ToolKind::Execute, shell: vec![Shell::Opaque(reason)], paths: Vec::new(), urls: Vec::new(), cwd: None, partial: true }
}

/// MCP tools and tools not in the table: fields that look like paths are taken for both read and written.
fn other(input: &Value) -> ToolUse {
    let mut out = ToolUse { kind: ToolKind::Other, shell: Vec::new(), paths: Vec::new(), urls: Vec::new(), cwd: None, partial: false };
    for field in
        ["file_path", "filePath", "filepath", "path", "paths", "absolute_path", "notebook_path", "filename", "source", "destination"]
    {
        texts(input.get(field), &mut |text| {
            if !text.contains("://") {
                out.paths.push((text.to_owned(), Access::ReadWrite));
            }
        });
    }
    for field in ["url", "urls", "uri"] {
        texts(input.get(field), &mut |text| urls_in(text, &mut out.urls));
    }
    out.shell.extend(COMMAND.iter().filter_map(|field| perhaps(input.get(field)?, input.get("args"))));
    out
}

/// Fields in which tools of MCP servers have a command.
const COMMAND: &[&str] = &["command", "cmd", "script", "shell_command", "commandLine", "command_line"];

fn perhaps(value: &Value, args: Option<&Value>) -> Option<Shell> {
    let words = |list: &Value| list.as_array()?.iter().map(|w| w.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
    match (value, args.and_then(words)) {
        (Value::String(program), Some(rest)) if !program.contains(' ') => Some(Shell::Argv([vec![program.clone()], rest].concat())),
        (Value::String(text), _) => Some(Shell::Perhaps(text.clone())),
        (Value::Array(_), _) => words(value).filter(|w| !w.is_empty()).map(Shell::Argv),
        _ => None,
    }
}

fn command(value: Option<&Value>) -> Shell {
    match value {
        Some(Value::String(text)) => Shell::Text(text.clone()),
        Some(Value::Array(words)) if !words.is_empty() => {
            words.iter().map(|w| w.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>().map_or(Shell::Unreadable, Shell::Argv)
        }
        _ => Shell::Unreadable,
    }
}

fn texts(value: Option<&Value>, each: &mut dyn FnMut(&str)) {
    match value {
        Some(Value::String(text)) => each(text),
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).for_each(each),
        _ => {}
    }
}

/// The http(s) addresses in a text, up to the next blank or quote.
pub fn urls_in(text: &str, out: &mut Vec<String>) {
    let mut rest = text;
    while let Some(at) = ["http://", "https://"].iter().filter_map(|s| find_ignoring_case(rest, s)).min() {
        let tail = &rest[at..];
        let end = tail.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '`')).unwrap_or(tail.len());
        out.push(tail[..end].to_owned());
        rest = &tail[end..];
    }
}

fn find_ignoring_case(text: &str, what: &str) -> Option<usize> {
    text.as_bytes().windows(what.len()).position(|w| w.eq_ignore_ascii_case(what.as_bytes()))
}

/// A patch in Codex's form: its file headers name the paths.
fn patch(input: &Value) -> ToolUse {
    let mut out = ToolUse { kind: ToolKind::Edit, shell: Vec::new(), paths: Vec::new(), urls: Vec::new(), cwd: None, partial: false };
    let text = ["command", "input", "patch", "patchText"].iter().find_map(|f| input.get(f)).or(Some(input));
    let text = match text {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    };
    for line in text.lines() {
        // why: the agent's own parser trims the line, so a header may stand behind blanks.
        let line = line.trim();
        for header in ["*** Add File:", "*** Update File:", "*** Delete File:", "*** Move to:"] {
            if let Some(path) = line.strip_prefix(header) {
                out.paths.push((path.trim().to_owned(), Access::Write));
            }
        }
    }
    out.partial = out.paths.is_empty();
    out
}

/// Codex app-server's file change: the paths stand in its `changes`, which the approval request itself does not carry.
fn file_change(input: &Value) -> ToolUse {
    let mut out = ToolUse { kind: ToolKind::Edit, shell: Vec::new(), paths: Vec::new(), urls: Vec::new(), cwd: None, partial: false };
    match input.get("changes") {
        Some(Value::Array(changes)) => {
            for change in changes {
                texts(change.get("path"), &mut |p| out.paths.push((p.to_owned(), Access::Write)));
                for moved in [change.get("move_path"), change.get("kind").and_then(|k| k.get("move_path"))] {
                    texts(moved, &mut |p| out.paths.push((p.to_owned(), Access::Write)));
                }
            }
        }
        Some(Value::Object(changes)) => out.paths.extend(changes.keys().map(|p| (p.clone(), Access::Write))),
        _ => {}
    }
    out.partial = out.paths.is_empty();
    out
}

/// A `toolCall` of the Agent Client Protocol: kind, title, locations, content and `rawInput`, any of which may be missing.
fn acp(call: &Value) -> ToolUse {
    let kind = match call.get("kind").and_then(Value::as_str).unwrap_or_default() {
        "read" => ToolKind::Read,
        "edit" => ToolKind::Edit,
        "delete" => ToolKind::Delete,
        "move" => ToolKind::Move,
        "search" => ToolKind::Search,
        "execute" => ToolKind::Execute,
        "think" | "switch_mode" => ToolKind::Think,
        "fetch" => ToolKind::Fetch,
        _ => ToolKind::Other,
    };
    let access = match kind {
        ToolKind::Read | ToolKind::Search | ToolKind::Fetch | ToolKind::Think => Access::Read,
        ToolKind::Edit | ToolKind::Delete | ToolKind::Move => Access::Write,
        ToolKind::Execute | ToolKind::Other => Access::ReadWrite,
    };
    let mut out = ToolUse { kind, shell: Vec::new(), paths: Vec::new(), urls: Vec::new(), cwd: None, partial: false };
    let empty = Value::Null;
    let raw = call.get("rawInput").unwrap_or(&empty);
    let title = call.get("title").and_then(Value::as_str).unwrap_or_default();
    let mut keep = |text: &str| {
        if !out.paths.iter().any(|(p, _)| p == text) {
            out.paths.push((text.to_owned(), access));
        }
    };
    if kind != ToolKind::Execute {
        for list in ["locations", "content"] {
            for item in call.get(list).and_then(Value::as_array).into_iter().flatten() {
                texts(item.get("path"), &mut keep);
            }
        }
        for field in FILE.iter().chain(PLACE) {
            texts(raw.get(field), &mut keep);
        }
    }
    for field in ["url", "urls"] {
        texts(raw.get(field), &mut |text| urls_in(text, &mut out.urls));
    }
    match kind {
        ToolKind::Execute => {
            match raw.get("command").or_else(|| raw.get("cmd")) {
                Some(value) => out.shell.push(command(Some(value))),
                // why: some agents give the command as the title only, which is made for people and may be cut.
                None => {
                    out.partial = true;
                    out.shell.push(if title.is_empty() { Shell::Unreadable } else { Shell::Text(title.to_owned()) });
                }
            }
            out.cwd = CWD.iter().find_map(|f| raw.get(f)).and_then(Value::as_str).map(str::to_owned);
        }
        ToolKind::Fetch if out.urls.is_empty() => urls_in(title, &mut out.urls),
        ToolKind::Read | ToolKind::Edit | ToolKind::Delete | ToolKind::Move => out.partial = out.paths.is_empty(),
        ToolKind::Search if out.paths.is_empty() => out.paths.push((".".to_owned(), Access::Read)),
        _ => {}
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_shell_without_its_command_is_unreadable() {
        for input in [json!({}), json!({"command": 1}), json!({"command": []}), json!({"command": ["a", 1]}), json!(null)] {
            assert_eq!(read("Bash", &input).shell, [Shell::Unreadable], "{input}");
        }
    }

    #[test]
    fn a_patch_names_its_files() {
        let text = "*** Begin Patch\n*** Add File: a\n+*** x\n  *** Update File: b c\n*** Move to: d\n*** Delete File: e\n*** End Patch";
        for input in [json!({"command": text}), json!({"input": text}), json!({"command": ["apply_patch", text]}), json!(text)] {
            let paths: Vec<_> = read("apply_patch", &input).paths.into_iter().map(|(p, _)| p).collect();
            assert_eq!(paths, ["a", "b c", "d", "e"], "{input}");
        }
        assert!(read("apply_patch", &json!({})).partial);
    }

    #[test]
    fn a_search_reads_where_its_pattern_starts() {
        let paths = |input| read("Glob", &input).paths.into_iter().map(|(p, _)| p).collect::<Vec<_>>();
        assert_eq!(paths(json!({"pattern": "*.rs"})), ["."]);
        assert_eq!(paths(json!({"pattern": "/etc/ssh/*key"})), [".", "/etc/ssh/"]);
        assert_eq!(paths(json!({"pattern": "*", "path": "/x"})), ["/x"]);
    }

    #[test]
    fn urls_are_found_in_text() {
        let fetched = read("web_fetch", &json!({"prompt": "sum up https://a.org/x and HTTP://b.org 'https://c.org'"}));
        assert_eq!(fetched.urls, ["https://a.org/x", "HTTP://b.org", "https://c.org"]);
        assert_eq!(read("Agent", &json!({})).kind, read("Task", &json!({})).kind);
        assert_eq!(read("mcp__fs__write", &json!({"path": "/x"})).paths, [("/x".to_owned(), Access::ReadWrite)]);
    }
}
