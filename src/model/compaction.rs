//! A conversation as compaction strategies read it, and the edits that they plan.
//!
//! Called by `plugin`; the host's side of compaction folds a [`Transcript`] and applies the edits.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Who an entry is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryRole {
    System,
    User,
    Assistant,
    Tool,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Image,
    Summary,
    Other,
}

/// One entry of a conversation, without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Grows along the conversation; may have gaps.
    pub id: u64,
    pub role: EntryRole,
    pub kind: EntryKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The same for a call and its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<String>,
    #[serde(default)]
    pub is_error: bool,
    /// Prompts given up to this entry.
    pub turn: u32,
    pub tokens: u64,
    pub bytes: u64,
    /// Stays as it is.
    #[serde(default)]
    pub pinned: bool,
    pub at: i64,
}

/// A conversation that is lent to a strategy for one call. Asked from a plugin's thread; what it answers counts towards that
/// call's deadline.
pub trait Transcript: Send + Sync {
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries in order from this place on, at most so many.
    fn entries(&self, start: usize, max: usize) -> Vec<Entry>;

    /// Text of an entry from this byte on, at most so many bytes, cut at a character; `None` when there is no such entry.
    fn text(&self, id: u64, offset: usize, max: usize) -> Option<String>;

    /// Tokens of any text, by the estimator that counted the entries.
    fn tokens(&self, text: &str) -> u64;
}

/// One entry as an agent's record has it, with its text. Its tokens are not counted yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    pub entry: Entry,
    /// Of a call: its input as JSON.
    pub text: String,
    /// Entries with the same number are one message of the model's protocol.
    pub message: u32,
}

/// Checked edits as an agent's record takes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrite {
    /// Entries that go.
    pub removed: BTreeSet<u64>,
    /// Entries that get another text.
    pub texts: BTreeMap<u64, String>,
    /// Summaries, each in front of the entry with this id, which begins a message.
    pub summaries: BTreeMap<u64, String>,
    /// Tokens that the conversation has afterwards, for the agent's own count.
    pub tokens: u64,
}

impl Rewrite {
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.texts.is_empty() && self.summaries.is_empty()
    }
}

/// How small a conversation is to become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// What the model can hold, in tokens.
    pub window: u64,
    /// What the conversation has.
    pub used: u64,
    /// What it should have at most.
    pub target: u64,
    pub estimator: String,
}

/// Entries from one id to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub first: u64,
    pub last: u64,
}

/// One planned change. Nothing of it is checked against the conversation yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "edit")]
pub enum Edit {
    Drop {
        span: Span,
    },
    /// So many tokens of the beginning and the end of each entry stay.
    Truncate {
        span: Span,
        head: u64,
        tail: u64,
    },
    /// One entry with this text stands where the span was; a span of one tool result stays that result.
    Replace {
        span: Span,
        text: String,
    },
    /// The host writes a summary.
    Summarise {
        span: Span,
        instructions: String,
        max_tokens: u64,
    },
}

impl Edit {
    pub const fn span(&self) -> Span {
        match self {
            Self::Drop { span } | Self::Truncate { span, .. } | Self::Replace { span, .. } | Self::Summarise { span, .. } => *span,
        }
    }
}
