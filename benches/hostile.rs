//! What a hostile plugin in other sessions does to the decisions of a good one: alone, beside, alone, ... in turns, so drift
//! hits all alike. Then how long after its deadline a runaway plugin is stopped.
//!
//! `cargo bench -p beadle-benches --bench hostile [-- a word of the rows wanted]`; about 100 seconds. The good session asks the standard rules, as an agent does: one call after the other, a moment apart. The hostile
//! sessions ask without a pause, four calls at once each, and quarantine is off: it would soon end the attack. The last
//! rows are eight hostile sessions of all kinds, and components that are compiled again and again.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use beadle::model;
use beadle::plugin::{Host, HostOptions, Limits, LoadSpec, Plugin, QuarantineOptions, Question, standard};
use serde_json::json;

const ROUNDS: usize = 5;
const SLICE: Duration = Duration::from_millis(600);
/// The default of a policy.
const DEADLINE: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(1);
/// Calls that a hostile session has in flight.
const AT_ONCE: usize = 4;

const WAYS: [&str; 11] =
    ["loop", "busy", "trap", "memory-touch", "giant", "json-deep", "json-digits", "log-million", "log-large", "realloc-loop", "after-loop"];

/// The guest of the tests, the newest that the host's build script made for this build.
fn liar() -> Vec<u8> {
    let exe = std::env::current_exe().expect("a running binary has a path");
    let build = exe.ancestors().map(|d| d.join("build")).find(|d| d.is_dir()).expect("built by cargo");
    let made = std::fs::read_dir(build).expect("readable").flatten().map(|e| e.path().join("out/liar.wasm"));
    let newest = made.filter_map(|p| Some((p.metadata().ok()?.modified().ok()?, p))).max();
    std::fs::read(newest.expect("built with the host").1).expect("readable")
}

fn main() {
    // `cargo test --benches` only wants to know that it starts.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let wasm = liar();
    let quarantine = QuarantineOptions { after: u32::MAX, pause: Duration::ZERO };
    let host = Host::new(HostOptions { quarantine, ..HostOptions::default() }).expect("an engine");
    let load = |wasm: Cow<'static, [u8]>, config: &str| {
        let spec = LoadSpec {
            name: config.to_owned(),
            wasm,
            config: config.to_owned(),
            limits: Limits::default(),
            grants: model::Grants::default(),
        };
        host.load(spec).expect("the plugin loads")
    };
    let question = Arc::new(question());
    let good = load(Cow::Borrowed(standard::RULES), r#"{"allow": ["Bash(git push:*)"], "deny": ["Bash(rm:*)"]}"#);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_time().build().expect("a runtime");

    println!("| beside the good session ({threads} cores) | p50 us alone | p50 us beside | x | p99 us alone | p99 us beside | x |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let mut rows: Vec<(String, Vec<Arc<Plugin>>)> = WAYS
        .iter()
        .map(|way| (format!("`{way}`, 1 session, {AT_ONCE} calls at once"), vec![load(Cow::Owned(wasm.clone()), way)]))
        .collect();
    let all = ["loop", "busy", "memory-touch", "log-large", "trap", "json-digits", "giant", "after-loop"];
    rows.push(("eight sessions, a way each".to_owned(), all.iter().map(|way| load(Cow::Owned(wasm.clone()), way)).collect()));
    rows.push(("compiling, again and again".to_owned(), vec![]));
    let mut worst = (0.0f64, 0.0f64);
    let only = std::env::args().nth(1).filter(|a| !a.starts_with('-'));
    for (what, hostile) in rows {
        if only.as_ref().is_some_and(|o| !what.contains(o.as_str())) {
            continue;
        }
        let (mut alone, mut beside) = (vec![], vec![]);
        for _ in 0..ROUNDS {
            alone.extend(runtime.block_on(ask(&good, &question)));
            let stop = Arc::<AtomicBool>::default();
            let tasks: Vec<_> = hostile
                .iter()
                .flat_map(|p| std::iter::repeat_n(p, AT_ONCE))
                .map(|p| {
                    let (p, q, stop) = (Arc::clone(p), Arc::clone(&question), Arc::clone(&stop));
                    runtime.spawn(async move {
                        while !stop.load(Ordering::Relaxed) {
                            let _ = p.decide(&q, DEADLINE).await;
                            // What refuses at once must not make this loop the attack.
                            tokio::time::sleep(Duration::from_micros(1)).await;
                        }
                    })
                })
                .collect();
            let compiling = hostile.is_empty().then(|| compile(&host, &stop));
            beside.extend(runtime.block_on(ask(&good, &question)));
            stop.store(true, Ordering::Relaxed);
            for t in tasks {
                runtime.block_on(t).expect("ended");
            }
            if let Some(c) = compiling {
                c.join().expect("ended");
            }
        }
        let mut cell = |q: f64, worst: &mut f64| {
            let (a, b) = (quantile(&mut alone, q), quantile(&mut beside, q));
            *worst = worst.max(b / a);
            format!("{a:.0} | {b:.0} | {:.2}", b / a)
        };
        println!("| {what} | {} | {} |", cell(0.5, &mut worst.0), cell(0.99, &mut worst.1));
    }
    println!("\nworst row: median {:.2} times the one alone (goal: below 2), p99 {:.2} times", worst.0, worst.1);
    let mut over: Vec<f64> = Vec::new();
    for way in ["loop", "after-loop", "realloc-loop"] {
        let p = load(Cow::Owned(wasm.clone()), way);
        for _ in 0..100 {
            let deadline = Duration::from_millis(20);
            let begun = Instant::now();
            let failed = runtime.block_on(p.decide(&question, deadline)).expect_err("it loops");
            over.push((begun.elapsed().as_secs_f64() - deadline.as_secs_f64()) * 1e3);
            assert_eq!(failed.cause, model::FailureCause::Deadline);
        }
    }
    let within = over.iter().filter(|ms| **ms <= 5.0).count();
    println!(
        "runaway plugin, over its deadline of 20 ms when it was stopped: p50 {:.2} ms, p99 {:.2} ms, worst {:.2} ms; {within} of {} within 5 ms",
        quantile(&mut over, 0.5),
        quantile(&mut over, 0.99),
        quantile(&mut over, 1.0),
        over.len()
    );
}

/// Latencies of the good session's decisions during one slice, in microseconds.
async fn ask(good: &Arc<Plugin>, question: &Arc<Question>) -> Vec<f64> {
    let mut out = vec![];
    let end = Instant::now() + SLICE;
    while Instant::now() < end {
        tokio::time::sleep(PAUSE).await;
        let begun = Instant::now();
        // A decision that comes too late counts with its time, as the others.
        let _ = good.decide(question, Duration::from_secs(5)).await;
        out.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    out
}

/// Loads components that no cache knows.
fn compile(host: &Host, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let (host, stop) = (host.clone(), Arc::clone(stop));
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let wasm = Cow::Borrowed(standard::RULES);
            let _ = host.load(LoadSpec {
                name: "new".to_owned(),
                wasm,
                config: "{}".to_owned(),
                limits: Limits::default(),
                grants: model::Grants::default(),
            });
        }
    })
}

fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * q) as usize]
}

fn question() -> Question {
    let session: model::Session = serde_json::from_value(json!({
        "id": "fix-the-build-m2k9x1a7-k3v9q", "name": "test", "agent": "claude", "status": "running", "mediation": "gate",
        "command": [], "cwd": "/home/dev/project", "home": "/home/dev", "created_at": 0, "last_activity_at": 0,
        "attempt": 1, "usage": {"input": 0, "output": 0, "cache_read": 0, "cache_write": 0}, "unpriced": 0, "turns": 0,
        "sub_agents": 0, "calls": 0, "allowed": 0, "denied": 0, "asked": 0, "rewritten": 0, "waiting": 0, "breaches": 0,
        "plugin_failures": 0, "last_seq": 1
    }))
    .expect("a session");
    let call: model::Call = serde_json::from_value(json!({
        "agent": "claude", "tool": "Bash", "kind": "execute", "input": {"command": "git push origin main"}, "cwd": "/home/dev/project",
        "paths": [], "urls": [], "parse": "complete", "channel": "driver", "call_id": "toolu_1",
        "commands": [{"argv": [{"text": "git", "exact": true}, {"text": "push", "exact": true}], "env": [], "origin": [], "exact": true,
            "redirects": []}]
    }))
    .expect("a call");
    Question::new(&session, &call, 0)
}
