//! Documents of `POST /v1/sessions/{id}/compact`.

use serde::{Deserialize, Serialize};

use crate::model::Edit;

/// What is left out is as configured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompactRequestDoc {
    /// The name of a standard or an installed strategy, or the absolute path of a component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// The strategy's configuration, a JSON object as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Tokens of the conversation, as the estimator counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<u64>,
    /// Let the strategy touch the user's own words, or the system's.
    #[serde(default)]
    pub unpin_user: bool,
    #[serde(default)]
    pub unpin_system: bool,
    #[serde(default)]
    pub dry_run: bool,
}

/// What a plan comes to. Tokens are those of the conversation by `estimator`; what the agent adds to it is not counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactDoc {
    pub session: String,
    pub dry_run: bool,
    pub strategy: String,
    pub version: String,
    pub digest: String,
    pub estimator: String,
    pub target: u64,
    pub reached: bool,
    pub tokens_before: u64,
    pub tokens_after: u64,
    pub dropped_count: u64,
    pub changed_count: u64,
    pub retained_count: u64,
    /// Pinned entries that edits named and that stay.
    pub spared_count: u64,
    pub edits: Vec<Edit>,
    /// seq of the event `compaction_began`; absent of a dry run. What came of it is told by `context_compacted`, or a note, behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_seq: Option<u64>,
}
