//! Pausing a session and letting it go on.

use serde::{Deserialize, Serialize};

use crate::model::PauseMode;

/// Longest reason of a pause in bytes.
pub const PAUSE_REASON_MAX: usize = 512;

/// Pause a running session.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseRequest {
    /// `hold` or `freeze`; default: `hold` where it has a gate, else `freeze`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<PauseMode>,
    /// Shown with its status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Let a paused session go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeRequest {}
