//! Claude Code's settings file: our hooks written in, taken out, and looked for.
//!
//! Pure text to text. Invariants:
//! - what is not ours stays byte for byte: keys, their order, spacing, other people's hooks;
//! - a handler is ours by the program it names ([`PROGRAM`], or the `beadle` command) and its argument `hook`, so that what an
//!   earlier version wrote is found too;
//! - writing twice is writing once; taking out what was written gives back the file as it was.
//!
//! Called by `cli::hook`.

use serde_json::{Value, json};

use super::json;

use edit::Path as P;

#[path = "settings_edit.rs"]
mod edit;

/// File name of the hook client.
pub const PROGRAM: &str = "beadle-shim";
/// File name of the command that starts the daemon when a conversation begins.
const HOST: &str = "beadle";
/// Largest settings file in bytes.
pub const FILE_MAX: usize = 4 << 20;
/// The event whose answer is a decision.
pub const DECIDES: &str = "PreToolUse";
/// The event with which a conversation begins.
pub const BEGINS: &str = "SessionStart";
/// Events that decide no call: recorded, and answered where policies judge prompts or results. A client that fails lets them pass.
pub const OBSERVED: &[&str] =
    &["UserPromptSubmit", "PostToolUse", "PostToolUseFailure", "SubagentStart", "PostCompact", "Stop", "SessionEnd"];
/// The agent's own limit for the hook that decides, in seconds; ours ends before it.
const DECIDES_S: u64 = 600;
/// How long a call waits for a person, in milliseconds.
const WAIT_MS: u64 = 540_000;
/// One request's deadline, in milliseconds.
const DEADLINE_MS: u64 = 5_000;
/// The agent's limit for hooks that are only recorded, in seconds.
const OBSERVED_S: u64 = 10;
/// The agent's limit for the hook that may have to start the daemon, in seconds.
const BEGINS_S: u64 = 20;

/// Why a settings file is not touched.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("it is not JSON as the agent reads it: {0}; correct it first")]
    NotJson(String),
    #[error("{what} is not {expected}; correct it first")]
    Shape { what: String, expected: &'static str },
    #[error("it has {0} bytes, over the cap of {FILE_MAX}")]
    TooLarge(usize),
}

/// What the hooks run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// Absolute path of the hook client.
    pub client: String,
    /// Absolute path of the daemon's socket.
    pub socket: String,
    /// Absolute path of the `beadle` command.
    pub host: String,
    /// `BEADLE_HOME`, where it was set.
    pub home: Option<String>,
}

/// What a settings file says that concerns our hooks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Events that one of our handlers covers, in the order of the file.
    pub events: Vec<String>,
    /// Clients that our handlers name.
    pub clients: Vec<String>,
    /// `disableAllHooks` is true.
    pub disables_all: bool,
    /// `allowManagedHooksOnly` is true (counts in managed settings only).
    pub managed_only: bool,
}

impl Hooks {
    /// Every event with its handler.
    fn wanted(&self) -> Vec<(&'static str, Value)> {
        let client = |more: &[&str], timeout: u64| {
            let deadline = DEADLINE_MS.to_string();
            let mut args = vec!["hook", "claude", "--socket", &self.socket, "--deadline-ms", &deadline];
            args.extend(more);
            json!({"type": "command", "command": self.client, "args": args, "timeout": timeout})
        };
        let mut begins = vec!["hook", "begin", "claude"];
        if let Some(home) = &self.home {
            begins.extend(["--home", home]);
        }
        let begins = json!({"type": "command", "command": self.host, "args": begins, "timeout": BEGINS_S});
        let wait = WAIT_MS.to_string();
        let mut all = vec![(BEGINS, begins), (DECIDES, client(&["--wait-ms", &wait], DECIDES_S))];
        all.extend(OBSERVED.iter().map(|e| (*e, client(&["--observe"], OBSERVED_S))));
        all
    }
}

/// The text with our hooks, once each; the same text when it has them already. An empty text is an empty file.
pub fn install(text: &str, hooks: &Hooks) -> Result<String, Error> {
    let wanted = hooks.wanted();
    if !text.trim().is_empty() && is_installed(&parse(text)?, &wanted) {
        return Ok(text.to_owned());
    }
    let mut text = if text.trim().is_empty() { "{}\n".to_owned() } else { uninstall(text)? };
    for (event, handler) in wanted {
        let mut group = json!({"hooks": [handler]});
        if matches!(event, DECIDES | "PostToolUse" | "PostToolUseFailure") {
            group["matcher"] = json!("*");
        }
        text = edit::append(&text, &[P::Key("hooks"), P::Key(event)], &group);
    }
    // why: an edit that made something else of the file must never be written.
    let made = parse(&text)?;
    if is_installed(&made, &hooks.wanted()) { Ok(text) } else { Err(Error::NotJson("the edited text does not hold the hooks".to_owned())) }
}

/// The text without any hook of ours.
pub fn uninstall(text: &str) -> Result<String, Error> {
    let mut text = text.to_owned();
    loop {
        let v = parse(&text)?;
        let Some((event, group, handler, alone)) = first_ours(&v) else { return Ok(text) };
        let group_at = [P::Key("hooks"), P::Key(&event), P::Index(group)];
        let handler_at = [P::Key("hooks"), P::Key(&event), P::Index(group), P::Key("hooks"), P::Index(handler)];
        text = edit::remove(&text, if alone { &group_at } else { &handler_at });
        // What holds nothing any more was made for ours.
        for path in [&[P::Key("hooks"), P::Key(&event)][..], &[P::Key("hooks")]] {
            if edit::is_empty(&text, path) {
                text = edit::remove(&text, path);
            }
        }
    }
}

/// What the file says of hooks.
pub fn look(text: &str) -> Result<Found, Error> {
    let v = parse(text)?;
    let truth = |key: &str| v.get(key).and_then(Value::as_bool).unwrap_or(false);
    let mut found = Found { disables_all: truth("disableAllHooks"), managed_only: truth("allowManagedHooksOnly"), ..Found::default() };
    for (event, groups) in v.get("hooks").and_then(Value::as_object).into_iter().flatten() {
        let handlers = groups.as_array().into_iter().flatten().flat_map(|g| g.get("hooks").and_then(Value::as_array).into_iter().flatten());
        for h in handlers.filter(|h| is_ours(h)) {
            if !found.events.contains(event) {
                found.events.push(event.clone());
            }
            if let Some(client) = h.get("command").and_then(Value::as_str)
                && file_name(client).starts_with(PROGRAM)
                && !found.clients.iter().any(|c| c == client)
            {
                found.clients.push(client.to_owned());
            }
        }
    }
    Ok(found)
}

fn parse(text: &str) -> Result<Value, Error> {
    if text.len() > FILE_MAX {
        return Err(Error::TooLarge(text.len()));
    }
    let v = json::parse(text.as_bytes()).map_err(|e| Error::NotJson(e.to_string()))?;
    let shape = |what: String, expected| Err(Error::Shape { what, expected });
    let Some(top) = v.as_object() else { return shape("the file".to_owned(), "a JSON object") };
    let Some(hooks) = top.get("hooks") else { return Ok(v) };
    let Some(events) = hooks.as_object() else { return shape("hooks".to_owned(), "an object") };
    for (event, groups) in events {
        let Some(groups) = groups.as_array() else { return shape(format!("hooks.{event}"), "a list") };
        for (i, g) in groups.iter().enumerate() {
            if !g.is_object() || g.get("hooks").is_some_and(|h| !h.is_array()) {
                return shape(format!("hooks.{event}[{i}]"), "an object whose `hooks` is a list");
            }
        }
    }
    Ok(v)
}

fn is_installed(v: &Value, wanted: &[(&str, Value)]) -> bool {
    let ours = |event: &str| -> Vec<&Value> {
        let groups = v.get("hooks").and_then(|h| h.get(event)).and_then(Value::as_array);
        let handlers = groups.into_iter().flatten().flat_map(|g| g.get("hooks").and_then(Value::as_array).into_iter().flatten());
        handlers.filter(|h| is_ours(h)).collect()
    };
    let events = v.get("hooks").and_then(Value::as_object);
    let others = events.into_iter().flatten().any(|(e, _)| !wanted.iter().any(|(w, _)| w == e) && !ours(e).is_empty());
    !others && wanted.iter().all(|(event, handler)| ours(event) == [handler])
}

/// The first handler of ours: event, group, place in the group, and whether the group holds nothing else.
fn first_ours(v: &Value) -> Option<(String, usize, usize, bool)> {
    for (event, groups) in v.get("hooks").and_then(Value::as_object)? {
        for (g, group) in groups.as_array().into_iter().flatten().enumerate() {
            let Some(handlers) = group.get("hooks").and_then(Value::as_array) else { continue };
            if let Some(h) = handlers.iter().position(is_ours) {
                return Some((event.clone(), g, h, handlers.len() == 1));
            }
        }
    }
    None
}

fn is_ours(handler: &Value) -> bool {
    let Some(command) = handler.get("command").and_then(Value::as_str) else { return false };
    let args: Vec<&str> = match handler.get("args").and_then(Value::as_array) {
        Some(args) => args.iter().filter_map(Value::as_str).collect(),
        None => command.split_whitespace().skip(1).collect(),
    };
    let program = if handler.get("args").is_some() { command } else { command.split_whitespace().next().unwrap_or_default() };
    let name = file_name(program);
    (name == PROGRAM || name.starts_with("beadle-shim-") || name == HOST) && args.first() == Some(&"hook")
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hooks() -> Hooks {
        Hooks { client: "/d/bin/beadle-shim".into(), socket: "/d/run/beadle.sock".into(), host: "/usr/bin/beadle".into(), home: None }
    }

    const THEIRS: &str = r#"{
    "model": "opus",
    "hooks": {
        "PreToolUse": [
            { "matcher": "Bash", "hooks": [ { "type": "command", "command": "mine.sh" } ] }
        ]
    },
    "env": {"A": "b"}
}
"#;

    #[test]
    fn written_once_and_taken_out_whole() {
        for before in
            [THEIRS, "{}\n", "{\"a\":1}", "{\n  \"hooks\": {\"Stop\":[{\"hooks\":[{\"type\":\"command\",\"command\":\"x\"}]}]}\n}\n"]
        {
            let with = install(before, &hooks()).expect(before);
            assert_eq!(install(&with, &hooks()).expect("again"), with);
            let found = look(&with).expect("looks");
            assert_eq!(found.events.len(), 2 + OBSERVED.len(), "{with}");
            assert_eq!(found.clients, ["/d/bin/beadle-shim"]);
            assert_eq!(uninstall(&with).expect("out"), before, "{with}");
        }
        let with = install("", &hooks()).expect("an empty file");
        assert_eq!(uninstall(&with).expect("out"), "{}\n");
    }

    #[test]
    fn the_layout_of_the_file_is_kept() {
        let with = install(THEIRS, &hooks()).expect("in");
        assert!(
            with.starts_with(
                "{\n    \"model\": \"opus\",\n    \"hooks\": {\n        \"PreToolUse\": [\n            { \"matcher\": \"Bash\""
            ),
            "{with}"
        );
        assert!(with.ends_with("    },\n    \"env\": {\"A\": \"b\"}\n}\n"), "{with}");
    }

    #[test]
    fn an_earlier_form_is_found_and_replaced() {
        let old = r#"{"hooks":{"PreToolUse":[{"matcher":"*","hooks":[{"type":"command","command":"/old/beadle-shim-0123 hook claude"},{"type":"command","command":"other"}]}]}}"#;
        let with = install(old, &hooks()).expect("in");
        assert!(!with.contains("/old/") && with.contains("other"), "{with}");
        assert_eq!(
            uninstall(&with).expect("out"),
            r#"{"hooks":{"PreToolUse":[{"matcher":"*","hooks":[{"type":"command","command":"other"}]}]}}"#
        );
        for not_ours in ["beadle-shimmer hook", "hook beadle-shim", "beadle run"] {
            let text = json!({"hooks": {"Stop": [{"hooks": [{"type": "command", "command": not_ours}]}]}}).to_string();
            assert_eq!(uninstall(&text).expect("out"), text);
        }
    }

    #[test]
    fn what_is_no_settings_file_is_refused() {
        for bad in [
            "[]",
            "{",
            "{\"a\":1,\"a\":2}",
            "{} x",
            "// a comment\n{}",
            "{\"hooks\":[]}",
            "{\"hooks\":{\"Stop\":{}}}",
            "{\"hooks\":{\"Stop\":[1]}}",
        ] {
            assert!(install(bad, &hooks()).is_err(), "{bad}");
        }
    }

    #[test]
    fn switches_that_undo_hooks_are_seen() {
        let f = look(r#"{"disableAllHooks":true,"allowManagedHooksOnly":true}"#).expect("looks");
        assert!(f.disables_all && f.managed_only && f.events.is_empty());
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z\\\\\"{}\\[\\]:, \u{e4}]{0,8}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z\"\\\\ ]{0,4}", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// In and out again is the same text, whatever else stands in the file and however it is laid out.
        #[test]
        fn in_and_out_is_nothing(top in proptest::collection::btree_map("[a-g\"\\\\]{1,4}", tree(), 0..5), pretty in any::<bool>(), theirs in any::<bool>()) {
            let mut v = Value::Object(top.into_iter().collect());
            if theirs {
                v["hooks"] = json!({"PreToolUse": [{"matcher": "Bash", "hooks": [{"type": "command", "command": "x"}]}], "Stop": [{"hooks": [{"type": "command", "command": "y"}]}]});
            }
            let text = if pretty { serde_json::to_string_pretty(&v) } else { serde_json::to_string(&v) }.expect("json");
            let with = install(&text, &hooks()).expect("in");
            let mut kept: Value = serde_json::from_str(&with).expect("json");
            prop_assert_eq!(uninstall(&with).expect("out"), text);
            kept.as_object_mut().expect("an object").remove("hooks");
            v.as_object_mut().expect("an object").remove("hooks");
            prop_assert_eq!(kept, v);
        }
    }
}
