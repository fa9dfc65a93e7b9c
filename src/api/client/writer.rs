//! For programs that write sessions of their own: a [`Writer`] that waits for each write, and an [`Emitter`] that never waits.
//!
//! Invariants:
//! - a write is durable when [`Writer::write`] returns; each has a key, so one whose answer was lost is sent again and is there once;
//! - [`Emitter::emit`] does no I/O and takes no lock that is held over any; its line has [`Emitter::LINE`] places, and what finds none is
//!   counted, and put on the session's record with the next write that comes through.
//!
//! Called by programs that use this crate (`examples/write_session.rs`) and by tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::super::types::{LostRequest, OpenRequest, WriteRequest, WroteDoc};
use super::{Client, Error, Result, losses};
use crate::model::written::Write;
use crate::model::{Clock, SystemClock};

/// How long a write is sent again while the daemon breaks off or is not there.
const AGAIN: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
/// Most writes that an emitter sends at once.
const BATCH: usize = 200;

/// One session, for its writer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Writer {
    client: Client,
    session: Option<String>,
    open: Option<OpenRequest>,
}

impl Writer {
    /// The session of a key; it is begun with the first write.
    pub const fn open(client: Client, open: OpenRequest) -> Self {
        Self { client, session: None, open: Some(open) }
    }

    /// One that is there.
    pub const fn of(client: Client, session: String) -> Self {
        Self { client, session: Some(session), open: None }
    }

    /// The same for a thread below this one: a session of its own, whose parent is `parent` (this one's id).
    pub fn thread(&self, parent: &str, thread: &str) -> Self {
        let mut open = OpenRequest { key: None, name: None, prompt: None, ..self.open.clone().unwrap_or_default() };
        open.brief.thread = Some(thread.to_owned());
        open.brief.parent = Some(parent.to_owned());
        Self { client: self.client.clone(), session: None, open: Some(open) }
    }

    fn request(&self, writes: Vec<Write>) -> WriteRequest {
        WriteRequest { session: self.session.clone(), open: self.open.clone(), key: Some(losses::key()), writes, lost: None }
    }

    /// Writes all or none, and waits until it is durable. A daemon that dies meanwhile is waited for, up to 30 s.
    pub async fn write(&self, writes: Vec<Write>) -> Result<WroteDoc> {
        let request = self.request(writes);
        let begun = Instant::now();
        loop {
            match self.client.write(&request).await {
                Err(e) if may_pass(&e) && begun.elapsed() < AGAIN => tokio::time::sleep(PAUSE).await,
                done => return done,
            }
        }
    }

    /// An emitter for this session; needs a tokio runtime.
    pub fn emitter(self) -> Emitter {
        let (line, waiting) = mpsc::channel(Emitter::LINE);
        let lost = Arc::new(Lost::default());
        let task = tokio::spawn(emit(self, waiting, Arc::clone(&lost)));
        Emitter { line, lost, task }
    }
}

/// Whether the same may come through in a moment.
const fn may_pass(e: &Error) -> bool {
    matches!(e, Error::Broken(_) | Error::Unreachable { .. } | Error::NotStarted { .. } | Error::Refused { status: 500..=599, .. })
}

#[derive(Debug, Default)]
struct Lost {
    /// In all, and of these the ones that are on record.
    all: AtomicU64,
    told: AtomicU64,
}

impl Lost {
    fn add(&self, n: usize) {
        self.all.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// Hands writes over and returns at once.
#[derive(Debug)]
pub struct Emitter {
    line: mpsc::Sender<Write>,
    lost: Arc<Lost>,
    task: JoinHandle<()>,
}

impl Emitter {
    /// Writes that may wait.
    pub const LINE: usize = 1_024;

    /// False where the line is full: the write is lost, and counted.
    pub fn emit(&self, write: impl Into<Write>) -> bool {
        let taken = self.line.try_send(write.into()).is_ok();
        if !taken {
            self.lost.add(1);
        }
        taken
    }

    /// Writes given up so far.
    pub fn lost(&self) -> u64 {
        self.lost.all.load(Ordering::Relaxed)
    }

    /// Waits for what is in the line, at most so long; gives the number of writes that are in no log.
    pub async fn close(self, at_most: Duration) -> u64 {
        let Self { line, lost, mut task } = self;
        drop(line);
        if tokio::time::timeout(at_most, &mut task).await.is_err() {
            // why no count of these: one of them may be on its way, and be written.
            task.abort();
        }
        lost.all.load(Ordering::Relaxed)
    }
}

/// Sends what waits, in order, a batch at a time. Ends with the line.
async fn emit(writer: Writer, mut waiting: mpsc::Receiver<Write>, lost: Arc<Lost>) {
    let mut writes = Vec::with_capacity(BATCH);
    let mut since = None;
    loop {
        let n = waiting.recv_many(&mut writes, BATCH).await;
        let more = lost.all.load(Ordering::Relaxed).saturating_sub(lost.told.load(Ordering::Relaxed));
        if n == 0 && more == 0 {
            return;
        }
        if n > 0 {
            let request = writer.request(std::mem::take(&mut writes));
            while let Err(e) = writer.client.write(&request).await {
                if !may_pass(&e) {
                    tracing::warn!(error = %e, writes = n, "writes are refused, and lost");
                    lost.add(n);
                    break;
                }
                since.get_or_insert_with(|| SystemClock.wall_ms());
                tokio::time::sleep(PAUSE).await;
            }
        }
        let all = lost.all.load(Ordering::Relaxed);
        let count = all.saturating_sub(lost.told.load(Ordering::Relaxed));
        if count > 0 {
            let why = "its emitter's line was full, or the host refused them".to_owned();
            let report = LostRequest { id: losses::key(), count, keys: vec![], since: since.take(), why };
            let request = WriteRequest { key: None, lost: Some(report), ..writer.request(vec![]) };
            let told = writer.client.write(&request).await;
            match told {
                Ok(_) => lost.told.store(all, Ordering::Relaxed),
                Err(e) if !may_pass(&e) => {
                    tracing::warn!(error = %e, count, "lost writes cannot be put on record");
                    lost.told.store(all, Ordering::Relaxed);
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}
