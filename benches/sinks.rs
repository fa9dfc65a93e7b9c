//! Delivery from the store into a file and a loopback receiver that fails one request of ten, and what it costs appends:
//! `cargo bench -p beadle-benches --bench sinks [-- events]`.
//!
//! Drain: a log of so many events (about 500 bytes each, 64 sessions) is there before the sink starts; timed until the last was taken; then one of calls (question,
//! decision, start, result, model call, reply) into `http` and `otlp`, whose spans are made from them. Append: 8
//! writers, without sinks and with both beside them, interleaved over rounds; medians are shown. The receiver shares the machine's cores.
#![allow(clippy::print_stdout, reason = "a bench's output is its purpose")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use beadle::config::{HttpConfig, JsonlConfig, OtlpConfig, SinkEntry, SinkKind, SinkMode};
use beadle::model::{AgentReplied, Event, Installed, OsEntropy, SessionId, SystemClock};
use beadle::plugin::{Host, HostOptions};
use beadle::sink::{Parts, Pins, Sinks};
use beadle::store::{Batch, Options, Store};

type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const SESSIONS: usize = 64;
const WRITERS: usize = 8;
const ROUNDS: usize = 5;
const SPAN: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> Result {
    let events = std::env::args().skip(1).find_map(|a| a.parse::<u64>().ok()).unwrap_or(100_000);
    let dir = tempfile::tempdir_in(option_env!("CARGO_TARGET_TMPDIR").unwrap_or("."))?;
    let store = Store::open(&dir.path().join("store"), Options::default())?;
    let ids: Vec<_> = (0..SESSIONS).map(|i| create(&store, &format!("s-{i}"))).collect::<Result<_>>()?;
    fill(&store, &ids, events)?;
    let receiver = Receiver::start()?;
    for (name, kind) in [("jsonl", jsonl(dir.path(), "drain")), ("http", receiver.kind()?)] {
        receiver.reset();
        let begun = Instant::now();
        let sinks = start(&store, vec![entry(name, kind, true)]).await?;
        let s = loop {
            let s = sinks.status().remove(0);
            if s.delivered >= events {
                break s;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        let seconds = begun.elapsed().as_secs_f64();
        sinks.stop().await;
        let rate = s.delivered as f64 / seconds;
        let more = if name == "http" {
            let (asked, failed, came) = receiver.counts();
            format!("{asked} requests, {failed} of them failed, {} events came twice", came.saturating_sub(s.delivered))
        } else {
            String::new()
        };
        println!("drain into {name:<6} {rate:>10.0} events/s  ({} in {seconds:.2} s)  {more}", s.delivered);
    }
    calls(&dir.path().join("calls"), &receiver, events).await?;
    let (mut alone, mut beside) = (vec![], vec![]);
    append(&store, &ids)?;
    for round in 0..ROUNDS {
        alone.push(append(&store, &ids)?);
        let newest = |name: &str, kind| entry(&format!("{name}-{round}"), kind, false);
        let both = vec![newest("jsonl", jsonl(dir.path(), &format!("r{round}"))), newest("http", receiver.kind()?)];
        let sinks = start(&store, both).await?;
        beside.push(append(&store, &ids)?);
        let lag: Vec<u64> = sinks.status().iter().map(|s| s.lag_events).collect();
        println!(
            "  round {round}: {:.0}/s alone, {:.0}/s beside two sinks, which were {lag:?} events behind",
            alone[round].0, beside[round].0
        );
        sinks.stop().await;
    }
    let median = |v: &[(f64, f64)], f: fn(&(f64, f64)) -> f64| {
        let mut v: Vec<f64> = v.iter().map(f).collect();
        v.sort_by(f64::total_cmp);
        v[v.len() / 2]
    };
    let (a, b) = (median(&alone, |m| m.0), median(&beside, |m| m.0));
    println!("append, 8 writers: {a:.0}/s alone, {b:.0}/s beside two sinks, ratio {:.2}", b / a);
    println!("append p50: {:.0} us alone, {:.0} us beside two sinks", median(&alone, |m| m.1), median(&beside, |m| m.1));
    Ok(())
}

/// The same events as CloudEvents and as spans.
async fn calls(dir: &Path, receiver: &Receiver, events: u64) -> Result {
    let store = Store::open(dir, Options::default())?;
    let ids: Vec<_> = (0..SESSIONS).map(|i| create(&store, &format!("c-{i}"))).collect::<Result<_>>()?;
    let rounds = events / (6 * SESSIONS as u64);
    for round in 0..rounds {
        // Each session has one event so far, and six more a round.
        let tickets: Vec<_> = ids.iter().map(|id| Ok(store.append(one_call(id, 2 + round * 6)?))).collect::<Result<_>>()?;
        tickets.into_iter().try_for_each(|t| t.wait().map(drop))?;
    }
    let newest = store.sink_reader()?.newest()?;
    for (name, kind) in [("http", receiver.kind()?), ("otlp", receiver.otlp()?)] {
        receiver.reset();
        let begun = Instant::now();
        let sinks = start(&store, vec![entry(name, kind, true)]).await?;
        while sinks.status().remove(0).place.row < newest.row {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let seconds = begun.elapsed().as_secs_f64();
        let s = sinks.status().remove(0);
        sinks.stop().await;
        let all = rounds * 6 * SESSIONS as u64;
        let (asked, failed, _) = receiver.counts();
        let (rate, taken) = (all as f64 / seconds, s.delivered as f64 / seconds);
        println!(
            "calls into {name:<6} {rate:>10.0} events/s of the log, {taken:.0}/s for it  ({all} in {seconds:.2} s)  {asked} requests, {failed} of them failed"
        );
    }
    Ok(())
}

fn one_call(session: &SessionId, seq: u64) -> Result<Batch> {
    let id = format!("toolu_{seq}");
    let text = |n| "a".repeat(n);
    let excerpt = serde_json::json!({ "text": text(300), "bytes": 300 });
    let call = serde_json::json!({ "agent": "claude", "tool": "Bash", "kind": "execute", "input": { "command": text(80) }, "cwd": "/work",
        "parse": "complete", "call_id": id, "channel": "driver" });
    let answer = serde_json::json!({ "policy": "rules", "digest": text(64), "mode": "enforce", "effect": "allow", "latency_us": 40 });
    let bodies = [
        ("tool_requested", serde_json::json!({ "call": call })),
        (
            "tool_decided",
            serde_json::json!({ "call": seq, "effect": "allow", "by": "policy", "reason": "allowed", "answers": [answer],
                "input_hash": text(64), "latency_us": 250 }),
        ),
        ("tool_started", serde_json::json!({ "call": seq })),
        ("tool_ended", serde_json::json!({ "call": seq, "call_id": id, "is_error": false, "output": excerpt })),
        (
            "model_responded",
            serde_json::json!({ "message_id": format!("msg_{seq}"), "model": "claude-opus-4-8", "cost": 1_500_000,
                "usage": { "input": 3, "output": 40, "cache_read": 9000, "cache_write": 70 } }),
        ),
        ("agent_replied", serde_json::json!({ "text": text(200) })),
    ];
    let read = |(kind, body): &(&str, serde_json::Value)| Event::from_parts(kind, body.to_string().as_bytes());
    let events = bodies.iter().map(read).collect::<Result<_, _>>()?;
    Ok(Batch { events, ..batch(session, 0) })
}

/// No plugin is installed.
struct Nothing;

impl Pins for Nothing {
    fn generation(&self) -> u64 {
        0
    }

    fn find(&self, name: &str) -> Result<(Installed, Vec<u8>), String> {
        Err(format!("{name} is not installed"))
    }

    fn broke(&self, _digest: &str, _cause: beadle::model::FailureCause) {}
}

async fn start(store: &Store, sinks: Vec<SinkEntry>) -> Result<Sinks> {
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(OsEntropy));
    let plugins = Host::new(HostOptions::default())?;
    Ok(Sinks::start(Parts { sinks, groups: vec![], store: store.clone(), plugins, pins: Arc::new(Nothing), clock, entropy }).await?)
}

fn entry(name: &str, kind: SinkKind, from_oldest: bool) -> SinkEntry {
    SinkEntry {
        name: name.to_owned(),
        kind,
        mode: SinkMode::AtLeastOnce,
        group: String::new(),
        kinds: vec![],
        labels: vec![],
        from_oldest,
        batch_events: 1_000,
        timeout_ms: 10_000,
        retry_max_ms: 1_000,
        max_lag_events: u64::MAX,
        max_lag_ms: u64::MAX,
        drop_after_events: u64::MAX,
    }
}

fn jsonl(dir: &Path, name: &str) -> SinkKind {
    SinkKind::Jsonl(JsonlConfig { path: dir.join(format!("{name}.jsonl")), max_bytes: 1 << 30, max_age_ms: 0, keep: 0 })
}

fn create(store: &Store, name: &str) -> Result<SessionId> {
    let b = beadle_benches::created(name)?;
    let id = b.session.clone();
    store.append(b).wait()?;
    Ok(id)
}

fn batch(session: &SessionId, n: usize) -> Batch {
    let event =
        || Event::AgentReplied(AgentReplied { text: "a".repeat(460), message_id: Some("msg_0123456789".to_owned()), parent_call_id: None });
    Batch {
        session: session.clone(),
        expected: None,
        attempt: 1,
        at: 1_795_232_000_000,
        events: (0..n).map(|_| event()).collect(),
        cursor: None,
        frames: Vec::new(),
        taken: None,
        blobs: Vec::new(),
    }
}

fn fill(store: &Store, ids: &[SessionId], events: u64) -> Result {
    for _ in 0..events.div_ceil(100 * ids.len() as u64) {
        let tickets: Vec<_> = ids.iter().map(|id| store.append(batch(id, 100))).collect();
        tickets.into_iter().try_for_each(|t| t.wait().map(drop))?;
    }
    Ok(())
}

/// Appends a second, and the median latency in microseconds.
fn append(store: &Store, ids: &[SessionId]) -> Result<(f64, f64)> {
    let begun = Instant::now();
    let work = |id: &SessionId| -> Result<Vec<f64>> {
        let mut took = vec![];
        while begun.elapsed() < SPAN {
            let t = Instant::now();
            store.append(batch(id, 1)).wait()?;
            took.push(t.elapsed().as_secs_f64() * 1e6);
        }
        Ok(took)
    };
    let mut all = std::thread::scope(|s| {
        let threads: Vec<_> = ids.iter().take(WRITERS).map(|id| s.spawn(|| work(id))).collect();
        threads.into_iter().map(|t| t.join().map_err(|_| "a writer ended abnormally")?).collect::<Result<Vec<_>>>()
    })?
    .concat();
    all.sort_by(f64::total_cmp);
    Ok((all.len() as f64 / begun.elapsed().as_secs_f64(), all[all.len() / 2]))
}

/// Takes batches; one request of ten fails with 503, closes, or takes the batch and closes, in turn.
struct Receiver {
    port: u16,
    asked: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    came: Arc<AtomicU64>,
}

impl Receiver {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let it = Self { port: listener.local_addr()?.port(), asked: Arc::default(), failed: Arc::default(), came: Arc::default() };
        let (asked, failed, came) = (it.asked.clone(), it.failed.clone(), it.came.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(std::result::Result::ok) {
                let n = asked.fetch_add(1, Ordering::Relaxed);
                let fails = n % 10 == 3;
                if fails {
                    failed.fetch_add(1, Ordering::Relaxed);
                }
                // why ignored: a client that is gone is no matter of the bench.
                let _ = serve(stream, fails.then_some(n / 10 % 3), &came);
            }
        });
        Ok(it)
    }

    fn kind(&self) -> Result<SinkKind> {
        let url = format!("http://127.0.0.1:{}/", self.port).parse()?;
        Ok(SinkKind::Http(HttpConfig { url, secret_file: None, secret_env: None, bearer_file: None, bearer_env: None }))
    }

    fn otlp(&self) -> Result<SinkKind> {
        let url = format!("http://127.0.0.1:{}/", self.port).parse()?;
        let (bearer_file, bearer_env, headers_file) = (None, None, None);
        Ok(SinkKind::Otlp(Box::new(OtlpConfig {
            url,
            traces: true,
            metrics: true,
            content: false,
            interval_ms: 1_000,
            bearer_file,
            bearer_env,
            headers_file,
            resource: vec![],
        })))
    }

    fn reset(&self) {
        for n in [&self.asked, &self.failed, &self.came] {
            n.store(0, Ordering::Relaxed);
        }
    }

    fn counts(&self) -> (u64, u64, u64) {
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        (of(&self.asked), of(&self.failed), of(&self.came))
    }
}

fn serve(mut stream: TcpStream, fails: Option<u64>, came: &AtomicU64) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut len, mut events) = (0, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let (name, value) = line.trim().split_once(": ").unwrap_or_default();
        match name {
            "content-length" => len = value.parse().unwrap_or(0),
            "beadle-events" => events = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    reader.read_exact(&mut vec![0; len])?;
    if matches!(fails, None | Some(2)) {
        came.fetch_add(events, Ordering::Relaxed);
    }
    match fails {
        None => stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"),
        Some(0) => stream.write_all(b"HTTP/1.1 503 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
        Some(_) => Ok(()),
    }
}
