//! Keys that only a passphrase gives: Argon2id to an ed25519 seed. Pure; nothing is read or written here.
//!
//! The public half, the salt and the costs lie in the data folder, where any program of the same user may read them and try
//! passphrases for itself. What a try costs is set here; a passphrase that is in a list of passwords falls all the same.
//!
//! Called by `operator` (checks signatures) and `cli` (derives and signs).

use argon2::{Algorithm, Argon2, Params, Version};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use super::{Error, Result};
use crate::model::{Entropy, KeyDerivation, OperatorKey, Subject};

/// Shortest passphrase in bytes.
pub const PASSPHRASE_MIN: usize = 12;
/// Longest passphrase in bytes.
pub const PASSPHRASE_MAX: usize = 1024;
/// Costs of new keys: the second choice of RFC 9106, 64 MiB and three passes, in one lane.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 1;
/// Costs that are accepted from elsewhere: not so low that a guess is cheap, not so high that the asking stalls a machine.
const MEMORY_BOUNDS: std::ops::RangeInclusive<u32> = (19 << 10)..=(1 << 20);
const PASSES_BOUNDS: std::ops::RangeInclusive<u32> = 2..=16;
const LANES_BOUNDS: std::ops::RangeInclusive<u32> = 1..=16;
const SALT: usize = 16;

/// A private key, gone from memory when dropped.
pub struct Secret(SigningKey);

/// How a new key is to be derived.
pub fn new_derivation(entropy: &dyn Entropy) -> KeyDerivation {
    let mut salt = [0u8; SALT];
    entropy.fill(&mut salt);
    KeyDerivation { salt: hex(&salt), memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES }
}

/// Whether costs and salt are within bounds.
pub fn check(d: &KeyDerivation) -> Result<()> {
    let good = MEMORY_BOUNDS.contains(&d.memory_kib)
        && PASSES_BOUNDS.contains(&d.passes)
        && LANES_BOUNDS.contains(&d.lanes)
        && unhex::<SALT>(&d.salt).is_some();
    if good { Ok(()) } else { Err(Error::Derivation) }
}

/// The key of a passphrase. Takes its time on purpose.
pub fn derive(passphrase: &[u8], d: &KeyDerivation) -> Result<Secret> {
    if !(PASSPHRASE_MIN..=PASSPHRASE_MAX).contains(&passphrase.len()) {
        return Err(Error::Passphrase);
    }
    check(d)?;
    let salt = unhex::<SALT>(&d.salt).ok_or(Error::Derivation)?;
    let params = Params::new(d.memory_kib, d.passes, d.lanes, Some(32)).map_err(|_| Error::Derivation)?;
    let mut seed = Zeroizing::new([0u8; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, &salt, seed.as_mut())
        .map_err(|_| Error::Derivation)?;
    Ok(Secret(SigningKey::from_bytes(&seed)))
}

impl Secret {
    /// The public half, hex.
    pub fn public(&self) -> String {
        hex(self.0.verifying_key().as_bytes())
    }

    /// Signs one subject under one challenge, hex.
    pub fn sign(&self, challenge: &str, subject: &Subject) -> String {
        hex(&self.0.sign(&message(challenge, subject)).to_bytes())
    }
}

/// Whether a public key is one.
pub fn is_public(public: &str) -> bool {
    // why weak ones are refused: under a key of small order one signature fits many messages.
    unhex::<32>(public).and_then(|b| VerifyingKey::from_bytes(&b).ok()).is_some_and(|k| !k.is_weak())
}

/// Whether this key signed this subject under this challenge.
pub fn is_signed(key: &OperatorKey, challenge: &str, subject: &Subject, signature: &str) -> bool {
    let (Some(public), Some(signature)) = (unhex::<32>(&key.public), unhex::<64>(signature)) else { return false };
    VerifyingKey::from_bytes(&public)
        .is_ok_and(|k| k.verify_strict(&message(challenge, subject), &Signature::from_bytes(&signature)).is_ok())
}

fn message(challenge: &str, subject: &Subject) -> [u8; 32] {
    let mut h = blake3::Hasher::new_derive_key("beadle operator signature v1");
    h.update(&u64::try_from(challenge.len()).unwrap_or(u64::MAX).to_le_bytes());
    h.update(challenge.as_bytes());
    h.update(&subject.digest());
    *h.finalize().as_bytes()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut out = [0u8; N];
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Actor, OsEntropy};

    fn cheap(salt: u8) -> KeyDerivation {
        KeyDerivation { salt: hex(&[salt; SALT]), memory_kib: *MEMORY_BOUNDS.start(), passes: 2, lanes: 1 }
    }

    #[test]
    fn a_signature_holds_for_its_key_challenge_and_subject_only() {
        let secret = derive(b"a long enough one", &cheap(1)).unwrap();
        let key = |public| OperatorKey { name: "a".into(), derivation: cheap(1), public, added_at: 0, by: Actor::host() };
        let subject = Subject::new("approve").with("id", "s:1");
        let signature = secret.sign("c1", &subject);
        let own = key(secret.public());
        assert!(is_signed(&own, "c1", &subject, &signature));
        assert!(!is_signed(&own, "c2", &subject, &signature));
        assert!(!is_signed(&own, "c1", &Subject::new("approve").with("id", "s:2"), &signature));
        assert!(!is_signed(&own, "c1", &subject, &signature[1..]));
        let other = derive(b"a long enough one", &cheap(2)).unwrap();
        assert_ne!(other.public(), secret.public(), "the salt makes one passphrase two keys");
        assert!(!is_signed(&key(other.public()), "c1", &subject, &signature));
        assert!(is_public(&secret.public()) && !is_public("00") && !is_public(&hex(&[0; 32])));
    }

    #[test]
    fn cheap_costs_and_short_passphrases_are_refused() {
        assert!(check(&new_derivation(&OsEntropy)).is_ok());
        for bad in [
            KeyDerivation { memory_kib: 8, ..cheap(1) },
            KeyDerivation { memory_kib: u32::MAX, ..cheap(1) },
            KeyDerivation { passes: 1, ..cheap(1) },
            KeyDerivation { salt: "00".into(), ..cheap(1) },
        ] {
            assert!(derive(b"a long enough one", &bad).is_err(), "{bad:?}");
        }
        assert!(derive(b"short", &cheap(1)).is_err());
    }
}
