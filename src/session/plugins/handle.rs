//! What others may ask of installed plugins, through the handle of sessions.
//!
//! Called by `api`.

use serde_json::Value;

use super::super::{Error, Manager};
use super::{Looked, NewPlugin, PluginChange, add, as_upgraded, change, find, gate, older, plan, successor};
use crate::model::{Actor, Installed, PluginVersion, Replay};
use crate::registry;

impl Manager {
    /// Keeps a component, durably; gives its digest. Nothing is changed by it.
    pub async fn stage_plugin(&self, wasm: Vec<u8>) -> Result<String, Error> {
        let registry = self.inner.chains.registry().clone();
        let put = tokio::task::spawn_blocking(move || registry.put(&wasm)).await;
        Ok(put.map_err(|e| registry::Error::Load(format!("keeping the file ended abnormally: {e}")))??)
    }

    /// What a staged component is.
    pub async fn look_at_plugin(&self, digest: &str, name: Option<&str>, config: &Value) -> Result<Looked, Error> {
        plan(&self.inner, digest, name, config, "").await
    }

    pub async fn add_plugin(&self, new: NewPlugin, by: Actor) -> Result<Installed, Error> {
        add(&self.inner, new, by).await
    }

    pub async fn change_plugin(&self, name: &str, to: PluginChange, by: Actor) -> Result<Installed, Error> {
        change(&self.inner, name, to, by).await
    }

    /// What a staged component is that shall take the place of an installed plugin.
    pub async fn look_at_successor(&self, name: &str, digest: &str) -> Result<Looked, Error> {
        successor(&self.inner, name, digest, "").await
    }

    /// What that would do to recorded calls.
    pub async fn replay_successor(&self, name: &str, looked: &Looked) -> Result<Replay, Error> {
        Ok(gate::installed(&self.inner, name, &as_upgraded(&self.inner, name, looked)?).await)
    }

    /// The version that `rollback` would go to.
    pub fn rollback_target(&self, name: &str, to: Option<&str>) -> Result<PluginVersion, Error> {
        older(&find(&self.inner, name)?, to)
    }

    /// Installed plugins, by name.
    pub fn plugins(&self) -> Vec<Installed> {
        self.inner.chains.installed().unwrap_or_default().plugins
    }

    pub fn plugin(&self, name: &str) -> Result<Installed, Error> {
        find(&self.inner, name)
    }
}
