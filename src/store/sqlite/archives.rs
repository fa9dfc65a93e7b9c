//! Rows of archives and redactions: staged first, put in force in the transaction of the event that tells of them.
//!
//! Invariants: a staged row changes nothing for anybody; with its event the archived rows go, or the erased body is gone, in one
//! transaction; what nobody put in force is thrown away at the next start, events that came back in vain soon after. Called by the writer (`group`), `rows` (which reads on into
//! archives), `verify` and `keep`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use crate::model::{Event, SinkEvent};
use crate::store::archive::Archive;
use crate::store::chain::{Hash, commitment};
use crate::store::error::{Doing, Error, Result};
use crate::store::{collect, folder};

use super::rows::{RawEvent, count, int};

const READING: &str = "reading where archives are";
const KEEPING: &str = "changing what is archived";
const ERASING: &str = "erasing an event";
const EMPTYING: &str = "emptying the log";
/// How often, and after which pause, the log is tried to be emptied while somebody reads.
const EMPTY_TRIES: u32 = 50;
const EMPTY_PAUSE: Duration = Duration::from_millis(20);

/// A change of what is kept where, made by the writer.
pub enum Keep {
    /// An archive is written and synced.
    Archive(Archive),
    /// A body is to be erased: what takes its place, and the archive anew where it lies in one.
    Redaction { session: String, seq: u64, body: Vec<u8>, archive: Option<Archive> },
    /// Some events of an archive come back. Until all of them have, they are still read out of it, and these by nobody.
    Piece { session: String, events: Vec<Whole> },
    /// All have come back: the archive is not needed any more.
    Restored(Archive),
    /// Goes on to delete what came back of archives that are needed still.
    Unpiece { session: String },
    /// Payloads of erased events that are gone, or that another event names by now: nothing is to be deleted any more.
    Dropped(Vec<Hash>),
    /// Nothing of what was erased shall be left in the database's files.
    Scrub,
}

/// One event with all its columns.
#[derive(Clone)]
pub struct Whole {
    row: i64,
    seq: u64,
    at: i64,
    attempt: i64,
    kind: String,
    hash: Vec<u8>,
    salt: Vec<u8>,
    body: Vec<u8>,
    commitment: Option<Vec<u8>>,
}

impl Whole {
    pub fn of(raw: &RawEvent<'_>) -> Self {
        Self {
            row: raw.row,
            seq: raw.seq,
            at: raw.at,
            attempt: raw.attempt,
            kind: String::from_utf8_lossy(raw.kind).into_owned(),
            hash: raw.hash.to_vec(),
            salt: raw.salt.to_vec(),
            body: raw.body.to_vec(),
            commitment: (!raw.commitment.is_empty()).then(|| raw.commitment.to_vec()),
        }
    }

    pub fn bytes(&self) -> usize {
        200 + self.body.len()
    }
}

/// Where a file is: the folder of the database, unless it is absolute.
pub fn path_of(conn: &Connection, file: &str) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    // why not `Connection::path`: it gives nothing for a path that is no text.
    const SQL: &str = "SELECT file FROM pragma_database_list WHERE name = 'main'";
    let own = conn.query_row(SQL, [], |r| Ok(PathBuf::from(std::ffi::OsStr::from_bytes(r.get_ref(0)?.as_bytes()?)))).unwrap_or_default();
    own.parent().unwrap_or_else(|| Path::new("")).join(file)
}

const COLUMNS: &str = "a.first, a.last, a.file, a.digest, a.head, a.bytes, a.places, s.id";

fn read(conn: &Connection, r: &rusqlite::Row<'_>) -> rusqlite::Result<Archive> {
    let (file, places): (String, String) = (r.get(2)?, r.get(6)?);
    let hash = |at| r.get::<_, Vec<u8>>(at).map(|b| Hash::from_slice(&b).unwrap_or(Hash::ZERO));
    Ok(Archive {
        first: count(r.get(0)?),
        last: count(r.get(1)?),
        path: path_of(conn, &file),
        file,
        digest: hash(3)?,
        head: hash(4)?,
        bytes: count(r.get(5)?),
        // why lenient: without places nothing is read, and the gap is reported with its own place.
        places: serde_json::from_str(&places).unwrap_or_default(),
        session: r.get(7)?,
    })
}

/// The archives of a session that hold events from `from` on, oldest first.
pub fn kept(conn: &Connection, session_no: i64, from: u64) -> Result<Vec<Archive>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM archives a JOIN sessions s ON s.no = a.session_no WHERE a.session_no = ?1 AND a.staged = 0 AND a.last >= ?2 ORDER BY a.first"
    );
    let mut stmt = conn.prepare(&sql).doing(READING)?;
    let rows = stmt.query_map((session_no, int(from)), |r| read(conn, r)).doing(READING)?;
    rows.collect::<rusqlite::Result<_>>().doing(READING)
}

/// Every archive of every session; with those that are only staged.
pub fn all(conn: &Connection) -> Result<Vec<Archive>> {
    let sql = format!("SELECT {COLUMNS} FROM archives a JOIN sessions s ON s.no = a.session_no ORDER BY a.session_no, a.first");
    let mut stmt = conn.prepare(&sql).doing(READING)?;
    let rows = stmt.query_map([], |r| read(conn, r)).doing(READING)?;
    rows.collect::<rusqlite::Result<_>>().doing(READING)
}

/// Throws away what was staged and never put in force; gives the files that are then nobody's.
pub fn forget_staged(conn: &Connection) -> Result<Vec<PathBuf>> {
    let mut stmt = conn.prepare("SELECT file FROM archives WHERE staged = 1").doing(READING)?;
    let files = stmt.query_map([], |r| r.get::<_, String>(0)).doing(READING)?;
    let files = files.collect::<rusqlite::Result<Vec<_>>>().doing(READING)?;
    conn.execute_batch("DELETE FROM archives WHERE staged = 1; DELETE FROM redactions;").doing(KEEPING)?;
    Ok(files.iter().map(|f| path_of(conn, f)).collect())
}

fn number(conn: &Connection, session: &str) -> Result<i64> {
    let found = conn.query_row("SELECT no FROM sessions WHERE id = ?1", [session], |r| r.get(0)).optional().doing(READING)?;
    found.ok_or_else(|| Error::NotFound { given: session.to_owned() })
}

fn insert(conn: &Connection, no: i64, a: &Archive) -> Result<i64> {
    const SQL: &str = "INSERT OR REPLACE INTO archives (session_no, first, last, file, digest, head, bytes, places, staged) \
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 1)";
    let places = serde_json::to_string(&a.places).unwrap_or_default();
    let row = params![no, int(a.first), int(a.last), a.file, a.digest.0, a.head.0, int(a.bytes), places];
    conn.execute(SQL, row).doing(KEEPING)?;
    Ok(conn.last_insert_rowid())
}

/// Makes a change; refuses before its first statement.
pub(super) fn change(conn: &Connection, keep: &Keep) -> Result<()> {
    match keep {
        Keep::Scrub => Ok(()),
        Keep::Dropped(blobs) => forget_erased(conn, blobs),
        Keep::Archive(a) => {
            let no = number(conn, &a.session)?;
            let waiting = super::sinks::waiting_upto(conn, no, a.last)?;
            if !waiting.is_empty() {
                return Err(Error::NotArchived { session: a.session.clone(), sinks: waiting });
            }
            insert(conn, no, a).map(drop)
        }
        Keep::Redaction { session, seq, body, archive } => {
            let no = number(conn, session)?;
            let archive = archive.as_ref().map(|a| insert(conn, no, a)).transpose()?;
            const SQL: &str = "INSERT OR REPLACE INTO redactions (session_no, seq, body, archive) VALUES (?1, ?2, ?3, ?4)";
            conn.execute(SQL, params![no, int(*seq), body, archive]).doing(ERASING).map(drop)
        }
        Keep::Piece { session, events } => piece(conn, session, events),
        Keep::Restored(a) => restored(conn, a),
        Keep::Unpiece { session } => unpiece(conn, session),
    }
}

/// Puts events back where they were. A row of that number is theirs: numbers are never given twice.
fn piece(conn: &Connection, session: &str, events: &[Whole]) -> Result<()> {
    // why ignored: what is there is the same event, of an earlier try.
    const SQL: &str = "INSERT OR IGNORE INTO events (id, session_no, seq, at, attempt, kind, hash, salt, body, commitment) \
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let no = number(conn, session)?;
    // why noted: should it come to nothing, that is known, and these are deleted again.
    conn.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('restoring:' || ?1, '')", [session]).doing(KEEPING)?;
    let mut stmt = conn.prepare(SQL).doing(KEEPING)?;
    for e in events {
        stmt.execute(params![e.row, no, int(e.seq), e.at, e.attempt, e.kind, e.hash, e.salt, e.body, e.commitment]).doing(KEEPING)?;
    }
    Ok(())
}

fn restored(conn: &Connection, a: &Archive) -> Result<()> {
    const ALL: &str = "SELECT count(*), (SELECT hash FROM events WHERE session_no = ?1 AND seq = ?3) FROM events \
                       WHERE session_no = ?1 AND seq BETWEEN ?2 AND ?3";
    let no = number(conn, &a.session)?;
    let there = conn.query_row(ALL, (no, int(a.first), int(a.last)), |r| Ok((count(r.get(0)?), r.get::<_, Option<Vec<u8>>>(1)?)));
    if there.doing(READING)? != (a.last + 1 - a.first, Some(a.head.0.to_vec())) {
        let detail = format!("not all of events {} to {} came back out of the archive, which stays in force", a.first, a.last);
        return Err(Error::Damaged { session: a.session.clone(), detail });
    }
    const SQL: &str = "DELETE FROM archives WHERE session_no = ?1 AND first = ?2 AND staged = 0";
    conn.execute(SQL, (no, int(a.first))).doing(KEEPING)?;
    forget_note(conn, &a.session)
}

fn forget_note(conn: &Connection, session: &str) -> Result<()> {
    conn.execute("DELETE FROM meta WHERE key = 'restoring:' || ?1", [session]).doing(KEEPING).map(drop)
}

/// Events that are deleted at once of what came back for nothing.
const UNPIECED: usize = 1_000;

fn unpiece(conn: &Connection, session: &str) -> Result<()> {
    const SQL: &str = "DELETE FROM events WHERE id IN (SELECT e.id FROM archives a JOIN events e ON e.session_no = a.session_no \
                       AND e.seq BETWEEN a.first AND a.last WHERE a.session_no = ?1 AND a.staged = 0 LIMIT ?2)";
    let deleted = match number(conn, session) {
        Ok(no) => conn.execute(SQL, params![no, UNPIECED as i64]).doing(KEEPING)?,
        // It was removed, and they with it.
        Err(Error::NotFound { .. }) => 0,
        Err(e) => return Err(e),
    };
    if deleted < UNPIECED { forget_note(conn, session) } else { Ok(()) }
}

/// A session, or this one, of which events may lie in the database that lie in an archive too: a restore of it came to nothing.
pub fn with_pieces(conn: &Connection, only: Option<&str>) -> Result<Option<String>> {
    const SQL: &str = "SELECT substr(key, 11) FROM meta WHERE key LIKE 'restoring:%' AND (?1 IS NULL OR key = 'restoring:' || ?1) LIMIT 1";
    conn.query_row(SQL, [only], |r| r.get(0)).optional().doing(READING)
}

/// Puts in force what an event tells of that was just appended. True where projections must be folded anew.
pub(super) fn apply(conn: &Connection, session_no: i64, session: &str, event: &Event) -> Result<bool> {
    match event {
        Event::SessionArchived(a) => {
            const FIND: &str = "SELECT id FROM archives WHERE session_no = ?1 AND staged = 1 AND first = ?2 AND last = ?3 AND digest = ?4";
            let digest: Hash = a.digest.parse()?;
            let found = conn.query_row(FIND, params![session_no, int(a.first), int(a.last), digest.0], |r| r.get::<_, i64>(0));
            let Some(id) = found.optional().doing(KEEPING)? else { return Ok(false) };
            conn.execute("UPDATE archives SET staged = 0 WHERE id = ?1", [id]).doing(KEEPING)?;
            conn.execute("DELETE FROM events WHERE session_no = ?1 AND seq <= ?2", (session_no, int(a.last))).doing(KEEPING)?;
            Ok(false)
        }
        Event::SecretRedacted(r) => {
            const FIND: &str = "SELECT body, archive FROM redactions WHERE session_no = ?1 AND seq = ?2";
            let found = conn.query_row(FIND, (session_no, int(r.seq)), |x| Ok((x.get::<_, Vec<u8>>(0)?, x.get::<_, Option<i64>>(1)?)));
            let Some((body, archive)) = found.optional().doing(ERASING)? else { return Ok(false) };
            if r.digest.as_deref() != Some(Hash::of(&body).to_string().as_str()) {
                return Ok(false);
            }
            erase(conn, session_no, r.seq, &body, archive)?;
            // why noted: should the host die before the files are rewritten and the payloads are gone, its next start does it.
            const NOTE: &str = "INSERT OR REPLACE INTO meta (key, value) VALUES (?1, '')";
            for key in r.blobs.iter().map(|b| format!("erased:{b}")).chain(["scrub".to_owned()]) {
                conn.execute(NOTE, [key]).doing(ERASING)?;
            }
            dead_letters(conn, session, r.seq, &body)?;
            super::memories::redacted(conn, session, r.seq, &body)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn erase(conn: &Connection, no: i64, seq: u64, body: &[u8], archive: Option<i64>) -> Result<()> {
    if let Some(id) = archive {
        const OLD: &str =
            "DELETE FROM archives WHERE session_no = ?1 AND staged = 0 AND first = (SELECT first FROM archives WHERE id = ?2)";
        conn.execute(OLD, (no, id)).doing(ERASING)?;
        conn.execute("UPDATE archives SET staged = 0 WHERE id = ?1", [id]).doing(ERASING)?;
    } else {
        const OLD: &str = "SELECT salt, body, commitment FROM events WHERE session_no = ?1 AND seq = ?2";
        let old = conn
            .query_row(OLD, (no, int(seq)), |r| Ok((r.get::<_, Vec<u8>>(0)?, r.get::<_, Vec<u8>>(1)?, r.get::<_, Option<Vec<u8>>>(2)?)));
        if let Some((salt, before, known)) = old.optional().doing(ERASING)?
            && let Some(commits) = known.and_then(|c| Hash::from_slice(&c)).or_else(|| Some(commitment(&salt.try_into().ok()?, &before)))
        {
            const SQL: &str = "UPDATE events SET salt = X'', body = ?3, commitment = ?4 WHERE session_no = ?1 AND seq = ?2";
            conn.execute(SQL, params![no, int(seq), body, commits.0]).doing(ERASING)?;
        }
    }
    conn.execute("DELETE FROM redactions WHERE session_no = ?1 AND seq = ?2", (no, int(seq))).doing(ERASING).map(drop)
}

/// Whether something that the agent of a session was told, and has not taken yet, is what `holds` looks for.
pub fn untaken(conn: &Connection, session: &str, holds: &dyn Fn(&[u8]) -> bool) -> Result<bool> {
    const SQL: &str = "SELECT bytes FROM frames WHERE session_no = (SELECT no FROM sessions WHERE id = ?1)";
    let mut stmt = conn.prepare(SQL).doing(READING)?;
    let mut rows = stmt.query([session]).doing(READING)?;
    while let Some(r) = rows.next().doing(READING)? {
        if holds(r.get_ref(0).and_then(|v| Ok(v.as_blob()?)).doing(READING)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Letters that no sink took hold the event whole.
fn dead_letters(conn: &Connection, session: &str, seq: u64, body: &[u8]) -> Result<()> {
    let mut stmt = conn.prepare("SELECT id, event FROM dead_letters").doing(ERASING)?;
    let mut rows = stmt.query([]).doing(ERASING)?;
    while let Some(r) = rows.next().doing(ERASING)? {
        let (id, text): (i64, String) = (r.get(0).doing(ERASING)?, r.get(1).doing(ERASING)?);
        let Ok(mut e) = serde_json::from_str::<SinkEvent>(&text) else { continue };
        if e.session == session && e.seq == seq {
            e.body = String::from_utf8_lossy(body).into_owned();
            let text = serde_json::to_string(&e).unwrap_or_default();
            conn.execute("UPDATE dead_letters SET event = ?2 WHERE id = ?1", params![id, text]).doing(ERASING)?;
        }
    }
    Ok(())
}

/// Rewrites the database's files, so that nothing of what was deleted or changed is left in free pages, and empties the log. Appends
/// wait meanwhile. False where a reader kept the log from being emptied. Errors: no room for it.
pub fn scrub(conn: &Connection) -> Result<bool> {
    // why: what an ended agent was told is never told again, and may hold the same words.
    const FRAMES: &str = "DELETE FROM frames WHERE session_no IN (SELECT no FROM sessions WHERE status = 'ended')";
    conn.execute(FRAMES, []).doing(ERASING)?;
    rewrite(conn)?;
    // why no patience: each of these tries would wait for a reader as long as any statement does, and all appends with it.
    conn.busy_timeout(Duration::ZERO).doing(EMPTYING)?;
    let emptied = empty_log(conn);
    conn.busy_timeout(super::BUSY).doing(EMPTYING)?;
    if emptied? {
        conn.execute("DELETE FROM meta WHERE key = 'scrub'", []).doing(ERASING)?;
        return Ok(true);
    }
    Ok(false)
}

/// On the disk and never in memory: the whole database is copied for it.
fn rewrite(conn: &Connection) -> Result<()> {
    const DOING: &str = "rewriting the database without what was erased";
    let dir = path_of(conn, "");
    let size: i64 =
        conn.query_row("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size", [], |r| r.get(0)).doing(DOING)?;
    // why twice: as the copy, and in the log on its way back.
    folder::room(&dir, count(size).saturating_mul(2), "to rewrite the database without what was erased")?;
    // why here: elsewhere the folder for such files may be memory, small, or another user's to look at.
    if let Some(dir) = dir.to_str() {
        conn.execute_batch(&format!("PRAGMA temp_store_directory = '{}'", dir.replace('\'', "''"))).doing(DOING)?;
    }
    conn.execute_batch("PRAGMA temp_store = FILE").doing(DOING)?;
    let done = conn.execute_batch("VACUUM").doing(DOING);
    conn.execute_batch("PRAGMA temp_store = MEMORY").doing(DOING)?;
    done
}

fn empty_log(conn: &Connection) -> Result<bool> {
    for _ in 0..EMPTY_TRIES {
        if conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get::<_, i64>(0)).doing(EMPTYING)? == 0 {
            return Ok(true);
        }
        std::thread::sleep(EMPTY_PAUSE);
    }
    Ok(false)
}

/// Payloads of erased events that may still be there.
pub fn erased_blobs(conn: &Connection) -> Result<Vec<Hash>> {
    let mut stmt = conn.prepare("SELECT substr(key, 8) FROM meta WHERE key LIKE 'erased:%'").doing(READING)?;
    let rows = stmt.query_map([], |r| r.get::<_, String>(0)).doing(READING)?;
    rows.map(|r| r.doing(READING).and_then(|d| d.parse())).collect()
}

/// Nothing is to be done about these any more.
pub fn forget_erased(conn: &Connection, blobs: &[Hash]) -> Result<()> {
    let mut stmt = conn.prepare("DELETE FROM meta WHERE key = 'erased:' || ?1").doing(ERASING)?;
    blobs.iter().try_for_each(|b| stmt.execute([b.to_string()]).doing(ERASING).map(drop))
}

/// An erasure is in force and the files were not rewritten since.
pub fn scrub_is_due(conn: &Connection) -> Result<bool> {
    conn.query_row("SELECT EXISTS (SELECT 1 FROM meta WHERE key = 'scrub')", [], |r| r.get(0)).doing(READING)
}

/// The kind of event that tells which payloads went: it needs none of them.
pub const TELLS: &[u8] = b"secret_redacted";

/// Who names a payload.
pub enum Named {
    /// An event: session and seq.
    By(String, u64),
    Nobody,
    /// No event that can be read; why some cannot.
    Unknown(String),
}

/// An event of a row above `after`, in the database itself, that names a payload; some of one session (by seq) are left out.
pub fn names_blob_after(conn: &Connection, digest: &str, after: u64, but: (&str, &[u64])) -> Result<Option<(String, u64)>> {
    let seqs: Vec<String> = but.1.iter().map(u64::to_string).collect();
    let sql = format!(
        "SELECT s.id, e.seq FROM events e JOIN sessions s ON s.no = e.session_no WHERE e.id > ?3 AND e.kind <> 'secret_redacted' \
         AND instr(e.body, CAST(?1 AS BLOB)) > 0 AND NOT (s.id = ?2 AND e.seq IN ({})) LIMIT 1",
        seqs.join(", ")
    );
    let found = conn.query_row(&sql, params![digest, but.0, int(after)], |r| Ok((r.get(0)?, count(r.get(1)?))));
    found.optional().doing(READING)
}

/// The same for many payloads, in one pass over every body there is.
pub fn names_blobs(conn: &Connection, wanted: &[Hash]) -> Result<HashMap<Hash, Named>> {
    let mut found: HashMap<Hash, Named> = wanted.iter().map(|d| (*d, Named::Nobody)).collect();
    let mut left = found.len();
    let mut look = |session: &str, seq: u64, body: &[u8]| {
        collect::each_digest(body, |d| {
            if let Some(named @ Named::Nobody) = found.get_mut(&d) {
                *named = Named::By(session.to_owned(), seq);
                left -= 1;
            }
        });
        left > 0
    };
    const SQL: &str = "SELECT s.id, e.seq, e.body FROM events e JOIN sessions s ON s.no = e.session_no WHERE e.kind <> 'secret_redacted'";
    let mut stmt = conn.prepare(SQL).doing(READING)?;
    let mut rows = stmt.query([]).doing(READING)?;
    let mut more = !wanted.is_empty();
    while more && let Some(r) = rows.next().doing(READING)? {
        let text = |at| r.get_ref(at).and_then(|v| Ok(v.as_bytes()?)).doing(READING);
        more = look(&String::from_utf8_lossy(text(0)?), count(r.get(1).doing(READING)?), text(2)?);
    }
    let mut unread = None;
    for a in if more { all(conn)? } else { vec![] } {
        match a.walk(a.first, &mut |raw| Ok(raw.kind == TELLS || look(&a.session, raw.seq, raw.body))) {
            Ok(_) => {}
            Err(e @ Error::Archive { .. }) => unread = Some(e.to_string()),
            Err(e) => return Err(e),
        }
    }
    if let Some(why) = unread {
        found.values_mut().filter(|n| matches!(n, Named::Nobody)).for_each(|n| *n = Named::Unknown(why.clone()));
    }
    Ok(found)
}

/// Whether an event but some of one session names a payload. Looks through every body there is.
pub fn names_blob(conn: &Connection, digest: &str, but: (&str, &[u64])) -> Result<Named> {
    if let Some((session, seq)) = names_blob_after(conn, digest, 0, but)? {
        return Ok(Named::By(session, seq));
    }
    let mut out = Named::Nobody;
    for a in all(conn)? {
        let mut found = None;
        let holds = |raw: &RawEvent<'_>| raw.body.windows(digest.len()).any(|w| w == digest.as_bytes());
        let walked = a.walk(a.first, &mut |raw| {
            if raw.kind != TELLS && holds(raw) && !(a.session == but.0 && but.1.contains(&raw.seq)) {
                found = Some(Named::By(a.session.clone(), raw.seq));
            }
            Ok(found.is_none())
        });
        match (walked, found) {
            (_, Some(by)) => return Ok(by),
            // why on: an archive of another session may be away for as long as it likes.
            (Err(e @ Error::Archive { .. }), None) => out = Named::Unknown(e.to_string()),
            (Err(e), None) => return Err(e),
            (Ok(_), None) => {}
        }
    }
    Ok(out)
}
