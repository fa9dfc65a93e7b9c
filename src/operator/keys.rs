//! The list of operator keys: a document of the store, each change a record on the host chain written with it.

use serde_json::json;

use super::{Error, Operators, Result, key, lock};
use crate::config::Confirm;
use crate::model::{OperatorKey, is_operator_name};
use crate::store::{ConfirmChanged, HostEvent, OperatorKeyRemoved, Store};

/// Most keys.
pub const KEYS_MAX: usize = 32;
/// Names of the host documents.
const KEYS: &str = "operator_keys";
const CONFIRM: &str = "operator_confirm";

pub(super) fn stored(store: &Store) -> Result<Vec<OperatorKey>> {
    let Some(text) = store.setting(KEYS)? else { return Ok(vec![]) };
    // why an error: a list that cannot be read must not count as empty, which lets the first key in without another one.
    serde_json::from_str(&text).map_err(|e| Error::Stored(e.to_string()))
}

/// A change of the setting stands in the host chain, so that a loosening can be found.
pub(super) async fn note_confirm(store: &Store, confirm: Confirm) -> Result<()> {
    let before = store.setting(CONFIRM)?.and_then(|t| serde_json::from_str::<String>(&t).ok()).unwrap_or_else(|| "none".to_owned());
    if before != confirm.as_str() {
        tracing::warn!(from = %before, to = confirm.as_str(), "operator.confirm is another than at the last start");
        let event = HostEvent::ConfirmChanged(ConfirmChanged { from: before, to: confirm.as_str().to_owned() });
        store.note(event, vec![(CONFIRM.to_owned(), Some(json!(confirm.as_str()).to_string()))]).await?;
    }
    Ok(())
}

impl Operators {
    pub fn keys(&self) -> Vec<OperatorKey> {
        lock(&self.keys).clone()
    }

    /// Whether this key can be added as the list now stands.
    pub fn may_add(&self, new: &OperatorKey) -> Result<()> {
        if !is_operator_name(&new.name) {
            return Err(Error::KeyName(new.name.chars().take(80).collect()));
        }
        key::check(&new.derivation)?;
        if !key::is_public(&new.public) {
            return Err(Error::KeyForm);
        }
        let keys = lock(&self.keys);
        if keys.iter().any(|k| k.name == new.name || k.public == new.public) {
            return Err(Error::KeyTaken(new.name.clone()));
        }
        if keys.len() >= KEYS_MAX {
            return Err(Error::TooManyKeys);
        }
        Ok(())
    }

    /// Adds a key that was let through by `check`; `first` says that this was without another key.
    pub async fn add(&self, new: OperatorKey, first: bool) -> Result<()> {
        let _changing = self.changing.lock().await;
        self.may_add(&new)?;
        let mut keys = self.keys();
        // why: two first keys at once would both have been let through by a terminal alone.
        if first && !keys.is_empty() {
            return Err(Error::NotOpen("of a first key".to_owned()));
        }
        keys.push(new.clone());
        self.write(HostEvent::OperatorKeyAdded(new), keys).await
    }

    /// Removes a key.
    pub async fn remove(&self, removed: OperatorKeyRemoved) -> Result<OperatorKey> {
        let _changing = self.changing.lock().await;
        let mut keys = self.keys();
        let at = keys.iter().position(|k| k.name == removed.name).ok_or_else(|| Error::NoKey(removed.name.clone()))?;
        let old = keys.remove(at);
        self.write(HostEvent::OperatorKeyRemoved(removed), keys).await?;
        Ok(old)
    }

    async fn write(&self, event: HostEvent, keys: Vec<OperatorKey>) -> Result<()> {
        let text = serde_json::to_string(&keys).unwrap_or_default();
        self.store.note(event, vec![(KEYS.to_owned(), Some(text))]).await?;
        *lock(&self.keys) = keys;
        Ok(())
    }
}
