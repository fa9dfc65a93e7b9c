//! The optional moments of policies in whole sessions: on the real Claude Code where it is installed, else on the built-in agent.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::claude;
use crate::contract::component;
use crate::support::{Model, TestHost, bash, rules};

/// A guest as a policy of the operator, after rules that allow some commands.
pub fn policy(host: &TestHost, name: &str, guest: &str, settings: &str, config: &Value) -> String {
    let path = host.home().join(format!("{guest}.wasm"));
    std::fs::write(&path, component(guest)).expect("a component");
    let fields: String = config.as_object().into_iter().flatten().map(|(k, v)| format!("{k} = {}\n", toml(v))).collect();
    format!(
        "[[policy]]\nname = {name:?}\nplugin = {:?}\ndeadline_ms = 10000\n{settings}\n[policy.config]\n{fields}",
        path.display().to_string()
    )
}

fn toml(v: &Value) -> String {
    match v {
        Value::Object(m) => format!("{{ {} }}", m.iter().map(|(k, v)| format!("{k:?} = {}", toml(v))).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

pub fn configure(host: &TestHost, top: &str, policies: &[String]) {
    let allow = rules(&["Bash(echo:*)", "Bash(cat:*)", "Bash(false)", "Read(./**)"], &[], &[]);
    host.config(&format!("{top}\n{allow}\n{}", policies.join("\n")));
}

/// Claude Code with this model; `None` where it is not installed.
struct Real {
    host: TestHost,
    program: PathBuf,
}

impl Real {
    fn new(test: &str) -> Option<Self> {
        claude::host(test).map(|(host, program)| Self { host, program })
    }

    fn run(&mut self, model: &Model) -> String {
        claude::run(&mut self.host, &self.program, model, &[])
    }
}

pub fn one<'e>(events: &'e [Value], kind: &str) -> &'e Value {
    let found: Vec<&Value> = events.iter().filter(|e| e["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind}: {events:#?}");
    &found[0]["body"]
}

/// The id of the only session.
fn only(host: &TestHost) -> String {
    let all = host.beadle(["--json", "ls"]).ok().lines();
    assert_eq!(all.len(), 1, "{all:#?}");
    all[0]["id"].as_str().expect("an id").to_owned()
}

#[test]
fn a_refused_session_is_never_started() {
    let Some(mut real) = Real::new("a_refused_session_is_never_started") else { return };
    let p = policy(&real.host, "house", "session", "", &json!({"refuse_session": "no sessions on Sundays"}));
    configure(&real.host, "", &[p]);
    let model = Model::start(&json!({ "steps": [{ "text": "done" }] }));
    real.host.set("ANTHROPIC_BASE_URL", model.url());
    let program = real.program.display().to_string();
    let said = real.host.beadle(["run", "--agent", "claude", "--program", &program, "--detach", "go"]);
    assert_eq!(said.code, 1, "{} {}", said.out, said.err);
    for part in ["BDL-SESSION-036", "house", "no sessions on Sundays"] {
        assert!(said.err.contains(part), "{part}: {}", said.err);
    }
    let id = only(&real.host);
    let s = real.host.show(&id);
    assert_eq!((s["status"].as_str(), s["outcome"].as_str(), &s["pid"]), (Some("ended"), Some("failed"), &Value::Null), "{s:#}");
    let events = real.host.events(&id);
    assert!(!events.iter().any(|e| e["kind"] == "attempt_started"), "{events:#?}");
    let j = one(&events, "session_judged");
    assert_eq!((j["refused"]["policy"].as_str(), j["answers"][0]["policy"].as_str()), (Some("house"), Some("house")), "{j:#}");
    assert!(model.requests().is_empty());
    assert_eq!(real.host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn limits_are_tightened_and_labels_given_and_a_new_daemon_keeps_them() {
    let Some(mut real) = Real::new("limits_are_tightened_and_labels_given_and_a_new_daemon_keeps_them") else { return };
    let config = json!({
        "tighten": {"approvals.timeout_ms": 1, "limits.live_sessions": 5, "session.on_breach": "alert"},
        "labels": {"tier": "prod"},
    });
    let p = policy(&real.host, "house", "all", "", &config);
    configure(&real.host, "", &[p]);
    // The ask comes after the daemon was killed: the next one adopts the session.
    let model = Model::start(&json!({ "steps": [{ "text": "one" }, bash("touch a"), { "text": "two" }] }));
    let id = claude::run(&mut real.host, &real.program, &model, &["--keep", "--label", "tier=dev"]);
    crate::support::until("the first turn has ended", || (real.host.show(&id)["turn_count"] == 1).then_some(()));
    real.host.kill_daemon();
    real.host.beadle(["send", &id, "now the other thing"]).ok();
    crate::support::until("the second turn has ended", || (real.host.show(&id)["turn_count"] == 2).then_some(()));
    let events = real.host.events(&id);
    let d = one(&events, "tool_decided");
    assert_eq!((d["effect"].as_str(), d["by"].as_str()), (Some("deny"), Some("expired")), "an ask waits for a millisecond: {d:#}");
    let j = one(&events, "session_judged");
    assert_eq!(j["tightened"], json!([{"setting": "approvals.timeout_ms", "value": 1}]), "{j:#}");
    let ignored = j["ignored"].to_string();
    for part in ["limits.live_sessions", "session.on_breach", "tier=dev"] {
        assert!(ignored.contains(part), "{part}: {ignored}");
    }
    assert_eq!(real.host.show(&id)["labels"], json!({"tier": "prod"}));
    real.host.beadle(["stop", &id]).ok();
}

#[test]
fn context_reaches_the_model_in_the_open_and_unwanted_prompts_do_not() {
    let Some(mut real) = Real::new("context_reaches_the_model_in_the_open_and_unwanted_prompts_do_not") else { return };
    let adds = policy(&real.host, "house", "prompt", "", &json!({"context": "CONTEXT-77: commit messages are in English"}));
    let refuses = policy(&real.host, "guard", "all", "", &json!({"refuse_prompt": "not that", "unwanted": "DROP"}));
    configure(&real.host, "", &[adds, refuses]);
    let model = Model::start(&json!({ "steps": [{ "text": "one" }, { "text": "two" }] }));
    let id = claude::run(&mut real.host, &real.program, &model, &["--keep"]);
    crate::support::until("the first turn has ended", || (real.host.show(&id)["turn_count"] == 1).then_some(()));
    let said = real.host.beadle(["send", &id, "please DROP-88 it"]);
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.err.contains("BDL-SESSION-037") && said.err.contains("guard") && said.err.contains("not that"), "{}", said.err);
    real.host.beadle(["send", &id, "go on"]).ok();
    crate::support::until("the second turn has ended", || (real.host.show(&id)["turn_count"] == 2).then_some(()));
    let requests: Vec<String> = model.requests().iter().map(Value::to_string).collect();
    assert!(requests.iter().any(|r| r.contains("CONTEXT-77")), "the context did not reach the model");
    assert!(!requests.iter().any(|r| r.contains("DROP-88")), "a refused prompt reached the model");
    let judged = real.host.events_of(&id, "prompt_judged");
    assert_eq!(judged.len(), 3, "{judged:#?}");
    assert_eq!(judged[0]["body"]["context"], json!([{"policy": "house", "text": "CONTEXT-77: commit messages are in English"}]));
    assert_eq!(judged[1]["body"]["refused"]["policy"], "guard");
    assert_eq!(real.host.events_of(&id, "prompt_submitted").len(), 2);
    real.host.beadle(["stop", &id]).ok();
}

#[test]
fn a_refused_first_prompt_keeps_the_session_from_starting() {
    let mut host = TestHost::new();
    let p = policy(&host, "guard", "prompt", "", &json!({"refuse_prompt": "not that"}));
    configure(&host, "", &[p]);
    let model = Model::start(&json!({ "steps": [{ "text": "done" }] }));
    host.set("ANTHROPIC_BASE_URL", model.url());
    host.set("ANTHROPIC_API_KEY", "test");
    let said = host.beadle(["run", "--agent", "demo", "--detach", "go"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("BDL-SESSION-037") && said.err.contains("not that (prompt 1 of operator)"), "{}", said.err);
    let id = only(&host);
    assert_eq!(host.show(&id)["outcome"], "failed");
    assert!(model.requests().is_empty() && host.events_of(&id, "attempt_started").is_empty());
}

/// The last model request, which carries the result of the only call.
fn last(model: &Model) -> String {
    model.requests().last().map(Value::to_string).unwrap_or_default()
}

#[test]
fn a_result_is_redacted_in_its_own_shape_before_the_model_sees_it() {
    let Some(mut real) = Real::new("a_result_is_redacted_in_its_own_shape_before_the_model_sees_it") else { return };
    let p = policy(&real.host, "redact", "result", "", &json!({"secret": "SECRET-77"}));
    configure(&real.host, "", &[p]);
    real.host.file("notes.txt", "first line\nthe key is SECRET-77\n");
    let read = real.host.work().join("notes.txt").display().to_string();
    let model = Model::start(&json!({ "steps": [
        bash("cat notes.txt"),
        { "tool": "Read", "input": { "file_path": read } },
        { "text": "done" },
    ]}));
    let id = real.run(&model);
    let s = real.host.ended(&id);
    assert_eq!(
        (s["outcome"].as_str(), s["flagged_count"].as_u64(), s["breach_count"].as_u64()),
        (Some("succeeded"), Some(2), Some(0)),
        "{s:#}"
    );
    let last = last(&model);
    assert_eq!(last.matches("the key is [redacted]").count(), 2, "{last} {:#?}", real.host.events_of(&id, "mediation_breached"));
    assert!(last.contains("first line"), "what is no secret stays");
    assert!(!model.requests().iter().any(|r| r.to_string().contains("SECRET-77")), "the secret reached the model");
    let judged = real.host.events_of(&id, "result_judged");
    assert_eq!(judged.len(), 2, "{judged:#?}");
    for (j, tool) in judged.iter().zip(["Bash", "Read"]) {
        let b = &j["body"];
        assert_eq!(
            (b["shown"].as_str(), b["tool"].as_str(), b["answers"][0]["answer"]["replaced"].as_bool()),
            (Some("replaced"), Some(tool), Some(true))
        );
        assert_eq!(b["flags"], json!([{"policy": "redact", "text": format!("{tool} printed a secret")}]));
        assert!(b["call"].is_u64(), "{b:#}");
    }
    let log = real.host.events(&id);
    assert!(!log.iter().any(|e| e["kind"] == "tool_ended" && e.to_string().contains("SECRET-77")), "the log keeps what the model saw");
}

#[test]
fn two_policies_that_redact_one_result_add_up() {
    let Some(mut real) = Real::new("two_policies_that_redact_one_result_add_up") else { return };
    let first = policy(&real.host, "keys", "result", "", &json!({"secret": "SECRET-77"}));
    let second = policy(&real.host, "names", "all", "", &json!({"secret": "SECRET-88"}));
    configure(&real.host, "", &[first, second]);
    real.host.file("notes.txt", "one SECRET-77 here\ntwo SECRET-88 there\nboth SECRET-77 SECRET-88\n");
    let model = Model::start(&json!({ "steps": [bash("cat notes.txt"), { "text": "done" }] }));
    let id = real.run(&model);
    let s = real.host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["breach_count"].as_u64()), (Some("succeeded"), Some(0)), "{s:#}");
    let last = last(&model);
    for line in ["one [redacted] here", "two [redacted] there", "both [redacted] [redacted]"] {
        assert!(last.contains(line), "{line}: {last}");
    }
    assert!(!model.requests().iter().any(|r| r.to_string().contains("SECRET-")), "a secret reached the model");
    let events = real.host.events(&id);
    let j = one(&events, "result_judged");
    let said: Vec<_> = (0..2).map(|n| (&j["answers"][n]["policy"], &j["answers"][n]["answer"]["replaced"])).collect();
    assert_eq!(said, [(&json!("keys"), &json!(true)), (&json!("names"), &json!(true))], "{j:#}");
    assert_eq!(
        (j["shown"].as_str(), j["because"]["policy"].as_str(), j["flags"].as_array().map(Vec::len)),
        (Some("replaced"), Some("keys"), Some(2))
    );
}

/// What a repository's own policies say at the moments: before it is trusted they may forbid, and nothing more.
#[test]
fn policies_of_a_project_only_forbid_until_it_is_trusted() {
    let Some(mut real) = Real::new("policies_of_a_project_only_forbid_until_it_is_trusted") else { return };
    configure(&real.host, "", &[]);
    real.host.file("notes.txt", "SECRET-77\n");
    let config = json!({
        "labels": {"tier": "prod"}, "tighten": {"approvals.timeout_ms": 1}, "context": "CONTEXT-77", "secret": "SECRET-77",
        "refuse_prompt": "not that", "unwanted": "DROP", "verdicts": ["error: hopeless"],
    });
    let entry = policy(&real.host, "house", "all", "", &config);
    // A project's component lies in the project.
    let (home, work) = (real.host.home().join("all.wasm"), real.host.work().join("all.wasm"));
    std::fs::rename(&home, &work).expect("moved");
    real.host.file("beadle.toml", &entry.replace(&home.display().to_string(), &work.display().to_string()));
    let steps = json!({ "steps": [bash("cat notes.txt"), { "text": "done" }] });
    let saw = |m: &Model, text: &str| m.requests().iter().any(|r| r.to_string().contains(text));

    let model = Model::start(&steps);
    let id = real.run(&model);
    let s = real.host.ended(&id);
    assert_eq!(
        (s["labels"]["tier"].as_str(), s["outcome"].as_str()),
        (None, Some("failed")),
        "its verdict counts, its label does not: {s:#}"
    );
    assert!(!saw(&model, "CONTEXT-77") && saw(&model, "SECRET-77"), "neither its context nor its result is taken");
    let events = real.host.events(&id);
    assert_eq!(one(&events, "session_judged")["tightened"], json!([{"setting": "approvals.timeout_ms", "value": 1}]));
    assert_eq!(one(&events, "prompt_judged")["answers"][0]["answer"]["context"], "CONTEXT-77", "what it says is written down");
    let j = one(&events, "result_judged");
    assert_eq!((j["shown"].as_str(), &j["answers"][0]["answer"]["replaced"]), (Some("whole"), &json!(true)), "{j:#}");
    assert_eq!(one(&events, "attempt_verified")["verdict"], "error");
    let program = real.program.display().to_string();
    let said = real.host.beadle(["run", "--agent", "claude", "--program", &program, "--detach", "please DROP it"]);
    assert!(said.code == 1 && said.err.contains("BDL-SESSION-037") && said.err.contains("house"), "{said:?}");

    real.host.beadle(["trust", "--yes"]).ok();
    let model = Model::start(&steps);
    let id = real.run(&model);
    let s = real.host.ended(&id);
    assert_eq!(s["labels"]["tier"], "prod", "{s:#}");
    assert!(saw(&model, "CONTEXT-77") && !saw(&model, "SECRET-77"), "trusted, all of it is taken");
    assert_eq!(one(&real.host.events(&id), "result_judged")["shown"], "replaced");
}

#[test]
fn a_result_that_claude_lets_nobody_replace_ends_the_session_or_passes_as_configured() {
    for (setting, outcome, shown) in [("stop", "failed", "stopped"), ("tell", "succeeded", "passed")] {
        let Some(mut real) = Real::new("a_result_that_claude_lets_nobody_replace_ends_the_session_or_passes_as_configured") else { return };
        let p = policy(&real.host, "redact", "result", "", &json!({"secret": "SECRET-77"}));
        configure(&real.host, &format!("results.unreplaceable = {setting:?}"), &[p]);
        real.host.file("notes.txt", "SECRET-77\n");
        let model = Model::start(&json!({ "steps": [bash("cat notes.txt; false"), { "text": "done" }] }));
        let id = real.run(&model);
        let s = real.host.ended(&id);
        assert_eq!(s["outcome"], outcome, "{s:#}");
        let events = real.host.events(&id);
        let j = one(&events, "result_judged");
        assert_eq!(
            (j["shown"].as_str(), j["is_error"].as_bool(), j["because"]["policy"].as_str()),
            (Some(shown), Some(true), Some("redact")),
            "{j:#}"
        );
        let leaked = model.requests().iter().any(|r| r.to_string().contains("SECRET-77"));
        assert_eq!(leaked, setting == "tell", "with `stop` the model sees nothing of it");
        assert!(!events.iter().any(|e| e["kind"] == "tool_ended" && e.to_string().contains("SECRET-77")), "{events:#?}");
    }
}

#[test]
fn a_daemon_that_dies_over_a_result_lets_nothing_pass() {
    let Some(mut real) = Real::new("a_daemon_that_dies_over_a_result_lets_nothing_pass") else { return };
    let p = policy(&real.host, "redact", "result", "", &json!({"secret": "SECRET-77"}));
    configure(&real.host, "", &[p]);
    real.host.file("notes.txt", "SECRET-77\n");
    for point in ["shown", "ran"] {
        real.host.beadle(["host", "stop"]);
        let model = Model::start(&json!({ "steps": [bash("cat notes.txt"), { "text": "done" }] }));
        let mut daemon = real.host.daemon_with("BEADLE_FAILPOINT", point);
        let id = real.run(&model);
        crate::support::until("the daemon has died", || daemon.try_wait().ok().flatten());
        let s = real.host.ended(&id);
        assert_eq!((s["outcome"].as_str(), s["breach_count"].as_u64()), (Some("succeeded"), Some(0)), "{point}: {s:#}");
        assert_eq!(one(&real.host.events(&id), "result_judged")["shown"], "replaced", "{point}");
        assert!(!model.requests().iter().any(|r| r.to_string().contains("SECRET-77")), "{point}: the secret reached the model");
    }
}

#[test]
fn a_policy_that_fails_withholds_the_result_unless_it_abstains() {
    for (on_failure, shown) in [("deny", "withheld"), ("abstain", "whole")] {
        let Some(mut real) = Real::new("a_policy_that_fails_withholds_the_result_unless_it_abstains") else { return };
        let settings = format!("on_failure = {on_failure:?}");
        let p = policy(&real.host, "broken", "result", &settings, &json!({"trap": "judge-result", "allow": true}));
        configure(&real.host, "", &[p]);
        let model = Model::start(&json!({ "steps": [bash("echo OUTPUT-77"), { "text": "done" }] }));
        let id = real.run(&model);
        let s = real.host.ended(&id);
        assert_eq!((s["outcome"].as_str(), s["breach_count"].as_u64()), (Some("succeeded"), Some(0)), "{s:#}");
        let events = real.host.events(&id);
        assert_eq!(one(&events, "result_judged")["shown"], shown, "{on_failure}");
        assert_eq!(one(&events, "plugin_failed")["cause"], "trap");
        let last = last(&model);
        assert_eq!(last.contains("withheld by the session host"), shown == "withheld", "{last}");
        let result =
            model.requests().last().and_then(|r| r["body"]["messages"].as_array()?.last().cloned()).unwrap_or_default().to_string();
        assert_eq!(result.contains("OUTPUT-77"), shown == "whole", "{result}");
    }
}

#[test]
fn monitors_are_asked_and_bind_nothing() {
    let Some(mut real) = Real::new("monitors_are_asked_and_bind_nothing") else { return };
    let config = json!({
        "refuse_session": "no", "refuse_prompt": "no", "secret": "OUTPUT-77", "verdicts": ["error: no"],
    });
    let p = policy(&real.host, "watch", "all", "mode = \"monitor\"", &config);
    configure(&real.host, "", &[p]);
    let model = Model::start(&json!({ "steps": [bash("echo OUTPUT-77"), { "text": "done" }] }));
    let id = real.run(&model);
    let s = real.host.ended(&id);
    assert_eq!(
        (s["outcome"].as_str(), s["verdict"]["verdict"].as_str(), s["flagged_count"].as_u64()),
        (Some("succeeded"), Some("accept"), Some(0)),
        "{s:#}"
    );
    let events = real.host.events(&id);
    for kind in ["session_judged", "prompt_judged", "result_judged", "attempt_verified"] {
        let b = one(&events, kind);
        assert_eq!((b["answers"][0]["mode"].as_str(), &b["refused"]), (Some("monitor"), &Value::Null), "{b:#}");
        assert!(b["answers"][0]["answer"].is_object(), "{kind}: what it says is written down");
    }
    assert!(last(&model).contains("OUTPUT-77"));
}

#[test]
fn an_attempt_is_sent_back_with_feedback_until_it_is_accepted() {
    let Some(mut real) = Real::new("an_attempt_is_sent_back_with_feedback_until_it_is_accepted") else { return };
    let verify = policy(
        &real.host,
        "verify",
        "attempt",
        "",
        &json!({"verdicts": ["escalate: FEEDBACK-1 run the tests", "escalate: FEEDBACK-2", "accept"]}),
    );
    configure(&real.host, "", &[verify]);
    let model = Model::start(&json!({ "steps": [{ "text": "one" }, { "text": "two" }, { "text": "three" }] }));
    let id = real.run(&model);
    let s = real.host.ended(&id);
    assert_eq!(
        (s["outcome"].as_str(), s["turn_count"].as_u64(), &s["verdict"]),
        (Some("succeeded"), Some(3), &json!({"verdict": "accept"})),
        "{s:#}"
    );
    let requests: Vec<String> = model.requests().iter().map(Value::to_string).collect();
    assert!(requests.iter().any(|r| r.contains("FEEDBACK-1 run the tests")) && requests.iter().any(|r| r.contains("FEEDBACK-2")));
    let verified: Vec<Value> = real.host.events_of(&id, "attempt_verified").iter().map(|e| e["body"].clone()).collect();
    let told: Vec<(&str, u64, bool)> = verified
        .iter()
        .map(|v| (v["verdict"].as_str().unwrap_or_default(), v["round"].as_u64().unwrap_or(9), v["given"] == true))
        .collect();
    assert_eq!(told, [("escalate", 0, true), ("escalate", 1, true), ("accept", 2, false)]);
    let prompts = real.host.events_of(&id, "prompt_submitted");
    assert_eq!((prompts.len(), prompts[1]["body"]["by"]["role"].as_str()), (3, Some("host")), "feedback is the host's, not the user's");
}

#[test]
fn feedback_ends_with_its_rounds_and_an_error_fails_the_session() {
    for (verdict, rounds, says) in
        [("escalate: again", 2, "do not accept the attempt: again"), ("error: hopeless", 0, "find an error: hopeless (said: done")]
    {
        let mut host = TestHost::new();
        let p = policy(&host, "verify", "attempt", "", &json!({ "verdicts": [verdict] }));
        configure(&host, "attempts.feedback_rounds = 2", &[p]);
        let model = Model::start(&json!({ "steps": [{ "text": "done", "times": 9 }] }));
        let id = host.run_demo(&model, "go", &[]);
        let s = host.ended(&id);
        assert_eq!((s["outcome"].as_str(), s["exit_code"].as_i64()), (Some("failed"), Some(0)), "{s:#}");
        assert_eq!(s["turn_count"], rounds + 1, "{verdict}");
        let ended = &host.events_of(&id, "session_ended")[0]["body"];
        assert!(ended["reason"].as_str().is_some_and(|r| r.contains(says)), "{ended}");
        assert_eq!(host.beadle(["wait", &id]).code, 1);
        let shown = host.beadle(["show", &id]).ok().out;
        assert!(shown.contains("verdict") && shown.contains(verdict.split(':').next().unwrap_or_default()), "{shown}");
    }
}

#[test]
fn the_built_in_agent_shows_no_results_so_a_redaction_comes_too_late_and_stops_it() {
    let mut host = TestHost::new();
    let p = policy(&host, "redact", "result", "", &json!({"secret": "SECRET-77"}));
    configure(&host, "", &[p]);
    host.file("notes.txt", "SECRET-77\n");
    let model = Model::start(&json!({ "steps": [bash("cat notes.txt"), { "text": "done", "delay_ms": 60000 }] }));
    let id = host.run_demo(&model, "go", &[]);
    assert_eq!(host.ended(&id)["outcome"], "failed");
    let events = host.events(&id);
    assert_eq!(one(&events, "result_judged")["shown"], "stopped");
    assert!(!events.iter().any(|e| e["kind"] == "tool_ended" && e.to_string().contains("SECRET-77")), "{events:#?}");
}

#[test]
fn a_generic_command_is_judged_at_its_start_and_its_end() {
    let host = TestHost::new();
    let p = policy(&host, "house", "all", "", &json!({"labels": {"kind": "script"}, "verdicts": ["escalate: look again"]}));
    configure(&host, "", &[p]);
    let said = host.beadle(["--json", "run", "--detach", "--", "true"]).ok().json();
    let id = said["id"].as_str().expect("an id").to_owned();
    let s = host.ended(&id);
    assert_eq!((s["labels"]["kind"].as_str(), s["outcome"].as_str()), (Some("script"), Some("failed")), "{s:#}");
    let events = host.events(&id);
    let v = one(&events, "attempt_verified");
    assert_eq!((v["given"].as_bool(), v["not_given"].as_str()), (Some(false), Some("the agent has ended")), "{v:#}");
}

#[test]
fn a_policy_without_moments_leaves_no_trace_of_them() {
    let Some(mut real) = Real::new("a_policy_without_moments_leaves_no_trace_of_them") else { return };
    let p = policy(&real.host, "plain", "base", "", &json!({"allow": true}));
    configure(&real.host, "", &[p]);
    let model = Model::start(&json!({ "steps": [bash("echo hi"), { "text": "done" }] }));
    let id = real.run(&model);
    assert_eq!(real.host.ended(&id)["outcome"], "succeeded");
    let events = real.host.events(&id);
    for kind in ["session_judged", "prompt_judged", "result_judged", "attempt_verified"] {
        assert!(!events.iter().any(|e| e["kind"] == kind), "{kind}");
    }
}

#[test]
fn policy_ls_tells_the_moments_and_explain_puts_payloads_of_other_hooks_to_them() {
    let host = TestHost::new();
    let house = json!({"refuse_prompt": "not that", "unwanted": "DROP", "context": "CONTEXT-9", "secret": "SECRET-9",
        "refuse_session": "closed", "verdicts": ["escalate: test it"]});
    configure(&host, "", &[policy(&host, "house", "all", "", &house)]);
    let listed = host.beadle(["--json", "policy", "ls"]).ok().lines();
    assert_eq!(listed.iter().map(|p| p["policy"].as_str().unwrap_or_default()).collect::<Vec<_>>(), ["rules", "house"], "{listed:#?}");
    assert_eq!(listed[1]["moments"], json!(["judge-session", "judge-prompt", "judge-result", "judge-attempt"]));
    let text = host.beadle(["policy", "ls"]).ok().out;
    assert!(text.contains("decide, judge-session, judge-prompt, judge-result, judge-attempt"), "{text}");
    assert_eq!(host.beadle(["-q", "policy", "ls"]).ok().out, "rules\nhouse\n");

    let explain = |payload: Value| {
        let file = host.file("payload.jsonl", &format!("{payload}\n")).display().to_string();
        let said = host.beadle(["policy", "explain", &file]);
        (said.code, said.lines().into_iter().next().expect("an answer"))
    };
    let (code, a) = explain(json!({"hook_event_name": "UserPromptSubmit", "prompt": "DROP it", "cwd": host.work()}));
    assert_eq!((code, &a["passes"], a["by"]["policy"].as_str()), (1, &json!(false), Some("house")), "{a:#}");
    let (code, a) = explain(json!({"prompt": "add a test"}));
    assert_eq!((code, &a["context"]), (0, &json!([{"policy": "house", "text": "CONTEXT-9"}])), "{a:#}");
    let result = |text: &str| json!({"hook_event_name": "PostToolUse", "tool_name": "Bash", "tool_input": {"command": "cat f"}, "tool_response": {"stdout": text, "interrupted": false}});
    let (code, a) = explain(result("x SECRET-9 y"));
    assert_eq!((code, &a["replaced"]), (1, &json!({"stdout": "x [redacted] y", "interrupted": false})), "{a:#}");
    assert_eq!(a["context"][0]["text"], "Bash printed a secret");
    let (code, a) = explain(result("nothing"));
    assert_eq!((code, &a["passes"], a.get("replaced")), (0, &json!(true), None), "{a:#}");
    let (code, a) = explain(json!({"hook_event_name": "Stop", "last_assistant_message": "done"}));
    assert_eq!((code, &a["verdict"]), (1, &json!({"verdict": "escalate", "text": "test it"})), "{a:#}");
    let (code, a) = explain(json!({"hook_event_name": "SessionStart", "source": "startup"}));
    assert_eq!((code, a["moment"].as_str()), (1, Some("judge-session")));
    assert!(a["by"]["reason"].as_str().is_some_and(|r| r.starts_with("closed")), "{a:#}");

    // One that cannot be loaded is listed as what it counts as.
    let missing = "[[policy]]\nname = \"gone\"\nplugin = \"/no/such.wasm\"\non_failure = \"ask\"\n".to_owned();
    configure(&host, "", &[missing]);
    let said = host.beadle(["policy", "ls"]);
    assert!(said.code == 1 && said.out.contains("not loaded") && said.err.contains("/no/such.wasm"), "{said:?}");
    assert!(!host.beadle_home().join("run/beadle.sock").exists(), "no daemon was started");
}
