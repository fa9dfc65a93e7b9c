//! The generated bindings. Private: what guests use is re-exported by hand in `lib.rs`.
//!
//! One module for each kind of plugin and each optional moment: a component gets the exports of those that its macro names, and no
//! others. The shared types are those of `policy`, everywhere. `tests/bindings.rs` makes the files and holds them to the contract.

#![allow(missing_docs, clippy::all, clippy::undocumented_unsafe_blocks, reason = "generated code")]

/// What plugins import beyond their world; a component imports only the interfaces that it uses.
#[rustfmt::skip]
pub mod capabilities;
#[rustfmt::skip]
pub mod judge_attempt;
#[rustfmt::skip]
pub mod judge_prompt;
#[rustfmt::skip]
pub mod judge_result;
#[rustfmt::skip]
pub mod judge_session;
#[rustfmt::skip]
pub mod policy;
#[rustfmt::skip]
pub mod sink;
#[rustfmt::skip]
pub mod strategy;
