//! The standard policies `paths`, `budget`, `egress` and `cedar`: their tables of calls through the real components, and whole sessions.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use beadle::plugin::{Host, HostOptions, Limits, LoadSpec, Plugin, Question, standard};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::attacks::corpus::Stage;
use crate::claude;
use crate::support::{Model, TestHost, bash};

const DEADLINE: Duration = Duration::from_secs(10);

/// A class of `tests/golden/standard/<policy>.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Class {
    name: String,
    #[serde(default)]
    config: toml::Table,
    #[serde(default)]
    deny: Vec<toml::Value>,
    #[serde(default)]
    ask: Vec<toml::Value>,
    #[serde(default)]
    stopped: Vec<toml::Value>,
    #[serde(default)]
    allow: Vec<toml::Value>,
    #[serde(default)]
    pass: Vec<toml::Value>,
}

#[derive(Debug, Deserialize)]
struct Table {
    class: Vec<Class>,
}

fn load(host: &Host, name: &str, config: &Value) -> Result<Arc<Plugin>, beadle::plugin::Error> {
    let wasm = Cow::Borrowed(standard::find(name).expect("a standard policy"));
    host.load(LoadSpec { name: name.to_owned(), wasm, config: config.to_string(), limits: Limits::default(), grants: Default::default() })
}

/// Judges every case of a table; gives how many there were.
fn judge(policy: &str, text: &str, stage: &Stage) -> usize {
    let table: Table = toml::from_str(text).unwrap_or_else(|e| panic!("{policy}: {e}"));
    let (host, session) = (Host::new(HostOptions::default()).expect("an engine"), stage.session());
    let (mut wrong, mut count) = (Vec::new(), 0);
    for class in &table.class {
        let config = serde_json::to_value(&class.config).expect("JSON").to_string();
        let config = serde_json::from_str(&stage.fill(&config)).expect("JSON");
        let plugin = load(&host, policy, &config).unwrap_or_else(|e| panic!("{}: {e}", class.name));
        let wants =
            [("deny", &class.deny), ("ask", &class.ask), ("stopped", &class.stopped), ("allow", &class.allow), ("abstain", &class.pass)];
        for (want, case) in wants.iter().flat_map(|(want, cases)| cases.iter().map(move |c| (*want, c))) {
            count += 1;
            let (tool, input) = match case {
                toml::Value::String(command) => ("Bash".to_owned(), json!({ "command": command })),
                other => {
                    let v = serde_json::to_value(other).expect("JSON");
                    (v["tool"].as_str().expect("a tool").to_owned(), v["input"].clone())
                }
            };
            let text = stage.fill(&input.to_string()).replace("@UPPER@", &stage.root().to_uppercase());
            let call = stage.call(&tool, &serde_json::from_str(&text).expect("JSON"));
            let got = plugin.decide_here(&Question::new(&session, &call, 0), DEADLINE).expect("a decision");
            let is = got.effect.as_str();
            let holds = if want == "stopped" { matches!(is, "ask" | "deny") } else { is == want };
            if !holds {
                let why = call.parse_reason.as_deref().unwrap_or_default();
                wrong.push(format!("{}: wanted {want}, got {is}: {tool} {text}\n    {} {why}", class.name, got.reason));
            }
            assert!(is == "abstain" || (!got.reason.is_empty() && got.rule.is_some()), "{}: no reason or rule: {got:?}", class.name);
        }
    }
    assert!(wrong.is_empty(), "{} of {count} cases:\n{}", wrong.len(), wrong.join("\n"));
    count
}

#[test]
fn each_describes_itself_and_its_configuration() {
    let host = Host::new(HostOptions::default()).expect("an engine");
    for (name, bad, says) in [
        ("paths", json!({ "writes": [] }), "unknown key \"writes\""),
        ("budget", json!({ "calls": "many" }), "calls: expected a whole number"),
        ("egress", json!({ "allow": ["https://a.org/x"] }), "allow[0]: expected [scheme://]host[:port]"),
        (
            "cedar",
            json!({ "policies": "permit(principal, action, resource);\n\nforbid(principal, action resource);" }),
            "policies, line 3: ",
        ),
        (
            "cedar",
            json!({ "policies": "\npermit(principal, action == Action::\"run\", resource) when { resource.txt == \"x\" };" }),
            "policies, line 2: ",
        ),
    ] {
        let plugin = load(&host, name, &json!({})).unwrap_or_else(|e| panic!("{name}: {e}"));
        let d = plugin.describe();
        assert_eq!(d.name, name);
        assert_eq!(Some(d.config_schema.as_str()), standard::schema(name), "{name}: `policy schema` prints what it describes");
        let schema: Value = serde_json::from_str(&d.config_schema).expect("a schema");
        assert_eq!((schema["type"].as_str(), schema["additionalProperties"].as_bool()), (Some("object"), Some(false)), "{name}");
        assert!(plugin.snapshotted() && !plugin.imports_wasi() && d.wants.is_empty(), "{name}");
        let error = load(&host, name, &bad).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(says), "{name}: {error}");
    }
}

#[test]
fn paths_holds_against_its_table() {
    let stage = Stage::new();
    std::fs::hard_link(format!("{}/.env", stage.root()), format!("{}/hardlink.txt", stage.root())).expect("a hard link");
    let count = judge("paths", include_str!("../golden/standard/paths.toml"), &stage);
    assert!(count > 200, "{count}");
}

#[test]
fn egress_holds_against_its_table() {
    let count = judge("egress", include_str!("../golden/standard/egress.toml"), &Stage::new());
    assert!(count > 200, "{count}");
}

#[test]
fn cedar_holds_against_its_table() {
    let count = judge("cedar", include_str!("../golden/standard/cedar.toml"), &Stage::new());
    assert!(count > 150, "{count}");
}

#[test]
fn cedar_text_that_would_exhaust_it_is_refused_in_time() {
    let host = Host::new(HostOptions::default()).expect("an engine");
    let deep = format!("permit(principal, action, resource) when {{ {}true{} }};", "(".repeat(20_000), ")".repeat(20_000));
    let large = format!("// {}\n", "x".repeat(512 << 10));
    for (what, policies, says) in [("deep", deep, "BDL-PLUGIN"), ("large", large, "at most 524288 bytes")] {
        let e = load(&host, "cedar", &json!({ "policies": policies })).map(drop).expect_err(what);
        assert!(format!("{e} [{}]", e.code()).contains(says), "{what}: {e}");
    }
    // It is no worse off afterwards.
    load(&host, "cedar", &json!({ "policies": "permit(principal, action, resource);" })).expect("it loads");
}

/// A standard policy in front of rules that allow everything.
fn before_allow(name: &str, config: &str) -> String {
    let all = crate::support::rules(&["*"], &[], &[]);
    format!("{all}[[policy]]\nname = \"{name}\"\nplugin = \"{name}\"\ndeadline_ms = 10000\n[policy.config]\n{config}\n")
}

fn decisions(host: &TestHost, id: &str) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    host.events_of(id, "tool_decided").iter().map(|e| (text(&e["body"]["effect"]), text(&e["body"]["rule"]))).collect()
}

#[test]
fn paths_keeps_a_session_in_its_write_root() {
    let mut host = TestHost::new();
    host.config(&before_allow(
        "paths",
        "examples = [{ command = \"cat .env\", effect = \"deny\" }, { command = \"ls\", effect = \"abstain\" }]",
    ));
    let out = host.home().join("out.txt").display().to_string();
    std::fs::create_dir_all(host.work().join("box")).expect("a folder");
    let model = Model::start(&json!({ "steps": [
        bash("echo in > box/a.txt"), bash("echo out > b.txt"), bash(&format!("echo out > {out}")), bash("cat .env || true"), { "text": "done" },
    ]}));
    let write_root = host.work().join("box").display().to_string();
    let id = host.run_demo(&model, "go", &["--write-root", &write_root]);
    host.ended(&id);
    let got = decisions(&host, &id);
    assert_eq!(got.iter().map(|(e, _)| e.as_str()).collect::<Vec<_>>(), ["allow", "deny", "deny", "deny"], "{got:?}");
    assert_eq!(got[3].1, "secrets: .env");
    assert!(host.work().join("box/a.txt").exists() && !host.work().join("b.txt").exists() && !host.home().join("out.txt").exists());
    // The host holds a write root by itself; without one the policy holds the session's folder.
    let reason = host.events_of(&id, "tool_decided")[1]["body"]["reason"].to_string();
    assert!(reason.contains("--write-root"), "{reason}");
    let model = Model::start(&json!({ "steps": [bash("echo in > b.txt"), bash(&format!("echo out > {out}")), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    let got = decisions(&host, &id);
    assert_eq!((got[0].0.as_str(), got[1].0.as_str(), got[1].1.as_str()), ("allow", "deny", "write"), "{got:?}");
    assert!(host.work().join("b.txt").exists() && !host.home().join("out.txt").exists());
}

#[test]
fn paths_holds_on_the_real_agent() {
    let Some((mut host, program)) = claude::host("paths_holds_on_the_real_agent") else { return };
    host.config(&before_allow("paths", ""));
    let secret = host.file(".env", "KEY=TOP-SECRET-77\n").display().to_string();
    let outside = host.home().join("x").display().to_string();
    let inside = host.work().join("x").display().to_string();
    let model = Model::start(&json!({ "steps": [
        { "tool": "Read", "input": { "file_path": secret } },
        { "tool": "Write", "input": { "file_path": outside, "content": "x" } },
        { "tool": "Write", "input": { "file_path": inside, "content": "x" } },
        bash("cat ./.env"),
        { "text": "done" },
    ]}));
    let id = claude::run(&mut host, &program, &model, &[]);
    host.ended(&id);
    let got = decisions(&host, &id);
    assert_eq!(got.iter().map(|(e, _)| e.as_str()).collect::<Vec<_>>(), ["deny", "deny", "allow", "deny"], "{got:?}");
    assert!(host.work().join("x").exists() && !host.home().join("x").exists());
    assert!(!model.requests().iter().any(|r| r.to_string().contains("TOP-SECRET-77")), "the secret reached the model");
}

#[test]
fn egress_holds_on_the_real_agent() {
    let Some((mut host, program)) = claude::host("egress_holds_on_the_real_agent") else { return };
    host.config(&before_allow("egress", "deny = [\"evil.example\", \"10.0.0.0/8\"]\nprivate = \"deny\""));
    let fetch = |url: &str| json!({ "tool": "WebFetch", "input": { "url": url, "prompt": "x" } });
    let model = Model::start(&json!({ "steps": [
        fetch("https://docs.rs@evil.example/"), fetch("http://192.168.7.7/x"), bash("curl -s http://0x0a000001/ > got.txt"), bash("touch ran"),
        { "text": "done" },
    ]}));
    let id = claude::run(&mut host, &program, &model, &[]);
    host.ended(&id);
    let got = decisions(&host, &id);
    let rules: Vec<_> = got.iter().map(|(e, r)| (e.as_str(), r.as_str())).collect();
    assert_eq!(rules, [("deny", "deny: evil.example"), ("deny", "private"), ("deny", "deny: 10.0.0.0/8"), ("allow", "*")]);
    assert!(host.work().join("ran").exists() && !host.work().join("got.txt").exists());
}

/// Several calls of one message, so that all are asked about before any has run.
fn at_once(calls: usize, tool: &str, input: impl Fn(usize) -> Value) -> Value {
    json!({ "tools": (0..calls).map(|i| json!({ "name": tool, "input": input(i) })).collect::<Vec<_>>() })
}

fn allowed(host: &TestHost, id: &str) -> usize {
    decisions(host, id).iter().filter(|(e, _)| e == "allow").count()
}

#[test]
fn a_budget_of_calls_is_exact_when_many_are_asked_about_at_once() {
    let mut host = TestHost::new();
    host.config(&before_allow("budget", "calls = 5"));
    let touch = |i: usize| json!({ "command": format!("touch f{i}"), "description": "test" });
    let model = Model::start(&json!({ "steps": [at_once(4, "Bash", touch), at_once(8, "Bash", |i| touch(i + 4)), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    let ran = (0..12).filter(|i| host.work().join(format!("f{i}")).exists()).count();
    assert_eq!((ran, allowed(&host, &id)), (5, 5), "{:?}", decisions(&host, &id));
    let reason = host.events_of(&id, "tool_decided")[7]["body"]["reason"].to_string();
    assert!(reason.contains("calls 7 of 5"), "{reason}");
}

#[test]
fn a_budget_of_denied_calls_is_exact_when_many_are_asked_about_at_once() {
    let mut host = TestHost::new();
    host.config(&before_allow("budget", "denied = 2").replace("deny = []", "deny = [\"Bash(rm:*)\"]"));
    let model = Model::start(&json!({ "steps": [
        { "tools": [
            { "name": "Bash", "input": { "command": "rm a" } }, { "name": "Bash", "input": { "command": "touch f0" } },
            { "name": "Bash", "input": { "command": "rm b" } }, { "name": "Bash", "input": { "command": "touch f1" } },
        ]},
        { "text": "done" },
    ]}));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    let got = decisions(&host, &id);
    assert_eq!(got.iter().map(|(e, _)| e.as_str()).collect::<Vec<_>>(), ["deny", "allow", "deny", "deny"], "{got:?}");
    assert!(!host.work().join("f1").exists());
}

#[test]
fn a_budget_of_sub_agents_is_exact_when_many_are_asked_about_at_once() {
    let Some((mut host, program)) = claude::host("a_budget_of_sub_agents_is_exact_when_many_are_asked_about_at_once") else { return };
    host.config(&before_allow("budget", "sub_agents = 2"));
    let sub = |i: usize| json!({ "description": format!("sub {i}"), "prompt": "SUBPROMPT", "subagent_type": "general-purpose", "run_in_background": false });
    let model = Model::start(&json!({
        "lanes": [{ "name": "sub", "match": { "opening": "SUBPROMPT" }, "steps": [{ "text": "sub done" }, { "text": "sub done" }, { "text": "sub done" }, { "text": "sub done" }] }],
        "steps": [at_once(4, "Task", sub), at_once(1, "Task", sub), { "text": "done" }],
    }));
    let id = claude::run(&mut host, &program, &model, &[]);
    host.ended(&id);
    assert_eq!((allowed(&host, &id), host.events_of(&id, "sub_agent_invoked").len()), (2, 2), "{:?}", decisions(&host, &id));
}

#[test]
fn a_budget_of_money_holds_to_within_one_response() {
    let Some((mut host, program)) = claude::host("a_budget_of_money_holds_to_within_one_response") else { return };
    host.config(&before_allow("budget", "cost_usd = \"0.000001\""));
    let model = Model::start(&json!({ "steps": [bash("touch a"), bash("touch b"), { "text": "done" }] }));
    let id = claude::run(&mut host, &program, &model, &[]);
    let s = host.ended(&id);
    let got = host.events_of(&id, "tool_decided");
    let told = |e: &Value| e["body"]["rule"] == "cost_usd" && e["body"]["reason"].to_string().contains("within one model response");
    assert!(got.last().is_some_and(told), "{got:#?}");
    assert!(got.iter().filter(|e| e["body"]["effect"] == "allow").count() <= 1, "{got:#?}");
    assert!(s["cost"]["nanousd"].as_u64().is_some_and(|n| n > 1_000), "{s:#}");
}

#[test]
fn a_budget_of_tokens_holds_to_within_one_response() {
    // Each response uses 100 tokens of input and 10 of output; a limit is reached with the second.
    for (key, limit) in [("tokens", 200), ("output_tokens", 15)] {
        let Some((mut host, program)) = claude::host("a_budget_of_tokens_holds_to_within_one_response") else { return };
        host.config(&before_allow("budget", &format!("{key} = {limit}")));
        let steps: Vec<Value> = (0..4).map(|i| bash(&format!("touch f{i}"))).chain([json!({ "text": "done" })]).collect();
        let model = Model::start(&json!({ "steps": steps, "usage": { "in": 100, "out": 10 } }));
        let id = claude::run(&mut host, &program, &model, &[]);
        let s = host.ended(&id);
        let got = host.events_of(&id, "tool_decided");
        let effects: Vec<&str> = got.iter().filter_map(|e| e["body"]["effect"].as_str()).collect();
        // The response that asks for a call may not be counted yet when the call is judged; the one before it is.
        let allowed = effects.iter().take_while(|e| **e == "allow").count();
        assert!((1..=2).contains(&allowed) && effects[allowed..].iter().all(|e| *e == "deny"), "{key}: {effects:?}");
        let last = &got.last().expect("a decision")["body"];
        assert_eq!((effects.len(), last["rule"].as_str()), (4, Some(key)), "{last:#}");
        let used = if key == "tokens" { s["usage"]["input"].as_u64() } else { s["usage"]["output"].as_u64() };
        assert!(used > Some(limit), "{s:#}");
        let reason = last["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(&format!(" of {limit}")) && reason.contains("within one model response"), "{reason}");
        assert!((0..4).all(|i| host.work().join(format!("f{i}")).exists() == (i < allowed)), "{key}: {effects:?}");
    }
}

#[test]
fn a_budget_of_time_is_exact_by_the_clock_of_the_log() {
    const WALL: i64 = 4_000;
    let mut host = TestHost::new();
    host.config(&before_allow("budget", "wall = \"4s\""));
    // It asks again until it is told that the time is over.
    let model = Model::start(&json!({ "steps": [
        { "when": { "last": "budget is used up" }, "text": "done" },
        { "tool": "Bash", "input": { "command": "echo again >> ran.txt", "description": "test" }, "delay_ms": 50, "times": 10_000 },
    ]}));
    let id = host.run_demo(&model, "go", &["--keep"]);
    crate::support::until("the turn has ended", || (!host.events_of(&id, "turn_ended").is_empty()).then_some(()));
    let clock = |e: &Value| chrono::DateTime::parse_from_rfc3339(e["at"].as_str().expect("a time")).expect("a time").timestamp_millis();
    let begun = clock(&host.events_of(&id, "session_created")[0]);
    let at = |e: &Value| clock(e) - begun;
    let (decided, ran) = (host.events_of(&id, "tool_decided"), host.events_of(&id, "tool_ended"));
    let (last, before) = decided.split_last().expect("decisions");
    assert!(before.len() >= 2 && before.iter().all(|d| d["body"]["effect"] == "allow"), "{decided:#?}");
    // A call is judged after the one before it ended, and before its own decision is on record.
    let judged_from = at(&ran[before.len() - 2]);
    assert!(judged_from < WALL && at(last) >= WALL, "{judged_from} ms, then {} ms: {last:#}", at(last));
    let b = &last["body"];
    assert_eq!((b["effect"].as_str(), b["rule"].as_str()), (Some("deny"), Some("wall")), "{last:#}");
    assert!(b["reason"].as_str().is_some_and(|r| r.contains("time 4 s of 4 s")), "{last:#}");
    assert_eq!(crate::support::lines_of(&host.work().join("ran.txt")).len(), before.len());
    let said = host.beadle(["send", &id, "more"]);
    assert!(said.code != 0 && said.err.contains("of 4 s"), "no turn begins either: {said:?}");
    host.beadle(["stop", &id]).ok();
}

#[test]
fn a_budget_asks_from_its_soft_limit_and_refuses_prompts_past_its_turns() {
    let mut host = TestHost::new();
    host.config(&format!("approvals.unattended = \"deny\"\n{}", before_allow("budget", "calls = { soft = 1, hard = 3 }\nturns = 1")));
    let model = Model::start(&json!({ "steps": [bash("touch a"), bash("touch b"), { "text": "done" }, { "text": "not reached" }] }));
    let id = host.run_demo(&model, "go", &["--keep"]);
    crate::support::until("the first turn has ended", || (!host.events_of(&id, "turn_ended").is_empty()).then_some(()));
    let got = host.events_of(&id, "tool_decided");
    let body = |i: usize| (got[i]["body"]["effect"].as_str(), got[i]["body"]["by"].as_str());
    assert_eq!((body(0), body(1)), ((Some("allow"), Some("policy")), (Some("deny"), Some("unattended"))), "{got:#?}");
    assert!(got[1]["body"]["reason"].to_string().contains("asked about from 1 on"), "{got:#?}");
    let said = host.beadle(["send", &id, "more"]);
    assert!(said.code != 0 && said.err.contains("turns 1 of 1"), "{said:?}");
    host.beadle(["stop", &id]).ok();
}

const CEDAR: &str = r#"policies = '''
@id("yes") permit(principal, action == Action::"run", resource) when { resource.text like "touch *" };
@id("files") permit(principal, action == Action::"write_path", resource) when { resource.resolved like "*/work/*" };
@id("no") @reason("not that one") forbid(principal, action == Action::"run", resource) when { resource.text == "touch no" };
@id("team") forbid(principal, action == Action::"run", resource) when { resource.text == "touch core" }
unless { principal.hasTag("team") && principal.getTag("team") == "core" };
@id("count") forbid(principal, action, resource) when { context.calls >= 5 };
'''
"#;

/// The standard policy `cedar` alone, so that its permits count.
fn cedar_alone(more: &str) -> String {
    format!(
        "approvals.unattended = \"deny\"\n[[policy]]\nname = \"rules\"\nenabled = false\n[[policy]]\nname = \"cedar\"\nplugin = \"cedar\"\ndeadline_ms = \
         10000\n[policy.config]\n{CEDAR}{more}"
    )
}

#[test]
fn cedar_permits_forbids_and_names_its_policies() {
    let mut host = TestHost::new();
    host.config(&cedar_alone(
        "examples = [{ command = \"touch a; touch no\", effect = \"deny\" }, { command = \"rm x\", effect = \"abstain\" }]",
    ));
    let steps = ["touch a", "touch a && touch no", "touch core", "rm a", "touch \"$HOME/x\"", "touch late"];
    let steps: Vec<Value> = steps.iter().map(|c| bash(c)).chain([json!({ "text": "done" })]).collect();
    let model = Model::start(&json!({ "steps": steps }));
    let id = host.run_demo(&model, "go", &["--label", "team=core"]);
    host.ended(&id);
    let got = host.events_of(&id, "tool_decided");
    let said: Vec<[&str; 3]> = got.iter().map(|e| ["effect", "rule", "by"].map(|k| e["body"][k].as_str().unwrap_or_default())).collect();
    assert_eq!(said[0], ["allow", "yes, files", "policy"], "{got:#?}");
    assert_eq!((said[1], got[1]["body"]["reason"].as_str()), (["deny", "no", "policy"], Some("not that one")));
    assert_eq!(said[2], ["allow", "yes, files", "policy"], "the label counts: {got:#?}");
    assert_eq!((said[3][0], said[3][2]), ("deny", "unattended"), "no opinion is the host's default: {got:#?}");
    assert_eq!((said[4][0], said[4][1]), ("deny", "uncertain"), "{got:#?}");
    assert_eq!(said[5], ["deny", "count", "policy"], "{got:#?}");
    assert!(host.work().join("core").exists() && !host.work().join("no").exists() && !host.work().join("late").exists());
}

#[test]
fn cedar_holds_on_the_real_agent() {
    let Some((mut host, program)) = claude::host("cedar_holds_on_the_real_agent") else { return };
    host.config(&cedar_alone(""));
    let model = Model::start(&json!({ "steps": [
        bash("touch a"), bash("touch a && touch no"), bash("touch core"), { "text": "done" },
    ]}));
    let id = claude::run(&mut host, &program, &model, &[]);
    host.ended(&id);
    let rules = decisions(&host, &id);
    let rules: Vec<_> = rules.iter().map(|(e, r)| (e.as_str(), r.as_str())).collect();
    assert_eq!(rules, [("allow", "yes, files"), ("deny", "no"), ("deny", "team")]);
    assert!(host.work().join("a").exists() && !host.work().join("no").exists() && !host.work().join("core").exists());
}

#[test]
fn an_error_in_a_cedar_policy_denies() {
    let stage = Stage::new();
    let host = Host::new(HostOptions::default()).expect("an engine");
    let config = json!({ "policies": "permit(principal, action, resource) when { context.at_ms + 9223372036854775807 > 0 };" });
    let plugin = load(&host, "cedar", &config).expect("it loads");
    let call = stage.call("Bash", &json!({ "command": "ls" }));
    let got = plugin.decide_here(&Question::new(&stage.session(), &call, 5), DEADLINE).expect("a decision");
    assert_eq!((got.effect.as_str(), got.rule.as_deref()), ("deny", Some("error")), "{got:?}");
}

#[test]
fn the_schemas_are_printed() {
    let host = TestHost::new();
    let said = host.beadle(["policy", "schema", "--cedar"]).ok();
    assert!(said.out.contains("entity Session in [Agent]") && said.out.contains("action \"run\""), "{said:?}");
    assert_eq!(host.beadle(["--json", "policy", "schema", "--cedar"]).ok().json()["cedar"], said.out.as_str());
    for name in ["rules", "paths", "budget", "egress", "cedar"] {
        assert_eq!(host.beadle(["--json", "policy", "schema", name]).ok().json()["additionalProperties"], false, "{name}");
    }
    assert!(host.beadle(["policy", "schema", "budget"]).ok().out.contains("\"cost_usd\": {"));
    let said = host.beadle(["policy", "schema", "nobody"]);
    assert!(said.code == 2 && said.err.contains("known are rules, paths, budget, egress, cedar"), "{said:?}");
}

#[test]
fn the_example_with_all_of_them_holds() {
    let host = TestHost::new();
    host.config(include_str!("../../examples/policies.toml"));
    host.beadle(["config", "check"]).ok();
}
