//! Writes the exit record so that it is there whole or not at all, also after a power cut. Called by the session loop.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::sys::{self, Errno};
use crate::wire::ExitRecord;

/// Temporary file, synced, renamed over the name, folder synced.
pub fn write(dir: &OwnedFd, record: &ExitRecord) -> Result<(), Errno> {
    let raw = dir.as_raw_fd();
    let file = sys::openat(raw, c"exit.tmp", libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_NOFOLLOW)?;
    if !sys::write_all_to(file.as_raw_fd(), record.encode().as_bytes()) {
        return Err(sys::errno());
    }
    sys::fsync(file.as_raw_fd())?;
    // SAFETY: both names end with NUL.
    sys::check(unsafe { libc::renameat(raw, c"exit.tmp".as_ptr(), raw, c"exit".as_ptr()) })?;
    sys::fsync(raw)
}
