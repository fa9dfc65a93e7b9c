//! Event bodies of a session's policies: loaded, failed, replaced. Written by `policy` and `session::gate`.

use serde::{Deserialize, Serialize};

use crate::model::decision::{FailureCause, Mode, OnFailure};
use crate::model::grant::Grants;
use crate::model::moment::Moment;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginLoaded {
    pub policy: String,
    pub plugin: String,
    pub version: String,
    pub digest: String,
    /// BLAKE3 of the config bytes, hex.
    pub config_digest: String,
    pub mode: Mode,
    pub on_failure: OnFailure,
    pub deadline_ms: u64,
    /// Calls start from a snapshot taken after `configure`; else each is configured anew.
    pub snapshotted: bool,
    /// The optional moments that it takes part in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moments: Vec<Moment>,
    /// What the operator granted it.
    #[serde(default, skip_serializing_if = "Grants::is_empty")]
    pub grants: Grants,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginFailed {
    pub policy: String,
    pub cause: FailureCause,
    pub detail: String,
    pub on_failure: OnFailure,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginReplaced {
    pub policy: String,
    pub old_digest: String,
    pub digest: String,
    pub config_digest: String,
    pub reason: String,
}
