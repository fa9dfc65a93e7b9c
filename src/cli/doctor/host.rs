//! This machine: what the kernel gives, where the folders lie, what room is left. Cheap looks only; nothing is changed.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use super::report::CheckDoc;
use crate::config::{Folders, SUN_PATH_MAX};
use crate::model::CheckResult;

/// Oldest kernel that is supported.
const KERNEL: (u32, u32) = (5, 10);
/// Free space below which the data folder counts as full.
const ROOM: u64 = 256 << 20;
/// Open files that a daemon with many sessions needs.
const FILES: u64 = 1024;
/// 2026-01-01 in seconds: a clock before it has not been set.
const CLOCK: u64 = 1_767_225_600;

/// File systems by their magic number, and whether a log can be kept on them.
const FILE_SYSTEMS: &[(u64, &str, bool)] = &[
    (0xef53, "ext4", true),
    (0x5846_5342, "xfs", true),
    (0x9123_683e, "btrfs", true),
    (0x2fc1_2fc1, "zfs", true),
    (0xf2f5_2010, "f2fs", true),
    (0x794c_7630, "overlayfs", true),
    (0x0102_1994, "tmpfs", true),
    (0xca45_1a4e, "bcachefs", true),
    (0x6969, "NFS", false),
    (0xff53_4d42, "CIFS", false),
    (0xfe53_4d42, "SMB", false),
    (0x0102_1997, "9p", false),
    (0x6573_5546, "FUSE", true),
];

/// Every check of the machine.
pub fn look(folders: &Folders) -> Vec<CheckDoc> {
    let mut out = vec![kernel(), peer_by_descriptor(), subreaper(), cgroup()];
    out.extend([socket(folders), file_system(folders), room(folders), permissions(folders), clock(), open_files(), processes()]);
    out
}

fn made(name: &str, result: CheckResult, seen: String, why: &str, next: &str) -> CheckDoc {
    let next = (result == CheckResult::Failed).then(|| next.to_owned());
    CheckDoc { name: name.to_owned(), result, seen, why: why.to_owned(), next }
}

fn good(holds: bool) -> CheckResult {
    if holds { CheckResult::Ok } else { CheckResult::Failed }
}

fn kernel() -> CheckDoc {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let why = "shims need subreapers, pidfds and posix_spawn with a session of its own";
    let next = format!("use a kernel of {}.{} or newer", KERNEL.0, KERNEL.1);
    made("kernel", good(version(&release).is_none_or(|v| v >= KERNEL)), format!("Linux {release}"), why, &next)
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Linux 6.5 gives the peer of a socket as a descriptor, which no reused pid can take the place of.
fn peer_by_descriptor() -> CheckDoc {
    const SO_PEERPIDFD: libc::c_int = 77;
    let there = std::os::unix::net::UnixStream::pair().is_ok_and(|(a, _b)| {
        use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
        let (mut fd, mut len): (libc::c_int, libc::socklen_t) = (-1, size_of::<libc::c_int>() as libc::socklen_t);
        // SAFETY: both out parameters are valid for the call, and the descriptor it gives is owned from there on.
        unsafe {
            let got = libc::getsockopt(a.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, (&raw mut fd).cast(), &raw mut len);
            if got == 0 && fd >= 0 {
                drop(OwnedFd::from_raw_fd(fd));
            }
            got == 0
        }
    });
    let seen = if there { "the kernel gives it" } else { "not there before Linux 6.5: pid and start time are compared instead" };
    made("peer_descriptor", CheckResult::Ok, seen.to_owned(), "who speaks on a socket must be told apart by who started it", "")
}

fn subreaper() -> CheckDoc {
    let there = rustix::process::child_subreaper().is_ok();
    let seen = if there { "the kernel gives it" } else { "not there" };
    made(
        "subreaper",
        good(there),
        seen.to_owned(),
        "a shim must inherit what its agent leaves behind",
        "use a kernel that has PR_SET_CHILD_SUBREAPER",
    )
}

fn cgroup() -> CheckDoc {
    let why = "with a control group of its own, a session's processes are found even where their parents are gone";
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|l| l.strip_prefix("0::")).map(|p| PathBuf::from("/sys/fs/cgroup").join(p.trim_start_matches('/')));
    let writable = |p: &Path| {
        rustix::fs::access(p, rustix::fs::Access::WRITE_OK).is_ok()
            && rustix::fs::access(p.join("cgroup.procs"), rustix::fs::Access::WRITE_OK).is_ok()
    };
    let (result, seen) = match path {
        Some(p) if writable(&p) => (CheckResult::Ok, format!("version 2, writable at {}", p.display())),
        Some(p) => {
            (CheckResult::Skipped, format!("version 2 at {}, not writable: trees are found by parents and session marker", p.display()))
        }
        None => (CheckResult::Skipped, "no version 2: trees are found by parents and session marker".to_owned()),
    };
    made("cgroup", result, seen, why, "")
}

fn socket(folders: &Folders) -> CheckDoc {
    let path = folders.socket();
    let bytes = path.as_os_str().len();
    let seen = if bytes <= SUN_PATH_MAX {
        format!("{} ({bytes} bytes)", path.display())
    } else {
        format!("{} has {bytes} bytes, over the kernel's {SUN_PATH_MAX}: it is reached by a short name", path.display())
    };
    let usable = crate::config::short_path(&path).is_ok() || !folders.runtime.exists();
    made("socket", good(usable), seen, "the command line reaches its daemon over this path", "set BEADLE_HOME to a shorter path")
}

fn file_system(folders: &Folders) -> CheckDoc {
    let at = nearest(&folders.data);
    let (why, next) = ("the log needs locks and syncs that hold", "move the data folder to a local disk (XDG_DATA_HOME or BEADLE_HOME)");
    match rustix::fs::statfs(&at) {
        Ok(s) => {
            #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)] // why: the type differs between architectures.
            let magic = s.f_type as u64 & 0xffff_ffff;
            let known = FILE_SYSTEMS.iter().find(|(m, _, _)| *m == magic);
            let name = known.map_or_else(|| format!("file system {magic:#x}"), |(_, n, _)| (*n).to_owned());
            let lost = if name == "tmpfs" { ": it does not outlive a restart of the machine" } else { "" };
            made("data_folder", good(known.is_none_or(|(_, _, ok)| *ok)), format!("{} on {name}{lost}", folders.data.display()), why, next)
        }
        Err(e) => made("data_folder", CheckResult::Failed, format!("{}: {e}", folders.data.display()), why, next),
    }
}

fn room(folders: &Folders) -> CheckDoc {
    let (why, next) = ("a full disk makes every session wait", "make room, or move the data folder");
    match rustix::fs::statvfs(nearest(&folders.data)) {
        Ok(s) => {
            let free = s.f_bavail.saturating_mul(s.f_frsize);
            made("disk_space", good(free >= ROOM), format!("{} MB free", free >> 20), why, next)
        }
        Err(e) => made("disk_space", CheckResult::Failed, e.to_string(), why, next),
    }
}

fn permissions(folders: &Folders) -> CheckDoc {
    use std::os::unix::fs::MetadataExt;
    let own = rustix::process::geteuid().as_raw();
    let all = [&folders.config, &folders.data, &folders.cache, &folders.runtime];
    let there: Vec<_> = all.iter().filter_map(|d| Some((d.display().to_string(), fs::metadata(d).ok()?))).collect();
    let open: Vec<&str> = there.iter().filter(|(_, m)| m.uid() != own || m.mode() & 0o077 != 0).map(|(d, _)| d.as_str()).collect();
    let seen = match (there.is_empty(), open.is_empty()) {
        (true, _) => "not made yet".to_owned(),
        (false, true) => format!("{} folders, all yours alone", there.len()),
        (false, false) => format!("open to others: {}", open.join(", ")),
    };
    made(
        "permissions",
        good(open.is_empty()),
        seen,
        "others must not read logs or reach the sockets",
        "chmod 700 the folders; the daemon does so when it starts",
    )
}

fn clock() -> CheckDoc {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let at = crate::model::format_ms(i64::try_from(now).unwrap_or(0) * 1000);
    made("clock", good(now >= CLOCK), at, "times in the log are this clock's (order is not)", "set the clock")
}

fn open_files() -> CheckDoc {
    let limit = getrlimit(Resource::Nofile);
    let shown = |n: Option<u64>| n.map_or("unlimited".to_owned(), |n| n.to_string());
    let seen = format!("{} now, at most {}", shown(limit.current), shown(limit.maximum));
    made("open_files", good(limit.maximum.is_none_or(|n| n >= FILES)), seen, "each live session needs some", "raise the limit (ulimit -n)")
}

fn processes() -> CheckDoc {
    let limit = getrlimit(Resource::Nproc).current;
    let seen = limit.map_or("unlimited".to_owned(), |n| n.to_string());
    made("processes", good(limit.is_none_or(|n| n >= 256)), seen, "agents start many", "raise the limit (ulimit -u)")
}

/// The folder itself, or the nearest one above it that is there.
fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        for (release, expected) in [("6.18.0-foo", Some((6, 18))), ("5.9.1", Some((5, 9))), ("x", None)] {
            assert_eq!(version(release), expected);
        }
        assert!((5, 9) < KERNEL && (5, 10) >= KERNEL && (6, 0) > KERNEL);
    }

    #[test]
    fn a_folder_that_is_not_there_is_judged_by_the_one_above() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(nearest(&dir.path().join("a/b/c")), dir.path());
        let home = dir.path().join("home");
        let folders = Folders { config: home.join("c"), data: home.join("d"), cache: home.join("k"), runtime: home.join("r") };
        let checks = look(&folders);
        assert!(checks.len() >= 10);
        assert!(checks.iter().all(|c| !c.seen.is_empty() && !c.why.is_empty() && c.next.is_some() == (c.result == CheckResult::Failed)));
        fs::create_dir_all(&folders.data).expect("a folder");
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&folders.data, fs::Permissions::from_mode(0o755)).expect("a mode");
        let open = look(&folders).into_iter().find(|c| c.name == "permissions").expect("the check");
        assert_eq!(open.result, CheckResult::Failed, "{}", open.seen);
    }
}
