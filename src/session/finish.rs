//! How a session ends: by a breach or a fault that the host finds, and with what the shim learnt of the exit as the log's last events.
//!
//! Called by `run` and its parts.

use super::ladder::Concluded;
use super::live;
use super::recovery::{Gone, end_rest};
use super::run::{Ending, Runner, told};
use super::{mask, relaunch, report};
use crate::config::OnBreach;
use crate::model::{Actor, AttemptEnded, By, Event, MediationBreached, Outcome, SessionEnded, SessionStopping, Status};
use crate::process::ExitRecord;

/// Events among which the one is that a session is being ended: what its tree said on its way out.
const LOOK_BACK: usize = 1_000;

impl Runner {
    pub(super) async fn breach(&mut self, what: &str, detail: String, call: Option<u64>) {
        if let Some(call) = call {
            self.live.account.contradicted(call, what);
        }
        // why: an agent that the host did not start is not the host's to end; it runs no further call instead.
        let ours = self.external.is_none();
        let action = match (self.config.on_breach, ours) {
            (OnBreach::Alert, _) => "alert",
            (OnBreach::Pause, _) => "pause",
            (OnBreach::Stop, true) => "stop",
            (OnBreach::Stop, false) => "deny",
        };
        let (stated, detail) = (what.to_owned(), live::cut(&detail, 1024));
        self.pending.events.push(MediationBreached { what: stated, detail, call, action: action.to_owned() }.into());
        if self.config.on_breach == OnBreach::Alert || self.is_paused() {
            return;
        }
        // why stopped otherwise: one that cannot be paused now must not go on either.
        if self.config.on_breach == OnBreach::Pause && self.finishing {
            self.breached_late = true;
            return;
        }
        if self.config.on_breach == OnBreach::Pause && self.pause_for(what).await {
            return;
        }
        if self.ending.is_none() && ours {
            self.end(Ending::Breach, "breach").await;
        } else if !ours {
            self.ending = Some(Ending::Breach);
        }
    }

    /// Whether a breach was found that should have paused it when there was nothing left to pause: no person has looked at it, so nothing is
    /// started in its place. Asks the log, too: an earlier daemon may have found it.
    pub(super) fn is_breached_late(&self) -> bool {
        if self.breached_late || self.config.on_breach != OnBreach::Pause || self.session.breaches == 0 {
            return self.breached_late;
        }
        let tail = self.inner.store.tail(&self.id, LOOK_BACK).unwrap_or_default();
        let newest = tail.into_iter().rev().find_map(|e| match e.envelope.event {
            Event::MediationBreached(b) => Some(b.action == "pause"),
            Event::SessionPaused(_) | Event::SessionContinued(_) | Event::AttemptStarted(_) => Some(false),
            _ => None,
        });
        newest.unwrap_or(false)
    }

    /// Why it is being ended, where an earlier daemon had begun to.
    pub(super) fn ending_on_record(&self) -> Option<Ending> {
        if self.session.status != Status::Stopping {
            return None;
        }
        let tail = self.inner.store.tail(&self.id, LOOK_BACK).unwrap_or_default();
        let how = tail.into_iter().rev().find_map(|e| match e.envelope.event {
            Event::SessionStopping(s) => Some(s.how),
            _ => None,
        });
        Some(match how.as_deref() {
            _ if self.limits.over.is_some() => Ending::Budget,
            Some("kill") => Ending::Kill,
            Some("breach") => Ending::Breach,
            Some("fault") => Ending::Fault,
            _ => Ending::Stop,
        })
    }

    pub(super) async fn fault(&mut self, why: String) {
        let why = live::cut(&why, 1024);
        self.pending.events.push(crate::model::Note { text: why.clone() }.into());
        self.why.get_or_insert(why);
        if self.ending.is_none() {
            self.end(Ending::Fault, "fault").await;
        }
    }

    /// Records that the host ends the agent, then does it.
    pub(super) async fn end(&mut self, ending: Ending, how: &str) {
        self.ending = Some(ending);
        self.pending.events.push(SessionStopping { by: Actor::host(), how: how.to_owned(), grace_ms: 0 }.into());
        self.commit().await;
        told(&self.id, self.shim.kill().await);
    }

    /// Reads what an agent that is gone still said, also where it was held: what it used and did counts, whatever became of it.
    pub(super) async fn hear_out(&mut self) {
        self.finishing = true;
        self.take_log_back();
        if !self.driver.speaks() {
            return;
        }
        self.drain().await;
        if let Some(rest) = self.inbox.rest().filter(|_| !self.unreadable) {
            let (event, blob) = live::unparsed_event("the agent ended in the middle of a line".to_owned(), &mask::bytes(rest.bytes));
            self.pending.events.push(event);
            self.pending.blobs.extend(blob);
            self.pending.cursor = Some(rest.end_offset);
        }
    }

    /// Reads what the agent still said, settles what waits, and says how its attempt ended.
    pub(super) async fn conclude(&mut self, record: &ExitRecord) -> Concluded {
        self.hear_out().await;
        self.consult_last().await;
        self.over_limit();
        self.resolve_all(By::Withdrawn, "the agent ended before the answer", false);
        self.verify_end(Some(record)).await;
        let (outcome, report) = report::ruled(&self.session, self.outcome(record));
        let (outcome, reason) = self.verified_outcome(outcome);
        let reason = reason.or_else(|| (outcome == Outcome::MissingReport).then(|| report::missing(&self.session)));
        Concluded { outcome, reason, report }
    }

    pub(super) async fn finish(mut self, record: ExitRecord) {
        let Concluded { outcome, reason, report } = match self.climb.take() {
            Some(settled) => settled,
            None => self.conclude(&record).await,
        };
        forget(&self.inner.run_dir(&self.id, 1));
        end_rest(&self.inner, &self.session).await;
        let ended = AttemptEnded { is_final: true, ..attempt_ended(outcome, &record, reason.clone()) };
        self.pending.events.push(ended.into());
        self.pending.events.push(SessionEnded { outcome, reason: self.why.take().or(reason), report }.into());
        self.commit().await;
        super::ladder::clear(&self.inner.run_dir(&self.id, self.session.attempt));
        // why ignore: without it the shim goes by itself after its linger.
        let _ = self.shim.ack_exit().await;
        self.inner.forget(&self.id);
    }

    pub(super) async fn finish_lost(mut self, gone: Gone) {
        self.finishing = true;
        match gone {
            Gone::Exited(record) => self.finish(record).await,
            Gone::Lost(reason) => {
                self.hear_out().await;
                forget(&self.inner.run_dir(&self.id, 1));
                end_rest(&self.inner, &self.session).await;
                self.consult_last().await;
                self.resolve_all(By::Withdrawn, "the agent ended before the answer", false);
                // why killed: that is what the operator asked for where the shim did not answer.
                let outcome = if self.ending == Some(Ending::Kill) { Outcome::Killed } else { Outcome::Lost };
                self.pending.events.push(unseen(outcome, reason.clone()).into());
                self.pending.events.push(SessionEnded { outcome, reason: Some(reason), report: None }.into());
                self.commit().await;
                self.inner.forget(&self.id);
            }
        }
    }

    pub(super) fn outcome(&self, record: &ExitRecord) -> Outcome {
        match self.ending {
            Some(Ending::Breach) => return Outcome::Breach,
            Some(Ending::Kill) => return Outcome::Killed,
            Some(Ending::Stop) => return Outcome::Stopped,
            Some(Ending::Fault) => return Outcome::Failed,
            Some(Ending::Budget) => return Outcome::Budget,
            None if self.limits.over.is_some() => return Outcome::Budget,
            None => {}
        }
        // why: it ended on its way out or in, not with its work.
        if self.live.parking.between() {
            return Outcome::Failed;
        }
        if self.climb.timed_out {
            return Outcome::TimedOut;
        }
        match (record.code, self.live.turn_failed) {
            (Some(0), Some(false)) => Outcome::Succeeded,
            (Some(0), None) => Outcome::Exited,
            _ => Outcome::Failed,
        }
    }
}

/// Nothing of the session is started again.
pub(super) fn forget(run_dir: &std::path::Path) {
    relaunch::forget(run_dir);
    super::ladder::forget(run_dir);
}

/// An end as the shim saw it.
pub(super) fn attempt_ended(outcome: Outcome, record: &ExitRecord, reason: Option<String>) -> AttemptEnded {
    AttemptEnded {
        exit_code: record.code,
        signal: record.signal,
        ended_at: Some(record.ended_wall_ms),
        duration_ms: Some(record.ended_boot_ms.saturating_sub(record.started_boot_ms)),
        user_ms: Some(record.user_us / 1000),
        system_ms: Some(record.system_us / 1000),
        max_rss_kb: Some(record.max_rss_kb),
        error: (outcome == Outcome::Failed && reason.is_none()).then(|| how(outcome, record)),
        reason,
        ..AttemptEnded::with(outcome)
    }
}

/// An end in words, where nothing else tells it.
pub(super) fn how(outcome: Outcome, record: &ExitRecord) -> String {
    match (outcome, record.code, record.signal) {
        (Outcome::Failed, Some(0), _) => "the agent said that it failed".to_owned(),
        (Outcome::Failed, Some(code), _) => format!("the agent ended with exit code {code}"),
        (Outcome::Failed, None, Some(signal)) => format!("the agent was ended by signal {signal}"),
        _ => format!("it ended as {}", outcome.as_str()),
    }
}

/// An end that nobody saw: no exit status, only why.
pub(super) fn unseen(outcome: Outcome, reason: String) -> AttemptEnded {
    AttemptEnded { reason: Some(reason), ..AttemptEnded::with(outcome) }
}
