//! What chains are made of that lies in files of the operator's: the configuration, and components that it names by path.
//!
//! Files change at any time; what live sessions are judged by changes only when that is told (`beadle host reload`).
//!
//! Invariants:
//! - a chain that is made anew for another reason (a rule, an installed plugin) is made of the configuration that it was made of before,
//!   and of the same components, whatever the files say by then;
//! - what was read once for a reload is what is tried, and then what holds.
//!
//! Called by `session` (reload, and changes of rules and plugins).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::assemble::{Assembled, Chains, RuntimeRule};
use super::chain::{Chain, PolicySlot};
use super::installed::Pinned;
use crate::config::{self, Entry, Plugin as Source, UserFile};
use crate::model::{Event, PluginLock};
use crate::plugin::{Host, Plugin};
use crate::registry;

/// Components that were read from files, by the policy's name and the file's path.
#[derive(Clone, Default)]
pub(super) struct Held(BTreeMap<(String, PathBuf), Arc<Plugin>>);

impl Held {
    fn of(chain: &Chain) -> Self {
        let entries = chain.made_of.iter().flat_map(|c| &c.policies);
        let held = entries.filter_map(|e| {
            let Source::File(path) = &e.plugin else { return None };
            let slot = chain.slots.iter().find(|s| s.name == e.name)?;
            Some(((e.name.clone(), path.clone()), slot.policy.as_ref().ok()?.plugin()?.clone()))
        });
        Self(held.collect())
    }

    /// The component of an entry, where it is held as this entry would have it.
    pub(super) fn get(&self, entry: &Entry, config: &str) -> Option<&Arc<Plugin>> {
        let Source::File(path) = &entry.plugin else { return None };
        let found = self.0.get(&(entry.name.clone(), path.clone()))?;
        let same = found.config_digest() == blake3::hash(config.as_bytes()).to_hex().as_str() && *found.grants() == entry.grants;
        same.then_some(found)
    }
}

/// The operator's configuration as it was read once.
#[derive(Clone)]
pub struct Taken {
    file: UserFile,
    held: Held,
}

impl Chains {
    /// Reads the operator's configuration, and makes the host's own chain of it.
    pub async fn take(&self) -> Result<(Taken, Assembled), config::Error> {
        let mut taken = Taken { file: self.user_file()?, held: Held::default() };
        let assembled = self.assemble_taken(&taken, None, None, &[]).await?;
        taken.held = Held::of(&assembled.chain);
        Ok((taken, assembled))
    }

    /// The same at the start of a daemon, where the chain is not needed yet: only what lies in files is loaded.
    pub async fn take_files(&self, file: UserFile) -> Result<Taken, config::Error> {
        let mut config = self.config_with(&file, None)?.config;
        config.policies.retain(|e| matches!(e.plugin, Source::File(_)));
        let nothing = Arc::new(Pinned::of(registry::empty()));
        let held = Held::of(&self.chain_with(&nothing, &Arc::new(config), &[], &Held::default()).await.0);
        Ok(Taken { file, held })
    }

    /// The chain of a folder as [`Chains::assemble`] makes it, of what was taken; with these plugins installed, if any are given. The
    /// project's file is read now.
    pub async fn assemble_taken(
        &self,
        taken: &Taken,
        lock: Option<&PluginLock>,
        cwd: Option<&Path>,
        rules: &[RuntimeRule],
    ) -> Result<Assembled, config::Error> {
        let loaded = self.config_with(&taken.file, cwd)?;
        Ok(self.assembled(&self.pinned_or(lock), loaded, rules, &taken.held).await)
    }

    /// The chain of a live session with the rules and the installed plugins of now (or these), and else made of what it was made of. Where
    /// that could not be read, it is read now, and denies while it cannot be.
    pub async fn again(&self, old: &Chain, lock: Option<&PluginLock>, cwd: &Path, rules: &[RuntimeRule]) -> (Arc<Chain>, Vec<Event>) {
        match &old.made_of {
            Some(config) => self.chain_with(&self.pinned_or(lock), config, rules, &Held::of(old)).await,
            None => (self.assemble_or_deny(cwd, rules).await, vec![]),
        }
    }

    fn pinned_or(&self, lock: Option<&PluginLock>) -> Arc<Pinned> {
        lock.map_or_else(|| self.pinned(), |l| Arc::new(Pinned::of(l.clone())))
    }
}

/// Whether both decide by the same components with the same settings.
pub fn alike(a: &Chain, b: &Chain) -> bool {
    let same = |(a, b): (&PolicySlot, &PolicySlot)| {
        let settings = |s: &PolicySlot| (s.name.clone(), s.mode, s.on_failure, s.deadline, s.tighten_only);
        let policy = |s: &PolicySlot| match &s.policy {
            Ok(p) => Ok((p.digest().to_owned(), p.plugin().map(|p| (p.config_digest().to_owned(), p.grants().clone())))),
            Err(f) => Err(f.clone()),
        };
        settings(a) == settings(b) && policy(a) == policy(b)
    };
    a.default == b.default && a.slots.len() == b.slots.len() && a.slots.iter().zip(&b.slots).all(same)
}

/// A held component as a policy of another chain.
pub(super) async fn again(host: &Host, held: &Arc<Plugin>) -> Option<Arc<Plugin>> {
    let (host, held) = (host.clone(), held.clone());
    tokio::task::spawn_blocking(move || host.again(&held)).await.ok()
}
