//! Whom the kernel takes when memory runs out: the agent and what it started, before the shim and the daemon.
//!
//! Invariants:
//! - the agent has its number before its program runs, all that it starts inherits it, and it is never below the shim's;
//! - the shim's own is the daemon's again as soon as the agent runs;
//! - it is a preference and no confinement: where it cannot be had the agent runs all the same, and one of an ordinary user can go back
//!   to the number of its shim.
//!
//! why inherited, and not written by the child: a shim is not dumpable, its child is not either, and `/proc/self` of such a process is
//! root's. So the shim takes its file before that, and is itself raised while it forks.
//!
//! Called by `setup`.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::sys;

/// By how much the agent stands above its shim, in thousandths of the memory there is.
///
/// why half of it: what uses more than that is at fault, whoever it is, and less would not do where the memory is a small container's,
/// of which a daemon may use a fifth. (systemd gives services of users 100 to 200 for a whole machine; containerd puts its shims 1 above
/// itself and leaves the rest to the containers' own.) An agent at rest may so be taken for another program that grows: it is what can
/// be started again.
const ABOVE: i32 = 500;
/// The most that the kernel takes; such a process goes first, whatever it uses.
const MOST: i32 = 1000;

/// The shim's own number and where it is written.
pub struct Own {
    file: OwnedFd,
    number: i32,
}

impl Own {
    /// None where the kernel does not offer it. To be called while the process is dumpable.
    pub fn take() -> Option<Self> {
        let file = sys::open(c"/proc/self/oom_score_adj", libc::O_RDWR).ok()?;
        let mut text = [0u8; 16];
        let n = sys::read(file.as_raw_fd(), &mut text).ok()?;
        let number = std::str::from_utf8(&text[..n]).ok()?.trim().parse().ok()?;
        Some(Self { file, number })
    }

    fn set(&self, number: i32) {
        // An error leaves what is there.
        sys::write_all_to(self.file.as_raw_fd(), number.to_string().as_bytes());
    }
}

/// Forks by `fork`, whose child inherits the raised number.
pub fn raised<T>(own: Option<&Own>, fork: impl FnOnce() -> T) -> T {
    let Some(own) = own else { return fork() };
    own.set(own.number.saturating_add(ABOVE).min(MOST));
    let done = fork();
    own.set(own.number);
    done
}
