//! What a session may use: money, tokens, turns, time.
//!
//! Invariants: a limit is the most that may be used, so it is passed only by more; money that cannot be known counts as passed, unless
//! the operator takes that risk (`limits.unknown_cost`). Called by `session` (which stops at a limit), `api` and `cli`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::event::UsageLimitExceeded;
use super::id::SessionId;
use super::ledger::UNPRICED_MAX;
use super::session::Session;
use super::usage::{Nanousd, usd};

/// Limits of one session; what is not set does not bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageLimits {
    /// In billionths of a dollar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_nanousd: Option<Nanousd>,
    /// Of all kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Prompts that are answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns: Option<u64>,
    /// From the first start on, waiting included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
    /// They count all sessions below this one, too; when one is passed, the whole tree is stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tree: bool,
}

/// Which limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    Cost,
    Tokens,
    Turns,
    Time,
}

impl LimitKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::Tokens => "tokens",
            Self::Turns => "turns",
            Self::Time => "time",
        }
    }

    pub const fn unit(self) -> &'static str {
        match self {
            Self::Cost => "nanousd",
            Self::Tokens => "tokens",
            Self::Turns => "turns",
            Self::Time => "ms",
        }
    }
}

impl UsageLimits {
    pub const fn is_empty(&self) -> bool {
        self.cost_nanousd.is_none() && self.tokens.is_none() && self.turns.is_none() && self.time_ms.is_none()
    }

    /// Whether they need an agent that tells what it uses.
    pub const fn needs_reports(&self) -> bool {
        self.cost_nanousd.is_some() || self.tokens.is_some() || self.turns.is_some()
    }

    /// The first limit that a session has passed; `prompts` are those it was given, `now` in milliseconds.
    pub fn exceeded(&self, s: &Session, prompts: u64, now: i64) -> Option<UsageLimitExceeded> {
        self.passed(&Used::of(s, prompts), now, None)
    }

    /// The first limit that is passed by this; `tree` is the session whose limits they are, where all below it counts.
    pub fn passed(&self, used: &Used, now: i64, tree: Option<&SessionId>) -> Option<UsageLimitExceeded> {
        let whose = whose(tree);
        let over = |limit: LimitKind, value: u64, max: u64, shown: String| {
            let (unit, tree) = (limit.unit().to_owned(), tree.cloned());
            (value > max).then_some(UsageLimitExceeded { limit, value: Some(value), max, unit, reason: shown, tree })
        };
        let cost = |max: Nanousd| {
            let value = used.cost;
            over(LimitKind::Cost, value, max, format!("cost {} is over {whose} limit of {}", usd(value), usd(max)))
        };
        let tokens = |max: u64| {
            let value = used.tokens;
            over(LimitKind::Tokens, value, max, format!("{value} tokens are over {whose} limit of {max}"))
        };
        let turns = |max: u64| {
            let value = used.turns;
            over(LimitKind::Turns, value, max, format!("turn {value} would be over {whose} limit of {max}"))
        };
        let time = |max: u64| {
            let value = u64::try_from(now.saturating_sub(used.started_at.unwrap_or(now))).unwrap_or(0);
            over(LimitKind::Time, value, max, format!("{value} ms are over {whose} limit of {max} ms"))
        };
        None.or_else(|| self.cost_nanousd.and_then(cost))
            .or_else(|| self.tokens.and_then(tokens))
            .or_else(|| self.turns.and_then(turns))
            .or_else(|| self.time_ms.and_then(time))
    }

    /// A limit of money that cannot be held, because some of the cost is not known.
    pub fn unknown(&self, used: &Used, tree: Option<&SessionId>) -> Option<UsageLimitExceeded> {
        let max = self.cost_nanousd.filter(|_| used.unpriced > 0)?;
        let models: Vec<&str> = used.unpriced_models.iter().map(String::as_str).collect();
        let who = tree.map_or_else(|| "the session".to_owned(), |root| format!("the tree of session {root}"));
        let reason = format!(
            "{who} has a limit of {} and its cost is not known: no price for {}; add one to the price table, or set \
             limits.unknown_cost = \"warn\"",
            usd(max),
            models.join(", ")
        );
        let unit = LimitKind::Cost.unit().to_owned();
        Some(UsageLimitExceeded { limit: LimitKind::Cost, value: None, max, unit, reason, tree: tree.cloned() })
    }
}

fn whose(tree: Option<&SessionId>) -> String {
    tree.map_or_else(|| "the session's".to_owned(), |root| format!("the tree's (session {root} and all below it)"))
}

/// What was used, of what limits count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Used {
    pub cost: Nanousd,
    pub tokens: u64,
    /// Prompts.
    pub turns: u64,
    pub unpriced: u64,
    pub unpriced_models: BTreeSet<String>,
    pub started_at: Option<i64>,
}

impl Used {
    /// By one session, which was given so many prompts.
    pub fn of(s: &Session, prompts: u64) -> Self {
        Self {
            cost: s.cost.unwrap_or(0),
            tokens: s.usage.total(),
            turns: prompts,
            unpriced: s.unpriced,
            unpriced_models: s.unpriced_models.clone(),
            started_at: s.started_at,
        }
    }

    /// Field by field the larger: what was used is never less later.
    #[must_use]
    pub fn at_least(&self, was: &Self) -> Self {
        Self {
            cost: self.cost.max(was.cost),
            tokens: self.tokens.max(was.tokens),
            turns: self.turns.max(was.turns),
            unpriced: self.unpriced.max(was.unpriced),
            unpriced_models: self.unpriced_models.union(&was.unpriced_models).take(UNPRICED_MAX).cloned().collect(),
            started_at: self.started_at,
        }
    }

    /// A sum in which one part was `was` and is `now`.
    pub fn grow(&mut self, was: &Self, now: &Self) {
        let add = |sum: u64, was: u64, now: u64| sum.saturating_add(now.saturating_sub(was));
        self.cost = add(self.cost, was.cost, now.cost);
        self.tokens = add(self.tokens, was.tokens, now.tokens);
        self.turns = add(self.turns, was.turns, now.turns);
        self.unpriced = add(self.unpriced, was.unpriced, now.unpriced);
        self.unpriced_models.extend(now.unpriced_models.iter().cloned());
        while self.unpriced_models.len() > UNPRICED_MAX {
            self.unpriced_models.pop_last();
        }
    }
}
