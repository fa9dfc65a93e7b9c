//! Files that look as if they held keys or passwords: by the list of the standard policy `paths`, whatever the session's own policies are.
//!
//! Called by `files`.

#[path = "../../../plugins/kit/src/glob.rs"]
pub mod glob;
#[path = "../../../plugins/policy-paths/src/standard.rs"]
mod standard;

/// The pattern that an absolute path fits, unless an exception holds for it.
pub fn looks_secret(path: &str) -> Option<&'static str> {
    let names: Vec<&str> = path.split('/').filter(|n| !n.is_empty()).collect();
    let fits = |patterns: &[&'static str]| patterns.iter().copied().find(|p| holds(p, &names));
    fits(standard::STANDARD).filter(|_| fits(standard::EXCEPTIONS).is_none())
}

/// Whether the names of a path have those of a pattern somewhere, one after the other. A pattern for one place holds anywhere here: a file
/// too many is left out, and says so.
fn holds(pattern: &str, names: &[&str]) -> bool {
    let parts: Vec<&str> = pattern.trim_start_matches("~/").split('/').filter(|p| !p.is_empty() && *p != "**").collect();
    !parts.is_empty() && names.windows(parts.len()).any(|w| w.iter().zip(&parts).all(|(name, part)| glob::fits(part, name, true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_passwords_are_known_by_their_names() {
        for path in
            ["/w/.env", "/w/a/.ENV.local", "/w/x.pem", "/w/.ssh/config", "/w/k/id_ed25519", "/w/.aws/credentials", "/w/.bash_history"]
        {
            assert!(looks_secret(path).is_some(), "{path}");
        }
        for path in ["/w/README.md", "/w/.env.example", "/w/src/environment.rs", "/w/.ssh/known_hosts", "/w/docs/keys.md"] {
            assert_eq!(looks_secret(path), None, "{path}");
        }
    }
}
