//! From a call to its record, and from answers to a decision.

#[path = "../../../../src/policy/call.rs"]
pub mod call;
#[path = "../../../../src/policy/chain.rs"]
pub mod chain;
#[path = "../../../../src/policy/paths.rs"]
pub mod paths;
