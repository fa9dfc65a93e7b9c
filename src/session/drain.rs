//! Reading what an agent said: whole lines from its inbox, each handled once, appended in bounded portions.
//!
//! Invariant: of an agent that lives nothing is looked for on the disk that its shim has not told of.
//!
//! Called by `run` (an agent that lives), and by who ends, parks or compacts it.

use super::run::{Ending, Runner};
use crate::process::Inbox;

/// Lines read before an append at the latest.
const LINES_PER_APPEND: usize = 512;
/// Events of one append at the latest.
const EVENTS_PER_APPEND: usize = 256;

impl Runner {
    /// Reads every whole line there is, appending in bounded portions.
    pub(super) async fn drain(&mut self) {
        self.drain_while(|_| true).await;
    }

    /// The same, of an agent that lives: its shim tells of all that it writes, so nothing is looked for in vain.
    pub(super) async fn drain_told(&mut self) {
        self.drain_while(|inbox| !inbox.is_read_up()).await;
    }

    async fn drain_while(&mut self, more: impl Fn(&Inbox) -> bool + Send) {
        let mut lines = 0;
        while more(&self.inbox) && !self.unreadable && self.ending != Some(Ending::Breach) && !self.is_paused() {
            match self.inbox.next_line() {
                Ok(Some(line)) => {
                    self.line(&line.bytes).await;
                    self.pending.cursor = Some(line.end_offset);
                }
                Ok(None) => return,
                Err(e) => {
                    tracing::error!(session = %self.id, code = e.code(), error = %e, "the agent's output cannot be read on");
                    self.unreadable = true;
                    self.fault(e.to_string()).await;
                    return;
                }
            }
            lines += 1;
            let full = self.pending.events.len() >= EVENTS_PER_APPEND || lines >= LINES_PER_APPEND;
            if full || !self.pending.frames.is_empty() {
                self.commit().await;
                lines = 0;
            }
        }
    }
}
