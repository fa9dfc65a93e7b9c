//! What one call may use beyond its memory, and the check that stands before each use.
//!
//! Invariants:
//! - a use needs both keys: the plugin's description wants it, and the operator granted it; without either nothing of it happens;
//! - there is a [`Uses`] only while a question is put: `describe`, `configure` and instances made ahead have none, so nothing is granted there;
//! - each denial is in the plugin's log once a call, with the word and whose key is missing;
//! - a host function ends by the deadline of its call.
//!
//! Called by the bindings (`v0_1::capabilities`), filled by `host`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::model::{Grant, Grants, Wants};

use super::http::Network;
use super::kv;
use super::log::{Level, PluginLog};
use super::machine::Machine;

/// The interfaces of ours that every kind of plugin may import besides its log.
pub(super) const INTERFACES: [&str; 7] = [
    "beadle:plugin/kv",
    "beadle:plugin/clock",
    "beadle:plugin/random",
    "beadle:plugin/env",
    "beadle:plugin/secret",
    "beadle:plugin/fs",
    "beadle:plugin/http",
];

/// Most random bytes at once, and longest variable.
pub(super) const MAX_BYTES: usize = 64 << 10;

/// Both keys of one loaded plugin.
#[derive(Debug, Clone, Default)]
pub(super) struct Rights {
    pub(super) grants: Grants,
    pub(super) wants: Wants,
}

/// What the host gives to all calls.
pub(super) struct Surroundings {
    pub(super) secrets: Arc<dyn Secrets>,
    /// Folders that no plugin reaches.
    pub(super) own: Vec<PathBuf>,
    pub(super) network: Network,
    pub(super) machine: Arc<dyn Machine>,
}

/// The capabilities of one call.
pub(super) struct Uses {
    policy: String,
    pub(super) rights: Arc<Rights>,
    pub(super) log: Arc<PluginLog>,
    pub(super) until: Instant,
    pub(super) around: Arc<Surroundings>,
    /// Requests and files of this call so far.
    pub(super) requests: u32,
    pub(super) files: u32,
    source: kv::Source,
    state: Option<kv::Call>,
    told: BTreeSet<Grant>,
}

/// Where secrets come from; wired by the daemon.
pub trait Secrets: Send + Sync {
    /// The value, or why there is none.
    fn get(&self, name: &str) -> Result<String, String>;
}

/// No secrets at all.
pub struct NoSecrets;

impl Secrets for NoSecrets {
    fn get(&self, name: &str) -> Result<String, String> {
        Err(format!("there is no secret {name}: nothing keeps any here"))
    }
}

impl Uses {
    pub(super) fn new(
        policy: &str,
        rights: &Arc<Rights>,
        log: &Arc<PluginLog>,
        until: Instant,
        around: &Arc<Surroundings>,
        source: kv::Source,
    ) -> Self {
        Self {
            policy: policy.to_owned(),
            rights: Arc::clone(rights),
            log: Arc::clone(log),
            until,
            around: Arc::clone(around),
            requests: 0,
            files: 0,
            source,
            state: None,
            told: BTreeSet::new(),
        }
    }

    /// Whether both keys are there; else the word that is missing.
    pub(super) fn allow(&mut self, what: &Grant) -> Result<(), String> {
        self.allow_by(what, what)
    }

    /// The same where another grant than the use itself is the one to add.
    pub(super) fn allow_by(&mut self, what: &Grant, grant: &Grant) -> Result<(), String> {
        let word = grant.to_string();
        let why = if !self.rights.wants.cover(what) {
            format!("denied: {word}: the plugin does not ask for it; its author adds the word to the wants of `describe`")
        } else if !self.rights.grants.covers(what) {
            let policy = &self.policy;
            format!("denied: {word}: it is not granted; add it to the `grants` of {policy}")
        } else {
            return Ok(());
        };
        if self.told.insert(grant.clone()) {
            self.log.write(Level::Warn, &why);
        }
        Err(word)
    }

    /// The state of this policy in this session; waits for another call that uses it.
    pub(super) fn state(&mut self) -> Result<&mut kv::Call, kv::KvError> {
        if self.state.is_none() {
            self.state = Some(kv::Call::open(&self.source, &self.policy, self.until)?);
        }
        self.state.as_mut().ok_or_else(|| kv::KvError::Unavailable(String::new()))
    }

    /// The call was answered: what it staged goes to its round.
    pub(super) fn keep(self) {
        if let Some(state) = self.state {
            state.keep(&self.source);
        }
    }
}
