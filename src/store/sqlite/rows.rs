//! Rows as they lie in the database, unjudged: `verify` must be able to read what is damaged. Shared by writer, readers and `verify`.

use rusqlite::{Connection, Row};

use crate::store::error::{Doing, Result};

use super::archives;

/// SQLite keeps 64-bit signed integers; counts of ours stay far below.
pub(super) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A negative number can only be damage; it shows as a gap or a wrong hash.
pub(super) fn count(n: i64) -> u64 {
    n.cast_unsigned()
}

/// An event's columns, borrowed from the row.
pub struct RawEvent<'a> {
    /// Its number over all sessions.
    pub row: i64,
    pub seq: u64,
    pub at: i64,
    /// As stored; over 32 bits only when damaged.
    pub attempt: i64,
    pub kind: &'a [u8],
    pub hash: &'a [u8],
    pub salt: &'a [u8],
    /// What the hash commits to, where salt and body were erased; else empty.
    pub commitment: &'a [u8],
    pub body: &'a [u8],
}

/// Walks a session's events from `from` in order of seq, at most `limit`, those in archives first. `each` answers whether to go on.
pub fn raw_events(conn: &Connection, no: i64, from: u64, limit: u64, mut each: impl FnMut(&RawEvent<'_>) -> Result<bool>) -> Result<()> {
    const DOING: &str = "reading events";
    // why one transaction: events that go into an archive between the two reads would look like a gap.
    let _snapshot = conn.is_autocommit().then(|| conn.unchecked_transaction()).transpose().doing(DOING)?;
    let (mut from, mut left) = (from, limit);
    if limit == 0 {
        return Ok(());
    }
    for archive in archives::kept(conn, no, from)? {
        let goes_on = archive.walk(from, &mut |raw| {
            left = left.saturating_sub(1);
            Ok(each(raw)? && left > 0)
        })?;
        if !goes_on {
            return Ok(());
        }
        from = archive.last + 1;
    }
    stored_events(conn, no, from, left, each)
}

/// The same of those that are in no archive.
pub fn stored_events(conn: &Connection, no: i64, from: u64, limit: u64, mut each: impl FnMut(&RawEvent<'_>) -> Result<bool>) -> Result<()> {
    const DOING: &str = "reading events";
    const SQL: &str = "SELECT seq, at, attempt, kind, hash, salt, body, id, commitment FROM events WHERE session_no = ?1 AND seq >= ?2 \
                       ORDER BY seq LIMIT ?3";
    let mut stmt = conn.prepare(SQL).doing(DOING)?;
    let mut rows = stmt.query((no, int(from), int(limit))).doing(DOING)?;
    while let Some(r) = rows.next().doing(DOING)? {
        let raw = RawEvent {
            row: r.get(7).doing(DOING)?,
            seq: count(r.get(0).doing(DOING)?),
            at: r.get(1).doing(DOING)?,
            attempt: r.get(2).doing(DOING)?,
            kind: bytes(r, 3).doing(DOING)?,
            hash: bytes(r, 4).doing(DOING)?,
            salt: bytes(r, 5).doing(DOING)?,
            commitment: r.get_ref(8).and_then(|v| Ok(v.as_blob_or_null()?)).doing(DOING)?.unwrap_or_default(),
            body: bytes(r, 6).doing(DOING)?,
        };
        if !each(&raw)? {
            break;
        }
    }
    Ok(())
}

/// A host event's columns, borrowed from the row.
pub struct RawHost<'a> {
    pub seq: u64,
    pub at: i64,
    pub kind: &'a [u8],
    pub hash: &'a [u8],
    pub salt: &'a [u8],
    pub body: &'a [u8],
}

/// Walks the host chain from `from`, at most `limit`.
pub fn raw_host(conn: &Connection, from: u64, limit: u64, mut each: impl FnMut(&RawHost<'_>) -> Result<()>) -> Result<()> {
    const DOING: &str = "reading the host chain";
    const SQL: &str = "SELECT seq, at, kind, hash, salt, body FROM host_events WHERE seq >= ?1 ORDER BY seq LIMIT ?2";
    let mut stmt = conn.prepare(SQL).doing(DOING)?;
    let mut rows = stmt.query((int(from), int(limit))).doing(DOING)?;
    while let Some(r) = rows.next().doing(DOING)? {
        each(&RawHost {
            seq: count(r.get(0).doing(DOING)?),
            at: r.get(1).doing(DOING)?,
            kind: bytes(r, 2).doing(DOING)?,
            hash: bytes(r, 3).doing(DOING)?,
            salt: bytes(r, 4).doing(DOING)?,
            body: bytes(r, 5).doing(DOING)?,
        })?;
    }
    Ok(())
}

fn bytes<'a>(r: &'a Row<'_>, at: usize) -> rusqlite::Result<&'a [u8]> {
    use rusqlite::types::{FromSqlError, ValueRef};
    match r.get_ref(at)? {
        ValueRef::Blob(b) | ValueRef::Text(b) => Ok(b),
        other => Err(rusqlite::Error::FromSqlConversionFailure(at, other.data_type(), FromSqlError::InvalidType.into())),
    }
}

/// A session's columns.
#[derive(Debug, Clone)]
pub struct SessionRow {
    pub no: i64,
    pub id: String,
    pub name: String,
    pub agent: String,
    pub status: String,
    pub created_at: i64,
    pub last_seq: u64,
    pub head: Vec<u8>,
    pub headed_seq: u64,
    pub cursor_attempt: Option<u32>,
    pub cursor_offset: Option<i64>,
    pub frame_attempt: u32,
    pub frame_no: i64,
    pub doc: String,
}

impl SessionRow {
    const COLUMNS: &str = "no, id, name, agent, status, created_at, last_seq, head, headed_seq, \
                           cursor_attempt, cursor_offset, frame_attempt, frame_no, doc";

    pub(super) fn by_id_sql() -> String {
        format!("SELECT {} FROM sessions WHERE id = ?1", Self::COLUMNS)
    }

    pub(super) fn read(r: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            no: r.get(0)?,
            id: r.get(1)?,
            name: r.get(2)?,
            agent: r.get(3)?,
            status: r.get(4)?,
            created_at: r.get(5)?,
            last_seq: count(r.get(6)?),
            head: r.get(7)?,
            headed_seq: count(r.get(8)?),
            cursor_attempt: r.get(9)?,
            cursor_offset: r.get(10)?,
            frame_attempt: r.get(11)?,
            frame_no: r.get(12)?,
            doc: r.get(13)?,
        })
    }
}

/// Up to 500 sessions with a number above `after`, by number: all of them when called again from the last.
pub fn session_rows(conn: &Connection, after: i64) -> Result<Vec<SessionRow>> {
    const DOING: &str = "reading sessions";
    let sql = format!("SELECT {} FROM sessions WHERE no > ?1 ORDER BY no LIMIT 500", SessionRow::COLUMNS);
    let mut stmt = conn.prepare(&sql).doing(DOING)?;
    let rows = stmt.query_map([after], SessionRow::read).doing(DOING)?;
    rows.collect::<rusqlite::Result<_>>().doing(DOING)
}

/// Numbers (at most 100) of events or frames that belong to no session, those of a removal under way left out.
pub fn orphans(conn: &Connection) -> Result<Vec<i64>> {
    const DOING: &str = "looking for events without a session";
    const SQL: &str = "SELECT DISTINCT session_no FROM (SELECT session_no FROM events UNION SELECT session_no FROM frames) \
                       WHERE session_no NOT IN (SELECT no FROM sessions) AND session_no NOT IN (SELECT session_no FROM removals) LIMIT 100";
    let mut stmt = conn.prepare(SQL).doing(DOING)?;
    let rows = stmt.query_map([], |r| r.get(0)).doing(DOING)?;
    rows.collect::<rusqlite::Result<_>>().doing(DOING)
}

/// What removes a session but for its events, which go a few at a time.
pub const REMOVAL: [&str; 13] = [
    "DELETE FROM sessions WHERE no = ?1",
    "DELETE FROM frames WHERE session_no = ?1",
    "DELETE FROM approvals WHERE session_no = ?1",
    "DELETE FROM plugin_states WHERE session_no = ?1",
    "DELETE FROM session_labels WHERE session_no = ?1",
    "DELETE FROM usage WHERE session_no = ?1",
    "DELETE FROM attempts WHERE session_no = ?1",
    "DELETE FROM tasks WHERE session_no = ?1",
    "DELETE FROM archives WHERE session_no = ?1",
    "DELETE FROM redactions WHERE session_no = ?1",
    "DELETE FROM writes WHERE session_no = ?1",
    "DELETE FROM writers WHERE session_no = ?1",
    "INSERT INTO removals (session_no) VALUES (?1)",
];
