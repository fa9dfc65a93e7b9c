//! The plugin contract: what is in `wit/` must run everything that was built against its golden copy.
//!
//! A compatible change (a new import, a new optional interface) passes; the golden copy is renewed when a version is released.

use std::path::{Path, PathBuf};

use wit_component::semver_check;
use wit_parser::Resolve;

const WORLDS: [&str; 1] = ["permission-policy"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A copy of `dir` whose package has another patch version, so that both stand in one resolve.
fn renumbered(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for e in std::fs::read_dir(dir).expect("the contract").flatten() {
        let text = std::fs::read_to_string(e.path()).expect("text");
        std::fs::write(copy.path().join(e.file_name()), text.replace("beadle:plugin@0.1.0", "beadle:plugin@0.1.999")).expect("written");
    }
    copy
}

fn check(new: &Path) -> Result<(), String> {
    let mut resolve = Resolve::default();
    let (old, _) = resolve.push_dir(root().join("tests/golden/wit/v0.1")).map_err(|e| e.to_string())?;
    let (new, _) = resolve.push_dir(new).map_err(|e| e.to_string())?;
    for world in WORLDS {
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
fn a_record_that_grows_is_noticed() {
    let new = renumbered(&root().join("wit/v0.1"));
    let types = new.path().join("types.wit");
    let text = std::fs::read_to_string(&types).expect("text");
    std::fs::write(&types, text.replace("record want {", "record want { since: u32, ")).expect("written");
    assert!(check(new.path()).is_err());
}
