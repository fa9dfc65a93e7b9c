//! Starting the daemon on demand: this executable again, detached, with a clean environment and no inherited descriptors.
//!
//! Two starters at once do no harm: the daemon holds a lock, the later one ends, and both callers find the one socket.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use tokio::net::UnixStream;

use super::{Error, Result, connect_any};
use crate::config::Folders;

/// How long a daemon may take to listen.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// How long to look on when ours has ended: another starter's may be coming up, or an older one going down.
const OTHER_DEADLINE: Duration = Duration::from_millis(500);
/// Pause between two tries to connect.
const RETRY: Duration = Duration::from_millis(5);
/// Variables that the daemon gets, beside `XDG_*`, `LC_*` and `BEADLE_*`.
const KEPT: &[&str] = &["PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "RUST_BACKTRACE"];
/// In the last words of a daemon that found the data folder held: the one fault that starting again can mend.
const IN_USE: &str = "BDL-STORE-003";
/// Marks processes of a session; a daemon must never carry it.
const MARKER: &str = "BEADLE_SESSION";

/// Starts it and waits until it listens. Refused inside a session, where it would be part of the session's own tree.
pub async fn daemon(folders: &Folders) -> Result<UnixStream> {
    let program = std::env::current_exe().map_err(|e| not_started(folders, Duration::ZERO, &format!(": {e}")))?;
    daemon_of(folders, &program, &mut None, START_DEADLINE).await
}

/// The same with another executable, as long as it lives and at most so long; the process that was started last is put into `started`,
/// whether it came up or not.
pub async fn daemon_of(folders: &Folders, program: &Path, started: &mut Option<Child>, within: Duration) -> Result<UnixStream> {
    if std::env::var_os(MARKER).is_some() {
        let source = std::io::Error::other("none is started from inside a session");
        return Err(Error::Unreachable { socket: folders.socket(), source });
    }
    folders.create()?;
    let (child, mut from) = spawn(folders, program).map_err(|e| not_started(folders, Duration::ZERO, &format!(": {e}")))?;
    let mut child = started.insert(child);
    let begun = Instant::now();
    let mut ended = None;
    loop {
        match connect_any(folders).await {
            Err(Error::Unreachable { .. }) => {}
            other => return other,
        }
        if ended.is_none()
            && let Ok(Some(status)) = child.try_wait()
        {
            ended = Some((status, Instant::now()));
        }
        if begun.elapsed() >= within {
            let how = ended.map_or_else(String::new, |(s, _)| format!(": it ended with {s}{}", tail(&folders.log_file(), from)));
            return Err(not_started(folders, begun.elapsed(), &how));
        }
        // why again: the data folder may have been held by a daemon that was still ending.
        if let Some((status, at)) = ended
            && at.elapsed() >= OTHER_DEADLINE
        {
            if !recent(&folders.log_file(), from).contains(IN_USE) {
                return Err(not_started(folders, begun.elapsed(), &format!(": it ended with {status}{}", tail(&folders.log_file(), from))));
            }
            let next = spawn(folders, program).map_err(|e| not_started(folders, begun.elapsed(), &format!(": {e}")))?;
            (child, from) = (started.insert(next.0), next.1);
            ended = None;
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn not_started(folders: &Folders, waited: Duration, detail: &str) -> Error {
    Error::NotStarted { seconds: waited.as_secs(), detail: detail.to_owned(), log: folders.log_file() }
}

/// Also gives how long the log was before.
fn spawn(folders: &Folders, program: &Path) -> std::io::Result<(Child, u64)> {
    close_on_exec();
    // What it says before its own log is open, and a panic, land there too.
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(folders.log_file())?;
    let before = log.metadata()?.len();
    let child = Command::new(program)
        .args(["daemon", "--detach"])
        .env_clear()
        .envs(environment(std::env::vars_os()))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    Ok((child, before))
}

fn environment(vars: impl Iterator<Item = (OsString, OsString)>) -> impl Iterator<Item = (OsString, OsString)> {
    vars.filter(|(name, _)| {
        name.to_str().is_some_and(|n| n != MARKER && (KEPT.contains(&n) || ["XDG_", "LC_", "BEADLE_"].iter().any(|p| n.starts_with(p))))
    })
}

/// Marks every descriptor from 3 up close-on-exec: what our own parent left open must not live in a daemon.
fn close_on_exec() {
    let Ok(dir) = fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> = dir.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(|fd| *fd > 2).collect();
    for fd in open {
        // SAFETY: the number was listed as open; it is borrowed for two calls that read and set a flag, and a number that was closed meanwhile only makes them fail.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        if let Ok(flags) = fcntl_getfd(fd) {
            let _ = fcntl_setfd(fd, flags | FdFlags::CLOEXEC);
        }
    }
}

/// The last words of the log, of those from this offset on: what stands before them, another process said. All of one that was rotated since.
fn recent(log: &Path, from: u64) -> String {
    const MAX: u64 = 2048;
    let read = || -> std::io::Result<String> {
        let mut file = fs::File::open(log)?;
        let size = file.metadata()?.len();
        let from = if from > size { 0 } else { from };
        file.seek(SeekFrom::Start(size.saturating_sub(MAX).max(from)))?;
        let mut bytes = Vec::new();
        file.take(MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

/// The last line of the log, for the error.
fn tail(log: &Path, from: u64) -> String {
    let text = recent(log, from);
    let line = text.lines().rev().find(|l| !l.trim().is_empty());
    line.map_or_else(String::new, |l| format!(", saying: {l}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_daemon_said_is_no_word_of_this_one() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, format!("taken [{IN_USE}]\n")).unwrap();
        let from = log.metadata().unwrap().len();
        assert_eq!((recent(&log, from), tail(&log, from)), (String::new(), String::new()));
        fs::write(&log, format!("taken [{IN_USE}]\nnew\n")).unwrap();
        assert_eq!((recent(&log, from), tail(&log, from)), ("new\n".to_owned(), ", saying: new".to_owned()));
        assert!(recent(&log, 1 << 20).contains(IN_USE), "the file is another one by now");
    }

    #[test]
    fn the_daemon_gets_a_clean_environment() {
        let vars = ["PATH", "LD_PRELOAD", "XDG_DATA_HOME", "BEADLE_HOME", "BEADLE_SESSION", "ANTHROPIC_API_KEY"];
        let kept: Vec<_> = environment(vars.iter().map(|v| (OsString::from(v), OsString::new()))).map(|(n, _)| n).collect();
        assert_eq!(kept, ["PATH", "XDG_DATA_HOME", "BEADLE_HOME"]);
    }
}
