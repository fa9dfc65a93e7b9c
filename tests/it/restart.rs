//! `run --restart`: an agent that is lost, fails or ends is started once more, never twice, and never against an operator's word.

use serde_json::{Value, json};

use crate::support::{Model, TestHost, alive, bash, kill, lines_of, marked, rules, until};

/// Says that it runs, and why again, then waits.
const WAITS: &str = "echo \"${BEADLE_ATTEMPT:-1} $BEADLE_RESTART\" >> runs; until [ -e end ]; do sleep 0.02; done";

fn run(host: &TestHost, args: &[&str]) -> String {
    let all: Vec<&str> = ["--json", "run", "--detach", "--backoff", "20"].iter().chain(args).copied().collect();
    host.beadle(all).ok().json()["id"].as_str().expect("an id").to_owned()
}

fn waiting(host: &TestHost, args: &[&str]) -> String {
    let id = run(host, &[args, &["--", "sh", "-c", WAITS]].concat());
    runs(host, 1);
    id
}

/// Waits until the command was started so often.
fn runs(host: &TestHost, n: usize) {
    until(&format!("it ran {n} times"), || (lines_of(&host.work().join("runs")).len() == n).then_some(()));
}

fn pid(host: &TestHost, id: &str, role: &str) -> u32 {
    let family = host.beadle(["--json", "ps", id]).ok().lines();
    let pid = family.iter().find(|p| p["role"] == role).and_then(|p| p["pid"].as_u64()).expect(role);
    u32::try_from(pid).expect("a pid")
}

/// What a restart of the machine does to sessions: everything ends at once, and nobody writes down how.
fn reboot(host: &TestHost, ids: &[&str]) {
    reboot_after(host, ids, || ());
}

/// The same, with what happens between the end of the daemon and that of the rest.
fn reboot_after(host: &TestHost, ids: &[&str], meanwhile: impl FnOnce()) {
    let pids: Vec<u32> = ids.iter().flat_map(|id| ["shim", "agent"].map(|role| pid(host, id, role))).collect();
    host.kill_daemon();
    meanwhile();
    // The shim first: it would write down how the agent ended.
    pids.into_iter().for_each(kill);
    for id in ids {
        for left in marked(id) {
            kill(left);
        }
    }
}

fn restarts(host: &TestHost, id: &str) -> Vec<Value> {
    let all = host.events_of(id, "attempt_scheduled");
    all.into_iter().filter(|e| e["body"]["why"] == "restart").map(|e| e["body"].clone()).collect()
}

fn sound(host: &TestHost) {
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn a_lost_agent_is_started_once_more_and_then_stays_lost() {
    let host = TestHost::new();
    let id = waiting(&host, &["--restart", "on-failure"]);
    assert!(host.beadle(["show", &id]).ok().out.contains("on-failure (once)"));
    kill(pid(&host, &id, "shim"));
    runs(&host, 2);
    assert!(lines_of(&host.work().join("runs"))[1].starts_with("2 the "), "it is told why");
    let s = until("it runs again", || Some(host.show(&id)).filter(|s| s["status"] == "running" && s["attempt"] == 2));
    assert_eq!(s["restarted"], 2, "{s:#}");
    assert!(host.beadle(["show", &id]).ok().out.contains("on-failure (done, as attempt 2)"));
    let ended = &host.events_of(&id, "attempt_ended")[0]["body"];
    assert_eq!((ended["outcome"].as_str(), ended["success"].as_bool()), (Some("lost"), Some(false)), "{ended}");
    let why = &restarts(&host, &id)[0]["feedback"];
    assert!(why.as_str().is_some_and(|w| w.contains("shim")), "{why}");
    kill(pid(&host, &id, "shim"));
    assert_eq!(host.ended(&id)["outcome"], "lost");
    assert_eq!((lines_of(&host.work().join("runs")).len(), restarts(&host, &id).len()), (2, 1), "once");
    until("nothing is left", || marked(&id).is_empty().then_some(()));
    sound(&host);
}

#[test]
fn after_a_restart_of_the_machine_those_that_ask_for_it_are_started_once_by_the_next_daemon() {
    let host = TestHost::new();
    let wanted = waiting(&host, &["--restart", "on-failure"]);
    let plain = run(&host, &["--", "sleep", "600"]);
    let not = run(&host, &["--restart", "no", "--", "sleep", "600"]);
    let paused = run(&host, &["--restart", "always", "--", "sleep", "600"]);
    host.beadle(["pause", &paused]).ok();
    reboot(&host, &[&wanted, &plain, &not, &paused]);
    host.daemon();
    runs(&host, 2);
    for id in [&plain, &not] {
        assert_eq!(host.ended(id)["outcome"], "lost");
    }
    let s = host.show(&paused);
    assert_eq!(
        (s["status"].as_str(), s["attempt"].as_u64(), &s["scheduled"]["why"]),
        (Some("paused"), Some(1), &json!("restart")),
        "{s:#}"
    );
    host.beadle(["resume", &paused]).ok();
    until("what was paused is started when it is resumed", || (host.show(&paused)["attempt"] == 2).then_some(()));
    // Another daemon, another restart of the machine: no third start.
    host.kill_daemon();
    host.daemon();
    assert_eq!(host.show(&wanted)["status"], "running");
    reboot(&host, &[&wanted, &paused]);
    for id in [&wanted, &paused] {
        assert_eq!((host.ended(id)["outcome"].as_str(), host.show(id)["attempt"].as_u64()), (Some("lost"), Some(2)));
        assert_eq!(restarts(&host, id).len(), 1);
    }
    assert_eq!(lines_of(&host.work().join("runs")).len(), 2);
    sound(&host);
}

/// The daemon dies between the decision, its record, the start, and the record of the start.
#[test]
fn a_daemon_that_dies_around_a_restart_does_not_start_two() {
    for point in ["restarting", "scheduled", "tried"] {
        let host = TestHost::new();
        let id = waiting(&host, &["--restart", "on-failure"]);
        reboot(&host, &[&id]);
        let mut daemon = host.daemon_with("BEADLE_FAILPOINT", &format!("{point}:1"));
        until("the daemon has died at the failpoint", || daemon.try_wait().ok().flatten());
        host.daemon();
        let s = until("it runs again", || Some(host.show(&id)).filter(|s| s["status"] == "running" && s["attempt"] == 2));
        assert_eq!(s["restarted"], 2, "{point}: {s:#}");
        runs(&host, 2);
        host.file("end", "");
        assert_eq!(host.ended(&id)["outcome"], "exited", "{point}");
        assert_eq!(lines_of(&host.work().join("runs")).len(), 2, "{point}: no agent too many");
        let of = |kind: &str| host.events_of(&id, kind).len();
        assert_eq!((restarts(&host, &id).len(), of("attempt_started"), of("attempt_ended"), of("session_ended")), (1, 2, 2, 1), "{point}");
        sound(&host);
    }
}

/// The machine goes down again between the start of a plain command and the record of it: what it did is not done again.
#[test]
fn a_command_that_was_begun_and_not_recorded_is_not_begun_again() {
    let host = TestHost::new();
    let id = waiting(&host, &["--restart", "always"]);
    reboot(&host, &[&id]);
    let mut daemon = host.daemon_with("BEADLE_FAILPOINT", "tried:1");
    until("the daemon has died at the failpoint", || daemon.try_wait().ok().flatten());
    runs(&host, 2);
    let agent = marked(&id);
    let parent = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().and_then(|r| r.split(' ').nth(1)).and_then(|p| p.parse::<u32>().ok())
    };
    // The parent that is not of the agent is the shim: it would write down how the agent ended.
    kill(agent.iter().filter_map(parent).find(|p| *p > 1 && !agent.contains(p)).expect("a shim"));
    for left in agent {
        kill(left);
    }
    host.daemon();
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["attempt"].as_u64()), (Some("lost"), Some(2)), "{s:#}");
    assert_eq!(lines_of(&host.work().join("runs")).len(), 2);
    sound(&host);
}

#[test]
fn a_shim_that_is_silent_is_waited_for() {
    let host = TestHost::new();
    let id = waiting(&host, &["--restart", "always"]);
    let shim = pid(&host, &id, "shim");
    let signal = |s: rustix::process::Signal| {
        let pid = i32::try_from(shim).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, s).expect("signalled");
    };
    signal(rustix::process::Signal::STOP);
    host.kill_daemon();
    host.daemon();
    let s = host.show(&id);
    assert_eq!((s["status"].as_str(), s["attempt"].as_u64(), s["restarted"].is_null()), (Some("running"), Some(1), true), "{s:#}");
    signal(rustix::process::Signal::CONT);
    host.file("end", "");
    // Always: it ended by itself.
    assert_eq!(host.ended(&id)["attempt"], 2);
    assert_eq!(lines_of(&host.work().join("runs")).len(), 2);
    assert!(!alive(shim) || marked(&id).is_empty());
}

#[test]
fn what_fails_or_ends_is_started_again_as_it_was_asked_for() {
    let host = TestHost::new();
    for (restart, code, attempts) in [("on-failure", 3, 2), ("on-failure", 0, 1), ("always", 0, 2), ("always", 3, 2), ("no", 3, 1)] {
        let id = run(&host, &["--restart", restart, "--", "sh", "-c", &format!("exit {code}")]);
        let s = host.ended(&id);
        let outcome = if code == 0 { "exited" } else { "failed" };
        let what = format!("{restart} and {code}: {s:#}");
        assert_eq!(
            (s["outcome"].as_str(), s["attempt"].as_u64(), restarts(&host, &id).len()),
            (Some(outcome), Some(attempts), attempts as usize - 1),
            "{what}"
        );
    }
    let bad = host.beadle(["run", "--restart", "often", "--", "true"]);
    assert!(bad.code == 2 && bad.err.contains("no, on-failure or always"), "{bad:?}");
    sound(&host);
}

#[test]
fn an_operators_word_and_a_limit_stand() {
    let host = TestHost::new();
    for (verb, outcome) in [("stop", "stopped"), ("kill", "killed")] {
        let id = run(&host, &["--restart", "always", "--", "sleep", "600"]);
        host.beadle([verb, &id]).ok();
        let s = host.ended(&id);
        assert_eq!((s["outcome"].as_str(), s["attempt"].as_u64()), (Some(outcome), Some(1)), "{s:#}");
    }
    let id = run(&host, &["--restart", "always", "--max-time", "1s", "--", "sleep", "600"]);
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["attempt"].as_u64()), (Some("budget"), Some(1)), "{s:#}");
    // On its way out when the machine goes down.
    let id = run(&host, &["--restart", "always", "--", "sh", "-c", "trap '' TERM; echo up >> up; until [ -e never ]; do sleep 0.02; done"]);
    until("it ignores what stops it", || host.work().join("up").exists().then_some(()));
    host.beadle(["stop", "--grace", "600000", "--no-wait", &id]).ok();
    reboot(&host, &[&id]);
    let s = host.ended(&id);
    assert!(s["attempt"] == 1 && s["restarted"].is_null(), "{s:#}");
    // Between the two attempts.
    let id = host.beadle(["--json", "run", "--detach", "--backoff", "600000", "--restart", "on-failure", "--", "false"]).ok().json();
    let id = id["id"].as_str().expect("an id").to_owned();
    until("its restart waits", || host.show(&id)["scheduled"].is_object().then_some(()));
    host.beadle(["stop", &id]).ok();
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["attempt"].as_u64()), (Some("stopped"), Some(1)), "{s:#}");
    sound(&host);
}

#[test]
fn a_breach_is_not_restarted() {
    let host = TestHost::new();
    host.expects_breaches();
    host.config(&rules(&["Bash(true)"], &[], &[]));
    let ask = |command: &str| {
        json!({"type": "control_request", "request_id": "r1", "request": {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": command}, "tool_use_id": "toolu_1"}}).to_string()
    };
    let agent = host.program("agent.sh", &format!("#!/bin/sh\necho '{}'\necho '{}'\nsleep 600\n", ask("true"), ask("rm -rf /")));
    let id = run(&host, &["--restart", "always", "--agent", "claude", "--program", &agent.display().to_string(), "hi"]);
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["attempt"].as_u64()), (Some("breach"), Some(1)), "{s:#}");
}

/// Nobody is left to be paused: it ends, and nothing is started before a person has looked.
#[test]
fn a_breach_that_is_heard_of_after_the_loss_is_not_restarted_where_it_should_pause() {
    let host = TestHost::new();
    host.expects_breaches();
    host.config(&format!("{}\n[session]\non_breach = \"pause\"\n", rules(&["Bash(true)"], &[], &[])));
    let result = json!({"type": "user", "message": {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_9", "content": "done"}]}});
    let script = format!("#!/bin/sh\nuntil [ -e go ]; do sleep 0.02; done\necho '{result}'\nsleep 600\n");
    let agent = host.program("agent.sh", &script).display().to_string();
    let args = ["--restart", "always", "--agent", "claude", "--program", &agent, "hi"];
    let ids: Vec<String> = (0..2).map(|_| run(&host, &args)).collect();
    for id in &ids {
        until("it runs", || (host.show(id)["status"] == "running").then_some(()));
    }
    let said = |id: &str| {
        let files = std::fs::read_dir(host.data().join("s").join(id)).into_iter().flatten().flatten();
        files.filter_map(|f| std::fs::read_to_string(f.path()).ok()).any(|t| t.contains("toolu_9"))
    };
    reboot_after(&host, &[&ids[0], &ids[1]], || {
        host.file("go", "");
        for id in &ids {
            until("its line is with the shim", || said(id).then_some(()));
        }
    });
    // One daemon dies between what it heard and its decision.
    let mut daemon = host.command(["daemon"]).env("BEADLE_FAILPOINT", "heard_out:1").spawn().expect("the daemon starts");
    until("the daemon has died at the failpoint", || daemon.try_wait().ok().flatten());
    host.daemon();
    for id in &ids {
        let s = host.ended(id);
        assert_eq!((s["outcome"].as_str(), s["attempt"].as_u64(), s["breach_count"].as_u64()), (Some("lost"), Some(1), Some(1)), "{s:#}");
        assert_eq!(host.events_of(id, "mediation_breached")[0]["body"]["action"], "pause");
        assert!(restarts(&host, id).is_empty());
    }
    sound(&host);
}

/// The next attempt cannot be started for a while: what is beside its prompt was asked for once.
#[test]
fn a_start_that_is_tried_again_asks_no_provider_again() {
    let mut host = TestHost::new();
    let provider = "[context.state]\nkind = \"command\"\ncommand = [\"sh\", \"-c\", \"echo x >> asked; echo STATE\"]\ntimeout_ms = 20000\n";
    host.config(&format!("{}\n{provider}", rules(&["Bash"], &[], &[])));
    let model = Model::start(&json!({ "steps": [bash("touch began; until [ -e go ]; do sleep 0.02; done"), { "text": "done" }] }));
    let id = host.run_demo(&model, "make it green", &["--restart", "on-failure", "--backoff", "20"]);
    until("its call runs", || host.work().join("began").exists().then_some(()));
    reboot(&host, &[&id]);
    let mut daemon = host.daemon_with("BEADLE_FAILPOINT", "tried:1");
    until("the daemon has died at the failpoint", || daemon.try_wait().ok().flatten());
    let agent = marked(&id);
    let stat = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent = |pid: &u32| stat(pid).rsplit(") ").next().and_then(|r| r.split(' ').nth(1)).and_then(|p| p.parse::<u32>().ok());
    let shim = agent.iter().filter_map(parent).find(|p| *p > 1 && !agent.contains(p)).expect("a shim");
    let signal = |s: rustix::process::Signal| {
        let pid = i32::try_from(shim).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, s).expect("signalled");
    };
    signal(rustix::process::Signal::STOP);
    let asked = || lines_of(&host.work().join("asked")).len();
    assert_eq!(asked(), 2, "with the first attempt, and by the daemon that died");
    host.daemon();
    let logs = || host.beadle(["host", "logs"]).out;
    until("the start was tried in vain", || logs().contains("cannot be started yet").then_some(()));
    signal(rustix::process::Signal::CONT);
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["attempt"].as_u64()), (Some("succeeded"), Some(2)), "{s:#}");
    assert_eq!(asked(), 3);
    assert_eq!(host.events_of(&id, "context_added").len(), 2);
    sound(&host);
}

#[test]
fn beside_retries_a_loss_is_restarted_and_a_failure_is_retried() {
    let host = TestHost::new();
    let id = waiting(&host, &["--restart", "always", "--retries", "1"]);
    kill(pid(&host, &id, "shim"));
    runs(&host, 2);
    until("it is on record", || (host.show(&id)["attempt"] == 2).then_some(()));
    kill(pid(&host, &id, "agent"));
    runs(&host, 3);
    host.file("end", "");
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["attempt"].as_u64()), (Some("exited"), Some(3)), "{s:#}");
    let whys: Vec<Value> = host.events_of(&id, "attempt_scheduled").iter().map(|e| e["body"]["why"].clone()).collect();
    assert_eq!(whys, ["restart", "retry"]);
    sound(&host);
}

#[test]
fn the_configuration_says_so_for_all_and_a_project_does_not() {
    let host = TestHost::new();
    host.config("[session]\nrestart = \"on-failure\"\n");
    let id = run(&host, &["--", "false"]);
    assert_eq!(host.ended(&id)["attempt"], 2);
    let id = run(&host, &["--restart", "no", "--", "false"]);
    assert_eq!(host.ended(&id)["attempt"], 1);
    host.config("");
    host.file("beadle.toml", "[session]\nrestart = \"always\"\n");
    let id = run(&host, &["--", "false"]);
    assert_eq!(host.ended(&id)["attempt"], 1, "a project is not asked");
}

#[test]
fn an_agent_with_a_gate_goes_on_with_what_the_log_tells_and_is_judged_anew() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash", "Edit(./**)"], &[], &[]));
    let first = "touch began; until [ -e go ]; do sleep 0.02; done";
    let model = Model::start(&json!({ "steps": [bash(first), bash("echo two >> out.txt"), { "text": "done" }] }));
    let id = host.run_demo(&model, "make it green", &["--restart", "on-failure", "--backoff", "20"]);
    until("its call runs", || host.work().join("began").exists().then_some(()));
    reboot(&host, &[&id]);
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["attempt"].as_u64(), s["breach_count"].as_u64()), (Some("succeeded"), Some(2), Some(0)), "{s:#}");
    assert_eq!(lines_of(&host.work().join("out.txt")), ["two"]);
    let prompts = host.events_of(&id, "prompt_submitted");
    let text = prompts.last().and_then(|e| e["body"]["prompt"]["text"].as_str().map(str::to_owned)).expect("a prompt");
    assert!(prompts.len() == 2 && text.contains("started again") && text.ends_with("make it green"), "{prompts:#?}");
    let asked = model.requests().into_iter().map(|r| r.to_string()).find(|r| r.contains("started again")).expect("the model is told");
    assert!(asked.contains("make it green"), "{asked}");
    sound(&host);
}

#[test]
fn one_that_is_kept_for_prompts_waits_for_the_next_one() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash", "Edit(./**)"], &[], &[]));
    let model = Model::start(&json!({ "steps": [{ "text": "first" }, { "text": "second" }] }));
    let id = host.run_demo(&model, "one", &["--keep", "--restart", "on-failure", "--backoff", "20"]);
    until("its turn has ended", || (host.show(&id)["turn_count"] == 1).then_some(()));
    reboot(&host, &[&id]);
    until("it is there again", || (host.show(&id)["attempt"] == 2).then_some(()));
    assert_eq!(host.events_of(&id, "prompt_submitted").len(), 1, "nobody asked it for anything");
    host.beadle(["send", &id, "two"]).ok();
    until("it answers", || host.events_of(&id, "agent_replied").iter().any(|e| e["body"]["text"] == "second").then_some(()));
    host.beadle(["stop", &id]).ok();
    assert_eq!(host.ended(&id)["outcome"], "stopped");
    sound(&host);
}

#[test]
fn claude_goes_on_with_its_own_conversation() {
    let Some((mut host, program)) = crate::claude::host("restart::claude_goes_on_with_its_own_conversation") else { return };
    host.config(&rules(&["Bash", "Edit(./**)"], &[], &[]));
    let wait = "touch began; until [ -e go ]; do sleep 0.02; done";
    let steps = [bash("echo one >> out.txt"), bash(wait), bash("echo three >> out.txt"), json!({ "text": "done" })];
    let model = Model::start(&json!({ "steps": steps }));
    let id = crate::claude::run(&mut host, &program, &model, &["--restart", "on-failure", "--backoff", "20"]);
    until("its second call runs", || host.work().join("began").exists().then_some(()));
    reboot(&host, &[&id]);
    let s = host.ended(&id);
    assert_eq!(
        (s["outcome"].as_str(), s["attempt"].as_u64(), s["breach_count"].as_u64()),
        (Some("succeeded"), Some(2), Some(0)),
        "{s:#} {:#?}",
        host.events(&id)
    );
    assert_eq!(lines_of(&host.work().join("out.txt")), ["one", "three"]);
    let started = &host.events_of(&id, "attempt_started")[1]["body"];
    assert!(started["argv"].to_string().contains("--resume="), "{started:#}");
    assert_eq!((started["why"].as_str(), started["warm"].as_bool()), (Some("restart"), Some(true)));
    let newest =
        model.requests().into_iter().rev().map(|r| r.to_string()).find(|r| r.contains("started again")).expect("the model is asked");
    assert!(newest.contains("echo one"), "what was said before is there");
    sound(&host);
}
