//! Settings files of agents that hold our hooks: a host document, so that the daemon stays up for them and no hooked session edits them.
//!
//! Called by `Manager` and by `hook`.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::Error;
use crate::model::{Access, Call};
use crate::store::Store;

/// Most settings files with hooks.
pub const HOOKS_MAX: usize = 1000;
/// Name of the host document that holds them.
const DOCUMENT: &str = "hooks";

/// One settings file with our hooks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    pub agent: String,
    pub path: PathBuf,
    pub installed_at: i64,
}

#[derive(Debug, Default)]
pub struct Hooked {
    list: RwLock<Vec<Installed>>,
}

impl Hooked {
    pub(super) fn load(store: &Store) -> Result<Self, Error> {
        let list = match store.setting(DOCUMENT)? {
            Some(text) => serde_json::from_str(&text).map_err(|e| Error::Refused {
                what: "the stored list of hooks".to_owned(),
                why: format!("cannot be read ({e}); run `beadle verify`"),
            })?,
            None => vec![],
        };
        Ok(Self { list: RwLock::new(list) })
    }

    pub(super) fn list(&self) -> Vec<Installed> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) async fn set(&self, store: &Store, path: PathBuf, installed: Option<Installed>) -> Result<(), Error> {
        let mut list = self.list();
        list.retain(|i| i.path != path);
        list.extend(installed);
        if list.len() > HOOKS_MAX {
            return Err(Error::Refused {
                what: format!("{HOOKS_MAX} settings files hold hooks"),
                why: "which is the limit; uninstall some".to_owned(),
            });
        }
        let text = serde_json::to_string(&list).unwrap_or_default();
        store.set_setting(DOCUMENT, Some(text)).await?;
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = list;
        Ok(())
    }

    /// The reason to deny, when a call would change one of the files: an agent could switch its own hooks off there.
    pub(super) fn check(&self, call: &Call) -> Option<String> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        if list.is_empty() {
            return None;
        }
        let mut written = call.paths.iter().filter(|p| p.access != Access::Read);
        let hit = written.find(|p| list.iter().any(|i| [&p.absolute, &p.resolved].iter().any(|c| Path::new(c) == i.path)))?;
        Some(format!("{} holds the hooks by which this call is judged; change it outside of the agent", hit.written))
    }
}
