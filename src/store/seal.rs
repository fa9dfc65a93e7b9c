//! The host's signing key, signed heads and checkpoint documents.
//!
//! A chain alone shows accidents and partial edits; who can write the database can also write a whole new chain. A checkpoint that was
//! carried away before shows that too: every head in it must still be in the log.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::model::{Entropy, SessionId};

use super::chain::{CHECKPOINT_DOMAIN, Fields, HEAD_DOMAIN, HOST_HEAD_DOMAIN, Hash, hex, unhex};
use super::error::{Error, Result};
use super::folder::{fail, write_synced};
use super::sink::SignedHostHead;

/// Most session heads in one checkpoint.
pub const MAX_CHECKPOINT_SESSIONS: usize = 200_000;

/// The host's ed25519 key, made at the first open and kept in a 0600 file.
#[derive(Clone)]
pub struct Key(SigningKey);

impl Key {
    /// Reads the key, or makes one where the file is missing.
    pub fn load_or_make(path: &Path, entropy: &dyn Entropy) -> Result<Self> {
        match std::fs::File::open(path) {
            Ok(f) => {
                let mut bytes = Vec::new();
                f.take(33).read_to_end(&mut bytes).map_err(fail(path, "read it"))?;
                let secret: [u8; 32] = bytes.try_into().map_err(|_| Error::Key { path: path.to_owned() })?;
                Ok(Self(SigningKey::from_bytes(&secret)))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut secret = [0; 32];
                entropy.fill(&mut secret);
                write_synced(&path.with_extension("tmp"), path, &secret).map_err(fail(path, "write it"))?;
                Ok(Self(SigningKey::from_bytes(&secret)))
            }
            Err(e) => Err(fail(path, "open it")(e)),
        }
    }

    /// The public half, hex.
    pub fn public(&self) -> String {
        hex(self.0.verifying_key().as_bytes())
    }

    /// Signs where a session's log stands.
    pub fn head(&self, session: &SessionId, seq: u64, hash: Hash) -> SignedHead {
        let message = head_message(session, seq, &hash);
        SignedHead { session: session.clone(), seq, hash, signature: hex(&self.0.sign(&message.0).to_bytes()) }
    }

    /// Signs where the host chain stands.
    pub fn host_head(&self, seq: u64, hash: Hash) -> SignedHostHead {
        SignedHostHead { seq, hash, signature: hex(&self.0.sign(&host_head_message(seq, &hash).0).to_bytes()) }
    }

    /// Fills in key and signature of a checkpoint.
    pub(super) fn seal(&self, mut c: Checkpoint) -> Checkpoint {
        c.key = self.public();
        c.signature = hex(&self.0.sign(&c.message().0).to_bytes());
        c
    }
}

/// A session's newest seq and hash at some moment, signed; the host chain holds them at intervals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedHead {
    pub session: SessionId,
    pub seq: u64,
    pub hash: Hash,
    /// ed25519, hex.
    pub signature: String,
}

impl SignedHead {
    pub fn is_signed_by(&self, key: &str) -> bool {
        is_signed(key, &self.signature, &head_message(&self.session, self.seq, &self.hash))
    }
}

/// One session's head inside a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub session: SessionId,
    pub seq: u64,
    pub hash: Hash,
}

/// A signed statement of where every log stood; keep it off this machine and give it to `verify --against`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub at: i64,
    pub host_seq: u64,
    pub host_hash: Hash,
    /// At most 200,000, by id.
    pub sessions: Vec<Head>,
    /// Public key, hex.
    pub key: String,
    /// ed25519, hex.
    pub signature: String,
}

impl Checkpoint {
    /// Errors: not the shape, or the signature does not fit the key inside.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let c: Self = serde_json::from_slice(bytes).map_err(|e| Error::Checkpoint { detail: e.to_string() })?;
        c.check()?;
        Ok(c)
    }

    /// Errors when the signature does not fit. Whether the key is the host's own is `verify`'s question.
    pub fn check(&self) -> Result<()> {
        if is_signed(&self.key, &self.signature, &self.message()) {
            Ok(())
        } else {
            Err(Error::Checkpoint { detail: "its signature does not fit its content".to_owned() })
        }
    }

    fn message(&self) -> Hash {
        let mut f = Fields::new(CHECKPOINT_DOMAIN)
            .fixed(&self.at.to_le_bytes())
            .fixed(&self.host_seq.to_le_bytes())
            .fixed(&self.host_hash.0)
            .bytes(self.key.as_bytes());
        for h in &self.sessions {
            f = f.bytes(h.session.as_str().as_bytes()).fixed(&h.seq.to_le_bytes()).fixed(&h.hash.0);
        }
        f.done()
    }
}

/// Signed heads that were carried away, as a sink has them: of each session the newest that is at hand, and of the host chain.
///
/// The newest one is enough: it covers all events before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heads {
    /// At most 200,000.
    #[serde(default)]
    pub heads: Vec<SignedHead>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_head: Option<SignedHostHead>,
}

impl Heads {
    /// Errors: not the shape, or nothing in it. Whose signatures they are is `verify`'s question.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let h: Self = serde_json::from_slice(bytes).map_err(|e| Error::Checkpoint { detail: e.to_string() })?;
        if h.heads.is_empty() && h.host_head.is_none() {
            return Err(Error::Checkpoint { detail: "it holds no signed head".to_owned() });
        }
        Ok(h)
    }
}

/// What a log is compared with.
pub(super) struct Pins {
    pub host: Option<(u64, Hash)>,
    pub sessions: HashMap<String, (u64, Hash)>,
    /// How its findings name it.
    pub name: &'static str,
    signed: Signed,
}

enum Signed {
    /// The signature was checked with this key.
    By(String),
    /// Each head has its own.
    Each(Heads),
}

impl Pins {
    /// A checkpoint whose signature was checked.
    pub(super) fn of(c: &Checkpoint) -> Self {
        let sessions = c.sessions.iter().map(|h| (h.session.to_string(), (h.seq, h.hash))).collect();
        Self { host: Some((c.host_seq, c.host_hash)), sessions, name: "the checkpoint", signed: Signed::By(c.key.clone()) }
    }

    pub(super) fn of_heads(h: &Heads) -> Self {
        let host = h.host_head.as_ref().map(|h| (h.seq, h.hash));
        let mut sessions: HashMap<String, (u64, Hash)> = HashMap::new();
        for head in &h.heads {
            let newest = sessions.entry(head.session.to_string()).or_insert((head.seq, head.hash));
            if head.seq > newest.0 {
                *newest = (head.seq, head.hash);
            }
        }
        Self { host, sessions, name: "the signed head", signed: Signed::Each(h.clone()) }
    }

    /// What is not signed by any of these keys, which are the host's own by its chain.
    pub(super) fn foreign(&self, keys: &[String]) -> Vec<String> {
        match &self.signed {
            Signed::By(key) if keys.contains(key) => vec![],
            Signed::By(_) => vec!["the checkpoint was signed by a key that this host never had".to_owned()],
            Signed::Each(h) => {
                let known = |signed: &dyn Fn(&str) -> bool| keys.iter().any(|k| signed(k));
                let of = |what: String| format!("the head of {what} is not signed by any key that this host ever had");
                let sessions = h.heads.iter().filter(|s| !known(&|k| s.is_signed_by(k))).map(|s| of(format!("{} at {}", s.session, s.seq)));
                let host =
                    h.host_head.iter().filter(|s| !known(&|k| s.is_signed_by(k))).map(|s| of(format!("the host chain at {}", s.seq)));
                sessions.chain(host).collect()
            }
        }
    }
}

fn head_message(session: &SessionId, seq: u64, hash: &Hash) -> Hash {
    Fields::new(HEAD_DOMAIN).bytes(session.as_str().as_bytes()).fixed(&seq.to_le_bytes()).fixed(&hash.0).done()
}

impl SignedHostHead {
    pub fn is_signed_by(&self, key: &str) -> bool {
        is_signed(key, &self.signature, &host_head_message(self.seq, &self.hash))
    }
}

fn host_head_message(seq: u64, hash: &Hash) -> Hash {
    Fields::new(HOST_HEAD_DOMAIN).fixed(&seq.to_le_bytes()).fixed(&hash.0).done()
}

fn is_signed(key: &str, signature: &str, message: &Hash) -> bool {
    let (mut k, mut s) = ([0; 32], [0; 64]);
    unhex(key, &mut k).is_some()
        && unhex(signature, &mut s).is_some()
        && VerifyingKey::from_bytes(&k).is_ok_and(|k| k.verify_strict(&message.0, &Signature::from_bytes(&s)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OsEntropy;

    #[test]
    fn a_changed_checkpoint_is_refused() -> Result<()> {
        let mut secret = [0; 32];
        OsEntropy.fill(&mut secret);
        let key = Key(SigningKey::from_bytes(&secret));
        let session: SessionId = "a-1-bbbbb".parse().map_err(|_| Error::Closed)?;
        let head = key.head(&session, 3, Hash::of(b"3"));
        assert!(head.is_signed_by(&key.public()));
        assert!(!SignedHead { seq: 2, ..head }.is_signed_by(&key.public()));
        let heads = vec![Head { session, seq: 3, hash: Hash::of(b"3") }];
        let blank = Checkpoint { at: 1, host_seq: 1, host_hash: Hash::ZERO, sessions: heads, key: String::new(), signature: String::new() };
        let c = key.seal(blank);
        c.check()?;
        let mut cut = c.clone();
        cut.sessions.clear();
        assert!(cut.check().is_err());
        assert!(Checkpoint { at: 2, ..c }.check().is_err());
        Ok(())
    }
}
