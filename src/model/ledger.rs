//! The usage ledger: one record per model call, as a fold over a session's events, and sums over records.
//!
//! | source | what |
//! | --- | --- |
//! | `main` | a message of the session's own agent |
//! | `sub_agent` | a message of one of its sub-agents |
//! | `unattributed` | what only the agent's own totals tell of (compaction, titles, a sub-agent's final counts): tokens, but no known number of calls |
//!
//! Invariants:
//! - a message is one record, however often and in how many parts it is reported; its parts add up;
//! - the sums of a session's records are what its [`Session`](super::Session) says;
//! - sums are wider than what they add, and what does not fit is said, never cut.
//!
//! Called by `store` (the projection, and grouping it) and `api`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::event::{Envelope, Event, ModelResponded};
use super::usage::{Nanousd, UNATTRIBUTED, Usage};

/// Most models without a price that one sum names.
pub const UNPRICED_MAX: usize = 20;
/// Most rows of one grouping; the rest are added up under [`OTHER`].
pub const GROUPS_MAX: usize = 1_000;
/// Name of the row that holds what is over [`GROUPS_MAX`].
pub const OTHER: &str = "(others)";

/// Whose call it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    Main,
    SubAgent,
    Unattributed,
}

impl Source {
    pub const ALL: [Self; 3] = [Self::Main, Self::SubAgent, Self::Unattributed];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::SubAgent => "sub_agent",
            Self::Unattributed => UNATTRIBUTED,
        }
    }

    pub fn parse(s: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == s)
    }

    fn of(m: &ModelResponded) -> Self {
        match m.parent_call_id.as_deref() {
            None => Self::Main,
            Some(UNATTRIBUTED) => Self::Unattributed,
            Some(_) => Self::SubAgent,
        }
    }
}

/// One model call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRecord {
    /// When it was first reported.
    pub at: i64,
    pub attempt: u32,
    pub model: String,
    pub source: Source,
    pub usage: Usage,
    /// What its priced parts cost; none where no part has a price.
    pub cost: Option<Nanousd>,
    /// Parts without a price.
    pub unpriced: u64,
    /// BLAKE3 of the price table that was asked last, hex.
    pub prices: Option<String>,
}

/// The records of one session, by message id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger(pub BTreeMap<String, UsageRecord>);

impl Ledger {
    /// Folds one event of the log, oldest first.
    pub fn fold(&mut self, e: &Envelope) {
        let Event::ModelResponded(m) = &e.event else { return };
        match self.0.get_mut(&m.message_id) {
            Some(r) => r.add(m),
            None => drop(self.0.insert(m.message_id.clone(), UsageRecord::begin(e, m))),
        }
    }
}

impl UsageRecord {
    pub fn begin(e: &Envelope, m: &ModelResponded) -> Self {
        Self {
            at: e.at,
            attempt: e.attempt,
            model: m.model.clone(),
            source: Source::of(m),
            usage: m.usage,
            cost: m.cost,
            unpriced: u64::from(m.cost.is_none()),
            prices: m.prices.clone(),
        }
    }

    /// A later part of the same message.
    pub fn add(&mut self, m: &ModelResponded) {
        self.usage = self.usage.plus(m.usage);
        match (self.cost, m.cost) {
            // why i64: the store keeps signed numbers.
            (Some(a), Some(b)) => match a.checked_add(b).filter(|sum| i64::try_from(*sum).is_ok()) {
                Some(sum) => self.cost = Some(sum),
                None => self.unpriced += 1,
            },
            (None, b) if b.is_some() => self.cost = b,
            (_, None) => self.unpriced += 1,
            _ => {}
        }
        self.prices = m.prices.clone().or(self.prices.take());
    }
}

/// What records are grouped by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dimension {
    Model,
    Agent,
    /// The value of a label.
    Label(String),
    Phase,
    Owner,
    Tenant,
    /// The session that all of it was started for: the root of its parents.
    Tree,
    Day,
    Attempt,
    Session,
    Source,
}

impl Dimension {
    pub const NAMES: &'static str = "model, agent, label:KEY, phase, owner, tenant, day, tree, attempt, session or source";

    /// Reads `model`, `label:team`, …
    pub fn parse(s: &str) -> Option<Self> {
        Some(match s {
            "model" => Self::Model,
            "agent" => Self::Agent,
            "phase" => Self::Phase,
            "owner" => Self::Owner,
            "tenant" => Self::Tenant,
            "tree" => Self::Tree,
            "day" => Self::Day,
            "attempt" => Self::Attempt,
            "session" => Self::Session,
            "source" => Self::Source,
            _ => Self::Label(s.strip_prefix("label:").filter(|k| !k.is_empty())?.to_owned()),
        })
    }

    pub fn name(&self) -> String {
        match self {
            Self::Model => "model".to_owned(),
            Self::Agent => "agent".to_owned(),
            Self::Label(k) => format!("label:{k}"),
            Self::Phase => "phase".to_owned(),
            Self::Owner => "owner".to_owned(),
            Self::Tenant => "tenant".to_owned(),
            Self::Tree => "tree".to_owned(),
            Self::Day => "day".to_owned(),
            Self::Attempt => "attempt".to_owned(),
            Self::Session => "session".to_owned(),
            Self::Source => "source".to_owned(),
        }
    }

    /// Whether all records of one session fall into one group, so that what is counted by session can be given too.
    pub const fn is_of_session(&self) -> bool {
        matches!(self, Self::Agent | Self::Label(_) | Self::Phase | Self::Owner | Self::Tenant | Self::Tree | Self::Session)
    }
}

/// A sum over records, wide enough for any number of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LedgerSum {
    /// Model calls that were seen; what is unattributed is not counted.
    pub calls: u64,
    input: u128,
    output: u128,
    cache_read: u128,
    cache_write: u128,
    cache_write_1h: u128,
    reasoning: Option<u128>,
    cost: Option<u128>,
    /// Records that have a part without a price.
    pub unpriced: u64,
    /// Their models, at most [`UNPRICED_MAX`].
    pub unpriced_models: BTreeSet<String>,
}

impl LedgerSum {
    /// Adds one record.
    pub fn add(&mut self, model: &str, source: Source, u: Usage, cost: Option<Nanousd>, unpriced: u64) {
        self.calls += u64::from(source != Source::Unattributed);
        for (sum, n) in [
            (&mut self.input, u.input),
            (&mut self.output, u.output),
            (&mut self.cache_read, u.cache_read),
            (&mut self.cache_write, u.cache_write),
            (&mut self.cache_write_1h, u.cache_write_1h),
        ] {
            *sum += u128::from(n);
        }
        if let Some(r) = u.reasoning {
            *self.reasoning.get_or_insert(0) += u128::from(r);
        }
        if let Some(c) = cost {
            *self.cost.get_or_insert(0) += u128::from(c);
        }
        if unpriced > 0 {
            self.unpriced += 1;
            if self.unpriced_models.len() < UNPRICED_MAX && !self.unpriced_models.contains(model) {
                self.unpriced_models.insert(model.to_owned());
            }
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        self.input += other.input;
        self.output += other.output;
        self.cache_read += other.cache_read;
        self.cache_write += other.cache_write;
        self.cache_write_1h += other.cache_write_1h;
        let both = |a: Option<u128>, b: Option<u128>| if a.is_none() { b } else { Some(a.unwrap_or(0) + b.unwrap_or(0)) };
        self.reasoning = both(self.reasoning, other.reasoning);
        self.cost = both(self.cost, other.cost);
        self.unpriced += other.unpriced;
        let room = UNPRICED_MAX.saturating_sub(self.unpriced_models.len());
        let new: Vec<String> = other.unpriced_models.difference(&self.unpriced_models).take(room).cloned().collect();
        self.unpriced_models.extend(new);
    }

    /// Tokens; `None` when a sum does not fit its number.
    pub fn usage(&self) -> Option<Usage> {
        let n = |v: u128| u64::try_from(v).ok();
        Some(Usage {
            input: n(self.input)?,
            output: n(self.output)?,
            cache_read: n(self.cache_read)?,
            cache_write: n(self.cache_write)?,
            cache_write_1h: n(self.cache_write_1h)?,
            reasoning: self.reasoning.map(n).map_or(Some(None), |r| r.map(Some))?,
        })
    }

    /// The known part of the cost; a sum that does not fit is an error, no number.
    pub fn cost(&self) -> Result<Option<Nanousd>, Overflow> {
        self.cost.map(|c| u64::try_from(c).map_err(|_| Overflow)).transpose()
    }

    /// What rows are ordered by: cost, then tokens.
    fn weight(&self) -> (u128, u128) {
        (self.cost.unwrap_or(0), self.input + self.output + self.cache_read + self.cache_write)
    }
}

/// A sum that its number cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sum is over 18446744073709551615; narrow it with --since, --until or --session")]
pub struct Overflow;

/// One row of a grouping.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    pub sum: LedgerSum,
    /// Sessions in it.
    pub sessions: u64,
    /// Tool calls of those sessions, where all of a session is in one group.
    pub tool_calls: Option<u64>,
    /// Their time from start to end, or until now; of attempts, theirs.
    pub duration_ms: Option<u64>,
}

/// Records grouped by one dimension.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grouped {
    /// In the order in which they are shown.
    pub rows: Vec<(String, Group)>,
    pub all: LedgerSum,
    pub sessions: u64,
    /// Rows that went into [`OTHER`].
    pub left_out: u64,
}

/// Orders rows (days and attempts by their number, others by cost, then tokens, then name) and caps them.
pub fn ordered(by: &Dimension, groups: HashMap<String, Group>) -> (Vec<(String, Group)>, u64) {
    let mut rows: Vec<(String, Group)> = groups.into_iter().collect();
    match by {
        Dimension::Day => rows.sort_by(|a, b| a.0.cmp(&b.0)),
        Dimension::Attempt => rows.sort_by_key(|(k, _)| k.parse::<u64>().unwrap_or(u64::MAX)),
        _ => rows.sort_by(|a, b| b.1.sum.weight().cmp(&a.1.sum.weight()).then_with(|| a.0.cmp(&b.0))),
    }
    let rest: Vec<(String, Group)> = if rows.len() > GROUPS_MAX { rows.split_off(GROUPS_MAX) } else { Vec::new() };
    let left_out = rest.len() as u64;
    if left_out > 0 {
        let mut other = Group::default();
        let add = |a: &mut Option<u64>, b: Option<u64>| {
            if let Some(b) = b {
                *a = Some(a.unwrap_or(0).saturating_add(b));
            }
        };
        for (_, g) in rest {
            other.sum.merge(&g.sum);
            other.sessions += g.sessions;
            add(&mut other.tool_calls, g.tool_calls);
            add(&mut other.duration_ms, g.duration_ms);
        }
        rows.push((OTHER.to_owned(), other));
    }
    (rows, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(n: u64) -> Usage {
        Usage { input: n, output: 1, ..Usage::default() }
    }

    #[test]
    fn sums_are_exact_and_an_unknown_cost_is_named() {
        let mut s = LedgerSum::default();
        s.add("m", Source::Main, usage(5), Some(7), 0);
        s.add("odd", Source::SubAgent, usage(5), None, 1);
        s.add("m", Source::Unattributed, usage(1), Some(1), 0);
        assert_eq!((s.calls, s.cost(), s.unpriced), (2, Ok(Some(8)), 1));
        assert_eq!(s.usage().map(|u| (u.input, u.output, u.reasoning)), Some((11, 3, None)));
        assert_eq!(s.unpriced_models.iter().map(String::as_str).collect::<Vec<_>>(), ["odd"]);
        assert_eq!(LedgerSum::default().cost(), Ok(None), "no call is no cost, not zero");
        s.add("m", Source::Main, usage(u64::MAX), Some(u64::MAX), 0);
        assert_eq!((s.cost(), s.usage()), (Err(Overflow), None), "said, not cut");
    }

    #[test]
    fn rows_are_ordered_and_capped() {
        let group = |cost: u64| {
            let mut g = Group { sessions: 1, ..Group::default() };
            g.sum.add("m", Source::Main, usage(1), Some(cost), 0);
            g
        };
        let many: HashMap<String, Group> = (0..GROUPS_MAX as u64 + 5).map(|n| (format!("s{n}"), group(n))).collect();
        let (rows, left_out) = ordered(&Dimension::Session, many);
        assert_eq!((rows.len(), left_out, rows[0].0.as_str()), (GROUPS_MAX + 1, 5, "s1004"));
        assert_eq!(rows.last().map(|(k, g)| (k.as_str(), g.sessions, g.sum.cost())), Some((OTHER, 5, Ok(Some(10)))));
        let attempts: HashMap<String, Group> = ["10", "9"].map(|k| (k.to_owned(), group(1))).into_iter().collect();
        assert_eq!(ordered(&Dimension::Attempt, attempts).0[0].0, "9");
    }

    #[test]
    fn dimensions_are_read_and_named() {
        for d in ["model", "agent", "label:team", "phase", "owner", "tenant", "tree", "day", "attempt", "session", "source"] {
            assert_eq!(Dimension::parse(d).map(|x| x.name()).as_deref(), Some(d));
        }
        assert_eq!((Dimension::parse("label:"), Dimension::parse("nose")), (None, None));
    }
}
