//! Logs of other systems become sessions: whole lines once, torn and endless ones named, usage in the ledger.

use serde_json::{Value, json};

use crate::support::{Said, TestHost};

fn write(host: &TestHost, name: &str, lines: &[Value], tail: &str) -> String {
    let text: String = lines.iter().map(|l| format!("{l}\n")).collect();
    host.file(name, &(text + tail)).display().to_string()
}

fn import(host: &TestHost, args: &[&str]) -> Said {
    host.beadle([&["--json", "import"], args].concat())
}

fn id_of(said: &Said) -> String {
    said.lines()[0]["session"].as_str().expect("an id").to_owned()
}

fn kinds(host: &TestHost, id: &str) -> Vec<String> {
    host.events(id).iter().map(|e| e["kind"].as_str().unwrap_or_default().to_owned()).collect()
}

fn invocation(session: &str, n: usize) -> Value {
    json!({ "session_id": session, "timestamp": "2026-02-03T04:05:06Z", "skill": "review", "phase": "p", "project_root": "/r",
            "raw_input": "do it", "final_status": "ok", "file": "a.go", "model": "big", "duration_ms": n, "message": "fine",
            "attempts": [
                { "number": 1, "model": "small", "tier": "local", "duration_ms": 1, "warm": true, "verified": true, "verdict": "escalate",
                  "feedback": "too short", "output_summary": "x", "runner_output": "y" },
                { "number": 2, "model": "big", "tier": "managed", "duration_ms": 2, "verdict": "accept" }] })
}

#[test]
fn skill_invocations_of_many_sessions_are_read_over_torn_and_endless_lines() {
    let host = TestHost::new();
    let endless = format!("{}\n", json!({ "session_id": "a", "skill": "big", "message": "x".repeat(9 << 20) }));
    let long = json!({ "session_id": "a", "skill": "long", "raw_input": "y".repeat(2 << 20) });
    let over = format!("{}\n", json!({ "session_id": "a", "skill": "huge", "message": "z".repeat(65 << 20) }));
    let lines = [invocation("a", 1), json!("a text"), invocation("b", 2), long, json!({ "skill": "whose" })];
    let tail = format!("not json at all\n{endless}{over}{}\n{{\"session_id\": \"a\", \"skill\": \"to", invocation("a", 3));
    let file = write(&host, "log.jsonl", &lines, &tail);
    let said = import(&host, &[&file]);
    assert_eq!(said.code, 1, "lines were left out: {said:?}");
    let docs = said.lines();
    assert_eq!(docs.iter().map(|d| d["key"].as_str().unwrap_or_default()).collect::<Vec<_>>(), ["hyperguild:a", "hyperguild:b"]);
    assert_eq!(docs[0]["left_out_count"], 5, "{}", docs[0]);
    for says in [
        "line 2 is left out",
        "line 5 is left out: it names no session",
        "line 6",
        "line 8 is left out: it has 68157",
        "over the limit of 67108864",
        "line 10 is left out: it is torn",
        "1 lines over 8388608 bytes are shortened",
    ] {
        assert!(said.err.contains(says), "{says}: {}", said.err);
    }
    let a = docs[0]["session"].as_str().expect("an id");
    assert_eq!(docs[0]["shortened_count"], 1);
    assert_eq!(kinds(&host, a)[1..], ["invocation_recorded"; 4]);
    let events = host.events_of(a, "invocation_recorded");
    let i = &events[0]["body"];
    assert_eq!((i["skill"].as_str(), i["input"]["text"].as_str(), i["final_status"].as_str()), (Some("review"), Some("do it"), Some("ok")));
    let t = &i["attempts"][0];
    assert_eq!(
        (t["tier"].as_str(), t["verdict"].as_str(), t["feedback"]["text"].as_str()),
        (Some("local"), Some("escalate"), Some("too short"))
    );
    assert_eq!(events[0]["at"], "2026-02-03T04:05:06.000Z");
    let input = &events[1]["body"]["input"];
    assert_eq!((input["bytes"].as_u64(), input["blob"].is_string()), (Some(2 << 20), true), "the rest of a long text is a blob");
    let big = &events[2]["body"]["message"];
    assert_eq!((events[2]["body"]["skill"].as_str(), big["bytes"].as_u64().is_some_and(|n| n > 4 << 20)), (Some("big"), true), "{big}");
    assert_eq!(host.show(a)["target"], "/r");
    // Again it adds nothing; grown, what is new.
    let again = import(&host, &[&file]).lines();
    assert!(again.iter().all(|d| d["written"] == 0), "{again:?}");
    let grown = [&lines[..], &[invocation("b", 4)]].concat();
    let grown = write(&host, "log.jsonl", &grown[..], "");
    let said = import(&host, &[&grown, "--end"]);
    let b = said.lines()[1]["session"].as_str().expect("an id").to_owned();
    assert_eq!(host.events_of(&b, "invocation_recorded").len(), 2);
    assert_eq!(host.ended(&b)["outcome"], "exited");
    host.beadle(["verify"]).ok();
}

#[test]
fn an_audit_log_is_an_attempt_with_its_header_and_files_of_one_session_add_up() {
    let host = TestHost::new();
    let file = |agent: &str, ok: bool| {
        let head = format!("====\nAgent: {agent}\nAttempt: 1\nStarted: x\nSession: s-1\nWeb URL: https://shop.example\n====\n");
        let at = |s: u32| format!("2026-01-02T03:04:{s:02}.000Z");
        let lines = [
            json!({ "type": "agent_start", "timestamp": at(0), "data": { "agentName": agent, "attemptNumber": 1 } }),
            json!({ "type": "tool_start", "timestamp": at(1), "data": { "toolName": "Bash", "parameters": { "command": "nmap" } } }),
            json!({ "type": "tool_end", "timestamp": at(2), "data": { "result": { "open": [80] } } }),
            json!({ "type": "llm_response", "timestamp": at(3), "data": { "turn": 1, "content": "one port" } }),
            json!({ "type": "agent_end", "timestamp": at(4), "data": { "agentName": agent, "success": ok, "duration_ms": 4000.4, "cost_usd": 0.25 } }),
        ];
        let text: String = lines.iter().map(|l| format!("{l}\n")).collect();
        host.file(&format!("{agent}.log"), &(head + &text)).display().to_string()
    };
    let (recon, exploit) = (file("recon", true), file("exploit", false));
    let id = id_of(&import(&host, &[&recon]).ok());
    assert_eq!(id_of(&import(&host, &[&exploit, "--end"]).ok()), id, "one session, two files");
    let s = host.ended(&id);
    assert_eq!((s["target"].as_str(), s["attempt"].as_u64(), s["call_count"].as_u64()), (Some("https://shop.example"), Some(2), Some(2)));
    assert_eq!(s["agent_cost"]["nanousd"], 500_000_000u64, "as its attempts tell");
    let ended = host.events_of(&id, "attempt_ended");
    assert_eq!((ended[0]["body"]["success"].as_bool(), ended[1]["body"]["success"].as_bool()), (Some(true), Some(false)));
    assert_eq!((ended[0]["body"]["duration_ms"].as_u64(), ended[0]["at"].as_str()), (Some(4000), Some("2026-01-02T03:04:04.000Z")));
    assert_eq!(host.events_of(&id, "attempt_started")[1]["body"]["agent"], "exploit");
    assert_eq!(host.events_of(&id, "agent_replied")[0]["body"]["text"], "one port");
    assert_eq!(import(&host, &[&recon]).ok().lines()[0]["written"], 0);
}

#[test]
fn transcripts_of_agents_go_to_the_ledger_as_live_sessions_do() {
    let host = TestHost::new();
    // Recorded without reasoning: that is put in. Gemini counts it beside its output, the others within.
    let text = |text: &str, key: &str, n: u64| text.replace(&format!("\"{key}\": 0"), &format!("\"{key}\": {n}"));
    let claude = include_str!("../golden/usage/claude-code-2.1.197.transcript.jsonl").to_owned();
    let codex = text(include_str!("../golden/usage/codex-0.169.0.rollout.jsonl"), "reasoning_output_tokens", 7);
    let gemini = text(include_str!("../golden/usage/gemini-cli-0.61.0.transcript.jsonl"), "thoughts", 5);
    let opencode = text(include_str!("../golden/usage/opencode-1.18.33.run.jsonl"), "reasoning", 3);
    for (format, text, usage, reasoning) in [
        ("claude", claude, (2400, 68, 2000, 100), None),
        ("codex", codex, (2400, 68, 2000, 0), Some(14)),
        ("gemini", gemini, (2400, 78, 2000, 0), Some(10)),
        ("opencode", opencode, (2400, 68, 2000, 0), Some(6)),
    ] {
        let file = host.file(&format!("{format}.jsonl"), &text).display().to_string();
        let said = import(&host, &[&file, "--target", "t"]).ok();
        assert_eq!(said.lines()[0]["format"], format, "it tells itself");
        let id = id_of(&said);
        let s = host.ended(&id);
        let n = |key: &str| s["usage"][key].as_u64().unwrap_or(0);
        assert_eq!((n("input"), n("output"), n("cache_read"), n("cache_write")), usage, "{format}");
        assert_eq!(s["usage"]["reasoning"].as_u64(), reasoning, "{format}");
        assert_eq!((s["agent"].as_str(), s["outcome"].as_str()), (Some(format), Some("exited")));
        assert_eq!(s["cost"].is_null(), format != "claude", "a model without a price has no cost: {s:#}");
        assert_eq!(import(&host, &[&file, "--target", "t"]).ok().lines()[0]["written"], 0, "{format}: again nothing");
        assert_eq!(host.show(&id)["usage"], s["usage"]);
        host.assert_accounted(&id);
    }
    let by_model = host.beadle(["--json", "stats", "--by", "model"]).ok().out;
    assert!(by_model.contains("claude-opus-4-8"), "{by_model}");
    let line = |v: Value| v;
    let whole = [
        line(
            json!({ "type": "user", "sessionId": "s", "cwd": "/w", "timestamp": "2026-01-01T00:00:00Z", "message": { "role": "user", "content": "go" } }),
        ),
        line(
            json!({ "type": "assistant", "sessionId": "s", "message": { "id": "m", "model": "claude-opus-4-8", "usage": { "input_tokens": 5, "output_tokens": 1 },
            "content": [{ "type": "text", "text": "I look" }, { "type": "tool_use", "id": "t1", "name": "Bash", "input": { "command": "ls" } }] } }),
        ),
        line(
            json!({ "type": "user", "sessionId": "s", "message": { "content": [{ "type": "tool_result", "tool_use_id": "t1", "content": [{ "type": "text", "text": "a b" }] }] } }),
        ),
    ];
    let file = write(&host, "open.jsonl", &whole, "");
    let id = id_of(&import(&host, &[&file, "--open"]).ok());
    let want =
        ["session_created", "attempt_started", "prompt_submitted", "model_responded", "agent_replied", "tool_reported", "tool_ended"];
    assert_eq!(kinds(&host, &id), want);
    assert_eq!((host.show(&id)["target"].as_str(), host.show(&id)["cwd"].as_str()), (Some("/w"), Some("/w")));
    let grown = [
        &whole[..],
        &[json!({ "type": "assistant", "sessionId": "s", "message": { "content": [{ "type": "text", "text": "two files" }] } })],
    ]
    .concat();
    let said = import(&host, &[&write(&host, "open.jsonl", &grown, ""), "--open"]).ok();
    assert_eq!(kinds(&host, &id)[7..], ["agent_replied"], "{said:?}");
    host.assert_accounted(&id);
    // Ended by the import, which is the default: what has grown since has no place, and the words say what has.
    let last = |text: &str| json!({ "type": "assistant", "sessionId": "s", "timestamp": "2026-01-01T00:09:00Z", "message": { "content": [{ "type": "text", "text": text }] } });
    import(&host, &[&write(&host, "open.jsonl", &[&grown[..], &[last("three")]].concat(), "")]).ok();
    let before = kinds(&host, &id);
    let said = import(&host, &[&write(&host, "open.jsonl", &[&grown[..], &[last("three"), last("four")]].concat(), "")]);
    for words in [format!("session {id} was ended by an earlier import"), "--open".to_owned(), format!("beadle rm {id}")] {
        assert!(said.code == 1 && said.err.contains(&words) && said.err.contains("BDL-WRITE-00"), "{words}: {said:?}");
    }
    assert_eq!(kinds(&host, &id), before);
}

#[test]
fn messages_that_gemini_tells_again_and_the_stream_of_opencode_are_told_once() {
    let host = TestHost::new();
    let said = |more: Value| {
        let mut line = json!({ "id": "m1", "timestamp": "2026-11-21T01:48:01.907Z", "type": "gemini", "content": "I will.", "model": "g",
            "tokens": { "input": 10, "output": 4, "cached": 0, "thoughts": 0, "tool": 0, "total": 14 } });
        line.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        line
    };
    let call = json!({ "id": "t1", "name": "run_shell_command", "args": { "command": "ls" }, "status": "success" });
    let result = json!([{ "functionResponse": { "id": "t1", "name": "run_shell_command", "response": { "output": "a b" } } }]);
    let gemini = [
        json!({ "sessionId": "g-1", "projectHash": "h", "startTime": "2026-11-21T01:48:01.841Z", "kind": "main" }),
        json!({ "$set": { "messages": [] } }),
        json!({ "id": "u1", "type": "user", "content": [{ "text": "write hi" }] }),
        said(json!({})),
        said(json!({ "toolCalls": [call] })),
        said(json!({ "toolCalls": [call, { "id": "t2", "name": "read_file", "args": {} }] })),
        json!({ "id": "u2", "type": "user", "content": result }),
        json!({ "id": "m2", "type": "gemini", "content": "Done.", "tokens": { "input": 1, "output": 1, "total": 2 } }),
    ];
    let file = write(&host, "gemini.jsonl", &gemini, "");
    let id = id_of(&import(&host, &[&file, "--open"]).ok());
    let want = [
        "session_created",
        "attempt_started",
        "prompt_submitted",
        "model_responded",
        "agent_replied",
        "tool_reported",
        "tool_reported",
        "tool_ended",
        "model_responded",
        "agent_replied",
    ];
    assert_eq!(kinds(&host, &id), want);
    let ended = &host.events_of(&id, "tool_ended")[0]["body"];
    assert_eq!((ended["call_id"].as_str(), ended["output"]["text"].as_str()), (Some("t1"), Some("a b")));
    assert_eq!((host.show(&id)["name"].as_str(), host.show(&id)["usage"]["output"].as_u64()), (Some("g-1"), Some(5)));
    let part = |kind: &str, part: Value| json!({ "type": kind, "timestamp": 1_795_225_921_197_u64, "sessionID": "ses_1", "part": part });
    let state = json!({ "status": "error", "input": { "command": "ls" }, "error": "no shell" });
    let opencode = [
        part("step_start", json!({ "id": "p0" })),
        part("text", json!({ "id": "p1", "text": "I will." })),
        part("tool_use", json!({ "id": "p2", "callID": "c1", "tool": "bash", "state": state })),
        part("step_finish", json!({ "id": "p3", "tokens": { "total": 9, "input": 5, "output": 4 }, "cost": 0.1 })),
    ];
    let id = id_of(&import(&host, &[&write(&host, "opencode.jsonl", &opencode, ""), "--open"]).ok());
    assert_eq!(kinds(&host, &id)[2..], ["agent_replied", "tool_reported", "tool_ended", "model_responded"]);
    let ended = &host.events_of(&id, "tool_ended")[0];
    assert_eq!((ended["body"]["is_error"].as_bool(), ended["body"]["output"]["text"].as_str()), (Some(true), Some("no shell")));
    assert_eq!((ended["at"].as_str(), host.show(&id)["unpriced"][0].as_str()), (Some("2026-11-21T01:52:01.197Z"), Some("unknown")));
}

#[test]
fn an_export_is_read_back_as_a_report_of_what_it_says() {
    let host = TestHost::new();
    host.beadle(["run", "--wait", "--name", "first", "--", "true"]).ok();
    let first = host.show("first");
    let text = host.beadle(["export", "first"]).ok().out;
    let file = host.file("e.jsonl", &text).display().to_string();
    let id = id_of(&import(&host, &[&file]).ok());
    assert_ne!(Value::from(id.clone()), first["id"]);
    let s = host.ended(&id);
    assert_eq!((s["mediation"].as_str(), s["labels"]["imported"].as_str()), (Some("none"), Some("beadle")));
    assert_eq!(host.events_of(&id, "custom")[0]["body"]["type"], "beadle.session_created");
    let nothing = import(&host, &[&host.file("n.jsonl", "{\"hello\":1}\n").display().to_string()]);
    assert!(nothing.code == 2 && nothing.err.contains("--format"), "{nothing:?}");
}
