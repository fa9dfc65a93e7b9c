//! A session's own clock: questions that expire, terminals that went away, an input to close.
//!
//! Called by `run`.

use std::time::Duration;

use tokio::time::Instant;

use super::run::{REATTACH, Runner};
use crate::config::Unattended;
use crate::model::{Actor, By, Effect};

impl Runner {
    pub(super) fn next_timer(&self) -> Option<Instant> {
        let expiry = self.live.waiting.values().map(|w| w.asked.expires_at).min().map(|at| {
            let left = at.saturating_sub(self.inner.clock.wall_ms()).max(0);
            Instant::now() + Duration::from_millis(left.unsigned_abs())
        });
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
        let wall = self.inner.clock.wall_ms();
        let expired: Vec<u64> = self.live.waiting.iter().filter(|(_, w)| w.asked.expires_at <= wall).map(|(s, _)| *s).collect();
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
