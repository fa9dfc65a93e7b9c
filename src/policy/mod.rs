//! From an agent's question to one decision: build the call record, guard the host's own folders, ask the chain.
//!
//! Invariants:
//! - no outcome of this module is weaker than what was asked: a failed, late or contradictory policy never loosens;
//! - the same call, session state and chain give the same decision (latencies apart);
//! - nothing here writes: what comes out is data that `session` records before it acts.
//!
//! Called by `session` (live) and `cli::policy` (`policy explain`, without a daemon).

pub mod assemble;
pub mod call;
pub mod chain;
pub mod examples;
mod installed;
pub mod moments;
pub mod own;
pub mod paths;
pub mod replay;
mod strategy;
pub mod taken;

pub use assemble::{Assembled, Chains, RuntimeRule};
pub use chain::{Chain, Failure, Judged, Policy, PolicySlot, Subject};
pub use taken::Taken;
