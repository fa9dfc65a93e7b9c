//! The house rules that a machine can check: imports go one way, files stay small, nothing half-done lands.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of code a file may have, its tests not counted.
const CEILING: usize = 500;

/// Which module may use which; a path names a narrower room with rights of its own.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("wire", &[]),
    ("config", &["model"]),
    ("store", &["model"]),
    ("process", &["model", "wire"]),
    ("shell", &["model", "whole"]),
    ("agent", &["model"]),
    ("private", &[]),
    ("whole", &[]),
    ("tls", &[]),
    ("plugin", &["model", "tls", "whole"]),
    ("metrics", &["model"]),
    ("compaction", &["model"]),
    ("registry", &["model"]),
    ("gateway", &["model", "store"]),
    ("demo", &[]),
    ("policy", &["model", "shell", "agent", "plugin", "config", "registry"]),
    (
        "session",
        &[
            "model",
            "metrics",
            "store",
            "process",
            "agent",
            "shell",
            "policy",
            "plugin",
            "config",
            "registry",
            "compaction",
            "private",
            "whole",
        ],
    ),
    // why not `session`: who may loosen something is judged before any session is asked.
    ("operator", &["model", "store", "process", "config"]),
    // why not `session`: it is handed what changes, and can hold nothing up.
    ("outbound", &["tls", "private"]),
    ("notify", &["model", "config", "outbound"]),
    // why not `store`: what it looks up comes through a trait of its own.
    ("otlp", &["model"]),
    // why not `session`: what waits for a sink asks it through a trait of `model`.
    ("sink", &["model", "store", "plugin", "config", "metrics", "outbound", "otlp", "private"]),
    ("api", &["model", "metrics", "session", "store", "config", "process", "operator", "notify", "registry", "sink", "whole"]),
    ("api/types", &["model"]),
    ("api/client", &["model", "config"]),
    ("cli", &["model", "config", "api"]),
    // why: the passphrase becomes a key, and the key signs, in the caller's own process.
    ("cli/confirm", &["model", "config", "api", "operator"]),
    ("cli/operator", &["model", "config", "api", "operator"]),
    ("cli/hook", &["model", "config", "api", "agent"]),
    ("cli/mcp", &["model", "config", "api", "agent"]),
    // why `process`: a daemon that was stopped has let go of its folder only when its process has ended.
    ("cli/host", &["model", "config", "api", "process"]),
    // why `agent`: its readers count what a transcript says was used.
    ("cli/import", &["model", "config", "api", "agent"]),
    ("cli/schema", &["model", "config", "api", "plugin"]),
    ("cli/policy", &["model", "config", "api", "policy", "plugin", "agent"]),
    // why `policy` and `compaction`: a case is judged as a session would, call record and laws of plans and all.
    ("cli/plugin", &["model", "config", "api", "policy", "plugin", "agent", "compaction"]),
    ("cli/compact", &["model", "config", "api", "compaction", "plugin", "agent"]),
    ("cli/doctor", &["model", "config", "api", "gateway", "agent", "plugin"]),
    ("cli/demo", &["model", "config", "api", "gateway", "demo"]),
    ("cli/model", &["model", "config", "api", "gateway"]),
    ("cli/daemon", &["model", "config", "api", "daemon"]),
    ("cli/restore", &["model", "config", "api", "daemon"]),
    ("cli/upgrade", &["model", "config", "api", "daemon"]),
    ("daemon", &["*"]),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for e in entries.flatten() {
        let path = e.path();
        if path.is_dir() {
            if e.file_name() != "target" {
                rust_files(&path, out);
            }
        } else if path.extension().is_some_and(|x| x == "rs") {
            out.push(path);
        }
    }
}

fn files(dirs: &[&str]) -> Vec<(String, String)> {
    let mut paths = Vec::new();
    for d in dirs {
        rust_files(&root().join(d), &mut paths);
    }
    paths.sort();
    let name = |p: &Path| p.strip_prefix(root()).unwrap_or(p).display().to_string();
    paths.iter().map(|p| (name(p), fs::read_to_string(p).unwrap_or_default())).collect()
}

/// The part of a file before its own tests.
fn code(text: &str) -> &str {
    text.find("#[cfg(test)]").map_or(text, |i| &text[..i])
}

/// The narrowest entry of the table that covers a file under `src`.
fn room(file: &str) -> Option<&'static (&'static str, &'static [&'static str])> {
    let path = file.strip_prefix("src/")?.trim_end_matches(".rs");
    MAY_IMPORT.iter().filter(|(room, _)| path == *room || path.starts_with(&format!("{room}/"))).max_by_key(|(room, _)| room.len())
}

fn imports(code: &str) -> Vec<String> {
    let mut out = Vec::new();
    for line in code.lines().filter(|l| !l.trim_start().starts_with("//")) {
        for (i, _) in line.match_indices("crate::") {
            let rest = &line[i + "crate::".len()..];
            if let Some(list) = rest.strip_prefix('{') {
                let list = list.split('}').next().unwrap_or("");
                out.extend(list.split(',').map(|m| m.trim().split("::").next().unwrap_or("").to_owned()));
            } else {
                out.push(rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or("").to_owned());
            }
        }
    }
    out.retain(|m| !m.is_empty());
    out
}

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for (file, text) in files(&["src"]) {
        let Some((room, may)) = room(&file) else { continue };
        let own = room.split('/').next().unwrap_or(room);
        for module in imports(code(&text)) {
            let known = MAY_IMPORT.iter().any(|(m, _)| *m == module);
            if known && module != own && !may.contains(&"*") && !may.contains(&module.as_str()) {
                wrong.push(format!("{file} uses {module}"));
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "imports against the table:\n{}", wrong.join("\n"));
}

#[test]
fn every_module_of_the_house_is_in_the_table() {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap_or_default();
    for line in text.lines().filter_map(|l| l.strip_prefix("pub mod ")) {
        let module = line.trim_end_matches(';');
        assert!(MAY_IMPORT.iter().any(|(m, _)| *m == module), "{module} is not in the table of imports");
    }
}

#[test]
fn only_the_plugin_module_names_the_wasm_engine() {
    let found: Vec<String> = files(&["src"])
        .into_iter()
        .filter(|(f, t)| {
            !f.starts_with("src/plugin/") && code(t).lines().any(|l| !l.trim_start().starts_with("//") && l.contains("wasmtime"))
        })
        .map(|(f, _)| f)
        .collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn files_stay_small() {
    let mut large = BTreeMap::new();
    for (file, text) in files(&["src", "shim/src", "plugins", "examples"]) {
        // What a program wrote is not read by people; a test holds it to its source.
        if file.ends_with("/tests.rs") || file.contains("/tests/") || text.starts_with("// @generated") {
            continue;
        }
        let lines = code(&text).lines().count();
        if lines > CEILING {
            large.insert(file, lines);
        }
    }
    assert!(large.is_empty(), "over {CEILING} lines of code: {large:#?}");
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent: Vec<String> = files(&["src", "shim/src"])
        .into_iter()
        .filter(|(f, t)| !f.ends_with("/tests.rs") && !t.starts_with("//!"))
        .map(|(f, _)| f)
        .collect();
    assert!(silent.is_empty(), "no `//!` at the top of {silent:?}");
}

#[test]
fn nothing_half_done() {
    let marks = ["todo!(", "unimplemented!(", "#[ignore", "dbg!("];
    let mut found = Vec::new();
    for (file, text) in files(&["src", "shim/src", "plugins", "examples", "tests", "benches"]) {
        if file == "tests/it/tidy.rs" {
            continue;
        }
        for mark in marks {
            if text.contains(mark) {
                found.push(format!("{file}: {mark}"));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn error_codes_are_unique() {
    let mut owners: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, text) in files(&["src"]) {
        for (i, _) in code(&text).match_indices("=> \"BDL-") {
            let code: String = text[i + 4..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            owners.entry(code).or_default().push(file.clone());
        }
    }
    owners.retain(|_, files| files.len() > 1);
    assert!(owners.is_empty(), "codes given twice: {owners:#?}");
    assert!(!files(&["src"]).is_empty());
}

/// The README's threat model names a test for each attack, as `module::name`.
#[test]
fn the_threat_model_names_tests_that_exist() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("the README");
    let model = readme.split("## Threat model").nth(1).expect("its threat model").split("\n## ").next().unwrap_or_default();
    let tests: Vec<(String, String)> = files(&["tests/it"]);
    let mut named = 0;
    for row in model.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| attack") && !l.starts_with("| ---")) {
        let cited: Vec<&str> = row.rsplit(" | ").next().unwrap_or_default().split('`').filter(|t| t.contains("::")).collect();
        assert!(!cited.is_empty(), "no test stands in {row}");
        for test in cited {
            let (module, name) = test.split_once("::").unwrap_or_default();
            let is_there = tests.iter().any(|(file, text)| {
                (file == &format!("tests/it/{module}.rs") || file.starts_with(&format!("tests/it/{module}/")))
                    && text.contains(&format!("fn {name}("))
            });
            assert!(is_there, "the README names {test}, which is not there");
            named += 1;
        }
    }
    assert!(named > 20, "{named}");
}
