//! The host chain's events: what happened to sessions and rules as a whole, and signed heads that pin each session's log.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::model::{Actor, Attestation, BodyError, Grants, OperatorKey, PluginAct, RuleAdded, RuleRevoked, SessionId, UnknownEvent};

use super::chain::Hash;
use super::seal::SignedHead;
use super::sink::{SignedHostHead, SinkConfigured, SinkDeadLettered, SinkDropped, SinkLagging, SinkRecovered, SinkSkipped};

/// The host started: version, process and the public key its heads are signed with (hex).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostOpened {
    pub version: String,
    pub pid: u32,
    pub key: String,
}

/// The host stopped in order; absent after a crash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostClosed {}

/// A session's first event was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostSessionCreated {
    pub session: SessionId,
}

/// A session's events were deleted; where its log stood.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostSessionRemoved {
    pub session: SessionId,
    pub by: Actor,
    pub last_seq: u64,
    pub hash: Hash,
}

/// The operator accepted a project's configuration as it then was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProjectTrusted {
    pub dir: String,
    /// BLAKE3 of the file, hex.
    pub digest: String,
    pub by: Actor,
}

/// An operator's key went out of use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperatorKeyRemoved {
    pub name: String,
    pub by: Actor,
}

/// The daemon started with another `operator.confirm` than before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfirmChanged {
    pub from: String,
    pub to: String,
}

/// An installed plugin was changed, by an operator or by the host itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginChanged {
    pub act: PluginAct,
    /// What the operator calls it.
    pub name: String,
    /// What the component calls itself.
    pub plugin: String,
    pub version: String,
    /// BLAKE3 of the component in force, hex; of a removed one, that which was.
    pub digest: String,
    /// Of the component that it took the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_digest: Option<String>,
    #[serde(default, skip_serializing_if = "Grants::is_empty")]
    pub grants: Grants,
    /// Why, where the host did it, or which changes of decisions were accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub by: Actor,
}

/// The configuration was read anew, and live sessions judge by it from here on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigReloaded {
    /// Live sessions whose policies are not the same as before.
    pub changed: u64,
    /// Live sessions that kept their chain, because the configuration of their folder cannot be read.
    #[serde(default, skip_serializing_if = "is_none_kept")]
    pub kept: u64,
    /// Settings that differ and wait for a restart of the daemon.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at_restart: Vec<String>,
    /// Which changes of decisions were accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub by: Actor,
}

// why a reference: serde hands one over.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_none_kept(n: &u64) -> bool {
    *n == 0
}

/// A whole copy of the data folder was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupMade {
    pub to: String,
    pub bytes: u64,
    pub by: Actor,
}

/// The data folder was put in place from a backup; the chain goes on from there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupRestored {
    pub from: String,
    /// When the backup was made.
    pub made_at: i64,
    pub by: Actor,
}

/// What nobody needed any more was removed; sessions among it have records of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Collected {
    pub sessions: u64,
    pub items: u64,
    pub bytes: u64,
    pub by: Actor,
}

/// What is kept in memory changed, by whoever is no session. The texts are not told here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryChanged {
    /// `added`, `removed` or `erased`.
    pub act: String,
    /// At most 100.
    pub ids: Vec<String>,
    pub entries: u64,
    pub by: Actor,
}

/// One event of the host chain. Kinds that this version does not know are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum HostEvent {
    Opened(HostOpened),
    Closed(HostClosed),
    SessionCreated(HostSessionCreated),
    SessionHead(SignedHead),
    SessionRemoved(HostSessionRemoved),
    /// A rule for all sessions.
    RuleAdded(RuleAdded),
    RuleRevoked(RuleRevoked),
    ProjectTrusted(ProjectTrusted),
    /// An agent's program was driven through the checks of `doctor`.
    AgentAttested(Box<Attestation>),
    OperatorKeyAdded(OperatorKey),
    OperatorKeyRemoved(OperatorKeyRemoved),
    ConfirmChanged(ConfirmChanged),
    PluginChanged(Box<PluginChanged>),
    /// The configuration was read anew while sessions were live.
    ConfigReloaded(ConfigReloaded),
    /// Where the chain itself stood, at the record before this one.
    HostHead(SignedHostHead),
    /// What happens to audit sinks.
    SinkConfigured(SinkConfigured),
    SinkLagging(SinkLagging),
    SinkRecovered(SinkRecovered),
    SinkDeadLettered(SinkDeadLettered),
    SinkDropped(SinkDropped),
    SinkSkipped(SinkSkipped),
    BackupMade(BackupMade),
    BackupRestored(BackupRestored),
    Collected(Collected),
    MemoryChanged(MemoryChanged),
    #[serde(skip)]
    Unknown(UnknownEvent),
}

impl HostEvent {
    const KINDS: [&'static str; 25] = [
        "opened",
        "closed",
        "session_created",
        "session_head",
        "session_removed",
        "rule_added",
        "rule_revoked",
        "project_trusted",
        "agent_attested",
        "operator_key_added",
        "operator_key_removed",
        "confirm_changed",
        "plugin_changed",
        "host_head",
        "sink_configured",
        "sink_lagging",
        "sink_recovered",
        "sink_dead_lettered",
        "sink_dropped",
        "sink_skipped",
        "config_reloaded",
        "backup_made",
        "backup_restored",
        "collected",
        "memory_changed",
    ];

    pub fn kind(&self) -> &str {
        match self {
            Self::Opened(_) => Self::KINDS[0],
            Self::Closed(_) => Self::KINDS[1],
            Self::SessionCreated(_) => Self::KINDS[2],
            Self::SessionHead(_) => Self::KINDS[3],
            Self::SessionRemoved(_) => Self::KINDS[4],
            Self::RuleAdded(_) => Self::KINDS[5],
            Self::RuleRevoked(_) => Self::KINDS[6],
            Self::ProjectTrusted(_) => Self::KINDS[7],
            Self::AgentAttested(_) => Self::KINDS[8],
            Self::OperatorKeyAdded(_) => Self::KINDS[9],
            Self::OperatorKeyRemoved(_) => Self::KINDS[10],
            Self::ConfirmChanged(_) => Self::KINDS[11],
            Self::PluginChanged(_) => Self::KINDS[12],
            Self::HostHead(_) => Self::KINDS[13],
            Self::SinkConfigured(_) => Self::KINDS[14],
            Self::SinkLagging(_) => Self::KINDS[15],
            Self::SinkRecovered(_) => Self::KINDS[16],
            Self::SinkDeadLettered(_) => Self::KINDS[17],
            Self::SinkDropped(_) => Self::KINDS[18],
            Self::SinkSkipped(_) => Self::KINDS[19],
            Self::ConfigReloaded(_) => Self::KINDS[20],
            Self::BackupMade(_) => Self::KINDS[21],
            Self::BackupRestored(_) => Self::KINDS[22],
            Self::Collected(_) => Self::KINDS[23],
            Self::MemoryChanged(_) => Self::KINDS[24],
            Self::Unknown(u) => &u.kind,
        }
    }

    /// The JSON body as stored.
    pub fn body_bytes(&self) -> Vec<u8> {
        let body = match self {
            Self::Unknown(u) => u.body.clone(),
            // why: plain data with string keys; serialising it cannot fail.
            known => serde_json::to_value(known).unwrap_or(Value::Null).get_mut("body").map(Value::take).unwrap_or_default(),
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }

    /// Reads an event back; unknown kinds are kept.
    pub fn from_parts(kind: &str, body: &[u8]) -> Result<Self, BodyError> {
        let err = |source| BodyError { kind: kind.to_owned(), source };
        let body: Value = serde_json::from_slice(body).map_err(err)?;
        if Self::KINDS.contains(&kind) {
            serde_json::from_value(json!({ "kind": kind, "body": body })).map_err(err)
        } else {
            Ok(Self::Unknown(UnknownEvent { kind: kind.to_owned(), body }))
        }
    }
}

/// A host event as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct HostEntry {
    /// Gapless from 1.
    pub seq: u64,
    pub at: i64,
    pub event: HostEvent,
    pub hash: Hash,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_round_trips_under_its_own_name() -> Result<(), BodyError> {
        let opened = HostEvent::Opened(HostOpened { version: "0.1.0".to_owned(), pid: 7, key: "ab".to_owned() });
        let unknown = HostEvent::Unknown(UnknownEvent { kind: "tea_served".to_owned(), body: json!({ "cups": 2 }) });
        let by = Actor::host();
        let derivation = crate::model::KeyDerivation { salt: "00".to_owned(), memory_kib: 1, passes: 1, lanes: 1 };
        let key = OperatorKey { name: "alice".to_owned(), derivation, public: "ab".to_owned(), added_at: 1, by: by.clone() };
        let keys = [
            HostEvent::OperatorKeyAdded(key),
            HostEvent::OperatorKeyRemoved(OperatorKeyRemoved { name: "alice".to_owned(), by }),
            HostEvent::ConfirmChanged(ConfirmChanged { from: "none".to_owned(), to: "key".to_owned() }),
        ];
        let sink = || "siem".to_owned();
        let sinks = [
            HostEvent::HostHead(SignedHostHead { seq: 3, hash: Hash::ZERO, signature: "00".to_owned() }),
            HostEvent::SinkConfigured(SinkConfigured { sink: sink(), mode: None }),
            HostEvent::SinkLagging(SinkLagging { sink: sink(), lag_events: 1, lag_ms: 2, error: None }),
            HostEvent::SinkRecovered(SinkRecovered { sink: sink(), after_ms: 2 }),
            HostEvent::SinkDeadLettered(SinkDeadLettered { sink: sink(), session: "s".to_owned(), seq: 1, reason: "no".to_owned() }),
            HostEvent::SinkDropped(SinkDropped { sink: sink(), events: 4 }),
            HostEvent::SinkSkipped(SinkSkipped { sink: sink(), events: 1, session: "s".to_owned(), seq: 1, by: Actor::host() }),
        ];
        let (to, by) = ("/b".to_owned(), Actor::host());
        let kept = [
            HostEvent::BackupMade(BackupMade { to: to.clone(), bytes: 1, by: by.clone() }),
            HostEvent::BackupRestored(BackupRestored { from: to, made_at: 1, by: by.clone() }),
            HostEvent::Collected(Collected { sessions: 1, items: 2, bytes: 3, by: by.clone() }),
            HostEvent::MemoryChanged(MemoryChanged { act: "added".to_owned(), ids: vec!["m-1".to_owned()], entries: 1, by }),
        ];
        for e in [opened, HostEvent::Closed(HostClosed {}), unknown].into_iter().chain(keys).chain(sinks).chain(kept) {
            assert_eq!(HostEvent::from_parts(e.kind(), &e.body_bytes())?, e);
        }
        assert!(HostEvent::from_parts("opened", b"{}").is_err());
        Ok(())
    }
}
