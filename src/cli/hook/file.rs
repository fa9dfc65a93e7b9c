//! Settings files of agents: read without following a link, written whole or not at all, with the earlier text kept beside.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::agent::claude::settings::FILE_MAX;

/// What is added to a file's name for the text that it had before.
const BACKUP: &str = ".before-beadle";

/// The text of a settings file; `None` when there is none.
pub fn read(path: &Path) -> io::Result<Option<String>> {
    let meta = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if meta.file_type().is_symlink() {
        let to = fs::read_link(path).map(|t| t.display().to_string()).unwrap_or_default();
        return Err(io::Error::other(format!(
            "it is a link to {to}; a link is not followed, replace it by the file or edit that one by hand"
        )));
    }
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if meta.len() > FILE_MAX as u64 {
        return Err(io::Error::other(format!("it has {} bytes, over the cap of {FILE_MAX}", meta.len())));
    }
    // why NOFOLLOW and NONBLOCK: it may have been swapped for a link or a FIFO since.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let mut text = String::new();
    file.take(FILE_MAX as u64 + 1).read_to_string(&mut text)?;
    Ok(Some(text))
}

/// Replaces the text of a file that still holds `before`, keeping that beside it and the file's permissions.
pub fn replace(path: &Path, before: Option<&str>, after: &str) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::other("it has no folder"))?;
    fs::create_dir_all(dir)?;
    let mode = fs::symlink_metadata(path).map_or(0o600, |m| m.permissions().mode() & 0o777);
    if let Some(before) = before {
        write(&backup(path), before, mode)?;
    }
    if read(path)?.as_deref() != before {
        return Err(io::Error::other("it was changed meanwhile; try again"));
    }
    write(path, after, mode)?;
    File::open(dir)?.sync_all()
}

/// Where the earlier text is kept.
pub fn backup(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(BACKUP);
    PathBuf::from(name)
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(format!(".{}", std::process::id()));
    let tmp = PathBuf::from(tmp);
    let written = (|| {
        let mut f = OpenOptions::new().write(true).create_new(true).mode(mode).open(&tmp)?;
        f.write_all(text.as_bytes())?;
        f.set_permissions(fs::Permissions::from_mode(mode))?;
        f.sync_all()?;
        fs::rename(&tmp, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&tmp);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_whole_with_the_earlier_text_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/settings.json");
        replace(&path, None, "{}").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&path, Some("{}"), "{\"a\":1}").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some("{\"a\":1}"));
        assert_eq!(read(&backup(&path)).unwrap().as_deref(), Some("{}"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(replace(&path, Some("{}"), "x").is_err(), "another's change is not lost");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn links_and_other_things_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert_eq!(read(&path).unwrap(), None);
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("/etc/hostname"));
        assert!(replace(&path, None, "x").is_err());
        assert!(read(dir.path()).is_err());
    }
}
