//! The store: sessions as event logs that prove themselves, durable before anyone is told so.
//!
//! Invariants:
//! - a session is its events: gapless `seq` from 1, each bound to the one before by its hash; an append says which seq it expects;
//! - an acknowledged append is synced, with its projection, inbox cursor and outbound frames, in one transaction;
//! - one process holds a data folder; one thread writes; a failed append touches nobody else's;
//! - damage is reported with its place, never repaired in silence; nothing ever "starts clean" over existing data.
//!
//! Caps: 8,192 changes or 256 MiB waiting for the writer, 4,096 events and frames a batch, 32 MiB an event body, 64 MiB a frame or
//! blob, 10,000 events or 64 MiB a page, 1,000 sessions a listing page, 1 MiB a setting, 1,024 sessions in the writer's memory,
//! 1,024 wake-ups behind, 1,000 findings in a report.
//!
//! The session core appends; api and cli read; the daemon opens and closes it.

mod archive;
mod backup;
mod batch;
mod blob;
pub mod chain;
mod collect;
mod erase;
mod error;
mod export;
mod folder;
mod host;
mod keep;
mod memory;
mod pack;
mod queue;
mod remains;
mod report;
mod seal;
mod seam;
mod sink;
mod sqlite;
mod upgrade;
mod verify;
mod watch;
mod written;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast;

use crate::model::{Actor, Approval, ApprovalId, Clock, Entropy, OsEntropy, PluginStates, Session, SessionId, SystemClock, Task};

pub use archive::Archive;
pub use backup::{Copied, Manifest, Restored, restore};
pub use batch::{Appended, Batch, Cursor, Frame, MAX_BATCH_EVENTS, MAX_BATCH_FRAMES, MAX_BODY, MAX_FRAME, Ticket};
pub use blob::{Awaited as AwaitedBlob, MAX_BLOB};
pub use chain::Hash;
pub use collect::{Orphan, older};
pub use erase::{Erase, MARK as ERASED, forms};
pub use error::{Error, Result};
pub use export::Export;
pub use folder::{DRAFT, write_new};
pub use host::{
    BackupMade, BackupRestored, Collected, ConfigReloaded, ConfirmChanged, HostClosed, HostEntry, HostEvent, HostOpened,
    HostSessionCreated, HostSessionRemoved, MemoryChanged, OperatorKeyRemoved, PluginChanged, ProjectTrusted,
};
pub use keep::{Redaction, Undeleted, is_copy};
pub use queue::{MAX_PENDING, MAX_PENDING_BYTES};
pub use report::{Finding, MAX_FINDINGS, Report, What};
pub use seal::{Checkpoint, Head, Heads, SignedHead};
pub use sink::{
    DeadLetter, MAX_DEAD_BYTES, MAX_DEAD_LETTERS, SignedHostHead, SinkChange, SinkConfigured, SinkDeadLettered, SinkDropped, SinkItem,
    SinkLagging, SinkPage, SinkPast, SinkPlace, SinkReader, SinkRecovered, SinkSkipped, SinkState,
};
pub use sqlite::{
    ApprovalFilter, Engine, Filter, HOST_SESSION, LedgerQuery, MAX_GENERATIONS, MAX_LABELS, MAX_PAGE, MAX_PAGE_BYTES, MAX_SESSIONS, Page,
    StoredEvent, ToolQuery, ToolsFound,
};
pub use upgrade::{Rehearsal, rehearse, step_back};
pub use watch::{WAKE_BACKLOG, Wake};
pub use written::{WriteKey, WriteRefusal, WriteRule, WrittenAt};

use batch::{Append, cap};
use blob::Blobs;
use folder::Folder;
use queue::{Queue, Work};
use sqlite::{Database, Pool, Writer, WriterOptions};

/// Largest setting in bytes.
pub const MAX_SETTING: usize = 1 << 20;

/// What can be set when a store is opened.
#[derive(Clone)]
pub struct Options {
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    /// Events of a session after which its head goes to the host chain.
    pub head_every_events: u64,
    /// Milliseconds (boot clock) after which it goes there at the latest.
    pub head_every_ms: u64,
    /// Largest database file in bytes; appends over it fail as on a full disk. `None` for no limit but the disk's.
    pub max_bytes: Option<u64>,
    /// For tests that lie to the store about its disk; the default is the only one that keeps promises.
    #[doc(hidden)]
    pub engine: Engine,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(OsEntropy),
            head_every_events: 1_024,
            head_every_ms: 60_000,
            max_bytes: None,
            engine: Engine::default(),
        }
    }
}

/// Versions of the schema: what the database of a data folder has (`None` where there is none yet), and what this build brings it to.
/// Reads the header only, beside whoever holds the folder.
pub fn schema_versions(data: &Path) -> Result<(Option<i64>, i64)> {
    sqlite::schema_versions(data.join(folder::DATABASE))
}

struct Inner {
    queue: Arc<Queue>,
    pool: Pool,
    blobs: Blobs,
    wakes: broadcast::Sender<Wake>,
    entropy: Arc<dyn Entropy>,
    clock: Arc<dyn Clock>,
    key: seal::Key,
    database: Database,
    dir: std::path::PathBuf,
    damaged: Vec<String>,
    writer: Mutex<Writer>,
    // why: the last field, so that the lock goes only after the writer has ended.
    _folder: Folder,
}

impl Inner {
    fn close(&self) {
        self.queue.close();
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).join();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// The handle; cheap to clone, closes the store when the last clone goes.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

impl Store {
    /// Opens a data folder for this process alone, making what is missing. Blocks. Errors: in use (names the holder), on a network
    /// file system, not writable, a newer schema, a damaged or lost database.
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        let folder = Folder::open(dir)?;
        let database = Database { path: folder.prepare_database()?, engine: options.engine };
        let blobs = Blobs::open(folder.blobs())?;
        let queue = Arc::new(Queue::default());
        let (wakes, _) = broadcast::channel(WAKE_BACKLOG);
        let (clock, entropy) = (Arc::clone(&options.clock), Arc::clone(&options.entropy));
        let writing = WriterOptions {
            clock: options.clock,
            entropy: options.entropy,
            head_every_events: options.head_every_events.max(1),
            head_every_ms: options.head_every_ms,
        };
        let conn = sqlite::open_writer(&database, options.max_bytes)?;
        // why: after the schema is on disk, so that a key without a database always means a lost database.
        keep::tidy(&conn, folder.dir())?;
        let key = seal::Key::load_or_make(&folder.key(), &*entropy)?;
        let (writer, damaged) = Writer::start(conn, &database, key.clone(), writing, Arc::clone(&queue), wakes.clone())?;
        let opened = HostOpened { version: env!("CARGO_PKG_VERSION").to_owned(), pid: std::process::id(), key: key.public() };
        let pool = Pool::open(&database)?;
        let store = Self(Arc::new(Inner {
            queue,
            pool,
            blobs,
            wakes,
            entropy,
            clock,
            key,
            database,
            dir: folder.dir().to_owned(),
            damaged,
            writer: Mutex::new(writer),
            _folder: folder,
        }));
        store.note(HostEvent::Opened(opened), Vec::new()).wait()?;
        Ok(store)
    }

    /// Writes what waits, a head of every session and the host's end, and syncs. Blocks; later changes are refused.
    pub fn close(&self) {
        self.0.close();
    }

    /// Sessions (at most 100) whose logs were found damaged when the store was opened; `verify` names the places.
    pub fn damaged(&self) -> &[String] {
        &self.0.damaged
    }

    /// Queues an append; the ticket resolves after the sync. Errors, through the ticket: conflict, order of frames or cursor, size,
    /// full queue or disk. Blobs are written in the calling thread first, so async code with blobs calls it where blocking is allowed.
    pub fn append(&self, batch: Batch) -> Ticket {
        self.queued(batch, None)
    }

    /// The same for a session that another program writes: its rule says which keys make it a repeat, and what each event belongs to.
    pub fn append_written(&self, batch: Batch, rule: WriteRule) -> Ticket {
        if rule.events.len() != batch.events.len() {
            return Ticket::failed(Error::BadBeginning { session: batch.session });
        }
        self.queued(batch, Some(rule))
    }

    /// The session that a writer's key stands for.
    pub fn written_session(&self, key: &str) -> Result<Option<SessionId>> {
        self.0.pool.written_session(key)
    }

    /// How many of these keys stand for no write of the session.
    pub fn unknown_writes(&self, id: &SessionId, keys: &[String]) -> Result<u64> {
        self.0.pool.unknown_writes(id, keys)
    }

    fn queued(&self, mut batch: Batch, rule: Option<WriteRule>) -> Ticket {
        let stored = std::mem::take(&mut batch.blobs).iter().map(|b| self.0.blobs.put_for_event(b)).collect::<Result<Vec<_>>>();
        match stored.and_then(|held| Ok((held, Append::prepare(batch, &*self.0.entropy)?))) {
            Ok((held, mut a)) => {
                (a.written, a.held) = (rule, held);
                let (reply, ticket) = Ticket::new();
                self.0.queue.push(Work::Append(a, reply));
                ticket
            }
            Err(e) => Ticket::failed(e),
        }
    }

    /// Appends to several sessions in one transaction: all of it becomes durable or none. Each session at most once, without blobs;
    /// errors as of [`Store::append`], and of the first that cannot be made.
    pub fn append_all(&self, batches: Vec<Batch>) -> Ticket<Vec<Appended>> {
        let mut seen = std::collections::HashSet::new();
        if let Some(twice) = batches.iter().find(|b| !seen.insert(b.session.clone())) {
            return Ticket::failed(Error::BadBeginning { session: twice.session.clone() });
        }
        match batches.into_iter().map(|b| Append::prepare(b, &*self.0.entropy)).collect::<Result<Vec<_>>>() {
            Ok(all) => {
                let (reply, ticket) = Ticket::new();
                self.0.queue.push(Work::AppendAll(all, reply));
                ticket
            }
            Err(e) => Ticket::failed(e),
        }
    }

    /// Deletes a session and notes it on the host chain. It is gone from reads at once, its events go in the background. Blobs stay:
    /// others may name them.
    pub fn remove(&self, id: &SessionId, by: &Actor) -> Ticket<()> {
        let (reply, ticket) = Ticket::new();
        self.0.queue.push(Work::Remove { session: id.clone(), by: by.clone(), reply });
        ticket
    }

    /// Appends to the host chain and changes settings (JSON text, `None` deletes) in the same transaction; gives the chain's seq.
    pub fn note(&self, event: HostEvent, settings: Vec<(String, Option<String>)>) -> Ticket<u64> {
        self.host(Some(event), settings)
    }

    /// Changes one setting; `None` deletes it.
    pub fn set_setting(&self, key: &str, value: Option<String>) -> Ticket<u64> {
        self.host(None, vec![(key.to_owned(), value)])
    }

    fn host(&self, event: Option<HostEvent>, settings: Vec<(String, Option<String>)>) -> Ticket<u64> {
        if let Err(e) = settings.iter().try_for_each(|(k, v)| cap("a setting", k.len() + v.as_ref().map_or(0, String::len), MAX_SETTING)) {
            return Ticket::failed(e);
        }
        let (reply, ticket) = Ticket::new();
        self.0.queue.push(Work::Host { event, settings, reply });
        ticket
    }

    /// Moves a sink's cursor, with what became of the events that it passes.
    pub fn change_sink(&self, change: SinkChange) -> Ticket<()> {
        let (reply, ticket) = Ticket::new();
        self.0.queue.push(Work::Sink { change: Box::new(change), reply });
        ticket
    }

    /// A connection for one sink's reading: whatever it does, no append and no other reader waits for it.
    pub fn sink_reader(&self) -> Result<SinkReader> {
        Ok(SinkReader::new(sqlite::open_reader(&self.0.database)?))
    }

    /// The public key that heads and checkpoints are signed with, hex.
    pub fn public_key(&self) -> String {
        self.0.key.public()
    }

    /// A small document of the host.
    pub fn setting(&self, key: &str) -> Result<Option<String>> {
        self.0.pool.setting(key)
    }

    /// The host chain from seq `from` on, at most `limit` and 10,000.
    pub fn host_entries(&self, from: u64, limit: usize) -> Result<Vec<HostEntry>> {
        self.0.pool.host_entries(from, limit)
    }

    /// One session's projection.
    pub fn session(&self, id: &SessionId) -> Result<Session> {
        self.0.pool.session(id)
    }

    /// The session meant by an exact id, else an exact name, else the beginning of an id. Errors: none; several, with candidates.
    pub fn find(&self, given: &str) -> Result<SessionId> {
        self.0.pool.find(given)
    }

    /// A session's tasks in the order in which they came.
    pub fn tasks(&self, id: &SessionId) -> Result<Vec<Task>> {
        self.0.pool.tasks(id)
    }

    /// The session and all below it with their depth, parents before children; at most `limit`.
    pub fn tree(&self, root: &SessionId, limit: usize) -> Result<Vec<(u32, Session)>> {
        self.0.pool.tree(root, limit)
    }

    /// Those above it with their distance, the nearest first.
    pub fn ancestors(&self, id: &SessionId) -> Result<Vec<(u32, Session)>> {
        self.0.pool.ancestors(id)
    }

    /// How many sessions were started for this one.
    pub fn children(&self, id: &SessionId) -> Result<u64> {
        self.0.pool.children(id)
    }

    /// One page of a listing, newest first unless asked for otherwise.
    pub fn sessions(&self, filter: &Filter) -> Result<Page<Session>> {
        self.0.pool.sessions(filter)
    }

    /// Events from seq `from` on, at most `limit`, 10,000, and 64 MiB of bodies.
    pub fn events(&self, id: &SessionId, from: u64, limit: usize) -> Result<Vec<StoredEvent>> {
        self.0.pool.events(id, from, limit)
    }

    /// One question to a person, whatever became of it. Errors: there never was one about that call.
    pub fn approval(&self, id: &ApprovalId) -> Result<Approval> {
        self.0.pool.approval(id)
    }

    /// Those that wait, oldest first, or all, newest first; in pages.
    pub fn approvals(&self, filter: &ApprovalFilter) -> Result<Page<Approval>> {
        self.0.pool.approvals(filter)
    }

    /// How many wait for an answer, over all sessions.
    pub fn waiting_approvals(&self) -> Result<u64> {
        self.0.pool.waiting_approvals()
    }

    /// Where a follower of approvals begins.
    pub fn newest_approval_change(&self) -> Result<u64> {
        self.0.pool.newest_approval_change()
    }

    /// Approvals that changed after a position, each as it is now with the position of its newest change; about `limit`, at most 1,000.
    pub fn approvals_after(&self, change: u64, limit: usize) -> Result<Vec<(u64, Approval)>> {
        self.0.pool.approvals_after(change, limit)
    }

    /// What the policies of a session keep between calls.
    pub fn plugin_states(&self, id: &SessionId) -> Result<PluginStates> {
        self.0.pool.plugin_states(id)
    }

    /// The attempts of a session, by number.
    pub fn attempts(&self, id: &SessionId) -> Result<crate::model::Attempts> {
        self.0.pool.attempts(id)
    }

    /// Model calls over sessions, grouped.
    pub fn ledger(&self, q: &LedgerQuery) -> Result<crate::model::ledger::Grouped> {
        self.0.pool.ledger(q)
    }

    /// Tool calls over sessions, by tool.
    pub fn tools(&self, q: &ToolQuery) -> Result<ToolsFound> {
        sqlite::tools(&sqlite::open_reader(&self.0.database)?, q)
    }

    /// How many sessions there are.
    pub fn session_count(&self) -> Result<u64> {
        self.0.pool.session_count()
    }

    /// How many sessions there are of each status, and how many questions wait for a person.
    pub fn counts(&self) -> Result<(Vec<(String, u64)>, u64)> {
        self.0.pool.counts()
    }

    /// Position of the newest event over all sessions: where a follower of everything begins.
    pub fn newest_row(&self) -> Result<u64> {
        self.0.pool.newest_row()
    }

    /// Events over all sessions behind a position, in the order they were written, at most `limit` and 10,000; `prev` is zero in them.
    pub fn events_after_row(&self, row: u64, limit: usize) -> Result<Vec<(u64, StoredEvent)>> {
        self.0.pool.events_after_row(row, limit)
    }

    /// The newest `n` events, oldest first.
    pub fn tail(&self, id: &SessionId, n: usize) -> Result<Vec<StoredEvent>> {
        self.0.pool.tail(id, n)
    }

    /// How far an attempt's output is handled; `None` before the first cursor.
    pub fn cursor(&self, id: &SessionId) -> Result<Option<Cursor>> {
        self.0.pool.cursor(id)
    }

    /// The attempt that was given frames last, and the number of its newest.
    pub fn newest_frame(&self, id: &SessionId) -> Result<(u32, u64)> {
        self.0.pool.newest_frame(id)
    }

    /// Stored frames of an attempt above number `no`, in order.
    pub fn frames_after(&self, id: &SessionId, attempt: u32, no: u64) -> Result<Vec<Frame>> {
        self.0.pool.frames_after(id, attempt, no)
    }

    /// Wake-ups after each commit. Subscribe before reading; after `Lagged` read again.
    pub fn watch(&self) -> broadcast::Receiver<Wake> {
        self.0.wakes.subscribe()
    }

    /// Stores a payload, durable on return. Blocks.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Hash> {
        self.0.blobs.put(bytes)
    }

    /// The same for an event that is about to be written: what is given back is kept until it is.
    pub fn put_blob_for_event(&self, bytes: &[u8]) -> Result<AwaitedBlob> {
        self.0.blobs.put_for_event(bytes)
    }

    /// A payload, checked against its digest. Blocks.
    pub fn blob(&self, digest: &Hash) -> Result<Vec<u8>> {
        self.0.blobs.get(digest)
    }

    /// Reads one log, or all with the host chain and the database file. Blocks, long for large stores; writers go on beside it.
    pub fn verify(&self, id: Option<&SessionId>) -> Result<Report> {
        self.verified(id, None)
    }

    /// The same against a checkpoint that was carried away: finds rewriting, cut tails and removals too. Errors: its signature does not fit.
    pub fn verify_against(&self, id: Option<&SessionId>, checkpoint: &Checkpoint) -> Result<Report> {
        checkpoint.check()?;
        self.verified(id, Some(&seal::Pins::of(checkpoint)))
    }

    /// The same against signed heads that a sink was given.
    pub fn verify_heads(&self, id: Option<&SessionId>, heads: &Heads) -> Result<Report> {
        self.verified(id, Some(&seal::Pins::of_heads(heads)))
    }

    fn verified(&self, id: Option<&SessionId>, against: Option<&seal::Pins>) -> Result<Report> {
        let conn = sqlite::open_reader(&self.0.database)?;
        verify::verify(&conn, &self.0.blobs, id, against)
    }

    /// A signed statement of where every log stands now.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        let (host_seq, host_hash, sessions) = self.0.pool.heads()?;
        let at = self.0.clock.wall_ms();
        let blank = Checkpoint { at, host_seq, host_hash, sessions, key: String::new(), signature: String::new() };
        Ok(self.0.key.seal(blank))
    }

    /// A session's log as JSON lines, up to where it stands now.
    pub fn export(&self, id: &SessionId) -> Result<Export> {
        let (no, last) = self.0.pool.place(id)?;
        Ok(Export::new(sqlite::open_reader(&self.0.database)?, id.clone(), no, last))
    }
}
