//! Operators: keys, and what must be proved before something is loosened.

use serde::{Deserialize, Serialize};

use crate::model::{Actor, KeyDerivation, Subject};

/// Answers a [`ChallengeDoc`]: `<challenge>:code:<digits>` or `<challenge>:key:<name>:<signature>`, with the same request again.
pub const CONFIRM_HEADER: &str = "beadle-confirm";

/// Answered with 428 instead of a [`Problem`](super::Problem) when a request must be confirmed first. It has the problem's fields too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeDoc {
    pub code: String,
    pub message: String,
    /// One use.
    pub challenge: String,
    /// What is confirmed: this and nothing else.
    pub subject: Subject,
    pub expires_in_ms: u64,
    /// Where the code to be typed stands; absent when a signature is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<String>,
    /// Keys of which one must sign; none when a code is wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<OperatorKeyDoc>,
}

/// A new key. The first one needs a terminal, a further one the signature of a key that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorKeyRequest {
    pub name: String,
    pub derivation: KeyDerivation,
    /// ed25519, hex.
    pub public: String,
}

/// A key in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorKeyDoc {
    pub name: String,
    pub derivation: KeyDerivation,
    pub public: String,
    pub added_at: String,
    pub by: Actor,
}

/// What must be proved on this host, and by whom it can be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorDoc {
    /// `none`, `tty` or `key`.
    pub confirm: String,
    pub keys: Vec<OperatorKeyDoc>,
}
