//! Approvals: the queue survives terminals, daemons and agents; each question gets one answer, whoever gives it and whatever dies.

use serde_json::{Value, json};

use crate::support::{Model, TestHost, bash, kill, lines_of, marked, rules, until};

/// Everything is asked about that the built-in agent's shell does.
fn host(more: &str) -> TestHost {
    let host = TestHost::new();
    host.config(&format!("{more}\n{}", rules(&["Edit(./**)"], &["Bash(echo:*)", "Bash(touch:*)"], &[])));
    host
}

/// The id of the session's question number `n` (from 0), once it waits.
fn waiting(host: &TestHost, session: &str, n: usize) -> String {
    until("a call waits", || {
        let list = host.beadle(["--json", "events", session, "-k", "approval_requested"]);
        let list = if list.code == 0 { list.lines() } else { vec![] };
        list.get(n).and_then(|e| Some(format!("{}:{}", e["session"].as_str()?, e["body"]["call"])))
    })
}

fn only<'a>(list: &'a [Value], what: &str) -> &'a Value {
    assert_eq!(list.len(), 1, "{what}: {list:#?}");
    &list[0]["body"]
}

/// What the log says became of the one question: effect and by of the decision, state of the approval.
fn became(host: &TestHost, id: &str) -> (String, String, String) {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let (resolved, decided) = (host.events_of(id, "approval_resolved"), host.events_of(id, "tool_decided"));
    let (r, d) = (only(&resolved, "one resolution"), only(&decided, "one decision"));
    assert_eq!(r["effect"], d["effect"]);
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
    (text(&d["effect"]), text(&d["by"]), text(&r["state"]))
}

#[test]
fn an_ask_without_a_terminal_waits_and_survives_the_daemon() {
    let mut host = host("");
    let model = Model::start(&json!({ "steps": [bash("echo one >> out.txt"), bash("echo two >> out.txt"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    let first = waiting(&host, &id, 0);
    host.kill_daemon();
    assert_eq!(host.show(&id)["waiting_count"], 1, "it waits in the next daemon too");
    host.beadle(["approve", &first, "--reason", "fine"]).ok();
    let second = waiting(&host, &id, 1);
    host.kill_daemon();
    host.beadle(["deny", &second, "--reason", "once is enough"]).ok();
    assert_eq!(host.ended(&id)["outcome"], "succeeded");
    assert_eq!(lines_of(&host.work().join("out.txt")), ["one"]);
    let resolved = host.events_of(&id, "approval_resolved");
    let by = &resolved[0]["body"]["by"];
    assert_eq!((by["role"].as_str(), by["uid"].as_u64()), (Some("operator"), Some(u64::from(rustix::process::geteuid().as_raw()))));
    assert!(by["exe"].as_str().is_some_and(|p| p.ends_with("/beadle")) && by["pid"].is_u64(), "from where: {by}");
    let late = host.beadle(["approve", &second]);
    assert_eq!(late.code, 1);
    for word in ["BDL-SESSION-015", "was denied by operator (uid ", "once is enough", "/beadle"] {
        assert!(late.err.contains(word), "no {word:?} in {}", late.err);
    }
    assert_eq!(host.beadle(["approve", &format!("{id}:1")]).code, 3, "there never was such a question");
}

#[test]
fn what_nobody_answers_in_time_is_denied_as_expired() {
    let mut host = host("approvals.timeout_ms = 300");
    let model = Model::start(&json!({ "steps": [bash("touch a"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    let (effect, by, state) = became(&host, &id);
    assert_eq!((effect.as_str(), by.as_str(), state.as_str()), ("deny", "expired", "expired"));
    assert!(!host.work().join("a").exists());
    let late = host.beadle(["approve", &waiting(&host, &id, 0)]);
    assert!(late.code == 1 && late.err.contains("was expired by the host"), "{}", late.err);
}

#[test]
fn time_that_runs_out_while_no_daemon_runs_counts() {
    let mut host = host("approvals.timeout_ms = 1500");
    let model = Model::start(&json!({ "steps": [bash("touch a"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    let expires = host.events_of(&id, "approval_requested").first().and_then(|e| e["body"]["expires_at"].as_i64());
    let expires = expires.unwrap_or_else(|| {
        waiting(&host, &id, 0);
        host.events_of(&id, "approval_requested")[0]["body"]["expires_at"].as_i64().expect("a time")
    });
    host.kill_daemon();
    until("its time is over", || (beadle::model::Clock::wall_ms(&beadle::model::SystemClock) > expires).then_some(()));
    host.ended(&id);
    assert_eq!(became(&host, &id).1, "expired");
    assert!(!host.work().join("a").exists());
}

#[test]
fn when_the_machine_restarts_what_waited_is_denied_and_that_is_on_record() {
    let mut host = host("");
    let model = Model::start(&json!({ "steps": [bash("touch a"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    let approval = waiting(&host, &id, 0);
    let family = host.beadle(["--json", "ps", &id]).ok().lines();
    host.kill_daemon();
    // A reboot ends all at once: the shim first, so that nobody writes down how the agent ended.
    for role in ["shim", "agent"] {
        let pid = family.iter().find(|p| p["role"] == role).and_then(|p| p["pid"].as_u64()).expect(role);
        kill(u32::try_from(pid).expect("a pid"));
    }
    until("nothing of the session is left", || marked(&id).is_empty().then_some(()));
    assert_eq!(host.ended(&id)["outcome"], "lost");
    let (effect, by, state) = became(&host, &id);
    assert_eq!((effect.as_str(), by.as_str(), state.as_str()), ("deny", "withdrawn", "cancelled"));
    assert_eq!(host.beadle(["approve", &approval]).code, 1);
    assert!(!host.work().join("a").exists());
}

/// The daemon dies at a point around a person's answer; afterwards another person says the opposite. Whatever the log holds as the first
/// durable answer is what happened, once.
#[test]
fn killed_around_an_answer_the_call_runs_once_or_not_at_all_as_decided() {
    let mut host = host("");
    for point in ["appended", "synced", "sent", "taken", "ran", "reported"] {
        for (say, then) in [("approve", "deny"), ("deny", "approve")] {
            if say == "deny" && matches!(point, "ran" | "reported") {
                continue; // A denied call passes them too, with the agent's own error; `sent` and `taken` cover it.
            }
            let what = format!("{say} at {point}");
            let _ = std::fs::remove_file(host.work().join("out.txt"));
            let model = Model::start(&json!({ "steps": [bash("echo once >> out.txt"), { "text": "done" }] }));
            let id = host.run_demo(&model, "go", &[]);
            let approval = waiting(&host, &id, 0);
            host.kill_daemon();
            let mut daemon = host.daemon_with("BEADLE_FAILPOINT", point);
            host.beadle([say, &approval]);
            until("the daemon has died at the failpoint", || daemon.try_wait().ok().flatten());
            let second = host.beadle([then, &approval]);
            host.ended(&id);
            let (effect, by, _) = became(&host, &id);
            assert_eq!(by, "approval", "{what}");
            let first_held = effect == if say == "approve" { "allow" } else { "deny" };
            assert_eq!(second.code, i32::from(first_held), "{what}: {second:?}");
            if point != "appended" {
                assert!(first_held, "{what}: it was durable");
            }
            let ran = lines_of(&host.work().join("out.txt")).len();
            assert_eq!(ran, usize::from(effect == "allow"), "{what}");
            assert_eq!(host.show(&id)["outcome"], "succeeded", "{what}");
        }
    }
}

/// An agent that asks once, withdraws its question when the file `withdraw` is there, and writes down every line it is told.
const RESTLESS: &str = r#"#!/bin/sh
printf '%s\n' '{"type":"control_request","request_id":"r1","request":{"subtype":"can_use_tool","tool_name":"Bash","tool_use_id":"t1","input":{"command":"touch a"}}}'
( until [ -e withdraw ]; do sleep 0.01; done
  printf '%s\n' '{"type":"control_cancel_request","request_id":"r1"}' ) &
exec cat > told.txt
"#;

#[test]
fn yes_no_time_and_withdrawal_at_once_give_one_answer_and_one_frame() {
    let host = host("approvals.timeout_ms = 700");
    let agent = host.program("restless", RESTLESS);
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..12u64 {
        let _ = std::fs::remove_file(host.work().join("withdraw"));
        let args = ["--json", "run", "--agent", "claude", "--program", agent.to_str().expect("text"), "--keep", "--detach", "go"];
        let id = host.beadle(args).ok().json()["id"].as_str().expect("an id").to_owned();
        let approval = waiting(&host, &id, 0);
        let expires = host.events_of(&id, "approval_requested")[0]["body"]["expires_at"].as_i64().expect("a time");
        // Everything comes about when the time is over; which is first changes from round to round.
        let at = expires - 60 + i64::try_from(round * 7).expect("small");
        until("the moment has come", || (beadle::model::Clock::wall_ms(&beadle::model::SystemClock) >= at).then_some(()));
        if round % 3 == 0 {
            host.file("withdraw", "");
        }
        let mut said: Vec<_> = ["approve", "deny", "approve", "deny"].iter().map(|verb| host.spawn([*verb, &approval])).collect();
        host.file("withdraw", "");
        let yes = said.iter_mut().filter_map(|c| c.wait().ok()).filter(std::process::ExitStatus::success).count();
        let (effect, by, state) =
            until("it is answered", || (!host.events_of(&id, "approval_resolved").is_empty()).then(|| became(&host, &id)));
        assert_eq!(yes, usize::from(by == "approval"), "round {round}: only the first one was taken ({by}, {state})");
        host.beadle(["stop", &id, "--grace", "0"]).ok();
        host.ended(&id);
        let told =
            lines_of(&host.work().join("told.txt")).iter().filter(|l| l.contains("control_response") && l.contains("\"r1\"")).count();
        assert_eq!(told, usize::from(by != "withdrawn"), "round {round}: one frame ({by})");
        let (after, ..) = became(&host, &id);
        assert_eq!(after, effect, "the first answer holds");
        seen.insert(by);
    }
    assert!(seen.len() > 1, "the rounds differ: {seen:?}");
}
