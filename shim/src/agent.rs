//! Forks the agent and confines it before exec.
//!
//! Invariants:
//! - the agent dies with the shim (parent-death signal, checked against a shim that died first);
//! - it has its own process group, default signals, no core files, no descriptor but its three, no new privileges;
//! - capabilities that reach into other processes or the kernel are out of its bounding and inheritable sets (see [`DROPPED`]);
//! - exec's errno comes back over a socket that exec closes: *no byte* means *it runs*.
//!
//! Called by `setup`.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::sys::{self, Errno};
use crate::wire::{Failure, Stage};

/// Capabilities taken from the agent, by number. Left are those of ordinary root work (files, users, network, mknod, chroot:
/// what `apt` needs). SYS_ADMIN is among the dropped because it contains BPF and PERFMON, which read and change other
/// processes' memory; so a root agent cannot mount. It still can in a user namespace of its own.
pub const DROPPED: [u32; 16] = [
    16, // SYS_MODULE
    17, // SYS_RAWIO
    19, // SYS_PTRACE
    20, // SYS_PACCT
    21, // SYS_ADMIN
    22, // SYS_BOOT
    25, // SYS_TIME
    26, // SYS_TTY_CONFIG
    30, // AUDIT_CONTROL
    32, // MAC_OVERRIDE
    33, // MAC_ADMIN
    34, // SYSLOG
    37, // AUDIT_READ
    38, // PERFMON
    39, // BPF
    40, // CHECKPOINT_RESTORE
];

/// All that the child needs, made before the fork.
pub struct Plan {
    /// Files to try in turn, as a `PATH` look-up gives them.
    pub programs: Vec<CString>,
    pub argv: Vec<CString>,
    pub env: Vec<CString>,
    pub cwd: CString,
    pub umask: u32,
    pub stdio: [OwnedFd; 3],
}

/// Forks and waits until the program runs or could not be executed. Gives the child's number.
pub fn start(plan: &Plan) -> Result<libc::pid_t, Failure> {
    let failed = |errno| Failure { stage: Stage::Fork, errno };
    let (ours, theirs) = sys::socketpair().map_err(failed)?;
    // SAFETY: one thread, so the child may do anything that the parent may.
    let parent = unsafe { libc::getpid() };
    // SAFETY: as above.
    match unsafe { libc::fork() } {
        -1 => Err(failed(sys::errno())),
        0 => {
            let (stage, errno) = become_agent(plan, parent);
            let mut word = [0u8; 5];
            word[0] = stage as u8;
            word[1..].copy_from_slice(&errno.to_le_bytes());
            sys::write_all_to(theirs.as_raw_fd(), &word);
            // SAFETY: ends the child without running the parent's exit code.
            unsafe { libc::_exit(127) }
        }
        pid => {
            drop(theirs);
            let mut word = [0u8; 5];
            let mut got = 0;
            while let Ok(n @ 1..) = sys::read(ours.as_raw_fd(), &mut word[got..]) {
                got += n;
            }
            if got == 0 {
                return Ok(pid);
            }
            // SAFETY: plain call; the child is ours and is ending.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            let stage = match word[0] {
                n if n == Stage::Cwd as u8 => Stage::Cwd,
                n if n == Stage::Exec as u8 => Stage::Exec,
                _ => Stage::Confine,
            };
            Err(Failure { stage, errno: i32::from_le_bytes([word[1], word[2], word[3], word[4]]) })
        }
    }
}

/// Runs in the child; returns only on failure.
fn become_agent(plan: &Plan, parent: libc::pid_t) -> (Stage, Errno) {
    if let Err(e) = confine(plan, parent) {
        return (Stage::Confine, e);
    }
    // SAFETY: the path ends with NUL.
    if let Err(e) = sys::check(unsafe { libc::chdir(plan.cwd.as_ptr()) }) {
        return (Stage::Cwd, e);
    }
    // SAFETY: plain call.
    unsafe { libc::umask(plan.umask & 0o777) };
    let argv = pointers(&plan.argv);
    let env = pointers(&plan.env);
    let mut errno = libc::ENOENT;
    for program in &plan.programs {
        // SAFETY: path, argv and env end with NUL, the arrays with a null pointer.
        unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
        match sys::errno() {
            // As execvp does: look on, but remember that something was there.
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => errno = libc::EACCES,
            other => return (Stage::Exec, other),
        }
    }
    (Stage::Exec, errno)
}

fn confine(plan: &Plan, parent: libc::pid_t) -> Result<(), Errno> {
    // SAFETY: plain calls on numbers.
    unsafe { sys::check(libc::setpgid(0, 0))? };
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)?;
    // SAFETY: plain calls; a parent that died before the line above would never be noticed.
    unsafe {
        if libc::getppid() != parent {
            libc::_exit(125);
        }
    }
    for (number, fd) in (0..).zip(&plan.stdio) {
        sys::dup_onto(fd.as_raw_fd(), number as RawFd)?;
    }
    default_signals();
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` is a valid limit.
    sys::check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) })?;
    drop_capabilities()?;
    // SAFETY: plain call.
    sys::check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map(drop)
}

/// The shim ignores and blocks signals; the agent must not inherit that.
fn default_signals() {
    // SAFETY: a zeroed set is valid for sigemptyset; SIG_DFL is always a valid handler.
    unsafe {
        for s in crate::setup::IGNORED.iter().chain(&crate::setup::TAKEN) {
            libc::signal(*s, libc::SIG_DFL);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// For an ordinary user there is nothing to drop, and `no_new_privs` keeps it so.
fn drop_capabilities() -> Result<(), Errno> {
    for cap in DROPPED {
        match sys::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(cap)) {
            // Not root; or a kernel that does not have this one.
            Ok(()) | Err(libc::EPERM | libc::EINVAL) => {}
            Err(e) => return Err(e),
        }
    }
    // Exec as root keeps what is inheritable even when it is out of the bounding set.
    let mut head = CapHeader { version: 0x2008_0522, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 of the interface has two data words.
    sys::check(unsafe { libc::syscall(libc::SYS_capget, &raw mut head, data.as_mut_ptr()) } as libc::c_int)?;
    for cap in DROPPED {
        data[(cap / 32) as usize].inheritable &= !(1 << (cap % 32));
    }
    // SAFETY: as above.
    sys::check(unsafe { libc::syscall(libc::SYS_capset, &raw mut head, data.as_ptr()) } as libc::c_int).map(drop)
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}
