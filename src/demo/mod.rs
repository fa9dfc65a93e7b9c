//! The built-in demo agent: a small agent in its own process, so that the first session needs no key, no network and no
//! installation. It is an agent like any other: it shares no code with the host and imports nothing of ours.
//!
//! It speaks the stream-json control protocol on stdin and stdout as Claude Code does, calls the Messages API at
//! `ANTHROPIC_BASE_URL` (loopback http only), asks before each tool call, and then really runs Bash, Read, Write and Edit
//! in its working directory.
//!
//! # Invariants
//! - no tool runs without an allow that answers its own request; stdin closed, an answer of the wrong shape or an interrupt
//!   mean that it does not run;
//! - what runs is the input in the answer, not the one asked about;
//! - everything is bounded: lines ([`MAX_LINE`]), queued prompts ([`MAX_PROMPTS`]), answers of the model, parallel calls,
//!   conversation, captured output, file sizes and time.
//!
//! Called by `main` through the hidden command `beadle demo-agent`; `cli` takes the demo's [`workspace`] from here.

mod api;
mod channel;
mod tools;
mod turn;
pub mod workspace;

use std::ffi::OsString;
use std::io::{BufReader, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::mpsc;

use channel::{Channel, Input};
pub use channel::{MAX_LINE, MAX_PROMPTS};

/// The name that the agent gives itself.
pub const NAME: &str = "beadle demo agent (built in)";
/// The model it asks for unless `--model` or `ANTHROPIC_MODEL` names one; the one whose price it knows.
pub const MODEL: &str = "claude-opus-4-8";

/// Why the demo agent ends early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("argument {0:?} is not known; the demo agent takes --session-id <id> and --model <name>")]
    Argument(String),
    #[error("argument {0} needs a value; write it after the argument")]
    NoValue(&'static str),
    #[error("ANTHROPIC_BASE_URL is not set; give the address of a scripted model, as `beadle model serve` prints it")]
    NoBaseUrl,
    #[error("ANTHROPIC_BASE_URL = {0:?} is refused; the demo agent calls only http:// on a loopback address such as http://127.0.0.1:8080")]
    BaseUrl(String),
    #[error("the working directory cannot be read: {0}; start the agent in a directory that exists")]
    WorkingDirectory(std::io::Error),
    #[error("stdin is not of the control protocol: {0}; send one JSON object a line")]
    Protocol(String),
    #[error("stdin cannot be read on: {0}")]
    Input(std::io::Error),
    #[error("a helper thread cannot start: {0}")]
    Thread(std::io::Error),
}

impl Error {
    /// Stable code of the failure.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Argument(_) => "BDL-DEMO-001",
            Self::NoValue(_) => "BDL-DEMO-002",
            Self::NoBaseUrl => "BDL-DEMO-003",
            Self::BaseUrl(_) => "BDL-DEMO-004",
            Self::WorkingDirectory(_) => "BDL-DEMO-005",
            Self::Protocol(_) => "BDL-DEMO-006",
            Self::Input(_) => "BDL-DEMO-007",
            Self::Thread(_) => "BDL-DEMO-008",
        }
    }

    const fn exit(&self) -> u8 {
        match self {
            Self::Argument(_) | Self::NoValue(_) | Self::NoBaseUrl | Self::BaseUrl(_) => 2,
            _ => 1,
        }
    }
}

/// How the agent was started.
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    session_id: String,
    model: String,
    base_url: String,
    key: String,
    cwd: PathBuf,
}

/// The whole life of the agent process: reads stdin until it closes. Exit code 0 when all prompts were answered, 1 when the
/// channel broke or a turn failed, 2 for wrong arguments or environment.
pub async fn agent_main(args: Vec<OsString>) -> ExitCode {
    match live(args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(e) => {
            // why: with stderr closed there is nobody to tell; the exit code still says it.
            let _ = writeln!(std::io::stderr(), "{NAME}: {}: {e}", e.code());
            ExitCode::from(e.exit())
        }
    }
}

async fn live(args: Vec<OsString>) -> Result<bool, Error> {
    let settings = settings(args, |name| std::env::var(name).ok())?;
    let api = api::Api::new(&settings.base_url, &settings.key)?;
    let channel = Arc::new(Channel::new(Box::new(std::io::stdout()), settings.session_id));
    let (sender, mut inputs) = mpsc::channel(MAX_PROMPTS);
    let reader = channel.clone();
    // A thread of its own: a read of stdin cannot be taken back, and the process must be able to end while it waits.
    std::thread::Builder::new()
        .name("stdin".into())
        .spawn(move || reader.pump(&mut BufReader::new(std::io::stdin()), &sender))
        .map_err(Error::Thread)?;
    let mut conversation = turn::Conversation::new(channel, api, settings.model, settings.cwd);
    let mut good = true;
    while let Some(input) = inputs.recv().await {
        match input {
            Input::Prompt(content) => good &= conversation.turn(content).await,
            Input::Failed(e) => return Err(e),
        }
    }
    Ok(good)
}

fn settings(args: Vec<OsString>, env: impl Fn(&str) -> Option<String>) -> Result<Settings, Error> {
    let (mut session_id, mut model) = (None, None);
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let (slot, name) = match arg.to_str() {
            Some("--session-id") => (&mut session_id, "--session-id"),
            Some("--model") => (&mut model, "--model"),
            _ => return Err(Error::Argument(arg.to_string_lossy().chars().take(64).collect())),
        };
        *slot = Some(args.next().ok_or(Error::NoValue(name))?.to_string_lossy().into_owned());
    }
    Ok(Settings {
        session_id: session_id.unwrap_or_else(channel::uuid),
        model: model.or_else(|| env("ANTHROPIC_MODEL")).unwrap_or_else(|| MODEL.to_owned()),
        base_url: env("ANTHROPIC_BASE_URL").ok_or(Error::NoBaseUrl)?,
        key: env("ANTHROPIC_API_KEY").unwrap_or_default(),
        cwd: std::env::current_dir().map_err(Error::WorkingDirectory)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_and_environment_are_named_when_wrong() {
        let url = |name: &str| (name == "ANTHROPIC_BASE_URL").then(|| "http://127.0.0.1:1".to_owned());
        let s = settings(vec!["--session-id".into(), "s".into(), "--model".into(), "m".into()], url).unwrap();
        assert_eq!((s.session_id.as_str(), s.model.as_str()), ("s", "m"));
        assert_eq!(settings(vec!["--bare".into()], url).unwrap_err().code(), "BDL-DEMO-001");
        assert_eq!(settings(vec!["--model".into()], url).unwrap_err().code(), "BDL-DEMO-002");
        assert_eq!(settings(vec![], |_| None).unwrap_err().code(), "BDL-DEMO-003");
    }
}
