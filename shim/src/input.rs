//! Numbered input frames on their way to the agent's stdin.
//!
//! Invariants:
//! - a frame is taken only if its number is the last taken plus one: repeats and gaps change nothing;
//! - what is held is bounded by [`MAX_QUEUED_INPUT`]; a frame that does not fit is refused and asked for again;
//! - a taken frame is written once, in order, or its reader is gone.
//!
//! Called by the session loop.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::sys;
use crate::wire::{FromShim, MAX_QUEUED_INPUT};

enum Item {
    Bytes(Vec<u8>),
    Close,
}

pub struct Input {
    fd: Option<OwnedFd>,
    queue: VecDeque<Item>,
    queued: usize,
    /// Bytes of the front item that are written.
    done: usize,
    last: u64,
    refused_full: bool,
}

impl Input {
    /// Without a descriptor frames are taken and go nowhere.
    pub fn new(fd: Option<OwnedFd>) -> Self {
        Self { fd, queue: VecDeque::new(), queued: 0, done: 0, last: 0, refused_full: false }
    }

    pub fn last(&self) -> u64 {
        self.last
    }

    /// The descriptor to wait on for writing, while something waits to be written.
    pub fn wants_write(&self) -> Option<RawFd> {
        self.fd.as_ref().filter(|_| !self.queue.is_empty()).map(AsRawFd::as_raw_fd)
    }

    /// Offers a frame (`None` closes stdin); gives the answer.
    pub fn offer(&mut self, no: u64, bytes: Option<Vec<u8>>) -> FromShim {
        if Some(no) != self.last.checked_add(1) {
            return FromShim::Taken { last: self.last };
        }
        let len = bytes.as_ref().map_or(0, Vec::len);
        if self.queued > 0 && self.queued + len > MAX_QUEUED_INPUT {
            self.refused_full = true;
            return FromShim::Full { last: self.last };
        }
        self.last = no;
        if self.fd.is_some() {
            self.queued += len;
            self.queue.push_back(bytes.map_or(Item::Close, Item::Bytes));
            self.pump();
        }
        FromShim::Taken { last: self.last }
    }

    /// Writes what the agent accepts now.
    pub fn pump(&mut self) {
        while let (Some(fd), Some(item)) = (&self.fd, self.queue.front()) {
            let Item::Bytes(bytes) = item else {
                self.close();
                return;
            };
            if self.done == bytes.len() {
                self.queued -= bytes.len();
                self.done = 0;
                self.queue.pop_front();
                continue;
            }
            match sys::write(fd.as_raw_fd(), &bytes[self.done..]) {
                Ok(n) => self.done += n,
                Err(libc::EAGAIN) => return,
                // The agent closed its stdin or is gone: nobody reads the rest.
                Err(_) => self.close(),
            }
        }
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }

    /// After a refusal for want of room: whether there is room again, said once.
    pub fn take_ready(&mut self) -> bool {
        let ready = self.refused_full && self.queued <= MAX_QUEUED_INPUT / 2;
        self.refused_full &= !ready;
        ready
    }

    pub fn close(&mut self) {
        self.fd = None;
        self.queue = VecDeque::new();
        self.queued = 0;
        self.done = 0;
    }
}
