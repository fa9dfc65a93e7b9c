//! Appends to sessions that other programs write: repeats are known by their keys, attempts are held to their order.
//!
//! Invariants: a refusal comes before the first statement; a repeat writes nothing and gives the answer of the first time; an event
//! belongs to the attempt that is open when the one writer takes it.
//!
//! Called by `group`, on the writer's connection, and by readers that look a key up.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Statement, params};

use crate::model::{Event, Session, SessionId, Status};
use crate::store::batch::{Append, Appended, Prepared};
use crate::store::error::{Doing, Error, Result};
use crate::store::written::{WriteKey, WriteRefusal, WrittenAt};

use super::read::Pool;
use super::rows::{count, int};

const LOOKING: &str = "looking up the key of a write";
const KEEPING: &str = "keeping the key of a write";

/// Where a write of this key stands.
struct Place {
    first_seq: u64,
    last_seq: u64,
}

const FIND: &str = "SELECT digest, first_seq, last_seq FROM writes WHERE session_no = ?1 AND key = ?2";

fn find(stmt: &mut Statement<'_>, no: i64, id: &SessionId, k: &WriteKey) -> Result<Option<Place>> {
    let row = stmt.query_row(params![no, k.key], |r| Ok((r.get::<_, Vec<u8>>(0)?, count(r.get(1)?), count(r.get(2)?))));
    let Some((digest, first_seq, last_seq)) = row.optional().doing(LOOKING)? else { return Ok(None) };
    if digest != k.digest {
        return Err(WriteRefusal::KeyTaken { session: id.clone(), key: k.key.clone(), first_seq, last_seq }.into());
    }
    Ok(Some(Place { first_seq, last_seq }))
}

/// The session that a writer's key stands for, if any.
pub(super) fn opened(conn: &Connection, key: &str) -> Result<Option<SessionId>> {
    const SQL: &str = "SELECT s.id FROM writers w JOIN sessions s ON s.no = w.session_no WHERE w.key = ?1";
    let mut stmt = conn.prepare(SQL).doing(LOOKING)?;
    let id = stmt.query_row([key], |r| r.get::<_, String>(0)).optional().doing(LOOKING)?;
    let Some(id) = id else { return Ok(None) };
    SessionId::parse(&id).map(Some).map_err(|e| Error::Damaged { session: id, detail: e.to_string() })
}

/// Takes out what the log has already. `Some` when that is all of it: the answer of the first time.
pub(super) fn repeated(conn: &Connection, no: i64, session: &Arc<Session>, a: &mut Append) -> Result<Option<Appended>> {
    let Some(rule) = &mut a.written else { return Ok(None) };
    if session.record.writer.is_none() {
        return Err(WriteRefusal::NotWritten(session.id.clone()).into());
    }
    let again = |first_seq, last_seq| Appended { first_seq, last_seq, session: Arc::clone(session), repeated: true };
    let mut stmt = conn.prepare(FIND).doing(LOOKING)?;
    if let Some(k) = &rule.key
        && let Some(p) = find(&mut stmt, no, &session.id, k)?
    {
        return Ok(Some(again(p.first_seq, p.last_seq)));
    }
    let had = a.events.len();
    let mut kept: Vec<(Prepared, WrittenAt)> = Vec::with_capacity(had);
    let (mut is_known, mut place) = (false, None);
    for (event, at) in a.events.drain(..).zip(rule.events.drain(..)) {
        if !at.follows {
            let found = at.key.as_ref().map(|k| find(&mut stmt, no, &session.id, k)).transpose()?.flatten();
            is_known = found.is_some();
            if let Some(p) = found {
                place = Some(place.map_or((p.first_seq, p.last_seq), |(f, l): (u64, u64)| (f.min(p.first_seq), l.max(p.last_seq))));
            }
        }
        if !is_known {
            kept.push((event, at));
        }
    }
    (a.events, rule.events) = kept.into_iter().unzip();
    Ok(match place {
        Some((first, last)) if a.events.is_empty() && had > 0 => Some(again(first, last)),
        _ => None,
    })
}

/// Gives each event its attempt and time. Errors: the order of attempts does not allow it.
pub(super) fn admit(a: &mut Append, s: &Session) -> Result<()> {
    let Some(rule) = &a.written else { return Ok(()) };
    let id = || s.id.clone();
    let (mut open, mut attempt, mut ended) = (s.in_attempt, s.attempt, s.status == Status::Ended);
    for (p, w) in a.events.iter_mut().zip(&rule.events) {
        if ended {
            return Err(WriteRefusal::Ended(id()).into());
        }
        let number = |is: u32| match w.number {
            0 => Ok(()),
            said if said == is => Ok(()),
            said => Err(WriteRefusal::AttemptNumber { session: id(), is, said }),
        };
        match &p.envelope.event {
            Event::SessionCreated(_) | Event::InvocationRecorded(_) | Event::WritesLost(_) => {}
            Event::AttemptStarted(_) => {
                if open {
                    return Err(WriteRefusal::AttemptOpen { session: id(), attempt }.into());
                }
                number(attempt.saturating_add(1))?;
                attempt = attempt.saturating_add(1);
                open = true;
            }
            Event::SessionEnded(_) => {
                if open {
                    return Err(WriteRefusal::AttemptOpen { session: id(), attempt }.into());
                }
                ended = true;
            }
            other if !open => return Err(WriteRefusal::NoAttempt { session: id(), kind: other.kind().to_owned() }.into()),
            Event::AttemptEnded(_) => {
                number(attempt)?;
                open = false;
            }
            _ => {}
        }
        (p.envelope.attempt, p.envelope.at) = (attempt, w.at);
    }
    a.attempt = attempt;
    Ok(())
}

/// Keeps the keys of what was just written from `first_seq` on.
pub(super) fn keep(conn: &Connection, no: i64, a: &Append, first_seq: u64) -> Result<()> {
    let Some(rule) = &a.written else { return Ok(()) };
    if let Some(key) = &rule.opens {
        let mut stmt = conn.prepare("INSERT INTO writers (key, session_no) VALUES (?1, ?2)").doing(KEEPING)?;
        stmt.execute(params![key, no]).doing(KEEPING)?;
    }
    if rule.key.is_none() && rule.events.iter().all(|w| w.key.is_none()) {
        return Ok(());
    }
    const SQL: &str = "INSERT INTO writes (session_no, key, digest, first_seq, last_seq, attempt) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let mut stmt = conn.prepare(SQL).doing(KEEPING)?;
    let mut put =
        |k: &WriteKey, first: u64, last: u64| stmt.execute(params![no, k.key, k.digest, int(first), int(last), a.attempt]).doing(KEEPING);
    if let Some(k) = &rule.key {
        put(k, first_seq, (first_seq + a.events.len() as u64).saturating_sub(1))?;
    }
    for (i, w) in rule.events.iter().enumerate() {
        if let Some(k) = &w.key {
            let more = rule.events.iter().skip(i + 1).take_while(|w| w.follows).count() as u64;
            let first = first_seq + i as u64;
            put(k, first, first + more)?;
        }
    }
    Ok(())
}

impl Pool {
    /// The session that a writer's key stands for.
    pub fn written_session(&self, key: &str) -> Result<Option<SessionId>> {
        self.with(|c| opened(c, key))
    }

    /// How many of these keys stand for no write of the session.
    pub fn unknown_writes(&self, id: &SessionId, keys: &[String]) -> Result<u64> {
        const SQL: &str = "SELECT count(*) FROM writes WHERE session_no = (SELECT no FROM sessions WHERE id = ?1) AND key = ?2";
        self.with(|c| {
            let mut stmt = c.prepare(SQL).doing(LOOKING)?;
            let mut unknown = 0;
            for key in keys {
                unknown += u64::from(stmt.query_row(params![id.as_str(), key], |r| r.get::<_, i64>(0)).doing(LOOKING)? == 0);
            }
            Ok(unknown)
        })
    }
}
