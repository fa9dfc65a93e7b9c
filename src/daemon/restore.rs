//! Puts a backup in the place of the data folder, while no daemon runs. Called by `cli`.

use std::path::Path;

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
