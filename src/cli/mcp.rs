//! `beadle mcp`: the host's own tools as a server on standard input and output, for an agent that runs as a session and has no channel
//! for them.
//!
//! Invariants:
//! - it decides and keeps nothing: each call goes to the daemon, which knows by this process's ancestry whose it is;
//! - each call has an id of its own, so that one that is sent again, because the daemon was away or a person is asked, is done once;
//! - lines, calls at once and waiting are bounded; what cannot be served is an answer, never silence.
//!
//! Called by `mod`.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::exit::Exit;
use super::import::lines::{Line, next};
use super::{Context, Outcome};
use crate::agent::mcp::{self, Request, ToolCall};
use crate::api::client::{Client, Error};
use crate::api::types::HostToolRequest;
use crate::model::{Entropy, OsEntropy};

/// Longest message, in bytes: the longest text that a tool takes, and what JSON may make of it.
const LINE_MAX: usize = 1 << 20;
/// Calls at once; further ones wait to be read.
const CALLS: usize = 16;
/// How long one request is held by the daemon.
const HOLD_MS: u64 = 4_000;
/// How long a daemon may be away, and how often it is tried.
const AWAY: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(100);
/// The host's word for a process that belongs to no session.
const NO_SESSION: &str = "BDL-API-043";
/// How long calls go on when nothing more can be read.
const LAST: Duration = Duration::from_secs(10);

pub async fn serve(cx: &mut Context) -> Outcome {
    // why never started: what a process of a session starts belongs to that session, and ends with it.
    let client = Client::without_start(cx.folders()?);
    let mut lines = read();
    let mut calls: JoinSet<(Value, Value)> = JoinSet::new();
    let mut given = Ids::new(&OsEntropy);
    let mut by_id: Vec<(Value, tokio::task::AbortHandle)> = Vec::new();
    let mut ends_at = None;
    loop {
        let rest = ends_at.map_or(Duration::MAX, |t: Instant| t.saturating_duration_since(Instant::now()));
        let answer = tokio::select! {
            line = lines.recv(), if ends_at.is_none() && calls.len() < CALLS => match line {
                None => {
                    ends_at = Some(Instant::now() + LAST);
                    None
                }
                Some(line) => match understood(&line) {
                    Said::Nothing => None,
                    Said::Cancel(id) => {
                        by_id.iter().filter(|(of, _)| *of == id).for_each(|(_, call)| call.abort());
                        None
                    }
                    Said::Answer(answer) => Some(answer),
                    Said::Begin { id, version } => Some(begun(&client, &id, version.as_deref()).await),
                    Said::Call { id, call } => {
                        let (client, key, of) = (client.clone(), given.next(), id.clone());
                        let handle = calls.spawn(async move { (of.clone(), called(&client, &of, call, key).await) });
                        by_id.push((id, handle));
                        None
                    }
                },
            },
            Some(done) = calls.join_next() => match done {
                Ok((id, answer)) => {
                    by_id.retain(|(of, _)| *of != id);
                    Some(answer)
                }
                // Cancelled: nobody waits for an answer.
                Err(_) => {
                    by_id.retain(|(_, call)| !call.is_finished());
                    None
                }
            },
            () = tokio::time::sleep(rest.min(LAST)), if ends_at.is_some() => None,
        };
        if let Some(answer) = answer {
            cx.printer.octets(format!("{answer}\n").as_bytes())?;
        }
        if calls.is_empty() && ends_at.is_some() || ends_at.is_some_and(|t| Instant::now() >= t) {
            return Ok(Exit::Done);
        }
    }
}

/// Lines of standard input, as they come. The thread ends with its reader or its input.
fn read() -> mpsc::Receiver<Line> {
    let (give, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        while let Ok(Some(line)) = next(&mut input, LINE_MAX) {
            if give.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// What a line is to this server.
#[derive(Debug, PartialEq)]
enum Said {
    Nothing,
    Cancel(Value),
    Answer(Value),
    Begin { id: Value, version: Option<String> },
    Call { id: Value, call: ToolCall },
}

fn understood(line: &Line) -> Said {
    let bytes = match line {
        Line::Whole { bytes, .. } if bytes.iter().all(u8::is_ascii_whitespace) => return Said::Nothing,
        Line::Whole { bytes, .. } => bytes,
        Line::TooLong(n) => return Said::Answer(mcp::refused(&Value::Null, &format!("a message of {n} bytes; {LINE_MAX} is the limit"))),
    };
    let message: Value = match serde_json::from_slice(bytes) {
        Ok(m) => m,
        Err(e) => return Said::Answer(mcp::unreadable(&e.to_string())),
    };
    match mcp::read(&message) {
        Request::Notification => match (message["method"].as_str(), message["params"].get("requestId")) {
            (Some("notifications/cancelled"), Some(id)) => Said::Cancel(id.clone()),
            _ => Said::Nothing,
        },
        Request::Initialize { id, version } => Said::Begin { id, version },
        Request::Ping { id } => Said::Answer(mcp::pong(&id)),
        Request::List { id } => Said::Answer(mcp::list(&id)),
        Request::Invalid { answer } => Said::Answer(answer),
        Request::Call { id, call } => Said::Call { id, call },
    }
}

/// Greets, or says why there are no tools here.
async fn begun(client: &Client, id: &Value, version: Option<&str>) -> Value {
    let since = Instant::now();
    loop {
        match client.host_tools().await {
            Ok(_) => return mcp::initialized(id, version),
            // why: of an agent that only hooks hold, the session begins with its first hook, behind its servers.
            Err(e) if e.code() == NO_SESSION => return mcp::initialized(id, version),
            Err(e) if is_away(&e, since) => tokio::time::sleep(AGAIN).await,
            Err(e) => return mcp::refused(id, &told(&e)),
        }
    }
}

async fn called(client: &Client, id: &Value, call: ToolCall, key: String) -> Value {
    let request = HostToolRequest { id: key, name: call.name, arguments: call.arguments, hold_ms: Some(HOLD_MS) };
    let mut since = Instant::now();
    loop {
        match client.host_tool(&request).await {
            Ok(done) => match done.answer {
                Some(a) => return mcp::called(id, &a.text, a.is_error),
                None => {
                    tokio::time::sleep(AGAIN).await;
                    since = Instant::now();
                }
            },
            Err(e) if is_away(&e, since) => tokio::time::sleep(AGAIN).await,
            Err(e) => return mcp::called(id, &told(&e), true),
        }
    }
}

/// Whether the same may be sent again: a daemon that breaks off, or is busy, may have done it, and then gives the same answer.
fn is_away(e: &Error, since: Instant) -> bool {
    matches!(e, Error::Unreachable { .. } | Error::Broken(_) | Error::Refused { status: 503, .. }) && since.elapsed() < AWAY
}

fn told(e: &Error) -> String {
    let hint = e.hint().map(|h| format!("; {h}")).unwrap_or_default();
    format!("{e}{hint} [{}]", e.code())
}

/// Ids of calls, which no other server gives.
struct Ids {
    of_this: String,
    last: u64,
}

impl Ids {
    fn new(entropy: &dyn Entropy) -> Self {
        let mut random = [0; 12];
        entropy.fill(&mut random);
        Self { of_this: random.iter().map(|b| format!("{b:02x}")).collect(), last: 0 }
    }

    fn next(&mut self) -> String {
        self.last += 1;
        format!("{}-{}", self.of_this, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(text: &str) -> Line {
        Line::Whole { bytes: text.as_bytes().to_vec(), torn: false }
    }

    #[test]
    fn every_line_is_understood_or_answered() {
        for nothing in ["", " \r", r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, r#"{"jsonrpc":"2.0","method":"x"}"#] {
            assert_eq!(understood(&line(nothing)), Said::Nothing, "{nothing}");
        }
        let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#;
        assert_eq!(understood(&line(cancel)), Said::Cancel(json!(7)));
        for (bad, code) in [("{", -32_700), ("[]", -32_600), (r#"{"jsonrpc":"2.0","id":1,"method":"resources/list"}"#, -32_601)] {
            let Said::Answer(a) = understood(&line(bad)) else { panic!("{bad}") };
            assert_eq!(a["error"]["code"], code, "{a}");
        }
        let Said::Answer(a) = understood(&Line::TooLong(9_000_000)) else { panic!() };
        assert!(a["error"]["message"].as_str().is_some_and(|m| m.contains("9000000")), "{a}");
    }

    #[test]
    fn ids_do_not_repeat() {
        let (mut a, mut b) = (Ids::new(&OsEntropy), Ids::new(&OsEntropy));
        let all: std::collections::HashSet<String> = [a.next(), a.next(), b.next(), b.next()].into();
        assert!(all.len() == 4 && all.iter().all(|id| id.len() <= 128));
    }
}
