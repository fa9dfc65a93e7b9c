//! What an append may not do, checked before its first statement; and whose fault an error is. Called by `group`.

use crate::store::batch::{Append, Cursor};
use crate::store::error::{Error, Result};

/// Parts what only the caller did wrong from what dooms the transaction.
pub(super) fn engine_out<T>(r: Result<T>) -> Result<Result<T>> {
    match r {
        Err(e @ (Error::Corrupt { .. } | Error::Full { .. } | Error::ReadOnly { .. } | Error::Engine { .. })) => Err(e),
        r => Ok(r),
    }
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
