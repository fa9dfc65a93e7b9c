//! The SQLite backend: one writer connection, one for checkpoints, a few for reading. Only this folder knows SQL.
//!
//! Invariants: WAL with `synchronous = FULL`, so a commit that returned is on disk; the writer never checkpoints by itself in the
//! middle of a commit; every reader sees one whole commit.

mod approvals;
mod archives;
mod attempts;
mod cache;
mod copy;
mod feed;
mod group;
mod listing;
mod maintain;
mod memories;
mod order;
pub(super) mod past;
mod read;
mod recover;
mod rows;
mod schema;
mod sinks;
mod statements;
mod states;
mod tasks;
mod tools;
mod tree;
mod upgrade;
mod usage;
mod writer;
mod written;

use std::path::PathBuf;

use rusqlite::{Connection, OpenFlags};

use super::error::{Doing, Result};

pub use approvals::ApprovalFilter;
pub(super) use approvals::differences;
pub(super) use archives::{
    Keep, Named, Whole, all as all_archives, erased_blobs, forget_staged, kept as archives_of, names_blob, names_blob_after, names_blobs,
    scrub_is_due, untaken, with_pieces,
};
pub(super) use attempts::attempts_differences;
pub(super) use copy::{archives_in, copy_database, every_text, forget_staged_in, rename_archive, sizes};
pub(super) use listing::listing_differences;
pub use listing::{Filter, MAX_LABELS};
pub use read::{MAX_PAGE, MAX_PAGE_BYTES, MAX_SESSIONS, Page, StoredEvent};
pub(super) use read::{Pool, decode};
pub(super) use rows::{RawEvent, SessionRow, orphans, raw_events, raw_host, session_rows, stored_events};
pub use sinks::HOST_SESSION;
pub(super) use sinks::{
    change as change_sink, count_events, dead_letters, names as sink_names, newest as newest_place, page as sink_page, state as sink_state,
    sums as sink_sums, waiting_for,
};
pub(super) use states::states_differences;
pub(super) use tasks::task_differences;
pub use tools::{ToolQuery, ToolsFound, tools};
pub use tree::MAX_GENERATIONS;
pub(super) use upgrade::{header_version, migrated_copy, settle, written_since};
pub use usage::LedgerQuery;
pub(super) use usage::usage_differences;
pub(super) use writer::{Writer, WriterOptions};

/// How SQLite reaches its disk. Anything but the default is for tests that show what the default is good for.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Name of a registered VFS; `None` for SQLite's own.
    pub vfs: Option<String>,
    /// `FULL`; with less, an acknowledged append may be lost with the power.
    pub synchronous: &'static str,
    /// Pages written between two checkpoints.
    pub checkpoint_pages: u64,
    /// Length of the log in frames above which it is begun anew.
    pub reset_frames: i64,
}

impl Default for Engine {
    fn default() -> Self {
        Self { vfs: None, synchronous: "FULL", checkpoint_pages: maintain::CHECKPOINT_PAGES, reset_frames: maintain::RESET_FRAMES }
    }
}

/// How long a statement waits for another process.
const BUSY: std::time::Duration = std::time::Duration::from_secs(5);

/// Where the database is and how it is opened.
#[derive(Debug, Clone)]
pub(super) struct Database {
    pub path: PathBuf,
    pub engine: Engine,
}

impl Database {
    fn connect(&self, access: OpenFlags, doing: &'static str) -> Result<Connection> {
        let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = match &self.engine.vfs {
            Some(vfs) => Connection::open_with_flags_and_vfs(&self.path, flags, vfs.as_str()),
            None => Connection::open_with_flags(&self.path, flags),
        };
        let conn = conn.doing(doing)?;
        conn.busy_timeout(BUSY).doing(doing)?;
        conn.pragma_update(None, "synchronous", self.engine.synchronous).doing(doing)?;
        conn.execute_batch("PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;").doing(doing)?;
        Ok(conn)
    }
}

/// Page size that the limits are computed with; SQLite's default.
const PAGE: u64 = 4_096;

/// Opens the writer's connection and makes the schema where the file is new.
pub(super) fn open_writer(db: &Database, max_bytes: Option<u64>) -> Result<Connection> {
    const DOING: &str = "opening it";
    let mut conn = db.connect(OpenFlags::SQLITE_OPEN_READ_WRITE, DOING)?;
    // why: asks for the header before anything is written, so that a foreign or damaged file stays as it is.
    conn.query_row("PRAGMA user_version", [], |_| Ok(())).doing(DOING)?;
    schema::prepare(&mut conn, &db.path)?;
    conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA cache_size = -16384; PRAGMA wal_autocheckpoint = 0;").doing(DOING)?;
    if let Some(max) = max_bytes {
        conn.pragma_update(None, "max_page_count", i64::try_from(max / PAGE).unwrap_or(i64::MAX)).doing(DOING)?;
    }
    Ok(conn)
}

/// Versions of the schema: what the file has (`None` where there is none yet), and what this build writes.
pub(super) fn schema_versions(path: PathBuf) -> Result<(Option<i64>, i64)> {
    if !path.exists() {
        return Ok((None, schema::VERSION));
    }
    let db = Database { path, engine: Engine::default() };
    Ok((schema::version(&open_reader(&db)?, &db.path)?, schema::VERSION))
}

/// A connection that only copies the log into the database file.
fn open_maintainer(db: &Database) -> Result<Connection> {
    let conn = db.connect(OpenFlags::SQLITE_OPEN_READ_WRITE, "opening it")?;
    conn.execute_batch("PRAGMA cache_size = -256; PRAGMA wal_autocheckpoint = 0;").doing("opening it")?;
    Ok(conn)
}

/// A connection that cannot write.
pub(super) fn open_reader(db: &Database) -> Result<Connection> {
    let conn = db.connect(OpenFlags::SQLITE_OPEN_READ_ONLY, "opening it for reading")?;
    conn.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -2048;").doing("opening it for reading")?;
    Ok(conn)
}
