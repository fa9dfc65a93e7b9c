//! The bounded line in front of the one writer.
//!
//! Invariants: at most [`MAX_PENDING`] changes and about [`MAX_PENDING_BYTES`] bytes wait; over that a change is refused at once,
//! never blocked on; after `close` nothing enters, and what waits is still written.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::{Actor, MemoryChange, SessionId};

use super::batch::{Append, Appended, Reply};
use super::error::{Error, Result};
use super::host::HostEvent;
use super::sink::SinkChange;
use super::sqlite::Keep;

/// Most changes that wait for the writer.
pub const MAX_PENDING: usize = 8_192;
/// Most bytes that wait; one change larger than this may wait alone.
pub const MAX_PENDING_BYTES: usize = 256 << 20;

/// One change to make.
pub(super) enum Work {
    Append(Append, Reply<Appended>),
    /// Appends to different sessions, all or none.
    AppendAll(Vec<Append>, Reply<Vec<Appended>>),
    /// A host event (or none) with settings that change in the same transaction; answers the host chain's seq.
    Host {
        event: Option<HostEvent>,
        settings: Vec<(String, Option<String>)>,
        reply: Reply<u64>,
    },
    /// How far an audit sink got, and what became of events on the way.
    Sink {
        change: Box<SinkChange>,
        reply: Reply<()>,
    },
    /// What is kept in memory, by whoever is no session; answers how many entries changed.
    Memory {
        change: Box<MemoryChange>,
        by: Actor,
        reply: Reply<u64>,
    },
    Remove {
        session: SessionId,
        by: Actor,
        reply: Reply<()>,
    },
    /// What is archived or erased; answers false where something is left that a later try takes.
    Keep {
        keep: Box<Keep>,
        reply: Reply<bool>,
    },
}

impl Work {
    fn bytes(&self) -> usize {
        match self {
            Self::Append(a, _) => a.bytes(),
            Self::AppendAll(all, _) => all.iter().map(Append::bytes).sum(),
            Self::Host { settings, .. } => 500 + settings.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, String::len)).sum::<usize>(),
            Self::Sink { change, .. } => 500 + change.dead.iter().map(|(e, _)| e.body.len() + 500).sum::<usize>(),
            Self::Remove { .. } => 500,
            Self::Memory { change, .. } => match &**change {
                MemoryChange::Add(m) => 500 + m.bytes() as usize,
                MemoryChange::Remove(ids) => 500 + ids.iter().map(String::len).sum::<usize>(),
                MemoryChange::Erase(text) => 500 + text.len(),
            },
            Self::Keep { keep, .. } => match &**keep {
                Keep::Redaction { body, .. } => 500 + body.len(),
                Keep::Piece { events, .. } => 500 + events.iter().map(super::sqlite::Whole::bytes).sum::<usize>(),
                _ => 500,
            },
        }
    }

    pub(super) fn send(self) {
        match self {
            Self::Append(_, r) => r.send(),
            Self::AppendAll(_, r) => r.send(),
            Self::Host { reply, .. } | Self::Memory { reply, .. } => reply.send(),
            Self::Keep { reply, .. } => reply.send(),
            Self::Remove { reply, .. } | Self::Sink { reply, .. } => reply.send(),
        }
    }

    pub(super) fn send_error(self, e: Error) {
        match self {
            Self::Append(_, r) => r.send_error(e),
            Self::AppendAll(_, r) => r.send_error(e),
            Self::Host { reply, .. } | Self::Memory { reply, .. } => reply.send_error(e),
            Self::Keep { reply, .. } => reply.send_error(e),
            Self::Remove { reply, .. } | Self::Sink { reply, .. } => reply.send_error(e),
        }
    }
}

#[derive(Default)]
struct State {
    line: VecDeque<Work>,
    bytes: usize,
    closed: bool,
    writer_sleeps: bool,
}

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
}

impl Queue {
    /// Puts a change in line, or answers it with `Busy` or `Closed`.
    pub(super) fn push(&self, work: Work) {
        let bytes = work.bytes();
        let mut s = self.lock();
        let refusal = if s.closed {
            Some(Error::Closed)
        } else if s.line.len() >= MAX_PENDING || (s.bytes > 0 && s.bytes + bytes > MAX_PENDING_BYTES) {
            Some(Error::Busy { pending: s.line.len() })
        } else {
            None
        };
        if let Some(e) = refusal {
            drop(s);
            return work.send_error(e);
        }
        s.bytes += bytes;
        s.line.push_back(work);
        // why: waking a thread that is awake costs a system call under the lock.
        if std::mem::take(&mut s.writer_sleeps) {
            drop(s);
            self.arrived.notify_one();
        }
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Closes and answers all that waits with `Closed`: nobody is left to write it.
    pub(super) fn abandon(&self) {
        self.close();
        let line = std::mem::take(&mut self.lock().line);
        line.into_iter().for_each(|w| w.send_error(Error::Closed));
    }

    /// Waits for work at most this long. `Err` when closed and empty; `Ok(false)` when the time has passed.
    pub(super) fn wait(&self, at_most: Duration) -> Result<bool> {
        let mut s = self.lock();
        if s.line.is_empty() && !s.closed {
            s.writer_sleeps = true;
            let awake = |s: &mut State| s.line.is_empty() && !s.closed;
            let (guard, _) = self.arrived.wait_timeout_while(s, at_most, awake).unwrap_or_else(PoisonError::into_inner);
            s = guard;
            s.writer_sleeps = false;
        }
        if s.line.is_empty() && s.closed { Err(Error::Closed) } else { Ok(!s.line.is_empty()) }
    }

    /// Takes up to `count` changes of together about `bytes` bytes, at least one if any is there.
    pub(super) fn take(&self, into: &mut Vec<Work>, count: usize, bytes: usize) -> usize {
        let mut s = self.lock();
        let mut taken = 0;
        for _ in 0..count {
            let Some(next) = s.line.front().map(Work::bytes) else { break };
            if taken > 0 && taken + next > bytes {
                break;
            }
            taken += next;
            s.bytes -= next;
            into.extend(s.line.pop_front());
        }
        taken
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // why: no code that can panic runs under this lock; a poisoned one still holds a whole line.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
