//! Large payloads: one file per BLAKE3 digest, in 256 folders by its first two digits.
//!
//! Invariants:
//! - a blob is on disk, its folder entry too, before any event that names it is written;
//! - a file under its final name is whole; it is checked against its digest whenever it is read or written again;
//! - blobs are shared between sessions, so removing a session leaves them for a later collection.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

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
        Ok(Self { dir, unfinished: AtomicU64::new(0) })
    }

    /// Stores bytes under their digest, durable on return. Blocks for a sync; storing the same bytes again is cheap.
    pub fn put(&self, bytes: &[u8]) -> Result<Hash> {
        if bytes.len() > MAX_BLOB {
            return Err(Error::TooLarge { what: "a blob", len: bytes.len() as u64, cap: MAX_BLOB as u64 });
        }
        let digest = Hash::of(bytes);
        let path = self.path(&digest);
        if matches!(self.read(&path, &digest), Ok(Some(_))) {
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

    /// The bytes, checked. Errors: missing, or not what the digest says.
    pub fn get(&self, digest: &Hash) -> Result<Vec<u8>> {
        let path = self.path(digest);
        self.read(&path, digest).map_err(fail(&path, "read it"))?.ok_or(Error::Blob { digest: *digest })
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
