//! What a sink looks up of a session while it delivers: its projections, and events that lie behind.
//!
//! Invariant: reading only, on the sink's own connection, and never more than [`LOOK_BACK`] rows back. Called by `SinkReader`.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::model::{Attempt, Session};
use crate::store::error::{Doing, Error, Result};
use crate::store::sink::{LOOK_BACK, SinkPast};

use super::rows::{count, int};

const READING: &str = "looking back for a sink";
const NUMBER: &str = "(SELECT no FROM sessions WHERE id = ?1)";

pub fn session(conn: &Connection, id: &str) -> Result<Option<Session>> {
    document(conn, id, "SELECT doc FROM sessions WHERE id = ?1", params![id])
}

pub fn attempt(conn: &Connection, id: &str, number: u32) -> Result<Option<Attempt>> {
    let sql = format!("SELECT doc FROM attempts WHERE session_no = {NUMBER} AND attempt = ?2");
    document(conn, id, &sql, params![id, number])
}

fn document<T: serde::de::DeserializeOwned>(conn: &Connection, id: &str, sql: &str, of: &[&dyn rusqlite::ToSql]) -> Result<Option<T>> {
    let doc: Option<String> = conn.prepare(sql).and_then(|mut s| s.query_row(of, |r| r.get(0))).optional().doing(READING)?;
    let damaged = |e: serde_json::Error| Error::Damaged { session: id.to_owned(), detail: format!("its projection cannot be read ({e})") };
    doc.map(|d| serde_json::from_str(&d).map_err(damaged)).transpose()
}

pub fn event(conn: &Connection, id: &str, seq: u64) -> Result<Option<SinkPast>> {
    let sql = format!("SELECT seq, at, attempt, kind, body FROM events WHERE session_no = {NUMBER} AND seq = ?2");
    conn.prepare(&sql).and_then(|mut s| s.query_row(params![id, int(seq)], read)).optional().doing(READING)
}

fn read(r: &Row<'_>) -> rusqlite::Result<SinkPast> {
    Ok(SinkPast {
        seq: count(r.get(0)?),
        at: r.get(1)?,
        attempt: u32::try_from(r.get::<_, i64>(2)?).unwrap_or(0),
        kind: r.get(3)?,
        body: r.get(4)?,
    })
}

/// See `SinkReader::back`.
pub fn back<E: From<Error>>(
    conn: &Connection,
    id: &str,
    (after, before): (u64, u64),
    kinds: &[&str],
    mut visit: impl FnMut(SinkPast) -> Result<bool, E>,
) -> Result<(), E> {
    // why the kind is looked at here: a list of kinds would be another statement for each length of it.
    let sql =
        format!("SELECT seq, at, attempt, kind, body FROM events WHERE session_no = {NUMBER} AND seq > ?2 AND seq < ?3 ORDER BY seq DESC");
    let after = after.max(before.saturating_sub(LOOK_BACK));
    let mut stmt = conn.prepare(&sql).doing(READING)?;
    let mut rows = stmt.query(params![id, int(after), int(before)]).doing(READING)?;
    while let Some(r) = rows.next().doing(READING)? {
        let is_one = r.get_ref(3).is_ok_and(|k| k.as_str().is_ok_and(|k| kinds.contains(&k)));
        if is_one && !visit(read(r).doing(READING)?)? {
            break;
        }
    }
    Ok(())
}

pub fn counted_at(conn: &Connection, id: &str, message: &str) -> Result<Option<i64>> {
    let sql = format!("SELECT at FROM usage WHERE session_no = {NUMBER} AND message = ?2");
    conn.prepare(&sql).and_then(|mut s| s.query_row(params![id, message], |r| r.get(0))).optional().doing(READING)
}
