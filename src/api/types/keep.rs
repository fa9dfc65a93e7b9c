//! Archives and erasures.

use serde::{Deserialize, Serialize};

/// Longest text that can be erased, in bytes.
pub const ERASE_TEXT_MAX: usize = 64 << 10;

/// Which events go to a file. Without `below` all of them, which only an ended session gives up.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveRequest {
    /// The first event that stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<u64>,
    /// Where to, absolute; by default into the data folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// Every session that ended before a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchivesRequest {
    /// RFC 3339.
    pub ended_before: String,
}

/// What was archived of a session, or why not.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ArchiveDoc {
    pub session: String,
    pub first_seq: u64,
    pub last_seq: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<super::Problem>,
}

impl ArchiveDoc {
    /// One that is not as it was written, or not there.
    pub fn unread(session: String, (first_seq, last_seq): (u64, u64), file: &std::path::Path, why: String) -> Self {
        let error = super::Problem { code: "BDL-STORE-040".to_owned(), message: why, hint: None };
        Self { session, first_seq, last_seq, file: Some(file.display().to_string()), error: Some(error), ..Self::default() }
    }
}

/// What is to be erased: one event, a text from it, or the text from all events of the session.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedactRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// At most [`ERASE_TEXT_MAX`] bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What was erased.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RedactDoc {
    pub session: String,
    pub events: Vec<RedactedDoc>,
    /// More events hold the text: ask again.
    pub more: bool,
    /// Digests of payloads that are gone.
    pub blobs: Vec<String>,
    /// Payloads that stay: another event names them.
    pub shared: Vec<SharedBlobDoc>,
    /// Entries of memory that held the text and do no more; of any session.
    #[serde(default)]
    pub memories: u64,
    /// Files with the agent's raw output in which it was overwritten.
    pub overwritten: Vec<String>,
    /// Where it may still stand.
    pub left: Vec<String>,
    /// What should have been done and was not, with why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// The database's files were rewritten without it.
    pub scrubbed: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RedactedDoc {
    pub seq: u64,
    pub kind: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SharedBlobDoc {
    pub blob: String,
    pub session: String,
    pub seq: u64,
}

/// Which of the kept records; by default the newest attempt's own.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TranscriptQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// A record of the agent's that was kept.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TranscriptDoc {
    pub session: String,
    /// The event that tells of it.
    pub seq: u64,
    pub attempt: u32,
    pub at: String,
    pub conversation: String,
    /// Relative to the agent's folder of the conversation.
    pub source: String,
    pub bytes: u64,
    /// Absent once it was erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<String>,
}

/// An event whose body was erased in the open.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ErasureDoc {
    pub session: String,
    pub seq: u64,
}
