//! Wire types of the host's own tools.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Body of `POST /v1/host-tools`, by a process of the session: a call of one of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostToolRequest {
    /// Names the call within its session: the same id is the same call, done once. 1 to 128 bytes.
    pub id: String,
    /// The tool's own name, such as `note`.
    pub name: String,
    /// An object.
    pub arguments: Value,
    /// How long to wait for a decision; at most 8,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ms: Option<u64>,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostToolDoc {
    /// `null`: a person is asked, or the session is paused; post the same again.
    pub answer: Option<HostToolAnswer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostToolAnswer {
    /// For the model.
    pub text: String,
    /// Nothing was done.
    pub is_error: bool,
}

/// Whose tools a server serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostToolsDoc {
    pub session: String,
}
