//! The sink `jsonl`: events as lines of a file, synced before they count as taken.
//!
//! Invariants:
//! - a file holds whole lines: what a crash or a full disk left torn is cut off before the next line is written;
//! - the file is a regular one of ours, 0600, and still the one that the path names; where it was moved or deleted, a new one is begun;
//! - a file is put aside (`name.1` the newest) before it grows over its size, and when it is older than its age; only files put aside
//!   beyond the number to keep are deleted, and what is in them was taken.
//!
//! Where the file lies is the operator's choice: a folder that no agent's user can write to, or at least one outside every workspace.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::config::JsonlConfig;
use crate::model::{Delivery, SinkEvent};
use crate::private::is_private;

use super::form;
use super::line::Answer;

/// Bytes looked back at a time for the end of the last whole line.
const LOOK: usize = 64 << 10;

struct Open {
    file: File,
    identity: (u64, u64),
    len: u64,
    begun: SystemTime,
}

/// See the module.
pub struct Jsonl {
    config: JsonlConfig,
    open: Option<Open>,
    /// Puts on the disk what was written; tests put a disk that fails in its place.
    sync: fn(&File) -> std::io::Result<()>,
}

impl Jsonl {
    pub fn new(config: JsonlConfig) -> Self {
        Self { config, open: None, sync: File::sync_data }
    }

    /// Blocks. All of the batch is on disk, or none of it counts.
    pub fn write(&mut self, events: &[SinkEvent]) -> Answer {
        let (mut text, mut bad) = (String::new(), None);
        for (index, e) in events.iter().enumerate() {
            match form::line(e) {
                Ok(line) => {
                    text.push_str(&line);
                    text.push('\n');
                }
                Err(reason) => {
                    bad = Some((index, reason));
                    break;
                }
            }
        }
        if let Err(e) = self.append(text.as_bytes()) {
            // why: what is on disk now is looked at anew.
            self.open = None;
            return Answer::Failed { why: format!("{}: {e}", self.config.path.display()) };
        }
        Answer::Said(match bad {
            Some((index, reason)) => Delivery::Poison { index, reason },
            None => Delivery::Accepted { count: events.len() },
        })
    }

    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let path = self.config.path.clone();
        if self.open.as_ref().is_some_and(|o| !is_at(&path, o.identity)) {
            self.open = None;
        }
        if self.open.is_none() {
            self.open = Some(open(&path)?);
        }
        if self.open.as_ref().is_some_and(|o| self.is_full(o, bytes.len() as u64)) {
            self.put_aside()?;
            self.open = Some(open(&path)?);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let written = open.file.write_all(bytes).and_then(|()| (self.sync)(&open.file));
        if let Err(e) = written {
            // why ignore: where it cannot be cut now, the next open does it.
            let _ = open.file.set_len(open.len);
            return Err(e);
        }
        open.len += bytes.len() as u64;
        Ok(())
    }

    fn is_full(&self, open: &Open, more: u64) -> bool {
        let age = Duration::from_millis(self.config.max_age_ms);
        let old = !age.is_zero() && open.begun.elapsed().is_ok_and(|e| e >= age);
        open.len > 0 && (old || open.len + more > self.config.max_bytes)
    }

    /// `name` becomes `name.1`, that `name.2`, and so on; the oldest beyond the number to keep go.
    fn put_aside(&mut self) -> std::io::Result<()> {
        self.open = None;
        let path = &self.config.path;
        let mut last = 0;
        while aside(path, last + 1).symlink_metadata().is_ok() {
            last += 1;
        }
        let keep = self.config.keep;
        while keep > 0 && last >= keep {
            std::fs::remove_file(aside(path, last))?;
            last -= 1;
        }
        for n in (1..=last).rev() {
            std::fs::rename(aside(path, n), aside(path, n + 1))?;
        }
        std::fs::rename(path, aside(path, 1))?;
        sync_folder(path)
    }
}

fn aside(path: &Path, n: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

fn is_at(path: &Path, identity: (u64, u64)) -> bool {
    path.symlink_metadata().is_ok_and(|m| (m.dev(), m.ino()) == identity)
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

/// Opens for appending, makes it where it is missing, mends its end.
fn open(path: &Path) -> std::io::Result<Open> {
    let mut options = OpenOptions::new();
    // why not blocking: a fifo in its place must not hang us; it is refused below.
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    options.read(true).append(true).mode(0o600).custom_flags(flags);
    let (mut file, new) = match options.open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => (options.create_new(true).open(path)?, true),
        found => (found?, false),
    };
    let meta = file.metadata()?;
    if !is_private(&meta) {
        return Err(std::io::Error::other("it must be a regular file of your own that nobody else can read (chmod 600)"));
    }
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|e| std::io::Error::other(format!("another process writes to it: {e}")))?;
    let len = whole(&file, meta.len())?;
    if len != meta.len() {
        tracing::warn!(path = %path.display(), bytes = meta.len() - len, "the torn end of a sink's file is cut off; those events come again");
        file.set_len(len)?;
        file.sync_data()?;
    }
    if new {
        sync_folder(path)?;
    }
    file.seek(SeekFrom::End(0))?;
    Ok(Open { identity: (meta.dev(), meta.ino()), len, begun: meta.created().unwrap_or_else(|_| SystemTime::now()), file })
}

/// Length up to the end of the last whole line.
fn whole(file: &File, len: u64) -> std::io::Result<u64> {
    let mut end = len;
    let mut buf = vec![0; LOOK];
    while end > 0 {
        let n = usize::try_from(end).unwrap_or(LOOK).min(LOOK);
        let from = end - n as u64;
        file.read_exact_at(&mut buf[..n], from)?;
        if let Some(at) = buf[..n].iter().rposition(|b| *b == b'\n') {
            return Ok(from + at as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64, body: &str) -> SinkEvent {
        SinkEvent {
            session: "s".into(),
            seq,
            at: 0,
            attempt: 1,
            kind: "note".into(),
            body: body.into(),
            hash: "ab".into(),
            labels: Default::default(),
        }
    }

    fn sink(path: &Path, max_bytes: u64, keep: u64) -> Jsonl {
        Jsonl::new(JsonlConfig { path: path.to_owned(), max_bytes, max_age_ms: 0, keep })
    }

    fn seqs(path: &Path) -> Vec<u64> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["seq"].as_u64().unwrap()).collect()
    }

    #[test]
    fn a_torn_end_is_mended_and_the_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        assert_eq!(sink(&path, 1 << 20, 0).write(&[event(1, "{}"), event(2, "{}")]), Answer::Said(Delivery::Accepted { count: 2 }));
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"session\":\"s\",\"se").unwrap();
        sink(&path, 1 << 20, 0).write(&[event(3, "{}")]);
        assert_eq!(seqs(&path), [1, 2, 3]);
        std::fs::write(&path, "no line end at all").unwrap();
        sink(&path, 1 << 20, 0).write(&[event(4, "{}")]);
        assert_eq!(seqs(&path), [4]);
    }

    #[test]
    fn files_are_put_aside_and_only_so_many_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let mut s = sink(&path, 1024, 2);
        let body = format!("{{\"x\":\"{}\"}}", "y".repeat(700));
        for n in 1..=5 {
            s.write(&[event(n, &body)]);
        }
        assert_eq!((seqs(&path), seqs(&aside(&path, 1)), seqs(&aside(&path, 2))), (vec![5], vec![4], vec![3]));
        assert!(!aside(&path, 3).exists());
        let mut all = sink(&dir.path().join("b"), 1024, 0);
        (1..=5).for_each(|n| drop(all.write(&[event(n, &body)])));
        assert_eq!(seqs(&aside(&dir.path().join("b"), 4)), [1]);
    }

    #[test]
    fn what_was_not_synced_was_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let mut s = sink(&path, 1 << 20, 0);
        s.write(&[event(1, "{}")]);
        s.sync = |_| Err(std::io::Error::other("the disk is gone"));
        let said = s.write(&[event(2, "{}"), event(3, "{}")]);
        assert!(matches!(&said, Answer::Failed { why } if why.contains("a.jsonl") && why.contains("the disk is gone")), "{said:?}");
        assert_eq!(seqs(&path), [1], "what was not taken comes again, and must not stand there twice");
        s.sync = File::sync_data;
        assert_eq!(s.write(&[event(2, "{}"), event(3, "{}")]), Answer::Said(Delivery::Accepted { count: 2 }));
        assert_eq!(seqs(&path), [1, 2, 3]);
    }

    #[test]
    fn a_file_that_was_taken_away_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let mut s = sink(&path, 1 << 20, 0);
        s.write(&[event(1, "{}")]);
        std::fs::remove_file(&path).unwrap();
        s.write(&[event(2, "{}")]);
        assert_eq!(seqs(&path), [2]);
    }

    #[test]
    fn what_is_not_a_private_file_of_ours_is_refused_and_a_bad_body_is_poison() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        assert!(matches!(sink(dir.path(), 1 << 20, 0).write(&[event(1, "{}")]), Answer::Failed { .. }));
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(sink(&path, 1 << 20, 0).write(&[event(1, "{}")]), Answer::Failed { why } if why.contains("chmod")));
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(matches!(sink(&path, 1 << 20, 0).write(&[event(1, "{}")]), Answer::Failed { .. }));
        std::fs::remove_file(&path).unwrap();
        let poison = sink(&path, 1 << 20, 0).write(&[event(1, "{}"), event(2, "{"), event(3, "{}")]);
        assert!(matches!(poison, Answer::Said(Delivery::Poison { index: 1, .. })), "{poison:?}");
        assert_eq!(seqs(&path), [1]);
        let mut first = sink(&path, 1 << 20, 0);
        first.write(&[event(5, "{}")]);
        assert!(matches!(sink(&path, 1 << 20, 0).write(&[event(6, "{}")]), Answer::Failed { why } if why.contains("another process")));
    }
}
