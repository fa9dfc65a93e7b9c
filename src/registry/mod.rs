//! Installed plugins on disk: components in files named by their digest, and the lock file that pins them.
//!
//! `<data>/plugins/<digest>.wasm` and `<data>/plugins.lock`. In the data folder, not in the configuration: the daemon writes the lock, the
//! operator's own files (which may be a read-only checkout) are never written by it, and lock and components are moved and backed up as
//! one. What holds is the copy in the store, written in the same transaction as the host chain's event; the lock file is that text, for
//! people and for the verbs that work without a daemon, and is written anew at every change and start.
//!
//! Invariants:
//! - a component is synced, with its folder, before any record names it;
//! - a file that does not have the digest it is named by is never loaded;
//! - the lock file is written whole or not at all, and the same plugins always give the same bytes;
//! - components that no record names are removed, but for the newest [`STRAY_MAX`]: those may be about to be named.
//!
//! Called by `policy` (loading), `session` (the acts) and `daemon` (start).

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::model::{INSTALLED_MAX, Installed, LOCK_FORMAT, PluginLock};

/// Largest component in bytes.
pub const COMPONENT_MAX: usize = 32 << 20;
/// Largest lock file in bytes: it is a setting of the store too.
pub const LOCK_MAX: usize = (1 << 20) - 64;
/// Components that no record names, kept for a moment.
pub const STRAY_MAX: usize = 8;
const SUFFIX: &str = "wasm";
const HEAD: &str = "# Plugins installed on this host, pinned by digest. Written by `beadle plugin`; changes made here are not taken.\n";

pub type Result<T> = std::result::Result<T, Error>;

/// What can be wrong with installed plugins. Codes are stable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("plugin file {path}: {source}; check the data folder")]
    File { path: PathBuf, source: io::Error },
    #[error("plugin file {path} does not have the digest that it is pinned by, but {found}; add the plugin again, or roll back")]
    Digest { path: PathBuf, found: String },
    #[error("the lock of installed plugins cannot be read: {why}; run `beadle verify`")]
    Lock { why: String },
    #[error("there is no installed plugin {0:?}; see `beadle plugin ls`")]
    NoPlugin(String),
    #[error("there is an installed plugin {0:?} already; use `beadle plugin upgrade`, or another name with --as")]
    Exists(String),
    #[error("{what} {why}")]
    Refused { what: String, why: String },
    #[error("{0}")]
    Load(String),
    #[error("version {version} of {name} would loosen {count} of {judged} recorded calls; look at them, then give --accept-changes")]
    Loosens { name: String, version: String, count: u64, judged: u64 },
}

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "BDL-REGISTRY-001",
            Self::Digest { .. } => "BDL-REGISTRY-002",
            Self::Lock { .. } => "BDL-REGISTRY-003",
            Self::NoPlugin(_) => "BDL-REGISTRY-004",
            Self::Exists(_) => "BDL-REGISTRY-005",
            Self::Refused { .. } => "BDL-REGISTRY-006",
            Self::Load(_) => "BDL-REGISTRY-007",
            Self::Loosens { .. } => "BDL-REGISTRY-008",
        }
    }
}

/// The folder of components and the lock beside it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    dir: PathBuf,
    lock: PathBuf,
}

impl Registry {
    /// Of a data folder. Touches nothing.
    pub fn new(data: &Path) -> Self {
        Self { dir: data.join("plugins"), lock: data.join("plugins.lock") }
    }

    pub fn lock_file(&self) -> &Path {
        &self.lock
    }

    /// Keeps a component; it is durable on return. Blocks.
    pub fn put(&self, wasm: &[u8]) -> Result<String> {
        if wasm.is_empty() || wasm.len() > COMPONENT_MAX {
            let why = format!("has {} bytes; a component has 1 to {COMPONENT_MAX}", wasm.len());
            return Err(Error::Refused { what: "the file".to_owned(), why });
        }
        let digest = blake3::hash(wasm).to_hex().to_string();
        let path = self.path(&digest);
        let fail = |source| Error::File { path: path.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(fail)?;
        // why written again: one that is there may be damaged, or of a writer that died before it synced.
        write_whole(&path, wasm).map_err(fail)?;
        Ok(digest)
    }

    /// A component, checked against its digest. Blocks.
    pub fn get(&self, digest: &str) -> Result<Vec<u8>> {
        let path = self.path(digest);
        let bytes = read(&path, COMPONENT_MAX).map_err(|source| Error::File { path: path.clone(), source })?;
        let found = blake3::hash(&bytes).to_hex().to_string();
        if found == digest { Ok(bytes) } else { Err(Error::Digest { path, found }) }
    }

    /// The lock file; none is an empty lock.
    pub fn read_lock(&self) -> Result<PluginLock> {
        match read(&self.lock, LOCK_MAX) {
            Ok(bytes) => parse(std::str::from_utf8(&bytes).map_err(|e| Error::Lock { why: e.to_string() })?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(PluginLock { format: LOCK_FORMAT, plugins: vec![] }),
            Err(source) => Err(Error::File { path: self.lock.clone(), source }),
        }
    }

    /// Writes the lock file and removes components that it does not name. Blocks.
    pub fn write_lock(&self, lock: &PluginLock) -> Result<()> {
        let text = print(lock)?;
        write_whole(&self.lock, text.as_bytes()).map_err(|source| Error::File { path: self.lock.clone(), source })?;
        // why ignore: a component too many costs a little room, and the next change tries again.
        let _ = self.prune(lock);
        Ok(())
    }

    fn prune(&self, lock: &PluginLock) -> io::Result<()> {
        let mut strays: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let digest = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
            if !lock.names(digest) {
                strays.push((path.symlink_metadata()?.modified()?, path));
            }
        }
        strays.sort();
        let over = strays.len().saturating_sub(STRAY_MAX);
        strays.iter().take(over).try_for_each(|(_, path)| fs::remove_file(path))
    }

    fn path(&self, digest: &str) -> PathBuf {
        // why: a digest comes from a lock; whatever stands there must stay a name in this folder.
        let name: String = digest.chars().filter(char::is_ascii_hexdigit).take(64).collect();
        self.dir.join(format!("{name}.{SUFFIX}"))
    }
}

/// The text of a lock: the same plugins, the same bytes.
pub fn print(lock: &PluginLock) -> Result<String> {
    let body = toml::to_string(lock).map_err(|e| Error::Lock { why: e.to_string() })?;
    let text = format!("{HEAD}{body}");
    if text.len() > LOCK_MAX {
        return Err(Error::Refused { what: "the lock of installed plugins".to_owned(), why: format!("would have over {LOCK_MAX} bytes") });
    }
    Ok(text)
}

/// Reads what [`print()`] wrote. Errors: another format, a pin without its version, names out of order or given twice.
pub fn parse(text: &str) -> Result<PluginLock> {
    let bad = |why: String| Error::Lock { why };
    let lock: PluginLock = toml::from_str(text).map_err(|e| bad(e.to_string()))?;
    if lock.format != LOCK_FORMAT {
        return Err(bad(format!("it has format {}, this version reads {LOCK_FORMAT}", lock.format)));
    }
    if lock.plugins.len() > INSTALLED_MAX {
        return Err(bad(format!("it has {} plugins, the limit is {INSTALLED_MAX}", lock.plugins.len())));
    }
    if let Some(pair) = lock.plugins.windows(2).find(|w| w[0].name >= w[1].name) {
        return Err(bad(format!("plugin {:?} stands twice or out of order", pair[1].name)));
    }
    if let Some(p) = lock.plugins.iter().find(|p| p.current().is_none_or(|v| v.version != p.version)) {
        return Err(bad(format!("plugin {:?} is pinned to a version that it does not list", p.name)));
    }
    Ok(lock)
}

/// An empty lock.
pub fn empty() -> PluginLock {
    PluginLock { format: LOCK_FORMAT, plugins: vec![] }
}

/// The configuration of an installed plugin as JSON.
pub fn config(plugin: &Installed) -> Result<serde_json::Value> {
    serde_json::from_str(&plugin.config).map_err(|e| Error::Lock { why: format!("the configuration of {}: {e}", plugin.name) })
}

/// A regular file of at most so many bytes; links are not followed.
fn read(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > max as u64 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("not a regular file of at most {max} bytes")));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
    file.take(max as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Temporary name, sync, rename, sync of the folder.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = path.with_extension(format!("new{}", std::process::id()));
    let _ = fs::remove_file(&tmp);
    let mut f = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&tmp)?;
    f.write_all(bytes)?;
    f.sync_all()?;
    drop(f);
    fs::rename(&tmp, path)?;
    path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Grants, Mode, OnFailure, PluginVersion, Wanted};

    fn installed(name: &str, digest: &str) -> Installed {
        let version = PluginVersion {
            version: "0.1.0".to_owned(),
            digest: digest.to_owned(),
            purpose: "Says \"no\"\nin two lines.".to_owned(),
            origin: "/p q.wasm".to_owned(),
            added_at: "2026-01-01T00:00:00.000Z".to_owned(),
            moments: vec![crate::model::Moment::JudgePrompt],
            wants: vec![Wanted { capability: "kv".to_owned(), reason: "it counts".to_owned() }],
            grants: Grants::default(),
        };
        Installed {
            name: name.to_owned(),
            plugin: "p".to_owned(),
            kind: "permission-policy".to_owned(),
            enabled: true,
            version: "0.1.0".to_owned(),
            digest: digest.to_owned(),
            previous: None,
            since: "2026-01-01T00:00:00.000Z".to_owned(),
            grants: "kv".parse().unwrap(),
            mode: Mode::Monitor,
            on_failure: OnFailure::Ask,
            deadline_ms: 100,
            config: r#"{"a":null}"#.to_owned(),
            versions: vec![version],
        }
    }

    #[test]
    fn a_lock_reads_back_as_it_was_printed_and_prints_the_same() {
        let mut lock = empty();
        lock.insert(installed("b", "22"));
        lock.insert(installed("a", "11"));
        let text = print(&lock).unwrap();
        assert_eq!(parse(&text).unwrap(), lock);
        assert_eq!(print(&parse(&text).unwrap()).unwrap(), text);
        assert!(text.starts_with("# ") && text.contains("name = \"a\"") && text.contains("digest = \"11\""), "{text}");
        assert!(text.find("name = \"a\"") < text.find("name = \"b\""));
    }

    #[test]
    fn a_lock_that_does_not_hold_together_is_refused() {
        let good = print(&PluginLock { format: LOCK_FORMAT, plugins: vec![installed("a", "11")] }).unwrap();
        let twice = PluginLock { format: LOCK_FORMAT, plugins: vec![installed("a", "11"), installed("a", "11")] };
        for bad in [
            good.replacen("digest = \"11\"", "digest = \"12\"", 1),
            good.replace("format = 1", "format = 2"),
            good.replace("mode = \"monitor\"", "mode = \"off\""),
            format!("{good}\nmore = 1\n"),
            print(&twice).unwrap(),
        ] {
            assert_eq!(parse(&bad).unwrap_err().code(), "BDL-REGISTRY-003", "{bad}");
        }
    }

    #[test]
    fn a_component_comes_back_only_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let r = Registry::new(dir.path());
        assert_eq!(r.read_lock().unwrap(), empty());
        let digest = r.put(b"\0asm one").unwrap();
        assert_eq!(r.get(&digest).unwrap(), b"\0asm one");
        fs::write(r.path(&digest), b"\0asm two").unwrap();
        assert_eq!(r.get(&digest).unwrap_err().code(), "BDL-REGISTRY-002");
        assert_eq!(r.put(b"\0asm one").unwrap(), digest, "and is mended by being added again");
        assert!(r.get(&digest).is_ok());
        assert_eq!(r.get("../../etc/passwd").unwrap_err().code(), "BDL-REGISTRY-001");
    }

    #[test]
    fn components_that_nobody_names_go_but_for_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let r = Registry::new(dir.path());
        let named = r.put(b"named").unwrap();
        for n in 0..STRAY_MAX + 5 {
            r.put(format!("stray {n}").as_bytes()).unwrap();
        }
        let lock = PluginLock { format: LOCK_FORMAT, plugins: vec![installed("a", &named)] };
        r.write_lock(&lock).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("plugins")).unwrap().count(), STRAY_MAX + 1);
        assert!(r.get(&named).is_ok());
        assert_eq!(r.read_lock().unwrap(), lock);
    }
}
