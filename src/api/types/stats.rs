//! Totals over sessions.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Money;
use crate::model::ledger::UNPRICED_MAX;
use crate::model::{Session, Usage};

/// Most sessions that are added up, newest first; with more the answer says `truncated`.
pub const STATS_MAX: u64 = 100_000;
/// Most agents and models with a row of their own; what is over it counts under `other`.
pub const STATS_ROWS: usize = 100;

/// Which sessions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatsQuery {
    /// RFC 3339: sessions created at or after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// RFC 3339: sessions created before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// `key=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// Sums over some sessions. `cost` is null where no response had a known price; where `unpriced` names models it is a lower bound.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sums {
    pub session_count: u64,
    pub turn_count: u64,
    pub call_count: u64,
    pub allowed_count: u64,
    pub denied_count: u64,
    pub asked_count: u64,
    pub rewritten_count: u64,
    pub breach_count: u64,
    pub plugin_failure_count: u64,
    /// Writes of other programs that their emitters gave up.
    #[serde(default)]
    pub writes_lost_count: u64,
    /// Sessions with an attempt that was taken back. Marked, not left out: what they used was used.
    #[serde(default)]
    pub rolled_back_count: u64,
    pub usage: Usage,
    pub cost: Option<Money>,
    /// Responses that are not in `cost`.
    pub unpriced_count: u64,
    /// Their models, at most 20.
    pub unpriced: BTreeSet<String>,
    /// From start to end, of those that have not ended until now.
    pub duration_ms: u64,
}

/// Totals over sessions; a session counts for the model that its main agent used last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatsDoc {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    #[serde(flatten)]
    pub all: Sums,
    pub waiting_count: u64,
    pub by_status: BTreeMap<String, u64>,
    pub by_outcome: BTreeMap<String, u64>,
    pub by_agent: BTreeMap<String, Sums>,
    pub by_model: BTreeMap<String, Sums>,
    /// There are more than [`STATS_MAX`] sessions; older ones are left out.
    pub truncated: bool,
}

impl Sums {
    fn add(&mut self, s: &Session, now: i64) {
        self.session_count += 1;
        self.turn_count += s.turns;
        self.call_count += s.calls;
        self.allowed_count += s.allowed;
        self.denied_count += s.denied;
        self.asked_count += s.asked;
        self.rewritten_count += s.rewritten;
        self.breach_count += s.breaches;
        self.plugin_failure_count += s.plugin_failures;
        self.writes_lost_count = self.writes_lost_count.saturating_add(s.writes_lost);
        self.rolled_back_count += u64::from(!s.rolled_back.is_empty());
        self.usage = self.usage.plus(s.usage);
        if let Some(cost) = s.cost {
            match self.cost.as_ref().map_or(0, |m| m.nanousd).checked_add(cost) {
                Some(sum) => self.cost = Some(Money::from(sum)),
                None => self.unpriced_count += 1,
            }
        }
        self.unpriced_count += s.unpriced;
        let room = UNPRICED_MAX.saturating_sub(self.unpriced.len());
        let new: Vec<String> = s.unpriced_models.difference(&self.unpriced).take(room).cloned().collect();
        self.unpriced.extend(new);
        let span = s.started_at.map_or(0, |from| s.ended_at.unwrap_or(now).saturating_sub(from));
        self.duration_ms = self.duration_ms.saturating_add(u64::try_from(span).unwrap_or(0));
    }
}

impl StatsDoc {
    /// Adds one session; `now` in milliseconds.
    pub fn add(&mut self, s: &Session, now: i64) {
        self.all.add(s, now);
        self.waiting_count += s.waiting;
        *self.by_status.entry(s.status.as_str().to_owned()).or_default() += 1;
        if let Some(o) = s.outcome {
            *self.by_outcome.entry(o.as_str().to_owned()).or_default() += 1;
        }
        row(&mut self.by_agent, &s.agent).add(s, now);
        if let Some(model) = &s.model {
            row(&mut self.by_model, model).add(s, now);
        }
    }
}

fn row<'a>(rows: &'a mut BTreeMap<String, Sums>, name: &str) -> &'a mut Sums {
    let name = if rows.contains_key(name) || rows.len() < STATS_ROWS { name } else { "other" };
    rows.entry(name.to_owned()).or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Actor, Envelope, Mediation, Outcome, Record, SessionCreated, SessionId, Status};

    fn session(agent: &str, cost: Option<u64>) -> Session {
        let created = SessionCreated {
            name: "n".into(),
            agent: agent.into(),
            command: vec![],
            cwd: "/".into(),
            home: None,
            write_root: None,
            labels: Default::default(),
            env_names: vec![],
            mediation: Mediation::Gate,
            mediation_note: None,
            keep_open: false,
            created_by: Actor::host(),
            unsafe_args: vec![],
            beadle_version: "1".into(),
            prompt: None,
            record: Record::default(),
            program: None,
        };
        let id = SessionId::parse("s-1-aaaaa").unwrap();
        let mut s = Session::begin(&Envelope { session: id, seq: 1, at: 0, attempt: 1, event: created.into() }).unwrap();
        (s.calls, s.allowed, s.denied, s.cost, s.model) = (3, 2, 1, cost, Some("m".to_owned()));
        (s.status, s.outcome, s.started_at, s.ended_at) = (Status::Ended, Some(Outcome::Succeeded), Some(1_000), Some(3_500));
        s
    }

    #[test]
    fn sums_add_up_and_an_unknown_cost_is_not_zero() {
        let mut d = StatsDoc::default();
        let mut without = session("claude", None);
        without.unpriced = 2;
        d.add(&without, 0);
        assert_eq!((d.all.cost.clone(), d.all.unpriced_count), (None, 2));
        d.add(&session("claude", Some(1_000_000_000)), 0);
        d.add(&session("demo", Some(500_000_000)), 0);
        let mut running = session("demo", None);
        (running.status, running.outcome, running.ended_at) = (Status::Running, None, None);
        d.add(&running, 10_000);
        assert_eq!(d.all.cost.as_ref().map(|m| m.usd.as_str()), Some("1.50"));
        assert_eq!((d.all.session_count, d.all.call_count, d.all.denied_count, d.all.duration_ms), (4, 12, 4, 3 * 2_500 + 9_000));
        assert_eq!(d.by_agent["demo"].session_count, 2);
        assert_eq!((d.by_status["ended"], d.by_status["running"], d.by_outcome["succeeded"]), (3, 1, 3));
        assert_eq!(d.by_model["m"].session_count, 4);
    }

    #[test]
    fn rows_are_capped() {
        let mut d = StatsDoc::default();
        for i in 0..STATS_ROWS + 7 {
            d.add(&session(&format!("a{i}"), None), 0);
        }
        assert_eq!((d.by_agent.len(), d.by_agent["other"].session_count), (STATS_ROWS + 1, 7));
    }
}
