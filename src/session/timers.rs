//! A session's own clock: questions that expire, terminals that went away, an input to close.
//!
//! Invariant: what the log tells by the wall clock is held by the boot clock from when it is first seen here ([`Due`]), so a clock that
//! is set while the session goes on changes nothing.
//!
//! Called by `run`.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::run::{REATTACH, Runner};
use crate::config::Unattended;
use crate::model::{Actor, By, Effect, Steady};

/// What is measured from, or due at, as the log tells it.
#[derive(Debug, Default)]
pub(super) struct Due {
    started: Option<Steady>,
    attempt: Option<Steady>,
    next_attempt: Option<Steady>,
    /// By the number of the question.
    expiry: BTreeMap<u64, Steady>,
}

impl Runner {
    /// Holds what came since the last look.
    fn hold_moments(&mut self) {
        let (clock, m) = (&*self.inner.clock, &mut self.due);
        Steady::hold(&mut m.started, self.session.started_at, clock);
        Steady::hold(&mut m.attempt, self.live.ladder.began_at, clock);
        Steady::hold(&mut m.next_attempt, self.live.ladder.next.as_ref().map(|n| n.not_before), clock);
        m.expiry.retain(|seq, _| self.live.waiting.contains_key(seq));
        for (seq, w) in &self.live.waiting {
            m.expiry.entry(*seq).or_insert_with(|| Steady::of(w.asked.expires_at, clock));
        }
    }

    /// What a wall clock says now that was not set since the session began.
    pub(super) fn session_now(&self) -> i64 {
        self.due.started.map_or_else(|| self.inner.clock.wall_ms(), |m| m.now_ms(&*self.inner.clock))
    }

    /// When the session has gone on for so many milliseconds, and its attempt has.
    pub(super) fn session_at(&self, ms: u64) -> Option<Instant> {
        self.after(self.due.started?, ms)
    }

    pub(super) fn attempt_at(&self, ms: u64) -> Option<Instant> {
        self.after(self.due.attempt?, ms)
    }

    /// When the next attempt may begin.
    pub(super) fn next_attempt_at(&self) -> Option<Instant> {
        self.after(self.due.next_attempt?, 0)
    }

    fn after(&self, from: Steady, ms: u64) -> Option<Instant> {
        let clock = &*self.inner.clock;
        let left = (from.left_ms(clock).saturating_add(ms)).saturating_sub(from.passed_ms(clock));
        // why capped: an instant further away than time goes is none.
        Instant::now().checked_add(Duration::from_millis(left))
    }

    pub(super) fn next_timer(&mut self) -> Option<Instant> {
        self.hold_moments();
        let expiry = self.due.expiry.values().map(|m| m.left_ms(&*self.inner.clock)).min();
        let expiry = expiry.and_then(|left| Instant::now().checked_add(Duration::from_millis(left)));
        let waiting = !self.live.waiting.is_empty();
        let reattach = self.unattended_since.filter(|_| waiting && self.config.unattended == Unattended::Deny).map(|t| t + REATTACH);
        // why: an answer can still come for what waits, and needs the input.
        // why a paused one too: its own clock stands still.
        let still = self.is_paused();
        let away = self.live.parking.away() || still;
        let close = self.close_at.filter(|_| !away && (!waiting || self.live.parking.confirmed()));
        let look = self.witnesses.due().filter(|_| !away);
        let linger = self.linger.filter(|_| self.lingers() && !self.pending.events.is_empty());
        [
            expiry,
            reattach,
            close,
            linger,
            look,
            self.live.parking.due().filter(|_| !still),
            self.live.hooks.next_gone().filter(|_| !still),
            self.limits_due(),
            self.climb_due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(super) async fn timer(&mut self) {
        let now = Instant::now();
        if !self.is_paused() {
            self.withdraw_gone(now);
        }
        self.hold_moments();
        let over = |m: &Steady| m.left_ms(&*self.inner.clock) == 0;
        let expired: Vec<u64> = self.due.expiry.iter().filter(|(_, m)| over(m)).map(|(s, _)| *s).collect();
        for seq in expired {
            self.resolve(seq, Effect::Deny, By::Expired, "nobody answered in time".to_owned(), (Actor::host(), vec![]), !self.input_closed);
        }
        if self.config.unattended == Unattended::Deny && self.unattended_since.is_some_and(|t| now >= t + REATTACH) {
            self.unattended_since = None;
            self.resolve_all(By::Unattended, "it needs a person's answer and the terminal went away", true);
        }
        if self.is_paused() {
            return;
        }
        self.parking_due(now).await;
        let may_close = self.live.waiting.is_empty() || self.live.parking.confirmed();
        if may_close && !self.live.parking.away() && self.close_at.is_some_and(|t| now >= t) {
            self.close_at = None;
            if !self.goes_on().await {
                self.close_input().await;
            }
        }
    }
}
