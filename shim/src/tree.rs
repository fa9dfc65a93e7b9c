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
/// How long one freezing waits for processes that do not stop (uninterruptible), in milliseconds.
const FREEZE_FOR_MS: u64 = 2_000;
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

/// Stops all who are not stopped yet and adds them to `stopped`, until two scans find everyone stopped: who was born between them came from
/// a process that ran. False where somebody does not stop in time.
pub fn freeze(stopped: &mut BTreeSet<ProcessId>) -> bool {
    let give_up = sys::boot_ms() + FREEZE_FOR_MS;
    let mut still_scans = 0;
    loop {
        // why: one that waits in the kernel (for a child that it vforked and that is stopped, say) stops before it runs on.
        let will_stop = |s: &Stat| s.is_stopped() || (s.is_waiting() && stopped.contains(&s.id));
        let running: Vec<_> = descendants().into_iter().filter(|id| stat(id.pid).is_some_and(|s| s.id == *id && !will_stop(&s))).collect();
        for id in &running {
            signal(*id, libc::SIGSTOP);
            stopped.insert(*id);
        }
        still_scans = if running.is_empty() { still_scans + 1 } else { 0 };
        if still_scans >= 2 {
            return true;
        }
        if sys::boot_ms() >= give_up {
            return false;
        }
        sys::poll(&mut [], 1);
    }
}

/// CONT to those that were stopped by us; what the agent stopped itself stays so.
pub fn thaw(stopped: &mut BTreeSet<ProcessId>) {
    for id in std::mem::take(stopped) {
        signal(id, libc::SIGCONT);
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
