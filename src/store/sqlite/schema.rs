//! The schema's history: one SQL file per version, never changed once released, only added to.
//!
//! A database of an older version is copied first, then brought up in one transaction; its projections are folded anew by `recover`.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::store::error::{Doing, Error, Result};
use crate::store::folder;

/// Marks the file as ours: `BDLE`.
const APPLICATION_ID: i64 = 0x4244_4C45;
/// In order; the schema's version is how many were applied.
const MIGRATIONS: [&str; 12] = [
    include_str!("migrations/20261121_first.sql"),
    include_str!("migrations/20261121_second_approvals.sql"),
    include_str!("migrations/20261121_third_plugin_states.sql"),
    include_str!("migrations/20261121_fourth_sinks.sql"),
    include_str!("migrations/20261121_fifth_usage.sql"),
    include_str!("migrations/20261121_sixth_listing.sql"),
    include_str!("migrations/20261121_seventh_attempts.sql"),
    include_str!("migrations/20261121_eighth_tasks.sql"),
    include_str!("migrations/20261121_ninth_archives.sql"),
    include_str!("migrations/20261121_tenth_writes.sql"),
    include_str!("migrations/20261122_first_memories.sql"),
    include_str!("migrations/20261122_second_sink_sums.sql"),
];
/// What must be free beside a copy, in bytes: the log grows while the schema is changed.
const SLACK: u64 = 16 << 20;
/// The version that this build writes.
pub const VERSION: i64 = MIGRATIONS.len() as i64;

/// Creates the schema in an empty file, or brings an older one up to date. Errors: a newer version, another program's file, damage, no
/// room for the copy.
pub fn prepare(conn: &mut Connection, path: &Path) -> Result<()> {
    let Some(found) = version(conn, path)? else { return apply(conn, 0, "making its tables") };
    if found < VERSION {
        let backup = back_up(conn, path, found)?;
        tracing::info!(from = found, to = VERSION, backup = %backup.display(), "the database is brought up to date");
        apply(conn, found, "bringing its tables up to date")?;
    }
    Ok(())
}

/// The same for a file that is a copy itself.
pub fn bring_up(conn: &mut Connection, path: &Path) -> Result<()> {
    match version(conn, path)? {
        Some(found) if found < VERSION => apply(conn, found, "bringing its tables up to date"),
        _ => Ok(()),
    }
}

/// The version of a file, which may be in use by another process; `None` of an empty one. Changes nothing. Errors as [`prepare`], but for
/// the copy.
pub fn version(conn: &Connection, path: &Path) -> Result<Option<i64>> {
    const DOING: &str = "reading its header";
    let number = |sql: &str| conn.query_row(sql, [], |r| r.get::<_, i64>(0)).doing(DOING);
    let found = number("PRAGMA user_version")?;
    let app = number("PRAGMA application_id")?;
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    if (app, tables, found) == (0, 0, 0) {
        return Ok(None);
    }
    if app != APPLICATION_ID {
        return Err(Error::NotOurs { path: path.to_owned(), detail: format!("its application id is {app}, not {APPLICATION_ID}") });
    }
    if found > VERSION {
        return Err(Error::NewerSchema { path: path.to_owned(), found, known: VERSION });
    }
    if found < 1 {
        // why: a schema is made in one transaction with its version; such a file was changed by hand.
        return Err(Error::NotOurs { path: path.to_owned(), detail: format!("its schema version is {found}") });
    }
    Ok(Some(found))
}

/// Applies what comes after version `from`, in one transaction. Projections of an older version are marked to be folded anew.
fn apply(conn: &mut Connection, from: i64, doing: &'static str) -> Result<()> {
    let tx = conn.transaction().doing(doing)?;
    for sql in MIGRATIONS.iter().skip(usize::try_from(from).unwrap_or(usize::MAX)) {
        tx.execute_batch(sql).doing(doing)?;
    }
    if from > 0 {
        tx.execute("DELETE FROM meta WHERE key = 'folded_by'", []).doing(doing)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID).doing(doing)?;
    tx.pragma_update(None, "user_version", VERSION).doing(doing)?;
    tx.commit().doing(doing)
}

/// A whole copy beside the database, `beadle.db.schema-1` for a database of version 1: there with all its content, or not at all.
fn back_up(conn: &Connection, path: &Path, version: i64) -> Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".schema-{version}"));
    let backup = PathBuf::from(name);
    let mut draft = backup.as_os_str().to_owned();
    draft.push(".draft");
    let draft = PathBuf::from(draft);
    let failed = |detail: String| Error::Backup { path: path.to_owned(), backup: backup.clone(), detail };
    match std::fs::remove_file(&draft) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e.to_string())),
        _ => {}
    }
    let text = draft.to_str().ok_or_else(|| failed("its path is not text".to_owned()))?;
    let size = |p: &Path| p.metadata().map_or(0, |m| m.len());
    let needed = size(path).saturating_add(size(&folder::beside(path, "-wal"))).saturating_add(SLACK);
    folder::room(path.parent().unwrap_or(path), needed, "to copy the database before it is brought up to date")?;
    let settle = || {
        conn.execute("VACUUM INTO ?1", [text]).map_err(std::io::Error::other)?;
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600))?;
        std::fs::File::open(&draft)?.sync_all()?;
        std::fs::rename(&draft, &backup)?;
        folder::sync_parent(&backup)
    };
    // why removed: half a copy would keep a full disk full for the executable that goes on with the database as it is.
    settle().inspect_err(|_| drop(std::fs::remove_file(&draft))).map_err(|e| failed(e.to_string()))?;
    Ok(backup)
}
