//! The wire types and the reader of event streams.

pub mod client;
#[path = "../../../../src/api/types.rs"]
pub mod types;
