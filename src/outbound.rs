//! What leaves this machine: one POST a try, over TLS or to this machine only, signed where a secret is set.
//!
//! A receiver checks `beadle-signature`: `v1=` and the hex HMAC-SHA256 of `<beadle-timestamp>.<body>`; and that the time is recent.
//! A redirect is never followed. Called by `notify` and `sink`.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, Mac};
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use url::Url;
use zeroize::Zeroizing;

/// Most headers in a file of them.
const HEADERS_MAX: usize = 16;
/// Longest secret in bytes.
const SECRET_MAX: u64 = 4096;

/// Why nothing can be sent at all. Codes are stable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the secret cannot be read from {from}: {why}; correct it, or unset it: nothing is sent without it instead")]
    Secret { from: String, why: String },
    #[error("no certificate authority of this system can be read ({0}), so no https address can be trusted; install ca-certificates")]
    Roots(String),
}

impl Error {
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Secret { .. } => "BDL-OUT-001",
            Self::Roots(_) => "BDL-OUT-002",
        }
    }
}

/// A try that did not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub why: String,
    /// A later try may work.
    pub again: bool,
}

/// Where a secret is kept; a file before a variable.
#[derive(Debug, Clone, Default)]
pub struct Kept<'a> {
    pub file: Option<&'a PathBuf>,
    pub variable: Option<&'a String>,
}

impl Kept<'_> {
    fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        Ok(match (self.file, self.variable) {
            (Some(file), _) => Some(from_file(file)?),
            (None, Some(name)) => Some(from_variable(name)?),
            (None, None) => None,
        })
    }
}

/// What is sent.
#[derive(Debug, Clone)]
pub struct Message {
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

/// What came back: its status line and headers; the rest is read only by a receiver that is [`Receiver::hearing`].
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// One receiver.
pub struct Receiver {
    url: Url,
    secret: Option<Zeroizing<Vec<u8>>>,
    bearer: Option<Zeroizing<Vec<u8>>>,
    timeout: Duration,
    tls: Option<TlsConnector>,
    headers: HeaderMap,
    hears: usize,
}

impl Receiver {
    /// Reads the secrets and the system's certificate authorities.
    pub fn new(url: Url, secret: &Kept<'_>, bearer: &Kept<'_>, timeout: Duration) -> Result<Self, Error> {
        let (secret, bearer) = (secret.read()?, bearer.read()?);
        let tls = if url.scheme() == "https" { Some(crate::tls::connector().map_err(Error::Roots)?) } else { None };
        Ok(Self { url, secret, bearer, timeout, tls, headers: HeaderMap::new(), hears: 0 })
    }

    /// Sends these headers with every message.
    pub fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.headers = headers;
        self
    }

    /// Reads so many bytes of an answer; one that is longer is as if it were empty.
    pub const fn hearing(mut self, bytes: usize) -> Self {
        self.hears = bytes;
        self
    }

    /// One try, within the deadline.
    pub async fn post(&self, message: Message) -> Result<Reply, Failure> {
        let late = || Failure { why: format!("no answer within {} ms", self.timeout.as_millis()), again: true };
        tokio::time::timeout(self.timeout, self.connect(message)).await.map_err(|_| late())?
    }

    async fn connect(&self, message: Message) -> Result<Reply, Failure> {
        let again = |why: String| Failure { why, again: true };
        let host = self.url.host_str().unwrap_or_default().to_owned();
        let port = self.url.port_or_known_default().unwrap_or(443);
        let bare = host.trim_matches(['[', ']']).to_owned();
        let stream = TcpStream::connect((bare.as_str(), port)).await.map_err(|e| again(format!("connecting: {e}")))?;
        match &self.tls {
            Some(tls) => {
                let name = ServerName::try_from(bare).map_err(|e| Failure { why: format!("its name: {e}"), again: false })?;
                let stream = tls.connect(name, stream).await.map_err(|e| again(format!("TLS: {e}")))?;
                self.exchange(stream, message, &host, port).await
            }
            None => {
                // why here too: a name may mean another machine today than when the configuration was read.
                if !stream.peer_addr().is_ok_and(|a| a.ip().is_loopback()) {
                    return Err(Failure { why: "plain http is for this machine only".to_owned(), again: false });
                }
                self.exchange(stream, message, &host, port).await
            }
        }
    }

    async fn exchange<S>(&self, stream: S, message: Message, host: &str, port: u16) -> Result<Reply, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let again = |e: hyper::Error| Failure { why: e.to_string(), again: true };
        let at = chrono::Utc::now().timestamp().to_string();
        let target = match self.url.query() {
            Some(q) => format!("{}?{q}", self.url.path()),
            None => self.url.path().to_owned(),
        };
        let mut request = Request::post(target)
            .header(HOST, format!("{host}:{port}"))
            .header(CONTENT_TYPE, message.content_type)
            .header(USER_AGENT, concat!("beadle/", env!("CARGO_PKG_VERSION")))
            .header("beadle-timestamp", &at);
        for (name, value) in &message.headers {
            request = request.header(*name, value);
        }
        if let Some(secret) = &self.secret {
            request = request.header("beadle-signature", signature(secret, &at, &message.body));
        }
        if let Some(token) = &self.bearer {
            let value = Zeroizing::new([b"Bearer ", token.as_slice()].concat());
            request = request.header(AUTHORIZATION, value.as_slice());
        }
        if let Some(all) = request.headers_mut() {
            all.extend(self.headers.clone());
        }
        let request = request
            .body(Full::new(message.body))
            .map_err(|e| Failure { why: format!("a request that HTTP cannot carry: {e}"), again: false })?;
        let (mut sender, link) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(again)?;
        // why: a connection whose request was given up must not stay.
        let _link = Linked(tokio::spawn(link));
        let answered = sender.send_request(request).await.map_err(again);
        let (parts, said) = answered?.into_parts();
        // why mostly not the body: what a receiver says beyond its headers is of no interest, however long it goes on.
        let body = match self.hears {
            0 => Bytes::new(),
            max => Limited::new(said, max).collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default(),
        };
        Ok(Reply { status: parts.status, headers: parts.headers, body })
    }
}

/// A connection's task, ended with the exchange.
struct Linked(tokio::task::JoinHandle<hyper::Result<()>>);

impl Drop for Linked {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn signature(secret: &[u8], at: &str, body: &[u8]) -> String {
    // why never: HMAC takes keys of every length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return String::new() };
    mac.update(at.as_bytes());
    mac.update(b".");
    mac.update(body);
    let bytes = mac.finalize().into_bytes();
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("v1={hex}")
}

/// A file that only its owner can read.
fn whole(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let fail = |why: String| Error::Secret { from: path.display().to_string(), why };
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|e| fail(e.to_string()))?;
    let meta = file.metadata().map_err(|e| fail(e.to_string()))?;
    if !crate::private::is_private(&meta) {
        return Err(fail("it must be a file of your own that nobody else can read (chmod 600)".to_owned()));
    }
    let mut all = Zeroizing::new(Vec::new());
    file.take(SECRET_MAX + 1).read_to_end(&mut all).map_err(|e| fail(e.to_string()))?;
    if all.len() as u64 > SECRET_MAX {
        return Err(fail(format!("it has over {SECRET_MAX} bytes; shorten it")));
    }
    Ok(all)
}

/// The first line of such a file.
fn from_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let all = whole(path)?;
    let line = all.split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii().to_vec();
    if line.is_empty() {
        Err(Error::Secret { from: path.display().to_string(), why: "it is empty".to_owned() })
    } else {
        Ok(Zeroizing::new(line))
    }
}

/// Headers from a private file, one `name: value` a line. What the message itself says is not theirs to say.
pub fn headers_of(path: &Path) -> Result<HeaderMap, Error> {
    let fail = |why: &str| Error::Secret { from: path.display().to_string(), why: why.to_owned() };
    let text = whole(path)?;
    let mut out = HeaderMap::new();
    for line in text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|l| !l.is_empty()) {
        // why not the line: it may hold a key.
        let bad = || fail("each line must be a header as `name: value`, and not one of the connection or the content");
        let colon = line.iter().position(|b| *b == b':').ok_or_else(bad)?;
        let name = HeaderName::from_bytes(line[..colon].trim_ascii()).map_err(|_| bad())?;
        if ["connection", "content-length", "content-type", "host", "transfer-encoding"].contains(&name.as_str()) {
            return Err(bad());
        }
        let mut value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).map_err(|_| bad())?;
        value.set_sensitive(true);
        out.insert(name, value);
    }
    if out.is_empty() || out.len() > HEADERS_MAX { Err(fail("it must have 1 to 16 headers")) } else { Ok(out) }
}

fn from_variable(name: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let value = std::env::var(name).ok().filter(|v| !v.is_empty());
    let value = value.ok_or_else(|| Error::Secret { from: format!("${name}"), why: "the daemon has no such variable".to_owned() })?;
    Ok(Zeroizing::new(value.into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_the_one_that_others_compute() {
        // openssl: printf '1700000000.{}' | openssl dgst -sha256 -hmac key
        assert_eq!(signature(b"key", "1700000000", b"{}"), "v1=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae");
    }

    #[test]
    fn a_secret_that_others_can_read_is_none() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "top\nrest").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(from_file(&path).is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(from_file(&path).unwrap().as_slice(), b"top");
        std::fs::write(&path, "x-scope-orgid: team\n\nAuthorization: Basic a:b\n").unwrap();
        let headers = headers_of(&path).unwrap();
        assert_eq!((headers["x-scope-orgid"].as_bytes(), headers["authorization"].as_bytes()), (&b"team"[..], &b"Basic a:b"[..]));
        let long = format!("a: {}", "x".repeat(4096));
        for bad in ["", "no colon", "content-length: 4", "a b: c", &long] {
            std::fs::write(&path, bad).unwrap();
            assert!(headers_of(&path).is_err(), "{bad}");
        }
        assert!(from_file(dir.path()).is_err() && from_variable("BEADLE_NO_SUCH_VARIABLE").is_err());
    }
}
