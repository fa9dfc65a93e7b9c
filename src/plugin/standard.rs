//! The plugins inside the binary: built from this repository by `build.rs`.

/// Permission rules in the notation that agents' users know.
pub const RULES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rules.wasm"));
/// The example policy of the README: no forced pushes, the others become dry runs.
pub const HELLO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello.wasm"));

/// Names that a configuration can use in place of a path.
pub const NAMES: [&str; 2] = ["rules", "hello"];

/// The component of this name, or `None` when there is no such standard plugin.
pub fn find(name: &str) -> Option<&'static [u8]> {
    match name {
        "rules" => Some(RULES),
        "hello" => Some(HELLO),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found() {
        assert!(NAMES.iter().all(|n| find(n).is_some()));
        assert_eq!(find("nobody"), None);
    }
}
