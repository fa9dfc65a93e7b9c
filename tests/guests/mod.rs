//! Builds guests that `build.rs` does not: plugins of this workspace as components that import WASI.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds a plugin of this workspace for `wasm32-wasip2`, which gives a component that imports WASI.
pub fn wasi(package: &str) -> Vec<u8> {
    const TARGET: &str = "wasm32-wasip2";
    let root = root();
    let dir = target_dir().join("guests-wasi");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = || {
        let mut c = Command::new(&cargo);
        for (key, _) in std::env::vars_os() {
            let name = key.to_string_lossy();
            if name.contains("RUSTFLAGS") || name.starts_with("RUSTC") || name.starts_with("CARGO_PROFILE") {
                c.env_remove(&key);
            }
        }
        c.current_dir(root).args(["build", "--quiet", "--profile", "guest", "--target", TARGET, "-p", package]);
        c.arg("--target-dir").arg(&dir).output().expect("cargo starts")
    };
    let mut out = build();
    if !out.status.success() {
        // A machine that never built for WASI: add the target and try once more.
        let _ = Command::new("rustup").args(["target", "add", TARGET]).output();
        out = build();
    }
    assert!(
        out.status.success(),
        "building {package} for {TARGET} failed (try `rustup target add {TARGET}`):\n{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let file = format!("{}.wasm", package.replace('-', "_"));
    std::fs::read(dir.join(TARGET).join("guest").join(file)).expect("cargo made the component")
}

/// The workspace, outermost of all: this file is part of the tests and of the benches.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().filter(|d| d.join("Cargo.lock").exists()).last().unwrap_or(here)
}

/// The target folder that this binary lies in.
fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("a running binary has a path");
    exe.ancestors().find(|d| d.join("CACHEDIR.TAG").exists()).map_or_else(|| root().join("target"), Path::to_owned)
}
