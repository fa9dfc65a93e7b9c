//! Nothing here: the benches beside this file are programs of their own, each printing its peers in the same run.
//!
//! A package apart, so that what only they need does not change the build of the host.

mod shared;

pub use shared::created;
