//! What stands in place of an erased body: the same event without its words, or without one text. Pure.
//!
//! Invariants: the result is an event of the same kind, so that every projection can be folded; numbers, kinds and the ids by which
//! events name one another stay; nothing of a whole erasure is left that a person or an agent wrote. Called by `keep`.

use serde_json::Value;

use crate::model::Event;

/// What stands where something was.
pub const MARK: &str = "[erased]";
/// Fields that name things of the machine, by which events are joined.
const NAMES: [&str; 23] = [
    "agent",
    "agent_session_id",
    "archive",
    "blobs",
    "call_id",
    "config_digest",
    "conversation",
    "digest",
    "id",
    "input_hash",
    "kind",
    "message_id",
    "model",
    "parent_call_id",
    "plugin",
    "policy",
    "prices",
    "request_id",
    "role",
    "source",
    "tool",
    "type",
    "version",
];

/// How much of an event goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Erase {
    /// All its words.
    Whole,
    /// This text, wherever it stands in it.
    Text(String),
}

/// A text as it stands between the quotes of a JSON text.
fn escaped(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// The same as any writer of JSON has it: letters beyond ASCII escaped or not, and so the characters that mean something in HTML (Go), or
/// the slash (PHP).
fn written(text: &str) -> Vec<String> {
    let plain = escaped(text);
    let html = ["<", ">", "&"].into_iter().zip(["\\u003c", "\\u003e", "\\u0026"]).fold(plain.clone(), |s, (c, code)| s.replace(c, code));
    let mut out = vec![plain.replace('/', "\\/"), html, plain];
    out.sort();
    out.dedup();
    out.iter().map(|s| ascii(s)).chain(out.clone()).collect()
}

fn ascii(text: &str) -> String {
    let mut units = [0; 2];
    let escape = |c: char| match c {
        c if c.is_ascii() => c.to_string(),
        c => c.encode_utf16(&mut units).iter().map(|u| format!("\\u{u:04x}")).collect(),
    };
    text.chars().map(escape).collect()
}

/// A text as it may stand in a file: as it is, as within a JSON text, and as within one that stands in another, whoever wrote either. The
/// longest first, since a shorter one may be a part of it.
pub fn forms(text: &str) -> Vec<String> {
    let once = written(text);
    let mut out: Vec<String> = once.iter().flat_map(|s| written(s)).chain(once.clone()).chain([text.to_owned()]).collect();
    out.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    out.dedup();
    out
}

/// The bytes with the mark in place of a text in whatever form; `None` where they do not hold it.
pub fn cut(bytes: &[u8], forms: &[String]) -> Option<Vec<u8>> {
    let (mut out, mut at, mut from) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        match forms.iter().find(|f| !f.is_empty() && bytes[at..].starts_with(f.as_bytes())) {
            Some(f) => {
                out.extend_from_slice(&bytes[from..at]);
                out.extend_from_slice(MARK.as_bytes());
                at += f.len();
                from = at;
            }
            None => at += 1,
        }
    }
    (from > 0).then(|| {
        out.extend_from_slice(&bytes[from..]);
        out
    })
}

/// The same of a text.
pub fn cut_text(s: &str, forms: &[String]) -> Option<String> {
    // why lossy: a text in which whole texts were replaced is one still.
    cut(s.as_bytes(), forms).map(|b| String::from_utf8_lossy(&b).into_owned())
}

/// Takes a payload that an event names by this digest: `None` to leave it, else what to name instead (`Null`: nothing any more).
pub type Payload<'p> = dyn FnMut(&str) -> Result<Option<Value>, super::Error> + 'p;

/// The new body; `None` where nothing of it is to go. Errors: it has no shape without what was to go, in words.
pub fn erased(kind: &str, body: &[u8], what: &Erase, payload: &mut Payload<'_>) -> Result<Result<Option<Vec<u8>>, String>, super::Error> {
    let Ok(mut value) = serde_json::from_slice::<Value>(body) else { return Ok(Err("its body is not JSON".to_owned())) };
    let before = value.clone();
    payloads(&mut value, payload)?;
    match what {
        Erase::Whole if kind == "session_created" => {
            return Ok(Err("it says what the session is; erase the text in it that must go, with --pattern".to_owned()));
        }
        Erase::Whole => whole(kind, &mut value),
        Erase::Text(text) => without(&mut value, &forms(text)),
    }
    if value == before {
        return Ok(Ok(None));
    }
    let new = serde_json::to_vec(&value).unwrap_or_default();
    if !is_event(kind, &value) {
        return Ok(Err("without that text it has not the shape of its kind; erase it as a whole".to_owned()));
    }
    Ok(Ok(Some(new)))
}

fn is_event(kind: &str, value: &Value) -> bool {
    Event::from_parts(kind, &serde_json::to_vec(value).unwrap_or_default()).is_ok()
}

fn is_digest(s: &str) -> bool {
    s.len() == 64 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn payloads(value: &mut Value, payload: &mut Payload<'_>) -> Result<(), super::Error> {
    match value {
        Value::Object(map) => {
            let mut gone = Vec::new();
            for (key, v) in map.iter_mut() {
                match v {
                    Value::String(s) if is_digest(s) => match payload(s)? {
                        Some(Value::Null) => gone.push(key.clone()),
                        Some(new) => *v = new,
                        None => {}
                    },
                    _ => payloads(v, payload)?,
                }
            }
            for key in gone {
                map.remove(&key);
            }
        }
        Value::Array(list) => list.iter_mut().try_for_each(|v| payloads(v, payload))?,
        _ => {}
    }
    Ok(())
}

fn without(value: &mut Value, forms: &[String]) {
    match value {
        Value::String(s) => {
            if let Some(rest) = cut_text(s, forms) {
                *s = rest;
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|v| without(v, forms)),
        Value::Object(map) => {
            map.values_mut().for_each(|v| without(v, forms));
            let named: Vec<(String, String)> = map.keys().filter_map(|k| Some((k.clone(), cut_text(k, forms)?))).collect();
            for (key, rest) in named {
                if let Some(v) = map.remove(&key) {
                    map.insert(rest, v);
                }
            }
        }
        _ => {}
    }
}

fn whole(kind: &str, value: &mut Value) {
    let mut open: Vec<String> = children(value, "");
    while let Some(at) = open.pop() {
        let Some(place) = value.pointer_mut(&at) else { continue };
        let old = match place {
            Value::Null | Value::Bool(_) | Value::Number(_) => continue,
            other => std::mem::replace(other, Value::String(MARK.to_owned())),
        };
        if is_event(kind, value) {
            continue;
        }
        // why the empty list: a long list of typed things goes at once, and nothing counts them.
        let is_list = old.is_array();
        if let Some(place) = value.pointer_mut(&at) {
            *place = if is_list { Value::Array(Vec::new()) } else { old.clone() };
        }
        if is_list && is_event(kind, value) {
            continue;
        }
        open.extend(children(&old, &at));
        if let Some(place) = value.pointer_mut(&at) {
            *place = old;
        }
    }
}

/// Pointers to what is in a value, names left out.
fn children(value: &Value, at: &str) -> Vec<String> {
    match value {
        Value::Object(map) => map
            .keys()
            .filter(|k| !NAMES.contains(&k.as_str()))
            .map(|k| format!("{at}/{}", k.replace('~', "~0").replace('/', "~1")))
            .collect(),
        Value::Array(list) => (0..list.len()).map(|i| format!("{at}/{i}")).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(kind: &str, body: &Value, what: &Erase) -> Option<Value> {
        let bytes = serde_json::to_vec(body).unwrap();
        let new = erased(kind, &bytes, what, &mut |_| Ok(None)).unwrap().unwrap();
        new.map(|b| serde_json::from_slice(&b).unwrap())
    }

    #[test]
    fn a_whole_erasure_leaves_the_shape_and_no_word() {
        let call = json!({ "agent": "claude", "tool": "Bash", "kind": "execute", "input": { "hush-key": "hush", "n": 4711 }, "cwd": "/hush",
            "paths": [{ "written": "hush", "absolute": "/hush", "resolved": "/hush", "access": "read", "exact": true }],
            "commands": [], "parse": "complete", "call_id": "toolu_1", "channel": "driver" });
        let new = run("tool_requested", &json!({ "request_id": "r-1", "call": call }), &Erase::Whole).unwrap();
        let text = new.to_string();
        assert!(!text.contains("hush") && !text.contains("4711"), "{text}");
        let c = &new["call"];
        assert_eq!((c["tool"].as_str(), c["kind"].as_str(), c["call_id"].as_str()), (Some("Bash"), Some("execute"), Some("toolu_1")));
        assert_eq!((c["input"].as_str(), c["cwd"].as_str(), c["paths"].as_array().map(Vec::len)), (Some(MARK), Some(MARK), Some(0)));
        let usage = json!({ "message_id": "m", "model": "x", "usage": { "input": 5, "output": 6 } });
        assert_eq!(run("model_responded", &usage, &Erase::Whole), None, "numbers are no words");
    }

    #[test]
    fn a_text_goes_from_values_and_keys_and_nothing_else_does() {
        let body = json!({ "text": "a hush b hush" });
        assert_eq!(run("note", &body, &Erase::Text("hush".into())), Some(json!({ "text": "a [erased] b [erased]" })));
        assert_eq!(run("note", &body, &Erase::Text("other".into())), None);
        let body = json!({ "x": { "khush": [1, "hush"] } });
        assert_eq!(run("tea_served", &body, &Erase::Text("hush".into())), Some(json!({ "x": { "k[erased]": [1, "[erased]"] } })));
    }

    #[test]
    fn a_text_goes_in_whatever_form_it_stands() {
        assert_eq!(forms("hush"), ["hush"]);
        let text = "zk\"q\n\u{e9}</\\";
        let line = json!({ "k": text }).to_string();
        let ascii = |s: &str| s.replace('\u{e9}', "\\u00e9");
        let go = |s: &str| s.replace('<', "\\u003c");
        let php = |s: &str| ascii(s).replace('/', "\\/");
        let lines = [line.clone(), ascii(&line), go(&line), php(&line)];
        let nested = lines.iter().map(|l| json!([l]).to_string());
        let outer = nested.clone().flat_map(|l| [ascii(&l), go(&l), php(&l)]);
        for holder in lines.iter().cloned().chain(nested.clone()).chain(outer).chain([text.to_owned()]) {
            let new = run("note", &json!({ "text": holder }), &Erase::Text(text.into())).unwrap();
            let left = new["text"].as_str().unwrap();
            assert!(left.contains(MARK) && ["zk", "00e9", "\u{e9}", "\\n"].iter().all(|part| !left.contains(part)), "{holder}: {left}");
        }
        assert!(forms("a long token, with + and / and <").len() < 20);
    }

    #[test]
    fn payloads_are_asked_about_wherever_they_are_named() {
        let (digest, other) = ("ab".repeat(32), "cd".repeat(32));
        let body = json!({ "is_error": false, "output": { "text": "x", "bytes": 9, "blob": digest } });
        let bytes = serde_json::to_vec(&body).unwrap();
        let mut take = |d: &str| Ok((d == digest).then(|| Value::String(other.clone())));
        let new = erased("tool_ended", &bytes, &Erase::Text("hush".into()), &mut take).unwrap().unwrap().unwrap();
        let new: Value = serde_json::from_slice(&new).unwrap();
        assert_eq!(new["output"]["blob"], json!(other));
    }
}
