//! Not part of the test binary: built by the tests as a library and preloaded into a daemon, whose disk it spoils.
//!
//! Files in the folder `BEADLE_TEST_DISK` say how, while they are there: `full` (every write below `BEADLE_HOME` fails for want of
//! space), and for the database's files alone `db-full`, `db-broken` (an I/O error), `db-hung` (held until the file has gone),
//! `db-slow` (20 ms each). The file `met` shows that some call was spoilt.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::sync::OnceLock;

const EIO: c_int = 5;
const ENOSPC: c_int = 28;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn readlink(path: *const c_char, buf: *mut c_char, size: usize) -> isize;
    fn access(path: *const c_char, mode: c_int) -> c_int;
    fn creat(path: *const c_char, mode: u32) -> c_int;
    fn close(fd: c_int) -> c_int;
    fn usleep(us: u32) -> c_int;
    fn __errno_location() -> *mut c_int;
}

struct Ways {
    home: Vec<u8>,
    full: CString,
    db_full: CString,
    db_broken: CString,
    db_hung: CString,
    db_slow: CString,
    met: CString,
}

fn ways() -> Option<&'static Ways> {
    static WAYS: OnceLock<Option<Ways>> = OnceLock::new();
    let make = || {
        let dir = std::env::var("BEADLE_TEST_DISK").ok()?;
        let file = |name: &str| CString::new(format!("{dir}/{name}")).ok();
        Some(Ways {
            home: std::env::var("BEADLE_HOME").ok()?.into_bytes(),
            full: file("full")?,
            db_full: file("db-full")?,
            db_broken: file("db-broken")?,
            db_hung: file("db-hung")?,
            db_slow: file("db-slow")?,
            met: file("met")?,
        })
    };
    WAYS.get_or_init(make).as_ref()
}

fn there(name: &CStr) -> bool {
    // SAFETY: a C string.
    unsafe { access(name.as_ptr(), 0) == 0 }
}

/// The error that a change of this file is to fail with; waits where it is to wait.
fn spoilt(fd: c_int) -> Option<c_int> {
    let w = ways()?;
    let link = CString::new(format!("/proc/self/fd/{fd}")).ok()?;
    let mut path = [0u8; 512];
    // SAFETY: the buffer has that length.
    let n = unsafe { readlink(link.as_ptr(), path.as_mut_ptr().cast(), path.len()) };
    let path = &path[..usize::try_from(n).ok()?];
    if !path.starts_with(&w.home) {
        return None;
    }
    let is_db = path.windows(9).any(|p| p == b"beadle.db");
    // SAFETY: C strings; a descriptor that was just made.
    let met = || unsafe { close(creat(w.met.as_ptr(), 0o600)) };
    if there(&w.full) || is_db && there(&w.db_full) {
        let _ = met();
        return Some(ENOSPC);
    }
    if is_db && there(&w.db_broken) {
        let _ = met();
        return Some(EIO);
    }
    if is_db && there(&w.db_hung) {
        let _ = met();
        while there(&w.db_hung) {
            // SAFETY: plain call.
            unsafe { usleep(2_000) };
        }
    }
    if is_db && there(&w.db_slow) {
        let _ = met();
        // SAFETY: plain call.
        unsafe { usleep(20_000) };
    }
    None
}

/// The C library's own function of that name.
fn next(name: &CStr) -> *mut c_void {
    // SAFETY: RTLD_NEXT and a C string.
    unsafe { dlsym(usize::MAX as *mut c_void, name.as_ptr()) }
}

fn fail(errno: c_int) -> c_int {
    // SAFETY: the calling thread's own errno.
    unsafe { *__errno_location() = errno };
    -1
}

macro_rules! spoil {
    ($name:ident, $real:literal, ($($arg:ident: $t:ty),*) -> $out:ty) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(fd: c_int $(, $arg: $t)*) -> $out {
            match spoilt(fd) {
                Some(errno) => fail(errno) as $out,
                // SAFETY: the C library's function has this signature.
                None => unsafe {
                    let real: unsafe extern "C" fn(c_int $(, $t)*) -> $out = std::mem::transmute(next($real));
                    real(fd $(, $arg)*)
                },
            }
        }
    };
}

spoil!(write, c"write", (buf: *const c_void, n: usize) -> isize);
spoil!(pwrite, c"pwrite", (buf: *const c_void, n: usize, at: c_long) -> isize);
spoil!(pwrite64, c"pwrite64", (buf: *const c_void, n: usize, at: c_long) -> isize);
spoil!(writev, c"writev", (iov: *const c_void, n: c_int) -> isize);
spoil!(fsync, c"fsync", () -> c_int);
spoil!(fdatasync, c"fdatasync", () -> c_int);
spoil!(ftruncate, c"ftruncate", (len: c_long) -> c_int);
spoil!(ftruncate64, c"ftruncate64", (len: c_long) -> c_int);
