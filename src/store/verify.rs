//! `verify`: reads every log from its first byte and names what does not fit.
//!
//! Without a checkpoint it finds accidents and partial edits: any flipped byte, gap, cut, swap, a projection that differs from its
//! replay, a session that the host chain knows otherwise. Who rewrites a whole log, its row and the host chain is found only against a
//! [`super::Checkpoint`], or against signed heads that a sink has, which were carried away before.
//!
//! Works on a snapshot, on a connection of its own, beside the running writer. Damage is reported, never an error.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, OptionalExtension as _};

use crate::model::ledger::Ledger;
use crate::model::{Approvals, Attempts, Origin, PluginStates, Session, SessionId, Tasks};

use super::blob::Blobs;
use super::chain::{Hash, HostLink, Salt, commitment};
use super::error::{Doing, Error, Result};
use super::host::HostEvent;
use super::report::{Report, What};
use super::seal::Pins;
use super::seam::Seam;
use super::sqlite::{
    RawEvent, SessionRow, attempts_differences, decode, differences, listing_differences, orphans, raw_events, raw_host, session_rows,
    states_differences, stored_events, task_differences, usage_differences,
};

/// What the host chain says of one session.
#[derive(Default)]
struct Known {
    created: bool,
    removed: bool,
    /// By seq.
    heads: BTreeMap<u64, Hash>,
}

struct Verifier<'a> {
    conn: &'a Connection,
    blobs: &'a Blobs,
    against: Option<&'a Pins>,
    report: Report,
    known: HashMap<String, Known>,
    seen_blobs: HashMap<String, bool>,
}

/// Verifies one session, or all of them and the database file.
pub(super) fn verify(conn: &Connection, blobs: &Blobs, only: Option<&SessionId>, against: Option<&Pins>) -> Result<Report> {
    let tx = conn.unchecked_transaction().doing("beginning to verify")?;
    let mut v = Verifier { conn: &tx, blobs, against, report: Report::default(), known: HashMap::new(), seen_blobs: HashMap::new() };
    if only.is_none() {
        v.database();
    }
    let r = v.host_chain();
    v.engine(None, r);
    let mut after = 0;
    let mut present = Vec::new();
    loop {
        let rows = match session_rows(v.conn, after) {
            Ok(rows) => rows,
            Err(e) => {
                v.engine(None, Err(e));
                break;
            }
        };
        let Some(last) = rows.last() else { break };
        after = last.no;
        for row in &rows {
            if only.is_none_or(|id| id.as_str() == row.id) {
                let r = v.session(row);
                v.engine(Some(&row.id), r);
            }
            present.push(row.id.clone());
        }
    }
    if let Some(id) = only.filter(|id| !present.iter().any(|p| p == id.as_str()) && !v.known.contains_key(id.as_str())) {
        return Err(Error::NotFound { given: id.to_string() });
    }
    v.absent(&present, only);
    Ok(v.report)
}

impl Verifier<'_> {
    /// An engine error while reading is a finding of its own.
    fn engine(&mut self, session: Option<&str>, r: Result<()>) {
        if let Err(e) = r {
            self.report.find(session, None, What::Database, e.to_string());
        }
    }

    fn database(&mut self) {
        let lines = self.conn.prepare("PRAGMA integrity_check(100)").and_then(|mut s| {
            let rows = s.query_map([], |r| r.get::<_, String>(0))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        });
        match lines {
            Ok(lines) => lines.iter().filter(|l| *l != "ok").for_each(|l| self.report.find(None, None, What::Database, l)),
            Err(e) => self.report.find(None, None, What::Database, e.to_string()),
        }
        match orphans(self.conn) {
            Ok(numbers) => {
                for no in numbers {
                    self.report.find(None, None, What::Missing, format!("events or frames of session number {no}, which has no row"));
                }
            }
            Err(e) => self.report.find(None, None, What::Database, e.to_string()),
        }
    }

    fn host_chain(&mut self) -> Result<()> {
        let against = self.against;
        let (report, known) = (&mut self.report, &mut self.known);
        let mut walk = Walk::default();
        let mut keys: Vec<String> = Vec::new();
        let mut pinned = against.and_then(|p| p.host);
        let named = against.map_or("", |p| p.name);
        raw_host(self.conn, 0, u64::MAX, |raw| {
            report.host_events += 1;
            walk.place(report, None, raw.seq);
            let c = salt_of(raw.salt).map(|s| commitment(&s, raw.body));
            let hash = |prev: &Hash| c.map(|c| HostLink { seq: raw.seq, at: raw.at, kind: raw.kind, prev, commitment: &c }.hash());
            let before = (walk.last, walk.stored);
            let fits = walk.link(report, None, raw.seq, raw.hash, hash);
            if let Some((_, want)) = pinned.take_if(|(seq, _)| *seq == raw.seq)
                && want.0 != raw.hash
            {
                report.find(None, Some(raw.seq), What::Head, format!("the host chain differs from {named} here: it was rewritten"));
            }
            let event = HostEvent::from_parts(&String::from_utf8_lossy(raw.kind), raw.body);
            match event {
                Ok(HostEvent::Opened(o)) => keys.push(o.key),
                Ok(HostEvent::SessionCreated(c)) => known.entry(c.session.to_string()).or_default().created = true,
                Ok(HostEvent::SessionRemoved(r)) => known.entry(r.session.to_string()).or_default().removed = true,
                Ok(HostEvent::SessionHead(h)) => {
                    if !keys.last().is_some_and(|k| h.is_signed_by(k)) {
                        report.find(
                            Some(h.session.as_str()),
                            Some(h.seq),
                            What::Signature,
                            format!("the head at host seq {} is not signed by the host's key", raw.seq),
                        );
                    }
                    known.entry(h.session.to_string()).or_default().heads.insert(h.seq, h.hash);
                }
                Ok(HostEvent::HostHead(h)) => {
                    if !keys.last().is_some_and(|k| h.is_signed_by(k)) {
                        let detail = "the head of the host chain that this record holds is not signed by the host's key";
                        report.find(None, Some(raw.seq), What::Signature, detail);
                    } else if (h.seq, h.hash) != before {
                        let detail = format!("the host chain differs at seq {} from the head that it holds: it was rewritten", h.seq);
                        report.find(None, Some(raw.seq), What::Head, detail);
                    }
                }
                Ok(_) => {}
                Err(e) if fits => report.find(None, Some(raw.seq), What::Changed, e.to_string()),
                Err(_) => {}
            }
            Ok(())
        })?;
        if let Some((seq, _)) = pinned {
            report.find(None, Some(seq), What::Cut, format!("{named} has host seq {seq}, the host chain ends at {}", walk.last));
        }
        for detail in against.map(|p| p.foreign(&keys)).unwrap_or_default() {
            report.find(None, None, What::Signature, detail);
        }
        Ok(())
    }

    fn session(&mut self, row: &SessionRow) -> Result<()> {
        self.report.sessions += 1;
        let id = row.id.as_str();
        let known = self.known.remove(id).unwrap_or_default();
        let mut heads = known.heads.clone();
        let pinned = self.against.and_then(|p| p.sessions.get(id).copied());
        let named = self.against.map_or("", |p| p.name);
        if !known.created || known.removed {
            let said = if known.removed { "says it was removed" } else { "does not know it" };
            self.report.find(Some(id), None, What::Missing, format!("the session is here, but the host chain {said}"));
        }
        self.known.insert(row.id.clone(), known);
        let before = self.report.findings.len();
        let (mut walk, mut replay, mut approvals) = (Walk::default(), None, Approvals::default());
        let (mut states, mut ledger, mut tasks) = (PluginStates::default(), Ledger::default(), Tasks::default());
        let mut attempts = Attempts::default();
        let mut seam = Seam::new(self.conn, &mut self.report, id, row.no)?;
        let (report, blobs, seen) = (&mut self.report, self.blobs, &mut self.seen_blobs);
        let from = seam.begin.map_or(0, |(seq, _)| seq + 1);
        if let Some((seq, head)) = seam.begin {
            (walk.last, walk.stored, walk.computed) = (seq, head, head);
        }
        let each = |raw: &RawEvent<'_>| {
            report.events += 1;
            walk.place(report, Some(id), raw.seq);
            let fits = walk.link(report, Some(id), raw.seq, raw.hash, |prev| raw.computed(id, prev));
            for (want, from) in
                [(heads.remove(&raw.seq), "the host chain"), (pinned.filter(|(seq, _)| *seq == raw.seq).map(|(_, hash)| hash), named)]
            {
                if want.is_some_and(|w| w.0 != raw.hash) {
                    report.find(
                        Some(id),
                        Some(raw.seq),
                        What::Head,
                        format!("the log differs from the head that {from} holds: it was rewritten"),
                    );
                }
            }
            let decoded = decode(id, raw);
            seam.saw(raw, decoded.as_ref().ok().map(|e| &e.event));
            match decoded {
                Ok(e) => {
                    e.event.blobs().into_iter().for_each(|digest| check_digest(report, blobs, seen, id, raw.seq, digest));
                    approvals.fold(&e);
                    states.fold(&e);
                    ledger.fold(&e);
                    attempts.fold(&e);
                    tasks.fold(&e);
                    match &mut replay {
                        Some(s) => Session::fold(s, &e),
                        None => replay = Session::begin(&e),
                    }
                }
                // why: a changed row is already named.
                Err(e) if fits => report.find(Some(id), Some(raw.seq), What::Changed, e.to_string()),
                Err(_) => {}
            }
            Ok(true)
        };
        // why not through what cannot be read: what is still here must continue it all the same.
        if from > 0 {
            stored_events(self.conn, row.no, from, u64::MAX, each)?
        } else {
            raw_events(self.conn, row.no, 0, u64::MAX, each)?
        }
        if seam.begin.is_none() {
            seam.finish(&mut self.report, id);
        }
        let past = |seq: u64| seq > walk.last;
        let newest = heads.keys().copied().chain(pinned.map(|(seq, _)| seq)).filter(|s| past(*s)).max();
        let newest = newest.into_iter().chain(Some(row.last_seq).filter(|s| past(*s))).max();
        if row.last_seq < walk.last {
            self.report.find(
                Some(id),
                Some(row.last_seq + 1),
                What::Cut,
                format!("the log goes on to seq {}, the session's row ends at {}", walk.last, row.last_seq),
            );
        } else if let Some(want) = newest {
            self.report.find(
                Some(id),
                Some(walk.last + 1),
                What::Cut,
                format!("the log ends at seq {}, it once ended at {want}", walk.last),
            );
        } else if row.head != walk.stored.0 {
            self.report.find(
                Some(id),
                Some(row.last_seq),
                What::Projection,
                "the head in the session's row is not the hash of its last event",
            );
        }
        if self.report.findings.len() == before {
            self.projection(row, replay.as_ref());
            let listed = replay.as_ref().map(|s| listing_differences(self.conn, row.no, s)).transpose()?.unwrap_or_default();
            let found = [
                differences(self.conn, row.no, &approvals)?,
                states_differences(self.conn, row.no, &states)?,
                usage_differences(self.conn, row.no, &ledger)?,
                attempts_differences(self.conn, row.no, &attempts)?,
                task_differences(self.conn, row.no, &tasks)?,
                listed,
            ];
            for detail in found.concat() {
                self.report.find(Some(id), None, What::Projection, detail);
            }
        }
        if let Some(origin) = replay.as_ref().and_then(|s| s.record.origin.as_ref()) {
            self.origin(row, origin)?;
        }
        self.frames(row)
    }

    /// What stood before a branch is named by a hash: the other log, where it is still here and can be read, must have it.
    fn origin(&mut self, row: &SessionRow, origin: &Origin) -> Result<()> {
        let no = self.conn.query_row("SELECT no FROM sessions WHERE id = ?1", [origin.session.as_str()], |r| r.get::<_, i64>(0)).optional();
        let Some(no) = no.doing("looking up the log that a branch goes on from")? else { return Ok(()) };
        let mut hash = None;
        let read = raw_events(self.conn, no, origin.at, 1, |raw| {
            hash = (raw.seq == origin.at).then(|| Hash::from_slice(raw.hash)).flatten();
            Ok(false)
        });
        // why not where it cannot be read: that is a finding of the other session.
        if read.is_ok() && hash.is_none_or(|h| h.to_string() != origin.hash) {
            let detail = format!("it goes on from event {} of {}, which is not there or another one now", origin.at, origin.session);
            self.report.find(Some(&row.id), Some(1), What::Head, detail);
        }
        Ok(())
    }

    fn projection(&mut self, row: &SessionRow, replay: Option<&Session>) {
        let id = row.id.as_str();
        let Some(s) = replay else {
            return self.report.find(Some(id), Some(1), What::Cut, "the log does not begin with session_created");
        };
        if serde_json::from_str::<Session>(&row.doc).ok().as_ref() != Some(s) {
            self.report.find(Some(id), None, What::Projection, "the stored projection differs from the replay of the log");
        }
        let columns = [
            ("id", &row.id, s.id.as_str()),
            ("name", &row.name, &s.name),
            ("agent", &row.agent, &s.agent),
            ("status", &row.status, s.status.as_str()),
        ];
        for (column, stored, folded) in columns {
            if stored != folded {
                self.report.find(Some(id), None, What::Projection, format!("column {column} is {stored:?}, the log says {folded:?}"));
            }
        }
        if row.created_at != s.created_at {
            self.report.find(
                Some(id),
                None,
                What::Projection,
                format!("column created_at is {}, the log says {}", row.created_at, s.created_at),
            );
        }
    }

    /// Kept frames of the newest attempt are a gapless run that ends at the last number given out.
    fn frames(&mut self, row: &SessionRow) -> Result<()> {
        const SQL: &str = "SELECT count(*), min(no), max(no) FROM frames WHERE session_no = ?1 AND attempt = ?2";
        let (n, min, max): (i64, Option<i64>, Option<i64>) =
            self.conn.query_row(SQL, (row.no, row.frame_attempt), |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).doing("reading frames")?;
        if let Some((min, max)) = min.zip(max)
            && (max != row.frame_no || max - min + 1 != n)
        {
            let detail =
                format!("attempt {} keeps {n} frames from {min} to {max}, the last one given out is {}", row.frame_attempt, row.frame_no);
            self.report.find(Some(&row.id), None, What::Frames, detail);
        }
        Ok(())
    }

    /// Sessions that the host chain or the checkpoint knows, but that are not here.
    fn absent(&mut self, present: &[String], only: Option<&SessionId>) {
        let present: std::collections::HashSet<_> = present.iter().map(String::as_str).collect();
        let wanted = |id: &str| only.is_none_or(|o| o.as_str() == id) && !present.contains(id);
        let removed = |id: &str| self.known.get(id).is_some_and(|k| k.removed);
        let mut gone: Vec<_> =
            self.known.iter().filter(|(id, k)| wanted(id) && !k.removed).map(|(id, _)| (id.clone(), "the host chain")).collect();
        let named = self.against.map_or("", |p| p.name);
        let pinned = self.against.iter().flat_map(|p| p.sessions.keys()).filter(|id| wanted(id) && !removed(id));
        gone.extend(pinned.filter(|id| !self.known.contains_key(*id)).map(|id| (id.clone(), named)));
        gone.sort_unstable();
        for (id, by) in gone {
            self.report.find(Some(&id), None, What::Missing, format!("{by} knows the session, no removal is noted, but it is not here"));
        }
    }
}

/// State of a walk along one chain.
struct Walk {
    last: u64,
    /// The hash in the last row, and the one that its content gives.
    stored: Hash,
    computed: Hash,
}

impl Default for Walk {
    fn default() -> Self {
        Self { last: 0, stored: Hash::ZERO, computed: Hash::ZERO }
    }
}

impl Walk {
    fn place(&mut self, report: &mut Report, session: Option<&str>, seq: u64) {
        if seq != self.last + 1 {
            let detail = if seq == self.last + 2 {
                format!("seq {} is missing", self.last + 1)
            } else {
                format!("seq {} to {} are missing", self.last + 1, seq.wrapping_sub(1))
            };
            report.find(session, Some(self.last + 1), What::Gap, detail);
        }
    }

    /// True when the row is what its hash says. After a gap the row's own `prev` is not known, and the gap is already named.
    fn link(&mut self, report: &mut Report, session: Option<&str>, seq: u64, stored: &[u8], hash: impl Fn(&Hash) -> Option<Hash>) -> bool {
        let after_gap = seq != self.last + 1;
        let computed = hash(&self.stored);
        // why: where only the row before has a wrong hash, this row is sound on what that hash was; name one row, not two.
        let fits = [computed, hash(&self.computed)].iter().flatten().any(|h| h.0 == stored);
        if !fits && !after_gap {
            report.find(session, Some(seq), What::Changed, "its content, place or hash was changed");
        }
        self.last = seq;
        self.stored = Hash::from_slice(stored).unwrap_or(Hash::ZERO);
        self.computed = if fits { self.stored } else { computed.unwrap_or(Hash::ZERO) };
        fits
    }
}

fn salt_of(b: &[u8]) -> Option<Salt> {
    b.try_into().ok()
}

fn check_digest(report: &mut Report, blobs: &Blobs, seen: &mut HashMap<String, bool>, id: &str, seq: u64, digest: &str) {
    let sound = *seen.entry(digest.to_owned()).or_insert_with(|| {
        report.blobs += 1;
        digest.parse().and_then(|d| blobs.get(&d)).is_ok()
    });
    if !sound {
        report.find(Some(id), Some(seq), What::Blob, format!("blob {digest} is missing or damaged"));
    }
}
