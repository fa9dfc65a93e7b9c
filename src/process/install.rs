//! Puts the shim that this executable carries into the data folder, named by its digest: an upgrade never touches a running one.
//! Under a second name that never changes lies the same file, for settings of agents that name it: replaced whole, at each start.
//!
//! Called by the daemon at start.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Error, Result};

/// The shim as it was built with this executable.
static SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/beadle-shim"));

/// The path of our shim in `dir` (which must exist), written there if it is not yet.
pub fn install(dir: &Path) -> Result<PathBuf> {
    install_bytes(dir, SHIM)
}

/// As [`install`], for given bytes. A file of that name with other content is replaced.
pub fn install_bytes(dir: &Path, shim: &[u8]) -> Result<PathBuf> {
    let digest = blake3::hash(shim);
    let path = dir.join(format!("beadle-shim-{}", &digest.to_hex()[..16]));
    write(dir, &path, shim)?;
    Ok(path)
}

/// The name under which agents' hooks call it.
pub const STABLE: &str = "beadle-shim";

/// Puts our shim in `dir` under [`STABLE`], replacing an older one in one step; calls that run keep theirs.
pub fn install_stable(dir: &Path) -> Result<PathBuf> {
    let path = dir.join(STABLE);
    write(dir, &path, SHIM)?;
    Ok(path)
}

/// Whether the file at `path` is our shim, byte for byte, and may be executed.
pub fn is_installed(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    is_same(path, SHIM) && std::fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o100 != 0)
}

fn write(dir: &Path, path: &Path, shim: &[u8]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if is_same(path, shim) && std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o100 != 0) {
        return Ok(());
    }
    // Named by pid: two daemons that start at once each rename a whole file.
    let tmp = dir.join(format!(".beadle-shim-{}", std::process::id()));
    let written = (|| -> io::Result<()> {
        // An earlier process of this number may have died here.
        match std::fs::remove_file(&tmp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut f = File::options().write(true).create_new(true).mode(0o700).open(&tmp)?;
        f.write_all(shim)?;
        f.sync_all()?;
        drop(f);
        std::fs::rename(&tmp, path)?;
        File::open(dir)?.sync_all()
    })();
    written.map_err(Error::file("write the shim to", path))
}

fn is_same(path: &Path, shim: &[u8]) -> bool {
    let mut have = Vec::new();
    let Ok(f) = File::open(path) else { return false };
    f.take(shim.len() as u64 + 1).read_to_end(&mut have).is_ok() && have == shim
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_is_written_once_and_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let path = install_bytes(dir.path(), b"one").unwrap();
        assert_eq!(install_bytes(dir.path(), b"one").unwrap(), path);
        std::fs::write(&path, b"broken").unwrap();
        assert_eq!(std::fs::read(install_bytes(dir.path(), b"one").unwrap()).unwrap(), b"one");
        assert_ne!(install_bytes(dir.path(), b"two").unwrap(), path);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let e = install_bytes(Path::new("/nonexistent/x"), b"one").unwrap_err();
        assert_eq!(e.code(), "BDL-PROCESS-009");
        assert!(e.to_string().contains("/nonexistent/x"), "{e}");
    }
}
