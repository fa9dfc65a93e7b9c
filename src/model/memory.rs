//! Memory: short texts that outlive the session which added them, found again by their words.
//!
//! Invariants: every text, tag and name has a cap; a session sees one namespace, and of the tier `session` only what it added itself.
//!
//! Called by `session::memory`, the store (rows) and `api`.

use serde::{Deserialize, Serialize};

use super::clock::Entropy;
use super::id::SessionId;
use super::session::check_text;

/// Largest text in bytes.
pub const MEMORY_TEXT_MAX: usize = 32 << 10;
/// Longest name of a namespace in bytes.
pub const NAMESPACE_MAX: usize = 1_024;
/// Most tags of one entry, and the longest of them in bytes.
pub const MEMORY_TAGS_MAX: usize = 16;
pub const MEMORY_TAG_MAX: usize = 64;
/// Most entries of one namespace.
pub const NAMESPACE_ENTRIES_MAX: u64 = 10_000;
/// Most bytes of texts and tags over all namespaces.
pub const MEMORY_BYTES_MAX: u64 = 256 << 20;
/// Most hits of one search, and how many are given where nobody says.
pub const MEMORY_HITS_MAX: usize = 50;
pub const MEMORY_HITS: usize = 10;
/// Longest query in bytes.
pub const MEMORY_QUERY_MAX: usize = 4_096;

/// How long an entry is kept, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryTier {
    /// Seen by the session that added it only; goes with that session.
    Session,
    /// Seen in its namespace; the oldest make room when that is full.
    Working,
    /// Seen in its namespace, and kept until somebody removes it.
    #[default]
    LongTerm,
}

impl MemoryTier {
    pub const ALL: [Self; 3] = [Self::Session, Self::Working, Self::LongTerm];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Working => "working",
            Self::LongTerm => "long-term",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.as_str() == word)
    }
}

/// One entry as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// `m-<10 base-32>`.
    pub id: String,
    pub namespace: String,
    pub tier: MemoryTier,
    pub text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The session that added it, and the event that says so; absent where a person did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    pub created_at: i64,
}

impl Memory {
    /// What counts against the caps.
    pub fn bytes(&self) -> u64 {
        (self.text.len() + self.tags.iter().map(String::len).sum::<usize>()) as u64
    }
}

/// Which entries are looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryFilter {
    pub namespace: Option<String>,
    pub tier: Option<MemoryTier>,
    /// Added by this session.
    pub session: Option<SessionId>,
    pub tag: Option<String>,
    /// As this session sees them: of the tier `session` only its own.
    pub seen_by: Option<SessionId>,
    pub limit: usize,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// An entry that fits a search; the smaller the rank, the better it fits.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryHit {
    pub memory: Memory,
    pub rank: f64,
}

/// How much of the caps is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemorySize {
    /// Entries of the namespace, and how many of them may make room.
    pub entries: u64,
    pub working: u64,
    /// Bytes of those.
    pub working_bytes: u64,
    /// Bytes over all namespaces.
    pub bytes: u64,
}

/// A change of what is kept that no session makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryChange {
    Add(Memory),
    Remove(Vec<String>),
    /// Takes a text, in whatever form it stands, out of every entry that holds it.
    Erase(String),
}

/// A fresh id.
pub fn memory_id(entropy: &dyn Entropy) -> String {
    const BASE32: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut r = [0u8; 10];
    entropy.fill(&mut r);
    let tail: String = r.iter().map(|b| char::from(BASE32[usize::from(b & 31)])).collect();
    format!("m-{tail}")
}

/// What is wrong with an entry, or with a search.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    #[error("the text is empty; say what is to be kept")]
    Empty,
    #[error("the text has {0} bytes, over the limit of {MEMORY_TEXT_MAX}; keep the essence, or several entries")]
    TooLong(usize),
    #[error("the text has the character {0:?}, which no terminal can show; take it out")]
    Control(char),
    #[error("{0} tags, over the limit of {MEMORY_TAGS_MAX}; words of the text are found without any")]
    TooManyTags(usize),
    #[error(transparent)]
    Name(#[from] super::session::RecordError),
    #[error("the query has {0} bytes, over the limit of {MEMORY_QUERY_MAX}; a few words find more")]
    LongQuery(usize),
    #[error("namespace {namespace:?} has {NAMESPACE_ENTRIES_MAX} entries, the most there can be; remove some with `beadle memory rm`")]
    NamespaceFull { namespace: String },
    #[error(
        "all entries together have {bytes} bytes, and with this one they would have more than {MEMORY_BYTES_MAX}; remove some with `beadle memory rm`"
    )]
    Full { bytes: u64 },
    #[error("there is no entry {0:?}; `beadle memory ls` shows their ids")]
    NoEntry(String),
}

impl MemoryError {
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Empty | Self::TooLong(_) | Self::Control(_) | Self::TooManyTags(_) | Self::Name(_) => "BDL-MEMORY-001",
            Self::LongQuery(_) => "BDL-MEMORY-002",
            Self::NamespaceFull { .. } | Self::Full { .. } => "BDL-MEMORY-003",
            Self::NoEntry(_) => "BDL-MEMORY-004",
        }
    }
}

/// Checks what is to be kept.
pub fn check_memory(namespace: &str, text: &str, tags: &[String]) -> Result<(), MemoryError> {
    check_text("the namespace", namespace, NAMESPACE_MAX)?;
    if text.trim().is_empty() {
        return Err(MemoryError::Empty);
    }
    if text.len() > MEMORY_TEXT_MAX {
        return Err(MemoryError::TooLong(text.len()));
    }
    if let Some(c) = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t' | '\r')) {
        return Err(MemoryError::Control(c));
    }
    if tags.len() > MEMORY_TAGS_MAX {
        return Err(MemoryError::TooManyTags(tags.len()));
    }
    Ok(tags.iter().try_for_each(|t| check_text("a tag", t, MEMORY_TAG_MAX))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_has_caps_and_can_be_shown() {
        assert_eq!(check_memory("n", "two\nlines\tof it", &["tag".into()]), Ok(()));
        for (namespace, text, tags) in [
            ("", "x", vec![]),
            ("n\n", "x", vec![]),
            ("n", " \n", vec![]),
            ("n", "a\u{1b}[2J", vec![]),
            ("n", "a\0b", vec![]),
            ("n", &*"x".repeat(MEMORY_TEXT_MAX + 1), vec![]),
            ("n", "x", vec![String::new()]),
            ("n", "x", vec!["t".repeat(MEMORY_TAG_MAX + 1)]),
            ("n", "x", vec!["t".into(); MEMORY_TAGS_MAX + 1]),
        ] {
            assert!(check_memory(namespace, text, &tags).is_err(), "{namespace:?} {:?}", &text[..text.len().min(20)]);
        }
    }
}
