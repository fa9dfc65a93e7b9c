//! The bindings under `src/bindings` are what the generator makes of the contract: nobody edits them, and nobody who builds a plugin has
//! to build the generator, which takes longer than all the rest.
//!
//! `BEADLE_WRITE_BINDINGS=1 cargo test -p beadle-plugin --test bindings` writes them anew.

use std::path::{Path, PathBuf};

use wit_bindgen_core::{Files, WorldGenerator, wit_parser::Resolve};
use wit_bindgen_rust::{Opts, WithOption};

const HEAD: &str = "// @generated from wit/v0.1 by tests/bindings.rs; do not edit.\n";

/// One module: its file, its world (of the contract, or written here), the macro that exports it, and what it takes from the others.
struct Module {
    file: &'static str,
    inline: Option<String>,
    world: &'static str,
    export: Option<&'static str>,
    with: &'static [&'static str],
    comparable: bool,
}

fn modules() -> Vec<Module> {
    const TYPES: &[&str] = &["types"];
    const TYPES_AND_LOG: &[&str] = &["types", "log"];
    let base = |file, world, export, with, comparable| Module { file, inline: None, world, export: Some(export), with, comparable };
    let moment = |file, name: &str, world, export| {
        let inline = format!("package beadle:sdk; world {name}-moment {{ export beadle:plugin/{name}@0.1.0; }}");
        Module { inline: Some(inline), ..base(file, world, export, TYPES, true) }
    };
    let capabilities = ["kv", "clock", "random", "env", "secret", "fs", "http"].map(|c| format!("import beadle:plugin/{c}@0.1.0;"));
    vec![
        base("policy", "permission-policy", "export_permission_policy", &[], true),
        Module {
            file: "capabilities",
            inline: Some(format!("package beadle:sdk; world capabilities {{ {} }}", capabilities.concat())),
            world: "beadle:sdk/capabilities",
            export: None,
            with: &[],
            comparable: true,
        },
        moment("judge_session", "judge-session", "beadle:sdk/judge-session-moment", "export_judge_session"),
        moment("judge_prompt", "judge-prompt", "beadle:sdk/judge-prompt-moment", "export_judge_prompt"),
        moment("judge_result", "judge-result", "beadle:sdk/judge-result-moment", "export_judge_result"),
        moment("judge_attempt", "judge-attempt", "beadle:sdk/judge-attempt-moment", "export_judge_attempt"),
        base("strategy", "compaction-strategy", "export_strategy", TYPES_AND_LOG, false),
        base("sink", "audit-sink", "export_sink", TYPES_AND_LOG, false),
    ]
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn generated(m: &Module) -> String {
    let mut resolve = Resolve::default();
    let (contract, _) = resolve.push_path(root().join("../../wit/v0.1")).expect("the contract");
    let package = m.inline.as_ref().map_or(contract, |text| resolve.push_str("inline", text).expect("a world"));
    let world = resolve.select_world(&[package], Some(m.world)).expect("the world");
    let path = |i: &&str| (format!("beadle:plugin/{i}@0.1.0"), WithOption::Path(format!("crate::bindings::policy::beadle::plugin::{i}")));
    let opts = Opts {
        format: true,
        pub_export_macro: m.export.is_some(),
        export_macro_name: m.export.map(str::to_owned),
        generate_all: m.inline.is_some() && m.export.is_none(),
        additional_derive_attributes: if m.comparable { vec!["PartialEq".into(), "Eq".into()] } else { vec![] },
        with: m.with.iter().map(path).collect(),
        ..Opts::default()
    };
    let mut files = Files::default();
    opts.build().generate(&mut resolve, world, &mut files).expect("it generates");
    let (_, text) = files.iter().next().expect("one file");
    format!("{HEAD}{}", String::from_utf8(text.to_vec()).expect("text"))
}

#[test]
fn the_bindings_are_what_the_contract_makes() {
    let write = std::env::var_os("BEADLE_WRITE_BINDINGS").is_some();
    for m in modules() {
        let path = root().join(format!("src/bindings/{}.rs", m.file));
        let text = generated(&m);
        if write {
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(&path, &text).expect("written");
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(there == text, "{} is not what wit/v0.1 makes; run the test with BEADLE_WRITE_BINDINGS=1", path.display());
    }
}
