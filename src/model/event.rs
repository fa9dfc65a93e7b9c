//! Events: the single source of truth. Past tense, one closed enum; a kind that this version does not know is kept as it is.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::call::Call;
use super::decision::{Answer, By, Effect};
use super::id::{RuleId, SessionId};
use super::session::Mediation;
use super::usage::{Nanousd, Usage};

mod account;
mod approval;
mod attempt;
mod blobs;
mod compaction;
mod context;
mod keep;
mod memory;
mod moment;
mod pause;
mod plugin;
mod queue;
mod session;
mod state;
mod tree;
mod usage;
mod written;

pub use account::{EffectSeen, EffectsObserved, TranscriptNamed, Witness};
pub use approval::{ApprovalEndorsed, ApprovalRequested, ApprovalResolved};
pub use attempt::{
    ATTEMPT_NAME_MAX, AttemptCheckpointed, AttemptEnded, AttemptRolledBack, AttemptScheduled, AttemptStarted, AttemptsPlanned, PlannedTier,
    PlannedVerifier, RESTART,
};
pub use compaction::{CompactionBegan, CompactionFailed, CompactionSet, ContextCompacted, HostCompaction};
pub use context::{ContextAdded, ContextProviderAdded, ContextProviderRemoved};
pub use keep::{ArchiveRestored, KeptRecord, SecretRedacted, SessionArchived, TranscriptKept};
pub use memory::{HostToolAnswered, MemoryAdded, ReportGiven};
pub use moment::{
    AttemptVerified, PromptContext, PromptJudged, Refusal, ResultJudged, ResultSaid, Said, SessionJudged, Shown, VerifierRun,
};
pub use pause::{PauseMode, RelaunchKept, SessionContinued, SessionPaused, SessionResumed, ToolAnswered, ToolDeferred};
pub use plugin::{PluginFailed, PluginLoaded, PluginReplaced};
pub use queue::{QueueMoved, QueueRetried, SessionClaimed, SessionQueued};
pub use session::{SessionCreated, SessionEnded, SessionStopping};
pub use state::{PluginState, PluginStateChanged, PluginStates, StateValue};
pub use tree::{AgentHandedOff, BranchKind, SessionForked, TaskUpdated, TreeAct, TreeActBegan, TreeActEnded};
pub use usage::{UsageDisagreed, UsageLimitExceeded, UsageLimitsSet};
pub use written::{CheckpointResumed, Custom, InvocationAttempt, InvocationRecorded, MemoryRecalled, ToolReported, WritesLost};

/// One event as appended: gapless `seq` from 1 in its session, wall time in milliseconds, the attempt it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    pub session: SessionId,
    pub seq: u64,
    pub at: i64,
    pub attempt: u32,
    pub event: Event,
}

/// A body that cannot be read as its kind says.
#[derive(Debug, thiserror::Error)]
#[error("the body of a {kind} event does not have its shape: {source}; run `beadle verify` to see whether the log was changed")]
pub struct BodyError {
    pub kind: String,
    #[source]
    pub source: serde_json::Error,
}

/// A kind this version does not know, kept whole.
#[derive(Debug, Clone, PartialEq)]
pub struct UnknownEvent {
    pub kind: String,
    pub body: Value,
}

macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident($ty:ty) = $kind:literal,)*) => {
        /// What happened. `kind()` is the name on disk and on the wire.
        #[derive(Debug, Clone, PartialEq)]
        // why: the large one is a session's first event; the others are not worth an allocation each.
        #[allow(clippy::large_enum_variant)]
        pub enum Event {
            $($(#[$doc])* $variant($ty),)*
            Unknown(UnknownEvent),
        }

        impl Event {
            /// Every kind this version writes.
            pub const KINDS: &'static [&'static str] = &[$($kind),*];

            pub fn kind(&self) -> &str {
                match self {
                    $(Self::$variant(_) => $kind,)*
                    Self::Unknown(u) => &u.kind,
                }
            }

            /// The JSON body, as stored.
            pub fn body(&self) -> Value {
                match self {
                    // why: plain data with string keys; serialising it cannot fail.
                    $(Self::$variant(b) => serde_json::to_value(b).unwrap_or(Value::Null),)*
                    Self::Unknown(u) => u.body.clone(),
                }
            }

            /// The same as bytes: what the store keeps and commits to.
            pub fn body_bytes(&self) -> Vec<u8> {
                match self {
                    $(Self::$variant(b) => serde_json::to_vec(b).unwrap_or_default(),)*
                    Self::Unknown(u) => serde_json::to_vec(&u.body).unwrap_or_default(),
                }
            }

            /// Reads an event back; unknown kinds are kept.
            pub fn from_parts(kind: &str, body: &[u8]) -> Result<Self, BodyError> {
                let err = |source| BodyError { kind: kind.to_owned(), source };
                Ok(match kind {
                    $($kind => Self::$variant(serde_json::from_slice(body).map_err(err)?),)*
                    _ => Self::Unknown(UnknownEvent { kind: kind.to_owned(), body: serde_json::from_slice(body).map_err(err)? }),
                })
            }
        }

        $(impl From<$ty> for Event {
            fn from(b: $ty) -> Self { Self::$variant(b) }
        })*
    };
}

events! {
    SessionCreated(SessionCreated) = "session_created",
    SessionQueued(SessionQueued) = "session_queued",
    SessionClaimed(SessionClaimed) = "session_claimed",
    QueueMoved(QueueMoved) = "queue_moved",
    QueueRetried(QueueRetried) = "queue_retried",
    SessionPaused(SessionPaused) = "session_paused",
    SessionResumed(SessionResumed) = "session_resumed",
    SessionContinued(SessionContinued) = "session_continued",
    SessionForked(SessionForked) = "session_forked",
    SessionStopping(SessionStopping) = "session_stopping",
    SessionEnded(SessionEnded) = "session_ended",
    AttemptStarted(AttemptStarted) = "attempt_started",
    RelaunchKept(RelaunchKept) = "relaunch_kept",
    AttemptEnded(AttemptEnded) = "attempt_ended",
    AttemptsPlanned(AttemptsPlanned) = "attempts_planned",
    AttemptScheduled(AttemptScheduled) = "attempt_scheduled",
    AttemptCheckpointed(AttemptCheckpointed) = "attempt_checkpointed",
    AttemptRolledBack(AttemptRolledBack) = "attempt_rolled_back",
    /// The agent announced itself (Claude's `init`).
    AgentStarted(AgentStarted) = "agent_started",
    AgentReplied(AgentReplied) = "agent_replied",
    PromptSubmitted(PromptSubmitted) = "prompt_submitted",
    ToolRequested(ToolRequested) = "tool_requested",
    ToolDecided(ToolDecided) = "tool_decided",
    ToolDeferred(ToolDeferred) = "tool_deferred",
    ToolAnswered(ToolAnswered) = "tool_answered",
    ToolStarted(ToolStarted) = "tool_started",
    ToolEnded(ToolEnded) = "tool_ended",
    SessionJudged(SessionJudged) = "session_judged",
    PromptJudged(PromptJudged) = "prompt_judged",
    ResultJudged(ResultJudged) = "result_judged",
    AttemptVerified(AttemptVerified) = "attempt_verified",
    ApprovalRequested(ApprovalRequested) = "approval_requested",
    ApprovalEndorsed(ApprovalEndorsed) = "approval_endorsed",
    ApprovalResolved(ApprovalResolved) = "approval_resolved",
    RuleAdded(RuleAdded) = "rule_added",
    RuleRevoked(RuleRevoked) = "rule_revoked",
    ModelResponded(ModelResponded) = "model_responded",
    TurnEnded(TurnEnded) = "turn_ended",
    UsageDisagreed(UsageDisagreed) = "usage_disagreed",
    UsageLimitsSet(UsageLimitsSet) = "usage_limits_set",
    UsageLimitExceeded(UsageLimitExceeded) = "usage_limit_exceeded",
    CompactionBegan(CompactionBegan) = "compaction_began",
    ContextCompacted(ContextCompacted) = "context_compacted",
    CompactionFailed(CompactionFailed) = "compaction_failed",
    CompactionSet(CompactionSet) = "compaction_set",
    SubAgentInvoked(SubAgentInvoked) = "sub_agent_invoked",
    AgentHandedOff(AgentHandedOff) = "agent_handed_off",
    TreeActBegan(TreeActBegan) = "tree_act_began",
    TreeActEnded(TreeActEnded) = "tree_act_ended",
    TaskUpdated(TaskUpdated) = "task_updated",
    PluginLoaded(PluginLoaded) = "plugin_loaded",
    PluginFailed(PluginFailed) = "plugin_failed",
    PluginReplaced(PluginReplaced) = "plugin_replaced",
    PluginStateChanged(PluginStateChanged) = "plugin_state_changed",
    TranscriptNamed(TranscriptNamed) = "transcript_named",
    EffectsObserved(EffectsObserved) = "effects_observed",
    MediationBreached(MediationBreached) = "mediation_breached",
    MediationLowered(MediationLowered) = "mediation_lowered",
    /// A line of the agent that is not of its protocol, kept raw.
    OutputUnparsed(OutputUnparsed) = "output_unparsed",
    ConfigIgnored(ConfigIgnored) = "config_ignored",
    SecretRedacted(SecretRedacted) = "secret_redacted",
    SessionArchived(SessionArchived) = "session_archived",
    ArchiveRestored(ArchiveRestored) = "archive_restored",
    TranscriptKept(TranscriptKept) = "transcript_kept",
    Note(Note) = "note",
    MemoryAdded(MemoryAdded) = "memory_added",
    ContextProviderAdded(ContextProviderAdded) = "context_provider_added",
    ContextProviderRemoved(ContextProviderRemoved) = "context_provider_removed",
    ContextAdded(ContextAdded) = "context_added",
    HostToolAnswered(HostToolAnswered) = "host_tool_answered",
    ReportGiven(ReportGiven) = "report_given",
    /// Of sessions that other programs write.
    ToolReported(ToolReported) = "tool_reported",
    MemoryRecalled(MemoryRecalled) = "memory_recalled",
    CheckpointResumed(CheckpointResumed) = "checkpoint_resumed",
    InvocationRecorded(InvocationRecorded) = "invocation_recorded",
    Custom(Custom) = "custom",
    WritesLost(WritesLost) = "writes_lost",
}

/// Who caused something: the peer's uid and pid, and the role it had.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Actor {
    /// `operator`, `host`, or `session:<id>`.
    pub role: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The program of that process, as the kernel knew it then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Its controlling terminal, as in `/dev/pts/3`; absent when it had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<String>,
    /// Who it was, where a key proved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What proved that a person did it: `tty:/dev/pts/3` or `key:alice`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// The public key itself (hex): names can be given again, keys cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl Actor {
    /// The host itself.
    pub fn host() -> Self {
        Self { role: "host".to_owned(), ..Self::default() }
    }
}

/// Text kept in the event up to a cap; the whole is a blob when it is longer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Excerpt {
    pub text: String,
    /// Length of the whole in bytes.
    pub bytes: u64,
    /// BLAKE3 of the whole, hex, where `text` is only its beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct AgentStarted {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_session_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission_mode: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mcp_servers: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentReplied {
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_call_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptSubmitted {
    pub prompt: Excerpt,
    pub by: Actor,
}

/// `seq` of this event is the call's number everywhere else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolRequested {
    /// The agent's id of its question (not of the call).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    pub call: Call,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolDecided {
    /// seq of the `tool_requested` event.
    pub call: u64,
    /// `allow` or `deny`: what the agent was told; `ask` where its own prompt was told to ask its user.
    pub effect: Effect,
    pub by: By,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    pub answers: Vec<Answer>,
    /// BLAKE3 of the canonical JSON of the input that was judged, hex.
    pub input_hash: String,
    /// The input that the agent was told to use instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_input: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approver: Option<Actor>,
    /// From reading the request to this record, waiting for a person excluded.
    pub latency_us: u64,
    /// Number of the frame that carries the answer to the agent; of a call that was held, `tool_answered` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<u64>,
}

/// The agent took the answer `allow`: from here on the tool may have run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolStarted {
    pub call: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolEnded {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    pub is_error: bool,
    /// Whether something was executed, where that does not follow from `is_error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran: Option<bool>,
    pub output: Excerpt,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

impl ToolEnded {
    /// Every success shows that something ran, an error only where it says so.
    pub fn ran(&self) -> bool {
        self.ran.unwrap_or(!self.is_error)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleAdded {
    pub id: RuleId,
    /// `allow`, `ask` or `deny`.
    pub effect: Effect,
    pub rule: String,
    /// It holds for sessions started in this folder only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    pub by: Actor,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleRevoked {
    pub id: RuleId,
    pub by: Actor,
}

/// One model response, counted once per message id. A correction of an earlier count is a further event with the difference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelResponded {
    pub message_id: String,
    pub model: String,
    pub usage: Usage,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Nanousd>,
    /// BLAKE3 of the price table that was asked, hex: it gave the cost, or had no price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prices: Option<String>,
    /// Tokens that the request and its response filled, main agent only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_used: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_call_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TurnEnded {
    pub is_error: bool,
    /// The agent's own word (`success`, `error_max_turns`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subtype: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// The agent's own total so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_cost: Option<Nanousd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u64>,
    /// The agent's own count for the turn, for reconciliation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_usage: Option<Usage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denials: Option<u64>,
    /// The agent's id of the call that it was told to defer: the turn goes on there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deferred: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubAgentInvoked {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    pub agent_type: String,
    pub description: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MediationBreached {
    /// Short name of what was seen: `request id reused`, `result without a call`, …
    pub what: String,
    pub detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
    /// `stop`, `pause` or `alert`.
    pub action: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MediationLowered {
    pub to: Mediation,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputUnparsed {
    pub reason: String,
    pub raw: Excerpt,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigIgnored {
    pub path: String,
    pub digest: String,
    pub keys: Vec<String>,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Note {
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Outcome;

    #[test]
    fn wire_shape_is_stable() {
        let e = Event::from(ToolStarted { call: 7 });
        assert_eq!((e.kind(), e.body().to_string().as_str()), ("tool_started", r#"{"call":7}"#));
        let e = Event::from(SessionEnded { outcome: Outcome::Succeeded, reason: None, report: None });
        assert_eq!(e.body().to_string(), r#"{"outcome":"succeeded"}"#);
    }

    #[test]
    fn unknown_kinds_survive_a_round_trip() -> Result<(), BodyError> {
        let e = Event::from_parts("tea_served", br#"{"cups":2}"#)?;
        assert_eq!((e.kind(), e.body().to_string().as_str()), ("tea_served", r#"{"cups":2}"#));
        Ok(())
    }

    #[test]
    fn a_wrong_body_is_an_error_that_names_the_kind() {
        let e = Event::from_parts("tool_started", b"{}").map_err(|e| e.to_string());
        assert!(e.is_err_and(|m| m.contains("tool_started")));
    }
}
