//! The call record: what a policy sees of a tool call. Only the host can know most of it.
//!
//! The same shape is `call` in `wit/v0.1/types.wit`; a field here that policies read must stand there too.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a tool does, over all agents. Names follow ACP's tool kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolKind {
    Read,
    Edit,
    Delete,
    Move,
    Search,
    Execute,
    Think,
    Fetch,
    Other,
}

/// How the call reached the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// The agent's own approval request: the gate.
    Driver,
    /// A hook of an agent that may or may not have been started by the host.
    Hook,
    Proxy,
}

/// How much of a shell command the host understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parse {
    /// Every simple command that can run is listed and exact; also for calls without a command.
    Complete,
    /// Something runs, or is named, that only the shell will know (a variable, a substitution, eval).
    Partial,
    /// Not parsed at all: syntax error or over a cap.
    Failed,
}

/// One word of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// After quote removal when `exact`, else the text as written.
    pub text: String,
    /// False when expansion at run time can change it.
    pub exact: bool,
}

/// A file redirection of a command. Descriptor duplications (`2>&1`) and here-documents are not listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    pub target: Word,
    pub access: Access,
}

/// One simple command that the call would run, in document order, those inside wrappers included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments; never empty (an assignment alone has no command).
    pub argv: Vec<Word>,
    /// Environment assignments before it, `NAME=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<Word>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redirects: Vec<Redirect>,
    /// Where it stands: empty for the top level, else the wrappers around it from outside in, such as
    /// `sh -c`, `$()`, `xargs`, `function f`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origin: Vec<String>,
    /// True when every word of it is exact.
    pub exact: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    Read,
    Write,
    /// Both, or not told apart.
    ReadWrite,
}

/// A file system path that the call names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathUse {
    /// As the call has it.
    pub written: String,
    /// Joined with the working directory and lexically normalised (`.` and `..` gone).
    pub absolute: String,
    /// `absolute` with symlinks followed at its nearest existing ancestor.
    pub resolved: String,
    pub access: Access,
    /// False when expansion can change it (globs, variables) or its base is not known (after a `cd` to a dynamic place).
    pub exact: bool,
}

/// A tool call, ready to be judged. Sizes: input at most 16 MiB of JSON, 4,096 paths, 1,024 commands, 256 urls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Agent family: `claude`, `codex`, `gemini`, `opencode`, `generic`, …
    pub agent: String,
    /// The tool's own name, as the agent gave it.
    pub tool: String,
    pub kind: ToolKind,
    /// The tool's input, a JSON object as the agent gave it.
    pub input: Value,
    pub cwd: String,
    /// The only tree the agent may change, where one is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_root: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathUse>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<Command>,
    pub parse: Parse,
    /// Why the command is not understood whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parse_reason: Option<String>,
    /// The agent's own id of the call; may repeat, so it is never a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// The agent's id of the call (a sub-agent's) that this one belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_call_id: Option<String>,
    /// The sub-agent that made it, by the agent's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_agent: Option<String>,
    pub channel: Channel,
}
