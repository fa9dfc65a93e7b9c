//! Event bodies of a session that is put away at a call that waits, and started anew. Written by `session::park` and `session::relaunch`.

use serde::{Deserialize, Serialize};

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

/// The agent has ended by itself and can be started anew; nothing of the session runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPaused {
    pub reason: String,
    /// The call at which it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
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
