//! What is said of entries that go, taken from their own words: until models may be called, a summary is an extract.
//!
//! Sections, each left out where it has nothing: goals, constraints, files touched, commands, errors, decisions, open tasks. When all does not
//! fit, the newest of each section stays (of goals and constraints the oldest): what was asked first holds longest, what was seen last is
//! most likely still so.
//!
//! Called by `check`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::estimate::{BYTES, tokens};
use crate::model::{EntryKind, EntryRole, Piece};

/// Longest line taken, in characters.
const LINE: usize = 240;
/// Most lines looked at in one entry.
const LINES: usize = 20_000;
/// Most lines of one section.
const SECTION: usize = 200;

/// How many lines of each section are taken in turn, in the order in which they are printed.
const SECTIONS: [&str; 7] = ["Goals", "Constraints", "Files touched", "Commands", "Errors", "Decisions", "Open tasks"];
/// What goes first when there is not room for all: constraints, errors and files are what cannot be found again.
const RANK: [usize; 7] = [1, 0, 4, 2, 5, 6, 3];

const BINDING: [&str; 10] = ["must", "never", "do not", "don't", "only ", "always", "without ", "keep ", "make sure", "not allowed"];
const WRONG: [&str; 8] = ["error", "failed", "failure", "panicked", "fatal:", "exception", "traceback", "no such file"];
const DECIDED: [&str; 7] = ["decided", "because", "instead of", "chose", "will use", "the fix", "turns out"];
const OPEN: [&str; 6] = ["todo", "still need", "remaining", "next step", "not yet", "left to do"];

/// An extract of at most `max` tokens; empty where nothing was found. `instructions` that name sections keep only those.
pub fn of(pieces: &[&Piece], instructions: &str, max: u64) -> String {
    let mut found: [Vec<String>; 7] = Default::default();
    for p in pieces {
        sort(p, &mut found);
    }
    let wanted = instructions.to_lowercase();
    let named = SECTIONS.iter().any(|s| wanted.contains(&s.to_lowercase()));
    for (lines, name) in found.iter_mut().zip(SECTIONS) {
        if named && !wanted.contains(&name.to_lowercase()) {
            lines.clear();
        }
        let mut seen = std::collections::HashSet::new();
        lines.retain(|l| seen.insert(l.clone()));
    }
    // Of these the newest come first.
    found[2..].iter_mut().for_each(|lines| lines.reverse());
    let opening = format!("[summary of {} earlier entries, made by the session host from their own words]", pieces.len());
    let taken = take(&found, max.saturating_sub(tokens(&opening) + 1));
    if taken.is_empty() {
        return String::new();
    }
    let mut out = opening;
    for (section, lines) in taken {
        out.push_str(&format!("\n{}:", SECTIONS[section]));
        let newest_first = section >= 2;
        let lines: Vec<&String> = if newest_first { lines.into_iter().rev().collect() } else { lines };
        for l in lines {
            out.push_str("\n- ");
            out.push_str(l);
        }
    }
    out
}

/// One line of each section in turn, by rank, while there is room.
fn take(found: &[Vec<String>; 7], max: u64) -> BTreeMap<usize, Vec<&String>> {
    let mut taken: BTreeMap<usize, Vec<&String>> = BTreeMap::new();
    let mut left = max;
    for round in 0..SECTION {
        let mut any = false;
        for section in RANK {
            let Some(line) = found[section].get(round) else { continue };
            any = true;
            let header = if taken.contains_key(&section) { 0 } else { SECTIONS[section].len() + 2 };
            let cost = ((line.len() + 3 + header) as u64).div_ceil(BYTES);
            if cost <= left {
                left -= cost;
                taken.entry(section).or_default().push(line);
            }
        }
        if !any {
            break;
        }
    }
    taken
}

fn sort(p: &Piece, found: &mut [Vec<String>; 7]) {
    match (p.entry.role, p.entry.kind) {
        (_, EntryKind::ToolCall) => of_call(p, found),
        (_, EntryKind::ToolResult) => {
            let wrong = |l: &str| holds(l, &WRONG);
            let lines = || p.text.lines().take(LINES).filter(|l| !l.trim().is_empty());
            if p.entry.is_error || lines().any(wrong) {
                let tool = p.entry.tool.as_deref().unwrap_or("tool");
                let mut told: Vec<&str> = lines().filter(|l| wrong(l)).take(5).collect();
                if told.is_empty() {
                    told.extend(lines().next());
                }
                told.into_iter().for_each(|l| put(&mut found[4], &format!("{tool}: {}", l.trim())));
            }
        }
        (EntryRole::User, EntryKind::Text) => {
            for s in sentences(&p.text) {
                put(&mut found[usize::from(holds(s, &BINDING))], s);
            }
        }
        (EntryRole::Assistant, EntryKind::Text) => {
            for s in sentences(&p.text) {
                if holds(s, &OPEN) {
                    put(&mut found[6], s);
                } else if holds(s, &DECIDED) {
                    put(&mut found[5], s);
                } else if holds(s, &BINDING) {
                    put(&mut found[1], s);
                }
            }
        }
        (_, EntryKind::Summary) => of_summary(&p.text, found),
        _ => {}
    }
}

fn of_call(p: &Piece, found: &mut [Vec<String>; 7]) {
    let Ok(Value::Object(input)) = serde_json::from_str::<Value>(&p.text) else { return };
    let tool = p.entry.tool.as_deref().unwrap_or("tool");
    for key in ["file_path", "path", "notebook_path"] {
        if let Some(path) = input.get(key).and_then(Value::as_str) {
            put(&mut found[2], &format!("{path} ({tool})"));
        }
    }
    if let Some(command) = input.get("command").and_then(Value::as_str) {
        put(&mut found[3], command.lines().next().unwrap_or_default());
    }
    for todo in input.get("todos").and_then(Value::as_array).into_iter().flatten() {
        let (state, what) = (todo.get("status").and_then(Value::as_str), todo.get("content").and_then(Value::as_str));
        if let Some(what) = what.filter(|_| state != Some("completed")) {
            put(&mut found[6], what);
        }
    }
}

/// A summary of an earlier compaction: its lines stay in their sections.
fn of_summary(text: &str, found: &mut [Vec<String>; 7]) {
    let mut section = None;
    for l in text.lines().take(LINES) {
        if let Some(s) = SECTIONS.iter().position(|s| l.strip_suffix(':') == Some(s)) {
            section = Some(s);
        } else if let (Some(s), Some(item)) = (section, l.strip_prefix("- ")) {
            put(&mut found[s], item);
        }
    }
}

fn sentences(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take(LINES).flat_map(|l| l.split_inclusive(['.', '!', '?'])).map(str::trim).filter(|s| s.len() > 3)
}

fn holds(s: &str, words: &[&str]) -> bool {
    let s = s.to_lowercase();
    words.iter().any(|w| s.contains(w))
}

fn put(section: &mut Vec<String>, line: &str) {
    let mut line: String = line.chars().take(LINE).map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.truncate(line.trim_end().len());
    if line.is_empty() {
        return;
    }
    if section.len() >= SECTION * 4 {
        section.remove(SECTION);
    }
    section.push(line);
}
