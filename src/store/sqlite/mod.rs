//! The SQLite backend: one writer connection, one for checkpoints, a few for reading. Only this folder knows SQL.
//!
//! Invariants: WAL with `synchronous = FULL`, so a commit that returned is on disk; the writer never checkpoints by itself in the
//! middle of a commit; every reader sees one whole commit.

mod approvals;
mod cache;
mod feed;
mod group;
mod maintain;
mod read;
mod recover;
mod rows;
mod schema;
mod writer;

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::error::{Doing, Result};

pub use approvals::ApprovalFilter;
pub(super) use approvals::differences;
pub use read::{Filter, MAX_PAGE, MAX_PAGE_BYTES, MAX_SESSIONS, Page, StoredEvent};
pub(super) use read::{Pool, decode};
pub(super) use rows::{RawEvent, SessionRow, orphans, raw_events, raw_host, session_rows};
pub(super) use writer::{Writer, WriterOptions};

/// Page size that the limits are computed with; SQLite's default.
const PAGE: u64 = 4_096;

/// Opens the writer's connection and makes the schema where the file is new.
pub(super) fn open_writer(path: &Path, max_bytes: Option<u64>) -> Result<Connection> {
    const DOING: &str = "opening it";
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags).doing(DOING)?;
    settle(&conn)?;
    // why: asks for the header before anything is written, so that a foreign or damaged file stays as it is.
    conn.query_row("PRAGMA user_version", [], |_| Ok(())).doing(DOING)?;
    schema::prepare(&mut conn, path)?;
    conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA cache_size = -16384; PRAGMA wal_autocheckpoint = 0;").doing(DOING)?;
    if let Some(max) = max_bytes {
        conn.pragma_update(None, "max_page_count", i64::try_from(max / PAGE).unwrap_or(i64::MAX)).doing(DOING)?;
    }
    Ok(conn)
}

/// A connection that only copies the log into the database file.
fn open_maintainer(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).doing("opening it")?;
    settle(&conn)?;
    conn.execute_batch("PRAGMA cache_size = -256; PRAGMA wal_autocheckpoint = 0;").doing("opening it")?;
    Ok(conn)
}

/// A connection that cannot write.
pub(super) fn open_reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).doing("opening it for reading")?;
    settle(&conn)?;
    conn.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -2048;").doing("opening it for reading")?;
    Ok(conn)
}

fn settle(conn: &Connection) -> Result<()> {
    conn.busy_timeout(std::time::Duration::from_secs(5)).doing("opening it")?;
    conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;")
        .doing("opening it")
}
