//! What became of a run: alive, ended, or lost; and the end of what a lost one left behind.
//!
//! Invariants:
//! - a held lock means alive, an exit record means ended, neither means lost; nothing else decides, silence least of all;
//! - leftovers are found by the session marker in their environment and by descent from such a process, and signalled through a
//!   pidfd whose start time was compared;
//! - neither this process nor one of its ancestors is ever a leftover.
//!
//! Called by the daemon at start, and by the session loop after a disconnect.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::net::UnixStream;

use super::client::{self, ShimEvents, ShimHandle};
use super::{Error, ExitRecord, Result, ancestry, exit, launch, lock, tree};
use crate::wire::{FromShim, MARKER_ENV, ProcessId, SOCKET_FILE, Status};

/// How long a shim that holds its lock may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at one that cannot be connected to yet; and where there is no limit.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOK_EVERY_PATIENTLY: Duration = Duration::from_secs(1);
/// How long killing waits for leftovers that do not die.
const KILL_FOR: Duration = Duration::from_secs(5);
/// Bytes of an environment that are searched.
const MAX_ENVIRON: u64 = 8 << 20;
/// Rounds of stopping before killing starts.
const FREEZE_ROUNDS: usize = 64;

/// What a run folder turned out to be.
#[derive(Debug)]
pub enum Adopted {
    /// The shim lives; this is its connection now.
    Live(ShimHandle, ShimEvents, Status),
    Ended(ExitRecord),
    /// The shim died without a record. These processes were left and have been killed.
    Lost {
        leftovers: Vec<u32>,
    },
}

pub(super) async fn adopt(run_dir: &Path, marker: &str) -> Result<Adopted> {
    look(run_dir, marker, Some(Instant::now() + ANSWER_WITHIN)).await
}

/// The same without a limit: a shim that holds its lock may be stopped, or starved, for as long as it likes.
pub(super) async fn adopt_patiently(run_dir: &Path, marker: &str) -> Result<Adopted> {
    look(run_dir, marker, None).await
}

async fn look(run_dir: &Path, marker: &str, give_up: Option<Instant>) -> Result<Adopted> {
    loop {
        if let Some(record) = exit::read(run_dir)? {
            return Ok(Adopted::Ended(record));
        }
        if !lock::is_held(run_dir)? {
            // A record may have come between the two looks; after this one nobody is left to write it.
            if let Some(record) = exit::read(run_dir)? {
                return Ok(Adopted::Ended(record));
            }
            let marker = marker.to_owned();
            let killed = tokio::task::spawn_blocking(move || kill_leftovers(&marker)).await;
            return Ok(Adopted::Lost { leftovers: killed.map_err(|_| Error::Disconnected)? });
        }
        // why one connection as long as the patience lasts: those that are given up stay in a stopped shim's queue, which is short.
        let greeted = match give_up {
            Some(at) => tokio::time::timeout_at(at.into(), greet(run_dir)).await.unwrap_or_else(|e| Err(e.into())),
            None => greet(run_dir).await,
        };
        match (greeted, give_up) {
            (Ok((stream, status)), _) => {
                let (handle, events) = client::connect(stream, status, run_dir.to_owned());
                return Ok(Adopted::Live(handle, events, status));
            }
            // It may be between lock and socket, or just ending: look again.
            (Err(_), Some(at)) if Instant::now() < at => tokio::time::sleep(LOOK_EVERY).await,
            (Err(source), Some(_)) => return Err(Error::Unreachable { run_dir: run_dir.to_owned(), source }),
            (Err(_), None) => tokio::time::sleep(LOOK_EVERY_PATIENTLY).await,
        }
    }
}

/// Connects without ever blocking (a full queue is an error) and waits for the first word; the end of the shim ends the waiting.
async fn greet(run_dir: &Path) -> io::Result<(UnixStream, Status)> {
    let mut stream = launch::connect_path(run_dir, SOCKET_FILE).await?;
    match client::read_first(&mut stream).await? {
        FromShim::Status(status) => Ok((stream, status)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Who listens in this run folder. The kernel tells, so the shim need not: it may be stopped. None where nobody can be asked.
pub async fn shim_in(run_dir: &Path) -> Option<ProcessId> {
    let stream = launch::connect_path(run_dir, SOCKET_FILE).await.ok()?;
    tree::identify(u32::try_from(stream.peer_cred().ok()?.pid()?).ok()?)
}

/// KILL to a shim that does not answer and to everything below it; its processes that left are found when it is adopted.
pub fn kill_silent(shim: ProcessId) {
    kill_family(shim);
}

/// Freezes and kills every process that carries the marker, and their descendants, until two scans find none.
/// Blocks up to 5 s; gives the pids it signalled.
pub fn kill_leftovers(marker: &str) -> Vec<u32> {
    let entry = format!("{MARKER_ENV}={marker}").into_bytes();
    let ours: BTreeSet<u32> = match ancestry::ancestors(std::process::id()) {
        Ok(chain) => chain.into_iter().map(|id| id.pid).collect(),
        Err(_) => BTreeSet::from([std::process::id()]),
    };
    let find = || leftovers(&entry, &ours);
    let mut hit = BTreeSet::new();
    for _ in 0..FREEZE_ROUNDS {
        let fresh: Vec<_> = find().into_iter().filter(|id| hit.insert(*id)).collect();
        if fresh.is_empty() {
            break;
        }
        fresh.into_iter().for_each(|id| signal(id, Signal::STOP));
    }
    let give_up = Instant::now() + KILL_FOR;
    let mut empty_scans = 0;
    while empty_scans < 2 && !hit.is_empty() && Instant::now() < give_up {
        let alive = find();
        empty_scans = if alive.is_empty() { empty_scans + 1 } else { 0 };
        for id in alive {
            hit.insert(id);
            signal(id, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    hit.into_iter().map(|id| id.pid).collect()
}

/// KILL to a process and everything below it, as it stands now.
pub(super) fn kill_family(root: ProcessId) {
    if tree::identify(root.pid) != Some(root) {
        return;
    }
    let all = tree::snapshot();
    for id in tree::family_of(&all, [root.pid]).iter().filter_map(|pid| all.get(pid)).map(|s| s.id) {
        signal(id, Signal::KILL);
    }
}

fn leftovers(entry: &[u8], ours: &BTreeSet<u32>) -> Vec<ProcessId> {
    let all = tree::snapshot();
    let marked = all.values().filter(|s| !ours.contains(&s.id.pid) && has_entry(s.id.pid, entry)).map(|s| s.id.pid);
    let family = tree::family_of(&all, marked.collect::<Vec<_>>());
    family.iter().filter(|pid| !ours.contains(pid)).filter_map(|pid| all.get(pid)).filter(|s| !s.is_zombie()).map(|s| s.id).collect()
}

fn has_entry(pid: u32, entry: &[u8]) -> bool {
    let mut environ = Vec::new();
    // Unreadable: another user's, or gone.
    let Ok(f) = std::fs::File::open(format!("/proc/{pid}/environ")) else { return false };
    f.take(MAX_ENVIRON).read_to_end(&mut environ).is_ok() && environ.split(|b| *b == 0).any(|e| e == entry)
}

fn signal(id: ProcessId, signal: Signal) {
    let Some(pid) = i32::try_from(id.pid).ok().and_then(Pid::from_raw) else { return };
    let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    // The descriptor pins the process; if it is the one that was found, the signal cannot reach another.
    if tree::identify(id.pid) == Some(id) {
        // A process that died meanwhile needs no signal.
        let _ = pidfd_send_signal(&fd, signal);
    }
}
