//! Groupings of the usage ledger over 10,000 sessions with 20 model calls each: `cargo bench -p beadle-benches --bench ledger`.
#![allow(clippy::print_stdout, reason = "a bench's output is its purpose")]

use std::time::Instant;

use beadle::model::ledger::Dimension;
use beadle::model::{Event, ModelResponded, Usage};
use beadle::store::{Batch, LedgerQuery, Options, Store};

type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const SESSIONS: usize = 10_000;
const CALLS: usize = 20;
const ROUNDS: usize = 15;
const BEGIN: i64 = 1_795_000_000_000;

fn main() -> Result {
    let dir = tempfile::tempdir_in(option_env!("CARGO_TARGET_TMPDIR").unwrap_or("."))?;
    let store = Store::open(&dir.path().join("store"), Options::default())?;
    let begun = Instant::now();
    for chunk in 0..SESSIONS / 500 {
        let mut tickets = Vec::new();
        for i in chunk * 500..(chunk + 1) * 500 {
            let first = beadle_benches::created(&format!("s-{i}"))?;
            let session = first.session.clone();
            tickets.push(store.append(first));
            let at = BEGIN + i64::try_from(i)? * 60_000;
            let events = (0..CALLS).map(|c| responded(i, c)).collect();
            let batch = Batch { session, expected: None, attempt: 1, at, events, cursor: None, frames: vec![], taken: None, blobs: vec![] };
            tickets.push(store.append(batch));
        }
        tickets.into_iter().try_for_each(|t| t.wait().map(drop))?;
    }
    println!("{} model calls of {SESSIONS} sessions stored in {:.1} s", SESSIONS * CALLS, begun.elapsed().as_secs_f64());
    for by in ["model", "source", "attempt", "day", "agent", "label:team", "session"] {
        let by = Dimension::parse(by).ok_or("a dimension")?;
        let query = LedgerQuery { by, since: None, until: None, session: None, agent: None, label: None, offset_minutes: 0, now: BEGIN };
        show(&store, &query.by.name(), &query)?;
        let last_hour = LedgerQuery { since: Some(BEGIN + (i64::try_from(SESSIONS)? - 60) * 60_000), ..query };
        show(&store, &format!("{}, the last of 167 hours", last_hour.by.name()), &last_hour)?;
    }
    Ok(())
}

fn show(store: &Store, name: &str, query: &LedgerQuery) -> Result {
    let mut took = Vec::new();
    let mut calls = 0;
    for _ in 0..ROUNDS {
        let t = Instant::now();
        calls = store.ledger(query)?.all.calls;
        took.push(t.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    println!("by {name:<36} {calls:>7} calls   p50 {:>7.1} ms   worst {:>7.1} ms", took[ROUNDS / 2], took[ROUNDS - 1]);
    Ok(())
}

fn responded(session: usize, call: usize) -> Event {
    let n = (session * CALLS + call) as u64;
    let usage = Usage { input: 1_200 + n % 7, output: 34, cache_read: 1_000, cache_write: 50, ..Usage::default() };
    Event::ModelResponded(ModelResponded {
        message_id: format!("msg_{n:024}"),
        model: ["claude-opus-4-8", "claude-haiku-4-5", "claude-sonnet-5"][call % 3].to_owned(),
        usage,
        cost: Some(7_000 + n % 11),
        prices: Some("0".repeat(64)),
        context_used: Some(2_284),
        parent_call_id: (call % 5 == 4).then(|| "toolu_1".to_owned()),
    })
}
