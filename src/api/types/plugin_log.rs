//! The logs of plugins on the wire: of a live session's chain, and what is kept of a plugin beyond sessions.

use serde::{Deserialize, Serialize};

/// Query of `GET /v1/sessions/{id}/plugin-logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginLogsQuery {
    /// Only the policy of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// Query of `GET /v1/plugins/{name}/logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptLogsQuery {
    /// Only lines behind this number, as `next` of an answer gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// The newest so many, at most 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// What one policy has logged: of a live session's chain at most 256 lines of 1 KiB, of what is kept at most 1,000.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginLogDoc {
    pub policy: String,
    /// Oldest first.
    pub lines: Vec<PluginLineDoc>,
    /// Lines left out, because they came too fast or were too many.
    pub dropped_count: u64,
    /// Of what is kept: where to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// One line; its text is as the plugin gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginLineDoc {
    pub at: String,
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    pub text: String,
}
