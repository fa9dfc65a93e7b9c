//! Compaction strategies: the trait, and the transcript as they read it.

use crate::{Budget, Description, Edit, Entry, Session};

/// A compaction strategy: asked for edits that make a conversation fit.
///
/// `describe` and `configure` are those of a [`Policy`](crate::Policy).
pub trait Strategy: Sized {
    /// Who this is. Called before `configure` and independent of it.
    fn describe() -> Description;

    /// Takes the configuration, JSON of at most 1 MiB. Must be a pure function of its bytes.
    fn configure(config: &str) -> Result<Self, String>;

    /// Plans edits: at most 10,000, of spans that do not overlap, with at most 4 MiB of text. The host checks each (a call and its
    /// result stay together, what is pinned stays, nothing grows), applies them and keeps the original. No edits: nothing can be done.
    fn plan(&self, session: &Session, transcript: &dyn Transcript, budget: &Budget) -> Vec<Edit>;
}

/// The conversation, read by page: lent by the host in a component, a [`Sample`] in a test.
pub trait Transcript {
    fn len(&self) -> u32;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries from this place on (0 is the first), at most 1,000.
    fn entries(&self, start: u32, max: u32) -> Vec<Entry>;

    /// A piece of an entry's text, at most 256 KiB; `None` when there is no such entry.
    fn text(&self, id: u64, offset: u64, max: u32) -> Option<String>;

    /// Tokens of any text, as the entries were counted.
    fn tokens(&self, text: &str) -> u64;
}

#[cfg(target_arch = "wasm32")]
impl Transcript for crate::__private::Lent {
    fn len(&self) -> u32 {
        self.len()
    }

    fn entries(&self, start: u32, max: u32) -> Vec<Entry> {
        self.entries(start, max)
    }

    fn text(&self, id: u64, offset: u64, max: u32) -> Option<String> {
        self.text(id, offset, max)
    }

    fn tokens(&self, text: &str) -> u64 {
        self.tokens(text)
    }
}

/// A transcript in memory; for tests. Four bytes count as a token.
#[derive(Debug, Clone, Default)]
pub struct Sample(Vec<(Entry, String)>);

impl Sample {
    /// Entries with their texts; `tokens` and `bytes` of each are set to what the text has.
    pub fn new(entries: impl IntoIterator<Item = (Entry, String)>) -> Self {
        let counted = |(mut e, text): (Entry, String)| {
            e.bytes = text.len() as u64;
            e.tokens = e.bytes.div_ceil(4);
            (e, text)
        };
        Self(entries.into_iter().map(counted).collect())
    }
}

impl Transcript for Sample {
    fn len(&self) -> u32 {
        self.0.len() as u32
    }

    fn entries(&self, start: u32, max: u32) -> Vec<Entry> {
        self.0.iter().skip(start as usize).take(max.min(1000) as usize).map(|(e, _)| e.clone()).collect()
    }

    fn text(&self, id: u64, offset: u64, max: u32) -> Option<String> {
        let text = &self.0.iter().find(|(e, _)| e.id == id)?.1;
        let from = text.ceil_char_boundary((offset as usize).min(text.len()));
        let to = text.floor_char_boundary(from.saturating_add(max as usize).min(text.len()));
        Some(text[from..to.max(from)].to_owned())
    }

    fn tokens(&self, text: &str) -> u64 {
        (text.len() as u64).div_ceil(4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, Role};

    fn entry(id: u64) -> Entry {
        Entry {
            id,
            role: Role::User,
            kind: Kind::Text,
            tool: None,
            pair: None,
            is_error: false,
            turn: 1,
            tokens: 0,
            bytes: 0,
            pinned: false,
            at_ms: 0,
        }
    }

    #[test]
    fn a_sample_pages_and_cuts_at_characters() {
        let t = Sample::new([(entry(1), "äöü".to_owned()), (entry(7), "abc".to_owned())]);
        assert_eq!((t.len(), t.entries(1, 9)[0].id, t.entries(0, 9)[0].tokens), (2, 7, 2));
        assert_eq!(t.text(1, 0, 3).as_deref(), Some("ä"));
        assert_eq!(t.text(1, 1, 9).as_deref(), Some("öü"));
        assert_eq!(t.text(7, 9, 9).as_deref(), Some(""));
        assert_eq!(t.text(2, 0, 9), None);
    }
}
