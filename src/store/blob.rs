//! Large payloads: one file per BLAKE3 digest, in 256 folders by its first two digits.
//!
//! Invariants:
//! - a blob is on disk, its folder entry too, before any event that names it is written;
//! - a file under its final name is whole; it is checked against its digest whenever it is read or written again;
//! - blobs are shared between sessions, so removing a session leaves them for a later collection.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::chain::Hash;
use super::error::{Error, Result};
use super::folder::{fail, sync_parent, write_synced};

/// Largest blob in bytes.
pub const MAX_BLOB: usize = 64 << 20;

/// The blob folder.
#[derive(Debug)]
pub struct Blobs {
    dir: PathBuf,
    unfinished: AtomicU64,
    /// Held for writing while one is deleted: who stores the same bytes then comes before or after.
    storing: RwLock<()>,
    awaited: Counts,
}

/// Payloads that were stored for events which are not written yet, and for how many.
type Counts = Arc<Mutex<HashMap<Hash, usize>>>;

/// A payload that an event is about to name: not deleted as one that nothing names, as long as this is there.
#[derive(Debug)]
pub struct Awaited {
    pub digest: Hash,
    all: Counts,
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = all.get_mut(&self.digest) {
            *n -= 1;
            if *n == 0 {
                all.remove(&self.digest);
            }
        }
    }
}

impl Blobs {
    /// Opens the folder and clears what a crash left unfinished; only the lock holder may call it.
    pub fn open(dir: PathBuf) -> Result<Self> {
        let tmp = dir.join("tmp");
        if let Err(e) = std::fs::remove_dir_all(&tmp)
            && e.kind() != io::ErrorKind::NotFound
        {
            return Err(fail(&tmp, "clear it")(e));
        }
        std::fs::create_dir_all(&tmp).map_err(fail(&tmp, "make it"))?;
        sync_parent(&dir).map_err(fail(&dir, "sync it"))?;
        Ok(Self { dir, unfinished: AtomicU64::new(0), storing: RwLock::new(()), awaited: Counts::default() })
    }

    /// To read only, beside whoever holds the folder.
    pub fn beside(dir: PathBuf) -> Self {
        Self { dir, unfinished: AtomicU64::new(0), storing: RwLock::new(()), awaited: Counts::default() }
    }

    /// Stores bytes under their digest, durable on return. Blocks for a sync; storing the same bytes again is cheap.
    pub fn put(&self, bytes: &[u8]) -> Result<Hash> {
        if bytes.len() > MAX_BLOB {
            return Err(Error::TooLarge { what: "a blob", len: bytes.len() as u64, cap: MAX_BLOB as u64 });
        }
        let digest = Hash::of(bytes);
        let path = self.path(&digest);
        let _storing = self.storing.read().unwrap_or_else(PoisonError::into_inner);
        if matches!(self.read(&path, &digest), Ok(Some(_))) {
            // why young again: an event is about to name it, though none may have done so for long.
            let young = std::fs::File::open(&path).and_then(|f| f.set_modified(std::time::SystemTime::now()));
            young.map_err(fail(&path, "set the time of"))?;
            // why: another thread may have renamed it a moment ago without having synced the folder yet.
            sync_parent(&path).map_err(fail(&path, "sync its folder"))?;
            return Ok(digest);
        }
        let n = self.unfinished.fetch_add(1, Ordering::Relaxed);
        let write = || {
            let folder = path.parent().unwrap_or(&self.dir);
            match std::fs::create_dir(folder) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
            sync_parent(folder)?;
            write_synced(&self.dir.join("tmp").join(n.to_string()), &path, bytes)
        };
        write().map_err(fail(&path, "write it"))?;
        Ok(digest)
    }

    /// The same for an event that is about to be written.
    pub fn put_for_event(&self, bytes: &[u8]) -> Result<Awaited> {
        let digest = Hash::of(bytes);
        // why before it is stored: who deletes it looks under the lock that storing takes.
        *self.awaited.lock().unwrap_or_else(PoisonError::into_inner).entry(digest).or_default() += 1;
        let awaited = Awaited { digest, all: Arc::clone(&self.awaited) };
        self.put(bytes).map(|_| awaited)
    }

    /// The bytes, checked. Errors: missing, or not what the digest says.
    pub fn get(&self, digest: &Hash) -> Result<Vec<u8>> {
        let path = self.path(digest);
        self.read(&path, digest).map_err(fail(&path, "read it"))?.ok_or(Error::Blob { digest: *digest })
    }

    /// Deletes it, durably. The caller knows that nothing names it.
    pub fn remove(&self, digest: &Hash) -> Result<()> {
        let path = self.path(digest);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            r => r.and_then(|()| sync_parent(&path)).map_err(fail(&path, "delete it")),
        }
    }

    /// The same unless an event is about to name it, or `named` says that one does by now; false where it stays. Nothing is stored meanwhile.
    pub fn remove_unless(&self, digest: &Hash, named: impl FnOnce() -> Result<bool>) -> Result<bool> {
        let _alone = self.storing.write().unwrap_or_else(PoisonError::into_inner);
        let awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner).contains_key(digest);
        // why in this order: who is not awaited any more is written, and is found.
        if awaited || named()? {
            return Ok(false);
        }
        self.remove(digest).map(|()| true)
    }

    /// The same where it was not stored for so long; false where it was.
    pub fn remove_older(&self, digest: &Hash, than: Duration) -> Result<bool> {
        let _alone = self.storing.write().unwrap_or_else(PoisonError::into_inner);
        let time = self.path(digest).metadata().and_then(|m| m.modified());
        if time.is_ok_and(|t| !super::collect::older(t, than)) {
            return Ok(false);
        }
        self.remove(digest).map(|()| true)
    }

    /// Every one that is there, by name; not checked.
    pub fn list(&self) -> Result<Vec<super::collect::Orphan>> {
        let mut out = Vec::new();
        for folder in std::fs::read_dir(&self.dir).map_err(fail(&self.dir, "list it"))?.flatten() {
            for file in std::fs::read_dir(folder.path()).into_iter().flatten().flatten() {
                let name = format!("{}{}", folder.file_name().to_string_lossy(), file.file_name().to_string_lossy());
                if let (Ok(digest), Ok(meta)) = (name.parse(), file.metadata()) {
                    out.push(super::collect::Orphan { digest, path: file.path(), bytes: meta.len() });
                }
            }
        }
        out.sort_by_key(|o| o.digest);
        Ok(out)
    }

    /// `None` when it is missing or damaged.
    fn read(&self, path: &Path, digest: &Hash) -> io::Result<Option<Vec<u8>>> {
        let file = match std::fs::File::open(path) {
            Ok(f) => f,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BLOB as u64 + 1).read_to_end(&mut bytes)?;
        Ok((Hash::of(&bytes) == *digest).then_some(bytes))
    }

    fn path(&self, digest: &Hash) -> PathBuf {
        let hex = digest.to_string();
        let (folder, name) = hex.split_at(2);
        self.dir.join(folder).join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_that_is_stored_again_is_young_and_not_collected() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().join("blobs")).unwrap();
        let hour = Duration::from_secs(3_600);
        let age = |d: &Hash| std::fs::File::open(blobs.path(d)).unwrap().set_modified(std::time::SystemTime::now() - 2 * hour).unwrap();
        let digest = blobs.put(b"one").unwrap();
        age(&digest);
        assert_eq!(blobs.put(b"one").unwrap(), digest);
        assert!(!blobs.remove_older(&digest, hour).unwrap());
        assert_eq!(blobs.get(&digest).unwrap(), b"one");
        age(&digest);
        assert!(blobs.remove_older(&digest, hour).unwrap() && blobs.get(&digest).is_err());
    }

    #[test]
    fn a_blob_that_an_event_names_or_is_about_to_is_not_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().join("blobs")).unwrap();
        let (one, two) = (blobs.put_for_event(b"one").unwrap(), blobs.put_for_event(b"one").unwrap());
        let digest = one.digest;
        let remove = |named: bool| blobs.remove_unless(&digest, || Ok(named)).unwrap();
        assert!(!remove(false), "two wait for it");
        drop(one);
        assert!(!remove(false), "one does");
        drop(two);
        assert!(!remove(true) && blobs.get(&digest).is_ok());
        assert!(remove(false) && blobs.get(&digest).is_err());
        assert!(remove(false), "it is gone already");
    }
}
