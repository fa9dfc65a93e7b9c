//! Sessions that other programs write: opened by a key of their own, written in keyed pieces, ended by their writer or by an operator.
//!
//! Invariants:
//! - only such a session is written here: a log of the host's own is refused by the store itself, whoever asks;
//! - a writer reports; it cannot decide, approve or speak of breaches (the set of writes is closed, `model::written`);
//! - opening is idempotent, and of any number of openers at once one begins the session; a keyed write is in the log once, whatever dies;
//! - the host holds nothing of it, so a silent writer is silent, not dead: it is ended on somebody's word, or after `idle_ms` where that
//!   was asked for.
//!
//! Called by `api` through [`Manager`], and by the verbs that end or read any session.

use std::collections::{BTreeMap, HashSet};

use super::start::Brief;
use super::{Error, Inner, Manager, live, mask};
use crate::model::limits::Used;
use crate::model::written::{WRITE_KEY_MAX, WRITE_NAME_MAX, WRITE_TEXT_MAX, WRITES_MAX, Write, WriteError, Written, check_name};
use crate::model::{
    Actor, Event, Mediation, Outcome, Session, SessionCreated, SessionEnded, SessionId, SessionStopping, Status, Writer, WritesLost,
};
use crate::store::{self, Batch, WriteKey, WriteRefusal, WriteRule, WrittenAt};

mod events;
pub(super) mod idle;

/// What the host says of its part in such a session.
const NOTE: &str = "another program writes this session; the host holds none of its processes";
/// What a session's agent is called where nobody says.
const AGENT: &str = "external";
/// Most keys that an emitter may name as not acknowledged; what is over is counted.
pub const LOST_KEYS_MAX: usize = 10_000;

/// What a session that another program writes is opened with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OpenWritten {
    /// The writer's own name of it; without one, tenant and thread are that.
    pub key: Option<String>,
    pub name: Option<String>,
    pub agent: Option<String>,
    /// Absolute; empty where the work has no folder.
    pub cwd: String,
    pub prompt: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Its target is required.
    pub brief: Brief,
    pub idle_ms: Option<u64>,
}

/// Which session.
#[derive(Debug, Clone, PartialEq)]
pub enum WriteTo {
    /// By id, unique prefix of one, or name.
    Session(String),
    /// By its writer's key; begun where it is not there.
    Open(Box<OpenWritten>),
}

/// Writes that an emitter gave up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LostWrites {
    /// The emitter's name of this report: told again it is not counted again.
    pub id: String,
    /// Lost for certain.
    pub count: u64,
    /// Not acknowledged: those that are in the log after all are not lost.
    pub keys: Vec<String>,
    pub since: Option<i64>,
    pub why: String,
}

/// One request of a writer.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteCall {
    pub to: WriteTo,
    pub key: Option<String>,
    pub writes: Vec<Write>,
    pub lost: Option<LostWrites>,
}

/// What became of it; durable.
#[derive(Debug, Clone, PartialEq)]
pub struct Wrote {
    pub session: Session,
    /// It was begun by this request.
    pub opened: bool,
    /// Nothing was written: all of it was in the log already.
    pub repeated: bool,
    /// Absent where nothing was to be written.
    pub seqs: Option<(u64, u64)>,
    /// Writes that were found lost, and are on record now.
    pub lost: u64,
}

impl Manager {
    /// Opens where need be, and writes. Returns once it is durable.
    pub async fn write(&self, call: WriteCall, by: Actor) -> Result<Wrote, Error> {
        check(&call)?;
        let (session, opened) = match call.to {
            WriteTo::Session(key) => (self.find(&key)?, false),
            WriteTo::Open(open) => self.inner.open_written(*open, &by).await?,
        };
        if session.record.writer.is_none() {
            return Err(store::Error::from(WriteRefusal::NotWritten(session.id)).into());
        }
        self.inner.idle.heard(&session);
        let lost = match call.lost {
            Some(lost) => self.inner.record_lost(&session, lost).await?,
            None => 0,
        };
        if call.writes.is_empty() {
            let session = if lost > 0 { self.inner.store.session(&session.id)? } else { session };
            return Ok(Wrote { session, opened, repeated: false, seqs: None, lost });
        }
        let done = self.inner.append_writes(&session, call.key, &call.writes, &by).await?;
        Ok(Wrote { session: (*done.session).clone(), opened, repeated: done.repeated, seqs: Some((done.first_seq, done.last_seq)), lost })
    }
}

fn check(call: &WriteCall) -> Result<(), WriteError> {
    let count = call.writes.len();
    if count > WRITES_MAX {
        return Err(WriteError::TooMany { what: "writes", count, max: WRITES_MAX });
    }
    let mut keys = HashSet::new();
    for key in call.key.iter().chain(call.writes.iter().filter_map(|w| w.key.as_ref())) {
        check_name("the key of a write", key, WRITE_KEY_MAX)?;
        if !keys.insert(key) {
            let expected = "give each write of a request a key of its own";
            return Err(WriteError::Value { what: "the key of a second write", found: key.clone(), expected });
        }
    }
    if let Some(lost) = &call.lost {
        check_name("the id of a report of lost writes", &lost.id, WRITE_KEY_MAX)?;
        check_name("why writes were lost", &lost.why, WRITE_NAME_MAX)?;
        if lost.keys.len() > LOST_KEYS_MAX {
            return Err(WriteError::TooMany { what: "keys of lost writes", count: lost.keys.len(), max: LOST_KEYS_MAX });
        }
    }
    call.writes.iter().try_for_each(Write::check)
}

impl Inner {
    async fn append_writes(&self, session: &Session, key: Option<String>, writes: &[Write], by: &Actor) -> Result<store::Appended, Error> {
        let now = self.clock.wall_ms();
        // why of all: a key that comes again with another write beside it is another request.
        let whole = key.map(|key| WriteKey { key, digest: digest(writes) });
        let mut rule = WriteRule { opens: None, key: whole, events: Vec::with_capacity(writes.len()) };
        let (mut events, mut blobs) = (Vec::with_capacity(writes.len()), Vec::new());
        let mut begun = false;
        for w in writes {
            let at = w.at.as_deref().map(time_of).transpose()?.map_or(now, |at| at.min(now));
            let made = events::make(&w.what, session, begun, at, &self.prices, by);
            begun |= matches!(w.what, Written::AttemptStarted(_));
            let mut key = w.key.as_ref().map(|key| WriteKey { key: key.clone(), digest: digest(std::slice::from_ref(w)) });
            for (i, event) in made.events.into_iter().enumerate() {
                rule.events.push(WrittenAt { at, number: made.number, key: key.take(), follows: i > 0 });
                events.push(mask::event(event));
            }
            blobs.extend(made.blobs);
        }
        let batch = Batch { events, ..empty(&session.id, now, None) };
        let answered: Vec<Event> = batch.events.iter().filter(|e| matches!(e, Event::ModelResponded(_))).cloned().collect();
        let (all, begun) = (batch.events.len() as u64, std::time::Instant::now());
        let ticket = if blobs.is_empty() {
            self.store.append_written(batch, rule)
        } else {
            tokio::task::block_in_place(|| self.store.append_written(Batch { blobs, ..batch }, rule))
        };
        let done = ticket.await?;
        self.metrics.appended(begun.elapsed());
        if !done.repeated {
            self.count_written(&done.session);
        }
        // why only of a whole one: which of them were known before is not told, and the ledger has it right.
        if !done.repeated && done.last_seq + 1 - done.first_seq == all {
            self.metrics.recorded(&answered);
        }
        Ok(done)
    }

    /// Adds what its writer told to the sums of the trees it is in, and wakes their sessions where a limit is passed.
    fn count_written(&self, session: &Session) {
        for root in self.budget_roots(session) {
            let Some(stands) = self.count_in(&root, &session.id, &Used::of(session, session.turns)) else { continue };
            if stands.limits.passed(&stands.sum, stands.now, Some(&root)).is_some() {
                self.tell_tree(&root);
            }
        }
    }

    /// The session of a key, and whether it begins now.
    async fn open_written(&self, open: OpenWritten, by: &Actor) -> Result<(Session, bool), Error> {
        let found_by = open.found_by()?;
        if open.brief.target.is_none() {
            return Err(WriteError::Missing { what: "the target of a session" }.into());
        }
        if let Some(id) = self.store.written_session(&found_by)? {
            let session = self.store.session(&id)?;
            open.must_be(&session)?;
            return Ok((session, false));
        }
        let shown = open.key.clone().or_else(|| open.brief.thread.clone()).unwrap_or_default();
        let name = open.name.clone().unwrap_or(shown);
        check_name("the name", &name, WRITE_NAME_MAX)?;
        let agent = open.agent.clone().unwrap_or_else(|| AGENT.to_owned());
        check_name("the agent", &agent, WRITE_NAME_MAX)?;
        if !(open.cwd.is_empty() || open.cwd.starts_with('/')) || open.cwd.len() > 4096 || open.cwd.chars().any(char::is_control) {
            let found = live::cut(&open.cwd, 100);
            return Err(WriteError::Value { what: "the folder", found, expected: "give an absolute path" }.into());
        }
        if let Some(len) = open.prompt.as_ref().map(String::len).filter(|len| *len > WRITE_TEXT_MAX) {
            return Err(WriteError::TooLong { what: "the prompt", len, max: WRITE_TEXT_MAX }.into());
        }
        let set = &self.config.record;
        let parent = open.brief.parent(self)?;
        // why that driver: budgets of a tree ask for one that tells what it uses, and so does a writer.
        let driver = crate::agent::driver("claude")?;
        let mut below = self.may_begin(parent.as_ref(), driver, std::path::Path::new(&open.cwd), false).await?;
        let mut record = open.brief.record(set, parent, None)?;
        let idle_ms = open.idle_ms.or(Some(set.writer_idle_ms)).filter(|ms| *ms > 0);
        record.writer = Some(Writer { key: open.key.clone(), idle_ms });
        let (prompt, blob) = open.prompt.as_ref().map(|p| live::excerpt(mask::text(p).into_owned().into_bytes())).unzip();
        let reserved = self.reserve(&name)?;
        let created = SessionCreated {
            name,
            agent,
            command: vec![],
            cwd: open.cwd.clone(),
            home: None,
            write_root: None,
            labels: open.labels.clone(),
            env_names: vec![],
            mediation: Mediation::None,
            mediation_note: Some(NOTE.to_owned()),
            keep_open: false,
            created_by: by.clone(),
            unsafe_args: vec![],
            beadle_version: env!("CARGO_PKG_VERSION").to_owned(),
            program: None,
            prompt,
            record,
        };
        let now = self.clock.wall_ms();
        let rule = WriteRule { opens: Some(found_by), key: None, events: vec![WrittenAt { at: now, ..WrittenAt::default() }] };
        let batch = Batch { events: vec![mask::event(created.into())], ..empty(&reserved.id, now, Some(0)) };
        let blobs: Vec<Vec<u8>> = blob.flatten().into_iter().collect();
        let ticket = tokio::task::block_in_place(|| self.store.append_written(Batch { blobs, ..batch }, rule));
        let done = ticket.await?;
        if let Some(start) = &mut below {
            start.recorded();
        }
        // why again: another opener may have been faster, with another record.
        open.must_be(&done.session)?;
        Ok(((*done.session).clone(), !done.repeated))
    }

    /// Puts on record what an emitter gave up; gives how much of it is lost indeed.
    async fn record_lost(&self, session: &Session, lost: LostWrites) -> Result<u64, Error> {
        let unknown = tokio::task::block_in_place(|| self.store.unknown_writes(&session.id, &lost.keys))?;
        let count = lost.count.saturating_add(unknown);
        if count == 0 || session.status == Status::Ended {
            return Ok(0);
        }
        let now = self.clock.wall_ms();
        // why that character: no key of a writer's has it.
        let key = WriteKey { key: format!("lost\u{1f}{}", lost.id), digest: *blake3::hash(lost.id.as_bytes()).as_bytes() };
        let event: Event = WritesLost { count, since: lost.since.map(|at| at.min(now)), why: lost.why }.into();
        let rule = WriteRule { opens: None, key: Some(key), events: vec![WrittenAt { at: now, ..WrittenAt::default() }] };
        let done = self.store.append_written(Batch { events: vec![mask::event(event)], ..empty(&session.id, now, None) }, rule).await?;
        if done.repeated {
            return Ok(0);
        }
        self.metrics.writes_lost(count);
        tracing::warn!(session = %session.id, count, "an emitter gave writes up");
        Ok(count)
    }

    /// Ends such a session on somebody's word: an open attempt first.
    pub(super) async fn end_written(&self, id: &SessionId, outcome: Outcome, why: &str, how: &str, by: &Actor) -> Result<Session, Error> {
        loop {
            let session = self.store.session(id)?;
            if session.status == Status::Ended {
                return Ok(session);
            }
            match self.store.append(self.end_of_written(&session, outcome, why, how, by)).await {
                Ok(done) => return Ok((*done.session).clone()),
                // A write came between.
                Err(store::Error::Conflict { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The session as it is now: ended, where its writer has been silent for as long as was asked for.
    pub(super) async fn reconcile_written(&self, session: Session) -> Result<Session, Error> {
        let Some(idle_ms) = session.record.writer.as_ref().and_then(|w| w.idle_ms) else { return Ok(session) };
        let silent = self.idle.silent_ms(&session.id).unwrap_or(0);
        if session.status == Status::Ended || silent < idle_ms {
            return Ok(session);
        }
        let why = format!("its writer was silent for {silent} ms, over its limit of {idle_ms}");
        let batch = self.end_of_written(&session, Outcome::Lost, &why, "idle", &Actor::host());
        match self.store.append(batch).await {
            Ok(done) => Ok((*done.session).clone()),
            // why not again: a write came between, so it is silent no more.
            Err(store::Error::Conflict { .. }) => Ok(self.store.session(&session.id)?),
            Err(e) => Err(e.into()),
        }
    }

    fn end_of_written(&self, session: &Session, outcome: Outcome, why: &str, how: &str, by: &Actor) -> Batch {
        let mut events: Vec<Event> = vec![SessionStopping { by: by.clone(), how: how.to_owned(), grace_ms: 0 }.into()];
        if session.in_attempt {
            events.push(super::finish::unseen(outcome, why.to_owned()).into());
        }
        events.push(SessionEnded { outcome, reason: Some(why.to_owned()), report: None }.into());
        Batch { attempt: session.attempt, events, ..empty(&session.id, self.clock.wall_ms(), Some(session.last_seq)) }
    }
}

impl OpenWritten {
    /// What names the session on this host.
    fn found_by(&self) -> Result<String, WriteError> {
        match (&self.key, &self.brief.thread) {
            (Some(key), _) => check_name("the key of a session", key, WRITE_KEY_MAX).map(|()| format!("k{key}")),
            (None, Some(thread)) => {
                check_name("the thread", thread, WRITE_NAME_MAX)?;
                let tenant = self.brief.tenant.as_deref().unwrap_or_default();
                // why that character: neither text may have it, so no two pairs are one key.
                if tenant.chars().any(char::is_control) {
                    check_name("the tenant", tenant, WRITE_NAME_MAX)?;
                }
                Ok(format!("t{tenant}\u{1f}{thread}"))
            }
            (None, None) => Err(WriteError::Missing { what: "the key of a session (or its thread)" }),
        }
    }

    /// What is said here is what the session was opened with; what is left out may be anything.
    fn must_be(&self, s: &Session) -> Result<(), Error> {
        let (b, r) = (&self.brief, &*s.record);
        let texts = [
            ("target", b.target.as_deref(), r.target.as_deref()),
            ("agent", self.agent.as_deref(), Some(s.agent.as_str())),
            ("name", self.name.as_deref(), Some(s.name.as_str())),
            ("owner", b.owner.as_deref(), Some(r.owner.as_str())),
            ("mission", b.mission.as_deref(), r.mission.as_deref()),
            ("assignment", b.assignment.as_deref(), r.assignment.as_deref()),
            ("phase", b.phase.as_deref(), r.phase.as_deref()),
            ("tenant", b.tenant.as_deref(), r.tenant.as_deref()),
            ("thread", b.thread.as_deref(), r.thread.as_deref()),
        ];
        match texts.into_iter().find(|(_, said, is)| said.is_some() && said != is) {
            None => Ok(()),
            Some((field, said, is)) => Err(Error::OtherRecord {
                session: s.id.clone(),
                key: self.key.clone().or_else(|| b.thread.clone()).unwrap_or_default(),
                field,
                is: is.unwrap_or("not set").to_owned(),
                said: live::cut(said.unwrap_or_default(), 200),
            }),
        }
    }
}

fn empty(id: &SessionId, at: i64, expected: Option<u64>) -> Batch {
    let session = id.clone();
    Batch { session, expected, attempt: 0, at, events: vec![], cursor: None, frames: vec![], taken: None, blobs: vec![] }
}

fn digest(writes: &[Write]) -> [u8; 32] {
    // why: plain data with string keys into memory; serialising cannot fail.
    *blake3::hash(&serde_json::to_vec(writes).unwrap_or_default()).as_bytes()
}

fn time_of(given: &str) -> Result<i64, WriteError> {
    let found = || given.chars().take(40).collect::<String>();
    let wrong = |_| WriteError::Value { what: "the time", found: found(), expected: "write it as 2026-01-31T08:00:00Z" };
    chrono::DateTime::parse_from_rfc3339(given).map(|t| t.timestamp_millis()).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(key: Option<&str>, tenant: Option<&str>, thread: Option<&str>) -> Result<String, WriteError> {
        let text = |t: Option<&str>| t.map(str::to_owned);
        let brief = Brief { tenant: text(tenant), thread: text(thread), ..Brief::default() };
        OpenWritten { key: text(key), brief, ..OpenWritten::default() }.found_by()
    }

    #[test]
    fn no_two_ways_to_name_a_session_are_one() {
        let all = [
            open(Some("a"), None, None),
            open(None, None, Some("a")),
            open(None, Some("a"), Some("b")),
            open(None, Some("a/b"), Some("c")),
            open(None, Some("a"), Some("b/c")),
            open(Some("a\u{1f}b"), None, None),
        ];
        let keys: HashSet<_> = all.iter().filter_map(|k| k.as_ref().ok()).collect();
        assert_eq!(keys.len(), 5, "{all:?}");
        assert!(matches!(all[5], Err(WriteError::Control { .. })));
        assert_eq!(open(Some("k"), Some("t"), Some("x")), open(Some("k"), None, None), "a key of its own goes before tenant and thread");
        assert!(matches!(open(None, Some("t"), None), Err(WriteError::Missing { .. })));
        assert!(matches!(open(Some(" "), None, None), Err(WriteError::Empty { .. })));
    }
}
