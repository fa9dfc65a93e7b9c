//! Puts a backup in the place of the data folder, or the database from before an upgrade in the place of the newer one, while no daemon
//! runs. Called by `cli`.

use std::path::{Path, PathBuf};

use super::Error;
use crate::config::Folders;
use crate::model::{Actor, Clock, SystemClock};
use crate::store;

/// Blocks. Errors: as [`store::restore`].
pub fn restore(folders: &Folders, from: &Path, replace: bool) -> Result<store::Restored, Error> {
    let by = Actor {
        role: "operator".to_owned(),
        uid: Some(rustix::process::geteuid().as_raw()),
        pid: Some(std::process::id()),
        ..Actor::default()
    };
    let running = || crate::process::held_below(&folders.data.join("s"));
    Ok(store::restore(from, &folders.data, replace, &by, SystemClock.wall_ms(), &running)?)
}

/// Blocks. Errors: as [`store::step_back`].
pub fn step_back(folders: &Folders, schema: i64) -> Result<Option<PathBuf>, Error> {
    Ok(store::step_back(&folders.data, schema)?)
}
