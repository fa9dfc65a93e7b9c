//! Event bodies that only other programs write: what they tell of sessions in which the host holds nothing.
//!
//! Invariants: each is a report, never a decision; names are short and without control characters, texts are excerpts, JSON is capped
//! (`model::written` checks). Written by `session::written`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Excerpt;

/// A tool began, as its own program tells: nobody was asked. Its end is a `tool_ended` with the same id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolReported {
    pub call_id: String,
    pub tool: String,
    /// Null where it is too large; then `whole` has it.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub input: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<Excerpt>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_call_id: Option<String>,
}

/// The work goes on from a checkpoint of the writer's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointResumed {
    pub checkpoint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Something kept was looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRecalled {
    pub tier: String,
    pub namespace: String,
    pub hits: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<Excerpt>,
    /// Ids of the entries that were found, where the host keeps them itself; best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
}

/// One skill ran through its ladder of tiers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InvocationRecorded {
    pub skill: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_root: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Excerpt>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_status: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Excerpt>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<InvocationAttempt>,
}

/// One try of a skill; what its verifier said is in the words of the writer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InvocationAttempt {
    pub number: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<bool>,
    /// `accept`, `escalate` or `error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<Excerpt>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_summary: Option<Excerpt>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_output: Option<Excerpt>,
}

/// Something of the writer's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Custom {
    #[serde(rename = "type")]
    pub name: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub body: Value,
}

/// Writes that an emitter gave up, because it must not block: they are in no log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WritesLost {
    pub count: u64,
    /// When the first of them was given up, as the emitter tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
    pub why: String,
}
