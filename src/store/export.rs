//! Export: a session's log as JSON lines, one envelope a line with what is needed to check the chain elsewhere.

use std::collections::VecDeque;

use rusqlite::Connection;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::model::{SessionId, format_ms};

use super::chain::{Hash, hex};
use super::error::{Error, Result};
use super::sqlite::raw_events;

/// Lines read ahead.
const AHEAD: u64 = 100;

#[derive(Serialize)]
struct Line<'a> {
    session: &'a str,
    seq: u64,
    at: i64,
    at_text: String,
    attempt: i64,
    kind: std::borrow::Cow<'a, str>,
    /// Byte for byte as stored: the commitment covers these bytes.
    body: &'a RawValue,
    salt: String,
    /// What the hash commits to, where salt and body were erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    commitment: Option<Hash>,
    prev: Hash,
    hash: Hash,
}

/// The lines, without line ends, up to where the log stood when the export began.
pub struct Export {
    conn: Connection,
    session: SessionId,
    no: i64,
    next: u64,
    last: u64,
    prev: Hash,
    ready: VecDeque<String>,
    failed: Option<Error>,
}

impl Export {
    pub(super) fn new(conn: Connection, session: SessionId, no: i64, last: u64) -> Self {
        Self { conn, session, no, next: 1, last, prev: Hash::ZERO, ready: VecDeque::new(), failed: None }
    }

    fn read(&mut self) -> Result<()> {
        let (session, ready, prev, next, last) = (self.session.as_str(), &mut self.ready, &mut self.prev, &mut self.next, self.last);
        let damaged = |seq: u64, detail: &str| Error::Damaged { session: session.to_owned(), detail: format!("seq {seq} {detail}") };
        let from = *next;
        raw_events(&self.conn, self.no, from, AHEAD, |raw| {
            if raw.seq > last {
                return Ok(false);
            }
            if raw.seq != *next {
                return Err(damaged(*next, "is missing"));
            }
            let hash = Hash::from_slice(raw.hash).ok_or_else(|| damaged(raw.seq, "has no hash"))?;
            let body: &RawValue = serde_json::from_slice(raw.body).map_err(|_| damaged(raw.seq, "has a body that is not JSON"))?;
            let line = Line {
                session,
                seq: raw.seq,
                at: raw.at,
                at_text: format_ms(raw.at),
                attempt: raw.attempt,
                kind: String::from_utf8_lossy(raw.kind),
                body,
                salt: hex(raw.salt),
                commitment: Hash::from_slice(raw.commitment),
                prev: *prev,
                hash,
            };
            ready.push_back(serde_json::to_string(&line).map_err(|_| damaged(raw.seq, "cannot be written as JSON"))?);
            *prev = hash;
            *next += 1;
            Ok(true)
        })?;
        if *next == from && from <= last {
            return Err(damaged(from, "is missing"));
        }
        Ok(())
    }
}

impl Iterator for Export {
    type Item = Result<String>;

    /// After an error it ends: nothing behind a damaged place is given.
    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty()
            && self.next <= self.last
            && let Err(e) = self.read()
        {
            self.next = u64::MAX;
            self.failed = Some(e);
        }
        self.ready.pop_front().map(Ok).or_else(|| self.failed.take().map(Err))
    }
}
