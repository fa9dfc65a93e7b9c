//! The life of installed plugins: each act is checked, made durable with an event of the host chain, and then brought to live sessions.
//!
//! Invariants:
//! - one act at a time; the lock in the store and its event are one transaction, and hold from then on, whatever dies afterwards;
//! - a component is durable, loads, and is of its plugin's kind before any act names it;
//! - no act gives a capability that was not asked for and granted by name;
//! - what a version leaves out of the chain is never replaced by something looser: a policy that fails counts as its `on_failure` says.
//!
//! Called by `Manager`.

use std::sync::Arc;

use serde_json::Value;

use super::{Error, Inner, failpoint};
use crate::config::Plugin as Source;
use crate::model::{
    Actor, Grants, INSTALLED_CONFIG_MAX, INSTALLED_MAX, Installed, Mode, Moment, OnFailure, POLICY_KIND, PluginAct, PluginLock,
    PluginVersion, Wanted, format_ms, is_plugin_name,
};
use crate::plugin::{Limits, LoadSpec, Plugin};
use crate::policy::Taken;
use crate::registry::{self, Registry};
use crate::store::{HostEvent, PluginChanged, Store};

mod gate;
mod handle;
pub mod reload;
pub(super) mod swap;
pub(super) mod watchdog;

/// Name of the host document that holds the lock.
const DOCUMENT: &str = "plugins";
/// Longest origin that is kept, in bytes.
const ORIGIN_MAX: usize = 1024;

/// What acts on installed plugins share.
#[derive(Default)]
pub(super) struct Acts {
    /// Held while one is changed: the lock and its event are written together.
    changing: tokio::sync::Mutex<()>,
    /// One reload at a time: what was judged is what is taken.
    reloading: tokio::sync::Mutex<()>,
    /// The operator's configuration as it was last taken. Held while a daemon that has just started loads what it names.
    taken: Arc<tokio::sync::Mutex<Option<Taken>>>,
    watchdog: watchdog::Watchdog,
}

/// A plugin to install; its component is in the registry already.
#[derive(Debug, Clone)]
pub struct NewPlugin {
    pub digest: String,
    /// Else what the component calls itself.
    pub name: Option<String>,
    pub origin: String,
    pub grants: Grants,
    pub mode: Mode,
    pub on_failure: OnFailure,
    pub deadline_ms: u64,
    pub config: Value,
}

/// What a component is, as it was loaded to look.
#[derive(Debug, Clone)]
pub struct Looked {
    pub name: String,
    pub plugin: String,
    pub kind: String,
    pub version: PluginVersion,
}

/// What is to be done to an installed plugin.
#[derive(Debug, Clone)]
pub enum PluginChange {
    Enable,
    Disable,
    Remove,
    /// Another component takes its place; it is in the registry already.
    /// `accept`: although recorded calls would be decided less strictly.
    Upgrade {
        digest: String,
        origin: String,
        grants: Grants,
        accept: bool,
    },
    /// Back to a version by number or digest, or to the one before.
    /// `accept`: although recorded calls would be decided less strictly.
    RollBack {
        to: Option<String>,
        accept: bool,
    },
    Grant(Grants),
    Revoke(Grants),
    /// Only what is given.
    Configure {
        mode: Option<Mode>,
        on_failure: Option<OnFailure>,
        deadline_ms: Option<u64>,
        config: Option<Value>,
    },
}

/// At the start of a daemon: what the store says is in force, and stands in the lock file.
pub(super) fn load(store: &Store, registry: &Registry) -> Result<PluginLock, Error> {
    let lock = match store.setting(DOCUMENT)? {
        Some(text) => registry::parse(&text)?,
        None => registry::empty(),
    };
    let differs = registry.read_lock().map_or(true, |l| l != lock);
    if differs {
        tracing::warn!(file = %registry.lock_file().display(), "the lock file was not as the store has it; it is written anew");
        registry.write_lock(&lock)?;
    }
    Ok(lock)
}

fn refused(what: impl Into<String>, why: impl Into<String>) -> Error {
    registry::Error::Refused { what: what.into(), why: why.into() }.into()
}

/// Loads a component to see what it is, with the configuration that it is to have.
async fn look(inner: &Inner, digest: &str, name: &str, config: &Value) -> Result<Arc<Plugin>, Error> {
    let config = config.to_string();
    let (host, registry) = (inner.chains.plugins().clone(), inner.chains.registry().clone());
    let (digest, name) = (digest.to_owned(), name.to_owned());
    let load = move || -> Result<Arc<Plugin>, registry::Error> {
        let wasm = registry.get(&digest)?.into();
        let spec = LoadSpec { name, wasm, config, limits: Limits::default(), grants: Grants::default() };
        host.load_kind(spec, None).map_err(|e| registry::Error::Load(format!("{e} [{}]", e.code())))
    };
    let loaded = tokio::task::spawn_blocking(load).await;
    Ok(loaded.map_err(|e| registry::Error::Load(format!("loading ended abnormally: {e}")))??)
}

fn config_text(config: &Value) -> Result<String, Error> {
    let text = config.to_string();
    if !config.is_object() || text.len() > INSTALLED_CONFIG_MAX {
        return Err(refused("the configuration", format!("is not a JSON object of at most {INSTALLED_CONFIG_MAX} bytes")));
    }
    Ok(text)
}

/// What a component is that might be installed, or take the place of one that is.
pub(super) async fn plan(inner: &Inner, digest: &str, name: Option<&str>, config: &Value, origin: &str) -> Result<Looked, Error> {
    config_text(config)?;
    let plugin = look(inner, digest, name.unwrap_or("new"), config).await?;
    let d = plugin.describe();
    let name = name.map_or_else(|| default_name(&d.name), str::to_owned);
    if !is_plugin_name(&name) {
        return Err(refused(
            format!("the name {:?}", super::live::cut(&name, 100)),
            "is not 1 to 64 of a-z A-Z 0-9 - _ .; give one with --as",
        ));
    }
    let wants = d.wants.iter().map(|w| Wanted { capability: w.capability.clone(), reason: w.reason.clone() }).collect();
    let moments: Vec<Moment> = plugin.moments();
    let version = PluginVersion {
        version: d.version.clone(),
        digest: plugin.digest().to_owned(),
        purpose: d.purpose.clone(),
        origin: super::live::cut(origin, ORIGIN_MAX),
        added_at: format_ms(inner.clock.wall_ms()),
        moments,
        wants,
        grants: Grants::default(),
    };
    Ok(Looked { name, plugin: d.name.clone(), kind: plugin.kind().as_str().to_owned(), version })
}

fn default_name(described: &str) -> String {
    let ok = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    described.trim_start_matches('.').chars().take(64).map(ok).collect()
}

/// Installs a plugin; in force for sessions that live and for those to come.
pub(super) async fn add(inner: &Arc<Inner>, new: NewPlugin, by: Actor) -> Result<Installed, Error> {
    let looked = plan(inner, &new.digest, new.name.as_deref(), &new.config, &new.origin).await?;
    let deadline = crate::config::DEADLINE_MS;
    if !deadline.contains(&new.deadline_ms) {
        return Err(refused("the deadline", format!("is not {} to {} ms", deadline.start(), deadline.end())));
    }
    let config = inner.chains.config(None)?.config;
    if let Some(p) = config.policies.iter().find(|p| p.name == looked.name && p.plugin != Source::Installed(looked.name.clone())) {
        return Err(refused(
            format!("the name {:?}", looked.name),
            format!("is that of a policy of the configuration ({}); give another with --as", p.origin),
        ));
    }
    wanted(&looked.name, &looked.version, &new.grants)?;
    let at = looked.version.added_at.clone();
    let plugin = Installed {
        name: looked.name,
        plugin: looked.plugin,
        kind: looked.kind,
        enabled: true,
        version: looked.version.version.clone(),
        digest: looked.version.digest.clone(),
        previous: None,
        since: at,
        grants: new.grants,
        mode: new.mode,
        on_failure: new.on_failure,
        deadline_ms: new.deadline_ms,
        config: config_text(&new.config)?,
        versions: vec![looked.version],
    };
    let name = plugin.name.clone();
    commit(inner, PluginAct::Added, &name, by, None, |lock| {
        if lock.get(&plugin.name).is_some() {
            return Err(registry::Error::Exists(plugin.name).into());
        }
        if lock.plugins.len() >= INSTALLED_MAX {
            return Err(refused("another plugin", format!("is over the limit of {INSTALLED_MAX}; remove one")));
        }
        lock.insert(plugin);
        Ok(())
    })
    .await
}

/// Refuses, by name, grants that the version does not ask for.
fn wanted(name: &str, version: &PluginVersion, grants: &Grants) -> Result<(), Error> {
    let unused = grants.unused(&version.wanted());
    if unused.is_empty() {
        return Ok(());
    }
    let list: Vec<&str> = version.wants.iter().map(|w| w.capability.as_str()).collect();
    let list = if list.is_empty() { "nothing".to_owned() } else { list.join(", ") };
    let why = format!("is not granted: plugin {name} does not ask for it; it asks for {list}");
    Err(refused(super::live::cut(&unused.words().join(" "), 200), super::live::cut(&why, 1000)))
}

/// Changes one installed plugin; gives it as it then is, or as it was last.
pub(super) async fn change(inner: &Arc<Inner>, name: &str, change: PluginChange, by: Actor) -> Result<Installed, Error> {
    let act = match &change {
        PluginChange::Enable => PluginAct::Enabled,
        PluginChange::Disable => PluginAct::Disabled,
        PluginChange::Remove => PluginAct::Removed,
        PluginChange::Configure { .. } => PluginAct::Configured,
        PluginChange::Upgrade { .. } => PluginAct::Upgraded,
        PluginChange::RollBack { .. } => PluginAct::RolledBack,
        PluginChange::Grant(_) => PluginAct::Granted,
        PluginChange::Revoke(_) => PluginAct::Revoked,
    };
    match change {
        PluginChange::Configure { mode, on_failure, deadline_ms, config } => {
            if deadline_ms.is_some_and(|d| !crate::config::DEADLINE_MS.contains(&d)) {
                return Err(refused("the deadline", "is not 1 to 10000 ms"));
            }
            let found = find(inner, name)?;
            let text = match &config {
                Some(c) => {
                    let text = config_text(c)?;
                    look(inner, &found.digest, name, c).await?;
                    Some(text)
                }
                None => None,
            };
            edit(inner, act, name, by, None, |p| {
                // why: what was tried with this configuration is the version that gets it.
                if text.is_some() && p.digest != found.digest {
                    return Err(refused(format!("plugin {name}"), "was changed meanwhile; look at it and try again"));
                }
                p.mode = mode.unwrap_or(p.mode);
                p.on_failure = on_failure.unwrap_or(p.on_failure);
                p.deadline_ms = deadline_ms.unwrap_or(p.deadline_ms);
                p.config = text.unwrap_or_else(|| std::mem::take(&mut p.config));
                Ok(())
            })
            .await
        }
        PluginChange::Enable | PluginChange::Disable => {
            let enabled = act == PluginAct::Enabled;
            edit(inner, act, name, by, None, |p| {
                p.enabled = enabled;
                Ok(())
            })
            .await
        }
        PluginChange::Upgrade { digest, origin, grants, accept } => {
            let looked = successor(inner, name, &digest, &origin).await?;
            wanted(name, &looked.version, &grants)?;
            let reason = gated(inner, name, &looked.version.version, &as_upgraded(inner, name, &looked)?, accept, &by).await?;
            let at = format_ms(inner.clock.wall_ms());
            edit(inner, act, name, by, reason, |p| {
                if p.digest == looked.version.digest {
                    return Err(refused(format!("plugin {name}"), "has this very component in force already"));
                }
                p.upgrade(looked.version, at);
                p.grants.add(&grants).map_err(|e| refused("the grants", format!("are not given: {e}")))
            })
            .await
        }
        PluginChange::RollBack { to, accept } => {
            let at = format_ms(inner.clock.wall_ms());
            let target = older(&find(inner, name)?, to.as_deref())?;
            // why loaded first: a version that cannot run is no way back.
            loads_everywhere(inner, &find(inner, name)?, &target.digest).await?;
            let reason = gated(inner, name, &target.version, &as_rolled_back(inner, name, &target)?, accept, &by).await?;
            edit(inner, act, name, by, reason, |p| {
                if !p.roll_back(&target.digest, at) {
                    return Err(refused(format!("version {}", target.version), "is not kept any more; see `beadle plugin ls`"));
                }
                Ok(())
            })
            .await
        }
        PluginChange::Grant(more) => {
            edit(inner, act, name, by, None, |p| {
                p.current().map_or(Ok(()), |v| wanted(name, v, &more))?;
                p.grants.add(&more).map_err(|e| refused("the grants", format!("are not given: {e}")))
            })
            .await
        }
        PluginChange::Revoke(those) => {
            edit(inner, act, name, by, None, |p| {
                let absent = p.grants.clone().remove(&those);
                if !absent.is_empty() {
                    let why = format!("is not granted to plugin {name}; see `beadle plugin ls`");
                    return Err(refused(super::live::cut(&absent.words().join(" "), 200), why));
                }
                p.revoke(&those);
                Ok(())
            })
            .await
        }
        PluginChange::Remove => {
            commit(inner, act, name, by, None, |lock| {
                lock.plugins.retain(|p| p.name != name);
                Ok(())
            })
            .await
        }
    }
}

/// A component that may take the place of an installed plugin: it calls itself the same, is of the same kind, and loads wherever it stands.
pub(super) async fn successor(inner: &Inner, name: &str, digest: &str, origin: &str) -> Result<Looked, Error> {
    let found = find(inner, name)?;
    let looked = plan(inner, digest, Some(name), &registry::config(&found)?, origin).await?;
    if (&looked.plugin, &looked.kind) != (&found.plugin, &found.kind) {
        let what = format!("component {:?} ({})", super::live::cut(&looked.plugin, 100), looked.kind);
        let why = format!("is no version of {:?} ({}); add it as a plugin of its own", found.plugin, found.kind);
        return Err(refused(what, why));
    }
    loads_everywhere(inner, &found, digest).await?;
    Ok(looked)
}

/// What would be installed after an upgrade.
fn as_upgraded(inner: &Inner, name: &str, looked: &Looked) -> Result<PluginLock, Error> {
    let mut lock = inner.chains.installed().unwrap_or_default();
    let plugin = lock.get_mut(name).ok_or_else(|| registry::Error::NoPlugin(name.to_owned()))?;
    plugin.upgrade(looked.version.clone(), String::new());
    Ok(lock)
}

/// What would be installed after a rollback.
fn as_rolled_back(inner: &Inner, name: &str, to: &PluginVersion) -> Result<PluginLock, Error> {
    let mut lock = inner.chains.installed().unwrap_or_default();
    let plugin = lock.get_mut(name).ok_or_else(|| registry::Error::NoPlugin(name.to_owned()))?;
    plugin.roll_back(&to.digest, String::new());
    Ok(lock)
}

/// Refuses a change by which recorded calls would be decided less strictly, unless that is accepted; then it is the reason on record.
async fn gated(inner: &Inner, name: &str, version: &str, then: &PluginLock, accept: bool, by: &Actor) -> Result<Option<String>, Error> {
    let found = gate::installed(inner, name, then).await;
    let (loosened, judged) = (found.loosened, found.judged);
    if loosened > 0 && !accept {
        return Err(registry::Error::Loosens { name: name.to_owned(), version: version.to_owned(), count: loosened, judged }.into());
    }
    Ok((loosened > 0).then(|| format!("{loosened} of {judged} recorded calls would be decided less strictly, accepted by {}", by.role)))
}

/// Loads a component with its own settings, and with those of every entry of the operator's configuration that names its plugin.
async fn loads_everywhere(inner: &Inner, plugin: &Installed, digest: &str) -> Result<(), Error> {
    look(inner, digest, &plugin.name, &registry::config(plugin)?).await?;
    let source = Source::Installed(plugin.name.clone());
    for entry in inner.chains.config(None)?.config.policies.into_iter().filter(|e| e.plugin == source) {
        let mut config = entry.config;
        crate::policy::examples::take(&mut config);
        look(inner, digest, &entry.name, &config).await?;
    }
    Ok(())
}

/// The version to roll back to.
pub(super) fn older(plugin: &Installed, to: Option<&str>) -> Result<PluginVersion, Error> {
    let found = match to {
        Some(key) => plugin.find_version(key),
        None => plugin.rollback_target(),
    };
    let Some(found) = found else {
        let kept: Vec<String> = plugin.versions.iter().map(|v| format!("{} ({})", v.version, super::live::cut(&v.digest, 12))).collect();
        let what = to.map_or_else(|| format!("a version before {}", plugin.version), |k| format!("version {:?}", super::live::cut(k, 100)));
        return Err(refused(what, format!("is not kept, or not only one; kept are {}", kept.join(", "))));
    };
    if found.digest == plugin.digest {
        return Err(refused(format!("version {}", found.version), "is in force already"));
    }
    Ok(found.clone())
}

/// One installed plugin.
pub(super) fn find(inner: &Inner, name: &str) -> Result<Installed, Error> {
    let lock = inner.chains.installed().unwrap_or_default();
    lock.get(name).cloned().ok_or_else(|| registry::Error::NoPlugin(super::live::cut(name, 100)).into())
}

/// [`commit`] of a change within one plugin.
async fn edit(
    inner: &Arc<Inner>,
    act: PluginAct,
    name: &str,
    by: Actor,
    reason: Option<String>,
    f: impl FnOnce(&mut Installed) -> Result<(), Error>,
) -> Result<Installed, Error> {
    commit(inner, act, name, by, reason, |lock| match lock.get_mut(name) {
        Some(p) => f(p),
        None => Err(registry::Error::NoPlugin(super::live::cut(name, 100)).into()),
    })
    .await
}

/// Makes a change of the lock durable, in force, and known to live sessions, in this order.
async fn commit(
    inner: &Arc<Inner>,
    act: PluginAct,
    name: &str,
    by: Actor,
    reason: Option<String>,
    f: impl FnOnce(&mut PluginLock) -> Result<(), Error>,
) -> Result<Installed, Error> {
    let changing = inner.plugins.changing.lock().await;
    let mut lock = inner.chains.installed().unwrap_or_else(registry::empty);
    let before = lock.get(name).cloned();
    if before.is_none() && act != PluginAct::Added {
        return Err(registry::Error::NoPlugin(super::live::cut(name, 100)).into());
    }
    f(&mut lock)?;
    let after = lock.get(name).cloned();
    let Some(seen) = after.clone().or_else(|| before.clone()) else { return Err(registry::Error::NoPlugin(name.to_owned()).into()) };
    if before == after {
        return Ok(seen);
    }
    let text = registry::print(&lock)?;
    let event = PluginChanged {
        act,
        name: name.to_owned(),
        plugin: seen.plugin.clone(),
        version: seen.version.clone(),
        digest: seen.digest.clone(),
        old_digest: before.filter(|b| b.digest != seen.digest).map(|b| b.digest),
        grants: seen.grants.clone(),
        reason: reason.clone(),
        by: by.clone(),
    };
    failpoint::hit("plugin_staged");
    inner.store.note(HostEvent::PluginChanged(Box::new(event)), vec![(DOCUMENT.to_owned(), Some(text))]).await?;
    failpoint::hit("plugin_noted");
    inner.chains.set_installed(lock.clone());
    let registry = inner.chains.registry().clone();
    match tokio::task::spawn_blocking(move || registry.write_lock(&lock)).await {
        Ok(Ok(())) => {}
        // why no error: the store's copy holds, and the next start writes the file anew.
        Ok(Err(e)) => tracing::error!(code = e.code(), error = %e, "the lock file of installed plugins is not as the store has it"),
        Err(e) => tracing::error!(error = %e, "writing the lock file ended abnormally"),
    }
    failpoint::hit("plugin_locked");
    drop(changing);
    tracing::info!(plugin = name, act = act.as_str(), digest = seen.digest, "an installed plugin was changed");
    if seen.kind == POLICY_KIND {
        let who = by.name.unwrap_or(by.role);
        let why = reason.unwrap_or_else(|| format!("plugin {name} was {} by {who}", act.as_str()));
        swap::all(inner, &why).await;
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for_is_granted() {
        let version = PluginVersion {
            version: "1".into(),
            digest: "d".into(),
            purpose: String::new(),
            origin: String::new(),
            added_at: String::new(),
            moments: vec![],
            grants: Grants::default(),
            wants: ["kv", "fs:read:*", "http:GET:example.com"].map(|c| Wanted { capability: c.into(), reason: "r".into() }).into(),
        };
        let grants = |words: &[&str]| wanted("p", &version, &Grants::parse(words).unwrap());
        assert!(grants(&["kv", "fs:read:/x", "kv"]).is_ok());
        for no in ["env:HOME", "fs:write:/x", "http:POST:example.com", "http:GET:example.org"] {
            assert!(grants(&[no]).is_err_and(|e| e.to_string().contains(no)), "{no}");
        }
    }

    #[test]
    fn a_component_without_a_fitting_name_gets_one() {
        assert_eq!(default_name("..No Push!"), "No-Push-");
        assert!(is_plugin_name(&default_name(&"ä".repeat(100))));
    }
}
