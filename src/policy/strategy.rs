//! Loads compaction strategies: those inside the binary by name, others by the absolute path of their component.
//!
//! Called by `session`.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use super::Chains;
use super::assemble::read;
use crate::model::Grants;
use crate::plugin::{Limits, LoadSpec, Plugin, PluginKind, standard};

impl Chains {
    /// A strategy with its configuration (JSON); the error says why there is none. The host keeps one that is in use, and its compiled form.
    pub async fn strategy(&self, name: &str, config: &str) -> Result<Arc<Plugin>, String> {
        let (host, name, config) = (self.plugins().clone(), name.to_owned(), config.to_owned());
        let load = move || {
            let wasm = match standard::strategy(&name) {
                Some(wasm) => Cow::Borrowed(wasm),
                None if Path::new(&name).is_absolute() => Cow::Owned(read(Path::new(&name), true).map_err(|f| f.detail)?),
                None => {
                    let known: Vec<&str> = standard::STRATEGIES.iter().map(|(n, _)| *n).collect();
                    return Err(format!("there is no strategy {name:?}; known are {}, or give the path of a .wasm file", known.join(", ")));
                }
            };
            let spec = LoadSpec { name, wasm, config, limits: Limits::default(), grants: Grants::default() };
            host.load_kind(spec, Some(PluginKind::CompactionStrategy)).map_err(|e| format!("{e} [{}]", e.code()))
        };
        tokio::task::spawn_blocking(load).await.map_err(|e| format!("loading ended abnormally: {e}"))?
    }
}
