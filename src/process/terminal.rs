//! The terminal that a peer stands at, as the kernel knows it: whether a person may be asked there, and what is written on it.
//!
//! Invariants:
//! - nothing is taken from what the peer says: device, session and foreground group come from `/proc`, and the peer is held by pidfd;
//! - what cannot be established is a refusal;
//! - a terminal that a session's process plays (it leads it, or holds its other side) is nobody's.
//!
//! What this cannot tell: a program that left the session's tree by something that runs commands for its user, and there plays a
//! whole terminal, both sides of it, looks like a terminal emulator. Nor does it know who sits at the keys.
//!
//! Called by `operator`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::ancestry::{Peer, ancestors};
use super::{Error, Result, tree};
use crate::wire::ProcessId;

/// Descriptors looked at when the other side of a terminal is sought; more are a refusal.
const MAX_DESCRIPTORS: usize = 1 << 20;
/// Majors of Unix98 pseudo-terminals: they have another side that some process holds.
const PTS_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;
/// Majors of terminals that hardware or the kernel's console stands behind.
const REAL_MAJORS: &[u32] = &[4, 5, 204, 229];

/// A terminal in the hands of whoever sits at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminal {
    /// As in `/dev/pts/3`.
    pub path: PathBuf,
    /// The device's number as `stat` gives it.
    device: u64,
    /// Leader of the terminal's session, usually a login shell.
    pub leader: ProcessId,
    /// The process that asked.
    pub peer: ProcessId,
}

/// Fields of `/proc/<pid>/stat` that place a process at a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    group: i64,
    session: i64,
    /// 0: none.
    terminal: i64,
    /// Foreground group of the terminal.
    foreground: i64,
}

/// The peer's terminal. `shims` are those of live sessions.
pub fn terminal_of(peer: &Peer, shims: &[ProcessId]) -> Result<Terminal> {
    let own = tree::identify(std::process::id()).ok_or(Error::Terminal("the daemon does not see itself".to_owned()))?;
    let id = tree::identify(peer.pid).ok_or_else(|| refused("the process is gone"))?;
    let place = place(peer.pid).ok_or_else(|| refused("the process is gone"))?;
    if place.terminal == 0 {
        return Err(refused("the process has no controlling terminal"));
    }
    if place.foreground != place.group {
        return Err(refused("the process is not in the foreground of its terminal"));
    }
    same_namespaces(peer.pid)?;
    outside(peer.pid, shims, own, "the process")?;
    let leader_pid = u32::try_from(place.session).ok().filter(|p| *p > 0).ok_or_else(|| refused("its session has no leader"))?;
    let leader = tree::identify(leader_pid).ok_or_else(|| refused("the leader of the terminal's session is gone"))?;
    if self::place(leader_pid).is_none_or(|l| l.terminal != place.terminal || l.session != place.session) {
        return Err(refused("the leader of the terminal's session is not at it"));
    }
    outside(leader_pid, shims, own, "the leader of the terminal's session")?;
    let (major, minor) = split(place.terminal);
    let path = if PTS_MAJORS.contains(&major) {
        let number = (major - PTS_MAJORS.start()) * (1 << 20) + minor;
        other_side(number, shims, own)?;
        PathBuf::from(format!("/dev/pts/{number}"))
    } else if REAL_MAJORS.contains(&major) {
        let link = fs::read_link(format!("/sys/dev/char/{major}:{minor}")).map_err(|_| refused("its terminal has no name"))?;
        Path::new("/dev").join(link.file_name().ok_or_else(|| refused("its terminal has no name"))?)
    } else {
        return Err(refused(&format!("its terminal {major}:{minor} is of a kind that is not known")));
    };
    let device = rustix::fs::makedev(major, minor);
    let found = Terminal { path, device, leader, peer: id };
    drop(found.open()?);
    // why last: everything above was read by number; only a process that lives now was that process all the time.
    if !peer.is_alive() || tree::identify(peer.pid) != Some(id) {
        return Err(refused("the process is gone"));
    }
    Ok(found)
}

impl Terminal {
    /// Writes on the screen. A terminal that takes nothing now (stopped output) is an error, never a wait.
    pub fn write(&self, text: &str) -> Result<()> {
        let mut file = self.open()?;
        // why: a daemon in the background of this very terminal would be stopped by the write where `stty tostop` is set.
        let _masked = MaskedSignal::block(libc::SIGTTOU);
        file.write_all(text.as_bytes()).map_err(|e| refused(&format!("{} cannot be written: {e}", self.path.display())))
    }

    fn open(&self) -> Result<File> {
        let fail = |e: std::io::Error| refused(&format!("{} cannot be opened: {e}", self.path.display()));
        let file = fs::OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK).open(&self.path).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        if !meta.file_type().is_char_device() || meta.st_rdev() != self.device {
            return Err(refused(&format!("{} is not the process's terminal", self.path.display())));
        }
        Ok(file)
    }
}

/// A signal blocked in this thread until dropped.
struct MaskedSignal(libc::sigset_t);

impl MaskedSignal {
    fn block(signal: i32) -> Self {
        // SAFETY: both sets live on this stack; the calls only write them and this thread's mask.
        unsafe {
            let (mut set, mut old) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, signal);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, &mut old);
            Self(old)
        }
    }
}

impl Drop for MaskedSignal {
    fn drop(&mut self) {
        // SAFETY: the set was filled by the call in `block`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

fn refused(why: &str) -> Error {
    Error::Terminal(why.to_owned())
}

/// No container and no other view of files: a device number means the same there as here.
fn same_namespaces(pid: u32) -> Result<()> {
    for ns in ["mnt", "pid", "user"] {
        let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/{ns}")).ok();
        let (own, peer) = (of("self"), of(&pid.to_string()));
        if own.is_none() || own != peer {
            return Err(refused(&format!("the process lives in another {ns} namespace, or hides its own")));
        }
    }
    Ok(())
}

fn outside(pid: u32, shims: &[ProcessId], own: ProcessId, what: &str) -> Result<()> {
    let chain = ancestors(pid)?;
    if chain.iter().any(|id| shims.contains(id)) {
        return Err(refused(&format!("{what} (pid {pid}) belongs to a session")));
    }
    if chain.contains(&own) {
        return Err(refused(&format!("{what} (pid {pid}) was started by the daemon")));
    }
    Ok(())
}

/// Looks for who holds the master of a pseudo-terminal: none of them may belong to a session, and no process of a session may hide what it holds.
fn other_side(number: u32, shims: &[ProcessId], own: ProcessId) -> Result<()> {
    let mut left = MAX_DESCRIPTORS;
    let all = tree::snapshot();
    let sessions = tree::family_of(&all, shims.iter().map(|s| s.pid));
    for pid in all.keys().copied() {
        let shim = shims.iter().any(|s| s.pid == pid);
        match masters(pid, number, &mut left) {
            Ok(true) => outside(pid, shims, own, "what plays the terminal")?,
            Ok(false) => {}
            // The shim itself hides on purpose and holds no terminal.
            Err(_) if !shim && sessions.contains(&pid) && tree::identify(pid) == all.get(&pid).map(|s| s.id) => {
                return Err(refused(&format!(
                    "process {pid} of a session hides whether it plays the terminal; end it, or use confirm = \"key\""
                )));
            }
            Err(_) => {}
        }
        if left == 0 {
            return Err(refused("there are too many open files on this machine to see who plays the terminal"));
        }
    }
    Ok(())
}

/// Whether a process holds the master of this pseudo-terminal. Errors when it does not show its descriptors.
fn masters(pid: u32, number: u32, left: &mut usize) -> std::io::Result<bool> {
    for fd in fs::read_dir(format!("/proc/{pid}/fd"))? {
        *left = left.saturating_sub(1);
        if *left == 0 {
            break;
        }
        let Ok(fd) = fd else { continue };
        if !fs::read_link(fd.path()).is_ok_and(|l| l.file_name().is_some_and(|n| n == "ptmx")) {
            continue;
        }
        let mut info = String::new();
        File::open(format!("/proc/{pid}/fdinfo/{}", fd.file_name().to_string_lossy()))?.take(4096).read_to_string(&mut info)?;
        let index = info.lines().find_map(|l| l.strip_prefix("tty-index:")).and_then(|n| n.trim().parse::<u32>().ok());
        if index == Some(number) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn place(pid: u32) -> Option<Place> {
    parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(line: &[u8]) -> Option<Place> {
    // why the last parenthesis: the name before it may hold anything.
    let close = line.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().take(8).collect();
    // `fields[0]` is field 3 of proc(5), the state.
    let number = |field: usize| fields.get(field - 3)?.parse::<i64>().ok();
    Some(Place { group: number(5)?, session: number(6)?, terminal: number(7)?, foreground: number(8)? })
}

/// Major and minor of a device as `/proc/<pid>/stat` packs them.
fn split(number: i64) -> (u32, u32) {
    // why wrapping: the kernel prints the packed 32 bits as a signed number.
    let n = number as u32;
    ((n >> 8) & 0xfff, (n & 0xff) | ((n >> 12) & 0xf_ff00))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_read_behind_any_name() {
        let line = b"7 (a) S 1 2 (x) R 1 41 42 34819 43 0 0";
        assert_eq!(parse(line), Some(Place { group: 41, session: 42, terminal: 34819, foreground: 43 }));
        assert_eq!(parse(b"7 (a) S 1"), None);
        assert_eq!((split(34819), split(1025), split(1088)), ((136, 3), (4, 1), (4, 64)));
    }

    #[test]
    fn a_peer_without_a_terminal_is_refused() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = Peer::of(&a).unwrap();
        // This test may run at a terminal; then the daemon, which it plays, is the peer's own ancestor.
        let said = terminal_of(&peer, &[]).unwrap_err();
        assert_eq!(said.code(), "BDL-PROCESS-020", "{said}");
    }

    #[test]
    fn a_process_shows_the_masters_it_holds() {
        let (mut master, mut slave) = (-1, -1);
        // SAFETY: both descriptors are written by the call; the other arguments may be null.
        let made = unsafe { libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), std::ptr::null()) };
        assert_eq!(made, 0);
        let name = fs::read_link(format!("/proc/self/fd/{slave}")).unwrap();
        let number: u32 = name.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let mut left = MAX_DESCRIPTORS;
        assert!(masters(std::process::id(), number, &mut left).unwrap());
        assert!(!masters(std::process::id(), number + 1000, &mut left).unwrap());
        let own = tree::identify(std::process::id()).unwrap();
        let said = other_side(number, &[own], ProcessId { pid: 1, start: 0 }).unwrap_err();
        assert!(said.to_string().contains("belongs to a session"), "{said}");
        // SAFETY: both were opened above and are used by nobody else.
        unsafe {
            libc::close(master);
            libc::close(slave);
        }
    }
}
