//! How tokens are counted where no tokenizer of the model can be had: three bytes of UTF-8 a token.
//!
//! Measured against the API's own counts in two recorded Claude Code sessions (53 steps between two model messages, tool results of code,
//! JSON and web pages): the median step is 9 to 11 % off, whole sessions come out 8 to 21 % low. Four bytes a token came out 31 to 41 % low.
//!
//! Called by all of `compaction`.

use crate::model::{EntryKind, Piece};

/// The estimator's name, as budgets and events state it.
pub const ESTIMATOR: &str = "bytes/3";
/// An image, whatever its size: what the largest that the model takes costs.
const IMAGE: u64 = 1600;

/// See the module.
pub(super) const BYTES: u64 = 3;

/// Tokens of a text.
pub const fn tokens(text: &str) -> u64 {
    (text.len() as u64).div_ceil(BYTES)
}

/// Tokens of an entry.
pub fn of(piece: &Piece) -> u64 {
    if matches!(piece.entry.kind, EntryKind::Image) { IMAGE } else { tokens(&piece.text) }
}
