//! The life of an installed plugin, as an operator lives it: from the real binary, on sessions that run.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Model, Terminal, TestHost, bash, rules, until};

pub const ALLOWS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/life_allows.wasm"));
pub const DENIES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/life_denies.wasm"));
const WANTS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/life_wants.wasm"));
const TRAPS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/life_traps.wasm"));

fn put(host: &TestHost, name: &str, wasm: &[u8]) -> String {
    let path = host.home().join(name);
    std::fs::write(&path, wasm).expect("a component");
    path.display().to_string()
}

fn digest(wasm: &[u8]) -> String {
    blake3::hash(wasm).to_hex().to_string()
}

fn lock(host: &TestHost) -> String {
    std::fs::read_to_string(host.data().join("plugins.lock")).unwrap_or_default()
}

/// The decisions of one session that plays these commands.
fn effects(host: &mut TestHost, commands: &[&str]) -> Vec<String> {
    let mut steps: Vec<Value> = commands.iter().map(|c| bash(c)).collect();
    steps.push(json!({ "text": "done" }));
    let model = Model::start(&json!({ "steps": steps }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    let decided = host.events_of(&id, "tool_decided");
    decided.iter().map(|e| e["body"]["effect"].as_str().unwrap_or_default().to_owned()).collect()
}

/// A host whose own rules leave everything to be asked, and where nobody answers.
fn host() -> TestHost {
    let host = TestHost::new();
    host.config(&format!("approvals.unattended = \"deny\"\n{}", rules(&[], &[], &["Bash(rm:*)"])));
    host
}

#[test]
fn an_installed_policy_is_in_force_until_it_is_disabled_or_removed() {
    let mut host = host();
    let file = put(&host, "p.wasm", ALLOWS);
    assert_eq!(effects(&mut host, &["touch a"]), ["deny"], "nothing allows it");
    let said = host.beadle(["plugin", "add", &file]);
    assert!(
        said.code == 2 && said.err.contains("lively 0.1.0") && said.err.contains(&digest(ALLOWS)) && said.err.contains("--yes"),
        "{said:?}"
    );
    assert!(host.beadle(["plugin", "ls"]).ok().err.contains("no plugin is installed"));
    let doc = host.beadle(["--json", "plugin", "add", &file, "--yes", "--deadline-ms", "10000"]).ok().json();
    assert_eq!((&doc["name"], &doc["enabled"], &doc["digest"]), (&json!("lively"), &json!(true), &json!(digest(ALLOWS))));
    // What was read is what is installed.
    std::fs::remove_file(&file).expect("removed");
    assert_eq!(effects(&mut host, &["touch a", "rm a"]), ["allow", "deny"], "it allows, and another's deny is stricter");
    let text = lock(&host);
    for part in ["name = \"lively\"", "version = \"0.1.0\"", "kind = \"permission-policy\"", "enabled = true", &digest(ALLOWS)] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let again = put(&host, "again.wasm", ALLOWS);
    let said = host.beadle(["plugin", "add", &again, "--yes"]);
    assert!(said.code == 1 && said.err.contains("BDL-REGISTRY-005"), "{said:?}");
    host.beadle(["plugin", "disable", "lively"]).ok();
    assert_eq!(effects(&mut host, &["touch b"]), ["deny"]);
    let shown = host.beadle(["plugin", "ls"]).ok().out;
    assert!(shown.contains("lively") && shown.contains("disabled"), "{shown}");
    // Another daemon has the same.
    host.kill_daemon();
    host.beadle(["plugin", "enable", "lively"]).ok();
    assert_eq!(effects(&mut host, &["touch b"]), ["allow"]);
    assert_eq!(host.beadle(["-q", "plugin", "ls"]).ok().out, "lively\n");
    let explained = host.beadle(["policy", "explain", "-c", "touch c"]);
    assert_eq!(explained.code, 0, "the verbs without a daemon read the lock file: {explained:?}");
    host.beadle(["plugin", "rm", "lively"]).ok();
    assert_eq!(effects(&mut host, &["touch c"]), ["deny"]);
    assert!(!lock(&host).contains("lively"));
    let said = host.beadle(["plugin", "rm", "lively"]);
    assert!(said.code == 3 && said.err.contains("BDL-REGISTRY-004"), "{said:?}");
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true, "each act stands in the host chain");
}

#[test]
fn the_operator_sets_how_it_is_asked_here_or_in_the_configuration() {
    let mut host = host();
    let file = put(&host, "p.wasm", DENIES);
    host.beadle(["plugin", "add", &file, "--yes", "--as", "strict", "--mode", "monitor", "--deadline-ms", "10000"]).ok();
    let base = format!("approvals.unattended = \"deny\"\n{}", rules(&["Bash(touch:*)"], &[], &[]));
    host.config(&base);
    assert_eq!(effects(&mut host, &["touch a"]), ["allow"], "it is only heard");
    host.beadle(["plugin", "set", "strict", "--mode", "enforce"]).ok();
    assert_eq!(effects(&mut host, &["touch a"]), ["deny"]);
    // The configuration names it: its settings count, and it is asked once.
    host.config(&format!("{base}\n[[policy]]\nname = \"mine\"\nplugin = \"installed:strict\"\nmode = \"monitor\"\ndeadline_ms = 10000\n"));
    assert_eq!(effects(&mut host, &["touch a"]), ["allow"]);
    let id = host.beadle(["--json", "ls"]).ok().lines()[0]["id"].as_str().expect("an id").to_owned();
    let answers = host.events_of(&id, "tool_decided")[0]["body"]["answers"].clone();
    let names: Vec<&str> = answers.as_array().into_iter().flatten().filter_map(|a| a["policy"].as_str()).collect();
    assert_eq!(names, ["rules", "mine"]);
    let said = host.beadle(["plugin", "set", "strict", "--config", r#"{"fail": true}"#]);
    assert!(said.code == 2 && said.err.contains("as configured"), "a configuration that it refuses is not taken: {said:?}");
    // One that is named and gone fails as its entry says.
    host.beadle(["plugin", "rm", "strict"]).ok();
    host.config(&format!("{base}\n[[policy]]\nname = \"mine\"\nplugin = \"installed:strict\"\n"));
    assert_eq!(effects(&mut host, &["touch a"]), ["deny"]);
    let said = host.beadle(["config", "check"]);
    assert!(said.code == 1 && said.err.contains("BDL-REGISTRY-004"), "{said:?}");
}

#[test]
fn a_component_that_is_not_what_it_is_pinned_to_is_not_loaded_and_denies() {
    let mut host = host();
    host.config(&rules(&["Bash(touch:*)"], &[], &[]));
    let file = put(&host, "p.wasm", ALLOWS);
    host.beadle(["plugin", "add", &file, "--yes", "--deadline-ms", "10000"]).ok();
    assert_eq!(effects(&mut host, &["touch a"]), ["allow"]);
    let pinned = host.data().join("plugins").join(format!("{}.wasm", digest(ALLOWS)));
    std::fs::write(&pinned, DENIES).expect("swapped");
    assert_eq!(effects(&mut host, &["touch a"]), ["deny"]);
    let id = host.beadle(["--json", "ls"]).ok().lines()[0]["id"].as_str().expect("an id").to_owned();
    let failed = host.events_of(&id, "plugin_failed");
    assert!(failed[0]["body"]["detail"].as_str().is_some_and(|d| d.contains("BDL-REGISTRY-002")), "{failed:?}");
    assert!(host.beadle(["plugin", "ls"]).ok().out.contains("damaged"));
    std::fs::remove_file(&pinned).expect("removed");
    assert_eq!(effects(&mut host, &["touch a"]), ["deny"]);
    // An edited lock file is put right by the next daemon, and refused by the verbs that work without one.
    let edited = lock(&host).replace("enabled = true", "enabled = false");
    std::fs::write(host.data().join("plugins.lock"), &edited).expect("edited");
    std::fs::write(&pinned, ALLOWS).expect("back");
    host.kill_daemon();
    assert_eq!(effects(&mut host, &["touch a"]), ["allow"]);
    assert!(lock(&host).contains("enabled = true"), "written anew");
    std::fs::write(host.data().join("plugins.lock"), "format = 9\n").expect("edited");
    let said = host.beadle(["policy", "explain", "-c", "touch a"]);
    assert!(said.code == 1 && said.out.contains("BDL-REGISTRY-003"), "fails closed: {said:?}");
}

#[test]
fn versions_are_upgraded_and_rolled_back_in_a_session_that_lives() {
    let mut host = host();
    let (one, two) = (put(&host, "1.wasm", ALLOWS), put(&host, "2.wasm", DENIES));
    host.beadle(["plugin", "add", &one, "--yes", "--deadline-ms", "10000"]).ok();
    // The agent waits between its calls until a file is there.
    let wait = |name: &str| bash(&format!("until test -e {}; do sleep 0.05; done", host.home().join(name).display()));
    let steps = [wait("a"), bash("touch b"), wait("c"), bash("touch d"), json!({ "text": "done" })];
    let model = Model::start(&json!({ "steps": steps }));
    let id = host.run_demo(&model, "go", &[]);
    let running = |n: usize| until("the call runs", || (host.events_of(&id, "tool_started").len() >= n).then_some(()));
    running(1);
    let said = host.beadle(["plugin", "upgrade", "lively", &two]);
    assert!(said.code == 2 && said.err.contains("0.2.0") && said.err.contains("--yes"), "{said:?}");
    host.beadle(["plugin", "upgrade", "lively", &two, "--yes"]).ok();
    std::fs::write(host.home().join("a"), "").expect("a file");
    host.ended(&id);
    let decided = host.events_of(&id, "tool_decided");
    let effects: Vec<&str> = decided.iter().filter_map(|e| e["body"]["effect"].as_str()).collect();
    assert_eq!(effects, ["allow", "deny", "deny", "deny"]);
    let replaced = &host.events_of(&id, "plugin_replaced")[0]["body"];
    assert_eq!((&replaced["old_digest"], &replaced["digest"]), (&json!(digest(ALLOWS)), &json!(digest(DENIES))));
    assert!(replaced["reason"].as_str().is_some_and(|r| r.contains("upgraded by operator")), "{replaced}");
    let said = host.beadle(["plugin", "upgrade", "lively", &two, "--yes"]);
    assert!(said.code == 2 && said.err.contains("already"), "{said:?}");
    host.beadle(["plugin", "rollback", "lively"]).ok();
    assert_eq!(self::effects(&mut host, &["touch a"]), ["allow"]);
    let said = host.beadle(["plugin", "rollback", "lively"]);
    assert!(said.code == 2 && said.err.contains("0.2.0"), "nothing is older, and it says what is kept: {said:?}");
    host.beadle(["plugin", "rollback", "lively", "--to", "0.2.0"]).ok();
    assert_eq!(self::effects(&mut host, &["touch a"]), ["deny"]);
    // Another component is no version of it.
    let other = put(&host, "o.wasm", beadle::plugin::standard::HELLO);
    let said = host.beadle(["plugin", "upgrade", "lively", &other, "--yes"]);
    assert!(said.code == 2 && said.err.contains("no version of"), "{said:?}");
    // One that does not load with the settings it would get takes nobody's place.
    host.beadle(["plugin", "rollback", "lively", "--to", "0.1.0"]).ok();
    host.beadle(["plugin", "set", "lively", "--config", r#"{"fail": 1}"#]).ok();
    let said = host.beadle(["plugin", "upgrade", "lively", &two, "--yes"]);
    assert!(said.code == 2 && said.err.contains("as configured"), "{said:?}");
    assert_eq!(self::effects(&mut host, &["touch a"]), ["allow"]);
}

#[test]
fn nothing_is_granted_but_by_its_word() {
    let host = host();
    let (one, three) = (put(&host, "1.wasm", ALLOWS), put(&host, "3.wasm", WANTS));
    host.beadle(["plugin", "add", &one, "--yes"]).ok();
    let said = host.beadle(["plugin", "grant", "lively", "kv"]);
    assert!(said.code == 2 && said.err.contains("does not ask for it"), "{said:?}");
    let said = host.beadle(["plugin", "upgrade", "lively", &three, "--yes"]).ok();
    assert!(said.err.contains("not granted: kv, fs:read:*"), "{said:?}");
    let grants = || host.beadle(["--json", "plugin", "ls", "lively"]).ok().json()["grants"].clone();
    assert_eq!(grants(), json!([]));
    host.beadle(["plugin", "grant", "lively", "kv", "fs:read:/tmp"]).ok();
    assert_eq!(grants(), json!(["kv", "fs:read:/tmp"]));
    assert!(lock(&host).contains("fs:read:/tmp"));
    for (bad, says) in [("tea", "is no capability"), ("fs:read:*", "names no object"), ("env:HOME", "does not ask for it")] {
        let said = host.beadle(["plugin", "grant", "lively", bad]);
        assert!(said.code == 2 && said.err.contains(says), "{said:?}");
    }
    host.beadle(["plugin", "revoke", "lively", "kv"]).ok();
    let said = host.beadle(["plugin", "revoke", "lively", "kv"]);
    assert!(said.code == 2 && said.err.contains("is not granted to plugin lively"), "{said:?}");
    // A version that asks for less has less, and the one after it does not get it back by itself.
    host.beadle(["plugin", "rollback", "lively"]).ok();
    assert_eq!(grants(), json!([]));
    host.beadle(["plugin", "rollback", "lively", "--to", "0.3.0"]).ok();
    assert_eq!(grants(), json!(["fs:read:/tmp"]), "the very version that was given it has it again, but for what was revoked");
}

#[test]
fn who_installs_at_a_terminal_is_asked_for_each_capability() {
    let host = host();
    let three = put(&host, "3.wasm", WANTS);
    let mut t = Terminal::sized(host.command(["plugin", "add", &three, "--as", "asked"]), 40, 200);
    t.wait_for("Install it as asked? y or n:");
    let screen = t.screen();
    for part in [
        "lively 0.3.0: Answers as its version says.",
        "permission-policy",
        &digest(WANTS),
        "kv: it counts calls",
        "fs:read:*: it reads a list",
    ] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    t.type_line("y");
    t.wait_for("Grant kv (it counts calls)? y or n:");
    t.type_line("n");
    t.wait_for("Type what to grant of it");
    t.type_line("fs:read:/tmp");
    let screen = t.finish();
    assert!(screen.contains("asked 0.3.0 is installed") && screen.contains("not granted: kv"), "{screen}");
    assert_eq!(host.beadle(["--json", "plugin", "ls", "asked"]).ok().json()["grants"], json!(["fs:read:/tmp"]));
    let mut t = Terminal::sized(host.command(["plugin", "add", &three, "--as", "no"]), 40, 200);
    t.wait_for("Install it as no? y or n:");
    t.type_line("n");
    assert!(t.finish().contains("not installed"));
    assert_eq!(host.beadle(["plugin", "ls", "no"]).code, 3);
}

#[test]
fn what_loosens_is_confirmed_and_a_session_may_do_none_of_it() {
    let mut host = host();
    let file = put(&host, "p.wasm", ALLOWS);
    let three = put(&host, "3.wasm", WANTS);
    host.beadle(["plugin", "add", &file, "--yes", "--deadline-ms", "10000"]).ok();
    host.beadle(["plugin", "add", &three, "--yes", "--as", "three", "--grant", "kv"]).ok();
    // The agent's own program tries each act.
    let exe = env!("CARGO_BIN_EXE_beadle");
    let out = host.home().join("out");
    let tries = |act: &str| bash(&format!("{exe} plugin {act} > {} 2>&1", out.display()));
    let acts = ["disable lively", "rm lively", "rollback lively", "grant three kv", "revoke three kv", "ls"];
    for act in acts {
        let model = Model::start(&json!({ "steps": [tries(act), { "text": "done" }] }));
        let id = host.run_demo(&model, "go", &["--env", &format!("BEADLE_HOME={}", host.beadle_home().display())]);
        host.ended(&id);
        let said = std::fs::read_to_string(&out).unwrap_or_default();
        assert!(said.contains("needs the role operator"), "{act}: {said} {:?}", host.events_of(&id, "tool_decided"));
    }
    // With a confirmation set, each but a revocation wants a terminal.
    let config = std::fs::read_to_string(host.beadle_home().join("config/beadle.toml")).expect("a file");
    host.config(&format!("operator.confirm = \"tty\"\n{config}"));
    host.kill_daemon();
    let upgrade = ["plugin", "upgrade", "lively", &three, "--yes"];
    let add = ["plugin", "add", &file, "--as", "x", "--yes"];
    let sets = [
        &["plugin", "disable", "lively"][..],
        &["plugin", "enable", "lively"],
        &["plugin", "rm", "lively"],
        &["plugin", "set", "lively", "--mode", "monitor"],
        &["plugin", "grant", "three", "fs:read:/tmp"],
        &upgrade,
        &add,
    ];
    for act in sets {
        let said = host.beadle(act);
        assert!(said.code != 0 && said.err.contains("terminal"), "{act:?}: {said:?}");
    }
    host.beadle(["plugin", "revoke", "three", "kv"]).ok();
    let doc = host.beadle(["--json", "plugin", "ls", "lively"]).ok().json();
    assert_eq!((&doc["enabled"], &doc["version"], &doc["mode"]), (&json!(true), &json!("0.1.0"), &json!("enforce")));
}

/// `kill -9` at each point of an upgrade leaves one version or the other, whole.
#[test]
fn an_upgrade_that_is_killed_leaves_one_version_whole() {
    for (point, after) in [("plugin_staged", ALLOWS), ("plugin_noted", DENIES), ("plugin_locked", DENIES)] {
        let mut host = host();
        let (one, two) = (put(&host, "1.wasm", ALLOWS), put(&host, "2.wasm", DENIES));
        host.beadle(["plugin", "add", &one, "--yes", "--deadline-ms", "10000"]).ok();
        host.beadle(["host", "stop"]).ok();
        let mut daemon = host.daemon_with("BEADLE_FAILPOINT", point);
        let said = host.beadle(["plugin", "upgrade", "lively", &two, "--yes"]);
        assert_ne!(said.code, 0, "{point}: {said:?}");
        daemon.wait().expect("it died");
        let doc = host.beadle(["--json", "plugin", "ls", "lively"]).ok().json();
        assert_eq!((&doc["digest"], &doc["state"]), (&json!(digest(after)), &json!("ready")), "{point}");
        assert!(lock(&host).contains(&format!("\ndigest = \"{}\"", digest(after))), "{point}: {}", lock(&host));
        let allowed = if after == ALLOWS { "allow" } else { "deny" };
        assert_eq!(effects(&mut host, &["touch a"]), [allowed], "{point}");
        assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true, "{point}");
    }
}

#[test]
fn what_is_no_plugin_is_refused_by_name() {
    let host = host();
    let text = put(&host, "text.wasm", b"hello");
    for (file, code, says) in [
        (text, 2, "BDL-PLUGIN-002"),
        (host.home().join("none.wasm").display().to_string(), 2, "No such file"),
        (host.home().display().to_string(), 2, "not a regular file"),
    ] {
        let said = host.beadle(["plugin", "add", &file, "--yes"]);
        assert!(said.code == code && said.err.contains(says), "{file}: {said:?}");
    }
    let good = put(&host, "p.wasm", TRAPS);
    for (name, says) in [("rules", "is that of a policy of the configuration"), ("a/b", "is not 1 to 64")] {
        let said = host.beadle(["plugin", "add", &good, "--yes", "--as", name]);
        assert!(said.code == 2 && said.err.contains(says), "{name}: {said:?}");
    }
    let said = host.beadle(["plugin", "add", &good, "--yes", "--deadline-ms", "0"]);
    assert!(said.code == 2 && said.err.contains("deadline"), "{said:?}");
    let strays: Vec<PathBuf> = std::fs::read_dir(host.data().join("plugins")).expect("a folder").flatten().map(|e| e.path()).collect();
    assert!(strays.len() <= 8, "{strays:?}");
}
