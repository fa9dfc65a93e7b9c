//! The plugins inside the binary: built from this repository by `build.rs`.

macro_rules! standard {
    ($($(#[$doc:meta])* $constant:ident = $name:literal,)*) => {
        $($(#[$doc])* pub const $constant: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".wasm"));)*

        /// Names that a configuration can use in place of a path.
        pub const NAMES: &[&str] = &[$($name),*];

        /// The component of this name, or `None` when there is no such standard plugin.
        pub fn find(name: &str) -> Option<&'static [u8]> {
            match name {
                $($name => Some($constant),)*
                _ => None,
            }
        }
    };
}

standard! {
    /// Permission rules in the notation that agents' users know.
    RULES = "rules",
    /// Where a session may write and read, and which files are secret.
    PATHS = "paths",
    /// How much a session may do, last and cost.
    BUDGET = "budget",
    /// Which hosts fetch tools and network commands may connect to.
    EGRESS = "egress",
    /// The example policy of the README: no forced pushes, the others become dry runs.
    HELLO = "hello",
}

/// Compaction strategies, by name; see `plugins/strategies`.
pub const STRATEGIES: [(&str, &[u8]); 3] = [
    ("mask-observations", include_bytes!(concat!(env!("OUT_DIR"), "/mask_observations.wasm"))),
    ("drop-oldest", include_bytes!(concat!(env!("OUT_DIR"), "/drop_oldest.wasm"))),
    ("structured-summary", include_bytes!(concat!(env!("OUT_DIR"), "/structured_summary.wasm"))),
];

/// The compaction strategy of this name.
pub fn strategy(name: &str) -> Option<&'static [u8]> {
    STRATEGIES.iter().find(|(n, _)| *n == name).map(|(_, wasm)| *wasm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found() {
        assert!(NAMES.iter().all(|n| find(n).is_some()));
        assert_eq!(find("nobody"), None);
        assert!(strategy("drop-oldest").is_some() && strategy("rules").is_none());
    }
}
