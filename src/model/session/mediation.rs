//! What stands between an agent and its tools. In `session_created`, and only ever lowered.

use serde::{Deserialize, Serialize};

/// What stands between the agent and its tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mediation {
    /// Nothing: the host sees processes and output only.
    None,
    /// Hooks, which fail open when the agent breaks them.
    Hooks,
    /// The agent's own approval channel: no call runs without an answer.
    Gate,
}

impl Mediation {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Hooks => "hooks",
            Self::Gate => "gate",
        }
    }
}
