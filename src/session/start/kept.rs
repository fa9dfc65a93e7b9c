//! What is kept in a session's folder for agents that are started later: sealed before its log begins, written once that has.
//!
//! Called by `start`.

use super::super::{Error, Inner, ladder, relaunch};
use crate::model::{AttemptsPlanned, SessionId};
use crate::process::LaunchSpec;

/// What a relaunch would need, as its file's bytes, and their digest.
pub(super) fn sealed(inner: &Inner, spec: &LaunchSpec, conversation: &str) -> Result<(Vec<u8>, String), Error> {
    let mut salt = [0u8; 32];
    inner.entropy.fill(&mut salt);
    let kept = relaunch::Kept::of(spec, conversation, &salt).and_then(|k| k.seal());
    kept.map_err(|why| Error::Refused {
        what: "the agent's arguments and environment".to_owned(),
        why: format!("cannot be kept for a relaunch: one {why}"),
    })
}

/// A plan with the digest of what is kept, and that as its file's bytes.
pub(super) fn sealed_plan(mut plan: AttemptsPlanned, kept: &ladder::kept::Kept) -> Result<(AttemptsPlanned, Vec<u8>), Error> {
    let bytes = serde_json::to_vec(kept)
        .map_err(|e| Error::Refused { what: "a plan of attempts".to_owned(), why: format!("cannot be kept ({e})") })?;
    plan.digest = Some(blake3::hash(&bytes).to_hex().to_string());
    Ok((plan, bytes))
}

/// Writes the plan into the session's folder, in the place of one that an earlier turn in the queue left.
pub(super) fn keep_plan(inner: &Inner, id: &SessionId, bytes: &[u8]) -> Result<(), Error> {
    let dir = inner.run_dir(id, 1);
    ladder::forget(&dir);
    relaunch::keep_file(&dir, ladder::kept::FILE, bytes)
}
