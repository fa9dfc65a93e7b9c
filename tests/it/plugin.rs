//! The plugin engine against guests that misbehave, through its public face.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use beadle::model::{Call, Clock, Effect, FailureCause, Grants, Session};
use beadle::plugin::{
    CacheOptions, CallFailure, Error, Host, HostOptions, Kind, Limits, LoadSpec, MAX_COMPONENT, MAX_CONFIG, Plugin, QuarantineOptions,
    Question, standard,
};
use serde_json::{Value, json};

#[path = "../guests/mod.rs"]
mod guests;

/// Misbehaves as its configuration says; imports nothing but the log.
pub const HOSTILE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hostile.wasm"));

/// The same, built for `wasm32-wasip2`, so that it imports WASI.
pub fn hostile_wasi() -> &'static [u8] {
    static BUILT: OnceLock<Vec<u8>> = OnceLock::new();
    BUILT.get_or_init(|| guests::wasi("hostile-guest"))
}

/// Far longer than any of these calls takes, also on a busy machine.
const AMPLE: Duration = Duration::from_secs(20);

pub fn session() -> Session {
    serde_json::from_value(json!({
        "id": "fix-the-build-m2k9x1a7-k3v9q", "name": "fix the build", "agent": "claude", "status": "running", "mediation": "gate",
        "command": ["claude"], "cwd": "/project", "home": "/home/u", "labels": {"team": "a"}, "created_at": 5,
        "last_activity_at": 6, "attempt": 1, "usage": {"input": 1, "output": 2, "cache_read": 3, "cache_write": 4},
        "unpriced": 1, "turns": 2, "sub_agents": 3, "calls": 4, "allowed": 3, "denied": 1, "asked": 0, "rewritten": 0,
        "waiting": 0, "breaches": 0, "plugin_failures": 0, "last_seq": 9, "cost": 22, "model": "claude-opus-4-8"
    }))
    .expect("a session")
}

pub fn call(command: &[&str]) -> Call {
    let argv: Vec<Value> = command.iter().map(|w| json!({"text": w, "exact": true})).collect();
    serde_json::from_value(json!({
        "agent": "claude", "tool": "Bash", "kind": "execute", "input": {"command": command.join(" ")}, "cwd": "/project",
        "paths": [{"written": "x", "absolute": "/project/x", "resolved": "/real/x", "access": "read_write", "exact": true}],
        "urls": ["https://example.org/"], "parse": "complete", "channel": "driver", "call_id": "toolu_1",
        "commands": [{"argv": argv, "env": [{"text": "A=b", "exact": true}], "origin": ["sh -c"], "exact": true,
            "redirects": [{"target": {"text": "out", "exact": true}, "access": "write"}]}]
    }))
    .expect("a call")
}

fn question() -> Question {
    Question::new(&session(), &call(&["git", "push", "origin"]), 1_700_000_000_123)
}

fn host() -> Host {
    Host::new(HostOptions::default()).expect("an engine")
}

fn spec(wasm: &'static [u8], config: &str) -> LoadSpec {
    LoadSpec {
        name: "guest".to_owned(),
        wasm: Cow::Borrowed(wasm),
        config: config.to_owned(),
        limits: Limits::default(),
        grants: Grants::default(),
    }
}

fn hostile(way: &str) -> Arc<Plugin> {
    host().load(spec(HOSTILE, way)).expect("the hostile guest loads")
}

fn failure(way: &str, deadline: Duration) -> CallFailure {
    hostile(way).decide_here(&question(), deadline).expect_err(way)
}

fn refused(wasm: impl Into<Cow<'static, [u8]>>, config: &str) -> Error {
    let spec = LoadSpec { wasm: wasm.into(), ..spec(&[], config) };
    match host().load(spec) {
        Ok(_) => panic!("this must not load"),
        Err(e) => e,
    }
}

#[test]
fn each_way_to_fail_has_its_cause() {
    for (way, cause, says) in [
        ("trap", FailureCause::Trap, "unreachable"),
        ("recursion", FailureCause::Trap, ""),
        ("memory", FailureCause::Memory, ""),
        ("big-reason", FailureCause::BadAnswer, "4097"),
        ("big-rule", FailureCause::BadAnswer, "1025"),
        ("big-input", FailureCause::BadAnswer, "updated input"),
        ("not-json", FailureCause::BadAnswer, "not JSON"),
        ("not-object", FailureCause::BadAnswer, "not a JSON object"),
    ] {
        let f = failure(way, AMPLE);
        assert_eq!(f.cause, cause, "{way}: {f}");
        assert!(f.detail.contains(says), "{way}: {f}");
    }
}

#[test]
fn a_loop_is_stopped_at_its_deadline() {
    let plugin = hostile("loop");
    let mut over: Vec<Duration> = (0..5)
        .map(|_| {
            let start = Instant::now();
            let f = plugin.decide_here(&question(), Duration::from_millis(20)).expect_err("it loops");
            assert!(matches!(f.cause, FailureCause::Deadline), "{f}");
            start.elapsed().checked_sub(Duration::from_millis(20)).expect("not before its deadline")
        })
        .collect();
    over.sort();
    // The goal is 5 ms; a machine under load gets more, a plain loop would get for ever.
    assert!(over[2] < Duration::from_millis(100), "{over:?}");
}

#[test]
fn nothing_a_guest_writes_is_there_in_the_next_call() {
    let snapshot = hostile("count");
    assert!(snapshot.snapshotted(), "{:?}", snapshot.snapshot_note());
    // Over the size for snapshots: configured anew for each call.
    let mut padded = HOSTILE.to_vec();
    padded.extend(custom_section(9 << 20));
    let fresh = host().load(LoadSpec { wasm: padded.into(), ..spec(&[], "count") }).expect("it loads");
    assert!(!fresh.snapshotted());
    assert!(fresh.snapshot_note().is_some_and(|n| n.contains("bytes")), "{:?}", fresh.snapshot_note());
    for plugin in [snapshot, fresh] {
        let said: BTreeSet<String> = (0..200).map(|_| plugin.decide_here(&question(), AMPLE).expect("a count").reason).collect();
        assert_eq!(said, BTreeSet::from(["1".to_owned()]), "configure counted once, and no call sees another's");
    }
}

#[test]
fn the_question_arrives_whole() {
    let said = hostile("echo").decide_here(&question(), AMPLE).expect("an echo").reason;
    for part in [
        "fix-the-build-m2k9x1a7-k3v9q",
        "root: \"/project\"",
        "home: Some(\"/home/u\")",
        "(\"team\", \"a\")",
        "Mediation::Gate",
        "calls: 4, denied: 1, sub-agents: 3, turns: 2",
        "cache-write: 4",
        "cost-nanousd: Some(22), unpriced: 1, model: Some(\"claude-opus-4-8\")",
        "kind: ToolKind::Execute",
        r#"input: "{\"command\":\"git push origin\"}""#,
        "resolved: \"/real/x\", access: Access::ReadWrite",
        "https://example.org/",
        "Word{text: \"origin\", exact: true}",
        "origin: [\"sh -c\"]",
        "Redirect{target: Word{text: \"out\", exact: true}, access: Access::Write}",
        "parse: Parse::Complete",
        "call-id: Some(\"toolu_1\")",
        "at-ms: 1700000000123",
    ] {
        let plain = |s: &str| s.replace(' ', "").replace('_', "-");
        assert!(plain(&said).contains(&plain(part)), "{part} in {said}");
    }
}

#[test]
fn standard_plugins_load_from_a_snapshot_and_import_nothing() {
    let host = host();
    for name in standard::NAMES {
        let plugin = host.load(spec(standard::find(name).expect("embedded"), "{}")).expect(name);
        assert!(plugin.snapshotted() && !plugin.imports_wasi(), "{name}: {:?}", plugin.snapshot_note());
        assert_eq!(plugin.engine().0, Kind::Small, "{name}");
        assert_eq!(plugin.digest().len(), 64);
    }
}

#[test]
fn the_example_policy_denies_force_and_rewrites_the_rest() {
    let hello = host().load(spec(standard::HELLO, "{}")).expect("it loads");
    assert_eq!(hello.describe().name, "hello");
    let judge = |c: Call| hello.decide_here(&Question::new(&session(), &c, 0), AMPLE).expect("a decision");
    assert_eq!(judge(call(&["git", "push", "--force"])).effect, Effect::Deny);
    assert_eq!(judge(call(&["git", "status"])).effect, Effect::Abstain);
    // Wrapped and redirected: not one that it can rewrite.
    assert_eq!(judge(call(&["git", "push"])).effect, Effect::Ask);
    let mut plain = call(&["git", "push", "origin"]);
    plain.commands[0].env.clear();
    plain.commands[0].redirects.clear();
    plain.commands[0].origin.clear();
    let d = judge(plain);
    assert_eq!((d.effect, d.updated_input), (Effect::Allow, Some(json!({"command": "git push origin --dry-run"}))));
}

#[test]
fn what_is_no_policy_is_refused_by_name() {
    let empty = b"\0asm\x0d\0\x01\0";
    // Imports the instance `evil:net/raw`, which has no members.
    let evil = b"\0asm\x0d\0\x01\0\x07\x03\x01\x42\x00\x0a\x11\x01\x00\x0cevil:net/raw\x05\x00";
    let reshaped = replace(HOSTILE, b"updated-input", b"updated-inpux");
    let half = HOSTILE[..HOSTILE.len() / 2].to_vec();
    for (wasm, code, says) in [
        (Cow::Borrowed(&b""[..]), "BDL-PLUGIN-002", "empty"),
        (Cow::Borrowed(&b"#!/bin/sh\n"[..]), "BDL-PLUGIN-002", "#!/bin/s"),
        (Cow::Borrowed(&b"\0asm\x01\0\0\0"[..]), "BDL-PLUGIN-003", "core module"),
        (Cow::Owned(half), "BDL-PLUGIN-004", "truncated"),
        (Cow::Borrowed(&evil[..]), "BDL-PLUGIN-005", "evil:net/raw"),
        (Cow::Borrowed(&empty[..]), "BDL-PLUGIN-006", "describe, configure, beadle:plugin/policy@0.1.0"),
        (Cow::Owned(reshaped), "BDL-PLUGIN-007", "updated-inp"),
        (Cow::Owned(vec![0; MAX_COMPONENT + 1]), "BDL-PLUGIN-001", "33554433"),
    ] {
        let e = refused(wasm, "{}");
        assert_eq!(e.code(), code, "{e}");
        assert!(e.to_string().contains(says), "{e}");
    }
}

#[test]
fn a_bad_configuration_is_told_in_the_plugins_words() {
    let e = refused(HOSTILE, "refuse");
    assert_eq!(e.code(), "BDL-PLUGIN-010");
    assert!(e.to_string().contains("key `way` is \"refuse\"; expected \"any \\ other\"\nword"), "{e}");
    for (way, cause) in
        [("configure-trap", FailureCause::Trap), ("configure-memory", FailureCause::Memory), ("configure-loop", FailureCause::Deadline)]
    {
        match refused(HOSTILE, way) {
            Error::Configure { failure, .. } => assert_eq!(failure.cause, cause, "{way}"),
            e => panic!("{way}: {e}"),
        }
    }
    assert_eq!(refused(HOSTILE, &"x".repeat(MAX_CONFIG + 1)).code(), "BDL-PLUGIN-009");
}

#[test]
fn any_configuration_survives_the_snapshot() {
    // What the notation of the snapshot maker could trip over.
    let config = "\"quote\\ \u{0}\u{7}\n\r\té🦀{}%\u{85}";
    let plugin = hostile(config);
    assert!(plugin.snapshotted(), "{:?}", plugin.snapshot_note());
    assert_eq!(plugin.decide_here(&question(), AMPLE).expect("allowed").effect, Effect::Allow);
}

#[test]
fn a_load_is_bounded_in_time() {
    let limits = Limits { compile: Duration::from_micros(1), ..Limits::default() };
    let e = host().load(LoadSpec { limits, ..spec(HOSTILE, "allow") }).err().expect("no time");
    assert_eq!(e.code(), "BDL-PLUGIN-012");
}

#[test]
fn the_memory_limit_is_the_plugins_own() {
    let limits = Limits { memory: 64 << 10, ..Limits::default() };
    match host().load(LoadSpec { limits, ..spec(HOSTILE, "allow") }) {
        Err(Error::Start { failure, .. }) => assert_eq!(failure.cause, FailureCause::Memory),
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("more than one page is needed"),
    }
}

#[test]
fn the_cache_is_used_only_with_its_key_and_untouched() {
    let dir = tempfile::tempdir().expect("a folder");
    let with_key = |key: u8| {
        let cache = Some(CacheOptions { dir: dir.path().to_owned(), key: [key; 32] });
        Host::new(HostOptions { cache, ..HostOptions::default() }).expect("an engine")
    };
    // A load that may not compile: only a cached artefact can serve it.
    let cached_only = |key: u8| {
        let limits = Limits { compile: Duration::ZERO, ..Limits::default() };
        with_key(key).load(LoadSpec { limits, ..spec(HOSTILE, "count") })
    };
    assert_eq!(cached_only(1).err().expect("nothing there yet").code(), "BDL-PLUGIN-012");
    with_key(1).load(spec(HOSTILE, "count")).expect("it loads");
    let plugin = cached_only(1).expect("from the cache");
    assert!(plugin.snapshotted());
    assert_eq!(plugin.describe().name, "hostile");
    assert_eq!(plugin.describe().wants[0].capability, "kv");
    assert_eq!(plugin.decide_here(&question(), AMPLE).expect("a count").reason, "1");
    assert!(cached_only(2).is_err(), "another key");
    let file = std::fs::read_dir(dir.path()).expect("the cache").next().expect("one artefact").expect("readable").path();
    let mut bytes = std::fs::read(&file).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x80;
    std::fs::write(&file, bytes).expect("writable");
    assert!(cached_only(1).is_err(), "touched");
    with_key(1).load(spec(HOSTILE, "count")).expect("compiled again");
    cached_only(1).expect("kept again");
}

#[test]
fn a_plugin_that_keeps_failing_is_quarantined_and_recovers() {
    let clock = Arc::new(Still::default());
    let quarantine = QuarantineOptions { after: 3, pause: Duration::from_secs(10) };
    let host = Host::new(HostOptions { quarantine, clock: clock.clone(), ..HostOptions::default() }).expect("an engine");
    let plugin = host.load(spec(HOSTILE, "spin-input")).expect("it loads");
    let spin = Question::new(&session(), &call(&["spin"]), 0);
    let short = Duration::from_millis(2);
    for _ in 0..3 {
        let f = plugin.decide_here(&spin, short).expect_err("it loops");
        assert_eq!(f.cause, FailureCause::Deadline);
    }
    let f = plugin.decide_here(&question(), AMPLE).expect_err("not asked");
    assert_eq!(f.cause, FailureCause::Quarantined);
    assert!(f.detail.contains("10000 ms"), "{f}");
    clock.0.store(10_000, Ordering::Relaxed);
    assert_eq!(plugin.decide_here(&spin, short).expect_err("tried, loops").cause, FailureCause::Deadline);
    assert_eq!(plugin.decide_here(&question(), AMPLE).expect_err("not asked").cause, FailureCause::Quarantined);
    clock.0.store(20_000, Ordering::Relaxed);
    plugin.decide_here(&question(), AMPLE).expect("tried, works");
    plugin.decide_here(&question(), AMPLE).expect("recovered");
}

#[test]
fn a_flood_of_log_lines_is_bounded() {
    let plugin = hostile("flood-log");
    match plugin.decide_here(&question(), AMPLE) {
        Ok(d) => assert_eq!(d.effect, Effect::Allow),
        Err(f) => assert_eq!(f.cause, FailureCause::Deadline),
    }
    let (lines, dropped) = plugin.log().read();
    assert!(!lines.is_empty() && lines.len() <= 256 && dropped > 10_000, "{} {dropped}", lines.len());
    assert!(lines.iter().all(|l| l.text.len() <= 1024 && l.text.starts_with("spam")));
}

#[test]
fn a_looping_plugin_leaves_the_others_their_threads() {
    let host = host();
    let looping = host.load(spec(HOSTILE, "loop")).expect("it loads");
    let good = host.load(spec(HOSTILE, "allow")).expect("it loads");
    let question = Arc::new(question());
    let deadline = Duration::from_secs(2);
    runtime().block_on(async {
        let stuck: Vec<_> = (0..8)
            .map(|_| {
                let (p, q) = (Arc::clone(&looping), Arc::clone(&question));
                tokio::spawn(async move { p.decide(&q, deadline).await })
            })
            .collect();
        let start = Instant::now();
        for _ in 0..50 {
            assert_eq!(good.decide(&question, deadline).await.expect("served").effect, Effect::Allow);
        }
        assert!(start.elapsed() < deadline, "the good plugin waited for the looping one");
        for (i, s) in stuck.into_iter().enumerate() {
            let f = s.await.expect("joined").expect_err("it loops");
            assert!(matches!(f.cause, FailureCause::Deadline | FailureCause::Busy), "{i}: {f}");
        }
    });
}

#[test]
fn a_full_house_answers_busy_at_the_deadline_at_the_latest() {
    let options = HostOptions { threads: 2, ..HostOptions::default() };
    let looping = Host::new(options).expect("an engine").load(spec(HOSTILE, "loop")).expect("it loads");
    let question = Arc::new(question());
    runtime().block_on(async {
        let (long, short) = (Duration::from_millis(500), Duration::from_millis(30));
        let (p, q) = (Arc::clone(&looping), Arc::clone(&question));
        let first = tokio::spawn(async move { p.decide(&q, long).await });
        while looping.running() == 0 {
            tokio::task::yield_now().await;
        }
        let f = looping.decide(&question, short).await.expect_err("no place");
        assert_eq!(f.cause, FailureCause::Busy, "{f}");
        // The queue is bounded: one call over it is told so at once.
        let waiting: Vec<_> = (0..1024)
            .map(|_| {
                let (p, q) = (Arc::clone(&looping), Arc::clone(&question));
                tokio::spawn(async move { p.decide(&q, short).await })
            })
            .collect();
        let mut causes = BTreeSet::new();
        for w in waiting {
            causes.insert(w.await.expect("joined").expect_err("no place").cause.as_str());
        }
        assert!(causes.contains("busy"), "{causes:?}");
        assert_eq!(first.await.expect("joined").expect_err("it loops").cause, FailureCause::Deadline);
    });
}

#[test]
fn threads_share_one_plugin() {
    let plugin = hostile("count");
    let question = Arc::new(question());
    let (done, answers) = mpsc::channel();
    for _ in 0..8 {
        let (p, q, done) = (Arc::clone(&plugin), Arc::clone(&question), done.clone());
        std::thread::spawn(move || {
            for _ in 0..200 {
                done.send(p.decide_here(&q, AMPLE).map(|d| d.reason)).expect("someone listens");
            }
        });
    }
    drop(done);
    assert!(answers.iter().all(|a| a.as_deref() == Ok("1")));
}

#[test]
fn wasi_is_there_and_gives_nothing() {
    let host = host();
    let load = |way: &str| host.load(spec(hostile_wasi(), way)).expect(way);
    let said = |way: &str| load(way).decide_here(&question(), AMPLE).expect(way).reason;
    let plugin = load("allow");
    assert!(plugin.imports_wasi() && plugin.snapshotted(), "{:?}", plugin.snapshot_note());

    let alone = said("environment");
    assert!(alone.contains("[] [] Err"), "no arguments, environment or folders: {alone}");
    let socket = said("connect");
    assert!(socket.starts_with("Err"), "{socket}");
    assert_eq!(said("clock"), "1700000000123", "the clock stands at the time of the call");
    assert_eq!(said("sleep"), "0ns", "a sleep under a standing clock is over at once");
    assert_eq!(said("random"), said("random"), "the same question gets the same numbers");

    let printing = load("print");
    printing.decide_here(&question(), AMPLE).expect("printed");
    let (lines, _) = printing.log().read();
    let texts: Vec<&str> = lines.iter().map(|l| l.text.as_str()).collect();
    assert_eq!(texts, ["to standard output", "to standard error"]);

    let http = load("http").decide_here(&question(), AMPLE).expect_err("refused");
    assert_eq!(http.cause, FailureCause::Trap, "{http}");
    assert!(http.detail.contains("access denied"), "{http}");
    let trap = load("trap").decide_here(&question(), AMPLE).expect_err("it panics");
    assert_eq!(trap.cause, FailureCause::Trap, "{trap}");
    let looping = load("loop").decide_here(&question(), Duration::from_millis(10)).expect_err("it loops");
    assert_eq!(looping.cause, FailureCause::Deadline, "{looping}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// A clock that tests move.
#[derive(Default)]
struct Still(AtomicU64);

impl Clock for Still {
    fn wall_ms(&self) -> i64 {
        0
    }

    fn boot_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A custom section of about this many bytes, which changes nothing but the size.
fn custom_section(len: usize) -> Vec<u8> {
    let mut body = b"\x03pad".to_vec();
    body.resize(len, 0);
    let mut out = vec![0];
    let mut n = body.len();
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out.extend(body);
    out
}

/// The bytes with every `from` replaced by `to` of the same length.
fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for i in 0..=out.len() - from.len() {
        if &out[i..i + from.len()] == from {
            out[i..i + from.len()].copy_from_slice(to);
        }
    }
    out
}
