//! The host's pure modules, mounted by path: fuzzing them needs neither the plugin engine nor the daemon, so it builds fast.
//!
//! Each target in `fuzz_targets` states its invariants; a panic is a finding.

#![allow(dead_code, unused_imports, reason = "the host uses more of these modules than the targets do")]

#[path = "../../../src/agent/mod.rs"]
pub mod agent;
pub mod api;
#[path = "../../../src/config/mod.rs"]
pub mod config;
pub mod gateway;
#[path = "../../../src/model/mod.rs"]
pub mod model;
/// What the chain knows of the plugin engine.
pub mod plugin;
pub mod policy;
#[path = "../../../src/shell/mod.rs"]
pub mod shell;
#[path = "../../../src/wire.rs"]
pub mod wire;

pub mod take;
