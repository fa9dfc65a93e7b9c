//! Puts a session's chain together: layered configuration of its folder, rules added at run time, loaded plugins.
//!
//! Invariants:
//! - a policy that cannot be loaded, configured, or whose examples do not hold stays in the chain as its failure;
//! - a configuration that cannot be read when a session is adopted denies, it never falls back to a looser one;
//! - rules added at run time are judged together with those of the policy `rules`, so that a compound command may be covered by both.
//!
//! Called by `session` (start, adoption, rule changes) and `cli::policy`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::chain::{Chain, Component, Failure, Policy, PolicySlot};
use super::examples;
use super::installed::{InForce, Pinned};
use super::taken::{self, Held};
use crate::config::{self, Config, Entry, Folders, Plugin as Source, RULES, UserFile};
use crate::model::{ConfigIgnored, Effect, Event, FailureCause, Grants, Mode, OnFailure, PluginFailed, PluginLoaded, PluginLock};
use crate::plugin::{self, Host, Limits, LoadSpec};
use crate::registry::Registry;

/// A rule added at run time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuntimeRule {
    pub effect: Effect,
    pub rule: String,
}

/// What one folder's sessions get.
pub struct Assembled {
    pub config: Arc<Config>,
    pub chain: Arc<Chain>,
    /// What the session's log should say about it: plugins loaded or failed, configuration that was not taken.
    pub events: Vec<Event>,
}

/// Makes chains. Cheap to clone.
#[derive(Clone)]
pub struct Chains {
    inner: Arc<Inner>,
}

struct Inner {
    folders: Folders,
    plugins: Host,
    installed: InForce,
    /// Project folders and the digest of their configuration that the operator trusts.
    trust: RwLock<BTreeMap<PathBuf, String>>,
}

impl Chains {
    pub fn new(folders: Folders, plugins: Host, trust: BTreeMap<PathBuf, String>) -> Self {
        let installed = InForce::new(Registry::new(&folders.data));
        Self { inner: Arc::new(Inner { folders, plugins, installed, trust: RwLock::new(trust) }) }
    }

    pub fn plugins(&self) -> &Host {
        &self.inner.plugins
    }

    /// Takes what is installed from the store's document; chains that are made from now on have it.
    pub fn set_installed(&self, lock: PluginLock) {
        self.inner.installed.set(lock);
    }

    /// What is installed; `None` when the lock could not be read.
    pub fn installed(&self) -> Option<PluginLock> {
        self.inner.installed.now().lock().cloned()
    }

    pub fn registry(&self) -> &Registry {
        self.inner.installed.registry()
    }

    /// Counts changes of what is installed: a chain with an older number is to be made anew.
    pub fn generation(&self) -> u64 {
        self.inner.installed.now().generation
    }

    /// Pins a project's configuration; in force for sessions started from now on.
    pub fn trust(&self, dir: PathBuf, digest: String) {
        self.inner.trust.write().unwrap_or_else(PoisonError::into_inner).insert(dir, digest);
    }

    /// The configuration of a folder (`None`: the host's own).
    pub fn config(&self, cwd: Option<&Path>) -> Result<config::Loaded, config::Error> {
        self.config_with(&self.user_file()?, cwd)
    }

    /// The operator's file as it is now.
    pub fn user_file(&self) -> Result<UserFile, config::Error> {
        UserFile::read(&self.inner.folders.config_file())
    }

    pub(super) fn config_with(&self, user: &UserFile, cwd: Option<&Path>) -> Result<config::Loaded, config::Error> {
        let trust = self.inner.trust.read().unwrap_or_else(PoisonError::into_inner);
        config::load_with(user, cwd, &|dir, digest| trust.get(dir).is_some_and(|d| d == digest))
    }

    pub(super) fn pinned(&self) -> Arc<Pinned> {
        self.inner.installed.now()
    }

    /// The chain of a folder (`None`: the host's own). Blocks while plugins are compiled the first time, so it runs apart.
    pub async fn assemble(&self, cwd: Option<&Path>, rules: &[RuntimeRule]) -> Result<Assembled, config::Error> {
        Ok(self.assembled(&self.pinned(), self.config(cwd)?, rules, &Held::default()).await)
    }

    pub(super) async fn assembled(&self, pinned: &Arc<Pinned>, loaded: config::Loaded, rules: &[RuntimeRule], held: &Held) -> Assembled {
        let mut events = Vec::new();
        if let Some(p) = loaded.project.filter(|p| !p.ignored.is_empty()) {
            events.push(
                ConfigIgnored {
                    path: p.path.display().to_string(),
                    digest: p.digest,
                    keys: p.ignored,
                    reason: "a project may only tighten until `beadle trust` pins its configuration".to_owned(),
                }
                .into(),
            );
        }
        let config = Arc::new(loaded.config);
        let (chain, loads) = self.chain_with(pinned, &config, rules, held).await;
        events.extend(loads);
        Assembled { config, chain, events }
    }

    /// The chain of a resolved configuration, and an event for each policy: loaded, or failed.
    pub async fn chain_of(&self, config: &Config, rules: &[RuntimeRule]) -> (Arc<Chain>, Vec<Event>) {
        self.chain_with(&self.pinned(), &Arc::new(config.clone()), rules, &Held::default()).await
    }

    /// One chain is made from one state of the installed plugins.
    pub(super) async fn chain_with(
        &self,
        pinned: &Arc<Pinned>,
        config: &Arc<Config>,
        rules: &[RuntimeRule],
        held: &Held,
    ) -> (Arc<Chain>, Vec<Event>) {
        let mut entries = config.policies.clone();
        add_runtime(&mut entries, rules);
        pinned.join(&mut entries);
        let mut slots = Vec::with_capacity(entries.len());
        let mut events = Vec::with_capacity(entries.len());
        for entry in entries {
            let (slot, event) = self.load(pinned, entry, held).await;
            slots.push(slot);
            events.push(event);
        }
        slots.extend(pinned.broken());
        (
            Arc::new(Chain {
                slots,
                default: config.default,
                states: None,
                generation: pinned.generation,
                rules: Chain::rules_mark(rules),
                made_of: Some(config.clone()),
            }),
            events,
        )
    }

    /// The same for a session that already runs: a configuration that can no longer be read denies every call.
    pub async fn assemble_or_deny(&self, cwd: &Path, rules: &[RuntimeRule]) -> Arc<Chain> {
        match self.assemble(Some(cwd), rules).await {
            Ok(a) => a.chain,
            Err(e) => {
                let failure = Failure { cause: FailureCause::Load, detail: e.to_string() };
                let slot = PolicySlot {
                    name: "configuration".to_owned(),
                    policy: Err(failure),
                    mode: Mode::Enforce,
                    on_failure: OnFailure::Deny,
                    deadline: Duration::from_secs(1),
                    tighten_only: false,
                };
                Arc::new(Chain {
                    slots: vec![slot],
                    default: Effect::Deny,
                    states: None,
                    generation: self.generation(),
                    rules: Chain::rules_mark(rules),
                    made_of: None,
                })
            }
        }
    }

    /// Whether the standard policy `rules` understands a rule; its own words when it does not.
    pub async fn check_rule(&self, rule: &RuntimeRule) -> Result<(), String> {
        let mut config = Map::new();
        config.insert(rule.effect.as_str().to_owned(), json!([rule.rule]));
        let pinned = self.pinned();
        self.plugin(&pinned, &Source::Standard(RULES.to_owned()), RULES, &Value::Object(config), &Grants::default(), true)
            .await
            .map(drop)
            .map_err(|f| f.detail)
    }

    async fn plugin(
        &self,
        pinned: &Arc<Pinned>,
        source: &Source,
        name: &str,
        config: &Value,
        grants: &Grants,
        links: bool,
    ) -> Result<Arc<plugin::Plugin>, Failure> {
        let (host, pinned, registry) = (self.inner.plugins.clone(), pinned.clone(), self.registry().clone());
        let grants = grants.clone();
        let (source, name, config) = (source.clone(), name.to_owned(), config.to_string());
        let load = move || -> Result<Arc<plugin::Plugin>, Failure> {
            let wasm = match &source {
                Source::Standard(s) => Cow::Borrowed(plugin::standard::find(s).ok_or_else(|| unknown(s))?),
                Source::File(path) => Cow::Owned(read(path, links)?),
                Source::Installed(n) => Cow::Owned(registry.get(&pinned.digest(n)?).map_err(|e| failed(format!("{e} [{}]", e.code())))?),
            };
            host.load(LoadSpec { name, wasm, config, limits: Limits::default(), grants }).map_err(|e| failed(format!("{e} [{}]", e.code())))
        };
        match tokio::task::spawn_blocking(load).await {
            Ok(done) => done,
            Err(e) => Err(failed(format!("loading ended abnormally: {e}"))),
        }
    }

    async fn load(&self, pinned: &Arc<Pinned>, entry: Entry, held: &Held) -> (PolicySlot, Event) {
        let deadline = Duration::from_millis(entry.deadline_ms);
        let mut config = entry.config.clone();
        let examples = examples::take(&mut config);
        let mut got = match held.get(&entry, &config.to_string()) {
            Some(p) => taken::again(&self.inner.plugins, p).await.ok_or_else(|| failed("loading ended abnormally".to_owned())),
            None => self.plugin(pinned, &entry.plugin, &entry.name, &config, &entry.grants, !entry.tighten_only).await,
        };
        if let Ok(p) = &got
            && let Err(why) = examples::hold(&Component(p.clone()), &examples).await
        {
            got = Err(failed(why));
        }
        let event = match &got {
            Ok(p) => PluginLoaded {
                policy: entry.name.clone(),
                plugin: p.describe().name.clone(),
                version: p.describe().version.clone(),
                digest: p.digest().to_owned(),
                config_digest: p.config_digest().to_owned(),
                mode: entry.mode,
                on_failure: entry.on_failure,
                deadline_ms: entry.deadline_ms,
                snapshotted: p.snapshotted(),
                moments: p.moments(),
                grants: p.grants().clone(),
            }
            .into(),
            Err(f) => PluginFailed {
                policy: entry.name.clone(),
                cause: f.cause,
                detail: f.detail.clone(),
                on_failure: entry.on_failure,
                call: None,
            }
            .into(),
        };
        let policy = got.map(|p| Arc::new(Component(p)) as Arc<dyn Policy>);
        let slot = PolicySlot {
            name: entry.name,
            policy,
            mode: entry.mode,
            on_failure: entry.on_failure,
            deadline,
            tighten_only: entry.tighten_only,
        };
        (slot, event)
    }
}

fn failed(detail: String) -> Failure {
    Failure { cause: FailureCause::Load, detail }
}

fn unknown(name: &str) -> Failure {
    failed(format!(
        "there is no standard policy {name:?}; known are {}, or give the path of a .wasm file",
        plugin::standard::NAMES.join(", ")
    ))
}

/// A component's bytes, capped before they are read: a policy of a gibibyte must cost nothing.
/// A project's file is not reached through a link.
pub(super) fn read(path: &Path, links: bool) -> Result<Vec<u8>, Failure> {
    let fail = |why: String| failed(format!("plugin file {}: {why}", path.display()));
    // why NONBLOCK: a FIFO in place of the file must not hold us.
    let flags = libc::O_NONBLOCK | if links { 0 } else { libc::O_NOFOLLOW };
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|e| fail(e.to_string()))?;
    let meta = file.metadata().map_err(|e| fail(e.to_string()))?;
    if !meta.is_file() || meta.len() > plugin::MAX_COMPONENT as u64 {
        return Err(fail(format!("it is not a regular file of at most {} bytes; give the path of a component", plugin::MAX_COMPONENT)));
    }
    let mut bytes = Vec::new();
    file.take(plugin::MAX_COMPONENT as u64 + 1).read_to_end(&mut bytes).map_err(|e| fail(e.to_string()))?;
    Ok(bytes)
}

/// Adds run-time rules to the configuration of the first policy that is the standard `rules`; makes one where there is none.
fn add_runtime(entries: &mut Vec<Entry>, rules: &[RuntimeRule]) {
    if rules.is_empty() {
        return;
    }
    let standard = Source::Standard(RULES.to_owned());
    let at = entries.iter().position(|e| e.plugin == standard && !e.tighten_only && e.mode == Mode::Enforce).unwrap_or_else(|| {
        entries.push(Entry {
            name: "run-time-rules".to_owned(),
            plugin: standard,
            mode: Mode::Enforce,
            on_failure: OnFailure::Deny,
            deadline_ms: 100,
            config: json!({}),
            grants: Grants::default(),
            origin: config::Origin::Embedded,
            tighten_only: false,
        });
        entries.len() - 1
    });
    let Some(config) = entries[at].config.as_object_mut() else { return };
    for r in rules {
        let list = config.entry(r.effect.as_str()).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(json!(r.rule));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(effect: Effect, rule: &str) -> RuntimeRule {
        RuntimeRule { effect, rule: rule.into() }
    }

    #[test]
    fn run_time_rules_join_those_of_the_config_or_stand_alone() {
        let mut entries = vec![];
        add_runtime(&mut entries, &[]);
        assert!(entries.is_empty());
        add_runtime(&mut entries, &[rules(Effect::Allow, "Read")]);
        assert_eq!(entries[0].config, json!({"allow": ["Read"]}));
        add_runtime(&mut entries, &[rules(Effect::Deny, "Bash"), rules(Effect::Allow, "Edit")]);
        assert_eq!((entries.len(), &entries[0].config), (1, &json!({"allow": ["Read", "Edit"], "deny": ["Bash"]})));
    }
}
