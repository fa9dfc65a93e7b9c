//! One policy decision: the same 100 rules natively, in a fresh instance from a snapshot, in a reused instance and in a
//! guest that imports WASI, with the same parsed calls; Cedar and Regorus in process; the host's shell parser as a row of
//! its own. Then two threads.
//!
//! *Made ahead* is what a call waits for in the host: the instance was made after the answer before, and is thrown away after
//! this one. *Whole* is everything, making and throwing away included, and so what the rate of a thread follows from.
//!
//! All rows of a round run one after the other, so drift hits all alike. Ratios are what counts.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]

use std::borrow::Cow;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use beadle::model;
use beadle::plugin::{Host, HostOptions, Limits, LoadSpec, Plugin, Question, standard};
use policy_rules::bench::{sample_calls, sample_config, sample_session};
use serde_json::{Value, json};
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, Store};

#[path = "../../tests/guests/mod.rs"]
mod guests;
mod peers;

mod reused {
    wasmtime::component::bindgen!({ path: "../../wit/v0.1", world: "permission-policy" });
}

use reused::beadle::plugin::types;

#[path = "../convert.rs"]
mod convert;

const ROUNDS: usize = 40;
const SLICE: Duration = Duration::from_millis(20);
const DEADLINE: Duration = Duration::from_secs(1);

fn main() {
    let config = sample_config();
    let calls: Vec<beadle_plugin::Call> = sample_calls().into_iter().map(|(c, _)| c).collect();
    let model_session = model_session();
    let model_calls: Vec<model::Call> = calls.iter().map(model_call).collect();
    let questions: Vec<Question> = model_calls.iter().map(|c| Question::new(&model_session, c, 0)).collect();
    let host = Host::new(HostOptions::default()).expect("an engine");
    let load = |name: &str, wasm: Cow<'static, [u8]>| {
        let spec = LoadSpec { name: name.to_owned(), wasm, config: config.clone(), limits: Limits::default(), grants: model::Grants::default() };
        host.load(spec).expect("the plugin loads")
    };
    let rules = load("rules", Cow::Borrowed(standard::RULES));
    let wasi = load("rules over WASI", guests::wasi("policy-rules").into());
    assert!(rules.snapshotted() && wasi.snapshotted() && wasi.imports_wasi());
    let native = policy_rules::Policy::compile(&config).expect("the sample compiles");
    let session = sample_session();
    for ((call, want), question) in sample_calls().iter().zip(&questions) {
        let own = native.decide(&session, call);
        assert_eq!(own.effect, *want);
        for plugin in [&rules, &wasi] {
            let d = plugin.decide_here(question, DEADLINE).expect("a decision");
            let effect = format!("Effect::{:?}", d.effect);
            assert_eq!((effect, d.reason), (format!("{:?}", own.effect), own.reason.clone()));
        }
    }
    let mut again = Reused::new(&config);
    let again_calls: Vec<_> = calls.iter().map(convert::call).collect();

    let (cedar, rego) = (peers::Cedar::new(&config, &calls), peers::Rego::new(&config, &calls));
    for (i, (_, want)) in sample_calls().iter().enumerate() {
        let want = format!("{want:?}").trim_start_matches("Effect::").to_lowercase();
        assert_eq!((cedar.decide(i), rego.decide(i)), (want.as_str(), want.as_str()), "call {i}");
    }

    // The standard policy `cedar` makes its requests from the call by itself; natively and as the component it must say the same.
    let texts = json!({ "policies": peers::standard_cedar(&config) }).to_string();
    let own_cedar = policy_cedar::Cedar::read(&texts).expect("the sample in Cedar");
    let spec = LoadSpec {
        name: "cedar".to_owned(),
        wasm: standard::CEDAR.into(),
        config: texts,
        limits: Limits::default(),
        grants: Default::default(),
    };
    let begun = Instant::now();
    let cedar_guest = host.load(spec).expect("the plugin loads");
    println!("the component cedar: loaded in {} ms, engine {:?}, {}", begun.elapsed().as_millis(), cedar_guest.engine().0, cedar_guest.snapshotted());
    for (call, question) in calls.iter().zip(&questions) {
        let (own, guest) = (own_cedar.judge(&session, call), cedar_guest.decide_here(question, DEADLINE).expect("a decision"));
        assert_eq!((format!("{:?}", own.effect), own.rule), (format!("Effect::{:?}", guest.effect), guest.rule));
    }

    let commands: Vec<String> = model_calls.iter().filter_map(|c| c.input["command"].as_str()).map(str::to_owned).collect();
    let mut rows = vec![
        Row::new("native rules", |i| drop(black_box(native.decide(&session, &calls[i % calls.len()])))),
        Row::new("reused instance (no isolation)", |i| again.decide(&again_calls[i % again_calls.len()])),
        Row::split("fresh instance, made ahead", |i| answer(&rules, &questions[i % questions.len()])),
        Row::new("fresh instance, whole", |i| ask(&rules, &questions[i % questions.len()])),
        Row::split("guest imports inert WASI, made ahead", |i| answer(&wasi, &questions[i % questions.len()])),
        Row::new("guest imports inert WASI, whole", |i| ask(&wasi, &questions[i % questions.len()])),
        Row::new("Cedar, in process, no sandbox", |i| drop(black_box(cedar.decide(i)))),
        Row::new("standard policy cedar, native", |i| drop(black_box(own_cedar.judge(&session, &calls[i % calls.len()])))),
        Row::split("standard policy cedar, made ahead", |i| answer(&cedar_guest, &questions[i % questions.len()])),
        Row::new("standard policy cedar, whole", |i| ask(&cedar_guest, &questions[i % questions.len()])),
        Row::new("Regorus, in process, no sandbox", |i| drop(black_box(rego.decide(i)))),
        Row::new("host: shell parser", |i| drop(black_box(beadle::shell::parse(&commands[i % commands.len()])))),
        Row::new("host: call record to WIT", |i| {
            drop(black_box(Question::new(&model_session, &model_calls[i % model_calls.len()], 0)));
        }),
    ];
    measure(&mut rows);
    print(&rows);
    let whole = rate("fresh instances", |i| ask(&rules, &questions[i % questions.len()]));
    let own = rate("native rules", |i| drop(black_box(native.decide(&session, &calls[i % calls.len()]))));
    println!("two threads gain {whole:.2}x where native code gains {own:.2}x");
}

fn ask(plugin: &Plugin, question: &Question) {
    drop(black_box(plugin.decide_here(question, DEADLINE)));
}

/// Answers, and leaves the rest for later.
fn answer<'a>(plugin: &'a Plugin, question: &Question) -> Box<dyn FnOnce() + 'a> {
    let (decision, used) = plugin.decide_then(question, DEADLINE);
    drop(black_box(decision));
    Box::new(move || {
        drop(used);
        plugin.make_ahead();
    })
}

type After<'a> = Option<Box<dyn FnOnce() + 'a>>;

struct Row<'a> {
    name: &'static str,
    /// The part that is timed, and what is done after it untimed.
    run: Box<dyn FnMut(usize) -> After<'a> + 'a>,
    nanos: Vec<u64>,
}

impl<'a> Row<'a> {
    fn new(name: &'static str, mut run: impl FnMut(usize) + 'a) -> Self {
        let run = move |i| {
            run(i);
            None
        };
        Self { name, run: Box::new(run), nanos: Vec::new() }
    }

    fn split(name: &'static str, mut run: impl FnMut(usize) -> Box<dyn FnOnce() + 'a> + 'a) -> Self {
        Self { name, run: Box::new(move |i| Some(run(i))), nanos: Vec::new() }
    }

    fn quantile(&self, q: f64) -> f64 {
        // Sorted by `measure`.
        self.nanos[((self.nanos.len() - 1) as f64 * q) as usize] as f64 / 1000.0
    }
}

fn measure(rows: &mut [Row<'_>]) {
    let mut floor: Vec<u64> = (0..10_000).map(|_| nanos(Instant::now())).collect();
    floor.sort_unstable();
    let floor = floor[floor.len() / 2];
    for round in 0..ROUNDS {
        let n = rows.len();
        for k in 0..n {
            let row = &mut rows[(round + k) % n];
            (0..64).for_each(|i| {
                if let Some(after) = (row.run)(i) {
                    after();
                }
            });
            let end = Instant::now() + SLICE;
            let mut i = 0;
            while Instant::now() < end {
                for _ in 0..8 {
                    let start = Instant::now();
                    let after = (row.run)(i);
                    row.nanos.push(nanos(start).saturating_sub(floor));
                    if let Some(after) = after {
                        after();
                    }
                    i += 1;
                }
            }
        }
    }
    rows.iter_mut().for_each(|r| r.nanos.sort_unstable());
}

fn nanos(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn print(rows: &[Row<'_>]) {
    let base = rows[0].quantile(0.5);
    println!("| one decision, 100 rules, 500-byte input | p50 µs | p99 µs | × native p50 |");
    println!("| --- | --- | --- | --- |");
    for r in rows {
        let (p50, p99) = (r.quantile(0.5), r.quantile(0.99));
        println!("| {} | {p50:.2} | {p99:.2} | {:.1} |", r.name, p50 / base);
    }
}

/// Calls a second on one and on two threads; gives the gain.
fn rate(name: &str, run: impl Fn(usize) + Sync) -> f64 {
    const SPAN: Duration = Duration::from_millis(400);
    let count = |threads: usize| {
        let begin = Instant::now();
        let done: usize = std::thread::scope(|s| {
            let work = || {
                let mut i = 0;
                while begin.elapsed() < SPAN {
                    (0..64).for_each(|k| run(i + k));
                    i += 64;
                }
                i
            };
            let all: Vec<_> = (0..threads).map(|_| s.spawn(work)).collect();
            all.into_iter().map(|t| t.join().expect("no panic")).sum()
        });
        done as f64 / begin.elapsed().as_secs_f64()
    };
    let mut rates: Vec<(f64, f64)> = (0..9).map(|_| (count(1), count(2))).collect();
    rates.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
    let (one, two) = rates[rates.len() / 2];
    println!("\n{name}: {one:.0} a second on 1 thread, {two:.0} on 2 threads: {:.2}x", two / one);
    two / one
}

/// The same component and configuration in one instance that is never thrown away.
struct Reused {
    store: Store<()>,
    policy: reused::PermissionPolicy,
    session: types::Session,
}

impl reused::beadle::plugin::log::Host for () {
    fn log(&mut self, _level: reused::beadle::plugin::log::Level, _message: String) {}
}

impl Reused {
    fn new(config: &str) -> Self {
        let mut c = Config::new();
        c.epoch_interruption(true).concurrency_support(false);
        let engine = Engine::new(&c).expect("an engine");
        let mut linker = Linker::new(&engine);
        reused::beadle::plugin::log::add_to_linker::<_, wasmtime::component::HasSelf<()>>(&mut linker, |s| s).expect("the log links");
        let component = Component::new(&engine, standard::RULES).expect("a component");
        let mut store = Store::new(&engine, ());
        store.set_epoch_deadline(1 << 40);
        let policy = reused::PermissionPolicy::instantiate(&mut store, &component, &linker).expect("an instance");
        policy.call_configure(&mut store, config).expect("no trap").expect("the sample is accepted");
        Self { store, policy, session: convert::session() }
    }

    fn decide(&mut self, call: &types::Call) {
        let d = self.policy.beadle_plugin_policy().call_decide(&mut self.store, &self.session, call);
        drop(black_box(d));
    }
}

fn model_session() -> model::Session {
    serde_json::from_value(json!({
        "id": "fix-the-build-m2k9x1a7-k3v9q", "name": "test", "agent": "claude", "status": "running", "mediation": "gate",
        "command": [], "cwd": "/home/dev/project", "home": "/home/dev", "created_at": 0, "last_activity_at": 0,
        "attempt": 1, "usage": {"input": 0, "output": 0, "cache_read": 0, "cache_write": 0}, "unpriced": 0, "turns": 0,
        "sub_agents": 0, "calls": 0, "allowed": 0, "denied": 0, "asked": 0, "rewritten": 0, "waiting": 0, "breaches": 0,
        "plugin_failures": 0, "last_seq": 1
    }))
    .expect("a session")
}

fn model_call(c: &beadle_plugin::Call) -> model::Call {
    let word = |w: &beadle_plugin::Word| json!({"text": w.text, "exact": w.exact});
    let access = |a| if a == beadle_plugin::Access::Read { "read" } else { "write" };
    let path = |p: &beadle_plugin::PathUse| json!({"written": p.written, "absolute": p.absolute, "resolved": p.resolved, "access": access(p.access), "exact": p.exact});
    let redirect = |r: &beadle_plugin::Redirect| json!({"target": word(&r.target), "access": access(r.access)});
    let command = |c: &beadle_plugin::Command| {
        json!({
            "argv": c.argv.iter().map(word).collect::<Vec<_>>(), "exact": c.exact, "origin": c.origin,
            "redirects": c.redirects.iter().map(redirect).collect::<Vec<_>>()
        })
    };
    serde_json::from_value(json!({
        "agent": c.agent, "tool": c.tool, "kind": format!("{:?}", c.kind).trim_start_matches("ToolKind::").to_lowercase(),
        "input": serde_json::from_str::<Value>(&c.input).expect("JSON"), "cwd": c.cwd, "urls": c.urls, "channel": "driver",
        "paths": c.paths.iter().map(path).collect::<Vec<_>>(), "parse": "complete", "call_id": c.call_id,
        "commands": c.commands.iter().map(command).collect::<Vec<_>>()
    }))
    .expect("a call")
}
