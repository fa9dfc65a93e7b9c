//! An upgrade of the schema before it is done, tried on a copy; and the way back from one that was done for nothing.
//!
//! Invariants:
//! - a rehearsal changes nothing but its copy, which goes with it; it works beside the daemon that runs;
//! - the way back is taken only where nothing was written behind the copy from before that anybody may have been told of; the database
//!   that is given up is kept aside; at every moment the folder has one whole database.
//!
//! Called by `daemon`; blocks.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, renameat_with};

use super::blob::Blobs;
use super::error::{Error, Result};
use super::folder::{self, DATABASE, Folder, fail, sync_parent};
use super::report::{Report, What};
use super::verify::verify;
use super::{schema_versions, sqlite};

/// What the copy's name ends in.
const REHEARSAL: &str = ".rehearsal";
/// What must be free beside copies, in bytes: logs grow while a schema is changed.
const SLACK: u64 = 16 << 20;

/// What the new schema would come to.
#[derive(Debug)]
pub struct Rehearsal {
    /// The schema that the store has, and the one that this build writes.
    pub found: Option<i64>,
    pub schema: i64,
    /// Of the copy, once it was brought up to date; empty where nothing is to be done.
    pub report: Report,
}

impl Rehearsal {
    /// Findings that a change of the schema can have made: files beside the database are none of its business.
    pub fn against(&self) -> Vec<&super::Finding> {
        let beside = |w| matches!(w, What::ArchiveMissing | What::ArchiveDamaged | What::Blob);
        self.report.findings.iter().filter(|f| !beside(f.what)).collect()
    }
}

/// The copy of a rehearsal; goes with it.
struct Copy {
    path: PathBuf,
    file: File,
}

impl Copy {
    /// An empty file of ours alone. What a rehearsal that was cut off left goes first.
    fn new(database: &Path) -> Result<Self> {
        let path = folder::beside(database, REHEARSAL);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(fail(&path, "make it"))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(e) => {
                let other = io::Error::new(io::Error::from(e).kind(), "another check of an upgrade is at work with it");
                return Err(fail(&path, "lock it")(other));
            }
        }
        let copy = Self { path, file };
        copy.forget_logs();
        copy.file.set_len(0).map_err(fail(&copy.path, "empty it"))?;
        Ok(copy)
    }

    fn forget_logs(&self) {
        for rest in ["-wal", "-shm", "-journal"] {
            let _ = std::fs::remove_file(folder::beside(&self.path, rest));
        }
    }
}

/// What a rehearsal that was cut off left: a whole copy, with every word in it.
pub(super) fn forget_cut_off(database: &Path) {
    let path = folder::beside(database, REHEARSAL);
    let Ok(file) = super::archive::open_regular(&path) else { return };
    // One that is at work holds it.
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        drop(Copy { path, file });
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.forget_logs();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Brings a copy of the database to this build's schema, folds every projection anew and verifies every log. Errors: no room for it, the
/// schema cannot be changed. What is only not sound stands in the report.
pub fn rehearse(data: &Path) -> Result<Rehearsal> {
    let (found, schema) = schema_versions(data)?;
    if found.is_none_or(|n| n >= schema) {
        return Ok(Rehearsal { found, schema, report: Report::default() });
    }
    let data = std::fs::canonicalize(data).map_err(fail(data, "find it"))?;
    let database = data.join(DATABASE);
    has_room(&data, &database)?;
    let copy = Copy::new(&database)?;
    let conn = sqlite::migrated_copy(&database, &copy.path)?;
    let report = verify(&conn, &Blobs::beside(data.join(folder::BLOBS)), None, None)?;
    drop(conn);
    Ok(Rehearsal { found, schema, report })
}

/// Whether the disk takes what is made now, and what the daemon makes when it takes over: a copy each time, which grows in between.
fn has_room(data: &Path, database: &Path) -> Result<()> {
    let size = |path: &Path| path.metadata().map_or(0, |m| m.len());
    let needed = 2 * (size(database) + size(&folder::beside(database, "-wal"))) + SLACK;
    folder::room(data, needed, "to upgrade the database")
}

/// Puts the copy from before schema `to` was left in the place of the database, while no daemon holds the folder; gives where the newer one
/// went, or `None` where it has that schema. Errors: something was written since, or it cannot be known; then nothing has changed.
pub fn step_back(data: &Path, to: i64) -> Result<Option<PathBuf>> {
    let folder = Folder::open(data)?;
    let path = folder.database();
    let now = sqlite::header_version(&path)?;
    if now == to {
        return Ok(None);
    }
    let copy = folder::beside(&path, &format!(".schema-{to}"));
    let refuse = |why: String| Error::NoWayBack { path: path.clone(), to, copy: copy.clone(), why };
    if !copy.is_file() {
        return Err(refuse("its copy from before is not there".to_owned()));
    }
    match sqlite::written_since(&path, &copy) {
        Ok(None) => {}
        Ok(Some(what)) => return Err(refuse(format!("{what} since, which would be lost"))),
        Err(e) => return Err(refuse(format!("the two cannot be compared ({e})"))),
    }
    // why: a log that stays beside the copy would be played into it.
    if !sqlite::settle(&path)? {
        return Err(refuse("a program still reads it".to_owned()));
    }
    let failed = folder::beside(&path, &format!(".schema-{now}-failed"));
    let swap = || {
        match std::fs::remove_file(&failed) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        // why not always in one step: not every file system exchanges two files, nor has every one a second name for one.
        match renameat_with(CWD, &copy, CWD, &path, RenameFlags::EXCHANGE) {
            Ok(()) => std::fs::rename(&copy, &failed)?,
            Err(_) => {
                std::fs::hard_link(&path, &failed)?;
                std::fs::rename(&copy, &path)?;
            }
        }
        sync_parent(&path)
    };
    swap().map_err(|e| refuse(e.to_string()))?;
    Ok(Some(failed))
}
