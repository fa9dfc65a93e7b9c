//! The contract beside a component: what it imports and exports, and each difference by name with what to do about it.
//!
//! Invariants: nothing of the component runs here; a component without a finding of weight [`Weight::Refused`] has every export of its
//! kind in the contract's shapes and imports nothing that is not given to that kind.
//!
//! Called by `cli::plugin` (`plugin build`, `plugin check`, `plugin inspect`).

use serde::Serialize;
use wit_component::DecodedWasm;
use wit_parser::{Function, InterfaceId, Resolve, WorldId, WorldItem, WorldKey};

use super::error::{Error, Result};
use super::kit;
use super::v0_1::PluginKind;
use crate::model::Moment;

mod shape;

use shape::{Difference, Pair};

/// Most findings that are kept of one component.
const MAX_FINDINGS: usize = 64;

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// The host does not load it.
    Refused,
    /// The host loads it all the same.
    Remark,
}

/// What is wrong with one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    Missing,
    Extra,
    Different,
}

/// One difference between a component and the contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub weight: Weight,
    pub wrong: Wrong,
    /// The import, export or type.
    pub name: String,
    pub detail: String,
    /// What to do about it.
    pub advice: String,
}

/// A component from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Look {
    /// `None` when it is of no kind, or of several.
    pub kind: Option<PluginKind>,
    pub moments: Vec<Moment>,
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    /// Digest of the SDK that it was built with, where `beadle plugin build` made it.
    pub sdk: Option<String>,
    pub findings: Vec<Finding>,
}

/// Name of the custom section that says which SDK a component was built with.
const SECTION: &str = "beadle:sdk";

/// Wraps a core module as a component, and notes the digest of the SDK it was built with.
pub fn componentize(module: &[u8], sdk: &str) -> Result<Vec<u8>> {
    let made = wit_component::ComponentEncoder::default().validate(true).module(module).and_then(|e| e.encode());
    let mut component = made.map_err(|e| Error::NoComponent { detail: format!("{e:#}") })?;
    let mut body = vec![SECTION.len() as u8];
    body.extend_from_slice(SECTION.as_bytes());
    body.extend_from_slice(sdk.as_bytes());
    component.push(0);
    // A digest is shorter than 128 bytes together with the name, so its length is one byte.
    component.push(body.len().min(127) as u8);
    component.extend_from_slice(&body[..body.len().min(127)]);
    Ok(component)
}

/// The digest noted by [`componentize`], which stands last.
fn sdk(component: &[u8]) -> Option<String> {
    let mark: Vec<u8> = [&[SECTION.len() as u8], SECTION.as_bytes()].concat();
    let from = component.len().checked_sub(mark.len() + 64 + 2)?;
    let tail = component.get(from..)?;
    let text = tail.get(2..)?.strip_prefix(mark.as_slice())?;
    (tail[0] == 0).then(|| String::from_utf8_lossy(text).into_owned())
}

/// Looks at a component. `wanted` is what it should be, for a component that is of no kind.
pub fn look(name: &str, component: &[u8], wanted: Option<PluginKind>) -> Result<Look> {
    let invalid = |detail: String| Error::Invalid { plugin: name.to_owned(), detail };
    let (resolve, world) = match wit_component::decode(component) {
        Ok(DecodedWasm::Component(resolve, world)) => (resolve, world),
        Ok(DecodedWasm::WitPackage(..)) => return Err(invalid("it holds WIT and no code".to_owned())),
        Err(e) => return Err(invalid(e.root_cause().to_string())),
    };
    let (contract, package) = contract().map_err(|e| invalid(format!("the contract inside this program: {e:#}")))?;
    let theirs = Side { resolve: &resolve, world };
    let kinds: Vec<PluginKind> = PluginKind::ALL.into_iter().filter(|k| theirs.interface(k.interface(), false).is_some()).collect();
    let mut out = Look {
        kind: if let [one] = kinds[..] { Some(one) } else { None },
        moments: Vec::new(),
        imports: theirs.names(false),
        exports: theirs.names(true),
        sdk: sdk(component),
        findings: Vec::new(),
    };
    if kinds.len() > 1 {
        let names: Vec<&str> = kinds.iter().map(|k| k.as_str()).collect();
        out.findings.push(Finding {
            weight: Weight::Refused,
            wrong: Wrong::Extra,
            name: names.join(", "),
            detail: "it exports the interfaces of several kinds".to_owned(),
            advice: "a component is of one kind: build one for each".to_owned(),
        });
    }
    let kind = out.kind.or(wanted).unwrap_or(PluginKind::PermissionPolicy);
    let world = contract.packages[package].worlds.get(kind.as_str()).copied().ok_or_else(|| invalid("no such world".to_owned()))?;
    let ours = Side { resolve: &contract, world };
    let mut findings = exports(&ours, &theirs, kind, out.kind.is_some() || wanted.is_some());
    for moment in Moment::ALL {
        let full = format!("beadle:plugin/{}", moment.as_str());
        let (Some(got), Some(want)) = (theirs.interface(&full, false), ours.of_package(package, moment.as_str())) else { continue };
        if kind == PluginKind::PermissionPolicy {
            out.moments.push(moment);
            interface(&Pair { want: &contract, got: &resolve }, want, got, &full, true, &mut findings);
        } else {
            findings.push(Finding {
                weight: Weight::Remark,
                wrong: Wrong::Extra,
                name: full,
                detail: format!("a {} is not asked at this moment", kind.as_str()),
                advice: "leave it out, or build a permission policy".to_owned(),
            });
        }
    }
    imports(&ours, package, &theirs, kind, &mut findings);
    findings.truncate(MAX_FINDINGS);
    out.findings.append(&mut findings);
    Ok(out)
}

fn contract() -> anyhow::Result<(Resolve, wit_parser::PackageId)> {
    let mut map = wit_parser::SourceMap::default();
    for (path, text) in kit::WIT {
        map.push_str(path, *text);
    }
    let mut resolve = Resolve::default();
    let group = map.parse().map_err(|(_, e)| anyhow::anyhow!("{e}"))?;
    let package = resolve.push_group(group)?;
    Ok((resolve, package))
}

/// A world with what it is resolved against.
struct Side<'a> {
    resolve: &'a Resolve,
    world: WorldId,
}

impl Side<'_> {
    fn items(&self, exports: bool) -> impl Iterator<Item = (&WorldKey, &WorldItem)> {
        let w = &self.resolve.worlds[self.world];
        if exports { w.exports.iter() } else { w.imports.iter() }
    }

    /// Full names with versions of what can be called; types alone are left out.
    fn names(&self, exports: bool) -> Vec<String> {
        let calls = |i: &WorldItem| match i {
            WorldItem::Function(_) => true,
            WorldItem::Interface { id, .. } => !self.resolve.interfaces[*id].functions.is_empty(),
            WorldItem::Type { .. } => false,
        };
        self.items(exports).filter(|(_, i)| calls(i)).map(|(k, _)| self.resolve.name_world_key(k)).collect()
    }

    /// An interface by its name without version, among exports or imports; only those of our track.
    fn interface(&self, name: &str, import: bool) -> Option<InterfaceId> {
        self.items(!import).find_map(|(key, item)| {
            let full = self.resolve.name_world_key(key);
            let (n, version) = full.split_once('@')?;
            match item {
                WorldItem::Interface { id, .. } if n == name && on_track(version) => Some(*id),
                _ => None,
            }
        })
    }

    fn function(&self, name: &str) -> Option<&Function> {
        self.items(true).find_map(|(key, item)| match item {
            WorldItem::Function(f) if self.resolve.name_world_key(key) == name => Some(f),
            _ => None,
        })
    }

    fn of_package(&self, package: wit_parser::PackageId, name: &str) -> Option<InterfaceId> {
        self.resolve.packages[package].interfaces.get(name).copied()
    }
}

fn on_track(version: &str) -> bool {
    format!("@{version}").starts_with(super::v0_1::TRACK)
}

fn exports(ours: &Side<'_>, theirs: &Side<'_>, kind: PluginKind, certain: bool) -> Vec<Finding> {
    let mut out = Vec::new();
    let pair = Pair { want: ours.resolve, got: theirs.resolve };
    for (key, item) in ours.items(true) {
        let full = ours.resolve.name_world_key(key);
        match item {
            WorldItem::Function(want) => match theirs.function(&full) {
                Some(got) => function(&pair, want, got, &full, &mut out),
                None => out.push(missing(&full, &format!("the world {} exports it", kind.as_str()), &full)),
            },
            WorldItem::Interface { id, .. } => {
                let name = full.split('@').next().unwrap_or(&full);
                match theirs.interface(name, false) {
                    Some(got) => interface(&pair, *id, got, name, true, &mut out),
                    None if certain => out.push(missing(name, &format!("it makes a component a {}", kind.as_str()), &full)),
                    None => out.push(Finding {
                        weight: Weight::Refused,
                        wrong: Wrong::Missing,
                        name: PluginKind::ALL.map(PluginKind::interface).join(" or "),
                        detail: format!("one of them makes a component a plugin, and it exports {}", listed(&theirs.names(true))),
                        advice: "with the Rust SDK: `export_policy!`, `export_strategy!` or `export_sink!` names your type, once; \
                                 elsewhere: export one of the interfaces in your world"
                            .to_owned(),
                    }),
                }
            }
            WorldItem::Type { .. } => {}
        }
    }
    out
}

fn imports(ours: &Side<'_>, package: wit_parser::PackageId, theirs: &Side<'_>, kind: PluginKind, out: &mut Vec<Finding>) {
    let pair = Pair { want: ours.resolve, got: theirs.resolve };
    for (key, item) in theirs.items(false) {
        let full = theirs.resolve.name_world_key(key);
        let (name, version) = full.split_once('@').unwrap_or((&full, ""));
        let WorldItem::Interface { id, .. } = item else {
            if matches!(item, WorldItem::Function(_)) {
                out.push(foreign(&full, "a function of no interface"));
            }
            continue;
        };
        if let Some(short) = name.strip_prefix("beadle:plugin/") {
            let known = ours.of_package(package, short).filter(|_| on_track(version));
            match known {
                Some(want) if kind.imports(name) => interface(&pair, want, *id, name, false, out),
                Some(_) => out.push(foreign(&full, &format!("it is not given to a {}", kind.as_str()))),
                None => out.push(foreign(&full, &format!("this beadle has {}", listed(&importable(kind))))),
            }
        } else if name.starts_with("wasi:") && version.starts_with("0.2.") {
            out.push(Finding {
                weight: Weight::Remark,
                wrong: Wrong::Extra,
                name: full.clone(),
                detail: "WASI is there and does nothing: no files, environment, network; the clock stands".to_owned(),
                advice: "in Rust, build for wasm32-unknown-unknown: such a component imports nothing and is quicker to call".to_owned(),
            });
        } else {
            out.push(foreign(&full, "the host does not have it"));
        }
    }
}

/// Our interfaces that this kind may import.
fn importable(kind: PluginKind) -> Vec<String> {
    let all = kit::WIT.iter().map(|(path, _)| format!("beadle:plugin/{}", path.trim_end_matches(".wit")));
    all.filter(|n| kind.imports(n)).collect()
}

fn interface(pair: &Pair<'_>, want: InterfaceId, got: InterfaceId, name: &str, export: bool, out: &mut Vec<Finding>) {
    let (ours, theirs) = (&pair.want.interfaces[want], &pair.got.interfaces[got]);
    for (f, wanted) in &ours.functions {
        match theirs.functions.get(f) {
            Some(found) => function(pair, wanted, found, &format!("{name}#{f}"), out),
            // A guest imports only what it uses.
            None if export => out.push(missing(&format!("{name}#{f}"), "the interface has this function", f)),
            None => {}
        }
    }
    for f in theirs.functions.keys().filter(|f| !ours.functions.contains_key(*f)) {
        let (weight, detail, advice) = if export {
            (Weight::Remark, "the contract has no such function, and nobody calls it", "leave it out")
        } else {
            (Weight::Refused, "the contract has no such function", "build against the WIT of this beadle: `beadle plugin new` writes it")
        };
        let (detail, advice) = (detail.to_owned(), advice.to_owned());
        out.push(Finding { weight, wrong: Wrong::Extra, name: format!("{name}#{f}"), detail, advice });
    }
}

fn function(pair: &Pair<'_>, want: &Function, got: &Function, name: &str, out: &mut Vec<Finding>) {
    for Difference { place, want, got } in pair.functions(want, got) {
        out.push(Finding {
            weight: Weight::Refused,
            wrong: Wrong::Different,
            name: name.to_owned(),
            detail: format!("{place}: the contract has {want}, the component has {got}"),
            advice: "build against the WIT of beadle:plugin@0.1; with the Rust SDK: `beadle plugin new` writes the one that fits, and \
                     `beadle plugin build --update-sdk` renews it in a project"
                .to_owned(),
        });
    }
}

fn missing(name: &str, why: &str, what: &str) -> Finding {
    Finding {
        weight: Weight::Refused,
        wrong: Wrong::Missing,
        name: name.to_owned(),
        detail: format!("not exported; {why}"),
        advice: format!("export `{what}`; with the Rust SDK one of `export_policy!`, `export_strategy!`, `export_sink!` does"),
    }
}

fn foreign(name: &str, detail: &str) -> Finding {
    Finding {
        weight: Weight::Refused,
        wrong: Wrong::Extra,
        name: name.to_owned(),
        detail: format!("imported; {detail}"),
        advice: "find the dependency that asks for it and leave it out: a plugin reaches nothing that the contract does not give"
            .to_owned(),
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// Bytes of a component by what they are, over all its modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Size {
    pub total: usize,
    pub code: usize,
    pub data: usize,
    /// Names of functions, for backtraces.
    pub names: usize,
}

impl Size {
    pub const fn rest(&self) -> usize {
        self.total.saturating_sub(self.code + self.data + self.names)
    }
}

/// Adds up the sections. What is not wasm has a total alone.
pub fn size(component: &[u8]) -> Size {
    let mut size = Size { total: component.len(), ..Size::default() };
    sections(component, &mut size, 0);
    size
}

/// Deepest nesting of components that is looked into.
const MAX_NESTED: u32 = 8;

fn sections(bytes: &[u8], size: &mut Size, depth: u32) {
    let is_module = bytes.get(6) == Some(&0);
    let mut at = 8;
    while let Some(&id) = bytes.get(at) {
        let Some((length, from)) = leb(bytes, at + 1) else { return };
        let Some(body) = from.checked_add(length).and_then(|to| bytes.get(from..to)) else { return };
        match id {
            10 if is_module => size.code += length,
            11 if is_module => size.data += length,
            0 if body.starts_with(b"\x04name") => size.names += length,
            // A module, or a component, inside a component.
            1 | 4 if !is_module && depth < MAX_NESTED => sections(body, size, depth + 1),
            _ => {}
        }
        at = from + length;
    }
}

/// A length as wasm writes it, and the place behind it.
fn leb(bytes: &[u8], mut at: usize) -> Option<(usize, usize)> {
    let (mut value, mut shift) = (0usize, 0);
    loop {
        let byte = *bytes.get(at)?;
        at += 1;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, at));
        }
        shift += 7;
        if shift > 28 {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_policies_are_without_a_finding() {
        for wasm in [crate::plugin::standard::RULES, crate::plugin::standard::HELLO] {
            let look = look("standard", wasm, None).expect("a component");
            assert_eq!((look.kind, &look.findings), (Some(PluginKind::PermissionPolicy), &vec![]));
            assert_eq!(look.sdk, None);
            let size = size(wasm);
            assert!(size.code > 10_000 && size.data > 0 && size.rest() < size.total, "{size:?}");
        }
    }

    #[test]
    fn the_sdk_is_noted_and_read_back() {
        let digest = kit::digest();
        let mut component = crate::plugin::standard::HELLO.to_vec();
        let body = [&[SECTION.len() as u8], SECTION.as_bytes(), digest.as_bytes()].concat();
        component.extend([0, body.len() as u8]);
        component.extend(body);
        assert_eq!(sdk(&component), Some(digest));
    }
}
