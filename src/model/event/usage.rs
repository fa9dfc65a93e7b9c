//! Event bodies of what models used: where the agent's own total is another, and limits of a session. Written by `session::usage`.

use serde::{Deserialize, Serialize};

use crate::model::id::SessionId;
use crate::model::limits::{LimitKind, UsageLimits};
use crate::model::usage::Nanousd;

/// At the end of a turn the agent's own total was not what the log adds up to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageDisagreed {
    /// Sum over responses with a known price; none where no response has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ours: Option<Nanousd>,
    pub theirs: Nanousd,
    /// `ours` less `theirs`, where all responses have a price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<i64>,
    /// So much more or less is still agreement.
    pub tolerance: Nanousd,
    pub why: String,
}

/// What the session may use, from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageLimitsSet {
    pub limits: UsageLimits,
}

/// A limit was passed: no further call runs, and the session ends when those that run are done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageLimitExceeded {
    pub limit: LimitKind,
    /// What was used; absent where that cannot be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<u64>,
    pub max: u64,
    /// `nanousd`, `tokens`, `turns` or `ms`.
    pub unit: String,
    pub reason: String,
    /// The session whose limit it is, where that counts all below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<SessionId>,
}
