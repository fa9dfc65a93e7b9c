//! What the binary carries for authors of plugins: the SDK's sources, the contract, the templates, recorded calls, and the versions
//! that the SDK was built with. So a project needs neither this repository nor a registry for what is ours.
//!
//! Invariant: [`digest`] changes with every byte that [`files`] writes, and with nothing else.
//!
//! Called by `contract` and by `cli::plugin`.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

include!(concat!(env!("OUT_DIR"), "/kit.rs"));

const MANIFEST: &str = include_str!("../../plugins/sdk/Cargo.toml");
const WORKSPACE: &str = include_str!("../../Cargo.toml");
const LOCK: &str = include_str!("../../Cargo.lock");

/// Name of the SDK's package.
pub const PACKAGE: &str = "beadle-plugin";

/// Every file of the SDK as it lies in a project, by its path there. It stands alone: the contract is inside, and no workspace around.
/// Its version ends in a digest, because cargo takes two packages of one name and version for the same where projects share a target folder.
pub fn files() -> BTreeMap<String, String> {
    let mut out = base();
    out.insert("Cargo.toml".to_owned(), manifest(&version()));
    out
}

/// The SDK's version as projects know it.
fn version() -> String {
    format!("{}+kit.{}", env!("CARGO_PKG_VERSION"), &digest_of(&base())[..12])
}

fn base() -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    out.insert("Cargo.toml".to_owned(), manifest(env!("CARGO_PKG_VERSION")));
    for (path, text) in SDK {
        out.insert(format!("src/{path}"), text.replace("\"../../wit/", "\"wit/"));
    }
    for (path, text) in WIT {
        out.insert(format!("wit/v0.1/{path}"), (*text).to_owned());
    }
    out
}

/// BLAKE3 over the paths and texts of [`files`], hex.
pub fn digest() -> String {
    digest_of(&files())
}

/// The same of any set of files.
pub fn digest_of(files: &BTreeMap<String, String>) -> String {
    let mut h = blake3::Hasher::new_derive_key("beadle 2026 plugin kit v1");
    for (path, text) in files {
        for part in [path, text] {
            h.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
    }
    h.finalize().to_hex().to_string()
}

/// The SDK's manifest without what only its own workspace has.
fn manifest(version: &str) -> String {
    let (Ok(mut manifest), Ok(workspace)) = (MANIFEST.parse::<Table>(), WORKSPACE.parse::<Table>()) else {
        // A build in which these do not parse does not exist: cargo read both.
        return MANIFEST.to_owned();
    };
    let inherited = workspace.get("workspace").and_then(|w| w.get("package")).and_then(Value::as_table).cloned().unwrap_or_default();
    if let Some(Value::Table(package)) = manifest.get_mut("package") {
        for (key, value) in package.iter_mut() {
            if value.get("workspace").is_some()
                && let Some(own) = inherited.get(key)
            {
                *value = own.clone();
            }
        }
    }
    if let Some(own) = manifest.get_mut("package").and_then(|p| p.get_mut("version")) {
        *own = Value::String(version.to_owned());
    }
    manifest.remove("lints");
    manifest.remove("dev-dependencies");
    toml::to_string(&manifest).unwrap_or_else(|_| MANIFEST.to_owned())
}

/// The locked versions of all that the SDK needs, for a project of this name: those that this build was made and tested with.
pub fn lock(name: &str) -> String {
    let Ok(lock) = LOCK.parse::<Table>() else { return String::new() };
    let packages: Vec<&Table> = lock.get("package").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_table).collect();
    let field = |p: &Table, key: &str| p.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    // A dependency is named by name alone, or by name and version where there are several.
    let find = |dependency: &str| {
        let mut words = dependency.split(' ');
        let (name, version) = (words.next().unwrap_or_default(), words.next());
        packages.iter().position(|p| field(p, "name") == name && version.is_none_or(|v| field(p, "version") == v))
    };
    let manifest: Table = MANIFEST.parse().unwrap_or_default();
    let direct: BTreeSet<String> =
        manifest.get("dependencies").and_then(Value::as_table).map(|t| t.keys().cloned().collect()).unwrap_or_default();
    let of_sdk: Vec<String> = find(PACKAGE).map(|i| dependencies(packages[i])).unwrap_or_default();
    let own: Vec<String> = of_sdk.into_iter().filter(|d| direct.contains(d.split(' ').next().unwrap_or_default())).collect();
    let mut wanted = BTreeSet::new();
    let mut open: Vec<usize> = own.iter().filter_map(|d| find(d)).collect();
    while let Some(i) = open.pop() {
        if wanted.insert(i) {
            open.extend(dependencies(packages[i]).iter().filter_map(|d| find(d)));
        }
    }
    let locked = |i: &usize| {
        let mut p = packages[*i].clone();
        if p.contains_key("dependencies") {
            p.insert("dependencies".to_owned(), Value::Array(dependencies(packages[*i]).into_iter().map(Value::String).collect()));
        }
        Value::Table(p)
    };
    let mut all: Vec<Value> = wanted.iter().map(locked).collect();
    all.push(local(name, "0.1.0", vec![PACKAGE.to_owned()]));
    all.push(local(PACKAGE, &version(), own));
    all.sort_by_key(|p| (p.get("name").map(ToString::to_string), p.get("version").map(ToString::to_string)));
    let mut out = Table::new();
    out.insert("version".to_owned(), lock.get("version").cloned().unwrap_or(Value::Integer(4)));
    out.insert("package".to_owned(), Value::Array(all));
    toml::to_string(&out).unwrap_or_default()
}

/// What a locked package needs, without the generator of bindings: the SDK carries what that makes, and only our tests run it.
fn dependencies(package: &Table) -> Vec<String> {
    let all = package.get("dependencies").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    all.filter(|d| *d != "wit-bindgen-rust-macro").map(str::to_owned).collect()
}

fn local(name: &str, version: &str, dependencies: Vec<String>) -> Value {
    let mut t = Table::new();
    t.insert("name".to_owned(), Value::String(name.to_owned()));
    t.insert("version".to_owned(), Value::String(version.to_owned()));
    t.insert("dependencies".to_owned(), Value::Array(dependencies.into_iter().map(Value::String).collect()));
    Value::Table(t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kit_stands_alone() {
        let files = files();
        assert!(files.contains_key("src/lib.rs") && files.contains_key("wit/v0.1/worlds.wit"));
        let outside: Vec<&String> = files.iter().filter(|(_, t)| t.contains("../../")).map(|(p, _)| p).collect();
        assert!(outside.is_empty(), "{outside:?}");
        let manifest: Table = files["Cargo.toml"].parse().expect("a manifest");
        assert!(!files["Cargo.toml"].contains("workspace"), "{manifest:?}");
        assert!(manifest.get("dev-dependencies").is_none() && manifest.get("dependencies").is_some());
    }

    #[test]
    fn the_digest_follows_every_byte() {
        let mut files = files();
        let before = digest_of(&files);
        assert_eq!((before.as_str(), before.len()), (digest().as_str(), 64));
        files.get_mut("src/lib.rs").expect("there").push(' ');
        assert_ne!(before, digest_of(&files));
    }

    #[test]
    fn the_lock_has_what_the_sdk_needs_and_no_more() {
        let lock: Table = lock("mine").parse().expect("a lock file");
        let names: Vec<&str> = lock["package"].as_array().expect("a list").iter().filter_map(|p| p["name"].as_str()).collect();
        for name in ["mine", PACKAGE, "wit-bindgen", "serde_json"] {
            assert!(names.contains(&name), "{name} in {names:?}");
        }
        assert!(!names.contains(&"wit-bindgen-rust") && !names.contains(&"wasmparser"), "the generator is not built: {names:?}");
        assert!(!names.contains(&"wasmtime") && !names.contains(&"tempfile") && names.len() < 60, "{names:?}");
    }
}
