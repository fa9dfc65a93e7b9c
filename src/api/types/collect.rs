//! Garbage and backups.

use serde::{Deserialize, Serialize};

use super::ArchiveDoc;
use crate::model::Outcome;

/// What may go. Without a time or a size only leftovers do.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectRequestDoc {
    /// RFC 3339: sessions that ended before, files not used since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// RFC 3339: raw output of sessions that ended before; the sessions stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_before: Option<String>,
    /// Bytes that all sessions together may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over_bytes: Option<u64>,
    /// Only sessions that ended so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outcomes: Vec<Outcome>,
    /// So many of those that ended last stay.
    #[serde(default)]
    pub keep: usize,
    #[serde(default)]
    pub dry_run: bool,
}

/// What went, or would.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CollectDoc {
    pub dry_run: bool,
    pub items: Vec<CollectedDoc>,
    /// Sessions that would go but stay.
    pub kept: Vec<StaysDoc>,
    pub bytes: u64,
    pub failed_count: u64,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CollectedDoc {
    /// `session`, `blob`, `raw output`, `run folder`, `shim`, `compiled plugin`, `plugin log`, `database copy`.
    pub kind: String,
    pub name: String,
    pub bytes: u64,
    pub why: String,
    /// Why it is still there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StaysDoc {
    pub session: String,
    pub why: String,
}

/// Where a backup goes: a new folder, or a new file where the name ends in `.tar.zst`. Absolute.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    pub to: String,
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct BackupDoc {
    pub to: String,
    pub made_at: String,
    pub bytes: u64,
    pub file_count: u64,
    pub session_count: u64,
    pub schema: i64,
    /// Archives that are not in it as they were written, with why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<ArchiveDoc>,
}

/// A backup that was put in place.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RestoreDoc {
    pub data: String,
    pub made_at: String,
    pub session_count: u64,
    pub event_count: u64,
    /// Where the former data folder went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aside: Option<String>,
    /// Archives that were not in the backup as they were written, with why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<ArchiveDoc>,
}
