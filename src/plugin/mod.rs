//! The plugin engine: loads components and asks them.
//!
//! Invariants:
//! - the only module that names wasmtime; what others see is [`Host`], [`Plugin`], [`Question`] and plain data;
//! - every call runs in a fresh instance, from a snapshot taken after `configure` where that can be had, else configured
//!   anew; nothing that a guest writes is there in the next call;
//! - a call ends by its deadline, within its memory, with an answer within its limits, or as a [`CallFailure`] that says
//!   which of them it broke; its store is thrown away either way;
//! - a guest reaches nothing but what it wants and was granted, through interfaces of ours; WASI is inert, whatever is granted;
//! - the cache is trusted only as far as its keyed digest goes, which the caller holds the key of;
//! - one plugin never takes all threads, one that takes long runs apart from the others, and one that fails again and
//!   again is not asked for a while.
//!
//! Called by `policy` (the chain), by `daemon` and by the CLI verbs that work without a daemon.

mod answer;
mod cache;
mod call;
mod capability;
mod compile;
pub mod contract;
mod engine;
mod error;
mod fs;
mod host;
mod http;
mod kept;
pub mod kit;
mod kv;
mod limits;
mod load;
mod log;
mod machine;
mod pool;
mod quarantine;
mod ready;
mod snapshot;
pub mod standard;
mod state;
mod ticker;
mod v0_1;
mod wasi;

pub use cache::CacheOptions;
pub use call::CallFailure;
pub use capability::{NoSecrets, Secrets};
pub use engine::Kind;
pub use error::{Error, Result};
pub use fs::{MAX_ENTRIES, MAX_FILE, MAX_WRITE};
pub use host::{Footprint, Host, HostOptions, LoadSpec, Outcome, Plugin, Used};
pub use http::{MAX_BODY, MAX_REQUESTS, Resolver, SystemResolver};
pub use kept::{KeptLine, KeptLogs};
pub use kv::{MAX_KEY, MAX_KEYS, MAX_STATE, MAX_VALUE, Round, States};
pub use limits::{Limits, MAX_COMPONENT, MAX_CONFIG, MAX_CONTEXT, MAX_INPUT, MAX_REASON, MAX_RULE};
pub use log::{Level, Line, PluginLog};
pub use machine::{Canned, Machine, NoAnswer, Sent, ThisMachine};
pub use quarantine::QuarantineOptions;
pub use v0_1::{
    AttemptQuestion, Batch, Description, PlanQuestion, PluginKind, PromptQuestion, Question, ResultQuestion, SessionQuestion, Want,
};
