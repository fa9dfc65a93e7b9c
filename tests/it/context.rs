//! Context providers in whole sessions: what they give reaches the model in the open, capped and masked; what they may not give does not.

use serde_json::{Value, json};

use crate::claude;
use crate::gate::NO_RULES;
use crate::hooks::{Agent, only_session, payload};
use crate::support::{Model, TestHost, alive, bash, rules, until};

fn configure(host: &TestHost, context: &str) {
    host.config(&format!("{}\n{context}", rules(&["Bash(echo:*)"], &[], &["Read(./private.md)"])));
}

/// With all the time there can be, where nothing else is said: the machine may be busy.
fn command(name: &str, line: &str, more: &str) -> String {
    let more = if more.contains("timeout_ms") { more.to_owned() } else { format!("timeout_ms = 20000\n{more}") };
    format!("[context.{name}]\nkind = \"command\"\ncommand = [\"sh\", \"-c\", {line:?}]\n{more}\n")
}

fn files(name: &str, paths: &[&str], more: &str) -> String {
    format!("[context.{name}]\nkind = \"files\"\npaths = {paths:?}\n{more}\n")
}

/// A model that says something, as often as it is asked.
fn talks() -> Model {
    Model::start(&json!({ "steps": [{ "text": "well", "times": 20 }] }))
}

fn turns(host: &TestHost, id: &str, n: u64) {
    until("the turn has ended", || (host.show(id)["turn_count"] == n).then_some(()));
}

fn send(host: &TestHost, id: &str, n: u64) {
    host.beadle(["send", id, &format!("prompt {n}")]).ok();
    turns(host, id, n);
}

/// The texts of the newest user message that the model was sent.
fn newest(model: &Model) -> Vec<String> {
    let requests = model.requests();
    let mut all = requests.iter().rev().filter_map(|r| r["body"]["messages"].as_array().or_else(|| r["messages"].as_array()));
    let message = all.next().and_then(|m| m.iter().rev().find(|m| m["role"] == "user")).expect("a message").clone();
    let texts = message["content"].as_array().into_iter().flatten().filter_map(|b| b["text"].as_str().map(str::to_owned));
    texts.chain(message["content"].as_str().map(str::to_owned)).collect()
}

fn given(host: &TestHost, id: &str) -> Vec<Value> {
    host.events_of(id, "context_added").into_iter().map(|e| e["body"].clone()).collect()
}

/// What the newest use of a provider says.
fn last(host: &TestHost, id: &str, name: &str) -> Value {
    given(host, id).into_iter().rfind(|g| g["provider"] == name).unwrap_or_else(|| panic!("{name} was not asked"))
}

#[test]
fn each_kind_reaches_the_models_request_labelled_and_on_record() {
    let mut host = TestHost::new();
    let git = command("state", "echo STATE-$BEADLE_CONTEXT; pwd; env", "");
    let docs = files("docs", &["docs/*.md"], "at = [\"start\"]");
    let notes = "[context.notes]\nkind = \"memory\"\ntag = \"build\"\n";
    configure(&host, &[&git, &docs, notes].concat());
    host.file("docs/a.md", "FILE-A\n");
    host.file("docs/b.txt", "FILE-B\n");
    host.beadle(["memory", "add", "MEMORY-1: the prompt is built with nightly", "--tag", "build"]).ok();
    host.beadle(["memory", "add", "MEMORY-2: no prompt of that tag"]).ok();
    let model = talks();
    host.set("SOME_TOKEN", "hush");
    let id = host.run_demo(&model, "prompt 1", &["--keep"]);
    turns(&host, &id, 1);
    let first = newest(&model);
    assert_eq!((first.len(), first[0].as_str()), (4, "prompt 1"), "the user's words stand first and apart: {first:#?}");
    let block = |name: &str, kind: &str| {
        let lead = format!("<session-host-context policy=\"context {name} ({kind})\">\n");
        first.iter().find(|t| t.starts_with(&lead)).unwrap_or_else(|| panic!("no {name}: {first:#?}")).clone()
    };
    let state = block("state", "command");
    let work = host.work().canonicalize().expect("a folder").display().to_string();
    assert!(state.contains("STATE-state") && state.contains(&work) && state.contains("PATH="), "{state}");
    assert!(!state.contains("SOME_TOKEN") && !state.contains("BEADLE_HOME") && !state.contains("ANTHROPIC"), "{state}");
    assert!(block("docs", "files").contains("--- docs/a.md\nFILE-A\n") && !first.concat().contains("FILE-B"));
    assert!(block("notes", "memory").contains("- MEMORY-1") && !first.concat().contains("MEMORY-2"));
    // On record: who gives, what was found, what was given.
    let events = host.events(&id);
    let at = |kind: &str| events.iter().position(|e| e["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"));
    assert!(at("context_provider_added") < at("context_added") && at("context_added") < at("prompt_judged"));
    assert_eq!(host.events_of(&id, "context_provider_added").len(), 3);
    let recalled = &host.events_of(&id, "memory_recalled")[0]["body"];
    assert_eq!((recalled["hits"].as_u64(), recalled["ids"].as_array().map(Vec::len)), (Some(1), Some(1)), "{recalled}");
    let judged = &host.events_of(&id, "prompt_judged")[0]["body"];
    for g in given(&host, &id) {
        let place = usize::try_from(g["position"].as_u64().expect("a place")).expect("a number");
        let text = judged["context"][place]["text"].as_str().expect("its text");
        assert_eq!(g["bytes"], text.len(), "{g}");
        assert_eq!(g["digest"], blake3::hash(text.as_bytes()).to_hex().as_str(), "{g}");
    }
    assert_eq!(last(&host, &id, "docs")["at"], "start");
    let shown = host.beadle(["context", "show", &id]).ok().out;
    assert!(shown.contains("prompt 1  docs (files)") && shown.contains("  FILE-A"), "{shown}");
    let lines = host.beadle(["--json", "context", "show", &id]).ok().lines();
    assert!(lines.len() == 3 && lines.iter().all(|l| l["text"].as_str().is_some_and(|t| l["bytes"] == t.len())), "{lines:#?}");
    // What is of the start is given once; the others with each prompt, as it then is.
    host.file("docs/a.md", "FILE-C\n");
    host.beadle(["memory", "add", "MEMORY-3: another prompt", "--tag", "build"]).ok();
    send(&host, &id, 2);
    let second = newest(&model).concat();
    assert!(second.contains("MEMORY-3") && second.contains("STATE-state") && !second.contains("FILE-"), "{second}");
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
    host.beadle(["stop", &id]).ok();
}

#[test]
fn caps_hold_for_each_and_for_all_and_secrets_are_masked() {
    let mut host = TestHost::new();
    let key = format!("sk-ant-{}", "a1".repeat(20));
    host.file("key.txt", &key);
    let some = command("some", "echo key $(cat key.txt); seq 1 100000 | head -c 4000", "max_bytes = 100");
    let much: String = (0..3).map(|n| command(&format!("z{n}"), "seq 1 200000 | head -c 60000", "max_bytes = 60000")).collect();
    let over = command("over", "yes | head -c 3000000", "");
    configure(&host, &[some, much, over].concat());
    let model = talks();
    let id = host.run_demo(&model, "go", &["--keep"]);
    turns(&host, &id, 1);
    let texts = newest(&model);
    let block = texts.iter().find(|t| t.contains("context some")).expect("some");
    assert!(block.contains("key [secret masked]\n1\n2\n") && block.contains("[cut]"), "{block}");
    assert!(!model.requests().iter().any(|r| r.to_string().contains(&key)), "a secret reached the model");
    assert!(!host.events(&id).iter().any(|e| e.to_string().contains(&key)), "a secret is on record");
    let all = given(&host, &id);
    assert!(all.iter().all(|g| g["bytes"].as_u64() <= Some(60_000)) && last(&host, &id, "some")["bytes"].as_u64() <= Some(100), "{all:#?}");
    let sum: u64 = all.iter().filter_map(|g| g["bytes"].as_u64()).sum();
    assert!(sum <= 65_536 && sum > 60_000, "{sum}");
    assert_eq!((&last(&host, &id, "z2")["truncated"], &last(&host, &id, "z2")["bytes"]), (&json!(true), &json!(0)), "{all:#?}");
    assert!(last(&host, &id, "over")["failed"].as_str().is_some_and(|f| f.contains("over 1048576 bytes")), "{all:#?}");
    host.beadle(["stop", &id]).ok();
}

#[test]
fn files_outside_secret_or_denied_are_left_out_and_said_so() {
    let mut host = TestHost::new();
    configure(&host, &files("all", &["**/*.md", ".env", "data.md/x"], ""));
    host.file("fine.md", "FINE\n");
    host.file("private.md", "PRIVATE-1\n");
    host.file(".env", "KEY=PRIVATE-2\n");
    std::fs::write(host.home().join("outside.md"), "PRIVATE-3\n").expect("a file");
    std::os::unix::fs::symlink("../user/outside.md", host.work().join("link.md")).expect("a link");
    std::os::unix::fs::symlink("private.md", host.work().join("alias.md")).expect("a link");
    std::os::unix::fs::symlink("../b/data", host.work().join("data.md")).expect("a link");
    std::os::unix::fs::symlink(".env", host.work().join("env.md")).expect("a link");
    let model = talks();
    let id = host.run_demo(&model, "go", &["--keep"]);
    turns(&host, &id, 1);
    let text = newest(&model).concat();
    assert!(text.contains("FINE") && !text.contains("PRIVATE"), "{text}");
    let left = last(&host, &id, "all")["left_out"].to_string();
    for (name, why) in [
        ("link.md", "leads out of the session's folder"),
        ("data.md/x", "leads out of the session's folder"),
        ("env.md", "looks like a secret"),
        (".env", "looks like a secret"),
        ("private.md", ""),
        ("alias.md", ""),
    ] {
        assert!(left.contains(&format!("\"{name}: ")) && left.contains(why), "{name}: {left}");
    }
    host.beadle(["stop", &id]).ok();
}

#[test]
fn a_command_that_hangs_is_ended_with_its_children_and_the_prompt_goes_on() {
    let mut host = TestHost::new();
    let hang = "setsid sh -c 'echo $$ > child; exec sleep 600' & echo $$ > parent; until [ -s child ]; do sleep 0.01; done; sleep 600";
    configure(&host, &[command("hangs", hang, "timeout_ms = 6000"), command("fails", "echo no good >&2; exit 3", "")].concat());
    let model = talks();
    let id = host.run_demo(&model, "go", &["--keep"]);
    turns(&host, &id, 1);
    assert_eq!(newest(&model), ["go"]);
    let (hung, failed) = (last(&host, &id, "hangs"), last(&host, &id, "fails"));
    assert!(hung["failed"].as_str().is_some_and(|f| f.contains("did not end within 6000 ms")) && hung["bytes"] == 0, "{hung}");
    assert_eq!(failed["failed"], "the command ended with exit code 3: no good");
    for name in ["parent", "child"] {
        let pid = std::fs::read_to_string(host.work().join(name)).expect("a file").trim().parse().expect("a pid");
        until("it is gone", || (!alive(pid)).then_some(()));
    }
    assert!(!left(&host), "no folder of a run stays");
    // Where it must be there, the prompt waits for a better time, also if it is asked for at the start alone.
    host.beadle(["context", "remove", &id, "hangs"]).ok();
    let must = ["must", "--required", "--at", "start", "--timeout", "20000", "--", "sh", "-c", "cat good"];
    host.beadle([&["context", "add", &id][..], &must].concat()).ok();
    for _ in 0..2 {
        let said = host.beadle(["send", &id, "now"]);
        assert!(said.code == 1 && said.err.contains("BDL-SESSION-037") && said.err.contains("context must"), "{said:?}");
    }
    assert!(!model.requests().iter().any(|r| r.to_string().contains("\"now\"")), "a refused prompt reached the model");
    host.file("good", "GOOD-1\n");
    send(&host, &id, 2);
    assert!(newest(&model).concat().contains("GOOD-1"));
    send(&host, &id, 3);
    assert_eq!(newest(&model), ["prompt 3"], "it was given, and is of the start");
    host.beadle(["stop", &id]).ok();
    // And a session that begins with one does not begin.
    configure(&host, &command("must", "exit 1", "required = true"));
    host.beadle(["host", "stop"]).ok();
    let said = host.beadle(["run", "--agent", "demo", "--detach", "go"]);
    assert!(said.code == 1 && said.err.contains("BDL-SESSION-037"), "{said:?}");
}

/// A folder of a run of a provider's command.
fn left(host: &TestHost) -> bool {
    let all = std::fs::read_dir(host.data().join("s")).expect("a folder").flatten();
    all.into_iter().any(|e| e.file_name().to_string_lossy().starts_with(".context-"))
}

/// The process of a command that is running, told by itself; the file is taken away.
fn running(host: &TestHost) -> u32 {
    let path = host.work().join("pid");
    let pid = until("the command runs", || std::fs::read_to_string(&path).ok()?.strip_suffix('\n')?.parse().ok());
    std::fs::remove_file(path).expect("the file");
    pid
}

#[test]
fn what_runs_ends_with_its_daemon_or_by_the_next_or_with_its_session() {
    let mut host = TestHost::new();
    configure(&host, &command("hangs", "echo $$ > pid; sleep 600", "timeout_ms = 20000\ndefault = false"));
    let model = talks();
    // Whatever their names are, sessions are none of it.
    let id = host.run_demo(&model, "prompt 1", &["--keep", "--name", "Context"]);
    let ended = host.beadle(["--json", "run", "--wait", "--name", "context: ended", "--", "echo", "KEPT"]).ok().json();
    let ended = ended["id"].as_str().expect("an id");
    assert!(id.starts_with("context-") && ended.starts_with("context-"), "{id} {ended}");
    turns(&host, &id, 1);
    host.beadle(["context", "add", &id, "hangs"]).ok();
    let mut waits = host.spawn(["send", &id, "lost"]);
    let pid = running(&host);
    host.kill_daemon();
    assert!(alive(pid) && left(&host), "it outlives the daemon that ran it");
    host.daemon();
    until("the next daemon ends it", || (!alive(pid) && !left(&host)).then_some(()));
    waits.wait().expect("it ends");
    assert!(host.beadle(["logs", ended]).ok().out.contains("KEPT"));
    // A daemon that is told to end leaves none, and gives no prompt without its context.
    let mut waits = host.spawn(["send", &id, "lost"]);
    let pid = running(&host);
    host.beadle(["host", "stop"]).ok();
    until("it ends with its daemon", || (!alive(pid)).then_some(()));
    assert!(!waits.wait().expect("it ends").success());
    host.daemon();
    assert!(host.events_of(&id, "session_ended").is_empty());
    host.beadle(["context", "remove", &id, "hangs"]).ok();
    send(&host, &id, 2);
    // Who stops the session waits for no provider, and nothing of the prompt is done.
    host.beadle(["context", "add", &id, "hangs"]).ok();
    let mut waits = host.spawn(["send", &id, "lost"]);
    let pid = running(&host);
    host.beadle(["stop", &id]).ok();
    assert!(!alive(pid) && !waits.wait().expect("it ends").success());
    let events = host.events(&id);
    assert!(!events.iter().any(|e| e["kind"] == "prompt_submitted" && e.to_string().contains("lost")), "{events:#?}");
    assert!(!model.requests().iter().any(|r| r.to_string().contains("lost")), "what was not given reached the model");
    assert!(host.events_of(&id, "note").iter().any(|e| e.to_string().contains("not given: the session is being stopped")));
}

#[test]
fn git_runs_nothing_that_the_folders_settings_name() {
    let mut host = TestHost::new();
    configure(&host, &command("git", "git status --short && git log --oneline -5", ""));
    let git = |args: &[&str], input: &str| {
        let mut child = std::process::Command::new("git")
            .args(args)
            .current_dir(host.work())
            .env("HOME", host.home())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("git");
        std::io::Write::write_all(&mut child.stdin.take().expect("its input"), input.as_bytes()).expect("written");
        let said = child.wait_with_output().expect("it ends");
        assert!(said.status.success(), "git {args:?}");
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    };
    git(&["init", "-q"], "");
    let tree = git(&["mktree"], "");
    let signed = format!(
        "tree {tree}\nauthor a <a@example.org> 1 +0000\ncommitter a <a@example.org> 1 +0000\n\
         gpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n\nSIGNED-1\n"
    );
    let commit = git(&["hash-object", "-t", "commit", "-w", "--stdin"], &signed);
    git(&["update-ref", "HEAD", &commit], "");
    let program = host.program("evil.sh", &format!("#!/bin/sh\ntouch {}\n", host.work().join("ran").display()));
    for (key, value) in [
        ("core.fsmonitor", program.display().to_string()),
        ("gpg.program", program.display().to_string()),
        ("log.showSignature", "true".into()),
    ] {
        git(&["config", key, &value], "");
    }
    let ran = || host.work().join("ran").exists();
    for args in [&["status", "--short"][..], &["log", "--oneline"]] {
        git(args, "");
        assert!(ran(), "without measures git {args:?} runs it");
        std::fs::remove_file(host.work().join("ran")).expect("the file");
    }
    let model = talks();
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    let text = newest(&model).concat();
    assert!(text.contains("SIGNED-1"), "{text} {:#?}", given(&host, &id));
    assert!(!host.work().join("ran").exists(), "a program that the folder's settings name ran");
}

/// The names of the providers that a fork of a session gets.
fn of_a_fork(host: &TestHost, id: &str) -> Vec<Value> {
    let id = host.beadle(["--json", "fork", id, "again", "--detach"]).ok().json()["id"].as_str().expect("an id").to_owned();
    host.ended(&id);
    host.events_of(&id, "context_provider_added").iter().map(|e| e["body"]["provider"]["name"].clone()).collect()
}

#[test]
fn providers_come_and_go_between_prompts_and_survive_a_daemon() {
    let mut host = TestHost::new();
    let named = files("named", &["a.md"], "default = false");
    configure(&host, &[command("every", "echo EVERY", ""), named].concat());
    host.file("a.md", "NAMED\n");
    let model = talks();
    let id = host.run_demo(&model, "prompt 1", &["--keep", "--no-context"]);
    turns(&host, &id, 1);
    assert_eq!(newest(&model), ["prompt 1"]);
    assert!(host.beadle(["--json", "context", "ls", &id]).ok().lines().is_empty());
    // One of the configuration, and one that is described.
    host.beadle(["context", "add", &id, "named"]).ok();
    let all = host
        .beadle(["--json", "context", "add", &id, "mine", "--at", "start", "--max-bytes", "50", "--timeout", "20000", "--", "echo", "MINE"])
        .ok()
        .lines();
    assert_eq!(all.len(), 2, "{all:#?}");
    assert_eq!((&all[1]["kind"], &all[1]["command"], &all[1]["asked"]), (&json!("command"), &json!(["echo", "MINE"]), &json!(false)));
    let by = &host.events_of(&id, "context_provider_added")[0]["body"]["by"];
    assert_eq!(by["role"], "operator", "{by}");
    host.kill_daemon();
    send(&host, &id, 2);
    let text = newest(&model).concat();
    assert!(text.contains("NAMED") && text.contains("MINE") && !text.contains("EVERY"), "{text}");
    send(&host, &id, 3);
    let text = newest(&model).concat();
    assert!(text.contains("NAMED") && !text.contains("MINE"), "one of the start is asked once: {text}");
    host.kill_daemon();
    host.beadle(["context", "remove", &id, "named"]).ok();
    send(&host, &id, 4);
    assert_eq!(newest(&model), ["prompt 4"]);
    // What cannot be, is told.
    for (args, code, says) in [
        (&["add", &id, "nothing"][..], 1, "there are every, named"),
        (&["add", &id, "mine", "--path", "a.md"], 1, "BDL-CONTEXT-004"),
        (&["add", &id, "x", "--path", "../a.md"], 1, "below the session's folder"),
        (&["add", &id, "x", "--", "./run"], 1, "absolute path"),
        (&["add", &id, "x", "--tag", "t", "--path", "a.md"], 1, "not of the kind files"),
        (&["remove", &id, "named"], 3, "BDL-CONTEXT-003"),
    ] {
        let said = host.beadle([&["context"], args].concat());
        assert!(said.err.contains(says) && (said.code == code || said.code == 2), "{args:?}: {said:?}");
    }
    host.beadle(["stop", &id]).ok();
    let said = host.beadle(["context", "add", &id, "named"]);
    assert!(said.code == 1 && said.err.contains("has ended"), "{said:?}");
    // A fork gets what is configured, unless the first had none.
    assert_eq!(of_a_fork(&host, &id), ["every"]);
    let none = host.run_demo(&model, "go", &["--no-context"]);
    host.ended(&none);
    assert!(of_a_fork(&host, &none).is_empty());
    // By name at the start; a command takes none at all.
    let id = host.run_demo(&model, "go", &["--context", "named"]);
    host.ended(&id);
    assert!(newest(&model).concat().contains("NAMED") && given(&host, &id).len() == 1);
    // One that waits for its turn has none yet, and what it asks for is looked at before it waits.
    let said = host.beadle(["run", "--agent", "demo", "--queue", "--context", "nobody", "go"]);
    assert!(said.code != 0 && said.err.contains("BDL-CONTEXT-002"), "{said:?}");
    let queued = host.beadle(["--json", "run", "--agent", "demo", "--queue", "--in", "600s", "go"]).ok().json();
    let id = queued["id"].as_str().expect("an id").to_owned();
    let said = host.beadle(["context", "add", &id, "named"]);
    assert!(said.code != 0 && said.err.contains("waits for its turn"), "{said:?}");
    host.beadle(["kill", &id]).ok();
    assert_eq!(host.beadle(["run", "--agent", "demo", "--detach", "--context", "nobody", "go"]).code, 2);
    let said = host.beadle(["run", "--context", "named", "--", "true"]);
    assert!(said.code == 2 && said.err.contains("BDL-CONTEXT-006"), "{said:?}");
    let id = host.beadle(["--json", "run", "--wait", "--", "true"]).ok().json()["id"].as_str().expect("an id").to_owned();
    assert!(host.events_of(&id, "context_provider_added").is_empty());
}

#[test]
fn a_project_adds_none_before_it_is_trusted() {
    let mut host = TestHost::new();
    configure(&host, "");
    host.file("a.md", "FILE-A\n");
    host.file("beadle.toml", &[command("theirs", "echo THEIRS; touch ran", ""), files("own", &["a.md"], "")].concat());
    let model = talks();
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    assert_eq!(newest(&model), ["go"]);
    assert!(!host.work().join("ran").exists() && given(&host, &id).is_empty());
    let shown = host.beadle(["config", "show"]).ok();
    assert!(shown.err.contains("context.own, context.theirs"), "{shown:?}");
    assert_eq!(host.beadle(["run", "--agent", "demo", "--detach", "--context", "theirs", "go"]).code, 2);
    host.beadle(["trust", "--yes"]).ok();
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    let text = newest(&model).concat();
    assert!(text.contains("THEIRS") && text.contains("FILE-A"), "{text}");
}

#[test]
fn neither_a_session_nor_a_command_of_one_adds_any() {
    let mut host = TestHost::new();
    let (beadle, home) = (env!("CARGO_BIN_EXE_beadle"), host.beadle_home().display().to_string());
    let knocks = command("knocks", &format!("BEADLE_HOME={home} {beadle} ls > knocks.txt 2>&1; echo done"), "");
    host.config(&format!("{NO_RULES}\n{knocks}"));
    let line = format!(
        "export BEADLE_HOME={home}; {beadle} context add $BEADLE_SESSION x --path a.md > try.txt 2>&1; {beadle} context remove $BEADLE_SESSION knocks >> try.txt 2>&1; true"
    );
    let model = Model::start(&json!({ "steps": [bash(&line), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    let read = |name: &str| std::fs::read_to_string(host.work().join(name)).unwrap_or_default();
    assert_eq!(read("try.txt").matches("BDL-API-001").count(), 2, "{}", read("try.txt"));
    assert!(read("try.txt").contains(&format!("session:{id}")));
    assert_eq!(host.events_of(&id, "context_provider_added").len(), 1);
    assert!(host.events_of(&id, "context_provider_removed").is_empty());
    // What such a command starts is no operator, either.
    assert!(read("knocks.txt").contains("BDL-API-001"), "{}", read("knocks.txt"));
}

#[test]
fn the_real_claude_is_told_in_its_own_way() {
    let Some((mut host, program)) = claude::host("the_real_claude_is_told_in_its_own_way") else { return };
    configure(&host, &[command("state", "echo STATE-77", ""), files("docs", &["a.md"], "at = [\"start\"]")].concat());
    host.file("a.md", "FILE-77\n");
    let model = Model::start(&json!({ "steps": [{ "text": "one" }, { "text": "two" }] }));
    let id = claude::run(&mut host, &program, &model, &["--keep"]);
    turns(&host, &id, 1);
    host.beadle(["context", "add", &id, "more", "--timeout", "20000", "--", "echo", "MORE-77"]).ok();
    send(&host, &id, 2);
    let requests: Vec<String> = model.requests().iter().map(Value::to_string).collect();
    for text in ["STATE-77", "FILE-77", "MORE-77", "context state (command)", "context docs (files)"] {
        assert!(requests.iter().any(|r| r.contains(text)), "{text} did not reach the model");
    }
    assert!(requests.last().is_some_and(|r| r.matches("FILE-77").count() == 1), "what is of the start is told once");
    host.beadle(["stop", &id]).ok();
}

#[test]
fn an_agent_that_only_hooks_hold_is_told_through_its_hook() {
    let host = TestHost::new();
    configure(&host, &[files("docs", &["a.md"], ""), command("slow", "sleep 600", "timeout_ms = 20000")].concat());
    host.file("a.md", "FILE-77\n");
    host.daemon();
    let mut agent = Agent::start(&host);
    agent.hook(&payload(&host, "c1", "SessionStart", json!({ "source": "startup" })));
    let said = agent.hook(&payload(&host, "c1", "UserPromptSubmit", json!({ "prompt": "go" })));
    assert!(said.code == 0 && said.out.contains("FILE-77") && said.out.contains("context docs (files)"), "{said:?}");
    let id = only_session(&host);
    let slow = last(&host, &id, "slow");
    assert!(slow["failed"].as_str().is_some_and(|f| f.contains("within 2500 ms")), "its agent is not patient: {slow}");
}
