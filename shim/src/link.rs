//! The connection to the daemon: who may connect, and frames in and out.
//!
//! Invariants:
//! - a peer of another uid, one that descends from this shim, or one that is gone already is refused;
//! - one connection is active; a newer one replaces it;
//! - the daemon's slowness costs at most [`MAX_UNSENT`] bytes, then the connection is dropped and the daemon connects again.
//!
//! Called by the session loop.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::sys::{self, Errno};
use crate::tree;
use crate::wire::{FromShim, Malformed, ToShim, frame_len};

/// Unsent bytes at which a connection is dropped.
const MAX_UNSENT: usize = 64 << 10;
/// Longest chain of parents that is walked.
const MAX_DEPTH: usize = 4096;
const SO_PEERPIDFD: libc::c_int = 77;

pub struct Link {
    fd: OwnedFd,
    /// The daemon reads no more. What it said before is still read, to the end.
    is_deaf: bool,
    received: Vec<u8>,
    unsent: Vec<u8>,
}

impl Link {
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, is_deaf: false, received: Vec::new(), unsent: Vec::new() }
    }

    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Reads what is there; `false` when the daemon is gone.
    pub fn receive(&mut self, buf: &mut [u8]) -> bool {
        match sys::read(self.fd(), buf) {
            Ok(0) => false,
            Ok(n) => {
                self.received.extend_from_slice(&buf[..n]);
                true
            }
            Err(e) => e == libc::EAGAIN,
        }
    }

    /// The next whole frame.
    pub fn next(&mut self) -> Result<Option<ToShim>, Malformed> {
        let Some(n) = frame_len(&self.received)? else { return Ok(None) };
        let Some(body) = self.received.get(4..4 + n) else { return Ok(None) };
        let frame = ToShim::decode(body)?;
        self.received.drain(..4 + n);
        if self.received.is_empty() {
            self.received = Vec::new();
        }
        Ok(Some(frame))
    }

    /// Sends or keeps; `false` when the daemon is too slow and the connection is to be dropped.
    pub fn send(&mut self, frame: &FromShim) -> bool {
        self.unsent.extend(frame.encode());
        self.flush();
        self.unsent.len() <= MAX_UNSENT
    }

    /// Writes what the daemon accepts now.
    pub fn flush(&mut self) {
        while !self.is_deaf && !self.unsent.is_empty() {
            match sys::write(self.fd(), &self.unsent) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(libc::EAGAIN) => return,
                Err(_) => self.is_deaf = true,
            }
        }
        self.unsent = Vec::new();
    }
}

/// The listening socket in the run folder, mode 0600; a path that is too long is reached through `/proc/self/fd`.
pub fn listen(dir: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let (address, len) = sys::unix_address(path).or_else(|_| {
        let short = format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), crate::wire::SOCKET_FILE);
        sys::unix_address(short.as_bytes())
    })?;
    let fd = sys::unix_socket()?;
    // SAFETY: the address is valid for `len` bytes; the process umask makes the socket 0600.
    sys::check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) })?;
    // SAFETY: plain call on a valid descriptor.
    sys::check(unsafe { libc::listen(fd.as_raw_fd(), 8) })?;
    Ok(fd)
}

/// Whether the process at the other end may be the daemon.
pub fn peer_is_welcome(fd: &OwnedFd) -> bool {
    let Some(peer) = credentials(fd) else { return false };
    // SAFETY: plain call.
    if peer.uid != unsafe { libc::geteuid() } {
        return false;
    }
    // With a pidfd, a peer that is dead by the end cannot have lent its number to the process that we looked at.
    let pidfd = peer_pidfd(fd);
    let outside = is_outside(peer.pid as u32);
    outside && pidfd.is_none_or(|p| !exited(&p))
}

fn credentials(fd: &OwnedFd) -> Option<libc::ucred> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` is valid for `len` bytes.
    let r = unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &mut len) };
    (r == 0 && peer.pid > 0).then_some(peer)
}

/// Linux 6.5 and newer.
fn peer_pidfd(fd: &OwnedFd) -> Option<OwnedFd> {
    use std::os::fd::FromRawFd;
    let mut pidfd: libc::c_int = -1;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `pidfd` is valid for `len` bytes.
    let r = unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, (&raw mut pidfd).cast(), &mut len) };
    // SAFETY: the kernel just made this descriptor for us.
    (r == 0 && pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) })
}

fn exited(pidfd: &OwnedFd) -> bool {
    sys::poll(&mut [libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 }], 0) > 0
}

/// Walks the parents twice; only two equal walks that do not meet this process count. Anything unclear is *inside*.
fn is_outside(pid: u32) -> bool {
    let walk = || {
        let mut at = tree::stat(pid)?;
        let mut chain = vec![(at.id, at.ppid)];
        while at.ppid > 1 && chain.len() < MAX_DEPTH {
            if at.ppid == std::process::id() {
                return None;
            }
            // A parent of another user may be hidden; ours are not, so the walk has left the tree.
            let Some(parent) = tree::stat(at.ppid) else { break };
            chain.push((parent.id, parent.ppid));
            at = parent;
        }
        (chain.len() < MAX_DEPTH && pid != std::process::id()).then_some(chain)
    };
    (0..8).any(|_| {
        let first = walk();
        first.is_some() && first == walk()
    })
}
