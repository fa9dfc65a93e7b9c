//! The scripted model: plays a script from a file over the real Anthropic Messages API, so that the demo, the tests and
//! anybody's experiments drive real agent CLIs offline and without a key.
//!
//! # Invariants
//! - binds to loopback only and dials nobody;
//! - the same script and the same order of requests give the same answers (ids differ);
//! - every request is recorded, keys redacted, in memory and on request as JSON lines;
//! - everything is bounded: request bodies ([`MAX_BODY`]), connections ([`MAX_CONNECTIONS`]), recorded requests
//!   ([`MAX_LOGGED`], [`MAX_LOGGED_BYTES`]), script size and steps ([`MAX_SCRIPT`], [`MAX_STEPS`]).
//!
//! # Script
//! A JSON object; unknown keys are errors that name the key.
//!
//! ```json
//! {
//!   "note": "free text",
//!   "steps": [
//!     { "text": "Let me look.", "tools": [ { "name": "Bash", "input": { "command": "ls" } },
//!                                          { "name": "Read", "input": { "file_path": "README.md" } } ] },
//!     { "tool": "Bash", "input": { "command": "make test" }, "usage": { "in": 12, "out": 80, "cache_read": 9000 } },
//!     { "error": { "status": 529, "retry_after": 1 }, "times": 2 },
//!     { "when": { "last": "FAILED" }, "text": "The test failed." },
//!     { "text": "Done." }
//!   ],
//!   "lanes": [ { "name": "searcher", "match": { "opening": "Find the bug" }, "steps": [ { "text": "It is in line 3." } ] } ],
//!   "side": { "text": "ok" },
//!   "end": { "text": "done." },
//!   "usage": { "in": 1200, "out": 34, "cache_read": 1000, "cache_write": 50 }
//! }
//! ```
//!
//! **Which step plays.** A request goes to the first lane (in order) whose `match` holds; if none does, to the top-level
//! `steps` (the lane `main`). In its lane the first step plays that is not used up and whose `when` holds; if there is
//! none, `end` answers (text `done.` unless given). A request that offers no tools (titles, summaries, probes) uses no
//! step and gets `side` (text `ok` unless given), except that a lane whose `match` says `"tools": false` takes it.
//!
//! **A condition** (`match`, `when`) is a text that must occur somewhere in the request's system prompt or messages, or an
//! object, all parts of which must hold: `opening` (system prompt and the messages up to the first of the user: names the
//! conversation, so a sub-agent's requests find their own lane by its prompt), `last` (the newest user message: the
//! prompt, or the tool results), `anywhere`, `model`, `tools` (whether the request offers tools). Texts are compared with
//! decoded strings, not with JSON source.
//!
//! **A step** says what is answered: `thinking`, `text`, `tool` with `input`, or `tools` (parallel calls; each `name`,
//! `input` and, to force one, `id`), in this order in one message; or `error` (an HTTP status, or `status`, `type`,
//! `message`, `retry_after` in seconds, `body`); or `drop`: `before` (connection closed without an answer) or `middle` (half
//! of the answer, then closed; goes with content). Also: `times` (how often it plays, 1), `delay_ms` (before the answer),
//! `event_delay_ms` (between streamed events), `usage`, `stop_reason`, `model` (the name answered), `note`.
//!
//! # Routes
//! `POST /v1/messages` (streaming and not), `POST /v1/messages/count_tokens`, `GET /v1/models`, `HEAD` anything;
//! `GET /_script` tells how often each step played, `POST /_script/reset` plays from the start.
//!
//! Called by `cli` (`beadle model serve`, `demo`) and by the tests. Imports `model` only.

mod anthropic;
mod forms;
mod record;
mod script;
mod serve;

use std::path::PathBuf;

pub use record::{Logged, MAX_LOGGED, MAX_LOGGED_BYTES};
pub use script::{LaneState, MAX_SCRIPT, MAX_STEPS, Script, Tokens};
pub use serve::{MAX_BODY, MAX_CONNECTIONS, Options, Server};

/// Why the scripted model cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the script {path}: {source}; give the path of a JSON file")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the script is {size} bytes, the cap is {MAX_SCRIPT}; split it")]
    TooLarge { size: u64 },
    #[error("the script is not valid: {0}; see the script section of the README")]
    Syntax(String),
    #[error("the script is not valid: {place}: {what}")]
    Invalid { place: String, what: String },
    #[error("cannot listen on 127.0.0.1:{port}: {source}; take another port, or 0 for any free one")]
    Listen { port: u16, source: std::io::Error },
    #[error("cannot write {path}: {source}; give a path in a folder that exists and is writable")]
    Write { path: PathBuf, source: std::io::Error },
}

impl Error {
    /// Stable code of the failure.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "BDL-GATEWAY-001",
            Self::TooLarge { .. } => "BDL-GATEWAY-002",
            Self::Syntax(_) => "BDL-GATEWAY-003",
            Self::Invalid { .. } => "BDL-GATEWAY-004",
            Self::Listen { .. } => "BDL-GATEWAY-005",
            Self::Write { .. } => "BDL-GATEWAY-006",
        }
    }
}
