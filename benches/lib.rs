//! What the benches beside this file share; they are programs of their own, each printing its peers in the same run.
//!
//! A package apart, so that what only they need does not change the build of the host.

pub mod rig;
mod shared;

pub use shared::created;
