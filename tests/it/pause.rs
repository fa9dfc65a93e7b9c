//! Pause and resume in both modes: only from where the table has it, over a dead daemon, and nothing of a call is lost or made twice.

use serde_json::{Value, json};

use crate::hooks::{Agent, asked, payload};
use crate::support::{Model, TestHost, bash, kill, lines_of, marked, rules, until};

/// The kernel's letter for what a process does.
fn state(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().and_then(|r| r.chars().next()).unwrap_or('-')
}

/// Stopped, or in the kernel with the stop before it: a shell that vforked waits there for its stopped child.
fn all_stopped(id: &str) -> bool {
    let all = marked(id);
    all.iter().any(|pid| state(*pid) == 'T') && all.into_iter().all(|pid| matches!(state(pid), 'T' | 'D'))
}

fn none_stopped(id: &str) -> bool {
    let all = marked(id);
    !all.is_empty() && all.into_iter().all(|pid| state(pid) != 'T')
}

/// A command that writes a line again and again, in two processes of two sessions; ends when `end` is there.
const TICKS: &str =
    "setsid sh -c 'until [ -e end ]; do echo b >> ticks; sleep 0.01; done' & until [ -e end ]; do echo a >> ticks; sleep 0.01; done";

fn ticking(host: &TestHost) -> String {
    let id = host.beadle(["--json", "run", "--detach", "--", "sh", "-c", TICKS]).ok().json()["id"].as_str().expect("an id").to_owned();
    let both = || {
        let lines = lines_of(&host.work().join("ticks"));
        lines.iter().any(|l| l == "a") && lines.iter().any(|l| l == "b")
    };
    until("both processes tick", || both().then_some(()));
    id
}

fn ticks(host: &TestHost) -> usize {
    lines_of(&host.work().join("ticks")).len()
}

fn refused(host: &TestHost, args: &[&str], code: &str, words: &[&str]) {
    let said = host.beadle(args);
    assert!(said.code == 1 && said.err.contains(code), "{args:?}: {said:?}");
    assert!(words.iter().all(|w| said.err.contains(w)), "{args:?}: {said:?}");
}

#[test]
fn pause_only_from_running_and_resume_only_from_paused() {
    let host = TestHost::new();
    let id = ticking(&host);
    refused(&host, &["resume", &id], "BDL-SESSION-052", &["is running", "only a paused session", "beadle pause"]);
    refused(&host, &["pause", "--mode", "hold", &id], "BDL-SESSION-053", &["no gate", "--mode freeze"]);
    let said = host.beadle(["pause", &id, "--reason", "lunch"]).ok().out;
    assert!(said.contains("is paused (freeze)"), "a command without a gate is frozen: {said}");
    refused(&host, &["pause", &id], "BDL-SESSION-051", &["is paused (freeze)", "only a running session", "beadle resume"]);
    let s = host.show(&id);
    assert_eq!(
        (s["status"].as_str(), s["pause"]["mode"].as_str(), s["pause"]["reason"].as_str()),
        (Some("paused"), Some("freeze"), Some("lunch"))
    );
    assert!(host.beadle(["show", &id]).ok().out.contains("paused (freeze) since"));
    assert!(host.beadle(["ls"]).ok().out.contains("paused (freeze)"));
    assert_eq!(host.beadle(["--json", "ls", "--status", "paused"]).ok().lines().len(), 1);
    host.beadle(["resume", &id]).ok();
    let s = host.show(&id);
    assert_eq!((s["status"].as_str(), s["pause"].is_null()), (Some("running"), true));
    host.file("end", "");
    host.ended(&id);
    refused(&host, &["pause", &id], "BDL-SESSION-051", &["is ended (exited)", "beadle run"]);
    refused(&host, &["resume", &id], "BDL-TREE-011", &["no conversation to go on with", "beadle run"]);
    assert_eq!(host.beadle(["resume", "nobody"]).code, 3);
    let continued = &host.events_of(&id, "session_continued")[0]["body"];
    assert!(continued["mode"] == "freeze" && continued["paused_ms"].is_u64() && continued["by"]["role"] == "operator", "{continued}");
}

#[test]
fn a_frozen_tree_stands_still_over_a_killed_daemon_and_goes_on() {
    let host = TestHost::new();
    let id = ticking(&host);
    host.beadle(["pause", &id]).ok();
    assert!(all_stopped(&id), "{:?}", marked(&id).into_iter().map(|p| (p, state(p))).collect::<Vec<_>>());
    let before = ticks(&host);
    for _ in 0..2 {
        host.kill_daemon();
        host.daemon();
        assert_eq!(host.show(&id)["status"], "paused");
        assert!(all_stopped(&id));
    }
    assert_eq!(ticks(&host), before, "nothing ran");
    host.beadle(["resume", &id]).ok();
    until("it ticks again", || (ticks(&host) > before + 4).then_some(()));
    assert!(none_stopped(&id));
    host.file("end", "");
    assert_eq!(host.ended(&id)["outcome"], "exited");
}

#[test]
fn a_daemon_that_dies_between_the_record_and_the_act_is_made_up_for() {
    let host = TestHost::new();
    let mut daemon = host.daemon_with("BEADLE_FAILPOINT", "pausing:1");
    let id = ticking(&host);
    host.beadle(["pause", &id]);
    until("the daemon has died", || daemon.try_wait().ok().flatten());
    host.daemon();
    assert_eq!(host.show(&id)["status"], "paused");
    until("the next daemon has frozen it", || all_stopped(&id).then_some(()));
    host.kill_daemon();
    let mut daemon = host.daemon_with("BEADLE_FAILPOINT", "continuing:1");
    assert!(all_stopped(&id));
    host.beadle(["resume", &id]);
    until("the daemon has died", || daemon.try_wait().ok().flatten());
    host.daemon();
    assert_eq!(host.show(&id)["status"], "running");
    until("the next daemon has let it go on", || none_stopped(&id).then_some(()));
    host.file("end", "");
    assert_eq!(host.ended(&id)["outcome"], "exited");
}

#[test]
fn a_paused_session_can_be_stopped_and_killed() {
    for (verb, outcome) in [("stop", "stopped"), ("kill", "killed")] {
        let host = TestHost::new();
        let id = ticking(&host);
        host.beadle(["pause", &id]).ok();
        assert!(all_stopped(&id));
        host.beadle([verb, &id]).ok();
        assert_eq!(host.ended(&id)["outcome"], outcome);
        until("nothing is left", || marked(&id).is_empty().then_some(()));
    }
}

#[test]
fn a_frozen_agent_that_is_killed_ends_its_session() {
    let host = TestHost::new();
    let id = ticking(&host);
    host.beadle(["pause", &id]).ok();
    kill(u32::try_from(host.show(&id)["pid"].as_u64().expect("a pid")).expect("a pid"));
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["signal"].as_u64()), (Some("failed"), Some(9)));
    until("nothing is left", || marked(&id).is_empty().then_some(()));
}

#[test]
fn what_the_agent_stopped_itself_is_not_let_go_on() {
    let host = TestHost::new();
    let script = "sleep 600 & kill -STOP $!; echo $! > own; until [ -e end ]; do sleep 0.01; done; kill -KILL $!";
    let id = host.beadle(["--json", "run", "--detach", "--", "sh", "-c", script]).ok().json()["id"].as_str().expect("an id").to_owned();
    let own: u32 = until("it stopped a child", || lines_of(&host.work().join("own")).first()?.parse().ok());
    until("the child stands", || (state(own) == 'T').then_some(()));
    host.beadle(["pause", &id]).ok();
    assert!(all_stopped(&id));
    host.beadle(["resume", &id]).ok();
    until("the others go on", || marked(&id).into_iter().any(|p| state(p) != 'T').then_some(()));
    assert_eq!(state(own), 'T');
    host.file("end", "");
    host.ended(&id);
}

fn asking() -> (TestHost, Value) {
    let host = TestHost::new();
    host.config(&rules(&["Bash(touch:*)"], &["Bash(echo:*)"], &[]));
    (host, json!({ "steps": [bash("echo one >> out.txt"), { "text": "done" }] }))
}

#[test]
fn an_answer_given_while_held_is_kept_over_a_killed_daemon_and_told_at_the_resume() {
    let (mut host, script) = asking();
    let model = Model::start(&script);
    let id = host.run_demo(&model, "go", &[]);
    let call = until("it asks", || host.events_of(&id, "approval_requested").first().map(|e| e["body"]["call"].to_string()));
    let said = host.beadle(["pause", &id]).ok().out;
    assert!(said.contains("is paused (hold)"), "a gated agent is held at its gate: {said}");
    assert!(none_stopped(&id), "its processes run on");
    assert_eq!(host.show(&id)["waiting_count"], 1, "the question still waits, and can be answered");
    host.beadle(["approve", &format!("{id}:{call}")]).ok();
    assert_eq!(host.events_of(&id, "tool_decided")[0]["body"]["effect"], "allow");
    for _ in 0..2 {
        host.kill_daemon();
        host.daemon();
        let s = host.show(&id);
        assert_eq!((s["status"].as_str(), s["pause"]["mode"].as_str()), (Some("paused"), Some("hold")), "{s:#}");
    }
    assert!(lines_of(&host.work().join("out.txt")).is_empty() && host.events_of(&id, "tool_started").is_empty(), "it was not told");
    refused(&host, &["compact", &id], "BDL-SESSION-041", &["paused", "beadle resume"]);
    host.beadle(["resume", &id]).ok();
    assert_eq!(host.ended(&id)["outcome"], "succeeded");
    assert_eq!(lines_of(&host.work().join("out.txt")), ["one"], "once");
    assert_eq!(host.events_of(&id, "tool_decided").len(), 1);
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn a_call_that_is_asked_about_while_held_waits_unjudged() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash", "Edit(./**)"], &[], &[]));
    let first = "touch began; until [ -e go ]; do sleep 0.02; done";
    let model = Model::start(&json!({ "steps": [bash(first), bash("echo two >> out.txt"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    until("the first call runs", || host.work().join("began").exists().then_some(()));
    host.beadle(["pause", "--mode", "hold", &id]).ok();
    host.file("go", "");
    until("the agent asks about the next call", || host.beadle(["logs", &id]).ok().out.contains("echo two").then_some(()));
    host.kill_daemon();
    host.daemon();
    assert_eq!(host.show(&id)["status"], "paused");
    assert_eq!(host.events_of(&id, "tool_decided").len(), 1, "what came after the pause is not judged");
    assert!(!host.work().join("out.txt").exists());
    host.beadle(["resume", &id]).ok();
    assert_eq!(host.ended(&id)["outcome"], "succeeded");
    assert_eq!(lines_of(&host.work().join("out.txt")), ["two"]);
    assert_eq!(host.events_of(&id, "tool_decided").len(), 2);
}

#[test]
fn a_breach_can_pause_instead_of_stop() {
    let host = TestHost::new();
    host.expects_breaches();
    host.config(&format!("{}\n[session]\non_breach = \"pause\"\n", rules(&["Bash(true)"], &[], &[])));
    let ask = |id: &str, call: &str, command: &str| {
        json!({"type": "control_request", "request_id": id, "request": {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": command}, "tool_use_id": call}}).to_string()
    };
    let (a, b, c) = (ask("r1", "toolu_1", "true"), ask("r1", "toolu_1", "rm -rf /"), ask("r2", "toolu_2", "false"));
    let agent =
        host.program("agent.sh", &format!("#!/bin/sh\necho '{a}'\necho '{b}'\necho '{c}'\nuntil [ -e end ]; do sleep 0.02; done\n"));
    let id =
        host.beadle(["--json", "run", "--detach", "--agent", "claude", "--program", &agent.display().to_string(), "hi"]).ok().json()["id"]
            .as_str()
            .expect("an id")
            .to_owned();
    let s = until("it is paused", || Some(host.show(&id)).filter(|s| s["status"] == "paused"));
    assert_eq!(s["pause"]["mode"], "freeze", "{s:#}");
    assert!(s["pause"]["reason"].as_str().is_some_and(|r| r.starts_with("breach: request id reused")), "{s:#}");
    assert_eq!(host.events_of(&id, "mediation_breached")[0]["body"]["action"], "pause");
    until("its tree stands still", || all_stopped(&id).then_some(()));
    assert_eq!(host.events_of(&id, "tool_decided").len(), 1, "nothing is judged after it");
    host.kill_daemon();
    host.daemon();
    assert!(all_stopped(&id));
    host.file("end", "");
    host.beadle(["resume", &id]).ok();
    let s = host.ended(&id);
    assert_eq!(s["breach_count"], 1, "{s:#}");
    assert_eq!(host.events_of(&id, "session_paused").len(), 1);
}

#[test]
fn a_session_whose_shim_is_gone_is_never_told_as_running() {
    let host = TestHost::new();
    for _ in 0..5 {
        let id = host.beadle(["--json", "run", "--detach", "--", "sleep", "600"]).ok().json()["id"].as_str().expect("an id").to_owned();
        let shim = host.beadle(["--json", "ps", &id]).ok().lines().iter().find(|p| p["role"] == "shim").and_then(|p| p["pid"].as_u64());
        kill(u32::try_from(shim.expect("a shim")).expect("a pid"));
        let listed = host.beadle(["--json", "ls", "-n", "1"]).ok().lines();
        assert_eq!((listed[0]["status"].as_str(), listed[0]["outcome"].as_str()), (Some("ended"), Some("lost")), "{listed:#?}");
        assert_eq!(host.show(&id)["outcome"], "lost");
    }
}

/// `paused` is said of an agent that lives: one that ends meanwhile ends its session, as it ended, whoever is there to see it.
#[test]
fn an_agent_that_ends_while_it_is_held_ends_its_session() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash"], &[], &[]));
    for (mode, daemon) in [("hold", true), ("hold", false), ("freeze", true), ("freeze", false)] {
        let model = Model::start(&json!({ "steps": [bash("until [ -e end ]; do sleep 0.02; done"), { "text": "done" }] }));
        let id = host.run_demo(&model, "go", &[]);
        until("its call runs", || (!host.events_of(&id, "tool_started").is_empty()).then_some(()));
        host.beadle(["pause", "--mode", mode, &id]).ok();
        let agent = u32::try_from(host.show(&id)["pid"].as_u64().expect("a pid")).expect("a pid");
        if !daemon {
            host.kill_daemon();
        }
        kill(agent);
        let s = host.ended(&id);
        let what = format!("{mode}, with a daemon: {daemon}: {s:#}");
        assert_eq!((s["outcome"].as_str(), s["signal"].as_u64(), s["pause"].is_null()), (Some("failed"), Some(9), true), "{what}");
        assert!(host.events_of(&id, "session_continued").is_empty(), "{what}");
        until("nothing is left", || marked(&id).is_empty().then_some(()));
        refused(&host, &["pause", &id], "BDL-SESSION-051", &["is ended (failed)"]);
    }
}

/// Held and done with its work, the agent waits to be heard: it lives, so it is paused, over a killed daemon too, and ends when it goes on.
#[test]
fn a_held_agent_that_is_done_is_heard_when_it_goes_on() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash"], &[], &[]));
    let model = Model::start(&json!({ "steps": [bash("until [ -e end ]; do sleep 0.02; done"), { "text": "all done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    until("its call runs", || (!host.events_of(&id, "tool_started").is_empty()).then_some(()));
    host.beadle(["pause", "--mode", "hold", &id]).ok();
    host.file("end", "");
    until("it has said its last word", || host.beadle(["logs", &id]).ok().out.contains("all done").then_some(()));
    host.kill_daemon();
    host.daemon();
    let s = host.show(&id);
    assert!(s["status"] == "paused" && s["pid"].is_u64() && host.events_of(&id, "agent_replied").is_empty(), "{s:#}");
    host.beadle(["resume", &id]).ok();
    assert_eq!(host.ended(&id)["outcome"], "succeeded");
}

#[test]
fn a_session_that_hooks_hold_is_held_and_ends_with_its_agent() {
    let host = TestHost::new();
    host.config(&rules(&["Bash(true)"], &[], &[]));
    host.daemon();
    let mut agent = Agent::start(&host);
    agent.hook(&payload(&host, "c1", "SessionStart", json!({ "source": "startup" })));
    let id = host.beadle(["--json", "ls"]).ok().lines()[0]["id"].as_str().expect("an id").to_owned();
    refused(&host, &["pause", "--mode", "freeze", &id], "BDL-SESSION-053", &["--mode hold"]);
    assert!(host.beadle(["pause", &id]).ok().out.contains("is paused (hold)"));
    host.kill_daemon();
    host.daemon();
    assert_eq!(host.show(&id)["status"], "paused");
    let early = agent.begin(asked(&host, "c1", "toolu_1", "true").to_string().as_bytes(), "--deadline-ms 500");
    assert_eq!(early.end_of(&mut agent).code, 2, "who cannot wait is blocked");
    assert!(host.events_of(&id, "tool_decided").is_empty(), "and nothing is judged");
    let waits = agent.begin(asked(&host, "c1", "toolu_2", "true").to_string().as_bytes(), "--deadline-ms 60000");
    host.beadle(["resume", &id]).ok();
    let said = waits.end_of(&mut agent);
    assert!(said.code == 0 && said.out.contains("allow"), "{said:?}");
    let seq = |kind: &str| host.events_of(&id, kind).last().and_then(|e| e["seq"].as_u64());
    assert!(seq("tool_decided") > seq("session_continued"), "judged when it goes on");
    host.beadle(["pause", &id]).ok();
    agent.die();
    assert_eq!(host.ended(&id)["outcome"], "lost", "its process told no end");
}

/// What an agent said while it was held counts, also where it is lost before it goes on: with a daemon that looks on, and with the next one.
#[test]
fn a_held_agent_that_is_lost_is_heard_out() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash"], &[], &[]));
    for (daemon, restart) in [(true, "no"), (false, "no"), (true, "on-failure")] {
        let model = Model::start(&json!({ "steps": [bash("until [ -e end ]; do sleep 0.02; done"), { "text": "all done" }] }));
        let id = host.run_demo(&model, "go", &["--restart", restart, "--backoff", "600000"]);
        until("its call runs", || (!host.events_of(&id, "tool_started").is_empty()).then_some(()));
        host.beadle(["pause", "--mode", "hold", &id]).ok();
        let before = host.show(&id)["usage"]["output"].as_u64();
        host.file("end", "");
        until("it has said its last word", || host.beadle(["logs", &id]).ok().out.contains("all done").then_some(()));
        let family = host.beadle(["--json", "ps", &id]).ok().lines();
        let shim = family.iter().find(|p| p["role"] == "shim").and_then(|p| p["pid"].as_u64()).expect("a shim");
        if !daemon {
            host.kill_daemon();
        }
        kill(u32::try_from(shim).expect("a pid"));
        let ended = until("its attempt is over", || host.events_of(&id, "attempt_ended").pop());
        let what = format!("with a daemon: {daemon}, {restart}");
        assert_eq!(ended["body"]["outcome"], "lost", "{what}");
        let replies = host.events_of(&id, "agent_replied");
        assert!(replies.iter().any(|e| e["body"].to_string().contains("all done")), "{what}: {replies:#?}");
        assert!(host.show(&id)["usage"]["output"].as_u64() > before, "{what}: what it used is counted");
        assert_eq!(host.events_of(&id, "tool_ended").len(), 1, "{what}");
        host.beadle(["stop", &id]);
        host.ended(&id);
        std::fs::remove_file(host.work().join("end")).expect("removed");
    }
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}
