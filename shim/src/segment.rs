//! One output stream of the agent as segment files `out-<first offset, 20 digits>.seg`, each full to the cap but the last.
//!
//! Invariants:
//! - `total` counts only bytes that the kernel took: what is told to the daemon can be read;
//! - bytes that cannot be written (disk full) are held, at most one read's worth, and tried again; nothing is dropped;
//! - only whole segments below a floor given by the caller are removed, never the one being written.
//!
//! Called by the session loop, one for stdout and one for stderr.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use crate::sys::{self, Errno};

pub struct Segments {
    dir: Rc<OwnedFd>,
    prefix: &'static str,
    cap: u64,
    /// First offset still on disk.
    first: u64,
    total: u64,
    file: Option<OwnedFd>,
    held: Vec<u8>,
    blocked: Errno,
}

impl Segments {
    pub fn new(dir: Rc<OwnedFd>, prefix: &'static str, cap: u64) -> Self {
        Self { dir, prefix, cap, first: 0, total: 0, file: None, held: Vec::new(), blocked: 0 }
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// The errno that keeps bytes from the disk, or 0.
    pub fn blocked(&self) -> Errno {
        self.blocked
    }

    /// Writes, or holds what cannot be written; must not be called while blocked.
    pub fn append(&mut self, bytes: &[u8]) {
        let (done, result) = self.write(bytes);
        if let Err(e) = result {
            self.blocked = e;
            self.held = bytes[done..].to_vec();
        }
    }

    /// Tries to write what is held.
    pub fn retry(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.blocked = 0;
        self.append(&held);
    }

    /// Removes whole segments that end at or below `floor`.
    pub fn drop_below(&mut self, floor: u64) {
        while self.first + self.cap <= floor.min(self.total) && self.first + self.cap < self.total {
            // A segment that cannot be removed costs space, not correctness.
            let _ = sys::unlinkat(self.dir.as_raw_fd(), &self.name(self.first));
            self.first += self.cap;
        }
    }

    /// Makes the written bytes durable.
    pub fn sync(&self) -> Result<(), Errno> {
        self.file.as_ref().map_or(Ok(()), |f| sys::fsync(f.as_raw_fd()))
    }

    fn write(&mut self, bytes: &[u8]) -> (usize, Result<(), Errno>) {
        let mut done = 0;
        while done < bytes.len() {
            let fd = match self.current() {
                Ok(fd) => fd,
                Err(e) => return (done, Err(e)),
            };
            let room = usize::try_from(self.cap - self.total % self.cap).unwrap_or(usize::MAX);
            let end = bytes.len().min(done.saturating_add(room));
            match sys::write(fd, &bytes[done..end]) {
                Ok(0) => return (done, Err(libc::EIO)),
                Ok(n) => {
                    done += n;
                    self.total += n as u64;
                    if self.total.is_multiple_of(self.cap) {
                        self.file = None;
                    }
                }
                Err(e) => return (done, Err(e)),
            }
        }
        (done, Ok(()))
    }

    fn current(&mut self) -> Result<RawFd, Errno> {
        if let Some(f) = &self.file {
            return Ok(f.as_raw_fd());
        }
        let name = self.name(self.total - self.total % self.cap);
        let f = sys::openat(self.dir.as_raw_fd(), &name, libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_NOFOLLOW)?;
        Ok(self.file.insert(f).as_raw_fd())
    }

    fn name(&self, offset: u64) -> CString {
        // why: digits and letters hold no NUL.
        CString::new(format!("{}-{offset:020}.seg", self.prefix)).unwrap_or_default()
    }
}
