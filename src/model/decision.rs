//! What policies answer, and the one fold that turns many answers into an effect.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Ordered by strictness; the strictest of all answers holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// No opinion.
    Abstain,
    Allow,
    /// A person must answer.
    Ask,
    Deny,
}

impl Effect {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Abstain => "abstain",
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }
}

/// The strictest of all effects; `Abstain` when there is none. Associative and commutative.
pub fn fold(effects: impl IntoIterator<Item = Effect>) -> Effect {
    effects.into_iter().max().unwrap_or(Effect::Abstain)
}

/// One policy's answer to one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub effect: Effect,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The rule that led to it, in the policy's own notation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// A replacement for the tool's input (a JSON object), at most one per policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_input: Option<Value>,
}

impl Decision {
    pub fn new(effect: Effect, reason: impl Into<String>) -> Self {
        Self { effect, reason: reason.into(), rule: None, updated_input: None }
    }
}

/// Whether a policy's answer binds or is only written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    #[default]
    Enforce,
    Monitor,
}

/// What a failed policy call counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    #[default]
    Deny,
    Ask,
    Abstain,
}

impl OnFailure {
    pub const fn effect(self) -> Effect {
        match self {
            Self::Deny => Effect::Deny,
            Self::Ask => Effect::Ask,
            Self::Abstain => Effect::Abstain,
        }
    }
}

/// Why a plugin gave no usable answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCause {
    /// It could not be loaded or configured.
    Load,
    Trap,
    Deadline,
    Memory,
    /// It answered outside its contract (not JSON, over a size limit, a second rewrite).
    BadAnswer,
    /// It failed too often and is not asked any more.
    Quarantined,
    /// The host had no free place for the call within the deadline.
    Busy,
}

impl FailureCause {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::BadAnswer => "bad_answer",
            Self::Quarantined => "quarantined",
            Self::Busy => "busy",
        }
    }
}

/// One policy's part in a decision, as recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The policy's name in the configuration.
    pub policy: String,
    /// BLAKE3 of the component, hex.
    pub digest: String,
    pub mode: Mode,
    #[serde(flatten)]
    pub decision: Decision,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailureCause>,
    pub latency_us: u64,
}

/// Who had the last word on a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The policies' fold.
    Policy,
    /// All abstained: the configured default.
    Default,
    /// A person.
    Approval,
    /// The agent's own prompt: the ask was handed to its user.
    Agent,
    /// An ask that nobody could answer.
    Unattended,
    /// An ask that nobody answered in time.
    Expired,
    /// An ask that went away: the agent withdrew it, or ended.
    Withdrawn,
    /// A rule of the host itself, before any policy (own folders, forged or oversized requests).
    Host,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn effect() -> impl Strategy<Value = Effect> {
        prop_oneof![Just(Effect::Abstain), Just(Effect::Allow), Just(Effect::Ask), Just(Effect::Deny)]
    }

    proptest! {
        #[test]
        fn deny_wins_and_order_does_not_matter(mut v in proptest::collection::vec(effect(), 0..8), cut in 0usize..8) {
            let whole = fold(v.iter().copied());
            let cut = cut.min(v.len());
            prop_assert_eq!(fold([fold(v[..cut].iter().copied()), fold(v[cut..].iter().copied())]), whole);
            v.reverse();
            prop_assert_eq!(fold(v.iter().copied()), whole);
            if v.contains(&Effect::Deny) { prop_assert_eq!(whole, Effect::Deny); }
        }
    }
}
