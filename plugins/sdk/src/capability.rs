//! What a plugin may use beyond its own memory. Each needs two keys: the plugin names the word in the `wants` of its description, and the
//! operator grants it. Without either, the function answers [`Error::Denied`] with the word that is missing, and the plugin goes on.
//!
//! Using one makes the component import that interface, and no other. Nothing here works in `describe` and `configure`.
//!
//! ```
//! use beadle_plugin::capability::{self, kv};
//!
//! fn nth() -> Result<u64, capability::Error> {
//!     let n = kv::get("calls")?.and_then(|v| String::from_utf8(v).ok()?.parse().ok()).unwrap_or(0) + 1;
//!     kv::set("calls", n.to_string().as_bytes())?;
//!     Ok(n)
//! }
//! assert_eq!((nth(), nth()), (Ok(1), Ok(2)));
//! ```
//!
//! Natively, in unit tests, [`kv`] is a map of the test's own thread, [`clock`] and [`mod@env`] are those of the process, and the others answer
//! [`Error::Unavailable`].

use std::fmt;

/// Why a capability gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The word that is missing, in the operator's grants or in the plugin's wants.
    Denied(String),
    /// Which limit was reached, in words.
    OverLimit(String),
    /// There is no such file.
    NotFound,
    /// It is no request.
    Invalid(String),
    /// The name leads to an address that is not public.
    ForbiddenAddress(String),
    /// The deadline of the call was reached.
    Timeout,
    /// The host could not do it; why.
    Unavailable(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(word) => write!(f, "{word} is not granted"),
            Self::OverLimit(what) | Self::Invalid(what) | Self::ForbiddenAddress(what) | Self::Unavailable(what) => f.write_str(what),
            Self::NotFound => f.write_str("there is no such file"),
            Self::Timeout => f.write_str("the deadline was reached"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(target_arch = "wasm32")]
mod host {
    pub use crate::bindings::capabilities::beadle::plugin::*;

    macro_rules! errors {
        ($($interface:ident: $($case:ident),*;)*) => {
            $(impl From<$interface::Error> for super::Error {
                fn from(e: $interface::Error) -> Self {
                    match e {
                        $($interface::Error::$case(what) => Self::$case(what),)*
                    }
                }
            })*
        };
    }

    errors! {
        kv: Denied, OverLimit, Unavailable;
        clock: Denied;
        random: Denied, OverLimit, Unavailable;
        env: Denied, Unavailable;
        secret: Denied, Unavailable;
    }

    impl From<fs::Error> for super::Error {
        fn from(e: fs::Error) -> Self {
            match e {
                fs::Error::Denied(word) => Self::Denied(word),
                fs::Error::NotFound => Self::NotFound,
                fs::Error::OverLimit(what) => Self::OverLimit(what),
                fs::Error::Unavailable(why) => Self::Unavailable(why),
            }
        }
    }

    impl From<http::Error> for super::Error {
        fn from(e: http::Error) -> Self {
            match e {
                http::Error::Denied(word) => Self::Denied(word),
                http::Error::OverLimit(what) => Self::OverLimit(what),
                http::Error::Invalid(why) => Self::Invalid(why),
                http::Error::ForbiddenAddress(why) => Self::ForbiddenAddress(why),
                http::Error::Timeout => Self::Timeout,
                http::Error::Unavailable(why) => Self::Unavailable(why),
            }
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn only_in_a_component<T>() -> Result<T, Error> {
    Err(Error::Unavailable("only a component has this".to_owned()))
}

/// State of this policy in this session; `kv`.
///
/// Writes count when the call ends with an answer that is recorded, and are lost when it fails. Keys have 1 to 256 bytes, values 64 KiB at
/// most; 1,024 keys and 256 KiB over all.
pub mod kv {
    use super::Error;

    /// The value of a key.
    #[cfg(target_arch = "wasm32")]
    pub fn get(key: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(super::host::kv::get(key)?)
    }

    /// Sets the value of a key.
    #[cfg(target_arch = "wasm32")]
    pub fn set(key: &str, value: &[u8]) -> Result<(), Error> {
        Ok(super::host::kv::set(key, value)?)
    }

    /// Removes a key; whether it was there.
    #[cfg(target_arch = "wasm32")]
    pub fn delete(key: &str) -> Result<bool, Error> {
        Ok(super::host::kv::delete(key)?)
    }

    /// The keys that begin so, in order of their bytes.
    #[cfg(target_arch = "wasm32")]
    pub fn list_keys(prefix: &str) -> Result<Vec<String>, Error> {
        Ok(super::host::kv::list_keys(prefix)?)
    }

    #[cfg(not(target_arch = "wasm32"))]
    mod native {
        use std::cell::RefCell;
        use std::collections::BTreeMap;

        thread_local! {
            pub static MAP: RefCell<BTreeMap<String, Vec<u8>>> = const { RefCell::new(BTreeMap::new()) };
        }
    }

    /// The value of a key.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn get(key: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(native::MAP.with_borrow(|m| m.get(key).cloned()))
    }

    /// Sets the value of a key.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn set(key: &str, value: &[u8]) -> Result<(), Error> {
        native::MAP.with_borrow_mut(|m| m.insert(key.to_owned(), value.to_vec()));
        Ok(())
    }

    /// Removes a key; whether it was there.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn delete(key: &str) -> Result<bool, Error> {
        Ok(native::MAP.with_borrow_mut(|m| m.remove(key).is_some()))
    }

    /// The keys that begin so, in order of their bytes.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn list_keys(prefix: &str) -> Result<Vec<String>, Error> {
        Ok(native::MAP.with_borrow(|m| m.keys().filter(|k| k.starts_with(prefix)).cloned().collect()))
    }
}

/// The running clock; `clock`. The time of the question itself needs no grant: it is in the question.
pub mod clock {
    use super::Error;

    /// Wall time in milliseconds since 1970.
    pub fn now_ms() -> Result<u64, Error> {
        #[cfg(target_arch = "wasm32")]
        return Ok(super::host::clock::now_ms()?);
        #[cfg(not(target_arch = "wasm32"))]
        {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            Ok(since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
        }
    }

    /// Nanoseconds since an arbitrary moment, never going back.
    pub fn monotonic_ns() -> Result<u64, Error> {
        #[cfg(target_arch = "wasm32")]
        return Ok(super::host::clock::monotonic_ns()?);
        #[cfg(not(target_arch = "wasm32"))]
        {
            static BEGUN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
            let since = BEGUN.get_or_init(std::time::Instant::now).elapsed();
            Ok(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
        }
    }
}

/// Random bytes of the operating system; `random`.
pub mod random {
    use super::Error;

    /// So many of them, at most 64 KiB at once.
    pub fn bytes(len: u32) -> Result<Vec<u8>, Error> {
        #[cfg(target_arch = "wasm32")]
        return Ok(super::host::random::bytes(len)?);
        #[cfg(not(target_arch = "wasm32"))]
        {
            let _ = len;
            super::only_in_a_component()
        }
    }
}

/// Environment variables of the host's process; `env:NAME` for each.
pub mod env {
    use super::Error;

    /// The value; none where the host has no such variable.
    pub fn get(name: &str) -> Result<Option<String>, Error> {
        #[cfg(target_arch = "wasm32")]
        return Ok(super::host::env::get(name)?);
        #[cfg(not(target_arch = "wasm32"))]
        Ok(std::env::var(name).ok())
    }
}

/// Secrets that the operator keeps; `secret:NAME` for each. Never put one into an answer or a log line: the host masks what it knows, and
/// an encoded secret it does not know.
pub mod secret {
    use super::Error;

    /// The value.
    pub fn get(name: &str) -> Result<String, Error> {
        #[cfg(target_arch = "wasm32")]
        return Ok(super::host::secret::get(name)?);
        #[cfg(not(target_arch = "wasm32"))]
        {
            let _ = name;
            super::only_in_a_component()
        }
    }
}

/// Files in granted folders; `fs:read:/folder` or `fs:write:/folder`, which includes reading. Paths are absolute and have no `.` or `..`.
pub mod fs {
    use super::Error;

    /// What an entry of a folder is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Kind {
        /// A regular file.
        File,
        /// A folder.
        Folder,
        /// A symbolic link, wherever it leads.
        Link,
        /// Anything else.
        Other,
    }

    /// An entry of a folder.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Entry {
        /// Its name alone.
        pub name: String,
        /// What it is.
        pub kind: Kind,
    }

    /// A whole file of at most 4 MiB.
    pub fn read(path: &str) -> Result<Vec<u8>, Error> {
        #[cfg(target_arch = "wasm32")]
        return Ok(super::host::fs::read(path)?);
        #[cfg(not(target_arch = "wasm32"))]
        {
            let _ = path;
            super::only_in_a_component()
        }
    }

    /// Makes a file of at most 1 MiB or replaces it as a whole. What was written stays, also when the call fails.
    pub fn write(path: &str, content: &[u8]) -> Result<(), Error> {
        #[cfg(target_arch = "wasm32")]
        return Ok(super::host::fs::write(path, content)?);
        #[cfg(not(target_arch = "wasm32"))]
        {
            let _ = (path, content);
            super::only_in_a_component()
        }
    }

    /// What is in a folder of at most 1,024 entries, in order of their names.
    pub fn list_entries(path: &str) -> Result<Vec<Entry>, Error> {
        #[cfg(target_arch = "wasm32")]
        {
            use super::host::fs::Kind as Theirs;
            let kind = |k| match k {
                Theirs::File => Kind::File,
                Theirs::Folder => Kind::Folder,
                Theirs::Link => Kind::Link,
                Theirs::Other => Kind::Other,
            };
            Ok(super::host::fs::list_entries(path)?.into_iter().map(|e| Entry { kind: kind(e.kind), name: e.name }).collect())
        }
        #[cfg(not(target_arch = "wasm32"))]
        {
            let _ = path;
            super::only_in_a_component()
        }
    }
}

/// One request and its response; `http:METHOD[,METHOD]:host[:port]`. Over TLS; plain `http://` only to a loopback address that is granted
/// literally. Redirects are not followed.
pub mod http {
    use super::Error;

    /// What to send.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Request {
        /// Upper case.
        pub method: String,
        /// Of at most 8 KiB.
        pub url: String,
        /// At most 64, 32 KiB in all.
        pub headers: Vec<(String, String)>,
        /// Of at most 1 MiB.
        pub body: Vec<u8>,
    }

    /// What came back, a redirect too.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Response {
        /// Such as 200.
        pub status: u16,
        /// Names in lower case.
        pub headers: Vec<(String, Vec<u8>)>,
        /// Of at most 1 MiB.
        pub body: Vec<u8>,
    }

    impl Request {
        /// A GET without headers.
        pub fn get(url: impl Into<String>) -> Self {
            Self { method: "GET".to_owned(), url: url.into(), headers: Vec::new(), body: Vec::new() }
        }

        /// A POST with this body.
        pub fn post(url: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
            Self { method: "POST".to_owned(), body: body.into(), ..Self::get(url) }
        }

        /// Adds a header.
        #[must_use]
        pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
            self.headers.push((name.into(), value.into()));
            self
        }

        /// Sends it, and waits for the response within the deadline of the call.
        pub fn send(self) -> Result<Response, Error> {
            #[cfg(target_arch = "wasm32")]
            {
                let r = super::host::http::Request { method: self.method, url: self.url, headers: self.headers, body: self.body };
                let r = super::host::http::send(&r)?;
                Ok(Response { status: r.status, headers: r.headers, body: r.body })
            }
            #[cfg(not(target_arch = "wasm32"))]
            super::only_in_a_component()
        }
    }
}
