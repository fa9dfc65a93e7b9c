//! Who is at the other end of a socket: the peer's chain of parents, walked up to a live shim.
//!
//! Invariants:
//! - a chain counts only if two walks in a row give the same one, and the peer is still alive after them;
//! - anything that cannot be established is an error, which callers must treat as *no role*;
//! - under a shim nothing gets out of the chain: orphans are handed to the shim, which is a subreaper.
//!
//! Called by `api` for each connection.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{Error, Result, tree};
use crate::wire::ProcessId;

/// Longest chain of parents that is walked.
const MAX_DEPTH: usize = 4096;
/// Pairs of walks before a restless chain is given up.
const MAX_WALKS: usize = 16;
const SO_PEERPIDFD: libc::c_int = 77;

/// The process that connected.
#[derive(Debug)]
pub struct Peer {
    pub pid: u32,
    pub uid: u32,
    /// Holds the identity where the kernel gives it (Linux 6.5 and newer).
    pidfd: Option<OwnedFd>,
}

impl Peer {
    /// Asks the kernel about a connected Unix socket.
    pub fn of(socket: impl AsFd) -> Result<Self> {
        let socket = socket.as_fd();
        let none = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
        let cred = option(socket, libc::SO_PEERCRED, none).map_err(|_| Error::Peer("the socket has no peer credentials"))?;
        // SAFETY: the kernel made this descriptor for this call; nobody else owns it.
        let pidfd = option(socket, SO_PEERPIDFD, -1).ok().filter(|fd| *fd >= 0).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        match u32::try_from(cred.pid) {
            Ok(pid) if pid > 0 => Ok(Self { pid, uid: cred.uid, pidfd }),
            _ => Err(Error::Peer("it lives in another pid namespace")),
        }
    }

    /// Its program and controlling terminal; nothing when it has ended meanwhile (another process may have its number).
    pub fn whence(&self) -> (Option<String>, Option<String>) {
        let exe = std::fs::read_link(format!("/proc/{}/exe", self.pid)).ok().map(|p| p.display().to_string());
        let tty = tree::terminal(self.pid);
        if self.is_alive() { (exe, tty) } else { (None, None) }
    }

    pub(super) fn is_alive(&self) -> bool {
        let Some(fd) = &self.pidfd else { return true };
        let mut p = [libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        // SAFETY: the array is valid for its length. A pidfd is readable once the process has ended.
        unsafe { libc::poll(p.as_mut_ptr(), 1, 0) == 0 }
    }
}

fn option<T>(socket: BorrowedFd<'_>, name: libc::c_int, mut value: T) -> io::Result<T> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is valid for `len` bytes and any bytes the kernel writes are a valid `T` (plain integers).
    let r = unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut value).cast(), &mut len) };
    if r == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// The process itself and its parents up to pid 1 or to one that is hidden from us (another user's).
pub fn ancestors(pid: u32) -> Result<Vec<ProcessId>> {
    let walk = || {
        let mut at = tree::stat(pid).ok_or(Error::Peer("it is gone"))?;
        let mut chain = vec![(at.id, at.ppid)];
        while at.ppid > 0 {
            if chain.len() >= MAX_DEPTH {
                return Err(Error::Peer("its chain of parents is over the cap"));
            }
            let Some(parent) = tree::stat(at.ppid) else { break };
            chain.push((parent.id, parent.ppid));
            at = parent;
        }
        Ok(chain)
    };
    let mut last = walk()?;
    for _ in 0..MAX_WALKS {
        let next = walk()?;
        if next == last {
            return Ok(last.into_iter().map(|(id, _)| id).collect());
        }
        last = next;
    }
    Err(Error::Peer("its chain of parents does not hold still"))
}

/// The peer and its parents, nearest first; an error when it has ended meanwhile.
pub fn chain_of(peer: &Peer) -> Result<Vec<ProcessId>> {
    let chain = ancestors(peer.pid)?;
    if !peer.is_alive() {
        return Err(Error::Peer("it is gone"));
    }
    Ok(chain)
}

/// The first of `shims` that the peer descends from (or is); `None` when it descends from none of them.
pub fn descends_from(peer: &Peer, shims: &[ProcessId]) -> Result<Option<ProcessId>> {
    Ok(chain_of(peer)?.into_iter().find(|id| shims.contains(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_starts_with_the_process_and_reaches_its_parent() {
        let chain = ancestors(std::process::id()).unwrap();
        assert_eq!(chain.first().map(|c| c.pid), Some(std::process::id()));
        assert_eq!(chain.get(1).map(|c| c.pid), Some(std::os::unix::process::parent_id()));
    }

    #[test]
    fn a_peer_is_known_and_a_reused_number_is_not_its_shim() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = Peer::of(&a).unwrap();
        let me = tree::identify(std::process::id()).unwrap();
        assert_eq!(peer.pid, me.pid);
        assert_eq!(descends_from(&peer, &[me]).unwrap(), Some(me));
        let reused = ProcessId { start: me.start + 1, ..me };
        assert_eq!(descends_from(&peer, &[reused]).unwrap(), None);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert_eq!(ancestors(u32::MAX - 1).unwrap_err().code(), "BDL-PROCESS-015");
    }
}
