//! A call that waits for a person's answer.
//!
//! Invariant: what was read back from the log is told to no agent as its own words when a secret is missing in it.
//!
//! Called by `live` (which holds them), `gate` and `park`.

use std::sync::Arc;

use super::mask;
use crate::model::{Actor, ApprovalRequested, Call};

/// A call that waits for a person.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    pub request_id: String,
    pub call: Arc<Call>,
    pub asked: ApprovalRequested,
    /// Who allowed it, where two must.
    pub endorsed: Vec<Actor>,
    /// Read back from the log, which holds no secrets: its input may lack some.
    pub is_from_log: bool,
}

impl Waiting {
    /// Whether the agent cannot be told to go on as it asked, because a secret of it is known no more.
    pub fn lacks_words(&self) -> bool {
        // why: a call that the agent holds is asked anew, with all its words.
        let input = self.asked.held.is_none() && mask::is_in(&self.call.input);
        self.is_from_log && (input || self.asked.updated_input.as_ref().is_some_and(mask::is_in))
    }
}

/// What was asked, so that the same question is known again.
pub(super) fn question_digest(tool: &str, input: &serde_json::Value, call_id: Option<&str>) -> [u8; 32] {
    let mut h = blake3::Hasher::new();
    for part in [tool.as_bytes(), super::mask::value(input).to_string().as_bytes(), call_id.unwrap_or("").as_bytes()] {
        h.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        h.update(part);
    }
    *h.finalize().as_bytes()
}
