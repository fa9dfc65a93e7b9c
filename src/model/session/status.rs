//! Where a session stands, how it ended, and the one table of what may follow what.
//!
//! Invariant: the store takes no event that breaks the table (`Session::admits`), so a fold follows it.

use serde::{Deserialize, Serialize};

use super::Session;
use crate::model::event::Event;

/// Where a session stands. `Ended` is the only final one; how it ended is its [`Outcome`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Queued,
    Starting,
    Running,
    Paused,
    Stopping,
    Ended,
}

impl Status {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Ended => "ended",
        }
    }

    /// The one transition table. `Paused` says that its agent lives and is held (or was put away by the host, or is to be started anew): an
    /// agent that ends while it is held ends the session, so `Paused` becomes `Ended` without running again.
    pub const fn may_become(self, next: Self) -> bool {
        use Status::{Ended, Paused, Queued, Running, Starting, Stopping};
        matches!(
            (self, next),
            (Queued, Starting | Stopping | Ended)
                | (Starting, Queued | Running | Stopping | Ended)
                | (Running, Queued | Paused | Stopping | Ended)
                | (Paused, Running | Stopping | Ended)
                | (Stopping, Ended)
        )
    }
}

/// How a session or attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Succeeded,
    Failed,
    MissingReport,
    /// Ended by itself, and nothing says whether that is good (no result, no report expected).
    Exited,
    Stopped,
    Killed,
    TimedOut,
    Budget,
    Breach,
    /// The host cannot know: the shim died with the machine or was killed.
    Lost,
}

impl Outcome {
    pub const ALL: [Self; 10] = [
        Self::Succeeded,
        Self::Failed,
        Self::MissingReport,
        Self::Exited,
        Self::Stopped,
        Self::Killed,
        Self::TimedOut,
        Self::Budget,
        Self::Breach,
        Self::Lost,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::MissingReport => "missing_report",
            Self::Exited => "exited",
            Self::Stopped => "stopped",
            Self::Killed => "killed",
            Self::TimedOut => "timed_out",
            Self::Budget => "budget",
            Self::Breach => "breach",
            Self::Lost => "lost",
        }
    }
}

/// A status change that the table does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a session that is {from} cannot become {to}; see `beadle show` for where it stands", from = .from.as_str(), to = .to.as_str())]
pub struct TransitionError {
    pub from: Status,
    pub to: Status,
}

/// The status that an event says the session has from then on.
pub fn status_of(event: &Event) -> Option<Status> {
    Some(match event {
        // A new session that shall wait, and one whose try came to nothing.
        Event::SessionQueued(_) => Status::Queued,
        Event::SessionClaimed(_) => Status::Starting,
        Event::AttemptStarted(_) | Event::SessionContinued(_) => Status::Running,
        Event::SessionPaused(_) => Status::Paused,
        Event::SessionStopping(_) => Status::Stopping,
        Event::SessionEnded(_) => Status::Ended,
        _ => return None,
    })
}

impl Session {
    /// Follows the table; an event out of order leaves the status as it is. The store takes none, so only logs of earlier versions can
    /// hold one.
    pub(in crate::model) fn become_status(&mut self, next: Status) {
        if self.status.may_become(next) {
            self.status = next;
            if next != Status::Paused {
                self.pause = None;
            }
        }
    }

    /// Whether events may be appended in this order: the first that breaks the table is named. An attempt that begins while the
    /// session runs, and a further word on a stop under way, change no status.
    pub fn admits<'a>(&self, events: impl IntoIterator<Item = &'a Event>) -> Result<(), TransitionError> {
        let mut at = self.status;
        for event in events {
            let Some(to) = status_of(event) else { continue };
            let stays = matches!(
                (event, at),
                (Event::AttemptStarted(_), Status::Running)
                    | (Event::SessionStopping(_), Status::Stopping)
                    | (Event::SessionQueued(_), Status::Queued)
            );
            // why only from paused: it is a running session's own word otherwise.
            let from_pause = !matches!(event, Event::SessionContinued(_)) || at == Status::Paused;
            if !(stays || from_pause && at.may_become(to)) {
                return Err(TransitionError { from: at, to });
            }
            at = to;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Status; 6] = [Status::Queued, Status::Starting, Status::Running, Status::Paused, Status::Stopping, Status::Ended];

    #[test]
    fn ended_is_final_and_pause_needs_running() {
        for s in ALL {
            assert!(!Status::Ended.may_become(s));
            assert_eq!(s.may_become(Status::Paused), s == Status::Running);
            assert!(!s.may_become(s));
        }
    }

    proptest! {
        #[test]
        fn every_walk_ends_at_ended_or_can_reach_it(walk in proptest::collection::vec(0usize..6, 0..20)) {
            let mut at = Status::Queued;
            for i in walk {
                if at.may_become(ALL[i]) { at = ALL[i]; }
            }
            prop_assert!(at == Status::Ended || at.may_become(Status::Ended));
        }
    }
}
