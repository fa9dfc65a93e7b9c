//! Puts the shim that this executable carries into the data folder, named by its digest: an upgrade never touches a running one.
//! Under a second name that never changes lies the same file, for settings of agents that name it: replaced whole, at each start.
//!
//! Also keeps copies of this executable, by which an upgrade can be taken back.
//!
//! Called by the daemon at start, and by `api` before an upgrade.

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

/// Whether a program is a shim, of this build or another, in the data folder `data` or in one that was moved aside from there.
pub fn is_shim_below(program: &Path, data: &Path) -> bool {
    let (program, data) = (program.to_string_lossy(), data.to_string_lossy());
    let Some(below) = program.strip_prefix(&*data) else { return false };
    (below.starts_with('/') || below.starts_with(".before-")) && below.contains("/bin/beadle-shim-")
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

/// How names of kept executables begin; what follows is the digest.
const HOST: &str = "host-";
/// Kept executables at most.
const HOSTS_MAX: usize = 2;

/// A copy of the executable that runs this process, in `dir` (which must exist), named by its digest; 0700. Works after the file was
/// replaced or removed. The oldest copies over two go.
pub fn keep_host(dir: &Path) -> Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    let tmp = dir.join(format!(".host-{}", std::process::id()));
    let copied = (|| -> io::Result<PathBuf> {
        match std::fs::remove_file(&tmp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut from = File::open(running)?;
        let mut to = File::options().write(true).create_new(true).mode(0o700).open(&tmp)?;
        let mut hasher = blake3::Hasher::new();
        let mut block = vec![0; 1 << 20];
        loop {
            let n = from.read(&mut block)?;
            if n == 0 {
                break;
            }
            hasher.update(&block[..n]);
            to.write_all(&block[..n])?;
        }
        to.sync_all()?;
        drop(to);
        let path = dir.join(format!("{HOST}{}", &hasher.finalize().to_hex()[..16]));
        std::fs::rename(&tmp, &path)?;
        File::open(dir)?.sync_all()?;
        Ok(path)
    })();
    let path = copied.map_err(Error::file("keep a copy of this executable in", dir))?;
    forget_hosts(dir, &path);
    Ok(path)
}

/// Removes the oldest kept executables but for `newest`.
fn forget_hosts(dir: &Path, newest: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut old: Vec<_> = entries
        .flatten()
        .filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(HOST)) && e.path() != newest)
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .collect();
    old.sort_by(|a, b| b.cmp(a));
    for (_, path) in old.into_iter().skip(HOSTS_MAX - 1) {
        // why ignore: it costs room only.
        let _ = std::fs::remove_file(path);
    }
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
    fn executables_are_kept_by_their_digest_and_few() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..4 {
            std::fs::write(dir.path().join(format!("{HOST}{n}")), "old").unwrap();
        }
        let path = keep_host(dir.path()).unwrap();
        assert_eq!(keep_host(dir.path()).unwrap(), path);
        let (kept, running) = (std::fs::read(&path).unwrap(), std::fs::read("/proc/self/exe").unwrap());
        assert_eq!(blake3::hash(&kept), blake3::hash(&running));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), HOSTS_MAX);
    }

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
