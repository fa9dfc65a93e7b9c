//! What a session was created as: who it belongs to, what for, where, and within which bounds.
//!
//! Invariant: it stands in the log's first event and nothing changes it later; what changes is folded beside it, in
//! [`Session`](super::Session).
//!
//! Made by `session::start`, kept in `session_created`.

use serde::{Deserialize, Serialize};

use crate::model::event::{BranchKind, Excerpt};
use crate::model::id::SessionId;

/// Owner of a session of which nobody said whose it is.
pub const UNASSIGNED: &str = "Unassigned";
/// Longest target in bytes.
pub const TARGET_MAX: usize = 1024;
/// Longest of the other texts in bytes.
pub const TEXT_MAX: usize = 200;
/// Most tools that a session may be limited to.
pub const ALLOWED_TOOLS_MAX: usize = 64;

/// The immutable part of a session. What logs of earlier versions do not have is as if nobody had said it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What it works on: a service, a site, an issue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(default = "unassigned")]
    pub owner: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mission: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// The session that it was started for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<SessionId>,
    /// The log that it goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The repository that the working directory lies in, as it was at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<Repository>,
    /// The only tools it may use; empty: no limit but the policies'.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_tools: Vec<String>,
    /// False: calls that would write into the repository are denied.
    #[serde(default = "yes")]
    pub repository_writable: bool,
    /// It has succeeded only when it leaves a report.
    #[serde(default)]
    pub report_expected: bool,
    /// Its agent is given the host's own tools, where it takes them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host_tools: bool,
    /// Set where another program writes its events: the host started nothing, and holds nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<Writer>,
}

/// How a session that another program writes is found again, and given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// The writer's own name of it, of which there is one on a host; absent where tenant and thread are that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Milliseconds without a write after which the host ends it; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            target: None,
            owner: unassigned(),
            mission: None,
            assignment: None,
            phase: None,
            tenant: None,
            thread: None,
            parent: None,
            origin: None,
            repository: None,
            allowed_tools: vec![],
            repository_writable: true,
            report_expected: false,
            host_tools: false,
            writer: None,
        }
    }
}

/// Where a session's history before its own first event lies: in another log, up to one event. Nothing of it is copied into this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub how: BranchKind,
    pub session: SessionId,
    /// The last event that counts.
    pub at: u64,
    /// Its hash, hex: with the chain of that log it names everything before it.
    pub hash: String,
    /// How the agent was given what was said: `conversation` (its own record, cut there) or `replay` (a text made from the log).
    pub given: String,
    /// The agent's own id of the conversation that was cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// The text that was given, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Excerpt>,
    /// What the agent itself adds behind the end of what it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<String>,
    /// What stands at the end of the other log and was not given, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
}

/// A git repository as its own files tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// The folder that has `.git`.
    pub root: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The commit that is checked out without a branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

/// What is wrong with a text of the record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("{what} is empty; leave it out, or say it")]
    Empty { what: &'static str },
    #[error("{what} has {bytes} bytes, over the limit of {max}; shorten it")]
    TooLong { what: &'static str, bytes: usize, max: usize },
    #[error("{what} has the character {found:?}; control characters cannot be shown, take them out")]
    Control { what: &'static str, found: char },
    #[error("{count} allowed tools, over the limit of {ALLOWED_TOOLS_MAX}; a rule can name more")]
    TooManyTools { count: usize },
}

/// Checks one text that people and filters will read.
pub fn check_text(what: &'static str, text: &str, max: usize) -> Result<(), RecordError> {
    if text.trim().is_empty() {
        return Err(RecordError::Empty { what });
    }
    if text.len() > max {
        return Err(RecordError::TooLong { what, bytes: text.len(), max });
    }
    text.chars().find(|c| c.is_control()).map_or(Ok(()), |found| Err(RecordError::Control { what, found }))
}

impl Record {
    /// Whether every text is one that can be kept and shown.
    pub fn check(&self) -> Result<(), RecordError> {
        check_text("the owner", &self.owner, TEXT_MAX)?;
        let texts = [
            ("the target", &self.target, TARGET_MAX),
            ("the mission", &self.mission, TEXT_MAX),
            ("the assignment", &self.assignment, TEXT_MAX),
            ("the phase", &self.phase, TEXT_MAX),
            ("the tenant", &self.tenant, TEXT_MAX),
            ("the thread", &self.thread, TEXT_MAX),
        ];
        for (what, text, max) in texts {
            if let Some(text) = text {
                check_text(what, text, max)?;
            }
        }
        if self.allowed_tools.len() > ALLOWED_TOOLS_MAX {
            return Err(RecordError::TooManyTools { count: self.allowed_tools.len() });
        }
        self.allowed_tools.iter().try_for_each(|t| check_text("an allowed tool", t, TEXT_MAX))
    }

    /// The owner, where somebody said one.
    pub fn named_owner(&self) -> Option<&str> {
        Some(self.owner.as_str()).filter(|o| *o != UNASSIGNED)
    }
}

fn unassigned() -> String {
    UNASSIGNED.to_owned()
}

const fn yes() -> bool {
    true
}

/// The beginning of a text, for a line of it.
pub(super) fn shorten(s: &str) -> String {
    const MAX: usize = 200;
    let line = s.trim();
    let mut out: String = line.chars().take(MAX).collect();
    if line.chars().nth(MAX).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_without_a_record_has_the_default_one() {
        assert_eq!(serde_json::from_str::<Record>("{}").unwrap(), Record::default());
        let text = serde_json::to_string(&Record::default()).unwrap();
        assert_eq!(text, r#"{"owner":"Unassigned","repository_writable":true,"report_expected":false}"#);
        assert_eq!(Record::default().named_owner(), None);
    }

    #[test]
    fn texts_have_caps_and_no_control_characters() {
        let with = |f: fn(&mut Record)| {
            let mut r = Record::default();
            f(&mut r);
            r.check().map_err(|e| e.to_string())
        };
        assert_eq!(with(|_| {}), Ok(()));
        for (wrong, says) in [
            (with(|r| r.owner = " ".into()), "the owner is empty"),
            (with(|r| r.mission = Some("x".repeat(201))), "the mission has 201 bytes, over the limit of 200"),
            (with(|r| r.target = Some("x".repeat(1025))), "over the limit of 1024"),
            (with(|r| r.phase = Some("a\x1b[2J".into())), "the phase has the character"),
            (with(|r| r.allowed_tools = vec!["Bash".into(); 65]), "65 allowed tools"),
            (with(|r| r.allowed_tools = vec![String::new()]), "an allowed tool is empty"),
        ] {
            assert!(wrong.clone().is_err_and(|e| e.contains(says)), "{says}: {wrong:?}");
        }
    }
}
