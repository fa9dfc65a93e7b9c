//! Durable append against the raw disk, in one run: `cargo bench -p beadle-benches --bench append [-- seconds per case]`.
//!
//! Raw = 500-byte records appended to a file with one `fdatasync` per acknowledgement (1 writer) or per group (64 blocked writers, one
//! committer). Store = the same bodies as events, with chain, projection and index. Cases are interleaved over rounds; medians are shown.
#![allow(clippy::print_stdout, reason = "a bench's output is its purpose")]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use beadle::model::{AgentReplied, Event, SessionId};
use beadle::store::{Batch, Filter, Options, Store};

type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const ROUNDS: usize = 5;
const WRITERS: usize = 64;
const RECORD: usize = 500;

/// Latencies in nanoseconds of one case in one round, and how long it took.
struct Round {
    taken: Duration,
    ns: Vec<u64>,
}

#[derive(Default)]
struct Case {
    rate: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Case {
    fn add(&mut self, mut r: Round) {
        r.ns.sort_unstable();
        let at = |p: usize| r.ns.get((r.ns.len() * p / 100).min(r.ns.len().saturating_sub(1))).map_or(0.0, |n| *n as f64 / 1e3);
        self.rate.push(r.ns.len() as f64 / r.taken.as_secs_f64());
        self.p50.push(at(50));
        self.p99.push(at(99));
    }
    fn show(&self, name: &str) {
        println!("{name:<28} {:>10.0}/s   p50 {:>8.1} us   p99 {:>8.1} us", median(&self.rate), median(&self.p50), median(&self.p99));
    }
}

fn median(v: &[f64]) -> f64 {
    let mut v = v.to_vec();
    v.sort_by(f64::total_cmp);
    v.get(v.len() / 2).copied().unwrap_or(0.0)
}

fn main() -> Result {
    let seconds = std::env::args().skip(1).find_map(|a| a.parse::<f64>().ok()).unwrap_or(1.0);
    let span = Duration::from_secs_f64(seconds);
    let dir = tempfile::tempdir_in(option_env!("CARGO_TARGET_TMPDIR").unwrap_or("."))?;
    let store = Store::open(&dir.path().join("store"), Options::default())?;
    let (mut raw1, mut store1, mut raw64, mut store64) = (Case::default(), Case::default(), Case::default(), Case::default());
    let one = create(&store, "one")?;
    let many: Vec<_> = (0..WRITERS).map(|i| create(&store, &format!("many-{i}"))).collect::<Result<_>>()?;
    // why: the first commits lengthen the log file; users live in the state after that.
    store_append(&store, std::slice::from_ref(&one), span / 2)?;
    store_append(&store, &many, span / 2)?;
    for round in 0..ROUNDS {
        raw1.add(raw_single(&dir.path().join(format!("raw1-{round}")), span)?);
        store1.add(store_append(&store, std::slice::from_ref(&one), span)?);
        raw64.add(raw_group(&dir.path().join(format!("raw64-{round}")), span)?);
        store64.add(store_append(&store, &many, span)?);
    }
    raw1.show("raw, 1 writer");
    store1.show("store, 1 writer");
    raw64.show("raw group, 64 writers");
    store64.show("store, 64 writers");
    let ratio = |a: &Case, b: &Case| median(&a.rate) / median(&b.rate);
    println!("store / raw, 1 writer          {:>6.2}   goal >= 0.90", ratio(&store1, &raw1));
    println!("store / raw, 64 writers        {:>6.2}   goal >= 0.35", ratio(&store64, &raw64));
    println!("p99 of 64 / p99 of 1 (store)   {:>6.2}   goal <= 8", median(&store64.p99) / median(&store1.p99));
    reads(&store, &one)?;
    let t = Instant::now();
    let report = store.verify(None)?;
    println!("verify: {} events in {:.2} s, sound: {}", report.events, t.elapsed().as_secs_f64(), report.is_sound());
    Ok(())
}

fn reads(store: &Store, long: &SessionId) -> Result {
    for i in 0..10_000 / 500 {
        let firsts = (0..500).map(|n| beadle_benches::created(&format!("s-{i}-{n}"))).collect::<serde_json::Result<Vec<_>>>()?;
        let tickets: Vec<_> = firsts.into_iter().map(|b| store.append(b)).collect();
        tickets.into_iter().try_for_each(|t| t.wait().map(drop))?;
    }
    while store.session(long)?.last_seq < 100_000 {
        let events = (0..1_000).map(|_| event()).collect();
        store.append(batch(long, events)).wait()?;
    }
    let mut list = Vec::new();
    let mut tail = Vec::new();
    for _ in 0..500 {
        let t = Instant::now();
        assert_eq!(store.sessions(&Filter::default())?.items.len(), 50);
        list.push(t.elapsed().as_secs_f64() * 1e3);
        let t = Instant::now();
        assert_eq!(store.tail(long, 200)?.len(), 200);
        tail.push(t.elapsed().as_secs_f64() * 1e3);
    }
    println!("newest 50 of 10,000 sessions   {:>6.3} ms   goal <= 0.5", median(&list));
    println!("last 200 of 100,000 events     {:>6.3} ms   goal <= 0.5", median(&tail));
    Ok(())
}

fn event() -> Event {
    Event::AgentReplied(AgentReplied { text: "a".repeat(RECORD - 40), message_id: Some("msg_0123456789".to_owned()), parent_call_id: None })
}

fn batch(session: &SessionId, events: Vec<Event>) -> Batch {
    Batch {
        session: session.clone(),
        expected: None,
        attempt: 1,
        at: 1_795_232_000_000,
        events,
        cursor: None,
        frames: Vec::new(),
        taken: None,
        blobs: Vec::new(),
    }
}

fn create(store: &Store, name: &str) -> Result<SessionId> {
    let b = beadle_benches::created(name)?;
    let id = b.session.clone();
    store.append(b).wait()?;
    Ok(id)
}

fn store_append(store: &Store, sessions: &[SessionId], span: Duration) -> Result<Round> {
    let begin = Instant::now();
    let work = |id: &SessionId| -> Result<Vec<u64>> {
        let mut ns = Vec::new();
        while begin.elapsed() < span {
            let b = batch(id, vec![event()]);
            let t = Instant::now();
            store.append(b).wait()?;
            ns.push(nanos(t));
        }
        Ok(ns)
    };
    let ns = all(sessions.iter().map(|id| move || work(id)).collect())?;
    Ok(Round { taken: begin.elapsed(), ns })
}

fn raw_single(path: &Path, span: Duration) -> Result<Round> {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    let record = vec![b'a'; RECORD];
    let (begin, mut ns) = (Instant::now(), Vec::new());
    while begin.elapsed() < span {
        let t = Instant::now();
        file.write_all(&record)?;
        file.sync_data()?;
        ns.push(nanos(t));
    }
    Ok(Round { taken: begin.elapsed(), ns })
}

/// What waits for the raw committer.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    waiting: Vec<(Thread, Arc<AtomicBool>)>,
    done: bool,
}

fn raw_group(path: &Path, span: Duration) -> Result<Round> {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    let shared = (Mutex::new(Pending::default()), Condvar::new());
    let begin = Instant::now();
    let commit = |file: &mut File| -> Result {
        loop {
            let mut p = shared
                .1
                .wait_while(shared.0.lock().map_err(|e| e.to_string())?, |p| p.waiting.is_empty() && !p.done)
                .map_err(|e| e.to_string())?;
            if p.waiting.is_empty() {
                return Ok(());
            }
            let (bytes, waiting) = (std::mem::take(&mut p.bytes), std::mem::take(&mut p.waiting));
            drop(p);
            file.write_all(&bytes)?;
            file.sync_data()?;
            for (thread, ready) in waiting {
                ready.store(true, Ordering::Release);
                thread.unpark();
            }
        }
    };
    let write = || -> Result<Vec<u64>> {
        let (record, mut ns, ready) = (vec![b'a'; RECORD], Vec::new(), Arc::new(AtomicBool::new(false)));
        while begin.elapsed() < span {
            let t = Instant::now();
            ready.store(false, Ordering::Relaxed);
            let mut p = shared.0.lock().map_err(|e| e.to_string())?;
            p.bytes.extend_from_slice(&record);
            p.waiting.push((thread::current(), Arc::clone(&ready)));
            drop(p);
            shared.1.notify_one();
            while !ready.load(Ordering::Acquire) {
                thread::park();
            }
            ns.push(nanos(t));
        }
        Ok(ns)
    };
    thread::scope(|s| {
        let committer = s.spawn(|| commit(&mut file));
        let ns = all((0..WRITERS).map(|_| write).collect());
        shared.0.lock().map_err(|e| e.to_string())?.done = true;
        shared.1.notify_one();
        committer.join().map_err(|_| "the committer panicked")??;
        Ok(Round { taken: begin.elapsed(), ns: ns? })
    })
}

/// Runs each in a thread of its own and joins their latencies.
fn all<F: FnOnce() -> Result<Vec<u64>> + Send>(work: Vec<F>) -> Result<Vec<u64>> {
    thread::scope(|s| {
        let running: Vec<_> = work.into_iter().map(|w| s.spawn(w)).collect();
        let mut ns = Vec::new();
        for r in running {
            ns.extend(r.join().map_err(|_| "a writer panicked")??);
        }
        Ok(ns)
    })
}

fn nanos(t: Instant) -> u64 {
    u64::try_from(t.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
