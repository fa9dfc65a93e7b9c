//! Operators: what they confirm, and the keys by which they are told apart. Plain data; `operator` judges with it.

use serde::{Deserialize, Serialize};

use super::event::Actor;

/// Longest name of an operator in bytes.
pub const OPERATOR_NAME_MAX: usize = 64;

/// What exactly is confirmed: an action and the values that make it this one and no other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// In plain words, as in `approve a call`.
    pub action: String,
    /// Names and whole values, in the order in which they are shown.
    pub fields: Vec<(String, String)>,
}

impl Subject {
    pub fn new(action: &str) -> Self {
        Self { action: action.to_owned(), fields: vec![] }
    }

    /// Adds a value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.fields.push((name.to_owned(), value.into()));
        self
    }

    /// BLAKE3 over every part with its length.
    pub fn digest(&self) -> [u8; 32] {
        let mut h = blake3::Hasher::new_derive_key("beadle operator subject v1");
        let parts = self.fields.iter().flat_map(|(k, v)| [k, v]);
        for part in std::iter::once(&self.action).chain(parts) {
            h.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            h.update(part.as_bytes());
        }
        *h.finalize().as_bytes()
    }
}

/// How a passphrase becomes a key: Argon2id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyDerivation {
    /// Hex.
    pub salt: String,
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

/// The public half of an operator's key. The private half is never stored: the passphrase gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorKey {
    pub name: String,
    pub derivation: KeyDerivation,
    /// ed25519, hex.
    pub public: String,
    pub added_at: i64,
    pub by: Actor,
}

/// 1 to 64 of a-z A-Z 0-9 - _ .
pub fn is_operator_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= OPERATOR_NAME_MAX && name.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_another_when_any_part_moves() {
        let a = Subject::new("approve").with("id", "s:1").with("effect", "allow");
        let others = [
            Subject::new("approve").with("id", "s:1").with("effect", "deny"),
            Subject::new("approve").with("id", "s:1e").with("ffect", "allow"),
            Subject::new("approve").with("effect", "allow").with("id", "s:1"),
            Subject::new("approve").with("id", "s:1"),
        ];
        assert!(others.iter().all(|o| o.digest() != a.digest()));
        assert_eq!(a.clone().digest(), a.digest());
    }
}
