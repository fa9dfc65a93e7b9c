//! How a session ends: by a breach or a fault that the host finds, and with what the shim learnt of the exit as the log's last events.
//!
//! Called by `run` and its parts.

use super::live;
use super::recovery::Gone;
use super::run::{Ending, Runner, told};
use super::{mask, relaunch};
use crate::config::OnBreach;
use crate::model::{Actor, AttemptEnded, By, MediationBreached, Outcome, SessionEnded, SessionStopping};
use crate::process::ExitRecord;

impl Runner {
    pub(super) async fn breach(&mut self, what: &str, detail: String, call: Option<u64>) {
        if let Some(call) = call {
            self.live.account.contradicted(call, what);
        }
        let stop = self.config.on_breach != OnBreach::Alert;
        // why: an agent that the host did not start is not the host's to end; it runs no further call instead.
        let ours = self.external.is_none();
        let action = if stop && ours {
            "stop"
        } else if stop {
            "deny"
        } else {
            "alert"
        };
        self.pending
            .events
            .push(MediationBreached { what: what.to_owned(), detail: live::cut(&detail, 1024), call, action: action.to_owned() }.into());
        if stop && self.ending.is_none() && ours {
            self.end(Ending::Breach, "breach").await;
        } else if stop && !ours {
            self.ending = Some(Ending::Breach);
        }
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

    pub(super) async fn finish(mut self, record: ExitRecord) {
        self.take_log_back();
        relaunch::forget(&self.inner.run_dir(&self.id, 1));
        if self.driver.speaks() {
            self.drain().await;
            if let Some(rest) = self.inbox.rest().filter(|_| !self.unreadable) {
                let (event, blob) = live::unparsed_event("the agent ended in the middle of a line".to_owned(), &mask::bytes(rest.bytes));
                self.pending.events.push(event);
                self.pending.blobs.extend(blob);
                self.pending.cursor = Some(rest.end_offset);
            }
        }
        self.consult_last().await;
        self.resolve_all(By::Withdrawn, "the agent ended before the answer", false);
        self.verify_end(Some(&record)).await;
        let (outcome, reason) = self.verified_outcome(self.outcome(&record));
        self.pending.events.push(attempt_ended(outcome, &record, reason.clone()).into());
        self.pending.events.push(SessionEnded { outcome, reason: self.why.take().or(reason) }.into());
        self.commit().await;
        // why ignore: without it the shim goes by itself after its linger.
        let _ = self.shim.ack_exit().await;
        self.inner.forget(&self.id);
    }

    pub(super) async fn finish_lost(mut self, gone: Gone) {
        match gone {
            Gone::Exited(record) => self.finish(record).await,
            Gone::Lost(reason) => {
                self.take_log_back();
                relaunch::forget(&self.inner.run_dir(&self.id, 1));
                self.consult_last().await;
                self.resolve_all(By::Withdrawn, "the agent ended before the answer", false);
                // why killed: that is what the operator asked for where the shim did not answer.
                let outcome = if self.ending == Some(Ending::Kill) { Outcome::Killed } else { Outcome::Lost };
                self.pending.events.push(unseen(outcome, reason.clone()).into());
                self.pending.events.push(SessionEnded { outcome, reason: Some(reason) }.into());
                self.commit().await;
                self.inner.forget(&self.id);
            }
        }
    }

    fn outcome(&self, record: &ExitRecord) -> Outcome {
        match self.ending {
            Some(Ending::Breach) => return Outcome::Breach,
            Some(Ending::Kill) => return Outcome::Killed,
            Some(Ending::Stop) => return Outcome::Stopped,
            Some(Ending::Fault) => return Outcome::Failed,
            None => {}
        }
        // why: it ended on its way out or in, not with its work.
        if self.live.parking.between() {
            return Outcome::Failed;
        }
        match (record.code, self.live.turn_failed) {
            (Some(0), Some(false)) => Outcome::Succeeded,
            (Some(0), None) => Outcome::Exited,
            _ => Outcome::Failed,
        }
    }
}

/// An end as the shim saw it.
pub(super) fn attempt_ended(outcome: Outcome, record: &ExitRecord, reason: Option<String>) -> AttemptEnded {
    AttemptEnded {
        outcome,
        exit_code: record.code,
        signal: record.signal,
        ended_at: Some(record.ended_wall_ms),
        duration_ms: Some(record.ended_boot_ms.saturating_sub(record.started_boot_ms)),
        user_ms: Some(record.user_us / 1000),
        system_ms: Some(record.system_us / 1000),
        max_rss_kb: Some(record.max_rss_kb),
        reason,
    }
}

/// An end that nobody saw: no exit status, only why.
pub(super) fn unseen(outcome: Outcome, reason: String) -> AttemptEnded {
    AttemptEnded {
        outcome,
        exit_code: None,
        signal: None,
        ended_at: None,
        duration_ms: None,
        user_ms: None,
        system_ms: None,
        max_rss_kb: None,
        reason: Some(reason),
    }
}
