//! Wire types of hooks.

use serde::{Deserialize, Serialize};

/// Largest payload of a hook, in bytes: a tool's input of 16 MiB and what is around it.
pub const HOOK_MAX: usize = 18 << 20;
/// Answer: the exit code of the hook command.
pub const EXIT_HEADER: &str = "x-beadle-exit";
/// Request: milliseconds for which the client waits for this answer.
pub const HOLD_HEADER: &str = "x-beadle-hold-ms";
/// Request: the client posts the same again when the answer is 202.
pub const WAIT_HEADER: &str = "x-beadle-wait";

/// Body of `POST /v1/hooks`: a settings file holds our hooks from now on, or no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookedRequest {
    pub agent: String,
    /// Absolute path of the agent's settings file.
    pub path: String,
    pub installed: bool,
}

/// What the host knows of hooks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HooksDoc {
    /// The client that hooks run.
    pub shim: String,
    /// Whether that file is the one of this version, and executable.
    pub shim_ok: bool,
    /// `hooks.ask`.
    pub ask: String,
    /// Settings files that hold our hooks. While there is one, the daemon stays.
    pub files: Vec<HookedDoc>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookedDoc {
    pub agent: String,
    pub path: String,
    pub installed_at: String,
}
