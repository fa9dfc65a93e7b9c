//! Compaction: a conversation as strategies read it, and what becomes of the edits that they plan. Pure code, no I/O.
//!
//! The way of a plan: the agent's codec reads its record into [`Piece`](crate::model::Piece)s; [`Folded`] counts them, pins what must stay
//! and is lent to the strategy; [`check()`] refuses the plan or gives a [`Checked`] one; the codec writes the record of the new conversation.
//!
//! Invariants, whatever a strategy answers (each is a property test):
//! - a plan is refused, or its result is a conversation in which every call has its result and every result its call;
//! - what is pinned is there with the same text: the user's own words, the system's, the newest entry, and the other half of a pinned pair;
//! - no entry that stays has more tokens than it had, the whole has no more than it had, and the order is the same;
//! - the same conversation and plan give the same result.
//!
//! Called by `session` (live conversations) and by `cli` (the scoreboard).

mod check;
mod estimate;
mod fold;
pub mod score;
mod summary;

pub use check::{Checked, Error, check};
pub use estimate::{ESTIMATOR, tokens};
pub use fold::{ENTRIES, Folded, Unpinned};
