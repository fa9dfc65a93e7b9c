//! The scripted model's pure part.

use std::path::PathBuf;

#[path = "../../../../src/gateway/anthropic.rs"]
mod anthropic;
#[path = "../../../../src/gateway/forms.rs"]
mod forms;
#[path = "../../../../src/gateway/script.rs"]
mod script;

pub use script::{MAX_SCRIPT, Script};

/// As far as a script's text can be at fault.
#[derive(Debug)]
pub enum Error {
    Read { path: PathBuf, source: std::io::Error },
    TooLarge { size: u64 },
    Syntax(String),
    Invalid { place: String, what: String },
}

/// Plays one request; the bytes of the answer.
pub fn play(script: &mut Script, request: &serde_json::Value) -> usize {
    let request = anthropic::Request::new(request);
    if let Some(problem) = request.problem() {
        return problem.len();
    }
    let chosen = script.choose(&request);
    let message = anthropic::message(&chosen, request.model(), &|prefix| format!("{prefix}_1"));
    anthropic::events(&message).iter().map(bytes::Bytes::len).sum()
}
