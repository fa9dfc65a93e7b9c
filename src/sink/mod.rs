//! Sinks: events are delivered from the store to where audits are kept.
//!
//! Invariants:
//! - at least once, in the order of the store: gapless in each session and in the host chain, whose records come as session `host` with
//!   kinds `host_…`; a repeated event is whole and has the same session, seq and hash;
//! - the log is the queue: memory holds one batch of a sink, the cursor is stored, and nothing is removed that a sink of mode
//!   `at-least-once` or `required` has not got;
//! - no append waits for a sink; a call waits only where its session's required sinks are too far behind, and then is denied;
//! - events about a sink do not go to that sink.
//!
//! Caps: 32 sinks, 1,000 events and 4 MiB of bodies a batch (one larger event alone, and never to a plugin), 10,000 dead letters and
//! 256 MiB of them a sink, 64 orders waiting.
//!
//! Called by `daemon` (starts and stops it), `api` (shows it, gives it orders) and, as [`AuditHold`], by sessions.

mod backoff;
mod form;
mod jsonl;
mod line;
mod otlp;
mod plugin;
mod state;
mod target;
mod worker;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::config::{SinkEntry, SinkGroup, SinkMode};
use crate::model::{Actor, AuditHold, Clock, Entropy, Held};
use crate::plugin::Host;
use crate::store::{
    self, DeadLetter, HostEvent, SinkChange, SinkConfigured, SinkLagging, SinkPlace, SinkReader, SinkRecovered, SinkState, Store,
};

pub use plugin::Pins;
pub use state::{SinkComponent, SinkStatus};

use line::Line;
use state::Shared;
use worker::{Order, Worker};

/// Bytes of bodies in one batch.
pub const BATCH_BYTES: usize = 4 << 20;
/// Most events that one order skips.
pub const SKIP_MAX: u64 = 1_000;
/// Orders that may wait for one sink.
const ORDERS: usize = 64;
/// How often it is looked how far behind sinks are.
const WATCH: Duration = Duration::from_millis(200);
/// How long an order may take.
const ORDER_TIMEOUT: Duration = Duration::from_secs(29);
/// How long a call waits for a group that the configuration says nothing of.
const WAIT_MS: u64 = 10_000;

/// What can go wrong with an order. Codes are stable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no sink {0:?}; `beadle sink status` lists them")]
    NoSink(String),
    #[error("sink {sink} is busy with a try; try again in a moment, or lower its timeout_ms")]
    Busy { sink: String },
    #[error("sink {sink}: {given} is not the event that waits next, which is {next}; only the next one can be skipped by name")]
    NotNext { sink: String, given: String, next: String },
    #[error("sink {sink} has all events: there is nothing to skip")]
    NothingWaits { sink: String },
    #[error("sink {sink} has no room for more dead letters; deliver them with `beadle sink retry {sink} --dead-letters` first")]
    NoRoom { sink: String },
    #[error("sink {sink}: {why}")]
    Store { sink: String, why: String },
    #[error("{given:?} is not a number of events from 1 to {SKIP_MAX}, nor an event as <session>:<seq>")]
    BadSkip { given: String },
    #[error(transparent)]
    Log(#[from] store::Error),
}

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoSink(_) => "BDL-SINK-001",
            Self::Busy { .. } => "BDL-SINK-002",
            Self::NotNext { .. } => "BDL-SINK-003",
            Self::NothingWaits { .. } => "BDL-SINK-004",
            Self::NoRoom { .. } => "BDL-SINK-005",
            Self::Store { .. } => "BDL-SINK-006",
            Self::BadSkip { .. } => "BDL-SINK-007",
            Self::Log(e) => e.code(),
        }
    }
}

/// Which events to skip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skip {
    /// So many from the front.
    Next(u64),
    /// This one, if it is the next.
    Event { session: String, seq: u64 },
}

impl std::str::FromStr for Skip {
    type Err = Error;

    /// A number, or `<session>:<seq>`.
    fn from_str(given: &str) -> Result<Self, Error> {
        let bad = || Error::BadSkip { given: given.chars().take(100).collect() };
        if let Some((session, seq)) = given.rsplit_once(':') {
            let seq = seq.parse().map_err(|_| bad())?;
            return Ok(Self::Event { session: session.to_owned(), seq });
        }
        given.parse().ok().filter(|n| (1..=SKIP_MAX).contains(n)).map(Self::Next).ok_or_else(bad)
    }
}

/// What became of dead letters that were tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redelivered {
    pub delivered: u64,
    pub left: u64,
    /// Why it ended before the last of them.
    pub trouble: Option<String>,
}

/// What sinks are made of.
pub struct Parts {
    pub sinks: Vec<SinkEntry>,
    pub groups: Vec<SinkGroup>,
    pub store: Store,
    pub plugins: Host,
    pub pins: Arc<dyn Pins>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
}

struct Inner {
    all: Vec<Arc<Shared>>,
    groups: Vec<SinkGroup>,
    reader: Mutex<SinkReader>,
    key: String,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Sinks(Arc<Inner>);

impl Sinks {
    /// Starts a task for each sink, from where it was.
    pub async fn start(parts: Parts) -> Result<Self, Error> {
        let Parts { sinks, groups, store, plugins, pins, clock, entropy } = parts;
        let reader = store.sink_reader()?;
        let known = reader.names()?;
        for (name, _) in known.iter().filter(|(n, holds)| *holds && !sinks.iter().any(|s| s.name == *n)) {
            tracing::warn!(sink = name, "the sink is no longer configured; its cursor is kept, and sessions may be removed without it");
            let note = HostEvent::SinkConfigured(SinkConfigured { sink: name.clone(), mode: None });
            store.change_sink(SinkChange { sink: name.clone(), holds: Some(false), notes: vec![note], ..SinkChange::default() }).await?;
        }
        let (stop, stopped) = watch::channel(false);
        let (mut all, mut tasks) = (Vec::new(), Vec::new());
        let source = format!("urn:beadle:{}", store.public_key());
        for entry in sinks {
            let holds = entry.mode != SinkMode::BestEffort;
            let was = known.iter().find(|(n, _)| *n == entry.name).map(|(_, h)| *h);
            let state = match reader.state(&entry.name)? {
                Some(state) => state,
                None if entry.from_oldest => SinkState::default(),
                None => SinkState { place: reader.newest()?, ..SinkState::default() },
            };
            if was != Some(holds) {
                let mode = Some(entry.mode.as_str().to_owned());
                let note = HostEvent::SinkConfigured(SinkConfigured { sink: entry.name.clone(), mode });
                let change = SinkChange { sink: entry.name.clone(), place: state.place, holds: Some(holds), ..SinkChange::default() };
                store.change_sink(SinkChange { notes: vec![note], ..change }).await?;
            }
            let (orders, given) = mpsc::channel(ORDERS);
            let (place, batch) = (state.place, entry.batch_events);
            let shared = Arc::new(Shared::new(entry, orders, state));
            let worker = Worker {
                shared: shared.clone(),
                store: store.clone(),
                reader: Arc::new(Mutex::new(store.sink_reader()?)),
                plugins: plugins.clone(),
                pins: pins.clone(),
                source: source.clone(),
                clock: clock.clone(),
                entropy: entropy.clone(),
                orders: given,
                wakes: store.watch(),
                stop: stopped.clone(),
                line: Line::new(place, batch, BATCH_BYTES),
                target: None,
                opened: 0,
                saved_at: clock.boot_ms(),
                saved: place,
                pushing: JoinSet::new(),
            };
            tasks.push(tokio::spawn(worker.run()));
            all.push(shared);
        }
        let key = store.public_key();
        let inner = Arc::new(Inner { all, groups, reader: Mutex::new(reader), key, stop, tasks: Mutex::new(tasks) });
        if !inner.all.is_empty() {
            let newest = inner.newest()?;
            for s in &inner.all {
                inner.measure(s, newest, &store, &*clock);
            }
            let watcher = tokio::spawn(watch_lag(Arc::downgrade(&inner), store, clock, stopped));
            inner.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(watcher);
        }
        Ok(Self(inner))
    }

    /// Ends the tasks; what was on its way is delivered again by the next daemon.
    pub async fn stop(&self) {
        self.0.stop.send_replace(true);
        let tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for t in tasks {
            let abort = t.abort_handle();
            if tokio::time::timeout(Duration::from_secs(1), t).await.is_err() {
                abort.abort();
            }
        }
    }

    /// Every sink, as configured.
    pub fn status(&self) -> Vec<SinkStatus> {
        // why anew: what was measured last may be older than the newest event.
        let newest = self.0.newest().ok();
        self.0.all.iter().map(|s| s.status(newest)).collect()
    }

    /// Whether a sink that must get everything has not got it yet.
    pub fn has_work(&self) -> bool {
        self.0.all.iter().any(|s| s.entry.mode != SinkMode::BestEffort && s.now().front.is_some())
    }

    /// The public key that heads are signed with, hex.
    pub fn key(&self) -> &str {
        &self.0.key
    }

    /// Dead letters with a number above `after`, oldest first.
    pub fn dead_letters(&self, sink: &str, after: i64, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        self.0.find(sink)?;
        let reader = self.0.reader.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(reader.dead_letters(sink, after, limit, 2 * BATCH_BYTES)?)
    }

    /// The next try begins now.
    pub async fn retry(&self, sink: &str) -> Result<SinkStatus, Error> {
        let shared = self.0.find(sink)?;
        self.order(&shared, Order::Retry)?;
        Ok(shared.status(None))
    }

    /// Delivers dead letters again, in their order, after whatever was delivered since.
    pub async fn redeliver(&self, sink: &str) -> Result<Redelivered, Error> {
        let shared = self.0.find(sink)?;
        let (reply, answer) = oneshot::channel();
        self.order(&shared, Order::Redeliver(reply))?;
        Self::answered(sink, answer).await
    }

    /// Moves past events that wait; they become dead letters, and the host chain says who did it. Gives how many.
    pub async fn skip(&self, sink: &str, what: Skip, by: Actor) -> Result<u64, Error> {
        let shared = self.0.find(sink)?;
        let (reply, answer) = oneshot::channel();
        self.order(&shared, Order::Skip { what, by, reply })?;
        Self::answered(sink, answer).await
    }

    fn order(&self, shared: &Shared, order: Order) -> Result<(), Error> {
        shared.orders.try_send(order).map_err(|_| Error::Busy { sink: shared.entry.name.clone() })
    }

    async fn answered<T>(sink: &str, answer: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
        let busy = || Error::Busy { sink: sink.to_owned() };
        tokio::time::timeout(ORDER_TIMEOUT, answer).await.map_err(|_| busy())?.map_err(|_| busy())?
    }
}

impl Inner {
    fn find(&self, name: &str) -> Result<Arc<Shared>, Error> {
        let found = self.all.iter().find(|s| s.entry.name == name).cloned();
        found.ok_or_else(|| Error::NoSink(name.chars().take(80).collect()))
    }

    fn newest(&self) -> Result<SinkPlace, Error> {
        Ok(self.reader.lock().unwrap_or_else(PoisonError::into_inner).newest()?)
    }

    /// Looks how far behind a sink is, and notes on the host chain that it crossed the line.
    fn measure(&self, s: &Shared, newest: SinkPlace, store: &Store, clock: &dyn Clock) {
        let since = s.now().lagging_since;
        let boot = clock.boot_ms();
        if !s.measure(newest, boot) {
            return;
        }
        let status = s.status(None);
        let note = match since {
            None => {
                let error = status.last_error.map(|(_, e)| e);
                tracing::warn!(sink = status.name, events = status.lag_events, ms = status.lag_ms, error, "a sink is too far behind");
                let (lag_events, lag_ms) = (status.lag_events, status.lag_ms);
                HostEvent::SinkLagging(SinkLagging { sink: status.name.clone(), lag_events, lag_ms, error })
            }
            Some(since) => {
                tracing::info!(sink = status.name, "a sink has caught up");
                HostEvent::SinkRecovered(SinkRecovered { sink: status.name.clone(), after_ms: boot.saturating_sub(since) })
            }
        };
        // why not waited for: who measures must not hang with the disk; a failure is in the host's log.
        drop(store.change_sink(SinkChange { sink: status.name, notes: vec![note], ..SinkChange::default() }));
    }
}

async fn watch_lag(inner: std::sync::Weak<Inner>, store: Store, clock: Arc<dyn Clock>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(WATCH) => {}
            _ = stop.changed() => return,
        }
        let Some(inner) = inner.upgrade() else { return };
        match inner.newest() {
            Ok(newest) => inner.all.iter().for_each(|s| inner.measure(s, newest, &store, &*clock)),
            Err(e) => tracing::warn!(code = e.code(), error = %e, "how far sinks are behind cannot be read"),
        }
    }
}

impl AuditHold for Sinks {
    fn held(&self, labels: &BTreeMap<String, String>) -> Option<Held> {
        let required = || self.0.all.iter().filter(|s| s.entry.mode == SinkMode::Required && s.entry.wants_labels(labels));
        let mut names: Vec<&str> = required().map(|s| s.entry.group.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().find_map(|name| {
            let group = self.0.groups.iter().find(|g| g.name == name);
            let members: Vec<_> = required().filter(|s| s.entry.group == name).collect();
            let behind: Vec<_> = members.iter().filter(|s| s.now().lagging_since.is_some()).map(|s| s.entry.name.clone()).collect();
            let needed = if group.is_none_or(|g| g.all) { 1 } else { members.len() };
            let wait_ms = group.map_or(WAIT_MS, |g| g.wait_ms);
            (behind.len() >= needed).then(|| Held { group: name.to_owned(), sinks: behind, wait_ms })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_skipped_is_a_number_or_one_event() {
        assert_eq!("3".parse::<Skip>().ok(), Some(Skip::Next(3)));
        assert_eq!("a-1-bbbbb:7".parse::<Skip>().ok(), Some(Skip::Event { session: "a-1-bbbbb".to_owned(), seq: 7 }));
        for bad in ["", "0", "1001", "-1", "a:b", "all"] {
            assert_eq!(bad.parse::<Skip>().map_err(|e| e.code()), Err("BDL-SINK-007"), "{bad}");
        }
    }
}
