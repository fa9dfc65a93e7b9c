//! Edits of a JSON text that leave every other byte where it was. The text must be valid JSON: callers parse it first.

use serde_json::Value;

/// One step into a document.
#[derive(Debug, Clone, Copy)]
pub enum Path<'a> {
    Key(&'a str),
    Index(usize),
}

/// Where a value stands in the text, and what is in it.
struct Node {
    start: usize,
    end: usize,
    /// Start of the key (of an object's member) or of the value, for each child.
    children: Vec<Child>,
    is_object: bool,
    is_array: bool,
}

struct Child {
    key: String,
    start: usize,
    node: Node,
}

/// Adds `value` at the end of the list at `path`, making the list and the objects on the way to it where they are missing.
pub fn append(text: &str, path: &[Path<'_>], value: &Value) -> String {
    let root = scan(text);
    let mut at = &root;
    for (depth, step) in path.iter().enumerate() {
        match (child(at, *step), step) {
            (Some(c), _) => at = &c.node,
            (None, Path::Key(key)) => {
                let mut made = Value::Array(vec![value.clone()]);
                for inner in path[depth + 1..].iter().rev() {
                    if let Path::Key(k) = inner {
                        made = Value::Object([((*k).to_owned(), made)].into_iter().collect());
                    }
                }
                return insert(text, at, Some(key), &made);
            }
            (None, Path::Index(_)) => return text.to_owned(),
        }
    }
    insert(text, at, None, value)
}

/// Takes out the member or element at `path` with the comma that parted it; the text as it is when there is none.
pub fn remove(text: &str, path: &[Path<'_>]) -> String {
    let root = scan(text);
    let Some((last, way)) = path.split_last() else { return text.to_owned() };
    let mut at = &root;
    for step in way {
        match child(at, *step) {
            Some(c) => at = &c.node,
            None => return text.to_owned(),
        }
    }
    let Some(i) = place(at, *last) else { return text.to_owned() };
    let (from, to) = match (i.checked_sub(1).and_then(|b| at.children.get(b)), at.children.get(i + 1)) {
        (Some(before), _) => (before.node.end, at.children[i].node.end),
        (None, Some(after)) => (at.children[i].start, after.start),
        (None, None) => (at.start + 1, at.end - 1),
    };
    format!("{}{}", &text[..from], &text[to..])
}

/// Whether a list or object stands at `path` and holds nothing.
pub fn is_empty(text: &str, path: &[Path<'_>]) -> bool {
    let root = scan(text);
    let found = path.iter().try_fold(&root, |at, step| child(at, *step).map(|c| &c.node));
    found.is_some_and(|n| (n.is_array || n.is_object) && n.children.is_empty())
}

fn place(at: &Node, step: Path<'_>) -> Option<usize> {
    match step {
        Path::Key(k) if at.is_object => at.children.iter().position(|c| c.key == k),
        Path::Index(i) if at.is_array => Some(i).filter(|i| *i < at.children.len()),
        _ => None,
    }
}

fn child<'a>(at: &'a Node, step: Path<'_>) -> Option<&'a Child> {
    at.children.get(place(at, step)?)
}

fn insert(text: &str, at: &Node, key: Option<&str>, value: &Value) -> String {
    let own = line_indent(text, at.start);
    let last = at.children.last();
    // A text in one line stays in one line.
    let unit = indent_unit(text);
    let spread = match last {
        Some(c) => text[at.start..c.start].contains('\n'),
        None => text.contains('\n'),
    };
    let indent = match last.filter(|_| spread) {
        Some(c) => line_indent(text, c.start).to_owned(),
        None => format!("{own}{unit}"),
    };
    let body = if spread { pretty(value, &indent, &unit) } else { value.to_string() };
    let member = key.map_or_else(|| body.clone(), |k| format!("{}:{}{body}", Value::from(k), if spread { " " } else { "" }));
    match (last, spread) {
        (Some(c), true) => format!("{},\n{indent}{member}{}", &text[..c.node.end], &text[c.node.end..]),
        (Some(c), false) => format!("{},{member}{}", &text[..c.node.end], &text[c.node.end..]),
        (None, true) => format!("{}\n{indent}{member}\n{own}{}", &text[..=at.start], &text[at.end - 1..]),
        (None, false) => format!("{}{member}{}", &text[..=at.start], &text[at.end - 1..]),
    }
}

/// The white space with which the line of `at` begins.
fn line_indent(text: &str, at: usize) -> &str {
    let line = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let rest = &text[line..at];
    &rest[..rest.len() - rest.trim_start_matches([' ', '\t']).len()]
}

/// One level of the file's own indentation; two spaces where it shows none.
fn indent_unit(text: &str) -> String {
    let first = text.lines().skip(1).map(|l| &l[..l.len() - l.trim_start_matches([' ', '\t']).len()]).find(|i| !i.is_empty());
    first.unwrap_or("  ").to_owned()
}

fn pretty(value: &Value, indent: &str, unit: &str) -> String {
    let inner = format!("{indent}{unit}");
    match value {
        Value::Array(a) if a.iter().any(|v| v.is_object()) => {
            let items: Vec<String> = a.iter().map(|v| format!("{inner}{}", pretty(v, &inner, unit))).collect();
            format!("[\n{}\n{indent}]", items.join(",\n"))
        }
        Value::Object(o) if !o.is_empty() => {
            let items: Vec<String> =
                o.iter().map(|(k, v)| format!("{inner}{}: {}", Value::from(k.as_str()), pretty(v, &inner, unit))).collect();
            format!("{{\n{}\n{indent}}}", items.join(",\n"))
        }
        Value::Array(a) => format!("[{}]", a.iter().map(Value::to_string).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// The places of all values. Valid JSON is the caller's word; on anything else the places mean nothing, and none is out of bounds.
fn scan(text: &str) -> Node {
    let mut at = 0;
    value(text, &mut at)
}

fn blank(text: &str, at: &mut usize) {
    *at += text[*at..].len() - text[*at..].trim_start_matches([' ', '\t', '\n', '\r']).len();
}

fn value(text: &str, at: &mut usize) -> Node {
    blank(text, at);
    let start = *at;
    let bytes = text.as_bytes();
    let mut node = Node { start, end: start, children: vec![], is_object: false, is_array: false };
    match bytes.get(start) {
        Some(open @ (b'{' | b'[')) => {
            node.is_object = *open == b'{';
            node.is_array = !node.is_object;
            *at += 1;
            loop {
                blank(text, at);
                match bytes.get(*at) {
                    None => break,
                    Some(b'}' | b']') => {
                        *at += 1;
                        break;
                    }
                    Some(b',') => *at += 1,
                    Some(_) => {
                        let from = *at;
                        let mut key = String::new();
                        if node.is_object {
                            string(bytes, at);
                            key = serde_json::from_str(&text[from..*at]).unwrap_or_default();
                            blank(text, at);
                            // The colon.
                            *at = (*at + 1).min(text.len());
                        }
                        let inner = value(text, at);
                        node.children.push(Child { key, start: from, node: inner });
                    }
                }
            }
        }
        Some(b'"') => string(bytes, at),
        _ => {
            while bytes.get(*at).is_some_and(|b| !b" \t\r\n,]}".contains(b)) {
                *at += 1;
            }
        }
    }
    node.end = *at;
    node
}

fn string(bytes: &[u8], at: &mut usize) {
    *at += 1;
    while let Some(b) = bytes.get(*at) {
        *at += 1;
        match b {
            b'\\' => *at += 1,
            b'"' => break,
            _ => {}
        }
    }
    *at = (*at).min(bytes.len());
}
