//! Archives, erasures and what they need of the disk. The order of each: file and folder synced, then staged, then one transaction that
//! appends the event and puts it in force (`sqlite::archives`), then what is not needed any more is deleted. A crash between any two
//! leaves the log whole; what was staged and not put in force is thrown away at the next start.
//!
//! Called by `session::keep`; blocks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::model::SessionId;

use super::Store;
use super::archive::{self, Archive};
use super::batch::Ticket;
use super::chain::Hash;
use super::erase::{Erase, MARK, cut, erased, forms};
use super::error::{Error, Result};
use super::folder::{fail, sync_parent};
use super::queue::Work;
use super::sqlite::{self, Keep, Named, Whole};

/// The folder of archives in the data folder.
pub const ARCHIVES: &str = "archives";

/// Most events, and bytes of them, that come back out of an archive at once.
const PIECE_EVENTS: usize = 1_000;
const PIECE_BYTES: usize = 1 << 20;
/// How often, and after which pause, a change of a long act is sent again while too many others wait.
const BUSY_TRIES: u32 = 600;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// An erasure that is prepared: nothing is erased yet.
pub struct Redaction {
    pub session: SessionId,
    pub seq: u64,
    pub kind: String,
    /// BLAKE3 of what will stand in place of the body.
    pub digest: Hash,
    body: Vec<u8>,
    /// Payloads that go with it, and those that stay because another event names them.
    pub blobs: Vec<Hash>,
    pub shared: Vec<(Hash, String, u64)>,
    /// The archive that it lies in, anew, and the old file.
    pub archive: Option<(Archive, PathBuf)>,
}

/// A payload that stays, and why.
pub type Undeleted = (Hash, String);

impl Store {
    fn keep(&self, keep: Keep) -> Ticket<bool> {
        let (reply, ticket) = Ticket::new();
        self.0.queue.push(Work::Keep { keep: Box::new(keep), reply });
        ticket
    }

    /// The archives of a session, oldest first.
    pub fn archives(&self, id: &SessionId) -> Result<Vec<Archive>> {
        let (no, _) = self.0.pool.place(id)?;
        self.0.pool.with(|c| sqlite::archives_of(c, no, 0))
    }

    /// Writes the events up to `last` that are in no archive yet to a new file, synced; the log stays as it is. `file` is where, by default
    /// a new one in the data folder.
    pub fn write_archive(&self, id: &SessionId, last: u64, file: Option<&Path>) -> Result<Archive> {
        let nothing = |why: &str| Error::NothingToArchive { session: id.to_string(), why: why.to_owned() };
        let conn = sqlite::open_reader(&self.0.database)?;
        let (no, newest) = self.0.pool.place(id)?;
        let before = sqlite::archives_of(&conn, no, 0)?;
        let (first, prev) = before.last().map_or((1, Hash::ZERO), |a| (a.last + 1, a.head));
        let last = last.min(newest);
        if first > last {
            return Err(nothing("there is no event below that watermark which is not archived already"));
        }
        let path = match file {
            Some(path) => path.to_owned(),
            None => self.fresh_archive(id, first, last)?,
        };
        let feed = |each: &mut dyn FnMut(&sqlite::RawEvent<'_>) -> Result<bool>| sqlite::stored_events(&conn, no, first, u64::MAX, each);
        let mut a = archive::write(id.as_str(), (first, last), prev, &path, Box::new(feed))?;
        a.file = self.named(&path);
        Ok(a)
    }

    /// A path in the folder of archives that nothing has yet.
    fn fresh_archive(&self, id: &SessionId, first: u64, last: u64) -> Result<PathBuf> {
        let dir = self.0.dir.join(ARCHIVES);
        super::folder::create(&dir)?;
        let name = |n: u32| if n == 0 { format!("{id}-{first}-{last}.jsonl.zst") } else { format!("{id}-{first}-{last}.{n}.jsonl.zst") };
        Ok((0..).map(|n| dir.join(name(n))).find(|p| !p.exists()).unwrap_or_default())
    }

    /// As it is stored: moved with the data folder where it lies in it.
    fn named(&self, path: &Path) -> String {
        path.strip_prefix(&self.0.dir).unwrap_or(path).to_string_lossy().into_owned()
    }

    /// Makes it known; in force it comes with the event `session_archived` that has its digest. Errors: sinks have not got the events.
    pub fn stage_archive(&self, a: &Archive) -> Ticket<bool> {
        self.keep(Keep::Archive(a.clone()))
    }

    /// Deletes a file of ours that no log needs.
    pub fn drop_file(&self, path: &Path) -> Result<()> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            r => r.and_then(|()| sync_parent(path)).map_err(fail(path, "delete it")),
        }
    }

    /// Puts the events of an archive back, the newest archive of its session first. The file stays. They come a few at a time, `each` is
    /// called behind them, and the archive is read until all are there: others' changes are made in between, and whatever fails leaves the
    /// log as it was. Blocks. Errors, besides: no room for them.
    pub fn restore_archive(&self, a: &Archive, each: &mut dyn FnMut()) -> Result<()> {
        // why twice: in the database, and before that in its log.
        super::folder::room(&self.0.dir, a.plain_bytes().saturating_mul(2), "to put the events back")?;
        self.forget_pieces(Some(&a.session))?;
        let done = self.put_back(a, each).and_then(|()| self.keep(Keep::Restored(a.clone())).wait());
        if done.is_err()
            && let Err(e) = self.forget_pieces(Some(&a.session))
        {
            tracing::warn!(session = a.session, error = %e, "events that came back in vain stay until a later start");
        }
        done.map(drop)
    }

    fn put_back(&self, a: &Archive, each: &mut dyn FnMut()) -> Result<()> {
        // why first: of a file with other bytes nothing comes back.
        a.check()?;
        let (no, _) = self.0.pool.place(&a.session.parse().map_err(|_| Error::NotFound { given: a.session.clone() })?)?;
        let before = self.0.pool.with(|c| sqlite::archives_of(c, no, a.first.saturating_sub(1)))?;
        let prev = before.iter().find(|b| b.last + 1 == a.first).map_or(Hash::ZERO, |b| b.head);
        let (mut events, mut bytes) = (Vec::new(), 0);
        let mut send = |events: Vec<Whole>| -> Result<()> {
            self.keep_when_there_is_room(&|| Keep::Piece { session: a.session.clone(), events: events.clone() })?;
            each();
            Ok(())
        };
        a.walk_proven(prev, &mut |raw| {
            let e = Whole::of(raw);
            bytes += e.bytes();
            events.push(e);
            if events.len() >= PIECE_EVENTS || bytes >= PIECE_BYTES {
                bytes = 0;
                send(std::mem::take(&mut events))?;
            }
            Ok(())
        })?;
        if events.is_empty() { Ok(()) } else { send(events) }
    }

    /// Deletes, a few at a time, events that came back out of an archive which is needed still. Nobody reads them there, but words that are
    /// to be erased may stand in them.
    pub fn forget_pieces(&self, only: Option<&str>) -> Result<()> {
        while let Some(session) = self.0.pool.with(|c| sqlite::with_pieces(c, only))? {
            self.keep_when_there_is_room(&|| Keep::Unpiece { session: session.clone() })?;
        }
        Ok(())
    }

    /// Sends a change of a long act again while too many others wait. Blocks.
    fn keep_when_there_is_room(&self, change: &dyn Fn() -> Keep) -> Result<()> {
        for _ in 0..BUSY_TRIES {
            match self.keep(change()).wait() {
                Err(Error::Busy { .. }) => std::thread::sleep(BUSY_PAUSE),
                done => return done.map(drop),
            }
        }
        self.keep(change()).wait().map(drop)
    }

    /// Events of a session that hold a text, payloads included; at most `limit`.
    pub fn holding(&self, id: &SessionId, text: &str, limit: usize) -> Result<Vec<u64>> {
        let conn = sqlite::open_reader(&self.0.database)?;
        let (no, _) = self.0.pool.place(id)?;
        let (mut out, all) = (Vec::new(), forms(text));
        sqlite::raw_events(&conn, no, 1, u64::MAX, |raw| {
            let kind = String::from_utf8_lossy(raw.kind);
            let found = erased(&kind, raw.body, &Erase::Text(text.to_owned()), &mut |digest| {
                Ok(self.payload(digest)?.and_then(|b| cut(&b, &all)).map(|_| Value::String(MARK.to_owned())))
            })?;
            if !matches!(found, Ok(None)) {
                out.push(raw.seq);
            }
            Ok(out.len() < limit)
        })?;
        Ok(out)
    }

    /// The bytes under a digest; `None` where no blob has it.
    fn payload(&self, digest: &str) -> Result<Option<Vec<u8>>> {
        match digest.parse().and_then(|d| self.0.blobs.get(&d)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::Blob { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether every archive of a session is as it was written: its log can be read whole, and projections be folded anew from it.
    pub fn check_archives(&self, id: &SessionId) -> Result<()> {
        self.archives(id)?.iter().try_for_each(Archive::check)
    }

    /// Prepares the erasure of one event; `None` where nothing of it is to go. Payloads without the text are written already. `going` are
    /// the events of the session that are erased with it: what only they name goes.
    pub fn prepare_redaction(&self, id: &SessionId, seq: u64, what: &Erase, going: &[u64]) -> Result<Option<Redaction>> {
        let conn = sqlite::open_reader(&self.0.database)?;
        let (no, newest) = self.0.pool.place(id)?;
        let refused = |why: String| Error::NotErased { session: id.to_string(), seq, why };
        if seq == 0 || seq > newest {
            return Err(refused(format!("there is none; the log has events 1 to {newest}")));
        }
        // why first: projections are folded anew from the whole log, and what cannot be is refused before anything is begun.
        sqlite::archives_of(&conn, no, 0)?.iter().try_for_each(Archive::look)?;
        let mut found = None;
        sqlite::raw_events(&conn, no, seq, 1, |raw| {
            found = Some((String::from_utf8_lossy(raw.kind).into_owned(), raw.body.to_vec()));
            Ok(false)
        })?;
        let (kind, body) = found.ok_or_else(|| refused("it is missing; run `beadle verify`".to_owned()))?;
        let mut old = Vec::new();
        let new = erased(&kind, &body, what, &mut |digest| {
            let Some(bytes) = self.payload(digest)? else { return Ok(None) };
            let new = match what {
                Erase::Whole => Value::Null,
                Erase::Text(text) => match cut(&bytes, &forms(text)) {
                    Some(new) => Value::String(self.0.blobs.put(&new)?.to_string()),
                    None => return Ok(None),
                },
            };
            old.push(digest.parse::<Hash>()?);
            Ok(Some(new))
        })?;
        let Some(body) = new.map_err(refused)? else { return Ok(None) };
        let (mut blobs, mut shared) = (Vec::new(), Vec::new());
        for digest in old {
            match sqlite::names_blob(&conn, &digest.to_string(), (id.as_str(), going))? {
                Named::By(session, by) => shared.push((digest, session, by)),
                // Looked at again when it is deleted.
                Named::Nobody | Named::Unknown(_) => blobs.push(digest),
            }
        }
        let mut archive = None;
        if let Some(a) = sqlite::archives_of(&conn, no, seq)?.into_iter().find(|a| a.first <= seq) {
            archive = Some((self.rewrite(id, &conn, no, &a, seq, &body)?, a.path));
        }
        Ok(Some(Redaction { session: id.clone(), seq, kind, digest: Hash::of(&body), body, blobs, shared, archive }))
    }

    /// The archive once more, with another body for one event.
    fn rewrite(&self, id: &SessionId, conn: &rusqlite::Connection, no: i64, a: &Archive, seq: u64, body: &[u8]) -> Result<Archive> {
        let inside = a.path.starts_with(self.0.dir.join(ARCHIVES));
        let path = if inside {
            self.fresh_archive(id, a.first, a.last)?
        } else {
            let beside = |n: u32| a.path.with_extension(format!("{n}.zst"));
            (1..).map(beside).find(|p| !p.exists()).unwrap_or_default()
        };
        let prev = sqlite::archives_of(conn, no, 0)?.iter().find(|b| b.last + 1 == a.first).map_or(Hash::ZERO, |b| b.head);
        let feed = |each: &mut dyn FnMut(&sqlite::RawEvent<'_>) -> Result<bool>| {
            a.walk(a.first, &mut |raw| {
                if raw.seq != seq {
                    return each(raw);
                }
                let kept =
                    raw.committed().ok_or_else(|| Error::Damaged { session: id.to_string(), detail: format!("the salt of seq {seq}") })?;
                each(&sqlite::RawEvent { salt: &[], commitment: &kept.0, body, ..*raw })
            })
            .map(drop)
        };
        let mut new = archive::write(id.as_str(), (a.first, a.last), prev, &path, Box::new(feed))?;
        new.file = self.named(&path);
        Ok(new)
    }

    /// Makes it known; in force it comes with the event `secret_redacted` that has its digest.
    pub fn stage_redaction(&self, r: &Redaction) -> Ticket<bool> {
        let archive = r.archive.as_ref().map(|(a, _)| a.clone());
        self.keep(Keep::Redaction { session: r.session.to_string(), seq: r.seq, body: r.body.clone(), archive })
    }

    /// Deletes an archive that was written anew.
    pub fn finish_redaction(&self, r: &Redaction) -> Result<()> {
        r.archive.as_ref().map_or(Ok(()), |(_, old)| self.drop_file(old))
    }

    /// Deletes the payloads that erased events named, of this erasure and of earlier ones, but for those that an event names by now. Gives
    /// those that are gone, and those that are left, with why. Blocks, long.
    pub fn drop_erased(&self) -> Result<(Vec<Hash>, Vec<Undeleted>)> {
        let conn = sqlite::open_reader(&self.0.database)?;
        let (mut gone, mut named, mut left) = (Vec::new(), Vec::new(), Vec::new());
        let newest = self.newest_row()?;
        for (digest, by) in sqlite::names_blobs(&conn, &sqlite::erased_blobs(&conn)?)? {
            match by {
                Named::By(..) => named.push(digest),
                Named::Unknown(why) => left.push((digest, format!("an event in an archive may name it: {why}"))),
                Named::Nobody => {
                    // why once more: an event that names it again may have been written since.
                    let again = || sqlite::names_blob_after(&conn, &digest.to_string(), newest, ("", &[])).map(|found| found.is_some());
                    match self.0.blobs.remove_unless(&digest, again) {
                        Ok(true) => gone.push(digest),
                        Ok(false) => left.push((digest, "an event that is being written names it again".to_owned())),
                        Err(e) => left.push((digest, e.to_string())),
                    }
                }
            }
        }
        left.sort_by_key(|(digest, _)| digest.to_string());
        if !gone.is_empty() || !named.is_empty() {
            self.keep(Keep::Dropped(gone.iter().chain(&named).copied().collect())).wait()?;
        }
        Ok((gone, left))
    }

    /// Copies of the database: from before an upgrade of its schema, and what the trial of one left.
    pub fn older_copies(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(&self.0.dir).into_iter().flatten().flatten();
        files.filter(|f| is_copy(&f.file_name().to_string_lossy())).map(|f| f.path()).collect()
    }

    /// Whether the agent of a session was told something that it has not taken yet, with such a text in it, or anything at all. A scrub
    /// deletes it once the session has ended.
    pub fn holds_untaken(&self, id: &SessionId, what: &Erase) -> Result<bool> {
        let all = match what {
            Erase::Whole => Vec::new(),
            Erase::Text(text) => forms(text),
        };
        let holds = |bytes: &[u8]| *what == Erase::Whole || cut(bytes, &all).is_some();
        self.0.pool.with(|c| sqlite::untaken(c, id.as_str(), &holds))
    }

    /// Rewrites the database, so that nothing erased is left in its files. False where something still read and kept the log. Errors: no
    /// room for it; it stays due.
    pub fn scrub(&self) -> Ticket<bool> {
        self.keep(Keep::Scrub)
    }

    /// Ends what erasures and restores of earlier runs left to be done: their payloads, what was theirs in the database's files, events that
    /// came back in vain. Gives payloads that still have to wait. Blocks, long.
    pub fn finish_erasures(&self) -> Result<Vec<Undeleted>> {
        // why looked at last: the rest does not wait for it.
        let forgotten = self.forget_pieces(None);
        let (_, left) = self.drop_erased()?;
        if self.0.pool.with(sqlite::scrub_is_due)? {
            self.scrub().wait()?;
        }
        forgotten.map(|()| left)
    }
}

/// Whether a file of that name in the data folder is a copy of the database, or the log of one.
pub fn is_copy(name: &str) -> bool {
    name.strip_prefix(super::folder::DATABASE).is_some_and(|rest| rest.starts_with('.'))
}

/// The path without links, where it is there.
fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// What an earlier run left: files that no row has, and rows that were never put in force. What takes long, or may have no room, is not
/// among it: a host that cannot finish an erasure must come up all the same ([`Store::finish_erasures`]).
pub(super) fn tidy(conn: &rusqlite::Connection, data: &Path) -> Result<()> {
    super::upgrade::forget_cut_off(&data.join(super::folder::DATABASE));
    for path in sqlite::forget_staged(conn)? {
        // why only ours: the row may come from a backup of another machine, and name whatever lies here.
        if real(&path).starts_with(data.join(ARCHIVES)) {
            let _ = std::fs::remove_file(path);
        }
    }
    let Ok(files) = std::fs::read_dir(data.join(ARCHIVES)) else { return Ok(()) };
    let there: Vec<PathBuf> = files.flatten().map(|f| f.path()).collect();
    let known: std::collections::HashSet<PathBuf> = sqlite::all_archives(conn)?.iter().map(|a| real(&data.join(&a.file))).collect();
    // why nothing at all: where what must be there is not found, what is found may be it.
    if let Some(missing) = known.iter().find(|p| p.starts_with(data) && !there.contains(p)) {
        tracing::warn!(path = %missing.display(), "an archive is missing, so files in its folder that no log names stay");
        return Ok(());
    }
    for path in there.into_iter().filter(|p| !known.contains(p)) {
        tracing::info!(path = %path.display(), "an archive that no log needs is deleted");
        if let Err(e) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), error = %e, "deleting an archive that no log needs");
        }
    }
    Ok(())
}
