//! The way of an author, from the installed binary alone: new, build, check, test, bench, inspect, in a temporary folder, without a daemon.
//!
//! The projects of all tests share one target folder, so that what they depend on is compiled once; cargo takes nothing from the network
//! where the packages are there already.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::Said;

const BEADLE: &str = env!("CARGO_BIN_EXE_beadle");

/// A project made by `beadle plugin new`.
struct Project {
    dir: TempDir,
    name: String,
}

/// A command with what cargo and rustup need of the environment, and nothing of the cargo that runs the tests.
fn command(program: &str, dir: &Path) -> Command {
    let mut c = Command::new(program);
    c.env_clear().current_dir(dir).stdin(Stdio::null());
    for name in ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            c.env(name, value);
        }
    }
    c.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("authoring"));
    c.env("BEADLE_HOME", dir.join("no-such-home")).env("BEADLE_SESSION", "tests").env("NO_COLOR", "1");
    c
}

fn beadle(dir: &Path, args: &[&str]) -> Said {
    command(BEADLE, dir).args(args).output().expect("beadle").into()
}

impl Project {
    fn new(name: &str, kind: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let said = beadle(dir.path(), &["--json", "plugin", "new", name, "--kind", kind]).ok().json();
        assert_eq!(said["name"], name);
        Self { dir, name: name.to_owned() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(&self.name)
    }

    fn file(&self) -> PathBuf {
        self.path().join(format!("target/plugin/{}.wasm", self.name))
    }

    fn offline(&self) -> bool {
        static WARM: OnceLock<bool> = OnceLock::new();
        *WARM.get_or_init(|| {
            command("cargo", &self.path()).args(["fetch", "--offline", "--quiet"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
        })
    }

    /// A verb that builds; from the network only where packages are missing.
    fn plugin(&self, args: &[&str]) -> Said {
        let mut all = vec!["plugin"];
        all.extend(args);
        all.extend(self.offline().then_some("--offline"));
        beadle(&self.path(), &all)
    }

    fn plugin_json(&self, args: &[&str]) -> Said {
        let mut all = vec!["--json"];
        all.extend(args);
        // why: the flag is global, so it may stand behind the noun too.
        self.plugin(&all)
    }

    fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.path().join(file);
        let text = std::fs::read_to_string(&path).expect("a file of the project");
        assert!(text.contains(from), "{file} has {from:?}");
        std::fs::write(path, text.replace(from, to)).expect("written");
    }
}

/// Everything that an author does, for one kind.
fn whole_way(name: &str, kind: &str, world: &str) {
    let project = Project::new(name, kind);
    for file in ["Cargo.toml", "Cargo.lock", "src/lib.rs", "cases.toml", "README.md", "AGENTS.md", ".gitignore", ".cargo/config.toml"] {
        assert!(project.path().join(file).is_file(), "{file}");
    }
    let built = project.plugin_json(&["build"]).ok().json();
    assert_eq!(
        (built["kind"].as_str(), built["findings"].as_array().map(Vec::len), built["sdk"].as_str()),
        (Some(world), Some(0), Some("current"))
    );
    let bytes = std::fs::read(project.file()).expect("the component");
    assert_eq!(built["bytes"], bytes.len());
    assert!(bytes.len() < 400_000, "{} bytes", bytes.len());

    let check = beadle(&project.path(), &["--json", "plugin", "check", &project.file().display().to_string()]).ok().json();
    assert_eq!((check["good"].as_bool(), check["kind"].as_str(), check["built_with"].as_str()), (Some(true), Some(world), Some("current")));
    let inspect = project.plugin_json(&["inspect"]).ok().json();
    assert_eq!(
        (inspect["name"].as_str(), inspect["engine"].as_str(), inspect["snapshotted"].as_bool()),
        (Some(name), Some("small"), Some(true))
    );
    assert_eq!(inspect["digest"], built["digest"]);
    let imports: Vec<&str> = inspect["imports"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let expected: &[&str] = match kind {
        "policy" => &[],
        "compaction" => &["beadle:plugin/transcript@0.1.0"],
        _ => &["beadle:plugin/log@0.1.0"],
    };
    assert_eq!(imports, expected, "what is not used is not imported");
    assert_eq!(inspect["config_schema"]["type"], "object");
    assert!(inspect["size"]["names"].as_u64().is_some_and(|n| n > 1000), "names stay for backtraces: {inspect:#}");

    let mut tests = command("cargo", &project.path());
    tests.args(["test", "--quiet"]).args(project.offline().then_some("--offline"));
    Said::from(tests.output().expect("cargo")).ok();
}

#[test]
fn a_policy_from_new_to_the_end() {
    whole_way("no-sudo", "policy", "permission-policy");
}

#[test]
fn a_strategy_from_new_to_the_end() {
    whole_way("mask-old", "compaction", "compaction-strategy");
}

#[test]
fn a_sink_from_new_to_the_end() {
    whole_way("write-down", "sink", "audit-sink");
}

#[test]
fn a_project_is_not_made_over_another_or_under_a_bad_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let here = dir.path();
    assert_eq!(
        beadle(here, &["-q", "plugin", "new", "mine", "--path", "here"]).ok().out.trim(),
        here.canonicalize().unwrap().join("here").display().to_string()
    );
    for (args, code, says) in [
        (["mine", "--path", "here"], 2, "BDL-AUTHOR-002"),
        (["Mine", "--path", "there"], 2, "small letters"),
        (["serde", "--path", "there"], 2, "BDL-AUTHOR-001"),
    ] {
        let said = beadle(here, &[&["plugin", "new"], args.as_slice()].concat());
        assert_eq!(said.code, code, "{said:?}");
        assert!(said.err.contains(says), "{said:?}");
    }
    assert!(!here.join("there").exists());
    let said = beadle(here, &["plugin", "build"]);
    assert!(said.code == 2 && said.err.contains("BDL-AUTHOR-003"), "{said:?}");
}

#[test]
fn without_cargo_the_error_says_what_to_install() {
    let project = Project::new("lonely", "policy");
    let said: Said =
        command(BEADLE, &project.path()).args(["plugin", "build"]).env("PATH", project.dir.path()).output().expect("beadle").into();
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("BDL-AUTHOR-005") && said.err.contains("rustup.rs"), "{said:?}");
}

#[test]
fn a_mismatch_is_explained_by_name_and_the_sdk_put_back() {
    let project = Project::new("elder", "policy");
    let types = "vendor/beadle-plugin/wit/v0.1/types.wit";
    project.edit(types, "enum effect { abstain, allow, ask, deny }", "enum effect { allow, abstain, ask, deny }");
    project.edit(types, "at-ms: u64,\n    }\n\n    enum mediation", "at-ms: u32,\n    }\n\n    enum mediation");
    // The target folder is shared, and cargo tells packages apart by name and version.
    project.edit("vendor/beadle-plugin/Cargo.toml", "+kit.", "+elder.");
    let built = project.plugin_json(&["build"]);
    assert_eq!(built.code, 1, "{built:?}");
    assert!(built.json()["sdk"] == "changed", "{built:?}");
    let said = project.plugin(&["check"]);
    assert_eq!(said.code, 1, "{said:?}");
    for part in [
        "beadle:plugin/policy#decide",
        "record call, field at-ms: the contract has u64, the component has u32",
        "enum effect",
        "--update-sdk",
    ] {
        assert!(said.out.contains(part), "{part}: {said:?}");
    }
    project.plugin(&["build", "--update-sdk"]).ok();
    project.plugin(&["check"]).ok();

    // Files that are no plugins.
    let file = project.dir.path().join("x.wasm");
    let of = |bytes: &[u8]| {
        std::fs::write(&file, bytes).expect("written");
        beadle(project.dir.path(), &["plugin", "check", &file.display().to_string()])
    };
    let empty = of(b"\0asm\x0d\0\x01\0");
    assert_eq!(empty.code, 1, "{empty:?}");
    for part in [
        "missing: describe",
        "missing: configure",
        "beadle:plugin/policy or beadle:plugin/compaction or beadle:plugin/audit",
        "export_policy!",
    ] {
        assert!(empty.out.contains(part), "{part}: {empty:?}");
    }
    assert!(of(b"hello").err.contains("BDL-PLUGIN-004"));
    assert_eq!(beadle(project.dir.path(), &["plugin", "check", "none.wasm"]).code, 3);
}
