//! The end of a session's task: what the shim learnt of the exit becomes the log's last events.
//!
//! Called by `run`.

use super::live;
use super::mask;
use super::recovery::Gone;
use super::run::{Ending, Runner};
use crate::model::{AttemptEnded, By, Outcome, SessionEnded};
use crate::process::ExitRecord;

impl Runner {
    pub(super) async fn finish(mut self, record: ExitRecord) {
        self.take_log_back();
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
        self.pending.events.push(
            AttemptEnded {
                outcome,
                exit_code: record.code,
                signal: record.signal,
                ended_at: Some(record.ended_wall_ms),
                duration_ms: Some(record.ended_boot_ms.saturating_sub(record.started_boot_ms)),
                user_ms: Some(record.user_us / 1000),
                system_ms: Some(record.system_us / 1000),
                max_rss_kb: Some(record.max_rss_kb),
                reason: reason.clone(),
            }
            .into(),
        );
        self.pending.events.push(SessionEnded { outcome, reason }.into());
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
        match (record.code, self.live.turn_failed) {
            (Some(0), Some(false)) => Outcome::Succeeded,
            (Some(0), None) => Outcome::Exited,
            _ => Outcome::Failed,
        }
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
