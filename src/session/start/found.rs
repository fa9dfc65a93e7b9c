//! A working directory and a program as they are meant: looked up where the session would.
//!
//! Called by `start`, and by who starts programs for a session later.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::agent::{self, Launch};
use crate::session::{Error, live};

/// Where programs are looked up when the session has no PATH.
pub const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

pub fn folder(path: &Path) -> Result<PathBuf, Error> {
    let err = |why: &str| Error::Cwd { path: live::cut(&path.display().to_string(), 300), why: why.to_owned() };
    if !path.is_absolute() {
        return Err(err("is not an absolute path"));
    }
    let meta = std::fs::metadata(path).map_err(|e| err(&format!("cannot be used ({})", e.kind())))?;
    if !meta.is_dir() {
        return Err(err("is not a folder"));
    }
    std::fs::read_dir(path).map_err(|e| err(&format!("cannot be read ({})", e.kind())))?;
    path.canonicalize().map_err(|e| err(&format!("cannot be resolved ({})", e.kind())))
}

/// The program as an absolute path, looked up on the session's own PATH.
pub fn resolve(launch: &Launch, cwd: &Path) -> Result<PathBuf, Error> {
    if launch.program.as_os_str().is_empty() {
        return Err(agent::Error::NoCommand.into());
    }
    let cwd_based = launch.program.components().count() > 1 || launch.program.is_absolute();
    let program = if cwd_based { &cwd.join(&launch.program) } else { &launch.program };
    find_program(program, launch.env.get(OsStr::new("PATH")).map(OsString::as_os_str))
}

/// An absolute path as it is, a name by its place on a PATH; an executable file in any case.
pub fn find_program(program: &Path, path: Option<&OsStr>) -> Result<PathBuf, Error> {
    let err = |why: &str| Error::Program { program: live::cut(&program.display().to_string(), 300), why: why.to_owned() };
    let check = |p: &Path| -> Result<(), Error> {
        let meta = std::fs::metadata(p).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => err("does not exist"),
            kind => err(&format!("cannot be used ({kind})")),
        })?;
        if !meta.is_file() {
            return Err(err("is not a file"));
        }
        if meta.permissions().mode() & 0o111 == 0 {
            return Err(err("is not executable"));
        }
        Ok(())
    };
    if program.is_absolute() {
        check(program)?;
        return Ok(program.to_owned());
    }
    if program.components().count() != 1 {
        return Err(err("is not an absolute path"));
    }
    std::env::split_paths(path.unwrap_or(OsStr::new(DEFAULT_PATH)))
        .filter(|d| d.is_absolute())
        .map(|d| d.join(program))
        .find(|p| check(p).is_ok())
        .ok_or_else(|| err("is not on the session's PATH"))
}
