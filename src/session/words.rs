//! What the model asked for, what the host was asked about, and what the agent's record holds: the same words, or a breach.
//!
//! An agent reads the model's words before it asks: it makes paths absolute, turns texts into numbers, adds defaults. Such words
//! are the same ([`same`], compared with 41 questions about 16 tools of Claude Code 2.1.197); another command, text, address or file is not.
//!
//! Invariants:
//! - a difference is told once, when its second half arrives, in whatever order the halves come;
//! - words are kept and compared as they are; only where one side comes from the log, which has no secrets, both are compared without
//!   them: after a restart a call must still fit;
//! - what is no longer remembered is not compared: at most [`IDS`] calls and [`BYTES`] of their input.
//!
//! Called by `live`.

use std::collections::{HashMap, VecDeque};
use std::path::{Component, Path};

use serde_json::Value;

use super::mask;

/// Calls whose words are remembered.
const IDS: usize = 4096;
/// Bytes of input remembered, by its JSON length.
const BYTES: usize = 8 << 20;
/// Halves remembered of one call id.
const HALVES: usize = 64;
/// Fields that name files: compared after they are made absolute.
const PATHS: &[&str] = &["file_path", "notebook_path", "path"];
/// Fields that hold an address: compared as the URL standard reads it (`HTTP://Example.com:80` is `http://example.com/`).
const URLS: &[&str] = &["url"];
/// Fields that a question may not leave out: without them something else would be judged.
const BINDING: &[&str] = &[
    "command",
    "cmd",
    "file_path",
    "notebook_path",
    "path",
    "pattern",
    "glob",
    "url",
    "content",
    "old_string",
    "new_string",
    "new_source",
    "prompt",
    "skill",
    "code",
];

/// Two halves that do not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    pub what: &'static str,
    pub detail: String,
    /// The call that was asked about, where it was.
    pub call: Option<u64>,
}

#[derive(Debug)]
struct Half {
    tool: String,
    input: Value,
    /// The question's call, and what it was told to use instead.
    call: Option<u64>,
    told: Option<Value>,
    matched: bool,
}

#[derive(Debug, Default)]
struct Entry {
    /// Of the model, in the stream.
    uses: Vec<Half>,
    asks: Vec<Half>,
    /// Of the agent's own record.
    records: Vec<Half>,
    bytes: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Words {
    entries: HashMap<String, Entry>,
    order: VecDeque<String>,
    bytes: usize,
}

impl Words {
    /// The model asked for a tool.
    pub fn used(&mut self, id: &str, tool: &str, input: &Value) -> Option<Mismatch> {
        let e = self.entry(id, input);
        let mut half = Half::new(tool, input, None);
        let mut wrong = None;
        if e.asks.iter().any(|a| !a.matched) {
            match e.asks.iter_mut().find(|a| !a.matched && half.fits(a)) {
                Some(ask) => (ask.matched, half.matched) = (true, true),
                None => wrong = e.asks.iter().find(|a| !a.matched).map(|a| half.mismatch(a)),
            }
        }
        if wrong.is_none() && e.records.len() > e.uses.len() && !e.records.iter().any(|r| half.fits(r) || r.fits(&half)) {
            wrong = e.records.last().map(|r| half.mismatch(r));
        }
        push(&mut e.uses, half);
        wrong
    }

    /// The agent asked about a call.
    pub fn asked(&mut self, call: u64, id: &str, tool: &str, input: &Value) -> Option<Mismatch> {
        let e = self.entry(id, input);
        let mut half = Half::new(tool, input, Some(call));
        let mut wrong = None;
        if e.uses.iter().any(|u| !u.matched) {
            match e.uses.iter_mut().find(|u| !u.matched && u.fits(&half)) {
                Some(u) => (u.matched, half.matched) = (true, true),
                None => wrong = e.uses.iter().find(|u| !u.matched).map(|u| u.mismatch(&half)),
            }
        }
        if wrong.is_none() && e.records.len() > e.asks.len() && !e.records.iter().any(|r| r.fits(&half)) {
            wrong = e.records.last().map(|r| r.mismatch(&half));
        }
        push(&mut e.asks, half);
        wrong
    }

    /// A call was told to use another input than it asked about.
    pub fn told(&mut self, call: u64, id: &str, input: &Value) {
        let e = self.entry(id, input);
        if let Some(ask) = e.asks.iter_mut().find(|a| a.call == Some(call)) {
            ask.told = Some(input.clone());
        }
    }

    /// The agent's own record holds a call.
    pub fn recorded(&mut self, id: &str, tool: &str, input: &Value) -> Option<Mismatch> {
        let e = self.entry(id, input);
        let half = Half::new(tool, input, None);
        let known = || e.uses.iter().chain(&e.asks);
        let wrong = match known().next() {
            Some(_) if known().any(|k| half.fits(k) || k.fits(&half)) => None,
            Some(first) => Some(half.mismatch(e.asks.first().unwrap_or(first))),
            None => None,
        };
        push(&mut e.records, half);
        wrong
    }

    /// A hook reports with which input a call ran.
    pub fn ran(&self, id: &str, tool: &str, input: &Value) -> Option<Mismatch> {
        let asks = &self.entries.get(id)?.asks;
        let half = Half::new(tool, input, None);
        let fits = |a: &Half| {
            half.same_tool(a) && (same(a.told.as_ref().unwrap_or(&a.input), input) || same(input, a.told.as_ref().unwrap_or(&a.input)))
        };
        if asks.is_empty() || asks.iter().any(fits) {
            return None;
        }
        Some(half.mismatch(&asks[0]))
    }

    /// The words under an id, for people.
    pub fn describe(&self, id: &str) -> Option<String> {
        let e = self.entries.get(id)?;
        let half = e.uses.iter().chain(&e.asks).chain(&e.records).next()?;
        Some(format!("{} {}", super::live::cut(&half.tool, 128), super::live::cut(&half.input.to_string(), 300)))
    }

    /// Tool and input of a call: as it was asked about, else as the model asked for it.
    pub fn call(&self, id: &str) -> Option<(String, Value)> {
        let e = self.entries.get(id)?;
        let half = e.asks.last().or(e.uses.last())?;
        Some((half.tool.clone(), half.told.as_ref().unwrap_or(&half.input).clone()))
    }

    /// Nothing is under way: what is remembered is of no more use.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn entry(&mut self, id: &str, input: &Value) -> &mut Entry {
        let bytes = size(input);
        while (self.bytes + bytes > BYTES || (self.order.len() >= IDS && !self.entries.contains_key(id))) && !self.order.is_empty() {
            if let Some(old) = self.order.pop_front()
                && let Some(e) = self.entries.remove(&old)
            {
                self.bytes -= e.bytes.min(self.bytes);
            }
        }
        if !self.entries.contains_key(id) {
            self.order.push_back(id.to_owned());
        }
        self.bytes += bytes;
        let e = self.entries.entry(id.to_owned()).or_default();
        e.bytes += bytes;
        e
    }
}

fn push(list: &mut Vec<Half>, half: Half) {
    if list.len() < HALVES {
        list.push(half);
    }
}

impl Half {
    fn new(tool: &str, input: &Value, call: Option<u64>) -> Self {
        Self { tool: tool.to_owned(), input: input.clone(), call, told: None, matched: false }
    }

    fn same_tool(&self, other: &Self) -> bool {
        // why: one tool has two names in Claude Code: the model calls it `Task`, the question `Agent`.
        let alias = |t: &str| if t == "Task" { "Agent".to_owned() } else { t.to_owned() };
        alias(&self.tool) == alias(&other.tool)
    }

    /// Whether `other` is how the agent reads these words.
    fn fits(&self, other: &Self) -> bool {
        self.same_tool(other) && same(&self.input, &other.input)
    }

    fn mismatch(&self, other: &Self) -> Mismatch {
        let call = self.call.or(other.call);
        let cut = |t: &str| super::live::cut(t, 128);
        if !self.same_tool(other) {
            return Mismatch {
                what: "tool renamed",
                detail: format!("it is {} here and {} there", cut(&self.tool), cut(&other.tool)),
                call,
            };
        }
        let field = differing(&self.input, &other.input).unwrap_or_default();
        let show = |v: &Value| super::live::cut(&v.get(&field).map(Value::to_string).unwrap_or_else(|| "nothing".to_owned()), 160);
        let detail = format!("{} of {}: {} here, {} there", cut(&field), cut(&self.tool), show(&self.input), show(&other.input));
        Mismatch { what: "input changed", detail, call }
    }
}

/// Whether `read` is how an agent reads the model's words `said`.
pub fn same(said: &Value, read: &Value) -> bool {
    differing(said, read).is_none()
}

/// The first field that is not the same; one with words from the log is the same where they differ in masked secrets alone.
fn differing(said: &Value, read: &Value) -> Option<String> {
    let field = differing_as_is(said, read)?;
    if mask::is_in(said) == mask::is_in(read) {
        return Some(field);
    }
    differing_as_is(&mask::value(said), &mask::value(read))
}

fn differing_as_is(said: &Value, read: &Value) -> Option<String> {
    let (Value::Object(s), Value::Object(r)) = (said, read) else { return (!alike(said, read)).then(String::new) };
    for (key, value) in s {
        let fits = match r.get(key) {
            Some(other) if PATHS.contains(&key.as_str()) => same_path(value, other),
            Some(other) if URLS.contains(&key.as_str()) => same_url(value, other),
            Some(other) => alike(value, other),
            None => value.is_null() || !BINDING.contains(&key.as_str()),
        };
        if !fits {
            return Some(key.clone());
        }
    }
    r.keys().find(|k| BINDING.contains(&k.as_str()) && !s.contains_key(*k) && !r[*k].is_null()).cloned()
}

/// Equal, or one the text of the other.
fn alike(a: &Value, b: &Value) -> bool {
    let texts = |t: &str, v: &Value| match v {
        Value::String(_) => false,
        Value::Number(n) => t.trim().parse::<f64>().ok().is_some_and(|x| n.as_f64() == Some(x)),
        Value::Bool(x) => t.trim().parse::<bool>().ok() == Some(*x),
        other => serde_json::from_str::<Value>(t).is_ok_and(|parsed| alike(&parsed, other)),
    };
    match (a, b) {
        (Value::String(t), v) | (v, Value::String(t)) if !v.is_string() => texts(t, v),
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| alike(x, y)),
        // why: fields of inner objects that the agent's schema does not know are dropped, defaults added.
        (Value::Object(x), Value::Object(y)) => x.iter().all(|(k, v)| y.get(k).is_none_or(|w| alike(v, w))),
        _ => a == b,
    }
}

/// The same file: equal once `.` and `..` are taken out; relative to a folder that only the agent knows, or to the home folder,
/// the end must fit.
fn same_path(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_str(), b.as_str()) else { return alike(a, b) };
    let (a, b) = (a.trim(), b.trim());
    if a == b {
        return true;
    }
    let parts = |p: &str| -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        for c in Path::new(p).components() {
            match c {
                Component::Normal(n) if n == "~" && out.is_empty() => {}
                Component::Normal(n) => out.push(n.to_string_lossy().into_owned()),
                Component::ParentDir => {
                    out.pop();
                }
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        out
    };
    let (pa, pb) = (parts(a), parts(b));
    match (a.starts_with('/'), b.starts_with('/')) {
        (true, true) => pa == pb,
        (false, _) => pb.ends_with(&pa),
        (true, false) => pa.ends_with(&pb),
    }
}

/// The same address once both are written as the URL standard writes them (<https://url.spec.whatwg.org/#url-serializing>), which
/// Claude Code does before it asks.
fn same_url(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_str(), b.as_str()) else { return alike(a, b) };
    a == b || matches!((url::Url::parse(a), url::Url::parse(b)), (Ok(a), Ok(b)) if a == b)
}

/// Length of a value's JSON, without building it.
fn size(v: &Value) -> usize {
    match v {
        Value::String(s) => s.len() + 2,
        Value::Array(a) => a.iter().map(size).sum::<usize>() + 2,
        Value::Object(o) => o.iter().map(|(k, v)| k.len() + 4 + size(v)).sum::<usize>() + 2,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn what_the_log_kept_without_its_secret_still_fits_the_agents_record() {
        let command = format!("curl -H ghp_{}", "a1".repeat(20));
        let (said, kept) = (json!({ "command": command }), json!({ "command": format!("curl -H {}", mask::MARK) }));
        let mut w = Words::default();
        assert_eq!(w.asked(1, "t", "Bash", &kept), None, "as a new daemon reads it back");
        assert_eq!(w.recorded("t", "Bash", &said), None);
        assert!(w.recorded("t", "Bash", &json!({ "command": "curl -H other" })).is_some());
        let mut w = Words::default();
        w.asked(1, "t", "Bash", &kept);
        assert_eq!(w.ran("t", "Bash", &said), None);
        w.told(1, "t", &json!({ "command": format!("curl --head -H {}", mask::MARK) }));
        assert!(w.ran("t", "Bash", &said).is_some(), "told otherwise");
    }

    #[test]
    fn words_with_a_secret_are_remembered_as_they_are() {
        let with = |secret: &str| json!({ "command": format!("curl -H ghp_{}", secret.repeat(20)) });
        let mut w = Words::default();
        assert_eq!((w.used("t", "Bash", &with("a1")), w.asked(1, "t", "Bash", &with("a1"))), (None, None));
        assert_eq!(w.ran("t", "Bash", &with("a1")), None);
        assert_eq!(w.call("t"), Some(("Bash".to_owned(), with("a1"))), "policies judge what there is");
        assert!(w.ran("t", "Bash", &with("b2")).is_some(), "another secret is another command");
        assert!(w.recorded("t", "Bash", &with("b2")).is_some());
        w.told(1, "t", &with("c3"));
        assert_eq!(w.ran("t", "Bash", &with("c3")), None);
    }

    #[test]
    fn what_claude_code_does_to_words_is_the_same() {
        for (said, read) in [
            (json!({"file_path": "/w/../w/f.txt", "content": "x"}), json!({"file_path": "/w/f.txt", "content": "x"})),
            (json!({"file_path": "f.txt", "limit": "3"}), json!({"file_path": "/w/f.txt", "limit": 3})),
            (json!({"file_path": "~/x.txt"}), json!({"file_path": "/home/u/x.txt"})),
            (json!({"command": "ls", "timeout": 5000}), json!({"timeout": 5000, "command": "ls", "description": "d"})),
            (json!({"command": "ls", "run_in_background": "true"}), json!({"command": "ls", "run_in_background": true})),
            (json!({"todos": "[{\"a\":1}]"}), json!({"todos": [{"a": 1, "b": 2}]})),
            (json!({"command": "ls", "unknown": 1}), json!({"command": "ls"})),
            (json!({"url": "https://example.com"}), json!({"url": "https://example.com/"})),
            (json!({"url": "http://2852039166/"}), json!({"url": "http://169.254.169.254/"})),
            (json!({"url": " HTTP://EXAMPLE.com:80/a/../b c"}), json!({"url": "http://example.com/b%20c"})),
        ] {
            assert!(same(&said, &read), "{said} {read}");
        }
        for (said, read) in [
            (json!({"command": "rm -rf /"}), json!({"command": "ls"})),
            (json!({"command": "rm"}), json!({"description": "x"})),
            (json!({"description": "x"}), json!({"description": "x", "command": "ls"})),
            (json!({"file_path": "/etc/passwd"}), json!({"file_path": "/w/f.txt"})),
            (json!({"file_path": "../secret"}), json!({"file_path": "/w/f.txt"})),
            (json!({"file_path": "/w/f", "content": "a"}), json!({"file_path": "/w/f", "content": "b"})),
            (json!({"command": "ls", "timeout": 5000}), json!({"command": "ls", "timeout": 1})),
            (json!({"a": [1]}), json!({"a": [1, 2]})),
            (json!({"url": "https://example.com/a"}), json!({"url": "https://example.com/b"})),
            (json!({"url": "https://example.com/"}), json!({"url": "http://example.com/"})),
            (json!({"url": "https://example.com/"}), json!({"url": "https://u@example.com/"})),
            (json!({"url": "no address"}), json!({"url": "no  address"})),
        ] {
            assert!(!same(&said, &read), "{said} {read}");
        }
    }

    fn ls() -> Value {
        json!({"command": "ls"})
    }

    fn rm() -> Value {
        json!({"command": "rm"})
    }

    #[test]
    fn a_changed_input_is_told_in_every_order() {
        let mut w = Words::default();
        assert_eq!(w.used("a", "Bash", &rm()), None);
        let m = w.asked(1, "a", "Bash", &ls()).expect("another command");
        assert_eq!((m.what, m.call), ("input changed", Some(1)));
        assert!(m.detail.contains("rm") && m.detail.contains("ls"), "{}", m.detail);
        // A sub-agent asks before its words are shown.
        assert_eq!(w.asked(2, "b", "Bash", &ls()), None);
        assert_eq!(w.used("b", "Bash", &rm()).map(|m| m.call), Some(Some(2)));
        // The record comes first.
        assert_eq!(w.recorded("c", "Bash", &rm()), None);
        assert_eq!(w.asked(3, "c", "Bash", &ls()).map(|m| m.call), Some(Some(3)));
        // Stream and question agree, the record does not.
        assert_eq!((w.used("d", "Bash", &ls()), w.asked(4, "d", "Bash", &ls())), (None, None));
        assert_eq!(w.recorded("d", "Bash", &rm()).map(|m| m.call), Some(Some(4)));
        assert_eq!(w.recorded("d", "Bash", &ls()), None);
    }

    #[test]
    fn ids_may_repeat_and_names_may_not_change() {
        let mut w = Words::default();
        for (call, input) in [(1, ls()), (2, rm())] {
            assert_eq!((w.used("t", "Bash", &input), w.asked(call, "t", "Bash", &input)), (None, None));
            assert_eq!(w.recorded("t", "Bash", &input), None);
        }
        assert_eq!((w.used("u", "Task", &json!({})), w.asked(3, "u", "Agent", &json!({}))), (None, None));
        w.used("v", "Write", &json!({}));
        assert_eq!(w.asked(4, "v", "Read", &json!({})).map(|m| m.what), Some("tool renamed"));
    }

    #[test]
    fn a_hook_must_report_what_was_told() {
        let mut w = Words::default();
        w.asked(1, "t", "Bash", &rm());
        w.told(1, "t", &ls());
        assert_eq!(w.ran("t", "Bash", &ls()), None);
        assert_eq!(w.ran("t", "Bash", &rm()).map(|m| (m.what, m.call)), Some(("input changed", Some(1))));
        assert_eq!(w.ran("unknown", "Bash", &rm()), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut w = Words::default();
        for n in 0..(IDS + 10) {
            w.used(&format!("t{n}"), "Bash", &ls());
        }
        assert_eq!((w.entries.len(), w.order.len()), (IDS, IDS));
        for n in 0..40 {
            w.used(&format!("big{n}"), "Write", &json!({"content": "x".repeat(1 << 20)}));
            assert!(w.bytes <= BYTES, "{}", w.bytes);
        }
        w.clear();
        assert_eq!(w.entries.len(), 0);
    }

    proptest! {
        #[test]
        fn words_are_the_same_as_themselves_in_any_order(keys in proptest::collection::vec(("[a-z_]{1,9}|command|file_path", "[ -~]{0,12}"), 0..6), steps in proptest::collection::vec((0u8..3, 0u8..4), 0..24)) {
            let input: Value = keys.into_iter().map(|(k, v)| (k, Value::String(v))).collect::<serde_json::Map<_, _>>().into();
            prop_assert!(same(&input, &input));
            let mut w = Words::default();
            for (n, (who, id)) in steps.into_iter().enumerate() {
                let id = format!("t{id}");
                let told = match who {
                    0 => w.used(&id, "Bash", &input),
                    1 => w.asked(n as u64, &id, "Bash", &input),
                    _ => w.recorded(&id, "Bash", &input),
                };
                prop_assert_eq!(told, None);
            }
        }
    }
}
