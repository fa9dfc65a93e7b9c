//! Wake-ups: who follows a log is told that it grew, and reads from the store. No payload travels here, so losing one costs a re-read only.

use crate::model::SessionId;

/// Wake-ups kept for a slow follower; one that lags behind is told so and must read again.
pub const WAKE_BACKLOG: usize = 1_024;

/// A session's log now reaches to `last_seq`, durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wake {
    pub session: SessionId,
    pub last_seq: u64,
}
