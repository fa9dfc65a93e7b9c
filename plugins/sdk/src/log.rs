//! The plugin's own log. Using it makes the component import `beadle:plugin/log`, which the host always links.
//!
//! The host limits rate and length and shows the lines with the plugin's name. Natively (in unit tests) lines are
//! dropped: what a policy has to say belongs in its decision.

pub use crate::bindings::policy::beadle::plugin::log::Level;

/// Writes one line at this level.
pub fn write(level: Level, message: &str) {
    #[cfg(target_arch = "wasm32")]
    crate::bindings::policy::beadle::plugin::log::log(level, message);
    #[cfg(not(target_arch = "wasm32"))]
    let _ = (level, message);
}
