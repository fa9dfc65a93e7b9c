//! What the store keeps of audit sinks: how far each got, and the events that it never took.
//!
//! Invariants: a cursor only moves forward; it moves in the transaction of what became of the events that it passes; events that a
//! sink is to get are not removed before.
//!
//! Called by `sink`.

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::model::{Actor, Attempt, Session, SessionId, SinkEvent};

use super::chain::Hash;
use super::error::{Error, Result};
use super::host::HostEvent;
use super::sqlite;

/// Most dead letters that one sink may have; one more is not taken, and the sink waits.
pub const MAX_DEAD_LETTERS: u64 = 10_000;
/// Bytes of dead letters that one sink may have.
pub const MAX_DEAD_BYTES: u64 = 256 << 20;

/// How many events of a session a sink looks back at most.
pub const LOOK_BACK: u64 = 20_000;

/// Where a sink is: everything up to here is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SinkPlace {
    /// On the host chain.
    pub host_seq: u64,
    /// Over the events of all sessions, in the order they were written.
    pub row: u64,
}

/// What is stored of a sink.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SinkState {
    pub place: SinkPlace,
    pub delivered: u64,
    pub dropped: u64,
    pub skipped: u64,
    pub dead_letters: u64,
    pub dead_bytes: u64,
}

/// What became of events that a sink was to get; all of it becomes durable or none.
#[derive(Debug, Clone, Default)]
pub struct SinkChange {
    pub sink: String,
    pub place: SinkPlace,
    /// Sessions that it has not got whole may not be removed; `None` leaves that as it is.
    pub holds: Option<bool>,
    pub delivered: u64,
    pub dropped: u64,
    pub skipped: u64,
    /// Event and reason.
    pub dead: Vec<(SinkEvent, String)>,
    /// Numbers of dead letters that were delivered after all.
    pub revived: Vec<i64>,
    /// What the sink has summed up to this place; `None` leaves that as it is.
    pub sums: Option<Vec<u8>>,
    pub notes: Vec<HostEvent>,
}

/// An event that a sink never took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub id: i64,
    pub at: i64,
    pub reason: String,
    pub event: SinkEvent,
}

/// An event that a sink looks back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkPast {
    pub seq: u64,
    pub at: i64,
    pub attempt: u32,
    pub kind: String,
    pub body: Vec<u8>,
}

/// One event on its way to a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkItem {
    /// Where the sink is once this one is done with.
    pub place: SinkPlace,
    pub event: SinkEvent,
}

/// What a sink reads at a time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SinkPage {
    pub items: Vec<SinkItem>,
    /// Where the sink is once all of them are done with.
    pub end: SinkPlace,
    /// There may be more now.
    pub more: bool,
}

/// A sink's configuration came, changed or went; `mode` is absent where it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkConfigured {
    pub sink: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// A sink is further behind than its configuration allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkLagging {
    pub sink: String,
    pub lag_events: u64,
    pub lag_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// It has caught up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkRecovered {
    pub sink: String,
    /// How long it was behind.
    pub after_ms: u64,
}

/// A sink can never take this event; it is kept as a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkDeadLettered {
    pub sink: String,
    pub session: String,
    pub seq: u64,
    pub reason: String,
}

/// A best-effort sink was too far behind: so many events were never given to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkDropped {
    pub sink: String,
    pub events: u64,
}

/// An operator moved a sink past events; they are kept as dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkSkipped {
    pub sink: String,
    pub events: u64,
    /// The first of them.
    pub session: String,
    pub seq: u64,
    pub by: Actor,
}

/// Where the host chain stood, signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedHostHead {
    pub seq: u64,
    pub hash: Hash,
    /// ed25519, hex.
    pub signature: String,
}

/// Why a session cannot be removed yet.
pub(super) fn undelivered(session: &SessionId, sinks: Vec<String>) -> super::Error {
    super::Error::Undelivered { session: session.clone(), sinks }
}

/// A connection that only reads, for sinks. Blocks, a few milliseconds a page.
pub struct SinkReader {
    conn: Connection,
}

impl SinkReader {
    pub(super) fn new(conn: Connection) -> Self {
        Self { conn }
    }

    /// What comes after a place, at most `limit` items, and (one excepted) `max_bytes` of bodies.
    pub fn page(&self, after: SinkPlace, limit: usize, max_bytes: usize) -> Result<SinkPage> {
        sqlite::sink_page(&self.conn, after, limit, max_bytes)
    }

    /// `None` for a sink that never was.
    pub fn state(&self, sink: &str) -> Result<Option<SinkState>> {
        sqlite::sink_state(&self.conn, sink)
    }

    /// What a sink has summed up to its cursor.
    pub fn sums(&self, sink: &str) -> Result<Option<Vec<u8>>> {
        sqlite::sink_sums(&self.conn, sink)
    }

    /// A session as its log has it by now.
    pub fn session(&self, id: &str) -> Result<Option<Session>> {
        sqlite::past::session(&self.conn, id)
    }

    pub fn attempt(&self, session: &str, number: u32) -> Result<Option<Attempt>> {
        sqlite::past::attempt(&self.conn, session, number)
    }

    /// One event that lies behind; `None` where it was archived or removed.
    pub fn past(&self, session: &str, seq: u64) -> Result<Option<SinkPast>> {
        sqlite::past::event(&self.conn, session, seq)
    }

    /// Events of these kinds between two others, newest first, until `visit` says no more; of the last [`LOOK_BACK`] events at most.
    pub fn back<E: From<Error>>(
        &self,
        session: &str,
        range: (u64, u64),
        kinds: &[&str],
        visit: impl FnMut(SinkPast) -> Result<bool, E>,
    ) -> Result<(), E> {
        sqlite::past::back(&self.conn, session, range, kinds, visit)
    }

    /// When the first count of a message was recorded.
    pub fn counted_at(&self, session: &str, message: &str) -> Result<Option<i64>> {
        sqlite::past::counted_at(&self.conn, session, message)
    }

    /// Every sink there ever was, and whether it keeps sessions from being removed.
    pub fn names(&self) -> Result<Vec<(String, bool)>> {
        sqlite::sink_names(&self.conn)
    }

    /// The newest of what there is to deliver.
    pub fn newest(&self) -> Result<SinkPlace> {
        sqlite::newest_place(&self.conn)
    }

    /// How many events there are behind one row and up to another.
    pub fn count(&self, after: u64, upto: u64) -> Result<u64> {
        sqlite::count_events(&self.conn, after, upto)
    }

    /// Dead letters with a number above `after`, oldest first.
    pub fn dead_letters(&self, sink: &str, after: i64, limit: usize, max_bytes: usize) -> Result<Vec<DeadLetter>> {
        sqlite::dead_letters(&self.conn, sink, after, limit, max_bytes)
    }
}
