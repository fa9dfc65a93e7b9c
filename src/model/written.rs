//! What another program may write into a session of its own: one document a write, checked before anything is made of it.
//!
//! Invariants: the set is closed, so that no writer can speak as the host (decide, approve, breach, redact); requests refuse unknown
//! fields; every name, text and list has a cap; a number that is not told is absent, never zero.
//!
//! Called by `api` (the body of a write), `session::written` (which makes events of it) and `cli` (`session`, `import`).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::limits::LimitKind;
use super::usage::{Nanousd, Usage};

/// Most writes of one request.
pub const WRITES_MAX: usize = 1_000;
/// Longest name (agent, phase, tier, model, tool, id), in bytes.
pub const WRITE_NAME_MAX: usize = 200;
/// Longest text of one write, in bytes; what is over 4 KiB of it is kept as a blob.
pub const WRITE_TEXT_MAX: usize = 8 << 20;
/// Largest `custom` body or tool input that stands in its event, in bytes of JSON.
pub const WRITE_JSON_MAX: usize = 256 << 10;
/// Most attempts of one invocation.
pub const WRITE_ATTEMPTS_MAX: usize = 100;
/// Longest idempotency key, in bytes.
pub const WRITE_KEY_MAX: usize = 200;

/// What is wrong with a write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    #[error("{what} is missing; say it")]
    Missing { what: &'static str },
    #[error("{what} is empty; leave it out, or say it")]
    Empty { what: &'static str },
    #[error("{what} has {len} bytes, over the limit of {max}; shorten it")]
    TooLong { what: &'static str, len: usize, max: usize },
    #[error("{what} has the character {found:?}; control characters cannot be shown, take them out")]
    Control { what: &'static str, found: char },
    #[error("{count} {what}, over the limit of {max}; send them in parts")]
    TooMany { what: &'static str, count: usize, max: usize },
    #[error("{what} is {found:?}; {expected}")]
    Value { what: &'static str, found: String, expected: &'static str },
}

/// One write: what happened, when, and under which key a repeat is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct Write {
    /// RFC 3339; now when it is left out. Never later than now.
    pub at: Option<String>,
    /// A write of a key that is in the session's log already is not made again.
    pub key: Option<String>,
    pub what: Written,
}

impl From<Written> for Write {
    fn from(what: Written) -> Self {
        Self { at: None, key: None, what }
    }
}

impl TryFrom<Map<String, Value>> for Write {
    type Error = String;
    fn try_from(mut map: Map<String, Value>) -> Result<Self, String> {
        let mut text = |name: &str| match map.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(_) => Err(format!("{name} is not a text")),
        };
        let (at, key) = (text("at")?, text("key")?);
        let what = serde_json::from_value(Value::Object(map)).map_err(|e| e.to_string())?;
        Ok(Self { at, key, what })
    }
}

impl From<Write> for Map<String, Value> {
    fn from(w: Write) -> Self {
        // why never another: a tagged enum of structs is an object.
        let Ok(Value::Object(mut map)) = serde_json::to_value(&w.what) else { return Self::new() };
        let mut put = |name: &str, v: Option<String>| drop(v.map(|v| map.insert(name.to_owned(), Value::String(v))));
        put("at", w.at);
        put("key", w.key);
        map
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Written {
    AttemptStarted(AttemptStart),
    AttemptEnded(AttemptEnd),
    PromptSubmitted(Text),
    AgentReplied(Text),
    ToolStarted(ToolStart),
    ToolEnded(ToolEnd),
    ModelResponded(Response),
    SubAgentInvoked(SubAgent),
    AgentHandedOff(Handoff),
    CheckpointResumed(Checkpoint),
    MemoryRecalled(Recall),
    UsageLimitExceeded(LimitPassed),
    ContextCompacted(Compacted),
    InvocationRecorded(Box<Invocation>),
    Custom(CustomWrite),
    Note(Text),
    SessionEnded(End),
}

macro_rules! documents {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
            #[serde(deny_unknown_fields)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $ty,)*
            }
        )*
    };
}

documents! {
    /// An attempt begins; none may be open.
    AttemptStart {
        /// Which one the writer takes it for: refused when it is not the next.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        number: Option<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        phase: Option<String>,
        /// `local`, `sub-agent`, `managed`, or what the writer calls it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tier: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        warm: Option<bool>,
        /// The whole prompt: kept with the first attempt only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prompt: Option<String>,
    }
    /// The open attempt is over.
    AttemptEnd {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        number: Option<u32>,
        /// Left out where nobody can tell: the outcome is then `exited`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        success: Option<bool>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        duration_ms: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost_nanousd: Option<Nanousd>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<String>,
        /// A git commit of the writer's own, hex.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        checkpoint: Option<String>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_final: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output_summary: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        runner_output: Option<String>,
    }
    /// Words: a prompt, a reply, a note.
    Text { text: String, }
    /// A tool began.
    ToolStart {
        call_id: String,
        tool: String,
        #[serde(default, skip_serializing_if = "Value::is_null")]
        input: Value,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent_call_id: Option<String>,
    }
    /// A tool's result.
    ToolEnd {
        call_id: String,
        #[serde(default)]
        is_error: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        duration_ms: Option<u64>,
    }
    /// A model answered. A message that is told again adds to what it was told to have used.
    Response {
        message_id: String,
        model: String,
        usage: Usage,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        context_used: Option<u64>,
        /// The call of the sub-agent that asked, where it was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent_call_id: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
    }
    SubAgent {
        agent_type: String,
        #[serde(default)]
        description: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call_id: Option<String>,
    }
    Handoff {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        to: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    }
    Checkpoint {
        checkpoint: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    }
    Recall {
        tier: String,
        namespace: String,
        hits: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        query: Option<String>,
    }
    Compacted {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trigger: Option<String>,
        /// Messages that went and that stayed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dropped: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retained: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens_before: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens_after: Option<u64>,
    }
    /// A skill ran, with its tries.
    Invocation {
        skill: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        phase: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        project_root: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        final_status: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        duration_ms: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        attempts: Vec<InvocationTry>,
    }
    InvocationTry {
        number: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tier: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        duration_ms: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        warm: Option<bool>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        verified: Option<bool>,
        /// `accept`, `escalate` or `error`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        verdict: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        feedback: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output_summary: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        runner_output: Option<String>,
    }
    CustomWrite {
        /// Letters, digits, `.`, `_`, `-` and `:`.
        #[serde(rename = "type")]
        name: String,
        #[serde(default, skip_serializing_if = "Value::is_null")]
        body: Value,
    }
    /// The session is over, on its writer's word.
    End {
        /// Left out where nobody can tell: the outcome is then `exited`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        success: Option<bool>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    }
}

/// A limit of the writer's own was passed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitPassed {
    pub limit: LimitKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<u64>,
    pub max: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Checks one name: there, short, and showable.
pub fn check_name(what: &'static str, text: &str, max: usize) -> Result<(), WriteError> {
    if text.trim().is_empty() {
        return Err(WriteError::Empty { what });
    }
    if text.len() > max {
        return Err(WriteError::TooLong { what, len: text.len(), max });
    }
    text.chars().find(|c| c.is_control()).map_or(Ok(()), |found| Err(WriteError::Control { what, found }))
}

fn names(all: &[(&'static str, Option<&String>)]) -> Result<(), WriteError> {
    all.iter().try_for_each(|(what, text)| text.map_or(Ok(()), |t| check_name(what, t, WRITE_NAME_MAX)))
}

fn texts(all: &[(&'static str, Option<&String>)]) -> Result<(), WriteError> {
    all.iter().try_for_each(|(what, text)| match text.map_or(0, |t| t.len()) {
        len if len > WRITE_TEXT_MAX => Err(WriteError::TooLong { what, len, max: WRITE_TEXT_MAX }),
        _ => Ok(()),
    })
}

impl Write {
    /// Whether it can be kept as it is.
    pub fn check(&self) -> Result<(), WriteError> {
        if let Some(key) = &self.key {
            check_name("the key of a write", key, WRITE_KEY_MAX)?;
        }
        self.what.check()
    }
}

impl Written {
    /// As it stands in a document.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::AttemptStarted(_) => "attempt_started",
            Self::AttemptEnded(_) => "attempt_ended",
            Self::PromptSubmitted(_) => "prompt_submitted",
            Self::AgentReplied(_) => "agent_replied",
            Self::ToolStarted(_) => "tool_started",
            Self::ToolEnded(_) => "tool_ended",
            Self::ModelResponded(_) => "model_responded",
            Self::SubAgentInvoked(_) => "sub_agent_invoked",
            Self::AgentHandedOff(_) => "agent_handed_off",
            Self::CheckpointResumed(_) => "checkpoint_resumed",
            Self::MemoryRecalled(_) => "memory_recalled",
            Self::UsageLimitExceeded(_) => "usage_limit_exceeded",
            Self::ContextCompacted(_) => "context_compacted",
            Self::InvocationRecorded(_) => "invocation_recorded",
            Self::Custom(_) => "custom",
            Self::Note(_) => "note",
            Self::SessionEnded(_) => "session_ended",
        }
    }

    fn check(&self) -> Result<(), WriteError> {
        match self {
            Self::AttemptStarted(a) => {
                names(&[("the agent", a.agent.as_ref()), ("the phase", a.phase.as_ref()), ("the tier", a.tier.as_ref())])?;
                names(&[("the model", a.model.as_ref())])?;
                texts(&[("the prompt", a.prompt.as_ref())])
            }
            Self::AttemptEnded(a) => {
                names(&[("the model", a.model.as_ref())])?;
                if let Some(c) = a.checkpoint.as_ref().filter(|c| !is_commit(c)) {
                    let found = c.chars().take(80).collect();
                    return Err(WriteError::Value { what: "the checkpoint", found, expected: "give a git commit of 7 to 64 hex digits" });
                }
                texts(&[("the error", a.error.as_ref()), ("the summary", a.output_summary.as_ref())])?;
                texts(&[("the runner's output", a.runner_output.as_ref())])
            }
            Self::PromptSubmitted(t) | Self::AgentReplied(t) | Self::Note(t) => texts(&[("the text", Some(&t.text))]),
            Self::ToolStarted(t) => {
                names(&[("the call id", Some(&t.call_id)), ("the tool", Some(&t.tool)), ("the parent", t.parent_call_id.as_ref())])
            }
            Self::ToolEnded(t) => {
                names(&[("the call id", Some(&t.call_id))])?;
                texts(&[("the output", t.output.as_ref())])
            }
            Self::ModelResponded(r) => {
                names(&[
                    ("the message id", Some(&r.message_id)),
                    ("the model", Some(&r.model)),
                    ("the parent", r.parent_call_id.as_ref()),
                ])?;
                texts(&[("the text", r.text.as_ref())])
            }
            Self::SubAgentInvoked(s) => {
                names(&[("the sub-agent", Some(&s.agent_type)), ("the call id", s.call_id.as_ref())])?;
                texts(&[("the description", Some(&s.description))])
            }
            Self::AgentHandedOff(h) => {
                names(&[("the agent before", h.from.as_ref()), ("the agent", Some(&h.to))])?;
                texts(&[("the reason", h.reason.as_ref())])
            }
            Self::CheckpointResumed(c) => {
                names(&[("the checkpoint", Some(&c.checkpoint))])?;
                texts(&[("the detail", c.detail.as_ref())])
            }
            Self::MemoryRecalled(m) => {
                names(&[("the tier", Some(&m.tier)), ("the namespace", Some(&m.namespace))])?;
                texts(&[("the query", m.query.as_ref())])
            }
            Self::UsageLimitExceeded(l) => texts(&[("the reason", l.reason.as_ref())]),
            Self::ContextCompacted(c) => names(&[("the trigger", c.trigger.as_ref())]),
            Self::InvocationRecorded(i) => i.check(),
            Self::Custom(c) => c.check(),
            Self::SessionEnded(e) => texts(&[("the reason", e.reason.as_ref())]),
        }
    }
}

impl Invocation {
    fn check(&self) -> Result<(), WriteError> {
        names(&[("the skill", Some(&self.skill)), ("the phase", self.phase.as_ref()), ("the model", self.model.as_ref())])?;
        names(&[("the status", self.final_status.as_ref())])?;
        texts(&[("the project", self.project_root.as_ref()), ("the file", self.file.as_ref())])?;
        texts(&[("the input", self.input.as_ref()), ("the message", self.message.as_ref())])?;
        let count = self.attempts.len();
        if count > WRITE_ATTEMPTS_MAX {
            return Err(WriteError::TooMany { what: "attempts of an invocation", count, max: WRITE_ATTEMPTS_MAX });
        }
        self.attempts.iter().try_for_each(|t| {
            names(&[("the model", t.model.as_ref()), ("the tier", t.tier.as_ref())])?;
            if let Some(v) = t.verdict.as_ref().filter(|v| !["accept", "escalate", "error"].contains(&v.as_str())) {
                let found = v.chars().take(80).collect();
                return Err(WriteError::Value { what: "a verdict", found, expected: "give accept, escalate or error" });
            }
            texts(&[("the feedback", t.feedback.as_ref()), ("the summary", t.output_summary.as_ref())])?;
            texts(&[("the runner's output", t.runner_output.as_ref())])
        })
    }
}

impl CustomWrite {
    fn check(&self) -> Result<(), WriteError> {
        const WHAT: &str = "the type of a custom event";
        check_name(WHAT, &self.name, WRITE_NAME_MAX)?;
        if !self.name.chars().all(|c| c.is_ascii_alphanumeric() || "._-:".contains(c)) {
            let found = self.name.clone();
            return Err(WriteError::Value { what: WHAT, found, expected: "use letters, digits, `.`, `_`, `-` and `:`" });
        }
        let len = serde_json::to_vec(&self.body).map_or(usize::MAX, |b| b.len());
        if len > WRITE_JSON_MAX {
            return Err(WriteError::TooLong { what: "the body of a custom event", len, max: WRITE_JSON_MAX });
        }
        Ok(())
    }
}

fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(v: Value) -> Result<Write, String> {
        serde_json::from_value::<Write>(v).map_err(|e| e.to_string())
    }

    #[test]
    fn a_write_reads_and_writes_the_same() {
        for v in [
            json!({ "kind": "attempt_started", "agent": "recon", "number": 2, "at": "2026-01-31T08:00:00Z", "key": "k" }),
            json!({ "kind": "attempt_ended", "success": true, "cost_nanousd": 5, "checkpoint": "abcdef0", "is_final": true }),
            json!({ "kind": "tool_started", "call_id": "t", "tool": "Bash", "input": { "command": "ls" } }),
            json!({ "kind": "custom", "type": "x.y", "body": [1] }),
            json!({ "kind": "usage_limit_exceeded", "limit": "tokens", "max": 7 }),
            json!({ "kind": "invocation_recorded", "skill": "s", "attempts": [{ "number": 1, "verdict": "escalate" }] }),
            json!({ "kind": "session_ended", "success": false }),
        ] {
            let w = read(v.clone()).unwrap_or_else(|e| panic!("{e}: {v}"));
            assert_eq!(w.check(), Ok(()), "{v}");
            assert_eq!(serde_json::to_value(&w).unwrap(), v);
            assert_eq!(v["kind"], w.what.kind());
        }
    }

    #[test]
    fn nothing_of_the_host_can_be_written() {
        for kind in ["tool_decided", "approval_resolved", "mediation_breached", "secret_redacted", "session_created", "rule_added"] {
            assert!(read(json!({ "kind": kind })).is_err(), "{kind}");
        }
        assert!(read(json!({ "kind": "note", "text": "x", "role": "host" })).is_err(), "unknown fields are refused");
        assert!(read(json!({ "kind": "note", "text": "x", "at": 5 })).is_err());
    }

    #[test]
    fn what_is_too_long_or_cannot_be_shown_is_named() {
        let long = "x".repeat(201);
        for (v, says) in [
            (json!({ "kind": "custom", "type": "a b" }), "use letters"),
            (json!({ "kind": "custom", "type": "a", "body": "x".repeat(WRITE_JSON_MAX) }), "over the limit of 262144"),
            (json!({ "kind": "tool_started", "call_id": "", "tool": "T" }), "the call id is empty"),
            (json!({ "kind": "tool_started", "call_id": "a", "tool": long }), "the tool has 201 bytes"),
            (json!({ "kind": "attempt_started", "phase": "a\u{1b}[2J" }), "the phase has the character"),
            (json!({ "kind": "attempt_ended", "success": true, "checkpoint": "$(reboot)" }), "7 to 64 hex digits"),
            (json!({ "kind": "invocation_recorded", "skill": "s", "attempts": [{ "number": 1, "verdict": "fine" }] }), "accept, escalate"),
            (json!({ "kind": "note", "text": "x", "key": " " }), "the key of a write is empty"),
        ] {
            let said = read(v.clone()).unwrap_or_else(|e| panic!("{e}: {v}")).check().map_err(|e| e.to_string());
            assert!(said.clone().is_err_and(|e| e.contains(says)), "{says}: {said:?}");
        }
    }
}
