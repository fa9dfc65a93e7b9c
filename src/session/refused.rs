//! What the store refuses of an append for good: it is taken out, so that the rest is recorded and the session goes on.
//!
//! Invariants: a note stands in its place, since decisions name their calls by number; who asked for it is told ([`Runner::recorded`]).
//! Called by `run`.

use super::run::Runner;
use crate::model::{Event, Note, status_of};
use crate::store::Error;

impl Runner {
    /// Gives the error back where it is of another kind: then all of the append waits until the store takes it.
    pub(super) fn without_refused(&mut self, events: &mut [Event], e: Error) -> Option<Error> {
        let (refused, why): (fn(&Event) -> bool, _) = match &e {
            Error::Transition { .. } => (|e| status_of(e).is_some(), "it breaks the order of statuses"),
            // why for good: such a change needs the whole log, and a file that is away stays away.
            Error::Archive { .. } | Error::Damaged { .. } | Error::Body { .. } | Error::Blob { .. } => {
                (changes_what_is_kept, "a part of the log cannot be read")
            }
            _ => return Some(e),
        };
        if !events.iter().any(refused) {
            return Some(e);
        }
        tracing::error!(session = %self.id, code = e.code(), error = %e, "a part of an append is refused");
        for event in events.iter_mut().filter(|e| refused(e)) {
            let text = format!("a {} event was refused: {why}", event.kind());
            *event = Note { text }.into();
        }
        if !matches!(e, Error::Transition { .. }) {
            self.unkept = Some(e);
        }
        None
    }
}

/// What the store does more for than to append it.
const fn changes_what_is_kept(event: &Event) -> bool {
    matches!(event, Event::SecretRedacted(_) | Event::SessionArchived(_) | Event::ArchiveRestored(_))
}
