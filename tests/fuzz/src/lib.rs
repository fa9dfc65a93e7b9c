//! The host's pure modules, mounted by path: fuzzing them needs neither the plugin engine nor the daemon, so it builds fast.
//!
//! Each target in `fuzz_targets` states its invariants; a panic is a finding.
//!
//! | target | what is given to it |
//! | --- | --- |
//! | `hook` | what agents give their hook command |
//! | `driver` | lines of an agent's stream |
//! | `shell`, `rules` | commands: the parser; from a command to its decision by the standard rules |
//! | `answers` | what policies answer, from the decoded fields to the chain's decision |
//! | `config` | configuration files of the operator and of a project |
//! | `api`, `wire`, `script` | bodies and event streams; frames of the shim; scripts of the scripted model |
//!
//! `tests/fuzz/run` runs all for 20 s each, `tests/fuzz/run 3600 shell rules` two of them for an hour each; CI has `.ci/run` do it
//! within four minutes. Stable toolchain and no sanitizer: the checks are the targets' assertions, overflow checks, and limits on
//! memory and on the time of one input. With cargo-fuzz, if it is there:
//! `cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none <target>`. A finding is an input below `target/fuzz`, and
//! `target/fuzz/<host>/release/<target> <input>` plays it again; it is fixed with a test where the code is, and
//! `MINIMISE=1 tests/fuzz/run 600` takes what was learnt into the corpus.

#![allow(dead_code, unused_imports, reason = "the host uses more of these modules than the targets do")]

#[path = "../../../src/agent/mod.rs"]
pub mod agent;
pub mod api;
#[path = "../../../src/config/mod.rs"]
pub mod config;
pub mod gateway;
#[path = "../../../src/model/mod.rs"]
pub mod model;
pub mod plugin;
pub mod policy;
#[path = "../../../src/shell/mod.rs"]
pub mod shell;
#[path = "../../../src/whole.rs"]
pub mod whole;
#[path = "../../../src/wire.rs"]
pub mod wire;
#[path = "../../attacks/wit.rs"]
pub mod wit;

pub mod take;
