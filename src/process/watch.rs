//! A process that is not ours: known by pid and start time, watched and signalled through a pidfd, which never means another one.
//!
//! Called by `session` for agents that the host did not start.

use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Error, Result, adopt, tree};
use crate::wire::ProcessId;

/// Holds the identity of a process while it is watched.
#[derive(Debug)]
pub struct Watch {
    id: ProcessId,
    fd: AsyncFd<OwnedFd>,
}

impl Watch {
    /// An error when the process has ended or its number names another one. Needs a runtime.
    pub fn open(id: ProcessId) -> Result<Self> {
        let pid = i32::try_from(id.pid).ok().and_then(Pid::from_raw).ok_or(Error::Peer("it has no number"))?;
        let fd = pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(|_| Error::Peer("it is gone"))?;
        // The descriptor pins the process; if it is the one that was meant, it stays so.
        if tree::identify(id.pid) != Some(id) {
            return Err(Error::Peer("it is gone"));
        }
        // SAFETY: the descriptor is owned by the registration and stays open for as long as it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(|_| Error::Peer("it cannot be watched"))?;
        Ok(Self { id, fd })
    }

    /// Returns when the process has ended.
    pub async fn gone(&self) {
        // why: a pidfd becomes readable once and stays so; an error is treated alike, because nobody would notice the end later.
        let _ = self.fd.readable().await;
    }

    /// TERM to the process itself, or KILL to it and everything below it.
    pub fn signal(&self, kill: bool) {
        if kill {
            adopt::kill_family(self.id);
        }
        // A process that died meanwhile needs no signal.
        let _ = pidfd_send_signal(self.fd.get_ref(), if kill { Signal::KILL } else { Signal::TERM });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_process_is_seen_and_another_of_its_number_is_not_it() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let id = tree::identify(child.id()).unwrap();
        assert!(Watch::open(ProcessId { start: id.start + 1, ..id }).is_err());
        let watch = Watch::open(id).unwrap();
        tokio::select! {
            biased;
            () = watch.gone() => panic!("it lives"),
            () = std::future::ready(()) => {}
        }
        watch.signal(true);
        watch.gone().await;
        child.wait().unwrap();
        assert!(Watch::open(id).is_err());
    }
}
