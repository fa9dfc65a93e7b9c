//! The scoreboard: what a compaction cost and what it lost, by measures that need no model.
//!
//! Called by `cli`.

use std::collections::BTreeSet;

use serde::Serialize;

use super::estimate;
use super::fold::{Folded, pairs};
use crate::model::{EntryKind, EntryRole, Piece};

/// What must be found again, by kind; a probe counts as kept where its text is in any entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probes {
    pub facts: BTreeSet<String>,
    pub constraints: BTreeSet<String>,
    pub paths: BTreeSet<String>,
    pub errors: BTreeSet<String>,
}

/// Found of how many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Kept {
    pub kept: u64,
    pub of: u64,
}

impl Kept {
    pub fn plus(self, other: Self) -> Self {
        Self { kept: self.kept + other.kept, of: self.of + other.of }
    }

    pub fn share(self) -> f64 {
        if self.of == 0 { 1.0 } else { self.kept as f64 / self.of as f64 }
    }
}

/// Of one conversation and one strategy.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Score {
    pub tokens_before: u64,
    pub tokens_after: u64,
    /// Calls without a result and results without a call, afterwards.
    pub dangling: u64,
    pub facts: Kept,
    pub constraints: Kept,
    pub paths: Kept,
    pub errors: Kept,
    /// Tokens before the first change: what a prompt cache still holds.
    pub prefix_tokens: u64,
}

/// Longest error line that is a probe, in characters; longer ones are cut by every reader.
const ERROR_LINE: usize = 160;

impl Probes {
    /// Paths that calls name, and the first line of each error that a tool gave.
    pub fn derived(pieces: &[Piece]) -> Self {
        let mut out = Self::default();
        for p in pieces {
            match p.entry.kind {
                EntryKind::ToolCall => {
                    let input: serde_json::Value = serde_json::from_str(&p.text).unwrap_or_default();
                    out.paths.extend(input["file_path"].as_str().map(str::to_owned));
                }
                EntryKind::ToolResult if p.entry.is_error => {
                    let line = p.text.lines().find(|l| l.contains("error"));
                    out.errors.extend(line.map(str::trim).filter(|l| l.chars().count() <= ERROR_LINE).map(str::to_owned));
                }
                _ => {}
            }
        }
        out
    }
}

/// Compares a conversation with what became of it.
pub fn score(before: &Folded, after: &[Piece], probes: &Probes) -> Score {
    let old = before.pieces();
    let count = |set: &BTreeSet<String>| {
        let kept = set.iter().filter(|probe| after.iter().any(|p| holds(p, probe))).count();
        Kept { kept: kept as u64, of: set.len() as u64 }
    };
    let halves = after.iter().filter(|p| p.entry.pair.is_some()).count();
    let same = old.iter().zip(after).take_while(|(a, b)| a.text == b.text && a.entry.kind == b.entry.kind);
    Score {
        tokens_before: before.used(),
        tokens_after: after.iter().map(estimate::of).sum(),
        dangling: (halves - 2 * pairs(after).len()) as u64,
        facts: count(&probes.facts),
        constraints: count(&probes.constraints),
        paths: count(&probes.paths),
        errors: count(&probes.errors),
        prefix_tokens: same.map(|(a, _)| a.entry.tokens).sum(),
    }
}

/// A probe in the text itself, or as JSON writes it in a call's input.
fn holds(p: &Piece, probe: &str) -> bool {
    if p.entry.role == EntryRole::System {
        return false;
    }
    if p.text.contains(probe) {
        return true;
    }
    let quoted = serde_json::to_string(probe).unwrap_or_default();
    p.entry.kind == EntryKind::ToolCall && p.text.contains(quoted.trim_matches('"'))
}
