//! One task per sink: reads what comes after its cursor, gives it to the sink, and moves the cursor once that is taken.
//!
//! Invariants:
//! - one batch is on its way at a time; the cursor moves after the sink's answer, in one transaction with what became of the events;
//! - a sink that hangs, fails or lies holds up itself only: reading is on a connection of its own, and every try has a deadline;
//! - a host that is killed anywhere goes on from the cursor, so events may come again, whole and with equal session, seq and hash.
//!
//! Called by `Sinks`, which starts it and sends it orders.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::line::{Answer, Line, Pause};
use super::plugin::Pins;
use super::state::Shared;
use super::target::{Looks, Target};
use super::{BATCH_BYTES, Error, Redelivered, Skip, backoff};
use crate::config::{SinkKind, SinkMode, SinkPlugin};
use crate::model::{Actor, Clock, Delivery, Entropy, SinkEvent};
use crate::otlp;
use crate::plugin::Host;
use crate::store::{
    HOST_SESSION, HostEvent, MAX_DEAD_BYTES, MAX_DEAD_LETTERS, SinkChange, SinkDeadLettered, SinkDropped, SinkItem, SinkPage, SinkPlace,
    SinkReader, SinkSkipped, Store, Wake,
};

/// Pause after the store could not be read or written.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the host chain may be ahead before it is looked at: its records wake nobody.
const LOOK: Duration = Duration::from_secs(1);
/// After a wake-up, others are waited for: one batch of many is cheaper than many of one.
const COMPANY: Duration = Duration::from_millis(5);
/// Unwanted events passed before the cursor is written down; it costs a sync.
const PASSED: u64 = 10_000;
/// And how long it may lie behind.
const PASSED_FOR_MS: u64 = 500;
/// Longest re-delivery of dead letters in one order.
const REDELIVER: Duration = Duration::from_secs(20);

/// What an operator asks of a sink.
pub enum Order {
    /// Try now.
    Retry,
    /// Deliver dead letters again.
    Redeliver(oneshot::Sender<Result<Redelivered, Error>>),
    Skip {
        what: Skip,
        by: Actor,
        reply: oneshot::Sender<Result<u64, Error>>,
    },
}

/// See the module.
pub struct Worker {
    pub shared: Arc<Shared>,
    pub store: Store,
    pub reader: Arc<Mutex<SinkReader>>,
    pub plugins: Host,
    pub pins: Arc<dyn Pins>,
    /// Names this host to receivers.
    pub source: String,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub orders: mpsc::Receiver<Order>,
    pub wakes: broadcast::Receiver<Wake>,
    pub stop: watch::Receiver<bool>,
    pub line: Line,
    pub target: Option<Target>,
    /// What was installed when it was opened, as [`Pins::generation`] counts.
    pub opened: u64,
    /// When (boot clock) the cursor was last written down.
    pub saved_at: u64,
    /// And where it was then.
    pub saved: SinkPlace,
    /// Sums on their way: one at a time, and given up with the worker.
    pub pushing: JoinSet<Result<(), String>>,
}

/// The worker is told to end.
struct Stopped;

impl Worker {
    /// Runs until the host stops. What is on its way then comes again.
    pub async fn run(mut self) {
        while self.turn().await.is_ok() {}
    }

    async fn turn(&mut self) -> Result<(), Stopped> {
        if *self.stop.borrow() {
            return Err(Stopped);
        }
        self.push().await;
        if self.line.is_empty() {
            return match self.read().await {
                Ok(true) => Ok(()),
                Ok(false) => self.idle().await,
                Err(why) => {
                    self.failed(&why);
                    self.rest(AGAIN).await
                }
            };
        }
        if self.drop_surplus().await? {
            return Ok(());
        }
        match self.deliver().await? {
            Pause::None => Ok(()),
            Pause::Backoff { why } => {
                self.failed(&why);
                let mut chance = [0; 2];
                self.entropy.fill(&mut chance);
                let max = self.shared.entry.retry_max_ms;
                self.rest(backoff::pause(self.line.tries(), max, u16::from_le_bytes(chance))).await
            }
            Pause::For { ms, why } => {
                self.failed(&why);
                self.rest(backoff::asked(ms)).await
            }
        }
    }

    /// Sends what a sink sums up, where that is due, beside its batches: a receiver of metrics that hangs holds up no event.
    async fn push(&mut self) {
        if !matches!(self.shared.entry.kind, SinkKind::Otlp(_)) || self.open().await.is_err() {
            // why nothing said: the next batch fails for the same reason, and says it.
            return;
        }
        let Some(Target::Otlp(otlp)) = &self.target else { return };
        while let Some(done) = self.pushing.try_join_next() {
            match done {
                Ok(Ok(())) => {}
                Ok(Err(why)) => self.failed(&why),
                Err(_) => self.failed("metrics: sending them ended abnormally"),
            }
        }
        if self.pushing.is_empty() && otlp.is_due(&*self.clock) {
            let (otlp, clock) = (Arc::clone(otlp), Arc::clone(&self.clock));
            self.pushing.spawn(async move { otlp.push(&*clock).await });
        }
    }

    fn failed(&self, why: &str) {
        tracing::debug!(sink = self.shared.entry.name, error = why, "a sink did not take its events");
        self.shared.failed(self.clock.wall_ms(), why);
    }

    /// Runs on the sink's own connection, where blocking is allowed.
    async fn look<T: Send + 'static>(&self, f: impl FnOnce(&SinkReader) -> crate::store::Result<T> + Send + 'static) -> Result<T, String> {
        let reader = Arc::clone(&self.reader);
        let done = tokio::task::spawn_blocking(move || f(&reader.lock().unwrap_or_else(PoisonError::into_inner))).await;
        done.map_err(|_| "reading broke off".to_owned())?.map_err(|e| format!("{e} ({})", e.code()))
    }

    /// Loads what comes next; true when there is something, or may be at once.
    async fn read(&mut self) -> Result<bool, String> {
        let (after, limit) = (self.line.end(), self.shared.entry.batch_events);
        let page = self.look(move |r| r.page(after, limit, BATCH_BYTES)).await?;
        let more = page.more;
        let shared = Arc::clone(&self.shared);
        self.line.load(page, |e| wanted(&shared, e));
        self.settled();
        if !self.line.is_empty() {
            return Ok(true);
        }
        let end = self.line.end();
        self.shared.now().state.place = end;
        let late = end != self.saved && self.clock.boot_ms().saturating_sub(self.saved_at) >= PASSED_FOR_MS;
        if late || end.row.saturating_sub(self.saved.row) >= PASSED {
            // why ignored: it is written with the next one, and what is passed twice is unwanted twice.
            let _ = self.save(SinkChange { place: end, ..self.change() }).await;
        }
        Ok(more)
    }

    fn change(&self) -> SinkChange {
        SinkChange { sink: self.shared.entry.name.clone(), ..SinkChange::default() }
    }

    /// Remembers the oldest event that waits, since when, and clears what is over.
    fn settled(&self) {
        let front = self.line.front().map(|i| (i.place, i.event.at));
        let mut now = self.shared.now();
        now.next_try_at = None;
        match front {
            Some((place, _)) if now.front.is_some_and(|(p, ..)| p == place) => {}
            Some((place, at)) => {
                let age = u64::try_from(self.clock.wall_ms().saturating_sub(at)).unwrap_or(0);
                now.front = Some((place, self.clock.boot_ms(), age));
            }
            None => now.front = None,
        }
    }

    /// Opens the target, and one that stands on an installed plugin anew when what is installed was changed since.
    async fn open(&mut self) -> Result<(), String> {
        let now = self.pins.generation();
        let is_pinned = matches!(&self.shared.entry.kind, SinkKind::Plugin { from: SinkPlugin::Installed(_), .. });
        if is_pinned && self.opened != now {
            self.target = None;
        }
        if self.target.is_none() {
            self.shared.now().component = None;
            // why read before: a change while it opens is found at the next batch.
            self.opened = now;
            let sums = match &self.shared.entry.kind {
                SinkKind::Otlp(_) => {
                    let name = self.shared.entry.name.clone();
                    self.look(move |r| r.sums(&name)).await?
                }
                _ => None,
            };
            let looks = Looks { reader: Arc::clone(&self.reader), sums, clock: &*self.clock };
            let target = Target::open(&self.shared.entry, &self.plugins, &self.pins, &self.source, looks).await?;
            self.shared.now().component = target.plugin();
            self.target = Some(target);
        }
        Ok(())
    }

    /// One batch, one answer.
    async fn deliver(&mut self) -> Result<Pause, Stopped> {
        if let Err(why) = self.open().await {
            return Ok(self.line.apply(0, Answer::Failed { why }, true).pause);
        }
        let Some(target) = &self.target else { return Ok(Pause::None) };
        let batch = self.line.batch();
        let len = batch.len();
        let deadline = Duration::from_millis(self.shared.entry.timeout_ms);
        let large = batch.first().map_or(0, |e| e.body.len());
        let begun = self.clock.wall_ms();
        let answer = if large > target.max_body() {
            let reason = format!("its body has {large} bytes, over the {} that a plugin is given", target.max_body());
            Answer::Said(Delivery::Poison { index: 0, reason })
        } else {
            tokio::select! {
                answer = target.write(batch, self.line.tries(), &*self.clock, deadline, &*self.pins) => answer,
                _ = self.stop.changed() => return Err(Stopped),
            }
        };
        let mut step = self.line.apply(len, answer, self.has_room(1));
        if let Pause::Backoff { why } | Pause::For { why, .. } = &mut step.pause
            && let Some(text) = target.complaint(begun)
        {
            *why = format!("{why}; its log says: {text}");
        }
        if let Some(place) = step.place {
            let name = &self.shared.entry.name;
            let note = |(e, reason): &(SinkEvent, String)| {
                HostEvent::SinkDeadLettered(SinkDeadLettered {
                    sink: name.clone(),
                    session: e.session.clone(),
                    seq: e.seq,
                    reason: reason.clone(),
                })
            };
            let notes = step.dead.iter().map(note).collect();
            let passed = usize::try_from(step.delivered).unwrap_or(0) + step.dead.len();
            let sums = target.passed(passed);
            self.save(SinkChange { place, delivered: step.delivered, dead: step.dead, sums, notes, ..self.change() }).await?;
            if let Some(target) = &self.target {
                target.stored();
            }
        }
        self.settled();
        Ok(step.pause)
    }

    fn has_room(&self, letters: u64) -> bool {
        let now = self.shared.now();
        now.state.dead_letters + letters <= MAX_DEAD_LETTERS && now.state.dead_bytes < MAX_DEAD_BYTES
    }

    /// Writes a change down, however long that takes: nothing is given to the sink before.
    async fn save(&mut self, change: SinkChange) -> Result<(), Stopped> {
        while let Err(e) = self.store.change_sink(change.clone()).await {
            if matches!(e, crate::store::Error::Closed) {
                return Err(Stopped);
            }
            self.failed(&format!("its cursor cannot be written: {e} ({})", e.code()));
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                _ = self.stop.changed() => return Err(Stopped),
            }
        }
        (self.saved_at, self.saved) = (self.clock.boot_ms(), change.place);
        let bytes: usize = change.dead.iter().map(|(e, _)| e.body.len() + 200).sum();
        let mut now = self.shared.now();
        let s = &mut now.state;
        s.place = change.place;
        s.delivered += change.delivered;
        s.dropped += change.dropped;
        s.skipped += change.skipped;
        s.dead_letters = (s.dead_letters + change.dead.len() as u64).saturating_sub(change.revived.len() as u64);
        s.dead_bytes += bytes as u64;
        Ok(())
    }

    /// Best effort: where more waits than may, the older half of it goes. True when something did.
    async fn drop_surplus(&mut self) -> Result<bool, Stopped> {
        let bound = self.shared.entry.drop_after_events;
        if self.shared.entry.mode != SinkMode::BestEffort {
            return Ok(false);
        }
        let Ok(newest) = self.look(SinkReader::newest).await else { return Ok(false) };
        let at = self.shared.now().state.place;
        if newest.row.saturating_sub(at.row) <= bound {
            return Ok(false);
        }
        let to = SinkPlace { host_seq: at.host_seq, row: newest.row - bound / 2 };
        let Ok(events) = self.look(move |r| r.count(at.row, to.row)).await else { return Ok(false) };
        tracing::warn!(sink = self.shared.entry.name, events, "a best-effort sink is too far behind; events are dropped for it");
        let notes = vec![HostEvent::SinkDropped(SinkDropped { sink: self.shared.entry.name.clone(), events })];
        self.save(SinkChange { place: to, dropped: events, notes, ..self.change() }).await?;
        self.line.restart(to);
        self.settled();
        Ok(true)
    }

    /// Waits until there may be something to read.
    async fn idle(&mut self) -> Result<(), Stopped> {
        tokio::select! {
            woken = self.wakes.recv() => {
                if matches!(woken, Err(broadcast::error::RecvError::Closed)) {
                    return Err(Stopped);
                }
                tokio::time::sleep(COMPANY).await;
                // why: what has come until now is read together; losing wake-ups costs nothing.
                self.wakes = self.wakes.resubscribe();
                Ok(())
            }
            () = tokio::time::sleep(LOOK) => Ok(()),
            order = self.orders.recv() => match order {
                Some(order) => self.obey(order).await.map(drop),
                None => Err(Stopped),
            },
            _ = self.stop.changed() => Err(Stopped),
        }
    }

    /// Waits before the next try, unless an order says that it is now.
    async fn rest(&mut self, pause: Duration) -> Result<(), Stopped> {
        let until = Instant::now() + pause;
        let ms = i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
        self.shared.now().next_try_at = Some(self.clock.wall_ms().saturating_add(ms));
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => break,
                order = self.orders.recv() => match order {
                    Some(order) => if self.obey(order).await? { break },
                    None => return Err(Stopped),
                },
                _ = self.stop.changed() => return Err(Stopped),
            }
        }
        self.shared.now().next_try_at = None;
        Ok(())
    }

    /// True when the sink is to be tried at once.
    async fn obey(&mut self, order: Order) -> Result<bool, Stopped> {
        match order {
            Order::Retry => {
                self.line.hurry();
                // why: a secret, a certificate or a plugin may have been mended.
                self.target = None;
                Ok(true)
            }
            Order::Redeliver(reply) => {
                let done = self.redeliver().await?;
                let _ = reply.send(done);
                Ok(false)
            }
            Order::Skip { what, by, reply } => {
                let done = self.skip(&what, &by).await?;
                let skipped = done.is_ok();
                let _ = reply.send(done);
                Ok(skipped)
            }
        }
    }

    /// Moves past events at the front, and keeps them as dead letters.
    async fn skip(&mut self, what: &Skip, by: &Actor) -> Result<Result<u64, Error>, Stopped> {
        let name = self.shared.entry.name.clone();
        let wanted = match what {
            Skip::Next(n) => *n,
            Skip::Event { .. } => 1,
        };
        if !self.has_room(wanted) {
            return Ok(Err(Error::NoRoom { sink: name }));
        }
        let mut skipped = 0;
        while skipped < wanted {
            while self.line.is_empty() {
                match self.read().await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(why) => return Ok(Err(Error::Store { sink: name, why })),
                }
            }
            let Some(front) = self.line.front() else { break };
            if let Skip::Event { session, seq } = what
                && (front.event.session != *session || front.event.seq != *seq)
            {
                let next = format!("{}:{}", front.event.session, front.event.seq);
                return Ok(Err(Error::NotNext { sink: name, given: format!("{session}:{seq}"), next }));
            }
            let (session, seq) = (front.event.session.clone(), front.event.seq);
            let (events, place) = self.line.take(usize::try_from(wanted - skipped).unwrap_or(usize::MAX));
            let n = events.len() as u64;
            let reason = format!("skipped by {}", by.name.as_ref().unwrap_or(&by.role));
            let notes = vec![HostEvent::SinkSkipped(SinkSkipped { sink: name.clone(), events: n, session, seq, by: by.clone() })];
            let dead = events.into_iter().map(|e| (e, reason.clone())).collect();
            let place = place.unwrap_or_else(|| self.line.end());
            self.save(SinkChange { place, skipped: n, dead, notes, ..self.change() }).await?;
            skipped += n;
        }
        self.line.hurry();
        self.settled();
        Ok(if skipped == 0 { Err(Error::NothingWaits { sink: name }) } else { Ok(skipped) })
    }

    /// Tries each dead letter once more, in order; those that are refused again stay.
    async fn redeliver(&mut self) -> Result<Result<Redelivered, Error>, Stopped> {
        let name = self.shared.entry.name.clone();
        let until = Instant::now() + REDELIVER;
        let (mut after, mut delivered, mut trouble) = (0, 0, None);
        let mut line = Line::new(SinkPlace::default(), self.shared.entry.batch_events, BATCH_BYTES);
        let mut ids = VecDeque::new();
        while trouble.is_none() && Instant::now() < until {
            if line.is_empty() {
                let (sink, from, limit) = (name.clone(), after, self.shared.entry.batch_events);
                let letters = match self.look(move |r| r.dead_letters(&sink, from, limit, BATCH_BYTES)).await {
                    Ok(letters) => letters,
                    Err(why) => return Ok(Err(Error::Store { sink: name, why })),
                };
                let Some(last) = letters.last() else { break };
                after = last.id;
                ids = letters.iter().map(|l| l.id).collect();
                let place = |id: i64| SinkPlace { host_seq: 0, row: id.cast_unsigned() };
                let items = letters.into_iter().map(|l| SinkItem { place: place(l.id), event: l.event }).collect();
                line.load(SinkPage { items, end: place(after), more: true }, |_| true);
            }
            if let Err(why) = self.open().await {
                trouble = Some(why);
                break;
            }
            let Some(target) = &self.target else { break };
            let batch = line.batch();
            let len = batch.len();
            let deadline = Duration::from_millis(self.shared.entry.timeout_ms);
            let answer = tokio::select! {
                answer = target.write(batch, line.tries(), &*self.clock, deadline, &*self.pins) => answer,
                _ = self.stop.changed() => return Err(Stopped),
            };
            let step = line.apply(len, answer, true);
            let revived: Vec<i64> = ids.drain(..usize::try_from(step.delivered).unwrap_or(0).min(ids.len())).collect();
            ids.drain(..step.dead.len().min(ids.len()));
            delivered += step.delivered;
            if !revived.is_empty() {
                let place = self.shared.now().state.place;
                self.save(SinkChange { place, delivered: step.delivered, revived, ..self.change() }).await?;
            }
            if let Pause::Backoff { why } | Pause::For { why, .. } = step.pause {
                trouble = Some(why);
            }
        }
        let sink = name.clone();
        if let Ok(Some(stored)) = self.look(move |r| r.state(&sink)).await {
            let mut now = self.shared.now();
            (now.state.dead_letters, now.state.dead_bytes) = (stored.dead_letters, stored.dead_bytes);
        }
        let left = self.shared.now().state.dead_letters;
        Ok(Ok(Redelivered { delivered, left, trouble }))
    }
}

/// Whether an event is for this sink; those about a sink never go to that sink.
fn wanted(shared: &Shared, e: &SinkEvent) -> bool {
    if matches!(shared.entry.kind, SinkKind::Otlp(_)) && (e.session == HOST_SESSION || !otlp::KINDS.contains(&e.kind.as_str())) {
        return false;
    }
    if e.session == HOST_SESSION {
        let about =
            || serde_json::from_str::<serde_json::Value>(&e.body).ok().and_then(|b| Some(b.get("sink")?.as_str()? == shared.entry.name));
        if e.kind.starts_with("host_sink_") && about().unwrap_or(false) {
            return false;
        }
        return shared.entry.wants_kind(&e.kind);
    }
    shared.entry.wants_kind(&e.kind) && shared.entry.wants_labels(&e.labels)
}
