//! Hooks: what an agent tells, and is told, through a command that it runs itself.
//!
//! Hooks are the second layer: agents go on when a hook breaks, so a decision given here promises less than the gate, and the session
//! says so (`mediation = hooks`). The one form of *no* that holds when half of it is lost is the exit code, so a denial is that.
//!
//! Each agent's own form is read and written by its driver (`Driver::hook`, `Driver::hook_answer`); called by `session`.

use serde_json::Value;

use super::{Output, ShownResult};
use crate::model::{PromptContext, TranscriptNamed};

/// One call of an agent's hook, understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Hook {
    /// The agent's own id of its conversation.
    pub agent_session_id: String,
    /// Where the agent's tools run now; absolute.
    pub cwd: String,
    /// Whether the agent's own prompt would reach a person: false in modes that never ask one.
    pub prompts: bool,
    /// Where the agent keeps its own record of the conversation, as it says.
    pub transcript: Option<TranscriptNamed>,
    pub event: HookEvent,
}

/// What happened in the agent.
#[derive(Debug, Clone, PartialEq)]
pub enum HookEvent {
    /// A conversation began or goes on: `source` is the agent's word for which.
    Started {
        source: String,
        model: Option<String>,
    },
    Prompt {
        text: String,
    },
    /// A tool call waits for the answer.
    Asked(HookAsked),
    /// A result that the model has not seen yet: as the tool gave it, and as it is reported.
    Shown {
        result: Box<ShownResult>,
        said: Box<Output>,
    },
    /// Something that needs no answer: replies, the end of a turn.
    Said(Vec<Output>),
    /// The conversation ended, for the agent's reason.
    Ended {
        reason: String,
    },
    /// Of no interest here.
    Other,
}

/// A tool call that waits for a hook's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct HookAsked {
    pub call_id: Option<String>,
    pub tool: String,
    pub input: Value,
    pub sub_agent: Option<String>,
}

/// What the agent is told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HookAnswer<'a> {
    /// Run it; `input` replaces its input.
    Allow {
        reason: &'a str,
        input: Option<&'a Value>,
    },
    Deny {
        reason: &'a str,
    },
    /// Ask your own user.
    Ask {
        reason: &'a str,
    },
    /// A prompt that the agent must not take.
    Refuse {
        reason: &'a str,
    },
    /// What policies add to a prompt.
    Context(&'a [PromptContext]),
    /// What the model sees in place of a result, in the tool's own shape.
    Instead(&'a Value),
    /// Nothing to say.
    Pass,
}

/// The hook command's end: its exit code, and what it prints (on standard output with code 0, else on standard error).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HookReply {
    pub exit: u8,
    pub body: Vec<u8>,
}
