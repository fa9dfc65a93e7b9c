//! One output stream of the agent: a socket read into segments. Called by the session loop.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::segment::Segments;
use crate::sys::{self, Errno, Scratch};

pub struct Stream {
    /// `None` after end of file.
    fd: Option<OwnedFd>,
    segments: Segments,
}

impl Stream {
    pub fn new(fd: OwnedFd, segments: Segments) -> Self {
        Self { fd: Some(fd), segments }
    }

    pub fn is_finished(&self) -> bool {
        self.fd.is_none()
    }

    /// The descriptor to wait on, unless the disk keeps us from writing.
    pub fn wants_read(&self) -> Option<RawFd> {
        self.fd.as_ref().filter(|_| self.segments.blocked() == 0).map(AsRawFd::as_raw_fd)
    }

    /// Reads once and writes it down; `true` when there may be more.
    pub fn pump(&mut self, scratch: &mut Scratch) -> bool {
        let Some(fd) = self.wants_read() else { return false };
        let buf = scratch.buf();
        match sys::read(fd, buf) {
            Ok(n @ 1..) => {
                self.segments.append(&buf[..n]);
                true
            }
            Err(libc::EAGAIN) => false,
            // End of file; a broken socket has nothing more to say either.
            Ok(_) | Err(_) => {
                self.fd = None;
                false
            }
        }
    }

    pub fn total(&self) -> u64 {
        self.segments.total()
    }

    pub fn blocked(&self) -> Errno {
        self.segments.blocked()
    }

    pub fn retry(&mut self) {
        if self.segments.blocked() != 0 {
            self.segments.retry();
        }
    }

    pub fn drop_below(&mut self, floor: u64) {
        self.segments.drop_below(floor);
    }

    pub fn sync(&self) -> Result<(), Errno> {
        self.segments.sync()
    }
}
