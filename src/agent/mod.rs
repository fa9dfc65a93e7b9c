//! Agents: how to start each one so that the gate holds, and how its protocol reads.
//!
//! One file per agent CLI, pure codecs and launch recipes without I/O. Adding an agent is adding one file and a line in [`driver`].
//!
//! Invariants:
//! - a codec keeps nothing between lines but a small [`ReadState`], which only adds detail: with a fresh one (a new daemon
//!   reading on) a line never says something else or a wrong number, only less. What must be joined (request and result,
//!   usage per message) is joined by the session from its events;
//! - nothing the agent says can widen a right: unknown control lines are reported, never answered with consent.
//!
//! Called by `session` (live sessions) and by `cli` (`policy explain`, offline).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{Mediation, Nanousd, Piece, PromptContext, Rewrite, TranscriptNamed, Usage};

use hook::{Hook, HookAnswer, HookReply};

pub mod claude;
pub mod demo;
pub mod generic;
pub mod hook;
pub mod mcp;
pub mod tools;
pub mod usage;

/// What the caller wants started.
#[derive(Debug, Clone, Default)]
pub struct LaunchRequest {
    /// Program as asked for; empty means the agent's usual name on PATH.
    pub program: Option<PathBuf>,
    /// Extra arguments for the agent.
    pub args: Vec<String>,
    /// Arguments that the allow-list refuses, accepted by the operator; they lower mediation.
    pub unsafe_args: Vec<String>,
    /// The caller's environment after the host's allow-list.
    pub env: BTreeMap<OsString, OsString>,
    pub cwd: PathBuf,
    /// The first prompt, if any.
    pub prompt: Option<String>,
    /// What policies add beside the first prompt.
    pub context: Vec<PromptContext>,
    /// Let the host answer to each tool's result before the model sees it, where the agent can.
    pub results: bool,
    /// A fresh UUID for the agent's own conversation id.
    pub agent_session_id: String,
    /// Its record is there already: the agent goes on from it.
    pub goes_on: bool,
    pub model: Option<String>,
    /// The repository's own instructions, already read safely by the caller.
    pub instructions: Option<String>,
    /// MCP servers that the operator (not the repository) configured: the agent's own JSON.
    pub mcp_config: Option<Value>,
    /// Let calls be held before the gate, where the agent can: only then can it be ended at one and started anew ([`Driver::resume`]).
    pub hold: bool,
    /// Give it the host's own tools ([`mcp`]), where it takes them.
    pub host_tools: bool,
}

/// How to start it.
#[derive(Debug, Clone)]
pub struct Launch {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub env: BTreeMap<OsString, OsString>,
    /// Frames to write to the agent's stdin at once, in order (handshake, then the first prompt).
    pub frames: Vec<Vec<u8>>,
    pub mediation: Mediation,
    /// Why mediation is lower than the recipe gives.
    pub mediation_note: Option<String>,
    /// Keep stdin open as the driver's channel; false closes it at once.
    pub keep_stdin: bool,
    /// Where the agent keeps its own record of the conversation, if it keeps one.
    pub transcript: Option<TranscriptNamed>,
    /// Calls are announced before the gate ([`Output::Held`]).
    pub holds: bool,
    /// It can be started anew from its own conversation ([`Driver::resume`]).
    pub resumes: bool,
}

/// What an agent calls the host back for, beside its gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Callbacks {
    /// Calls before the gate ([`Output::Held`]).
    pub hold: bool,
    /// Results before the model sees them ([`Output::Shown`]).
    pub results: bool,
    /// Calls of the host's own tools ([`Output::Mcp`]).
    pub tools: bool,
}

/// How an agent is started anew from its own conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Resume {
    pub args: Vec<OsString>,
    /// Frames to write to its stdin at once; no prompt is among them.
    pub frames: Vec<Vec<u8>>,
}

/// What was said and done up to a moment, by the agent's own ids; `None` is all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached {
    /// Model messages with words.
    pub messages: Option<BTreeSet<String>>,
    /// Calls that have ended.
    pub calls: Option<BTreeSet<String>>,
}

/// A conversation's record up to a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub bytes: Vec<u8>,
    /// What the agent itself will add behind its end when it goes on from it.
    pub adds: Option<&'static str>,
    /// What was there and is not, where nothing was to be left out.
    pub left_out: Option<String>,
}

/// One thing a line of the agent's output says. Sizes are bounded by the line cap of the caller.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// The agent is up.
    Started {
        agent_session_id: Option<String>,
        version: Option<String>,
        model: Option<String>,
        permission_mode: Option<String>,
        tools: Vec<String>,
        mcp_servers: Vec<String>,
    },
    /// The gate: the agent waits until [`Driver::answer`] for `request_id` is written to it.
    Asked(Asked),
    /// Before the gate: the agent is about to ask about this call and waits until it is told [`Answer::Pass`] or [`Answer::Defer`].
    /// Neither is consent.
    Held(Asked),
    /// The agent withdrew its question.
    Cancelled {
        request_id: String,
    },
    /// The model asked for a tool (seen in the model's message, not a question to us).
    ToolUse {
        call_id: String,
        tool: String,
        input: Value,
        parent_call_id: Option<String>,
    },
    /// A tool has ended, and the agent waits until [`Driver::result_answer`] for `request_id` is written to it.
    Shown(ShownResult),
    ToolResult {
        call_id: String,
        is_error: bool,
        /// Something was executed: every success, and an error that only an execution gives.
        ran: bool,
        content: String,
        parent_call_id: Option<String>,
    },
    Replied {
        text: String,
        message_id: Option<String>,
        parent_call_id: Option<String>,
    },
    /// A count for one model message; later reports of the same id may be larger, never smaller.
    Usage {
        message_id: String,
        model: String,
        usage: Usage,
        parent_call_id: Option<String>,
    },
    TurnEnded(Turn),
    Compacted {
        trigger: String,
        tokens_before: Option<u64>,
        tokens_after: Option<u64>,
    },
    SubAgent {
        call_id: Option<String>,
        agent_type: String,
        description: String,
    },
    /// A message to a tool server that lives in the host; the agent waits until [`Driver::mcp_answer`] for `request_id` is written to it.
    Mcp {
        request_id: String,
        server: String,
        message: Value,
    },
    /// Known and without meaning for the log.
    Quiet,
    /// Not of the protocol: kept raw.
    Unparsed {
        reason: String,
    },
    /// The agent asks its user for something other than a tool call. Nobody answers such questions here: `answer` is the
    /// frame that declines, to be written to the agent; until then it waits.
    Declined {
        request_id: String,
        what: String,
        answer: Vec<u8>,
    },
    /// Of the protocol's control part but not expected from an agent: a forgery or a new version. A breach.
    Forged {
        what: String,
        detail: String,
    },
}

/// The agent's question about one tool call.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub request_id: String,
    pub call_id: Option<String>,
    pub tool: String,
    pub input: Value,
    pub parent_call_id: Option<String>,
    pub sub_agent: Option<String>,
}

/// A tool's result that the agent holds back from the model until it is answered.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownResult {
    pub request_id: String,
    pub call_id: String,
    pub tool: String,
    pub input: Value,
    /// In the tool's own shape; a text for an error.
    pub output: Value,
    pub is_error: bool,
    pub duration_ms: Option<u64>,
    pub sub_agent: Option<String>,
}

/// The end of one prompt-to-stop cycle.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Turn {
    pub is_error: bool,
    pub subtype: Option<String>,
    pub result: Option<String>,
    pub duration_ms: Option<u64>,
    /// Cumulative over the process, as the agent computes it.
    pub agent_cost: Option<Nanousd>,
    pub context_window: Option<u64>,
    pub agent_usage: Option<Usage>,
    pub denials: Option<u64>,
    /// Final counts by model over the process, where the agent gives them; names as in [`Output::Usage`].
    pub model_usage: BTreeMap<String, Usage>,
    /// What the agent says these cost, by model.
    pub model_cost: BTreeMap<String, Nanousd>,
    /// Searches of the web over the process, which agents pay for beside tokens.
    pub web_searches: u64,
    /// The call, by the agent's id, that it was told to defer, and ended the turn at.
    pub deferred: Option<String>,
}

impl Turn {
    /// What the agent counted beyond `recorded` (sums by model of one attempt, as reported by [`Output::Usage`]): requests
    /// whose final count was not in the stream (sub-agents, compaction, titles). Recorded usage is never lowered; models
    /// without a difference are left out.
    pub fn unaccounted(&self, recorded: &BTreeMap<String, Usage>) -> BTreeMap<String, Usage> {
        let mut rest = BTreeMap::new();
        for (model, total) in &self.model_usage {
            let had = recorded.get(model).copied().unwrap_or_default();
            let more = total.beyond(had);
            if more.total() > 0 {
                rest.insert(model.clone(), more);
            }
        }
        rest
    }
}

/// What a codec remembers of earlier lines of one attempt. Small (a few KiB at most) and disposable: start with the default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReadState {
    /// The model message whose parts are arriving, with its counts so far.
    pub(in crate::agent) message: Option<OpenMessage>,
    /// The main model by the agent's full name, such as `claude-opus-4-8[1m]`.
    pub(in crate::agent) model: Option<String>,
    /// What the last start line said: agents repeat it every turn.
    pub(in crate::agent) started: Option<String>,
    /// Running sub-agents: id and the call that began each, newest last, at most [`ReadState::SUB_AGENTS`].
    pub(in crate::agent) sub_agents: Vec<(String, String)>,
    /// A compaction was reported since the last turn ended.
    pub(in crate::agent) compacted: bool,
}

impl ReadState {
    /// Sub-agents remembered; the oldest is forgotten first, and its later calls have no parent then.
    pub const SUB_AGENTS: usize = 64;

    /// Whether parts of a model message are still arriving.
    pub fn in_message(&self) -> bool {
        self.message.is_some()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::agent) struct OpenMessage {
    pub id: String,
    pub model: String,
    pub usage: Usage,
    pub parent_call_id: Option<String>,
}

/// What the agent is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer<'a> {
    /// Run it with this input (the judged one, or the rewrite).
    Allow {
        input: &'a Value,
    },
    Deny {
        reason: &'a str,
    },
    /// To [`Output::Held`]: go on to the gate and ask there.
    Pass,
    /// To [`Output::Held`]: end the turn here; the gate asks when the conversation is resumed.
    Defer,
}

/// Why an agent cannot be started or spoken to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no agent {0:?}; known are claude, demo (built in) and generic (any command: `beadle run -- <command>`)")]
    Unknown(String),
    #[error("argument {arg:?} is refused for {agent}: {why}; drop it, or accept the loss of mediation with --unsafe-arg={arg}")]
    RefusedArgument { agent: &'static str, arg: String, why: &'static str },
    #[error("environment variable {name} is refused for {agent}: {why}; unset it")]
    RefusedEnvironment { agent: &'static str, name: String, why: &'static str },
    #[error("no command was given; write it after `--`, as in `beadle run -- make test`")]
    NoCommand,
    #[error("{0} has no hooks that are understood here; known are those of claude")]
    NoHooks(&'static str),
    #[error("a hook of {agent} sent what is not understood: {why}; is its version one that `beadle hook status` knows?")]
    BadHook { agent: &'static str, why: String },
}

impl Error {
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "BDL-AGENT-001",
            Self::RefusedArgument { .. } => "BDL-AGENT-002",
            Self::RefusedEnvironment { .. } => "BDL-AGENT-003",
            Self::NoCommand => "BDL-AGENT-004",
            Self::NoHooks(_) => "BDL-AGENT-005",
            Self::BadHook { .. } => "BDL-AGENT-006",
        }
    }
}

/// One agent's recipe and codec. The same value serves every session of that agent.
pub trait Driver: Send + Sync {
    fn name(&self) -> &'static str;
    /// Whether its output is a protocol that [`Driver::read`] reads; else it is only text, kept and never judged.
    fn speaks(&self) -> bool {
        true
    }
    /// The recipe. Refuses arguments and environment that would undo the gate.
    fn launch(&self, request: &LaunchRequest) -> Result<Launch, Error>;
    /// Reads one whole line (without its newline), in the order the agent wrote them. One line may say several things; never
    /// empty for a non-empty line. `state` belongs to one attempt.
    fn read(&self, state: &mut ReadState, line: &[u8]) -> Vec<Output>;
    /// What a whole line of the agent's own record says of calls: [`Output::ToolUse`] and [`Output::ToolResult`] only. `None` for a
    /// line that cannot be read.
    fn record(&self, _line: &[u8]) -> Option<Vec<Output>> {
        Some(Vec::new())
    }
    /// What a line of that record says of one message's tokens: [`Output::Usage`], if it was written at `since` (milliseconds) or later.
    /// An earlier conversation that goes on has the messages of that one in its record, too.
    fn recorded_usage(&self, _line: &[u8], _since: i64) -> Option<Output> {
        None
    }
    /// The frame that answers a question.
    fn answer(&self, request_id: &str, answer: Answer<'_>) -> Vec<u8>;
    /// The frame that gives a further prompt with what policies add to it, or `None` where the agent takes none.
    fn prompt(&self, text: &str, context: &[PromptContext]) -> Option<Vec<u8>>;
    /// Whether its prompts can carry context that is told apart from the user's own words; else the host gives none.
    fn takes_context(&self) -> bool {
        false
    }
    /// Whether it shows results before the model sees them ([`Output::Shown`]) when it was launched to.
    fn shows_results(&self) -> bool {
        false
    }
    /// The frame that answers a shown result; `replacement` is in the tool's own shape.
    fn result_answer(&self, _request_id: &str, _replacement: Option<&Value>) -> Vec<u8> {
        Vec::new()
    }
    /// Whether it takes the host's own tools over its channel when it was launched to.
    fn takes_host_tools(&self) -> bool {
        false
    }
    /// Whether its program may start a server of the host's own tools (`beadle mcp`), having no channel for them.
    fn starts_tool_server(&self) -> bool {
        false
    }
    /// The frame that answers a message to the host's own tools.
    fn mcp_answer(&self, _request_id: &str, _response: &Value) -> Vec<u8> {
        Vec::new()
    }
    /// How to start the agent anew from `conversation`, its own record, with the arguments it had and called back for the
    /// same; `model` is what it said it ran on.
    /// `None` where it cannot.
    fn resume(&self, _args: &[OsString], _conversation: &str, _model: Option<&str>, _callbacks: Callbacks) -> Option<Resume> {
        None
    }
    /// Whether a resumed agent asks again about a deferred call of this tool.
    fn resumes_at(&self, _tool: &str) -> bool {
        false
    }
    /// Whether calls of this tool go on inside the agent after their result, so that ending it would end them.
    fn lingers(&self, _tool: &str) -> bool {
        false
    }
    /// The conversation that the agent's own record (the whole file) holds, as it would be resumed; the error says why it cannot be told.
    fn conversation(&self, _record: &[u8]) -> Result<Vec<Piece>, String> {
        Err(format!("{} keeps no record that is understood here", self.name()))
    }
    /// The record of a new conversation `id` that holds what `record` does after these edits; `uuid` gives fresh ones.
    fn rewritten(&self, _record: &[u8], _edits: &Rewrite, _id: &str, _uuid: &mut dyn FnMut() -> String) -> Result<Vec<u8>, String> {
        Err(format!("a record of {} cannot be written here", self.name()))
    }
    /// The record of a new conversation `id` that holds what `record` does up to a moment; the error says why it cannot be made.
    fn cut(&self, _record: &[u8], _upto: &Reached, _id: &str) -> Result<Cut, String> {
        Err(format!("a record of {} cannot be cut here", self.name()))
    }
    /// Whether its record holds this message, and the result of this call, by now: it is written late.
    fn holds(&self, _record: &[u8], _message: Option<&str>, _call: Option<&str>) -> bool {
        true
    }
    /// Reads what a hook of the agent was given on its standard input.
    fn hook(&self, _payload: &[u8]) -> Result<Hook, Error> {
        Err(Error::NoHooks(self.name()))
    }
    /// The text of a result that a hook shows, as the log holds it.
    fn hook_text(&self, output: &Value) -> String {
        output.to_string()
    }
    /// How the hook command ends so that the agent understands the answer. Where there are no hooks, it blocks.
    fn hook_answer(&self, _answer: HookAnswer<'_>) -> HookReply {
        HookReply { exit: 2, body: vec![] }
    }
}

/// Names how this version starts an agent: what `doctor` checked holds for this recipe only.
pub fn recipe(agent: &str) -> Result<String, Error> {
    let driver = driver(agent)?;
    let request = LaunchRequest { program: Some(PathBuf::from("/agent")), ..LaunchRequest::default() };
    let launch = driver.launch(&request)?;
    let mut hasher = blake3::Hasher::new_derive_key("beadle 2026-11 launch recipe");
    let mut part = |tag: u8, bytes: &[u8]| {
        hasher.update(&[tag]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    launch.args.iter().for_each(|a| part(0, a.as_bytes()));
    for (name, value) in &launch.env {
        part(1, name.as_bytes());
        part(2, value.as_bytes());
    }
    launch.frames.iter().for_each(|f| part(3, f));
    if driver.shows_results() {
        // As it is started where policies judge results.
        driver.launch(&LaunchRequest { results: true, ..request.clone() })?.frames.iter().for_each(|f| part(4, f));
    }
    if driver.takes_host_tools() {
        driver.launch(&LaunchRequest { host_tools: true, ..request })?.frames.iter().for_each(|f| part(5, f));
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Whether the agent's program is one of its own that can be attested: not any command, and not the host itself.
pub fn attestable(agent: &str) -> bool {
    driver(agent).is_ok_and(|d| d.speaks()) && agent != "demo"
}

/// The driver of an agent by name. The built-in demo agent speaks Claude's protocol and uses its driver.
pub fn driver(agent: &str) -> Result<&'static dyn Driver, Error> {
    match agent {
        "claude" => Ok(&claude::Claude),
        "demo" => Ok(&demo::Demo),
        "generic" => Ok(&generic::Generic),
        other => Err(Error::Unknown(other.chars().take(64).collect())),
    }
}
