//! Parking on the real Claude Code: a session whose only question nobody answers is put away, and started anew at the answer.

use std::path::Path;

use serde_json::{Value, json};

use crate::claude::{host as claude_host, run};
use crate::support::{Model, TestHost, bash, lines_of, marked, rules, until};

const DAYS: u64 = 3 * 24 * 3_600_000;

/// Every call is asked about; waits for days, put away after `after_ms`.
fn configure(host: &TestHost, timeout_ms: u64, after_ms: u64) {
    let own = rules(&["Read(./**)"], &["Bash(echo:*)", "Edit(./**)"], &[]);
    host.config(&format!("host.log = \"debug\"\napprovals.timeout_ms = {timeout_ms}\napprovals.park_after_ms = {after_ms}\n{own}"));
}

fn host(test: &str) -> Option<(TestHost, std::path::PathBuf)> {
    let (host, program) = claude_host(&format!("park: {test}"))?;
    configure(&host, DAYS, 100);
    Some((host, program))
}

fn one_call() -> Model {
    Model::start(&json!({ "steps": [bash("echo one >> out.txt"), { "text": "done" }] }))
}

/// The question that waits, once the session is put away.
fn parked(host: &TestHost, id: &str) -> String {
    until("the session is put away", || {
        let s = host.show(id);
        assert_ne!(s["status"], "ended", "{s:#} {:#?}", host.events(id));
        (s["status"] == "paused").then_some(())
    });
    assert_eq!(marked(id), Vec::<u32>::new(), "nothing of a paused session runs");
    let s = host.show(id);
    assert_eq!((s["waiting_count"].as_u64(), s["pid"].as_u64()), (Some(1), None), "{s:#}");
    let list = host.beadle(["--json", "approvals"]).ok().lines();
    assert_eq!(list.len(), 1, "{list:#?}");
    list[0]["id"].as_str().expect("an id").to_owned()
}

fn out(host: &TestHost) -> Vec<String> {
    lines_of(&host.work().join("out.txt"))
}

fn kept(host: &TestHost, id: &str) -> std::path::PathBuf {
    fn find(dir: &Path, id: &str) -> Option<std::path::PathBuf> {
        std::fs::read_dir(dir)
            .ok()?
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.is_dir())
            .find_map(|p| if p.ends_with(id) { Some(p) } else { find(&p, id) })
    }
    find(&host.beadle_home(), id).expect("the session's folder").join("relaunch.json")
}

/// One call was asked about, answered once, and told once.
fn once(host: &TestHost, id: &str, what: &str) {
    for kind in ["tool_requested", "approval_requested", "approval_resolved", "tool_decided", "tool_answered", "session_ended"] {
        assert_eq!(host.events_of(id, kind).len(), 1, "{what}: {kind}: {:#?}", host.events(id));
    }
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true, "{what}");
}

#[test]
fn put_away_twice_approved_and_denied_with_one_bill() {
    let Some((mut host, program)) = host("put_away_twice_approved_and_denied_with_one_bill") else { return };
    host.set("ANTHROPIC_API_KEY", "value-that-is-in-no-log");
    let model = Model::start(&json!({ "steps": [bash("echo one >> out.txt"), bash("echo two >> out.txt"), { "text": "done" }] }));
    let id = run(&mut host, &program, &model, &[]);
    let first = parked(&host, &id);
    assert!(std::fs::read_to_string(kept(&host, &id)).is_ok_and(|t| t.contains("value-that-is-in-no-log")));
    let sent = host.beadle(["--json", "send", &id, "and more"]);
    assert!(sent.code != 0 && sent.err.contains("BDL-SESSION-040"), "{sent:?}");
    host.kill_daemon();
    host.beadle(["approve", &first]).ok();
    let second = until("the second question", || {
        let list = host.beadle(["--json", "approvals"]).ok().lines();
        list.first().and_then(|a| a["id"].as_str().map(str::to_owned)).filter(|a| *a != first)
    });
    assert_eq!(parked(&host, &id), second, "a resumed agent is put away again");
    host.beadle(["deny", &second, "--reason", "not-the-second"]).ok();
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["attempt"].as_u64()), (Some("succeeded"), Some(3)), "{s:#} {:#?}", host.events(&id));
    assert_eq!(out(&host), ["one"]);
    assert_eq!(s["cost"]["nanousd"], s["agent_cost"]["nanousd"], "our bill is the agent's own over all attempts: {s:#}");
    assert_eq!((s["usage"]["output"].as_u64(), s["turn_count"].as_u64()), (Some(3 * 34), Some(1)), "{s:#}");
    assert_eq!((s["call_count"].as_u64(), s["breach_count"].as_u64()), (Some(2), Some(0)), "{s:#}");
    assert!(model.requests().iter().any(|r| r.to_string().contains("not-the-second")), "the model heard the denial");
    let kinds: Vec<String> = host.events(&id).iter().filter_map(|e| e["kind"].as_str().map(str::to_owned)).collect();
    let story: Vec<&str> = kinds
        .iter()
        .map(String::as_str)
        .filter(|k| {
            [
                "approval_requested",
                "tool_deferred",
                "session_paused",
                "approval_resolved",
                "session_resumed",
                "tool_answered",
                "tool_started",
            ]
            .contains(k)
        })
        .collect();
    let round = ["approval_requested", "tool_deferred", "session_paused", "approval_resolved", "session_resumed", "tool_answered"];
    let want: Vec<&str> = round.iter().chain(&["tool_started"]).chain(&round).copied().collect();
    assert_eq!(story, want, "{kinds:?}");
    assert_eq!(kinds.iter().filter(|k| *k == "tool_requested").count(), 2, "no call is on record twice");
    assert!(!kept(&host, &id).exists(), "what was kept goes with the session");
    let log: String = host.events(&id).iter().map(Value::to_string).collect();
    assert!(!log.contains("value-that-is-in-no-log"), "values of the environment are not in the log");
    host.assert_accounted(&id);
    let account = host.beadle(["--json", "account", &id]).ok().json();
    let ends: Vec<&str> = account["calls"].as_array().expect("calls").iter().filter_map(|c| c["end"].as_str()).collect();
    assert_eq!(ends, ["ran", "denied"], "{account:#}");
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn the_daemon_is_killed_at_each_step() {
    let Some((mut host, program)) = host("the_daemon_is_killed_at_each_step") else { return };
    let out_and_in = ["deferring", "deferred", "confirmed", "left", "paused", "resuming", "resumed", "relaunched", "reasked", "answered"];
    for point in out_and_in.into_iter().chain(["appended", "synced", "taken", "ran", "reported"]) {
        let _ = std::fs::remove_file(host.work().join("out.txt"));
        host.beadle(["host", "stop"]);
        let model = one_call();
        let mut daemon = host.daemon_with("BEADLE_FAILPOINT", point);
        let id = run(&mut host, &program, &model, &[]);
        let mut died = false;
        let s = until(&format!("the session killed at {point} has ended"), || {
            died |= daemon.try_wait().ok().flatten().is_some();
            // why not ok: the daemon may die under any of these; the next one is asked again.
            let s = host.beadle(["--json", "show", &id]);
            let s: Value = serde_json::from_str(s.out.trim()).ok()?;
            if s["status"] == "ended" {
                return Some(s);
            }
            if s["status"] == "paused" {
                host.beadle(["approve", &format!("{id}:{}", host.events_of(&id, "tool_requested")[0]["seq"])]);
            }
            None
        });
        assert!(died, "{point} was not reached");
        assert_eq!(s["outcome"], "succeeded", "{point}: {s:#} {:#?}", host.events(&id));
        assert_eq!(out(&host), ["one"], "{point}: it ran once");
        assert_eq!(s["cost"]["nanousd"], s["agent_cost"]["nanousd"], "{point}: {s:#}");
        once(&host, &id, point);
    }
}

#[test]
fn an_answer_while_the_agent_leaves_brings_it_back() {
    let Some((mut host, program)) = host("an_answer_while_the_agent_leaves_brings_it_back") else { return };
    let gate = host.home().join("gate");
    std::fs::create_dir_all(&gate).expect("a folder");
    let model = one_call();
    let mut daemon = host.daemon_with("BEADLE_FAILPOINT", &format!("deferred=wait:{}", gate.display()));
    let id = run(&mut host, &program, &model, &[]);
    until("the deferral is on record and not told", || gate.join("reached").exists().then_some(()));
    let list = host.beadle(["--json", "approvals"]).ok().lines();
    let mut approve = host.spawn(["approve", list[0]["id"].as_str().expect("an id")]);
    std::fs::write(gate.join("go"), "").expect("written");
    assert!(approve.wait().expect("the command ends").success());
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), out(&host)), (Some("succeeded"), vec!["one".to_owned()]), "{s:#} {:#?}", host.events(&id));
    assert_eq!(host.events_of(&id, "session_paused").len(), 1);
    once(&host, &id, "answered on the way out");
    host.beadle(["host", "stop"]).ok();
    daemon.wait().expect("the daemon ends");
}

#[test]
fn what_nobody_answers_in_time_is_denied_and_the_agent_hears_it() {
    let Some((mut host, program)) = host("what_nobody_answers_in_time_is_denied_and_the_agent_hears_it") else { return };
    configure(&host, 20_000, 100);
    let model = one_call();
    let id = run(&mut host, &program, &model, &[]);
    parked(&host, &id);
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), out(&host).len()), (Some("succeeded"), 0), "{s:#} {:#?}", host.events(&id));
    assert_eq!(host.events_of(&id, "tool_decided")[0]["body"]["by"], "expired");
    assert!(model.requests().iter().any(|r| r.to_string().contains("nobody answered in time")), "the model heard it");
    once(&host, &id, "expired");
}

#[test]
fn a_paused_session_is_stopped_and_killed() {
    let Some((mut host, program)) = host("a_paused_session_is_stopped_and_killed") else { return };
    for (verb, outcome) in [("stop", "stopped"), ("kill", "killed")] {
        let model = one_call();
        let id = run(&mut host, &program, &model, &[]);
        let question = parked(&host, &id);
        host.beadle([verb, &id]).ok();
        let s = host.ended(&id);
        assert_eq!((s["outcome"].as_str(), out(&host).len()), (Some(outcome), 0), "{s:#}");
        assert!(host.beadle(["approve", &question]).code != 0 && !kept(&host, &id).exists());
        assert_eq!(host.events_of(&id, "session_resumed").len(), 0);
    }
}

#[test]
fn what_does_not_come_back_as_it_was_ends_loudly_and_runs_nothing() {
    let Some((mut host, program)) = host("what_does_not_come_back_as_it_was_ends_loudly_and_runs_nothing") else { return };
    // Each breaks something between the pause and the answer, and names what is then told.
    type Break = fn(&TestHost, &str);
    let breaks: [(&str, Break, &str); 3] = [
        ("the kept file was changed", |h, id| std::fs::write(kept(h, id), "{}").expect("written"), "was changed since"),
        ("the kept file is gone", |h, id| std::fs::remove_file(kept(h, id)).expect("removed"), "cannot be opened"),
        ("the agent has lost the conversation", |h, _| std::fs::remove_dir_all(h.home().join("claude/projects")).expect("removed"), ""),
    ];
    for (what, broken, told) in breaks {
        let model = one_call();
        let id = run(&mut host, &program, &model, &[]);
        let question = parked(&host, &id);
        broken(&host, &id);
        host.beadle(["approve", &question]).ok();
        let s = host.ended(&id);
        assert_eq!((s["outcome"].as_str(), out(&host).len()), (Some("failed"), 0), "{what}: {s:#} {:#?}", host.events(&id));
        let reason = host.events_of(&id, "session_ended")[0]["body"]["reason"].to_string();
        assert!(reason.contains(told), "{what}: {reason}");
    }
}

#[test]
fn an_edit_of_a_file_that_changed_meanwhile_is_refused_by_the_agent_which_goes_on() {
    let Some((mut host, program)) = host("an_edit_of_a_file_that_changed_meanwhile_is_refused_by_the_agent_which_goes_on") else { return };
    let file = host.file("a.txt", "one\n");
    let path = file.display().to_string();
    let script = |old: &str, new: &str| {
        json!({ "steps": [
            { "tool": "Read", "input": { "file_path": path } },
            { "tool": "Edit", "input": { "file_path": path, "old_string": old, "new_string": new } },
            { "text": "done" },
        ]})
    };
    for changed in [false, true] {
        let model = Model::start(&if changed { script("two", "three") } else { script("one", "two") });
        let id = run(&mut host, &program, &model, &[]);
        let question = parked(&host, &id);
        if changed {
            std::fs::write(&file, "by another hand\ntwo\n").expect("written");
            let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
            std::fs::File::options().write(true).open(&file).and_then(|f| f.set_modified(later)).expect("a later time");
        }
        host.beadle(["approve", &question]).ok();
        let s = host.ended(&id);
        assert_eq!(s["outcome"], "succeeded", "{s:#} {:#?}", host.events(&id));
        let want = if changed { "by another hand\ntwo\n" } else { "two\n" };
        assert_eq!(std::fs::read_to_string(&file).unwrap_or_default(), want);
        let note = host.events_of(&id, "note").iter().any(|n| n["body"]["text"].to_string().contains("refused it itself"));
        assert_eq!((host.events_of(&id, "tool_answered").len(), note), (usize::from(!changed), changed), "{:#?}", host.events(&id));
    }
}

/// An agent that is Claude at first, and when it is resumed asks for another call than the one that was put away.
#[test]
fn a_resumed_agent_that_asks_for_something_else_is_ended_unanswered() {
    let Some((mut host, program)) = host("a_resumed_agent_that_asks_for_something_else_is_ended_unanswered") else { return };
    for (what, tool_use, command) in
        [("another input", "toolu_same", "echo other >> out.txt"), ("another call", "toolu_other", "echo one >> out.txt")]
    {
        let ask = json!({"type": "control_request", "request_id": "q1", "request": {"subtype": "can_use_tool", "tool_name": "Bash",
            "input": {"command": command, "description": "test"}, "tool_use_id": tool_use}});
        let wrapper = host.program(
            "agent.sh",
            &format!(
                "#!/bin/sh\ncase \"$*\" in\n*--resume=*) printf '%s\\n' '{ask}'; while read -r line; do case \"$line\" in *'\"behavior\":\"allow\"'*) echo ran >> out.txt;; esac; done;;\n*) exec {} \"$@\";;\nesac\n",
                program.display()
            ),
        );
        let step = json!({ "tools": [{ "name": "Bash", "id": "toolu_same", "input": { "command": "echo one >> out.txt", "description": "test" } }] });
        let model = Model::start(&json!({ "steps": [step, { "text": "done" }] }));
        let id = run(&mut host, &wrapper, &model, &[]);
        let question = parked(&host, &id);
        host.beadle(["approve", &question]).ok();
        let s = host.ended(&id);
        assert_eq!((s["outcome"].as_str(), out(&host).len()), (Some("failed"), 0), "{what}: {s:#} {:#?}", host.events(&id));
        let reason = host.events_of(&id, "session_ended")[0]["body"]["reason"].to_string();
        assert!(reason.contains("did not ask about it"), "{what}: {:#?}", host.events(&id));
        assert_eq!((host.events_of(&id, "tool_answered").len(), host.events_of(&id, "tool_requested").len()), (0, 1), "{what}");
    }
}

#[test]
fn an_agent_killed_on_its_way_out_ends_the_session() {
    let Some((mut host, program)) = host("an_agent_killed_on_its_way_out_ends_the_session") else { return };
    let gate = host.home().join("gate");
    std::fs::create_dir_all(&gate).expect("a folder");
    let model = one_call();
    let mut daemon = host.daemon_with("BEADLE_FAILPOINT", &format!("confirmed=wait:{}", gate.display()));
    let id = run(&mut host, &program, &model, &[]);
    until("the agent has named its call", || gate.join("reached").exists().then_some(()));
    crate::support::kill(u32::try_from(host.show(&id)["pid"].as_u64().expect("a pid")).expect("a pid"));
    std::fs::write(gate.join("go"), "").expect("written");
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), out(&host).len()), (Some("failed"), 0), "{s:#}");
    let reason = host.events_of(&id, "session_ended")[0]["body"]["reason"].to_string();
    assert!(reason.contains("did not end as one that can be started anew"), "{reason}");
    assert!(host.beadle(["--json", "approvals"]).ok().lines().is_empty());
    host.beadle(["host", "stop"]).ok();
    daemon.wait().expect("the daemon ends");
}

/// Where something else of the session would be lost, it waits with its agent.
#[test]
fn what_would_not_come_back_whole_is_not_put_away() {
    let Some((mut host, program)) = host("what_would_not_come_back_whole_is_not_put_away") else { return };
    let background = json!({ "command": "sleep 1000", "description": "test", "run_in_background": true });
    let echo = |n: &str| json!({ "name": "Bash", "input": { "command": format!("echo {n} >> out.txt"), "description": "test" } });
    for (script, why) in [
        (json!([{ "tools": [echo("one"), echo("two")] }, { "text": "done" }]), "other calls of the message are open"),
        (json!([{ "tool": "Bash", "input": background }, bash("echo one >> out.txt"), { "text": "done" }]), "runs in the session"),
    ] {
        let own = rules(&["Bash(sleep:*)", "Bash(echo two:*)", "Edit(./**)"], &["Bash(echo one:*)"], &[]);
        host.config(&format!("host.log = \"debug\"\napprovals.timeout_ms = {DAYS}\napprovals.park_after_ms = 100\n{own}"));
        host.beadle(["host", "stop"]);
        let model = Model::start(&json!({ "steps": script }));
        let id = run(&mut host, &program, &model, &[]);
        let waits = until("a call waits", || host.beadle(["--json", "approvals"]).ok().lines().first().cloned());
        until(&format!("the host says why: {why}"), || {
            let log = host.beadle(["host", "logs"]).out;
            log.lines().any(|l| l.contains(&id) && l.contains("is not put away") && l.contains(why)).then_some(())
        });
        assert_eq!(host.show(&id)["status"], "running");
        host.beadle(["approve", waits["id"].as_str().expect("an id")]).ok();
        let s = host.ended(&id);
        assert_eq!(s["outcome"], "succeeded", "{s:#} {:#?}", host.events(&id));
        assert_eq!((host.events_of(&id, "tool_deferred").len(), s["attempt"].as_u64()), (0, Some(1)));
        assert_eq!(host.events_of(&id, "tool_answered").len(), 1, "a held call is told at its gate");
    }
}
