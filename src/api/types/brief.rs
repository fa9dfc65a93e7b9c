//! What a caller says of a new session beside what is run: whose it is, what for, within which bounds.

use serde::{Deserialize, Serialize};

/// Part of a [`RunRequest`](super::RunRequest). Texts have at most 200 bytes (the target 1,024), no control characters, and are not empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BriefRequest {
    /// What it works on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Default is the configured `session.owner`, else `Unassigned`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mission: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// A session by id, unique prefix of one, or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The only tools it may use, at most 64; empty: no such limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_tools: Vec<String>,
    /// Calls that would write into the session's repository are denied.
    #[serde(default)]
    pub read_only_repo: bool,
    /// It has succeeded only when it leaves `report.md` or `outputs/report.md` in its working directory or write root.
    #[serde(default)]
    pub expect_report: bool,
}

impl BriefRequest {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
