//! `beadle plugin new`: a project that builds and whose tests pass, from this program alone.
//!
//! The SDK and the contract are written into the project (`vendor/beadle-plugin`), with a lock file of the versions that this build was
//! made with: nothing of ours comes from a registry, and a build later is the same build. What the SDK uses of others comes from crates.io.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::Error;
use super::project::{Project, write};
use crate::cli::args::{NewArgs, NewKind};
use crate::cli::exit::Exit;
use crate::cli::text::safe;
use crate::cli::{Context, Outcome};
use crate::plugin::kit;

const MAX_NAME: usize = 64;
/// Names that a package cannot have beside its dependencies and the standard library.
const RESERVED: [&str; 9] = ["beadle-plugin", "serde", "schemars", "std", "core", "alloc", "test", "proc-macro", "build"];

#[derive(Serialize)]
struct Made<'a> {
    name: &'a str,
    kind: &'static str,
    dir: String,
    sdk: String,
}

impl NewKind {
    const fn folder(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Compaction => "compaction",
            Self::Sink => "sink",
        }
    }

    const fn world(self) -> &'static str {
        match self {
            Self::Policy => "permission-policy",
            Self::Compaction => "compaction-strategy",
            Self::Sink => "audit-sink",
        }
    }
}

pub fn new(cx: &mut Context, args: NewArgs) -> Outcome {
    check_name(&args.name).map_err(|why| Error::Name { name: args.name.clone(), why }.coded())?;
    let dir = args.path.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    if fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()) || dir.is_file() {
        return Err(Error::Taken { path: dir.display().to_string() }.coded().into());
    }
    fs::create_dir_all(&dir).map_err(|source| Error::Write { path: dir.display().to_string(), source }.coded())?;
    let dir = dir.canonicalize()?;
    for (path, text) in texts(&args.name, args.kind, &dir) {
        write(&dir.join(path), &text)?;
    }
    Project { dir: dir.clone(), name: args.name.clone() }.write_sdk()?;
    if cx.printer.json() {
        let made = Made { name: &args.name, kind: args.kind.world(), dir: dir.display().to_string(), sdk: kit::digest() };
        cx.printer.document(&made)?;
    } else if cx.printer.quiet() {
        cx.printer.line(&safe(&dir.to_string_lossy()))?;
    } else {
        cx.printer.line(&format!("made the {} {} in {}", args.kind.world(), args.name, safe(&dir.to_string_lossy())))?;
        cx.printer.note("next: cd there; `cargo test`, then `beadle plugin test`")?;
    }
    Ok(Exit::Done)
}

/// Why a name cannot be taken.
fn check_name(name: &str) -> Result<(), &'static str> {
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    match name {
        "" => Err("is empty"),
        _ if name.len() > MAX_NAME => Err("is too long"),
        _ if !plain => Err("has other characters"),
        _ if !name.starts_with(|c: char| c.is_ascii_lowercase()) => Err("does not begin with a letter"),
        _ if name.ends_with('-') || name.contains("--") => Err("has a hyphen at its end, or two in a row"),
        _ if RESERVED.contains(&name) => Err("is taken by a package that the project needs, or by Rust"),
        _ => Ok(()),
    }
}

/// The files of a project beside the SDK.
fn texts(name: &str, kind: NewKind, dir: &Path) -> Vec<(&'static str, String)> {
    let own = |file: &str| template(&format!("{}/{file}", kind.folder()));
    // The texts that others include come first, so that what they hold is filled in too.
    let fill = |text: &str| {
        text.replace("{{use}}", own("use.md").trim_end())
            .replace("{{rules}}", own("rules.md").trim_end())
            .replace("{{name}}", name)
            .replace("{{Type}}", &type_name(name))
            .replace("{{world}}", kind.world())
            .replace("{{path}}", &dir.to_string_lossy())
            .replace("{{beadle}}", env!("CARGO_PKG_VERSION"))
            .replace("{{rust}}", env!("CARGO_PKG_RUST_VERSION"))
    };
    vec![
        ("Cargo.toml", fill(template("Cargo.toml"))),
        ("Cargo.lock", kit::lock(name)),
        (".cargo/config.toml", fill(template("config.toml"))),
        (".gitignore", fill(template("gitignore"))),
        ("README.md", fill(template("README.md"))),
        ("AGENTS.md", fill(template("AGENTS.md"))),
        ("src/lib.rs", fill(own("lib.rs"))),
        ("cases.toml", fill(own("cases.toml"))),
    ]
}

fn template(path: &str) -> &'static str {
    kit::TEMPLATE.iter().find(|(p, _)| *p == path).map_or("", |(_, text)| text)
}

/// `no-sudo` is `NoSudo`.
fn type_name(name: &str) -> String {
    let word = |w: &str| w.chars().take(1).map(|c| c.to_ascii_uppercase()).chain(w.chars().skip(1)).collect::<String>();
    let name: String = name.split('-').map(word).collect();
    // Names that the template uses itself.
    let used = ["Config", "Policy", "Strategy", "Sink", "Call", "Decision", "Description", "Session", "Batch", "Outcome", "Edit", "Span"];
    let more = ["Budget", "Kind", "Replacement", "Transcript", "Level", "Vec", "String", "Result", "Self", "Option", "Default"];
    if used.contains(&name.as_str()) || more.contains(&name.as_str()) { format!("{name}Plugin") } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_packages() {
        for good in ["a", "no-sudo", "x2"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "a--b", "A", "a_b", "2x", "serde", "ä", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert_eq!((type_name("no-sudo").as_str(), type_name("config").as_str()), ("NoSudo", "ConfigPlugin"));
    }

    #[test]
    fn nothing_of_a_template_is_left_unfilled() {
        for kind in [NewKind::Policy, NewKind::Compaction, NewKind::Sink] {
            for (path, text) in texts("mine", kind, Path::new("/x")) {
                assert!(!text.is_empty() && !text.contains("{{"), "{path} of {kind:?}:\n{text}");
            }
        }
    }
}
