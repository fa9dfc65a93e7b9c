//! The account of a session on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::account::{Account, Breach, End, Row, Seen};
use crate::model::{Effect, Mediation, Session, format_ms};

/// Calls of one account document; `call_count` and `ends` count all.
pub const ACCOUNT_CALLS_MAX: usize = 10_000;
/// Breaches of one account document; the newest are given.
pub const ACCOUNT_BREACHES_MAX: usize = 1000;

/// Query of `GET /v1/sessions/{id}/account`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountQuery {
    /// Only calls with an end that the log does not explain.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unexplained: bool,
}

/// Decisions joined with effects: how each call ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccountDoc {
    pub session: String,
    pub mediation: Mediation,
    /// Nothing is unexplained and no breach was recorded.
    pub clean: bool,
    /// The agent has ended.
    pub over: bool,
    /// seq of the newest event that was joined.
    pub last_seq: u64,
    pub call_count: u64,
    /// Calls by their end; every end is named.
    pub ends: BTreeMap<String, u64>,
    pub unexplained_count: u64,
    pub breach_count: u64,
    /// Calls with a report of each witness.
    pub witnesses: BTreeMap<String, u64>,
    /// The oldest calls of a very long session, no longer joined.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub forgotten_count: u64,
    /// In order of appearance; the newest where there are more than fit.
    pub calls: Vec<AccountCallDoc>,
    pub breaches: Vec<BreachDoc>,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccountCallDoc {
    /// seq of its `tool_requested` event; absent for what was never asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    pub tool: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
    /// It was told to use another input.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub changed: bool,
    pub end: End,
    /// What each witness saw: `ok`, `failed` (it ran and failed), `error` (an error that shows no run).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub seen: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A breach on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreachDoc {
    pub seq: u64,
    pub at: String,
    pub what: String,
    pub detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
    pub action: String,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // why: serde calls it with a reference.
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl AccountDoc {
    pub fn new(session: &Session, account: &Account, q: &AccountQuery) -> Self {
        let counts = account.counts();
        let wanted = |r: &&Row| !q.unexplained || !r.end(account.over).explained();
        let mut calls: Vec<_> = account.rows().rev().filter(wanted).take(ACCOUNT_CALLS_MAX).map(|r| row(r, account.over)).collect();
        calls.reverse();
        let seen = |of: fn(&Row) -> Option<Seen>| account.rows().map(|r| u64::from(of(r).is_some())).sum::<u64>();
        let first = account.breaches.len().saturating_sub(ACCOUNT_BREACHES_MAX);
        let unexplained_count = account.unexplained();
        Self {
            session: session.id.to_string(),
            mediation: session.mediation,
            clean: unexplained_count == 0 && account.breaches.is_empty(),
            over: account.over,
            last_seq: session.last_seq,
            call_count: counts.values().sum::<u64>() + account.forgotten,
            ends: End::ALL.into_iter().map(|e| (e.as_str().to_owned(), counts.get(&e).copied().unwrap_or(0))).collect(),
            unexplained_count,
            breach_count: account.breaches.len() as u64,
            witnesses: [("stream", seen(|r| r.stream)), ("transcript", seen(|r| r.transcript)), ("hook", seen(|r| r.hook))]
                .map(|(k, n)| (k.to_owned(), n))
                .into(),
            forgotten_count: account.forgotten,
            calls,
            breaches: account.breaches[first..].iter().map(breach).collect(),
        }
    }
}

fn row(r: &Row, over: bool) -> AccountCallDoc {
    let word = |s: Seen| match (s.is_error, s.ran) {
        (false, _) => "ok",
        (true, true) => "failed",
        (true, false) => "error",
    };
    let seen = [("stream", r.stream), ("transcript", r.transcript), ("hook", r.hook)];
    AccountCallDoc {
        call: r.call,
        call_id: r.call_id.clone(),
        tool: r.tool.clone(),
        effect: r.effect,
        changed: r.changed,
        end: r.end(over),
        seen: seen.into_iter().filter_map(|(k, s)| Some((k.to_owned(), word(s?).to_owned()))).collect(),
        why: r.unexplained.clone(),
    }
}

fn breach(b: &Breach) -> BreachDoc {
    let (what, detail, action) = (b.what.clone(), b.detail.clone(), b.action.clone());
    BreachDoc { seq: b.seq, at: format_ms(b.at), what, detail, call: b.call, action }
}
