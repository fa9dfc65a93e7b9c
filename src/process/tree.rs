//! Processes as `/proc` shows them: identity, families, memory and CPU time. Called by the handle, `ancestry` and `adopt`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;

use crate::wire::{ProcessId, Stat};

/// Bytes of a command line that are kept.
const MAX_CMDLINE: u64 = 4096;
/// Processes of one session that are listed.
const MAX_LISTED: usize = 10_000;

/// One process of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    pub id: ProcessId,
    pub ppid: u32,
    /// Name of the executable, cut by the kernel to 15 bytes. Untrusted text.
    pub comm: String,
    /// Arguments joined by spaces, at most 4 KiB. Untrusted text.
    pub cmdline: String,
    /// Resident memory, in KiB.
    pub rss_kb: u64,
    /// Proportional share of it, in KiB, where we may see it.
    pub pss_kb: Option<u64>,
    /// User and system CPU time, in milliseconds.
    pub cpu_ms: u64,
}

/// The living identity of a pid.
pub fn identify(pid: u32) -> Option<ProcessId> {
    stat(pid).map(|s| s.id)
}

/// Whether exactly this process still runs something.
pub fn lives(id: ProcessId) -> bool {
    stat(id.pid).is_some_and(|s| s.id == id && !s.is_zombie())
}

/// This process and all its descendants, in order of pid, at most 10,000; empty when it is gone.
pub fn processes_of(root: ProcessId) -> Vec<ProcessInfo> {
    if identify(root.pid) != Some(root) {
        return Vec::new();
    }
    let all = snapshot();
    let family = family_of(&all, [root.pid]);
    family.iter().filter_map(|pid| all.get(pid)).filter(|s| !s.is_zombie()).take(MAX_LISTED).map(info).collect()
}

/// The file it runs, as the kernel names it; `None` when it is gone or hidden.
pub fn program_of(id: ProcessId) -> Option<std::path::PathBuf> {
    let program = std::fs::read_link(format!("/proc/{}/exe", id.pid)).ok()?;
    (identify(id.pid) == Some(id)).then_some(program)
}

/// Its arguments, cut to 4 KiB in all; empty when it is gone or hidden. Untrusted text.
pub fn command_line(id: ProcessId) -> Vec<String> {
    let mut raw = Vec::new();
    if let Ok(f) = File::open(format!("/proc/{}/cmdline", id.pid)) {
        // A process that just ended has no command line any more.
        let _ = f.take(MAX_CMDLINE).read_to_end(&mut raw);
    }
    if identify(id.pid) != Some(id) {
        return Vec::new();
    }
    raw.split(|b| *b == 0).filter(|w| !w.is_empty()).map(|w| String::from_utf8_lossy(w).into_owned()).collect()
}

/// Every process, by pid. One that is born meanwhile may be missing.
pub(super) fn snapshot() -> BTreeMap<u32, Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, stat(pid)?))).collect()
}

/// The roots and all their descendants.
pub(super) fn family_of(all: &BTreeMap<u32, Stat>, roots: impl IntoIterator<Item = u32>) -> BTreeSet<u32> {
    let mut family: BTreeSet<u32> = roots.into_iter().collect();
    loop {
        let before = family.len();
        let more: Vec<u32> = all.values().filter(|s| family.contains(&s.ppid)).map(|s| s.id.pid).collect();
        family.extend(more);
        if family.len() == before {
            return family;
        }
    }
}

pub(super) fn stat(pid: u32) -> Option<Stat> {
    let mut line = [0u8; 1024];
    let n = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut line).ok()?;
    Stat::parse(&line[..n])
}

/// The controlling terminal of a process, as in `/dev/pts/3`; `None` when it has none.
pub(super) fn terminal(pid: u32) -> Option<String> {
    let line = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // why from the last parenthesis: the name before it may hold anything.
    let text = String::from_utf8_lossy(&line).rsplit_once(") ")?.1.to_owned();
    terminal_name(text.split(' ').nth(4)?.parse::<i64>().ok()?)
}

/// The device of a number as `/proc/<pid>/stat` gives it.
fn terminal_name(number: i64) -> Option<String> {
    let n = u32::try_from(number).ok().filter(|n| *n != 0)?;
    let (major, minor) = ((n >> 8) & 0xfff, (n & 0xff) | ((n >> 12) & 0xf_ff00));
    Some(match (major, minor) {
        (4, 0..64) => format!("/dev/tty{minor}"),
        (4, _) => format!("/dev/ttyS{}", minor - 64),
        (136..=143, _) => format!("/dev/pts/{}", (major - 136) * (1 << 20) + minor),
        _ => format!("terminal {major}:{minor}"),
    })
}

fn info(s: &Stat) -> ProcessInfo {
    let pid = s.id.pid;
    let mut raw = Vec::new();
    if let Ok(f) = File::open(format!("/proc/{pid}/cmdline")) {
        // A process that just ended has no command line any more.
        let _ = f.take(MAX_CMDLINE).read_to_end(&mut raw);
    }
    let words: Vec<_> = raw.split(|b| *b == 0).filter(|w| !w.is_empty()).map(String::from_utf8_lossy).collect();
    let ticks_a_second = rustix::param::clock_ticks_per_second().max(1);
    let page_kb = rustix::param::page_size() as u64 / 1024;
    ProcessInfo {
        id: s.id,
        ppid: s.ppid,
        comm: s.comm.clone(),
        cmdline: words.join(" "),
        rss_kb: s.rss_pages * page_kb,
        pss_kb: pss_kb(pid),
        cpu_ms: (s.user_ticks + s.system_ticks) * 1000 / ticks_a_second,
    }
}

fn pss_kb(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    text.lines().find_map(|l| l.strip_prefix("Pss:"))?.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(pid: u32, ppid: u32) -> (u32, Stat) {
        let id = ProcessId { pid, start: 1 };
        (pid, Stat { id, comm: String::new(), state: b'S', ppid, user_ticks: 0, system_ticks: 0, rss_pages: 0 })
    }

    #[test]
    fn a_family_is_the_roots_and_what_hangs_from_them() {
        let all = BTreeMap::from([one(1, 0), one(5, 1), one(3, 5), one(9, 3), one(7, 1)]);
        assert_eq!(family_of(&all, [5]), BTreeSet::from([3, 5, 9]));
        assert_eq!(family_of(&all, []), BTreeSet::new());
    }

    #[test]
    fn terminals_have_the_names_of_their_devices() {
        let name = |n| terminal_name(n).unwrap_or_default();
        assert_eq!(
            [name(34816), name(34819), name(1025), name(1088), name(0)],
            ["/dev/pts/0", "/dev/pts/3", "/dev/tty1", "/dev/ttyS0", ""]
        );
        assert_eq!(terminal_name(-1), None);
    }

    #[test]
    fn we_see_ourselves() {
        let me = identify(std::process::id()).unwrap();
        assert!(processes_of(me).iter().any(|p| p.id == me && p.rss_kb > 0));
        assert!(processes_of(ProcessId { start: me.start + 1, ..me }).is_empty());
    }

    proptest! {
        #[test]
        fn families_end_even_where_parents_go_in_circles(edges in proptest::collection::vec((0u32..20, 0u32..20), 0..40)) {
            let all: BTreeMap<_, _> = edges.into_iter().map(|(a, b)| one(a, b)).collect();
            let f = family_of(&all, [3]);
            prop_assert!(all.values().all(|s| !f.contains(&s.ppid) || f.contains(&s.id.pid)));
        }
    }
}
