//! What an append may not do, checked before its first statement; and whose fault an error is. Called by `group`.

use crate::model::{Event, Session};
use crate::store::batch::{Append, Cursor};
use crate::store::error::{Error, Result};

/// Parts what only the caller did wrong from what dooms the transaction.
pub(super) fn engine_out<T>(r: Result<T>) -> Result<Result<T>> {
    match r {
        Err(e @ (Error::Corrupt { .. } | Error::Full { .. } | Error::ReadOnly { .. } | Error::Engine { .. } | Error::Midway(_))) => Err(e),
        r => Ok(r),
    }
}

/// What went wrong once statements had run: the transaction is doomed with it, and the writer makes the others' changes in another one.
pub(super) fn doomed<T>(r: Result<T>) -> Result<T> {
    engine_out(r)?.map_err(|e| Error::Midway(Box::new(e)))
}

/// The status only changes as the table has it: `at` is the session as it stands, or `None` for one that these events begin.
pub(super) fn check_status(a: &Append, at: Option<&Session>) -> Result<()> {
    let events = || a.events.iter().map(|p| &p.envelope.event);
    let begun = match at {
        Some(_) => None,
        None => a.events.first().and_then(|p| Session::begin(&p.envelope)),
    };
    let Some(session) = at.or(begun.as_ref()) else { return Ok(()) };
    session.admits(events()).map_err(|source| Error::Transition { session: a.session.clone(), source })
}

/// A queued session's turn. What an earlier turn that came to nothing was to tell its agent is told to nobody, so frames begin anew.
pub(super) fn is_claim(a: &Append) -> bool {
    a.events.iter().any(|p| matches!(p.envelope.event, Event::SessionClaimed(_)))
}

/// Frames gapless from 1 in each attempt, attempts and cursor never backwards.
pub(super) fn check_order(a: &Append, frame_attempt: u32, frame_no: u64, cursor: Option<Cursor>) -> Result<()> {
    let next = if a.attempt == frame_attempt { frame_no + 1 } else { 1 };
    for (want, f) in (next..).zip(&a.frames) {
        if a.attempt < frame_attempt || f.no != want {
            return Err(Error::FrameOrder { session: a.session.clone(), attempt: a.attempt, got: f.no, want });
        }
    }
    if let (Some(got), Some(have)) = (a.cursor, cursor)
        && (a.attempt, got) < (have.attempt, have.offset)
    {
        return Err(Error::CursorOrder { session: a.session.clone(), attempt: a.attempt, got, have: have.offset });
    }
    Ok(())
}
