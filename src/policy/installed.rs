//! Installed plugins in the chain: which of them judge, and the components that they are pinned to.
//!
//! Invariants:
//! - an enabled policy is asked once: where the operator's configuration names it (`plugin = "installed:NAME"`) with those settings, else
//!   with its own, after the policies of the configuration; it has what it was granted, a project's entry for it has nothing;
//! - a disabled one is not asked, wherever it is named; one that is named and not installed fails as its entry says;
//! - while the lock cannot be read, everything is denied: which policies are missing is then not known.
//!
//! Called by `assemble`.

use std::sync::{Arc, PoisonError, RwLock};

use super::chain::{Failure, PolicySlot};
use crate::config::{Entry, Origin, Plugin as Source};
use crate::model::{FailureCause, Mode, OnFailure, PluginLock};
use crate::registry::{self, Registry};

/// What is installed, as chains are made from it.
pub(super) struct InForce {
    registry: Registry,
    now: RwLock<Arc<Pinned>>,
}

/// One state of it.
pub(super) struct Pinned {
    /// Counts changes, so that a chain made before one is known.
    pub(super) generation: u64,
    lock: Result<PluginLock, Failure>,
}

fn failed(e: &registry::Error) -> Failure {
    Failure { cause: FailureCause::Load, detail: format!("{e} [{}]", e.code()) }
}

impl InForce {
    /// As the lock file says; a daemon then sets what its store says.
    pub(super) fn new(registry: Registry) -> Self {
        let lock = registry.read_lock().map_err(|e| failed(&e));
        Self { registry, now: RwLock::new(Arc::new(Pinned { generation: 0, lock })) }
    }

    pub(super) fn set(&self, lock: PluginLock) {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        *now = Arc::new(Pinned { generation: now.generation + 1, lock: Ok(lock) });
    }

    pub(super) fn now(&self) -> Arc<Pinned> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) const fn registry(&self) -> &Registry {
        &self.registry
    }
}

impl Pinned {
    /// A state that is only thought of.
    pub(super) const fn of(lock: PluginLock) -> Self {
        Self { generation: 0, lock: Ok(lock) }
    }

    pub(super) fn lock(&self) -> Option<&PluginLock> {
        self.lock.as_ref().ok()
    }

    /// The digest that an installed plugin is pinned to.
    pub(super) fn digest(&self, name: &str) -> Result<String, Failure> {
        let lock = self.lock.as_ref().map_err(Clone::clone)?;
        lock.get(name).map(|p| p.digest.clone()).ok_or_else(|| failed(&registry::Error::NoPlugin(name.to_owned())))
    }

    /// Takes out of the entries what is disabled, and adds what is installed and not named.
    pub(super) fn join(&self, entries: &mut Vec<Entry>) {
        let Ok(lock) = &self.lock else { return };
        entries.retain(|e| !matches!(&e.plugin, Source::Installed(n) if lock.get(n).is_some_and(|p| !p.enabled)));
        for e in entries.iter_mut().filter(|e| !e.tighten_only) {
            let Source::Installed(name) = &e.plugin else { continue };
            // why ignore: over the cap it has those of its entry, which is less.
            let _ = lock.get(name).map(|p| e.grants.add(&p.grants));
        }
        for p in lock.plugins.iter().filter(|p| p.judges()) {
            let source = Source::Installed(p.name.clone());
            // why not one of a project: it may only tighten, and so does not stand for the operator's.
            if entries.iter().any(|e| e.plugin == source && !e.tighten_only) {
                continue;
            }
            let taken = entries.iter().any(|e| e.name == p.name);
            entries.push(Entry {
                name: if taken { format!("installed.{}", p.name) } else { p.name.clone() },
                plugin: source,
                mode: p.mode,
                on_failure: p.on_failure,
                deadline_ms: p.deadline_ms,
                config: registry::config(p).unwrap_or_default(),
                grants: p.grants.clone(),
                origin: Origin::Embedded,
                tighten_only: false,
            });
        }
    }

    /// What denies everything while the lock cannot be read.
    pub(super) fn broken(&self) -> Option<PolicySlot> {
        let failure = self.lock.as_ref().err()?.clone();
        Some(PolicySlot {
            name: "installed".to_owned(),
            policy: Err(failure),
            mode: Mode::Enforce,
            on_failure: OnFailure::Deny,
            deadline: std::time::Duration::from_secs(1),
            tighten_only: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Grants, Installed, POLICY_KIND, PluginVersion};

    fn installed(name: &str, enabled: bool, kind: &str) -> Installed {
        let version = PluginVersion {
            version: "1".into(),
            digest: "d".into(),
            purpose: String::new(),
            origin: String::new(),
            added_at: String::new(),
            moments: vec![],
            wants: vec![],
            grants: Grants::default(),
        };
        Installed {
            name: name.into(),
            plugin: name.into(),
            kind: kind.into(),
            enabled,
            version: "1".into(),
            digest: "d".into(),
            previous: None,
            since: String::new(),
            grants: Grants::default(),
            mode: Mode::Monitor,
            on_failure: OnFailure::Ask,
            deadline_ms: 7,
            config: "{}".into(),
            versions: vec![version],
        }
    }

    fn entry(name: &str, plugin: Source, tighten_only: bool) -> Entry {
        Entry {
            name: name.into(),
            plugin,
            mode: Mode::Enforce,
            on_failure: OnFailure::Deny,
            deadline_ms: 100,
            config: serde_json::json!({}),
            grants: Grants::default(),
            origin: Origin::Embedded,
            tighten_only,
        }
    }

    fn joined(mut entries: Vec<Entry>, plugins: Vec<Installed>) -> Vec<String> {
        let lock = PluginLock { format: 1, plugins };
        Pinned { generation: 1, lock: Ok(lock) }.join(&mut entries);
        entries.iter().map(|e| format!("{} {} {:?}", e.name, e.deadline_ms, e.mode)).collect()
    }

    #[test]
    fn each_enabled_policy_is_asked_once() {
        let own = || entry("mine", Source::Installed("a".into()), false);
        let all = || vec![installed("a", true, POLICY_KIND), installed("b", false, POLICY_KIND), installed("s", true, "audit-sink")];
        assert_eq!(joined(vec![], all()), ["a 7 Monitor"]);
        assert_eq!(joined(vec![own()], all()), ["mine 100 Enforce"]);
        let project = entry("p", Source::Installed("a".into()), true);
        assert_eq!(joined(vec![project], all()), ["p 100 Enforce", "a 7 Monitor"]);
        assert_eq!(joined(vec![entry("a", Source::Standard("rules".into()), false)], all()), ["a 100 Enforce", "installed.a 7 Monitor"]);
        assert_eq!(joined(vec![entry("off", Source::Installed("b".into()), false)], all()), ["a 7 Monitor"]);
        assert_eq!(joined(vec![entry("gone", Source::Installed("z".into()), false)], vec![]), ["gone 100 Enforce"]);
    }

    #[test]
    fn what_cannot_be_read_denies() {
        let failure = Failure { cause: FailureCause::Load, detail: "x".into() };
        let p = Pinned { generation: 0, lock: Err(failure.clone()) };
        assert!(p.broken().is_some_and(|s| s.on_failure == OnFailure::Deny && s.policy.is_err()));
        assert_eq!(p.digest("a"), Err(failure));
    }
}
