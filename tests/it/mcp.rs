//! `beadle mcp`: the host's own tools for agents without a channel for them. With an agent of a few lines, and with the real Claude Code:
//! as any command, and held by hooks.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::hooks::real::Real;
use crate::support::{Model, Said, TestHost, rules, until};

/// An agent that starts the server, greets it and makes the calls that a file holds, one after the other; `answers` has a line of each.
const AGENT: &str = r#"#!/usr/bin/env python3
import json, os, subprocess, sys
env = dict(os.environ, BEADLE_HOME="@HOME@")
server = subprocess.Popen(["@BEADLE@", "mcp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
answers = open("answers", "w", buffering=1)
def ask(id, method, params):
    server.stdin.write(json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}) + "\n")
    server.stdin.flush()
    answers.write(server.stdout.readline())
ask(0, "initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"}})
server.stdin.write(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}) + "\n")
ask(1, "tools/list", {})
for n, (name, arguments) in enumerate(json.load(open("calls.json"))):
    ask(n + 2, "tools/call", {"name": name, "arguments": arguments})
server.stdin.close()
sys.exit(server.wait())
"#;

fn agent(host: &TestHost, calls: &Value) -> PathBuf {
    host.file("calls.json", &calls.to_string());
    let text = AGENT.replace("@HOME@", &host.beadle_home().display().to_string()).replace("@BEADLE@", env!("CARGO_BIN_EXE_beadle"));
    host.program("agent.py", &text)
}

fn start(host: &TestHost, calls: &Value, more: &[&str]) -> String {
    let program = agent(host, calls).display().to_string();
    let args = [&["--json", "run", "--detach"], more, &["--", &program]].concat();
    host.beadle(args).ok().json()["id"].as_str().expect("an id").to_owned()
}

fn answers(host: &TestHost) -> Vec<Value> {
    let text = std::fs::read_to_string(host.work().join("answers")).unwrap_or_default();
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

/// What the call was answered, and whether it was an error.
fn said(answer: &Value) -> (&str, bool) {
    (answer["result"]["content"][0]["text"].as_str().unwrap_or_default(), answer["result"]["isError"] == true)
}

fn kept(host: &TestHost) -> Vec<String> {
    let said = host.beadle(["--json", "memory", "ls", "--all"]);
    said.lines().iter().map(|m| m["text"].as_str().expect("a text").to_owned()).collect()
}

fn decisions(host: &TestHost, id: &str) -> Vec<(String, String)> {
    let word = |e: &Value, key: &str| e["body"][key].as_str().unwrap_or_default().to_owned();
    host.events_of(id, "tool_decided").iter().map(|e| (word(e, "effect"), word(e, "by"))).collect()
}

#[test]
fn an_agent_without_a_channel_has_them_by_a_server_that_it_starts() {
    let host = TestHost::new();
    host.config(&rules(&[], &[], &[]));
    let secret = format!("ghp_{}", "a1".repeat(20));
    let calls = json!([
        ["memory_add", { "text": format!("the gate listens on port 8080, token {secret}") }],
        ["task_add", { "title": "write the docs" }],
        ["task_list", {}],
        ["note", { "text": "half way; `rm -rf /` is only a word here" }],
        ["handoff", { "to": "reviewer" }],
        ["memory_search", { "query": "which port does the gate use" }],
        ["note", { "texts": 1 }],
        ["rm", { "path": "/" }],
        ["report", { "text": "all is well" }],
    ]);
    let id = start(&host, &calls, &["--expect-report"]);
    let s = host.ended(&id);
    assert_eq!(
        (s["outcome"].as_str(), s["mediation"].as_str(), s["breach_count"].as_u64(), s["host_tools"].as_bool()),
        (Some("succeeded"), Some("none"), Some(0), Some(true)),
        "{s:#} {:#?}",
        answers(&host)
    );
    let answers = answers(&host);
    assert_eq!((&answers[0]["result"]["protocolVersion"], &answers[0]["id"]), (&json!("2025-06-18"), &json!(0)));
    assert_eq!(answers[1]["result"]["tools"].as_array().map(Vec::len), Some(8));
    let wrong: Vec<bool> = answers[2..].iter().map(|a| said(a).1).collect();
    assert_eq!(wrong, [false, false, false, false, false, false, true, true, false], "{answers:#?}");
    assert!(said(&answers[2]).0.starts_with("kept as m-") && said(&answers[4]).0.contains("write the docs"), "{answers:#?}");
    assert!(said(&answers[7]).0.contains("port 8080") && !answers[7].to_string().contains(&secret), "{answers:#?}");
    assert!(said(&answers[8]).0.contains("unknown field `texts`") && said(&answers[9]).0.contains("no such tool"), "{answers:#?}");
    // Each call is judged and accounted for like any other; what is no tool is not one.
    assert_eq!(decisions(&host, &id), vec![("allow".to_owned(), "default".to_owned()); 8]);
    let asked = host.events_of(&id, "tool_requested");
    let call = |e: &Value, key: &str| e["body"]["call"][key].clone();
    assert!(
        asked.iter().all(|e| call(e, "channel") == "proxy" && call(e, "kind") == "think" && call(e, "commands").is_null()),
        "{asked:#?}"
    );
    let done = host.events_of(&id, "host_tool_answered");
    assert!(done.len() == 8 && done.iter().all(|e| e["body"]["frame"] == 0), "{done:#?}");
    assert_eq!(host.events_of(&id, "tool_ended").len(), 8);
    assert_eq!(host.events_of(&id, "memory_recalled")[0]["body"]["hits"], 1);
    assert!(!host.events(&id).iter().any(|e| e.to_string().contains(&secret)), "secrets are masked as everywhere");
    host.assert_accounted(&id);
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn policies_and_people_decide_and_who_may_not_has_none() {
    let host = TestHost::new();
    host.config(&rules(&[], &["mcp__beadle__memory_add"], &["mcp__beadle__note"]));
    let calls = json!([["note", { "text": "no" }], ["memory_add", { "text": "asked" }], ["task_add", { "title": "one" }]]);
    let id = start(&host, &calls, &[]);
    let waiting = until("the call waits", || {
        assert_ne!(host.show(&id)["status"], "ended", "{:#?}", answers(&host));
        host.beadle(["--json", "approvals"]).ok().lines().first().map(|a| a["id"].as_str().expect("an id").to_owned())
    });
    assert!(kept(&host).is_empty());
    host.beadle(["approve", &waiting]).ok();
    assert_eq!(host.ended(&id)["outcome"], "exited", "{:#?}", answers(&host));
    let told = answers(&host);
    assert!(said(&told[2]).1 && said(&told[2]).0.starts_with("denied: "), "{told:#?}");
    assert_eq!((said(&told[3]).1, said(&told[4])), (false, ("task 1 added", false)));
    let by = |e: &str, b: &str| (e.to_owned(), b.to_owned());
    assert_eq!(decisions(&host, &id), [by("deny", "policy"), by("allow", "approval"), by("allow", "default")]);
    assert_eq!((kept(&host), host.events_of(&id, "host_tool_answered").len()), (vec!["asked".to_owned()], 2));
    assert!(!host.events(&id).iter().any(|e| e["kind"] == "note"));
    host.assert_accounted(&id);

    // Switched off, by flag and by configuration.
    let refused = |why: &str| {
        let told = answers(&host);
        let text = told[0]["error"]["message"].as_str().unwrap_or_default();
        assert!(text.contains(why) && told[2..].iter().all(|a| said(a).1), "{told:#?}");
    };
    let off = start(&host, &calls, &["--no-host-tools"]);
    assert_eq!(host.ended(&off)["host_tools"], Value::Null);
    refused("--no-host-tools");
    host.config(&format!("session.host_tools = \"off\"\n{}", rules(&[], &[], &[])));
    let off = start(&host, &calls, &[]);
    host.ended(&off);
    refused("without the host's own tools");
    assert_eq!(decisions(&host, &off), []);
    // Outside of a session there is nobody to serve.
    let words = host.file(
        "words.json",
        concat!(
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#,
            "\n",
            r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"note","arguments":{"text":"x"}}}"#,
            "\n"
        ),
    );
    let said = Said::from(host.command(["mcp"]).stdin(std::fs::File::open(words).expect("words")).output().expect("it starts"));
    assert!(said.code == 0 && said.out.contains("BDL-API-043") && said.out.contains(r#""isError":true"#), "{said:?}");
}

#[test]
fn what_a_gated_agents_call_starts_reaches_none() {
    let host = TestHost::new();
    host.config(&rules(&[], &[], &[]));
    host.file("calls.json", &json!([["memory_add", { "text": "past the gate" }]]).to_string());
    let server = agent(&host, &json!([["memory_add", { "text": "past the gate" }]]));
    let lines = format!(
        "#!/bin/sh\nread -r opening; read -r prompt\n{}\n{}\n{}\n",
        r#"echo '{"type":"system","subtype":"init","session_id":"s","model":"m","permissionMode":"default","tools":[],"mcp_servers":[]}'"#,
        server.display(),
        r#"echo '{"type":"result","subtype":"success","is_error":false,"result":"done"}'"#,
    );
    let program = host.program("gated.sh", &lines).display().to_string();
    let id = host.beadle(["--json", "run", "--agent", "claude", "--program", &program, "--detach", "go"]).ok().json()["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    assert_eq!(host.ended(&id)["host_tools"], true);
    let told = answers(&host);
    assert!(told[0]["error"]["message"].as_str().is_some_and(|m| m.contains("over its agent's own channel")), "{told:#?}");
    assert!(said(&told[2]).1 && kept(&host).is_empty(), "{told:#?}");
}

#[test]
fn a_daemon_that_dies_at_any_point_of_a_call_has_it_done_once() {
    for point in ["requested", "decided", "synced", "host_tool", "host_tool_answered"] {
        let host = TestHost::new();
        host.config(&rules(&[], &[], &[]));
        let mut daemon = host.daemon_with("BEADLE_FAILPOINT", point);
        let id = start(&host, &json!([["memory_add", { "text": "once" }], ["task_add", { "title": "once, too" }]]), &[]);
        until("the daemon has died", || daemon.try_wait().ok().flatten());
        let s = host.ended(&id);
        let told = answers(&host);
        assert_eq!(
            (s["outcome"].as_str(), told[2..].iter().filter(|a| said(a).1).count()),
            (Some("exited"), 0),
            "{point}: {s:#} {told:#?}"
        );
        assert_eq!(kept(&host), ["once"], "{point}");
        for (kind, times) in
            [("tool_requested", 2), ("tool_decided", 2), ("memory_added", 1), ("task_updated", 1), ("host_tool_answered", 2)]
        {
            assert_eq!(host.events_of(&id, kind).len(), times, "{point}: {kind}: {:#?}", host.events(&id));
        }
        assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true, "{point}");
    }
}

fn server(host: &TestHost) -> String {
    let home = host.beadle_home().display().to_string();
    json!({ "mcpServers": { "beadle": { "command": env!("CARGO_BIN_EXE_beadle"), "args": ["mcp"], "env": { "BEADLE_HOME": home } } } })
        .to_string()
}

fn tool(name: &str, input: &Value) -> Value {
    json!({ "tool": format!("mcp__beadle__{name}"), "input": input })
}

#[test]
fn the_real_agent_uses_it_as_any_command_and_held_by_hooks() {
    let name = "mcp: the_real_agent_uses_it_as_any_command_and_held_by_hooks";
    let steps =
        || json!([tool("memory_add", &json!({ "text": "kept once" })), tool("note", &json!({ "text": "seen" })), { "text": "done" }]);
    let Some((mut host, program)) = crate::claude::host(name) else { return };
    host.config(&rules(&[], &[], &[]));
    let model = Model::start(&json!({ "steps": steps() }));
    host.set("ANTHROPIC_BASE_URL", model.url());
    let config = host.file("mcp.json", &server(&host)).display().to_string();
    let program = program.display().to_string();
    let args =
        ["--json", "run", "--detach", "-e", "ANTHROPIC_BASE_URL", "-e", "ANTHROPIC_API_KEY", "-e", "CLAUDE_CONFIG_DIR", "--", &program];
    let more = ["-p", "go", "--mcp-config", &config, "--strict-mcp-config", "--allowedTools", "mcp__beadle__memory_add,mcp__beadle__note"];
    let id = host.beadle([&args[..], &more[..]].concat()).ok().json()["id"].as_str().expect("an id").to_owned();
    let s = host.ended(&id);
    let log = host.beadle(["logs", &id]);
    assert_eq!((s["outcome"].as_str(), s["mediation"].as_str(), kept(&host).len()), (Some("exited"), Some("none"), 1), "{s:#} {log:?}");
    assert_eq!(host.events_of(&id, "host_tool_answered").len(), 2, "{log:?}");
    assert!(model.requests().iter().any(|r| r.to_string().contains("kept as m-")), "the model is told");

    // Its hooks ask about each call; the server serves what they were told, and judges nothing a second time.
    let Some(r) = Real::new(name, &rules(&["mcp__beadle__memory_add"], &[], &["mcp__beadle__note"]), steps()) else { return };
    let config = r.host.file("mcp.json", &server(&r.host)).display().to_string();
    let run: Said = r.said(&["--mcp-config", &config, "--strict-mcp-config"]);
    assert_eq!(run.code, 0, "{run:?}");
    let id = r.host.beadle(["--json", "ls"]).ok().lines()[0]["id"].as_str().expect("an id").to_owned();
    let s = r.host.ended(&id);
    assert_eq!((s["mediation"].as_str(), s["breach_count"].as_u64()), (Some("hooks"), Some(0)), "{s:#}");
    assert_eq!(kept(&r.host), ["kept once"], "{run:?}");
    let asked = r.host.events_of(&id, "tool_requested");
    assert!(asked.len() == 2 && asked.iter().all(|e| e["body"]["call"]["channel"] == "hook"), "{asked:#?}");
    assert_eq!((r.host.events_of(&id, "host_tool_answered").len(), r.host.events_of(&id, "tool_ended").len()), (1, 1));
}
