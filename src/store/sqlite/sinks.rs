//! Rows of audit sinks: cursors, dead letters, and the page of events that a sink reads next.
//!
//! Called by the writer (`group`) for changes, and by a sink's own connection for reading, so that no append waits for a sink.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use crate::model::SinkEvent;
use crate::store::chain::hex;
use crate::store::error::{Doing, Error, Result};
use crate::store::sink::{DeadLetter, SinkChange, SinkItem, SinkPage, SinkPlace, SinkState};

use super::rows::{count, int, raw_host};

const CHANGING: &str = "moving a sink's cursor";
const READING: &str = "reading events for a sink";
/// Session of records of the host chain, in what sinks get. No session has this id.
pub const HOST_SESSION: &str = "host";

/// Makes a change; the caller writes its notes to the host chain.
pub fn change(conn: &Connection, c: &SinkChange, now: i64) -> Result<()> {
    const SQL: &str = "INSERT INTO sinks (name, host_seq, row, holds, delivered, dropped, skipped, sums) \
        VALUES (?1, ?2, ?3, coalesce(?4, 0), ?5, ?6, ?7, ?8) \
        ON CONFLICT (name) DO UPDATE SET host_seq = max(host_seq, ?2), row = max(row, ?3), holds = coalesce(?4, holds), \
        delivered = delivered + ?5, dropped = dropped + ?6, skipped = skipped + ?7, sums = coalesce(?8, sums)";
    let row = params![c.sink, int(c.place.host_seq), int(c.place.row), c.holds, int(c.delivered), int(c.dropped), int(c.skipped), c.sums];
    conn.prepare(SQL).and_then(|mut s| s.execute(row)).doing(CHANGING)?;
    for (event, reason) in &c.dead {
        // why: plain data with string keys; serialising it cannot fail.
        let doc = serde_json::to_string(event).unwrap_or_default();
        let row = params![c.sink, now, reason, doc];
        conn.execute("INSERT INTO dead_letters (sink, at, reason, event) VALUES (?1, ?2, ?3, ?4)", row).doing(CHANGING)?;
    }
    for id in &c.revived {
        conn.execute("DELETE FROM dead_letters WHERE sink = ?1 AND id = ?2", params![c.sink, id]).doing(CHANGING)?;
    }
    Ok(())
}

/// Names of sinks that are to get events of a session and have not.
pub fn waiting_for(conn: &Connection, session_no: i64) -> Result<Vec<String>> {
    const SQL: &str = "SELECT name FROM sinks WHERE holds = 1 AND row < (SELECT max(id) FROM events WHERE session_no = ?1) ORDER BY name";
    let mut stmt = conn.prepare(SQL).doing(CHANGING)?;
    let rows = stmt.query_map([session_no], |r| r.get(0)).doing(CHANGING)?;
    rows.collect::<rusqlite::Result<_>>().doing(CHANGING)
}

/// The same of events up to a seq.
pub(super) fn waiting_upto(conn: &Connection, session_no: i64, seq: u64) -> Result<Vec<String>> {
    const SQL: &str = "SELECT name FROM sinks WHERE holds = 1 \
                       AND row < (SELECT max(id) FROM events WHERE session_no = ?1 AND seq <= ?2) ORDER BY name";
    let mut stmt = conn.prepare(SQL).doing(CHANGING)?;
    let rows = stmt.query_map((session_no, int(seq)), |r| r.get(0)).doing(CHANGING)?;
    rows.collect::<rusqlite::Result<_>>().doing(CHANGING)
}

/// What is stored of a sink.
pub fn state(conn: &Connection, name: &str) -> Result<Option<SinkState>> {
    const SQL: &str = "SELECT host_seq, row, delivered, dropped, skipped FROM sinks WHERE name = ?1";
    const DEAD: &str = "SELECT count(*), coalesce(sum(length(event)), 0) FROM dead_letters WHERE sink = ?1";
    let found = conn.query_row(SQL, [name], |r| {
        let n = |at| r.get(at).map(count);
        let place = SinkPlace { host_seq: n(0)?, row: n(1)? };
        Ok(SinkState { place, delivered: n(2)?, dropped: n(3)?, skipped: n(4)?, ..SinkState::default() })
    });
    let Some(mut state) = found.optional().doing(READING)? else { return Ok(None) };
    (state.dead_letters, state.dead_bytes) = conn.query_row(DEAD, [name], |r| Ok((count(r.get(0)?), count(r.get(1)?)))).doing(READING)?;
    Ok(Some(state))
}

/// What a sink has summed up to its cursor.
pub fn sums(conn: &Connection, name: &str) -> Result<Option<Vec<u8>>> {
    let found = conn.query_row("SELECT sums FROM sinks WHERE name = ?1", [name], |r| r.get(0));
    Ok(found.optional().doing(READING)?.flatten())
}

/// Names of all sinks there ever were, with whether they hold sessions.
pub fn names(conn: &Connection) -> Result<Vec<(String, bool)>> {
    let mut stmt = conn.prepare("SELECT name, holds FROM sinks ORDER BY name LIMIT 1000").doing(READING)?;
    let rows = stmt.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).doing(READING)?;
    rows.collect::<rusqlite::Result<_>>().doing(READING)
}

/// Newest of what there is to deliver.
pub fn newest(conn: &Connection) -> Result<SinkPlace> {
    const SQL: &str = "SELECT (SELECT coalesce(max(seq), 0) FROM host_events), (SELECT coalesce(max(id), 0) FROM events)";
    conn.query_row(SQL, [], |r| Ok(SinkPlace { host_seq: count(r.get(0)?), row: count(r.get(1)?) })).doing(READING)
}

/// How many events there are behind one row and up to another.
pub fn count_events(conn: &Connection, after: u64, upto: u64) -> Result<u64> {
    const SQL: &str = "SELECT count(*) FROM events WHERE id > ?1 AND id <= ?2";
    conn.query_row(SQL, (int(after), int(upto)), |r| r.get(0)).map(count).doing(READING)
}

/// Dead letters of a sink with a number above `after`, oldest first.
pub fn dead_letters(conn: &Connection, sink: &str, after: i64, limit: usize, max_bytes: usize) -> Result<Vec<DeadLetter>> {
    const SQL: &str = "SELECT id, at, reason, event FROM dead_letters WHERE sink = ?1 AND id > ?2 ORDER BY id LIMIT ?3";
    let mut stmt = conn.prepare(SQL).doing(READING)?;
    let mut rows = stmt.query(params![sink, after, int(limit as u64)]).doing(READING)?;
    let (mut out, mut bytes) = (Vec::new(), 0);
    while bytes < max_bytes
        && let Some(r) = rows.next().doing(READING)?
    {
        let doc: String = r.get(3).doing(READING)?;
        bytes += doc.len();
        let damaged = |e: serde_json::Error| Error::Damaged { session: HOST_SESSION.to_owned(), detail: format!("a dead letter: {e}") };
        let event = serde_json::from_str(&doc).map_err(damaged)?;
        out.push(DeadLetter { id: r.get(0).doing(READING)?, at: r.get(1).doing(READING)?, reason: r.get(2).doing(READING)?, event });
    }
    Ok(out)
}

/// What comes after a place: records of the host chain first, then events in the order they were written; at most `limit`, ending
/// before the bodies pass `max_bytes` (one item excepted). Both orders are kept, so `seq` is gapless in each session and in the chain.
pub fn page(conn: &Connection, after: SinkPlace, limit: usize, max_bytes: usize) -> Result<SinkPage> {
    const SQL: &str = "SELECT id, session_no, seq, at, attempt, kind, hash, body FROM events WHERE id > ?1 ORDER BY id LIMIT ?2";
    let tx = conn.unchecked_transaction().doing(READING)?;
    let (mut out, mut bytes, mut place) = (Vec::<SinkItem>::new(), 0, after);
    raw_host(&tx, after.host_seq + 1, limit as u64, |raw| {
        let body = String::from_utf8_lossy(raw.body).into_owned();
        if out.is_empty() || bytes + body.len() <= max_bytes {
            bytes += body.len();
            place.host_seq = raw.seq;
            let kind = format!("host_{}", String::from_utf8_lossy(raw.kind));
            let hash = hex(raw.hash);
            let event = SinkEvent {
                session: HOST_SESSION.to_owned(),
                seq: raw.seq,
                at: raw.at,
                attempt: 0,
                kind,
                body,
                hash,
                labels: BTreeMap::new(),
            };
            out.push(SinkItem { place, event });
        } else {
            bytes = usize::MAX / 2;
        }
        Ok(())
    })?;
    let left = limit.saturating_sub(out.len());
    let mut rows_read = 0;
    let mut known: HashMap<i64, Option<Named>> = HashMap::new();
    let mut stmt = tx.prepare(SQL).doing(READING)?;
    let mut rows = stmt.query((int(after.row), int(left as u64))).doing(READING)?;
    while bytes < max_bytes
        && let Some(r) = rows.next().doing(READING)?
    {
        let number = |at: usize| r.get::<_, i64>(at).map(count).doing(READING);
        let no: i64 = r.get(1).doing(READING)?;
        if let std::collections::hash_map::Entry::Vacant(e) = known.entry(no) {
            e.insert(session(&tx, no)?);
        }
        let body = r.get_ref(7).and_then(|v| Ok(v.as_bytes()?)).doing(READING)?;
        if !out.is_empty() && bytes + body.len() > max_bytes {
            bytes = max_bytes;
            break;
        }
        place.row = number(0)?;
        rows_read += 1;
        // why none: its session was removed a moment ago, and the rest of its rows goes in the background.
        let Some(Some((id, labels))) = known.get(&no) else { continue };
        bytes += body.len();
        let hash: Vec<u8> = r.get(6).doing(READING)?;
        let event = SinkEvent {
            session: id.clone(),
            seq: number(2)?,
            at: r.get(3).doing(READING)?,
            attempt: u32::try_from(r.get::<_, i64>(4).doing(READING)?).unwrap_or(0),
            kind: r.get(5).doing(READING)?,
            body: String::from_utf8_lossy(body).into_owned(),
            hash: hex(&hash),
            labels: labels.clone(),
        };
        out.push(SinkItem { place, event });
    }
    Ok(SinkPage { more: bytes >= max_bytes || rows_read >= left, items: out, end: place })
}

/// A session's id and labels.
type Named = (String, BTreeMap<String, String>);

fn session(conn: &Connection, no: i64) -> Result<Option<Named>> {
    let found =
        conn.query_row("SELECT id, doc FROM sessions WHERE no = ?1", [no], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)));
    let Some((id, doc)) = found.optional().doing(READING)? else { return Ok(None) };
    // why lenient: a damaged projection is for `verify`; its events are delivered all the same.
    let labels = serde_json::from_str::<Value>(&doc).ok().and_then(|mut d| serde_json::from_value(d.get_mut("labels")?.take()).ok());
    Ok(Some((id, labels.unwrap_or_default())))
}
