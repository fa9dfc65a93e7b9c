//! The client's pure part.

#[path = "../../../../src/api/client/sse.rs"]
pub mod sse;
