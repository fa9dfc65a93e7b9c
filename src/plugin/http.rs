//! One request of a plugin: a name that is resolved once and checked, a connection to what was checked, a response within its caps.
//!
//! Invariants:
//! - plain HTTP goes to a loopback address that was granted literally, all else over TLS;
//! - a name leads to public addresses only; one that is not, among several, refuses them all; nothing resolves it a second time;
//! - no redirect is followed, no credential, cookie or proxy of the host is used;
//! - it ends by the deadline of the call, and the call gives way to others while it waits.
//!
//! Called by the bindings (`v0_1::capabilities`), on a thread of the pool.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method as HttpMethod, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use url::{Host, Url};

use crate::model::Grant;
use crate::model::grant::{HostName, Method, Reach};

/// Longest URL, in bytes.
const MAX_URL: usize = 8 << 10;
/// Most headers of a request, and of a response.
const MAX_HEADERS: usize = 64;
/// All headers of one message, in bytes.
const MAX_HEADER_BYTES: usize = 32 << 10;
/// Names that are resolved at one time: a resolver that hangs keeps its thread beyond the call.
const MAX_RESOLVING: usize = 64;
/// Largest body in either direction, in bytes.
pub const MAX_BODY: usize = 1 << 20;
/// Most requests of one call.
pub const MAX_REQUESTS: u32 = 16;
/// Addresses that are tried.
const MAX_ADDRESSES: usize = 4;
/// Headers that are the connection's own business, or the host's.
const OWN_HEADERS: &[&str] =
    &["connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// Why there is no response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HttpError {
    OverLimit(String),
    Invalid(String),
    ForbiddenAddress(String),
    Timeout,
    Unavailable(String),
}

/// What a plugin asks for, as it gave it.
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) url: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
}

/// A request that may be sent once it is granted.
pub(super) struct Ready {
    /// The use that it stands for.
    pub(super) what: Grant,
    to: HostName,
    url: Url,
    pub(super) body: Bytes,
    request: Request<Full<Bytes>>,
}

/// What the host gives to all requests.
#[derive(Clone)]
pub(super) struct Network {
    resolver: Arc<dyn Resolver>,
    /// Held once by each name that is being resolved, also by those that nobody waits for any more.
    resolving: Arc<Semaphore>,
}

/// How names become addresses.
pub trait Resolver: Send + Sync {
    /// All addresses of a name. May block.
    fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's resolver.
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        use std::net::ToSocketAddrs;
        Ok((name, 0u16).to_socket_addrs()?.map(|a| a.ip()).collect())
    }
}

/// Checks what needs no network.
pub(super) fn prepare(asked: Asked) -> Result<Ready, HttpError> {
    let invalid = HttpError::Invalid;
    let over = |what: &str, n: usize, max: usize| Err(HttpError::OverLimit(format!("{what} of {n}; the limit is {max}")));
    if asked.url.len() > MAX_URL {
        return over("a URL in bytes", asked.url.len(), MAX_URL);
    }
    if asked.body.len() > MAX_BODY {
        return over("a body in bytes", asked.body.len(), MAX_BODY);
    }
    let bytes: usize = asked.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
    if asked.headers.len() > MAX_HEADERS {
        return over("a number of headers", asked.headers.len(), MAX_HEADERS);
    }
    if bytes > MAX_HEADER_BYTES {
        return over("headers in bytes", bytes, MAX_HEADER_BYTES);
    }
    let method = Method::parse(&asked.method)
        .ok_or_else(|| invalid(format!("{:?} is none of the methods GET HEAD POST PUT PATCH DELETE OPTIONS", asked.method)))?;
    let url = Url::parse(&asked.url).map_err(|e| invalid(format!("the URL: {e}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("the URL has a user or a password; give a header".to_owned()));
    }
    let to = match url.host() {
        Some(Host::Domain(name)) => HostName::parse(name).map_err(|why| invalid(format!("the URL {why}")))?,
        Some(Host::Ipv4(a)) => HostName::Address(a.into()),
        Some(Host::Ipv6(a)) => HostName::Address(a.into()),
        None => return Err(invalid("the URL has no host".to_owned())),
    };
    let loopback = matches!(&to, HostName::Address(a) if Reach::of(*a) == Reach::Loopback);
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        "http" => return Err(invalid("plain http is for loopback addresses only; use https".to_owned())),
        other => return Err(invalid(format!("the scheme {other:?} is not https"))),
    }
    let Some(port) = url.port_or_known_default().filter(|p| *p != 0) else { return Err(invalid("the URL has no port".to_owned())) };
    let target = match url.query() {
        Some(q) => format!("{}?{q}", url.path()),
        None => url.path().to_owned(),
    };
    let verb = HttpMethod::from_bytes(method.as_str().as_bytes()).map_err(|e| invalid(e.to_string()))?;
    let body = Bytes::from(asked.body);
    let mut request = Request::new(Full::new(body.clone()));
    *request.method_mut() = verb;
    *request.uri_mut() = target.parse().map_err(|e| invalid(format!("the path: {e}")))?;
    let headers = request.headers_mut();
    for (name, value) in &asked.headers {
        let known = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid(format!("the header {name:?} is no name")))?;
        if OWN_HEADERS.contains(&known.as_str()) || known.as_str().starts_with("proxy-") {
            return Err(invalid(format!("the header {name:?} is the host's own")));
        }
        let value = HeaderValue::from_str(value).map_err(|_| invalid(format!("the value of the header {name:?} is none")))?;
        headers.append(known, value);
    }
    let standard = if url.scheme() == "https" { 443 } else { 80 };
    let authority = if port == standard { to.to_string() } else { format!("{to}:{port}") };
    headers.insert(HOST, HeaderValue::from_str(&authority).map_err(|e| invalid(e.to_string()))?);
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(concat!("beadle-plugin/", env!("CARGO_PKG_VERSION"))));
    Ok(Ready { what: Grant::Http { to: Some((to.clone(), port)), method }, to, url, body, request })
}

impl Ready {
    pub(super) fn method(&self) -> &str {
        self.request.method().as_str()
    }

    pub(super) fn url(&self) -> &str {
        self.url.as_str()
    }
}

impl Network {
    pub(super) fn new(resolver: &Arc<dyn Resolver>) -> Self {
        Self { resolver: Arc::clone(resolver), resolving: Arc::new(Semaphore::new(MAX_RESOLVING)) }
    }

    /// Sends what was granted. Blocks until the response is there, or the deadline.
    pub(super) fn send(&self, ready: Ready, until: Instant) -> Result<Answer, HttpError> {
        let unavailable = |e: io::Error| HttpError::Unavailable(format!("no runtime for the request: {e}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unavailable)?;
        let network = self.clone();
        let done = runtime.block_on(async move {
            let work = network.exchange(ready);
            tokio::time::timeout_at(until.into(), work).await.unwrap_or(Err(HttpError::Timeout))
        });
        // why not dropped: a name that is still being resolved would hold the call until the resolver gives up.
        runtime.shutdown_background();
        done
    }

    async fn exchange(&self, ready: Ready) -> Result<Answer, HttpError> {
        let addresses = self.addresses(&ready.to).await?;
        let port = ready.url.port_or_known_default().unwrap_or(443);
        let mut failed = String::new();
        for a in addresses.iter().take(MAX_ADDRESSES) {
            match TcpStream::connect(SocketAddr::new(*a, port)).await {
                Ok(stream) => return over(stream, ready).await,
                Err(e) => failed = format!("connecting to {a}: {e}"),
            }
        }
        Err(HttpError::Unavailable(failed))
    }

    /// Every address that the host may be reached at, checked.
    async fn addresses(&self, to: &HostName) -> Result<Vec<IpAddr>, HttpError> {
        let name = match to {
            // Granted literally, else this is not reached; and what is never granted is refused once more.
            HostName::Address(a) if Reach::of(*a) == Reach::Never => return Err(forbidden(&to.to_string(), *a)),
            HostName::Address(a) => return Ok(vec![*a]),
            HostName::Name(n) | HostName::Below(n) => n.clone(),
        };
        let (resolver, asked) = (Arc::clone(&self.resolver), name.clone());
        let Ok(place) = Arc::clone(&self.resolving).try_acquire_owned() else {
            return Err(HttpError::Unavailable(format!("{MAX_RESOLVING} names are being resolved already")));
        };
        let found = tokio::task::spawn_blocking(move || {
            let found = resolver.resolve(&asked);
            drop(place);
            found
        })
        .await;

        let found = match found {
            Ok(Ok(found)) if !found.is_empty() => found,
            Ok(Ok(_)) => return Err(HttpError::Unavailable(format!("{name} has no address"))),
            Ok(Err(e)) => return Err(HttpError::Unavailable(format!("resolving {name}: {e}"))),
            Err(e) => return Err(HttpError::Unavailable(format!("resolving {name}: {e}"))),
        };
        match found.iter().find(|a| Reach::of(**a) != Reach::Public) {
            Some(a) => Err(forbidden(&name, *a)),
            None => Ok(found),
        }
    }
}

fn forbidden(name: &str, a: IpAddr) -> HttpError {
    HttpError::ForbiddenAddress(format!("{name} leads to {a}, which is no public address"))
}

async fn over(stream: TcpStream, ready: Ready) -> Result<Answer, HttpError> {
    let unavailable = HttpError::Unavailable;
    if ready.url.scheme() == "http" {
        return exchange(stream, ready.request).await;
    }
    let name = match &ready.to {
        HostName::Address(a) => ServerName::IpAddress((*a).into()),
        HostName::Name(n) | HostName::Below(n) => ServerName::try_from(n.clone()).map_err(|e| unavailable(e.to_string()))?,
    };
    let tls: TlsConnector = crate::tls::connector().map_err(|why| unavailable(format!("TLS: {why}")))?;
    let stream = tls.connect(name, stream).await.map_err(|e| unavailable(format!("TLS: {e}")))?;
    exchange(stream, ready.request).await
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |e: hyper::Error| HttpError::Unavailable(e.to_string());
    let mut link = hyper::client::conn::http1::Builder::new();
    link.max_headers(MAX_HEADERS).max_buf_size(MAX_HEADER_BYTES * 2);
    let (mut sender, link) = link.handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends with the runtime of this request.
    tokio::spawn(link);
    let response: Response<hyper::body::Incoming> = sender.send_request(request).await.map_err(broken)?;
    let status = response.status().as_u16();
    let headers = response.headers().iter().map(|(n, v)| (n.as_str().to_owned(), v.as_bytes().to_vec())).collect();
    let mut incoming = response.into_body();
    let mut body = Vec::new();
    while let Some(frame) = incoming.frame().await {
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            if body.len() + data.len() > MAX_BODY {
                return Err(HttpError::OverLimit(format!("a response of more than {MAX_BODY} bytes")));
            }
            body.extend_from_slice(&data);
        }
    }
    Ok(Answer { status, headers, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &str, url: &str, headers: &[(&str, &str)]) -> Asked {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Asked { method: method.to_owned(), url: url.to_owned(), headers, body: vec![] }
    }

    fn word(url: &str) -> String {
        prepare(asked("GET", url, &[])).map_or_else(|e| panic!("{url}: {e:?}"), |r| r.what.to_string())
    }

    #[test]
    fn a_url_stands_for_one_grant_however_it_is_written() {
        assert_eq!(word("https://API.Example.com/x?y#z"), "http:GET:api.example.com");
        assert_eq!(word("https://api.example.com:443"), "http:GET:api.example.com");
        assert_eq!(word("https://api.example.com:8443/"), "http:GET:api.example.com:8443");
        assert_eq!(word("http://127.0.0.1:80/"), "http:GET:127.0.0.1:80");
        // Other ways to write an address stand for the address.
        for url in ["http://2130706433:80/", "http://0x7f.1:80", "http://127.1", "http://0177.0.0.1/"] {
            assert_eq!(word(url), "http:GET:127.0.0.1:80", "{url}");
        }
        assert_eq!(word("https://[::ffff:127.0.0.1]/"), "http:GET:[::ffff:127.0.0.1]");
        assert_eq!(word("https://169.254.169.254/"), "http:GET:169.254.169.254");
    }

    #[test]
    fn what_is_no_request_is_refused_before_anything_is_sent() {
        let invalid = |a: Asked| matches!(prepare(a), Err(HttpError::Invalid(_)));
        for url in [
            "x",
            "ftp://a.b/",
            "http://a.b/",
            "http://10.0.0.1/",
            "https://u@a.b/",
            "https://u:p@a.b/",
            "https://localhost/",
            "file:///etc/passwd",
            "https://a.b./",
            "https://a.b:0/",
            "http://169.254.169.254/",
        ] {
            assert!(invalid(asked("GET", url, &[])), "{url}");
        }
        for method in ["get", "CONNECT", "TRACE", "GET /", ""] {
            assert!(invalid(asked(method, "https://a.b/", &[])), "{method}");
        }
        for header in [
            ("Host", "c.d"),
            ("content-length", "1"),
            ("Transfer-Encoding", "x"),
            ("proxy-authorization", "x"),
            ("a b", ""),
            ("a", "b\r\nc: d"),
        ] {
            assert!(invalid(asked("GET", "https://a.b/", &[header])), "{header:?}");
        }
        assert!(matches!(prepare(asked("GET", &format!("https://a.b/{}", "x".repeat(MAX_URL)), &[])), Err(HttpError::OverLimit(_))));
        assert!(matches!(prepare(asked("GET", "https://a.b/", &[("a", "b"); MAX_HEADERS + 1])), Err(HttpError::OverLimit(_))));
    }
}
