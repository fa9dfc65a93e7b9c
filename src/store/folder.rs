//! The data folder: made 0700, on a local disk, held by one process for life through a lock file.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::error::{Error, Result};
use crate::model::RESTORED;

/// The database's file name in the data folder.
pub const DATABASE: &str = "beadle.db";
/// The signing key's file name: 32 bytes, 0600.
pub const KEY: &str = "host.key";
/// Where requests of queued sessions lie in it, and what their names end in.
pub const REQUESTS: (&str, &str) = ("s", ".queue.json");
const LOCK: &str = "store.lock";
/// Ends the name of a file that is being written.
pub const DRAFT: &str = ".draft";
/// The folder of payloads.
pub const BLOBS: &str = "blobs";

/// A data folder that this process holds; the lock goes with it.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder where needed and takes its lock. Errors: network file system, held by another, not writable.
    pub fn open(dir: &Path) -> Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail(dir, "make it"))?;
        // why: SQLite gives paths without links and `..`; ours must be the same ones, whatever way led here.
        let dir = &std::fs::canonicalize(dir).map_err(fail(dir, "find it"))?;
        let handle = File::open(dir).map_err(fail(dir, "open it"))?;
        let stat = rustix::fs::fstatfs(&handle).map_err(|e| fail(dir, "ask for its file system")(e.into()))?;
        // why: the type of f_type differs by architecture; magic numbers fit 32 bits.
        if let Some(kind) = network_kind(stat.f_type as u32) {
            return Err(Error::NetworkFolder { path: dir.to_owned(), kind });
        }
        let path = dir.join(LOCK);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(fail(&path, "open the lock file for writing"))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // why: the pid is only for the message; a holder that has not written it yet is "unknown".
                let _ = (&lock).take(20).read_to_string(&mut holder);
                let holder = holder.trim();
                let holder = if holder.is_empty() { "unknown" } else { holder };
                return Err(Error::InUse { path: dir.to_owned(), holder: holder.to_owned() });
            }
            Err(e) => return Err(fail(&path, "lock it")(e.into())),
        }
        // why looked at again: who held it may have moved or removed the folder; this file then holds nothing.
        let same = |m: std::fs::Metadata| lock.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (m.dev(), m.ino()));
        if !path.metadata().is_ok_and(same) {
            return Err(Error::InUse { path: dir.to_owned(), holder: "unknown".to_owned() });
        }
        let write_pid = |lock: &mut File| {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        };
        write_pid(&mut lock).map_err(fail(&path, "write the process id"))?;
        retire(dir);
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// Without links and `..`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn database(&self) -> PathBuf {
        self.dir.join(DATABASE)
    }

    pub fn key(&self) -> PathBuf {
        self.dir.join(KEY)
    }

    pub fn blobs(&self) -> PathBuf {
        self.dir.join(BLOBS)
    }

    /// Makes an empty 0600 database file at the first open. Refuses a lost database: a folder with a key but no data was used before.
    pub fn prepare_database(&self) -> Result<PathBuf> {
        let path = self.database();
        let len = match path.metadata() {
            Ok(m) => m.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(fail(&path, "look at it")(e)),
        };
        if len == 0 && self.key().exists() {
            return Err(Error::DatabaseMissing { path, trace: self.key() });
        }
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .and_then(|_| sync_parent(&path))
            .map_err(fail(&path, "open it for writing"))?;
        Ok(path)
    }
}

/// Makes a folder of ours, 0700, with its entry durable.
pub(super) fn create(dir: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).and_then(|()| sync_parent(dir)).map_err(fail(dir, "make it"))
}

/// Writes a whole file so that after a crash it is there with its content or not at all.
pub(super) fn write_synced(tmp: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut f = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(tmp)?;
    f.write_all(bytes)?;
    f.sync_all()?;
    std::fs::rename(tmp, path)?;
    sync_parent(path)
}

/// Writes a new file, 0600: after a crash, and for who reads beside, it is there with its content or not at all. Errors: it is there already.
pub fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = beside(path, DRAFT);
    let write = || {
        let mut f = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        f.write_all(bytes)?;
        f.sync_all()?;
        rename_new(&draft, path)
    };
    match std::fs::remove_file(&draft) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => write().inspect_err(|_| drop(std::fs::remove_file(&draft)))?,
    }
    sync_parent(path)
}

/// Renames to a name that nobody has. Where the file system cannot do that in one step, it is looked at before.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if to.symlink_metadata().is_ok() => {
            Err(io::ErrorKind::AlreadyExists.into())
        }
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => std::fs::rename(from, to),
        done => Ok(done?),
    }
}

/// What a restore had ready that was cut off before it changed anything: it must not come into the place of a folder that is removed
/// later. Only who holds the folder may do this, since who restores holds it too.
fn retire(dir: &Path) {
    let ready = beside(dir, RESTORED);
    if !ready.is_dir() {
        return;
    }
    let to = (0..100).map(|n| beside(dir, &format!(".restoring-{n}"))).find(|to| to.symlink_metadata().is_err());
    if let Err(e) = to.map_or(Ok(()), |to| rename_new(&ready, &to)) {
        tracing::warn!(path = %ready.display(), error = %e, "what a restore left stays");
    }
}

/// A path with something behind its name.
pub(super) fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(what);
    PathBuf::from(name)
}

/// Whether so many bytes are free where a folder is. Errors: they are not.
pub(super) fn room(dir: &Path, needed: u64, what: &'static str) -> Result<()> {
    let stat = rustix::fs::statvfs(dir).map_err(|e| fail(dir, "ask for its free space")(e.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < needed { Err(Error::NoRoom { path: dir.to_owned(), needed, free, what }) } else { Ok(()) }
}

/// Makes the entry of `path` in its folder durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

pub(super) fn fail(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Folder { path: path.to_owned(), doing, source }
}

/// File systems on which neither flock nor WAL's shared memory holds between machines.
fn network_kind(magic: u32) -> Option<&'static str> {
    match magic {
        0x6969 => Some("NFS"),
        0xFF53_4D42 | 0xFE53_4D42 | 0x517B => Some("SMB"),
        0x5346_414F => Some("AFS"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nfs_is_refused_and_local_disks_are_not() {
        assert_eq!(network_kind(0x6969), Some("NFS"));
        for local in [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794C_7630] {
            assert_eq!(network_kind(local), None);
        }
    }
}
