//! One connection to a shim: a task that owns the socket, a cheap handle, and the newest state as events.
//!
//! Invariants:
//! - the task never waits for whoever receives the events: they are kept as newest state, so a slow receiver costs no memory and blocks nobody;
//! - one input frame is on its way at a time; the next goes when the shim has answered;
//! - when the last handle is gone, what was handed over is sent, the connection ends and the shim lives on.
//!
//! Called by `launch` and `adopt`, used by the session loop.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc, oneshot};

use super::{Error, ProcessInfo, Result, tree};
use crate::wire::{ExitRecord, FromShim, Frozen, MAX_INPUT, ProcessId, Status, ToShim, frame_len};

/// Commands waiting for the connection task; senders wait above it.
pub const MAX_COMMANDS: usize = 64;
/// Input frames waiting for the connection task, beside the one on its way.
const MAX_INPUTS: usize = 4;
/// Status questions waiting for their answer.
const MAX_ASKED: usize = 64;

/// What a shim reports; newest state, so numbers may skip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShimEvent {
    /// Bytes written to the segments so far.
    Written {
        out: u64,
        err: u64,
    },
    /// The input frame last taken.
    Taken(u64),
    /// Frame `no` was refused because it does not follow the frame last taken.
    Refused {
        no: u64,
        last: u64,
    },
    /// Segments cannot be written (errno), so the agent waits; 0: they can again.
    Blocked(i32),
    Exited(ExitRecord),
    /// The shim is gone or has a newer connection: adopt the run folder to learn which. Nothing follows.
    Disconnected,
}

#[derive(Debug, Default)]
struct State {
    written: Option<(u64, u64)>,
    taken: Option<u64>,
    refused: Option<(u64, u64)>,
    blocked: Option<i32>,
    exited: Option<ExitRecord>,
    disconnected: bool,
    closed: bool,
}

#[derive(Debug, Default)]
struct Board {
    state: Mutex<State>,
    news: Notify,
}

impl Board {
    fn post(&self, change: impl FnOnce(&mut State)) {
        // why: no code panics while it holds the lock; a poisoned one still holds whole state.
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.news.notify_one();
    }
}

/// The events of one connection; one receiver.
#[derive(Debug)]
pub struct ShimEvents(Arc<Board>);

impl ShimEvents {
    /// The next event; `None` after [`ShimEvent::Disconnected`]. Cancel-safe.
    pub async fn recv(&mut self) -> Option<ShimEvent> {
        loop {
            if let Some(next) = self.try_recv() {
                return next;
            }
            self.0.news.notified().await;
        }
    }

    fn try_recv(&mut self) -> Option<Option<ShimEvent>> {
        let mut s = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(no) = s.taken.take() {
            return Some(Some(ShimEvent::Taken(no)));
        }
        if let Some((no, last)) = s.refused.take() {
            return Some(Some(ShimEvent::Refused { no, last }));
        }
        if let Some((out, err)) = s.written.take() {
            return Some(Some(ShimEvent::Written { out, err }));
        }
        if let Some(errno) = s.blocked.take() {
            return Some(Some(ShimEvent::Blocked(errno)));
        }
        if let Some(record) = s.exited.take() {
            return Some(Some(ShimEvent::Exited(record)));
        }
        if s.disconnected && !s.closed {
            s.closed = true;
            return Some(Some(ShimEvent::Disconnected));
        }
        s.closed.then_some(None)
    }
}

#[derive(Debug)]
enum Order {
    Plain(ToShim),
    Status(oneshot::Sender<Status>),
}

/// An input frame, encoded.
#[derive(Debug)]
struct Input {
    no: u64,
    bytes: Vec<u8>,
}

/// The front of a live shim; clones share one connection.
#[derive(Debug, Clone)]
pub struct ShimHandle {
    commands: mpsc::Sender<Order>,
    /// A channel of their own, so that a stop gets past inputs that wait.
    inputs: mpsc::Sender<Input>,
    run_dir: Arc<Path>,
    first: Status,
}

impl ShimHandle {
    /// A handle without a shim behind it: everything told to it is [`Error::Disconnected`], no event ever comes.
    pub fn gone(run_dir: &Path) -> (Self, ShimEvents) {
        let board = Arc::new(Board::default());
        board.post(|s| s.closed = true);
        let handle = Self { commands: mpsc::channel(1).0, inputs: mpsc::channel(1).0, run_dir: run_dir.into(), first: Status::default() };
        (handle, ShimEvents(board))
    }

    /// A handle to a shim that lives and does not answer yet: it knows who that is, and is without a link.
    pub fn silent(run_dir: &Path, shim: ProcessId, agent: ProcessId) -> (Self, ShimEvents) {
        let (handle, events) = Self::gone(run_dir);
        (Self { first: Status { shim, agent, ..Status::default() }, ..handle }, events)
    }

    /// Whether a connection stands behind it.
    pub fn is_linked(&self) -> bool {
        !self.commands.is_closed()
    }

    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    pub fn shim(&self) -> ProcessId {
        self.first.shim
    }

    pub fn agent(&self) -> ProcessId {
        self.first.agent
    }

    /// Where the shim stood when we connected.
    pub fn first_status(&self) -> Status {
        self.first
    }

    /// Hands over an input frame, at most 32 MiB, numbered gaplessly from 1; [`ShimEvent::Taken`] tells when it was taken.
    pub async fn send(&self, no: u64, bytes: &[u8]) -> Result<()> {
        if bytes.len() > MAX_INPUT {
            return Err(Error::InputTooLong(bytes.len()));
        }
        self.input(no, ToShim::Input { no, bytes: bytes.to_vec() }).await
    }

    /// Closes the agent's stdin after what was sent before; numbered like an input.
    pub async fn close_input(&self, no: u64) -> Result<()> {
        self.input(no, ToShim::CloseInput { no }).await
    }

    /// Output was read up to this offset (and that is stored): the shim may drop old segments and read on.
    pub async fn ack(&self, offset: u64) -> Result<()> {
        self.plain(ToShim::Ack { offset }).await
    }

    /// TERM to the whole tree, then after the grace freeze and KILL. [`ShimEvent::Exited`] tells the end.
    pub async fn stop(&self, grace: Duration) -> Result<()> {
        self.plain(ToShim::Stop { grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX) }).await
    }

    /// A stop without grace.
    pub async fn kill(&self) -> Result<()> {
        self.plain(ToShim::Kill).await
    }

    /// Stops the whole tree, or lets it go on; tells how far that went.
    pub async fn freeze(&self, frozen: bool) -> Result<Frozen> {
        self.plain(if frozen { ToShim::Freeze } else { ToShim::Thaw }).await?;
        // why asked: the shim answers in order, so what it says is of after.
        Ok(self.status().await?.frozen)
    }

    /// The exit record is stored: the shim may go.
    pub async fn ack_exit(&self) -> Result<()> {
        self.plain(ToShim::AckExit).await
    }

    pub async fn status(&self) -> Result<Status> {
        let (tx, rx) = oneshot::channel();
        self.order(Order::Status(tx)).await?;
        rx.await.map_err(|_| Error::Disconnected)
    }

    /// The shim, its agent and all its descendants, with memory and CPU time.
    pub async fn processes(&self) -> Result<Vec<ProcessInfo>> {
        let shim = self.first.shim;
        tokio::task::spawn_blocking(move || tree::processes_of(shim)).await.map_err(|_| Error::Disconnected)
    }

    async fn plain(&self, frame: ToShim) -> Result<()> {
        self.order(Order::Plain(frame)).await
    }

    async fn order(&self, order: Order) -> Result<()> {
        self.commands.send(order).await.map_err(|_| Error::Disconnected)
    }

    async fn input(&self, no: u64, frame: ToShim) -> Result<()> {
        self.inputs.send(Input { no, bytes: frame.encode() }).await.map_err(|_| Error::Disconnected)
    }
}

/// Reads the one message that opens every connection.
pub(super) async fn read_first(stream: &mut UnixStream) -> io::Result<FromShim> {
    let mut head = [0u8; 4];
    stream.read_exact(&mut head).await?;
    let bad = |_| io::Error::from(io::ErrorKind::InvalidData);
    let n = frame_len(&head).map_err(bad)?.unwrap_or(0);
    let mut body = vec![0u8; n];
    stream.read_exact(&mut body).await?;
    FromShim::decode(&body).map_err(bad)
}

/// Starts the connection task.
pub(super) fn connect(stream: UnixStream, status: Status, run_dir: PathBuf) -> (ShimHandle, ShimEvents) {
    let (commands, orders) = mpsc::channel(MAX_COMMANDS);
    let (inputs, frames) = mpsc::channel(MAX_INPUTS);
    let board = Arc::new(Board::default());
    let (reader, writer) = stream.into_split();
    let task = Task { orders, frames, writer, board: Arc::clone(&board), waiting: None, asked: VecDeque::new() };
    tokio::spawn(task.run(reader));
    let handle = ShimHandle { commands, inputs, run_dir: run_dir.into(), first: status };
    (handle, ShimEvents(board))
}

struct Task {
    orders: mpsc::Receiver<Order>,
    frames: mpsc::Receiver<Input>,
    writer: OwnedWriteHalf,
    board: Arc<Board>,
    /// The input that was sent and not answered yet.
    waiting: Option<Input>,
    asked: VecDeque<oneshot::Sender<Status>>,
}

impl Task {
    async fn run(mut self, mut reader: OwnedReadHalf) {
        // The end of a connection is no error here: who listens adopts again and learns the reason.
        let _ = self.serve(&mut reader).await;
        self.board.post(|s| s.disconnected = true);
    }

    /// The shim never blocks on us, so writing without reading meanwhile cannot lock up.
    async fn serve(&mut self, reader: &mut OwnedReadHalf) -> io::Result<()> {
        let mut received = Vec::new();
        loop {
            tokio::select! {
                order = self.orders.recv() => match order {
                    None => return self.flush().await,
                    Some(Order::Plain(frame)) => self.writer.write_all(&frame.encode()).await?,
                    Some(Order::Status(tx)) if self.asked.len() < MAX_ASKED => {
                        self.asked.push_back(tx);
                        self.writer.write_all(&ToShim::Status.encode()).await?;
                    }
                    // Dropping the question answers it with an error.
                    Some(Order::Status(_)) => {}
                },
                Some(input) = self.frames.recv(), if self.waiting.is_none() => {
                    self.writer.write_all(&input.bytes).await?;
                    self.waiting = Some(input);
                }
                n = reader.read_buf(&mut received) => {
                    if n? == 0 {
                        return Ok(());
                    }
                    self.take_frames(&mut received).await?;
                }
            }
        }
    }

    /// The last handle is gone: what was handed over before is still sent, once.
    async fn flush(&mut self) -> io::Result<()> {
        while let Some(input) = self.frames.recv().await {
            self.writer.write_all(&input.bytes).await?;
        }
        Ok(())
    }

    async fn take_frames(&mut self, received: &mut Vec<u8>) -> io::Result<()> {
        let bad = |_| io::Error::from(io::ErrorKind::InvalidData);
        let mut at = 0;
        while let Some(n) = frame_len(&received[at..]).map_err(bad)?
            && let Some(body) = received.get(at + 4..at + 4 + n)
        {
            let frame = FromShim::decode(body).map_err(bad)?;
            at += 4 + n;
            self.take(frame).await?;
        }
        received.drain(..at);
        if received.is_empty() {
            *received = Vec::new();
        }
        Ok(())
    }

    async fn take(&mut self, frame: FromShim) -> io::Result<()> {
        match frame {
            FromShim::Status(status) => {
                if let Some(tx) = self.asked.pop_front() {
                    // Whoever asked may have gone.
                    let _ = tx.send(status);
                }
            }
            FromShim::Written { out, err } => self.board.post(|s| s.written = Some((out, err))),
            FromShim::Taken { last } => match self.waiting.take() {
                Some(input) if last < input.no => self.board.post(|s| s.refused = Some((input.no, last))),
                _ => self.board.post(|s| s.taken = Some(last)),
            },
            FromShim::Ready { .. } => {
                if let Some(input) = &self.waiting {
                    self.writer.write_all(&input.bytes).await?;
                }
            }
            FromShim::Blocked { errno } => self.board.post(|s| s.blocked = Some(errno)),
            FromShim::Exited(record) => self.board.post(|s| s.exited = Some(record)),
            // `Ready` follows a full queue; a launch failure cannot come once the agent runs.
            FromShim::Full { .. } | FromShim::Failed(_) | FromShim::Unknown(_) => {}
        }
        Ok(())
    }
}
