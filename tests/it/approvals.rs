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
fn a_call_whose_secret_the_log_does_not_keep_is_allowed_by_no_later_daemon() {
    let mut host = host("");
    let token = format!("ghp_{}", "a1".repeat(20));
    let model = Model::start(&json!({ "steps": [
        bash(&format!("echo {token} >> out.txt")), bash(&format!("echo again {token} >> out.txt")), { "text": "done" },
    ] }));
    let id = host.run_demo(&model, "go", &[]);
    let first = waiting(&host, &id, 0);
    host.beadle(["approve", &first]).ok();
    let second = waiting(&host, &id, 1);
    host.kill_daemon();
    let refused = host.beadle(["approve", &second]);
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains("BDL-SESSION-003") && refused.err.contains("held a secret"), "{}", refused.err);
    assert_eq!(host.show(&id)["waiting_count"], 1, "it waits on");
    host.beadle(["deny", &second]).ok();
    assert_eq!(host.ended(&id)["outcome"], "succeeded");
    assert_eq!(lines_of(&host.work().join("out.txt")), [token.as_str()], "the call that ran had its own words");
    assert!(!host.beadle(["export", &id]).ok().out.contains(&token), "and the log has none of them");
}

#[test]
fn a_session_has_so_many_questions_and_no_more() {
    let host = host("limits.waiting_asks = 2");
    let agent = host.program("eager", EAGER);
    let args = ["--json", "run", "--agent", "claude", "--program", agent.to_str().expect("text"), "--keep", "--detach", "go"];
    let id = host.beadle(args).ok().json()["id"].as_str().expect("an id").to_owned();
    waiting(&host, &id, 1);
    let denied = until("the third is denied", || host.events_of(&id, "tool_decided").pop());
    assert_eq!((denied["body"]["effect"].as_str(), denied["body"]["by"].as_str()), (Some("deny"), Some("host")));
    assert!(denied["body"]["reason"].as_str().is_some_and(|r| r.contains("limits.waiting_asks")), "{denied}");
    assert_eq!(host.show(&id)["waiting_count"], 2);
    host.beadle(["stop", &id, "--grace", "0"]).ok();
    host.ended(&id);
    let states: Vec<Value> = host.beadle(["--json", "approvals", "--all"]).ok().lines();
    assert_eq!(states.iter().map(|a| a["state"].as_str().unwrap_or_default()).collect::<Vec<_>>(), ["cancelled", "cancelled"]);
}

/// An agent that asks three questions at once.
const EAGER: &str = r#"#!/bin/sh
for n in 1 2 3; do
  printf '%s\n' "{\"type\":\"control_request\",\"request_id\":\"r$n\",\"request\":{\"subtype\":\"can_use_tool\",\"tool_name\":\"Bash\",\"tool_use_id\":\"t$n\",\"input\":{\"command\":\"touch $n\"}}}"
done
exec cat > /dev/null
"#;

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
            if say == "deny" && matches!(point, "taken" | "ran" | "reported") {
                continue; // An allow alone is waited for at `taken`; the rest a denied call passes with the agent's own error.
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

fn list(host: &TestHost, args: &[&str]) -> Vec<Value> {
    host.beadle(["--json", "approvals"].iter().chain(args)).ok().lines()
}

#[test]
fn what_waits_is_listed_with_all_one_needs_to_decide() {
    let mut host = host("");
    let file = host.file("a.txt", "one\ntwo\nthree\n").display().to_string();
    host.config(&rules(&["Read(./**)"], &["Bash(echo:*)", "Edit(./**)"], &[]));
    let edit = json!({ "tool": "Edit", "input": { "file_path": file, "old_string": "two", "new_string": "zwei" } });
    let write = json!({ "tool": "Write", "input": { "file_path": file, "content": "one\nzwei\n3\n" } });
    let model = Model::start(&json!({ "steps": [
        { "text": "I say hello first.", "tool": "Bash", "input": { "command": "echo hello", "description": "greets" } },
        edit, write, { "text": "done" } ] }));
    let id = host.run_demo(&model, "go", &["--name", "list me"]);
    let first = waiting(&host, &id, 0);
    let all = list(&host, &[]);
    let a = only_doc(&all);
    for (key, want) in [
        ("id", first.as_str()),
        ("session", &id),
        ("state", "waiting"),
        ("tool", "Bash"),
        ("subject", "echo hello"),
        ("rule", "Bash(echo:*)"),
    ] {
        assert_eq!(a[key].as_str(), Some(want), "{key}");
    }
    let one = host.beadle(["--json", "approvals", &first]).ok().json();
    assert_eq!((one["words"].as_str(), one["description"].as_str()), (Some("I say hello first."), Some("greets")));
    assert_eq!((one["policies"][0]["effect"].as_str(), one["policies"][0]["rule"].as_str()), (Some("ask"), Some("Bash(echo:*)")));
    assert_eq!((one["cwd"].as_str(), one["parse"].as_str()), (host.work().to_str(), Some("complete")));
    assert!(
        one["always"]["refused"].as_str().is_some_and(|w| w.contains("would still get ask")),
        "an ask rule is above any allow: {one:#}"
    );
    let text = host.beadle(["approvals"]).ok().out;
    for want in ["echo hello", "says: I say hello first.", &format!("beadle approve {first}"), "policy rules says ask", "denied in "] {
        assert!(text.contains(want), "no {want:?} in {text}");
    }
    assert!(host.beadle(["show", &id]).ok().out.contains(&format!("`beadle approve {first}`")));
    assert!(host.beadle(["ls"]).ok().out.contains("running (asks 1)"));
    assert_eq!(host.beadle(["-q", "approvals", "--session", "list me"]).ok().out, format!("{first}\n"));
    // By name and with a slash too.
    let call = first.rsplit(':').next().expect("a number");
    host.beadle(["approve", &format!("list me/{call}")]).ok();
    let second = waiting(&host, &id, 1);
    let diff = host.beadle(["--json", "approvals", &second]).ok().json()["diff"].as_str().map(str::to_owned);
    assert_eq!(diff.as_deref(), Some(&*format!("--- {file}\n@@ -1,1 +1,1 @@\n-two\n+zwei\n")));
    host.beadle(["deny", &second, "-r", "no"]).ok();
    let third = waiting(&host, &id, 2);
    let diff = host.beadle(["--json", "approvals", &third]).ok().json()["diff"].as_str().map(str::to_owned);
    assert_eq!(
        diff.as_deref(),
        Some(&*format!("--- {file}\n@@ -1,3 +1,3 @@\n one\n-two\n-three\n+zwei\n+3\n")),
        "against the file as it is"
    );
    host.beadle(["approve", &third]).ok();
    host.ended(&id);
    assert!(list(&host, &[]).is_empty());
    let states: Vec<String> = list(&host, &["--all"]).iter().map(|a| a["state"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(states, ["approved", "denied", "approved"], "newest first");
    assert_eq!(list(&host, &["--all", "-n", "1"])[0]["id"].as_str(), Some(third.as_str()));
    assert_eq!(host.beadle(["approvals", &format!("{id}:1")]).code, 3);
}

fn only_doc(list: &[Value]) -> &Value {
    assert_eq!(list.len(), 1, "{list:#?}");
    &list[0]
}

/// Nothing is decided by a rule: the default asks.
fn asking() -> TestHost {
    let host = TestHost::new();
    host.config(&rules(&["Edit(./**)"], &[], &[]));
    host
}

#[test]
fn always_adds_a_rule_for_exactly_the_call_that_holds_until_it_is_revoked() {
    let mut host = asking();
    let steps = |more: Value| json!({ "steps": [bash("echo a >> out.txt"), more, { "text": "done" }] });
    let model = Model::start(&steps(bash("echo a >> out.txt && echo b >> out.txt")));
    let id = host.run_demo(&model, "go", &[]);
    let first = waiting(&host, &id, 0);
    assert_eq!(host.beadle(["--json", "approvals", &first]).ok().json()["always"]["rules"], json!(["Bash(echo a)"]));
    let said = host.beadle(["approve", &first, "--always"]).ok();
    assert!(said.err.contains("will add: allow Bash(echo a)"), "{said:?}");
    let answered = host.beadle(["--json", "approvals", &first]).ok().json();
    let rule = answered["answer"]["rules"][0].as_str().expect("a rule").to_owned();
    assert!(said.out.contains(&format!("{rule} added: allow Bash(echo a); `beadle rule revoke {rule}` takes it back")), "{said:?}");
    // The second command has the first in it, and one that no rule covers.
    let second = waiting(&host, &id, 1);
    assert_eq!(
        host.beadle(["--json", "approvals", &second]).ok().json()["always"]["rules"],
        json!(["Bash(echo b)"]),
        "only what is missing"
    );
    host.beadle(["approve", &second]).ok();
    host.ended(&id);
    let added = host.beadle(["--json", "rule", "ls"]).ok().lines();
    let r = only_doc(&added);
    assert_eq!(
        (r["id"].as_str(), r["rule"].as_str(), r["dir"].as_str()),
        (Some(rule.as_str()), Some("Bash(echo a)"), host.work().to_str())
    );
    assert_eq!((r["by"]["role"].as_str(), r["by"]["exe"].as_str().is_some()), (Some("operator"), true));
    // Another session of the folder, another daemon: the rule holds; one of another folder asks.
    host.kill_daemon();
    let model = Model::start(&steps(bash("echo a >> out.txt")));
    let again = host.run_demo(&model, "go", &[]);
    assert_eq!(host.ended(&again)["asked_count"], 0);
    let elsewhere = host.file("sub/x", "").parent().expect("a folder").display().to_string();
    let model = Model::start(&steps(bash("echo a >> out.txt")));
    let other = host.run_demo(&model, "go", &["--cwd", &elsewhere]);
    host.beadle(["deny", &waiting(&host, &other, 0)]).ok();
    host.beadle(["rule", "revoke", &rule]).ok();
    host.beadle(["kill", &other]).ok();
    let model = Model::start(&steps(bash("true")));
    let last = host.run_demo(&model, "go", &[]);
    waiting(&host, &last, 0);
    host.beadle(["kill", &last]).ok();
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn always_is_refused_where_no_rule_is_safe_or_would_help_and_the_question_stays() {
    let mut host = asking();
    let model =
        Model::start(&json!({ "steps": [bash("echo $(date) >> out.txt"), bash("echo b:1"), bash("echo b:2"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    let first = waiting(&host, &id, 0);
    for (args, word) in [
        (vec!["--always"], "not known word for word"),
        (vec!["--always", "Bash(echo:*)"], "would still get ask"),
        (vec!["--always", "Bash(("], "is not a rule"),
    ] {
        let said = host.beadle(["approve", &first].iter().copied().chain(args.iter().copied()));
        assert!(said.code == 2 && said.err.contains("BDL-SESSION-016") && said.err.contains(word), "{args:?}: {said:?}");
    }
    assert_eq!(list(&host, &[]).len(), 1, "it still waits");
    assert!(host.beadle(["--json", "rule", "ls"]).ok().lines().is_empty());
    host.beadle(["approve", &first]).ok();
    // A rule of one's own, for this session: the third call is covered before the second one has run.
    host.beadle(["approve", &waiting(&host, &id, 1), "--always", "Bash(echo:*)", "--reach", "session"]).ok();
    assert_eq!(host.ended(&id)["asked_count"], 2);
    assert_eq!(host.beadle(["--json", "rule", "ls"]).ok().lines().len(), 0, "rules that outlive a session");
    let mine = host.beadle(["--json", "rule", "ls", "--session", &id]).ok().lines();
    assert_eq!(only_doc(&mine)["session"].as_str(), Some(id.as_str()));
}

#[test]
fn killed_around_an_always_the_rule_holds_exactly_if_the_answer_does() {
    for point in ["appended", "synced", "sent"] {
        let mut host = asking();
        let model = Model::start(&json!({ "steps": [bash("echo x >> out.txt"), bash("echo x >> out.txt"), { "text": "done" }] }));
        let id = host.run_demo(&model, "go", &[]);
        let approval = waiting(&host, &id, 0);
        host.kill_daemon();
        let mut daemon = host.daemon_with("BEADLE_FAILPOINT", point);
        host.beadle(["approve", &approval, "--always"]);
        until("the daemon has died at the failpoint", || daemon.try_wait().ok().flatten());
        let one = host.beadle(["--json", "approvals", &approval]).ok().json();
        let rules: Vec<String> =
            host.beadle(["--json", "rule", "ls"]).ok().lines().iter().map(|r| r["id"].as_str().unwrap_or_default().to_owned()).collect();
        let named: Vec<String> =
            one["answer"]["rules"].as_array().into_iter().flatten().map(|r| r.as_str().unwrap_or_default().to_owned()).collect();
        assert_eq!((rules.len(), one["state"] == "approved"), (named.len(), named.len() == 1), "{point}: {one:#}");
        assert_eq!(rules, named, "{point}");
        if named.is_empty() {
            host.beadle(["approve", &approval, "--always"]).ok();
        }
        assert_eq!(host.ended(&id)["asked_count"], 1, "{point}: the second call is covered");
        assert_eq!(lines_of(&host.work().join("out.txt")), ["x", "x"], "{point}");
        assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
    }
}

#[test]
fn of_two_who_say_always_and_no_only_the_first_one_counts() {
    let mut host = asking();
    for round in 0..4 {
        let command = format!("echo {round} >> out.txt");
        let model = Model::start(&json!({ "steps": [bash(&command), { "text": "done" }] }));
        let id = host.run_demo(&model, "go", &[]);
        let approval = waiting(&host, &id, 0);
        let said: Vec<_> = [vec!["approve", &approval, "--always"], vec!["deny", &approval]].into_iter().map(|a| host.spawn(a)).collect();
        let yes: Vec<bool> = said.into_iter().map(|c| c.wait_with_output().is_ok_and(|o| o.status.success())).collect();
        host.ended(&id);
        assert_ne!(yes[0], yes[1], "round {round}");
        let added = host.beadle(["--json", "rule", "ls"]).ok().lines().iter().any(|r| r["rule"] == format!("Bash(echo {round})"));
        assert_eq!((added, became(&host, &id).0 == "allow"), (yes[0], yes[0]), "round {round}: a rule only with the answer that held");
    }
}

#[test]
fn changes_are_followed_live_and_taken_up_again_where_they_broke() {
    let mut host = host("");
    let model = Model::start(&json!({ "steps": [bash("echo 1"), bash("echo 2"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    let first = waiting(&host, &id, 0);
    let mut follower = host.spawn(["--json", "approvals", "-f"]);
    let lines = crate::support::Lines::of(&mut follower);
    let next = || lines.next("a change is followed");
    assert_eq!((next()["id"].as_str(), ""), (Some(first.as_str()), ""));
    host.beadle(["approve", &first]).ok();
    let seen = next();
    assert_eq!((seen["id"].as_str(), seen["state"].as_str()), (Some(first.as_str()), Some("approved")));
    let second = next();
    assert_eq!(second["state"], "waiting");
    host.kill_daemon();
    host.beadle(["deny", second["id"].as_str().expect("an id"), "-r", "enough"]).ok();
    let seen = next();
    assert_eq!(
        (seen["id"].as_str(), seen["state"].as_str()),
        (second["id"].as_str(), Some("denied")),
        "after the daemon came back: nothing twice, nothing lost"
    );
    host.ended(&id);
    kill(follower.id());
    let _ = follower.wait();
}

/// The stream of approvals as the socket gives it, until `text` has come.
fn stream(host: &TestHost, last_id: Option<&str>, text: &str) -> String {
    use std::io::{Read, Write};
    let mut s = std::os::unix::net::UnixStream::connect(host.beadle_home().join("run/beadle.sock")).expect("the daemon listens");
    s.set_read_timeout(Some(crate::support::PATIENCE)).expect("a time");
    let last = last_id.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
    s.write_all(format!("GET /v1/approvals HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n{last}\r\n").as_bytes()).expect("sent");
    let (mut all, mut buf) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&all).contains(text) {
        match s.read(&mut buf) {
            Ok(n @ 1..) => all.extend_from_slice(&buf[..n]),
            other => panic!("{other:?} before {text:?} in {}", String::from_utf8_lossy(&all)),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn the_stream_begins_with_what_waits_and_resumes_by_its_last_id() {
    let mut host = host("");
    let model = Model::start(&json!({ "steps": [bash("echo 1"), bash("echo 2"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    let first = waiting(&host, &id, 0);
    let begun = stream(&host, None, "\nid: ");
    let (snapshot, ready) = begun.split_once("event: ready").expect("ready");
    assert!(snapshot.contains("event: approval") && snapshot.contains(&first) && snapshot.contains("\"waiting\""), "{begun}");
    let place: String = ready.split_once("id: ").expect("a place").1.chars().take_while(char::is_ascii_digit).collect();
    host.beadle(["deny", &first, "-r", "no"]).ok();
    waiting(&host, &id, 1);
    let rest = stream(&host, Some(&place), "\"waiting\"");
    assert!(rest.contains("\"denied\"") && !rest.contains("event: ready"), "{rest}");
    assert!(stream(&host, Some("soon"), "\r\n\r\n").starts_with("HTTP/1.1 400"));
    host.beadle(["kill", &id]).ok();
}

/// Ways in which a call that is allowed to run tries to answer for a person, over the command line and the socket itself.
#[test]
fn a_session_cannot_list_answer_or_widen_anything() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash"], &["Bash(touch:*)"], &[]).replace("[[policy]]", "default = \"allow\"\n[[policy]]"));
    let beadle = env!("CARGO_BIN_EXE_beadle");
    let home = host.beadle_home().display().to_string();
    let model = Model::start(&json!({ "steps": [bash("touch asked"), { "text": "done" }] }));
    let victim = host.run_demo(&model, "go", &["--name", "victim"]);
    let approval = waiting(&host, &victim, 0);
    let (session, call) = approval.rsplit_once(':').expect("an id");
    let own: Vec<String> = [
        "approvals",
        "approvals --all",
        "approvals -f",
        "approvals ID",
        "approve ID",
        "approve ID --always",
        "deny ID",
        "approve victim/CALL",
    ]
    .iter()
    .map(|v| format!("{beadle} {}", v.replace("ID", &approval).replace("CALL", call)))
    .collect();
    let script = format!(
        "export BEADLE_HOME={home}; for a in {}; do $a; echo \"code $?\"; done > 1.txt 2>&1",
        own.iter().map(|c| format!("\"{c}\"")).collect::<Vec<_>>().join(" ")
    );
    let say = |line: &str| bash(&crate::support::knock::command("$h/b/run/beadle.sock", line, "2.txt"));
    let host_config = crate::gate::NO_RULES;
    host.config(host_config);
    let model = Model::start(&json!({ "steps": [
        bash(&script),
        say("GET /v1/approvals"),
        say(&format!("GET /v1/approvals/{session}/{call}")),
        say(&format!("POST /v1/approvals/{session}/{call}")),
        { "text": "done" },
    ]}));
    let attacker = host.run_demo(&model, "go", &[]);
    assert_eq!(host.ended(&attacker)["outcome"], "succeeded");
    let read = |name: &str| std::fs::read_to_string(host.work().join(name)).unwrap_or_default();
    let out = read("1.txt");
    assert_eq!((out.matches("BDL-API-001").count(), out.matches("code 1\n").count()), (8, 8), "{out}");
    let api = read("2.txt");
    assert_eq!(api.matches("answer: HTTP/1.1 403").count(), 3, "{api}");
    assert_eq!(only_doc(&list(&host, &[]))["id"].as_str(), Some(approval.as_str()), "it still waits");
    assert!(host.beadle(["--json", "rule", "ls"]).ok().lines().is_empty());
    host.beadle(["kill", &victim]).ok();
    assert!(!host.work().join("asked").exists());
}

#[test]
fn a_run_without_a_terminal_says_where_to_answer_and_waits() {
    let mut host = host("");
    let model = Model::start(&json!({ "steps": [bash("touch a"), { "text": "done" }] }));
    host.set("ANTHROPIC_BASE_URL", model.url());
    host.set("ANTHROPIC_API_KEY", "test");
    let run = host.spawn(["run", "--agent", "demo", "--name", "ci", "go"]);
    let approval = waiting(&host, "ci", 0);
    host.beadle(["approve", &approval]).ok();
    let out: crate::support::Said = run.wait_with_output().expect("it ends").into();
    assert_eq!(out.code, 0, "{out:?}");
    assert!(out.err.contains(&format!("`beadle approve {approval}`")), "{out:?}");
    assert!(host.work().join("a").exists());
}

#[test]
fn a_terminal_shows_the_same_and_takes_later_and_always() {
    let mut host = asking();
    let model = Model::start(
        &json!({ "steps": [bash("echo 1 >> out.txt"), bash("echo 2 >> out.txt"), bash("echo 2 >> out.txt"), { "text": "done" }] }),
    );
    host.set("ANTHROPIC_BASE_URL", model.url());
    host.set("ANTHROPIC_API_KEY", "test");
    let mut run = crate::support::Terminal::start(host.command(["run", "--agent", "demo", "--name", "typed", "go"]));
    let first = waiting(&host, "typed", 0);
    run.wait_for("l later");
    run.type_line("what?");
    run.wait_for("y, n, a or l, please");
    run.type_line("l");
    run.wait_for("left in the queue");
    assert_eq!(list(&host, &[]).len(), 1, "it was put off, not answered");
    host.beadle(["approve", &first]).ok();
    waiting(&host, "typed", 1);
    run.wait_for("always would add: Bash(echo 2)");
    run.wait_for_times("l later", 2);
    run.type_line("a");
    run.wait_for("takes it back");
    let screen = run.finish();
    let id = host.show("typed")["id"].as_str().expect("an id").to_owned();
    assert_eq!(host.show(&id)["asked_count"], 2, "the third call was covered by the rule: {screen}");
    assert_eq!(lines_of(&host.work().join("out.txt")), ["1", "2", "2"]);
    let by = &host.events_of(&id, "approval_resolved")[1]["body"]["by"];
    assert!(by["tty"].as_str().is_some_and(|t| t.starts_with("/dev/pts/")), "from where: {by}");
}
