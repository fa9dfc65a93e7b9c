//! The writer's memory: projections and chain heads of the sessions it wrote last, so that an append reads nothing.
//!
//! Bounded by [`CAPACITY`]; what falls out is read back when it is needed. Only the writer thread touches it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{Session, SessionId, Status};
use crate::store::batch::Cursor;
use crate::store::chain::Hash;
use crate::store::error::{Error, Result};

use super::rows::{SessionRow, count};

/// Most sessions kept.
pub const CAPACITY: usize = 1_024;

/// What the writer knows of one session; equal to its row except while a group is open.
pub struct Entry {
    pub no: i64,
    pub session: Arc<Session>,
    pub stored_status: Status,
    pub head: Hash,
    /// seq of the newest head on the host chain, and since when (boot clock) there are events after it.
    pub headed_seq: u64,
    pub unheaded_since: Option<u64>,
    pub cursor: Option<Cursor>,
    pub frame_attempt: u32,
    pub frame_no: u64,
    /// Changed in the open group.
    pub dirty: bool,
    used: u64,
}

impl Entry {
    /// A session that is being created: nothing but its first event is known.
    pub fn new(no: i64, session: Session, head: Hash) -> Self {
        Self {
            no,
            stored_status: session.status,
            session: Arc::new(session),
            head,
            headed_seq: 0,
            unheaded_since: None,
            cursor: None,
            frame_attempt: 0,
            frame_no: 0,
            dirty: false,
            used: 0,
        }
    }

    /// From a row. Errors when the projection cannot be read.
    pub fn from_row(row: &SessionRow) -> Result<Self> {
        let damaged = |detail: String| Error::Damaged { session: row.id.clone(), detail };
        let session: Session = serde_json::from_str(&row.doc).map_err(|e| damaged(format!("its projection cannot be read ({e})")))?;
        if session.last_seq != row.last_seq || session.id.as_str() != row.id {
            return Err(damaged("its projection is not of its row".to_owned()));
        }
        let head = Hash::from_slice(&row.head).ok_or_else(|| damaged("its head is not 32 bytes".to_owned()))?;
        let cursor = row.cursor_attempt.zip(row.cursor_offset).map(|(attempt, o)| Cursor { attempt, offset: count(o) });
        let mut e = Self::new(row.no, session, head);
        e.headed_seq = row.headed_seq;
        e.cursor = cursor;
        e.frame_attempt = row.frame_attempt;
        e.frame_no = count(row.frame_no);
        Ok(e)
    }

    pub fn last_seq(&self) -> u64 {
        self.session.last_seq
    }
}

/// Entries by session, with a clock of uses for eviction.
#[derive(Default)]
pub struct Cache {
    entries: HashMap<SessionId, Entry>,
    tick: u64,
}

impl Cache {
    pub fn get(&mut self, id: &SessionId) -> Option<&mut Entry> {
        self.tick += 1;
        let e = self.entries.get_mut(id)?;
        e.used = self.tick;
        Some(e)
    }

    pub fn insert(&mut self, id: SessionId, mut e: Entry) {
        self.tick += 1;
        e.used = self.tick;
        self.entries.insert(id, e);
    }

    pub fn remove(&mut self, id: &SessionId) {
        self.entries.remove(id);
    }

    pub fn iter(&self) -> impl Iterator<Item = (&SessionId, &Entry)> {
        self.entries.iter()
    }

    /// The longest unused that must go for the cache to be an eighth below its capacity; empty while it is not over it.
    pub fn surplus(&self) -> Vec<SessionId> {
        if self.entries.len() <= CAPACITY {
            return Vec::new();
        }
        let mut all: Vec<_> = self.entries.iter().filter(|(_, e)| !e.dirty).map(|(id, e)| (e.used, id)).collect();
        all.sort_unstable();
        all.truncate(self.entries.len() - (CAPACITY - CAPACITY / 8));
        all.into_iter().map(|(_, id)| id.clone()).collect()
    }
}
