//! Claude Code: its stream-json control protocol, whose permission request is the gate.
//!
//! Invariants:
//! - every tool call raises a question (`permissions.ask: ["*"]`) and waits for [`answer`]; this holds in every permission
//!   mode, and the end of our side of the channel is a denial;
//! - the repository's settings, hooks, MCP servers and instruction files are not read by the agent ([`recipe`]);
//! - request ids of ours begin with [`OURS`]; a response to any other id is a forgery;
//! - the host's own tools are a server that lives in the host: it is named in the handshake ([`OWN_SERVER`] says when in an argument, too), is no process and has no port, and its
//!   messages come over the channel; its calls are asked about at the gate first, with the same id;
//! - where calls are held before the gate (a callback before each tool use, asked for in the handshake), passing one on is no consent:
//!   the gate asks all the same, and a callback that is never answered lets nothing run.
//!
//! Each measure was checked against release 2.1.197. Called by `session` through [`Driver`]; `demo` shares the codec.

mod answer;
mod conversation;
mod hook;
mod json;
mod read;
mod recipe;
mod resume;
pub mod settings;

use std::ffi::OsString;

use super::hook::{Hook, HookAnswer, HookReply};
use super::{Answer, Callbacks, Cut, Driver, Error, Launch, LaunchRequest, Output, Reached, ReadState, Resume};
use serde_json::Value;

use crate::model::{Mediation, Piece, PromptContext, Rewrite};

/// The argument that names the host's own tools to an agent that is started anew: what the handshake names is connected only after it has
/// gone on with the call that it was put away at.
pub const OWN_SERVER: &str = r#"--mcp-config={"mcpServers":{"beadle":{"type":"sdk","name":"beadle"}}}"#;
/// How every request id that the host sends begins.
pub const OURS: &str = "bdl-";

/// The driver of Claude Code.
#[derive(Debug, Clone, Copy)]
pub struct Claude;

impl Driver for Claude {
    fn name(&self) -> &'static str {
        "claude"
    }

    fn launch(&self, request: &LaunchRequest) -> Result<Launch, Error> {
        recipe::launch(request)
    }

    fn read(&self, state: &mut ReadState, line: &[u8]) -> Vec<Output> {
        read::line(state, line)
    }

    fn record(&self, line: &[u8]) -> Option<Vec<Output>> {
        read::record(line)
    }

    fn recorded_usage(&self, line: &[u8], since: i64) -> Option<Output> {
        read::recorded_usage(line, since)
    }

    fn answer(&self, request_id: &str, answer: Answer<'_>) -> Vec<u8> {
        answer::decision(request_id, answer)
    }

    fn prompt(&self, text: &str, context: &[PromptContext]) -> Option<Vec<u8>> {
        Some(answer::prompt(text, context))
    }

    fn takes_context(&self) -> bool {
        true
    }

    fn shows_results(&self) -> bool {
        true
    }

    fn result_answer(&self, request_id: &str, replacement: Option<&Value>) -> Vec<u8> {
        answer::result(request_id, replacement)
    }

    fn takes_host_tools(&self) -> bool {
        true
    }

    fn mcp_answer(&self, request_id: &str, response: &Value) -> Vec<u8> {
        answer::mcp(request_id, response)
    }

    fn resume(&self, args: &[OsString], conversation: &str, model: Option<&str>, callbacks: Callbacks) -> Option<Resume> {
        resume::resume(args, conversation, model, callbacks)
    }

    fn resumes_at(&self, tool: &str) -> bool {
        resume::resumes_at(tool)
    }

    fn lingers(&self, tool: &str) -> bool {
        resume::lingers(tool)
    }

    fn conversation(&self, record: &[u8]) -> Result<Vec<Piece>, String> {
        conversation::read(record)
    }

    fn rewritten(&self, record: &[u8], edits: &Rewrite, id: &str, uuid: &mut dyn FnMut() -> String) -> Result<Vec<u8>, String> {
        conversation::rewritten(record, edits, id, uuid)
    }

    fn cut(&self, record: &[u8], upto: &Reached, id: &str) -> Result<Cut, String> {
        conversation::cut::cut(record, upto, id)
    }

    fn holds(&self, record: &[u8], message: Option<&str>, call: Option<&str>) -> bool {
        conversation::cut::holds(record, message, call)
    }

    fn hook(&self, payload: &[u8]) -> Result<Hook, Error> {
        hook::read(payload).map_err(|why| Error::BadHook { agent: self.name(), why })
    }

    fn hook_text(&self, output: &Value) -> String {
        hook::response(output)
    }

    fn hook_answer(&self, answer: HookAnswer<'_>) -> HookReply {
        hook::answer(answer)
    }
}

/// The frames that open the channel: the handshake, then the first prompt where there is one.
pub(in crate::agent) fn opening(prompt: Option<&str>, context: &[PromptContext], callbacks: Callbacks) -> Vec<Vec<u8>> {
    let mut frames = vec![answer::initialize(callbacks)];
    frames.extend(prompt.map(|p| answer::prompt(p, context)));
    frames
}

/// What mediation is left when the operator forced arguments on the agent; the note names them without their values.
pub(in crate::agent) fn lowered(unsafe_args: &[String]) -> (Mediation, Option<String>) {
    if unsafe_args.is_empty() {
        return (Mediation::Gate, None);
    }
    let name = |a: &String| match a.split('=').next() {
        Some(n) if n.starts_with('-') => n.chars().take(64).collect(),
        _ => "…".to_owned(),
    };
    let names: Vec<String> = unsafe_args.iter().map(name).collect();
    (Mediation::None, Some(format!("started with unsafe arguments: {}", names.join(" "))))
}
