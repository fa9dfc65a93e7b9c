//! What a plugin may use beyond its own memory, one word each: what it wants, and what the operator grants.
//!
//! - `kv`, `clock`, `random`
//! - `env:NAME`, `secret:NAME`
//! - `fs:read:/folder`, `fs:write:/folder` (writing includes reading)
//! - `http:METHOD[,METHOD]:host[:port]`; over TLS, port 443 where none is given. `*.example.com` means every name below it and not the
//!   name itself. An address is only ever granted literally; plain HTTP is for a loopback address with its port.
//!
//! Invariants: a grant names its object; only a plugin's want may leave it open (`env:*`, `fs:read:*`, `http:GET:*`), because an author
//! cannot know an operator's folders and hosts. Words have one canonical form and order. Addresses that lead to a cloud's metadata, and
//! link-local, multicast and unspecified ones, cannot be granted at all.
//!
//! Called by `config` (the operator's grants), `plugin` (each use), and whoever shows or changes grants.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

mod host;

pub use host::{HostName, Reach};

/// Most single grants of one plugin; a word with three methods counts as three.
pub const GRANTS_MAX: usize = 128;
/// Longest word, in bytes.
pub const WORD_MAX: usize = 1024;
/// Longest name of a variable or a secret.
const NAME_MAX: usize = 128;
const METHODS: [Method; 7] = [Method::Get, Method::Head, Method::Post, Method::Put, Method::Patch, Method::Delete, Method::Options];
const FORMS: &str = "kv, clock, random, env:NAME, secret:NAME, fs:read:/folder, fs:write:/folder or http:METHOD[,METHOD]:host[:port]";

/// Why a word is no grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    #[error("{0:?} is no capability; give {FORMS}")]
    Unknown(String),
    #[error("the capability {word:?} {why}; {next}")]
    Malformed { word: String, why: String, next: &'static str },
    #[error("the grant {0:?} names no object; only a plugin's wants may leave it open: put a name, a folder or a host where the `*` is")]
    Open(String),
    #[error("{0} grants, a word with three methods counted as three; the limit is {GRANTS_MAX}: grant wider words, or fewer")]
    TooMany(usize),
}

impl GrantError {
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "BDL-GRANT-001",
            Self::Malformed { .. } => "BDL-GRANT-002",
            Self::Open(_) => "BDL-GRANT-003",
            Self::TooMany(_) => "BDL-GRANT-004",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

impl Method {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
        }
    }

    /// Upper case only, as methods are.
    pub fn parse(s: &str) -> Option<Self> {
        METHODS.into_iter().find(|m| m.as_str() == s)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FsAccess {
    Read,
    /// Includes reading.
    Write,
}

impl FsAccess {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// One thing a plugin may use. `None` stands for an open want.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grant {
    Kv,
    Clock,
    Random,
    Env(Option<String>),
    Secret(Option<String>),
    Fs(FsAccess, Option<String>),
    Http { to: Option<(HostName, u16)>, method: Method },
}

impl Grant {
    /// Whether it leaves its object open.
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Env(None) | Self::Secret(None) | Self::Fs(_, None) | Self::Http { to: None, .. })
    }

    /// Whether it allows all that the other does.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Env(a), Self::Env(b)) | (Self::Secret(a), Self::Secret(b)) => a.is_none() || a == b,
            (Self::Fs(have, folder), Self::Fs(want, path)) => {
                have >= want
                    && match (folder, path) {
                        (None, _) => true,
                        (Some(folder), Some(path)) => is_within(path, folder),
                        (Some(_), None) => false,
                    }
            }
            (Self::Http { to: have, method: a }, Self::Http { to: want, method: b }) => {
                a == b
                    && match (have, want) {
                        (None, _) => true,
                        (Some((h, p)), Some((other, q))) => p == q && h.covers(other),
                        (Some(_), None) => false,
                    }
            }
            (a, b) => a == b,
        }
    }

    /// Of the same kind, whatever the object: what an open want asks for.
    fn answers(&self, open: &Self) -> bool {
        match (self, open) {
            (Self::Env(_), Self::Env(None)) | (Self::Secret(_), Self::Secret(None)) => true,
            (Self::Fs(have, _), Self::Fs(want, None)) => have >= want,
            (Self::Http { method: a, .. }, Self::Http { to: None, method: b }) => a == b,
            _ => false,
        }
    }
}

fn is_within(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_open = |o: &Option<String>| o.clone().unwrap_or_else(|| "*".to_owned());
        match self {
            Self::Kv => f.write_str("kv"),
            Self::Clock => f.write_str("clock"),
            Self::Random => f.write_str("random"),
            Self::Env(n) => write!(f, "env:{}", or_open(n)),
            Self::Secret(n) => write!(f, "secret:{}", or_open(n)),
            Self::Fs(a, p) => write!(f, "fs:{}:{}", a.as_str(), or_open(p)),
            Self::Http { to, method } => write!(f, "http:{}:{}", method.as_str(), Target(to.as_ref())),
        }
    }
}

struct Target<'a>(Option<&'a (HostName, u16)>);

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("*"),
            Some((host, 443)) => write!(f, "{host}"),
            Some((host, port)) => write!(f, "{host}:{port}"),
        }
    }
}

/// One word as the grants it stands for: several where it names several methods.
fn word(s: &str) -> Result<Vec<Grant>, GrantError> {
    if s.len() > WORD_MAX || s.chars().any(char::is_control) {
        let shown = s[..s.floor_char_boundary(64)].to_owned();
        return Err(GrantError::Malformed {
            word: shown,
            why: format!("is over {WORD_MAX} bytes or has a control character"),
            next: FORMS,
        });
    }
    let bad = |why: &str, next: &'static str| GrantError::Malformed { word: s.to_owned(), why: why.to_owned(), next };
    let (kind, rest) = s.split_once(':').map_or((s, None), |(k, r)| (k, Some(r)));
    match (kind, rest) {
        ("kv", None) => Ok(vec![Grant::Kv]),
        ("clock", None) => Ok(vec![Grant::Clock]),
        ("random", None) => Ok(vec![Grant::Random]),
        ("env", Some("*")) => Ok(vec![Grant::Env(None)]),
        ("secret", Some("*")) => Ok(vec![Grant::Secret(None)]),
        ("env", Some(n)) => {
            let ok = n.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !n.starts_with(|c: char| c.is_ascii_digit());
            if n.is_empty() || n.len() > NAME_MAX || !ok {
                return Err(bad("has no name of a variable", "write env:NAME with 1 to 128 of A-Z a-z 0-9 _, no digit first"));
            }
            Ok(vec![Grant::Env(Some(n.to_owned()))])
        }
        ("secret", Some(n)) => {
            let ok = n.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
            if n.is_empty() || n.len() > NAME_MAX || !ok || n.starts_with('.') {
                return Err(bad("has no name of a secret", "write secret:NAME with 1 to 128 of A-Z a-z 0-9 _ - ., no dot first"));
            }
            Ok(vec![Grant::Secret(Some(n.to_owned()))])
        }
        ("fs", Some(r)) => {
            let next = "write fs:read:/folder or fs:write:/folder with an absolute path without `.`, `..` or `//`";
            let Some((access, path)) = r.split_once(':') else { return Err(bad("has no path", next)) };
            let access = match access {
                "read" => FsAccess::Read,
                "write" => FsAccess::Write,
                _ => return Err(bad("has neither `read` nor `write`", next)),
            };
            if path == "*" {
                return Ok(vec![Grant::Fs(access, None)]);
            }
            let plain = path.strip_prefix('/').is_some_and(|p| p.split('/').all(|c| !matches!(c, "" | "." | "..")));
            if !plain {
                return Err(bad("has no absolute path of a folder below the root", next));
            }
            Ok(vec![Grant::Fs(access, Some(path.to_owned()))])
        }
        ("http", Some(r)) => http(s, r),
        _ => Err(GrantError::Unknown(s.to_owned())),
    }
}

fn http(s: &str, rest: &str) -> Result<Vec<Grant>, GrantError> {
    const NEXT: &str = "write http:GET:api.example.com, http:GET,POST:api.example.com:8443, or an address such as http:GET:127.0.0.1:8080";
    let bad = |why: &str| GrantError::Malformed { word: s.to_owned(), why: why.to_owned(), next: NEXT };
    let (methods, target) = rest.split_once(':').ok_or_else(|| bad("has no host"))?;
    let methods: Option<BTreeSet<Method>> = methods.split(',').map(Method::parse).collect();
    let methods = methods.ok_or_else(|| bad("has a method that is not one of GET HEAD POST PUT PATCH DELETE OPTIONS"))?;
    let to = if target == "*" {
        None
    } else {
        let after = target.rfind(']').map_or(0, |i| i + 1);
        let (host, port) = match target[after..].find(':') {
            Some(i) => (&target[..after + i], Some(&target[after + i + 1..])),
            None => (target, None),
        };
        let canonical = |p: &str| p.parse::<u16>().ok().filter(|n| *n != 0 && n.to_string() == p);
        let port = match port {
            Some(p) => canonical(p).ok_or_else(|| bad("has no port of 1 to 65535 after its host"))?,
            None => 443,
        };
        let host = HostName::parse(host).map_err(bad)?;
        if let HostName::Address(a) = &host {
            match Reach::of(*a) {
                Reach::Never => {
                    return Err(bad("has a link-local, multicast, unspecified, reserved or metadata address, which no plugin gets"));
                }
                // why: one form for one address.
                _ if matches!(a, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) => return Err(bad("has an IPv4 address in IPv6 form")),
                _ => {}
            }
        }
        Some((host, port))
    };
    Ok(methods.into_iter().map(|method| Grant::Http { to: to.clone(), method }).collect())
}

/// Grants in their canonical form. As [`Grants`], what an operator gave; as [`Wants`], what a plugin asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
struct Set(BTreeSet<Grant>);

impl Set {
    /// Canonical words in canonical order; methods of one host stand together.
    fn words(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut rest = self.0.iter().peekable();
        while let Some(grant) = rest.next() {
            let Grant::Http { to, method } = grant else {
                out.push(grant.to_string());
                continue;
            };
            let mut methods = vec![method.as_str()];
            while let Some(Grant::Http { to: other, method }) = rest.peek()
                && other == to
            {
                methods.push(method.as_str());
                rest.next();
            }
            out.push(format!("http:{}:{}", methods.join(","), Target(to.as_ref())));
        }
        out
    }
}

/// What an operator granted to one plugin. The default is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Grants(Set);

impl Grants {
    /// From words, in any order; a word that is there twice counts once.
    pub fn parse<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> Result<Self, GrantError> {
        let mut out = Self::default();
        for w in words {
            out.add(&w.as_ref().parse()?)?;
        }
        Ok(out)
    }

    /// Adds those of the other; an error leaves it as it was.
    pub fn add(&mut self, more: &Self) -> Result<(), GrantError> {
        let all: BTreeSet<Grant> = self.0.0.union(&more.0.0).cloned().collect();
        if all.len() > GRANTS_MAX {
            return Err(GrantError::TooMany(all.len()));
        }
        self.0.0 = all;
        Ok(())
    }

    /// Takes out those of the other, word for word (one method of several too); what was not there is given back.
    pub fn remove(&mut self, those: &Self) -> Self {
        let absent = those.0.0.difference(&self.0.0).cloned().collect();
        self.0.0.retain(|g| !those.0.0.contains(g));
        Self(Set(absent))
    }

    /// Whether a use is granted.
    pub fn covers(&self, what: &Grant) -> bool {
        self.0.0.iter().any(|g| g.covers(what))
    }

    /// What of these wants is not granted. An open want is granted by any grant of its kind.
    pub fn missing(&self, wants: &Wants) -> Wants {
        let granted = |w: &Grant| self.covers(w) || (w.is_open() && self.0.0.iter().any(|g| g.answers(w)));
        Wants(Set(wants.0.0.iter().filter(|w| !granted(w)).cloned().collect()))
    }

    /// What is granted and not wanted: it has no effect.
    pub fn unused(&self, wants: &Wants) -> Self {
        Self(Set(self.0.0.iter().filter(|g| !wants.0.0.iter().any(|w| w.covers(g) || g.covers(w))).cloned().collect()))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.0.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }

    pub fn words(&self) -> Vec<String> {
        self.0.words()
    }
}

impl FromStr for Grants {
    type Err = GrantError;

    /// One word.
    fn from_str(s: &str) -> Result<Self, GrantError> {
        let grants = word(s)?;
        if grants.iter().any(Grant::is_open) {
            return Err(GrantError::Open(s.to_owned()));
        }
        Ok(Self(Set(grants.into_iter().collect())))
    }
}

impl TryFrom<Vec<String>> for Grants {
    type Error = GrantError;

    fn try_from(words: Vec<String>) -> Result<Self, GrantError> {
        Self::parse(words)
    }
}

impl From<Grants> for Vec<String> {
    fn from(g: Grants) -> Self {
        g.words()
    }
}

/// What a plugin wants, by its own description.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Wants(Set);

impl Wants {
    /// From the words of a description, and those that this host does not know: they can never be granted, and stop nothing.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> (Self, Vec<(String, GrantError)>) {
        let (mut out, mut unknown) = (BTreeSet::new(), Vec::new());
        for w in words {
            match word(w) {
                Ok(_) if out.len() >= GRANTS_MAX => unknown.push((w.to_owned(), GrantError::TooMany(out.len() + 1))),
                Ok(grants) => out.extend(grants),
                Err(e) => unknown.push((w.to_owned(), e)),
            }
        }
        (Self(Set(out)), unknown)
    }

    /// Whether a use is wanted.
    pub fn cover(&self, what: &Grant) -> bool {
        self.0.0.iter().any(|w| w.covers(what))
    }

    /// What this version wants beyond the one before: what the operator has to be asked about.
    pub fn beyond(&self, before: &Self) -> Self {
        Self(Set(self.0.0.iter().filter(|w| !before.cover(w)).cloned().collect()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }

    pub fn words(&self) -> Vec<String> {
        self.0.words()
    }
}

#[cfg(test)]
#[path = "grant/tests.rs"]
mod tests;
