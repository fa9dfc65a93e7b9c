//! What was asked: every request, keys redacted, in memory and as JSON lines in a file.
//!
//! Called by `serve`. A line in the file is one [`Logged`]; the file is appended to and never read.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Most requests kept in memory; the oldest go first.
pub const MAX_LOGGED: usize = 4096;
/// Most bytes of request bodies kept in memory; the oldest requests go first, the newest always stays.
pub const MAX_LOGGED_BYTES: usize = 64 * 1024 * 1024;
/// Longest path or header value kept, in bytes.
const MAX_TEXT: usize = 8 * 1024;

/// One request and what answered it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logged {
    /// Counts requests from 1.
    pub no: u64,
    /// Milliseconds since the Unix epoch.
    pub at: i64,
    pub method: String,
    pub path: String,
    /// Lower-case names; values of keys and cookies are `<redacted>`.
    pub headers: BTreeMap<String, String>,
    /// The JSON body; a body that is not JSON is a string, none is null.
    pub body: Value,
    /// The HTTP status answered; 0 when the script cut the connection without an answer.
    pub status: u16,
    /// The lane that answered, if any.
    pub lane: Option<String>,
    /// The step of that lane; none for `side` and `end`.
    pub step: Option<usize>,
}

/// The record of one server.
pub(super) struct Record {
    inner: Mutex<Inner>,
}

struct Inner {
    kept: VecDeque<(usize, Logged)>,
    bytes: usize,
    count: u64,
    file: Option<(PathBuf, File)>,
}

impl Record {
    pub fn new(file: Option<(PathBuf, File)>) -> Self {
        Self { inner: Mutex::new(Inner { kept: VecDeque::new(), bytes: 0, count: 0, file }) }
    }

    /// Numbers and keeps one request whose body took `size` bytes. A file that cannot be written is given up, once, with a warning.
    pub fn add(&self, mut logged: Logged, size: usize) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.count += 1;
        logged.no = inner.count;
        if let Some((path, file)) = &mut inner.file {
            let mut line = serde_json::to_vec(&logged).unwrap_or_default();
            line.push(b'\n');
            if let Err(e) = file.write_all(&line) {
                tracing::warn!(path = %path.display(), error = %e, "the request log cannot be written; it ends here");
                inner.file = None;
            }
        }
        inner.bytes += size;
        inner.kept.push_back((size, logged));
        while inner.kept.len() > MAX_LOGGED || (inner.bytes > MAX_LOGGED_BYTES && inner.kept.len() > 1) {
            inner.bytes -= inner.kept.pop_front().map_or(0, |(size, _)| size);
        }
    }

    /// The kept requests, oldest first.
    pub fn all(&self) -> Vec<Logged> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).kept.iter().map(|(_, l)| l.clone()).collect()
    }

    /// Requests so far, dropped ones included.
    pub fn count(&self) -> u64 {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).count
    }
}

/// Headers as they may be kept.
pub(super) fn headers(map: &hyper::HeaderMap) -> BTreeMap<String, String> {
    let value = |name: &str, v: &hyper::header::HeaderValue| {
        let secret = ["authorization", "api-key", "apikey", "cookie", "token", "secret"].iter().any(|s| name.contains(s));
        if secret { "<redacted>".to_owned() } else { clip(&String::from_utf8_lossy(v.as_bytes())) }
    };
    map.iter().map(|(name, v)| (name.as_str().to_owned(), value(name.as_str(), v))).collect()
}

/// At most [`MAX_TEXT`] bytes of a text.
pub(super) fn clip(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged() -> Logged {
        Logged {
            no: 0,
            at: 0,
            method: "GET".into(),
            path: "/".into(),
            headers: BTreeMap::new(),
            body: Value::Null,
            status: 200,
            lane: None,
            step: None,
        }
    }

    #[test]
    fn the_oldest_go_first_and_numbers_go_on() {
        let r = Record::new(None);
        for _ in 0..3 {
            r.add(logged(), MAX_LOGGED_BYTES / 2);
        }
        assert_eq!(r.all().iter().map(|l| l.no).collect::<Vec<_>>(), [2, 3]);
        r.add(logged(), MAX_LOGGED_BYTES * 2);
        assert_eq!(r.all().iter().map(|l| l.no).collect::<Vec<_>>(), [4]);
        assert_eq!(r.count(), 4);
    }

    #[test]
    fn keys_are_redacted() {
        let mut map = hyper::HeaderMap::new();
        for name in ["x-api-key", "authorization", "cookie", "x-goog-api-key", "proxy-authorization"] {
            map.insert(name, "s3cret".parse().unwrap());
        }
        map.insert("anthropic-version", "2023-06-01".parse().unwrap());
        let kept = headers(&map);
        assert_eq!(kept.values().filter(|v| *v == "<redacted>").count(), 5);
        assert_eq!(kept["anthropic-version"], "2023-06-01");
    }
}
