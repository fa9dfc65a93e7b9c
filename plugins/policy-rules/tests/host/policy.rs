//! From a call to its record, as the host does it; for `attacks.rs`.

#[path = "../../../../src/policy/call.rs"]
pub mod call;
#[path = "../../../../src/policy/paths.rs"]
pub mod paths;
