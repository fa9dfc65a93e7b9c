//! Builds what `beadle` carries inside: the plugins (import-free components) and the shim (a small static program).
//!
//! Invariants:
//! - nested cargo runs use target folders of their own below the outer one, so they never wait for its lock, and are
//!   shared by all outer profiles, so `cargo clippy` after `cargo build` builds them no second time;
//! - nothing of the outer build's flags, wrappers or job server reaches them;
//! - a target that is missing is added through rustup; where that fails, the error names the one command to run.
//!
//! Results, in `OUT_DIR`: the standard plugins, `hello.wasm`, those of the tests (`hostile`, `liar`, `life_*`, `moments_*`, `capable_*`), `beadle-shim`, and
//! `kit.rs`, which embeds the texts that `beadle plugin new` writes.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const WASM: &str = "wasm32-unknown-unknown";

/// Package, its module as cargo names it, and the file that `src/plugin/standard.rs` and the tests embed.
const GUESTS: [(&str, &str, &str); 27] = [
    ("policy-rules", "policy_rules.wasm", "rules.wasm"),
    ("policy-paths", "policy_paths.wasm", "paths.wasm"),
    ("policy-budget", "policy_budget.wasm", "budget.wasm"),
    ("policy-egress", "policy_egress.wasm", "egress.wasm"),
    ("policy-cedar", "examples/cedar.wasm", "cedar.wasm"),
    ("hello-policy", "hello_policy.wasm", "hello.wasm"),
    ("strategies", "examples/mask_observations.wasm", "mask_observations.wasm"),
    ("strategies", "examples/drop_oldest.wasm", "drop_oldest.wasm"),
    ("strategies", "examples/structured_summary.wasm", "structured_summary.wasm"),
    ("hostile-guest", "hostile_guest.wasm", "hostile.wasm"),
    ("liar-guest", "liar_guest.wasm", "liar.wasm"),
    ("life-guests", "examples/life_allows.wasm", "life_allows.wasm"),
    ("life-guests", "examples/life_denies.wasm", "life_denies.wasm"),
    ("life-guests", "examples/life_wants.wasm", "life_wants.wasm"),
    ("life-guests", "examples/life_wants_more.wasm", "life_wants_more.wasm"),
    ("life-guests", "examples/life_traps.wasm", "life_traps.wasm"),
    ("moment-guests", "examples/moments_base.wasm", "moments_base.wasm"),
    ("moment-guests", "examples/moments_session.wasm", "moments_session.wasm"),
    ("moment-guests", "examples/moments_prompt.wasm", "moments_prompt.wasm"),
    ("moment-guests", "examples/moments_result.wasm", "moments_result.wasm"),
    ("moment-guests", "examples/moments_attempt.wasm", "moments_attempt.wasm"),
    ("moment-guests", "examples/moments_all.wasm", "moments_all.wasm"),
    ("moment-guests", "examples/moments_strategy.wasm", "moments_strategy.wasm"),
    ("moment-guests", "examples/moments_sink.wasm", "moments_sink.wasm"),
    ("capable-guests", "examples/capable_wanting.wasm", "capable_wanting.wasm"),
    ("capable-guests", "examples/capable_modest.wasm", "capable_modest.wasm"),
    ("capable-guests", "examples/capable_sink.wasm", "capable_sink.wasm"),
];

/// What the results depend on; folders are watched whole.
const SOURCES: [&str; 15] = [
    "build.rs",
    "Cargo.toml",
    "Cargo.lock",
    "wit",
    "plugins",
    "examples/hello-policy",
    "examples/calls",
    "tests/guests/hostile",
    "tests/guests/liar",
    "tests/guests/moments",
    "tests/guests/capable",
    "tests/guests/life",
    "shim",
    "src/wire.rs",
    "src/wire",
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            println!("cargo::error={}", e.to_string().replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let root = PathBuf::from(var("CARGO_MANIFEST_DIR")?);
    for source in SOURCES {
        // A path that does not exist would make every build a rebuild.
        if root.join(source).exists() {
            println!("cargo::rerun-if-changed={source}");
        }
    }
    if var("CARGO_CFG_TARGET_OS")? != "linux" {
        return Err("beadle runs on Linux (x86_64 or aarch64, kernel 5.10 or newer); this target is not Linux".into());
    }
    let arch = var("CARGO_CFG_TARGET_ARCH")?;
    if arch != "x86_64" && arch != "aarch64" {
        return Err(format!("beadle runs on x86_64 and aarch64; the target's architecture is {arch}").into());
    }
    let out = PathBuf::from(var("OUT_DIR")?);
    let target = target_dir(&out);
    kit(&root, &out)?;
    guests(&root, &target.join("guests"), &out)?;
    shim(&root, &target.join("shim"), &arch, &out)
}

/// The folders whose files authors need, each as a list of paths and texts.
const KIT: [(&str, &str); 4] =
    [("SDK", "plugins/sdk/src"), ("WIT", "wit/v0.1"), ("TEMPLATE", "plugins/template"), ("CALLS", "examples/calls")];

fn kit(root: &Path, out: &Path) -> Result<()> {
    let mut text = String::new();
    for (name, folder) in KIT {
        let folder = root.join(folder);
        let mut files = Vec::new();
        walk(&folder, &mut files)?;
        files.sort();
        text += &format!("pub const {name}: &[(&str, &str)] = &[\n");
        for file in files {
            let short = file.strip_prefix(&folder)?.display().to_string();
            text += &format!("    ({short:?}, include_str!({:?})),\n", file.display().to_string());
        }
        text += "];\n";
    }
    Ok(fs::write(out.join("kit.rs"), text)?)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| format!("reading {}: {e}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn guests(root: &Path, target: &Path, out: &Path) -> Result<()> {
    if !has_target(WASM)? && !add_target(WASM)? {
        return Err(format!(
            "the plugins are built for {WASM}, and this toolchain has no standard library for it; run `rustup target \
             add {WASM}` (or install your distribution's package of that target), then build again"
        )
        .into());
    }
    let mut cargo = nested_cargo(root, target, WASM, "guest")?;
    // A small stack: it lies first in a guest's memory, and a fresh instance has to clear what it touches of it.
    cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", "-C link-arg=-zstack-size=65536");
    for (package, _, _) in GUESTS {
        cargo.args(["-p", package]);
    }
    cargo.args(["--lib", "--examples"]);
    finish(cargo, "the plugins")?;
    for (package, module, file) in GUESTS {
        let path = target.join(WASM).join("guest").join(module);
        let module = fs::read(&path).map_err(|e| format!("reading {}: {e}", path.display()))?;
        let component = wit_component::ComponentEncoder::default()
            .validate(true)
            .module(&module)
            .and_then(|e| e.encode())
            .map_err(|e| format!("making a component of {package}: {e:#}"))?;
        fs::write(out.join(file), component).map_err(|e| format!("writing {file}: {e}"))?;
    }
    Ok(())
}

fn shim(root: &Path, target: &Path, arch: &str, out: &Path) -> Result<()> {
    let musl = format!("{arch}-unknown-linux-musl");
    let triple = if has_target(&musl)? || add_target(&musl)? {
        musl
    } else {
        println!(
            "cargo::warning=no standard library for {musl}: the shim is linked with glibc and starts slower; `rustup \
             target add {musl}` mends that"
        );
        format!("{arch}-unknown-linux-gnu")
    };
    let mut cargo = nested_cargo(root, target, &triple, "shim")?;
    // Static and not position-independent: no relocations, so the shim dirties few pages and starts fast.
    let key = format!("CARGO_TARGET_{}_RUSTFLAGS", triple.to_uppercase().replace('-', "_"));
    cargo.env(key, "-C relocation-model=static -C target-feature=+crt-static").args(["-p", "beadle-shim"]);
    finish(cargo, "the shim")?;
    let path = target.join(&triple).join("shim").join("beadle-shim");
    fs::copy(&path, out.join("beadle-shim")).map_err(|e| format!("copying {}: {e}", path.display()))?;
    Ok(())
}

/// A cargo for one target and profile that knows nothing of the build around it.
fn nested_cargo(root: &Path, target_dir: &Path, triple: &str, profile: &str) -> Result<Command> {
    let mut cargo = Command::new(var("CARGO")?);
    for (key, _) in env::vars_os() {
        let Some(name) = key.to_str() else { continue };
        // What says where crates come from, and which linker a target needs, stays; all else that cargo or its caller
        // set is about the outer build.
        let stays = ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"]
            .iter()
            .any(|p| name.starts_with(p))
            || name.ends_with("_LINKER");
        let outer = name.starts_with("CARGO")
            || name.starts_with("RUSTC_")
            || name.starts_with("DEP_")
            || ["RUSTFLAGS", "RUSTDOCFLAGS", "MAKEFLAGS", "MFLAGS", "OUT_DIR", "TARGET", "HOST", "PROFILE", "DEBUG"].contains(&name)
            || ["OPT_LEVEL", "NUM_JOBS", "CLIPPY_ARGS", "CLIPPY_CONF_DIR", "__CARGO_DEFAULT_LIB_METADATA"].contains(&name);
        if outer && !stays {
            cargo.env_remove(&key);
        }
    }
    cargo
        .current_dir(root)
        .args(["build", "--quiet", "--profile", profile, "--target", triple])
        .arg("--target-dir")
        .arg(target_dir)
        .args(["--jobs", &var("NUM_JOBS")?])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if root.join("Cargo.lock").exists() {
        cargo.arg("--locked");
    }
    Ok(cargo)
}

fn finish(mut cargo: Command, what: &str) -> Result<()> {
    let status = cargo.status().map_err(|e| format!("starting cargo for {what}: {e}"))?;
    if !status.success() {
        return Err(format!("building {what} failed ({status}); cargo's own errors are in the output above").into());
    }
    Ok(())
}

/// Whether the compiler in use has a standard library for the target.
fn has_target(triple: &str) -> Result<bool> {
    let out = Command::new(var("RUSTC")?)
        .args(["--print", "target-libdir", "--target", triple])
        .output()
        .map_err(|e| format!("asking rustc for its folder of {triple}: {e}"))?;
    let dir = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
    let Ok(entries) = fs::read_dir(dir) else { return Ok(false) };
    Ok(entries.flatten().any(|e| e.file_name().to_string_lossy().starts_with("libstd-")))
}

/// Adds a target through rustup, where there is one; whether the compiler has it afterwards.
fn add_target(triple: &str) -> Result<bool> {
    let added = Command::new("rustup").args(["target", "add", triple]).stdout(Stdio::null()).status();
    Ok(added.is_ok_and(|s| s.success()) && has_target(triple)?)
}

/// The outer target folder: the nearest one above `OUT_DIR` that cargo marked as a cache. Cargo marks only a folder that it made itself, so where
/// something else made it first: the one that holds the profile's folder, in which `build` lies.
fn target_dir(out: &Path) -> PathBuf {
    let marked = out.ancestors().find(|d| d.join("CACHEDIR.TAG").exists());
    let by_name = || out.ancestors().find(|d| d.file_name().is_some_and(|n| n == "build"))?.ancestors().nth(2);
    marked.or_else(by_name).unwrap_or(out).to_owned()
}

fn var(name: &str) -> Result<String> {
    // Values are read at run time: `rerun-if-env-changed` is not needed for what cargo itself sets.
    env::var(name).map_err(|e| format!("{name}: {e}; this script is run by cargo").into())
}
