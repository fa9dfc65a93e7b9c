//! Event bodies about memory, and of the host's own tools.

use serde::{Deserialize, Serialize};

use super::Excerpt;
use crate::model::MemoryTier;

/// The session gave the host something to keep; the entry is made in the same transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryAdded {
    pub id: String,
    pub tier: MemoryTier,
    pub namespace: String,
    pub text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// The agent called one of the host's own tools, by a call that was allowed: what it did is in this event's append, and the answer, too.
/// Of one call there is one at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostToolAnswered {
    /// seq of the `tool_requested` event.
    pub call: u64,
    pub tool: String,
    /// Nothing was done, and the agent was told why.
    pub is_error: bool,
    /// Number of the frame that carries the answer; 0 where none does, as an agent that called through `beadle mcp` is answered there.
    pub frame: u64,
    /// The id that a server of the agent's gave the call, where one did: under it the same call comes again, and is not done again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// The agent left its report with the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportGiven {
    pub report: Excerpt,
}
