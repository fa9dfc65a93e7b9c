//! Other witnesses of a session than its own stream: the agent's transcript, and reports of its hooks.
//!
//! Invariants:
//! - a breach that a witness shows is recorded and acted on like any other, within `transcript::LOOK` and one append while the agent says
//!   anything, within `transcript::LOOK_IDLE` while it is silent;
//! - what a witness adds without a breach waits for the next event, so it costs a call no append of its own;
//! - of a session that the host did not start the transcript is the meter only: its calls are seen by hooks, and those from before the
//!   hooks were there are nobody's.
//!
//! Called by `run`, `finish` and `command`.

use std::time::Duration;

use tokio::time::Instant;

use super::live::{Report, Step};
use super::run::Runner;
use super::transcript::{LOOK, LOOK_IDLE, Transcript};
use crate::model::{Event, Session, TranscriptNamed};
use crate::whole::apart;

/// The transcript of one session, and when it is looked at next.
#[derive(Debug)]
pub struct Witnesses {
    transcript: Option<Transcript>,
    next: Instant,
    /// Looks since anything was new.
    quiet: u32,
    /// Looks since the agent said or recorded anything.
    still: u32,
}

impl Witnesses {
    pub fn new(named: Option<&TranscriptNamed>, session: &Session) -> Self {
        Self { transcript: named.map(|n| Transcript::new(n, &session.cwd)), next: Instant::now() + LOOK, quiet: 0, still: 0 }
    }

    /// An earlier daemon read a transcript up to here.
    pub fn replay(&mut self, event: &Event, session: &Session) {
        match (event, &mut self.transcript) {
            (Event::TranscriptNamed(n), t) if t.as_ref().is_none_or(|t| !t.is_of(n)) => *t = Some(Transcript::new(n, &session.cwd)),
            (Event::EffectsObserved(o), Some(t)) => {
                if let Some(upto) = o.upto {
                    t.resume(&o.source, upto);
                }
            }
            _ => {}
        }
    }

    /// When to look again.
    pub fn due(&self) -> Option<Instant> {
        self.transcript.as_ref().map(|_| self.next)
    }

    pub fn soon(&mut self) {
        self.next = Instant::now();
    }

    /// The agent said something.
    pub fn stirred(&mut self) {
        self.still = 0;
        self.next = self.next.min(Instant::now() + LOOK);
    }

    /// How long until the next look; `busy`: the agent is at work.
    fn wait(&self, busy: bool) -> Duration {
        match &self.transcript {
            Some(t) if t.more => Duration::ZERO,
            // why: a thousand silent agents that are looked after five times a second leave no time for those that ask.
            Some(t) if busy && t.is_there() && self.still < STILL => LOOK,
            _ => LOOK_IDLE,
        }
    }
}

impl Runner {
    /// Reads what is new in the transcript, if it is time.
    pub(super) async fn consult(&mut self) {
        if self.witnesses.due().is_some_and(|t| t <= Instant::now()) {
            self.look().await;
            let busy = self.live.prompts > self.live.turns || self.witnesses.quiet < 3;
            let fresh = self.witnesses.quiet == 0;
            self.witnesses.still = if fresh { 0 } else { self.witnesses.still.saturating_add(1) };
            self.witnesses.next = Instant::now() + self.witnesses.wait(busy);
        }
    }

    /// Reads all that the agent has written; called when it has ended.
    pub(super) async fn consult_last(&mut self) {
        for _ in 0..LAST_LOOKS {
            self.look().await;
            if !self.witnesses.transcript.as_ref().is_some_and(|t| t.more) {
                break;
            }
        }
        self.pending.events.extend(self.live.observed());
        if let Some(n) = self.witnesses.transcript.as_ref().map(|t| t.unread).filter(|n| *n > 0) {
            let text = format!("{n} lines of the agent's transcript could not be read; what they hold is not in the account");
            self.pending.events.push(crate::model::Note { text }.into());
        }
        if let Some(transcript) = self.witnesses.transcript.take() {
            self.keep_transcript(&transcript);
            self.witnesses.transcript = Some(transcript);
        }
    }

    async fn look(&mut self) {
        let Some(transcript) = &mut self.witnesses.transcript else { return };
        let portions = transcript.look();
        if self.external.is_some() {
            let lines = portions.iter().flat_map(|p| &p.lines).map(|(_, line)| line);
            let since = self.session.created_at;
            let said: Vec<_> = lines.filter_map(|line| apart(|| self.driver.recorded_usage(line, since)).ok()?).collect();
            self.witnesses.quiet = if said.is_empty() { self.witnesses.quiet.saturating_add(1) } else { 0 };
            for out in said {
                let step = self.live.metered(out, self.inner.prices.at(self.inner.clock.wall_ms()));
                self.pending.events.extend(step.events);
            }
            return;
        }
        let mut unread = 0;
        let mut said = Vec::new();
        for p in portions {
            for (upto, line) in &p.lines {
                match apart(|| self.driver.record(line)).unwrap_or_default() {
                    None => unread += 1,
                    Some(out) => said.extend(out.into_iter().map(|o| (p.source.clone(), *upto, o))),
                }
            }
        }
        transcript.unread += unread;
        self.witnesses.quiet = if said.is_empty() { self.witnesses.quiet.saturating_add(1) } else { 0 };
        for (source, upto, out) in said {
            let step = self.live.recorded(&source, upto, out);
            self.witnessed(step).await;
        }
        if self.witnesses.quiet > 2 && self.live.prompts <= self.live.turns {
            self.live.words.clear();
        }
        if self.witnesses.quiet > 0 || self.live.observed_full() {
            self.pending.events.extend(self.live.observed());
        }
    }

    /// What a hook reported of a call.
    pub(super) async fn reported(&mut self, report: Report<'_>) {
        let step = self.live.effect(report);
        self.witnessed(step).await;
    }

    async fn witnessed(&mut self, step: Step) {
        for e in step.events {
            match e {
                Event::MediationBreached(b) => self.breach(&b.what, b.detail, b.call).await,
                e => self.pending.events.push(e),
            }
        }
    }
}

/// Looks in vain after which an agent counts as silent.
const STILL: u32 = 3;
/// Looks at the end, each of a few MiB: what an agent leaves behind is read up to 1 GiB.
const LAST_LOOKS: usize = 256;
