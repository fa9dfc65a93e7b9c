//! The wire types and the reader of event streams.

pub mod client;
pub mod types;
