//! Plugins that an operator installed: what is pinned, what may be rolled back to, what was granted. Plain data and the changes to it.
//!
//! Invariants:
//! - a plugin is pinned by the digest of its component: [`Installed::digest`] is always one of its versions;
//! - lists have caps: [`INSTALLED_MAX`] plugins, [`VERSIONS_MAX`] versions each (the oldest that is neither in force nor the one before
//!   goes first);
//! - a new version brings no grant with it: it keeps those that the one before it had and that it asks for too, and no other; a version
//!   that is rolled back to has again what it had itself, but for what was revoked since;
//! - plugins are kept in the order of their names, versions in the order in which they came.
//!
//! Called by `registry` (files), `policy` (chains) and `session` (the acts).

use serde::{Deserialize, Serialize};

use super::decision::{Mode, OnFailure};
use super::grant::{Grants, Wants};
use super::moment::Moment;

/// Most installed plugins.
pub const INSTALLED_MAX: usize = 64;
/// Most versions kept of one plugin, that in force included.
pub const VERSIONS_MAX: usize = 5;
/// Longest configuration of an installed plugin, in bytes of JSON.
pub const INSTALLED_CONFIG_MAX: usize = 64 << 10;
/// The kind that takes part in the chain.
pub const POLICY_KIND: &str = "permission-policy";

/// A capability that a version asks for, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    pub capability: String,
    pub reason: String,
}

/// One component of a plugin, kept in a file named by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginVersion {
    pub version: String,
    /// BLAKE3 of the component, hex.
    pub digest: String,
    /// What it says it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub purpose: String,
    /// Where it came from: the path that was given.
    pub origin: String,
    /// RFC 3339, UTC.
    pub added_at: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moments: Vec<Moment>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wants: Vec<Wanted>,
    /// What it had when it was last in force; of the version in force, [`Installed::grants`] says it.
    #[serde(default, skip_serializing_if = "Grants::is_empty")]
    pub grants: Grants,
}

/// One installed plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Installed {
    /// What the operator calls it; the policy's name in the chain.
    pub name: String,
    /// What the component calls itself.
    pub plugin: String,
    /// `permission-policy`, `compaction-strategy` or `audit-sink`.
    pub kind: String,
    pub enabled: bool,
    /// Of the version in force.
    pub version: String,
    /// Of the version in force.
    pub digest: String,
    /// The version that was in force before the newest upgrade, until it is rolled back to: its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Since when this version is in force. RFC 3339, UTC.
    pub since: String,
    pub grants: Grants,
    pub mode: Mode,
    pub on_failure: OnFailure,
    pub deadline_ms: u64,
    /// A JSON object, as given to the component.
    pub config: String,
    pub versions: Vec<PluginVersion>,
}

/// All of them, as the lock file holds them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginLock {
    /// Of the file's format.
    pub format: u32,
    #[serde(default, rename = "plugin", skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<Installed>,
}

/// The format that this version writes and reads.
pub const LOCK_FORMAT: u32 = 1;

/// What was done to an installed plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PluginAct {
    Added,
    Removed,
    Enabled,
    Disabled,
    Upgraded,
    RolledBack,
    Granted,
    Revoked,
    /// Its mode, fail mode, deadline or configuration.
    Configured,
}

impl PluginAct {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::Upgraded => "upgraded",
            Self::RolledBack => "rolled back",
            Self::Granted => "granted",
            Self::Revoked => "revoked",
            Self::Configured => "configured",
        }
    }
}

impl PluginVersion {
    /// What it asks for and this host knows.
    pub fn wanted(&self) -> Wants {
        Wants::parse(self.wants.iter().map(|w| w.capability.as_str())).0
    }
}

impl Installed {
    /// The version in force.
    pub fn current(&self) -> Option<&PluginVersion> {
        self.versions.iter().find(|v| v.digest == self.digest)
    }

    /// A policy that is asked.
    pub fn judges(&self) -> bool {
        self.enabled && self.kind == POLICY_KIND
    }

    /// What `rollback` goes to without being told: the version before the newest upgrade, else the one that came before this one.
    pub fn rollback_target(&self) -> Option<&PluginVersion> {
        if let Some(before) = &self.previous {
            return self.versions.iter().find(|v| v.digest == *before);
        }
        let at = self.versions.iter().position(|v| v.digest == self.digest)?;
        self.versions.get(at.checked_sub(1)?)
    }

    /// A version by its number or the beginning of its digest (8 characters at least); `None` when there is none, or several.
    pub fn find_version(&self, key: &str) -> Option<&PluginVersion> {
        let fits = |v: &&PluginVersion| v.version == key || (key.len() >= 8 && v.digest.starts_with(key));
        let mut found = self.versions.iter().filter(fits);
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }

    /// What the version in force had goes with it.
    fn put_away(&mut self) {
        if let Some(v) = self.versions.iter_mut().find(|v| v.digest == self.digest) {
            v.grants.clone_from(&self.grants);
        }
    }

    /// Takes a grant from the version in force, and from those that may be rolled back to.
    pub fn revoke(&mut self, those: &Grants) {
        self.grants.remove(those);
        self.versions.iter_mut().for_each(|v| drop(v.grants.remove(those)));
    }

    /// Puts a version in force that an upgrade brings, with those grants that it asks for too.
    pub fn upgrade(&mut self, new: PluginVersion, at: String) {
        self.put_away();
        let wants = new.wanted();
        let more = self.current().map_or_else(|| wants.clone(), |v| wants.beyond(&v.wanted()));
        // why whole: a wide grant that would let it do more than the version before is to be given anew.
        let lets_more = |g: &Grants| g.missing(&more).words() != more.words();
        let mut gone = self.grants.unused(&wants);
        for one in self.grants.iter().filter_map(|g| g.to_string().parse::<Grants>().ok()).filter(lets_more) {
            // why ignore: both are parts of what was within the cap.
            let _ = gone.add(&one);
        }
        self.grants.remove(&gone);
        self.previous = Some(std::mem::replace(&mut self.digest, new.digest.clone()));
        self.version.clone_from(&new.version);
        self.since = at;
        self.versions.retain(|v| v.digest != new.digest);
        self.versions.push(new);
        while self.versions.len() > VERSIONS_MAX {
            let kept = |v: &PluginVersion| v.digest == self.digest || self.previous.as_ref() == Some(&v.digest);
            let Some(oldest) = self.versions.iter().position(|v| !kept(v)) else { break };
            self.versions.remove(oldest);
        }
    }

    /// Puts a kept version in force again; false when it is not kept.
    pub fn roll_back(&mut self, digest: &str, at: String) -> bool {
        if !self.versions.iter().any(|v| v.digest == digest) {
            return false;
        }
        self.put_away();
        let Some(to) = self.versions.iter().find(|v| v.digest == digest) else { return false };
        self.grants.clone_from(&to.grants);
        self.version.clone_from(&to.version);
        self.digest.clone_from(&to.digest);
        self.previous = None;
        self.since = at;
        true
    }
}

impl PluginLock {
    pub fn get(&self, name: &str) -> Option<&Installed> {
        self.plugins.iter().find(|p| p.name == name)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut Installed> {
        self.plugins.iter_mut().find(|p| p.name == name)
    }

    /// Adds a plugin in its place.
    pub fn insert(&mut self, plugin: Installed) {
        let at = self.plugins.partition_point(|p| p.name < plugin.name);
        self.plugins.insert(at, plugin);
    }

    /// Whether a version of any plugin has this digest.
    pub fn names(&self, digest: &str) -> bool {
        self.plugins.iter().any(|p| p.versions.iter().any(|v| v.digest == digest))
    }
}

/// 1 to 64 of `a-z A-Z 0-9 - _ .`, as a policy's name in the configuration.
pub fn is_plugin_name(name: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 64 && !name.starts_with('.') && name.chars().all(ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(n: u32) -> PluginVersion {
        PluginVersion {
            version: format!("0.{n}.0"),
            digest: format!("{n:064x}"),
            purpose: String::new(),
            origin: "/p.wasm".to_owned(),
            added_at: "2026-01-01T00:00:00.000Z".to_owned(),
            moments: vec![],
            wants: vec![Wanted { capability: "kv".to_owned(), reason: "it counts".to_owned() }],
            grants: Grants::default(),
        }
    }

    fn grants(words: &[&str]) -> Grants {
        Grants::parse(words).unwrap()
    }

    fn installed() -> Installed {
        Installed {
            name: "p".to_owned(),
            plugin: "p".to_owned(),
            kind: POLICY_KIND.to_owned(),
            enabled: true,
            version: version(0).version,
            digest: version(0).digest,
            previous: None,
            since: String::new(),
            grants: grants(&["kv"]),
            mode: Mode::Enforce,
            on_failure: OnFailure::Deny,
            deadline_ms: 100,
            config: "{}".to_owned(),
            versions: vec![version(0)],
        }
    }

    #[test]
    fn versions_are_capped_and_the_one_before_stays() {
        let mut p = installed();
        for n in 1..20 {
            p.upgrade(version(n), String::new());
            assert!(p.versions.len() <= VERSIONS_MAX && p.current().is_some());
            assert_eq!(p.rollback_target().map(|v| v.digest.clone()), Some(version(n - 1).digest));
        }
        assert_eq!(p.grants.words(), ["kv"], "all ask for it");
        // Back to the oldest kept, then anew: what was in force before is never the one that goes.
        let oldest = p.versions[0].digest.clone();
        assert!(p.roll_back(&oldest, String::new()));
        assert_eq!(p.rollback_target(), None, "nothing older");
        p.upgrade(version(30), String::new());
        assert_eq!(p.rollback_target().map(|v| v.digest.clone()), Some(oldest));
        assert!(!p.roll_back("none", String::new()));
    }

    #[test]
    fn rolling_back_twice_goes_further_back() {
        let mut p = installed();
        p.upgrade(version(1), String::new());
        p.upgrade(version(2), String::new());
        for n in [1, 0] {
            let to = p.rollback_target().map(|v| v.digest.clone()).unwrap_or_default();
            assert!(to == version(n).digest && p.roll_back(&to, String::new()));
        }
        assert_eq!((p.version.as_str(), p.rollback_target()), ("0.0.0", None));
        assert_eq!(p.find_version("0.2.0").map(|v| v.digest.as_str()), Some(version(2).digest.as_str()));
        assert_eq!((p.find_version("0000000"), p.find_version("00000000")), (None, None), "too short, and several");
    }

    #[test]
    fn a_version_has_what_it_was_given_and_no_more() {
        let with = |n: u32, wants: &[&str]| PluginVersion {
            wants: wants.iter().map(|c| Wanted { capability: (*c).to_owned(), reason: String::new() }).collect(),
            ..version(n)
        };
        let mut p = installed();
        p.grants = grants(&["kv", "fs:read:/x"]);
        p.versions[0] = with(0, &["kv", "fs:read:*"]);
        p.upgrade(with(1, &["kv", "http:GET:*"]), String::new());
        assert_eq!(p.grants.words(), ["kv"], "what it does not ask for goes, what it wants besides does not come");
        p.upgrade(with(2, &["kv", "fs:read:*"]), String::new());
        assert_eq!(p.grants.words(), ["kv"], "and does not come back with a later version that asks again");
        assert!(p.roll_back(&version(0).digest, String::new()));
        assert_eq!(p.grants, grants(&["kv", "fs:read:/x"]), "the very version that was given it has it again");
        p.revoke(&grants(&["kv"]));
        assert!(p.roll_back(&version(2).digest, String::new()) && p.grants.is_empty(), "unless it was revoked");
        assert!(p.roll_back(&version(0).digest, String::new()));
        assert_eq!(p.grants.words(), ["fs:read:/x"]);
        // A wide grant is not stretched over what a later version asks for besides.
        let mut p = installed();
        p.versions[0] = with(0, &["fs:read:/a/x"]);
        p.grants = grants(&["fs:read:/a"]);
        p.upgrade(with(1, &["fs:read:/a/x", "fs:read:/a/y"]), String::new());
        assert!(p.grants.is_empty(), "{:?}", p.grants);
    }

    #[test]
    fn names_are_those_of_policies() {
        assert!(is_plugin_name("no-push_2.x") && !is_plugin_name("") && !is_plugin_name("a/b") && !is_plugin_name(".x"));
    }
}
