//! Event bodies of what is kept, moved and erased: archives and redactions. Written by `session::keep`.

use serde::{Deserialize, Serialize};

use super::Actor;

/// Events were moved to a file. They are read from there as before; `verify` reads on into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionArchived {
    pub first: u64,
    pub last: u64,
    /// Where it was written: below the data folder unless absolute.
    pub file: String,
    /// BLAKE3 of its bytes, hex.
    pub digest: String,
    pub bytes: u64,
    pub by: Actor,
}

/// The agent's own record was copied whole when an attempt ended, without secrets of well-known forms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranscriptKept {
    /// The agent's own id of the conversation.
    pub conversation: String,
    /// Its file first, then those of sub-agents.
    pub files: Vec<KeptRecord>,
    /// Files that had no room or could not be read.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

/// One file of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRecord {
    /// Relative to the folder of the conversation.
    pub source: String,
    pub bytes: u64,
    /// BLAKE3 of the copy, hex; absent once it was erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<String>,
}

// why by reference: serde calls it so.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Events of an archive were put back into the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRestored {
    pub first: u64,
    pub last: u64,
    pub by: Actor,
}

/// The body and the salt of an event were erased. Its hash still holds: what it commits to is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRedacted {
    pub seq: u64,
    pub reason: String,
    pub by: Actor,
    /// BLAKE3 of what stands in place of the body now, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Digests of payloads that were erased with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<String>,
    /// BLAKE3 of the archive that it lies in, as it was written anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
}
