//! Event bodies of a session that is paused, or put away at a call that waits and started anew. Written by `session::pause`, `session::park`
//! and `session::relaunch`.

use serde::{Deserialize, Serialize};

use super::Actor;

/// What a relaunch needs (program, arguments, environment) lies in a file of the session's folder, which ends with the session. Its values
/// are not in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelaunchKept {
    /// BLAKE3 of the file, hex: what was changed since is not started.
    pub digest: String,
    /// Calls are held before the gate, so that the agent can be ended at one.
    #[serde(default = "yes")]
    pub holds: bool,
}

/// The agent was told to end its turn at a call that waits for its decision, and to ask again when it is resumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolDeferred {
    pub call: u64,
    /// Number of the frame that tells it.
    pub frame: u64,
}

/// The agent's gate asked about a call that was decided while it was held or deferred, and was told the decision. Once a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolAnswered {
    pub call: u64,
    /// The agent's id of its question.
    pub request_id: String,
    /// Number of the frame that carries the decision.
    pub frame: u64,
}

/// How a session is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseMode {
    /// The agent has ended by itself and can be started anew; nothing of the session runs. Only the host does this, and only the host
    /// ends it (the first pause there was, so logs do not say it).
    #[default]
    Away,
    /// Every process of its tree is stopped (SIGSTOP).
    Freeze,
    /// Its processes run on, and each tool call waits at the gate.
    Hold,
}

impl PauseMode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Freeze => "freeze",
            Self::Hold => "hold",
        }
    }

    // why by reference: serde calls it so.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    const fn is_away(&self) -> bool {
        matches!(self, Self::Away)
    }
}

/// Nothing of the session goes on until it is continued, or started anew.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SessionPaused {
    pub reason: String,
    #[serde(default, skip_serializing_if = "PauseMode::is_away")]
    pub mode: PauseMode,
    /// Who paused it, where it was not the host for reasons of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Actor>,
    /// The call at which it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
}

/// A pause is over: the same agent goes on, and is told what was decided meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionContinued {
    pub mode: PauseMode,
    pub by: Actor,
    /// How long the pause was, by the wall clock.
    pub paused_ms: u64,
}

/// The agent is about to be started anew, as the attempt of this event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionResumed {
    /// The agent's own id of the conversation that it goes on from.
    pub from: String,
    /// The call that its gate must ask about first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
}

/// Of logs from before a session could be started anew without that.
const fn yes() -> bool {
    true
}
