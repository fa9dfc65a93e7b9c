//! Questions to a person and their answers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{Actor, Approval, ApprovalState, Effect, FailureCause, Mode, Parse, Resolution, format_ms};

/// Which approvals.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalsQuery {
    /// Of this session only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// False: those that wait, oldest first. True: all, newest first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Page only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A person's answer to one pending ask: `allow` or `deny`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalAnswer {
    pub effect: Effect,
    #[serde(default)]
    pub reason: String,
    /// With `allow`: add a rule, so that the like is not asked about again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub always: Option<AlwaysRequest>,
}

impl ApprovalAnswer {
    pub fn new(effect: Effect, reason: impl Into<String>) -> Self {
        Self { effect, reason: reason.into(), always: None }
    }
}

/// Which rule to add with an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlwaysRequest {
    /// Absent: rules for exactly this call, derived from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    #[serde(default)]
    pub reach: AlwaysReach,
}

/// For which sessions the rule holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlwaysReach {
    Session,
    /// Sessions started in the same folder.
    #[default]
    Folder,
    All,
}

/// One question and, once there is one, its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalDoc {
    /// `<session>:<call>`.
    pub id: String,
    pub session: String,
    pub call: u64,
    pub state: ApprovalState,
    pub requested_at: String,
    /// When it is denied if nobody answers.
    pub expires_at: String,
    pub tool: String,
    /// The command, path or address that the call is about, shortened.
    pub subject: String,
    /// Why a person must answer.
    pub why: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Two persons must allow it; one denies it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub two_person: bool,
    /// Who of the two has allowed it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endorsed: Vec<EndorsementDoc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<AnswerDoc>,
}

/// One yes of two that are needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndorsementDoc {
    pub at: String,
    pub reason: String,
    pub by: Actor,
}

/// The one answer that an approval got. The first holds; a later one gets 409.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerDoc {
    /// `allow` or `deny`: what the agent was told.
    pub effect: Effect,
    pub at: String,
    pub reason: String,
    /// Who, and from where.
    pub by: Actor,
    /// Ids of the rules that it added.
    #[serde(default)]
    pub rules: Vec<String>,
}

impl From<&Approval> for ApprovalDoc {
    fn from(a: &Approval) -> Self {
        Self {
            id: a.id().to_string(),
            session: a.session.to_string(),
            call: a.call,
            state: a.state,
            requested_at: format_ms(a.requested_at),
            expires_at: format_ms(a.expires_at),
            tool: a.tool.clone(),
            subject: a.subject.clone(),
            why: a.reason.clone(),
            rule: a.rule.clone(),
            two_person: a.two_person,
            endorsed: a
                .endorsed
                .iter()
                .map(|e| EndorsementDoc { at: format_ms(e.at), reason: e.reason.clone(), by: e.by.clone() })
                .collect(),
            answer: a.resolution.as_ref().map(AnswerDoc::from),
        }
    }
}

impl From<&Resolution> for AnswerDoc {
    fn from(r: &Resolution) -> Self {
        let rules = r.rules.iter().map(|id| id.0.clone()).collect();
        Self { effect: r.effect, at: format_ms(r.at), reason: r.reason.clone(), by: r.by.clone(), rules }
    }
}

/// One policy's part in the question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyAnswerDoc {
    pub policy: String,
    pub effect: Effect,
    pub mode: Mode,
    #[serde(default)]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailureCause>,
}

/// What `always` would do for a question that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlwaysDoc {
    /// It would add these allow rules.
    Rules(Vec<String>),
    /// There is no rule that stands for the call, and why.
    Refused(String),
}

/// The whole story of one approval. Texts of the agent are data, not to be believed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApprovalDetailDoc {
    #[serde(flatten)]
    pub approval: ApprovalDoc,
    pub agent: String,
    /// Where the call would run.
    pub cwd: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_agent: Option<String>,
    /// The tool's input as recorded; absent where it is over 256 KiB (then see the event).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// What a policy changed it to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_input: Option<Value>,
    pub parse: Parse,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parse_reason: Option<String>,
    pub policies: Vec<PolicyAnswerDoc>,
    /// The agent's last words before the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
    /// The agent's own description of the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Unified, for calls that change files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    #[serde(default)]
    pub diff_cut: bool,
    /// While it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub always: Option<AlwaysDoc>,
}
