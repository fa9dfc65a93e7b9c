//! Files of granted folders: each path is resolved beneath its folder by the kernel, so no link leads out, whenever it is put there.
//!
//! Invariants:
//! - a path is opened as a place first; what it is, and where, is looked at on that descriptor, and only then it is read: a device, a FIFO
//!   or a socket is never opened;
//! - Beadle's own folders are not reached, whatever is granted;
//! - files, listings and paths are capped; a write shows whole or not at all.
//!
//! Called by the bindings (`v0_1::capabilities`).

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, renameat, unlinkat};
use rustix::io::Errno;

use crate::model::grant::FsAccess;
use crate::model::{Grant, Grants};

/// Largest file that is read, in bytes.
pub const MAX_FILE: usize = 4 << 20;
/// Largest content that is written, in bytes: what a guest can hand over in one call of the host.
pub const MAX_WRITE: usize = 1 << 20;
/// Most entries of a folder that is listed.
pub const MAX_ENTRIES: usize = 1024;
/// Longest path, in bytes.
const MAX_PATH: usize = 4096;
/// Bytes read between two looks at the time.
const CHUNK: usize = 256 << 10;

/// Why nothing was read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FsError {
    NotFound,
    OverLimit(String),
    Unavailable(String),
}

/// What an entry of a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    Link,
    Other,
}

/// The folders that one plugin reaches.
pub(super) struct Within<'a> {
    pub(super) grants: &'a Grants,
    /// Those that it never does.
    pub(super) own: &'a [PathBuf],
    /// What stands for `/`, where that is another folder.
    pub(super) root: Option<PathBuf>,
}

/// A plain absolute path without `.`, `..`, empty parts and NUL.
pub(super) fn plain(path: &str) -> Result<(), FsError> {
    if path.len() > MAX_PATH {
        return Err(FsError::OverLimit(format!("a path of {} bytes; the limit is {MAX_PATH}", path.len())));
    }
    let whole = path.strip_prefix('/').is_some_and(|p| p.split('/').all(|c| !matches!(c, "" | "." | "..")));
    if !whole || path.chars().any(char::is_control) {
        return Err(FsError::Unavailable(format!("{path:?} is no absolute path without `.`, `..`, `//` and control characters")));
    }
    Ok(())
}

/// The use that a path stands for, and the grant that would allow it: of the folder that holds a file.
pub(super) fn asked(access: FsAccess, path: &str, of_folder: bool) -> (Grant, Grant) {
    let folder = match path.rsplit_once('/') {
        Some((parent, _)) if !of_folder && !parent.is_empty() => parent,
        _ => path,
    };
    (Grant::Fs(access, Some(path.to_owned())), Grant::Fs(access, Some(folder.to_owned())))
}

/// Reads a whole file.
pub(super) fn read(within: &Within<'_>, path: &str, until: Instant) -> Result<Vec<u8>, FsError> {
    let place = open(within, FsAccess::Read, path)?;
    let stat = fstat(&place).map_err(|e| errno(path, e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(FsError::Unavailable(format!("{path} is no regular file")));
    }
    if u64::try_from(stat.st_size).unwrap_or(u64::MAX) > MAX_FILE as u64 {
        return Err(FsError::OverLimit(format!("{path} has {} bytes; the limit is {MAX_FILE}", stat.st_size)));
    }
    let mut file = reopen(&place, OFlags::RDONLY | OFlags::NONBLOCK).map_err(|e| errno(path, e))?;
    let mut bytes = Vec::new();
    loop {
        if Instant::now() >= until {
            return Err(FsError::Unavailable(format!("reading {path}: the deadline of the call was reached")));
        }
        let n = (&mut file).take(CHUNK as u64).read_to_end(&mut bytes).map_err(|e| FsError::Unavailable(format!("reading {path}: {e}")))?;
        if bytes.len() > MAX_FILE {
            return Err(FsError::OverLimit(format!("{path} grew over {MAX_FILE} bytes")));
        }
        if n < CHUNK {
            return Ok(bytes);
        }
    }
}

/// Makes or replaces a file as a whole.
pub(super) fn write(within: &Within<'_>, path: &str, content: &[u8]) -> Result<(), FsError> {
    if content.len() > MAX_WRITE {
        return Err(FsError::OverLimit(format!("a content of {} bytes; the limit is {MAX_WRITE}", content.len())));
    }
    let Some((parent, name)) = path.rsplit_once('/').filter(|(p, _)| !p.is_empty()) else {
        return Err(FsError::Unavailable(format!("{path} lies in no folder that can be granted")));
    };
    let folder = open(within, FsAccess::Write, parent)?;
    if FileType::from_raw_mode(fstat(&folder).map_err(|e| errno(parent, e))?.st_mode) != FileType::Directory {
        return Err(FsError::Unavailable(format!("{parent} is no folder")));
    }
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| FsError::Unavailable(e.to_string()))?;
    let draft = format!(".beadle-{:016x}", u64::from_le_bytes(random));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&folder, draft.as_str(), flags, Mode::RUSR | Mode::WUSR).map_err(|e| errno(path, e))?;
    let written = File::from(file).write_all(content).map_err(|e| FsError::Unavailable(format!("writing {path}: {e}")));
    // why: a link of that name is replaced itself, never what it points to.
    let done = written.and_then(|()| renameat(&folder, draft.as_str(), &folder, name).map_err(|e| errno(path, e)));
    if done.is_err() {
        let _ = unlinkat(&folder, draft.as_str(), AtFlags::empty());
    }
    done
}

/// What is in a folder.
pub(super) fn list(within: &Within<'_>, path: &str) -> Result<Vec<(String, Kind)>, FsError> {
    let place = open(within, FsAccess::Read, path)?;
    if FileType::from_raw_mode(fstat(&place).map_err(|e| errno(path, e))?.st_mode) != FileType::Directory {
        return Err(FsError::Unavailable(format!("{path} is no folder")));
    }
    let folder = openat(&place, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| errno(path, e))?;
    let mut out = Vec::new();
    for entry in Dir::new(folder).map_err(|e| errno(path, e))? {
        let entry = entry.map_err(|e| errno(path, e))?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if matches!(name, "." | "..") {
            continue;
        }
        if out.len() == MAX_ENTRIES {
            return Err(FsError::OverLimit(format!("{path} has more than {MAX_ENTRIES} entries")));
        }
        let kind = match entry.file_type() {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            FileType::Symlink => Kind::Link,
            _ => Kind::Other,
        };
        out.push((name.to_owned(), kind));
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(out)
}

/// The place of a path beneath the granted folder that covers it: a descriptor that can be looked at, and not read from.
fn open(within: &Within<'_>, access: FsAccess, path: &str) -> Result<OwnedFd, FsError> {
    let what = Grant::Fs(access, Some(path.to_owned()));
    let covering = within.grants.iter().filter(|g| g.covers(&what));
    let folder = covering.filter_map(|g| if let Grant::Fs(_, Some(folder)) = g { Some(folder) } else { None }).max_by_key(|f| f.len());
    // why never: whoever calls this has checked the grant.
    let folder = folder.ok_or_else(|| FsError::Unavailable(format!("no granted folder holds {path}")))?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    // The operator's own links on the way to the folder hold; what is beneath it is held there by the kernel.
    let place = within.root.as_ref().map_or_else(|| PathBuf::from(folder), |r| r.join(folder.trim_start_matches('/')));
    let root = openat2(CWD, &place, flags | OFlags::DIRECTORY, Mode::empty(), ResolveFlags::NO_MAGICLINKS);
    let root = root.map_err(|e| match e {
        Errno::NOTDIR => FsError::Unavailable(format!("the granted {folder} is no folder")),
        e => errno(folder, e),
    })?;
    let rest = path[folder.len()..].trim_start_matches('/');
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    let place = loop {
        match openat2(&root, if rest.is_empty() { "." } else { rest }, flags, Mode::empty(), beneath) {
            Ok(fd) => break fd,
            // why again: the kernel says so where a folder was moved while it looked.
            Err(Errno::AGAIN) if tries < 8 => tries += 1,
            Err(e) => return Err(errno(path, e)),
        }
    };
    let real = std::fs::read_link(format!("/proc/self/fd/{}", place.as_raw_fd())).map_err(|e| FsError::Unavailable(e.to_string()))?;
    let lies_in = |folder: &Path| folder.canonicalize().is_ok_and(|f| real.starts_with(f)) || real.starts_with(folder);
    if within.own.iter().any(|o| lies_in(o)) {
        return Err(FsError::Unavailable(format!("{path} lies in one of Beadle's own folders, which no plugin reaches")));
    }
    // why: the environment and memory of the host itself are files there.
    if real.starts_with("/proc") {
        return Err(FsError::Unavailable(format!("{path} lies in /proc, which no plugin reaches")));
    }
    Ok(place)
}

/// The same file, opened to be used.
fn reopen(place: &OwnedFd, flags: OFlags) -> Result<File, Errno> {
    let path = format!("/proc/self/fd/{}", place.as_fd().as_raw_fd());
    openat(CWD, path.as_str(), flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty()).map(File::from)
}

fn errno(path: &str, e: Errno) -> FsError {
    match e {
        Errno::NOENT => FsError::NotFound,
        Errno::XDEV | Errno::LOOP => FsError::Unavailable(format!("{path} leads out of the granted folder")),
        e => FsError::Unavailable(format!("{path}: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;

    struct Case {
        dir: tempfile::TempDir,
        grants: Grants,
    }

    fn case(access: &str) -> Case {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("in/sub")).unwrap();
        std::fs::write(dir.path().join("in/a"), "inside").unwrap();
        std::fs::write(dir.path().join("secret"), "outside").unwrap();
        let grants = Grants::parse([format!("fs:{access}:{}/in", dir.path().display())]).unwrap();
        Case { dir, grants }
    }

    fn within<'a>(grants: &'a Grants, own: &'a [PathBuf]) -> Within<'a> {
        Within { grants, own, root: None }
    }

    impl Case {
        fn path(&self, rest: &str) -> String {
            format!("{}/in/{rest}", self.dir.path().display())
        }
        fn read(&self, rest: &str) -> Result<Vec<u8>, FsError> {
            read(&within(&self.grants, &[]), &self.path(rest), Instant::now() + Duration::from_secs(20))
        }
        fn write(&self, rest: &str, content: &[u8]) -> Result<(), FsError> {
            write(&within(&self.grants, &[]), &self.path(rest), content)
        }
    }

    fn refused<T: std::fmt::Debug>(r: Result<T, FsError>) -> String {
        match r {
            Err(FsError::Unavailable(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn links_out_devices_and_fifos_are_refused() {
        let c = case("read");
        let at = |n: &str| c.dir.path().join("in").join(n);
        symlink("a", at("fine")).unwrap();
        symlink("../secret", at("up")).unwrap();
        symlink(c.dir.path().join("secret"), at("absolute")).unwrap();
        symlink("/", at("root")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink("/proc/self/environ", at("proc")).unwrap();
        rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!((c.read("a"), c.read("fine")), (Ok(b"inside".to_vec()), Ok(b"inside".to_vec())));
        assert_eq!(c.read("none"), Err(FsError::NotFound));
        for n in ["up", "absolute", "root/etc/passwd", "proc"] {
            assert!(refused(c.read(n)).contains("leads out"), "{n}");
        }
        for n in ["loop", "fifo", "sub"] {
            refused(c.read(n));
        }
        let names: Vec<String> =
            list(&within(&c.grants, &[]), &c.path("")[..c.path("").len() - 1]).unwrap().into_iter().map(|e| e.0).collect();
        assert_eq!(names, ["a", "absolute", "fifo", "fine", "loop", "proc", "root", "sub", "up"]);
    }

    #[test]
    fn a_write_replaces_the_name_and_never_what_a_link_points_to() {
        let c = case("write");
        symlink("../secret", c.dir.path().join("in/up")).unwrap();
        symlink("..", c.dir.path().join("in/out")).unwrap();
        c.write("up", b"new").unwrap();
        c.write("sub/b", b"new").unwrap();
        assert_eq!(c.read("up"), Ok(b"new".to_vec()));
        assert_eq!(std::fs::read(c.dir.path().join("secret")).unwrap(), b"outside");
        assert!(refused(c.write("out/secret", b"x")).contains("leads out"));
        refused(c.write("sub", b"x"));
        assert_eq!(c.write("none/b", b"x"), Err(FsError::NotFound));
        assert!(matches!(c.write("big", &vec![0; MAX_WRITE + 1]), Err(FsError::OverLimit(_))));
        let left = std::fs::read_dir(c.dir.path().join("in")).unwrap().flatten();
        assert!(left.into_iter().all(|e| !e.file_name().to_string_lossy().starts_with(".beadle-")));
    }

    #[test]
    fn own_folders_are_not_reached_by_any_road() {
        let c = case("write");
        let own = [c.dir.path().join("in/sub")];
        std::fs::write(own[0].join("log"), "x").unwrap();
        symlink("sub", c.dir.path().join("in/way")).unwrap();
        let soon = Instant::now() + Duration::from_secs(20);
        for n in ["sub/log", "way/log"] {
            assert!(refused(read(&within(&c.grants, &own), &c.path(n), soon)).contains("own folders"), "{n}");
            assert!(refused(write(&within(&c.grants, &own), &c.path(n), b"y")).contains("own folders"), "{n}");
        }
        assert_eq!(std::fs::read(own[0].join("log")).unwrap(), b"x");
        assert!(plain("/a/b").is_ok());
        for p in ["", "a", "/", "/a/../b", "/a//b", "/a/.", "/a\nb", "/a\0b"] {
            assert!(plain(p).is_err(), "{p:?}");
        }
    }
}
