//! Events a second of programs that write sessions of their own, against raw appends to a store, in one run:
//! `cargo build --release && cargo bench -p beadle-benches --bench writes [-- seconds per case]`.
//!
//! A write goes through the command's client, the socket, the daemon and its store, and is durable when it is counted. Raw = the same
//! notes appended to a store in this process, one event an append. Rounds are interleaved; medians are shown.
#![allow(clippy::print_stdout, reason = "a bench reports on stdout")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use beadle::api::client::{Client, Writer};
use beadle::api::types::{BriefRequest, OpenRequest};
use beadle::config::Folders;
use beadle::model::written::{AttemptStart, Text, Write, Written};
use beadle::model::{Event, Note};
use beadle::store::{Batch, Options, Store};
use beadle_benches::rig::{Host, at, sorted};

const ROUNDS: usize = 5;
const MANY: usize = 8;
const BATCH: usize = 100;

fn main() -> Result<()> {
    let seconds = std::env::args().skip(1).find_map(|a| a.parse::<f64>().ok()).unwrap_or(1.0);
    let span = Duration::from_secs_f64(seconds);
    let host = Host::new("")?;
    host.run(&["ls"])?;
    let home = host.dir.path().join("b");
    let folders = Folders { config: home.join("config"), data: home.join("data"), cache: home.join("cache"), runtime: home.join("run") };
    let client = Client::without_start(folders);
    let store = Store::open(&host.dir.path().join("raw"), Options::default())?;
    let first = beadle_benches::created("raw")?;
    let id = first.session.clone();
    store.append(first).wait()?;
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut rates: [Vec<f64>; 5] = Default::default();
    for round in 0..ROUNDS {
        rates[0].push(raw(&store, &id, span)?);
        for (i, (writers, batch)) in [(1, 1), (MANY, 1), (1, BATCH), (MANY, BATCH)].into_iter().enumerate() {
            rates[i + 1].push(rt.block_on(write(&client, &format!("{round}-{i}"), writers, batch, span))?);
        }
    }
    let median = |v: &[f64]| at(&sorted(v.iter().copied()), 0.5);
    let raw = median(&rates[0]);
    println!("{:<44} {:>10} {:>8}", "", "events/s", "of raw");
    println!("{:<44} {raw:>10.0} {:>8.2}", "raw store appends, 1 writer, 1 event each", 1.0);
    let names =
        ["1 writer, 1 event a write", "8 writers, 1 event a write", "1 writer, 100 events a write", "8 writers, 100 events a write"];
    for (name, rate) in names.iter().zip(&rates[1..]) {
        println!("{name:<44} {:>10.0} {:>8.2}", median(rate), median(rate) / raw);
    }
    host.run(&["host", "stop"]).map(drop)
}

fn text() -> String {
    "a".repeat(460)
}

fn raw(store: &Store, id: &beadle::model::SessionId, span: Duration) -> Result<f64> {
    let (begun, mut n) = (Instant::now(), 0u32);
    while begun.elapsed() < span {
        let events = vec![Event::Note(Note { text: text() })];
        let (session, at) = (id.clone(), 1_795_232_000_000);
        let batch = Batch { session, expected: None, attempt: 1, at, events, cursor: None, frames: vec![], taken: None, blobs: vec![] };
        store.append(batch).wait()?;
        n += 1;
    }
    Ok(f64::from(n) / begun.elapsed().as_secs_f64())
}

async fn write(client: &Client, name: &str, writers: usize, batch: usize, span: Duration) -> Result<f64> {
    let mut tasks = Vec::new();
    let mut all = Vec::new();
    for w in 0..writers {
        let brief = BriefRequest { target: Some("bench".to_owned()), ..BriefRequest::default() };
        let open = OpenRequest { key: Some(format!("{name}-{w}")), brief, ..OpenRequest::default() };
        let writer = Writer::open(client.clone(), open);
        let start = Written::AttemptStarted(AttemptStart::default());
        let id = writer.write(vec![start.into()]).await?.session.id;
        all.push(Writer::of(client.clone(), id));
    }
    let begun = Instant::now();
    for writer in all {
        tasks.push(tokio::spawn(async move {
            let mut n = 0u32;
            while begun.elapsed() < span {
                let writes: Vec<Write> = (0..batch).map(|_| Written::Note(Text { text: text() }).into()).collect();
                n += u32::try_from(writes.len()).unwrap_or(0);
                writer.write(writes).await?;
            }
            anyhow::Ok(n)
        }));
    }
    let mut n = 0;
    for t in tasks {
        n += t.await.context("a writer panicked")??;
    }
    Ok(f64::from(n) / begun.elapsed().as_secs_f64())
}
