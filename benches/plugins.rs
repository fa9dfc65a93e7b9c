//! Policies together: a chain of 1, 3 and 10 of them, versions swapped under load, fifty plugins from the cache.
//!
//! `cargo build --release && cargo bench -p beadle-benches --bench plugins [-- chain question reload cached]`. Every policy is a component
//! as it is shipped, in the chain that sessions use; `question` is the same chain through the real binary, answers durable. What is
//! compared runs in turns, so drift hits all alike.
#![allow(clippy::print_stdout, reason = "a bench reports on stdout")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use beadle::config::Folders;
use beadle::model::{Call, Channel, Effect, Envelope, Grants, Installed, Mode, OnFailure, PluginLock, PluginVersion, Session};
use beadle::plugin::{CacheOptions, Host as Plugins, HostOptions, standard};
use beadle::policy::call::{self, CallInput};
use beadle::policy::paths::RealPaths;
use beadle::policy::{Chain, Chains};
use beadle_benches::created;
use beadle_benches::rig::{Asked, Host, at, flushes, plays_agent, row, sorted};
use serde_json::json;
use tokio::runtime::Runtime;

/// The same question as the agent of `rig` asks.
const COMMAND: &str = "git status --short && cargo test --workspace";
/// What lets it pass in every chain.
const ALLOW: &str = r#"{"allow":["Bash(git status:*)","Bash(cargo test:*)"],"deny":["Bash(git push:*)","Bash(rm:*)"]}"#;
const ROUNDS: usize = 9;
const SLICE: Duration = Duration::from_millis(400);
const QUESTIONS: usize = 400;
const QUESTION_ROUNDS: usize = 5;
const SWAPPING: Duration = Duration::from_secs(1);
const CACHED: u8 = 50;
const LOADS: usize = 9;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` only wants to know that it starts.
    if plays_agent(&args)? || args.iter().any(|a| a == "--test") {
        return Ok(());
    }
    let chosen = |part: &str| !args.iter().any(|a| !a.starts_with('-')) || args.iter().any(|a| a == part);
    if chosen("chain") {
        chain()?;
    }
    if chosen("question") {
        question()?;
    }
    if chosen("reload") {
        reload()?;
    }
    if chosen("cached") {
        cached()?;
    }
    Ok(())
}

// ---- policies ----

/// A configuration of so many policies, at most 10, of which the first allows the question.
fn policies(count: usize) -> String {
    let entry =
        |name: &str, plugin: &str, config: &str| format!("[[policy]]\nname = {name:?}\nplugin = {plugin:?}\n[policy.config]\n{config}\n");
    let mut all = vec![
        entry("rules", "rules", "allow = [\"Bash(git status:*)\", \"Bash(cargo test:*)\"]\ndeny = [\"Bash(git push:*)\", \"Bash(rm:*)\"]"),
        entry("paths", "paths", "write = [\"@write-root\"]"),
        entry("hello", "hello", ""),
        entry("budget", "budget", "calls = 1000000"),
        entry("egress", "egress", "deny = [\"pastebin.com\"]"),
    ];
    all.extend((0..5).map(|n| entry(&format!("team{n}"), "rules", &format!("deny = [\"Bash(sudo:*)\", \"Bash(no{n}:*)\"]"))));
    all.truncate(count);
    all.concat()
}

fn folders(dir: &Path, config: &str) -> Result<Folders> {
    let sub = |n: &str| dir.join(n);
    let f = Folders { config: sub("config"), data: sub("data"), cache: sub("cache"), runtime: sub("run") };
    f.create()?;
    std::fs::write(f.config_file(), config)?;
    Ok(f)
}

/// As the daemon makes them, with the cache on disk.
fn chains(f: &Folders) -> Result<Chains> {
    let cache = Some(CacheOptions { dir: f.cache.join("plugins"), key: [7; 32] });
    Ok(Chains::new(f.clone(), Plugins::new(HostOptions { cache, ..HostOptions::default() })?, BTreeMap::new()))
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

fn folder() -> Result<tempfile::TempDir> {
    let exe = std::env::current_exe()?;
    Ok(tempfile::Builder::new().prefix("bdl").tempdir_in(exe.parent().context("a folder")?)?)
}

/// A call record as the host makes it, and a session of it.
fn subject() -> Result<(Session, Call)> {
    let mut batch = created("bench")?;
    let first = batch.events.swap_remove(0);
    let session = Session::begin(&Envelope { session: batch.session, seq: 1, at: batch.at, attempt: 0, event: first });
    let input = CallInput {
        agent: "claude",
        tool: "Bash",
        input: &json!({ "command": COMMAND, "description": "x".repeat(380) }),
        cwd: "/home/user/project",
        write_root: None,
        home: Some("/home/user"),
        call_id: Some("t1"),
        parent_call_id: None,
        sub_agent: None,
        channel: Channel::Driver,
    };
    Ok((session.context("a session")?, call::build(&input, &RealPaths)))
}

async fn judge(chain: &Chain, session: &Session, call: &Call) -> Result<beadle::policy::Judged> {
    let judged = chain.judge(session, call, 1_795_232_000_000, &|_| Err("no policy here rewrites".into())).await;
    ensure!(judged.effect == Effect::Allow && judged.failures.is_empty(), "{judged:?}");
    Ok(judged)
}

// ---- chains ----

fn chain() -> Result<()> {
    let (dir, rt, (session, call)) = (folder()?, runtime()?, subject()?);
    let mut made = Vec::new();
    for count in [1, 3, 10] {
        let c = chains(&folders(&dir.path().join(count.to_string()), &policies(count))?)?;
        let chain = rt.block_on(c.assemble(None, &[]))?.chain;
        ensure!(chain.slots.len() == count && chain.slots.iter().all(|s| s.policy.is_ok()), "{count} policies are to be loaded");
        made.push((count, chain, Vec::new()));
    }
    for _ in 0..ROUNDS {
        for (_, chain, micros) in &mut made {
            rt.block_on(async {
                let end = Instant::now() + SLICE;
                while Instant::now() < end {
                    let begun = Instant::now();
                    judge(chain, &session, &call).await?;
                    micros.push(begun.elapsed().as_nanos() as f64 / 1e3);
                }
                Ok::<_, anyhow::Error>(())
            })?;
        }
    }
    println!("{:<58} {:>9} {:>9}", "a chain judges one call, in process", "p50 us", "p99 us");
    let mut one = 0.0;
    for (count, _, micros) in made {
        let v = sorted(micros.into_iter());
        row(&format!("{count} policies"), &v);
        one = if count == 1 { at(&v, 0.5) } else { one };
        println!("  {:.1} us a policy, {:.2}x the chain of one", at(&v, 0.5) / count as f64, at(&v, 0.5) / one);
    }
    println!();
    Ok(())
}

fn question() -> Result<()> {
    let hosts = [1, 3, 10].map(|count| Host::new(&policies(count)).map(|h| (count, h)));
    let mut all = hosts.into_iter().map(|h| h.map(|(c, h)| (c, h, Vec::new()))).collect::<Result<Vec<_>>>()?;
    let flush = flushes(all[0].1.dir.path(), 500)?;
    for round in 0..QUESTION_ROUNDS {
        for (_, host, micros) in &mut all {
            let (program, out) = host.asker(&format!("r{round}"), QUESTIONS)?;
            let id = host.start(&program)?;
            host.ended(&id)?;
            micros.extend(Asked::read(&out)?.times());
        }
    }
    println!("{:<58} {:>9} {:>9}", "a question of an agent, recorded and answered", "p50 us", "p99 us");
    row("append + fdatasync, 4 KiB", &flush);
    for (count, _, micros) in all {
        row(&format!("{count} policies"), &sorted(micros.into_iter()));
    }
    println!();
    Ok(())
}

// ---- versions swapped under load ----

fn installed(name: &str, digest: &str) -> Installed {
    let version = PluginVersion {
        version: "1".into(),
        digest: digest.into(),
        purpose: String::new(),
        origin: String::new(),
        added_at: String::new(),
        moments: vec![],
        wants: vec![],
        grants: Grants::default(),
    };
    Installed {
        name: name.into(),
        plugin: "rules".into(),
        kind: "permission-policy".into(),
        enabled: true,
        version: "1".into(),
        digest: digest.into(),
        previous: None,
        since: String::new(),
        grants: Grants::default(),
        mode: Mode::Enforce,
        on_failure: OnFailure::Deny,
        deadline_ms: 10_000,
        config: ALLOW.into(),
        versions: vec![version],
    }
}

/// The component with a custom section of its own, which makes it another one.
fn variant(wasm: &[u8], n: u8) -> Vec<u8> {
    [wasm, &[0, 3, 1, b'n', n]].concat()
}

const NO_RULES: &str = "[[policy]]\nname = \"rules\"\nenabled = false\n";

fn reload() -> Result<()> {
    let (dir, rt, (session, call)) = (folder()?, runtime()?, subject()?);
    let chains = chains(&folders(dir.path(), NO_RULES)?)?;
    let digests = [chains.registry().put(&variant(standard::RULES, 0))?, chains.registry().put(&variant(standard::RULES, 1))?];
    // Two policies that are always of the same version, so that a decision of two versions shows.
    let set = |d: &str| chains.set_installed(PluginLock { format: 1, plugins: vec![installed("left", d), installed("right", d)] });
    let subject = Arc::new((session, call));
    let mut rows: Vec<(f64, f64, f64)> = Vec::new();
    let (mut decided, mut swaps) = (0, 0usize);
    for _ in 0..ROUNDS {
        let mut rates = [0.0; 2];
        let before = swaps;
        for (swapping, rate) in rates.iter_mut().enumerate() {
            set(&digests[swaps % 2]);
            let (live, seen) = tokio::sync::watch::channel(rt.block_on(chains.assemble(None, &[]))?.chain);
            let stop = Arc::new(AtomicBool::new(false));
            let begun = Instant::now();
            let tasks: Vec<_> = (0..2)
                .map(|_| {
                    let (seen, stop, subject) = (seen.clone(), stop.clone(), subject.clone());
                    rt.spawn(async move {
                        let mut count = 0u64;
                        while !stop.load(Ordering::Relaxed) {
                            let chain = seen.borrow().clone();
                            let judged = judge(&chain, &subject.0, &subject.1).await?;
                            let whole = judged.answers.len() == 2 && judged.answers[0].digest == judged.answers[1].digest;
                            ensure!(whole, "a decision of two versions: {judged:?}");
                            count += 1;
                        }
                        Ok::<_, anyhow::Error>(count)
                    })
                })
                .collect();
            while begun.elapsed() < SWAPPING {
                if swapping == 0 {
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                }
                swaps += 1;
                set(&digests[swaps % 2]);
                live.send_replace(rt.block_on(chains.assemble(None, &[]))?.chain);
            }
            let took = begun.elapsed();
            stop.store(true, Ordering::Relaxed);
            let mut count = 0;
            for t in tasks {
                count += rt.block_on(t)??;
            }
            decided += count;
            *rate = count as f64 / took.as_secs_f64();
        }
        rows.push((rates[0], rates[1], (swaps - before) as f64 / SWAPPING.as_secs_f64()));
    }
    let median = |of: fn(&(f64, f64, f64)) -> f64| at(&sorted(rows.iter().map(of)), 0.5);
    println!("two policies, versions swapped without pause, two threads deciding (medians of {ROUNDS} rounds of {SWAPPING:?})");
    println!("  decisions a second   {:>9.0} without swaps", median(|r| r.0));
    println!("                       {:>9.0} beside {:.0} swaps a second", median(|r| r.1), median(|r| r.2));
    println!("                       {:>9.2}x", median(|r| r.1 / r.0));
    println!("  of {decided} decisions none failed and none was of two versions, over {swaps} swaps   goal >= 1000 a second\n");
    Ok(())
}

// ---- plugins from the cache ----

fn cached() -> Result<()> {
    let rt = runtime()?;
    for (name, differ) in [("50 configurations of one component", false), ("50 components", true)] {
        let dir = folder()?;
        let f = folders(dir.path(), NO_RULES)?;
        let load = || -> Result<f64> {
            let c = chains(&f)?;
            let plugins = (0..CACHED).map(|n| {
                let wasm = variant(standard::RULES, if differ { n } else { 0 });
                let config = json!({ "allow": ["Bash(git status:*)"], "deny": [format!("Bash(no{n}:*)")] }).to_string();
                Ok(Installed { config, ..installed(&format!("p{n:02}"), &c.registry().put(&wasm)?) })
            });
            c.set_installed(PluginLock { format: 1, plugins: plugins.collect::<Result<_>>()? });
            let begun = Instant::now();
            let made = rt.block_on(c.assemble(None, &[]))?;
            let took = begun.elapsed().as_secs_f64() * 1e3;
            ensure!(
                made.chain.slots.iter().filter(|s| s.policy.is_ok()).count() == usize::from(CACHED),
                "{CACHED} policies are to be loaded"
            );
            Ok(took)
        };
        let compiled = load()?;
        let warm = sorted((0..LOADS).map(|_| load()).collect::<Result<Vec<_>>>()?.into_iter());
        println!(
            "{name} of the standard policy rules: {:.0} ms from the cache (p50 of {LOADS}, worst {:.0}), {compiled:.0} ms compiled, {:.0}x   goal < 100 ms",
            at(&warm, 0.5),
            at(&warm, 1.0),
            compiled / at(&warm, 0.5)
        );
    }
    println!();
    Ok(())
}
