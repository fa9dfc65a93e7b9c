//! The server: loopback TCP, HTTP/1.1, one task a connection, all of them ended by [`Server::stop`] or by dropping it.
//!
//! Called by `cli` and tests through [`Server`].

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::anthropic::{self, Request};
use super::record::{self, Logged, Record};
use super::script::{Chosen, Cut, LaneState, Script};
use crate::model::{Clock as _, Entropy as _, OsEntropy, SystemClock};

/// Largest request body, in bytes; over it the answer is 413.
pub const MAX_BODY: usize = 32 * 1024 * 1024;
/// Most connections at once; further ones wait to be accepted.
pub const MAX_CONNECTIONS: usize = 256;
/// Longest wait for a request's head, and for its body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Gives what was sent before a scripted cut the time to leave.
const CUT_PAUSE: Duration = Duration::from_millis(20);

type Body = BoxBody<Bytes, io::Error>;
type Answer = Result<Response<Body>, io::Error>;

/// Where and how to serve.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// File to append one JSON line a request to; made 0600.
    pub log: Option<PathBuf>,
    /// Wait before every answer that has no `delay_ms` of its own.
    pub latency: Duration,
}

/// A running scripted model; it ends when this is dropped.
pub struct Server {
    addr: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

struct Shared {
    script: Mutex<Script>,
    record: Record,
    latency: Duration,
    /// Makes ids of this server differ from those of every other.
    nonce: u32,
    ids: AtomicU64,
}

impl Server {
    /// Listens and serves in the background of the current tokio runtime.
    pub async fn start(script: Script, options: Options) -> Result<Self, Error> {
        let file = match options.log {
            Some(path) => Some(open_log(&path).map(|file| (path.clone(), file)).map_err(|source| Error::Write { path, source })?),
            None => None,
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await;
        let listener = listener.map_err(|source| Error::Listen { port: options.port, source })?;
        let addr = listener.local_addr().map_err(|source| Error::Listen { port: options.port, source })?;
        let mut nonce = [0; 4];
        OsEntropy.fill(&mut nonce);
        let shared = Arc::new(Shared {
            script: Mutex::new(script),
            record: Record::new(file),
            latency: options.latency,
            nonce: u32::from_le_bytes(nonce),
            ids: AtomicU64::new(0),
        });
        let stop = CancellationToken::new();
        let task = tokio::spawn(accept(listener, shared.clone(), stop.clone()));
        Ok(Self { addr, shared, stop, task: Some(task) })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What an agent takes as `ANTHROPIC_BASE_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Requests so far, oldest first; see [`super::MAX_LOGGED`].
    pub fn requests(&self) -> Vec<Logged> {
        self.shared.record.all()
    }

    /// How far the script has been played.
    pub fn state(&self) -> Vec<LaneState> {
        self.shared.script().state()
    }

    /// Plays the script from the start again.
    pub fn reset(&self) {
        self.shared.script().reset();
    }

    /// Cuts every connection and waits until the port is free.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // why: a task that panicked has let go of the port as well.
            let _ = task.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn open_log(path: &std::path::Path) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    // Dropping the set ends the connections.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => { connections.spawn(connection(stream, shared.clone())); }
                // why: out of descriptors; a pause instead of a busy loop.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    // why: without it each streamed answer waits for a delayed acknowledgement (40 ms); a failure costs only time.
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |request| answer(request, shared.clone()));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(e) = served {
        tracing::debug!(error = %e, "a connection to the scripted model ended early");
    }
}

/// What a request is answered with.
enum Plan {
    Json(u16, Value),
    Play(Box<Chosen>),
}

async fn answer(request: hyper::Request<Incoming>, shared: Arc<Shared>) -> Answer {
    let (head, body) = request.into_parts();
    let bytes = match tokio::time::timeout(READ_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => Err(413),
        Ok(Err(e)) => return Err(io::Error::other(e)),
        Err(_) => Err(408),
    };
    let size = bytes.as_ref().map_or(0, Bytes::len);
    let body = match &bytes {
        Ok(b) if b.is_empty() => Value::Null,
        Ok(b) => serde_json::from_slice(b).unwrap_or_else(|_| Value::String(record::clip(&String::from_utf8_lossy(b)))),
        Err(_) => Value::Null,
    };
    let path = head.uri.path();
    let plan = match bytes {
        Err(status) => Plan::Json(
            status,
            anthropic::error(anthropic::error_kind(status), &format!("the body is over {MAX_BODY} bytes or took too long")),
        ),
        Ok(_) => shared.plan(&head.method, path, &body, size),
    };
    let model = body.get("model").and_then(Value::as_str).unwrap_or("").to_owned();
    let streams = Request::new(&body).streams();
    let (status, lane, step) = match &plan {
        Plan::Json(status, _) => (*status, None, None),
        Plan::Play(c) => (c.status(), c.lane.clone(), c.step),
    };
    if !path.starts_with("/_script") {
        let path = record::clip(head.uri.path_and_query().map_or(path, |p| p.as_str()));
        let (at, method, headers) = (SystemClock.wall_ms(), head.method.to_string(), record::headers(&head.headers));
        shared.record.add(Logged { no: 0, at, method, path, headers, body, status, lane, step }, size);
    }
    match plan {
        Plan::Json(status, value) => shared.json(status, &value, None),
        Plan::Play(chosen) => shared.play(&chosen, &model, streams).await,
    }
}

impl Shared {
    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self, prefix: &str) -> String {
        format!("{prefix}{:08x}{:016x}", self.nonce, self.ids.fetch_add(1, Ordering::Relaxed))
    }

    fn plan(&self, method: &Method, path: &str, body: &Value, size: usize) -> Plan {
        let path = path.trim_end_matches('/');
        match (method.as_str(), path) {
            ("HEAD", _) => Plan::Json(200, Value::Null),
            ("GET", "/v1/models") => {
                let model =
                    json!({"type": "model", "id": "scripted", "display_name": "Scripted model", "created_at": "2026-01-01T00:00:00Z"});
                Plan::Json(200, json!({"data": [model], "has_more": false, "first_id": "scripted", "last_id": "scripted"}))
            }
            ("GET", "/_script") => Plan::Json(200, json!({"requests": self.record.count(), "lanes": self.script().state()})),
            ("POST", "/_script/reset") => {
                self.script().reset();
                Plan::Json(200, json!({"ok": true}))
            }
            ("POST", "/v1/messages/count_tokens") => Plan::Json(200, json!({"input_tokens": (size / 4).max(1)})),
            ("POST", "/v1/messages") => {
                let request = Request::new(body);
                match request.problem() {
                    Some(problem) => Plan::Json(400, anthropic::error("invalid_request_error", &problem)),
                    None => Plan::Play(Box::new(self.script().choose(&request))),
                }
            }
            _ => Plan::Json(404, anthropic::error("not_found_error", &format!("no route {method} {}", record::clip(path)))),
        }
    }

    fn json(&self, status: u16, value: &Value, retry_after: Option<u64>) -> Answer {
        let bytes = if value.is_null() { Bytes::new() } else { Bytes::from(value.to_string()) };
        let mut response = self.response(status, "application/json", Full::new(bytes).map_err(|e| match e {}).boxed());
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        Ok(response)
    }

    fn response(&self, status: u16, kind: &'static str, body: Body) -> Response<Body> {
        let mut response = Response::new(body);
        // why: statuses come from constants or from a checked script (400 to 599).
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Ok(id) = HeaderValue::from_str(&self.fresh("req_")) {
            headers.insert(HeaderName::from_static("request-id"), id);
        }
        response
    }

    async fn play(&self, chosen: &Chosen, model: &str, streams: bool) -> Answer {
        let step = &chosen.play;
        let delay = if step.delay_ms > 0 { Duration::from_millis(step.delay_ms) } else { self.latency };
        tokio::time::sleep(delay).await;
        if let Some(f) = &step.error {
            return self.json(f.status, &anthropic::failure(f), f.retry_after);
        }
        if step.drop == Some(Cut::Before) {
            return Err(io::Error::other("scripted cut before the answer"));
        }
        let message = anthropic::message(chosen, model, &|prefix| self.fresh(prefix));
        let (kind, mut parts) = if streams {
            ("text/event-stream; charset=utf-8", anthropic::events(&message))
        } else {
            let whole = Bytes::from(message.to_string());
            let middle = whole.len() / 2;
            ("application/json", vec![whole.slice(..middle), whole.slice(middle..)])
        };
        let cut = step.drop == Some(Cut::Middle);
        if cut {
            parts.truncate(parts.len().div_ceil(2));
        }
        let pause = Duration::from_millis(step.event_delay_ms);
        if pause.is_zero() {
            // One write for the whole answer.
            parts = vec![Bytes::from(parts.concat())];
        }
        let frames = stream::unfold((parts.into_iter(), true), move |(mut parts, first)| async move {
            match parts.next() {
                Some(part) => {
                    if !first {
                        tokio::time::sleep(pause).await;
                    }
                    Some((Ok(Frame::data(part)), (parts, false)))
                }
                None if cut => {
                    tokio::time::sleep(CUT_PAUSE).await;
                    Some((Err(io::Error::other("scripted cut in the middle")), (parts, false)))
                }
                None => None,
            }
        });
        Ok(self.response(200, kind, StreamBody::new(frames).boxed()))
    }
}
