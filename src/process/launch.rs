//! Starts a shim by posix_spawn: no fork of the daemon's address space, so the cost does not grow with it.
//!
//! Invariants:
//! - the shim starts in a session of its own with default signals, an empty environment and no descriptor of ours;
//! - the launch socket carries the spec in, the answer out, and then is the first connection;
//! - each shim we started is waited for when it ends, so none stays a zombie.
//!
//! Called by [`super::Shim::launch`].

use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::process::{PidfdFlags, WaitId, WaitIdOptions};
use tokio::io::AsyncWriteExt;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use super::client::{self, ShimEvents, ShimHandle};
use super::{Error, LaunchSpec, Result};
use crate::wire::{Failure, FromShim, LOCK_FILE, Stage};

/// How long a shim may take to say that its agent runs.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// What the shim itself prints (nothing, unless it panics).
const SHIM_LOG: &str = "shim.log";

pub(super) async fn launch(shim_bin: &Path, spec: &LaunchSpec) -> Result<(ShimHandle, ShimEvents)> {
    let block = spec.to_wire()?;
    prepare(&spec.run_dir)?;
    let log_path = spec.run_dir.join(SHIM_LOG);
    let log = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path);
    let log = log.map_err(Error::file("open", &log_path))?;
    let spawn_error = |source| Error::Spawn { shim: shim_bin.to_owned(), source };
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(spawn_error)?;
    ours.set_nonblocking(true).map_err(spawn_error)?;
    // Most specs fit into the socket's buffer: then the shim need not wait for us.
    let framed = [&u32::try_from(block.len()).unwrap_or(u32::MAX).to_le_bytes()[..], &block].concat();
    let sent = (&ours).write(&framed).map_err(spawn_error)?;
    let pid = spawn(shim_bin, theirs.as_raw_fd(), log.as_raw_fd()).map_err(spawn_error)?;
    drop(theirs);
    let reaper = Reaper::new(pid).map_err(spawn_error)?;

    let mut stream = UnixStream::from_std(ours).map_err(spawn_error)?;
    let answer = tokio::time::timeout(ANSWER_WITHIN, async {
        stream.write_all(&framed[sent..]).await?;
        client::read_first(&mut stream).await
    })
    .await;
    match answer {
        Ok(Ok(FromShim::Status(status))) => {
            reaper.watch();
            Ok(client::connect(stream, status, spec.run_dir.clone()))
        }
        Ok(Ok(FromShim::Failed(failure))) => {
            reaper.watch();
            Err(explain(failure, spec))
        }
        Ok(Ok(_)) => Err(spawn_error(reaper.end(io::ErrorKind::InvalidData.into()))),
        Ok(Err(e)) => Err(spawn_error(reaper.end(e))),
        Err(_) => {
            reaper.end(io::ErrorKind::TimedOut.into());
            Err(Error::NoAnswer { waited_ms: ANSWER_WITHIN.as_millis() as u64, log: log_path })
        }
    }
}

/// Whether a shim may ever have been started there: its log is made before.
pub fn was_tried(run_dir: &Path) -> bool {
    run_dir.join(SHIM_LOG).symlink_metadata().is_ok()
}

fn prepare(run_dir: &Path) -> Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(run_dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if run_dir.join(LOCK_FILE).exists() {
                Err(Error::Used(run_dir.to_owned()))
            } else {
                Ok(())
            }
        }
        Err(e) => Err(Error::file("make the run folder", run_dir)(e)),
    }
}

fn explain(failure: Failure, spec: &LaunchSpec) -> Error {
    let source = io::Error::from_raw_os_error(failure.errno);
    let program = spec.program.clone();
    match (failure.stage, failure.errno) {
        (Stage::Exec, libc::ENOENT | libc::ENOTDIR) if !has_file(spec) => Error::ProgramMissing { program, cwd: spec.cwd.clone() },
        (Stage::Exec, _) => Error::ProgramRefused { program, source },
        (Stage::Cwd, _) => Error::BadCwd { cwd: spec.cwd.clone(), source },
        (Stage::Lock, libc::EEXIST) => Error::Used(spec.run_dir.clone()),
        (stage, _) => Error::Launch { stage, run_dir: spec.run_dir.clone(), source },
    }
}

/// ENOENT of a file that is there means that its interpreter is missing.
fn has_file(spec: &LaunchSpec) -> bool {
    spec.program.as_os_str().as_bytes().contains(&b'/') && spec.cwd.join(&spec.program).exists()
}

/// posix_spawn with a session of its own: stdin is the launch socket, stdout `/dev/null`, stderr the log.
fn spawn(shim_bin: &Path, socket: RawFd, log: RawFd) -> io::Result<libc::pid_t> {
    let path = CString::new(shim_bin.as_os_str().as_bytes())?;
    let argv = [c"beadle-shim".as_ptr().cast_mut(), c"session".as_ptr().cast_mut(), std::ptr::null_mut()];
    let env = [std::ptr::null_mut::<libc::c_char>()];
    let ok = |r: libc::c_int| if r == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(r)) };
    // SAFETY: attributes and actions are initialised before use and destroyed after; all pointers outlive the calls.
    unsafe {
        let mut actions: libc::posix_spawn_file_actions_t = std::mem::zeroed();
        let mut attr: libc::posix_spawnattr_t = std::mem::zeroed();
        ok(libc::posix_spawn_file_actions_init(&mut actions))?;
        ok(libc::posix_spawnattr_init(&mut attr))?;
        let mut none: libc::sigset_t = std::mem::zeroed();
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigfillset(&mut all);
        let flags = libc::POSIX_SPAWN_SETSID as libc::c_short
            | libc::POSIX_SPAWN_SETSIGMASK as libc::c_short
            | libc::POSIX_SPAWN_SETSIGDEF as libc::c_short;
        let mut pid = 0;
        let result = ok(libc::posix_spawnattr_setflags(&mut attr, flags))
            .and_then(|()| ok(libc::posix_spawnattr_setsigmask(&mut attr, &none)))
            .and_then(|()| ok(libc::posix_spawnattr_setsigdefault(&mut attr, &all)))
            .and_then(|()| ok(libc::posix_spawn_file_actions_adddup2(&mut actions, socket, 0)))
            .and_then(|()| ok(libc::posix_spawn_file_actions_addopen(&mut actions, 1, c"/dev/null".as_ptr(), libc::O_WRONLY, 0)))
            .and_then(|()| ok(libc::posix_spawn_file_actions_adddup2(&mut actions, log, 2)))
            .and_then(|()| {
                // Another thread's fork can hold a freshly written executable open for a moment.
                for _ in 0..50 {
                    match libc::posix_spawn(&mut pid, path.as_ptr(), &actions, &attr, argv.as_ptr(), env.as_ptr()) {
                        libc::ETXTBSY => std::thread::sleep(Duration::from_millis(2)),
                        r => return ok(r),
                    }
                }
                ok(libc::ETXTBSY)
            });
        libc::posix_spawnattr_destroy(&mut attr);
        libc::posix_spawn_file_actions_destroy(&mut actions);
        result.map(|()| pid)
    }
}

/// Waits for one shim through its pidfd.
struct Reaper(OwnedFd);

impl Reaper {
    /// The child is ours and not waited for yet, so its number cannot have been reused.
    fn new(pid: libc::pid_t) -> io::Result<Self> {
        let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self(rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?))
    }

    /// Waits in the background, for as long as the shim lives.
    fn watch(self) {
        tokio::spawn(async move {
            // SAFETY: an `OwnedFd` stays the same open descriptor until it is dropped.
            let Ok(fd) = (unsafe { AsyncFd::register_with_interest(self.0, tokio::io::Interest::READABLE) }) else { return };
            if fd.readable().await.is_ok() {
                // It is a zombie now; an error means that somebody else waited for it.
                let _ = rustix::process::waitid(WaitId::PidFd(fd.get_ref().as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
            }
        });
    }

    /// Kills a shim that never got to its agent, or whose agent dies with it.
    fn end(self, why: io::Error) -> io::Error {
        // An error means that it is gone already.
        let _ = rustix::process::pidfd_send_signal(&self.0, rustix::process::Signal::KILL);
        self.watch();
        why
    }
}

/// Connects to a socket whose path may be longer than an address holds. A full queue is an error, never a wait.
pub(super) async fn connect_path(dir: &Path, name: &str) -> io::Result<tokio::net::UnixStream> {
    let whole = dir.join(name);
    if whole.as_os_str().len() < 108 {
        return tokio::net::UnixStream::connect(whole).await;
    }
    // SAFETY: the descriptor, if there is one, was just made for us.
    let fd = unsafe {
        let path = CString::new(dir.as_os_str().as_bytes())?;
        match libc::open(path.as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) {
            -1 => return Err(io::Error::last_os_error()),
            fd => OwnedFd::from_raw_fd(fd),
        }
    };
    tokio::net::UnixStream::connect(format!("/proc/self/fd/{}/{name}", fd.as_raw_fd())).await
}
