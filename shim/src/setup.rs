//! From the spec on the launch socket to a running agent: lock, socket, stdio, fork.
//!
//! Invariants:
//! - a run folder serves one shim ever: the lock file must not exist before;
//! - the lock is an open-file-description lock: it ends with the process, however that ends;
//! - the launch socket becomes the first daemon connection, so a launch needs no second round trip.
//!
//! Called by the session loop once.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use crate::agent::{self, Plan};
use crate::input::Input;
use crate::link;
use crate::oom;
use crate::segment::Segments;
use crate::stream::Stream;
use crate::sys::{self, Errno};
use crate::tree;
use crate::wire::{self, Failure, ProcessId, Spec, Stage};

/// Signals that mean nothing to a shim.
pub const IGNORED: [libc::c_int; 10] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGPIPE,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGXFSZ,
];
/// Signals that the loop takes from a descriptor: a child ended; the machine shuts down.
pub const TAKEN: [libc::c_int; 2] = [libc::SIGCHLD, libc::SIGTERM];

/// A running agent and all that belongs to it.
pub struct Running {
    pub spec: Spec,
    pub dir: Rc<OwnedFd>,
    /// Held for its lock.
    pub _lock: OwnedFd,
    pub listener: OwnedFd,
    pub signals: OwnedFd,
    pub input: Input,
    pub shim: ProcessId,
    pub agent: ProcessId,
    pub started_boot_ms: u64,
}

/// Takes the launch socket from stdin; stdin and stdout become `/dev/null`.
pub fn take_launch_socket() -> Result<OwnedFd, Errno> {
    // SAFETY: nothing of ours is open yet above the standard descriptors. An old kernel says ENOSYS: the daemon closes on exec anyway.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    let socket = sys::dup_high(0)?;
    let null = sys::open(c"/dev/null", libc::O_RDWR)?;
    sys::dup_onto(null.as_raw_fd(), 0)?;
    sys::dup_onto(null.as_raw_fd(), 1)?;
    Ok(socket)
}

/// Reads the spec and starts the agent; gives its stdout and stderr besides.
pub fn start(socket: &OwnedFd) -> Result<(Running, Stream, Stream), Failure> {
    let at = |stage| move |errno| Failure { stage, errno };
    let spec = read_spec(socket).map_err(at(Stage::Spec))?;
    // SAFETY: plain call.
    unsafe { libc::umask(0o077) };
    let signals = take_signals().map_err(at(Stage::Other))?;
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1).map_err(at(Stage::Other))?;
    let dir = open_dir(&spec.run_dir).map_err(at(Stage::RunDir))?;
    let lock = take_lock(&dir).map_err(at(Stage::Lock))?;
    let path = [&spec.run_dir[..], b"/", wire::SOCKET_FILE.as_bytes()].concat();
    let listener = link::listen(&dir, &path).map_err(at(Stage::Socket))?;
    let own = oom::Own::take();
    // After the socket is made: `/proc/self` of a process that is not dumpable belongs to root.
    sys::prctl(libc::PR_SET_DUMPABLE, 0).map_err(at(Stage::Other))?;

    let sockets = || sys::socketpair().map_err(at(Stage::Socket));
    let (stdin, agent_in) = match spec.keep_stdin {
        true => sockets().map(|(a, b)| (Some(a), b))?,
        false => (None, sys::open(c"/dev/null", libc::O_RDONLY).map_err(at(Stage::Socket))?),
    };
    let (out, agent_out) = sockets()?;
    let (err, agent_err) = sockets()?;
    for fd in [Some(&out), Some(&err), stdin.as_ref(), Some(socket)].into_iter().flatten() {
        sys::set_nonblocking(fd).map_err(at(Stage::Socket))?;
    }
    let plan = plan(&spec, [agent_in, agent_out, agent_err]).map_err(at(Stage::Spec))?;
    let started_boot_ms = sys::boot_ms();
    let pid = oom::raised(own.as_ref(), || agent::start(&plan))?;
    drop(plan);

    let shim = identity(std::process::id());
    let agent = identity(pid.unsigned_abs());
    // For people who look into the folder; nothing reads it back.
    sys::write_all_to(lock.as_raw_fd(), format!("shim {} agent {}\n", shim.pid, agent.pid).as_bytes());
    let input = Input::new(stdin);
    // What was needed once is given back: the spec's strings can be megabytes.
    let spec = Spec { args: Vec::new(), env: Vec::new(), ..spec };
    let dir = Rc::new(dir);
    let stream = |fd, prefix| Stream::new(fd, Segments::new(Rc::clone(&dir), prefix, spec.limits.segment_bytes));
    let (out, err) = (stream(out, "out"), stream(err, "err"));
    Ok((Running { spec, dir, _lock: lock, listener, signals, input, shim, agent, started_boot_ms }, out, err))
}

fn identity(pid: u32) -> ProcessId {
    // A child that is not waited for keeps its entry, so this fails only where /proc is not mounted.
    tree::stat(pid).map_or(ProcessId { pid, start: 0 }, |s| s.id)
}

fn read_spec(socket: &OwnedFd) -> Result<Spec, Errno> {
    let fd = socket.as_raw_fd();
    let mut head = [0u8; 4];
    read_exact(fd, &mut head)?;
    let n = u32::from_le_bytes(head) as usize;
    if n > wire::MAX_SPEC {
        return Err(libc::E2BIG);
    }
    let mut block = vec![0u8; n];
    read_exact(fd, &mut block)?;
    Spec::decode(&block).map_err(|_| libc::EBADMSG)
}

fn read_exact(fd: RawFd, mut buf: &mut [u8]) -> Result<(), Errno> {
    while !buf.is_empty() {
        match sys::read(fd, buf)? {
            0 => return Err(libc::ECONNRESET),
            n => buf = &mut buf[n..],
        }
    }
    Ok(())
}

fn take_signals() -> Result<OwnedFd, Errno> {
    use std::os::fd::FromRawFd;
    // SAFETY: a zeroed set is valid for sigemptyset; SIG_IGN is always a valid handler; the new descriptor is ours alone.
    unsafe {
        for s in IGNORED {
            libc::signal(s, libc::SIG_IGN);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for s in TAKEN {
            libc::sigaddset(&mut set, s);
        }
        sys::check(libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut()))?;
        let fd = sys::check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn open_dir(path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = CString::new(path).map_err(|_| libc::EINVAL)?;
    sys::open(&path, libc::O_RDONLY | libc::O_DIRECTORY)
}

fn take_lock(dir: &OwnedFd) -> Result<OwnedFd, Errno> {
    let fd = sys::openat(dir.as_raw_fd(), c"lock", libc::O_RDWR | libc::O_CREAT | libc::O_EXCL)?;
    // SAFETY: all zeros is a valid lock description: the whole file, pid 0 as the call demands.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    // SAFETY: `lock` is valid.
    sys::check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &lock) })?;
    Ok(fd)
}

fn plan(spec: &Spec, stdio: [OwnedFd; 3]) -> Result<Plan, Errno> {
    let c = |b: &[u8]| CString::new(b).map_err(|_| libc::EINVAL);
    let path = spec.env.iter().find(|(k, _)| k == b"PATH").map_or(&b"/usr/local/bin:/usr/bin:/bin"[..], |(_, v)| v);
    let programs = if spec.program.contains(&b'/') {
        vec![c(&spec.program)?]
    } else {
        let file = |dir: &[u8]| if dir.is_empty() { c(&spec.program) } else { c(&[dir, b"/", &spec.program].concat()) };
        path.split(|b| *b == b':').map(file).collect::<Result<_, _>>()?
    };
    let argv = std::iter::once(&spec.program).chain(&spec.args).map(|a| c(a)).collect::<Result<_, _>>()?;
    let marker = (wire::MARKER_ENV.as_bytes().to_vec(), spec.marker.clone());
    let env = spec
        .env
        .iter()
        .filter(|(k, _)| *k != marker.0)
        .chain([&marker])
        .map(|(k, v)| c(&[k, &b"="[..], v].concat()))
        .collect::<Result<_, _>>()?;
    Ok(Plan { programs, argv, env, cwd: c(&spec.cwd)?, umask: spec.umask, stdio })
}
