//! The webhook: one POST a try, over TLS or to this machine only, signed where a secret is set.
//!
//! A receiver checks `beadle-signature`: `v1=` and the hex HMAC-SHA256 of `<beadle-timestamp>.<body>`; and that the time is recent.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, Mac};
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use url::Url;
use zeroize::Zeroizing;

use super::{Error, Failure, Notice};
use crate::config::Notify;

/// Longest secret in bytes.
const SECRET_MAX: u64 = 4096;

/// See the module.
pub struct Webhook {
    url: Url,
    secret: Option<Zeroizing<Vec<u8>>>,
    timeout: Duration,
    tls: Option<TlsConnector>,
}

impl Webhook {
    /// Reads the secret and the system's certificate authorities.
    pub fn new(url: Url, config: &Notify) -> Result<Self, Error> {
        let secret = match (&config.secret_file, &config.secret_env) {
            (Some(file), _) => Some(from_file(file)?),
            (None, Some(name)) => Some(from_variable(name)?),
            (None, None) => None,
        };
        let tls = if url.scheme() == "https" { Some(crate::tls::connector().map_err(Error::Roots)?) } else { None };
        Ok(Self { url, secret, timeout: Duration::from_millis(config.timeout_ms), tls })
    }

    /// One try, within the deadline.
    pub async fn send(&self, notice: &Notice, delivery: &str) -> Result<(), Failure> {
        let late = || Failure { why: format!("no answer within {} ms", self.timeout.as_millis()), again: true };
        tokio::time::timeout(self.timeout, self.post(notice, delivery)).await.map_err(|_| late())?
    }

    async fn post(&self, notice: &Notice, delivery: &str) -> Result<(), Failure> {
        let again = |why: String| Failure { why, again: true };
        let host = self.url.host_str().unwrap_or_default().to_owned();
        let port = self.url.port_or_known_default().unwrap_or(443);
        let bare = host.trim_matches(['[', ']']).to_owned();
        let stream = TcpStream::connect((bare.as_str(), port)).await.map_err(|e| again(format!("connecting: {e}")))?;
        match &self.tls {
            Some(tls) => {
                let name = ServerName::try_from(bare).map_err(|e| Failure { why: format!("its name: {e}"), again: false })?;
                let stream = tls.connect(name, stream).await.map_err(|e| again(format!("TLS: {e}")))?;
                self.exchange(stream, notice, delivery, &host, port).await
            }
            None => {
                // why here too: a name may mean another machine today than when the configuration was read.
                if !stream.peer_addr().is_ok_and(|a| a.ip().is_loopback()) {
                    return Err(Failure { why: "plain http is for this machine only".to_owned(), again: false });
                }
                self.exchange(stream, notice, delivery, &host, port).await
            }
        }
    }

    async fn exchange<S>(&self, stream: S, notice: &Notice, delivery: &str, host: &str, port: u16) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let again = |e: hyper::Error| Failure { why: e.to_string(), again: true };
        let body = notice.document(delivery).to_string();
        let at = chrono::Utc::now().timestamp().to_string();
        let target = match self.url.query() {
            Some(q) => format!("{}?{q}", self.url.path()),
            None => self.url.path().to_owned(),
        };
        let mut request = Request::post(target)
            .header(HOST, format!("{host}:{port}"))
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("beadle/", env!("CARGO_PKG_VERSION")))
            .header("beadle-event", notice.kind())
            .header("beadle-delivery", delivery)
            .header("beadle-timestamp", &at);
        if let Some(secret) = &self.secret {
            request = request.header("beadle-signature", signature(secret, &at, &body));
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| Failure { why: format!("a request that HTTP cannot carry: {e}"), again: false })?;
        let (mut sender, link) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(again)?;
        let link = tokio::spawn(link);
        let answered = sender.send_request(request).await.map_err(again);
        // why: what the receiver says beyond its status is of no interest, however long it goes on.
        link.abort();
        judge(answered?.status())
    }
}

/// Whether a status means that it was taken, and if not, whether to try again.
fn judge(status: StatusCode) -> Result<(), Failure> {
    if status.is_success() {
        return Ok(());
    }
    let what = if status.is_redirection() { ", a redirect, which is never followed" } else { "" };
    let again = status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    Err(Failure { why: format!("the receiver answered {}{what}", status.as_u16()), again })
}

fn signature(secret: &[u8], at: &str, body: &str) -> String {
    // why never: HMAC takes keys of every length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return String::new() };
    mac.update(at.as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    let bytes = mac.finalize().into_bytes();
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("v1={hex}")
}

/// The first line of a file that only its owner can read.
fn from_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let fail = |why: String| Error::Secret { from: path.display().to_string(), why };
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|e| fail(e.to_string()))?;
    let meta = file.metadata().map_err(|e| fail(e.to_string()))?;
    if !meta.is_file() || meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o077 != 0 {
        return Err(fail("it must be a file of your own that nobody else can read (chmod 600)".to_owned()));
    }
    let mut all = Zeroizing::new(Vec::new());
    file.take(SECRET_MAX).read_to_end(&mut all).map_err(|e| fail(e.to_string()))?;
    let line = all.split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii().to_vec();
    if line.is_empty() { Err(fail("it is empty".to_owned())) } else { Ok(Zeroizing::new(line)) }
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
        assert_eq!(signature(b"key", "1700000000", "{}"), "v1=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae");
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let again = |s: u16| judge(StatusCode::from_u16(s).unwrap()).map_err(|f| f.again);
        assert_eq!([200, 204].map(again), [Ok(()), Ok(())]);
        assert_eq!([500, 503, 429, 408].map(again), [Err(true); 4]);
        assert_eq!([301, 307, 400, 401, 404, 410].map(again), [Err(false); 6]);
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
        assert!(from_file(dir.path()).is_err() && from_variable("BEADLE_NO_SUCH_VARIABLE").is_err());
    }
}
