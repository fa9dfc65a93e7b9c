//! Event bodies of a question to a person and of its answer. Written by `session::gate`, folded by `model::approval`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::approval::ApprovalState;
use crate::model::decision::{Answer, Effect};
use crate::model::id::RuleId;

use super::Actor;

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ApprovalRequested {
    pub call: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tool: String,
    /// The command, path or address that the call is about, shortened: lists and notifications need no more.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The policies' answers, so that a later decision can be recorded whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<Answer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_input: Option<Value>,
    pub expires_at: i64,
    /// Two persons must allow it; one denies it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub two_person: bool,
    /// The agent waits before its gate, at which it asks once this is decided: BLAKE3 of the input, hex, that it must then ask about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

/// The first of two persons allowed it. Whose key that was is in `by`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApprovalEndorsed {
    pub call: u64,
    pub reason: String,
    pub by: Actor,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApprovalResolved {
    pub call: u64,
    /// `allow` or `deny`.
    pub effect: Effect,
    pub reason: String,
    pub by: Actor,
    /// How it ended; logs of before this was recorded have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<ApprovalState>,
    /// Rules that the answer added (`--always`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleId>,
}

impl ApprovalResolved {
    /// How it ended, where it was not recorded told by who gave the answer.
    pub fn state(&self) -> ApprovalState {
        self.state.unwrap_or(match self.effect {
            Effect::Allow => ApprovalState::Approved,
            _ if self.by.role == "host" => ApprovalState::Cancelled,
            _ => ApprovalState::Denied,
        })
    }
}
