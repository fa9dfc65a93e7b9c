//! A conversation with its tokens counted and its pins set: what a strategy is lent.
//!
//! Called by `session` and by `cli`.

use std::collections::{HashMap, VecDeque};

use super::{ESTIMATOR, estimate};
use crate::model::{Budget, Entry, EntryKind, EntryRole, Piece, Transcript};

/// Most entries of a conversation.
pub const ENTRIES: usize = 1_000_000;

/// What the operator lets strategies touch beside what they always may. The strategy must want it too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpinned {
    /// The user's own words.
    pub user: bool,
    /// What agent and host told the model in the system's or the user's place.
    pub system: bool,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Folded {
    pieces: Vec<Piece>,
    /// Places of calls with their results.
    pairs: Vec<(usize, usize)>,
}

impl Folded {
    /// Ids must grow; the error says what cannot be folded.
    pub fn new(mut pieces: Vec<Piece>, unpinned: Unpinned) -> Result<Self, String> {
        if pieces.len() > ENTRIES {
            return Err(format!("it has {} entries; the limit is {ENTRIES}", pieces.len()));
        }
        if pieces.windows(2).any(|w| w[0].entry.id >= w[1].entry.id) {
            return Err("its entries are out of order".to_owned());
        }
        let pairs = pairs(&pieces);
        let newest = pieces.len().checked_sub(1);
        for (at, p) in pieces.iter_mut().enumerate() {
            let tokens = estimate::of(p);
            let e = &mut p.entry;
            (e.tokens, e.bytes) = (tokens, p.text.len() as u64);
            let said = matches!(e.kind, EntryKind::Text | EntryKind::Image | EntryKind::Other);
            let guarded = match e.role {
                EntryRole::System => !unpinned.system,
                EntryRole::User => said && !unpinned.user,
                EntryRole::Assistant | EntryRole::Tool => false,
            };
            e.pinned = guarded || newest == Some(at);
        }
        for (call, result) in &pairs {
            let pinned = pieces[*call].entry.pinned || pieces[*result].entry.pinned;
            (pieces[*call].entry.pinned, pieces[*result].entry.pinned) = (pinned, pinned);
        }
        Ok(Self { pieces, pairs })
    }

    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    pub(super) fn pairs(&self) -> &[(usize, usize)] {
        &self.pairs
    }

    /// Tokens of the whole conversation.
    pub fn used(&self) -> u64 {
        self.pieces.iter().map(|p| p.entry.tokens).sum()
    }

    /// The question for a strategy. `target` is what the conversation should have at most.
    pub fn budget(&self, window: u64, target: u64) -> Budget {
        Budget { window, used: self.used(), target, estimator: ESTIMATOR.to_owned() }
    }

    /// The place of the entry with this id.
    pub(super) fn at(&self, id: u64) -> Option<usize> {
        self.pieces.binary_search_by_key(&id, |p| p.entry.id).ok()
    }
}

/// Each result with the oldest open call of its id; those without the other half are left out.
pub(super) fn pairs(pieces: &[Piece]) -> Vec<(usize, usize)> {
    let mut open: HashMap<&str, VecDeque<usize>> = HashMap::new();
    let mut out = Vec::new();
    for (at, p) in pieces.iter().enumerate() {
        let Some(pair) = p.entry.pair.as_deref() else { continue };
        match p.entry.kind {
            EntryKind::ToolCall => open.entry(pair).or_default().push_back(at),
            EntryKind::ToolResult => out.extend(open.get_mut(pair).and_then(VecDeque::pop_front).map(|call| (call, at))),
            _ => {}
        }
    }
    out
}

impl Transcript for Folded {
    fn len(&self) -> usize {
        self.pieces.len()
    }

    fn entries(&self, start: usize, max: usize) -> Vec<Entry> {
        self.pieces.iter().skip(start).take(max).map(|p| p.entry.clone()).collect()
    }

    fn text(&self, id: u64, offset: usize, max: usize) -> Option<String> {
        let text = &self.pieces[self.at(id)?].text;
        let from = text.ceil_char_boundary(offset.min(text.len()));
        let to = text.floor_char_boundary(from.saturating_add(max).min(text.len()));
        Some(text[from..to.max(from)].to_owned())
    }

    fn tokens(&self, text: &str) -> u64 {
        estimate::tokens(text)
    }
}
