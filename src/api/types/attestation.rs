//! Attestations of agent programs, and the programs themselves.

use serde::{Deserialize, Serialize};

use crate::model::{Actor, AttestedCheck, AttestedFile};

/// Which program: an agent's, by path or by name on `path`; default is the agent's usual name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramQuery {
    pub agent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// A PATH; default is `/usr/local/bin:/usr/bin:/bin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// A program as a session would run it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramDoc {
    pub agent: String,
    pub program: String,
    /// `binary`, `script` or `wrapper`.
    pub kind: String,
    /// BLAKE3 over all files, hex; of a single file its own.
    pub digest: String,
    pub files: Vec<AttestedFile>,
    /// What the digest covers, in words.
    pub covers: String,
    /// Names this host's way to start the agent.
    pub recipe: String,
    pub attested: bool,
    /// Why it is not attested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// The newest attestation of this very content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<AttestationDoc>,
}

/// Which attestations.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestationsQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
}

/// What was found by running the checks. The host reads the program itself; another digest, version or recipe is refused with 422.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestationRequest {
    pub agent: String,
    /// Absolute.
    pub program: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    pub digest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub beadle_version: String,
    pub recipe: String,
    pub checks: Vec<AttestedCheck>,
    pub duration_ms: u64,
}

/// An attestation as recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttestationDoc {
    pub agent: String,
    pub program: String,
    pub kind: String,
    pub digest: String,
    pub files: Vec<AttestedFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub beadle_version: String,
    pub recipe: String,
    /// Nothing failed, nothing required was left out, and what runs is known.
    pub passed: bool,
    pub checks: Vec<AttestedCheck>,
    pub duration_ms: u64,
    pub at: String,
    pub by: Actor,
}
