//! Whether a run folder's shim lives: asks about its lock without ever taking it. Called by `adopt`, and before
//! a backup takes the place of a data folder.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::{Error, Result};
use crate::wire::LOCK_FILE;

/// `true` while a shim holds the lock of this run folder.
pub(super) fn is_held(run_dir: &Path) -> Result<bool> {
    let path = run_dir.join(LOCK_FILE);
    let file = match File::options().read(true).write(true).open(&path) {
        Ok(f) => f,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::file("open", &path)(e)),
    };
    // SAFETY: all zeros is a valid lock description: the whole file, pid 0 as the call demands.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    // SAFETY: `lock` is valid to read and write.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) } < 0 {
        return Err(Error::file("ask for the lock of", &path)(io::Error::last_os_error()));
    }
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}

/// Names of the folders in `root` in which a shim lives, in a folder of theirs or in themselves. A lock that cannot be asked counts.
pub fn held_below(root: &Path) -> Vec<String> {
    let folders = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.is_dir());
    let lives = |dir: &Path| is_held(dir).unwrap_or(true);
    let mut out: Vec<String> = folders(root)
        .filter(|run| lives(run) || folders(run).any(|attempt| lives(&attempt)))
        .filter_map(|run| Some(run.file_name()?.to_string_lossy().into_owned()))
        .collect();
    out.sort();
    out
}
