//! The whole record of one conversation, and a new one beside it.
//!
//! Invariants: no link below the named root is followed; what is there is never written to: a new record is a new file; it is synced, its
//! folder too, before anybody is told of it.
//!
//! Called by `compact` and `branch`.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Dir, Mode, OFlags, openat};

use super::{FOLDERS, folder_at, regular};

/// Longest record that is compacted, in bytes.
pub const RECORD_MAX: u64 = 64 << 20;

/// A conversation's record, as it was read.
#[derive(Debug)]
pub struct Whole {
    folder: OwnedFd,
    pub path: String,
    pub bytes: Vec<u8>,
}

/// Reads the record of `conversation`, whose agent works in `cwd`; the error says why not.
pub fn read(root: &str, conversation: &str, cwd: &str) -> Result<Whole, String> {
    let name = format!("{conversation}.jsonl");
    let (folder, within) = find(root, &name, cwd).ok_or_else(|| format!("{name} is not below {root}"))?;
    let path = Path::new(root).join(&within).join(&name).display().to_string();
    let size = regular(&folder, &name).and_then(|s| u64::try_from(s.st_size).ok()).unwrap_or(0);
    if size > RECORD_MAX {
        return Err(format!("{path} has {size} bytes; at most {RECORD_MAX} are compacted"));
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let said = |e: std::io::Error| format!("{path} cannot be read ({e})");
    let file = std::fs::File::from(openat(&folder, &name, flags, Mode::empty()).map_err(|e| said(e.into()))?);
    if !file.metadata().map_err(said)?.is_file() {
        return Err(format!("{path} is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(RECORD_MAX + 1).read_to_end(&mut bytes).map_err(said)?;
    if bytes.len() as u64 > RECORD_MAX {
        return Err(format!("{path} grew over {RECORD_MAX} bytes"));
    }
    Ok(Whole { folder, path, bytes })
}

/// Writes the record of a new conversation beside the one that was read.
pub fn write(beside: &Whole, conversation: &str, bytes: &[u8]) -> Result<(), String> {
    let name = format!("{conversation}.jsonl");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::from(openat(&beside.folder, &name, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::File::from(openat(&beside.folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?).sync_all()
    };
    write().map_err(|e| format!("{name} beside {} cannot be written ({e})", beside.path))
}

/// Writes the record of a new conversation where the agent looks for it: the folder of the working directory, which is made where it is gone.
pub fn place(root: &str, cwd: &str, conversation: &str, bytes: &[u8]) -> Result<(), String> {
    let said = |what: &str, e: std::io::Error| format!("{what} cannot be made ({e})");
    std::fs::create_dir_all(root).map_err(|e| said(root, e))?;
    let at = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| said(root, e.into()))?;
    let name = super::folder_name(cwd);
    match rustix::fs::mkdirat(&at, &name, Mode::RWXU) {
        Err(e) if e != rustix::io::Errno::EXIST => return Err(said(&name, e.into())),
        _ => {}
    }
    let folder = folder_at(&at, &name).ok_or_else(|| format!("{name} below {root} is no folder"))?;
    let path = Path::new(root).join(&name).display().to_string();
    write(&Whole { folder, path, bytes: vec![] }, conversation, bytes)
}

fn find(root: &str, name: &str, cwd: &str) -> Option<(OwnedFd, String)> {
    let root = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let holds = |folder: String| folder_at(&root, &folder).filter(|f| regular(f, name).is_some()).map(|f| (f, folder));
    holds(super::folder_name(cwd)).or_else(|| {
        let list = openat(&root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).and_then(Dir::new);
        let names = list.into_iter().flatten().flatten().take(FOLDERS).map(|e| e.file_name().to_string_lossy().into_owned());
        names.filter(|n| !n.starts_with('.')).find_map(holds)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_record_stands_beside_the_old_one_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("projects");
        let folder = root.join("-w-a-b");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("c.jsonl"), "one\n").unwrap();
        let root = root.display().to_string();
        for cwd in ["/w/a_b", "/elsewhere"] {
            assert_eq!(read(&root, "c", cwd).map(|w| w.bytes), Ok(b"one\n".to_vec()), "{cwd}");
        }
        let whole = read(&root, "c", "/w/a_b").unwrap();
        write(&whole, "d", b"two\n").unwrap();
        assert!(write(&whole, "d", b"three\n").unwrap_err().contains("cannot be written"));
        assert!(write(&whole, "c", b"three\n").is_err(), "the old one stays");
        assert_eq!(std::fs::read(folder.join("d.jsonl")).unwrap(), b"two\n");
        std::os::unix::fs::symlink(folder.join("c.jsonl"), folder.join("e.jsonl")).unwrap();
        assert!(read(&root, "e", "/w/a_b").is_err(), "a link");
        assert!(read(&root, "nobody", "/w/a_b").unwrap_err().contains("nobody.jsonl"));
    }
}
