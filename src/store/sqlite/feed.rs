//! Events over all sessions in the order they were written: what a follower of everything reads.
//!
//! The position is the row's number, which only grows (the writer never gives one twice, even after a removal). Called by `Store::feed`.

use rusqlite::Connection;

use super::super::chain::Hash;
use super::super::error::{Doing, Error, Result};
use super::read::{MAX_PAGE_BYTES, StoredEvent, decode};
use super::rows::{RawEvent, count};

const DOING: &str = "reading events of all sessions";

/// Number of the newest row there ever was, though it was removed since; 0 in an empty store.
pub fn newest(c: &Connection) -> Result<u64> {
    const SQL: &str = "SELECT max(coalesce((SELECT max(id) FROM events), 0), \
                       coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'newest_row'), 0))";
    c.query_row(SQL, [], |r| r.get(0)).map(count).doing(DOING)
}

/// Events of rows above `after`, at most `limit` and (one event excepted) 64 MiB of bodies; `prev` is not known here and zero.
pub fn after(c: &Connection, after: u64, limit: usize) -> Result<Vec<(u64, StoredEvent)>> {
    const SQL: &str = "SELECT e.id, s.id, e.seq, e.at, e.attempt, e.kind, e.hash, e.body FROM events e JOIN sessions s ON s.no = e.session_no \
WHERE e.id > ?1 ORDER BY e.id LIMIT ?2";
    let mut stmt = c.prepare(SQL).doing(DOING)?;
    let bounds = (i64::try_from(after).unwrap_or(i64::MAX), i64::try_from(limit).unwrap_or(i64::MAX));
    let mut rows = stmt.query(bounds).doing(DOING)?;
    let (mut out, mut bytes) = (Vec::new(), 0);
    while bytes < MAX_PAGE_BYTES
        && let Some(r) = rows.next().doing(DOING)?
    {
        let session: String = r.get(1).doing(DOING)?;
        let number = |at: usize| r.get::<_, i64>(at).map(|n| u64::try_from(n).unwrap_or(0)).doing(DOING);
        let (kind, hash, body): (String, Vec<u8>, Vec<u8>) = (r.get(5).doing(DOING)?, r.get(6).doing(DOING)?, r.get(7).doing(DOING)?);
        let raw = RawEvent {
            row: r.get(0).doing(DOING)?,
            seq: number(2)?,
            at: r.get(3).doing(DOING)?,
            attempt: r.get(4).doing(DOING)?,
            kind: kind.as_bytes(),
            hash: &hash,
            salt: &[],
            commitment: &[],
            body: &body,
        };
        let envelope = decode(&session, &raw)?;
        let damaged = || Error::Damaged { session: session.clone(), detail: format!("the hash of seq {} is not 32 bytes", raw.seq) };
        let hash = Hash::from_slice(&hash).ok_or_else(damaged)?;
        bytes += body.len();
        out.push((number(0)?, StoredEvent { envelope, prev: Hash::ZERO, hash, body }));
    }
    Ok(out)
}
