//! The hash chain, pure.
//!
//! Invariants:
//! - `hash = BLAKE3(domain, session, seq, at, attempt, kind, prev, commitment)`, `commitment = keyed BLAKE3(salt, body as stored)`;
//! - every field of changing length goes in behind its length (u64, little endian), numbers as fixed little-endian bytes, so no two
//!   different events give the same input;
//! - the domain strings carry a version; a changed formula gets a new string, never the old one.
//!
//! Called by the writer for each event and by `verify` for each row.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::Error;

/// Domain of session events.
pub const EVENT_DOMAIN: &str = "beadle session event v1";
/// Domain of host events.
pub const HOST_DOMAIN: &str = "beadle host event v1";
/// Domain of signed heads.
pub const HEAD_DOMAIN: &str = "beadle session head v1";
/// Domain of signed heads of the host chain.
pub const HOST_HEAD_DOMAIN: &str = "beadle host head v1";
/// Domain of checkpoint documents.
pub const CHECKPOINT_DOMAIN: &str = "beadle checkpoint v1";

/// 32 unpredictable bytes that lie with one body.
pub type Salt = [u8; 32];

/// A BLAKE3 digest; 64 lower-case hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// `prev` of a chain's first event.
    pub const ZERO: Self = Self([0; 32]);

    /// Digest of plain bytes: the name of a blob.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// `None` unless there are exactly 32 bytes.
    pub fn from_slice(b: &[u8]) -> Option<Self> {
        b.try_into().ok().map(Self)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        let mut out = [0; 32];
        unhex(s, &mut out).map(|()| Self(out)).ok_or_else(|| Error::BadDigest { given: s.chars().take(80).collect() })
    }
}

impl TryFrom<String> for Hash {
    type Error = Error;
    fn try_from(s: String) -> Result<Self, Error> {
        s.parse()
    }
}

impl From<Hash> for String {
    fn from(h: Hash) -> Self {
        h.to_string()
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|n| char::from(DIGITS[usize::from(n)])).collect()
}

/// Fills `out` from exactly twice as many lower-case digits; `None` for anything else.
pub(super) fn unhex(s: &str, out: &mut [u8]) -> Option<()> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    if s.len() != out.len() * 2 {
        return None;
    }
    for (o, pair) in out.iter_mut().zip(s.as_bytes().chunks_exact(2)) {
        *o = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(())
}

/// Hash input with unambiguous fields.
pub(super) struct Fields(blake3::Hasher);

impl Fields {
    pub(super) fn new(domain: &str) -> Self {
        Self(blake3::Hasher::new()).bytes(domain.as_bytes())
    }
    pub(super) fn bytes(mut self, b: &[u8]) -> Self {
        // why: usize is at most 64 bits on the platforms we build for.
        self.0.update(&(b.len() as u64).to_le_bytes()).update(b);
        self
    }
    pub(super) fn fixed(mut self, b: &[u8]) -> Self {
        self.0.update(b);
        self
    }
    pub(super) fn done(self) -> Hash {
        Hash(*self.0.finalize().as_bytes())
    }
}

/// Binds a body without showing it: once the salt is erased, the commitment says nothing about the body.
pub fn commitment(salt: &Salt, body: &[u8]) -> Hash {
    Hash(*blake3::keyed_hash(salt, body).as_bytes())
}

/// What one session event's hash covers. `kind` is bytes, so that a damaged row can be hashed too.
#[derive(Debug, Clone, Copy)]
pub struct Link<'a> {
    pub session: &'a str,
    pub seq: u64,
    pub at: i64,
    pub attempt: u32,
    pub kind: &'a [u8],
    pub prev: &'a Hash,
    pub commitment: &'a Hash,
}

impl Link<'_> {
    pub fn hash(&self) -> Hash {
        Fields::new(EVENT_DOMAIN)
            .bytes(self.session.as_bytes())
            .fixed(&self.seq.to_le_bytes())
            .fixed(&self.at.to_le_bytes())
            .fixed(&self.attempt.to_le_bytes())
            .bytes(self.kind)
            .fixed(&self.prev.0)
            .fixed(&self.commitment.0)
            .done()
    }
}

/// The same for one event of the host chain.
#[derive(Debug, Clone, Copy)]
pub struct HostLink<'a> {
    pub seq: u64,
    pub at: i64,
    pub kind: &'a [u8],
    pub prev: &'a Hash,
    pub commitment: &'a Hash,
}

impl HostLink<'_> {
    pub fn hash(&self) -> Hash {
        Fields::new(HOST_DOMAIN)
            .fixed(&self.seq.to_le_bytes())
            .fixed(&self.at.to_le_bytes())
            .bytes(self.kind)
            .fixed(&self.prev.0)
            .fixed(&self.commitment.0)
            .done()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn link<'a>(session: &'a str, kind: &'a [u8], c: &'a Hash) -> Link<'a> {
        Link { session, seq: 7, at: 1_700_000_000_000, attempt: 1, kind, prev: &Hash::ZERO, commitment: c }
    }

    #[test]
    fn the_formula_is_stable() {
        let c = commitment(&[9; 32], br#"{"call":7}"#);
        assert_eq!(c.to_string(), COMMITMENT);
        assert_eq!(link("demo-1-aaaaa", b"tool_started", &c).hash().to_string(), HASH);
        let host = HostLink { seq: 1, at: 5, kind: b"opened", prev: &Hash::ZERO, commitment: &c };
        assert_eq!(host.hash().to_string(), HOST);
    }
    // Computed by an independent implementation. Released logs depend on these: a change is a new domain string, not a new expectation.
    const COMMITMENT: &str = "8accb6aaac19cf7170cc3a26b002d48ecd1df0f806ea81699e184662f0866880";
    const HASH: &str = "e9b148999b77049f624145a667583a796f04e31f1c393e462af51ea18555ed24";
    const HOST: &str = "28a040b13242b181c3f404f3f4b2d82b8d2d3a86f71bacd60427629a8bbb2726";

    #[test]
    fn text_form_is_exact() {
        let h = Hash::of(b"x");
        assert_eq!(h.to_string().parse::<Hash>().ok(), Some(h));
        for bad in ["", "zz", &"a".repeat(63), &"A".repeat(64), &"../".repeat(21), &"é".repeat(32)] {
            assert!(bad.parse::<Hash>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn fields_cannot_slide_into_each_other(a in "[a-c]{0,6}", b in "[a-c]{0,6}", x in "[a-c]{0,6}", y in "[a-c]{0,6}") {
            let c = Hash::ZERO;
            let same = (&a, &b) == (&x, &y);
            prop_assert_eq!(link(&a, b.as_bytes(), &c).hash() == link(&x, y.as_bytes(), &c).hash(), same);
        }

        #[test]
        fn any_flipped_bit_shows(body in proptest::collection::vec(any::<u8>(), 1..200), at in any::<usize>(), bit in 0u8..8) {
            let mut other = body.clone();
            let i = at % other.len();
            other[i] ^= 1 << bit;
            prop_assert_ne!(commitment(&[1; 32], &body), commitment(&[1; 32], &other));
        }
    }
}
