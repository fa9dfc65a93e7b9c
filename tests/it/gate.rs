//! The gate through the real binaries, with the built-in agent: allow, deny, rewrite, ask, own folders, failing plugins.

use serde_json::{Value, json};

use crate::support::{Model, TestHost, bash, knock, lines_of, rules, until};

fn decided(host: &TestHost, id: &str) -> Vec<(String, String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    host.events_of(id, "tool_decided")
        .iter()
        .map(|e| (text(&e["body"]["effect"]), text(&e["body"]["by"]), text(&e["body"]["reason"])))
        .collect()
}

#[test]
fn allowed_runs_denied_does_not_and_the_log_proves_it() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash(echo yes:*)", "Edit(./**)"], &[], &["Bash(echo no:*)"]));
    let model = Model::start(&json!({ "steps": [
        bash("echo yes >> out.txt"),
        bash("echo no >> out.txt"),
        bash("echo yes again >> out.txt && echo no >> out.txt"),
        { "text": "done" },
    ]}));
    let id = host.run_demo(&model, "go", &[]);
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["mediation"].as_str()), (Some("succeeded"), Some("gate")));
    assert_eq!(lines_of(&host.work().join("out.txt")), ["yes"]);
    let d = decided(&host, &id);
    assert_eq!(d.iter().map(|d| d.0.as_str()).collect::<Vec<_>>(), ["allow", "deny", "deny"], "{d:?}");
    let kinds: Vec<String> = host.events(&id).iter().map(|e| e["kind"].as_str().unwrap_or_default().to_owned()).collect();
    for kind in [
        "session_created",
        "plugin_loaded",
        "attempt_started",
        "prompt_submitted",
        "tool_requested",
        "tool_started",
        "tool_ended",
        "model_responded",
        "turn_ended",
        "attempt_ended",
        "session_ended",
    ] {
        assert!(kinds.iter().any(|k| k == kind), "no {kind} in {kinds:?}");
    }
    let v = host.beadle(["--json", "verify"]).ok().json();
    assert_eq!((v["ok"].as_bool(), v["finding_count"].as_u64()), (Some(true), Some(0)));
    let exported = host.beadle(["export", &id]).ok().lines();
    assert_eq!(exported.len() as u64, s["last_seq"].as_u64().unwrap_or(0));
}

#[test]
fn a_rewrite_is_what_runs() {
    let mut host = TestHost::new();
    let mut config = rules(&["Bash(git push origin main --dry-run)"], &[], &[]);
    config.push_str("[[policy]]\nname = \"hello\"\nplugin = \"hello\"\n");
    host.config(&config);
    let model = Model::start(&json!({ "steps": [bash("git push origin main"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    assert_eq!(host.ended(&id)["rewritten_count"], 1);
    let d = &host.events_of(&id, "tool_decided")[0]["body"];
    assert_eq!((d["effect"].as_str(), d["updated_input"]["command"].as_str()), (Some("allow"), Some("git push origin main --dry-run")));
    assert_eq!(d["answers"].as_array().map(Vec::len), Some(2));
}

#[test]
fn an_ask_without_a_terminal_is_denied_where_the_setting_says_so() {
    let mut host = TestHost::new();
    host.config(&format!("approvals.unattended = \"deny\"\n{}", rules(&[], &["Bash(rm:*)"], &[])));
    let model = Model::start(&json!({ "steps": [bash("rm -f x"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    let d = decided(&host, &id);
    assert_eq!((d[0].0.as_str(), d[0].1.as_str()), ("deny", "unattended"));
    assert!(d[0].2.contains("no terminal is attached"), "{}", d[0].2);
}

#[test]
fn rules_added_at_run_time_hold_at_the_next_call() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash(true)"], &[], &[]));
    let added = host.beadle(["--json", "rule", "add", "allow", "Bash(touch:*)"]).ok().json();
    host.beadle(["rule", "add", "allow", "Edit(./**)"]).ok();
    host.beadle(["rule", "add", "deny", "Bash(touch b)"]).ok();
    let model = Model::start(&json!({ "steps": [bash("touch a"), bash("touch b"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    assert!(host.work().join("a").exists() && !host.work().join("b").exists());
    let rule = added["id"].as_str().expect("an id");
    host.beadle(["rule", "revoke", rule]).ok();
    assert_eq!(host.beadle(["rule", "revoke", rule]).code, 3);
    let left = host.beadle(["--json", "rule", "ls"]).ok().lines();
    assert_eq!(left.len(), 2);
    assert_ne!(host.beadle(["rule", "add", "allow", "Bash(("]).code, 0, "a rule that is none is refused");
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

/// Calls by which an allowed shell tries to approve itself, to change the rules, to read and write the host's files, and to reach the
/// shim's and the daemon's sockets.
pub fn attacks(host: &TestHost) -> Vec<Value> {
    let beadle = env!("CARGO_BIN_EXE_beadle");
    let data = host.data().display().to_string();
    let home = host.beadle_home().display().to_string();
    vec![
        bash(&format!(
            "export BEADLE_HOME={home}; for a in \"rule add allow Bash(*)\" \"approve $BEADLE_SESSION:1\" \"stop $BEADLE_SESSION\" \"run -- true\"; do {beadle} $a; echo \"code $?\"; done > 1.txt 2>&1"
        )),
        bash(&format!("echo x >> {data}/signing.key")),
        bash(&knock::command("$h/b/data/s/*/s", "", "3.txt")),
        bash(&knock::command("$h/b/run/beadle.sock", "GET /v1/sessions", "4.txt")),
        bash(&knock::command("$h/b/run/beadle.sock", "POST /v1/host/shutdown", "4.txt")),
        bash(&knock::command("$h/b/data/run/beadle.sock", "POST /v1/sessions", "4.txt")),
    ]
}

/// Without any rule (`default = "allow"`), none of the attacks did anything.
pub fn nothing_was_reached(host: &TestHost, id: &str) {
    let read = |name: &str| std::fs::read_to_string(host.work().join(name)).unwrap_or_default();
    let d = decided(host, id);
    let own = read("1.txt");
    assert_eq!((own.matches("BDL-API-001").count(), own.matches("code 1\n").count()), (4, 4), "the session's own beadle: {own} {d:?}");
    assert_eq!((d[1].0.as_str(), d[1].1.as_str()), ("deny", "host"), "{d:?}");
    let api = read("4.txt");
    assert_eq!(api.matches("answer: HTTP/1.1 403").count(), 3, "{api}");
    assert!(api.contains(&format!("session:{id}")), "{api}");
    let shim = read("3.txt");
    assert!(shim.contains("no answer") || shim.contains("refused"), "nobody knocked: {shim}");
    assert!(!shim.contains("answer: "), "the shim spoke to a process of its own session: {shim}");
    assert!(host.beadle(["--json", "rule", "ls"]).ok().lines().is_empty());
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

/// Everything is allowed by policy: what holds then holds without any rule.
pub const NO_RULES: &str = "default = \"allow\"\n[[policy]]\nname = \"rules\"\nenabled = false\n";

#[test]
fn a_session_can_not_touch_the_host_or_answer_for_itself() {
    let mut host = TestHost::new();
    host.config(NO_RULES);
    let mut steps = attacks(&host);
    steps.push(json!({ "text": "done" }));
    let model = Model::start(&json!({ "steps": steps }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    nothing_was_reached(&host, &id);
}

/// Ways to fail, and what the log calls them.
pub const FAILURES: [(&str, &str); 3] = [("loop", "deadline"), ("trap", "trap"), ("memory", "memory")];

/// Rules that allow, beside a policy that fails in the given way.
pub fn failing_policy(host: &TestHost, way: &str, on_failure: &str) {
    let path = host.home().join("p.wasm");
    std::fs::write(&path, crate::plugin::HOSTILE).expect("a guest");
    let mut config = rules(&["Bash(touch:*)", "Edit(./**)"], &[], &[]);
    // why: only the loop is to meet its deadline, however slow the machine.
    let deadline = if way == "loop" { 200 } else { 10_000 };
    config.push_str(&format!(
        "[[policy]]\nname = \"bad\"\nplugin = \"{}\"\ndeadline_ms = {deadline}\non_failure = \"{on_failure}\"\n[policy.config]\nway = \"{way}\"\n",
        path.display()
    ));
    host.config(&config);
}

#[test]
fn a_plugin_that_fails_is_what_on_failure_says_and_is_on_record() {
    for (way, cause) in FAILURES {
        for (on_failure, runs) in [("deny", false), ("abstain", true)] {
            let mut host = TestHost::new();
            failing_policy(&host, way, on_failure);
            let model = Model::start(&json!({ "steps": [bash("touch a"), { "text": "done" }] }));
            let id = host.run_demo(&model, "go", &[]);
            host.ended(&id);
            assert_eq!(host.work().join("a").exists(), runs, "{way}, {on_failure}");
            let failed = host.events_of(&id, "plugin_failed");
            assert_eq!(failed.iter().map(|e| e["body"]["cause"].as_str().unwrap_or_default()).collect::<Vec<_>>(), [cause], "{way}");
        }
    }
}

/// Answers the two questions of a session from another terminal; a second answer to one of them is refused.
pub fn approve_first_deny_second(host: &TestHost, name: &str) {
    let waiting = |n: usize| {
        until("a call waits", || {
            let list = host.beadle(["--json", "events", name, "-k", "approval_requested"]);
            let list = if list.code == 0 { list.lines() } else { vec![] };
            list.get(n).and_then(|e| Some(format!("{}:{}", e["session"].as_str()?, e["body"]["call"])))
        })
    };
    host.beadle(["approve", &waiting(0)]).ok();
    let second = waiting(1);
    host.beadle(["deny", &second, "--reason", "not today"]).ok();
    assert_eq!(host.beadle(["approve", &second]).code, 1, "the first answer holds");
}

#[test]
fn an_attached_terminal_is_asked_and_its_answer_holds() {
    let mut host = TestHost::new();
    host.config(&rules(&["Edit(./**)"], &["Bash(touch:*)"], &[]));
    let model = Model::start(&json!({ "steps": [bash("touch a"), bash("touch b"), { "text": "done" }] }));
    host.set("ANTHROPIC_BASE_URL", model.url());
    host.set("ANTHROPIC_API_KEY", "test");
    let run = crate::support::Terminal::start(host.command(["run", "--agent", "demo", "--name", "asked", "go"]));
    approve_first_deny_second(&host, "asked");
    let screen = run.finish();
    let id = host.show("asked")["id"].as_str().expect("an id").to_owned();
    assert!(host.work().join("a").exists() && !host.work().join("b").exists(), "{screen}");
    let d = decided(&host, &id);
    assert_eq!(d[0].1, "approval");
    assert_eq!((d[1].0.as_str(), d[1].2.as_str()), ("deny", "not today"));
    assert!(screen.contains("touch a"), "the question was shown: {screen}");
}

#[test]
fn a_web_page_is_refused_on_every_road() {
    use std::io::{Read, Write};
    let host = TestHost::new();
    host.beadle(["ls"]).ok();
    let ask = |origin: &str, line: &str| {
        let mut socket = std::os::unix::net::UnixStream::connect(host.beadle_home().join("run/beadle.sock")).expect("the daemon");
        write!(socket, "{line} HTTP/1.1\r\nHost: localhost\r\n{origin}Connection: close\r\nContent-Length: 0\r\n\r\n").expect("sent");
        let mut got = String::new();
        socket.read_to_string(&mut got).expect("an answer");
        got
    };
    assert!(ask("", "GET /v1/sessions").starts_with("HTTP/1.1 200"), "without a page the same is answered");
    for line in ["GET /v1/sessions", "GET /v1/events", "GET /metrics", "POST /v1/sessions", "POST /v1/rules"] {
        let got = ask("Origin: http://localhost:3000\r\n", line);
        assert!(got.starts_with("HTTP/1.1 403") && got.contains("BDL-API-004"), "{line}: {got}");
    }
}
