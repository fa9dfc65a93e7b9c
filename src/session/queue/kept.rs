//! What a queued session shall be started with, kept until its turn: program, arguments, prompt, and the caller's environment with its
//! values.
//!
//! A file and not the log, since values must not be there; and not the variables' names alone, since whoever starts the session later (a
//! daemon, perhaps another one) has not got the caller's values to read anew. 0600 in the host's own folder (0700); the log holds the
//! digest of file and salt, so that one which was changed since starts nothing.
//!
//! Invariants: the file is durable before the session is on record; it goes with the session's end, but for a dead letter's, which stays
//! until that is tried again or removed.
//!
//! Called by `queue`.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use crate::model::{Actor, Entropy, SessionId};
use crate::session::StartRequest;
use crate::store;

/// Ends of the files' names, after the session's id.
const SUFFIX: &str = ".queue.json";
/// Their most bytes: more than a request of the API may have.
const MAX: usize = 16 << 20;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Random: the digest in the log tells nothing about values.
    salt: String,
    pub request: StartRequest,
    pub by: Actor,
}

pub fn path(run_root: &Path, id: &SessionId) -> PathBuf {
    run_root.join(format!("{id}{SUFFIX}"))
}

impl Kept {
    pub fn new(request: StartRequest, by: Actor, entropy: &dyn Entropy) -> Self {
        let mut salt = [0u8; 32];
        entropy.fill(&mut salt);
        Self { salt: salt.iter().map(|b| format!("{b:02x}")).collect(), request, by }
    }

    /// Writes it, synced, and gives the digest.
    pub fn write(&self, path: &Path) -> Result<String, Error> {
        let failed = |why: String| Error::Kept { path: path.to_owned(), why };
        let bytes = serde_json::to_vec(self).map_err(|e| failed(format!("cannot be made ({e})")))?;
        if bytes.len() > MAX {
            return Err(failed(format!("would have over {MAX} bytes")));
        }
        // why whole or not at all: a backup may copy it meanwhile.
        store::write_new(path, &bytes).map_err(|e| failed(format!("cannot be written ({e})")))?;
        Ok(blake3::hash(&bytes).to_hex().to_string())
    }

    /// The file, if it is the one that the log names.
    pub fn read(path: &Path, digest: &str) -> Result<Self, Error> {
        let failed = |why: String| Error::Kept { path: path.to_owned(), why };
        let file = std::fs::File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
        let file = file.map_err(|e| failed(format!("cannot be opened ({})", e.kind())))?;
        let meta = file.metadata().map_err(|e| failed(format!("cannot be read ({})", e.kind())))?;
        if !crate::private::is_private(&meta) {
            return Err(failed("is not a file of the host's own that only it may read".to_owned()));
        }
        let mut bytes = Vec::new();
        file.take(MAX as u64 + 1).read_to_end(&mut bytes).map_err(|e| failed(format!("cannot be read ({})", e.kind())))?;
        if blake3::hash(&bytes).to_hex().as_str() != digest {
            return Err(failed("was changed since the session was queued".to_owned()));
        }
        serde_json::from_slice(&bytes).map_err(|e| failed(format!("cannot be understood ({e})")))
    }
}

pub fn forget(run_root: &Path, id: &SessionId) {
    let path = path(run_root, id);
    if let Err(e) = std::fs::remove_file(&path)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), error = %e, "what was kept for the queue stays");
    }
}

/// Removes files of sessions that are not on record, or that need theirs no more: a host died between two steps.
pub fn sweep(run_root: &Path, needed: impl Fn(&SessionId) -> bool) {
    let Ok(entries) = std::fs::read_dir(run_root) else { return };
    let (mut ids, mut drafts) = (BTreeSet::new(), Vec::new());
    for e in entries.flatten() {
        let name = e.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.strip_suffix(store::DRAFT).is_some_and(|n| n.ends_with(SUFFIX)) {
            drafts.push(e.path());
        } else if let Some(id) = name.strip_suffix(SUFFIX) {
            ids.extend(SessionId::parse(id));
        }
    }
    drafts.iter().for_each(|path| drop(std::fs::remove_file(path)));
    ids.iter().filter(|id| !needed(id)).for_each(|id| forget(run_root, id));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OsEntropy;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_kept_is_read_back_only_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (SessionId::parse("a").unwrap(), SessionId::parse("b").unwrap());
        let env = [("TOKEN".to_owned(), "secret".to_owned())].into();
        let kept = Kept::new(StartRequest { env, agent: "generic".into(), ..StartRequest::default() }, Actor::host(), &OsEntropy);
        let file = path(dir.path(), &a);
        let digest = kept.write(&file).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Kept::read(&file, &digest).unwrap(), kept);
        assert!(kept.write(&file).is_err(), "it is written once");
        let half = dir.path().join("b.queue.json.draft");
        std::fs::write(&half, "cut off").unwrap();
        sweep(dir.path(), |_| true);
        assert!(!half.exists() && file.exists());
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("secret", "other!")).unwrap();
        assert!(Kept::read(&file, &digest).unwrap_err().to_string().contains("was changed"));
        kept.write(&path(dir.path(), &b)).unwrap();
        sweep(dir.path(), |id| *id == b);
        assert!(!file.exists() && path(dir.path(), &b).exists());
        std::fs::remove_file(path(dir.path(), &b)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert!(Kept::read(&file, &digest).is_err(), "a link");
        let again = Kept::new(kept.request.clone(), Actor::host(), &OsEntropy).write(&path(dir.path(), &b)).unwrap();
        assert_ne!(digest, again, "salted");
    }
}
