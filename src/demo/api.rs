//! The Messages API from the client's side: one request, one whole answer, over loopback TCP.
//!
//! Called by `turn`. A new connection each time: the agent waits for people far longer than for connections.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use url::{Host, Url};

use super::Error;

/// Largest answer, in bytes.
const MAX_ANSWER: usize = 32 * 1024 * 1024;
/// Longest wait for a whole answer.
const TIMEOUT: Duration = Duration::from_secs(300);

pub(super) struct Api {
    addr: SocketAddr,
    host: String,
    path: String,
    key: String,
}

/// An answer that is no message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// HTTP status, if there was an answer.
    pub status: Option<u16>,
    pub message: String,
    /// Seconds the server asks to wait.
    pub retry_after: Option<u64>,
}

impl Refusal {
    fn broken(what: impl std::fmt::Display) -> Self {
        Self { status: None, message: what.to_string(), retry_after: None }
    }

    /// Whether the same request may succeed later.
    pub fn passing(&self) -> bool {
        self.status.is_none_or(|s| matches!(s, 408 | 409 | 429 | 500..=599))
    }
}

impl Api {
    /// Takes only http and a loopback host.
    pub fn new(base_url: &str, key: &str) -> Result<Self, Error> {
        let refused = || Error::BaseUrl(base_url.chars().take(200).collect());
        let url = Url::parse(base_url).map_err(|_| refused())?;
        let ip: IpAddr = match url.host() {
            Some(Host::Ipv4(ip)) => ip.into(),
            Some(Host::Ipv6(ip)) => ip.into(),
            Some(Host::Domain("localhost")) => Ipv4Addr::LOCALHOST.into(),
            _ => return Err(refused()),
        };
        if url.scheme() != "http" || !ip.is_loopback() {
            return Err(refused());
        }
        let addr = SocketAddr::new(ip, url.port().unwrap_or(80));
        let path = format!("{}/v1/messages", url.path().trim_end_matches('/'));
        Ok(Self { addr, host: addr.to_string(), path, key: key.to_owned() })
    }

    /// Sends one request; gives the message and the server's request id.
    pub async fn send(&self, body: &Value) -> Result<(Value, Option<String>), Refusal> {
        match tokio::time::timeout(TIMEOUT, self.exchange(body)).await {
            Ok(answer) => answer,
            Err(_) => Err(Refusal::broken(format!("no answer in {} s", TIMEOUT.as_secs()))),
        }
    }

    async fn exchange(&self, body: &Value) -> Result<(Value, Option<String>), Refusal> {
        let stream = TcpStream::connect(self.addr).await.map_err(Refusal::broken)?;
        // why: only a matter of speed.
        let _ = stream.set_nodelay(true);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(Refusal::broken)?;
        let request = hyper::Request::post(&self.path)
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("beadle-demo-agent/", env!("CARGO_PKG_VERSION")))
            .header("anthropic-version", "2023-06-01")
            .header("x-api-key", &self.key)
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(Refusal::broken)?;
        let talk = async {
            let response = sender.send_request(request).await.map_err(Refusal::broken)?;
            let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let status = response.status().as_u16();
            let (id, retry_after) = (header("request-id"), header(RETRY_AFTER.as_str()).and_then(|s| s.parse().ok()));
            let bytes = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(Refusal::broken)?.to_bytes();
            Ok((status, id, retry_after, bytes))
        };
        tokio::pin!(connection);
        tokio::pin!(talk);
        let (status, id, retry_after, bytes) = tokio::select! {
            answer = &mut talk => answer?,
            // The connection ended first: what was received decides.
            _ = &mut connection => talk.await?,
        };
        let value: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if status != 200 {
            let message = value["error"]["message"].as_str().unwrap_or("no message").to_owned();
            return Err(Refusal { status: Some(status), message, retry_after });
        }
        if value["type"] != "message" || !value["content"].is_array() || !value["id"].is_string() {
            return Err(Refusal { status: Some(200), message: "the answer is not a message".into(), retry_after: None });
        }
        Ok((value, id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_http_is_called() {
        assert_eq!(Api::new("http://127.0.0.1:8080/x/", "k").map(|a| a.path).unwrap(), "/x/v1/messages");
        assert!(Api::new("http://[::1]:1", "k").is_ok() && Api::new("http://localhost:1", "k").is_ok());
        for bad in ["https://127.0.0.1", "http://10.0.0.1", "http://example.org", "http://127.0.0.1.example.org", "file:///x", "x", ""] {
            assert!(matches!(Api::new(bad, "k"), Err(Error::BaseUrl(_))), "{bad}");
        }
    }

    #[test]
    fn which_refusals_pass() {
        let status = |s| Refusal { status: Some(s), message: String::new(), retry_after: None }.passing();
        assert!(status(529) && status(429) && status(500) && Refusal::broken("x").passing());
        assert!(!status(400) && !status(401) && !status(404) && !status(200));
    }
}
