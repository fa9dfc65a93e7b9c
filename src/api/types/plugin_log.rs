//! The logs of plugins on the wire.

use serde::{Deserialize, Serialize};

/// Query of `GET /v1/sessions/{id}/plugin-logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginLogsQuery {
    /// Only the policy of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// What one policy of a live session's chain has logged; at most 256 lines of 1 KiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginLogDoc {
    pub policy: String,
    /// Oldest first.
    pub lines: Vec<PluginLineDoc>,
    /// Lines left out, because they came too fast or were too many.
    pub dropped_count: u64,
}

/// One line; its text is as the plugin gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginLineDoc {
    pub at: String,
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    pub text: String,
}
