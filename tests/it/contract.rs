//! The contract for all kinds of plugins and all optional moments, through the engine's public face.
//!
//! Two sets of the same components are held to the same behaviour: those that this build made from today's SDK, and the golden ones in
//! `tests/golden/plugins/0.1`, which were built once and must load and behave for ever. `BEADLE_RENEW_GOLDEN=1` writes the second set
//! anew from the first; only an unreleased track may be renewed.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use beadle::model::moment::{AttemptSeen, NewPrompt, PromptAnswer, SessionStart, ToolResult};
use beadle::model::{
    Budget, Delivery, Edit, Effect, Entry, EntryKind, EntryRole, FailureCause, Grants, Moment, SinkEvent, Span, Transcript, Verdict,
};
use beadle::plugin::{
    AttemptQuestion, Batch, Error, Host, HostOptions, Limits, LoadSpec, PlanQuestion, Plugin, PluginKind, PromptQuestion, Question,
    ResultQuestion, SessionQuestion,
};
use serde_json::{Value, json};

use crate::plugin::{call, session};

/// Far longer than any of these calls takes, also on a busy machine.
const AMPLE: Duration = Duration::from_secs(20);

macro_rules! built {
    ($($name:literal),*) => { [$(($name, include_bytes!(concat!(env!("OUT_DIR"), "/moments_", $name, ".wasm")).as_slice())),*] };
}

/// The components of this build.
pub const BUILT: [(&str, &[u8]); 8] = built!["base", "session", "prompt", "result", "attempt", "all", "strategy", "sink"];

/// The component of this build with every moment, for tests of whole sessions.
pub fn component(name: &str) -> &'static [u8] {
    BUILT.iter().find(|(n, _)| *n == name).expect("a guest of this name").1
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plugins/0.1")
}

/// Both sets under one name.
fn both(name: &str) -> [(String, Cow<'static, [u8]>); 2] {
    let path = golden().join(format!("moments_{name}.wasm"));
    if std::env::var_os("BEADLE_RENEW_GOLDEN").is_some() {
        std::fs::write(&path, component(name)).expect("a golden file");
    }
    let kept = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    [(format!("built {name}"), component(name).into()), (format!("golden {name}"), kept.into())]
}

fn host() -> Host {
    Host::new(HostOptions::default()).expect("an engine")
}

fn spec(name: &str, wasm: Cow<'static, [u8]>, config: &Value) -> LoadSpec {
    LoadSpec { name: name.to_owned(), wasm, config: config.to_string(), limits: Limits::default(), grants: Grants::default() }
}

fn load(host: &Host, name: &str, wasm: Cow<'static, [u8]>, config: &Value) -> Arc<Plugin> {
    host.load_kind(spec(name, wasm, config), None).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn wait<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(f)
}

#[test]
fn each_component_is_known_by_its_exports() {
    use Moment::{JudgeAttempt, JudgePrompt, JudgeResult, JudgeSession};
    let host = host();
    for (name, kind, moments) in [
        ("base", PluginKind::PermissionPolicy, vec![]),
        ("session", PluginKind::PermissionPolicy, vec![JudgeSession]),
        ("prompt", PluginKind::PermissionPolicy, vec![JudgePrompt]),
        ("result", PluginKind::PermissionPolicy, vec![JudgeResult]),
        ("attempt", PluginKind::PermissionPolicy, vec![JudgeAttempt]),
        ("all", PluginKind::PermissionPolicy, vec![JudgeSession, JudgePrompt, JudgeResult, JudgeAttempt]),
        ("strategy", PluginKind::CompactionStrategy, vec![]),
        ("sink", PluginKind::AuditSink, vec![]),
    ] {
        for (name, wasm) in both(name) {
            let p = load(&host, &name, wasm.clone(), &json!({}));
            assert_eq!((p.kind(), p.moments()), (kind, moments.clone()), "{name}");
            assert_eq!((p.describe().name.as_str(), p.describe().version.as_str()), ("moments", "0.1.0"), "{name}");
            assert!(!p.imports_wasi(), "{name}");
            let refused = host.load_kind(spec(&name, wasm.clone(), &json!({"fail": "because I say so"})), None);
            assert!(matches!(&refused, Err(Error::ConfigRefused { reason, .. }) if reason == "because I say so"), "{name}");
            for wanted in PluginKind::ALL.into_iter().filter(|k| *k != kind) {
                let other = host.load_kind(spec(&name, wasm.clone(), &json!({})), Some(wanted)).map(drop);
                let e = other.expect_err("of another kind");
                assert_eq!(e.code(), "BDL-PLUGIN-015", "{name}: {e}");
                assert!(e.to_string().contains(kind.as_str()) && e.to_string().contains(wanted.as_str()), "{e}");
            }
        }
    }
}

#[test]
fn policies_decide_whatever_else_they_export_and_start_from_a_snapshot() {
    let host = host();
    for name in ["base", "session", "prompt", "result", "attempt", "all"] {
        for (name, wasm) in both(name) {
            let p = load(&host, &name, wasm, &json!({"allow": true}));
            assert!(p.snapshotted(), "{name}: {:?}", p.snapshot_note());
            let d = p.decide_here(&Question::new(&session(), &call(&["ls"]), 1), AMPLE).expect("a decision");
            assert_eq!((d.effect, d.rule.as_deref()), (Effect::Allow, Some("allow")), "{name}");
        }
    }
}

#[test]
fn sessions_are_refused_tightened_and_labelled() {
    let host = host();
    let start = SessionStart { program: "claude".into(), prompt: Some("go".into()), role: "operator".into(), ..SessionStart::default() };
    let question = Arc::new(SessionQuestion::new(&session(), &start, 1));
    for (name, wasm) in both("session").into_iter().chain(both("all")) {
        let p = load(&host, &name, wasm.clone(), &json!({"refuse_session": "not today"}));
        let a = wait(p.judge_session(&question, AMPLE)).expect("an answer");
        assert_eq!(a.refuse.as_deref(), Some("not today (claude in /project, prompt Some(\"go\"))"), "{name}");
        let config = json!({"tighten": {"approvals.timeout_ms": 5}, "labels": {"tier": "prod"}});
        let a = wait(load(&host, &name, wasm.clone(), &config).judge_session(&question, AMPLE)).expect("an answer");
        assert_eq!((a.refuse, a.tighten[0].setting.as_str(), &a.tighten[0].value), (None, "approvals.timeout_ms", &json!(5)), "{name}");
        assert_eq!(a.labels, [("tier".to_owned(), "prod".to_owned())], "{name}");
        let f = wait(load(&host, &name, wasm, &json!({"labels": {"a=b": "c"}})).judge_session(&question, AMPLE)).expect_err("a bad label");
        assert_eq!(f.cause, FailureCause::BadAnswer, "{name}: {f}");
    }
}

#[test]
fn prompts_are_refused_or_get_context() {
    let host = host();
    let prompt = NewPrompt { text: "drop the database".into(), number: 2, role: "operator".into() };
    let question = Arc::new(PromptQuestion::new(&session(), &prompt, 1));
    for (name, wasm) in both("prompt").into_iter().chain(both("all")) {
        let answer = |config: Value| wait(load(&host, &name, wasm.clone(), &config).judge_prompt(&question, AMPLE));
        let a = answer(json!({"refuse_prompt": "no", "unwanted": "database"})).expect("an answer");
        assert_eq!(a.refuse.as_deref(), Some("no (prompt 2 of operator)"), "{name}");
        assert_eq!(
            answer(json!({"context": "mind the gap"})),
            Ok(PromptAnswer { refuse: None, context: Some("mind the gap".into()) }),
            "{name}"
        );
        let f = answer(json!({"context": "x".repeat(16 * 1024 + 1)})).expect_err("too long");
        assert_eq!(f.cause, FailureCause::BadAnswer, "{name}: {f}");
    }
}

#[test]
fn results_are_replaced_in_their_own_shape_only() {
    let host = host();
    let output = json!({"stdout": "key SECRET-7", "stderr": "", "interrupted": false});
    let result = ToolResult { output, is_error: false, duration_ms: Some(3), replaceable: true };
    let question = Arc::new(ResultQuestion::new(&session(), &call(&["env"]), &result, 1));
    for (name, wasm) in both("result").into_iter().chain(both("all")) {
        let answer = |config: Value| wait(load(&host, &name, wasm.clone(), &config).judge_result(&question, AMPLE));
        let a = answer(json!({"secret": "SECRET-7"})).expect("an answer");
        assert_eq!(a.replace, Some(json!({"stdout": "key [redacted]", "stderr": "", "interrupted": false})), "{name}");
        assert_eq!(a.flag.as_deref(), Some("Bash printed a secret"), "{name}");
        assert_eq!(answer(json!({"secret": "other"})).expect("an answer").replace, None, "{name}");
        let f = answer(json!({"bare": true})).expect_err("another shape");
        assert!(f.cause == FailureCause::BadAnswer && f.detail.contains("shape"), "{name}: {f}");
    }
}

#[test]
fn attempts_get_a_verdict() {
    let host = host();
    for (name, wasm) in both("attempt").into_iter().chain(both("all")) {
        let p = load(&host, &name, wasm, &json!({"verdicts": ["escalate: run the tests", "error: hopeless"]}));
        let judge = |round| {
            let seen = AttemptSeen { number: 1, round, succeeded: Some(true), last_words: "Done.".into(), ..AttemptSeen::default() };
            wait(p.judge_attempt(&Arc::new(AttemptQuestion::new(&session(), &seen, 1)), AMPLE)).expect("a verdict")
        };
        assert_eq!(judge(0), Verdict::Escalate("run the tests".into()), "{name}");
        assert_eq!(judge(1), Verdict::Error("hopeless (said: Done.)".into()), "{name}");
    }
}

#[test]
fn a_moment_fails_like_a_decision_and_is_refused_where_it_is_not_exported() {
    let host = host();
    let prompt = Arc::new(PromptQuestion::new(&session(), &NewPrompt::default(), 1));
    for (way, deadline, cause) in [("trap", AMPLE, FailureCause::Trap), ("loop", Duration::from_millis(20), FailureCause::Deadline)] {
        for (name, wasm) in both("prompt") {
            let p = load(&host, &name, wasm, &json!({ way: "judge-prompt" }));
            assert_eq!(wait(p.judge_prompt(&prompt, deadline)).expect_err(way).cause, cause, "{name}");
        }
    }
    let base = load(&host, "base", component("base").into(), &json!({}));
    let f = wait(base.judge_prompt(&prompt, AMPLE)).expect_err("not exported");
    assert!(f.cause == FailureCause::Load && f.detail.contains("judge-prompt"), "{f}");
    let f = wait(base.write(&Arc::new(Batch::new(vec![], 1, 1)), AMPLE)).expect_err("no sink");
    assert!(f.detail.contains("permission-policy") && f.detail.contains("audit-sink"), "{f}");
    let sink = load(&host, "sink", component("sink").into(), &json!({}));
    assert!(sink.decide_here(&Question::new(&session(), &call(&["ls"]), 1), AMPLE).is_err(), "a sink decides nothing");
}

struct Lines(Vec<(Entry, String)>);

impl Transcript for Lines {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn entries(&self, start: usize, max: usize) -> Vec<Entry> {
        self.0.iter().skip(start).take(max).map(|(e, _)| e.clone()).collect()
    }
    fn text(&self, id: u64, offset: usize, max: usize) -> Option<String> {
        let text = &self.0.iter().find(|(e, _)| e.id == id)?.1;
        Some(text.chars().skip(offset).take(max).collect())
    }
    fn tokens(&self, text: &str) -> u64 {
        text.len() as u64 / 4
    }
}

#[test]
fn a_strategy_reads_the_lent_transcript_by_page() {
    let entry = |id, pinned| Entry {
        id,
        role: EntryRole::Tool,
        kind: EntryKind::ToolResult,
        tool: Some("Bash".into()),
        pair: Some(format!("t{id}")),
        is_error: false,
        turn: 1,
        tokens: 100,
        bytes: 400,
        pinned,
        at: 1,
    };
    let lines: Vec<(Entry, String)> = (1..=7).map(|n| (entry(n * 10, n == 2), format!("output of {n}"))).collect();
    let transcript: Arc<dyn Transcript> = Arc::new(Lines(lines));
    let budget = Budget { window: 1000, used: 700, target: 400, estimator: "bytes-4".into() };
    let question = Arc::new(PlanQuestion::new(&session(), transcript, &budget, 1));
    let host = host();
    for (name, wasm) in both("strategy") {
        let p = load(&host, &name, wasm, &json!({"keep": 2}));
        let plan = wait(p.plan(&question, AMPLE)).expect("a plan");
        let masked = |id: u64| Edit::Replace { span: Span { first: id, last: id }, text: "[Bash: output o]".into() };
        assert_eq!(plan, [masked(10), masked(30), masked(40)], "{name} ({:?})", p.snapshot_note());
    }
}

#[test]
fn a_sink_accepts_asks_for_time_or_names_poison() {
    let event = |seq, kind: &str| SinkEvent {
        session: "s".into(),
        seq,
        at: 1,
        attempt: 1,
        kind: kind.into(),
        body: json!({"call": seq}).to_string(),
        hash: "00".repeat(32),
        labels: [("team".to_owned(), "a".to_owned())].into(),
    };
    let events = || vec![event(1, "session_created"), event(2, "note")];
    let host = host();
    for (name, wasm) in both("sink") {
        let write = |config: Value, attempt| {
            wait(load(&host, &name, wasm.clone(), &config).write(&Arc::new(Batch::new(events(), attempt, 1)), AMPLE)).expect("an outcome")
        };
        assert_eq!(write(json!({}), 1), Delivery::Accepted { count: 2 }, "{name}");
        assert_eq!(write(json!({"busy": 250}), 1), Delivery::RetryAfter { ms: 250 }, "{name}");
        assert_eq!(write(json!({"busy": 250}), 2), Delivery::Accepted { count: 2 }, "{name}");
        let poison = Delivery::Poison { index: 1, reason: "cannot take {\"call\":2}".into() };
        assert_eq!(write(json!({"poison": "note"}), 1), poison, "{name}");
    }
}
