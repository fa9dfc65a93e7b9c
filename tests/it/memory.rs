//! Memory through the real binary: kept over sessions, found by words, capped, masked, erased with the log, and in backups.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Model, TestHost, rules};

const HUSH: &str = "hush9zebra";

fn add(host: &TestHost, args: &[&str]) -> Value {
    host.beadle([&["--json", "memory", "add"], args].concat()).ok().json()
}

fn texts(host: &TestHost, args: &[&str]) -> Vec<String> {
    let said = host.beadle([&["--json", "memory"], args].concat());
    assert!(said.code <= 1, "{said:?}");
    said.lines().iter().map(|m| m["text"].as_str().expect("a text").to_owned()).collect()
}

fn demo(host: &mut TestHost, name: &str, more: &[&str]) -> String {
    host.config(&rules(&[], &[], &[]));
    let model = Model::start(&json!({ "steps": [{ "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[&["--name", name], more].concat());
    host.ended(&id);
    id
}

fn holds(dir: &Path, text: &str) -> Vec<std::path::PathBuf> {
    let mut out = Vec::new();
    for f in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if f.path().is_dir() {
            out.extend(holds(&f.path(), text));
        } else if std::fs::read(f.path()).unwrap_or_default().windows(text.len()).any(|w| w.eq_ignore_ascii_case(text.as_bytes())) {
            out.push(f.path());
        }
    }
    out
}

#[test]
fn what_is_kept_is_found_by_its_words_best_first_in_its_namespace() {
    let host = TestHost::new();
    let port = add(&host, &["the gate listens on port 8080", "--tag", "net"]);
    assert_eq!((&port["tier"], &port["tags"]), (&json!("long-term"), &json!(["net"])), "{port}");
    assert_eq!(port["namespace"], json!(host.work().canonicalize().expect("a folder")), "{port}");
    add(&host, &["ports of the harbour", "--tier", "working"]);
    add(&host, &["port port port, nothing but port"]);
    add(&host, &["another project's port", "-N", "other"]);
    let found = texts(&host, &["search", "which", "port", "does", "the", "gate", "use"]);
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(found[0], "the gate listens on port 8080");
    assert_eq!(texts(&host, &["search", "port", "--tag", "net"]), ["the gate listens on port 8080"]);
    assert_eq!(texts(&host, &["search", "port", "--tier", "working"]), ["ports of the harbour"]);
    assert_eq!(texts(&host, &["search", "port", "-N", "other"]), ["another project's port"]);
    assert_eq!(texts(&host, &["ls", "--all"]).len(), 4);
    assert_eq!(texts(&host, &["ls", "--all", "-l", "1"]).len(), 1);
    // What stands in a query is looked for, and is no language.
    for query in
        ["\"", "port\" OR \"x", "port*", "NEAR(port gate)", "text: port", "^port - 8080", "') OR 1=1 --", "port AND", "(", "\u{0}port"]
    {
        let query = query.replace('\0', " ");
        let said = host.beadle(["--json", "memory", "search", "--", &query]);
        assert!(said.code <= 1 && said.err.is_empty(), "{query}: {said:?}");
    }
    assert_eq!(host.beadle(["memory", "search", "nowhere"]).code, 1);
    let id = port["id"].as_str().expect("an id");
    assert_eq!(host.beadle(["memory", "rm", id]).ok().out, format!("removed {id}\n"));
    let said = host.beadle(["memory", "rm", id]);
    assert!(said.code == 3 && said.err.contains("BDL-MEMORY-004"), "{said:?}");
    assert_eq!(texts(&host, &["search", "8080"]), [""; 0]);
    // A repository is one namespace, wherever in it one stands.
    std::fs::create_dir_all(host.work().join(".git")).expect("a folder");
    let below = host.file("deep/er/x", "");
    let said = host.command(["--json", "memory", "add", "from below"]).current_dir(below.parent().expect("a folder")).output();
    assert!(said.is_ok_and(|o| o.status.success()));
    assert_eq!(texts(&host, &["search", "below"]), ["from below"]);
    // All of it after a restart, by another daemon.
    host.kill_daemon();
    assert_eq!(texts(&host, &["search", "harbour"]), ["ports of the harbour"]);
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn caps_and_shapes_are_told() {
    let host = TestHost::new();
    let long = "x".repeat(32_769);
    for (args, says) in [
        (vec![&*long], "over the limit of 32768"),
        (vec![" "], "the text is empty"),
        (vec!["a\u{1b}[2J"], "no terminal can show"),
        (vec!["x", "-N", ""], "the namespace is empty"),
        (vec!["x", "--tag", ""], "a tag is empty"),
        (vec!["x", "--tier", "session"], "needs a session"),
    ] {
        let said = host.beadle([vec!["memory", "add"], args].concat());
        assert!(said.code == 2 || said.code == 1, "{said:?}");
        assert!(said.err.contains(says) && said.err.contains("BDL-"), "{says}: {said:?}");
    }
    assert_eq!(texts(&host, &["ls", "--all"]), [""; 0]);
    assert_eq!(host.beadle(["memory", "add", "x", "--tier", "forever"]).code, 2);
}

#[test]
fn an_entry_of_a_session_is_an_event_of_it_and_outlives_it() {
    let mut host = TestHost::new();
    let id = demo(&mut host, "first", &[]);
    let key = format!("sk-ant-{}", "a1".repeat(20));
    let kept = add(&host, &[&format!("the key is {key}, the colour is teal"), "--session", "first"]);
    let own = add(&host, &["only mine", "--session", "first", "--tier", "session"]);
    assert_eq!((kept["session"].as_str(), own["tier"].as_str()), (Some(&*id), Some("session")));
    let events = host.events_of(&id, "memory_added");
    assert_eq!(events.len(), 2, "{events:#?}");
    assert_eq!(events[0]["body"]["id"], kept["id"]);
    assert!(!events[0].to_string().contains(&key) && !kept.to_string().contains(&key), "{kept}");
    assert!(kept["text"].as_str().expect("a text").ends_with("[secret masked], the colour is teal"), "{kept}");
    // Of another tenant: kept apart.
    let other = demo(&mut host, "second", &["--tenant", "acme"]);
    let kept = add(&host, &["acme's own", "--session", &other]);
    assert!(kept["namespace"].as_str().expect("a namespace").starts_with("acme: /"), "{kept}");
    assert_eq!(texts(&host, &["search", "own", "colour"]).len(), 1);
    host.beadle(["rm", &id]).ok();
    assert_eq!(texts(&host, &["search", "colour", "mine"]).len(), 1, "what was that session's only goes with it, the rest stays");
    assert!(host.beadle(["--json", "verify"]).ok().json()["ok"] == true);
}

#[test]
fn what_is_erased_is_in_no_file_and_what_is_backed_up_comes_back() {
    let mut host = TestHost::new();
    let id = demo(&mut host, "first", &[]);
    let whole = add(&host, &[HUSH, "--session", &id]);
    add(&host, &[&format!("the word is {HUSH} and the colour teal"), "--session", &id]);
    add(&host, &[&format!("a person wrote {HUSH} too"), "--tag", HUSH]);
    add(&host, &["by its event: magenta", "--session", &id]);
    let copy = host.beadle_home().join("copy");
    host.beadle(["host", "backup", copy.to_str().expect("text")]).ok();
    assert!(!holds(&copy, HUSH).is_empty(), "a backup has memory");
    assert!(!holds(&host.data(), HUSH).is_empty());
    let last = host.events(&id).last().expect("an event")["seq"].to_string();
    host.beadle(["redact", &id, &last]).ok();
    assert_eq!(texts(&host, &["search", "magenta"]), [""; 0], "an entry goes with the event that made it");
    let doc = host.beadle(["--json", "redact", &id, "--pattern", HUSH]).ok().json();
    assert!(doc["memories"].as_u64().is_some_and(|n| n >= 1) && doc["scrubbed"] == true, "{doc:#}");
    let left: Vec<String> = texts(&host, &["ls", "--all"]);
    assert_eq!(left, ["a person wrote [erased] too", "the word is [erased] and the colour teal"], "{whole}");
    assert_eq!(texts(&host, &["search", HUSH]), [""; 0]);
    assert_eq!(texts(&host, &["search", "teal"]).len(), 1);
    host.beadle(["host", "stop"]).ok();
    assert_eq!(holds(&host.data(), HUSH), Vec::<std::path::PathBuf>::new());
    host.beadle(["host", "restore", copy.to_str().expect("text"), "--replace"]).ok();
    assert_eq!(texts(&host, &["search", HUSH]).len(), 3);
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}
