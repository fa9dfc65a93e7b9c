//! What emitters that must not block gave up: a count that outlives them, until a later write tells the host.
//!
//! One folder, per session one file to which emitters append a line for each write, and files that a teller has taken for itself. No
//! lock, so nobody waits: appending is one small write, taking is a rename. A report that is told twice is counted once, by its id.
//!
//! Only counts and keys lie there, never the writes: what lies in a file could be forged by who can write it, and would be sent later with
//! another's right. Caps: keys up to [`BYTES_MAX`] a session; what is over is counted without its key.
//!
//! Called by `cli` (`session --no-wait`); [`super::Emitter`] takes its keys from here.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::super::types::{LostRequest, WriteRequest};
use crate::model::{Clock, Entropy, OsEntropy, SystemClock};

/// Below the data folder.
pub const FOLDER: &str = "lost-writes";
/// Bytes of keys that are kept of one session.
const BYTES_MAX: u64 = 256 << 10;
/// Keys of one report; what is over is counted.
const KEYS_MAX: usize = 10_000;
/// Bytes of a file that are read: two million writes without a key.
const FILE_MAX: u64 = 64 << 20;
const WHY: &str = "not acknowledged in the time that its emitter had";

/// A new idempotency key.
pub fn key() -> String {
    let mut bytes = [0u8; 16];
    OsEntropy.fill(&mut bytes);
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The session's file name: however it is named, the same words are the same file.
fn name_of(request: &WriteRequest) -> String {
    let mut hash = blake3::Hasher::new();
    let mut word = |w: Option<&str>| {
        hash.update(&[u8::from(w.is_some())]);
        hash.update(w.unwrap_or_default().as_bytes());
        hash.update(&[0]);
    };
    word(request.session.as_deref());
    let open = request.open.as_ref();
    word(open.and_then(|o| o.key.as_deref()));
    word(open.and_then(|o| o.brief.tenant.as_deref()));
    word(open.and_then(|o| o.brief.thread.as_deref()));
    hash.finalize().to_hex().chars().take(32).collect()
}

/// Notes that a request was given up. Its writes are lost, unless the host has them after all: so by key where it has one.
pub fn note(folder: &Path, request: &WriteRequest) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let path = folder.join(name_of(request));
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let now = SystemClock.wall_ms();
    let key = request.key.as_deref().filter(|_| file.metadata().is_ok_and(|m| m.len() < BYTES_MAX)).unwrap_or_default();
    file.write_all(format!("{now} {} {key}\n", request.writes.len().max(1)).as_bytes())
}

/// A report that waits to be told: a file that was taken.
#[derive(Debug)]
pub struct Pending(PathBuf);

impl Pending {
    /// The next report for the session of a request, if something of it was given up. What was taken before and is not on record yet
    /// goes first, so there are never more than two files of a session but where two tell at once.
    pub fn of(folder: &Path, request: &WriteRequest) -> Option<(Self, LostRequest)> {
        let name = name_of(request);
        let taken = || {
            let prefix = format!("{name}.");
            let mine = |p: &PathBuf| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(&prefix));
            fs::read_dir(folder).ok()?.flatten().map(|e| e.path()).find(mine)
        };
        let path = taken().or_else(|| {
            let to = folder.join(format!("{name}.{}", key()));
            fs::rename(folder.join(&name), &to).ok().map(|()| to)
        })?;
        let mut text = String::new();
        fs::File::open(&path).ok()?.take(FILE_MAX).read_to_string(&mut text).ok()?;
        let id = path.file_name()?.to_str()?.to_owned();
        let mut lost = LostRequest { id, why: WHY.to_owned(), ..LostRequest::default() };
        for line in text.lines() {
            let mut parts = line.splitn(3, ' ');
            let at = parts.next().and_then(|t| t.parse::<i64>().ok());
            let writes = parts.next().and_then(|t| t.parse::<u64>().ok()).unwrap_or(1);
            match parts.next().filter(|k| !k.is_empty() && writes == 1 && lost.keys.len() < KEYS_MAX) {
                Some(key) => lost.keys.push(key.to_owned()),
                None => lost.count = lost.count.saturating_add(writes),
            }
            lost.since = lost.since.or(at);
        }
        Some((Self(path), lost))
    }

    /// It is on record.
    pub fn told(self) {
        // why ignored: told once more it is not counted again.
        let _ = fs::remove_file(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(session: &str, key: &str) -> WriteRequest {
        WriteRequest { session: Some(session.to_owned()), key: Some(key.to_owned()), ..WriteRequest::default() }
    }

    #[test]
    fn what_is_given_up_is_told_once_and_of_its_session_only() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(FOLDER);
        let next = |session: &str| Pending::of(&folder, &request(session, "x"));
        assert!(next("a").is_none(), "nothing was given up");
        for (session, key) in [("a", "k1"), ("a", "k2"), ("b", "k3")] {
            note(&folder, &request(session, key)).unwrap();
        }
        let (_, report) = next("a").unwrap();
        assert_eq!((report.count, report.keys.clone()), (0, vec!["k1".to_owned(), "k2".to_owned()]));
        assert!(report.since.is_some());
        note(&folder, &request("a", "k4")).unwrap();
        let (pending, again) = next("a").unwrap();
        assert_eq!(again, report, "until it is on record it is told under the same id");
        pending.told();
        let (pending, rest) = next("a").unwrap();
        assert_eq!(rest.keys, ["k4"]);
        pending.told();
        assert!(next("a").is_none());
        assert_eq!(next("b").unwrap().1.keys, ["k3"]);
    }

    #[test]
    fn over_the_cap_writes_are_only_counted() {
        let dir = tempfile::tempdir().unwrap();
        let long = "k".repeat(200);
        for _ in 0..2_000 {
            note(dir.path(), &request("a", &long)).unwrap();
        }
        let (_, report) = Pending::of(dir.path(), &request("a", "x")).unwrap();
        assert!(report.keys.len() < 1_400 && !report.keys.is_empty(), "{}", report.keys.len());
        assert_eq!(report.count + report.keys.len() as u64, 2_000);
    }
}
