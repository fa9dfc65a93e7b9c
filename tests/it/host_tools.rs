//! The host's own tools for an agent: on the real Claude Code, and with an agent of a few lines that does not keep to the rules.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::claude::{host as claude_host, run};
use crate::support::{Model, TestHost, bash, lines_of, rules, until};

fn tool(name: &str, input: &Value) -> Value {
    json!({ "tool": format!("mcp__beadle__{name}"), "input": input })
}

fn add(text: &str) -> Value {
    tool("memory_add", &json!({ "text": text }))
}

fn kept(host: &TestHost) -> Vec<String> {
    let said = host.beadle(["--json", "memory", "ls", "--all"]);
    assert!(said.code <= 1, "{said:?}");
    said.lines().iter().map(|m| m["text"].as_str().expect("a text").to_owned()).collect()
}

fn decisions(host: &TestHost, id: &str) -> Vec<(String, String)> {
    let word = |e: &Value, key: &str| e["body"][key].as_str().unwrap_or_default().to_owned();
    host.events_of(id, "tool_decided").iter().map(|e| (word(e, "effect"), word(e, "by"))).collect()
}

fn offered(model: &Model) -> usize {
    model.requests().iter().filter(|r| r.to_string().contains("mcp__beadle__")).count()
}

#[test]
fn what_a_session_keeps_a_later_one_of_its_folder_finds() {
    let Some((mut host, program)) = claude_host("host_tools: what_a_session_keeps_a_later_one_of_its_folder_finds") else { return };
    host.config(&rules(&[], &[], &[]));
    let secret = format!("ghp_{}", "a1".repeat(20));
    let model = Model::start(&json!({ "steps": [
        tool("memory_add", &json!({ "text": format!("the gate listens on port 8080, token {secret}"), "tags": ["net"] })),
        tool("memory_add", &json!({ "text": "for this session only", "tier": "session" })),
        tool("task_add", &json!({ "title": "write the docs" })),
        tool("task_update", &json!({ "id": "1", "status": "completed" })),
        tool("task_update", &json!({ "id": "77", "status": "completed" })),
        tool("task_list", &json!({})),
        tool("note", &json!({ "text": "half way; `rm -rf /` is only a word here" })),
        tool("handoff", &json!({ "to": "reviewer", "reason": "the code is written" })),
        tool("report", &json!({ "text": "all is well" })),
        { "text": "done" },
    ]}));
    let id = run(&mut host, &program, &model, &["--expect-report"]);
    let s = host.ended(&id);
    assert_eq!(
        (s["outcome"].as_str(), s["breach_count"].as_u64(), s["host_tools"].as_bool()),
        (Some("succeeded"), Some(0), Some(true)),
        "{s:#}"
    );
    assert!(s["report"].as_str().is_some_and(|r| r.starts_with("event ")), "{s:#}");
    assert_eq!(decisions(&host, &id), vec![("allow".to_owned(), "default".to_owned()); 9]);
    assert!(host.events_of(&id, "approval_requested").is_empty());
    let answered: Vec<(String, bool)> = host
        .events_of(&id, "host_tool_answered")
        .iter()
        .map(|e| (e["body"]["tool"].as_str().unwrap_or_default().to_owned(), e["body"]["is_error"] == true))
        .collect();
    assert_eq!(answered.iter().filter(|(_, wrong)| *wrong).map(|(t, _)| t.as_str()).collect::<Vec<_>>(), ["task_update"], "{answered:?}");
    assert_eq!(answered.len(), 9);
    let all: String = host.events(&id).iter().map(Value::to_string).collect();
    assert!(!all.contains(&secret), "secrets are masked as everywhere");
    let tasks = host.events_of(&id, "task_updated");
    assert_eq!(tasks.iter().map(|t| t["body"]["status"].as_str().unwrap_or_default()).collect::<Vec<_>>(), ["pending", "completed"]);
    assert_eq!((tasks[0]["body"]["source"].as_str(), tasks[0]["body"]["by"]["role"].as_str()), (Some("host"), Some("agent")));
    let handed = &host.events_of(&id, "agent_handed_off")[0]["body"];
    assert_eq!((handed["from"].as_str(), handed["to"].as_str()), (Some("claude"), Some("reviewer")), "{handed:#}");
    assert_eq!(host.events_of(&id, "report_given")[0]["body"]["report"]["text"], "all is well");
    assert!(
        host.events_of(&id, "note").iter().any(|n| n["body"]["text"].as_str().is_some_and(|t| t.starts_with("the agent notes: half way")))
    );
    let said: String = model.requests().iter().map(Value::to_string).collect();
    assert!(
        said.contains("kept as m-") && said.contains("write the docs") && said.contains("BDL-TREE-"),
        "the model is told what came of it"
    );

    let model = Model::start(&json!({ "steps": [
        tool("memory_search", &json!({ "query": "which port does the gate use" })),
        tool("memory_search", &json!({ "query": "session only" })),
        tool("memory_search", &json!({ "query": "port", "namespace": "other" })),
        { "text": "done" },
    ]}));
    let second = run(&mut host, &program, &model, &[]);
    assert_eq!(host.ended(&second)["outcome"], "succeeded");
    let recalled: Vec<u64> = host.events_of(&second, "memory_recalled").iter().filter_map(|e| e["body"]["hits"].as_u64()).collect();
    assert_eq!(recalled, [1, 0], "what was another session's own is not found, and no other namespace is reached");
    assert!(model.requests().iter().any(|r| r.to_string().contains("the gate listens on port 8080")), "the model is told what was found");
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn policies_win_and_what_is_denied_changes_nothing() {
    let Some((mut host, program)) = claude_host("host_tools: policies_win_and_what_is_denied_changes_nothing") else { return };
    let steps = json!({ "steps": [add("one"), tool("note", &json!({ "text": "two" })), tool("task_add", &json!({ "title": "three" })), { "text": "done" }] });
    let own = rules(&[], &["mcp__beadle__note"], &["mcp__beadle__memory_add"]);
    for (config, more, want) in [
        // A rule's deny and ask.
        (format!("approvals.unattended = \"deny\"\n{own}"), &[][..], [("deny", "policy"), ("deny", "unattended"), ("allow", "default")]),
        // Who denies by default has not allowed these.
        (
            format!("default = \"deny\"\n{}", rules(&["mcp__beadle__task_add"], &[], &[])),
            &[],
            [("deny", "default"), ("deny", "default"), ("allow", "policy")],
        ),
        // Nor who names the tools that there may be.
        (rules(&[], &[], &[]), &["--allow-tool", "mcp__beadle__task_add"], [("deny", "host"), ("deny", "host"), ("allow", "default")]),
    ] {
        host.config(&config);
        let model = Model::start(&steps);
        let id = run(&mut host, &program, &model, more);
        let s = host.ended(&id);
        assert_eq!((s["outcome"].as_str(), s["breach_count"].as_u64()), (Some("succeeded"), Some(0)), "{config}: {s:#}");
        let want: Vec<(String, String)> = want.iter().map(|(e, b)| ((*e).to_owned(), (*b).to_owned())).collect();
        assert_eq!(decisions(&host, &id), want, "{config}");
        assert_eq!(kept(&host), [""; 0], "{config}");
        assert!(!host.events(&id).iter().any(|e| e["body"]["text"].as_str().is_some_and(|t| t.contains("notes"))), "{config}");
        assert_eq!(host.events_of(&id, "task_updated").len(), 1, "{config}");
        assert_eq!(host.events_of(&id, "host_tool_answered").len(), 1, "{config}");
    }
}

#[test]
fn switched_off_there_are_none() {
    let Some((mut host, program)) = claude_host("host_tools: switched_off_there_are_none") else { return };
    for (config, more) in [("", &["--no-host-tools"][..]), ("session.host_tools = \"off\"\n", &[])] {
        host.config(&format!("{config}{}", rules(&[], &[], &[])));
        let model = Model::start(&json!({ "steps": [add("one"), { "text": "done" }] }));
        let id = run(&mut host, &program, &model, more);
        let s = host.ended(&id);
        assert_eq!(
            (s["outcome"].as_str(), s["breach_count"].as_u64(), &s["host_tools"]),
            (Some("succeeded"), Some(0), &Value::Null),
            "{s:#}"
        );
        assert!(host.events_of(&id, "agent_started")[0]["body"].get("mcp_servers").is_none());
        assert_eq!((offered(&model), kept(&host).len()), (1, 0), "the scripted model alone speaks of them");
    }
    // A project may switch them off for its folder, and not on.
    host.config(&rules(&[], &[], &[]));
    host.file("beadle.toml", "[session]\nhost_tools = \"off\"\n");
    let model = Model::start(&json!({ "steps": [{ "text": "done" }] }));
    let id = run(&mut host, &program, &model, &[]);
    assert_eq!((host.ended(&id)["host_tools"].as_bool(), offered(&model)), (None, 0));
}

#[test]
fn a_daemon_that_dies_at_any_point_of_a_call_has_it_done_once() {
    for point in ["host_tool", "host_tool_answered"] {
        let Some((mut host, program)) = claude_host("host_tools: a_daemon_that_dies_at_any_point_of_a_call_has_it_done_once") else {
            return;
        };
        host.config(&rules(&[], &[], &[]));
        let model =
            Model::start(&json!({ "steps": [add("once"), tool("task_add", &json!({ "title": "once, too" })), { "text": "done" }] }));
        let mut daemon = host.daemon_with("BEADLE_FAILPOINT", point);
        let id = run(&mut host, &program, &model, &[]);
        until("the daemon has died", || daemon.try_wait().ok().flatten());
        let s = host.ended(&id);
        assert_eq!((s["outcome"].as_str(), s["breach_count"].as_u64()), (Some("succeeded"), Some(0)), "{point}: {s:#}");
        assert_eq!(kept(&host), ["once"], "{point}");
        for (kind, times) in [("memory_added", 1), ("task_updated", 1), ("host_tool_answered", 2), ("tool_ended", 2)] {
            assert_eq!(host.events_of(&id, kind).len(), times, "{point}: {kind}: {:#?}", host.events(&id));
        }
        assert!(host.events_of(&id, "tool_ended").iter().all(|e| e["body"]["is_error"] == false), "{point}");
        assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true, "{point}");
    }
}

#[test]
fn calls_are_put_away_and_done_once_when_they_are_allowed_and_the_tools_come_back() {
    let name = "host_tools: calls_are_put_away_and_done_once_when_they_are_allowed_and_the_tools_come_back";
    let Some((mut host, program)) = claude_host(name) else { return };
    let own = rules(&[], &["mcp__beadle__memory_add", "Bash(echo:*)"], &[]);
    host.config(&format!("approvals.park_after_ms = 100\n{own}"));
    let model = Model::start(&json!({ "steps": [
        add("asked"),
        bash("echo one >> out.txt"),
        tool("note", &json!({ "text": "after it" })),
        { "text": "done" },
    ]}));
    let id = run(&mut host, &program, &model, &[]);
    for (tool, entries) in [("mcp__beadle__memory_add", 0), ("Bash", 1)] {
        let waiting = until("the session is put away", || {
            let s = host.show(&id);
            assert_ne!(s["status"], "ended", "{s:#} {:#?}", host.events(&id));
            let list = host.beadle(["--json", "approvals"]).ok().lines();
            let there = s["status"] == "paused" && list.first().is_some_and(|a| a["tool"] == tool);
            there.then(|| list[0]["id"].as_str().expect("an id").to_owned())
        });
        assert_eq!(kept(&host).len(), entries, "{tool}");
        host.beadle(["approve", &waiting]).ok();
    }
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["attempt"].as_u64(), s["breach_count"].as_u64()), (Some("succeeded"), Some(3), Some(0)), "{s:#}");
    assert_eq!((kept(&host), lines_of(&host.work().join("out.txt"))), (vec!["asked".to_owned()], vec!["one".to_owned()]));
    assert_eq!(host.events_of(&id, "host_tool_answered").len(), 2, "{:#?}", host.events(&id));
    // Who goes on from it has them once, too.
    let again = Model::start(&json!({ "steps": [tool("note", &json!({ "text": "again" })), { "text": "done" }] }));
    host.set("ANTHROPIC_BASE_URL", again.url());
    let next = host.beadle(["--json", "resume", &id, "go on", "--detach"]).ok().json()["id"].as_str().expect("an id").to_owned();
    assert_eq!((host.ended(&next)["outcome"].as_str(), host.events_of(&next, "host_tool_answered").len()), (Some("succeeded"), 1));
}

/// An agent of a few lines: `say` writes a request and waits for its answer.
const WORDS: &str = r#"#!/bin/sh
read -r opening; read -r prompt
echo '{"type":"system","subtype":"init","session_id":"s","model":"m","permissionMode":"default","tools":[],"mcp_servers":[]}'
say() { printf '{"type":"control_request","request_id":"%s","request":%s}\n' "$1" "$2"; read -r answer; }
ask() { say "$1" "{\"subtype\":\"can_use_tool\",\"tool_name\":\"$3\",\"tool_use_id\":\"$2\",\"input\":$4}"; }
mcp() { say "$1" "{\"subtype\":\"mcp_message\",\"server_name\":\"$2\",\"message\":$3}"; }
call() { mcp "$1" beadle "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"$3\",\"arguments\":$4,\"_meta\":{\"claudecode/toolUseId\":\"$2\"}}}"; }
"#;

/// What such an agent does, the flags that it is started with, the breach that it is, and how many entries there are then.
const LAWLESS: &[(&str, &str, &str, &str, usize)] = &[
    ("calls without asking", "", r#"call m1 t1 memory_add '{"text":"a"}'"#, "a host tool without an allowed call", 0),
    ("searches without asking", "", r#"call m1 t1 memory_search '{"query":"a"}'"#, "a host tool without an allowed call", 0),
    (
        "calls after a no",
        "",
        r#"ask r1 t1 mcp__beadle__handoff '{"to":"a"}'; call m1 t1 handoff '{"to":"a"}'"#,
        "a host tool without an allowed call",
        0,
    ),
    (
        "calls with other words",
        "",
        r#"ask r1 t1 mcp__beadle__memory_add '{"text":"a"}'; call m1 t1 memory_add '{"text":"b"}'"#,
        "a host tool without an allowed call",
        0,
    ),
    (
        "calls under another id",
        "",
        r#"ask r1 t1 mcp__beadle__memory_add '{"text":"a"}'; call m1 t2 memory_add '{"text":"a"}'"#,
        "a host tool without an allowed call",
        0,
    ),
    (
        "uses one decision for another tool",
        "",
        r#"ask r1 t1 mcp__beadle__memory_add '{"text":"a"}'; call m1 t1 note '{"text":"a"}'"#,
        "a host tool without an allowed call",
        0,
    ),
    (
        "uses one decision twice",
        "",
        r#"ask r1 t1 mcp__beadle__memory_add '{"text":"a"}'; call m1 t1 memory_add '{"text":"a"}'; call m2 t1 memory_add '{"text":"a"}'"#,
        "a host tool without an allowed call",
        1,
    ),
    ("speaks to a server that is not there", "", r#"mcp m1 other '{"jsonrpc":"2.0","id":1,"method":"ping"}'"#, "mcp_message", 0),
    (
        "speaks to the host's where it has none",
        "--no-host-tools",
        r#"mcp m1 beadle '{"jsonrpc":"2.0","id":1,"method":"ping"}'"#,
        "mcp_message",
        0,
    ),
];

#[test]
fn a_call_that_was_not_allowed_is_a_breach_and_does_nothing() {
    for (what, flag, script, breach, entries) in LAWLESS {
        let host = TestHost::new();
        host.expects_breaches();
        host.config(&rules(&[], &[], &["mcp__beadle__handoff"]));
        let agent = host.program("agent.sh", &format!("{WORDS}{script}\nuntil [ -e end ]; do sleep 0.02; done\n"));
        let mut args = vec!["--json", "run", "--agent", "claude", "--program", agent.to_str().expect("text"), "--detach"];
        args.extend((!flag.is_empty()).then_some(*flag));
        args.push("go");
        let id = host.beadle(args).ok().json()["id"].as_str().expect("an id").to_owned();
        let s = host.ended(&id);
        assert_eq!((s["outcome"].as_str(), s["breach_count"].as_u64()), (Some("breach"), Some(1)), "{what}: {s:#}");
        assert_eq!(host.events_of(&id, "mediation_breached")[0]["body"]["what"], *breach, "{what}");
        assert_eq!(kept(&host).len(), *entries, "{what}");
        for kind in ["memory_recalled", "agent_handed_off", "note"] {
            assert!(host.events_of(&id, kind).is_empty(), "{what}: {kind}");
        }
        assert_eq!(host.events_of(&id, "host_tool_answered").len(), *entries, "{what}");
    }
}

#[test]
fn switched_off_while_a_session_waits_they_are_not_given_and_its_record_says_so() {
    let host = TestHost::new();
    host.expects_breaches();
    host.config(&rules(&[], &[], &[]));
    host.beadle(["queue", "pause", "default"]).ok();
    let say = r#"mcp m1 beadle '{"jsonrpc":"2.0","id":1,"method":"ping"}'"#;
    let agent = host.program("agent.sh", &format!("{WORDS}{say}\nuntil [ -e end ]; do sleep 0.02; done\n"));
    let args = ["--json", "run", "--agent", "claude", "--queue", "--program", agent.to_str().expect("text"), "go"];
    let id = host.beadle(args).ok().json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(host.show(&id)["host_tools"], true);
    host.beadle(["host", "stop"]).ok();
    host.config(&format!("session.host_tools = \"off\"\n{}", rules(&[], &[], &[])));
    host.beadle(["queue", "start", "default"]).ok();
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), &s["host_tools"]), (Some("breach"), &Value::Null), "{s:#}");
    assert_eq!(host.events_of(&id, "mediation_breached")[0]["body"]["detail"], "the host registered no MCP server of its own");
    assert_eq!(host.events_of(&id, "session_claimed")[0]["body"]["without_host_tools"], true);
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true, "its projections are those of the log");
}

#[test]
fn policies_are_explained_as_a_session_with_the_tools_would_have_them() {
    let host = TestHost::new();
    let explain = |config: &str, line: Value| {
        host.config(config);
        let file = host.file("calls.jsonl", &format!("{line}\n")).display().to_string();
        let said = host.beadle(["policy", "explain", &file]);
        let a = said.lines().into_iter().next().expect("an answer");
        (said.code, a["effect"].as_str().map(str::to_owned), a["by"].as_str().map(str::to_owned))
    };
    let answer = |code, effect: &str, by: &str| (code, Some(effect.to_owned()), Some(by.to_owned()));
    let call = json!({ "tool_name": "mcp__beadle__note", "tool_input": { "text": "see /etc/shadow; rm -rf /" } });
    let mut hooked = call.clone();
    hooked["hook_event_name"] = json!("PreToolUse");
    let off = format!("session.host_tools = \"off\"\n{}", rules(&[], &[], &[]));
    assert_eq!(explain(&rules(&[], &[], &[]), call.clone()), answer(0, "allow", "default"));
    assert_eq!(explain(&rules(&[], &[], &["mcp__beadle__note"]), call.clone()), answer(1, "deny", "policy"));
    assert_eq!(explain(&off, call), answer(1, "ask", "default"), "nobody has them");
    assert_eq!(explain(&rules(&[], &[], &[]), hooked), answer(1, "ask", "default"), "a call of any agent");
    let other = json!({ "tool_name": "mcp__beadle__other", "tool_input": {} });
    assert_eq!(explain(&rules(&[], &[], &[]), other), answer(1, "ask", "default"));
}

#[test]
fn a_breach_tells_no_part_of_a_secret() {
    let host = TestHost::new();
    host.expects_breaches();
    host.config(&rules(&[], &[], &[]));
    // The cut that a detail has lies within it.
    let secret = format!("ghp_{}", "Zq".repeat(18));
    let script = format!(r#"call m1 t1 memory_add '{{"text":"{} {secret} behind"}}'"#, "x".repeat(275));
    let agent = host.program("agent.sh", &format!("{WORDS}{script}\nuntil [ -e end ]; do sleep 0.02; done\n"));
    let args = ["--json", "run", "--agent", "claude", "--program", agent.to_str().expect("text"), "--detach", "go"];
    let id = host.beadle(args).ok().json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(host.ended(&id)["outcome"], "breach");
    let told = host.events_of(&id, "mediation_breached")[0]["body"].to_string();
    assert!(told.contains("xxx") && !told.contains("ZqZq"), "{told}");
}

#[test]
fn nonsense_is_answered_and_nothing_of_it_is_done() {
    let host = TestHost::new();
    host.config(&rules(&[], &[], &[]));
    let long = "x".repeat(40_000);
    let script = format!(
        r#"
mcp m1 beadle '{{"jsonrpc":"2.0","id":1,"method":"resources/read"}}'; printf '%s\n' "$answer" >> answers
mcp m2 beadle '{{"id":[1]}}'; printf '%s\n' "$answer" >> answers
mcp m3 beadle '{{"jsonrpc":"2.0","method":"notifications/initialized"}}'; printf '%s\n' "$answer" >> answers
ask r1 t1 mcp__beadle__memory_add '{{"text":"{long}"}}'; call m4 t1 memory_add '{{"text":"{long}"}}'; printf '%s\n' "$answer" >> answers
ask r2 t2 mcp__beadle__memory_add '{{"texts":1}}'; call m5 t2 memory_add '{{"texts":1}}'; printf '%s\n' "$answer" >> answers
ask r3 t3 mcp__beadle__note '{{"text":"a\u001b[2J"}}'; call m6 t3 note '{{"text":"a\u001b[2J"}}'; printf '%s\n' "$answer" >> answers
ask r4 t4 mcp__beadle__task_add '{{"title":"one"}}'; call m7 t4 task_add '{{"title":"one"}}'; printf '%s\n' "$answer" >> answers
echo '{{"type":"result","subtype":"success","is_error":false,"result":"done"}}'
"#
    );
    let agent = host.program("agent.sh", &format!("{WORDS}{script}\n"));
    let args = ["--json", "run", "--agent", "claude", "--program", agent.to_str().expect("text"), "--detach", "go"];
    let id = host.beadle(args).ok().json()["id"].as_str().expect("an id").to_owned();
    let s = host.ended(&id);
    assert_eq!(s["breach_count"], 0, "{s:#} {:#?}", host.events_of(&id, "mediation_breached"));
    let answers = std::fs::read_to_string(host.work().join("answers")).expect("answers");
    let answers: Vec<Value> = answers.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect();
    let said = |n: usize| &answers[n]["response"]["response"]["mcp_response"];
    assert_eq!((said(0)["error"]["code"].as_i64(), said(1)["error"]["code"].as_i64()), (Some(-32_601), Some(-32_600)), "{answers:#?}");
    assert_eq!(said(2)["result"], json!({}), "{answers:#?}");
    for (n, part) in [(3, "BDL-MEMORY-001"), (4, "unknown field `texts`"), (5, "no terminal can show")] {
        let text = said(n)["result"]["content"][0]["text"].as_str().unwrap_or_default();
        assert!(said(n)["result"]["isError"] == true && text.contains(part), "{n}: {}", said(n));
    }
    assert_eq!(said(6)["result"]["content"][0]["text"], "task 1 added");
    let wrong: Vec<bool> = host.events_of(&id, "host_tool_answered").iter().map(|e| e["body"]["is_error"] == true).collect();
    assert_eq!((wrong, kept(&host).len()), (vec![true, true, true, false], 0));
    assert_eq!(host.events_of(&id, "task_updated").len(), 1);
}

#[test]
fn a_server_of_the_operators_with_that_name_is_refused() {
    let host = TestHost::new();
    host.config(&rules(&[], &[], &[]));
    let config: PathBuf = host.file("mcp.json", r#"{"mcpServers":{"beadle":{"command":"x"}}}"#);
    let agent = host.program("agent.sh", "#!/bin/sh\n");
    let (agent, config) = (agent.display().to_string(), config.display().to_string());
    let run = |more: &[&str]| {
        host.beadle(
            [&["--json", "run", "--agent", "claude", "--program", &agent, "--mcp-config", &config, "--detach"], more, &["go"]].concat(),
        )
    };
    let refused = run(&[]);
    assert!(refused.code != 0 && refused.err.contains("--no-host-tools") && refused.err.contains("BDL-AGENT-002"), "{refused:?}");
    let id = run(&["--no-host-tools"]).ok().json()["id"].as_str().expect("an id").to_owned();
    host.ended(&id);
}
