//! A project's own `beadle.toml`: found, read without following links, and named by its digest.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::Error;
use super::value::FILE_MAX;

/// Name of the file in a project.
pub const FILE: &str = "beadle.toml";
/// How many folders up the search goes.
const CLIMB_MAX: usize = 64;

/// A project's file as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The folder that holds it.
    pub dir: PathBuf,
    pub path: PathBuf,
    pub text: String,
    /// BLAKE3 of the bytes, hex.
    pub digest: String,
}

/// The nearest `beadle.toml` from `cwd` upwards, not past the folder that holds `.git`; without a `.git` only `cwd` itself.
/// Errors when it is there and is a link, not a regular file, too large or not text.
pub fn find(cwd: &Path) -> Result<Option<Found>, Error> {
    let top = cwd.ancestors().take(CLIMB_MAX).find(|d| d.join(".git").symlink_metadata().is_ok()).unwrap_or(cwd);
    for dir in cwd.ancestors().take_while(|d| d.starts_with(top)) {
        if let Some(found) = read(dir)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The file of exactly this folder.
pub fn read(dir: &Path) -> Result<Option<Found>, Error> {
    let path = dir.join(FILE);
    let Some(text) = read_text(&path, OFlags::NOFOLLOW)? else { return Ok(None) };
    let digest = blake3::hash(text.as_bytes()).to_hex().to_string();
    Ok(Some(Found { dir: dir.to_owned(), path, text, digest }))
}

/// A configuration file, at most [`FILE_MAX`] bytes; `None` when there is none.
pub fn read_text(path: &Path, extra: OFlags) -> Result<Option<String>, Error> {
    let fail = |source| Error::Unreadable { path: path.to_owned(), source };
    // why NONBLOCK: a FIFO in place of the file must not hold us.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | extra;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => return Err(fail(io::Error::other("it is a symbolic link, which is not followed here"))),
        Err(e) => return Err(fail(e.into())),
    };
    let meta = file.metadata().map_err(fail)?;
    if !meta.is_file() || meta.len() > FILE_MAX {
        return Err(Error::NotAFile { path: path.to_owned(), max: FILE_MAX });
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(Error::NotAFile { path: path.to_owned(), max: FILE_MAX });
    }
    String::from_utf8(bytes).map(Some).map_err(|_| Error::NotText { path: path.to_owned() })
}
