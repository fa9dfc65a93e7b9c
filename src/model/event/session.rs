//! Event bodies of a session's beginning and end.
//!
//! Invariant: what [`SessionCreated`] says never changes; what changes is folded beside it. Written by `session::start` and
//! `session::finish`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Actor, Excerpt};
use crate::model::attestation::SessionProgram;
use crate::model::session::{Mediation, Outcome, Record};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionCreated {
    pub name: String,
    pub agent: String,
    /// Program and arguments as asked for by the caller.
    pub command: Vec<String>,
    pub cwd: String,
    /// The caller's home folder: what `~` means for the session's calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_root: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Names of the environment variables that were handed on; values are not recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_names: Vec<String>,
    pub mediation: Mediation,
    /// Why mediation is lower than the agent's recipe gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mediation_note: Option<String>,
    /// The agent waits for further prompts after a turn.
    #[serde(default)]
    pub keep_open: bool,
    pub created_by: Actor,
    /// Arguments accepted only by `--unsafe-arg`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsafe_args: Vec<String>,
    pub beadle_version: String,
    /// What is run, for agents whose program can be attested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<SessionProgram>,
    /// The first prompt, as it was given: kept once, however often it is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Excerpt>,
    /// Whose it is, what for, and within which bounds.
    #[serde(flatten)]
    pub record: Record,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionStopping {
    pub by: Actor,
    /// `stop` or `kill`, or why the host does it (`breach`, `line too long`).
    pub how: String,
    pub grace_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionEnded {
    pub outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The report that was expected and found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
}
