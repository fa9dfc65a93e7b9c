//! Event bodies of a conversation that is made shorter. Written by `session::live` (the agent's own doing) and `session::compact`.

use serde::{Deserialize, Serialize};

use super::{Actor, Excerpt};

/// The host is about to compact the conversation: the agent is told to end, between turns, and is started anew from a shorter record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactionBegan {
    /// `manual`, or `auto` at the threshold.
    pub trigger: String,
    pub by: Actor,
    /// The name of a standard or an installed strategy, or the absolute path of a component.
    pub strategy: String,
    /// Its configuration, JSON.
    pub config: String,
    /// Digest of the component that made the plan which was found good before the agent was ended.
    pub digest: String,
    /// What the conversation should have at most, in tokens.
    pub target: u64,
    /// The strategy may touch the user's own words, or the system's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unpinned_user: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unpinned_system: bool,
    /// Number of the frame that closes the agent's input.
    pub frame: u64,
}

/// The conversation that the agent goes on with is shorter than it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContextCompacted {
    /// `manual` or `auto`, as the agent, or the host, says.
    pub trigger: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_before: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_after: Option<u64>,
    /// Messages that went and that stayed, where another program tells of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained: Option<u64>,
    /// Where the host did it by a strategy; absent where the agent did it itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostCompaction>,
}

/// Where the threshold of this session's conversation lies, as who started it said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactionSet {
    /// Of the model's window; 100 is never.
    pub threshold_percent: u64,
    pub by: Actor,
}

/// The host wanted the conversation shorter, and it was not made so; the session goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactionFailed {
    /// `manual` or `auto`.
    pub trigger: String,
    pub strategy: String,
    /// Where it failed: `plan` (nothing was done yet), `apply` (the agent had ended, and is started anew from its conversation as it was) or
    /// `resume` (the agent did not take the shorter one).
    pub stage: String,
    /// The error's stable code.
    pub code: String,
    pub reason: String,
    /// The strategy that is tried in its place, at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// Tokens of the context from which on it is tried by itself again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again_at: Option<u64>,
    /// The agent's own id of the conversation that it goes back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_to: Option<String>,
}

/// What the host did, and where the original is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostCompaction {
    /// Who the component says it is.
    pub strategy: String,
    pub version: String,
    /// BLAKE3 of the component and of its configuration, hex.
    pub digest: String,
    pub config_digest: String,
    /// How the tokens above were counted.
    pub estimator: String,
    pub target: u64,
    pub reached: bool,
    /// Entries that went, that have another text, that stayed as they were, and pinned ones among these that an edit named.
    pub dropped: u64,
    pub changed: u64,
    pub retained: u64,
    pub spared: u64,
    /// The edits, JSON.
    pub edits: Excerpt,
    /// The agent's own ids of the conversations.
    pub from: String,
    pub to: String,
    /// The agent's record of the old one, which is left as it is: its path, and BLAKE3 of its bytes.
    pub original: String,
    pub original_digest: String,
    /// A copy of it without secrets, as a blob, where it is at most 64 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<String>,
}
