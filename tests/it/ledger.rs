//! The usage ledger through the real binaries: prices, unknown costs, groupings, the agent's own total, limits that end a session.

use serde_json::{Value, json};

use crate::claude;
use crate::support::{Model, TestHost, bash, rules, until};

const ALLOW: &[&str] = &["Bash(echo:*)", "Bash(touch:*)", "Bash(sleep:*)", "Edit(./**)", "Agent"];

fn host() -> TestHost {
    let host = TestHost::new();
    host.config(&rules(ALLOW, &[], &[]));
    host
}

fn write_prices(host: &TestHost, text: &str) {
    std::fs::write(host.beadle_home().join("config/prices.json"), text).expect("a price table");
}

fn stats(host: &TestHost, args: &[&str]) -> Value {
    host.beadle([&["--json", "stats"], args].concat()).ok().json()
}

fn keys(doc: &Value) -> Vec<&str> {
    doc["rows"].as_array().expect("rows").iter().filter_map(|r| r["key"].as_str()).collect()
}

fn n(v: &Value) -> u64 {
    v.as_u64().unwrap_or_else(|| panic!("{v} is no number"))
}

fn exceeded(host: &TestHost, id: &str) -> Value {
    let found = host.events_of(id, "usage_limit_exceeded");
    assert_eq!(found.len(), 1, "{found:#?}");
    found[0]["body"].clone()
}

#[test]
fn a_model_without_a_price_is_named_and_never_free() {
    let mut host = host();
    let odd = |text: &str| json!({ "text": text, "model": "odd-1" });
    let mixed = Model::start(&json!({ "steps": [bash("echo a > a"), odd("done")] }));
    let mixed = host.run_demo(&mixed, "go", &[]);
    let s = host.ended(&mixed);
    let known = n(&s["cost"]["nanousd"]);
    assert!(known > 0 && s["unpriced"] == json!(["odd-1"]) && s["unpriced_count"] == 1, "{s:#}");
    let unknown = Model::start(&json!({ "steps": [odd("done")] }));
    let unknown = host.run_demo(&unknown, "go", &[]);
    let s = host.ended(&unknown);
    assert!(s["cost"].is_null() && s.get("cost").is_some() && s["unpriced"] == json!(["odd-1"]), "{s:#}");
    let all = stats(&host, &[]);
    assert_eq!((n(&all["cost"]["nanousd"]), n(&all["unpriced_count"]), &all["unpriced"]), (known, 2, &json!(["odd-1"])));
    let by = stats(&host, &["--by", "model"]);
    let row = |key: &str| by["rows"].as_array().and_then(|r| r.iter().find(|r| r["key"] == key)).unwrap_or_else(|| panic!("{key}: {by:#}"));
    assert!(row("odd-1")["cost"].is_null() && n(&row("odd-1")["call_count"]) == 2, "{by:#}");
    assert_eq!(keys(&by).len(), 2);
    assert_eq!(n(&by["cost"]["nanousd"]), known);
    for (args, says) in [
        (vec!["stats"], "at least $"),
        (vec!["stats", "--by", "model"], "2 responses without a known price (odd-1)"),
        (vec!["stats", "--by", "session"], "≥ $"),
        (vec!["show", &mixed], "1 response without a known price (odd-1)"),
        (vec!["show", &unknown], "unknown: 1 response"),
        (vec!["ls"], "unknown"),
    ] {
        let out = host.beadle(&args).ok().out;
        assert!(out.contains(says), "{args:?}: {out}");
    }
}

#[test]
fn a_users_price_table_is_checked_taken_and_named_by_each_call() {
    let mut host = host();
    let path = host.beadle_home().join("config/prices.json").display().to_string();
    write_prices(&host, r#"{"source": "me", "prices": [{"model": "odd", "usd_per_million": {"input": -1, "output": 1}}]}"#);
    let said = host.beadle(["config", "check"]);
    assert!(
        said.code == 1 && said.err.contains(&path) && said.err.contains("prices[0] (\"odd\").usd_per_million.input: -1; expected dollars"),
        "{said:?}"
    );
    assert!(said.err.contains("BDL-CONFIG-022"), "{said:?}");
    host.config(&format!("usage.prices = \"none.json\"\n{}", rules(ALLOW, &[], &[])));
    let said = host.beadle(["config", "check"]);
    assert!(said.code == 1 && said.err.contains("none.json is not there"), "{said:?}");
    host.config(&rules(ALLOW, &[], &[]));
    // The second price begins today: what a call costs is that of its day.
    let today = chrono::Utc::now().format("%Y-%m-%d").to_string();
    let rates = |n: u64| json!({ "input": n, "output": n, "cache_read": n, "cache_write": n });
    let table = json!({ "source": "me", "aliases": { "nick": "odd" }, "prices": [
        { "model": "odd", "from": "2020-01-01", "usd_per_million": rates(7) },
        { "model": "odd", "from": today, "usd_per_million": rates(3) },
        { "model": "odd", "from": "2999-01-01", "usd_per_million": rates(9) },
    ]});
    write_prices(&host, &table.to_string());
    let checked = host.beadle(["--json", "config", "check"]).ok().json();
    assert_eq!((checked["prices"]["path"].as_str(), checked["prices"]["models"].as_u64()), (Some(path.as_str()), Some(1)), "{checked}");
    let model = Model::start(&json!({ "steps": [{ "text": "done", "model": "maker/Nick-20250101[1m]" }] }));
    let id = host.run_demo(&model, "go", &[]);
    let s = host.ended(&id);
    let u = &s["usage"];
    let tokens: u64 = ["input", "output", "cache_read", "cache_write"].iter().map(|k| n(&u[*k])).sum();
    assert_eq!(n(&s["cost"]["nanousd"]), tokens * 3_000, "{s:#}");
    let said = &host.events_of(&id, "model_responded")[0]["body"];
    assert_eq!(said["prices"], checked["prices"]["digest"], "{said}");
}

#[test]
fn model_calls_are_grouped_by_every_dimension() {
    let mut host = host();
    let play = |host: &mut TestHost, more: &[&str]| {
        let model = Model::start(&json!({ "steps": [bash("echo a > a"), { "text": "done" }] }));
        let id = host.run_demo(&model, "go", more);
        host.ended(&id);
        id
    };
    let a = play(&mut host, &["--label", "team=a"]);
    let b = play(&mut host, &[]);
    host.beadle(["run", "--wait", "--", "true"]).ok();
    let all = stats(&host, &[]);
    for by in ["model", "agent", "label:team", "phase", "owner", "tenant", "tree", "day", "attempt", "session", "source"] {
        let doc = stats(&host, &["--by", by]);
        assert_eq!((doc["by"].as_str(), n(&doc["call_count"])), (Some(by), 4), "{doc:#}");
        assert_eq!((&doc["usage"], &doc["cost"]), (&all["usage"], &all["cost"]), "{by}");
        let sum = |key: &str| doc["rows"].as_array().map(|r| r.iter().map(|r| n(&r["usage"][key])).sum::<u64>());
        assert_eq!(sum("output"), all["usage"]["output"].as_u64(), "{by}");
        let text = host.beadle(["stats", "--by", by]).ok().out;
        assert!(text.lines().all(|l| l.chars().count() <= 100), "{by}:\n{text}");
        assert_eq!(host.beadle(["-q", "stats", "--by", by]).ok().out.lines().count(), keys(&doc).len(), "{by}");
    }
    let teams = stats(&host, &["--by", "label:team"]);
    let mut found = keys(&teams);
    found.sort_unstable();
    assert_eq!(found, ["-", "a"]);
    let rest = teams["rows"].as_array().and_then(|r| r.iter().find(|r| r["key"] == "-")).expect("a row");
    assert_eq!((n(&rest["session_count"]), n(&rest["tool_call_count"]), n(&rest["call_count"])), (2, 1, 2), "{teams:#}");
    assert!(rest["duration_ms"].as_u64().is_some(), "{teams:#}");
    assert_eq!(keys(&stats(&host, &["--by", "agent", "--agent", "demo"])), ["demo"]);
    assert_eq!(keys(&stats(&host, &["--by", "session", "--label", "team=a"])), [a.as_str()]);
    assert_eq!(keys(&stats(&host, &["--by", "day"])), [chrono::Utc::now().format("%Y-%m-%d").to_string()]);
    assert_eq!(stats(&host, &["--by", "day", "--local"])["rows"].as_array().map(Vec::len), Some(1));
    let one = stats(&host, &["--session", &b, "--by", "attempt"]);
    assert_eq!((keys(&one), n(&one["session_count"]), n(&one["call_count"])), (vec!["1"], 1, 2), "{one:#}");
    assert!(one["rows"][0]["duration_ms"].as_u64().is_some(), "{one:#}");
    assert!(keys(&stats(&host, &["--by", "model", "--until", "2020-01-01"])).is_empty());
    assert!(keys(&stats(&host, &["--by", "session", "--since", "0s"])).is_empty());
    assert_eq!(n(&stats(&host, &["--until", "2020-01-01"])["session_count"]), 0);
    assert_eq!(host.beadle(["stats", "--by", "nose"]).code, 2);
    assert_eq!(host.beadle(["rm", &a]).code, 0);
    assert_eq!(n(&stats(&host, &["--by", "model"])["call_count"]), 2, "a removed session takes its calls along");
    assert_eq!(n(&stats(&host, &["--by", "tool"])["call_count"]), 1);
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn tool_calls_are_added_up_by_tool_and_agree_with_the_totals() {
    let mut host = host();
    host.config(&rules(&[ALLOW, &["Bash(ls:*)"]].concat(), &[], &["Bash(rm:*)"]));
    let odd = json!({ "tool": "x".repeat(200), "input": {} });
    let steps = json!([bash("echo a > a"), bash("rm a"), bash("ls none"), odd, { "text": "done" }]);
    let model = Model::start(&json!({ "steps": steps }));
    let a = host.run_demo(&model, "go", &["--label", "team=a"]);
    let asked = until("a call waits", || host.events_of(&a, "approval_requested").first().cloned());
    host.beadle(["deny", &format!("{a}:{}", asked["body"]["call"])]).ok();
    host.ended(&a);
    let model = Model::start(&json!({ "steps": [bash("sleep 0.2"), { "text": "done" }] }));
    let b = host.run_demo(&model, "go", &[]);
    host.ended(&b);
    host.beadle(["run", "--wait", "--", "true"]).ok();
    let counts = ["call_count", "allowed_count", "denied_count", "asked_count"];
    let doc = stats(&host, &["--by", "tool"]);
    let all = stats(&host, &[]);
    for key in counts {
        let rows = doc["rows"].as_array().expect("rows").iter().map(|r| n(&r[key])).sum::<u64>();
        assert_eq!((n(&doc[key]), rows), (n(&all[key]), n(&all[key])), "{key}: {doc:#}");
    }
    assert_eq!((doc["by"].as_str(), n(&doc["session_count"]), n(&doc["unreadable_count"])), (Some("tool"), 2, 0), "{doc:#}");
    let found = keys(&doc);
    assert!(found.len() == 2 && found[0] == "Bash" && found[1].chars().count() == 100, "{doc:#}");
    let row = &doc["rows"][0];
    assert_eq!([n(&row["session_count"]), n(&row["call_count"]), n(&row["denied_count"])], [2, 4, 1], "{row:#}");
    assert!(n(&row["ended_count"]) == 3 && n(&row["failed_count"]) == 1, "a denied call did not fail: {row:#}");
    assert!(
        n(&row["p95_ms"]) >= 150 && n(&row["duration_ms"]) >= n(&row["p95_ms"]) && n(&row["median_ms"]) <= n(&row["p95_ms"]),
        "{row:#}"
    );
    let out = host.beadle(["stats", "--by", "tool"]).ok().out;
    assert!(out.contains("MEDIAN") && out.lines().all(|l| l.chars().count() <= 100 && !l.contains('\u{1b}')), "{out}");
    assert_eq!(host.beadle(["-q", "stats", "--by", "tool"]).ok().out.lines().next(), Some("Bash"));
    for (args, calls) in [
        (vec!["--session", b.as_str()], 1),
        (vec!["--label", "team=a"], 4),
        (vec!["--agent", "generic"], 0),
        (vec!["--since", "0s"], 0),
        (vec!["--until", "2020-01-01"], 0),
    ] {
        assert_eq!(n(&stats(&host, &[&["--by", "tool"], args.as_slice()].concat())["call_count"]), calls, "{args:?}");
    }
}

#[test]
fn a_limit_of_money_or_tokens_stops_between_calls() {
    for (option, value, limit) in [("--max-cost", "0.000001", "cost"), ("--max-tokens", "5", "tokens")] {
        let mut host = host();
        let model = Model::start(&json!({ "steps": [bash("touch a"), bash("touch b"), bash("touch c"), { "text": "done" }] }));
        let id = host.run_demo(&model, "go", &[option, value]);
        let s = host.ended(&id);
        assert_eq!(s["outcome"], "budget", "{s:#}");
        let x = exceeded(&host, &id);
        assert_eq!(x["limit"].as_str(), Some(limit), "{x:#}");
        assert!(n(&x["value"]) > n(&x["max"]), "{x:#}");
        assert_eq!(s["exceeded"], x);
        let decided = host.events_of(&id, "tool_decided");
        assert!(decided.iter().filter(|d| d["body"]["effect"] == "allow").count() <= 1 && !host.work().join("c").exists(), "{decided:#?}");
        let out = host.beadle(["show", &id]).ok().out;
        assert!(out.contains("limit passed") && out.contains("over the session's limit"), "{out}");
    }
}

#[test]
fn a_limit_of_time_lets_the_running_call_end_and_then_stops() {
    let mut host = host();
    let model = Model::start(&json!({ "steps": [bash("sleep 3 && echo whole > f"), bash("touch after"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &["--max-time", "1s"]);
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), exceeded(&host, &id)["limit"].as_str()), (Some("budget"), Some("time")), "{s:#}");
    assert_eq!(std::fs::read_to_string(host.work().join("f")).unwrap_or_default(), "whole\n", "not in the middle of a write");
    assert!(!host.work().join("after").exists());
    // A call without end has only so long, and what never asks is stopped at once.
    host.beadle(["host", "stop"]).ok();
    host.config(&format!("limits.finish_ms = 200\n{}", rules(ALLOW, &[], &[])));
    let model = Model::start(&json!({ "steps": [bash("sleep 600"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &["--max-time", "1s"]);
    assert_eq!(host.ended(&id)["outcome"], "budget");
    let id = host.beadle(["--json", "run", "--detach", "--max-time", "1s", "--", "sleep", "600"]).ok().json()["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    assert_eq!(host.ended(&id)["outcome"], "budget");
    let said = host.beadle(["run", "--wait", "--max-cost", "1", "--", "true"]);
    assert!(said.code != 0 && said.err.contains("does not tell what it uses"), "{said:?}");
    assert_eq!(host.beadle(["run", "--max-cost", "1e3", "--", "true"]).code, 2);
}

#[test]
fn a_limit_of_turns_refuses_the_next_prompt_and_ends_the_session() {
    let mut host = host();
    let model = Model::start(&json!({ "steps": [{ "text": "one" }, { "text": "two" }, { "text": "three" }] }));
    let id = host.run_demo(&model, "go", &["--keep", "--max-turns", "2"]);
    let turns =
        |host: &TestHost, want: usize| until("a turn has ended", || (host.events_of(&id, "turn_ended").len() == want).then_some(()));
    turns(&host, 1);
    host.beadle(["send", &id, "more"]).ok();
    turns(&host, 2);
    assert_eq!(host.show(&id)["status"], "running", "what is used up is not passed");
    let said = host.beadle(["send", &id, "more"]);
    assert!(said.code != 0 && said.err.contains("turn 3 would be over the session's limit of 2"), "{said:?}");
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), exceeded(&host, &id)["limit"].as_str()), (Some("budget"), Some("turns")), "{s:#}");
}

#[test]
fn money_that_is_not_known_stops_a_session_with_a_limit_of_money() {
    let mut host = host();
    let script = json!({ "steps": [{ "tool": "Bash", "input": { "command": "touch a" }, "model": "odd-1" }, { "text": "done" }] });
    let model = Model::start(&script);
    let id = host.run_demo(&model, "go", &["--max-cost", "1000"]);
    let s = host.ended(&id);
    let x = exceeded(&host, &id);
    assert_eq!((s["outcome"].as_str(), x["value"].as_u64()), (Some("budget"), None), "{x:#}");
    assert!(x["reason"].to_string().contains("no price for odd-1"), "{x:#}");
    host.beadle(["host", "stop"]).ok();
    host.config(&format!("limits.unknown_cost = \"warn\"\n{}", rules(ALLOW, &[], &[])));
    let model = Model::start(&script);
    let id = host.run_demo(&model, "go", &["--max-cost", "1000"]);
    assert_eq!(host.ended(&id)["outcome"], "succeeded");
    let notes = host.events_of(&id, "note");
    assert_eq!(notes.iter().filter(|e| e["body"]["text"].to_string().contains("it goes on")).count(), 1, "{notes:#?}");
}

#[test]
fn a_limit_holds_through_a_killed_daemon() {
    let mut host = host();
    let model = Model::start(&json!({ "steps": [bash("sleep 2 && echo whole > f"), bash("touch after"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &["--max-time", "1s"]);
    until("the call runs", || (!host.events_of(&id, "tool_decided").is_empty()).then_some(()));
    host.kill_daemon();
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), exceeded(&host, &id)["limit"].as_str()), (Some("budget"), Some("time")), "{s:#}");
    assert!(!host.work().join("after").exists());
}

#[test]
fn real_claude_agrees_to_the_cent_and_a_difference_is_on_record() {
    let Some((mut host, program)) = claude::host("real_claude_agrees_to_the_cent_and_a_difference_is_on_record") else { return };
    host.config(&rules(ALLOW, &[], &[]));
    let script = json!({
        "lanes": [{ "name": "sub", "match": { "opening": "SUBPROMPT" }, "steps": [bash("touch a"), { "text": "sub done" }] }],
        "steps": [
            { "tool": "Task", "input": { "description": "sub", "prompt": "SUBPROMPT", "subagent_type": "general-purpose", "run_in_background": false } },
            { "text": "done" },
        ],
    });
    let model = Model::start(&script);
    let id = claude::run(&mut host, &program, &model, &[]);
    let s = host.ended(&id);
    assert_eq!((&s["reconciled"]["agrees"], &s["reconciled"]["difference"]), (&json!(true), &json!(0)), "{s:#}");
    assert!(host.events_of(&id, "usage_disagreed").is_empty());
    let by = stats(&host, &["--session", &id, "--by", "source"]);
    assert_eq!((&by["cost"], &by["usage"]), (&s["cost"], &s["usage"]), "sub-agents are counted once: {by:#}");
    assert!(keys(&by).contains(&"main") && keys(&by).len() >= 2, "{by:#}");
    let out = host.beadle(["stats", "--session", &id]).ok().out;
    assert!(out.contains("the same as ours, to within $0.000001"), "{out}");
    // Another table: the same tokens at half the price, which the agent does not know of.
    host.beadle(["host", "stop"]).ok();
    let half = json!({ "input": 2.5, "output": 12.5, "cache_read": 0.25, "cache_write": 3.125 });
    write_prices(&host, &json!({ "source": "me", "prices": [{ "model": "claude-opus-4-8", "usd_per_million": half }] }).to_string());
    let model = Model::start(&script);
    let id = claude::run(&mut host, &program, &model, &[]);
    let s = host.ended(&id);
    let said = host.events_of(&id, "usage_disagreed");
    assert_eq!(said.len(), 1, "{said:#?}");
    let (d, theirs) = (&said[0]["body"], n(&s["agent_cost"]["nanousd"]));
    assert_eq!((n(&d["ours"]), n(&d["theirs"])), (theirs / 2, theirs), "{d:#}");
    assert_eq!(d["difference"].as_i64(), i64::try_from(theirs / 2).ok().map(|n| -n));
    assert!(d["why"].to_string().contains("the same tokens of claude-opus-4-8 cost"), "{d:#}");
    assert_eq!((&s["reconciled"]["agrees"], &s["reconciled"]["why"]), (&json!(false), &d["why"]), "{s:#}");
    let out = host.beadle(["show", &id]).ok().out;
    assert!(out.contains("ours is $") && out.contains(" less: the same tokens"), "{out}");
    let one = stats(&host, &["--session", &id]);
    assert_eq!((&one["reconciled"], &one["cost"]), (&s["reconciled"], &s["cost"]), "{one:#}");
    let out = host.beadle(["stats", "--session", &id]).ok().out;
    assert!(out.contains("agent's total") && out.contains(" less: the same tokens"), "{out}");
}

#[test]
fn real_claude_is_stopped_at_a_limit_of_money() {
    let Some((mut host, program)) = claude::host("real_claude_is_stopped_at_a_limit_of_money") else { return };
    host.config(&rules(ALLOW, &[], &[]));
    let model = Model::start(&json!({ "steps": [bash("touch a"), bash("touch b"), bash("touch c"), bash("touch d"), { "text": "done" }] }));
    let id = claude::run(&mut host, &program, &model, &["--max-cost", "0.000001"]);
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), exceeded(&host, &id)["limit"].as_str()), (Some("budget"), Some("cost")), "{s:#}");
    let allowed = host.events_of(&id, "tool_decided").iter().filter(|d| d["body"]["effect"] == "allow").count();
    assert!(allowed <= 1 && !host.work().join("c").exists(), "{allowed} calls were allowed");
}
