//! The host: rules, its state, trust in project configurations.

use serde::{Deserialize, Serialize};

use crate::model::{Actor, Effect, Mode, OnFailure, Replay};

/// Which rules: those for all, and with `session` also that session's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RulesQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

/// A rule added at run time, for one session or for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleRequest {
    /// `allow`, `ask` or `deny`.
    pub effect: Effect,
    pub rule: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

/// A rule in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleDoc {
    pub id: String,
    pub effect: Effect,
    pub rule: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// It holds for sessions started in this folder only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    pub added_at: String,
    pub by: Actor,
}

/// One policy of the daemon's own chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDoc {
    pub name: String,
    pub plugin: String,
    pub version: String,
    pub digest: String,
    pub mode: Mode,
    pub on_failure: OnFailure,
    pub deadline_ms: u64,
    /// `ready`, `failed` or `quarantined`.
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    pub snapshotted: bool,
}

/// What became of the sessions of the daemon before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RecoveredDoc {
    pub adopted_count: u64,
    /// They had ended meanwhile, which is on record now.
    pub ended_count: u64,
    /// They could not be adopted and stay as they are in the log.
    pub failed_count: u64,
}

/// A copy of the daemon's executable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptProgramDoc {
    pub path: String,
}

/// What an executable would find if it became the daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckDoc {
    pub version: String,
    /// The schema that it brings the store to.
    pub schema: i64,
    /// The schema that the store has; absent where there is no store yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found_schema: Option<i64>,
    /// The policies of the configuration; installed ones are not among them.
    pub policies: Vec<PolicyDoc>,
}

/// What an executable made of a copy of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RehearsalDoc {
    pub version: String,
    /// The schema that it brought the copy to.
    pub schema: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found_schema: Option<i64>,
    pub session_count: u64,
    pub event_count: u64,
    /// What does not fit in it; files beside the database are not among that.
    pub finding_count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_finding: Option<String>,
}

/// What became of an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeDoc {
    pub old_version: String,
    /// Of the daemon that runs now.
    pub version: String,
    pub program: String,
    pub pid: u32,
    /// From the old daemon's last answer to the first of the one that runs now.
    pub gap_ms: u64,
    pub recovered: RecoveredDoc,
    /// Why the executable of before runs again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<String>,
}

/// The daemon about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostDoc {
    pub version: String,
    pub pid: u32,
    /// The executable's path.
    #[serde(default)]
    pub program: String,
    #[serde(default)]
    pub recovered: RecoveredDoc,
    pub started_at: String,
    pub data: String,
    pub socket: String,
    pub config: String,
    pub log: String,
    pub session_count: u64,
    pub live_count: u64,
    pub rss_kb: u64,
    pub policies: Vec<PolicyDoc>,
    /// Ways by which people are told of calls that wait.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<NoticesDoc>,
}

/// Read the configuration anew.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// Although recorded calls would be decided less strictly.
    #[serde(default)]
    pub accept_changes: bool,
}

/// What a new reading of the configuration would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReloadLookDoc {
    /// To recorded calls; none are judged of sessions whose policies stay as they are.
    pub replay: Replay,
}

/// What a new reading of the configuration came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReloadDoc {
    pub live_count: u64,
    /// Live sessions whose policies are not the same as before.
    pub changed_count: u64,
    /// Live sessions that keep their chain, because the configuration of their own folder cannot be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptDoc>,
    /// Settings that differ from those that the daemon was started with, and wait for its restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at_restart: Vec<String>,
    /// What that does to recorded calls, where any were judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
}

/// A session that keeps its chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptDoc {
    pub session: String,
    pub why: String,
}

/// What became of notices since the daemon's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticesDoc {
    /// `webhook` or `desktop`.
    pub channel: String,
    pub delivered_count: u64,
    /// Given up after all tries.
    pub failed_count: u64,
    /// Answered before they could be told, or long ago.
    pub outdated_count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Pin a project's `beadle.toml` by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRequest {
    /// The project folder, absolute.
    pub dir: String,
    /// BLAKE3 of the file as the operator saw it, hex; another digest on disk is refused with 409.
    pub digest: String,
}

/// A pinned project configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustDoc {
    pub dir: String,
    pub digest: String,
    pub trusted_at: String,
}
