//! Identifiers. A session id goes into file names, so its alphabet is closed and checked on every way in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::clock::{Clock, Entropy};

/// Longest session id in bytes that is read back.
pub const MAX_ID: usize = 80;
const SLUG_MAX: usize = 40;
const BASE32: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("an id is empty; give the id or name shown by `beadle ls`")]
    Empty,
    #[error("an id has {0} bytes, over the limit of {MAX_ID}; give the id shown by `beadle ls`")]
    TooLong(usize),
    #[error("id {0:?} has the character {1:?}; ids are made of a-z A-Z 0-9 - _ . only")]
    BadChar(String, char),
    #[error("id {0:?} starts with a dot or holds `..`; such a name could leave its folder")]
    PathTrick(String),
    #[error("approval id {0:?} is not of the form <session>:<number>; see `beadle show <session>`")]
    BadApproval(String),
}

/// `<slug, at most 40>-<base-36 milliseconds>-<5 random base-32>`; safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(String);

impl SessionId {
    /// A new id from a name; the name's slug is for people, time and randomness make it unique.
    pub fn new(name: &str, clock: &dyn Clock, entropy: &dyn Entropy) -> Self {
        let mut r = [0u8; 5];
        entropy.fill(&mut r);
        let tail: String = r.iter().map(|b| char::from(BASE32[usize::from(b & 31)])).collect();
        Self(format!("{}-{}-{tail}", slug(name), base36(clock.wall_ms().max(0).unsigned_abs())))
    }

    /// Checks length and alphabet. Errors name the offending value, cut to a printable length.
    pub fn parse(s: &str) -> Result<Self, IdError> {
        if s.is_empty() {
            return Err(IdError::Empty);
        }
        if s.len() > MAX_ID {
            return Err(IdError::TooLong(s.len()));
        }
        if let Some(c) = s.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))) {
            return Err(IdError::BadChar(s.to_owned(), c));
        }
        if s.starts_with('.') || s.contains("..") {
            return Err(IdError::PathTrick(s.to_owned()));
        }
        Ok(Self(s.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SessionId {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        Self::parse(&s)
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> Self {
        id.0
    }
}

impl FromStr for SessionId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        Self::parse(s)
    }
}

/// Names the one pending question of a call: the session and the seq of its `tool_requested` event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ApprovalId {
    pub session: SessionId,
    pub call: u64,
}

impl fmt::Display for ApprovalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.session, self.call)
    }
}

impl FromStr for ApprovalId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let (session, call) = s.rsplit_once(':').ok_or_else(|| IdError::BadApproval(s.chars().take(100).collect()))?;
        let call = call.parse().map_err(|_| IdError::BadApproval(s.chars().take(100).collect()))?;
        Ok(Self { session: SessionId::parse(session)?, call })
    }
}

/// A rule added at run time: `r-<8 base-32>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleId(pub String);

impl RuleId {
    pub fn new(entropy: &dyn Entropy) -> Self {
        let mut r = [0u8; 8];
        entropy.fill(&mut r);
        let tail: String = r.iter().map(|b| char::from(BASE32[usize::from(b & 31)])).collect();
        Self(format!("r-{tail}"))
    }
}

/// Lower-case ASCII letters, digits and single dashes, at most 40; never empty.
pub fn slug(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_alphanumeric() {
            out.push(c);
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
        if out.len() >= SLUG_MAX {
            break;
        }
    }
    let out = out.trim_matches('-');
    if out.is_empty() { "session".to_owned() } else { out.to_owned() }
}

fn base36(mut n: u64) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut out = Vec::new();
    loop {
        // why: the remainder of 36 always indexes the table.
        out.push(char::from(DIGITS[usize::try_from(n % 36).unwrap_or(0)]));
        n /= 36;
        if n == 0 {
            break;
        }
    }
    out.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Still;
    impl Clock for Still {
        fn wall_ms(&self) -> i64 {
            1_795_232_000_000
        }
        fn boot_ms(&self) -> u64 {
            0
        }
    }
    struct Ones;
    impl Entropy for Ones {
        fn fill(&self, buf: &mut [u8]) {
            buf.fill(1);
        }
    }

    #[test]
    fn new_id_has_the_documented_form() {
        assert_eq!(SessionId::new("Fix the Bug!!", &Still, &Ones).as_str(), "fix-the-bug-mwpus4jk-bbbbb");
    }

    #[test]
    fn path_tricks_are_refused() {
        for bad in ["", "..", "a..b", ".hidden", "a/b", "a\0b", "ü", "a b", &"x".repeat(81), &"x".repeat(10_000_000)] {
            assert!(SessionId::parse(bad).is_err(), "{:?}", &bad[..bad.len().min(20)]);
        }
    }

    proptest! {
        #[test]
        fn every_new_id_parses(name in ".{0,200}") {
            let id = SessionId::new(&name, &Still, &Ones);
            prop_assert_eq!(SessionId::parse(id.as_str()), Ok(id));
        }

        #[test]
        fn approval_ids_round_trip(call in any::<u64>()) {
            let id = ApprovalId { session: SessionId::new("x", &Still, &Ones), call };
            prop_assert_eq!(id.to_string().parse::<ApprovalId>(), Ok(id));
        }
    }
}
