//! One transaction that carries many callers' changes.
//!
//! Invariants:
//! - everything that can refuse a change is checked before its first statement, so a conflict fails its own caller only;
//! - an engine error rolls the whole group back and forgets what the cache learnt in it; no answer leaves before the commit;
//! - each touched session's row is written once per commit, in the transaction of its events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use crate::model::{Actor, Clock, Entropy, Outcome, Session, SessionId, Status};
use crate::store::batch::{Append, Appended, Cursor};
use crate::store::chain::{Hash, HostLink, Link, commitment};
use crate::store::error::{Doing, Error, Result};
use crate::store::host::{HostEvent, HostSessionCreated, HostSessionRemoved};
use crate::store::queue::Work;
use crate::store::seal::Key;
use crate::store::sink::undelivered;

use super::archives::Keep;
use super::cache::{Cache, Entry};
use super::listing::{cost, keep};
use super::order::{doomed, engine_out};
use super::recover::refold_all;
use super::rows::{SessionRow, count, int};
use super::statements::Statements;
use super::writer::WriterOptions;
use super::written;

mod admit;

const APPENDING: &str = "appending events";
const HOSTING: &str = "appending to the host chain";
const REMOVING: &str = "removing a session";
/// Events of a removed session that one commit deletes.
const PURGE: u32 = 500;
/// Records of the host chain after which its head is signed.
const HOST_HEAD_EVERY: u64 = 64;

/// The host chain's end and the sessions still to be purged: what a rollback takes back.
#[derive(Clone)]
pub(super) struct Ends {
    pub host_seq: u64,
    pub host_head: Hash,
    /// The last record that is a signed head of the chain itself; 0 when a run begins.
    pub host_headed: u64,
    pub purging: VecDeque<i64>,
    /// Number of the newest row of events ever written: a number is not given twice, so followers can use it as their place.
    pub row: u64,
}

/// The writer's state on one connection.
pub(super) struct Group<'c> {
    conn: &'c Connection,
    st: Statements<'c>,
    cache: Cache,
    ends: Ends,
    /// `ends` as of the last commit.
    safe: Ends,
    touched: Vec<SessionId>,
    evict: Vec<SessionId>,
    /// Boot time at which some session is due for a head.
    next_head: Option<u64>,
    options: Arc<WriterOptions>,
    key: Key,
    doc: Vec<u8>,
    /// The files are to be rewritten once the open group is written.
    pub(super) scrub: bool,
    /// Pages that the open group will write, roughly.
    pub(super) pages: u64,
}

impl<'c> Group<'c> {
    pub(super) fn new(conn: &'c Connection, ends: Ends, key: Key, options: Arc<WriterOptions>) -> Result<Self> {
        let st = Statements::new(conn).doing("preparing its statements")?;
        let safe = ends.clone();
        Ok(Self {
            conn,
            st,
            cache: Cache::default(),
            ends,
            safe,
            touched: Vec::new(),
            evict: Vec::new(),
            next_head: None,
            options,
            key,
            doc: Vec::new(),
            scrub: false,
            pages: 0,
        })
    }

    fn clock(&self) -> &dyn Clock {
        &*self.options.clock
    }

    fn entropy(&self) -> &dyn Entropy {
        &*self.options.entropy
    }

    /// True while deleted sessions still have rows.
    pub(super) fn is_purging(&self) -> bool {
        !self.ends.purging.is_empty()
    }

    pub(super) fn begin(&mut self) -> Result<()> {
        self.pages = 4;
        self.st.begin.execute([]).doing("beginning a transaction").map(drop)
    }

    /// Makes one change. A refusal goes into the change's own reply; an error is the engine's and dooms the group.
    pub(super) fn apply(&mut self, work: &mut Work) -> Result<()> {
        match work {
            Work::Append(a, reply) => {
                let r = self.append(a);
                reply.set(engine_out(r)?);
            }
            Work::AppendAll(all, reply) => {
                let r = self.append_all(all);
                reply.set(engine_out(r)?);
            }
            Work::Host { event, settings, reply } => {
                if let Some(e) = event {
                    self.host(e)?;
                }
                for (key, value) in settings {
                    self.setting(key, value.as_deref()).doing("changing a setting")?;
                }
                reply.set(Ok(self.ends.host_seq));
            }
            Work::Sink { change, reply } => {
                super::change_sink(self.conn, change, self.clock().wall_ms())?;
                change.notes.iter().try_for_each(|e| self.host(e))?;
                reply.set(Ok(()));
            }
            Work::Memory { change, by, reply } => {
                let (n, note) = super::memories::change(self.conn, change, by)?;
                if let Some(e) = note {
                    self.host(&e)?;
                }
                self.pages += 8;
                reply.set(Ok(n));
            }
            Work::Remove { session, by, reply } => {
                let r = self.remove(session, by);
                reply.set(engine_out(r)?);
            }
            Work::Keep { keep, reply } => {
                self.scrub |= matches!(**keep, Keep::Scrub);
                let r = super::archives::change(self.conn, keep);
                // why not yet: that is only known once the files are rewritten.
                let done = !matches!(**keep, Keep::Scrub);
                reply.set(engine_out(r)?.map(|()| done));
            }
        }
        Ok(())
    }

    fn append(&mut self, a: &mut Append) -> Result<Appended> {
        let known = self.knows(&a.session)?;
        // why before all else: what was written already is as good as written, whatever has happened since.
        if let Some(done) = self.written_before(a, known)? {
            return Ok(done);
        }
        self.check(a)?;
        if !known {
            self.create(a)?;
        }
        self.write(a, known)
    }

    fn write(&mut self, a: &mut Append, known: bool) -> Result<Appended> {
        let now = self.options.clock.boot_ms();
        if !a.events.is_empty() {
            self.expect_head(now);
        }
        let e = self.cache.get(&a.session).ok_or(Error::Closed)?;
        let first_seq = if known { e.last_seq() + 1 } else { 1 };
        written::keep(self.conn, e.no, a, first_seq)?;
        if !e.dirty {
            e.dirty = true;
            self.touched.push(a.session.clone());
            self.pages += 2;
        }
        let session = Arc::make_mut(&mut e.session);
        let mut refold = false;
        for (i, p) in a.events.iter_mut().enumerate() {
            let env = &mut p.envelope;
            env.seq = first_seq + i as u64;
            let link = Link {
                session: a.session.as_str(),
                seq: env.seq,
                at: env.at,
                attempt: env.attempt,
                kind: env.event.kind().as_bytes(),
                prev: &e.head,
                commitment: &p.commitment,
            };
            let hash = link.hash();
            self.st
                .event
                .execute(params![e.no, int(env.seq), env.at, env.attempt, env.event.kind(), hash.0, p.salt, p.body, int(self.ends.row + 1)])
                .doing(APPENDING)?;
            e.head = hash;
            self.ends.row += 1;
            super::approvals::fold(self.conn, e.no, self.ends.row, env)?;
            super::states::fold(self.conn, e.no, env)?;
            super::usage::fold(self.conn, e.no, env)?;
            super::attempts::fold(self.conn, e.no, env)?;
            super::tasks::fold(self.conn, e.no, env)?;
            super::memories::fold(self.conn, env)?;
            if env.seq > 1 {
                session.fold(env);
            }
            refold |= doomed(super::archives::apply(self.conn, e.no, a.session.as_str(), &env.event))?;
            self.pages += 1 + p.body.len() as u64 / 4_096;
        }
        if refold {
            let row = self.st.load.query_row([a.session.as_str()], SessionRow::read).doing(APPENDING)?;
            e.session = Arc::new(doomed(refold_all(self.conn, &row))?);
        }
        if let Some(upto) = a.taken {
            self.st.taken.execute(params![e.no, a.attempt, int(upto)]).doing(APPENDING)?;
        }
        if super::order::is_claim(a) {
            self.st.taken.execute(params![e.no, a.attempt, i64::MAX]).doing(APPENDING)?;
            (e.frame_attempt, e.frame_no) = (0, 0);
        }
        for f in &a.frames {
            self.st.frame.execute(params![e.no, a.attempt, int(f.no), f.bytes]).doing(APPENDING)?;
            (e.frame_attempt, e.frame_no) = (a.attempt, f.no);
            self.pages += 1 + f.bytes.len() as u64 / 4_096;
        }
        if let Some(offset) = a.cursor {
            e.cursor = Some(Cursor { attempt: a.attempt, offset });
        }
        if !a.events.is_empty() && e.unheaded_since.is_none() {
            e.unheaded_since = Some(now);
        }
        Ok(Appended { first_seq, last_seq: e.last_seq(), session: Arc::clone(&e.session), repeated: false })
    }

    /// The answer of the first time, where all of an append by another program is in the log already.
    fn written_before(&mut self, a: &mut Append, known: bool) -> Result<Option<Appended>> {
        let Some(rule) = &a.written else { return Ok(None) };
        if known {
            let e = self.cache.get(&a.session).ok_or(Error::Closed)?;
            return written::repeated(self.conn, e.no, &e.session, a);
        }
        let Some(id) = rule.opens.as_ref().map(|k| written::opened(self.conn, k)).transpose()?.flatten() else { return Ok(None) };
        self.load(&id)?;
        let e = self.cache.get(&id).ok_or(Error::Closed)?;
        Ok(Some(Appended { first_seq: 1, last_seq: e.last_seq(), session: Arc::clone(&e.session), repeated: true }))
    }

    /// Makes the row and cache entry of a new session; the append that follows writes its first event.
    fn create(&mut self, a: &mut Append) -> Result<()> {
        let bad = || Error::BadBeginning { session: a.session.clone() };
        let first = &mut a.events.first_mut().ok_or_else(bad)?.envelope;
        first.seq = 1;
        let s = Session::begin(first).ok_or_else(bad)?;
        self.st
            .session
            .execute(params![s.id.as_str(), s.name, s.agent, s.status.as_str(), s.created_at, 1, Hash::ZERO.0])
            .doing(APPENDING)?;
        let no = self.conn.last_insert_rowid();
        keep(self.conn, no, &s)?;
        let mut e = Entry::new(no, s, Hash::ZERO);
        e.dirty = true;
        self.touched.push(a.session.clone());
        self.cache.insert(a.session.clone(), e);
        self.host(&HostEvent::SessionCreated(HostSessionCreated { session: a.session.clone() }))
    }

    /// Brings a session into the cache and gives its number. Refuses to build upon a log whose end is not what its row says.
    fn load(&mut self, id: &SessionId) -> Result<i64> {
        const DOING: &str = "reading a session";
        if let Some(e) = self.cache.get(id) {
            return Ok(e.no);
        }
        let row = self.st.load.query_row([id.as_str()], SessionRow::read).optional().doing(DOING)?;
        let row = row.ok_or_else(|| Error::NotFound { given: id.to_string() })?;
        let tail = self.st.tail.query_row([row.no], |r| Ok((count(r.get(0)?), r.get::<_, Vec<u8>>(1)?))).optional().doing(DOING)?;
        if tail.is_none_or(|(seq, hash)| seq != row.last_seq || hash != row.head) {
            return Err(Error::Damaged {
                session: row.id,
                detail: format!("its last event is not seq {} with the stored head", row.last_seq),
            });
        }
        let mut e = Entry::from_row(&row)?;
        if e.headed_seq < e.last_seq() {
            let now = self.clock().boot_ms();
            e.unheaded_since = Some(now);
            self.expect_head(now);
        }
        self.cache.insert(id.clone(), e);
        Ok(row.no)
    }

    /// Some session has had events without a head since `now`, or earlier.
    fn expect_head(&mut self, now: u64) {
        let due = now.saturating_add(self.options.head_every_ms);
        self.next_head = Some(self.next_head.map_or(due, |d| d.min(due)));
    }

    fn host(&mut self, event: &HostEvent) -> Result<()> {
        let body = event.body_bytes();
        let mut salt = [0; 32];
        self.entropy().fill(&mut salt);
        let (seq, at) = (self.ends.host_seq + 1, self.clock().wall_ms());
        let c = commitment(&salt, &body);
        let hash = HostLink { seq, at, kind: event.kind().as_bytes(), prev: &self.ends.host_head, commitment: &c }.hash();
        self.st.host.execute(params![int(seq), at, event.kind(), hash.0, salt, body]).doing(HOSTING)?;
        (self.ends.host_seq, self.ends.host_head) = (seq, hash);
        self.pages += 1;
        Ok(())
    }

    fn setting(&mut self, key: &str, value: Option<&str>) -> rusqlite::Result<()> {
        match value {
            Some(v) => self.conn.execute("INSERT OR REPLACE INTO settings (key, value) VALUES (?1, ?2)", (key, v)),
            None => self.conn.execute("DELETE FROM settings WHERE key = ?1", [key]),
        }
        .map(drop)
    }

    fn remove(&mut self, id: &SessionId, by: &Actor) -> Result<()> {
        // why: not `load`: a damaged session can be removed too.
        const SQL: &str = "SELECT no, last_seq, head FROM sessions WHERE id = ?1";
        let found = self.conn.query_row(SQL, [id.as_str()], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).optional();
        let (mut no, mut last_seq, mut head): (i64, i64, Vec<u8>) =
            found.doing(REMOVING)?.ok_or_else(|| Error::NotFound { given: id.to_string() })?;
        if let Some(e) = self.cache.get(id) {
            (no, last_seq, head) = (e.no, int(e.last_seq()), e.head.0.to_vec());
        }
        let waiting = super::sinks::waiting_for(self.conn, no)?;
        if !waiting.is_empty() {
            return Err(undelivered(id, waiting));
        }
        let hash = Hash::from_slice(&head).unwrap_or(Hash::ZERO);
        self.host(&HostEvent::SessionRemoved(HostSessionRemoved { session: id.clone(), by: by.clone(), last_seq: count(last_seq), hash }))?;
        for sql in super::rows::REMOVAL {
            self.conn.execute(sql, [no]).doing(REMOVING)?;
        }
        super::memories::forget(self.conn, id)?;
        self.cache.remove(id);
        self.ends.purging.push_back(no);
        Ok(())
    }

    fn purge(&mut self) -> Result<()> {
        let Some(no) = self.ends.purging.front().copied() else { return Ok(()) };
        const SQL: &str = "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE session_no = ?1 LIMIT ?2)";
        let n = self.conn.execute(SQL, (no, PURGE)).doing(REMOVING)?;
        self.pages += n as u64 / 4;
        const KEEP: &str = "INSERT OR REPLACE INTO meta (key, value) VALUES ('newest_row', CAST(?1 AS TEXT))";
        self.conn.execute(KEEP, [int(self.ends.row)]).doing(REMOVING)?;
        if n < PURGE as usize {
            self.conn.execute("DELETE FROM removals WHERE session_no = ?1", [no]).doing(REMOVING)?;
            self.ends.purging.pop_front();
        }
        Ok(())
    }

    /// Signs the head of each session that is due: so many events, so much time, ended, about to leave the cache, or `all`.
    fn heads(&mut self, all: bool) -> Result<()> {
        let o = Arc::clone(&self.options);
        let now = o.clock.boot_ms();
        let mut due: Vec<SessionId> = Vec::new();
        if all || self.next_head.is_some_and(|t| t <= now) {
            let late = |e: &Entry| e.unheaded_since.is_some_and(|t| all || now.saturating_sub(t) >= o.head_every_ms);
            due.extend(self.cache.iter().filter(|(_, e)| late(e)).map(|(id, _)| id.clone()));
            let rest = self.cache.iter().filter(|(_, e)| !late(e)).filter_map(|(_, e)| e.unheaded_since).min();
            self.next_head = rest.map(|t| t.saturating_add(o.head_every_ms));
        }
        self.evict = self.cache.surplus();
        due.extend(self.evict.iter().cloned());
        for id in &self.touched {
            if let Some(e) = self.cache.get(id)
                && (e.session.status == Status::Ended || e.last_seq() - e.headed_seq >= o.head_every_events)
            {
                due.push(id.clone());
            }
        }
        for id in due {
            let Some(e) = self.cache.get(&id).filter(|e| e.headed_seq < e.last_seq()) else { continue };
            let head = self.key.head(&id, e.last_seq(), e.head);
            e.headed_seq = e.last_seq();
            e.unheaded_since = None;
            if !e.dirty {
                e.dirty = true;
                self.touched.push(id);
            }
            self.host(&HostEvent::SessionHead(head))?;
        }
        self.host_head(all)
    }

    /// Signs where the host chain stands, so many records after the last time, or at its end.
    fn host_head(&mut self, last: bool) -> Result<()> {
        let since = self.ends.host_seq - self.ends.host_headed;
        if since >= HOST_HEAD_EVERY || (last && since > 0) {
            self.host(&HostEvent::HostHead(self.key.host_head(self.ends.host_seq, self.ends.host_head)))?;
            self.ends.host_headed = self.ends.host_seq;
        }
        Ok(())
    }

    /// Writes heads and the touched sessions' rows, then commits. After `Ok` everything is on disk and answers may leave.
    pub(super) fn commit(&mut self) -> Result<()> {
        const DOING: &str = "committing";
        self.purge()?;
        self.heads(false)?;
        for id in &self.touched {
            let Some(e) = self.cache.get(id).filter(|e| e.dirty) else { continue };
            self.doc.clear();
            // why: plain data with string keys into memory; serialising cannot fail, and JSON text is UTF-8.
            let _ = serde_json::to_writer(&mut self.doc, &*e.session);
            let doc = std::str::from_utf8(&self.doc).unwrap_or_default();
            let (ca, co) = (e.cursor.map(|c| c.attempt), e.cursor.map(|c| int(c.offset)));
            let row = params![
                e.no,
                int(e.last_seq()),
                e.head.0,
                int(e.headed_seq),
                ca,
                co,
                e.frame_attempt,
                int(e.frame_no),
                doc,
                e.session.last_activity_at,
                cost(&e.session)
            ];
            self.st.update.execute(row).doing(DOING)?;
            if e.stored_status != e.session.status {
                self.st.status.execute(params![e.no, e.session.status.as_str(), e.session.outcome.map(Outcome::as_str)]).doing(DOING)?;
                e.stored_status = e.session.status;
            }
        }
        self.st.commit.execute([]).doing(DOING)?;
        self.safe.clone_from(&self.ends);
        for id in std::mem::take(&mut self.evict) {
            self.cache.remove(&id);
        }
        Ok(())
    }

    /// How long nothing needs to be done by itself.
    pub(super) fn idle(&self) -> Duration {
        match self.next_head {
            _ if !self.ends.purging.is_empty() => Duration::ZERO,
            Some(t) => Duration::from_millis(t.saturating_sub(self.clock().boot_ms())),
            None => Duration::from_secs(3_600),
        }
    }

    /// True when some session's newest events have waited long enough for a head.
    pub(super) fn head_due(&self) -> bool {
        self.next_head.is_some_and(|t| t <= self.clock().boot_ms())
    }

    /// Signs every session that has events after its last head.
    pub(super) fn sign_all(&mut self) -> Result<()> {
        self.heads(true)
    }

    /// The sessions of the committed group with their newest seq; ends the group.
    pub(super) fn settle(&mut self, mut each: impl FnMut(&SessionId, u64)) {
        for id in self.touched.drain(..) {
            if let Some(e) = self.cache.get(&id) {
                e.dirty = false;
                each(&id, e.session.last_seq);
            }
        }
    }

    /// Undoes the open group, in the database and in memory.
    pub(super) fn roll_back(&mut self) {
        if !self.conn.is_autocommit()
            && let Err(e) = self.conn.execute_batch("ROLLBACK")
        {
            tracing::error!(error = %e, "rolling back a failed transaction");
        }
        for id in self.touched.drain(..) {
            self.cache.remove(&id);
        }
        self.evict.clear();
        self.scrub = false;
        self.ends.clone_from(&self.safe);
        // why: a forgotten session is noticed again when it is read back.
        self.next_head = Some(self.clock().boot_ms());
    }
}
