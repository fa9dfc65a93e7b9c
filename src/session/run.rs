//! One task per live session: reads what the agent says, judges its questions, records, and only then acts.
//!
//! Invariants:
//! - append before act: a frame reaches the shim only after the append that holds it is synced;
//! - this task is the only writer of its session's log while it lives; everyone else sends it a [`Command`];
//! - the inbox cursor moves in the append that holds what the lines led to, so a line is never read twice into the log.
//!
//! Started by `start` and `recovery`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::command::Command;
use super::ladder::Step;
use super::link::Relinked;
use super::live::{self, Live};
use super::recovery::Gone;
use super::witness::Witnesses;
use super::{Inner, failpoint, mask};
use crate::agent::{Driver, Output, ReadState};
use crate::config::Config;
use crate::model::{Event, Session, SessionId};
use crate::plugin::States;
use crate::policy::Chain;
use crate::process::{Inbox, ShimEvent, ShimEvents, ShimHandle, Watch};
use crate::store::{Batch, Frame};
use crate::whole::apart;

/// Commands that may wait for one session.
pub const MAILBOX: usize = 256;
/// How long calls wait for a terminal that has gone away to come back.
pub(super) const REATTACH: Duration = Duration::from_secs(10);
/// How long a one-shot session waits after a turn for a prompt that was sent meanwhile to begin its own.
pub(super) const NEXT_TURN: Duration = Duration::from_secs(30);

/// The stored form of "close the agent's input".
pub(super) const CLOSE_INPUT: &[u8] = b"";

/// Why the agent is being ended by the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Stop,
    Kill,
    Breach,
    /// A line over the cap, or another fault that leaves no safe way on.
    Fault,
    /// A limit of the session is passed.
    Budget,
}

/// Events collected for the next append.
#[derive(Default)]
pub(super) struct Pending {
    pub events: Vec<Event>,
    pub blobs: Vec<Vec<u8>>,
    pub frames: Vec<Frame>,
    pub cursor: Option<u64>,
    /// The shim has taken frames up to this one; goes along with the next append, and costs nothing when it is lost.
    pub taken: Option<u64>,
    /// When the questions were read that this append answers without a person.
    pub read_at: Vec<std::time::Instant>,
}

pub struct Runner {
    pub inner: Arc<Inner>,
    pub id: SessionId,
    pub driver: &'static dyn Driver,
    pub session: Session,
    pub live: Live,
    pub shim: ShimHandle,
    pub shim_events: ShimEvents,
    pub inbox: Inbox,
    /// The configuration of its folder, as it was at the start or the adoption.
    pub config: Arc<Config>,
    pub chain: watch::Receiver<Arc<Chain>>,
    pub mailbox: mpsc::Receiver<Command>,
    pub(super) pending: Pending,
    /// The agent's process where there is no shim: the host did not start it.
    pub(super) external: Option<Watch>,
    pub(super) attached: usize,
    pub(super) unattended_since: Option<Instant>,
    pub(super) ending: Option<Ending>,
    /// Why the host ends it, where that is to be told with the end.
    pub(super) why: Option<String>,
    pub(super) input_closed: bool,
    pub(super) close_at: Option<Instant>,
    /// Until when calls that were started wait for company.
    pub(super) linger: Option<Instant>,
    reports: bool,
    /// A line over the cap, or segments that cannot be read: nothing after it is.
    pub(super) unreadable: bool,
    /// The log has another writer: nothing more is recorded, so nothing more is done.
    pub(super) is_usurped: bool,
    /// Why a change of what is kept of it is not in the log: for who asked for it.
    pub(super) unkept: Option<crate::store::Error>,
    pub(super) read_state: ReadState,
    pub(super) witnesses: Witnesses,
    /// Questions through hooks that wait until a paused session goes on.
    pub(super) held_hooks: Vec<super::pause::HeldHook>,
    /// The agent has ended: what it still said is read, paused or not.
    pub(super) finishing: bool,
    /// What it still said was a breach for which it should have been paused.
    pub(super) breached_late: bool,
    pub(super) states: OnceLock<Arc<States>>,
    pub(super) compaction: super::compact::Compaction,
    pub(super) limits: super::usage::Limits,
    pub(super) climb: super::ladder::Climb,
    pub(super) due: super::timers::Due,
}

impl Runner {
    #[allow(clippy::too_many_arguments)] // why: the parts of a running session, named once where it is put together.
    pub fn new(
        inner: Arc<Inner>,
        driver: &'static dyn Driver,
        session: Session,
        live: Live,
        shim: (ShimHandle, ShimEvents),
        inbox: Inbox,
        config: Arc<Config>,
        chain: watch::Receiver<Arc<Chain>>,
        mailbox: mpsc::Receiver<Command>,
        expect_terminal: bool,
        witnesses: Witnesses,
    ) -> Self {
        let now = Instant::now();
        let config = live.moments.applied(config);
        let unattended_since = (expect_terminal || !live.waiting.is_empty()).then_some(now);
        // why: an adopted session may have ended its turn while nobody was there to close its input.
        let limits = super::usage::Limits::new(&inner, &session, &config);
        let idle = !session.keep_open && live.turns > 0;
        let close_at = idle.then(|| now + if live.prompts > live.turns { NEXT_TURN } else { Duration::ZERO });
        Self {
            inner,
            id: session.id.clone(),
            driver,
            session,
            live,
            shim: shim.0,
            shim_events: shim.1,
            inbox,
            config,
            chain,
            mailbox,
            pending: Pending::default(),
            external: None,
            attached: 0,
            unattended_since,
            ending: None,
            why: None,
            input_closed: false,
            close_at,
            linger: None,
            reports: false,
            unreadable: false,
            is_usurped: false,
            unkept: None,
            read_state: ReadState::default(),
            witnesses,
            held_hooks: vec![],
            finishing: false,
            breached_late: false,
            states: OnceLock::new(),
            compaction: super::compact::Compaction::default(),
            limits,
            climb: super::ladder::Climb::default(),
            due: super::timers::Due::default(),
        }
    }

    /// Runs the session to its end. Returns when the log has its `session_ended`, or the daemon shuts down.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let begun = self.ending_on_record();
        // why not always: a breach of a session that only hooks hold is on record without an end.
        self.ending = begun.or(self.ending);
        if self.external.is_none() && !self.shim.is_linked() && !self.live.parking.away() {
            match self.relink(&mut shutdown).await {
                Relinked::Linked => {}
                Relinked::Gone(Gone::Exited(record)) if self.left(&record).await => {}
                Relinked::Gone(Gone::Lost(why)) if self.restarts(&why).await => {}
                Relinked::Gone(end) => return self.finish_lost(end).await,
                Relinked::ShuttingDown => return,
            }
        }
        if begun.is_some() {
            self.stop_process(false);
            told(&self.id, self.shim.stop(Duration::from_millis(self.config.grace_ms)).await);
        }
        self.align().await;
        self.catch_up(self.inbox.offset());
        self.inbox.heard(self.shim.first_status().out_bytes);
        self.close_at = self.close_at.or(self.live.parking.confirmed().then(Instant::now));
        loop {
            self.hold_limits().await;
            if let Some(reason) = self.away().await {
                return self.finish_away(reason).await;
            }
            match self.climb_on().await {
                Step::On => {}
                Step::Finish(record) => return self.finish(*record).await,
                Step::Away(reason) => return self.finish_away(reason).await,
            }
            let away = self.live.parking.away();
            let still = away || self.is_paused();
            if self.driver.speaks() && self.external.is_none() && !still {
                self.drain_told().await;
            }
            if self.driver.speaks() && !still {
                self.consult().await;
            }
            self.hold_limits().await;
            if !self.lingers() {
                self.commit().await;
            }
            if !still {
                self.between_turns().await;
            }
            let timer = self.next_timer();
            tokio::select! {
                biased;
                _ = shutdown.changed() => return,
                Some(found) = self.climb.examined(), if self.climb.is_judging() => {
                    if let Some(record) = self.examined(found).await {
                        return self.finish(record).await;
                    }
                }
                () = gone(self.external.as_ref()) => return self.finish_external(None).await,
                got = self.shim_events.recv(), if self.external.is_none() && !away => match got {
                    Some(ShimEvent::Written { out, .. }) => {
                        self.inbox.heard(out);
                        self.witnesses.stirred();
                    }
                    Some(ShimEvent::Refused { no, last }) => tracing::warn!(session = %self.id, no, last, "a frame was refused"),
                    Some(ShimEvent::Blocked(errno)) => tracing::warn!(session = %self.id, errno, "the agent's output cannot be written; it waits"),
                    Some(ShimEvent::Taken(no)) => self.taken(no),
                    Some(ShimEvent::Exited(record)) => {
                        if !self.left(&record).await {
                            return self.finish(record).await;
                        }
                    }
                    Some(ShimEvent::Disconnected) | None => {
                        match self.relink(&mut shutdown).await {
                            Relinked::Linked => {}
                            Relinked::Gone(Gone::Exited(record)) if self.left(&record).await => {}
                            Relinked::Gone(Gone::Lost(why)) if self.restarts(&why).await => {}
                            Relinked::Gone(end) => return self.finish_lost(end).await,
                            Relinked::ShuttingDown => return,
                        }
                    }
                },
                Some(command) = self.mailbox.recv() => if let Some(reason) = self.command(command).await {
                    return self.finish_external(Some(reason)).await;
                },
                () = sleep_until(timer) => self.timer().await,
            }
        }
    }

    pub(super) async fn line(&mut self, line: &[u8]) {
        if line.is_empty() {
            return;
        }
        let outs = apart(|| self.driver.read(&mut self.read_state, line)).unwrap_or_else(|reason| vec![Output::Unparsed { reason }]);
        for out in self.heard(outs) {
            if let Some(call) = self.live.parking.refuses(&out) {
                self.refused(call);
            } else if self.live.parking.out_of_turn(&out) {
                self.not_asked_again("it went on with something else").await;
            }
            match out {
                Output::Asked(asked) => {
                    // why here: what it records comes before the question, whose number is taken there.
                    self.over_limit();
                    self.question(asked).await;
                }
                Output::Shown(result) => self.shown(result).await,
                Output::Held(asked) => self.held(asked).await,
                Output::Mcp { request_id, server, message } => self.mcp(request_id, &server, &message).await,
                Output::Cancelled { request_id } => self.cancelled(&request_id),
                Output::Unparsed { reason } => {
                    let (event, blob) = live::unparsed_event(reason, &mask::bytes(line.to_vec()));
                    self.pending.events.push(event);
                    self.pending.blobs.extend(blob);
                }
                Output::Declined { what, answer, .. } => {
                    let text = format!("the agent asked for {}; nobody answers that here, so it was declined", live::cut(&what, 256));
                    self.pending.events.push(crate::model::Note { text }.into());
                    let no = self.live.next_frame();
                    self.pending.frames.push(Frame { no, bytes: answer });
                }
                Output::Forged { what, detail } => self.breach(&what, detail, None).await,
                other => {
                    let turn_ended = matches!(other, Output::TurnEnded(_));
                    let reported = matches!(other, Output::ToolResult { .. });
                    if reported {
                        failpoint::hit("ran");
                    }
                    let other = if reported { self.reported_result(other).await } else { other };
                    let step = self.live.step(other, self.inner.prices.at(self.inner.clock.wall_ms()));
                    self.pending.blobs.extend(step.blobs);
                    for e in step.events {
                        match e {
                            Event::MediationBreached(b) => self.breach(&b.what, b.detail, b.call).await,
                            Event::ToolEnded(t) => {
                                self.reports = true;
                                self.pending.events.push(t.into());
                            }
                            e => self.pending.events.push(e),
                        }
                    }
                    if turn_ended {
                        self.reconcile();
                        self.turn_ended();
                    }
                }
            }
        }
    }

    fn turn_ended(&mut self) {
        self.witnesses.soon();
        self.look_at_threshold();
        if self.live.parking.confirmed() {
            failpoint::hit("confirmed");
            self.close_at = Some(Instant::now());
            return;
        }
        if self.session.keep_open || self.input_closed {
            return;
        }
        // why: a prompt sent during the turn may still begin one of its own; closing now would deny its calls.
        let wait = if self.live.prompts > self.live.turns { NEXT_TURN } else { Duration::ZERO };
        self.close_at = Some(Instant::now() + wait);
    }

    pub(super) async fn close_input(&mut self) {
        if !self.input_closed {
            self.input_closed = true;
            let no = self.live.next_frame();
            self.pending.frames.push(Frame { no, bytes: CLOSE_INPUT.to_vec() });
            self.commit().await;
        }
    }

    /// Appends what is collected, waiting out a full disk; then sends the frames. Where the log has another writer it does neither, and
    /// who answers a caller must look ([`Runner::recorded`]).
    pub(super) async fn commit(&mut self) {
        if self.pending.events.is_empty() && self.pending.frames.is_empty() && self.pending.cursor.is_none() {
            return;
        }
        let mut p = std::mem::take(&mut self.pending);
        if self.is_usurped {
            return;
        }
        if !p.events.is_empty() {
            p.events.extend(self.live.observed());
        }
        let mut events: Vec<Event> = p.events.into_iter().map(mask::event).collect();
        events.extend(self.state_changes());
        let decides = events.iter().any(|e| matches!(e, Event::ToolDecided(_)));
        let tells = events.iter().find_map(super::park::told_by);
        let mut pause = Duration::from_millis(100);
        loop {
            let batch = Batch {
                session: self.id.clone(),
                expected: Some(self.session.last_seq),
                attempt: self.session.attempt.max(1),
                at: self.inner.clock.wall_ms(),
                events: events.clone(),
                cursor: p.cursor,
                frames: p.frames.clone(),
                taken: p.taken,
                blobs: p.blobs.clone(),
            };
            let begun = std::time::Instant::now();
            // why: blobs are written and synced by who appends them.
            let ticket = if batch.blobs.is_empty() {
                self.inner.store.append(batch)
            } else {
                tokio::task::block_in_place(|| self.inner.store.append(batch))
            };
            if decides {
                failpoint::hit("appended");
            }
            match ticket.await {
                Ok(done) => {
                    self.inner.metrics.appended(begun.elapsed());
                    self.session = (*done.session).clone();
                    break;
                }
                Err(crate::store::Error::Conflict { actual, .. }) => match self.inner.store.session(&self.id) {
                    // why: an append whose commit failed half way may have survived after all.
                    Ok(s) if self.survived(&s, &events) => {
                        self.session = s;
                        break;
                    }
                    _ => {
                        // why: another writer would break promise 1; an agent whose log is not ours to write must not go on.
                        tracing::error!(session = %self.id, actual, "the log has another writer; the agent is killed");
                        self.is_usurped = true;
                        told(&self.id, self.shim.kill().await);
                        return;
                    }
                },
                Err(e) => {
                    let Some(e) = self.without_refused(&mut events, e) else { continue };
                    // why: nothing was acknowledged, so nothing may be sent; the agent waits at its question until the disk takes it.
                    tracing::error!(session = %self.id, code = e.code(), error = %e, "append failed; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
            }
        }
        self.inner.metrics.recorded(&events);
        if decides {
            failpoint::hit("synced");
        }
        if let Some(point) = tells {
            failpoint::hit(point);
        }
        // why not while it is paused: it is told when it goes on.
        if !self.is_paused() {
            self.live.hooks.answer(self.session.last_seq);
        }
        for f in p.frames.iter().filter(|_| !self.is_paused()) {
            send(&self.shim, f).await;
            if decides {
                failpoint::hit("sent");
            }
        }
        p.read_at.iter().for_each(|t| self.inner.metrics.answered(t.elapsed()));
        if let Some(offset) = p.cursor {
            told(&self.id, self.shim.ack(offset).await);
        }
        if std::mem::take(&mut self.reports) {
            failpoint::hit("reported");
        }
    }
}

/// Hands a stored frame to the shim; an empty one closes the agent's input.
pub(super) async fn send(shim: &ShimHandle, frame: &Frame) {
    let sent = if frame.bytes == CLOSE_INPUT { shim.close_input(frame.no).await } else { shim.send(frame.no, &frame.bytes).await };
    if let Err(e) = sent {
        tracing::debug!(error = %e, no = frame.no, "a frame waits for the next link");
    }
}

/// A broken link needs no answer here: the events tell it too, and what was not taken is sent again over the next one.
pub(super) fn told(id: &SessionId, sent: crate::process::Result<()>) {
    if let Err(e) = sent {
        tracing::debug!(session = %id, error = %e, "the shim could not be told");
    }
}

/// Ends when the agent's process has; never where a shim tells.
async fn gone(process: Option<&Watch>) {
    match process {
        Some(p) => p.gone().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(t) => tokio::time::sleep_until(t).await,
        None => std::future::pending().await,
    }
}
