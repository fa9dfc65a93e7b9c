//! The configuration's JSON: shapes and keys. Called by `policy`.

use serde_json::{Map, Value};

/// Longest reason of a rule, in bytes.
const REASON_LIMIT: usize = 1_000;
/// Longest list of examples.
const EXAMPLES_LIMIT: usize = 10_000;

/// One rule as written.
#[derive(Debug)]
pub struct Written {
    pub rule: String,
    pub reason: Option<String>,
}

/// The configuration before its rules are compiled.
#[derive(Debug, Default)]
pub struct Config {
    pub allow: Vec<Written>,
    pub ask: Vec<Written>,
    pub deny: Vec<Written>,
    pub root: Option<String>,
    pub home: Option<String>,
    /// `"recursive": "ignore"` was not given.
    pub deep_asks: bool,
}

/// Reads and checks the JSON. The error names key, value and what was expected.
pub fn read(text: &str) -> Result<Config, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| format!("the config is not JSON: {e}"))?;
    let Value::Object(map) = value else { return Err(wrong("the config", &value, "an object with allow, ask, deny")) };
    let mut config = Config { deep_asks: true, ..Config::default() };
    for (key, value) in &map {
        match key.as_str() {
            "allow" => config.allow = rules(key, value)?,
            "ask" => config.ask = rules(key, value)?,
            "deny" => config.deny = rules(key, value)?,
            "root" => config.root = Some(folder(key, value)?),
            "home" => config.home = Some(folder(key, value)?),
            "recursive" => match value.as_str() {
                Some("ask") => {}
                Some("ignore") => config.deep_asks = false,
                _ => return Err(wrong(key, value, "\"ask\" or \"ignore\"")),
            },
            "examples" => examples(value)?,
            _ => return Err(unknown(key, "allow, ask, deny, examples, root, home, recursive")),
        }
    }
    Ok(config)
}

fn rules(key: &str, value: &Value) -> Result<Vec<Written>, String> {
    let Value::Array(list) = value else { return Err(wrong(key, value, "an array of rules")) };
    list.iter()
        .enumerate()
        .map(|(i, item)| {
            let place = format!("{key}[{i}]");
            match item {
                Value::String(rule) => Ok(Written { rule: rule.clone(), reason: None }),
                Value::Object(map) => {
                    known_keys(&place, map, &["rule", "reason"])?;
                    let rule = string(&format!("{place}.rule"), map.get("rule").unwrap_or(&Value::Null))?;
                    let reason = map.get("reason").map(|r| string(&format!("{place}.reason"), r)).transpose()?;
                    if reason.as_ref().is_some_and(|r| r.len() > REASON_LIMIT) {
                        return Err(format!("{place}.reason: expected at most {REASON_LIMIT} bytes"));
                    }
                    Ok(Written { rule, reason })
                }
                other => Err(wrong(&place, other, "a rule such as \"Bash(git push:*)\" or {\"rule\": …, \"reason\": …}")),
            }
        })
        .collect()
}

/// Only the shape: what a command runs is known to the host alone.
fn examples(value: &Value) -> Result<(), String> {
    let Value::Array(list) = value else { return Err(wrong("examples", value, "an array")) };
    if list.len() > EXAMPLES_LIMIT {
        return Err(format!("examples: expected at most {EXAMPLES_LIMIT}, got {}", list.len()));
    }
    for (i, item) in list.iter().enumerate() {
        let place = format!("examples[{i}]");
        let Value::Object(map) = item else { return Err(wrong(&place, item, "an object with command or call, and effect")) };
        known_keys(&place, map, &["command", "call", "effect"])?;
        match (map.get("command"), map.get("call")) {
            (Some(command), None) => drop(string(&format!("{place}.command"), command)?),
            (None, Some(Value::Object(call))) => {
                known_keys(&format!("{place}.call"), call, &["tool", "input", "cwd", "agent"])?;
                string(&format!("{place}.call.tool"), call.get("tool").unwrap_or(&Value::Null))?;
                if let Some(input) = call.get("input").filter(|i| !i.is_object()) {
                    return Err(wrong(&format!("{place}.call.input"), input, "an object"));
                }
                for key in ["cwd", "agent"] {
                    call.get(key).map(|v| string(&format!("{place}.call.{key}"), v)).transpose()?;
                }
            }
            (None, Some(other)) => return Err(wrong(&format!("{place}.call"), other, "an object with tool and input")),
            _ => return Err(format!("{place}: expected either command or call")),
        }
        match map.get("effect").and_then(Value::as_str) {
            Some("abstain" | "allow" | "ask" | "deny") => {}
            _ => return Err(wrong(&format!("{place}.effect"), map.get("effect").unwrap_or(&Value::Null), "abstain, allow, ask or deny")),
        }
    }
    Ok(())
}

/// An absolute folder without its trailing slashes.
fn folder(key: &str, value: &Value) -> Result<String, String> {
    match value.as_str() {
        Some(path) if path.starts_with('/') && !path.split('/').any(|n| n == ".." || n == ".") => Ok(path.trim_end_matches('/').to_owned()),
        _ => Err(wrong(key, value, "an absolute path without `.` and `..`")),
    }
}

fn string(place: &str, value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| wrong(place, value, "a string"))
}

fn known_keys(place: &str, map: &Map<String, Value>, keys: &[&str]) -> Result<(), String> {
    match map.keys().find(|k| !keys.contains(&k.as_str())) {
        Some(key) => Err(unknown(&format!("{place}.{key}"), &keys.join(", "))),
        None => Ok(()),
    }
}

fn unknown(key: &str, known: &str) -> String {
    format!("unknown key {key:?}; expected one of {known}")
}

fn wrong(place: &str, value: &Value, expected: &str) -> String {
    let shown: String = value.to_string().chars().take(80).collect();
    format!("{place}: expected {expected}, got {shown}")
}
