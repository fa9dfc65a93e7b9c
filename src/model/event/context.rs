//! Event bodies about context providers. What they gave stands in the `prompt_judged` of the same append, as the agent got it.

use serde::{Deserialize, Serialize};

use super::Actor;
use crate::model::context::{ContextAt, ContextProvider};

/// From the next prompt on it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextProviderAdded {
    pub provider: ContextProvider,
    pub by: Actor,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextProviderRemoved {
    pub name: String,
    pub by: Actor,
}

/// A provider was asked beside a prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextAdded {
    pub provider: String,
    /// `memory`, `files` or `command`.
    pub kind: String,
    pub at: Option<ContextAt>,
    /// Number of the prompt, as in `prompt_judged`.
    pub prompt: u64,
    /// What the agent is given, in bytes; 0: nothing.
    pub bytes: u64,
    /// BLAKE3 of it, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// There was more than the caps let through.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Its place among the context of that prompt, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    pub duration_ms: u64,
    /// Why it gave nothing, where it should have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// Files that were left out, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}
