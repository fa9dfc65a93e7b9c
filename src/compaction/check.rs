//! Whether a plan can be applied, and what comes of it.
//!
//! A plan is taken whole or refused whole: a strategy that breaks a law is told which, and nothing of its plan is done. What is pinned is no
//! offence to touch: it stays as it is, and the rest of the edit holds.
//!
//! Called by `session` and by `score`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::fold::Folded;
use super::{estimate, summary};
use crate::model::{Edit, Entry, EntryKind, EntryRole, Piece, Rewrite, Span};

/// Most edits of a plan and most text in it, in bytes; the plugin engine holds guests to the same.
const EDITS: usize = 10_000;
const TEXT: usize = 4 << 20;

/// Why a plan is refused.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum Error {
    #[error("the plan has {edits} edits with {bytes} bytes of text; the limits are {EDITS} and {TEXT}")]
    TooMuch { edits: usize, bytes: usize },
    #[error("an edit of the span {first} to {last}: there is no entry {missing}")]
    NoEntry { first: u64, last: u64, missing: u64 },
    #[error("two edits of the entry {id}; spans must not overlap")]
    Overlap { id: u64 },
    #[error("the call of entry {call} and its result, entry {result}, must stay or go together")]
    SplitPair { call: u64, result: u64 },
    #[error("the text for entries {first} to {last} has {to} tokens, more than the {from} that it replaces")]
    Grows { first: u64, last: u64, from: u64, to: u64 },
    #[error("entry {id} ({kind:?}) cannot get another text; drop it, with its other half if it has one")]
    NotText { id: u64, kind: EntryKind },
    #[error("the text for entries {first} to {last} is empty; drop them instead")]
    Empty { first: u64, last: u64 },
    #[error("the text for entries {first} to {last} stands for nothing that user or model said")]
    NothingSaid { first: u64, last: u64 },
    #[error("the conversation would begin with entry {id}, which is not the user's")]
    Headless { id: u64 },
    #[error("nothing of the conversation would be left")]
    NothingLeft,
}

impl Error {
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooMuch { .. } => "BDL-COMPACTION-001",
            Self::NoEntry { .. } => "BDL-COMPACTION-002",
            Self::Overlap { .. } => "BDL-COMPACTION-003",
            Self::SplitPair { .. } => "BDL-COMPACTION-004",
            Self::Grows { .. } => "BDL-COMPACTION-005",
            Self::NotText { .. } => "BDL-COMPACTION-006",
            Self::Empty { .. } => "BDL-COMPACTION-007",
            Self::NothingSaid { .. } => "BDL-COMPACTION-008",
            Self::Headless { .. } => "BDL-COMPACTION-009",
            Self::NothingLeft => "BDL-COMPACTION-010",
        }
    }
}

/// A plan that can be applied, and the conversation that it makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub rewrite: Rewrite,
    pub pieces: Vec<Piece>,
    pub tokens_before: u64,
    pub tokens_after: u64,
    /// Entries that go, that get another text, and pinned ones that an edit named and that stay.
    pub dropped: usize,
    pub changed: usize,
    pub spared: usize,
}

/// See the module.
pub fn check(folded: &Folded, edits: &[Edit]) -> Result<Checked, Error> {
    let text = |e: &Edit| if let Edit::Replace { text, .. } = e { text.len() } else { 0 };
    let bytes = edits.iter().map(text).sum();
    if edits.len() > EDITS || bytes > TEXT {
        return Err(Error::TooMuch { edits: edits.len(), bytes });
    }
    let mut plan = Plan { folded, removed: BTreeSet::new(), texts: BTreeMap::new(), summaries: BTreeMap::new(), spared: 0 };
    let mut spans: Vec<Span> = edits.iter().map(Edit::span).collect();
    spans.sort_unstable_by_key(|s| s.first);
    if let Some(w) = spans.windows(2).find(|w| w[1].first <= w[0].last) {
        return Err(Error::Overlap { id: w[1].first });
    }
    for e in edits {
        plan.edit(e)?;
    }
    plan.drop_lone_thoughts();
    plan.pairs()?;
    plan.finish()
}

struct Plan<'a> {
    folded: &'a Folded,
    /// By place.
    removed: BTreeSet<usize>,
    texts: BTreeMap<usize, String>,
    /// By the place that they stand in front of.
    summaries: BTreeMap<usize, String>,
    spared: usize,
}

impl Plan<'_> {
    fn entry(&self, at: usize) -> &Entry {
        &self.folded.pieces()[at].entry
    }

    fn edit(&mut self, edit: &Edit) -> Result<(), Error> {
        let Span { first, last } = edit.span();
        let place = |id| self.folded.at(id).ok_or(Error::NoEntry { first, last, missing: id });
        let (from, to) = (place(first)?, place(last)?);
        if from > to {
            return Err(Error::NoEntry { first, last, missing: first });
        }
        let free: Vec<usize> = (from..=to).filter(|at| !self.entry(*at).pinned).collect();
        self.spared += to + 1 - from - free.len();
        match edit {
            Edit::Drop { .. } => self.removed.extend(free),
            Edit::Truncate { head, tail, .. } => self.truncate(&free, *head, *tail),
            Edit::Replace { text, .. } if text.is_empty() => return Err(Error::Empty { first, last }),
            Edit::Replace { text, .. } if from == to => self.retell(&free, text)?,
            Edit::Replace { span, text } => self.stand_for(*span, &free, text)?,
            Edit::Summarise { span, instructions, max_tokens } => {
                let pieces: Vec<&Piece> = free.iter().map(|at| &self.folded.pieces()[*at]).collect();
                let had: u64 = pieces.iter().map(|p| p.entry.tokens).sum();
                let text = summary::of(&pieces, instructions, (*max_tokens).min(had));
                // why no refusal: the strategy did not write it. What cannot be said in less stays.
                if !text.is_empty() && estimate::tokens(&text) < had {
                    self.stand_for(*span, &free, &text)?;
                }
            }
        }
        Ok(())
    }

    fn truncate(&mut self, free: &[usize], head: u64, tail: u64) {
        for at in free {
            let p = &self.folded.pieces()[*at];
            // why only these: a call's input is what ran, and a thought is signed.
            if !matches!(p.entry.kind, EntryKind::Text | EntryKind::ToolResult | EntryKind::Summary) {
                continue;
            }
            let cut = cut(&p.text, head, tail);
            if estimate::tokens(&cut) < p.entry.tokens {
                self.texts.insert(*at, cut);
            }
        }
    }

    /// One entry with another text.
    fn retell(&mut self, free: &[usize], text: &str) -> Result<(), Error> {
        let Some(at) = free.first() else { return Ok(()) };
        let e = self.entry(*at);
        if !matches!(e.kind, EntryKind::Text | EntryKind::ToolResult | EntryKind::Summary) {
            return Err(Error::NotText { id: e.id, kind: e.kind });
        }
        grows(Span { first: e.id, last: e.id }, e.tokens, text)?;
        self.texts.insert(*at, text.to_owned());
        Ok(())
    }

    /// A summary in front of the message in which the first of these was said.
    fn stand_for(&mut self, span: Span, free: &[usize], text: &str) -> Result<(), Error> {
        let Span { first, last } = span;
        if free.is_empty() {
            return Ok(());
        }
        grows(span, free.iter().map(|at| self.entry(*at).tokens).sum(), text)?;
        let said = free.iter().find(|at| matches!(self.entry(**at).role, EntryRole::User | EntryRole::Assistant));
        let said = *said.ok_or(Error::NothingSaid { first, last })?;
        let message = self.folded.pieces()[said].message;
        let begins = (0..said).rev().take_while(|at| self.folded.pieces()[*at].message == message).last().unwrap_or(said);
        let there = self.summaries.entry(begins).or_default();
        if !there.is_empty() {
            there.push_str("\n\n");
        }
        there.push_str(text);
        self.removed.extend(free);
        Ok(())
    }

    /// A thought of which nothing followed is no message.
    fn drop_lone_thoughts(&mut self) {
        let pieces = self.folded.pieces();
        let mut spoken: HashMap<u32, bool> = HashMap::new();
        for (at, p) in pieces.iter().enumerate() {
            let speaks = p.entry.kind != EntryKind::Thinking && !self.removed.contains(&at);
            *spoken.entry(p.message).or_default() |= speaks;
        }
        let lone = |at: &usize| {
            let p = &pieces[*at];
            let touched = self.removed.iter().any(|r| pieces[*r].message == p.message);
            p.entry.kind == EntryKind::Thinking && !p.entry.pinned && touched && spoken.get(&p.message) == Some(&false)
        };
        let thoughts: Vec<usize> = (0..pieces.len()).filter(|at| pieces[*at].entry.kind == EntryKind::Thinking).filter(lone).collect();
        self.removed.extend(thoughts);
    }

    fn pairs(&self) -> Result<(), Error> {
        let split = self.folded.pairs().iter().find(|(c, r)| self.removed.contains(c) != self.removed.contains(r));
        match split {
            Some((c, r)) => Err(Error::SplitPair { call: self.entry(*c).id, result: self.entry(*r).id }),
            None => Ok(()),
        }
    }

    fn finish(self) -> Result<Checked, Error> {
        let old = self.folded.pieces();
        let mut pieces: Vec<Piece> = Vec::with_capacity(old.len());
        for (at, p) in old.iter().enumerate() {
            if let Some(text) = self.summaries.get(&at) {
                pieces.push(summary_piece(p, text));
            }
            if self.removed.contains(&at) {
                continue;
            }
            let mut p = p.clone();
            if let Some(text) = self.texts.get(&at) {
                p.text.clone_from(text);
                (p.entry.tokens, p.entry.bytes) = (estimate::of(&p), text.len() as u64);
            }
            pieces.push(p);
        }
        let begins = |pieces: &[Piece]| pieces.iter().find(|p| p.entry.role != EntryRole::System).map(|p| (p.entry.id, p.entry.role));
        match (begins(old), begins(&pieces)) {
            (Some(_), None) => return Err(Error::NothingLeft),
            (Some((_, EntryRole::User)), Some((id, role))) if role != EntryRole::User => return Err(Error::Headless { id }),
            _ => {}
        }
        let (before, after) = (self.folded.used(), pieces.iter().map(|p| p.entry.tokens).sum());
        let id = |at: &usize| old[*at].entry.id;
        let rewrite = Rewrite {
            removed: self.removed.iter().map(id).collect(),
            texts: self.texts.iter().map(|(at, t)| (id(at), t.clone())).collect(),
            summaries: self.summaries.iter().map(|(at, t)| (id(at), t.clone())).collect(),
            tokens: after,
        };
        let (dropped, changed) = (self.removed.len(), self.texts.len());
        Ok(Checked { rewrite, pieces, tokens_before: before, tokens_after: after, dropped, changed, spared: self.spared })
    }
}

fn grows(span: Span, from: u64, text: &str) -> Result<(), Error> {
    let to = estimate::tokens(text);
    if to > from { Err(Error::Grows { first: span.first, last: span.last, from, to }) } else { Ok(()) }
}

fn summary_piece(before: &Piece, text: &str) -> Piece {
    let entry = Entry {
        id: before.entry.id.saturating_sub(1),
        role: EntryRole::User,
        kind: EntryKind::Summary,
        tool: None,
        pair: None,
        is_error: false,
        turn: before.entry.turn,
        tokens: estimate::tokens(text),
        bytes: text.len() as u64,
        pinned: false,
        at: before.entry.at,
    };
    Piece { entry, text: text.to_owned(), message: before.message }
}

/// So many tokens of the beginning and of the end, cut at characters.
fn cut(text: &str, head: u64, tail: u64) -> String {
    let bytes = |tokens: u64| usize::try_from(tokens.saturating_mul(estimate::BYTES)).unwrap_or(usize::MAX).min(text.len());
    let head = text.floor_char_boundary(bytes(head));
    let tail = text.ceil_char_boundary(text.len() - bytes(tail)).max(head);
    let gone = estimate::tokens(&text[head..tail]);
    format!("{}\n[{gone} tokens left out]\n{}", &text[..head], &text[tail..])
}

#[cfg(test)]
mod tests;
