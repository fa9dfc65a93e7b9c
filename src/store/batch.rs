//! What goes into one append, and what comes back.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use tokio::sync::oneshot;

use crate::model::{Entropy, Envelope, Event, Session, SessionId};

use super::blob::Awaited;
use super::chain::{Hash, Salt, commitment};
use super::error::{Error, Result};
use super::written::WriteRule;

/// Most events in one batch.
pub const MAX_BATCH_EVENTS: usize = 4_096;
/// Most frames in one batch.
pub const MAX_BATCH_FRAMES: usize = 4_096;
/// Largest event body in bytes; a call's input is at most 16 MiB.
pub const MAX_BODY: usize = 32 << 20;
/// Largest frame in bytes.
pub const MAX_FRAME: usize = 64 << 20;

/// One atomic change of one session. All of it becomes durable or none.
#[derive(Debug)]
pub struct Batch {
    pub session: SessionId,
    /// The newest seq that the caller has seen; a different one is a conflict. `None` appends whatever it is. A new session's is `Some(0)`.
    pub expected: Option<u64>,
    pub attempt: u32,
    /// Wall time in milliseconds, for people; it never decides order.
    pub at: i64,
    /// At most 4,096; a new session's first is `session_created`.
    pub events: Vec<Event>,
    /// Byte offset in the attempt's inbox up to which everything is handled; it only moves forward.
    pub cursor: Option<u64>,
    /// Outbound frames to keep until the shim has taken them.
    pub frames: Vec<Frame>,
    /// Stored frames up to this number are deleted, and all of earlier attempts: the shim has taken them.
    pub taken: Option<u64>,
    /// Payloads that the events name by digest; written and synced by the calling thread before the append is queued.
    pub blobs: Vec<Vec<u8>>,
}

/// A message to the agent, numbered gapless from 1 in each attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub no: u64,
    pub bytes: Vec<u8>,
}

/// A durable append. `first_seq` is `last_seq + 1` when the batch had no events.
#[derive(Debug, Clone)]
pub struct Appended {
    pub first_seq: u64,
    pub last_seq: u64,
    /// The projection after it; shared, clone to change.
    pub session: Arc<Session>,
    /// Nothing was written: all of it was in the log already, there.
    pub repeated: bool,
}

/// How far an attempt's output is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub attempt: u32,
    pub offset: u64,
}

/// An event with all that can be computed before its place in the log is known.
pub(super) struct Prepared {
    /// `seq` is filled in by the writer.
    pub envelope: Envelope,
    pub body: Vec<u8>,
    pub salt: Salt,
    pub commitment: Hash,
}

/// A checked batch, ready for the writer.
pub(super) struct Append {
    pub session: SessionId,
    pub expected: Option<u64>,
    pub attempt: u32,
    pub events: Vec<Prepared>,
    pub cursor: Option<u64>,
    pub frames: Vec<Frame>,
    pub taken: Option<u64>,
    /// Of a session that another program writes.
    pub written: Option<WriteRule>,
    /// Payloads that its events name: they stay until it is written.
    pub held: Vec<Awaited>,
}

impl Append {
    /// Serialises and salts in the caller's thread, so that the one writer has less to do. Blobs are the caller's matter.
    pub(super) fn prepare(b: Batch, entropy: &dyn Entropy) -> Result<Self> {
        cap("the events of a batch", b.events.len(), MAX_BATCH_EVENTS)?;
        cap("the frames of a batch", b.frames.len(), MAX_BATCH_FRAMES)?;
        for f in &b.frames {
            cap("a frame", f.bytes.len(), MAX_FRAME)?;
        }
        let mut salts = vec![[0; 32]; b.events.len()];
        entropy.fill(salts.as_flattened_mut());
        let prepare = |(event, salt): (Event, Salt)| {
            let body = event.body_bytes();
            cap("the body of an event", body.len(), MAX_BODY)?;
            let commitment = commitment(&salt, &body);
            let envelope = Envelope { session: b.session.clone(), seq: 0, at: b.at, attempt: b.attempt, event };
            Ok(Prepared { envelope, body, salt, commitment })
        };
        let events = b.events.into_iter().zip(salts).map(prepare).collect::<Result<_>>()?;
        Ok(Self {
            session: b.session,
            expected: b.expected,
            attempt: b.attempt,
            events,
            cursor: b.cursor,
            frames: b.frames,
            taken: b.taken,
            written: None,
            held: Vec::new(),
        })
    }

    /// Bytes that it holds while it waits, roughly.
    pub(super) fn bytes(&self) -> usize {
        let events: usize = self.events.iter().map(|e| e.body.len() + 400).sum();
        let frames: usize = self.frames.iter().map(|f| f.bytes.len() + 64).sum();
        events + frames + 200
    }
}

pub(super) fn cap(what: &'static str, len: usize, cap: usize) -> Result<()> {
    if len > cap { Err(Error::TooLarge { what, len: len as u64, cap: cap as u64 }) } else { Ok(()) }
}

/// A queued change: a future that resolves after the sync. Dropping it does not take the change back.
#[derive(Debug)]
#[must_use = "nothing is durable until the ticket has resolved"]
pub struct Ticket<T = Appended>(oneshot::Receiver<Result<T>>);

impl<T> Ticket<T> {
    pub(super) fn new() -> (Reply<T>, Self) {
        let (tx, rx) = oneshot::channel();
        (Reply { to: tx, result: None }, Self(rx))
    }

    pub(super) fn failed(e: Error) -> Self {
        let (reply, ticket) = Self::new();
        reply.send_error(e);
        ticket
    }

    /// Blocks until it resolves; not for async code.
    pub fn wait(self) -> Result<T> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut cx = Context::from_waker(&waker);
        // why: inside a runtime the cooperative budget would make the poll pend for ever.
        let mut future = pin!(tokio::task::unconstrained(self));
        loop {
            match future.as_mut().poll(&mut cx) {
                Poll::Ready(r) => return r,
                Poll::Pending => std::thread::park(),
            }
        }
    }
}

impl<T> Future for Ticket<T> {
    type Output = Result<T>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|r| r.unwrap_or(Err(Error::Closed)))
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The writer's end of a ticket: the result is kept until the commit, and thrown away by a rollback.
pub(super) struct Reply<T> {
    to: oneshot::Sender<Result<T>>,
    result: Option<Result<T>>,
}

impl<T> Reply<T> {
    pub(super) fn set(&mut self, r: Result<T>) {
        self.result = Some(r);
    }

    /// Hands out what was set. A caller that has gone away is no error.
    pub(super) fn send(self) {
        let _ = self.to.send(self.result.unwrap_or(Err(Error::Closed)));
    }

    pub(super) fn send_error(self, e: Error) {
        let _ = self.to.send(Err(e));
    }
}
