//! Sessions that other programs write: opened by a key, written in keyed pieces, whole after any crash, forged by nobody.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Stdio;

use beadle::api::client::{Client, Emitter, Writer};
use beadle::api::types::{BriefRequest, OpenRequest, WriteRequest, WroteDoc};
use beadle::config::Folders;
use beadle::model::written::{Text, Write, Written};
use serde_json::{Value, json};

use crate::support::{Model, TestHost, kill, runtime, until};

pub fn client(host: &TestHost) -> Client {
    let home = host.beadle_home();
    Client::without_start(Folders {
        config: home.join("config"),
        data: home.join("data"),
        cache: home.join("cache"),
        runtime: home.join("run"),
    })
}

fn open(key: &str, target: &str) -> OpenRequest {
    let brief = BriefRequest { target: Some(target.to_owned()), ..BriefRequest::default() };
    OpenRequest { key: Some(key.to_owned()), brief, ..OpenRequest::default() }
}

fn note(text: &str) -> Write {
    Written::Note(Text { text: text.to_owned() }).into()
}

/// `beadle session ...` as JSON.
fn session(host: &TestHost, args: &[&str]) -> Value {
    host.beadle([&["--json", "session"], args].concat()).ok().json()
}

/// The stable code of a refusal.
fn refused(host: &TestHost, args: &[&str]) -> String {
    let said = host.beadle([&["--json", "session"], args].concat());
    assert_ne!(said.code, 0, "{args:?}: {said:?}");
    let problem: Value = serde_json::from_str(said.err.lines().last().unwrap_or_default()).unwrap_or_default();
    problem["error"]["code"].as_str().unwrap_or_else(|| panic!("{args:?}: {said:?}")).to_owned()
}

fn feed(host: &TestHost, args: &[&str], lines: &[Value]) -> crate::support::Said {
    let mut child = host
        .command([&["--json", "session", "append"], args].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let text: String = lines.iter().map(|l| format!("{l}\n")).collect();
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("written");
    child.wait_with_output().expect("it ends").into()
}

fn kinds(host: &TestHost, id: &str) -> Vec<String> {
    host.events(id).iter().map(|e| e["kind"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_session_needs_key_and_target_and_is_opened_once() {
    let host = TestHost::new();
    assert_eq!(refused(&host, &["create", "--target", "shop"]), "BDL-WRITE-012", "no key");
    assert_eq!(refused(&host, &["create", "--key", "k"]), "BDL-WRITE-012", "no target");
    assert_eq!(host.beadle(["session", "append", "--event", "note", r#"{"text":"x"}"#]).code, 2, "no session at all");
    let first = session(&host, &["create", "--key", "k", "--target", "shop", "--agent", "recon", "--owner", "ann", "-l", "team=core"]);
    let id = first["session"]["id"].as_str().expect("an id").to_owned();
    assert_eq!((first["opened"].as_bool(), first["session"]["status"].as_str()), (Some(true), Some("starting")));
    let again = session(&host, &["create", "--key", "k", "--target", "shop"]);
    assert_eq!((again["opened"].as_bool(), again["session"]["id"].as_str()), (Some(false), Some(id.as_str())));
    for other in [["--target", "bank"], ["--agent", "other"], ["--owner", "bob"]] {
        let args = [&["create", "--key", "k", "--target", "shop"][..], &other].concat();
        let args: Vec<&str> = if other[0] == "--target" { vec!["create", "--key", "k", "--target", "bank"] } else { args };
        assert_eq!(refused(&host, &args), "BDL-WRITE-011", "{other:?}");
    }
    // A session without events of its writer reads as what it is: nothing but its beginning, and nothing asked for.
    assert_eq!(kinds(&host, &id), ["session_created"]);
    assert!(host.beadle(["--json", "events", &id, "--kinds", "note,custom"]).ok().lines().is_empty());
    let s = host.show(&id);
    assert_eq!((s["mediation"].as_str(), s["owner"].as_str(), s["labels"]["team"].as_str()), (Some("none"), Some("ann"), Some("core")));
    assert_eq!(s["writer"]["key"], "k");
    host.beadle(["session", "attempt-start", "k"]).ok();
    host.beadle(["session", "attempt-end", "k", "--success"]).ok();
    host.beadle(["session", "end", "k", "--success"]).ok();
    assert_eq!(host.ended(&id)["outcome"], "succeeded");
    assert_eq!(refused(&host, &["append", "k", "--event", "note", r#"{"text":"x"}"#]), "BDL-WRITE-004");
    assert_eq!(session(&host, &["create", "--key", "k", "--target", "shop"])["session"]["id"], id.as_str(), "ended, it keeps its key");
    host.beadle(["rm", &id]).ok();
    assert_ne!(session(&host, &["create", "--key", "k", "--target", "bank"])["session"]["id"], id.as_str(), "removed, the key is free");
    assert!(host.beadle(["verify"]).code == 0);
}

#[test]
fn tenant_and_thread_name_a_session_and_a_sub_thread_is_its_child() {
    let host = TestHost::new();
    let at = |thread: &str| session(&host, &["attempt-start", "--tenant", "acme", "--thread", thread, "--target", "shop"]);
    let main = at("t-1");
    let id = main["session"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(main["opened"], true, "begun on first use");
    let sub = session(&host, &["create", "--tenant", "acme", "--thread", "t-1/sub", "--target", "shop", "--parent", &id, "--name", "sub"]);
    assert_eq!((sub["session"]["parent"].as_str(), sub["session"]["thread"].as_str()), (Some(id.as_str()), Some("t-1/sub")));
    let said =
        host.beadle(["session", "append", "--tenant", "acme", "--thread", "t-1", "--target", "shop", "-e", "note", r#"{"text":"x"}"#]);
    said.ok();
    assert_eq!(host.events_of(&id, "note").len(), 1);
    assert_eq!(host.beadle(["--json", "ls", "--tenant", "acme", "--thread", "t-1"]).ok().lines().len(), 1);
    assert_eq!(refused(&host, &["append", "--tenant", "other", "--thread", "t-1", "-e", "note", r#"{"text":"x"}"#]), "BDL-WRITE-012");
}

#[test]
fn attempts_are_one_after_the_other_and_nothing_is_written_between() {
    let host = TestHost::new();
    session(&host, &["create", "--key", "k", "--target", "shop"]);
    let e = |text: &'static str| ["append", "k", "-e", "note", text];
    assert_eq!(refused(&host, &e(r#"{"text":"too early"}"#)), "BDL-WRITE-001");
    assert_eq!(refused(&host, &["attempt-end", "k", "--success"]), "BDL-WRITE-001");
    let long = "do it well ".repeat(1_000);
    session(&host, &["attempt-start", "k", "--agent", "recon", "--phase", "scan", "--tier", "local", "-m", "m-1", "-p", &long]);
    assert_eq!(refused(&host, &["attempt-start", "k"]), "BDL-WRITE-002");
    assert_eq!(refused(&host, &["end", "k", "--success"]), "BDL-WRITE-002", "an open attempt is ended first");
    assert_eq!(refused(&host, &["attempt-end", "k", "--failed", "--number", "7"]), "BDL-WRITE-003");
    let failed =
        ["attempt-end", "k", "--failed", "--error", "no route", "--duration-ms", "1500", "--cost-nanousd", "2000000", "--number", "1"];
    session(&host, &failed);
    assert_eq!(refused(&host, &e(r#"{"text":"between"}"#)), "BDL-WRITE-001");
    assert_eq!(refused(&host, &["attempt-start", "k", "--number", "5"]), "BDL-WRITE-003");
    session(&host, &["attempt-start", "k", "--number", "2", "--agent", "exploit", "-p", "another prompt"]);
    let commit = "0123456789abcdef0123456789abcdef01234567";
    session(
        &host,
        &["attempt-end", "k", "--success", "--cost-nanousd", "3000000", "--checkpoint", commit, "--final", "--summary", "found it"],
    );
    session(&host, &["end", "k", "--success"]);
    let s = host.show("k");
    let id = s["id"].as_str().expect("an id");
    let want = [
        "session_created",
        "attempt_started",
        "prompt_submitted",
        "attempt_ended",
        "attempt_started",
        "attempt_checkpointed",
        "attempt_ended",
        "session_ended",
    ];
    assert_eq!(kinds(&host, id), want, "the prompt is kept with the first attempt only");
    let events = host.events(id);
    assert_eq!(events.iter().map(|e| e["attempt"].as_u64().unwrap_or(9)).collect::<Vec<_>>(), [0, 1, 1, 1, 2, 2, 2, 2]);
    let (one, two) = (&events[3]["body"], &events[6]["body"]);
    assert_eq!((one["success"].as_bool(), one["error"].as_str(), one["duration_ms"].as_u64()), (Some(false), Some("no route"), Some(1500)));
    assert_eq!((two["success"].as_bool(), two["is_final"].as_bool(), two["cost"].as_u64()), (Some(true), Some(true), Some(3_000_000)));
    assert_eq!((events[5]["body"]["commit"].as_str(), events[5]["body"]["attempt"].as_u64()), (Some(commit), Some(2)));
    assert_eq!(s["agent_cost"]["nanousd"], 5_000_000, "what the attempts are told to have cost, all of them");
    assert_eq!((s["prompt"]["bytes"].as_u64(), s["outcome"].as_str()), (Some(long.len() as u64), Some("succeeded")));
    // By the names that its writer gave: sums, and taking back.
    let doc = host.beadle(["--json", "attempts", "k"]).ok().json();
    let cost = |of: &Value| (of["attempt_count"].as_u64(), of["cost"]["nanousd"].as_u64());
    assert_eq!(cost(&doc["by_agent"]["recon"]), (Some(1), Some(2_000_000)), "{doc:#}");
    assert_eq!(cost(&doc["by_agent"]["exploit"]), (Some(1), Some(3_000_000)));
    assert_eq!(
        (cost(&doc["by_phase"]["scan"]), doc["by_agent"]["recon"]["duration_ms"].as_u64()),
        ((Some(1), Some(2_000_000)), Some(1500))
    );
    let last = |of: &Value| (of["final_duration_ms"].as_u64(), of["duration_ms"].as_u64());
    assert_eq!(
        (last(&doc["by_agent"]["recon"]).0, last(&doc["all"]).0),
        (Some(0), last(&doc["by_agent"]["exploit"]).1),
        "the last one's apart"
    );
    let back = host.beadle(["--json", "rollback", "k", "--agent", "recon"]).ok().json();
    assert_eq!(back["marked_count"], 1, "{back:#}");
    assert_eq!(host.show("k")["rolled_back"], json!([1]), "the other agent's stays");
    let none = host.beadle(["rollback", "k", "--agent", "external"]);
    assert!(none.code == 2 && none.err.contains("selects no attempt"), "{none:?}");
}

#[test]
fn every_kind_is_kept_as_it_was_told_and_usage_is_priced() {
    let host = TestHost::new();
    let secret = format!("sk-ant-{}", "a1".repeat(20));
    let usage = json!({ "input": 1000, "output": 100, "cache_read": 0, "cache_write": 0 });
    let large = "x".repeat(300_000);
    let tries = json!([
        { "number": 1, "model": "small", "tier": "local", "duration_ms": 5, "warm": true, "verified": true, "verdict": "escalate",
          "feedback": "too short", "output_summary": "a", "runner_output": "b" },
        { "number": 2, "model": "big", "tier": "managed", "duration_ms": 9, "warm": false, "verified": true, "verdict": "accept" },
    ]);
    let lines = [
        json!({ "kind": "attempt_started", "agent": "a", "at": "2026-01-31T08:00:00Z" }),
        json!({ "kind": "prompt_submitted", "text": "go" }),
        json!({ "kind": "tool_started", "call_id": "t1", "tool": "Bash", "input": { "command": "ls" } }),
        json!({ "kind": "tool_ended", "call_id": "t1", "output": format!("key {secret}"), "duration_ms": 3 }),
        json!({ "kind": "tool_started", "call_id": "t2", "tool": "Write", "input": { "content": large } }),
        json!({ "kind": "model_responded", "message_id": "m1", "model": "claude-opus-4-8", "usage": usage, "text": "done", "context_used": 1100 }),
        json!({ "kind": "model_responded", "message_id": "m2", "model": "nobody-knows", "usage": usage }),
        json!({ "kind": "sub_agent_invoked", "agent_type": "explore", "description": "look" }),
        json!({ "kind": "agent_handed_off", "from": "a", "to": "b" }),
        json!({ "kind": "checkpoint_resumed", "checkpoint": "c-1" }),
        json!({ "kind": "memory_recalled", "tier": "long", "namespace": "n", "hits": 3 }),
        json!({ "kind": "usage_limit_exceeded", "limit": "tokens", "value": 9, "max": 5 }),
        json!({ "kind": "context_compacted", "dropped": 7, "retained": 2 }),
        json!({ "kind": "invocation_recorded", "skill": "review", "phase": "p", "project_root": "/r", "input": "raw", "final_status": "ok",
                "file": "f", "model": "big", "duration_ms": 14, "message": "fine", "attempts": tries }),
        json!({ "kind": "custom", "type": "shop.sold", "body": { "n": [1, 2] } }),
        json!({ "kind": "note", "text": "\u{1b}[2J" }),
        json!({ "kind": "attempt_ended", "success": true }),
        json!({ "kind": "session_ended", "success": true, "reason": "sold out" }),
    ];
    host.daemon();
    let wrote = feed(&host, &["--open", "k", "--target", "shop", "--idempotency-key", "all"], &lines).ok().json();
    let id = wrote["session"]["id"].as_str().expect("an id").to_owned();
    let of = |kind: &str| host.events_of(&id, kind).first().map(|e| e["body"].clone()).unwrap_or_else(|| panic!("no {kind}"));
    assert_eq!(of("attempt_started")["agent"], "a");
    assert_eq!(host.events_of(&id, "attempt_started")[0]["at"], "2026-01-31T08:00:00.000Z", "as its writer says");
    assert_eq!(of("tool_reported")["input"]["command"], "ls");
    assert_eq!(of("tool_ended")["output"]["text"], "key [secret masked]");
    let second = &host.events_of(&id, "tool_reported")[1]["body"];
    assert!(second["input"].is_null() && second["whole"]["blob"].is_string() && second["whole"]["bytes"].as_u64() > Some(300_000));
    assert_eq!((of("agent_replied")["text"].as_str(), of("agent_replied")["message_id"].as_str()), (Some("done"), Some("m1")));
    assert_eq!(of("model_responded")["cost"], 1000 * 5_000 + 100 * 25_000);
    assert_eq!((of("agent_handed_off")["to"].as_str(), of("checkpoint_resumed")["checkpoint"].as_str()), (Some("b"), Some("c-1")));
    assert_eq!((of("memory_recalled")["hits"].as_u64(), of("memory_recalled")["tier"].as_str()), (Some(3), Some("long")));
    assert_eq!((of("usage_limit_exceeded")["max"].as_u64(), of("usage_limit_exceeded")["unit"].as_str()), (Some(5), Some("tokens")));
    assert_eq!((of("context_compacted")["dropped"].as_u64(), of("context_compacted")["retained"].as_u64()), (Some(7), Some(2)));
    let i = of("invocation_recorded");
    assert_eq!((i["skill"].as_str(), i["final_status"].as_str(), i["duration_ms"].as_u64()), (Some("review"), Some("ok"), Some(14)));
    let t = &i["attempts"][0];
    assert_eq!(
        (t["verdict"].as_str(), t["feedback"]["text"].as_str(), t["warm"].as_bool()),
        (Some("escalate"), Some("too short"), Some(true))
    );
    assert_eq!((of("custom")["type"].as_str(), of("custom")["body"]["n"][1].as_u64()), (Some("shop.sold"), Some(2)));
    let s = host.ended(&id);
    assert_eq!(
        (s["call_count"].as_u64(), s["unpriced"][0].as_str(), s["cost"]["nanousd"].as_u64()),
        (Some(2), Some("nobody-knows"), Some(7_500_000))
    );
    assert_eq!((s["end_reason"].as_str(), s["outcome"].as_str()), (Some("sold out"), Some("succeeded")));
    // It is seen as every session is.
    assert!(host.beadle(["ls"]).ok().out.contains("succeeded"));
    let text = host.beadle(["show", &id]).ok().out;
    assert!(text.contains("another program writes this session") && text.contains("shop"), "{text}");
    assert_eq!((s["context_used"].as_u64(), s.get("context_percent")), (Some(1_100), Some(&Value::Null)), "no writer names a window");
    assert!(text.contains("1,100 tokens of a window that is not known"), "{text}");
    let timeline = host.beadle(["events", &id, "--timeline"]).ok().out;
    for part in ["try 1: local, small, escalate: too short", "shop.sold", "handed off from a to b", "recalled 3 from n", "Bash"] {
        assert!(timeline.contains(part), "{part}: {timeline}");
    }
    assert!(!timeline.contains('\u{1b}'));
    let stats = host.beadle(["--json", "stats", "--by", "agent"]).ok().out;
    assert!(stats.contains("external"), "{stats}");
    host.beadle(["verify", &id]).ok();
    assert_eq!(host.beadle(["export", &id]).ok().out.lines().count(), s["last_seq"].as_u64().map_or(0, |n| n as usize));
    let account = host.beadle(["--json", "account", &id]).ok().json();
    assert_eq!(account["clean"], true, "{account}");
    host.beadle(["logs", &id]).ok();
    assert!(host.beadle(["--json", "ps", &id]).ok().lines().is_empty());
    // Nothing of it, told again, is there twice; other content under the key is a conflict that changes nothing.
    let again = feed(&host, &["k", "--idempotency-key", "all"], &lines).ok().json();
    assert_eq!(
        (again["repeated"].as_bool(), &again["first_seq"], &again["last_seq"]),
        (Some(true), &wrote["first_seq"], &wrote["last_seq"])
    );
    let other = feed(&host, &["k", "--idempotency-key", "all"], &lines[..3]);
    assert!(other.code == 1 && other.err.contains("BDL-WRITE-006"), "{other:?}");
    assert_eq!(host.show(&id)["last_seq"], s["last_seq"]);
    host.beadle(["rm", &id]).ok();
    assert_eq!(host.beadle(["show", &id]).code, 3);
}

#[test]
fn what_cannot_be_kept_is_refused_whole_and_names_its_place() {
    let host = TestHost::new();
    session(&host, &["attempt-start", "--open", "k", "--target", "shop"]);
    for (line, says) in [
        (json!({ "kind": "tool_decided", "call": 1, "effect": "allow" }), "line 2"),
        (json!({ "kind": "mediation_breached", "what": "x" }), "unknown variant"),
        (json!({ "kind": "custom", "type": "a b" }), "use letters"),
        (json!({ "kind": "custom", "type": "a", "body": "x".repeat(300_000) }), "over the limit of 262144"),
        (json!({ "kind": "note", "text": "x", "seq": 1 }), "unknown field"),
        (json!({ "kind": "note", "text": "x", "at": "yesterday" }), "the time is"),
    ] {
        let said = feed(&host, &["k"], &[json!({ "kind": "note", "text": "before" }), line.clone()]);
        assert!(said.code == 2 && said.err.contains(says), "{says}: {said:?}");
    }
    assert_eq!(kinds(&host, "k"), ["session_created", "attempt_started"], "all or none");
    let torn = feed(&host, &["k"], &[]);
    assert!(torn.code == 2 && torn.err.contains("no event to write"), "{torn:?}");
    // The verbs of a host's own session say what is not there.
    for verb in [["pause", "k"], ["send", "k"], ["compact", "k"]] {
        let args: Vec<&str> = if verb[0] == "send" { vec!["send", "k", "hi"] } else { verb.to_vec() };
        let said = host.beadle(args);
        assert!(said.code == 1 && said.err.contains("BDL-WRITE-010"), "{verb:?}: {said:?}");
    }
    host.beadle(["stop", "k"]).ok();
    let s = host.ended("k");
    assert_eq!((s["outcome"].as_str(), s["in_attempt"].is_null()), (Some("stopped"), true));
    assert_eq!(kinds(&host, "k")[2..], ["session_stopping", "attempt_ended", "session_ended"]);
    host.beadle(["session", "create", "--key", "k2", "--target", "x"]).ok();
    host.beadle(["rm", "--force", "k2"]).ok();
}

#[test]
fn a_process_of_a_session_writes_nowhere_and_nobody_writes_a_log_of_the_hosts_own() {
    let host = TestHost::new();
    session(&host, &["attempt-start", "--open", "k", "--target", "shop"]);
    let me = env!("CARGO_BIN_EXE_beadle");
    let say = r#"{"text":"forged"}"#;
    let script = format!(
        "for a in 'create --key mine --target x' 'append k -e note {say}' 'append inner -e note {say}' 'end k --success'; do \
         {me} --json session $a >> out 2>&1; echo $? >> codes; done"
    );
    let home = format!("BEADLE_HOME={}", host.beadle_home().display());
    host.beadle(["run", "--wait", "--name", "inner", "--env", &home, "--", "sh", "-c", &script]).ok();
    let codes = crate::support::lines_of(&host.work().join("codes"));
    let out = std::fs::read_to_string(host.work().join("out")).unwrap_or_default();
    assert_eq!(codes, ["1", "1", "1", "1"], "{out}");
    assert_eq!(out.matches("BDL-API-001").count(), 4, "{out}");
    assert_eq!(kinds(&host, "k"), ["session_created", "attempt_started"]);
    assert_eq!(host.beadle(["--json", "ls"]).ok().lines().len(), 2, "and none was begun");
    // Nor can the operator: what the host saw is the host's word.
    for args in [&["append", "inner", "-e", "note", say][..], &["attempt-start", "inner"], &["end", "inner", "--success"]] {
        assert_eq!(refused(&host, args), "BDL-WRITE-005", "{args:?}");
    }
}

/// Each of eight writers tells 40 notes under keys of its own while the daemon is killed again and again, and repeats what was not
/// acknowledged.
#[test]
fn kill_9_between_writes_loses_nothing_acknowledged_and_doubles_nothing() {
    const WRITERS: usize = 8;
    const EACH: usize = 40;
    let host = TestHost::new();
    let mut daemon = host.daemon_with("BEADLE_TEST", "1");
    session(&host, &["attempt-start", "--open", "k", "--target", "shop"]);
    let c = client(&host);
    let writers: Vec<_> = (0..WRITERS)
        .map(|w| {
            let c = c.clone();
            runtime().spawn(async move {
                let mut acknowledged = Vec::new();
                for n in 0..EACH {
                    let key = format!("w{w}-{n}");
                    let request = WriteRequest {
                        session: Some("k".into()),
                        key: Some(key.clone()),
                        writes: vec![note(&key)],
                        ..WriteRequest::default()
                    };
                    let wrote: WroteDoc = loop {
                        match c.write(&request).await {
                            Ok(doc) => break doc,
                            Err(e) if e.exit() == 4 || e.exit() == 125 => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                            Err(e) => panic!("{e}"),
                        }
                    };
                    acknowledged.push((key, wrote.first_seq.expect("a seq")));
                }
                acknowledged
            })
        })
        .collect();
    for round in 1..=4u64 {
        until("some more is written", || {
            let n = host.beadle(["--json", "show", "k"]).out;
            let seq = serde_json::from_str::<Value>(n.trim()).ok()?["last_seq"].as_u64()?;
            (seq >= round * 40).then_some(())
        });
        kill(daemon.id());
        let _ = daemon.wait();
        daemon = host.daemon_with("BEADLE_TEST", "1");
    }
    let told: Vec<(String, u64)> = runtime().block_on(async {
        let mut all = Vec::new();
        for w in writers {
            all.extend(w.await.expect("no panic"));
        }
        all
    });
    let events = host.events("k");
    let seqs: Vec<u64> = events.iter().filter_map(|e| e["seq"].as_u64()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "gapless");
    let notes: Vec<(String, u64)> = events
        .iter()
        .filter(|e| e["kind"] == "note")
        .map(|e| (e["body"]["text"].as_str().unwrap_or_default().to_owned(), e["seq"].as_u64().unwrap_or(0)))
        .collect();
    assert_eq!(notes.len(), WRITERS * EACH, "every one once");
    let (told, notes): (BTreeSet<_>, BTreeSet<_>) = (told.into_iter().collect(), notes.into_iter().collect());
    assert_eq!(told, notes, "where its writer was told that it is");
    host.beadle(["verify"]).ok();
    kill(daemon.id());
    let _ = daemon.wait();
}

#[test]
fn a_thousand_openers_of_one_key_open_one_session_and_of_a_thousand_keys_a_thousand() {
    const OPENERS: usize = 1_000;
    let host = TestHost::new();
    host.daemon();
    let c = client(&host);
    let docs: Vec<(bool, String, bool)> = runtime().block_on(async {
        let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(64));
        let all: Vec<_> = (0..OPENERS * 2)
            .map(|i| {
                let (c, gate) = (c.clone(), gate.clone());
                let same = i % 2 == 0;
                tokio::spawn(async move {
                    let _one = gate.acquire().await.expect("open");
                    let key = if same { "same".to_owned() } else { format!("key-{i}") };
                    let open = OpenRequest { name: Some("name".into()), ..open(&key, "shop") };
                    let doc =
                        c.write(&WriteRequest { open: Some(open), ..WriteRequest::default() }).await.unwrap_or_else(|e| panic!("{e}"));
                    (same, doc.session.id, doc.opened)
                })
            })
            .collect();
        let mut docs = Vec::new();
        for one in all {
            docs.push(one.await.expect("no panic"));
        }
        docs
    });
    let ids = |same: bool| docs.iter().filter(|d| d.0 == same).map(|d| d.1.clone()).collect::<BTreeSet<_>>();
    assert_eq!((ids(true).len(), ids(false).len()), (1, OPENERS));
    assert_eq!(docs.iter().filter(|d| d.0 && d.2).count(), 1, "one of them opened it");
    assert!(ids(true).is_disjoint(&ids(false)));
    host.beadle(["verify"]).ok();
    // why here: the host's end would end each by a command of its own.
    runtime().block_on(async {
        for id in ids(true).iter().chain(&ids(false)) {
            let end = Written::SessionEnded(beadle::model::written::End { success: Some(true), reason: None });
            let request = WriteRequest { session: Some(id.clone()), writes: vec![end.into()], ..WriteRequest::default() };
            c.write(&request).await.unwrap_or_else(|e| panic!("{e}"));
        }
    });
}

#[test]
fn keys_of_single_writes_leave_out_what_is_there() {
    let host = TestHost::new();
    host.daemon();
    let line = |n: usize| json!({ "kind": "note", "text": format!("line {n}"), "key": format!("l{n}") });
    let start = json!({ "kind": "attempt_started", "key": "start" });
    let first: Vec<Value> = std::iter::once(start.clone()).chain((0..5).map(line)).collect();
    feed(&host, &["--open", "k", "--target", "x"], &first).ok();
    let grown: Vec<Value> = std::iter::once(start).chain((0..8).map(line)).collect();
    let wrote = feed(&host, &["k"], &grown).ok().json();
    assert_eq!((wrote["repeated"].as_bool(), wrote["first_seq"].as_u64(), wrote["last_seq"].as_u64()), (Some(false), Some(8), Some(10)));
    let again = feed(&host, &["k"], &grown).ok().json();
    assert_eq!((again["repeated"].as_bool(), again["first_seq"].as_u64(), again["last_seq"].as_u64()), (Some(true), Some(2), Some(10)));
    let changed = feed(&host, &["k"], &[json!({ "kind": "note", "text": "another", "key": "l3" })]);
    assert!(changed.code == 1 && changed.err.contains("BDL-WRITE-006"), "{changed:?}");
    let twice = feed(&host, &["k"], &[line(20), line(20)]);
    assert!(twice.code == 2 && twice.err.contains("a key of its own"), "{twice:?}");
    assert_eq!(kinds(&host, "k").len(), 10);
}

#[test]
fn a_silent_writer_is_silent_and_ended_only_where_that_was_asked_for() {
    let host = TestHost::new();
    session(&host, &["attempt-start", "--open", "patient", "--target", "x"]);
    session(&host, &["create", "--key", "hasty", "--target", "x", "--idle-ms", "1"]);
    let hasty = host.ended("hasty");
    assert_eq!((hasty["outcome"].as_str(), hasty["writer"]["idle_ms"].as_u64()), (Some("lost"), Some(1)));
    assert!(hasty["end_reason"].as_str().is_some_and(|r| r.contains("was silent for")), "{hasty:#}");
    // Nobody has to look: its end comes by itself, and after a crash as well.
    for crash in [false, true] {
        let key = format!("lone-{crash}");
        let id = session(&host, &["create", "--key", &key, "--target", "x", "--idle-ms", "700"])["session"]["id"]
            .as_str()
            .expect("an id")
            .to_owned();
        if crash {
            host.kill_daemon();
            host.beadle(["ls"]).ok();
        }
        until("the silent writer's session has ended", || host.events(&id).last().filter(|e| e["kind"] == "session_ended").map(drop));
        assert!(kinds(&host, &id).contains(&"session_stopping".to_owned()));
    }
    host.kill_daemon();
    let patient = host.show("patient");
    assert_eq!((patient["status"].as_str(), patient["in_attempt"].as_bool()), (Some("running"), Some(true)), "unknown is never dead");
    let text = host.beadle(["show", "patient"]).ok().out;
    assert!(text.contains("silent since"), "{text}");
    session(&host, &["append", "patient", "-e", "note", r#"{"text":"still here"}"#]);
}

/// A request is taken as a whole, so what its first write begins holds for the others.
#[test]
fn an_attempt_begins_and_ends_with_its_checkpoint_in_one_request() {
    let host = TestHost::new();
    let commit = "ab".repeat(20);
    session(&host, &["create", "--key", "k", "--target", "x"]);
    let both = |n: u32| {
        [
            json!({ "kind": "attempt_started", "prompt": "the whole", "key": format!("s{n}") }),
            json!({ "kind": "attempt_ended", "success": true, "checkpoint": commit, "key": format!("e{n}") }),
        ]
    };
    feed(&host, &["k"], &[both(1), both(2)].concat()).ok();
    feed(&host, &["k"], &[both(1), both(2), both(3)].concat()).ok();
    let doc = host.beadle(["--json", "attempts", "k"]).ok().json();
    let kept: Vec<_> = doc["items"].as_array().expect("a list").iter().map(|a| (a["number"].as_u64(), a["checkpoint"].as_str())).collect();
    assert_eq!(kept, [(Some(1), Some(commit.as_str())), (Some(2), Some(commit.as_str())), (Some(3), Some(commit.as_str()))], "{doc:#}");
    assert_eq!(host.events_of("k", "prompt_submitted").len(), 1, "one snapshot of the prompt");
    host.beadle(["verify"]).ok();
}

/// An orchestrator that writes its own session: what it tells counts for the tree, and the tree is stopped with it.
#[test]
fn written_sessions_are_members_of_their_tree() {
    let mut host = TestHost::new();
    host.config("limits.finish_ms = 200\n");
    let model = Model::start(&json!({ "steps": [{ "text": "done" }] }));
    let root = host.run_demo(&model, "go", &["--keep", "--max-cost", "1", "--tree-limits"]);
    until("the root's turn ends", || (host.show(&root)["turn_count"] == 1).then_some(()));
    let thread =
        session(&host, &["create", "--key", "t", "--target", "x", "--parent", &root])["session"]["id"].as_str().expect("an id").to_owned();
    session(&host, &["attempt-start", "t"]);
    let usage = json!({ "input": 4_000_000, "output": 1_000_000, "cache_read": 0, "cache_write": 0 });
    let told = json!({ "kind": "model_responded", "message_id": "m", "model": "claude-opus-4-8", "usage": usage });
    feed(&host, &["t"], &[told]).ok();
    let ended = host.ended(&root);
    assert_eq!(ended["outcome"], "budget", "{ended:#}");
    let writer = session(&host, &["attempt-start", "--open", "boss", "--target", "x"])["session"]["id"].as_str().expect("an id").to_owned();
    session(&host, &["create", "--key", "below", "--target", "x", "--parent", &writer]);
    host.beadle(["stop", "--tree", &writer]).ok();
    for key in ["boss", "below"] {
        assert_eq!(host.ended(key)["outcome"], "stopped", "{key}");
    }
    assert_eq!(host.show(&thread)["status"], "running", "the writer of another tree is not concerned");
    host.beadle(["verify"]).ok();
}

#[test]
fn who_must_not_wait_does_not_and_what_is_lost_is_on_record() {
    let host = TestHost::new();
    let emit = |n: usize| {
        let fields = json!({ "text": format!("n{n}") }).to_string();
        host.beadle(["--json", "session", "append", "--no-wait", "k", "-e", "note", &fields])
    };
    session(&host, &["attempt-start", "--open", "k", "--target", "x"]);
    assert_eq!(emit(0).ok().json()["repeated"], false, "with a daemon there it is as every other write");
    host.beadle(["host", "stop"]).ok();
    until("nobody listens", || std::os::unix::net::UnixStream::connect(host.beadle_home().join("run/beadle.sock")).is_err().then_some(()));
    for n in 1..4 {
        let begun = std::time::Instant::now();
        let said = emit(n).ok();
        assert_eq!(said.json()["acknowledged"], false);
        assert!(said.err.contains("given up, and counted"), "{said:?}");
        // The limit is 100 ms; the rest is the start of a process on a busy machine.
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    }
    let unheard = host.beadle(["--json", "session", "create", "--no-wait", "--key", "late", "--target", "x"]).ok();
    assert!(unheard.json()["acknowledged"] == false && unheard.err.contains("opens it"), "{unheard:?}");
    // A daemon that hangs takes a connection and answers nothing.
    let daemon = host.daemon();
    let pid = rustix::process::Pid::from_raw(i32::try_from(daemon).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stopped");
    let said = emit(4).ok();
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).expect("goes on");
    assert_eq!(said.json()["acknowledged"], false);
    until("a write comes through", || Some(emit(5).ok().json()).filter(|d| d["session"].is_object()));
    // why a set: who gave up and writes the same once more has it there twice.
    let notes: std::collections::BTreeSet<String> = host.events_of("k", "note").iter().map(|e| e["body"].to_string()).collect();
    let notes = notes.len() as u64;
    let lost: u64 = host.events_of("k", "writes_lost").iter().filter_map(|e| e["body"]["count"].as_u64()).sum();
    assert!(lost >= 3, "{lost}");
    assert_eq!(host.show("k")["writes_lost"].as_u64(), Some(lost));
    assert!((2..=3).contains(&notes), "the one that was asked of the hanging daemon may be there");
    assert!(lost + notes >= 6, "nothing is neither there nor counted: {lost} lost, {notes} there");
    assert!(host.beadle(["show", "k"]).ok().out.contains("lost writes"));
    let stats = host.beadle(["--json", "stats"]).ok().json();
    assert_eq!(stats["writes_lost_count"].as_u64(), Some(lost), "{stats:#}");
    assert!(host.beadle(["stats"]).ok().out.contains("lost writes"));
    emit(6).ok();
    assert_eq!(session(&host, &["create", "--no-wait", "--key", "late", "--target", "x"])["opened"], true);
    let after: u64 = host.events_of("k", "writes_lost").iter().filter_map(|e| e["body"]["count"].as_u64()).sum();
    assert_eq!(after, lost, "told once");
}

#[test]
fn an_emitter_never_waits_and_accounts_for_every_write() {
    const MORE: usize = 300;
    let host = TestHost::new();
    session(&host, &["attempt-start", "--open", "k", "--target", "x"]);
    host.beadle(["host", "stop"]).ok();
    until("nobody listens", || std::os::unix::net::UnixStream::connect(host.beadle_home().join("run/beadle.sock")).is_err().then_some(()));
    let emitter = runtime().block_on(async { Writer::of(client(&host), "k".to_owned()).emitter() });
    let all = Emitter::LINE + 200 + MORE;
    let taken = (0..all).filter(|n| emitter.emit(note(&format!("e{n}")))).count() as u64;
    assert_eq!(taken + emitter.lost(), all as u64);
    assert!(emitter.lost() > 0, "the line is bounded");
    host.daemon();
    let lost = runtime().block_on(emitter.close(crate::support::PATIENCE));
    let notes = host.events_of("k", "note").len() as u64;
    assert_eq!((notes, notes + lost), (taken, all as u64), "each is there once, or counted");
    let told: u64 = host.events_of("k", "writes_lost").iter().filter_map(|e| e["body"]["count"].as_u64()).sum();
    assert_eq!((told, host.show("k")["writes_lost"].as_u64()), (lost, Some(lost)));
    assert!(host.beadle(["verify", "k"]).code == 0);
}

#[test]
fn a_writer_opens_with_its_first_write_and_its_threads_are_children() {
    let host = TestHost::new();
    host.daemon();
    let id = runtime().block_on(async {
        let main = Writer::open(client(&host), open("example", "shop"));
        let start = Written::AttemptStarted(beadle::model::written::AttemptStart::default());
        let id = main.write(vec![start.clone().into(), note("one")]).await.unwrap_or_else(|e| panic!("{e}")).session.id;
        let below = main.thread(&id, "sub").write(vec![start.into(), note("two")]).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(below.session.record.parent.map(|p| p.to_string()), Some(id.clone()));
        id
    });
    let tree = host.beadle(["--json", "ls", "--parent", &id]).ok().lines();
    assert_eq!((tree.len(), tree[0]["thread"].as_str()), (1, Some("sub")));
}
