//! Listings of sessions: what they filter and sort by, and the cursor that a page ends with.
//!
//! Invariants:
//! - the columns and label rows here are a projection: made with the session's first event, changed in the transaction of the events that
//!   change them, equal to a replay (`verify` compares);
//! - a cursor is a place in one order, not a number of rows: sessions that are added meanwhile repeat and drop nothing. Where the order
//!   itself changes (activity, cost), who moved to the front of it after the listing began is seen in the next one.
//!
//! Called by the writer (`group`), `recover`, the readers and `verify`.

use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};
use serde::{Deserialize, Serialize};

use crate::model::{Outcome, Session, SessionId, Sort, Status};
use crate::store::error::{Doing, Error, Result};

use super::read::{MAX_SESSIONS, Page, Pool, session_of};
use super::rows::int;

const LISTING: &str = "listing sessions";
const KEEPING: &str = "writing what listings read";
/// Longest cursor in bytes that is looked at.
const MAX_CURSOR: usize = 4_096;
/// Most labels that one listing filters by.
pub const MAX_LABELS: usize = 32;

/// The column that an order goes by.
const fn column(sort: Sort) -> &'static str {
    match sort {
        Sort::Created => "no",
        Sort::Activity => "active_at",
        Sort::Name => "name",
        Sort::Cost => "cost",
    }
}

/// Which sessions a listing gives; all of them by default, newest first. Every part that is set must hold.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Any of these; empty for all.
    pub status: Vec<Status>,
    /// Any of these; empty for all.
    pub outcome: Vec<Outcome>,
    pub agent: Option<String>,
    pub name: Option<String>,
    /// [`UNASSIGNED`](crate::model::UNASSIGNED) are those of nobody.
    pub owner: Option<String>,
    pub mission: Option<String>,
    pub phase: Option<String>,
    pub tenant: Option<String>,
    pub thread: Option<String>,
    pub parent: Option<SessionId>,
    /// Labels with their values; at most 32 are looked at.
    pub labels: Vec<(String, String)>,
    /// Created at this time or later, in wall milliseconds.
    pub since: Option<i64>,
    /// Created before this time.
    pub until: Option<i64>,
    pub sort: Sort,
    /// The other way round.
    pub reverse: bool,
    /// At most 1,000; 0 means 50.
    pub limit: usize,
    /// `next` of the page before.
    pub cursor: Option<String>,
}

/// A place in an order: behind the session `no` with this key.
#[derive(Serialize, Deserialize)]
struct Place(Sort, bool, Key, i64);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Key {
    Number(i64),
    Text(String),
}

impl Place {
    fn write(&self) -> String {
        serde_json::to_vec(self).unwrap_or_default().iter().map(|b| format!("{b:02x}")).collect()
    }

    fn read(text: &str, f: &Filter) -> Result<Self> {
        let bad = || Error::BadCursor { given: text.chars().take(40).collect() };
        if text.len() > MAX_CURSOR || !text.len().is_multiple_of(2) {
            return Err(bad());
        }
        let pair = |p: &[u8]| std::str::from_utf8(p).ok().and_then(|p| u8::from_str_radix(p, 16).ok());
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
        let place: Self = bytes.and_then(|b| serde_json::from_slice(&b).ok()).ok_or_else(bad)?;
        // why: in another order it is no place.
        if (place.0, place.1) != (f.sort, f.reverse) { Err(bad()) } else { Ok(place) }
    }
}

/// A query under way: its text, and the values in the order of their marks.
struct Query {
    sql: String,
    values: Vec<Value>,
}

impl Query {
    fn and(&mut self, condition: &str, values: impl IntoIterator<Item = Value>) {
        self.sql.push_str(" AND ");
        self.sql.push_str(condition);
        self.values.extend(values);
    }

    fn any(&mut self, column: &str, words: Vec<&'static str>) {
        if !words.is_empty() {
            let marks = vec!["?"; words.len()].join(", ");
            self.and(&format!("s.{column} IN ({marks})"), words.into_iter().map(|w| w.to_owned().into()));
        }
    }
}

/// The numbers and keys of a page's sessions.
fn picked(f: &Filter, limit: usize) -> Result<Query> {
    let column = column(f.sort);
    let labels = &f.labels[..f.labels.len().min(MAX_LABELS)];
    // why the labels first: their rows lie in the order of a listing, so a rare label costs no scan of all sessions.
    let (from, no) =
        if labels.is_empty() { ("sessions AS s", "s.no") } else { ("session_labels AS l CROSS JOIN sessions AS s", "l.session_no") };
    let key = if f.sort == Sort::Created { no.to_owned() } else { format!("s.{column}") };
    let mut q = Query { sql: format!("SELECT {no} AS no, {key} AS key FROM {from} WHERE 1"), values: vec![] };
    if let Some((key, value)) = labels.first() {
        q.and("s.no = l.session_no AND l.key = ? AND l.value = ?", [key.clone().into(), value.clone().into()]);
    }
    for (key, value) in labels.iter().skip(1) {
        const HAS: &str = "EXISTS (SELECT 1 FROM session_labels AS m WHERE m.session_no = s.no AND m.key = ? AND m.value = ?)";
        q.and(HAS, [key.clone().into(), value.clone().into()]);
    }
    q.any("status", f.status.iter().map(|s| s.as_str()).collect());
    q.any("outcome", f.outcome.iter().map(|o| o.as_str()).collect());
    for (column, wanted) in [
        ("agent", &f.agent),
        ("name", &f.name),
        ("owner", &f.owner),
        ("mission", &f.mission),
        ("phase", &f.phase),
        ("tenant", &f.tenant),
        ("thread", &f.thread),
    ] {
        match wanted {
            Some(w) if column == "owner" && w == crate::model::UNASSIGNED => q.and("s.owner IS NULL", []),
            Some(w) => q.and(&format!("s.{column} = ?"), [w.clone().into()]),
            None => {}
        }
    }
    if let Some(parent) = &f.parent {
        q.and("s.parent = ?", [parent.to_string().into()]);
    }
    // why the numbers too: they bound the walk, and the index on times alone tells them.
    if let Some(since) = f.since {
        let low = format!("s.created_at >= ? AND {no} >= (SELECT coalesce(min(no), 0) FROM sessions WHERE created_at >= ?)");
        q.and(&low, [since.into(), since.into()]);
    }
    if let Some(until) = f.until {
        q.and("s.created_at < ?", [until.into()]);
    }
    let up = (f.sort == Sort::Name) != f.reverse;
    if let Some(text) = &f.cursor {
        let Place(_, _, at, last) = Place::read(text, f)?;
        let at = match at {
            Key::Number(n) => n.into(),
            Key::Text(t) => t.into(),
        };
        let than = if up { ">" } else { "<" };
        match f.sort {
            Sort::Created => q.and(&format!("{no} {than} ?"), [last.into()]),
            _ => q.and(&format!("({key}, {no}) {than} (?, ?)"), [at, last.into()]),
        }
    }
    let way = if up { "ASC" } else { "DESC" };
    let order = if f.sort == Sort::Created { format!("{no} {way}") } else { format!("{key} {way}, {no} {way}") };
    q.sql.push_str(&format!(" ORDER BY {order} LIMIT {}", limit + 1));
    Ok(q)
}

impl Pool {
    /// One page of a listing.
    pub fn sessions(&self, f: &Filter) -> Result<Page<Session>> {
        let limit = if f.limit == 0 { 50 } else { f.limit.min(MAX_SESSIONS) };
        let q = picked(f, limit)?;
        self.with(|c| {
            // why in two steps: only the documents of the page are read, however many rows were sorted.
            let mut stmt = c.prepare(&q.sql).doing(LISTING)?;
            let read = |r: &rusqlite::Row<'_>| Ok((r.get::<_, i64>(0)?, r.get::<_, Value>(1)?));
            let rows = stmt.query_map(params_from_iter(q.values), read).and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>);
            let mut rows = rows.doing(LISTING)?;
            let more = rows.len() > limit;
            rows.truncate(limit);
            let next = rows.last().filter(|_| more).map(|(no, key)| {
                let key = match key {
                    Value::Text(t) => Key::Text(t.clone()),
                    Value::Integer(n) => Key::Number(*n),
                    _ => Key::Number(0),
                };
                Place(f.sort, f.reverse, key, *no).write()
            });
            let mut doc = c.prepare("SELECT id, doc FROM sessions WHERE no = ?1").doing(LISTING)?;
            let mut items = Vec::with_capacity(rows.len());
            for (no, _) in rows {
                let mut found = doc.query([no]).doing(LISTING)?;
                // None: removed between the two steps.
                if let Some(r) = found.next().doing(LISTING)? {
                    let text = |at| r.get_ref(at).and_then(|v| Ok(v.as_str()?)).doing(LISTING);
                    items.push(session_of(text(0)?, text(1)?)?);
                }
            }
            Ok(Page { items, next })
        })
    }

    /// How many sessions were started for this one.
    pub fn children(&self, id: &SessionId) -> Result<u64> {
        const SQL: &str = "SELECT count(*) FROM sessions WHERE parent = ?1";
        self.with(|c| c.query_row(SQL, [id.as_str()], |r| r.get(0)).map(super::rows::count).doing("counting sessions"))
    }
}

/// The cost as a column: an unknown one is less than nothing.
pub(super) fn cost(s: &Session) -> i64 {
    s.cost.map_or(-1, int)
}

/// Writes what is known from the first event on; nothing where nobody said anything.
pub(super) fn keep(conn: &Connection, no: i64, s: &Session) -> Result<()> {
    let r = &s.record;
    let texts = [r.named_owner(), r.mission.as_deref(), r.phase.as_deref(), r.tenant.as_deref(), r.thread.as_deref()];
    let parent = r.parent.as_ref().map(SessionId::as_str);
    if texts.iter().any(Option::is_some) || parent.is_some() {
        const SQL: &str = "UPDATE sessions SET owner = ?2, mission = ?3, phase = ?4, tenant = ?5, thread = ?6, parent = ?7 WHERE no = ?1";
        let [owner, mission, phase, tenant, thread] = texts;
        conn.execute(SQL, params![no, owner, mission, phase, tenant, thread, parent]).doing(KEEPING)?;
    }
    if !s.labels.is_empty() {
        let mut stmt = conn.prepare("INSERT INTO session_labels (key, value, session_no) VALUES (?1, ?2, ?3)").doing(KEEPING)?;
        for (key, value) in &s.labels {
            stmt.execute(params![key, value, no]).doing(KEEPING)?;
        }
    }
    Ok(())
}

/// Makes a session's columns and label rows anew.
pub(super) fn refold(conn: &Connection, no: i64, s: &Session) -> Result<()> {
    conn.execute("DELETE FROM session_labels WHERE session_no = ?1", [no]).doing(KEEPING)?;
    const SQL: &str = "UPDATE sessions SET outcome = ?2, active_at = ?3, cost = ?4, owner = NULL, mission = NULL, phase = NULL, \
                       tenant = NULL, thread = NULL, parent = NULL WHERE no = ?1";
    conn.execute(SQL, params![no, s.outcome.map(Outcome::as_str), s.last_activity_at, cost(s)]).doing(KEEPING)?;
    keep(conn, no, s)
}

/// What of a session's columns and label rows is not as its log says.
pub fn listing_differences(conn: &Connection, no: i64, s: &Session) -> Result<Vec<String>> {
    const DOING: &str = "reading what listings read";
    const COLUMNS: [&str; 9] = ["owner", "mission", "phase", "tenant", "thread", "parent", "outcome", "active_at", "cost"];
    let sql = format!("SELECT {} FROM sessions WHERE no = ?1", COLUMNS.map(|c| format!("CAST({c} AS TEXT)")).join(", "));
    let read = |r: &rusqlite::Row<'_>| (0..COLUMNS.len()).map(|i| r.get::<_, Option<String>>(i)).collect::<rusqlite::Result<Vec<_>>>();
    let stored = conn.query_row(&sql, [no], read).doing(DOING)?;
    let r = &s.record;
    let folded = [
        r.named_owner().map(str::to_owned),
        r.mission.clone(),
        r.phase.clone(),
        r.tenant.clone(),
        r.thread.clone(),
        r.parent.as_ref().map(SessionId::to_string),
        s.outcome.map(|o| o.as_str().to_owned()),
        Some(s.last_activity_at.to_string()),
        Some(cost(s).to_string()),
    ];
    let mut out: Vec<String> = COLUMNS
        .iter()
        .zip(stored.iter().zip(&folded))
        .filter(|(_, (stored, folded))| stored != folded)
        .map(|(column, (stored, folded))| format!("column {column} is {stored:?}, the log says {folded:?}"))
        .collect();
    let mut stmt = conn.prepare("SELECT key, value FROM session_labels WHERE session_no = ?1").doing(DOING)?;
    let labels = stmt.query_map([no], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)));
    let labels = labels.and_then(Iterator::collect::<rusqlite::Result<std::collections::BTreeMap<_, _>>>).doing(DOING)?;
    if labels != s.labels {
        out.push(format!("the rows of its labels are {labels:?}, the log says {:?}", s.labels));
    }
    Ok(out)
}
