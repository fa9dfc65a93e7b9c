//! Compiled plugins on disk, so that a start of the daemon loads in microseconds what took seconds to compile.
//!
//! Invariants:
//! - an artefact is machine code: only one whose keyed digest is right is ever used, and what is used are the very
//!   bytes that were digested, read once into memory of our own; a later change of the file changes nothing;
//! - the digest covers the artefact's place too, so no artefact can stand for another;
//! - a cache that cannot be read or written costs time, never correctness: every problem here means "compile".
//!
//! Called by `load`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::load::Meta;

/// Largest artefact that is read, in bytes; JavaScript and Python guests have 32 MB.
const MAX_ARTEFACT: u64 = 256 << 20;
/// Artefacts kept; the longest unused are removed first.
const MAX_FILES: usize = 128;
const MAGIC: &[u8; 8] = b"BDLPLUG1";
const SUFFIX: &str = "bdlplug";
const TAG: usize = 32;
const HEAD: usize = MAGIC.len() + TAG + 4;

/// Where compiled plugins are kept, and the key that proves that we wrote them.
#[derive(Clone)]
pub struct CacheOptions {
    /// Made with mode 0700 when it is missing.
    pub dir: PathBuf,
    /// Secret of this installation. Another key makes the whole cache worthless, which is safe.
    pub key: [u8; 32],
}

/// A compiled component and what is known of it.
pub(super) struct Artefact {
    pub(super) meta: Meta,
    pub(super) code: Vec<u8>,
}

/// What an artefact was made from: component, configuration and engine.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Name(String);

impl Name {
    pub(super) fn new(component: &blake3::Hash, config: &blake3::Hash, engine: &[u8; 32]) -> Self {
        let mut h = blake3::Hasher::new_derive_key("beadle 2026 plugin cache name v1");
        h.update(component.as_bytes()).update(config.as_bytes()).update(engine);
        Self(h.finalize().to_hex().to_string())
    }

    fn path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.{SUFFIX}", self.0))
    }
}

impl CacheOptions {
    /// The artefact of this name, when there is one that we wrote.
    pub(super) fn get(&self, name: &Name) -> Option<Artefact> {
        let path = name.path(&self.dir);
        let bytes = read(&path).ok()?;
        let (head, rest) = bytes.split_at_checked(HEAD)?;
        let (magic, head) = head.split_at(MAGIC.len());
        let (tag, len) = head.split_at(TAG);
        let tag: [u8; TAG] = tag.try_into().ok()?;
        // Compares in constant time.
        if magic != MAGIC || self.tag(name, len, rest) != blake3::Hash::from_bytes(tag) {
            return None;
        }
        let (meta, code) = rest.split_at_checked(u32::from_le_bytes(len.try_into().ok()?) as usize)?;
        let artefact = Artefact { meta: serde_json::from_slice(meta).ok()?, code: code.to_vec() };
        // So that the longest unused go first; not being able to costs nothing.
        let _ = File::open(&path).and_then(|f| f.set_modified(SystemTime::now()));
        Some(artefact)
    }

    /// Writes the artefact whole or not at all. It is not synced: a torn file has the wrong digest.
    pub(super) fn put(&self, name: &Name, artefact: &Artefact) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        self.prune()?;
        let meta = serde_json::to_vec(&artefact.meta)?;
        let len = u32::try_from(meta.len()).map_err(io::Error::other)?.to_le_bytes();
        let rest = [meta.as_slice(), &artefact.code].concat();
        let new = self.dir.join(format!("{}.{}.new", name.0, std::process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        for part in [MAGIC.as_slice(), self.tag(name, &len, &rest).as_bytes(), &len, &rest] {
            file.write_all(part)?;
        }
        fs::rename(&new, name.path(&self.dir))
    }

    fn tag(&self, name: &Name, len: &[u8], rest: &[u8]) -> blake3::Hash {
        let mut h = blake3::Hasher::new_keyed(&self.key);
        h.update(MAGIC).update(name.0.as_bytes()).update(len).update(rest);
        h.finalize()
    }

    /// Makes room for one more.
    fn prune(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let path = entry.path();
            // `new` files are of writers that died in between, or of one that is writing now and then only writes again.
            if path.extension().is_some_and(|e| e == SUFFIX || e == "new") {
                files.push((entry.metadata()?.modified()?, path));
            }
        }
        files.sort();
        let over = (files.len() + 1).saturating_sub(MAX_FILES);
        files.iter().take(over).try_for_each(|(_, path)| fs::remove_file(path))
    }
}

/// The whole file, when it is a regular one of a size that we write. Links are not followed.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > MAX_ARTEFACT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).map_err(io::Error::other)?);
    file.take(MAX_ARTEFACT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::engine::Kind;
    use super::super::v0_1::Description;
    use super::*;

    fn meta() -> Meta {
        let text = String::new;
        Meta {
            description: Description { name: text(), version: text(), purpose: text(), config_schema: text(), wants: Vec::new() },
            kind: Kind::Small,
            kind_reason: text(),
            snapshotted: true,
            note: None,
            wasi: false,
        }
    }

    fn name(n: u8) -> Name {
        Name::new(&blake3::hash(&[n]), &blake3::hash(b""), &[0; 32])
    }

    #[test]
    fn only_what_was_written_with_the_key_under_the_name_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CacheOptions { dir: dir.path().join("sub"), key: [1; 32] };
        cache.put(&name(1), &Artefact { meta: meta(), code: b"code".to_vec() }).unwrap();
        assert_eq!(cache.get(&name(1)).unwrap().code, b"code");
        assert!(cache.get(&name(2)).is_none());
        assert!(CacheOptions { key: [2; 32], ..cache.clone() }.get(&name(1)).is_none());
        // Another's place.
        fs::copy(name(1).path(&cache.dir), name(2).path(&cache.dir)).unwrap();
        assert!(cache.get(&name(2)).is_none());
        // Every flipped byte and every cut.
        let good = fs::read(name(1).path(&cache.dir)).unwrap();
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            fs::write(name(1).path(&cache.dir), bad).unwrap();
            assert!(cache.get(&name(1)).is_none(), "byte {i}");
            fs::write(name(1).path(&cache.dir), &good[..i]).unwrap();
            assert!(cache.get(&name(1)).is_none(), "cut at {i}");
        }
        // A link to a good file.
        fs::write(dir.path().join("good"), &good).unwrap();
        fs::remove_file(name(1).path(&cache.dir)).unwrap();
        std::os::unix::fs::symlink(dir.path().join("good"), name(1).path(&cache.dir)).unwrap();
        assert!(cache.get(&name(1)).is_none());
    }

    #[test]
    fn the_number_of_files_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CacheOptions { dir: dir.path().to_owned(), key: [1; 32] };
        for n in 0..=u8::MAX {
            cache.put(&name(n), &Artefact { meta: meta(), code: Vec::new() }).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), MAX_FILES);
        assert!(cache.get(&name(u8::MAX)).is_some());
    }
}
