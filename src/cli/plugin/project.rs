//! A plugin project on disk: where its component comes from, and whether its SDK is this beadle's.
//!
//! Invariants: nothing of the caller's build (flags, wrappers, job server) reaches cargo; the component is replaced in one step.
//!
//! Called by the verbs of `plugin`.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use serde_json::Value;

use super::error::Error;
use crate::cli::Context;
use crate::plugin::{contract, kit};

const TARGET: &str = "wasm32-unknown-unknown";
/// Where the SDK lies in a project.
pub const VENDOR: &str = "vendor/beadle-plugin";
/// The file there that says which SDK it is: the version of beadle and the digest.
pub const MARK: &str = "KIT";
/// Most files of a vendored SDK that are looked at, and the largest.
const MAX_FILES: usize = 500;
const MAX_FILE: u64 = 4 << 20;

/// A folder with a plugin's package.
pub struct Project {
    pub dir: PathBuf,
    pub name: String,
}

/// What a build made.
pub struct Built {
    pub file: PathBuf,
    pub wasm: Vec<u8>,
    pub look: contract::Look,
}

/// Which SDK a project has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sdk {
    /// None under `vendor`: it comes from elsewhere.
    Elsewhere,
    /// The one inside this program.
    Current,
    /// That of another release.
    Of(String),
    /// Files of it were changed by hand.
    Changed,
}

impl Sdk {
    /// A sentence for who builds; none where there is nothing to say.
    pub fn remark(&self) -> Option<String> {
        match self {
            Self::Elsewhere | Self::Current => None,
            Self::Of(version) => {
                Some(format!("the SDK in {VENDOR} is that of another beadle ({version}); `beadle plugin build --update-sdk` renews it"))
            }
            Self::Changed => {
                Some(format!("files in {VENDOR} differ from the SDK they came from; `beadle plugin build --update-sdk` puts them back"))
            }
        }
    }

    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Elsewhere => "elsewhere",
            Self::Current => "current",
            Self::Of(_) => "other",
            Self::Changed => "changed",
        }
    }
}

impl Project {
    pub fn find(dir: &Path) -> anyhow::Result<Self> {
        let shown = || dir.display().to_string();
        let path = dir.join("Cargo.toml");
        let Ok(text) = fs::read_to_string(&path) else { return Err(Error::NoProject { path: shown() }.coded().into()) };
        let wrong = |why: String| Error::Manifest { path: path.display().to_string(), why }.coded();
        let manifest: toml::Table = text.parse().map_err(|e: toml::de::Error| wrong(e.message().to_owned()))?;
        let name = manifest.get("package").and_then(|p| p.get("name")).and_then(toml::Value::as_str);
        let name = name.ok_or_else(|| wrong("it names no package".to_owned()))?.to_owned();
        let dir = dir.canonicalize().map_err(|source| Error::Read { path: shown(), source }.coded())?;
        Ok(Self { dir, name })
    }

    /// Where the component goes unless the caller says.
    pub fn component(&self) -> PathBuf {
        self.dir.join("target/plugin").join(format!("{}.wasm", self.name))
    }

    pub fn sdk(&self) -> Sdk {
        let vendor = self.dir.join(VENDOR);
        let Ok(mark) = fs::read_to_string(vendor.join(MARK)) else { return Sdk::Elsewhere };
        let (version, digest) = mark.trim().split_once(' ').unwrap_or(("unknown", ""));
        let mut found = BTreeMap::new();
        collect(&vendor, &vendor, &mut found);
        found.remove(MARK);
        if kit::digest_of(&found) != digest {
            Sdk::Changed
        } else if digest == kit::digest() {
            Sdk::Current
        } else {
            Sdk::Of(version.to_owned())
        }
    }

    /// Replaces the vendored SDK by the one inside this program.
    pub fn write_sdk(&self) -> anyhow::Result<()> {
        let vendor = self.dir.join(VENDOR);
        if vendor.exists() {
            fs::remove_dir_all(&vendor).map_err(|source| Error::Write { path: vendor.display().to_string(), source }.coded())?;
        }
        for (path, text) in kit::files() {
            write(&vendor.join(path), &text)?;
        }
        write(&vendor.join(MARK), &format!("{} {}\n", env!("CARGO_PKG_VERSION"), kit::digest()))
    }

    /// Builds the component at its usual place.
    pub fn build(&self, cx: &mut Context, offline: bool) -> anyhow::Result<Built> {
        self.build_to(cx, offline, &self.component())
    }

    pub fn build_to(&self, cx: &mut Context, offline: bool, file: &Path) -> anyhow::Result<Built> {
        let module = self.module(cx.printer.quiet() || cx.printer.json(), offline)?;
        let module = super::read_file(&module).map_err(Error::coded)?;
        let wasm = contract::componentize(&module, &kit::digest()).map_err(|e| super::coded(e.code(), &e))?;
        let look = contract::look(&self.name, &wasm, None).map_err(|e| super::coded(e.code(), &e))?;
        let part = file.with_extension("wasm.part");
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).map_err(|source| Error::Write { path: parent.display().to_string(), source }.coded())?;
        }
        fs::write(&part, &wasm)
            .and_then(|()| fs::rename(&part, file))
            .map_err(|source| Error::Write { path: file.display().to_string(), source }.coded())?;
        Ok(Built { file: file.to_owned(), wasm, look })
    }

    /// Runs cargo and gives the path of the core module.
    fn module(&self, quiet: bool, offline: bool) -> anyhow::Result<PathBuf> {
        let mut cargo = self.cargo("CARGO", "cargo");
        cargo.args(["build", "--release", "--lib", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
        if quiet {
            cargo.arg("--quiet");
        }
        if offline {
            cargo.arg("--offline");
        }
        let mut child = match cargo.stdout(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(source) => return Err(Error::NoCargo { source }.coded().into()),
        };
        let mut module = None;
        if let Some(out) = child.stdout.take() {
            for line in std::io::BufReader::new(out).lines() {
                let Ok(message) = line.map(|l| serde_json::from_str::<Value>(&l).unwrap_or_default()) else { break };
                module = self.artifact(&message).or(module);
            }
        }
        let status = child.wait()?;
        if status.success() {
            return module.ok_or_else(|| Error::NoModule.coded().into());
        }
        // Most often the target is what is missing; cargo said so at length.
        if !self.has_target() {
            if self.add_target() {
                return self.module(quiet, offline);
            }
            return Err(Error::NoTarget { target: TARGET }.coded().into());
        }
        Err(Error::Failed { status: status.to_string() }.coded().into())
    }

    /// The module that a message of cargo announces for this package.
    fn artifact(&self, message: &Value) -> Option<PathBuf> {
        let is_own = message["reason"] == "compiler-artifact"
            && message["manifest_path"].as_str().is_some_and(|p| Path::new(p) == self.dir.join("Cargo.toml"));
        let files = message["filenames"].as_array().filter(|_| is_own)?;
        files.iter().filter_map(Value::as_str).find(|f| f.ends_with(".wasm")).map(PathBuf::from)
    }

    fn has_target(&self) -> bool {
        let out = self.cargo("RUSTC", "rustc").args(["--print", "target-libdir", "--target", TARGET]).stderr(Stdio::null()).output();
        let Ok(out) = out else { return false };
        let Ok(entries) = fs::read_dir(String::from_utf8_lossy(&out.stdout).trim()) else { return false };
        entries.flatten().any(|e| e.file_name().to_string_lossy().starts_with("libstd-"))
    }

    fn add_target(&self) -> bool {
        let added = self.cargo("RUSTUP", "rustup").args(["target", "add", TARGET]).stdout(Stdio::null()).status();
        added.is_ok_and(|s| s.success()) && self.has_target()
    }

    /// A tool of Rust in this project; `variable` names another program than the usual one.
    fn cargo(&self, variable: &str, usual: &str) -> Command {
        let program = env::var_os(variable).filter(|p| Path::new(p).is_absolute()).unwrap_or_else(|| usual.into());
        let mut c = Command::new(program);
        c.current_dir(&self.dir).stdin(Stdio::null());
        for name in
            ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC_WORKSPACE_WRAPPER", "MAKEFLAGS"]
        {
            c.env_remove(name);
        }
        c.env_remove("CARGO_MAKEFLAGS").env_remove("MFLAGS").env_remove("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS");
        c
    }
}

fn collect(root: &Path, dir: &Path, out: &mut BTreeMap<String, String>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(data) = entry.metadata() else { continue };
        if out.len() > MAX_FILES || data.len() > MAX_FILE {
            return;
        }
        if data.is_dir() {
            collect(root, &path, out);
        } else if let (Ok(short), Ok(text)) = (path.strip_prefix(root), fs::read(&path)) {
            out.insert(short.display().to_string(), String::from_utf8_lossy(&text).into_owned());
        }
    }
}

/// Writes a file with the folders above it.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let fail = |source| Error::Write { path: path.display().to_string(), source }.coded();
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(fail)?;
    }
    Ok(fs::write(path, text).map_err(fail)?)
}
