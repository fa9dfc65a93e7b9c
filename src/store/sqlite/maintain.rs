//! Copies the write-ahead log into the database file, beside the writer.
//!
//! A passive checkpoint on another connection does nearly all of it; only when the log has grown past [`RESET_FRAMES`] does the writer
//! itself copy the small rest between two commits, so that the next commit begins the log file anew and the file stays bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

use crate::store::error::Result;

use super::{Database, open_maintainer};

/// Pages written between two checkpoints: 16 MiB.
pub(super) const CHECKPOINT_PAGES: u64 = 4_096;
/// Length of the log in frames (64 MiB) above which it is begun anew.
pub(super) const RESET_FRAMES: i64 = 16_384;

pub(super) struct Maintainer {
    ask: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    reset: Arc<AtomicBool>,
    pages: u64,
    checkpoint_pages: u64,
}

impl Maintainer {
    pub(super) fn start(db: &Database) -> Result<Self> {
        let conn = open_maintainer(db)?;
        let (ask, asked) = sync_channel(1);
        let reset = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&reset);
        let (checkpoint_pages, reset_frames) = (db.engine.checkpoint_pages, db.engine.reset_frames);
        let run = move || {
            for () in asked {
                if checkpoint(&conn, "PASSIVE").is_some_and(|frames| frames > reset_frames) {
                    flag.store(true, Ordering::Relaxed);
                }
            }
        };
        let thread = std::thread::Builder::new().name("store-maintain".to_owned()).spawn(run);
        let thread = thread.map_err(super::super::folder::fail(&db.path, "start a thread for it"))?;
        Ok(Self { ask: Some(ask), thread: Some(thread), reset, pages: 0, checkpoint_pages })
    }

    /// Called between commits with the pages just written.
    pub(super) fn wrote(&mut self, pages: u64, conn: &Connection) {
        self.pages += pages;
        if self.reset.swap(false, Ordering::Relaxed) {
            checkpoint(conn, "PASSIVE");
        }
        if self.pages >= self.checkpoint_pages {
            self.pages = 0;
            // why: a checkpoint that is already asked for will take these pages too.
            let _ = self.ask.as_ref().map(|a| a.try_send(()));
        }
    }

    /// Ends the thread and leaves a whole database file with an empty log, unless a reader is still at work.
    pub(super) fn finish(mut self, conn: &Connection) {
        self.ask = None;
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
        checkpoint(conn, "TRUNCATE");
    }
}

/// Copies what no reader forbids; gives the log's length in frames. A failure (a full disk) is tried again later.
fn checkpoint(conn: &Connection, how: &str) -> Option<i64> {
    match conn.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |r| r.get(1)) {
        Ok(frames) => Some(frames),
        Err(e) => {
            tracing::warn!(error = %e, "copying the store's log into its database");
            None
        }
    }
}
