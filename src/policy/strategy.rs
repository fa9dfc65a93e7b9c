//! Loads compaction strategies: those inside the binary and installed ones by name, others by the absolute path of their component.
//!
//! Invariants: an installed strategy is the component that its pin names, with what it was granted, and its own settings where the caller
//! gives none; one that is disabled plans nothing. A standard name is the standard strategy, whatever is installed under it (`installed:NAME`
//! is the other one).
//!
//! Called by `session`.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use super::Chains;
use super::assemble::read;
use crate::config::INSTALLED;
use crate::model::{Grants, Installed, is_plugin_name};
use crate::plugin::{Limits, LoadSpec, Plugin, PluginKind, standard};

impl Chains {
    /// A strategy with its configuration (JSON); the error says why there is none. The host keeps one that is in use, and its compiled form.
    pub async fn strategy(&self, name: &str, config: &str) -> Result<Arc<Plugin>, String> {
        let (chains, name, config) = (self.clone(), name.to_owned(), config.to_owned());
        let load = move || {
            let (wasm, grants) = chains.component(&name)?;
            let spec = LoadSpec { name, wasm, config, limits: Limits::default(), grants };
            chains.plugins().load_kind(spec, Some(PluginKind::CompactionStrategy)).map_err(|e| format!("{e} [{}]", e.code()))
        };
        tokio::task::spawn_blocking(load).await.map_err(|e| format!("loading ended abnormally: {e}"))?
    }

    /// The settings that an installed strategy has of its own; `None` where it is no installed one.
    pub fn strategy_config(&self, name: &str) -> Option<String> {
        if standard::strategy(name).is_some() {
            return None;
        }
        self.find_installed(name).map(|p| p.config)
    }

    fn find_installed(&self, name: &str) -> Option<Installed> {
        let name = name.strip_prefix(INSTALLED).unwrap_or(name);
        self.installed()?.get(name).cloned()
    }

    fn component(&self, name: &str) -> Result<(Cow<'static, [u8]>, Grants), String> {
        if let Some(wasm) = standard::strategy(name) {
            return Ok((Cow::Borrowed(wasm), Grants::default()));
        }
        if Path::new(name).is_absolute() {
            return Ok((Cow::Owned(read(Path::new(name), true).map_err(|f| f.detail)?), Grants::default()));
        }
        if self.installed().is_none() && is_plugin_name(name.strip_prefix(INSTALLED).unwrap_or(name)) {
            return Err("the lock of installed plugins cannot be read; run `beadle verify`".to_owned());
        }
        let Some(found) = self.find_installed(name) else {
            let known: Vec<&str> = standard::STRATEGIES.iter().map(|(n, _)| *n).collect();
            let known = known.join(", ");
            return Err(format!(
                "there is no strategy {name:?}; known are {known}, installed ones (`beadle plugin ls`), or the path of a .wasm file"
            ));
        };
        if !found.enabled {
            return Err(format!("plugin {0} is disabled; `beadle plugin enable {0}` lets it plan", found.name));
        }
        let wasm = self.registry().get(&found.digest).map_err(|e| format!("{e} [{}]", e.code()))?;
        Ok((Cow::Owned(wasm), found.grants))
    }
}
