//! Capabilities of plugins: each with the grant, and its twin without; what hostile use of one comes to; and in whole sessions.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use beadle::model::{FailureCause, Grants, PluginStates};
use beadle::plugin::{
    CallFailure, Host, HostOptions, Limits, LoadSpec, MAX_KEYS, MAX_STATE, MAX_VALUE, Plugin, QuarantineOptions, Question, Resolver, Round,
    Secrets, States,
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
fn two_chains_with_one_plugin_have_a_log_each() {
    let (one, other) = (load(WANTING, &["secret:token"]), load(WANTING, &["secret:token"]));
    // The instance that is ready was made when the first was loaded.
    for (plugin, lines) in [(&other, (0, 1)), (&one, (1, 1))] {
        assert_eq!(ask(plugin, &json!([["log", "token"]])), ["ok "]);
        assert_eq!((log(&one).len(), log(&other).len()), lines);
    }
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
    let loaded = host.events_of(&id, "plugin_loaded");
    assert!(loaded.iter().any(|e| e["body"]["policy"] == "counter" && e["body"]["grants"] == json!(["kv"])), "{loaded:#?}");
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

/// A small server on loopback: each connection is handed to `answer` with the head of its request.
fn server(answer: impl Fn(&str, &mut std::net::TcpStream) + Send + Sync + 'static) -> (u16, Arc<AtomicUsize>) {
    use std::io::Read;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (seen, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(answer));
    let count = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let (answer, count) = (Arc::clone(&answer), Arc::clone(&count));
            std::thread::spawn(move || {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                    head.push(byte[0]);
                }
                count.fetch_add(1, Ordering::SeqCst);
                answer(&String::from_utf8_lossy(&head), &mut stream);
            });
        }
    });
    (port, seen)
}

fn respond(status: &str, headers: &str, body: &str) -> impl Fn(&str, &mut std::net::TcpStream) + Send + Sync + 'static {
    let text = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len());
    move |_, stream| {
        use std::io::Write;
        let _ = stream.write_all(text.as_bytes());
    }
}

fn get(url: impl AsRef<str>) -> Value {
    json!(["http", "GET", url.as_ref()])
}

#[test]
fn http_goes_where_it_is_granted_and_nowhere_else() {
    let (port, seen) = server(respond("200 OK", "", "hello"));
    let word = format!("http:GET:127.0.0.1:{port}");
    let url = format!("http://127.0.0.1:{port}/x");
    assert_eq!(ask(&load(WANTING, &[&word]), &json!([get(&url)])), ["ok 200 hello"]);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    // Without the grant, with another method, port or address, or without the want.
    let other = format!("http:GET:127.0.0.1:{}", port ^ 1);
    for (wasm, grants) in [(WANTING, vec![]), (WANTING, vec![other.as_str(), "http:GET:127.0.0.2:80"]), (MODEST, vec![word.as_str()])] {
        let plugin = load(wasm, &grants);
        assert_eq!(ask(&plugin, &json!([get(&url), get(&url)])), [format!("denied {word}"), format!("denied {word}")]);
        assert!(log(&plugin).iter().any(|l| l.contains(&word)), "{:?}", log(&plugin));
    }
    let out = ask(&load(WANTING, &[&word]), &json!([["http", "POST", url, "body"], ["http", "CONNECT", url]]));
    assert_eq!(out[0], format!("denied http:POST:127.0.0.1:{port}"));
    assert!(out[1].starts_with("invalid "), "{out:?}");
    assert_eq!(seen.load(Ordering::SeqCst), 1, "nothing else arrived");
}

#[test]
fn redirects_are_answers_and_lead_nowhere() {
    let (inner, reached) = server(respond("200 OK", "", "metadata"));
    let (port, _) = server(respond("302 Found", &format!("location: http://127.0.0.1:{inner}/latest/meta-data\r\n"), ""));
    let plugin = load(WANTING, &[&format!("http:GET:127.0.0.1:{port}"), "http:GET:*.example.com"]);
    assert_eq!(ask(&plugin, &json!([get(format!("http://127.0.0.1:{port}/"))])), ["ok 302 "]);
    assert_eq!(reached.load(Ordering::SeqCst), 0);
    // Where a redirect would have led: not granted, and no grant can be made for it.
    assert_eq!(ask(&plugin, &json!([get("https://169.254.169.254/latest/meta-data")])), ["denied http:GET:169.254.169.254"]);
    assert!("http:GET:169.254.169.254".parse::<Grants>().is_err());
}

/// Names that lead where an attacker wants, and how often they were asked for.
struct Rebinding {
    asked: AtomicUsize,
}

impl Resolver for Rebinding {
    fn resolve(&self, name: &str) -> std::io::Result<Vec<std::net::IpAddr>> {
        let n = self.asked.fetch_add(1, Ordering::SeqCst);
        let addresses: &[&str] = match name {
            "loop.example.com" => &["127.0.0.1"],
            "mixed.example.com" => &["1.1.1.1", "10.0.0.1"],
            "six.example.com" => &["::ffff:127.0.0.1"],
            "nat.example.com" => &["64:ff9b::a9fe:a9fe"],
            "tunnel.example.com" => &["2002:7f00:1::"],
            "unique.example.com" => &["fd00:ec2::254"],
            "link.example.com" => &["fe80::1"],
            "meta.example.com" => &["169.254.169.254"],
            // Harmless at first, loopback when it is asked for again.
            "rebind.example.com" if n == 0 => &[],
            "slow.example.com" => {
                std::thread::sleep(Duration::from_secs(30));
                &[]
            }
            _ => &["127.0.0.1"],
        };
        Ok(addresses.iter().map(|a| a.parse().expect("an address")).collect())
    }
}

#[test]
fn names_that_lead_inside_are_refused_and_resolved_once() {
    let resolver = Arc::new(Rebinding { asked: AtomicUsize::new(0) });
    let host = Host::new(HostOptions { resolver: resolver.clone(), ..HostOptions::default() }).expect("an engine");
    let grants = Grants::parse(["http:GET:*.example.com"]).expect("grants");
    let spec = LoadSpec { name: "probe".to_owned(), wasm: WANTING.into(), config: "{}".to_owned(), limits: Limits::default(), grants };
    let plugin = host.load(spec).expect("it loads");
    let out = ask(&plugin, &json!([get("https://rebind.example.com/")]));
    assert_eq!(out, ["unavailable rebind.example.com has no address"]);
    assert_eq!(resolver.asked.load(Ordering::SeqCst), 1, "once a request");
    for name in ["loop", "mixed", "six", "nat", "tunnel", "unique", "link", "meta", "rebind"] {
        let out = ask(&plugin, &json!([get(format!("https://{name}.example.com/"))]));
        assert!(out[0].starts_with("forbidden-address "), "{name}: {out:?}");
    }
    // The name itself, and one that only looks like it, are not granted.
    assert_eq!(ask(&plugin, &json!([get("https://example.com/")])), ["denied http:GET:example.com"]);
    assert_eq!(ask(&plugin, &json!([get("https://badexample.com/")])), ["denied http:GET:badexample.com"]);
    // A resolver that takes for ever costs the call its time and no more.
    let begun = Instant::now();
    let slow = plugin.decide_here(&question(&json!([get("https://slow.example.com/")])), Duration::from_millis(300));
    assert!(slow.map_or(true, |d| told(&d.reason) == ["timeout"]) && begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[test]
fn bodies_and_requests_are_capped_and_slow_ones_end_with_the_deadline() {
    use std::io::Write;
    // One byte at a time, for ever; and more than fits.
    let (drip, _) = server(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n");
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let (flood, _) = server(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 65536]).is_ok() {}
    });
    let (heads, _) = server(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"x-flood: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n").is_ok() {}
    });
    let words: Vec<String> = [drip, flood, heads].iter().map(|p| format!("http:GET:127.0.0.1:{p}")).collect();
    let plugin = load(WANTING, &words.iter().map(String::as_str).collect::<Vec<_>>());
    let url = |port: u16| format!("http://127.0.0.1:{port}/");
    let out = ask(&plugin, &json!([get(url(flood)), get(url(heads))]));
    assert!(out[0].starts_with("over-limit "), "{out:?}");
    assert!(out[1].starts_with("unavailable "), "{out:?}");
    let begun = Instant::now();
    let slow = plugin.decide_here(&question(&json!([get(url(drip))])), Duration::from_millis(300));
    // It was told of the timeout in time to answer, or it was stopped: either way the deadline held.
    match slow {
        Ok(d) => assert_eq!(told(&d.reason), ["timeout"]),
        Err(f) => assert_eq!(f.cause, FailureCause::Deadline),
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let many: Vec<Value> = (0..20).map(|_| get("https://none.example.com/")).collect();
    assert!(ask(&plugin, &json!(many)).iter().all(|t| t.starts_with("denied ")), "what is denied is no request");
    let (port, seen) = server(respond("204 No Content", "", ""));
    let plugin = load(WANTING, &[&format!("http:GET:127.0.0.1:{port}")]);
    let many: Vec<Value> = (0..20).map(|_| get(url(port))).collect();
    let out = ask(&plugin, &json!(many));
    assert_eq!(out.iter().filter(|t| t.starts_with("ok 204")).count(), 16, "{out:?}");
    assert_eq!(seen.load(Ordering::SeqCst), 16);
}

/// Sixteen sessions whose policy waits for a silent server, on two threads: another policy is answered at once.
#[test]
fn a_policy_that_waits_for_the_network_holds_nobody_up() {
    let (port, seen) = server(|_, stream| {
        use std::io::Read;
        let _ = stream.read(&mut [0; 1]);
    });
    let options =
        HostOptions { threads: 2, quarantine: QuarantineOptions { after: u32::MAX, pause: Duration::ZERO }, ..HostOptions::default() };
    let host = Host::new(options).expect("an engine");
    let of = |name: &str, word: &str| {
        let grants = Grants::parse([word]).expect("a grant");
        let spec = LoadSpec { name: name.to_owned(), wasm: WANTING.into(), config: "{}".to_owned(), limits: Limits::default(), grants };
        host.load(spec).expect("it loads")
    };
    let (waits, quick) = (of("waits", &format!("http:GET:127.0.0.1:{port}")), of("quick", "clock"));
    let silent = Arc::new(question(&json!([get(format!("http://127.0.0.1:{port}/"))])));
    let asked: Vec<_> = (0..16)
        .map(|_| {
            let (waits, silent) = (waits.clone(), silent.clone());
            crate::support::runtime().spawn(async move { waits.decide(&silent, Duration::from_secs(5)).await })
        })
        .collect();
    until("some wait for the network", || (seen.load(Ordering::SeqCst) >= 6).then_some(()));
    let begun = Instant::now();
    let now = Arc::new(question(&json!([["now"]])));
    for _ in 0..20 {
        crate::support::runtime().block_on(quick.decide(&now, AMPLE)).expect("an answer");
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "answered while the others waited: {:?}", begun.elapsed());
    // Each of the sixteen ends by its deadline: told of the timeout, that too many wait, stopped, or never begun.
    for a in asked {
        match crate::support::runtime().block_on(a).expect("no panic") {
            Ok(d) => assert!(["timeout", "unavailable "].iter().any(|t| told(&d.reason)[0].starts_with(t)), "{}", d.reason),
            Err(f) => assert!(matches!(f.cause, FailureCause::Deadline | FailureCause::Busy), "{f}"),
        }
    }
}

#[test]
fn files_are_reached_in_granted_folders_only() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().canonicalize().expect("a path");
    let at = |rest: &str| root.join(rest).display().to_string();
    std::fs::create_dir_all(root.join("in/sub")).expect("a folder");
    std::fs::write(root.join("in/a"), "inside").expect("a file");
    std::fs::write(root.join("secret"), "outside").expect("a file");
    std::os::unix::fs::symlink("../secret", root.join("in/up")).expect("a link");
    let (read, write) = (format!("fs:read:{}", at("in")), format!("fs:write:{}", at("in")));
    let steps = json!([
        ["read", at("in/a")],
        ["list", at("in")],
        ["read", at("in/up")],
        ["read", at("secret")],
        ["read", "/etc/passwd"],
        ["read", at("in/../secret")],
        ["read", "in/a"],
        ["write", at("in/b"), "new"],
        ["read", at("in/none")]
    ]);
    let out = ask(&load(WANTING, &[&read]), &steps);
    assert_eq!(out[..2], ["ok inside", "ok a:File sub:Folder up:Link"]);
    assert!(out[2].starts_with("unavailable ") && out[2].contains("leads out"), "{out:?}");
    assert_eq!(out[3..5], [format!("denied fs:read:{}", root.display()), "denied fs:read:/etc".to_owned()]);
    assert!(out[5].starts_with("unavailable ") && out[6].starts_with("unavailable "), "{out:?}");
    assert_eq!(out[7..], [format!("denied {write}"), "not-found".to_owned()]);
    let out = ask(
        &load(WANTING, &[&write]),
        &json!([["write", at("in/b"), "new"], ["read", at("in/b")], ["bulk", at("in/c"), "1048577"], ["write", at("in/up"), "x"]]),
    );
    assert_eq!(out[..2], ["ok ", "ok new"]);
    assert!(out[2].starts_with("over-limit "), "{out:?}");
    assert_eq!((std::fs::read_to_string(root.join("secret")).expect("it stays").as_str(), root.join("in/c").exists()), ("outside", false));
    let huge = load(WANTING, &[&write]).decide_here(&question(&json!([["bulk", at("in/c"), "5000000"]])), AMPLE);
    assert_eq!(huge.expect_err("more than a guest may hand over").cause, FailureCause::Trap);
    // The twins: no grant, no want.
    let step = json!([["read", at("in/a")], ["read", at("in/a")]]);
    for (plugin, why) in [(load(WANTING, &["kv"]), "not granted"), (load(MODEST, &[&read]), "does not ask for it")] {
        assert_eq!(ask(&plugin, &step), [format!("denied {read}"), format!("denied {read}")]);
        assert!(log(&plugin).len() == 1 && log(&plugin)[0].contains(why), "{:?}", log(&plugin));
    }
    let out = ask(&load(WANTING, &[&read]), &json!((0..257).map(|_| json!(["size", at("in/a")])).collect::<Vec<_>>()));
    assert!(out[255] == "ok 6" && out[256].starts_with("over-limit "), "{:?}", &out[255..]);
}

/// Somebody swaps a folder for a link to the outside, again and again, while the plugin reads through it.
#[test]
fn a_link_that_is_swapped_in_meanwhile_leads_nowhere() {
    use std::sync::atomic::AtomicBool;
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().canonicalize().expect("a path");
    for (folder, text) in [("in/real", "inside"), ("outside", "OUTSIDE")] {
        std::fs::create_dir_all(root.join(folder)).expect("a folder");
        std::fs::write(root.join(folder).join("f"), text).expect("a file");
    }
    std::os::unix::fs::symlink(root.join("outside"), root.join("in/link")).expect("a link");
    let path = root.join("in/real/f").display().to_string();
    let grant = format!("fs:write:{}", root.join("in").display());
    let plugin = load(WANTING, &[&grant]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            // Exchanges the two names in one step, so that one of them is always there.
            let folder = std::fs::File::open(root.join("in")).expect("a folder");
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(&folder, "real", &folder, "link", rustix::fs::RenameFlags::EXCHANGE).expect("swapped");
            }
        });
        let steps: Vec<Value> = (0..8).flat_map(|_| [json!(["read", path]), json!(["write", path, "inside"])]).collect();
        let (mut fine, mut refused) = (0, 0);
        for _ in 0..200 {
            for t in ask(&plugin, &json!(steps)) {
                assert!(!t.contains("OUTSIDE"), "{t}");
                if t.starts_with("ok") { fine += 1 } else { refused += 1 }
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(fine > 0 && refused > 0, "both were seen: {fine} {refused}");
    });
    assert_eq!(std::fs::read_to_string(root.join("outside/f")).expect("it stays"), "OUTSIDE");
    assert_eq!(std::fs::read_dir(root.join("outside")).expect("a folder").count(), 1);
}

/// The host's own folders are not reached by a plugin that was granted the folder around them.
#[test]
fn own_folders_stay_out_of_reach() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().canonicalize().expect("a path");
    std::fs::create_dir_all(root.join("beadle/config")).expect("a folder");
    std::fs::write(root.join("beadle/config/beadle.toml"), "x").expect("a file");
    std::os::unix::fs::symlink("beadle", root.join("way")).expect("a link");
    let host = Host::new(HostOptions { own: vec![root.join("beadle/config")], ..HostOptions::default() }).expect("an engine");
    let grants = Grants::parse([format!("fs:write:{}", root.display())]).expect("a grant");
    let spec = LoadSpec { name: "probe".to_owned(), wasm: WANTING.into(), config: "{}".to_owned(), limits: Limits::default(), grants };
    let plugin = host.load(spec).expect("it loads");
    let at = |rest: &str| root.join(rest).display().to_string();
    let steps =
        json!([["read", at("beadle/config/beadle.toml")], ["write", at("way/config/beadle.toml"), "y"], ["list", at("way/config")]]);
    let out = ask(&plugin, &steps);
    assert!(out.iter().all(|t| t.starts_with("unavailable ") && t.contains("own folders")), "{out:?}");
    assert_eq!(std::fs::read_to_string(root.join("beadle/config/beadle.toml")).expect("it stays"), "x");
    assert_eq!(ask(&plugin, &json!([["list", at("beadle")]])), ["ok config:Folder"]);
}

/// The same in a daemon: the operator granted the folder in which Beadle's home lies, and reading and writing there works, but not in that.
#[test]
fn a_grant_of_the_folder_around_them_opens_none_of_beadles_own() {
    let mut host = TestHost::new();
    let home = host
        .beadle_home()
        .canonicalize()
        .or_else(|_| std::fs::create_dir_all(host.beadle_home()).and_then(|()| host.beadle_home().canonicalize()));
    let home = home.expect("a home");
    let around = home.parent().expect("a folder").to_owned();
    std::fs::write(around.join("list"), "theirs").expect("a file");
    std::os::unix::fs::symlink(&home, around.join("way")).expect("a link");
    let p = policy(&host, "probe", &format!("[\"fs:write:{}\"]", around.display()), "");
    host.config(&format!("{}\n{p}", rules(&[], &[], &[])));
    let before = std::fs::read_to_string(home.join("config/beadle.toml")).expect("a configuration");
    let at = |rest: &str| around.join(rest).display().to_string();
    let name = home.file_name().expect("a name").to_string_lossy().into_owned();
    let own = |rest: &str| at(&format!("{name}/{rest}"));
    let steps = json!([
        ["read", own("config/beadle.toml")],
        ["write", own("config/beadle.toml"), "default = \"allow\""],
        ["write", own("config/secrets"), "x"],
        ["list", own("data")],
        ["write", own("data/plugins.lock"), "x"],
        ["read", at("way/config/beadle.toml")],
        ["write", own("cache/x"), "x"],
        ["list", own("run")],
        ["read", at("list")],
        ["write", at("made"), "by the plugin"],
    ]);
    // A call that names these folders is denied before any policy is asked; so the paths are written as only JSON reads them.
    let hidden = steps.to_string().replace('/', "\\u002f");
    let model = Model::start(&json!({ "steps": [bash(&format!("probe '{hidden}'")), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    let decided = host.events_of(&id, "tool_decided");
    let answers = decided[0]["body"]["answers"].as_array().expect("answers");
    let told = told(answers.iter().find(|a| a["policy"] == "probe").expect("asked")["reason"].as_str().expect("a text"));
    assert_eq!(told.len(), 10, "{told:?}");
    // A link that is absolute leads out of the granted folder already.
    let kept_out = |t: &String| t.starts_with("unavailable ") && (t.contains("Beadle's own folders") || t.contains("leads out of"));
    assert!(told[..8].iter().all(kept_out), "{told:?}");
    assert_eq!(told[8..], ["ok theirs", "ok "]);
    assert_eq!(std::fs::read_to_string(home.join("config/beadle.toml")).expect("it stays"), before);
    assert!(!home.join("config/secrets").exists() && !home.join("cache/x").exists());
    assert_eq!(std::fs::read_to_string(around.join("made")).expect("it is there"), "by the plugin");
}

/// The host calls a plugin's exports and nobody else does: a component that would have them called through the host is not loaded. (That a
/// guest's allocator, which the host calls back, cannot call the host is `hostile::no_trick_of_the_allocator_reaches_the_host`.)
#[test]
fn a_component_that_imports_what_plugins_export_is_refused_by_name() {
    for interface in ["policy", "judge-prompt", "compaction", "audit"] {
        let name = format!("beadle:plugin/{interface}@0.1.0");
        // An instance type without anything, and one import of it.
        let import = [&[1, 0, name.len() as u8], name.as_bytes(), &[5, 0]].concat();
        let section = |id: u8, body: &[u8]| [&[id, body.len() as u8], body].concat();
        let wasm = [b"\0asm\x0d\0\x01\0".to_vec(), section(7, &[1, 0x42, 0]), section(10, &import)].concat();
        let spec = LoadSpec {
            name: "loop".to_owned(),
            wasm: wasm.into(),
            config: "{}".to_owned(),
            limits: Limits::default(),
            grants: Grants::default(),
        };
        let e = host().load_kind(spec, None).map(|_| ()).expect_err("refused");
        assert_eq!(e.code(), "BDL-PLUGIN-005", "{e}");
        assert!(e.to_string().contains(&name) && e.to_string().contains("called by the host alone"), "{e}");
    }
}

/// Over TLS: a server whose certificate an authority of the system names, and the same one where it is not trusted.
#[test]
fn https_needs_a_certificate_that_the_system_trusts() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::{ServerConfig, crypto::ring};
    let golden = |name: &str| std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tls").join(name);
    let chain = vec![CertificateDer::from_pem_file(golden("address.pem")).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(golden("address.key")).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|c| c.with_no_client_auth().with_single_cert(chain, key))
        .expect("a server");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = crate::support::runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    crate::support::runtime().spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsealed").await;
            let _ = stream.shutdown().await;
        }
    });
    let probe = json!([get(format!("https://127.0.0.1:{port}/"))]).to_string();
    let said = |roots: &str| {
        let mut host = TestHost::new();
        let p = policy(&host, "probe", &format!("[\"http:GET:127.0.0.1:{port}\"]"), "");
        host.config(&format!("{}\n{p}", rules(&[], &[], &[])));
        let mut daemon = host.daemon_with("SSL_CERT_FILE", &golden(roots).display().to_string());
        let model = Model::start(&json!({ "steps": [bash(&format!("probe '{probe}'")), { "text": "done" }] }));
        let id = host.run_demo(&model, "go", &[]);
        host.ended(&id);
        let decided = host.events_of(&id, "tool_decided");
        host.beadle(["host", "stop"]).ok();
        daemon.wait().expect("the daemon ends");
        let answers = decided[0]["body"]["answers"].as_array().expect("answers");
        told(answers.iter().find(|a| a["policy"] == "probe").expect("asked")["reason"].as_str().expect("a text"))
    };
    assert_eq!(said("address-ca.pem"), ["ok 200 sealed"]);
    let untrusted = said("ca.pem");
    assert!(untrusted[0].starts_with("unavailable TLS"), "{untrusted:?}");
}
