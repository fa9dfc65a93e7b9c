//! The plugin contract: what is in `wit/` must run everything that was built against its golden copy.
//!
//! A compatible change (a new import, a new optional interface) passes; the golden copy is renewed when a version is released.

use std::path::{Path, PathBuf};

use wit_component::semver_check;
use wit_parser::Resolve;

const WORLDS: [&str; 3] = ["permission-policy", "compaction-strategy", "audit-sink"];
const CAPABILITIES: [&str; 7] = ["kv", "clock", "random", "env", "secret", "fs", "http"];
const MOMENTS: [&str; 4] = ["judge-session", "judge-prompt", "judge-result", "judge-attempt"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A copy of `dir` with a world for each optional moment, so that those are compared too. Its package has this version: two of them
/// stand in one resolve.
fn copied(dir: &Path, version: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for e in std::fs::read_dir(dir).expect("the contract").flatten() {
        let text = std::fs::read_to_string(e.path()).expect("text");
        std::fs::write(copy.path().join(e.file_name()), text.replace("beadle:plugin@0.1.0", &format!("beadle:plugin@{version}")))
            .expect("written");
    }
    let worlds: String = MOMENTS.iter().map(|m| format!("world {m}-moment {{ export {m}; }}\n")).collect();
    let imports: String = CAPABILITIES.iter().map(|c| format!("world {c}-capability {{ import {c}; }}\n")).collect();
    std::fs::write(copy.path().join("moments.wit"), worlds + &imports).expect("written");
    copy
}

fn renumbered(dir: &Path) -> tempfile::TempDir {
    copied(dir, "0.1.999")
}

fn check(new: &Path) -> Result<(), String> {
    let mut resolve = Resolve::default();
    let golden = copied(&root().join("tests/golden/wit/v0.1"), "0.1.0");
    let (old, _) = resolve.push_dir(golden.path()).map_err(|e| e.to_string())?;
    let (new, _) = resolve.push_dir(new).map_err(|e| e.to_string())?;
    let moments = MOMENTS.map(|m| format!("{m}-moment"));
    let capabilities = CAPABILITIES.map(|c| format!("{c}-capability"));
    for world in WORLDS.into_iter().chain(moments.iter().chain(&capabilities).map(String::as_str)) {
        let old = resolve.select_world(&[old], Some(world)).map_err(|e| e.to_string())?;
        let new = resolve.select_world(&[new], Some(world)).map_err(|e| e.to_string())?;
        semver_check(resolve.clone(), old, new).map_err(|e| format!("{world}: {e:#}"))?;
    }
    Ok(())
}

#[test]
fn the_contract_is_compatible_with_its_golden_copy() {
    let new = renumbered(&root().join("wit/v0.1"));
    assert_eq!(check(new.path()), Ok(()));
}

#[test]
fn a_record_or_variant_that_grows_is_noticed() {
    for (file, from, to) in [
        ("types.wit", "record want {", "record want { since: u32, "),
        ("judge-session.wit", "record answer {", "record answer { since: u32, "),
        ("judge-attempt.wit", "        accept,", "        accept, applaud,"),
        ("transcript.wit", "record entry {", "record entry { colour: u32, "),
        ("http.wit", "record response {", "record response { age: u32, "),
        ("kv.wit", "variant error {", "variant error { gone, "),
        ("audit.wit", "record event {", "record event { colour: u32, "),
    ] {
        let new = renumbered(&root().join("wit/v0.1"));
        let path = new.path().join(file);
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(text.contains(from), "{file} has {from:?}");
        std::fs::write(&path, text.replace(from, to)).expect("written");
        assert!(check(new.path()).is_err(), "{file}");
    }
}
