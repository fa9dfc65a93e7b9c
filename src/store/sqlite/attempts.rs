//! The projection of attempts: one row each, changed in the transaction of the event that changes it, equal to a replay of the log.
//!
//! Called by the writer (`group`), `recover`, the readers and `verify`.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};

use crate::model::{Attempt, Attempts, Envelope, SessionId};
use crate::store::error::{Doing, Error, Result};

use super::read::Pool;
use super::rows::{SessionRow, raw_events};

const FOLDING: &str = "folding attempts";
const READING: &str = "reading attempts";

/// Folds one event that was just written into the row that it is of.
pub(super) fn fold(conn: &Connection, session_no: i64, e: &Envelope) -> Result<()> {
    let Some(meant) = Attempts::of(e) else { return Ok(()) };
    let newest =
        "SELECT attempt, doc FROM attempts WHERE session_no = ?1 AND (attempt = ?2 OR ?2 = 4294967295) ORDER BY attempt DESC LIMIT 1";
    let old = conn.prepare(newest).doing(FOLDING)?.query_row(params![session_no, meant], |r| Ok((r.get(0)?, r.get::<_, String>(1)?)));
    let old: Option<(u32, String)> = old.optional().doing(FOLDING)?;
    let number = match (&old, meant) {
        (None, u32::MAX) => return Ok(()),
        (Some((n, _)), u32::MAX) => *n,
        _ => meant,
    };
    if old.is_none() && count(conn, session_no)? >= crate::model::ATTEMPTS_MAX as i64 {
        return Ok(());
    }
    // why default for what cannot be read: `verify` names a row that is not as the log says.
    let old = old.and_then(|(_, doc)| serde_json::from_str::<Attempt>(&doc).ok());
    let Some(row) = Attempt::after(old, number, e) else { return Ok(()) };
    let doc = serde_json::to_string(&row).unwrap_or_default();
    conn.prepare("INSERT OR REPLACE INTO attempts (session_no, attempt, doc) VALUES (?1, ?2, ?3)")
        .doing(FOLDING)?
        .execute(params![session_no, number, doc])
        .doing(FOLDING)
        .map(drop)
}

fn count(conn: &Connection, session_no: i64) -> Result<i64> {
    conn.query_row("SELECT count(*) FROM attempts WHERE session_no = ?1", [session_no], |r| r.get(0)).doing(FOLDING)
}

/// Makes a session's rows anew from its log.
pub(super) fn refold(conn: &Connection, row: &SessionRow) -> Result<()> {
    conn.execute("DELETE FROM attempts WHERE session_no = ?1", [row.no]).doing(FOLDING)?;
    raw_events(conn, row.no, 1, u64::MAX, |raw| {
        if Attempts::KINDS.iter().any(|k| k.as_bytes() == raw.kind) {
            fold(conn, row.no, &super::decode(&row.id, raw)?)?;
        }
        Ok(true)
    })
}

fn stored(conn: &Connection, session_no: i64) -> Result<Attempts> {
    let mut stmt = conn.prepare("SELECT attempt, doc FROM attempts WHERE session_no = ?1 ORDER BY attempt").doing(READING)?;
    let mut rows = stmt.query([session_no]).doing(READING)?;
    let mut out = Attempts::default();
    while let Some(r) = rows.next().doing(READING)? {
        let (number, doc) = (r.get(0).doing(READING)?, r.get::<_, String>(1).doing(READING)?);
        out.0.insert(number, serde_json::from_str(&doc).unwrap_or_default());
    }
    Ok(out)
}

/// What differs between a session's stored rows and the replay of its log, in words.
pub fn attempts_differences(conn: &Connection, session_no: i64, replay: &Attempts) -> Result<Vec<String>> {
    let rows = stored(conn, session_no)?;
    let numbers: BTreeSet<&u32> = rows.0.keys().chain(replay.0.keys()).collect();
    let differs = |n: &&&u32| rows.0.get(**n) != replay.0.get(**n);
    Ok(numbers.iter().filter(differs).map(|n| format!("attempt {n} differs from the replay of the log")).collect())
}

impl Pool {
    /// The attempts of a session.
    pub fn attempts(&self, id: &SessionId) -> Result<Attempts> {
        self.with(|c| {
            let no = c.query_row("SELECT no FROM sessions WHERE id = ?1", [id.as_str()], |r| r.get(0)).optional().doing(READING)?;
            stored(c, no.ok_or_else(|| Error::NotFound { given: id.to_string() })?)
        })
    }
}
