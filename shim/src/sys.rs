//! The few system calls the shim needs, as functions that return errno. Called by every file of the package.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// An error number of the kernel.
pub type Errno = i32;

pub fn errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// The kernel's `-1` as an error.
pub fn check(result: libc::c_int) -> Result<libc::c_int, Errno> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

fn count(result: libc::ssize_t) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| errno())
}

fn owned(fd: libc::c_int) -> Result<OwnedFd, Errno> {
    // SAFETY: the descriptor was just made by the kernel and belongs to nobody else.
    check(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reads once; interrupted reads are repeated.
pub fn read(fd: RawFd, buf: &mut [u8]) -> Result<usize, Errno> {
    loop {
        // SAFETY: the buffer is valid for its length.
        match count(unsafe { libc::read(fd, buf.as_mut_ptr().cast(), buf.len()) }) {
            Err(libc::EINTR) => {}
            r => return r,
        }
    }
}

/// Writes once; interrupted writes are repeated.
pub fn write(fd: RawFd, buf: &[u8]) -> Result<usize, Errno> {
    loop {
        // SAFETY: the buffer is valid for its length.
        match count(unsafe { libc::write(fd, buf.as_ptr().cast(), buf.len()) }) {
            Err(libc::EINTR) => {}
            r => return r,
        }
    }
}

/// Writes all to a blocking descriptor; `false` when it could not.
pub fn write_all_to(fd: RawFd, mut buf: &[u8]) -> bool {
    while !buf.is_empty() {
        match write(fd, buf) {
            Ok(0) | Err(_) => return false,
            Ok(n) => buf = &buf[n..],
        }
    }
    true
}

/// A pair of connected stream sockets, closed on exec.
pub fn socketpair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for the two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()) })?;
    Ok((owned(fds[0])?, owned(fds[1])?))
}

pub fn open(path: &CStr, flags: libc::c_int) -> Result<OwnedFd, Errno> {
    openat(libc::AT_FDCWD, path, flags)
}

/// Opens relative to a folder, closed on exec; new files are 0600.
pub fn openat(dir: RawFd, path: &CStr, flags: libc::c_int) -> Result<OwnedFd, Errno> {
    // SAFETY: the path ends with NUL.
    owned(unsafe { libc::openat(dir, path.as_ptr(), flags | libc::O_CLOEXEC, 0o600) })
}

/// A copy with a number of at least 3, closed on exec.
pub fn dup_high(fd: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: plain call on a number.
    owned(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) })
}

pub fn dup_onto(fd: RawFd, number: RawFd) -> Result<(), Errno> {
    // SAFETY: plain call on numbers; the standard descriptors are nobody's `OwnedFd`.
    check(unsafe { libc::dup2(fd, number) }).map(drop)
}

pub fn set_nonblocking(fd: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: plain call on a valid descriptor.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }).map(drop)
}

pub fn unlinkat(dir: RawFd, name: &CStr) -> Result<(), Errno> {
    // SAFETY: the name ends with NUL.
    check(unsafe { libc::unlinkat(dir, name.as_ptr(), 0) }).map(drop)
}

/// Whether a folder has no name any more.
pub fn is_removed(dir: &OwnedFd) -> bool {
    // SAFETY: all zeros is a valid structure, and the call may write to it.
    unsafe {
        let mut s: libc::stat = std::mem::zeroed();
        libc::fstat(dir.as_raw_fd(), &mut s) == 0 && s.st_nlink == 0
    }
}

pub fn fsync(fd: RawFd) -> Result<(), Errno> {
    // SAFETY: plain call on a valid descriptor.
    check(unsafe { libc::fsync(fd) }).map(drop)
}

pub fn prctl(option: libc::c_int, arg: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: only options without pointers are used.
    check(unsafe { libc::prctl(option, arg, 0, 0, 0) }).map(drop)
}

/// Waits for events; `timeout_ms` -1 is for ever. An interrupted wait is an empty one.
pub fn poll(fds: &mut [libc::pollfd], timeout_ms: libc::c_int) -> usize {
    // SAFETY: the slice is valid for its length.
    usize::try_from(unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms) }).unwrap_or(0)
}

fn clock_ms(clock: libc::clockid_t) -> i64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is valid to write; both clocks used exist on every supported kernel.
    unsafe { libc::clock_gettime(clock, &mut t) };
    t.tv_sec * 1000 + t.tv_nsec / 1_000_000
}

/// Milliseconds since boot, sleep included.
pub fn boot_ms() -> u64 {
    clock_ms(libc::CLOCK_BOOTTIME).unsigned_abs()
}

/// Milliseconds since the Unix epoch.
pub fn wall_ms() -> i64 {
    clock_ms(libc::CLOCK_REALTIME)
}

/// A Unix socket address; a path over 107 bytes is refused with ENAMETOOLONG.
pub fn unix_address(path: &[u8]) -> Result<(libc::sockaddr_un, libc::socklen_t), Errno> {
    // SAFETY: all zeros is a valid address structure.
    let mut a: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    a.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if path.len() >= a.sun_path.len() {
        return Err(libc::ENAMETOOLONG);
    }
    for (to, from) in a.sun_path.iter_mut().zip(path) {
        *to = *from as libc::c_char;
    }
    let len = std::mem::offset_of!(libc::sockaddr_un, sun_path) + path.len() + 1;
    Ok((a, len as libc::socklen_t))
}

/// A new stream socket, closed on exec and not blocking.
pub fn unix_socket() -> Result<OwnedFd, Errno> {
    // SAFETY: plain call.
    owned(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) })
}

pub fn accept(listener: &OwnedFd) -> Result<OwnedFd, Errno> {
    // SAFETY: null addresses are allowed.
    owned(unsafe {
        libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
    })
}

/// A descriptor for a process, if it still exists.
pub fn pidfd_open(pid: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: plain call on numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    owned(fd as libc::c_int)
}

pub fn pidfd_signal(pidfd: &OwnedFd, signal: libc::c_int) -> Result<(), Errno> {
    // SAFETY: a null siginfo is allowed.
    let r = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0) };
    check(r as libc::c_int).map(drop)
}

/// A fixed buffer whose pages go back to the kernel when it is not needed: an idle shim stays small.
pub struct Scratch {
    base: *mut u8,
    used: bool,
}

/// Bytes read at a time.
pub const SCRATCH: usize = 64 << 10;

impl Scratch {
    pub fn new() -> Result<Self, Errno> {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh anonymous mapping; nothing else is there.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), SCRATCH, prot, flags, -1, 0) };
        if base == libc::MAP_FAILED { Err(errno()) } else { Ok(Self { base: base.cast(), used: false }) }
    }

    pub fn buf(&mut self) -> &mut [u8] {
        self.used = true;
        // SAFETY: the mapping is SCRATCH bytes long, lives as long as the process, and `&mut self` makes this the only view.
        unsafe { std::slice::from_raw_parts_mut(self.base, SCRATCH) }
    }

    pub fn is_used(&self) -> bool {
        self.used
    }

    pub fn release(&mut self) {
        // SAFETY: the range is our own anonymous mapping; its content is not needed between reads.
        unsafe { libc::madvise(self.base.cast(), SCRATCH, libc::MADV_DONTNEED) };
        self.used = false;
    }
}
