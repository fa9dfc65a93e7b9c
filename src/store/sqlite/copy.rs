//! A copy of the database as of one moment, beside its writer, and how much room sessions take. Called by `backup` and `collect`.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::store::chain::Hash;
use crate::store::error::{Doing, Error, Result};

use super::rows::{count, raw_events};
use super::{Database, Engine};

const COPYING: &str = "copying the database";

/// Writes a whole copy to a new file. Readers and the writer go on.
pub fn copy_database(db: &Database, to: &Path) -> Result<()> {
    let failed = |detail: String| Error::BadBackup { path: to.to_owned(), detail };
    let text = to.to_str().ok_or_else(|| failed("its path is not text".to_owned()))?;
    let conn = db.connect(OpenFlags::SQLITE_OPEN_READ_ONLY, COPYING)?;
    conn.execute("VACUUM INTO ?1", [text]).doing(COPYING)?;
    use std::os::unix::fs::PermissionsExt;
    let settle = || {
        std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o600))?;
        std::fs::File::open(to)?.sync_all()
    };
    settle().map_err(|e| failed(e.to_string()))
}

fn copy_of(path: &Path) -> Database {
    Database { path: path.to_owned(), engine: Engine::default() }
}

/// What was staged at that moment is nothing to the copy.
pub fn forget_staged_in(copy: &Path) -> Result<()> {
    let conn = copy_of(copy).connect(OpenFlags::SQLITE_OPEN_READ_WRITE, COPYING)?;
    super::archives::forget_staged(&conn).map(drop)
}

/// An archive in force that the copy names.
pub struct ArchiveRow {
    pub id: i64,
    pub session: String,
    pub first: u64,
    pub last: u64,
    pub file: String,
    digest: Vec<u8>,
}

impl ArchiveRow {
    /// Why a file with this digest is not the one that was written.
    pub fn differs(&self, digest: &str) -> Option<String> {
        let written = Hash::from_slice(&self.digest).unwrap_or(Hash::ZERO).to_string();
        (written != digest).then(|| format!("its bytes are not those that were written (digest {written})"))
    }
}

pub fn archives_in(copy: &Path) -> Result<Vec<ArchiveRow>> {
    const SQL: &str = "SELECT a.id, s.id, a.first, a.last, a.file, a.digest FROM archives a JOIN sessions s ON s.no = a.session_no \
                       WHERE a.staged = 0 ORDER BY a.session_no, a.first";
    let conn = copy_of(copy).connect(OpenFlags::SQLITE_OPEN_READ_WRITE, COPYING)?;
    let mut stmt = conn.prepare(SQL).doing(COPYING)?;
    let rows = stmt.query_map([], |r| {
        Ok(ArchiveRow {
            id: r.get(0)?,
            session: r.get(1)?,
            first: count(r.get(2)?),
            last: count(r.get(3)?),
            file: r.get(4)?,
            digest: r.get(5)?,
        })
    });
    rows.doing(COPYING)?.collect::<rusqlite::Result<_>>().doing(COPYING)
}

/// Names an archive of the copy where it lies in the backup.
pub fn rename_archive(copy: &Path, id: i64, file: &str) -> Result<()> {
    let conn = copy_of(copy).connect(OpenFlags::SQLITE_OPEN_READ_WRITE, COPYING)?;
    conn.execute("UPDATE archives SET file = ?2 WHERE id = ?1", (id, file)).doing(COPYING).map(drop)
}

/// Bytes of events and archives of each session.
pub fn sizes(conn: &Connection) -> Result<HashMap<String, u64>> {
    const DOING: &str = "adding up sizes";
    const SQL: &str = "SELECT s.id, (SELECT coalesce(sum(length(e.body) + 200), 0) FROM events e WHERE e.session_no = s.no) \
                       + (SELECT coalesce(sum(a.bytes), 0) FROM archives a WHERE a.session_no = s.no) FROM sessions s";
    let mut stmt = conn.prepare(SQL).doing(DOING)?;
    let rows = stmt.query_map([], |r| Ok((r.get(0)?, count(r.get(1)?)))).doing(DOING)?;
    rows.collect::<rusqlite::Result<_>>().doing(DOING)
}

/// Every text that may name a payload: bodies of events, archived ones too, but for some sessions' and for those that tell what was erased;
/// letters, settings, the host chain.
pub fn every_text(conn: &Connection, without: &HashSet<String>, each: &mut dyn FnMut(&[u8])) -> Result<()> {
    const DOING: &str = "looking through all events";
    const SQL: [&str; 3] = ["SELECT event FROM dead_letters", "SELECT value FROM settings", "SELECT body FROM host_events"];
    let _snapshot = conn.unchecked_transaction().doing(DOING)?;
    let mut sessions = conn.prepare("SELECT no, id FROM sessions").doing(DOING)?;
    let rows = sessions.query_map([], |r| Ok((r.get(0)?, r.get::<_, String>(1)?))).doing(DOING)?;
    for (no, id) in rows.collect::<rusqlite::Result<Vec<(i64, String)>>>().doing(DOING)? {
        if !without.contains(&id) {
            raw_events(conn, no, 1, u64::MAX, |raw| {
                if raw.kind != super::archives::TELLS {
                    each(raw.body);
                }
                Ok(true)
            })?;
        }
    }
    for sql in SQL {
        let mut stmt = conn.prepare(sql).doing(DOING)?;
        let mut rows = stmt.query([]).doing(DOING)?;
        while let Some(r) = rows.next().doing(DOING)? {
            each(r.get_ref(0).and_then(|v| Ok(v.as_bytes()?)).doing(DOING)?);
        }
    }
    Ok(())
}
