//! Fork and resume: a session that goes on from another's log, on the real Claude Code and with the built-in agent.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::claude::{host as claude_host, run};
use crate::support::{Model, TestHost, bash, rules, until};

fn host(test: &str) -> Option<(TestHost, PathBuf)> {
    let (host, program) = claude_host(&format!("branch: {test}"))?;
    host.config(&rules(&["Bash(echo:*)", "Bash(touch:*)"], &[], &[]));
    Some((host, program))
}

/// Messages of the newest model request that has tools: the main agent's.
fn newest(model: &Model) -> Vec<Value> {
    let all = model.requests();
    let main = all.iter().rev().find_map(|r| {
        let body = if r["messages"].is_array() { r } else { &r["body"] };
        body["tools"].as_array().filter(|t| !t.is_empty())?;
        body["messages"].as_array().cloned()
    });
    main.unwrap_or_default()
}

/// What is said and done in them, whatever form it has: role, kind, and text or id.
fn said(messages: &[Value]) -> Vec<(String, String, String)> {
    let mut out = Vec::new();
    for m in messages {
        let role = m["role"].as_str().unwrap_or_default().to_owned();
        let text = |s: &str| (role.clone(), "text".to_owned(), s.to_owned());
        match &m["content"] {
            Value::String(s) => out.push(text(s)),
            Value::Array(blocks) => out.extend(blocks.iter().map(|b| match b["type"].as_str().unwrap_or_default() {
                "text" => text(b["text"].as_str().unwrap_or_default()),
                "tool_use" => (role.clone(), "tool_use".to_owned(), b["id"].as_str().unwrap_or_default().to_owned()),
                "tool_result" => (role.clone(), "tool_result".to_owned(), b["tool_use_id"].as_str().unwrap_or_default().to_owned()),
                other => (role.clone(), other.to_owned(), String::new()),
            })),
            _ => {}
        }
    }
    // What the agent adds by itself at each start is not of the conversation.
    out.retain(|(_, kind, text)| kind != "text" || !text.trim_start().starts_with("<system-reminder>"));
    out
}

fn turn_ends(host: &TestHost, id: &str, n: u64) {
    until(&format!("turn {n} has ended"), || {
        let s = host.show(id);
        assert_ne!(s["status"], "ended", "{s:#} {:#?}", host.events(id));
        (s["turn_count"] == n).then_some(())
    });
}

fn answered(host: &TestHost, id: &str, model: &Model, words: &str) -> Vec<Value> {
    until("the model is asked", || {
        let messages = newest(model);
        (json!(messages).to_string().contains(words)).then_some(messages)
    });
    until("its turn has ended", || (host.show(id)["turn_count"].as_u64() > Some(0)).then_some(()));
    newest(model)
}

fn go_on(host: &TestHost, args: &[&str]) -> String {
    host.beadle([&["--json"][..], args, &["--detach"]].concat()).ok().json()["id"].as_str().expect("an id").to_owned()
}

fn seq_of(host: &TestHost, id: &str, kind: &str, n: usize) -> u64 {
    host.events_of(id, kind)[n]["seq"].as_u64().expect("a seq")
}

/// Both logs name each other, by a hash that the first log proves.
fn linked(host: &TestHost, first: &str, new: &str, how: &str, at: u64) {
    let origin = host.events_of(new, "session_created")[0]["body"]["origin"].clone();
    let event = host.events(first).into_iter().find(|e| e["seq"] == at).expect("the event");
    assert_eq!(
        (origin["how"].as_str(), origin["session"].as_str(), origin["at"].as_u64(), &origin["hash"]),
        (Some(how), Some(first), Some(at), &event["hash"]),
        "{origin:#}"
    );
    let forked = host.events_of(first, "session_forked").into_iter().find(|e| e["body"]["to"] == new).expect("the first log says so");
    assert_eq!(
        (forked["body"]["how"].as_str(), forked["body"]["at"].as_u64(), &forked["body"]["hash"]),
        (Some(how), Some(at), &event["hash"])
    );
}

fn two_turns(host: &mut TestHost, program: &Path, more: Value) -> (Model, String) {
    let mut steps = vec![
        bash("echo one"),
        bash("echo two"),
        json!({ "text": "first turn done" }),
        bash("echo three"),
        json!({ "text": "second turn done" }),
    ];
    steps.extend(more.as_array().cloned().unwrap_or_default());
    let model = Model::start(&json!({ "steps": steps }));
    let id = run(host, program, &model, &["--keep", "--label", "team=core", "--owner", "ann"]);
    turn_ends(host, &id, 1);
    host.beadle(["send", &id, "the second prompt"]).ok();
    turn_ends(host, &id, 2);
    (model, id)
}

#[test]
fn a_fork_asks_the_model_with_exactly_the_messages_up_to_there() {
    let Some((mut host, program)) = host("a_fork_asks_the_model_with_exactly_the_messages_up_to_there") else { return };
    let done = |t: &str| json!({ "text": t });
    let (model, id) = two_turns(&mut host, &program, json!([done("fork at the turn's end"), done("fork in the turn"), done("goes on")]));
    let whole = said(&newest(&model));
    let records = || std::fs::read_dir(host.home().join("claude/projects")).expect("records").flatten().count();
    let folders = records();
    // At the end of the first turn.
    let at = seq_of(&host, &id, "turn_ended", 0);
    let fork = go_on(&host, &["fork", &id, "another way", "--at", &at.to_string()]);
    let messages = answered(&host, &fork, &model, "another way");
    let prompt = whole.iter().position(|m| m.2 == "the second prompt").expect("the second prompt");
    let mut want = whole[..prompt].to_vec();
    want.push(("user".to_owned(), "text".to_owned(), "another way".to_owned()));
    assert_eq!(said(&messages), want, "exactly the messages up to there: {messages:#?}");
    linked(&host, &id, &fork, "fork", at);
    let s = host.ended(&fork);
    assert!(s["origin"]["added"].is_null(), "{s:#}");
    assert_eq!((s["outcome"].as_str(), s["owner"].as_str(), s["labels"]["team"].as_str()), (Some("succeeded"), Some("ann"), Some("core")));
    assert_eq!((s["call_count"].as_u64(), s["turn_count"].as_u64(), s["breach_count"].as_u64()), (Some(0), Some(1), Some(0)), "{s:#}");
    let one_call = host.events_of(&id, "model_responded").len() as u64;
    assert!(one_call > 1 && s["usage"]["output"].as_u64() < host.show(&id)["usage"]["output"].as_u64(), "nothing inherited counts: {s:#}");
    // In the middle of the first turn, behind its first call.
    let at = seq_of(&host, &id, "tool_ended", 0);
    let fork = go_on(&host, &["fork", &id, "yet another way", "--at", &at.to_string()]);
    let messages = said(&answered(&host, &fork, &model, "yet another way"));
    let result = whole.iter().position(|m| m.1 == "tool_result").expect("a result");
    let mut want = whole[..=result].to_vec();
    // The agent adds two sentences where a record ends in a turn; the log says so.
    let adds = [("user", "Continue from where you left off."), ("assistant", "No response requested."), ("user", "yet another way")];
    want.extend(adds.map(|(role, text)| (role.to_owned(), "text".to_owned(), text.to_owned())));
    assert_eq!(messages, want);
    assert!(host.show(&fork)["origin"]["added"].as_str().is_some_and(|a| a.contains("No response requested")));
    let calls = messages.iter().filter(|m| m.1 == "tool_use").count();
    assert_eq!((calls, messages.iter().filter(|m| m.1 == "tool_result").count()), (1, 1), "{messages:#?}");
    assert_eq!(messages.last().map(|m| m.2.as_str()), Some("yet another way"), "{messages:#?}");
    linked(&host, &id, &fork, "fork", at);
    host.ended(&fork);
    // The first session goes on as it was.
    host.beadle(["send", &id, "the third prompt"]).ok();
    turn_ends(&host, &id, 3);
    let after = said(&newest(&model));
    assert_eq!(after[..whole.len()], whole[..]);
    assert_eq!(records(), folders, "records of one folder stand together");
    assert_eq!(host.show(&id)["branches"].as_array().map(Vec::len), Some(2));
    let said = host.beadle(["fork", &id, "x", "--at", "99999"]);
    assert!(said.code == 1 && said.err.contains("BDL-TREE-011") && said.err.contains("events 1 to"), "{said:?}");
    let said = host.beadle(["fork", &id, "x", "--at", "1", "--detach"]);
    assert!(said.code == 0 || said.err.contains("BDL-TREE-011"), "{said:?}");
    host.beadle(["stop", &id]).ok();
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn the_work_of_an_ended_session_is_taken_up_again() {
    let Some((mut host, program)) = host("the_work_of_an_ended_session_is_taken_up_again") else { return };
    let done = |t: &str| json!({ "text": t });
    let (model, id) =
        two_turns(&mut host, &program, json!([bash("touch taken-up"), done("taken up"), done("from the copy"), done("from the log")]));
    let whole = said(&newest(&model));
    host.beadle(["stop", &id]).ok();
    let first = host.ended(&id);
    let at = first["last_seq"].as_u64().expect("a seq");
    let new = go_on(&host, &["resume", &id, "go on with it"]);
    let messages = said(&answered(&host, &new, &model, "go on with it"));
    assert_eq!(messages[..whole.len()], whole[..], "{messages:#?}");
    assert!(json!(messages).to_string().contains("second turn done"));
    let s = host.ended(&new);
    assert_eq!((s["outcome"].as_str(), s["owner"].as_str(), s["call_count"].as_u64()), (Some("succeeded"), Some("ann"), Some(1)), "{s:#}");
    assert!(host.work().join("taken-up").exists());
    linked(&host, &id, &new, "resume", at);
    assert_eq!(s["origin"]["given"], "conversation");
    assert_ne!(s["agent_session_id"], first["agent_session_id"], "the first record stays as it is");
    host.assert_accounted(&new);
    // The agent's own records are gone: the host kept a copy.
    std::fs::remove_dir_all(host.home().join("claude/projects")).expect("records");
    let new = go_on(&host, &["resume", &id, "go on from the copy"]);
    let messages = said(&answered(&host, &new, &model, "go on from the copy"));
    assert_eq!(messages[..whole.len()], whole[..], "{messages:#?}");
    let s = host.ended(&new);
    assert_eq!((s["outcome"].as_str(), s["origin"]["given"].as_str()), (Some("succeeded"), Some("conversation")), "{s:#}");
    // Neither is wanted: the log has it.
    let said = host.beadle(["--json", "resume", &id, "--replay", "--detach"]);
    assert!(said.code == 1 && said.err.contains("BDL-TREE-011") && said.err.contains("say one"), "{said:?}");
    let new = go_on(&host, &["resume", &id, "go on from the log", "--replay"]);
    let messages = answered(&host, &new, &model, "go on from the log");
    let text = json!(messages).to_string();
    for part in ["record of an earlier conversation", "the second prompt", "first turn done", "echo three", "second turn done"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let s = host.ended(&new);
    assert_eq!((s["outcome"].as_str(), s["origin"]["given"].as_str()), (Some("succeeded"), Some("replay")), "{s:#}");
    assert!(s["origin"]["left_out"].as_str().is_some_and(|w| w.contains("its own record")), "{s:#}");
    assert!(s["origin"]["text"]["text"].as_str().is_some_and(|t| t.contains("earlier conversation")), "in the open: {s:#}");
    assert!(host.beadle(["show", &new]).ok().out.contains(&format!("{id} at event")));
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn an_agent_without_a_record_goes_on_from_the_log_and_a_killed_daemon_names_it_later() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash(echo:*)"], &[], &[]));
    let model = Model::start(&json!({ "steps": [bash("echo one"), { "text": "first done" }] }));
    let id = host.run_demo(&model, "the first prompt", &["--max-turns", "5"]);
    host.ended(&id);
    let model = Model::start(&json!({ "steps": [{ "text": "second done" }] }));
    host.set("ANTHROPIC_BASE_URL", model.url());
    let said = host.beadle(["--json", "resume", &id, "--detach"]);
    assert!(said.code == 1 && said.err.contains("BDL-TREE-011"), "without a prompt there is nothing to give it with: {said:?}");
    host.beadle(["host", "stop"]).ok();
    let mut daemon = host.daemon_with("BEADLE_FAILPOINT", "branched");
    host.beadle(["--json", "resume", &id, "the second prompt", "--keep", "--detach"]);
    until("the daemon has died", || daemon.try_wait().ok().flatten());
    host.daemon();
    let new = host.beadle(["--json", "ls", "-n", "1"]).ok().lines()[0]["id"].as_str().expect("an id").to_owned();
    assert_ne!(new, id);
    let at = host.events_of(&id, "session_ended")[0]["seq"].as_u64().expect("a seq");
    linked(&host, &id, &new, "resume", at);
    assert_eq!(host.events_of(&id, "session_forked").len(), 1);
    turn_ends(&host, &new, 1);
    let text = json!(newest(&model)).to_string();
    for part in ["the first prompt", "echo one", "first done", "the second prompt", "session-host-context"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(host.show(&new)["limits"]["turns"], 5, "limits as they were");
    let said = host.beadle(["resume", &new, "more"]);
    assert!(said.code != 0, "a running session is not taken up: {said:?}");
    host.beadle(["stop", &new]).ok();
    let said = host.beadle(["--json", "run", "--wait", "--name", "plain", "--", "true"]).ok().json();
    let said = host.beadle(["fork", said["id"].as_str().expect("an id"), "x"]);
    assert!(said.code == 1 && said.err.contains("no conversation to go on with"), "{said:?}");
}

#[test]
fn after_a_breach_a_person_must_say_so_where_that_is_configured() {
    let host = TestHost::new();
    host.expects_breaches();
    let config = format!("[session]\non_breach = \"pause\"\n{}", rules(&["Bash(true)"], &[], &[]));
    host.config(&config);
    let ask = |id: &str, command: &str| {
        json!({"type": "control_request", "request_id": id, "request": {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": command}, "tool_use_id": "toolu_1"}}).to_string()
    };
    let (a, b) = (ask("r1", "true"), ask("r1", "rm -rf /"));
    let agent = host.program("agent.sh", &format!("#!/bin/sh\necho '{a}'\necho '{b}'\nuntil [ -e end ]; do sleep 0.02; done\n"));
    let program = agent.display().to_string();
    let id = host.beadle(["--json", "run", "--detach", "--agent", "claude", "--program", &program, "hi"]).ok().json()["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    until("it is paused", || (host.show(&id)["status"] == "paused").then_some(()));
    host.beadle(["host", "stop"]).ok();
    host.config(&format!("[operator]\nconfirm = \"key\"\n{config}"));
    let asked = |args: &[&str]| {
        let said = host.beadle(args);
        assert!(said.code != 0 && said.err.contains("BDL-OPERATOR"), "{args:?}: {said:?}");
    };
    asked(&["resume", &id]);
    asked(&["resume", "--tree", &id]);
    assert_eq!(host.show(&id)["status"], "paused", "nothing goes on by itself");
    host.beadle(["kill", &id]).ok();
    asked(&["resume", &id, "go on"]);
    asked(&["fork", &id, "go on"]);
    assert_eq!(host.beadle(["--json", "ls"]).ok().lines().len(), 1);
}
