//! What the store holds that nobody needs: payloads that no event names. And how large sessions are.
//!
//! Called by `session::collect`; blocks, long for large stores: every body is looked through.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::Store;
use super::chain::Hash;
use super::error::Result;
use super::sqlite;

/// A payload that is younger than this may be about to be named.
pub const BLOB_GRACE: Duration = Duration::from_secs(3_600);

/// A payload that no event names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    pub digest: Hash,
    pub path: PathBuf,
    pub bytes: u64,
}

impl Store {
    /// Bytes of each session in the database and in archives.
    pub fn session_sizes(&self) -> Result<HashMap<String, u64>> {
        self.0.pool.with(sqlite::sizes)
    }

    /// Sinks that have not got all of a session yet: it may not be removed.
    pub fn waiting_sinks(&self, id: &crate::model::SessionId) -> Result<Vec<String>> {
        let (no, _) = self.0.pool.place(id)?;
        self.0.pool.with(|c| sqlite::waiting_for(c, no))
    }

    /// Payloads that no event names, those of `without` not counted as events; young ones are left out.
    pub fn orphaned_blobs(&self, without: &HashSet<String>) -> Result<Vec<Orphan>> {
        let mut all = self.0.blobs.list()?;
        all.retain(|o| o.path.metadata().and_then(|m| m.modified()).is_ok_and(|t| older(t, BLOB_GRACE)));
        if all.is_empty() {
            return Ok(all);
        }
        let conn = sqlite::open_reader(&self.0.database)?;
        let mut named = HashSet::new();
        sqlite::every_text(&conn, without, &mut |text| each_digest(text, |d| _ = named.insert(d)))?;
        all.retain(|o| !named.contains(&o.digest));
        Ok(all)
    }

    /// Deletes one that was found so; false where it was stored again since.
    pub fn drop_blob(&self, digest: &Hash) -> Result<bool> {
        self.0.blobs.remove_older(digest, BLOB_GRACE)
    }
}

/// Whether a file's time lies so far back; one in the future does not.
pub fn older(time: SystemTime, than: Duration) -> bool {
    time.elapsed().is_ok_and(|age| age >= than)
}

/// Everything in a text that could be a digest.
pub(super) fn each_digest(text: &[u8], mut each: impl FnMut(Hash)) {
    let is_digit = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    for word in text.split(|b| !is_digit(b)).filter(|w| w.len() == 64) {
        if let Some(d) = std::str::from_utf8(word).ok().and_then(|w| w.parse().ok()) {
            each(d);
        }
    }
}
