//! Files that only the operator may read: secrets, and what would let others answer, read or write in the operator's place.
//!
//! Invariant: nothing that such a file holds is used before it was found to be private, on the descriptor that is then read.
//!
//! Called by `daemon`, `outbound`, `session` and `sink`.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// Whether it is a regular file of our own that nobody else can read or write.
pub fn is_private(meta: &Metadata) -> bool {
    meta.is_file() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o077 == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_a_file_that_others_cannot_open_is_private() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("f");
        std::fs::write(&path, "x").expect("written");
        for (mode, private) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false), (0o601, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("changed");
            assert_eq!(is_private(&path.metadata().expect("there")), private, "{mode:o}");
        }
        assert!(!is_private(&dir.path().metadata().expect("there")), "a folder");
    }
}
