//! The daemon dies at any moment; the session goes on, each question is answered once, nothing is judged or run twice.
//!
//! The proof is a file: every call appends its own number to it, and afterwards it holds exactly the allowed numbers, in order.

use std::time::Duration;

use serde_json::json;

use crate::support::{Model, TestHost, alive, bash, kill, lines_of, marked, rules, until};

/// Odd numbers are denied.
fn script(calls: usize) -> serde_json::Value {
    let mut steps: Vec<_> = (0..calls).map(|n| bash(&format!("echo {} {n} >> out.txt", if n % 2 == 0 { "even" } else { "odd" }))).collect();
    steps.push(json!({ "text": "done" }));
    json!({ "steps": steps })
}

fn host() -> TestHost {
    let host = TestHost::new();
    host.config(&rules(&["Bash(echo even:*)", "Edit(./**)"], &[], &["Bash(echo odd:*)"]));
    host
}

fn prove(host: &TestHost, id: &str, calls: usize, what: &str) {
    let s = host.ended(id);
    assert_eq!(s["outcome"], "succeeded", "{what}: {s:#}");
    let want: Vec<String> = (0..calls).filter(|n| n % 2 == 0).map(|n| format!("even {n}")).collect();
    assert_eq!(lines_of(&host.work().join("out.txt")), want, "{what}");
    let mut decided: Vec<u64> = host.events_of(id, "tool_decided").iter().filter_map(|e| e["body"]["call"].as_u64()).collect();
    let count = decided.len();
    decided.sort_unstable();
    decided.dedup();
    assert_eq!((count, decided.len(), s["call_count"].as_u64()), (calls, calls, Some(calls as u64)), "{what}: each call once");
    let v = host.beadle(["--json", "verify"]).ok().json();
    assert_eq!(v["ok"], true, "{what}: {v:#}");
}

#[test]
fn killed_at_each_failpoint() {
    // Three of them allowed: a third visit of `taken` needs as many.
    const CALLS: usize = 6;
    for point in ["requested", "decided", "appended", "synced", "sent", "taken", "ran", "reported"] {
        for visit in [1, 2, 3] {
            let mut host = host();
            let model = Model::start(&script(CALLS));
            let mut daemon = host.daemon_with("BEADLE_FAILPOINT", &format!("{point}:{visit}"));
            let id = host.run_demo(&model, "go", &[]);
            until("the daemon has died at the failpoint", || daemon.try_wait().ok().flatten());
            prove(&host, &id, CALLS, &format!("{point}:{visit}"));
        }
    }
}

/// A daemon without one of its tasks would leave a session that looks alive and never answers.
#[test]
fn a_panic_in_any_task_ends_the_daemon_and_the_next_one_goes_on() {
    use std::os::unix::process::ExitStatusExt;
    const CALLS: usize = 3;
    // In the session's own task; in one that it started.
    for point in ["synced:2", "checkpointed"] {
        let mut host = host();
        let model = Model::start(&script(CALLS));
        let mut daemon = host.daemon_with("BEADLE_FAILPOINT", &format!("{point}=panic"));
        let id = host.run_demo(&model, "go", &["--verify", "true"]);
        let how = until("the daemon is gone", || daemon.try_wait().ok().flatten());
        assert_eq!(how.signal(), Some(6), "{point}: {how}");
        prove(&host, &id, CALLS, point);
    }
}

#[test]
fn killed_at_random_moments() {
    const CALLS: usize = 6;
    let rounds: u64 = std::env::var("BEADLE_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    // Few folders, many sessions: adoption is also of what earlier rounds left.
    let per_host = 20;
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut round = 0;
    while round < rounds {
        let mut host = host();
        for _ in 0..per_host.min(rounds - round) {
            round += 1;
            let _ = std::fs::remove_file(host.work().join("out.txt"));
            let model = Model::start(&script(CALLS));
            let id = host.run_demo(&model, "go", &[]);
            for _ in 0..=random() % 3 {
                std::thread::sleep(Duration::from_micros(random() % 150_000));
                host.kill_daemon();
            }
            prove(&host, &id, CALLS, &format!("round {round}"));
            drop(model);
        }
    }
}

#[test]
fn an_agent_that_ends_while_no_daemon_runs_is_recorded_whole() {
    let host = host();
    let id =
        host.beadle(["--json", "run", "--detach", "--", "sh", "-c", "until [ -e go ]; do sleep 0.02; done; echo late; exit 3"]).ok().json()
            ["id"]
            .as_str()
            .expect("an id")
            .to_owned();
    host.kill_daemon();
    host.file("go", "");
    until("the agent has ended", || marked(&id).is_empty().then_some(()));
    let s = host.ended(&id);
    assert_eq!((s["exit_code"].as_i64(), s["outcome"].as_str()), (Some(3), Some("failed")));
    assert_eq!(host.beadle(["logs", &id]).ok().out, "late\n");
}

#[test]
fn a_killed_shim_ends_its_agent_and_the_session_is_lost_not_forgotten() {
    let host = host();
    let id = host.beadle(["--json", "run", "--detach", "--", "sh", "-c", "setsid sleep 1000 & sleep 1000"]).ok().json()["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let shim = host.beadle(["--json", "ps", &id]).ok().lines().iter().find(|p| p["role"] == "shim").and_then(|p| p["pid"].as_u64());
    kill(u32::try_from(shim.expect("a shim")).expect("a pid"));
    let s = host.ended(&id);
    assert_eq!(s["outcome"], "lost");
    until("nothing is left", || marked(&id).is_empty().then_some(()));
}

#[test]
fn an_agent_killed_while_a_tool_runs_leaves_nothing() {
    let mut host = host();
    host.config(&rules(&["Bash(sleep:*)"], &[], &[]));
    let model = Model::start(&json!({ "steps": [bash("sleep 1000"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    until("the tool runs", || (!host.events_of(&id, "tool_started").is_empty() && marked(&id).len() >= 2).then_some(()));
    let pid = u32::try_from(host.show(&id)["pid"].as_u64().expect("a pid")).expect("a pid");
    assert!(alive(pid));
    kill(pid);
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["signal"].as_i64()), (Some("failed"), Some(9)));
    assert_eq!(marked(&id), Vec::<u32>::new());
}

/// The pid of the shim of a live session.
fn shim_of(host: &TestHost, id: &str) -> u32 {
    let all = host.beadle(["--json", "ps", id]).ok().lines();
    let shim = all.iter().find(|p| p["role"] == "shim");
    shim.and_then(|p| p["pid"].as_u64()).and_then(|p| u32::try_from(p).ok()).unwrap_or_else(|| panic!("no shim in {all:?}"))
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("signalled");
}

#[test]
fn a_shim_that_is_silent_over_a_restart_of_the_daemon_is_not_lost() {
    use rustix::process::Signal;
    let mut host = TestHost::new();
    host.config(&rules(&["Edit(./**)"], &["Bash(echo:*)"], &[]));
    let model = Model::start(&json!({ "steps": [bash("echo one >> out.txt"), bash("echo two >> out.txt"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &["--keep"]);
    until("a question waits", || (host.show(&id)["waiting_count"] == 1).then_some(()));
    let question = |n: usize| {
        until("a question is asked", || host.events_of(&id, "approval_requested").get(n).map(|e| format!("{id}:{}", e["body"]["call"])))
    };
    let first = question(0);
    let shim = shim_of(&host, &id);
    signal(shim, Signal::STOP);
    host.kill_daemon();
    host.daemon();
    // It takes requests for the session, does none of it, and calls nothing lost.
    let approve = host.beadle(["approve", &first]);
    assert!(approve.code == 1 && approve.err.contains("BDL-SESSION-035"), "{approve:?}");
    let stop = host.beadle(["stop", &id]);
    assert!(stop.code == 1 && stop.err.contains("BDL-SESSION-035"), "{stop:?}");
    host.beadle(["rule", "add", "deny", "Bash(curl:*)"]).ok();
    let s = host.show(&id);
    assert_eq!((s["status"].as_str(), s["waiting_count"].as_u64()), (Some("running"), Some(1)), "{s:#}");
    assert!(host.events_of(&id, "approval_resolved").is_empty() && host.events_of(&id, "session_ended").is_empty());
    assert_eq!(host.events_of(&id, "rule_added").len(), 1, "what needs no shim is done");
    signal(shim, Signal::CONT);
    until("the answer is taken", || (host.beadle(["approve", &first]).code == 0).then_some(()));
    let second = question(1);
    host.beadle(["approve", &second]).ok();
    let turn = |n: usize| until("a turn has ended", || (host.events_of(&id, "turn_ended").len() == n).then_some(()));
    turn(1);
    // The stop that was refused is none: it takes prompts.
    host.beadle(["--json", "send", &id, "more"]).ok();
    turn(2);
    host.beadle(["stop", &id]).ok();
    assert_eq!(host.ended(&id)["outcome"], "stopped");
    assert_eq!(lines_of(&host.work().join("out.txt")), ["one", "two"], "each call ran once");
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn what_descends_from_a_silent_shim_has_its_sessions_role_and_can_be_killed() {
    use rustix::process::Signal;
    let host = TestHost::new();
    let script = format!(
        "touch ready; while [ ! -e go ]; do sleep 0.05; done; BEADLE_HOME={} {} ls > said 2>&1; touch over; sleep 600",
        host.beadle_home().display(),
        env!("CARGO_BIN_EXE_beadle")
    );
    let id = host.beadle(["--json", "run", "--detach", "--", "sh", "-c", &script]).ok().json()["id"].as_str().expect("an id").to_owned();
    until("the agent runs", || host.work().join("ready").exists().then_some(()));
    let shim = shim_of(&host, &id);
    signal(shim, Signal::STOP);
    host.kill_daemon();
    host.daemon();
    host.file("go", "");
    until("the agent asked", || host.work().join("over").exists().then_some(()));
    let said = std::fs::read_to_string(host.work().join("said")).unwrap_or_default();
    assert!(said.contains("BDL-API-001"), "a silent shim makes no operator of what is below it: {said}");
    host.beadle(["kill", &id]).ok();
    let s = host.ended(&id);
    assert_eq!(s["outcome"], "killed", "{s:#}");
    until("nothing of it is left", || (marked(&id).is_empty() && !alive(shim)).then_some(()));
}

/// A machine that gave a dead shim's number to somebody else while no daemon ran.
#[test]
fn a_number_that_somebody_else_has_by_now_is_no_shim_and_nobody_is_killed_for_it() {
    let host = host();
    let id = host.beadle(["--json", "run", "--detach", "--", "sleep", "1000"]).ok().json()["id"].as_str().expect("an id").to_owned();
    let (shim, agent) = (shim_of(&host, &id), host.show(&id)["pid"].as_u64().expect("a pid"));
    host.kill_daemon();
    kill(shim);
    until("its agent has gone with it", || marked(&id).is_empty().then_some(()));
    let mut stranger = std::process::Command::new("sleep").arg("1000").spawn().expect("a stranger");
    let lock = host.data().join("s").join(&id).join("lock");
    let text = std::fs::read_to_string(&lock).expect("a lock file");
    assert!(text.contains(&shim.to_string()) && text.contains(&agent.to_string()), "{text}");
    let number = stranger.id().to_string();
    std::fs::write(&lock, text.replace(&agent.to_string(), &number).replace(&shim.to_string(), &number)).expect("written");
    host.daemon();
    let s = host.ended(&id);
    assert_eq!(s["outcome"], "lost", "{s:#}");
    assert!(stranger.try_wait().expect("asked").is_none() && alive(stranger.id()), "the stranger was killed");
    stranger.kill().expect("killed");
    stranger.wait().expect("reaped");
    host.beadle(["verify"]).ok();
}

/// What the agent says is read by the daemon that has the file open; the next one finds it gone, and says so: nothing waits for ever.
#[test]
fn a_deleted_log_is_read_on_by_who_has_it_open_and_ends_the_session_at_the_next_daemon() {
    let mut host = host();
    host.config(&rules(&["Bash(until:*)", "Bash(test:*)", "Bash(sleep:*)", "Bash(echo even:*)", "Edit(./**)"], &[], &[]));
    let wait = |name: &str| bash(&format!("until test -e {name}; do sleep 0.02; done"));
    for (name, outcome) in [("read", "succeeded"), ("gone", "failed")] {
        let model = Model::start(&json!({ "steps": [wait(name), bash(&format!("echo even {name} >> out.txt")), { "text": "done" }] }));
        let id = host.run_demo(&model, "go", &[]);
        until("its first call runs", || (!host.events_of(&id, "tool_started").is_empty()).then_some(()));
        std::fs::remove_file(host.data().join("s").join(&id).join("out-00000000000000000000.seg")).expect("the log");
        if name == "gone" {
            host.kill_daemon();
            host.daemon();
        }
        host.file(name, "");
        let s = host.ended(&id);
        assert_eq!(s["outcome"], outcome, "{s:#}");
        let why = s["end_reason"].as_str().unwrap_or_default();
        assert_eq!(why.contains("are gone from"), name == "gone", "{why}");
        until("nothing is left", || marked(&id).is_empty().then_some(()));
        host.assert_accounted(&id);
    }
    assert_eq!(lines_of(&host.work().join("out.txt")), ["even read"], "nothing ran that was not decided");
    host.beadle(["verify"]).ok();
}
