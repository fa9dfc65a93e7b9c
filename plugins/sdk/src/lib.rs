//! Write Beadle plugins in Rust: implement [`Policy`], name the type in [`export_policy!`], build for
//! `wasm32-unknown-unknown`, and wrap the module as a component.
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
//! Invariants:
//! - the types are plain data, the same on every target, so a policy is unit-tested natively, without wasm;
//! - on other targets than wasm [`export_policy!`] only checks that the type is a policy;
//! - a guest built on this crate imports no function unless it calls [`log`];
//! - `configure` runs once and the host keeps a snapshot of the memory after it: parse and index there, because every
//!   call to `decide` starts from that memory and what it writes is thrown away.
//!
//! Link guests with `-C link-arg=-zstack-size=65536`: the default stack of 1 MiB lies first in memory and is what a
//! fresh instance has to clear, which costs about as much as the call itself.
//!
//! Called by guests only; the host has its own bindings to the same files in `wit/`.

#[cfg(all(target_arch = "wasm32", feature = "allocator"))]
mod alloc;
mod bindings;
mod call;
mod decision;
mod export;
pub mod log;

pub use bindings::beadle::plugin::types::{
    Access, Call, Channel, Command, Decision, Description, Effect, Mediation, Parse, PathUse, Redirect, Session, ToolKind, Usage, Want,
    Word,
};
pub use call::quote;

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
    pub use crate::export::{Slot, seal};
}
