//! Where things lie: configuration, data, cache, runtime. `BEADLE_HOME` puts all of them under one folder.
//!
//! - folders are 0700 and ours, files 0600; a folder of another user is refused;
//! - the runtime folder vanishes at logout, so the daemon listens on every path of [`Folders::sockets`];
//! - a socket path longer than the kernel takes is reached through `/proc/self/fd` ([`short_path`]).

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::Error;
use crate::model::RESTORED;

/// Longest path of a unix socket, in bytes, without the final zero.
pub const SUN_PATH_MAX: usize = 107;
const SOCKET: &str = "beadle.sock";

/// All absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folders {
    pub config: PathBuf,
    pub data: PathBuf,
    pub cache: PathBuf,
    /// Holds the first socket; inside `data` when the system gives no runtime folder.
    pub runtime: PathBuf,
}

impl Folders {
    /// From the environment: `BEADLE_HOME`, else the XDG folders, else `$HOME`. Relative XDG values count as unset.
    pub fn from_env() -> Result<Self, Error> {
        Self::resolve(&|name| std::env::var_os(name), &|dir| dir.is_dir())
    }

    /// The same from any environment; `exists` says whether the system's runtime folder is there.
    pub fn resolve(env: &dyn Fn(&str) -> Option<OsString>, exists: &dyn Fn(&Path) -> bool) -> Result<Self, Error> {
        if let Some(home) = env("BEADLE_HOME").filter(|h| !h.is_empty()) {
            let home = PathBuf::from(home);
            if !home.is_absolute() {
                return Err(Error::RelativeFolder { name: "BEADLE_HOME", path: home });
            }
            return Ok(Self { config: home.join("config"), data: home.join("data"), cache: home.join("cache"), runtime: home.join("run") });
        }
        let absolute = |name| env(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let home = absolute("HOME");
        let under = |name, rest: &str| {
            let base = absolute(name).or_else(|| home.as_ref().map(|h| h.join(rest)));
            base.map(|b| b.join("beadle")).ok_or(Error::NoHome)
        };
        let data = under("XDG_DATA_HOME", ".local/share")?;
        let runtime = absolute("XDG_RUNTIME_DIR").filter(|p| exists(p)).map_or_else(|| data.join("run"), |p| p.join("beadle"));
        Ok(Self { config: under("XDG_CONFIG_HOME", ".config")?, cache: under("XDG_CACHE_HOME", ".cache")?, data, runtime })
    }

    pub fn config_file(&self) -> PathBuf {
        self.config.join("beadle.toml")
    }

    /// The daemon's own log.
    pub fn log_file(&self) -> PathBuf {
        self.data.join("daemon.log")
    }

    /// The first socket to try.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join(SOCKET)
    }

    /// Every place where the daemon listens, and where a client looks in this order: the runtime folder, then the data folder.
    pub fn sockets(&self) -> Vec<PathBuf> {
        let mut out = vec![self.socket()];
        let fallback = self.data.join("run").join(SOCKET);
        if !out.contains(&fallback) {
            out.push(fallback);
        }
        out
    }

    /// Makes the folders, 0700 each, and checks that they are ours.
    pub fn create(&self) -> Result<(), Error> {
        finish_restore(&self.data)?;
        for dir in [&self.config, &self.data, &self.cache, &self.runtime, &self.data.join("run")] {
            create_private(dir)?;
        }
        Ok(())
    }
}

/// Puts in place what a restore had ready when it was cut off between two steps.
fn finish_restore(data: &Path) -> Result<(), Error> {
    let mut ready = data.as_os_str().to_owned();
    ready.push(RESTORED);
    match (data.symlink_metadata(), Path::new(&ready).is_dir()) {
        (Err(e), true) if e.kind() == std::io::ErrorKind::NotFound => fs::rename(&ready, data)
            .and_then(|()| data.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all()))
            .map_err(|source| Error::Folder { path: data.to_owned(), source }),
        _ => Ok(()),
    }
}

/// Makes one folder (and its parents) 0700. A folder of another user is an error; loose permissions of our own are tightened.
pub fn create_private(dir: &Path) -> Result<(), Error> {
    let fail = |source| Error::Folder { path: dir.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail)?;
    let meta = fs::metadata(dir).map_err(fail)?;
    let uid = rustix::process::geteuid().as_raw();
    if meta.uid() != uid {
        return Err(Error::ForeignFolder { path: dir.to_owned(), owner: meta.uid(), uid });
    }
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(fail)?;
    }
    Ok(())
}

/// A path for bind or connect that fits in `sun_path`; where the given one does not, its folder is held open meanwhile.
#[derive(Debug)]
pub struct ShortPath {
    pub path: PathBuf,
    _dir: Option<OwnedFd>,
}

/// See [`ShortPath`]. Errors when the folder cannot be opened or the file name itself is too long.
pub fn short_path(socket: &Path) -> Result<ShortPath, Error> {
    let fail = |source| Error::Folder { path: socket.to_owned(), source };
    if socket.as_os_str().as_bytes().len() <= SUN_PATH_MAX {
        return Ok(ShortPath { path: socket.to_owned(), _dir: None });
    }
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(fail(io::Error::from(io::ErrorKind::InvalidInput)));
    };
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, rustix::fs::Mode::empty()).map_err(|e| fail(e.into()))?;
    let path = Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string()).join(name);
    if path.as_os_str().as_bytes().len() > SUN_PATH_MAX {
        return Err(Error::SocketTooLong { path: socket.to_owned() });
    }
    Ok(ShortPath { path, _dir: Some(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(vars: &[(&str, &str)], exists: bool) -> Result<Folders, Error> {
        let env = |name: &str| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| OsString::from(v));
        Folders::resolve(&env, &|_| exists)
    }

    #[test]
    fn one_home_holds_everything() {
        let f = resolve(&[("BEADLE_HOME", "/b"), ("HOME", "/h")], true).unwrap();
        assert_eq!((f.config_file(), f.socket()), ("/b/config/beadle.toml".into(), "/b/run/beadle.sock".into()));
        assert_eq!(resolve(&[("BEADLE_HOME", "b")], true).unwrap_err().code(), "BDL-CONFIG-008");
    }

    #[test]
    fn runtime_falls_back_to_the_data_folder_and_relative_xdg_is_unset() {
        let vars = [("HOME", "/h"), ("XDG_CONFIG_HOME", "rel"), ("XDG_RUNTIME_DIR", "/run/user/1")];
        let f = resolve(&vars, true).unwrap();
        assert_eq!(f.config, Path::new("/h/.config/beadle"));
        assert_eq!(f.sockets(), ["/run/user/1/beadle/beadle.sock", "/h/.local/share/beadle/run/beadle.sock"].map(PathBuf::from));
        assert_eq!(resolve(&vars, false).unwrap().sockets(), [PathBuf::from("/h/.local/share/beadle/run/beadle.sock")]);
        assert!(matches!(resolve(&[], true), Err(Error::NoHome)));
    }

    #[test]
    fn a_long_socket_path_is_reached_through_its_folder() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("x".repeat(120));
        create_private(&dir).unwrap();
        let long = dir.join(SOCKET);
        let short = short_path(&long).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&short.path).unwrap();
        assert!(long.exists());
        std::os::unix::net::UnixStream::connect(&short.path).unwrap();
    }
}
