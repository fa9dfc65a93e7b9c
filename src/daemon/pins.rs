//! What sinks may be made of: the plugins that are installed, as the chains of policies know them.
//!
//! Called by `sink`, through its trait.

use crate::model::{FailureCause, Installed};
use crate::policy::Chains;
use crate::registry::Error;
use crate::session::Manager;
use crate::sink::Pins;

/// The installed plugins, and who is told of those that fail.
pub struct InstalledPlugins {
    pub chains: Chains,
    pub manager: Manager,
}

impl Pins for InstalledPlugins {
    fn generation(&self) -> u64 {
        self.chains.generation()
    }

    fn find(&self, name: &str) -> Result<(Installed, Vec<u8>), String> {
        let said = |e: Error| format!("{e} ({})", e.code());
        let lock = self.chains.installed().ok_or_else(|| "the lock of installed plugins cannot be read; run `beadle verify`".to_owned())?;
        let found = lock.get(name).cloned().ok_or_else(|| said(Error::NoPlugin(name.to_owned())))?;
        let wasm = self.chains.registry().get(&found.digest).map_err(said)?;
        Ok((found, wasm))
    }

    fn broke(&self, digest: &str, cause: FailureCause) {
        self.manager.plugin_broke(digest, cause);
    }
}
