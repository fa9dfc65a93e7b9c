//! Wire types of installed plugins.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{Grants, Mode, Moment, OnFailure, Replay};

/// Largest component that is taken, in bytes.
pub const COMPONENT_MAX: usize = 32 << 20;

/// A component that was handed over; nothing was installed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentDoc {
    /// BLAKE3, hex.
    pub digest: String,
    pub bytes: u64,
}

/// Asks what a component is that was handed over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginLookRequest {
    pub digest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A JSON object; `{}` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
    /// The installed plugin whose place it is to take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<String>,
}

/// A capability that a plugin asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantDoc {
    pub capability: String,
    pub reason: String,
    /// Something is granted of it.
    pub granted: bool,
    /// The version in force does not ask for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new: bool,
}

/// What a component is, and what installing it would mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginLookDoc {
    /// What it would be called.
    pub name: String,
    /// What it calls itself.
    pub plugin: String,
    pub version: String,
    pub purpose: String,
    pub kind: String,
    pub digest: String,
    /// The optional moments that it takes part in.
    pub moments: Vec<Moment>,
    pub wants: Vec<WantDoc>,
    /// The version that it would take the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// What an upgrade would do to the newest recorded calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
}

/// Installs a component that was handed over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginAddRequest {
    pub digest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it came from; shown, never read.
    #[serde(default)]
    pub origin: String,
    /// Words such as `kv`; all others stay not granted.
    #[serde(default, skip_serializing_if = "Grants::is_empty")]
    pub grants: Grants,
    #[serde(default)]
    pub mode: Mode,
    #[serde(default)]
    pub on_failure: OnFailure,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
}

/// One act on an installed plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case", deny_unknown_fields)]
pub enum PluginActRequest {
    Enable {},
    Disable {},
    Grant {
        grants: Grants,
    },
    Revoke {
        grants: Grants,
    },
    /// Only what is given changes.
    Configure {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<Mode>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on_failure: Option<OnFailure>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline_ms: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<Value>,
    },
    Upgrade {
        digest: String,
        #[serde(default)]
        origin: String,
        /// Besides those that it keeps.
        #[serde(default, skip_serializing_if = "Grants::is_empty")]
        grants: Grants,
        /// Although recorded calls would be decided less strictly.
        #[serde(default)]
        accept_changes: bool,
    },
    RollBack {
        /// A version's number or the beginning of its digest; absent: the one before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
        /// Although recorded calls would be decided less strictly.
        #[serde(default)]
        accept_changes: bool,
    },
}

/// One kept version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginVersionDoc {
    pub version: String,
    pub digest: String,
    pub origin: String,
    pub added_at: String,
    /// It is the one in force.
    pub current: bool,
}

/// One installed plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginDoc {
    pub name: String,
    pub plugin: String,
    pub kind: String,
    pub purpose: String,
    pub enabled: bool,
    pub version: String,
    pub digest: String,
    /// `ready`, or `damaged`: the file does not have the digest that it is pinned by.
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    pub since: String,
    pub mode: Mode,
    pub on_failure: OnFailure,
    pub deadline_ms: u64,
    pub config: Value,
    pub moments: Vec<Moment>,
    pub wants: Vec<WantDoc>,
    pub grants: Grants,
    /// In the order in which they came; the newest five are kept.
    pub versions: Vec<PluginVersionDoc>,
}
