//! Capabilities of plugins: each with the grant, and its twin without; what hostile use of one comes to; and in whole sessions.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use beadle::model::{FailureCause, Grants, PluginStates};
use beadle::plugin::{
    CallFailure, Host, HostOptions, Limits, LoadSpec, MAX_KEYS, MAX_STATE, MAX_VALUE, Plugin, QuarantineOptions, Question, Round, Secrets,
    States,
};
use serde_json::{Value, json};

use crate::plugin::{call, session};
use crate::support::{Model, TestHost, bash, rules, until};

/// Wants everything.
const WANTING: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/capable_wanting.wasm"));
/// The same policy, which wants nothing.
const MODEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/capable_modest.wasm"));

/// Far longer than any of these calls takes, also on a busy machine.
const AMPLE: Duration = Duration::from_secs(20);

struct Vault;

impl Secrets for Vault {
    fn get(&self, name: &str) -> Result<String, String> {
        if name == "token" { Ok("s3cret-value-77".to_owned()) } else { Err(format!("there is no secret {name}")) }
    }
}

fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let quarantine = QuarantineOptions { after: u32::MAX, pause: Duration::ZERO };
        Host::new(HostOptions { quarantine, secrets: Arc::new(Vault), ..HostOptions::default() }).expect("an engine")
    })
}

fn load(wasm: &'static [u8], grants: &[&str]) -> Arc<Plugin> {
    let grants = Grants::parse(grants).expect("grants");
    let spec = LoadSpec { name: "probe".to_owned(), wasm: wasm.into(), config: "{}".to_owned(), limits: Limits::default(), grants };
    host().load(spec).expect("it loads")
}

fn question(steps: &Value) -> Question {
    Question::new(&session(), &call(&[&steps.to_string()]), 1_700_000_000_123)
}

/// What came of each step.
fn told(reason: &str) -> Vec<String> {
    serde_json::from_str(reason).unwrap_or_else(|e| panic!("{e}: {reason}"))
}

/// Asks outside a session.
fn ask(plugin: &Plugin, steps: &Value) -> Vec<String> {
    told(&plugin.decide_here(&question(steps), AMPLE).expect("an answer").reason)
}

/// Asks in a session, as a chain does: its answer is taken.
fn ask_in(plugin: &Plugin, states: &Arc<States>, steps: &Value) -> Result<Vec<String>, CallFailure> {
    let round = Round::new(Arc::clone(states));
    let answer = plugin.decide_here(&question(steps).in_round(Some(&round)), AMPLE);
    round.commit(&["probe"]);
    answer.map(|d| told(&d.reason))
}

fn log(plugin: &Plugin) -> Vec<String> {
    plugin.log().read().0.into_iter().map(|l| l.text).collect()
}

#[test]
fn each_capability_needs_its_grant_and_its_want() {
    for (word, step, good) in [
        ("kv", json!(["set", "a", "1"]), "ok "),
        ("clock", json!(["now"]), "ok 1"),
        ("clock", json!(["mono"]), "ok "),
        ("random", json!(["random", "4"]), "ok "),
        ("env:PATH", json!(["env", "PATH"]), "ok /"),
        ("secret:token", json!(["secret", "token"]), "ok s3cret"),
    ] {
        let steps = json!([step, step]);
        let granted = ask(&load(WANTING, &[word]), &steps);
        assert!(granted.iter().all(|t| t.starts_with(good)), "{word}: {granted:?}");
        // Granted is all else, so only this word is missing.
        let others: Vec<&str> = ["kv", "clock", "random", "env:HOME", "secret:token"].into_iter().filter(|w| *w != word).collect();
        for (plugin, key) in [(load(WANTING, &others), "it is not granted"), (load(MODEST, &[word]), "does not ask for it")] {
            assert_eq!(ask(&plugin, &steps), [format!("denied {word}"), format!("denied {word}")], "{key}");
            let lines = log(&plugin);
            assert_eq!(lines.len(), 1, "once a call: {lines:?}");
            assert!(lines[0].contains(word) && lines[0].contains(key), "{lines:?}");
        }
    }
}

#[test]
fn a_granted_secret_is_masked_in_the_plugins_log() {
    let plugin = load(WANTING, &["secret:token"]);
    assert_eq!(ask(&plugin, &json!([["log", "token"]])), ["ok "]);
    assert_eq!(log(&plugin), ["[secret masked]"]);
    let none = load(WANTING, &["secret:none"]);
    assert_eq!(ask(&none, &json!([["secret", "none"]])), ["unavailable there is no secret none"]);
}

#[test]
fn a_counter_in_kv_counts_and_one_in_a_global_does_not() {
    let spec = LoadSpec {
        name: "probe".to_owned(),
        wasm: WANTING.into(),
        config: r#"{"count":true}"#.to_owned(),
        limits: Limits::default(),
        grants: Grants::parse(["kv"]).expect("grants"),
    };
    let plugin = host().load(spec).expect("it loads");
    let states = States::new(PluginStates::default());
    for n in 1..=50 {
        let round = Round::new(Arc::clone(&states));
        let q = Question::new(&session(), &call(&["ls"]), 1).in_round(Some(&round));
        assert_eq!(plugin.decide_here(&q, AMPLE).expect("an answer").reason, format!("kv={n} global=1"));
        round.commit(&["probe"]);
    }
    // Another session begins at one; so does a question outside any.
    let other = States::new(PluginStates::default());
    assert_eq!(ask_in(&plugin, &other, &json!([["count"]])).expect("an answer"), ["ok 1"]);
    assert_eq!(ask(&plugin, &json!([["count"], ["count"]])), ["ok 1", "ok 2"]);
    assert_eq!(ask(&plugin, &json!([["get", "n"]])), ["ok none"]);
}

#[test]
fn what_a_failed_call_wrote_is_lost() {
    let plugin = load(WANTING, &["kv"]);
    let states = States::new(PluginStates::default());
    assert_eq!(ask_in(&plugin, &states, &json!([["set", "a", "1"], ["raw", "b"], ["keys", ""]])).expect("an answer")[2], "ok a b");
    let cause = |r: Result<Vec<String>, CallFailure>| r.expect_err("a failure").cause;
    assert_eq!(cause(ask_in(&plugin, &states, &json!([["set", "a", "2"], ["delete", "b"], ["trap"]]))), FailureCause::Trap);
    let round = Round::new(Arc::clone(&states));
    let spins = question(&json!([["set", "a", "3"], ["spin"]])).in_round(Some(&round));
    assert_eq!(plugin.decide_here(&spins, Duration::from_millis(50)).expect_err("a failure").cause, FailureCause::Deadline);
    round.commit(&["probe"]);
    // Answered, and not taken.
    let round = Round::new(Arc::clone(&states));
    plugin.decide_here(&question(&json!([["set", "a", "4"]])).in_round(Some(&round)), AMPLE).expect("an answer");
    round.commit(&["another"]);
    assert_eq!(ask_in(&plugin, &states, &json!([["get", "a"], ["keys", ""]])).expect("an answer"), ["ok 1", "ok a b"]);
    let changes = states.take_changes();
    assert_eq!(changes.len(), 1, "the first call's, and none of a call that only read: {changes:?}");
}

#[test]
fn parallel_calls_of_one_session_count_exactly() {
    const THREADS: usize = 8;
    const EACH: usize = 25;
    let plugin = load(WANTING, &["kv"]);
    let states = States::new(PluginStates::default());
    std::thread::scope(|s| {
        for _ in 0..THREADS {
            s.spawn(|| (0..EACH).for_each(|_| drop(ask_in(&plugin, &states, &json!([["count"]])).expect("an answer"))));
        }
    });
    assert_eq!(ask_in(&plugin, &states, &json!([["get", "n"]])).expect("an answer"), [format!("ok {}", THREADS * EACH)]);
    assert_eq!(states.take_changes().len(), THREADS * EACH);
}

#[test]
fn bombs_and_floods_end_at_the_caps() {
    let plugin = load(WANTING, &["kv", "random"]);
    let states = States::new(PluginStates::default());
    let ask = |steps: Value| ask_in(&plugin, &states, &steps).expect("an answer");
    let out =
        ask(json!([["fill", "big", (MAX_VALUE + 1).to_string()], ["fill", "", "1"], ["fill", "k".repeat(257), "1"], ["random", "65537"]]));
    assert!(out.iter().all(|t| t.starts_with("over-limit ")), "{out:?}");
    // As much as fits, then one byte too many; the whole state stays under its cap over many calls.
    for _ in 0..3 {
        let fills: Vec<Value> = (0..8).map(|n| json!(["fill", format!("big{n}"), MAX_VALUE.to_string()])).collect();
        let out = ask(json!(fills));
        assert_eq!(out.iter().filter(|t| t.starts_with("ok")).count(), MAX_STATE / MAX_VALUE - 1, "{out:?}");
    }
    let flood = ask(json!([["flood", "2000"], ["number", "flood"]]));
    assert!(flood[0].starts_with("over-limit ") && flood[0].contains("1024"), "{}", flood[0]);
    assert!(flood[1]["ok ".len()..].parse::<usize>().is_ok_and(|n| n <= MAX_KEYS && n > 900), "{}", flood[1]);
    // A plugin that writes for ever is stopped by its deadline like any other.
    let begun = Instant::now();
    let all: Vec<Value> = (0..200).map(|_| json!(["flood", "900"])).chain([json!(["spin"])]).collect();
    let round = Round::new(Arc::clone(&states));
    let spins = question(&json!(all)).in_round(Some(&round));
    assert_eq!(plugin.decide_here(&spins, Duration::from_millis(300)).expect_err("a failure").cause, FailureCause::Deadline);
    assert!(begun.elapsed() < AMPLE);
}

#[test]
fn two_policies_with_other_grants_share_nothing() {
    let (granted, bare) = (load(WANTING, &["kv"]), load(WANTING, &[]));
    assert_eq!(ask(&granted, &json!([["keys", ""]])), ["ok "]);
    assert_eq!(ask(&bare, &json!([["keys", ""]])), ["denied kv"]);
    assert_eq!((granted.grants().words(), bare.grants().words()), (vec!["kv".to_owned()], vec![]));
    assert_eq!(granted.digest(), bare.digest());
    assert_eq!(bare.grants().missing(bare.wants()).words().len(), 8);
}

/// A policy of the operator beside rules that allow `echo`.
fn policy(host: &TestHost, name: &str, grants: &str, config: &str) -> String {
    let path = host.home().join("capable.wasm");
    std::fs::write(&path, WANTING).expect("a component");
    let path = path.display().to_string();
    format!("[[policy]]\nname = {name:?}\nplugin = {path:?}\ndeadline_ms = 10000\ngrants = {grants}\n[policy.config]\n{config}\n")
}

/// What the policy said of each call, in order.
fn reasons(host: &TestHost, id: &str) -> Vec<String> {
    let said = |e: &Value| {
        e["body"]["answers"].as_array().and_then(|a| a.iter().find(|a| a["policy"] == "counter")?["reason"].as_str().map(str::to_owned))
    };
    host.events_of(id, "tool_decided").iter().filter_map(said).collect()
}

#[test]
fn state_is_durable_with_its_decision_through_kills() {
    const CALLS: usize = 12;
    let mut host = TestHost::new();
    host.config(&format!(
        "{}\n{}",
        rules(&["Bash(echo:*)", "Edit(./**)"], &[], &[]),
        policy(&host, "counter", r#"["kv"]"#, "count = true")
    ));
    let mut steps: Vec<Value> = (0..CALLS).map(|n| bash(&format!("echo {n} >> out.txt"))).collect();
    steps.push(json!({ "text": "done" }));
    let model = Model::start(&json!({ "steps": steps }));
    let id = host.run_demo(&model, "go", &[]);
    for n in [2, 5, 8] {
        until("some calls are decided", || (host.events_of(&id, "tool_decided").len() >= n).then_some(()));
        host.kill_daemon();
    }
    let s = host.ended(&id);
    assert_eq!(s["outcome"], "succeeded", "{s:#}");
    let want: Vec<String> = (1..=CALLS).map(|n| format!("kv={n} global=1")).collect();
    assert_eq!(reasons(&host, &id), want);
    let changes = host.events_of(&id, "plugin_state_changed");
    assert_eq!(changes.len(), CALLS);
    assert_eq!(changes.last().map(|e| &e["body"]), Some(&json!({"policy": "counter", "set": {"n": CALLS.to_string()}})));
    let v = host.beadle(["--json", "verify"]).ok().json();
    assert_eq!(v["ok"], true, "{v:#}");
    host.beadle(["rm", &id]).ok();
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

/// What a policy was given is in no event: not in its reasons, not in its state, and not where the agent says it.
#[test]
fn a_granted_secret_is_masked_in_the_log() {
    use std::os::unix::fs::PermissionsExt;
    const VALUE: &str = "correct-horse-\"battery\"";
    let mut host = TestHost::new();
    let dir = host.beadle_home().join("config/secrets");
    host.config(&format!("{}\n{}", rules(&["Bash(echo:*)"], &[], &[]), policy(&host, "probe", r#"["secret:token", "kv"]"#, "")));
    let dir =
        if dir.parent().is_some_and(std::path::Path::exists) { dir } else { panic!("{} is the configuration's folder", dir.display()) };
    std::fs::create_dir_all(&dir).expect("a folder");
    std::fs::write(dir.join("token"), format!("{VALUE}\n")).expect("a secret");
    std::fs::set_permissions(dir.join("token"), std::fs::Permissions::from_mode(0o600)).expect("a mode");
    let probe = json!([["secret", "token"], ["keep-secret", "token", "k"], ["get", "k"]]).to_string();
    let again = json!([["get", "k"]]).to_string();
    let steps =
        json!([bash(&format!("probe '{probe}'")), bash(&format!("probe '{again}'")), bash(&format!("echo '{VALUE}'")), { "text": "done" }]);
    let model = Model::start(&json!({ "steps": steps }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    let events = host.events(&id);
    let all = Value::from(events).to_string();
    assert!(!all.contains("correct-horse"), "{all}");
    let said: Vec<String> = host
        .events_of(&id, "tool_decided")
        .iter()
        .filter_map(|e| e["body"]["answers"].as_array()?.iter().find(|a| a["policy"] == "probe")?["reason"].as_str().map(str::to_owned))
        .collect();
    assert!(said[0].contains("ok [secret masked]"), "{said:?}");
    assert_eq!(said[1], r#"["ok [secret masked]"]"#, "what is kept is what the log has");
    assert_eq!(host.events_of(&id, "plugin_state_changed")[0]["body"]["set"], json!({"k": "[secret masked]"}));
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn without_the_grant_the_same_policy_denies_and_names_the_word() {
    let mut host = TestHost::new();
    host.config(&format!("{}\n{}", rules(&["Bash(echo:*)", "Edit(./**)"], &[], &[]), policy(&host, "counter", "[]", "count = true")));
    let model = Model::start(&json!({ "steps": [bash("echo 1 >> out.txt"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    assert_eq!(reasons(&host, &id), ["not counted: kv is not granted"]);
    assert!(host.events_of(&id, "plugin_state_changed").is_empty() && !host.work().join("out.txt").exists());
}
