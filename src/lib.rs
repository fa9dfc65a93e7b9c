//! Beadle: a session host for AI coding agents whose policies are WebAssembly components.
//!
//! The house, from the ground up; a floor may use only those below it (`tests/it/tidy.rs` checks):
//!
//! | room | what for |
//! | --- | --- |
//! | [`model`] | the vocabulary: events, calls, decisions, sessions; no I/O |
//! | [`config`] | layered configuration, folders |
//! | [`store`] | durable truth: event log, hash chain, projections, blobs |
//! | [`process`] | shims: supervised children that outlive the daemon |
//! | [`shell`] | the one shell parser |
//! | [`agent`] | how each agent CLI is started and spoken to |
//! | [`plugin`] | the WebAssembly engine |
//! | [`registry`] | installed plugins: pinned components and their lock |
//! | [`compaction`] | what becomes of a strategy's plan: checked edits of a conversation |
//! | [`policy`] | from an agent's question to one decision |
//! | [`session`] | the core: one task per live session; append before act |
//! | [`metrics`] | numbers for operators, in the text form of Prometheus |
//! | [`gateway`] | the scripted model |
//! | [`demo`] | the built-in demo agent |
//! | [`operator`] | what must prove that a person loosens something: terminals, keys |
//! | [`notify`] | tells people of calls that wait: webhook, desktop |
//! | [`sink`] | delivers events from the store to audit sinks |
//! | [`otlp`] | what the log means as OpenTelemetry spans and metrics |
//! | [`outbound`] | one POST to a receiver elsewhere, signed |
//! | [`api`] | HTTP over a unix socket |
//! | [`cli`] | the command line |
//! | [`daemon`] | puts everything together |
//! | [`whole`] | a daemon lives whole or dies whole: what a panic ends |
//! | `wire` | what daemon and shim say to each other; the shim's package shares this file |
//!
//! Invariants of the whole: append before act; every queue, body, line and history has a cap; what a plugin or an agent says is
//! data, never an instruction.

#[cfg(not(target_os = "linux"))]
compile_error!("Beadle runs on Linux (x86_64, aarch64; kernel 5.10 or newer): it needs subreapers, pidfds and /proc");

pub mod agent;
pub mod api;
pub mod cli;
pub mod compaction;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod gateway;
pub mod metrics;
pub mod model;
pub mod notify;
pub mod operator;
pub mod otlp;
pub mod outbound;
pub mod plugin;
pub mod policy;
pub mod private;
pub mod process;
pub mod registry;
pub mod session;
pub mod shell;
pub mod sink;
pub mod store;
pub mod tls;
pub mod whole;
pub mod wire;
