//! The optional moments in sessions that the host did not start: agents that are known by their hooks.

use serde_json::{Value, json};

use crate::hooks::real::Real;
use crate::hooks::{Agent, asked, decision, only_session, payload};
use crate::moments::{configure, one, policy};
use crate::support::{Model, TestHost, bash};

fn prompt(host: &TestHost, session: &str, text: &str) -> Value {
    payload(host, session, "UserPromptSubmit", json!({ "prompt": text }))
}

#[test]
fn a_refused_session_runs_no_call_and_takes_no_prompt_also_after_a_restart() {
    let host = TestHost::new();
    let p = policy(&host, "house", "all", "", &json!({"refuse_session": "no sessions on Sundays", "context": "CONTEXT-77"}));
    configure(&host, "", &[p]);
    host.daemon();
    let mut agent = Agent::start(&host);
    assert_eq!(agent.hook(&payload(&host, "c1", "SessionStart", json!({ "source": "startup", "model": "m-1" }))).code, 0);
    let id = only_session(&host);
    for round in ["t1", "t2"] {
        let said = agent.hook(&prompt(&host, "c1", "go"));
        assert_eq!((said.code, said.out.as_str()), (2, ""), "a refused prompt blocks: {}", said.err);
        assert!(said.err.contains("policy house refuses this session: no sessions on Sundays"), "{}", said.err);
        let said = agent.hook(&asked(&host, "c1", round, "echo hi"));
        assert_eq!(decision(&said), "deny");
        assert!(said.err.contains("no sessions on Sundays"), "{}", said.err);
        host.kill_daemon();
        host.daemon();
    }
    let events = host.events(&id);
    let j = one(&events, "session_judged");
    assert_eq!(j["refused"]["policy"], "house", "{j:#}");
    assert!(!events.iter().any(|e| ["prompt_submitted", "prompt_judged"].iter().any(|k| e["kind"] == *k)), "{events:#?}");
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn labels_and_tighter_settings_are_taken_and_a_new_daemon_keeps_them() {
    let host = TestHost::new();
    let config = json!({"tighten": {"limits.waiting_asks": 0, "limits.live_sessions": 5}, "labels": {"tier": "prod"}});
    let p = policy(&host, "house", "session", "", &config);
    configure(&host, "hooks.ask = \"wait\"", &[p]);
    host.daemon();
    let mut agent = Agent::start(&host);
    agent.hook(&payload(&host, "c1", "SessionStart", json!({ "source": "startup" })));
    let id = only_session(&host);
    assert_eq!(host.show(&id)["labels"], json!({"tier": "prod"}));
    let events = host.events(&id);
    let j = one(&events, "session_judged");
    let (taken, ignored) = (j["tightened"].to_string(), j["ignored"].to_string());
    assert!(ignored.contains("limits.live_sessions"), "what is the host's own is not a session's: {j:#}");
    // The first daemon has the ruling in hand, the next one reads it from the log.
    for id in ["t1", "t2"] {
        let begun = agent.begin(asked(&host, "c1", id, "touch a").to_string().as_bytes(), "--deadline-ms 60000 --wait-ms 60000");
        agent.tell("wait");
        let said = begun.end();
        assert_eq!(decision(&said), "deny", "{taken}");
        assert!(said.err.contains("limits.waiting_asks"), "nobody may be waited for: {} {taken}", said.err);
        host.kill_daemon();
        host.daemon();
    }
}

#[test]
fn a_failed_policy_counts_as_it_is_set() {
    for (on_failure, blocked) in [("deny", true), ("abstain", false)] {
        let host = TestHost::new();
        let settings = format!("on_failure = {on_failure:?}");
        let p = policy(&host, "broken", "all", &settings, &json!({"trap": "judge-prompt"}));
        configure(&host, "", &[p]);
        host.daemon();
        let mut agent = Agent::start(&host);
        let said = agent.hook(&prompt(&host, "c1", "go"));
        assert_eq!((said.code == 2, said.out.as_str()), (blocked, ""), "{on_failure}: {}", said.err);
        let id = only_session(&host);
        let events = host.events(&id);
        assert_eq!(one(&events, "plugin_failed")["cause"], "trap");
        assert_eq!(events.iter().any(|e| e["kind"] == "prompt_submitted"), !blocked, "{on_failure}");
    }
}

/// The real agent with the hooks of `beadle hook install`, and one policy at all moments.
fn real(test: &str, top: &str, config: &Value, steps: Value) -> Option<Real> {
    let real = Real::new(&format!("hooked_moments::{test}"), "", steps)?;
    let p = policy(&real.host, "house", "all", "", config);
    configure(&real.host, top, &[p]);
    real.host.kill_daemon();
    real.host.daemon();
    Some(real)
}

#[test]
fn what_policies_add_to_a_prompt_reaches_the_real_model_in_the_open() {
    let config = json!({"context": "CONTEXT-77: commit messages are in English", "labels": {"team": "core"}});
    let test = "what_policies_add_to_a_prompt_reaches_the_real_model_in_the_open";
    let Some(r) = real(test, "", &config, json!([{ "text": "done" }])) else { return };
    r.run(&[]);
    assert!(r.told_the_model("CONTEXT-77") && r.told_the_model("session-host-context"), "the context did not reach the model");
    let id = only_session(&r.host);
    assert_eq!(r.host.ended(&id)["labels"]["team"], "core");
    let events = r.host.events(&id);
    assert_eq!(
        one(&events, "prompt_judged")["context"],
        json!([{"policy": "house", "text": "CONTEXT-77: commit messages are in English"}])
    );
    assert_eq!(one(&events, "prompt_submitted")["prompt"]["text"], "go");
}

#[test]
fn a_refused_prompt_or_session_reaches_the_real_model_in_nothing() {
    let test = "a_refused_prompt_or_session_reaches_the_real_model_in_nothing";
    for config in [json!({"refuse_prompt": "not that", "unwanted": "go"}), json!({"refuse_session": "closed today"})] {
        let Some(r) = real(test, "", &config, json!([bash("touch a"), { "text": "done" }])) else { return };
        let said = r.said(&[]);
        let asked = r.model.requests().iter().filter(|q| q["body"]["messages"].is_array()).count();
        assert_eq!(asked, 0, "{config}: the prompt reached the model: {said:?}");
        assert!(!r.there("a"));
        let id = only_session(&r.host);
        assert!(r.host.events_of(&id, "prompt_submitted").is_empty());
    }
}

#[test]
fn a_result_is_redacted_before_the_real_model_sees_it() {
    let test = "a_result_is_redacted_before_the_real_model_sees_it";
    let Some(r) = real(test, "", &json!({"secret": "SECRET-77"}), json!([{ "text": "x" }])) else { return };
    r.host.file("notes.txt", "first line\nthe key is SECRET-77\n");
    let read = r.host.work().join("notes.txt").display().to_string();
    let steps = json!([bash("cat notes.txt"), { "tool": "Read", "input": { "file_path": read } }, { "text": "done" }]);
    let r = Real { model: Model::start(&json!({ "steps": steps })), ..r };
    r.run(&[]);
    let id = only_session(&r.host);
    let s = r.host.ended(&id);
    assert_eq!((s["flagged_count"].as_u64(), s["breach_count"].as_u64()), (Some(2), Some(0)), "{s:#}");
    assert!(!r.told_the_model("SECRET-77"), "the secret reached the model");
    let last = r.model.requests().last().map(Value::to_string).unwrap_or_default();
    assert_eq!(last.matches("the key is [redacted]").count(), 2, "{last}");
    let shown: Vec<Value> = r.host.events_of(&id, "result_judged").iter().map(|e| e["body"]["shown"].clone()).collect();
    assert_eq!(shown, ["replaced", "replaced"]);
    let ended = r.host.events_of(&id, "tool_ended");
    assert!(ended.len() == 2 && !ended.iter().any(|e| e.to_string().contains("SECRET-77")), "the log keeps what the model saw: {ended:#?}");
}

#[test]
fn a_failed_call_whose_result_nobody_can_replace_ends_all_calls_or_passes() {
    let test = "a_failed_call_whose_result_nobody_can_replace_ends_all_calls_or_passes";
    for (setting, shown) in [("stop", "stopped"), ("tell", "passed")] {
        let top = format!("results.unreplaceable = {setting:?}");
        let steps = json!([bash("cat notes.txt; false"), bash("echo more"), { "text": "done" }]);
        let Some(r) = real(test, &top, &json!({"secret": "SECRET-77"}), steps) else { return };
        r.host.file("notes.txt", "SECRET-77\n");
        if setting == "stop" {
            r.host.expects_breaches();
        }
        r.said(&[]);
        let id = only_session(&r.host);
        let s = r.host.ended(&id);
        let events = r.host.events(&id);
        let j = &r.host.events_of(&id, "result_judged")[0]["body"];
        assert_eq!((j["shown"].as_str(), j["is_error"].as_bool()), (Some(shown), Some(true)), "{j:#}");
        assert!(r.told_the_model("SECRET-77"), "the agent holds failed results back for hooks now: say so in wit/README.md");
        let stop = setting == "stop";
        assert_eq!(s["breach_count"], u64::from(stop), "{s:#}");
        let next = &r.host.events_of(&id, "tool_decided")[1]["body"];
        assert_eq!(next["effect"], if stop { "deny" } else { "allow" }, "{next:#}");
        assert!(!events.iter().any(|e| e["kind"] == "tool_ended" && e.to_string().contains("SECRET-77")), "{events:#?}");
    }
}

#[test]
fn the_attempt_of_the_real_agent_is_judged_at_its_end() {
    let test = "the_attempt_of_the_real_agent_is_judged_at_its_end";
    let config = json!({"verdicts": ["escalate: run the tests"]});
    let Some(r) = real(test, "", &config, json!([{ "text": "All done." }])) else { return };
    r.run(&[]);
    let id = only_session(&r.host);
    assert_eq!(r.host.ended(&id)["outcome"], "failed");
    let events = r.host.events(&id);
    let v = one(&events, "attempt_verified");
    assert_eq!((v["verdict"].as_str(), v["given"].as_bool()), (Some("escalate"), Some(false)), "{v:#}");
}
