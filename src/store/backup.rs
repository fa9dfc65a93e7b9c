//! Copies of a whole data folder while it is in use, and the way back.
//!
//! A backup is a folder, or one file `.tar.zst` of it: the database as of one moment, blobs, archives, keys, what queued sessions are to
//! be started with, and installed plugins with their lock; `manifest.json` has the digest of each, and names archives that could not be
//! read. What is not in it: raw output of agents, the daemon's log, caches, configuration.
//!
//! Invariants:
//! - the database is copied first, so that every blob and archive which it names is there to be copied after it; nothing is erased or
//!   moved meanwhile (the caller sees to that);
//! - under its final name a backup is whole and synced; what is in the way is never written over;
//! - restoring checks every digest and then the whole log, beside the data folder, before anything is put in its place; what stood
//!   there is moved aside, not deleted; whenever it is cut off, the place has a whole folder, or the next start puts one there;
//! - nothing grows beyond what the manifest says, and there is room for that, before any of it is written.
//!
//! Called by `session::backup` (making one) and `daemon` (restoring).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::{Actor, RESTORED};

use super::error::{Error, Result};
use super::folder::{self, DATABASE, KEY, REQUESTS, beside, rename_new, sync_parent};
use super::host::{BackupRestored, HostEvent};
use super::sqlite;
use super::{Options, Report, Store, archive, pack};

/// Form of the manifest.
const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
/// Folders and files of a data folder that go with the database.
const PARTS: [&str; 6] = [KEY, "plugin-cache.key", "plugins.lock", "plugins", "blobs", super::keep::ARCHIVES];
/// Largest manifest in bytes.
const MANIFEST_MAX: u64 = 256 << 20;

/// What must be free beside a backup's own bytes: logs that verifying needs.
const SLACK: u64 = 16 << 20;
/// What who only looks makes in a data folder: a lock, and a folder for sockets.
const UNUSED: [&str; 2] = ["store.lock", "run"];
/// The setting with the paths of backups that were begun and of which the host chain does not tell: they may have left copies.
const BEGUN: &str = "backups_begun";
/// Most of them that are known.
const BEGUN_MAX: usize = 100;
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
    /// Archives that the log names and that are not in it as they were written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// An archive that is not in a backup as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    pub session: String,
    pub first: u64,
    pub last: u64,
    pub path: PathBuf,
    pub why: String,
}

impl Manifest {
    pub fn bytes(&self) -> u64 {
        // why saturating: it may be anybody's.
        self.files.iter().fold(0, |all, f| all.saturating_add(f.bytes))
    }

    /// Findings of a log that are more than what was known when the backup was made. Those that a full report has left out are archives,
    /// where all that it holds are.
    fn unknown<'r>(&self, report: &'r Report) -> Vec<&'r super::Finding> {
        let known = |f: &super::Finding| {
            let archive = matches!(f.what, super::What::ArchiveMissing | super::What::ArchiveDamaged);
            archive && self.missing.iter().any(|m| f.session.as_deref() == Some(&m.session) && f.seq == Some(m.first))
        };
        let all = report.findings.len() as u64 + report.more <= self.missing.len() as u64;
        report.findings.iter().filter(|f| !known(f) || (report.more > 0 && !all)).collect()
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

/// What backups of a name that were cut off left beside it.
pub(super) fn drafts_of(to: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (to.parent(), to.file_name()) else { return vec![] };
    let begin = format!("{}.draft", name.to_string_lossy());
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter(|f| f.file_name().to_string_lossy().starts_with(&begin)).map(|f| f.path()).collect()
}

/// Makes every entry below a folder durable.
fn sync_folders(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    File::open(dir)?.sync_all()
}

fn private_folder(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

impl Store {
    /// Backups that were begun and did not come to their end, as far as anything of them is left.
    pub(super) fn backups_begun(&self) -> Result<Vec<PathBuf>> {
        let text = self.setting(BEGUN)?;
        let begun: Vec<String> = text.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default();
        Ok(begun.into_iter().map(PathBuf::from).collect())
    }

    /// The setting that tells of a backup's beginning, or of its end; to be written before it and after it.
    pub fn backup_begun(&self, to: &Path, begun: bool) -> Result<(String, Option<String>)> {
        let mut all = self.backups_begun()?;
        // why not at its end where something is left: an earlier one of that name was cut off.
        all.retain(|p| p != to || (!begun && !drafts_of(to).is_empty()));
        if begun {
            all.drain(..all.len().saturating_sub(BEGUN_MAX - 1));
            all.push(to.to_owned());
        }
        let texts: Vec<_> = all.iter().map(|p| p.to_string_lossy()).collect();
        Ok((BEGUN.to_owned(), (!texts.is_empty()).then(|| serde_json::to_string(&texts).unwrap_or_default())))
    }

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
                rename_new(&packed, to).map_err(&fail)?;
                std::fs::remove_dir_all(&draft).map_err(&fail)?;
            } else {
                rename_new(&draft, to).map_err(&fail)?;
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
        let mut files = Vec::new();
        // why before the database and after it: such a file is there before its session, and goes when its turn comes.
        self.copy_requests(draft, &mut files).map_err(&fail)?;
        sqlite::copy_database(&self.0.database, &database)?;
        files.insert(0, copied(&database, DATABASE).map_err(&fail)?);
        self.copy_requests(draft, &mut files).map_err(&fail)?;
        for part in PARTS {
            let from = self.0.dir.join(part);
            if from.is_dir() {
                copy_folder(&from, &draft.join(part), part, &mut files).map_err(&fail)?;
            } else if from.is_file() {
                files.push(copy_file(&from, &draft.join(part), part, u64::MAX).map_err(&fail)?);
            }
        }
        sqlite::forget_staged_in(&database)?;
        let missing = self.copy_archives(draft, &mut files)?;
        files[0] = copied(&database, DATABASE).map_err(&fail)?;
        let (_, schema) = super::schema_versions(draft)?;
        // why again: looking at it may have left a log beside it.
        for rest in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(beside(&database, rest));
        }
        sync_folders(draft).map_err(&fail)?;
        let manifest = Manifest {
            format: FORMAT,
            beadle_version: env!("CARGO_PKG_VERSION").to_owned(),
            made_at: self.0.clock.wall_ms(),
            schema,
            key: self.public_key(),
            sessions: self.session_count()?,
            files,
            missing,
        };
        let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
        folder::write_synced(&draft.join(".manifest"), &draft.join(MANIFEST), &text).map_err(&fail)?;
        Ok(manifest)
    }

    /// What queued sessions are to be started with, as far as it is not copied yet.
    fn copy_requests(&self, draft: &Path, files: &mut Vec<Copied>) -> io::Result<()> {
        let (folder, suffix) = REQUESTS;
        for entry in std::fs::read_dir(self.0.dir.join(folder)).into_iter().flatten().flatten() {
            let file = entry.file_name();
            let Some(text) = file.to_str().filter(|t| t.ends_with(suffix)) else { continue };
            let name = format!("{folder}/{text}");
            if !entry.file_type()?.is_file() || files.iter().any(|f| f.path == name) {
                continue;
            }
            private_folder(&draft.join(folder))?;
            match copy_file(&entry.path(), &draft.join(&name), &name, u64::MAX) {
                Ok(c) => files.push(c),
                // Its turn has come since it was listed.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Archives that were put elsewhere come along, and the copy names them where they then are. Gives those that are not as they were
    /// written: it would be found out only when somebody needs the backup.
    fn copy_archives(&self, draft: &Path, files: &mut Vec<Copied>) -> Result<Vec<Missing>> {
        let database = draft.join(DATABASE);
        let mut missing = Vec::new();
        for a in sqlite::archives_in(&database)? {
            let path = self.0.dir.join(&a.file);
            let why = if Path::new(&a.file).is_absolute() {
                // why opened apart: a file that cannot be read is named, a disk that takes no more is an error.
                match archive::open_regular(&path) {
                    Err(e) => Some(e.to_string()),
                    Ok(source) => {
                        let name = format!("{}/elsewhere-{}.jsonl.zst", super::keep::ARCHIVES, a.id);
                        private_folder(&draft.join(super::keep::ARCHIVES)).map_err(failed(draft))?;
                        let copied = copy_open(source, &draft.join(&name), &name, u64::MAX).map_err(|e| bad(&path, e.to_string()))?;
                        sqlite::rename_archive(&database, a.id, &name)?;
                        files.push(copied);
                        files.last().and_then(|f| a.differs(&f.digest))
                    }
                }
            } else {
                match files.iter().find(|f| f.path == a.file) {
                    None => Some("it is not there".to_owned()),
                    Some(f) => a.differs(&f.digest),
                }
            };
            missing.extend(why.map(|why| Missing { session: a.session, first: a.first, last: a.last, path, why }));
        }
        Ok(missing)
    }
}

fn copied(path: &Path, name: &str) -> io::Result<Copied> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path)?;
    hasher.update_reader(&file)?;
    file.sync_all()?;
    Ok(Copied { path: name.to_owned(), bytes: file.metadata()?.len(), digest: hasher.finalize().to_hex().to_string() })
}

/// A copy of its own, 0600 and synced: a link would share what happens to the file. Of a file that has more than `most` bytes, one more
/// than that.
fn copy_file(from: &Path, to: &Path, name: &str, most: u64) -> io::Result<Copied> {
    copy_open(File::open(from)?, to, name, most)
}

fn copy_open(source: File, to: &Path, name: &str, most: u64) -> io::Result<Copied> {
    let mut source = source.take(most.saturating_add(1));
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
            match copy_file(&entry.path(), &to.join(text), &name, u64::MAX) {
                Ok(c) => files.push(c),
                // Renamed by its writer since it was listed.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

/// Puts a backup in the place of a data folder. `running` names sessions of it whose agents run, asked once no daemon can start more.
/// Errors: a daemon holds the folder; it is not empty and `replace` was not said; agents run; the backup is not whole, or its log does
/// not verify. Then nothing has changed. Blocks.
pub fn restore(from: &Path, data: &Path, replace: bool, by: &Actor, at: i64, running: &dyn Fn() -> Vec<String>) -> Result<Restored> {
    let ready = beside(data, RESTORED);
    if data.symlink_metadata().is_err() && ready.is_dir() {
        // why: an earlier restore was cut off between its two steps, and that is the whole store.
        std::fs::rename(&ready, data).map_err(folder::fail(data, "put the store in its place"))?;
    }
    let fresh = !data.exists();
    // why also where there is none yet: a daemon that begins in it meanwhile would write into what is moved aside, or deleted.
    let held = folder::Folder::open(data)?;
    let restored = restore_held(from, &held, replace, by, at, running);
    if restored.is_err() && fresh {
        forget_empty(held.dir());
    }
    restored
}

fn restore_held(
    from: &Path,
    held: &folder::Folder,
    replace: bool,
    by: &Actor,
    at: i64,
    running: &dyn Fn() -> Vec<String>,
) -> Result<Restored> {
    let data = held.dir();
    let used = std::fs::read_dir(data).into_iter().flatten().flatten().any(|e| !UNUSED.iter().any(|n| e.file_name() == *n));
    if used && !replace {
        return Err(Error::NotEmpty { path: data.to_owned() });
    }
    let sessions = running();
    if !sessions.is_empty() {
        return Err(Error::StillRunning { path: data.to_owned(), sessions });
    }
    let draft = new_folder(data, "restoring").map_err(failed(data))?;
    let made = fill(from, &draft).and_then(|manifest| {
        sync_folders(&draft).map_err(failed(&draft))?;
        let store = Store::open(&draft, Options::default())?;
        let report = store.verify(None)?;
        let unknown = manifest.unknown(&report);
        if let Some(first) = unknown.first() {
            return Err(bad(from, format!("its log does not verify ({} findings; the first: {})", unknown.len(), first.detail)));
        }
        let event = BackupRestored { from: from.display().to_string(), made_at: manifest.made_at, by: by.clone() };
        store.note(HostEvent::BackupRestored(event), Vec::new()).wait()?;
        store.close();
        Ok((manifest, report))
    });
    let (manifest, report) = made.inspect_err(|_| drop(std::fs::remove_dir_all(&draft)))?;
    let old = beside(data, &format!(".before-{at}"));
    swap(&draft, data, &old).inspect_err(|_| drop(std::fs::remove_dir_all(&draft))).map_err(failed(data))?;
    if !used {
        forget_empty(&old);
    }
    Ok(Restored { manifest, report, aside: old.exists().then_some(old) })
}

/// Removes a folder in which nothing was kept yet; one with anything else in it stays.
fn forget_empty(dir: &Path) {
    let [lock, run] = UNUSED.map(|name| dir.join(name));
    let _ = std::fs::remove_file(lock);
    let _ = std::fs::remove_dir(run);
    let _ = std::fs::remove_dir(dir);
}

/// Puts a folder in the place of another one, which is then `aside`. Where the file system exchanges two, it is one step; elsewhere what a
/// crash in the middle leaves is put in place by the next start (`config::Folders::create`). Where it cannot be done (the folder is a disk
/// of its own) both are as they were.
fn swap(draft: &Path, data: &Path, aside: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use std::fs::rename;
    // why first: what stood there has its last name from the moment that it stands there no more.
    rename(draft, aside)?;
    if renameat_with(CWD, aside, CWD, data, RenameFlags::EXCHANGE).is_err() {
        let new = beside(data, RESTORED);
        rename_new(aside, &new).inspect_err(|_| drop(rename(aside, draft)))?;
        rename(data, aside).inspect_err(|_| drop(rename(&new, draft)))?;
        if let Err(e) = rename(&new, data) {
            // why only then: without the old one in its place the new one is what the next start needs.
            if rename(aside, data).is_ok() {
                let _ = rename(&new, draft);
            }
            return Err(e);
        }
    }
    sync_parent(data)
}

/// Fills a folder with a backup's files, each checked.
fn fill(from: &Path, draft: &Path) -> Result<Manifest> {
    if from.is_dir() {
        let file = File::open(from.join(MANIFEST)).map_err(|e| bad(from, format!("its {MANIFEST}: {e}")))?;
        let mut text = Vec::new();
        file.take(MANIFEST_MAX).read_to_end(&mut text).map_err(failed(from))?;
        let manifest = read_manifest(from, &text, draft)?;
        for f in &manifest.files {
            let to = draft.join(&f.path);
            private_folder(to.parent().unwrap_or(draft)).map_err(failed(&to))?;
            let got = copy_file(&from.join(&f.path), &to, &f.path, f.bytes).map_err(|e| bad(from, format!("{}: {e}", f.path)))?;
            same(from, &got, f)?;
        }
        return Ok(manifest);
    }
    let mut packed = pack::Packed::open(from).map_err(failed(from))?;
    let text = packed.first(MANIFEST, MANIFEST_MAX).map_err(failed(from))?;
    let manifest = read_manifest(from, &text, draft)?;
    packed.rest(draft, manifest.files.iter().map(|f| (f.path.clone(), f.bytes)).collect()).map_err(failed(from))?;
    for f in &manifest.files {
        same(from, &copied(&draft.join(&f.path), &f.path).map_err(|e| bad(from, format!("{}: {e}", f.path)))?, f)?;
    }
    Ok(manifest)
}

fn same(from: &Path, got: &Copied, wanted: &Copied) -> Result<()> {
    if got == wanted { Ok(()) } else { Err(bad(from, format!("{} has not the bytes that were written", wanted.path))) }
}

/// The manifest, with paths that stay below the folder, and with room for all that it names.
fn read_manifest(from: &Path, text: &[u8], draft: &Path) -> Result<Manifest> {
    let manifest: Manifest = serde_json::from_slice(text).map_err(|e| bad(from, format!("its {MANIFEST}: {e}")))?;
    if manifest.format != FORMAT {
        return Err(bad(from, format!("its form is {}, this version reads {FORMAT}", manifest.format)));
    }
    let below = |f: &Copied| !f.path.is_empty() && Path::new(&f.path).components().all(|c| matches!(c, Component::Normal(_)));
    if let Some(f) = manifest.files.iter().find(|f| !below(f)) {
        return Err(bad(from, format!("{:?} is not a path below it", f.path)));
    }
    folder::room(draft, manifest.bytes().saturating_add(SLACK), "to restore the backup")?;
    Ok(manifest)
}
