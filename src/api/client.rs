//! The typed client: HTTP over the unix socket, for `cli` and for tests.
//!
//! - the peer must run as the same user, else the socket is not spoken to;
//! - answers are read up to [`ANSWER_MAX`], every wait has a deadline;
//! - where allowed, a daemon that is not there is started ([`start`]); a broken event stream is taken up again where it ended;
//! - every error maps to one exit code ([`Error::exit`]).

mod calls;
mod context;
mod keep;
pub mod losses;
mod memory;
mod queue;
mod sinks;
mod sse;
mod start;
mod stream;
mod tree;
mod writer;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::types::{ANSWER_MAX, CONFIRM_HEADER, ChallengeDoc, Problem};
use crate::config::{self, Folders};

pub use calls::LogChunk;
pub use sse::{Message, SseReader};
pub use stream::{EventStream, Item};
pub use writer::{Emitter, Writer};

/// How long an answer's head may take; long polls of 30 s fit in.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);
/// The same of what moves, copies or rewrites all that is kept: it takes as long as there is much.
const LONG_ANSWER_DEADLINE: Duration = Duration::from_secs(24 * 3_600);
/// How long one connect may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a request that only reads is sent again, and after which pause.
const READ_AGAIN: Duration = Duration::from_secs(5);
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no daemon listens on {socket}: {source}; start one with `beadle daemon`, or see `beadle host logs`", socket = .socket.display())]
    Unreachable {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the daemon did not come up within {seconds} s{detail}; see {log}", log = .log.display())]
    NotStarted { seconds: u64, detail: String, log: PathBuf },
    #[error("{socket} belongs to a process of user {uid}, not to yours; remove it or choose another BEADLE_HOME", socket = .socket.display())]
    ForeignPeer { socket: PathBuf, uid: u32 },
    #[error("the daemon broke off: {0}; try again, and see `beadle host logs`")]
    Broken(String),
    #[error("the daemon's answer is not understood: {0}; are `beadle` and its daemon of one version? `beadle host stop` ends the old one")]
    NotUnderstood(String),
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error("{message}", message = .problem.message)]
    Refused { status: u16, problem: Problem },
    #[error("{}", .0.message)]
    Confirm(Box<ChallengeDoc>),
    #[error("cannot write: {0}")]
    Output(#[source] io::Error),
}

impl Error {
    /// The stable code; that of the daemon where it refused.
    pub fn code(&self) -> &str {
        match self {
            Self::Unreachable { .. } => "BDL-CLIENT-001",
            Self::NotStarted { .. } => "BDL-CLIENT-002",
            Self::ForeignPeer { .. } => "BDL-CLIENT-003",
            Self::Broken(_) => "BDL-CLIENT-004",
            Self::NotUnderstood(_) => "BDL-CLIENT-005",
            Self::Output(_) => "BDL-CLIENT-006",
            Self::Config(e) => e.code(),
            Self::Confirm(c) => &c.code,
            Self::Refused { problem, .. } => &problem.code,
        }
    }

    /// What to do next, where the daemon said so.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Refused { problem, .. } => problem.hint.as_deref(),
            _ => None,
        }
    }

    /// 1 the answer is no, 2 wrong usage, 3 not found, 4 the host can't be reached, 125 internal.
    pub const fn exit(&self) -> u8 {
        match self {
            Self::Unreachable { .. } | Self::NotStarted { .. } | Self::ForeignPeer { .. } | Self::Broken(_) => 4,
            Self::Config(_) => 2,
            Self::Confirm(_) => 1,
            Self::NotUnderstood(_) | Self::Output(_) => 125,
            Self::Refused { status, .. } => match *status {
                404 => 3,
                400 | 413 | 422 => 2,
                401..=499 => 1,
                _ => 125,
            },
        }
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// A client of one host. Cheap to clone; one connection a call.
#[derive(Debug, Clone)]
pub struct Client {
    folders: Folders,
    start: bool,
    /// Answers a challenge: goes with every request.
    answer: Option<String>,
    /// How long an answer's head may take.
    patience: Duration,
}

impl Client {
    /// Starts the daemon when it is needed and not there.
    pub const fn new(folders: Folders) -> Self {
        Self { folders, start: true, answer: None, patience: ANSWER_DEADLINE }
    }

    /// Never starts a daemon: a missing one is [`Error::Unreachable`].
    pub const fn without_start(folders: Folders) -> Self {
        Self { folders, start: false, answer: None, patience: ANSWER_DEADLINE }
    }

    /// The same client, with the answer to a challenge.
    pub fn with_answer(&self, answer: String) -> Self {
        Self { answer: Some(answer), ..self.clone() }
    }

    /// The same client, for what may take long.
    fn patient(&self) -> Self {
        Self { patience: LONG_ANSWER_DEADLINE, ..self.clone() }
    }

    /// Starts a daemon with another executable and waits so long until it listens. What was started is put into `started`, whether it
    /// came up or not; another command's daemon may have been faster.
    pub async fn start_program(
        &self,
        program: &std::path::Path,
        started: &mut Option<std::process::Child>,
        within: Duration,
    ) -> Result<()> {
        start::daemon_of(&self.folders, program, started, within).await.map(drop)
    }

    pub const fn folders(&self) -> &Folders {
        &self.folders
    }

    /// One connection, to the first socket that answers.
    async fn connect(&self) -> Result<UnixStream> {
        match connect_any(&self.folders).await {
            Err(Error::Unreachable { .. }) if self.start => start::daemon(&self.folders).await,
            other => other,
        }
    }

    /// Sends a request. One that only reads is sent again when the daemon breaks off: it may have been ending, or was killed.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        accept: Option<&str>,
        last_id: Option<&str>,
    ) -> Result<Response<Incoming>> {
        let begun = Instant::now();
        loop {
            let sent = self.send_once(method.clone(), path, body.clone(), accept, last_id).await;
            match sent {
                Err(Error::Broken(_)) if method == Method::GET && begun.elapsed() < READ_AGAIN => tokio::time::sleep(AGAIN_AFTER).await,
                other => return other,
            }
        }
    }

    async fn send_once(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        accept: Option<&str>,
        last_id: Option<&str>,
    ) -> Result<Response<Incoming>> {
        let stream = self.connect().await?;
        let broken = |e: hyper::Error| Error::Broken(e.to_string());
        let (mut sender, link) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // why detached: it ends with the connection, which lives as long as the answer's body.
        tokio::spawn(link);
        let mut request = Request::builder().method(method).uri(path).header(HOST, "beadle");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        if let Some(answer) = &self.answer {
            request = request.header(CONFIRM_HEADER, answer);
        }
        let request = request.body(Full::new(body)).map_err(|e| Error::Broken(format!("a request that HTTP cannot carry: {e}")))?;
        let response = tokio::time::timeout(self.patience, sender.send_request(request))
            .await
            .map_err(|_| Error::Broken(format!("no answer within {} s", self.patience.as_secs())))?
            .map_err(broken)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let body = collect(response.into_body()).await?;
        if status == StatusCode::PRECONDITION_REQUIRED
            && let Ok(challenge) = serde_json::from_slice(&body)
        {
            return Err(Error::Confirm(Box::new(challenge)));
        }
        let problem = serde_json::from_slice(&body).unwrap_or_else(|_| Problem {
            code: "BDL-CLIENT-005".to_owned(),
            message: format!("the daemon answered {status} without saying why"),
            hint: None,
        });
        Err(Error::Refused { status, problem })
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T> {
        let response = self.send(method, path, body, None, None).await?;
        let bytes = collect(response.into_body()).await?;
        serde_json::from_slice(&bytes).map_err(|e| Error::NotUnderstood(format!("{path}: {e}")))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.call(Method::POST, path, json(body)?).await
    }
}

async fn connect_any(folders: &Folders) -> Result<UnixStream> {
    let mut first = None;
    for socket in folders.sockets() {
        let short = config::short_path(&socket);
        let tried = match &short {
            Ok(short) => tokio::time::timeout(CONNECT_DEADLINE, UnixStream::connect(&short.path)).await,
            Err(config::Error::Folder { source, .. }) => Ok(Err(io::Error::from(source.kind()))),
            Err(_) => return Err(short.err().map_or_else(|| Error::Broken(String::new()), Error::Config)),
        };
        match tried.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut))) {
            Ok(stream) => {
                let peer = stream.peer_cred().map_err(|source| Error::Unreachable { socket: socket.clone(), source })?;
                if peer.uid() != rustix::process::geteuid().as_raw() {
                    return Err(Error::ForeignPeer { socket, uid: peer.uid() });
                }
                return Ok(stream);
            }
            Err(source) => drop(first.get_or_insert(Error::Unreachable { socket, source })),
        }
    }
    Err(first.unwrap_or_else(|| Error::Broken("there is no socket path".to_owned())))
}

async fn collect(body: Incoming) -> Result<Bytes> {
    let limited = Limited::new(body, ANSWER_MAX).collect();
    let body = tokio::time::timeout(ANSWER_DEADLINE, limited)
        .await
        .map_err(|_| Error::Broken(format!("the answer did not end within {} s", ANSWER_DEADLINE.as_secs())))?;
    body.map(http_body_util::Collected::to_bytes)
        .map_err(|e| Error::Broken(format!("reading the answer (at most {ANSWER_MAX} bytes): {e}")))
}

fn json(body: &impl Serialize) -> Result<Bytes> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|e| Error::Broken(format!("a request that JSON cannot carry: {e}")))
}

/// A path segment or query value with everything but unreserved characters escaped.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    // why: `.` and `..` are segments that a path normaliser would swallow.
    if out == "." || out == ".." { out.replace('.', "%2E") } else { out }
}

/// `?a=1&b=2` from a query document; empty when nothing is set.
fn query(document: &impl Serialize) -> Result<String> {
    let value = serde_json::to_value(document).map_err(|e| Error::Broken(format!("a query that cannot be written: {e}")))?;
    let mut out = String::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        let text = match value {
            serde_json::Value::Null => continue,
            serde_json::Value::String(s) => escape(s),
            other => escape(&other.to_string()),
        };
        out.push(if out.is_empty() { '?' } else { '&' });
        out.push_str(&format!("{key}={text}"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{EventsQuery, LogStream, LogsQuery};

    #[test]
    fn hostile_ids_stay_one_segment() {
        assert_eq!(escape("a/../b?x#y z\u{1b}ü"), "a%2F..%2Fb%3Fx%23y%20z%1B%C3%BC");
        assert_eq!(escape(".."), "%2E%2E");
    }

    #[test]
    fn queries_leave_out_what_is_not_set() {
        assert_eq!(query(&EventsQuery::default()).unwrap(), "");
        let q = EventsQuery { from: Some(3), kinds: Some("note,tool_decided".into()), ..EventsQuery::default() };
        assert_eq!(query(&q).unwrap(), "?from=3&kinds=note%2Ctool_decided");
        assert_eq!(query(&LogsQuery { stream: LogStream::Err, ..LogsQuery::default() }).unwrap(), "?stream=err");
    }

    #[test]
    fn statuses_map_to_exit_codes() {
        let exit = |status| {
            let problem = Problem { code: "X".into(), message: "m".into(), hint: None };
            Error::Refused { status, problem }.exit()
        };
        assert_eq!([400, 403, 404, 409, 413, 422, 500, 503].map(exit), [2, 1, 3, 1, 2, 2, 125, 125]);
    }
}
