//! The operator's own file: read once, and resolved with the project of a folder.
//!
//! Called by `daemon`, `policy` and `cli`.

use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::project::{find, read_text};
use super::{Error, Files, Folders, Loaded, resolve};

/// The operator's file as it was read once; it need not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserFile {
    path: PathBuf,
    text: Option<String>,
}

impl UserFile {
    pub fn read(path: &Path) -> Result<Self, Error> {
        Ok(Self { path: path.to_owned(), text: read_text(path, OFlags::empty())? })
    }

    pub(super) fn layer(&self) -> Option<(&Path, &str)> {
        Some((&self.path, self.text.as_deref()?))
    }
}

/// The operator's file and the process's environment, with the project of `cwd`.
pub fn load_for(folders: &Folders, cwd: Option<&Path>, trusted: &dyn Fn(&Path, &str) -> bool) -> Result<Loaded, Error> {
    load_with(&UserFile::read(&folders.config_file())?, cwd, trusted)
}

/// The same with the operator's file as it was read.
pub fn load_with(user: &UserFile, cwd: Option<&Path>, trusted: &dyn Fn(&Path, &str) -> bool) -> Result<Loaded, Error> {
    let project = cwd.map(find).transpose()?.flatten();
    resolve(&Files { user: user.layer(), project: project.as_ref() }, &|name| std::env::var_os(name), trusted)
}
