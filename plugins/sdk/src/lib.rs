//! Write Beadle plugins in Rust: implement [`Policy`], [`Strategy`] or [`Sink`], name the type in [`export_policy!`],
//! [`export_strategy!`] or [`export_sink!`], build for `wasm32-unknown-unknown`, and wrap the module as a component.
//!
//! ```
//! use beadle_plugin::{Call, Decision, Description, Policy, Session, export_policy};
//!
//! struct NoRoot;
//!
//! impl Policy for NoRoot {
//!     fn describe() -> Description {
//!         Description::new("no-root", "0.1.0", "Denies sudo.")
//!     }
//!     fn configure(_config: &str) -> Result<Self, String> {
//!         Ok(Self)
//!     }
//!     fn decide(&self, _session: &Session, call: &Call) -> Decision {
//!         match call.commands.iter().any(|c| c.program() == "sudo") {
//!             true => Decision::deny("no root here").because("sudo"),
//!             false => Decision::abstain(),
//!         }
//!     }
//! }
//!
//! export_policy!(NoRoot);
//! ```
//!
//! A policy takes part in further moments of a session's life by implementing [`JudgeSession`], [`JudgePrompt`], [`JudgeResult`] or
//! [`JudgeAttempt`] and naming the trait in the macro:
//!
//! ```
//! use beadle_plugin::{Call, Decision, Description, JudgePrompt, Policy, Prompt, PromptAnswer, Session, export_policy};
//!
//! struct House;
//!
//! impl Policy for House {
//!     fn describe() -> Description {
//!         Description::new("house", "0.1.0", "Tells the agent the rules of the house.")
//!     }
//!     fn configure(_config: &str) -> Result<Self, String> {
//!         Ok(Self)
//!     }
//!     fn decide(&self, _session: &Session, _call: &Call) -> Decision {
//!         Decision::abstain()
//!     }
//! }
//!
//! impl JudgePrompt for House {
//!     fn judge_prompt(&self, _session: &Session, prompt: &Prompt) -> PromptAnswer {
//!         match prompt.number {
//!             1 => PromptAnswer::pass().with_context("Commit messages are in English."),
//!             _ => PromptAnswer::pass(),
//!         }
//!     }
//! }
//!
//! export_policy!(House: JudgePrompt);
//! ```
//!
//! Invariants:
//! - the types are plain data, the same on every target, so a policy is unit-tested natively, without wasm;
//! - on other targets than wasm the macros only check that the type implements what they name;
//! - a guest built on this crate imports no function unless it calls [`log`] or a [`capability`], has the feature `panic-message` (its
//!   panics then say in the log why), or is a strategy;
//! - `configure` runs once and the host keeps a snapshot of the memory after it: parse and index there, because every
//!   call starts from that memory and what it writes is thrown away.
//!
//! Link guests with `-C link-arg=-zstack-size=65536`: the default stack of 1 MiB lies first in memory and is what a
//! fresh instance has to clear, which costs about as much as the call itself.
//!
//! Called by guests only; the host has its own bindings to the same files in `wit/`.

#[cfg(all(target_arch = "wasm32", feature = "allocator"))]
mod alloc;
mod bindings;
mod call;
pub mod capability;
#[cfg(feature = "config")]
pub mod config;
mod decision;
mod export;
pub mod log;
mod moments;
#[cfg(all(target_arch = "wasm32", feature = "panic-message"))]
mod panic;
mod sink;
mod strategy;

pub use bindings::judge_attempt::exports::beadle::plugin::judge_attempt::{Attempt, Verdict};
pub use bindings::judge_prompt::exports::beadle::plugin::judge_prompt::{Answer as PromptAnswer, Prompt};
pub use bindings::judge_result::exports::beadle::plugin::judge_result::{Answer as ResultAnswer, ToolResult};
pub use bindings::judge_session::exports::beadle::plugin::judge_session::{Answer as SessionAnswer, Start, Tightened};
pub use bindings::policy::beadle::plugin::types::{
    Access, Call, Channel, Command, Decision, Description, Effect, Mediation, Parse, PathUse, Redirect, Session, ToolKind, Usage, Want,
    Word,
};
pub use bindings::sink::exports::beadle::plugin::audit::{Batch, Event, Outcome, Poison};
pub use bindings::strategy::beadle::plugin::transcript::{Entry, Kind, Role};
pub use bindings::strategy::exports::beadle::plugin::compaction::{Budget, Edit, Replacement, Span, Summary, Truncation};
pub use call::quote;
pub use moments::{JudgeAttempt, JudgePrompt, JudgeResult, JudgeSession};
pub use sink::Sink;
pub use strategy::{Sample, Strategy, Transcript};

/// A permission policy: asked before every tool call.
///
/// The host calls `describe` and `configure` once when it loads the plugin, both without any grant, and `decide` for
/// each tool call in an instance that starts from the memory as `configure` left it.
pub trait Policy: Sized {
    /// Who this is. Called before `configure` and independent of it.
    fn describe() -> Description;

    /// Takes the configuration, JSON of at most 1 MiB (`{}` when the operator gave none). The error is shown to the
    /// operator: name the key, its value and what was expected. Must be a pure function of its bytes.
    fn configure(config: &str) -> Result<Self, String>;

    /// Judges one call. A panic, a missed deadline or an answer over the limits counts as the operator's `on_failure`,
    /// which is deny unless set. Reason at most 4 KiB, rule at most 1 KiB, updated input a JSON object of at most 1 MiB.
    fn decide(&self, session: &Session, call: &Call) -> Decision;
}

#[doc(hidden)]
pub mod __private {
    pub mod bindings {
        pub use crate::bindings::*;
    }
    #[cfg(target_arch = "wasm32")]
    pub use crate::bindings::strategy::beadle::plugin::transcript::Transcript as Lent;
    pub use crate::export::{Slot, begin, seal};
}
