//! The plugins inside the binary: built from this repository by `build.rs`.

/// What policies of `cedar` speak of, in Cedar's notation of schemas.
pub const CEDAR_SCHEMA: &str = include_str!("../../plugins/policy-cedar/src/beadle.cedarschema");

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
    /// Permits and forbids in the Cedar language.
    CEDAR = "cedar",
    /// The example policy of the README: no forced pushes, the others become dry runs.
    HELLO = "hello",
}

/// The JSON Schema of a policy's configuration, as the policy itself describes it; `None` for one that says nothing of it.
pub fn schema(name: &str) -> Option<&'static str> {
    match name {
        "rules" => Some(include_str!("../../plugins/policy-rules/src/config.schema.json")),
        "paths" => Some(include_str!("../../plugins/policy-paths/src/config.schema.json")),
        "budget" => Some(include_str!("../../plugins/policy-budget/src/config.schema.json")),
        "egress" => Some(include_str!("../../plugins/policy-egress/src/config.schema.json")),
        "cedar" => Some(include_str!("../../plugins/policy-cedar/src/config.schema.json")),
        _ => None,
    }
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
