//! What a caller plans: how often work is tried, by which tiers, and who judges it.
//!
//! Called by `api` (the request), `cli` (ladder files) and `session` (which checks and keeps it).

use serde::{Deserialize, Serialize};

/// Most tiers of a ladder, and attempts of one tier.
pub const TIERS_MAX: usize = 16;
pub const TIER_ATTEMPTS_MAX: u32 = 100;
/// Longest time between two attempts, and of one verification.
pub const BACKOFF_MAX_MS: u64 = 24 * 3_600_000;
pub const VERIFY_MAX_MS: u64 = 24 * 3_600_000;

/// When the worktree of an attempt is kept as a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checkpointing {
    /// Of attempts that are good.
    #[default]
    Success,
    Always,
    Never,
}

impl Checkpointing {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Always => "always",
            Self::Never => "never",
        }
    }

    pub fn parse(s: &str) -> Option<Self> {
        [Self::Success, Self::Always, Self::Never].into_iter().find(|c| c.as_str() == s)
    }
}

/// When the host starts a session's agent once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    #[default]
    No,
    /// When the agent is lost (with its shim, with the machine), or fails.
    OnFailure,
    /// When it has ended by itself, whatever came of it, too.
    Always,
}

impl Restart {
    /// From the loosest to the strictest, as settings name them.
    pub const WORDS: [&'static str; 3] = ["always", "on-failure", "no"];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
        }
    }

    pub fn parse(s: &str) -> Option<Self> {
        [Self::No, Self::OnFailure, Self::Always].into_iter().find(|r| r.as_str() == s)
    }

    pub const fn is_no(&self) -> bool {
        matches!(self, Self::No)
    }
}

/// A plan. Without tiers the session's own agent is the only one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttemptPlan {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<PlanTier>,
    /// Further attempts where there are no tiers.
    #[serde(default)]
    pub retries: u32,
    /// Milliseconds before the second attempt of a tier, doubled for each further one.
    #[serde(default = "AttemptPlan::backoff")]
    pub backoff_ms: u64,
    #[serde(default = "AttemptPlan::backoff_max")]
    pub backoff_max_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verifier: Option<PlanVerifier>,
    #[serde(default)]
    pub checkpoint: Checkpointing,
    /// As configured (`session.restart`) when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
}

impl AttemptPlan {
    /// A plan of one attempt that nobody judges and nothing is kept of.
    pub fn once(restart: Option<Restart>) -> Self {
        Self {
            backoff_ms: Self::backoff(),
            backoff_max_ms: Self::backoff_max(),
            checkpoint: Checkpointing::Never,
            restart,
            ..Self::default()
        }
    }

    /// Nothing but a restart is planned.
    pub fn is_once(&self) -> bool {
        self.tiers.is_empty() && self.retries == 0 && self.verifier.is_none() && self.checkpoint == Checkpointing::Never
    }

    pub const fn backoff() -> u64 {
        1_000
    }

    pub const fn backoff_max() -> u64 {
        60_000
    }
}

/// One step of a ladder.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanTier {
    pub name: String,
    /// `local`, `sub-agent` or `managed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// `generic` where it is left out and a command is given.
    #[serde(default)]
    pub agent: String,
    /// Program and arguments of a generic agent; for others further arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How often it is tried; once where it is left out.
    #[serde(default = "one")]
    pub attempts: u32,
    /// How long one attempt may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
}

/// The command that judges an attempt with which the agent is content.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanVerifier {
    pub command: Vec<String>,
    #[serde(default = "PlanVerifier::deadline")]
    pub deadline_ms: u64,
}

impl PlanVerifier {
    pub const fn deadline() -> u64 {
        600_000
    }
}

const fn one() -> u32 {
    1
}
