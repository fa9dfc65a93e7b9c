//! What a replay found: recorded calls that another chain would decide otherwise. Plain data.
//!
//! Called by `policy` (which judges), `session` and `cli` (which read the logs), `api` (which carries it).

use serde::{Deserialize, Serialize};

use super::decision::Effect;

/// What no replay can know, said wherever one is shown.
pub const REPLAY_LIMITS: &str = "A replay judges the calls as they were recorded: paths as they led then, secrets as the log keeps them (masked), \
     rules, projects and defaults as they are now. Not known to it: what files held then, what policies kept of earlier calls, what a person would have answered, what the agent would have \
     done next, and settings that a policy tightened for one session.";

/// One recorded call that would be decided otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplayChange {
    pub session: String,
    /// seq of its `tool_requested` event.
    pub call: u64,
    pub tool: String,
    /// Its command, path or address, shortened.
    pub about: String,
    /// What the chain said: allow, ask or deny.
    pub was: Effect,
    pub would: Effect,
    /// The rewritten input differs: added, dropped or another one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub input_differs: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was_rule: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    pub reason: String,
    /// Policies that failed this time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// Less strict than it was. Another input counts too: which of two is the stricter, nobody can tell.
    pub loosens: bool,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// Calls that were judged anew.
    pub judged: u64,
    /// Calls that were not: the host itself decided them, or they were never decided.
    pub skipped: u64,
    pub changed: u64,
    pub loosened: u64,
    /// Not all calls were judged: there were more, or the time was over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// The first of them.
    pub changes: Vec<ReplayChange>,
}

impl Replay {
    /// Counts one judged call, and keeps its change while there is room for `max`.
    pub fn take(&mut self, change: Option<ReplayChange>, max: usize) {
        self.judged += 1;
        let Some(change) = change else { return };
        self.changed += 1;
        self.loosened += u64::from(change.loosens);
        if self.changes.len() < max {
            self.changes.push(change);
        }
    }
}
