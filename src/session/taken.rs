//! What the shim has taken: calls that the agent may now run are noted as started.
//!
//! Invariant: nobody waits for such a note. It goes with the next append where one follows soon, so that a question costs one
//! flush and not two.
//!
//! Called by `run`.

use std::time::Duration;

use tokio::time::Instant;

use super::failpoint;
use super::run::Runner;
use crate::model::{Event, ToolStarted};

/// How long it is held back that a call was started, so that it goes with what the agent says next: nobody waits for it, and a
/// daemon that dies meanwhile learns it from the shim again.
const LINGER: Duration = Duration::from_millis(2);

impl Runner {
    pub(super) fn taken(&mut self, no: u64) {
        let calls = self.live.taken(no);
        if !calls.is_empty() {
            failpoint::hit("taken");
        }
        for call in calls {
            self.pending.events.push(ToolStarted { call }.into());
        }
        self.pending.taken = Some(no);
        self.linger = Some(Instant::now() + LINGER);
    }

    /// Whether all that is collected can wait a moment.
    pub(super) fn lingers(&self) -> bool {
        let p = &self.pending;
        let light = p.frames.is_empty() && p.cursor.is_none() && p.events.iter().all(|e| matches!(e, Event::ToolStarted(_)));
        light && self.linger.is_some_and(|t| Instant::now() < t)
    }
}
