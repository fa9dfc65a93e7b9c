//! Tool calls by tool, read from the log itself when they are asked for: no table, so no append pays for them.
//!
//! Invariants:
//! - sessions without a call, or idle since before the window, are not read; of the others the whole log, archives too, newest session first;
//! - at most [`EVENTS_MAX`] events are read, whole sessions as far as they fit; older ones are left out, and that is said;
//! - a session whose log cannot be read (its archive is away, its log damaged) is left out whole and counted;
//! - readers wait for at most one session: each is read under a lease of its own, as of one moment.
//!
//! Cost: some microseconds an event, by its length; 60,000 events of 20,000 calls take 0.4 s in a build that is not optimised, out of an
//! archive twice that. Called by `api` (`GET /v1/ledger/tools`).

use std::collections::BTreeMap;

use rusqlite::Connection;
use serde::Deserialize;

use crate::model::SessionId;
use crate::model::tool_ledger::{ToolFact, ToolLedger, ToolSums};
use crate::store::error::{Doing, Error, Result};

use super::rows::{count, raw_events};

const READING: &str = "reading tool calls";
/// Most events that are read for one answer.
const EVENTS_MAX: u64 = 2_000_000;
/// Sessions that are looked at under one lease.
const PAGE: i64 = 500;

/// Which tool calls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ToolQuery {
    /// Calls asked for at this time (milliseconds) or later, and before that one.
    pub since: Option<i64>,
    pub until: Option<i64>,
    pub session: Option<SessionId>,
    pub agent: Option<String>,
    pub label: Option<(String, String)>,
}

/// What they came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ToolsFound {
    pub sums: ToolSums,
    /// Sessions with a call in the window.
    pub sessions: u64,
    /// Sessions whose log cannot be read.
    pub unreadable: u64,
    /// There was more than is read for one answer; the newest sessions are in it.
    pub truncated: bool,
}

/// What finding needs of a session: the rest of its projection is not read.
#[derive(Deserialize)]
struct Facts {
    agent: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    last_activity_at: i64,
    calls: u64,
}

/// A session that may have what is looked for.
struct Place {
    no: i64,
    id: String,
    events: u64,
}

impl ToolQuery {
    fn wants(&self, f: &Facts) -> bool {
        f.calls > 0
            && self.since.is_none_or(|t| f.last_activity_at >= t)
            && self.agent.as_ref().is_none_or(|a| *a == f.agent)
            && self.label.as_ref().is_none_or(|(k, v)| f.labels.get(k) == Some(v))
    }
}

/// Tool calls, by tool. The connection is the caller's own: whole logs are read.
pub fn tools(conn: &Connection, q: &ToolQuery) -> Result<ToolsFound> {
    let (mut found, mut left, mut before) = (ToolsFound::default(), EVENTS_MAX, Some(i64::MAX));
    while let Some(below) = before {
        let (places, next) = page(conn, q, below, &mut found.unreadable)?;
        for place in places {
            if left == 0 || (place.events > left && left < EVENTS_MAX) {
                found.truncated = true;
                return Ok(found);
            }
            found.truncated |= place.events > left;
            match of_session(conn, q, &place, left) {
                Ok(sums) => {
                    found.sessions += u64::from(!sums.is_empty());
                    found.sums.merge(sums);
                }
                Err(Error::Archive { .. } | Error::Damaged { .. } | Error::Body { .. }) => found.unreadable += 1,
                Err(e) => return Err(e),
            }
            left = left.saturating_sub(place.events);
        }
        before = next;
    }
    Ok(found)
}

/// Sessions below a number that are wanted, newest first, and where the next ones begin.
fn page(conn: &Connection, q: &ToolQuery, below: i64, unreadable: &mut u64) -> Result<(Vec<Place>, Option<i64>)> {
    const SQL: &str = "SELECT no, id, last_seq, doc FROM sessions WHERE no < ?1 AND (?2 IS NULL OR id = ?2) ORDER BY no DESC LIMIT ?3";
    let mut stmt = conn.prepare(SQL).doing(READING)?;
    let mut rows = stmt.query((below, q.session.as_ref().map(SessionId::as_str), PAGE)).doing(READING)?;
    let (mut places, mut seen, mut last) = (Vec::new(), 0, below);
    while let Some(r) = rows.next().doing(READING)? {
        let (no, id): (i64, String) = (r.get(0).doing(READING)?, r.get(1).doing(READING)?);
        let doc = r.get_ref(3).and_then(|v| Ok(v.as_str()?)).doing(READING)?;
        (seen, last) = (seen + 1, no);
        let Ok(facts) = serde_json::from_str::<Facts>(doc) else {
            *unreadable += 1;
            continue;
        };
        if q.wants(&facts) {
            places.push(Place { no, id, events: count(r.get(2).doing(READING)?) });
        }
    }
    Ok((places, (seen == PAGE).then_some(last)))
}

fn of_session(conn: &Connection, q: &ToolQuery, place: &Place, limit: u64) -> Result<ToolSums> {
    let mut ledger = ToolLedger::new(q.since.unwrap_or(i64::MIN)..q.until.unwrap_or(i64::MAX));
    raw_events(conn, place.no, 1, limit, |raw| {
        let wrong = |source| Error::Body { session: place.id.clone(), seq: raw.seq, source };
        if let Some(fact) = ToolFact::of(raw.kind, raw.body).map_err(wrong)? {
            ledger.fold(raw.seq, raw.at, fact);
        }
        Ok(true)
    })?;
    Ok(ledger.sums())
}
