//! The shapes of a file of cases, key by key.
//!
//! Called by `cases`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::AT_MS;
use crate::compaction::{Folded, Unpinned};
use crate::model::moment::{AttemptSeen, SessionStart};
use crate::model::{Channel, Entry, EntryKind, EntryRole, Grants, Piece, SinkEvent, StateValue};

/// Longest text of one entry of a conversation, repeated as often as its case says.
const MAX_TEXT: usize = 8 << 20;

/// What holds for all cases of a file that do not say it themselves.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub config: Option<Value>,
    #[serde(default)]
    pub grants: Grants,
    pub deadline_ms: Option<u64>,
    pub session: Option<Map<String, Value>>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    #[serde(default)]
    pub http: Vec<AnswerPart>,
    #[serde(rename = "case")]
    pub cases: Vec<Part>,
}

/// One case, or one step of one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    #[serde(default)]
    pub name: String,
    pub config: Option<Value>,
    pub grants: Option<Grants>,
    pub deadline_ms: Option<u64>,
    pub kv: Option<BTreeMap<String, StateValue>>,
    pub env: Option<BTreeMap<String, String>>,
    pub secrets: Option<BTreeMap<String, String>>,
    pub files: Option<BTreeMap<String, String>>,
    pub http: Option<Vec<AnswerPart>>,
    pub steps: Option<Vec<Part>>,
    /// Wall time of the question, and what the clock says; each step goes on from the one before.
    pub at_ms: Option<i64>,
    pub session: Option<Map<String, Value>>,
    pub command: Option<String>,
    pub call: Option<Given>,
    pub recorded: Option<String>,
    pub prompt: Option<PromptPart>,
    pub start: Option<StartPart>,
    pub result: Option<ResultPart>,
    pub attempt: Option<AttemptPart>,
    pub transcript: Option<Vec<EntryPart>>,
    pub budget: Option<BudgetPart>,
    pub events: Option<Vec<EventPart>>,
    #[serde(default)]
    pub expect: Map<String, Value>,
}

impl Part {
    /// Keys that are for a whole case, of those that are there.
    pub fn of_a_case(&self) -> Vec<&'static str> {
        let named = [
            ("config", self.config.is_some()),
            ("grants", self.grants.is_some()),
            ("deadline_ms", self.deadline_ms.is_some()),
            ("kv", self.kv.is_some()),
            ("env", self.env.is_some()),
            ("secrets", self.secrets.is_some()),
            ("files", self.files.is_some()),
            ("http", self.http.is_some()),
            ("steps", self.steps.is_some()),
        ];
        named.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
    }

    /// How many questions it asks; `result` and `budget` are part of one.
    pub fn questions(&self) -> usize {
        let asked = [
            self.command.is_some(),
            self.call.is_some(),
            self.recorded.is_some(),
            self.prompt.is_some(),
            self.start.is_some(),
            self.attempt.is_some(),
            self.transcript.is_some(),
            self.events.is_some(),
        ];
        asked.into_iter().filter(|a| *a).count()
    }
}

/// What comes back for a request, in the network's place.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct AnswerPart {
    /// Method and URL, as in `GET https://api.example.com/x`.
    pub request: String,
    #[serde(default = "ok")]
    pub status: u16,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// A text, or a value that is sent as JSON.
    #[serde(default)]
    pub body: Value,
    pub fails: Option<NetworkFailure>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkFailure {
    Timeout,
    Unavailable,
    ForbiddenAddress,
}

const fn ok() -> u16 {
    200
}

/// A tool call as an agent made it; also the form of recorded calls.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Given {
    #[serde(default = "claude")]
    pub agent: String,
    pub tool: String,
    #[serde(default)]
    pub input: Value,
    pub cwd: Option<String>,
    pub write_root: Option<String>,
    pub call_id: Option<String>,
    pub parent_call_id: Option<String>,
    pub sub_agent: Option<String>,
    pub channel: Option<Channel>,
    /// Where it was recorded.
    #[serde(default, rename = "recorded")]
    pub _recorded: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub enum PromptPart {
    Text(String),
    Whole { text: String, number: Option<u64>, role: Option<String> },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StartPart {
    pub program: String,
    pub args: Vec<String>,
    pub unsafe_args: Vec<String>,
    pub env_names: Vec<String>,
    pub write_root: Option<String>,
    pub model: Option<String>,
    pub prompt: Option<String>,
    pub keep_open: bool,
    pub role: String,
}

impl Default for StartPart {
    fn default() -> Self {
        let (args, unsafe_args, env_names) = Default::default();
        let (program, role) = (claude(), "operator".to_owned());
        Self { program, args, unsafe_args, env_names, write_root: None, model: None, prompt: None, keep_open: false, role }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultPart {
    pub output: Value,
    #[serde(default)]
    pub is_error: bool,
    pub duration_ms: Option<u64>,
    #[serde(default = "yes")]
    pub replaceable: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttemptPart {
    pub number: u32,
    pub round: u32,
    pub succeeded: Option<bool>,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub last_words: String,
    pub duration_ms: u64,
    pub can_continue: bool,
}

impl Default for AttemptPart {
    fn default() -> Self {
        let (exit_code, signal) = (None, None);
        Self {
            number: 1,
            round: 0,
            succeeded: Some(true),
            exit_code,
            signal,
            last_words: String::new(),
            duration_ms: 0,
            can_continue: true,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryPart {
    pub role: EntryRole,
    pub kind: EntryKind,
    #[serde(default)]
    pub text: String,
    /// How often the text stands there.
    pub repeat: Option<usize>,
    pub tool: Option<String>,
    pub pair: Option<String>,
    #[serde(default)]
    pub is_error: bool,
    pub turn: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetPart {
    pub window: u64,
    pub target: u64,
    /// What the operator lets strategies touch beside what they always may.
    #[serde(default)]
    pub unpin: BTreeSet<Unpin>,
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum Unpin {
    User,
    System,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventPart {
    pub kind: String,
    #[serde(default)]
    pub body: Value,
    pub session: Option<String>,
    pub seq: Option<u64>,
    pub at: Option<i64>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

fn claude() -> String {
    "claude".to_owned()
}

const fn yes() -> bool {
    true
}

impl StartPart {
    pub fn read(&self) -> SessionStart {
        SessionStart {
            program: self.program.clone(),
            args: self.args.clone(),
            unsafe_args: self.unsafe_args.clone(),
            env_names: self.env_names.clone(),
            write_root: self.write_root.clone(),
            model: self.model.clone(),
            prompt: self.prompt.clone(),
            keep_open: self.keep_open,
            role: self.role.clone(),
        }
    }
}

impl AttemptPart {
    pub fn read(&self) -> AttemptSeen {
        AttemptSeen {
            number: self.number,
            round: self.round,
            succeeded: self.succeeded,
            exit_code: self.exit_code,
            signal: self.signal,
            last_words: self.last_words.clone(),
            duration_ms: self.duration_ms,
            can_continue: self.can_continue,
        }
    }
}

impl EventPart {
    pub fn read(&self, place: usize) -> SinkEvent {
        SinkEvent {
            session: self.session.clone().unwrap_or_else(|| "example".to_owned()),
            seq: self.seq.unwrap_or(place as u64 + 1),
            at: self.at.unwrap_or(AT_MS),
            attempt: 1,
            kind: self.kind.clone(),
            body: if self.body.is_null() { "{}".to_owned() } else { self.body.to_string() },
            hash: "0".repeat(64),
            labels: self.labels.clone(),
        }
    }
}

impl Given {
    pub fn bash(command: &str) -> Self {
        let (cwd, write_root, call_id, parent_call_id, sub_agent) = Default::default();
        let (input, tool) = (json!({ "command": command }), "Bash".to_owned());
        Self { agent: claude(), tool, input, cwd, write_root, call_id, parent_call_id, sub_agent, channel: None, _recorded: None }
    }
}

impl BudgetPart {
    /// The conversation as the host folds it: it counts the tokens, and it says what is pinned.
    pub fn fold(&self, entries: &[EntryPart]) -> Result<Folded, String> {
        let unpinned = Unpinned { user: self.unpin.contains(&Unpin::User), system: self.unpin.contains(&Unpin::System) };
        let mut pieces: Vec<Piece> = Vec::with_capacity(entries.len());
        for (i, p) in entries.iter().enumerate() {
            let text = p.text.repeat(p.repeat.unwrap_or(1).min(MAX_TEXT / p.text.len().max(1)));
            // Entries in a row of one role are one message, as agents record them.
            let same = pieces.last().filter(|l| l.entry.role == p.role).map(|l| l.message);
            let message = same.unwrap_or_else(|| pieces.last().map_or(0, |l| l.message + 1));
            let (role, kind, tool, pair) = (p.role, p.kind, p.tool.clone(), p.pair.clone());
            let (is_error, turn) = (p.is_error, p.turn.unwrap_or(1));
            let entry = Entry { id: i as u64 + 1, role, kind, tool, pair, is_error, turn, tokens: 0, bytes: 0, pinned: false, at: AT_MS };
            pieces.push(Piece { entry, text, message });
        }
        Folded::new(pieces, unpinned).map_err(|why| format!("`transcript`: {why}"))
    }
}
