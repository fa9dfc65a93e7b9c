//! Copies of a whole data folder while it is in use, and the way back.
//!
//! A backup is a folder, or one file `.tar.zst` of it: the database as of one moment, blobs, archives, keys, and installed plugins with
//! their lock; `manifest.json` has the digest of each. What is not in it: raw output of agents, the daemon's log, caches, configuration.
//!
//! Invariants:
//! - the database is copied first, so that every blob and archive which it names is there to be copied after it; nothing is erased or
//!   moved meanwhile (the caller sees to that);
//! - under its final name a backup is whole and synced; what is in the way is never written over;
//! - restoring checks every digest and then the whole log, beside the data folder, before anything is put in its place; what stood
//!   there is moved aside, not deleted.
//!
//! Called by `session::backup` (making one) and `daemon` (restoring).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::Actor;

use super::error::{Error, Result};
use super::folder::{self, DATABASE, KEY, beside, sync_parent};
use super::host::{BackupRestored, HostEvent};
use super::sqlite;
use super::{Options, Report, Store, pack};

/// Form of the manifest.
const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
/// Folders and files of a data folder that go with the database.
const PARTS: [&str; 6] = [KEY, "plugin-cache.key", "plugins.lock", "plugins", "blobs", super::keep::ARCHIVES];
/// Largest manifest in bytes.
const MANIFEST_MAX: u64 = 256 << 20;

/// Most unfinished copies of one name that may lie about.
const DRAFTS_MAX: u32 = 100;

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Below the data folder.
    pub path: String,
    pub bytes: u64,
    /// BLAKE3, hex.
    pub digest: String,
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub beadle_version: String,
    /// Wall milliseconds.
    pub made_at: i64,
    /// Of the database.
    pub schema: i64,
    /// Public half of the host's key, hex.
    pub key: String,
    pub sessions: u64,
    pub files: Vec<Copied>,
}

impl Manifest {
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }
}

/// A backup that was put in place.
#[derive(Debug)]
pub struct Restored {
    pub manifest: Manifest,
    pub report: Report,
    /// Where the former data folder went.
    pub aside: Option<PathBuf>,
}

fn bad(path: &Path, detail: impl Into<String>) -> Error {
    Error::BadBackup { path: path.to_owned(), detail: detail.into() }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |e| bad(&path, e.to_string())
}

fn is_file(path: &Path) -> bool {
    path.to_string_lossy().ends_with(".tar.zst")
}

/// A folder beside a path that nobody had before. What an attempt that was cut off left stays: it may be anybody's.
fn new_folder(path: &Path, what: &str) -> io::Result<PathBuf> {
    path.parent().map_or(Ok(()), private_folder)?;
    for n in 0..DRAFTS_MAX {
        let dir = beside(path, &if n == 0 { format!(".{what}") } else { format!(".{what}-{n}") });
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| dir),
        }
    }
    Err(io::Error::other(format!("{DRAFTS_MAX} folders of that name with .{what} are there already; remove them")))
}

fn private_folder(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

impl Store {
    /// Copies everything to a new folder, or to a new file where the name ends in `.tar.zst`. Blocks, long; writers go on beside it.
    pub fn backup(&self, to: &Path) -> Result<Manifest> {
        let fail = failed(to);
        if to.symlink_metadata().is_ok() {
            return Err(bad(to, "it is there already; give a new name"));
        }
        let draft = new_folder(to, "draft").map_err(&fail)?;
        let packed = beside(&draft, ".file");
        let made = self.copy_to(&draft).and_then(|manifest| {
            if is_file(to) {
                pack::pack(&draft, MANIFEST, &manifest.files, &packed).map_err(&fail)?;
                std::fs::rename(&packed, to).map_err(&fail)?;
                std::fs::remove_dir_all(&draft).map_err(&fail)?;
            } else {
                std::fs::rename(&draft, to).map_err(&fail)?;
            }
            sync_parent(to).map_err(&fail)?;
            Ok(manifest)
        });
        if made.is_err() {
            let _ = std::fs::remove_dir_all(&draft);
            let _ = std::fs::remove_file(&packed);
        }
        made
    }

    fn copy_to(&self, draft: &Path) -> Result<Manifest> {
        let fail = failed(draft);
        let database = draft.join(DATABASE);
        sqlite::copy_database(&self.0.database, &database)?;
        let mut files = vec![copied(&database, DATABASE).map_err(&fail)?];
        for part in PARTS {
            let from = self.0.dir.join(part);
            if from.is_dir() {
                copy_folder(&from, &draft.join(part), part, &mut files).map_err(&fail)?;
            } else if from.is_file() {
                files.push(copy_file(&from, &draft.join(part), part).map_err(&fail)?);
            }
        }
        sqlite::forget_staged_in(&database)?;
        // Archives that were put elsewhere come along, and the copy names them where they then are.
        for (id, from) in sqlite::archives_elsewhere(&self.0.database, &database)? {
            let name = format!("{}/elsewhere-{id}.jsonl.zst", super::keep::ARCHIVES);
            private_folder(&draft.join(super::keep::ARCHIVES)).map_err(&fail)?;
            files.push(copy_file(&from, &draft.join(&name), &name).map_err(|e| bad(&from, e.to_string()))?);
            sqlite::rename_archive(&database, id, &name)?;
        }
        // why checked: it would be found out only when somebody needs the backup.
        for file in sqlite::archives_within(&database)? {
            if !files.iter().any(|f| f.path == file) {
                return Err(bad(&self.0.dir.join(&file), "it is named by the log and is not there; run `beadle verify`"));
            }
        }
        files[0] = copied(&database, DATABASE).map_err(&fail)?;
        let (_, schema) = super::schema_versions(draft)?;
        // why again: looking at it may have left a log beside it.
        for rest in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(beside(&database, rest));
        }
        let manifest = Manifest {
            format: FORMAT,
            beadle_version: env!("CARGO_PKG_VERSION").to_owned(),
            made_at: self.0.clock.wall_ms(),
            schema,
            key: self.public_key(),
            sessions: self.session_count()?,
            files,
        };
        let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
        folder::write_synced(&draft.join(".manifest"), &draft.join(MANIFEST), &text).map_err(&fail)?;
        Ok(manifest)
    }
}

fn copied(path: &Path, name: &str) -> io::Result<Copied> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path)?;
    hasher.update_reader(&file)?;
    file.sync_all()?;
    Ok(Copied { path: name.to_owned(), bytes: file.metadata()?.len(), digest: hasher.finalize().to_hex().to_string() })
}

/// A copy of its own, 0600 and synced: a link would share what happens to the file.
fn copy_file(from: &Path, to: &Path, name: &str) -> io::Result<Copied> {
    let mut source = File::open(from)?;
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let (mut hasher, mut block, mut bytes) = (blake3::Hasher::new(), vec![0; 1 << 20], 0);
    loop {
        let n = source.read(&mut block)?;
        if n == 0 {
            break;
        }
        hasher.update(&block[..n]);
        target.write_all(&block[..n])?;
        bytes += n as u64;
    }
    target.sync_all()?;
    Ok(Copied { path: name.to_owned(), bytes, digest: hasher.finalize().to_hex().to_string() })
}

fn copy_folder(from: &Path, to: &Path, name: &str, files: &mut Vec<Copied>) -> io::Result<()> {
    private_folder(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let file = entry.file_name();
        let Some(text) = file.to_str() else { continue };
        let (kind, name) = (entry.file_type()?, format!("{name}/{text}"));
        // why not `tmp`, nor drafts: they are of writers at work.
        if kind.is_dir() && text != "tmp" {
            copy_folder(&entry.path(), &to.join(text), &name, files)?;
        } else if kind.is_file() && !text.ends_with(".draft") && !text.starts_with('.') {
            match copy_file(&entry.path(), &to.join(text), &name) {
                Ok(c) => files.push(c),
                // Renamed by its writer since it was listed.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
    File::open(to)?.sync_all()
}

/// Puts a backup in the place of a data folder. `running` names sessions of it whose agents run, asked once no daemon can start more.
/// Errors: a daemon holds the folder; it is not empty and `replace` was not said; agents run; the backup is not whole, or its log does
/// not verify. Then nothing has changed. Blocks.
pub fn restore(from: &Path, data: &Path, replace: bool, by: &Actor, at: i64, running: &dyn Fn() -> Vec<String>) -> Result<Restored> {
    // why not these: a lock and a folder for sockets are made by who only looks.
    let used = std::fs::read_dir(data).into_iter().flatten().flatten().any(|e| !["store.lock", "run"].iter().any(|n| e.file_name() == *n));
    // why locked also where it is to be replaced: a daemon that runs would write into what is moved aside.
    let held = if data.exists() { Some(folder::Folder::open(data)?) } else { None };
    if used && !replace {
        return Err(Error::NotEmpty { path: data.to_owned() });
    }
    let sessions = running();
    if !sessions.is_empty() {
        return Err(Error::StillRunning { path: data.to_owned(), sessions });
    }
    let draft = new_folder(data, "restoring").map_err(failed(data))?;
    let fail = failed(&draft);
    let made = fill(from, &draft).and_then(|manifest| {
        let store = Store::open(&draft, Options::default())?;
        let report = store.verify(None)?;
        if !report.is_sound() {
            let first = report.findings.first().map_or_else(String::new, |f| f.detail.clone());
            return Err(bad(from, format!("its log does not verify ({} findings; the first: {first})", report.findings.len())));
        }
        let event = BackupRestored { from: from.display().to_string(), made_at: manifest.made_at, by: by.clone() };
        store.note(HostEvent::BackupRestored(event), Vec::new()).wait()?;
        store.close();
        Ok((manifest, report))
    });
    let (manifest, report) = made.inspect_err(|_| drop(std::fs::remove_dir_all(&draft)))?;
    let mut aside = None;
    if data.exists() {
        let old = beside(data, &format!(".before-{at}"));
        std::fs::rename(data, &old).map_err(&fail)?;
        if used {
            aside = Some(old);
        } else {
            // why ignore: an empty folder with a lock file in it is all there is.
            let _ = std::fs::remove_dir_all(&old);
        }
    }
    std::fs::rename(&draft, data).and_then(|()| sync_parent(data)).map_err(&fail)?;
    drop(held);
    Ok(Restored { manifest, report, aside })
}

/// Fills a folder with a backup's files, each checked.
fn fill(from: &Path, draft: &Path) -> Result<Manifest> {
    let unpacked = if from.is_dir() { None } else { Some(new_folder(draft, "unpacked").map_err(failed(draft))?) };
    let source = unpacked.as_deref().unwrap_or(from);
    let read = || -> Result<Manifest> {
        if let Some(dir) = &unpacked {
            pack::unpack(from, dir).map_err(failed(from))?;
        }
        let mut text = Vec::new();
        let file = File::open(source.join(MANIFEST)).map_err(|e| bad(from, format!("its {MANIFEST}: {e}")))?;
        file.take(MANIFEST_MAX).read_to_end(&mut text).map_err(failed(from))?;
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| bad(from, format!("its {MANIFEST}: {e}")))?;
        if manifest.format != FORMAT {
            return Err(bad(from, format!("its form is {}, this version reads {FORMAT}", manifest.format)));
        }
        for f in &manifest.files {
            let below = Path::new(&f.path);
            if !below.components().all(|c| matches!(c, Component::Normal(_))) {
                return Err(bad(from, format!("{:?} is not a path below it", f.path)));
            }
            let to = draft.join(below);
            private_folder(to.parent().unwrap_or(draft)).map_err(failed(&to))?;
            let got = copy_file(&source.join(below), &to, &f.path).map_err(|e| bad(from, format!("{}: {e}", f.path)))?;
            if got != *f {
                return Err(bad(from, format!("{} has not the bytes that were written", f.path)));
            }
        }
        Ok(manifest)
    };
    let manifest = read();
    if let Some(dir) = &unpacked {
        let _ = std::fs::remove_dir_all(dir);
    }
    manifest
}
