//! The agent's tree: every descendant of this shim, whatever group or session it moved to.
//!
//! Invariants:
//! - the shim is the subreaper, so an orphan becomes its child and is never out of sight;
//! - a signal goes through a pidfd whose start time was compared: never to a reused number;
//! - *no children* as told by wait4 proves that the tree is empty, because each orphan is handed to the shim before its parent is gone.
//!
//! Called by the session loop.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;

use crate::sys;
use crate::wire::{ProcessId, Stat};

/// Rounds of stopping before killing starts anyway: a tree that forks faster than we scan cannot hold us up.
const FREEZE_ROUNDS: usize = 64;
/// How long one killing waits for processes that do not die (uninterruptible), in milliseconds.
const KILL_FOR_MS: u64 = 5_000;

/// Identity and parent of a process, if it exists.
pub fn stat(pid: u32) -> Option<Stat> {
    let mut line = [0u8; 1024];
    let n = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut line).ok()?;
    Stat::parse(&line[..n])
}

/// All living descendants of this process. Processes born during the scan may be missed: callers scan again.
pub fn descendants() -> Vec<ProcessId> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let all: Vec<Stat> = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).filter_map(stat).collect();
    let mut family = BTreeSet::from([std::process::id()]);
    loop {
        let before = family.len();
        family.extend(all.iter().filter(|s| family.contains(&s.ppid)).map(|s| s.id.pid).collect::<Vec<_>>());
        if family.len() == before {
            break;
        }
    }
    family.remove(&std::process::id());
    all.iter().filter(|s| family.contains(&s.id.pid) && !s.is_zombie()).map(|s| s.id).collect()
}

/// Sends a signal to exactly this process; a process that is gone or replaced gets none.
pub fn signal(id: ProcessId, signal: libc::c_int) {
    let same = || stat(id.pid).is_some_and(|s| s.id == id);
    match sys::pidfd_open(id.pid) {
        Ok(fd) => {
            if same() {
                // A process that died meanwhile needs no signal.
                let _ = sys::pidfd_signal(&fd, signal);
            }
        }
        Err(libc::ENOSYS) if same() => {
            // SAFETY: plain call on numbers. Only reached where a filter hides pidfds.
            unsafe { libc::kill(id.pid as libc::pid_t, signal) };
        }
        Err(_) => {}
    }
}

/// TERM to everyone, and CONT so that the stopped ones hear it.
pub fn terminate() {
    for id in descendants() {
        signal(id, libc::SIGTERM);
        signal(id, libc::SIGCONT);
    }
}

/// Stops all, so that none can fork away, then kills until two scans find none. `reap` waits for the dead and says whether
/// any child is left. Returns how many could not be killed in time.
pub fn kill(mut reap: impl FnMut() -> bool) -> u32 {
    let mut frozen = BTreeSet::new();
    for _ in 0..FREEZE_ROUNDS {
        let fresh: Vec<_> = descendants().into_iter().filter(|id| frozen.insert(*id)).collect();
        if fresh.is_empty() {
            break;
        }
        for id in fresh {
            signal(id, libc::SIGSTOP);
        }
    }
    let give_up = sys::boot_ms() + KILL_FOR_MS;
    let mut empty_scans = 0;
    loop {
        let alive = descendants();
        for id in &alive {
            signal(*id, libc::SIGKILL);
        }
        let children = reap();
        empty_scans = if alive.is_empty() { empty_scans + 1 } else { 0 };
        if !children || empty_scans >= 2 {
            return 0;
        }
        if sys::boot_ms() >= give_up {
            return alive.len() as u32;
        }
        sys::poll(&mut [], 2);
    }
}
