//! A sink that is a plugin: its component, pinned where it was installed, its settings, and what it may use.
//!
//! Invariants:
//! - an installed plugin is the component that its pin names, whatever else lies in the folder; one that is disabled or gone takes nothing,
//!   and its events wait;
//! - it has what it was granted as an installed plugin and what its `[[sink]]` grants, and nothing of either that it does not want.
//!
//! Called by `target`; the daemon says what is installed.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::config::{SinkEntry, SinkPlugin};
use crate::model::{FailureCause, Grants, Installed};
use crate::plugin::{Host, Limits, LoadSpec, MAX_COMPONENT, Plugin, PluginKind};

/// What is installed on this host.
pub trait Pins: Send + Sync {
    /// Counts changes: what was opened at an older number is opened anew.
    fn generation(&self) -> u64;

    /// What is installed under this name, and the component that it is pinned to. Blocks; the error says why there is none.
    fn find(&self, name: &str) -> Result<(Installed, Vec<u8>), String>;

    /// A call of the component with this digest failed.
    fn broke(&self, digest: &str, cause: FailureCause);
}

/// Loads it. Blocks.
pub fn load(
    entry: &SinkEntry,
    (from, config, grants): (&SinkPlugin, Option<&Value>, &Grants),
    host: &Host,
    pins: &dyn Pins,
) -> Result<Arc<Plugin>, String> {
    let mut grants = grants.clone();
    let (wasm, own) = match from {
        SinkPlugin::File(file) => (read(file)?, "{}".to_owned()),
        SinkPlugin::Installed(name) => {
            let (found, wasm) = pins.find(name)?;
            if !found.enabled {
                return Err(format!("plugin {name} is disabled, so its events wait; `beadle plugin enable {name}` lets it take them"));
            }
            grants.add(&found.grants).map_err(|e| format!("the grants of plugin {name} and of the sink: {e} [{}]", e.code()))?;
            (wasm, found.config)
        }
    };
    let config = config.map_or(own, Value::to_string);
    let spec = LoadSpec { name: entry.name.clone(), wasm: Cow::Owned(wasm), config, limits: Limits::default(), grants };
    host.load_kind(spec, Some(PluginKind::AuditSink)).map_err(|e| format!("{e} ({})", e.code()))
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let said = |e: std::io::Error| format!("{}: {e}", file.display());
    let size = std::fs::metadata(file).map_err(said)?.len();
    if size > MAX_COMPONENT as u64 {
        return Err(format!("{} has {size} bytes, over the limit of {MAX_COMPONENT}", file.display()));
    }
    std::fs::read(file).map_err(said)
}
