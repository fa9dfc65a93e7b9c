//! A copy that is brought to this build's schema, and what was written into a database since a copy of it was made. Called by
//! `store::upgrade`.

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use crate::store::error::{Doing, Error, Result};
use crate::store::folder;

use super::{Database, Engine, recover, schema};

const TRYING: &str = "trying the new schema on a copy";
const COMPARING: &str = "comparing it with its copy";

fn plain(path: &Path) -> Database {
    Database { path: path.to_owned(), engine: Engine::default() }
}

/// Copies a database to an empty file, brings the copy to this build's schema and folds its projections; gives a connection to it.
pub fn migrated_copy(from: &Path, to: &Path) -> Result<Connection> {
    let text = to.to_str().ok_or_else(|| Error::BadBackup { path: to.to_owned(), detail: "its path is not text".to_owned() })?;
    let conn = plain(from).connect(OpenFlags::SQLITE_OPEN_READ_ONLY, TRYING)?;
    conn.execute("VACUUM INTO ?1", [text]).doing(TRYING)?;
    drop(conn);
    let mut conn = plain(to).connect(OpenFlags::SQLITE_OPEN_READ_WRITE, TRYING)?;
    schema::bring_up(&mut conn, to)?;
    recover::recover(&conn)?;
    Ok(conn)
}

/// The schema's version as it stands in the file, whatever it is.
pub fn header_version(path: &Path) -> Result<i64> {
    let conn = plain(path).connect(OpenFlags::SQLITE_OPEN_READ_ONLY, COMPARING)?;
    conn.query_row("PRAGMA user_version", [], |r| r.get(0)).doing(COMPARING)
}

/// Copies the log into the file and ends it; false where somebody still reads.
pub fn settle(path: &Path) -> Result<bool> {
    let conn = plain(path).connect(OpenFlags::SQLITE_OPEN_READ_WRITE, COMPARING)?;
    let busy = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get::<_, i64>(0)).doing(COMPARING)?;
    drop(conn);
    let log = folder::beside(path, "-wal");
    if busy != 0 || log.metadata().is_ok_and(|m| m.len() > 0) {
        return Ok(false);
    }
    for rest in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(folder::beside(path, rest));
    }
    Ok(true)
}

/// What must be the same for nobody to have been told anything: in words, and where it stands. Columns are those of the schema that had
/// the table first; projections are left out, since another version folds them otherwise, and what a daemon throws away by itself: what was
/// staged, and events whose session was removed.
const WRITTEN: [(&str, &str, &str); 10] = [
    ("events were written", "events", "id, session_no, seq, hash, commitment"),
    ("sessions were changed", "sessions", "no, id, last_seq, head, cursor_attempt, cursor_offset, frame_attempt, frame_no"),
    ("agents were told something", "frames", "session_no, attempt, no"),
    ("settings were changed", "settings", "key, value"),
    ("sinks were given events", "sinks", "name, host_seq, row"),
    ("sinks refused events", "dead_letters", "id, sink, event"),
    ("events were archived", "archives", "id, session_no, first, last, file, digest"),
    ("other programs wrote", "writes", "*"),
    ("other programs began to write", "writers", "*"),
    ("memory was changed", "memories", "id, namespace, tier, text, tags"),
];
/// Records of the host chain that tell of a daemon's coming and going only.
const PASSING: &str = "('opened', 'closed', 'session_head', 'host_head')";

/// What was written into a database since a copy of it was made; `None` where nothing that matters was.
pub fn written_since(path: &Path, copy: &Path) -> Result<Option<String>> {
    let open = |path: &Path| plain(path).connect(OpenFlags::SQLITE_OPEN_READ_ONLY, COMPARING);
    let (now, before) = (open(path)?, open(copy)?);
    for (what, table, columns) in WRITTEN {
        let known = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1)";
        if !before.query_row(known, [table], |r| r.get::<_, bool>(0)).doing(COMPARING)? {
            continue;
        }
        let columns = own_columns(&before, table, columns)?;
        let only = match table {
            "events" => "WHERE session_no IN (SELECT no FROM sessions)",
            "archives" => "WHERE staged = 0",
            _ => "",
        };
        let sql = format!("SELECT {columns} FROM {table} {only} ORDER BY {columns}");
        if digest(&now, &sql)? != digest(&before, &sql)? {
            return Ok(Some(what.to_owned()));
        }
    }
    let last: i64 = before.query_row("SELECT coalesce(max(seq), 0) FROM host_events", [], |r| r.get(0)).doing(COMPARING)?;
    let chain = format!("SELECT seq, hash FROM host_events WHERE seq <= {last} ORDER BY seq");
    if digest(&now, &chain)? != digest(&before, &chain)? {
        return Ok(Some("the host chain was changed".to_owned()));
    }
    let sql = format!("SELECT kind FROM host_events WHERE seq > {last} AND kind NOT IN {PASSING} ORDER BY seq LIMIT 1");
    let mut stmt = now.prepare(&sql).doing(COMPARING)?;
    let mut rows = stmt.query([]).doing(COMPARING)?;
    let kind = rows.next().doing(COMPARING)?.map(|r| r.get::<_, String>(0)).transpose().doing(COMPARING)?;
    Ok(kind.map(|kind| format!("the host chain was told of {kind}")))
}

/// Those of the columns that a table has already, or all that it has.
fn own_columns(conn: &Connection, table: &str, wanted: &str) -> Result<String> {
    let mut stmt = conn.prepare("SELECT name FROM pragma_table_info(?1)").doing(COMPARING)?;
    let rows = stmt.query_map([table], |r| r.get::<_, String>(0)).doing(COMPARING)?;
    let mut names = rows.collect::<rusqlite::Result<Vec<_>>>().doing(COMPARING)?;
    names.retain(|n| wanted == "*" || wanted.split(", ").any(|w| w == n));
    Ok(names.join(", "))
}

/// Of every value of every row, in order.
fn digest(conn: &Connection, sql: &str) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut stmt = conn.prepare(sql).doing(COMPARING)?;
    let columns = stmt.column_count();
    let mut rows = stmt.query([]).doing(COMPARING)?;
    while let Some(r) = rows.next().doing(COMPARING)? {
        for at in 0..columns {
            let (kind, bytes) = match r.get_ref(at).doing(COMPARING)? {
                ValueRef::Null => (b'n', Vec::new()),
                ValueRef::Integer(n) => (b'i', n.to_le_bytes().to_vec()),
                ValueRef::Real(x) => (b'r', x.to_le_bytes().to_vec()),
                ValueRef::Text(t) => (b't', t.to_vec()),
                ValueRef::Blob(b) => (b'b', b.to_vec()),
            };
            hasher.update(&[kind]).update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
        }
    }
    Ok(hasher.finalize())
}
