//! `[[policy]]` and `[rules]`: which policies judge, with which configuration.
//!
//! - An entry with the name of an earlier one replaces it; `enabled = false` takes it out.
//! - `[rules]` of the operator (or of a trusted project) is added to the policy named `rules`.
//! - From a project that is not trusted: no entry replaces another, no `allow` and no `grants` are taken, and [`Entry::tighten_only`] makes the chain
//!   read its answers `allow` as abstain and drop its rewrites.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};
use toml::de::DeTable;

use super::value::{At, Source};
use super::{Error, Origin};
use crate::model::grant::GRANTS_MAX;
use crate::model::{Grants, Mode, OnFailure, is_plugin_name};

/// Most policies in the chain.
pub const POLICIES_MAX: usize = 32;
/// Most rules in one list.
pub const RULES_MAX: usize = 2000;
/// Bounds of a policy's deadline, in milliseconds.
pub const DEADLINE_MS: std::ops::RangeInclusive<u64> = 1..=10_000;
/// The policy that `[rules]` adds to.
pub const RULES: &str = "rules";
/// The policy that `[rules]` of an untrusted project becomes.
pub const PROJECT_RULES: &str = "project-rules";

const ENTRY_KEYS: &[&str] = &["name", "plugin", "mode", "on_failure", "deadline_ms", "config", "enabled", "grants"];
/// What the name of an installed plugin is marked with.
pub const INSTALLED: &str = "installed:";
const LISTS: &[&str] = &["allow", "ask", "deny"];
const RULES_KEYS: &[&str] = &["allow", "ask", "deny", "examples"];

/// Where a policy's component comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plugin {
    /// Inside the binary, by name.
    Standard(String),
    /// A `.wasm` file, absolute.
    File(PathBuf),
    /// One that `beadle plugin add` installed, by name.
    Installed(String),
}

/// One policy of the chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub name: String,
    pub plugin: Plugin,
    pub mode: Mode,
    pub on_failure: OnFailure,
    pub deadline_ms: u64,
    /// A JSON object, handed to the plugin's `configure`.
    pub config: Json,
    /// What it may use beyond its own memory; never from a project that is not trusted.
    pub grants: Grants,
    pub origin: Origin,
    /// From a project that is not trusted: its allow is an abstain, its rewrites are dropped.
    pub tighten_only: bool,
}

/// What one file says about policies.
#[derive(Debug, Default)]
pub struct Read {
    entries: Vec<(Entry, bool)>,
    rules: Option<(Map<String, Json>, Origin)>,
}

/// Reads both sections. `layer` gives the origin at a line.
pub fn read(source: &Source<'_>, top: &DeTable<'_>, origin: &dyn Fn(usize) -> Origin) -> Result<Read, Error> {
    let mut out = Read::default();
    if let Some(value) = top.get("policy") {
        for at in (At { source, value }).items("policy", POLICIES_MAX)? {
            let new = entry(at, origin)?;
            if out.entries.iter().any(|(e, _)| e.name == new.0.name) {
                return Err(at.wrong("policy.name", format!("a name that no other policy of this file has, not {:?} twice", new.0.name)));
            }
            out.entries.push(new);
        }
    }
    if let Some(value) = top.get("rules") {
        let at = At { source, value };
        at.fields("rules", RULES_KEYS)?;
        let config = at.json("rules")?;
        check_rules(at, "rules")?;
        if let Json::Object(map) = config {
            out.rules = Some((map, origin(at.line())));
        }
    }
    Ok(out)
}

fn entry(at: At<'_, '_>, origin: &dyn Fn(usize) -> Origin) -> Result<(Entry, bool), Error> {
    let mut name = None;
    let mut plugin = None;
    let mut config = None;
    let mut grants = Grants::default();
    let (mut mode, mut on_failure, mut deadline_ms, mut enabled) = (Mode::Enforce, OnFailure::Deny, 100, true);
    for (key, value) in at.fields("policy", ENTRY_KEYS)? {
        match key {
            "name" => name = Some(policy_name(value)?),
            "plugin" => plugin = Some(plugin_ref(value)?),
            "mode" => mode = if value.word("policy.mode", &["enforce", "monitor"])? == "monitor" { Mode::Monitor } else { Mode::Enforce },
            "on_failure" => {
                on_failure = match value.word("policy.on_failure", &["deny", "ask", "abstain"])? {
                    "ask" => OnFailure::Ask,
                    "abstain" => OnFailure::Abstain,
                    _ => OnFailure::Deny,
                }
            }
            "deadline_ms" => deadline_ms = value.number("policy.deadline_ms", *DEADLINE_MS.start(), *DEADLINE_MS.end())?,
            "enabled" => enabled = value.flag("policy.enabled")?,
            "grants" => grants = grants_of(value, "policy.grants")?,
            _ => {
                value.table("policy.config")?;
                config = Some(value);
            }
        }
    }
    let name = name.ok_or_else(|| at.wrong("policy.name", "a name for the policy"))?;
    let plugin = match plugin {
        Some(p) => p,
        None if !enabled => Plugin::Standard(name.clone()),
        None => return Err(at.wrong("policy.plugin", "the name of a standard policy or the path of a .wasm file")),
    };
    if let Some(c) = config {
        match &plugin {
            Plugin::Standard(p) if p == RULES => check_rules(c, "policy.config")?,
            _ => check_examples(c, "policy.config")?,
        }
    }
    let config = config.map_or_else(|| Ok(Json::Object(Map::new())), |c| c.json("policy.config"))?;
    let origin = origin(at.line());
    Ok((Entry { name, plugin, mode, on_failure, deadline_ms, config, grants, origin, tighten_only: false }, enabled))
}

/// A list of capabilities.
pub(super) fn grants_of(at: At<'_, '_>, key: &str) -> Result<Grants, Error> {
    let mut grants = Grants::default();
    for item in at.items(key, GRANTS_MAX)? {
        let added = item.text(key)?.parse().and_then(|g| grants.add(&g));
        added.map_err(|e| item.wrong(key, format!("a grant: {e} [{}]", e.code())))?;
    }
    Ok(grants)
}

fn policy_name(at: At<'_, '_>) -> Result<String, Error> {
    let s = at.text("policy.name")?;
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if s.is_empty() || s.len() > 64 || !s.chars().all(ok) {
        return Err(at.wrong("policy.name", "1 to 64 of a-z A-Z 0-9 - _ ."));
    }
    Ok(s.to_owned())
}

/// A name is a standard policy; `installed:NAME` one that was installed; what has a slash or ends in `.wasm` is a file, relative to the file that says so.
fn plugin_ref(at: At<'_, '_>) -> Result<Plugin, Error> {
    let s = at.text("policy.plugin")?;
    if s.is_empty() || s.len() > 4096 || s.contains('\0') {
        return Err(at.wrong("policy.plugin", "the name of a standard policy or the path of a .wasm file"));
    }
    if let Some(name) = s.strip_prefix(INSTALLED) {
        if !is_plugin_name(name) {
            return Err(at.wrong("policy.plugin", "installed: and the name of an installed plugin, as in \"installed:no-push\""));
        }
        return Ok(Plugin::Installed(name.to_owned()));
    }
    if s.contains('/') || s.ends_with(".wasm") {
        let base = at.source.path.parent().unwrap_or(Path::new("/"));
        return Ok(Plugin::File(base.join(s)));
    }
    Ok(Plugin::Standard(s.to_owned()))
}

/// Shapes only: what a rule means is for the plugin to say, and whether an example holds is for `policy explain`.
fn check_rules(at: At<'_, '_>, prefix: &str) -> Result<(), Error> {
    for (name, value) in at.table(prefix)? {
        let key = format!("{prefix}.{}", name.get_ref());
        let at = At { source: at.source, value };
        if LISTS.contains(&name.get_ref().as_ref()) {
            for rule in at.items(&key, RULES_MAX)? {
                check_rule(rule, &key)?;
            }
        }
    }
    check_examples(at, prefix)
}

/// The host judges them for every policy and takes them out, so one that it cannot read would be lost without a word.
fn check_examples(at: At<'_, '_>, prefix: &str) -> Result<(), Error> {
    for (name, value) in at.table(prefix)? {
        if name.get_ref() == "examples" {
            let (key, at) = (format!("{prefix}.examples"), At { source: at.source, value });
            for example in at.items(&key, RULES_MAX)? {
                check_example(example, &key)?;
            }
        }
    }
    Ok(())
}

fn check_rule(at: At<'_, '_>, key: &str) -> Result<(), Error> {
    if at.value.get_ref().is_str() {
        return Ok(());
    }
    let expected = "a rule such as \"Bash(git push:*)\", or { rule = …, reason = … }";
    if !at.value.get_ref().is_table() {
        return Err(at.wrong(key, expected));
    }
    let mut has_rule = false;
    for (name, value) in at.fields(key, &["rule", "reason"])? {
        value.text(&format!("{key}.{name}"))?;
        has_rule |= name == "rule";
    }
    if has_rule { Ok(()) } else { Err(at.wrong(key, expected)) }
}

fn check_example(at: At<'_, '_>, key: &str) -> Result<(), Error> {
    let expected = "{ command = \"…\", effect = \"deny\" } or { call = { tool = \"…\", input = {…} }, effect = \"deny\" }";
    if !at.value.get_ref().is_table() {
        return Err(at.wrong(key, expected));
    }
    let (mut subject, mut effect) = (0, false);
    for (name, value) in at.fields(key, &["command", "call", "effect"])? {
        let key = format!("{key}.{name}");
        match name {
            "command" => {
                value.text(&key)?;
                subject += 1;
            }
            "effect" => {
                value.word(&key, &["abstain", "allow", "ask", "deny"])?;
                effect = true;
            }
            _ => {
                let mut has_tool = false;
                for (part, value) in value.fields(&key, &["tool", "input", "cwd"])? {
                    has_tool |= part == "tool";
                    if part == "input" { value.table(&key).map(|_| ())? } else { value.text(&key).map(|_| ())? }
                }
                if !has_tool {
                    return Err(value.wrong(&key, expected));
                }
                subject += 1;
            }
        }
    }
    if subject == 1 && effect { Ok(()) } else { Err(at.wrong(key, expected)) }
}

/// Puts a file of the operator, or of a trusted project, on top of the chain.
pub fn layer(chain: &mut Vec<Entry>, read: Read) {
    for (entry, enabled) in read.entries {
        let at = chain.iter().position(|e| e.name == entry.name);
        match (at, enabled) {
            (Some(i), true) => chain[i] = entry,
            (Some(i), false) => drop(chain.remove(i)),
            (None, true) => chain.push(entry),
            (None, false) => {}
        }
    }
    let Some((rules, origin)) = read.rules else { return };
    match chain.iter_mut().find(|e| e.name == RULES) {
        Some(entry) => add_rules(&mut entry.config, rules),
        None => chain.push(rules_entry(RULES, rules, origin, false)),
    }
}

/// Adds what an untrusted project may: policies that can only tighten. Returns the keys that were not taken.
pub fn tighten(chain: &mut Vec<Entry>, read: Read, project: &Path) -> Vec<String> {
    let mut ignored = Vec::new();
    for (mut entry, enabled) in read.entries {
        let key = format!("policy.{}", entry.name);
        let outside = matches!(&entry.plugin, Plugin::File(f) if !inside(f, project));
        if !enabled || outside || chain.iter().any(|e| e.name == entry.name) {
            ignored.push(key);
            continue;
        }
        if entry.plugin == Plugin::Standard(RULES.to_owned())
            && let Some(config) = entry.config.as_object_mut()
            && config.remove("allow").is_some()
        {
            ignored.push(format!("{key}.config.allow"));
        }
        if !std::mem::take(&mut entry.grants).is_empty() {
            ignored.push(format!("{key}.grants"));
        }
        entry.tighten_only = true;
        chain.push(entry);
    }
    if let Some((mut rules, origin)) = read.rules {
        if rules.remove("allow").is_some() {
            ignored.push("rules.allow".to_owned());
        }
        if !rules.is_empty() {
            let name = if chain.iter().any(|e| e.name == PROJECT_RULES) { "project-rules-2" } else { PROJECT_RULES };
            chain.push(rules_entry(name, rules, origin, true));
        }
    }
    ignored
}

/// Lexically: the load opens the file without following links.
fn inside(file: &Path, project: &Path) -> bool {
    file.starts_with(project) && !file.components().any(|c| c == std::path::Component::ParentDir)
}

fn rules_entry(name: &str, rules: Map<String, Json>, origin: Origin, tighten_only: bool) -> Entry {
    Entry {
        name: name.to_owned(),
        plugin: Plugin::Standard(RULES.to_owned()),
        mode: Mode::Enforce,
        on_failure: OnFailure::Deny,
        deadline_ms: 100,
        config: Json::Object(rules),
        grants: Grants::default(),
        origin,
        tighten_only,
    }
}

fn add_rules(config: &mut Json, rules: Map<String, Json>) {
    let Some(config) = config.as_object_mut() else { return };
    for (key, value) in rules {
        match (config.get_mut(&key), value) {
            (Some(Json::Array(old)), Json::Array(new)) => old.extend(new),
            (_, value) => drop(config.insert(key, value)),
        }
    }
}
