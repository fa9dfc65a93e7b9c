//! The usage ledger: one row per model call, changed in the transaction of the event that reports it, and its groupings.
//!
//! The fold itself is [`UsageRecord`]'s; here is only where rows lie. Grouping reads rows in order and adds them up in wide numbers:
//! SQLite's own sums end at 63 bits. Called by the writer (`group`), `recover`, the readers and `verify`.

use std::collections::{BTreeMap, HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Deserialize;

use crate::model::ledger::{Dimension, Group, Grouped, Ledger, LedgerSum, Source, UsageRecord, ordered};
use crate::model::{Envelope, Event, SessionId, Usage};
use crate::store::error::{Doing, Error, Result};

use super::read::Pool;
use super::rows::{SessionRow, count, int, raw_events};

const FOLDING: &str = "folding the usage ledger";
const READING: &str = "reading the usage ledger";
const COLUMNS: &str =
    "at, attempt, model, source, input, output, cache_read, cache_write, cache_write_1h, reasoning, cost, unpriced, prices";

/// What a grouping is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerQuery {
    pub by: Dimension,
    /// Calls answered at this time (milliseconds) or later, and before that one.
    pub since: Option<i64>,
    pub until: Option<i64>,
    pub session: Option<SessionId>,
    pub agent: Option<String>,
    pub label: Option<(String, String)>,
    /// Days begin so many minutes before midnight UTC (60 for UTC+1).
    pub offset_minutes: i32,
    /// Sessions that have not ended last until then.
    pub now: i64,
}

/// What grouping needs of a session: the rest of its projection is not read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Facts {
    id: String,
    agent: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    created_at: i64,
    #[serde(default)]
    started_at: Option<i64>,
    #[serde(default)]
    ended_at: Option<i64>,
    calls: u64,
    #[serde(default)]
    record: RecordFacts,
}

/// What it was created as.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
struct RecordFacts {
    #[serde(default)]
    owner: Option<String>,
    #[serde(default)]
    phase: Option<String>,
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    parent: Option<String>,
}

/// Parents that are followed upwards at most.
const DEPTH_MAX: usize = 1_000;

impl Facts {
    fn key(&self, by: &Dimension) -> Option<String> {
        match by {
            Dimension::Agent => Some(self.agent.clone()),
            Dimension::Label(k) => Some(or_none(self.labels.get(k))),
            Dimension::Phase => Some(or_none(self.record.phase.as_ref())),
            Dimension::Owner => Some(or_none(self.record.owner.as_ref())),
            Dimension::Tenant => Some(or_none(self.record.tenant.as_ref())),
            Dimension::Session | Dimension::Tree => Some(self.id.clone()),
            _ => None,
        }
    }

    fn matches(&self, q: &LedgerQuery) -> bool {
        q.session.as_ref().is_none_or(|s| s.as_str() == self.id)
            && q.agent.as_ref().is_none_or(|a| *a == self.agent)
            && q.label.as_ref().is_none_or(|(k, v)| self.labels.get(k) == Some(v))
    }

    fn duration_ms(&self, now: i64) -> u64 {
        let span = self.started_at.map_or(0, |from| self.ended_at.unwrap_or(now).saturating_sub(from));
        u64::try_from(span).unwrap_or(0)
    }
}

/// What groups are named for sessions that have nothing there.
fn or_none(text: Option<&String>) -> String {
    text.cloned().unwrap_or_else(|| "-".to_owned())
}

/// Folds one event that was just written into the rows of its session.
pub(super) fn fold(conn: &Connection, session_no: i64, e: &Envelope) -> Result<()> {
    let Event::ModelResponded(m) = &e.event else { return Ok(()) };
    let known = record(conn, session_no, &m.message_id)?;
    let r = match known {
        Some(mut r) => {
            r.add(m);
            r
        }
        None => UsageRecord::begin(e, m),
    };
    let sql = format!(
        "INSERT OR REPLACE INTO usage (session_no, message, {COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)"
    );
    let u = &r.usage;
    let values = params![
        session_no,
        m.message_id,
        r.at,
        r.attempt,
        r.model,
        r.source.as_str(),
        int(u.input),
        int(u.output),
        int(u.cache_read),
        int(u.cache_write),
        int(u.cache_write_1h),
        u.reasoning.map(int),
        r.cost.map(int),
        int(r.unpriced),
        r.prices,
    ];
    conn.prepare(&sql).doing(FOLDING)?.execute(values).doing(FOLDING).map(drop)
}

fn record(conn: &Connection, session_no: i64, message: &str) -> Result<Option<UsageRecord>> {
    let sql = format!("SELECT {COLUMNS} FROM usage WHERE session_no = ?1 AND message = ?2");
    let mut stmt = conn.prepare(&sql).doing(FOLDING)?;
    stmt.query_row(params![session_no, message], |r| read(r, 0)).optional().doing(FOLDING)
}

/// A record whose first column is `at`.
fn read(r: &Row<'_>, at: usize) -> rusqlite::Result<UsageRecord> {
    Ok(UsageRecord {
        at: r.get(at)?,
        attempt: r.get(at + 1)?,
        model: r.get(at + 2)?,
        source: source(r, at + 3)?,
        usage: tokens(r, at + 4)?,
        cost: r.get::<_, Option<i64>>(at + 10)?.map(count),
        unpriced: count(r.get(at + 11)?),
        prices: r.get(at + 12)?,
    })
}

fn source(r: &Row<'_>, at: usize) -> rusqlite::Result<Source> {
    // why main for what nobody wrote: `verify` names a row that is not as the log says.
    Ok(Source::parse(r.get_ref(at)?.as_str()?).unwrap_or(Source::Main))
}

fn tokens(r: &Row<'_>, at: usize) -> rusqlite::Result<Usage> {
    Ok(Usage {
        input: count(r.get(at)?),
        output: count(r.get(at + 1)?),
        cache_read: count(r.get(at + 2)?),
        cache_write: count(r.get(at + 3)?),
        cache_write_1h: count(r.get(at + 4)?),
        reasoning: r.get::<_, Option<i64>>(at + 5)?.map(count),
    })
}

/// Makes a session's rows anew from its log.
pub(super) fn refold(conn: &Connection, row: &SessionRow) -> Result<()> {
    conn.execute("DELETE FROM usage WHERE session_no = ?1", [row.no]).doing(FOLDING)?;
    raw_events(conn, row.no, 1, u64::MAX, |raw| {
        if raw.kind == b"model_responded" {
            fold(conn, row.no, &super::decode(&row.id, raw)?)?;
        }
        Ok(true)
    })
}

/// What differs between a session's stored rows and the replay of its log, in words.
pub fn usage_differences(conn: &Connection, session_no: i64, replay: &Ledger) -> Result<Vec<String>> {
    let sql = format!("SELECT message, {COLUMNS} FROM usage WHERE session_no = ?1");
    let mut stmt = conn.prepare(&sql).doing(READING)?;
    let rows = stmt.query_map([session_no], |r| Ok((r.get::<_, String>(0)?, read(r, 1)?))).doing(READING)?;
    let stored: BTreeMap<String, UsageRecord> = rows.collect::<rusqlite::Result<_>>().doing(READING)?;
    let messages: std::collections::BTreeSet<&String> = stored.keys().chain(replay.0.keys()).collect();
    let differs = |m: &&&String| stored.get(**m) != replay.0.get(**m);
    let short = |m: &str| m.chars().take(64).collect::<String>();
    Ok(messages.iter().filter(differs).map(|m| format!("the usage of message {:?} differs from the replay of the log", short(m))).collect())
}

/// A day such as `2026-01-31`, at an offset from UTC.
fn day(at: i64, offset_minutes: i32) -> String {
    let local = at.saturating_add(i64::from(offset_minutes) * 60_000);
    chrono::DateTime::from_timestamp_millis(local).map_or_else(|| "unknown".to_owned(), |t| t.format("%Y-%m-%d").to_string())
}

/// The sessions of a grouping by number; by tree each with the root of its parents in place of its own id.
fn facts(conn: &Connection, q: &LedgerQuery) -> Result<HashMap<i64, Facts>> {
    let is_tree = q.by == Dimension::Tree;
    let only = q.session.as_ref().map(SessionId::as_str).filter(|_| !is_tree);
    let mut stmt = conn.prepare("SELECT no, id, doc FROM sessions WHERE ?1 IS NULL OR id = ?1").doing(READING)?;
    let mut rows = stmt.query([only]).doing(READING)?;
    let mut all = HashMap::new();
    while let Some(r) = rows.next().doing(READING)? {
        let text = |at| r.get_ref(at).and_then(|v| Ok(v.as_str()?)).doing(READING);
        let damaged = |e: serde_json::Error| Error::Damaged {
            session: r.get(1).unwrap_or_default(),
            detail: format!("its projection cannot be read ({e})"),
        };
        let f: Facts = serde_json::from_str(text(2)?).map_err(damaged)?;
        all.insert(r.get(0).doing(READING)?, f);
    }
    let roots: HashMap<i64, String> = if is_tree { roots(&all) } else { HashMap::new() };
    all.retain(|_, f| f.matches(q));
    for (no, f) in &mut all {
        if let Some(root) = roots.get(no) {
            f.id.clone_from(root);
        }
    }
    Ok(all)
}

/// The uppermost session there is above each; its own id where it has no parent, or that one was removed.
fn roots(all: &HashMap<i64, Facts>) -> HashMap<i64, String> {
    let parents: HashMap<&str, Option<&str>> = all.values().map(|f| (f.id.as_str(), f.record.parent.as_deref())).collect();
    let root = |id: &str| {
        let mut at = id;
        for _ in 0..DEPTH_MAX {
            match parents.get(at).copied().flatten().and_then(|p| parents.get_key_value(p)) {
                Some((parent, _)) => at = parent,
                None => break,
            }
        }
        at.to_owned()
    };
    all.iter().map(|(no, f)| (*no, root(&f.id))).collect()
}

impl Pool {
    /// Model calls, grouped. A session without any counts in groups of whole sessions when it was created in the window.
    pub fn ledger(&self, q: &LedgerQuery) -> Result<Grouped> {
        self.with(|c| {
            // why one transaction: rows and sessions as of one moment.
            let tx = c.unchecked_transaction().doing(READING)?;
            grouped(&tx, q)
        })
    }
}

fn grouped(c: &Connection, q: &LedgerQuery) -> Result<Grouped> {
    let is_filtered = q.session.is_some() || q.agent.is_some() || q.label.is_some();
    let of_session = q.by.is_of_session();
    let facts = if is_filtered || of_session { Some(facts(c, q)?) } else { None };
    let mut groups: HashMap<String, Group> = HashMap::new();
    let mut all = LedgerSum::default();
    let mut everyone: HashSet<i64> = HashSet::new();
    let mut seen: HashSet<(i64, String)> = HashSet::new();
    let (since, until) = (q.since.unwrap_or(i64::MIN), q.until.unwrap_or(i64::MAX));
    let only = match (&q.session, &facts) {
        (Some(_), Some(f)) => f.keys().next().copied().or(Some(-1)),
        _ => None,
    };
    // why two texts: one session is read by the key, a window by its index, and the planner is told which.
    let sql = match (only, q.since.or(q.until)) {
        (Some(_), _) => format!("SELECT session_no, {COLUMNS} FROM usage WHERE session_no = ?3 AND at >= ?1 AND at < ?2"),
        (None, Some(_)) => {
            format!("SELECT session_no, {COLUMNS} FROM usage INDEXED BY usage_by_time WHERE at >= ?1 AND at < ?2 AND ?3 IS NULL")
        }
        (None, None) => format!("SELECT session_no, {COLUMNS} FROM usage WHERE at >= ?1 AND at < ?2 AND ?3 IS NULL"),
    };
    let mut stmt = c.prepare(&sql).doing(READING)?;
    let mut rows = stmt.query(params![since, until, only]).doing(READING)?;
    while let Some(r) = rows.next().doing(READING)? {
        let no: i64 = r.get(0).doing(READING)?;
        let fact = facts.as_ref().map(|f| f.get(&no));
        if fact == Some(None) {
            continue;
        }
        let model = r.get_ref(3).and_then(|v| Ok(v.as_str()?)).doing(READING)?;
        let from = source(r, 4).doing(READING)?;
        let usage = tokens(r, 5).doing(READING)?;
        let cost = r.get::<_, Option<i64>>(11).doing(READING)?.map(count);
        let unpriced = count(r.get(12).doing(READING)?);
        let key = match (&q.by, fact.flatten()) {
            (Dimension::Model, _) => model.to_owned(),
            (Dimension::Source, _) => from.as_str().to_owned(),
            (Dimension::Attempt, _) => r.get::<_, u32>(2).doing(READING)?.to_string(),
            (Dimension::Day, _) => day(r.get(1).doing(READING)?, q.offset_minutes),
            (by, Some(f)) => f.key(by).unwrap_or_default(),
            (_, None) => String::new(),
        };
        all.add(model, from, usage, cost, unpriced);
        everyone.insert(no);
        let g = groups.entry(key.clone()).or_default();
        g.sum.add(model, from, usage, cost, unpriced);
        if !of_session && seen.insert((no, key)) {
            g.sessions += 1;
        }
    }
    if of_session {
        for (no, f) in facts.iter().flatten() {
            let is_new = (since..until).contains(&f.created_at);
            if !is_new && !everyone.contains(no) {
                continue;
            }
            everyone.insert(*no);
            let g = groups.entry(f.key(&q.by).unwrap_or_default()).or_default();
            g.sessions += 1;
            g.tool_calls = Some(g.tool_calls.unwrap_or(0).saturating_add(f.calls));
            g.duration_ms = Some(g.duration_ms.unwrap_or(0).saturating_add(f.duration_ms(q.now)));
        }
    }
    if let (Dimension::Attempt, Some(no)) = (&q.by, only) {
        attempts(c, no, q, &mut groups)?;
    }
    let (rows, left_out) = ordered(&q.by, groups);
    Ok(Grouped { rows, all, sessions: everyone.len() as u64, left_out })
}

/// How long each attempt of a session took.
fn attempts(c: &Connection, no: i64, q: &LedgerQuery, groups: &mut HashMap<String, Group>) -> Result<()> {
    let mut open: Option<(u32, i64)> = None;
    let mut took = |attempt: u32, ms: u64| {
        let g = groups.entry(attempt.to_string()).or_default();
        g.sessions = 1;
        g.duration_ms = Some(g.duration_ms.unwrap_or(0).saturating_add(ms));
    };
    let id = q.session.as_ref().map_or("", SessionId::as_str);
    raw_events(c, no, 1, u64::MAX, |raw| {
        if matches!(raw.kind, b"attempt_started" | b"attempt_ended") {
            let e = super::decode(id, raw)?;
            match &e.event {
                Event::AttemptStarted(_) => open = Some((e.attempt, e.at)),
                Event::AttemptEnded(a) => {
                    let since = open.take().filter(|(n, _)| *n == e.attempt).map(|(_, at)| e.at.saturating_sub(at));
                    took(e.attempt, a.duration_ms.or(since.and_then(|ms| u64::try_from(ms).ok())).unwrap_or(0));
                }
                _ => {}
            }
        }
        Ok(true)
    })?;
    if let Some((attempt, at)) = open {
        took(attempt, u64::try_from(q.now.saturating_sub(at)).unwrap_or(0));
    }
    Ok(())
}
