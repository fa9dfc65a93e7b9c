//! Reading: a small pool of connections that cannot write, and the queries behind listings and pages.
//!
//! Synchronous and short (well under a millisecond for a page); each call sees one whole commit per statement.

use std::sync::{Condvar, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension};

use crate::model::{Envelope, Event, Session, SessionId};
use crate::store::batch::{Cursor, Frame};
use crate::store::chain::Hash;
use crate::store::error::{Doing, Error, Result};
use crate::store::host::{HostEntry, HostEvent};
use crate::store::seal::{Head, MAX_CHECKPOINT_SESSIONS};

use super::feed;
use super::rows::{RawEvent, count, int, raw_events, raw_host};
use super::{Database, open_reader};

/// Connections in the pool; more callers wait for one.
const READERS: usize = 4;
/// Most events, frames or host events in one page.
pub const MAX_PAGE: usize = 10_000;
/// Bytes of bodies after which a page ends early, at least one event given.
pub const MAX_PAGE_BYTES: usize = 64 << 20;
/// Most sessions in one page.
pub const MAX_SESSIONS: usize = 1_000;
/// Most names in an `Ambiguous` error.
const MAX_CANDIDATES: usize = 10;

/// Part of a listing; `next` is there when there is more.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<String>,
}

/// An event as stored, with its place in the chain.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    pub envelope: Envelope,
    /// The JSON as stored, byte for byte: what the hash commits to.
    pub body: Vec<u8>,
    pub prev: Hash,
    pub hash: Hash,
}

pub struct Pool {
    idle: Mutex<Vec<Connection>>,
    freed: Condvar,
}

struct Lease<'a> {
    pool: &'a Pool,
    conn: Option<Connection>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(self.conn.take());
        self.pool.freed.notify_one();
    }
}

impl Pool {
    pub fn open(db: &Database) -> Result<Self> {
        let idle = (0..READERS).map(|_| open_reader(db)).collect::<Result<_>>()?;
        Ok(Self { idle: Mutex::new(idle), freed: Condvar::new() })
    }

    pub(in crate::store) fn with<T>(&self, f: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut idle = self.freed.wait_while(idle, |i| i.is_empty()).unwrap_or_else(PoisonError::into_inner);
        let lease = Lease { pool: self, conn: idle.pop() };
        drop(idle);
        lease.conn.as_ref().map_or(Err(Error::Closed), f)
    }

    /// A session's number and newest seq.
    pub fn place(&self, id: &SessionId) -> Result<(i64, u64)> {
        self.with(|c| place(c, id))
    }

    /// The projection of one session.
    pub fn session(&self, id: &SessionId) -> Result<Session> {
        self.with(|c| {
            let doc = c.query_row("SELECT doc FROM sessions WHERE id = ?1", [id.as_str()], |r| r.get::<_, String>(0)).optional();
            let doc = doc.doing("reading a session")?.ok_or_else(|| not_found(id.as_str()))?;
            session_of(id.as_str(), &doc)
        })
    }

    /// An id from an exact id, an exact name, or an id's beginning, in this order. Errors: none, or more than one.
    pub fn find(&self, given: &str) -> Result<SessionId> {
        // why: GLOB and LIKE would give meaning to characters of the text; a range does not.
        const TRIES: [&str; 3] = [
            "SELECT id FROM sessions WHERE id = ?1 LIMIT ?2",
            "SELECT id FROM sessions WHERE name = ?1 ORDER BY no DESC LIMIT ?2",
            "SELECT id FROM sessions WHERE id >= ?1 AND id < ?1 || char(127) ORDER BY id LIMIT ?2",
        ];
        let short = || given.chars().take(100).collect::<String>();
        if given.is_empty() {
            return Err(not_found(""));
        }
        self.with(|c| {
            for sql in TRIES {
                let mut stmt = c.prepare(sql).doing("finding a session")?;
                let ids = stmt.query_map((given, int(MAX_CANDIDATES as u64 + 1)), |r| r.get::<_, String>(0));
                let mut ids = ids.and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>).doing("finding a session")?;
                let more = ids.len() > MAX_CANDIDATES;
                ids.truncate(MAX_CANDIDATES);
                match ids.as_slice() {
                    [] => {}
                    [one] => return SessionId::parse(one).map_err(|e| Error::Damaged { session: short(), detail: e.to_string() }),
                    _ => return Err(Error::Ambiguous { given: short(), candidates: ids, more }),
                }
            }
            Err(Error::NotFound { given: short() })
        })
    }

    /// Events from `from` on, at most `limit` (and 10,000, and 64 MiB of bodies).
    pub fn events(&self, id: &SessionId, from: u64, limit: usize) -> Result<Vec<StoredEvent>> {
        self.with(|c| {
            let (no, _) = place(c, id)?;
            page(c, id, no, from.max(1), limit)
        })
    }

    /// The newest `n` events, oldest first.
    pub fn tail(&self, id: &SessionId, n: usize) -> Result<Vec<StoredEvent>> {
        self.with(|c| {
            let (no, last) = place(c, id)?;
            page(c, id, no, (last + 1).saturating_sub(n as u64).max(1), n)
        })
    }

    /// How far an attempt's output is handled; `None` before the first cursor.
    pub fn cursor(&self, id: &SessionId) -> Result<Option<Cursor>> {
        const SQL: &str = "SELECT cursor_attempt, cursor_offset FROM sessions WHERE id = ?1";
        self.with(|c| {
            let row = c.query_row(SQL, [id.as_str()], |r| Ok((r.get::<_, Option<u32>>(0)?, r.get::<_, Option<i64>>(1)?))).optional();
            let (attempt, offset) = row.doing("reading a cursor")?.ok_or_else(|| not_found(id.as_str()))?;
            Ok(attempt.zip(offset).map(|(attempt, o)| Cursor { attempt, offset: count(o) }))
        })
    }

    /// The attempt that was given frames last, and the number of its newest, whether that is still stored or not; zeros before the first.
    pub fn newest_frame(&self, id: &SessionId) -> Result<(u32, u64)> {
        const SQL: &str = "SELECT frame_attempt, frame_no FROM sessions WHERE id = ?1";
        self.with(|c| {
            let row = c.query_row(SQL, [id.as_str()], |r| Ok((r.get(0)?, count(r.get(1)?)))).optional();
            row.doing("reading a frame's number")?.ok_or_else(|| not_found(id.as_str()))
        })
    }

    /// Stored frames of an attempt with a number above `no`, in order, at most 10,000.
    pub fn frames_after(&self, id: &SessionId, attempt: u32, no: u64) -> Result<Vec<Frame>> {
        const DOING: &str = "reading frames";
        const SQL: &str = "SELECT no, bytes FROM frames WHERE session_no = ?1 AND attempt = ?2 AND no > ?3 ORDER BY no LIMIT ?4";
        self.with(|c| {
            let (session_no, _) = place(c, id)?;
            let mut stmt = c.prepare(SQL).doing(DOING)?;
            let rows = stmt
                .query_map((session_no, attempt, int(no), int(MAX_PAGE as u64)), |r| Ok(Frame { no: count(r.get(0)?), bytes: r.get(1)? }));
            rows.and_then(Iterator::collect::<rusqlite::Result<_>>).doing(DOING)
        })
    }

    /// The host chain from `from` on, at most `limit` and 10,000.
    pub fn host_entries(&self, from: u64, limit: usize) -> Result<Vec<HostEntry>> {
        let mut out = Vec::new();
        self.with(|c| {
            raw_host(c, from, limit.min(MAX_PAGE) as u64, |raw| {
                let kind = String::from_utf8_lossy(raw.kind);
                let body = |source| Error::Body { session: "of the host".to_owned(), seq: raw.seq, source };
                let event = HostEvent::from_parts(&kind, raw.body).map_err(body)?;
                let damaged =
                    || Error::Damaged { session: "of the host".to_owned(), detail: format!("the hash of seq {} is not 32 bytes", raw.seq) };
                out.push(HostEntry { seq: raw.seq, at: raw.at, event, hash: Hash::from_slice(raw.hash).ok_or_else(damaged)? });
                Ok(())
            })
        })?;
        Ok(out)
    }

    /// How many sessions there are.
    pub fn session_count(&self) -> Result<u64> {
        self.with(|c| c.query_row("SELECT count(*) FROM sessions", [], |r| r.get(0)).map(count).doing("counting sessions"))
    }

    /// How many sessions there are of each status, and how many questions wait for a person.
    pub fn counts(&self) -> Result<(Vec<(String, u64)>, u64)> {
        const DOING: &str = "counting sessions";
        self.with(|c| {
            let mut stmt = c.prepare("SELECT status, count(*) FROM sessions GROUP BY status").doing(DOING)?;
            let rows = stmt.query_map([], |r| Ok((r.get(0)?, count(r.get(1)?)))).doing(DOING)?;
            let statuses = rows.collect::<rusqlite::Result<_>>().doing(DOING)?;
            let waiting = c.query_row("SELECT count(*) FROM approvals WHERE state = 'waiting'", [], |r| r.get(0)).doing(DOING)?;
            Ok((statuses, count(waiting)))
        })
    }

    /// Number of the newest row of events over all sessions.
    pub fn newest_row(&self) -> Result<u64> {
        self.with(feed::newest)
    }

    /// Events over all sessions above a row, at most `limit` and 10,000.
    pub fn events_after_row(&self, row: u64, limit: usize) -> Result<Vec<(u64, StoredEvent)>> {
        self.with(|c| feed::after(c, row, limit.min(MAX_PAGE)))
    }

    /// A setting's JSON text.
    pub fn setting(&self, key: &str) -> Result<Option<String>> {
        self.with(|c| c.query_row("SELECT value FROM settings WHERE key = ?1", [key], |r| r.get(0)).optional().doing("reading a setting"))
    }

    /// The end of the host chain and of every session's, as of one moment.
    pub fn heads(&self) -> Result<(u64, Hash, Vec<Head>)> {
        const DOING: &str = "reading the heads";
        self.with(|c| {
            let tx = c.unchecked_transaction().doing(DOING)?;
            let host =
                tx.query_row("SELECT seq, hash FROM host_events ORDER BY seq DESC LIMIT 1", [], |r| Ok((count(r.get(0)?), r.get(1)?)));
            let (seq, hash): (u64, [u8; 32]) = host.doing(DOING)?;
            let mut stmt = tx.prepare("SELECT id, last_seq, head FROM sessions ORDER BY id LIMIT ?1").doing(DOING)?;
            let mut rows = stmt.query([int(MAX_CHECKPOINT_SESSIONS as u64 + 1)]).doing(DOING)?;
            let mut heads = Vec::new();
            while let Some(r) = rows.next().doing(DOING)? {
                let id: String = r.get(0).doing(DOING)?;
                let session = SessionId::parse(&id).map_err(|e| Error::Damaged { session: id, detail: e.to_string() })?;
                heads.push(Head { session, seq: count(r.get(1).doing(DOING)?), hash: Hash(r.get(2).doing(DOING)?) });
            }
            crate::store::batch::cap("the sessions of a checkpoint", heads.len(), MAX_CHECKPOINT_SESSIONS)?;
            Ok((seq, Hash(hash), heads))
        })
    }
}

/// The event in a row. Errors name session and seq.
pub fn decode(session: &str, raw: &RawEvent<'_>) -> Result<Envelope> {
    let damaged = |detail: String| Error::Damaged { session: session.to_owned(), detail };
    let kind = std::str::from_utf8(raw.kind).map_err(|e| damaged(format!("the kind of seq {} is not text ({e})", raw.seq)))?;
    let body = |source| Error::Body { session: session.to_owned(), seq: raw.seq, source };
    Ok(Envelope {
        session: SessionId::parse(session).map_err(|e| damaged(e.to_string()))?,
        seq: raw.seq,
        at: raw.at,
        attempt: u32::try_from(raw.attempt).map_err(|_| damaged(format!("the attempt of seq {} is {}", raw.seq, raw.attempt)))?,
        event: Event::from_parts(kind, raw.body).map_err(body)?,
    })
}

fn page(c: &Connection, id: &SessionId, no: i64, from: u64, limit: usize) -> Result<Vec<StoredEvent>> {
    let limit = limit.min(MAX_PAGE);
    let mut out: Vec<StoredEvent> = Vec::with_capacity(limit.min(256));
    let mut prev = (from == 1).then_some(Hash::ZERO);
    let (mut next, mut bytes) = (from, 0);
    if prev.is_none() {
        // why: what is behind an archive is read also while that cannot be.
        prev = super::archives::kept(c, no, from - 1)?.first().filter(|a| a.last + 1 == from).map(|a| a.head);
    }
    // why: begins one event early, for its hash.
    let early = u64::from(prev.is_none());
    raw_events(c, no, from - early, limit as u64 + early, |raw| {
        let damaged = |detail: String| Error::Damaged { session: id.to_string(), detail };
        let hash = Hash::from_slice(raw.hash).ok_or_else(|| damaged(format!("the hash of seq {} is not 32 bytes", raw.seq)))?;
        if raw.seq + 1 == from {
            prev = Some(hash);
            return Ok(limit > 0);
        }
        let (true, Some(before)) = (raw.seq == next, prev) else {
            return Err(damaged(format!("seq {next} is missing")));
        };
        next += 1;
        bytes += raw.body.len();
        out.push(StoredEvent { envelope: decode(id.as_str(), raw)?, body: raw.body.to_vec(), prev: before, hash });
        prev = Some(hash);
        Ok(bytes < MAX_PAGE_BYTES)
    })?;
    Ok(out)
}

fn place(c: &Connection, id: &SessionId) -> Result<(i64, u64)> {
    let row = c.query_row("SELECT no, last_seq FROM sessions WHERE id = ?1", [id.as_str()], |r| Ok((r.get(0)?, count(r.get(1)?))));
    row.optional().doing("reading a session")?.ok_or_else(|| not_found(id.as_str()))
}

pub(super) fn session_of(id: &str, doc: &str) -> Result<Session> {
    serde_json::from_str(doc).map_err(|e| Error::Damaged { session: id.to_owned(), detail: format!("its projection cannot be read ({e})") })
}

fn not_found(given: &str) -> Error {
    Error::NotFound { given: given.to_owned() }
}
