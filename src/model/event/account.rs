//! Bodies of the events by which effects reach the log: what witnesses beside the agent's own stream say of calls.

use serde::{Deserialize, Serialize};

/// Who saw an effect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Witness {
    /// The driver's channel: what the agent reports to the host.
    #[default]
    Stream,
    /// The agent's own record of its conversation.
    Transcript,
    /// A report of the agent's hooks after a call.
    Hook,
}

impl Witness {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Transcript => "transcript",
            Self::Hook => "hook",
        }
    }
}

/// Where the agent keeps its own record, so that a later daemon reads on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranscriptNamed {
    /// The folder of all its records; nothing is read outside of it.
    pub root: String,
    /// The agent's own id of this conversation, which names the files.
    pub conversation: String,
    /// Bytes of its file that the host wrote itself: nothing in them is news.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub written: u64,
}

// why by reference: serde calls it so.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What a witness reported since the last such event. Results in the stream are `tool_ended` events of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectsObserved {
    pub witness: Witness,
    /// The file it was read from, relative to its root.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Bytes of that file that are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upto: Option<u64>,
    pub effects: Vec<EffectSeen>,
}

/// One result of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectSeen {
    pub call_id: String,
    pub is_error: bool,
    /// Something was executed: every success, and an error that only an execution gives.
    pub ran: bool,
}
