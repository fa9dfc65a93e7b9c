//! The life of an installed plugin, as an operator lives it: from the real binary, on sessions that run.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Model, Terminal, TestHost, bash, rules, until};

pub const ALLOWS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/life_allows.wasm"));
pub const DENIES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/life_denies.wasm"));
const WANTS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/life_wants.wasm"));
const WANTS_MORE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/life_wants_more.wasm"));
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
    // The way back is gated as the way there was: what was denied would be allowed.
    let said = host.beadle(["plugin", "rollback", "lively"]);
    assert!(said.code == 1 && said.err.contains("BDL-REGISTRY-008") && said.err.contains("--accept-changes"), "{said:?}");
    assert_eq!(self::effects(&mut host, &["touch a"]), ["deny"], "nothing was changed");
    host.beadle(["plugin", "rollback", "lively", "--accept-changes"]).ok();
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
    host.beadle(["plugin", "rollback", "lively", "--to", "0.1.0", "--accept-changes"]).ok();
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
fn who_upgrades_at_a_terminal_is_asked_for_what_is_new_alone() {
    let host = host();
    let (three, five) = (put(&host, "3.wasm", WANTS), put(&host, "5.wasm", WANTS_MORE));
    host.beadle(["plugin", "add", &three, "--yes", "--grant", "fs:read:/tmp"]).ok();
    let granted = || {
        let doc = host.beadle(["--json", "plugin", "ls", "lively"]).ok().json();
        (doc["version"].as_str().expect("a version").to_owned(), doc["grants"].clone())
    };
    let question = "Upgrade lively from 0.3.0 to 0.5.0? y or n:";
    let mut t = Terminal::sized(host.command(["plugin", "upgrade", "lively", &five]), 40, 200);
    t.wait_for(question);
    let screen = t.screen();
    for part in
        [&*digest(WANTS_MORE), "wants   kv: it counts calls", "wants   fs:read:*: it reads a list", "clock (new): it looks at the time"]
    {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    t.type_line("n");
    let screen = t.finish();
    assert!(screen.contains("not upgraded") && !screen.contains("Grant "), "{screen}");
    assert_eq!(granted(), ("0.3.0".to_owned(), json!(["fs:read:/tmp"])));
    // Each answer stands: the one that is kept back now is not given with the version, and what was decided before is not asked again.
    for (answer, now) in [("n", json!(["fs:read:/tmp"])), ("y", json!(["fs:read:/tmp", "clock"]))] {
        let mut t = Terminal::sized(host.command(["plugin", "upgrade", "lively", &five]), 40, 200);
        t.wait_for(question);
        t.type_line("y");
        t.wait_for("Grant clock (it looks at the time)? y or n:");
        t.type_line(answer);
        let screen = t.finish();
        assert!(screen.contains("lively 0.5.0 was upgraded"), "{screen}");
        assert!(!screen.contains("Grant kv") && !screen.contains("Type what to grant"), "{screen}");
        let (version, grants) = granted();
        let sorted = |v: &Value| {
            let mut all: Vec<String> = v.as_array().into_iter().flatten().map(Value::to_string).collect();
            all.sort();
            all
        };
        assert_eq!((version.as_str(), sorted(&grants)), ("0.5.0", sorted(&now)), "{answer}");
        host.beadle(["plugin", "rollback", "lively"]).ok();
    }
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

#[test]
fn a_replay_tells_what_would_be_decided_otherwise() {
    let mut host = host();
    host.config(&format!("approvals.unattended = \"deny\"\n{}", rules(&["Bash(touch:*)"], &[], &["Bash(rm:*)"])));
    assert_eq!(effects(&mut host, &["touch a", "rm a", "ls"]), ["allow", "deny", "deny"]);
    let said = host.beadle(["policy", "replay"]).ok();
    assert!(said.out.is_empty() && said.err.contains("3 recorded calls judged anew: 0 decided otherwise"), "{said:?}");
    assert!(said.err.contains("Not known to it: what files held then"), "{said:?}");
    // Another configuration: one call looser (an unanswered ask was an ask), one stricter.
    let other = host.file("other.toml", &rules(&["Bash(ls:*)"], &[], &["Bash(touch:*)", "Bash(rm:*)"])).display().to_string();
    let said = host.beadle(["--json", "policy", "replay", "--config", &other]);
    assert_eq!(said.code, 1, "{said:?}");
    let lines = said.lines();
    let told: Vec<_> =
        lines.iter().filter(|l| l["call"].is_u64()).map(|l| (l["about"].clone(), l["was"].clone(), l["would"].clone())).collect();
    assert_eq!(told, [(json!("touch a"), json!("allow"), json!("deny")), (json!("ls"), json!("ask"), json!("allow"))]);
    let sum = lines.last().expect("a summary");
    assert_eq!((&sum["judged"], &sum["changed"], &sum["loosened"]), (&json!(3), &json!(2), &json!(1)));
    // A component that is tried, as one policy more and in the place of the installed one.
    let two = put(&host, "2.wasm", DENIES);
    let said = host.beadle(["policy", "replay", "--with", &two]);
    assert!(said.code == 1 && said.out.contains("stricter  allow -> deny") && said.out.contains("touch a"), "{said:?}");
    host.beadle(["plugin", "add", &two, "--yes", "--deadline-ms", "10000"]).ok();
    let one = put(&host, "1.wasm", ALLOWS);
    let said = host.beadle(["policy", "replay", "--with", &one]);
    assert!(said.code == 1 && said.out.contains("looser    ask -> allow") && !said.out.contains("touch a"), "{said:?}");
    assert_eq!(host.beadle(["policy", "replay", "--since", "2999-01-01"]).code, 0, "nothing was recorded since then");
    assert_eq!(host.beadle(["policy", "replay", "--session", "nobody"]).code, 3);
    assert!(host.beadle(["--json", "plugin", "ls", "lively"]).ok().json()["version"] == "0.2.0", "nothing was changed by looking");
    // The same before an upgrade: one that loosens is shown and refused.
    assert_eq!(effects(&mut host, &["touch b"]), ["deny"]);
    let said = host.beadle(["plugin", "upgrade", "lively", &one, "--yes"]);
    assert!(
        said.code == 1 && said.err.contains("BDL-REGISTRY-008") && said.err.contains("looser") && said.err.contains("touch b"),
        "{said:?}"
    );
    assert_eq!(effects(&mut host, &["touch b"]), ["deny"]);
    host.beadle(["plugin", "upgrade", "lively", &one, "--yes", "--accept-changes"]).ok();
    assert_eq!(effects(&mut host, &["touch b"]), ["allow"]);
    // One that tightens needs nothing.
    host.beadle(["plugin", "upgrade", "lively", &two, "--yes"]).ok();
}

#[test]
fn a_new_version_that_fails_again_and_again_is_rolled_back() {
    let mut host = host();
    let (one, four) = (put(&host, "1.wasm", ALLOWS), put(&host, "4.wasm", TRAPS));
    host.beadle(["plugin", "add", &one, "--yes", "--deadline-ms", "10000"]).ok();
    host.beadle(["plugin", "upgrade", "lively", &four, "--yes"]).ok();
    let mut steps: Vec<Value> = (0..4).map(|n| bash(&format!("touch {n}"))).collect();
    steps.extend([json!({ "text": "done" }), bash("touch after"), json!({ "text": "done" })]);
    let model = Model::start(&json!({ "steps": steps }));
    host.set("ANTHROPIC_BASE_URL", model.url());
    host.set("ANTHROPIC_API_KEY", "test");
    let run = ["--json", "run", "--agent", "demo", "--detach", "--keep", "go"];
    let id = host.beadle(run).ok().json()["id"].as_str().expect("an id").to_owned();
    let version = |host: &TestHost| host.beadle(["--json", "plugin", "ls", "lively"]).ok().json()["version"].clone();
    until("the version before is in force again", || (version(&host) == "0.1.0").then_some(()));
    until("the turn ends", || host.events_of(&id, "turn_ended").first().cloned());
    host.beadle(["send", &id, "more"]).ok();
    let decided = until("all are decided", || Some(host.events_of(&id, "tool_decided")).filter(|d| d.len() == 5));
    let effects: Vec<&str> = decided.iter().filter_map(|e| e["body"]["effect"].as_str()).collect();
    assert_eq!(effects, ["deny", "deny", "deny", "deny", "allow"], "never looser meanwhile");
    let replaced = &host.events_of(&id, "plugin_replaced")[0]["body"];
    assert!(replaced["reason"].as_str().is_some_and(|r| r.contains("failed more than 3 times within 60 s, last by trap")), "{replaced}");
    assert_eq!((&replaced["old_digest"], &replaced["digest"]), (&json!(digest(TRAPS)), &json!(digest(ALLOWS))));
    let said = host.beadle(["plugin", "rollback", "lively"]);
    assert_eq!(said.code, 2, "nothing is older: {said:?}");
    host.beadle(["stop", &id]).ok();
}

/// A version that fails at another moment than a tool call is found out too; each moment by its own.
#[test]
fn failures_at_every_moment_count_for_the_watchdog() {
    let base: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/moments_base.wasm"));
    let guests: [(&str, &[u8]); 4] = [
        ("judge-session", include_bytes!(concat!(env!("OUT_DIR"), "/moments_session.wasm"))),
        ("judge-prompt", include_bytes!(concat!(env!("OUT_DIR"), "/moments_prompt.wasm"))),
        ("judge-result", include_bytes!(concat!(env!("OUT_DIR"), "/moments_result.wasm"))),
        ("judge-attempt", include_bytes!(concat!(env!("OUT_DIR"), "/moments_attempt.wasm"))),
    ];
    for (moment, guest) in guests {
        let mut host = TestHost::new();
        host.config(&rules(&["Bash(touch:*)"], &[], &[]));
        let (one, two) = (put(&host, "1.wasm", base), put(&host, "2.wasm", guest));
        let config = json!({ "trap": moment }).to_string();
        // What fails says nothing here, so that the sessions go on.
        host.beadle(["plugin", "add", &one, "--yes", "--deadline-ms", "10000", "--on-failure", "abstain", "--config", &config]).ok();
        host.beadle(["plugin", "upgrade", "moments", &two, "--yes"]).ok();
        let in_force = |host: &TestHost| host.beadle(["--json", "plugin", "ls", "moments"]).ok().json()["digest"].clone();
        for n in 0..4 {
            assert_eq!(in_force(&host), json!(digest(guest)), "{moment}: {n} failures are not too many");
            assert_eq!(effects(&mut host, &["touch a"]), ["allow"], "{moment}");
        }
        until("the version before is in force again", || (in_force(&host) == json!(digest(base))).then_some(()));
    }
}

/// What a plugin says outlives its session and the daemon.
#[test]
fn what_a_plugin_logged_is_there_when_its_sessions_are_not() {
    let mut host = host();
    let file = put(&host, "4.wasm", TRAPS);
    assert_eq!(host.beadle(["plugin", "logs", "lively"]).code, 3, "neither a plugin nor a session");
    host.beadle(["plugin", "add", &file, "--yes", "--deadline-ms", "10000"]).ok();
    assert!(host.beadle(["plugin", "logs", "lively"]).ok().err.contains("nothing was logged"));
    let mut child = host.spawn(["--json", "plugin", "logs", "lively", "--follow"]);
    let followed = crate::support::Lines::of(&mut child);
    assert_eq!(effects(&mut host, &["touch a"]), ["deny"]);
    let doc = followed.next("the line is followed");
    let text = doc["lines"][0]["text"].as_str().unwrap_or_default().to_owned();
    assert!(text.contains("trap:") && text.contains("; in function"), "{doc:#}");
    child.kill().expect("ended");
    child.wait().expect("ended");
    assert_eq!(effects(&mut host, &["touch b", "touch c"]), ["deny", "deny"]);
    let kept = until("all lines are kept", || {
        let doc = host.beadle(["--json", "plugin", "logs", "lively"]).ok().json();
        (doc["next"] == 3).then_some(doc)
    });
    assert_eq!((kept["lines"].as_array().map(Vec::len), &kept["dropped_count"], &kept["policy"]), (Some(3), &json!(0), &json!("lively")));
    host.kill_daemon();
    let said = host.beadle(["plugin", "logs", "lively", "--tail", "1"]).ok();
    assert!(said.out.lines().count() == 1 && said.out.contains("error trap:"), "{said:?}");
    host.beadle(["plugin", "rm", "lively"]).ok();
    host.beadle(["plugin", "logs", "lively"]).ok();
    let dir = host.data().join("plugin-logs");
    let mode =
        |p: &std::path::Path| std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(p).expect("it is there").permissions()) & 0o777;
    assert_eq!((mode(&dir), mode(&dir.join("lively.new"))), (0o700, 0o600));
}

/// Two policies on one installed plugin: every decision is by one version alone, and none is lost, while versions are swapped.
#[test]
#[allow(clippy::print_stdout)] // why: what was measured belongs into the test's output.
fn no_decision_is_mixed_or_lost_while_versions_are_swapped() {
    let mut host = host();
    let (one, two) = (put(&host, "1.wasm", ALLOWS), put(&host, "2.wasm", DENIES));
    host.beadle(["plugin", "add", &one, "--yes"]).ok();
    let entry = |name: &str| format!("[[policy]]\nname = \"{name}\"\nplugin = \"installed:lively\"\ndeadline_ms = 10000\n");
    host.config(&format!("{}\n{}\n{}", rules(&[], &[], &[]), entry("left"), entry("right")));
    host.beadle(["plugin", "upgrade", "lively", &two, "--yes"]).ok();
    const SESSIONS: usize = 3;
    const CALLS: usize = 40;
    let mut steps: Vec<Value> =
        (0..CALLS).map(|n| json!({ "tool": "Read", "input": { "file_path": format!("/nonexistent/{n}") } })).collect();
    steps.push(json!({ "text": "done" }));
    let models: Vec<Model> = (0..SESSIONS).map(|_| Model::start(&json!({ "steps": steps }))).collect();
    let ids: Vec<String> = models.iter().map(|m| host.run_demo(m, "go", &[])).collect();
    let mut swaps = 0;
    let ended = |host: &TestHost| ids.iter().all(|id| host.show(id)["status"] == "ended");
    while !ended(&host) {
        host.beadle(["plugin", "rollback", "lively", "--accept-changes", "--to", if swaps % 2 == 0 { "0.1.0" } else { "0.2.0" }]).ok();
        swaps += 1;
    }
    let mut seen = std::collections::BTreeMap::new();
    for id in &ids {
        let decided = host.events_of(id, "tool_decided");
        assert_eq!(decided.len(), CALLS, "none is dropped, none is made twice");
        for d in decided {
            let by: Vec<&str> = ["left", "right"]
                .iter()
                .map(|n| d["body"]["answers"].as_array().into_iter().flatten().find(|a| a["policy"] == *n).expect("it was asked"))
                .filter_map(|a| a["digest"].as_str())
                .collect();
            assert_eq!(by[0], by[1], "one decision, one version: {d}");
            let wanted = if by[0] == digest(ALLOWS) { "allow" } else { "deny" };
            assert_eq!(d["body"]["effect"], wanted, "{d}");
            *seen.entry(wanted).or_insert(0) += 1;
        }
    }
    println!("{swaps} swaps during {} decisions: {seen:?}", SESSIONS * CALLS);
    assert!(swaps > 1, "{seen:?}");
}

mod chains {
    //! The same at the rate of a busy host: the chain of a live session, swapped under decisions that never pause.

    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    use beadle::config::Folders;
    use beadle::model::{Grants, Installed, Mode, OnFailure, PluginLock, PluginVersion};
    use beadle::plugin::{CacheOptions, Host, HostOptions};
    use beadle::policy::Chains;

    use super::{ALLOWS, DENIES};
    use crate::plugin::{call, session};

    fn version(version: &str, digest: &str) -> PluginVersion {
        PluginVersion {
            version: version.into(),
            digest: digest.into(),
            purpose: String::new(),
            origin: String::new(),
            added_at: String::new(),
            moments: vec![],
            wants: vec![],
            grants: Grants::default(),
        }
    }

    fn installed(name: &str, digest: &str) -> Installed {
        Installed {
            name: name.into(),
            plugin: "lively".into(),
            kind: "permission-policy".into(),
            enabled: true,
            version: "1".into(),
            digest: digest.into(),
            previous: None,
            since: String::new(),
            grants: Grants::default(),
            mode: Mode::Enforce,
            on_failure: OnFailure::Deny,
            deadline_ms: 10_000,
            config: "{}".into(),
            versions: vec![version("1", digest)],
        }
    }

    fn folders(dir: &std::path::Path) -> Folders {
        let sub = |n: &str| dir.join(n);
        let f = Folders { config: sub("config"), data: sub("data"), cache: sub("cache"), runtime: sub("run") };
        f.create().expect("folders");
        std::fs::write(f.config_file(), "[[policy]]\nname = \"rules\"\nenabled = false\n").expect("a configuration");
        f
    }

    fn chains(f: &Folders) -> Chains {
        let cache = Some(CacheOptions { dir: f.cache.join("plugins"), key: [7; 32] });
        Chains::new(f.clone(), Host::new(HostOptions { cache, ..HostOptions::default() }).expect("an engine"), BTreeMap::new())
    }

    #[test]
    #[allow(clippy::print_stdout)] // why: what was measured belongs into the test's output.
    fn a_thousand_decisions_a_second_are_each_of_one_version() {
        let dir = tempfile::tempdir().expect("a folder");
        let f = folders(dir.path());
        let chains = chains(&f);
        let digests = [ALLOWS, DENIES].map(|w| chains.registry().put(w).expect("kept"));
        // Paired policies: both are of the same version at every moment of the lock.
        let lock = |d: &str| PluginLock { format: 1, plugins: vec![installed("left", d), installed("right", d)] };
        let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("a runtime");
        rt.block_on(async move {
            chains.set_installed(lock(&digests[0]));
            let first = chains.assemble(None, &[]).await.expect("a chain").chain;
            let (swap, live) = tokio::sync::watch::channel(first);
            let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
            let tasks: Vec<_> = (0..8)
                .map(|_| {
                    let (live, stop, done) = (live.clone(), stop.clone(), done.clone());
                    tokio::spawn(async move {
                        let (session, call) = (session(), call(&["git", "push"]));
                        let mut seen = [0u64; 2];
                        while !stop.load(Ordering::Relaxed) {
                            let chain = live.borrow().clone();
                            let judged = chain.judge(&session, &call, 1, &|_| Err("no rewrite".into())).await;
                            let of = |n: &str| judged.answers.iter().find(|a| a.policy == n).map(|a| a.digest.clone());
                            let (left, right) = (of("left"), of("right"));
                            assert!(left.is_some() && left == right, "mixed: {judged:?}");
                            let allows = blake3::hash(ALLOWS).to_hex().to_string();
                            let is_one = left.as_deref() == Some(allows.as_str());
                            let wanted = if is_one { beadle::model::Effect::Allow } else { beadle::model::Effect::Deny };
                            assert!(judged.failures.is_empty() && judged.effect == wanted, "{judged:?}");
                            seen[usize::from(!is_one)] += 1;
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        seen
                    })
                })
                .collect();
            let begun = Instant::now();
            let mut swaps = 0usize;
            while begun.elapsed() < Duration::from_secs(3) || done.load(Ordering::Relaxed) < 3000 {
                swaps += 1;
                chains.set_installed(lock(&digests[swaps % 2]));
                swap.send_replace(chains.assemble(None, &[]).await.expect("a chain").chain);
            }
            let (made, took) = (done.load(Ordering::Relaxed), begun.elapsed());
            stop.store(true, Ordering::Relaxed);
            let mut seen = [0u64; 2];
            for t in tasks {
                let s = t.await.expect("no decision was mixed");
                seen = [seen[0] + s[0], seen[1] + s[1]];
            }
            let rate = made as f64 / took.as_secs_f64();
            println!("{swaps} swaps in {took:?}; {} + {} decisions, {rate:.0} a second", seen[0], seen[1]);
            assert!(swaps > 10 && seen[0] > 0 && seen[1] > 0, "{swaps} {seen:?}");
            // By the clock on the wall, with all else that this machine does: two busy cores and an unoptimised build make thirty times that.
            assert!(rate >= 1000.0, "{rate:.0} decisions a second");
        });
    }

    #[test]
    #[allow(clippy::print_stdout)] // why: what was measured belongs into the test's output.
    fn fifty_cached_plugins_are_loaded_at_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let f = folders(dir.path());
        let plugins = |c: &Chains| -> Vec<Installed> {
            (0..50u8)
                .map(|n| {
                    // A custom section of its own makes each another component.
                    let wasm = [ALLOWS, &[0, 3, 1, b'n', n]].concat();
                    installed(&format!("p{n:02}"), &c.registry().put(&wasm).expect("kept"))
                })
                .collect()
        };
        let rt = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let load = |c: &Chains| {
            let begun = Instant::now();
            let made = rt.block_on(c.assemble(None, &[])).expect("a chain");
            let failed: Vec<_> = made.chain.slots.iter().filter(|s| s.policy.is_err()).map(|s| s.name.clone()).collect();
            assert!(made.chain.slots.len() == 50 && failed.is_empty(), "{failed:?}");
            begun.elapsed()
        };
        let cold = {
            let c = chains(&f);
            c.set_installed(PluginLock { format: 1, plugins: plugins(&c) });
            load(&c)
        };
        let warm: Vec<Duration> = (0..5)
            .map(|_| {
                let c = chains(&f);
                c.set_installed(PluginLock { format: 1, plugins: plugins(&c) });
                load(&c)
            })
            .collect();
        println!("50 plugins: compiled {cold:?}, from the cache {warm:?}");
        let best = warm.iter().min().expect("five");
        assert!(*best < cold && *best < Duration::from_millis(100), "{warm:?}");
    }
}
