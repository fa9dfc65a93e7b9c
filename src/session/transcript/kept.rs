//! A copy of the agent's record, whole, at the end of each attempt: what the vendor deletes later is still here.
//!
//! Invariants: read as everything below the agent's folder is (no link followed, regular files only); without secrets of well-known forms;
//! at most [`KEPT_MAX`] bytes an attempt, its own record before those of sub-agents, and what has no room is counted.
//!
//! Called by `witness` (keeping) and `api`, through `Manager` (reading).

use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, openat};

use super::{Transcript, folder_at, regular};
use crate::model::{Event, KeptRecord, Session, TranscriptKept};
use crate::session::run::Runner;
use crate::session::{Error, Manager, mask};

/// Bytes of one attempt's records together: also the largest payload.
pub const KEPT_MAX: u64 = 64 << 20;
/// Events of one step on the way back through a log.
const STEP: u64 = 1_000;

/// Records as they are now.
#[derive(Debug, Default)]
pub struct Records {
    pub files: Vec<(String, Vec<u8>)>,
    pub left_out: u64,
}

impl Transcript {
    /// All that it follows, whole.
    fn records(&self) -> Records {
        let (mut out, mut left) = (Records::default(), KEPT_MAX);
        let Some(folder) = &self.folder else { return out };
        for f in &self.files {
            match whole(folder, &f.source, left) {
                Some(bytes) if !bytes.is_empty() => {
                    left -= bytes.len() as u64;
                    out.files.push((f.source.clone(), bytes));
                }
                Some(_) => {}
                None => out.left_out += 1,
            }
        }
        out
    }
}

/// `None` where it cannot be read, or has more than `most` bytes.
fn whole(folder: &OwnedFd, source: &str, most: u64) -> Option<Vec<u8>> {
    let (parent, name) = match source.rsplit_once('/') {
        None => (folder.try_clone().ok()?, source),
        Some((path, name)) => (path.split('/').try_fold(folder.try_clone().ok()?, |at, part| folder_at(&at, part))?, name),
    };
    regular(&parent, name)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = std::fs::File::from(openat(&parent, name, flags, Mode::empty()).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= most).then_some(bytes)
}

impl Runner {
    /// Puts the copy with the events that are about to be written.
    pub(in crate::session) fn keep_transcript(&mut self, transcript: &Transcript) {
        let read = || {
            let mut records = transcript.records();
            for (_, bytes) in &mut records.files {
                *bytes = mask::bytes(std::mem::take(bytes));
            }
            records
        };
        let records = tokio::task::block_in_place(read);
        if records.files.is_empty() && records.left_out == 0 {
            return;
        }
        let mut left_out = records.left_out;
        let (mut files, mut payloads) = (Vec::new(), Vec::new());
        for (source, bytes) in records.files {
            // A mask may be longer than what it hides.
            if bytes.len() > crate::store::MAX_BLOB {
                left_out += 1;
                continue;
            }
            files.push(KeptRecord { source, bytes: bytes.len() as u64, blob: Some(blake3::hash(&bytes).to_hex().to_string()) });
            payloads.push(bytes);
        }
        self.pending.blobs.extend(payloads);
        self.pending.events.push(TranscriptKept { conversation: transcript.conversation.clone(), files, left_out }.into());
    }
}

/// One record that was kept.
#[derive(Debug, Clone)]
pub struct Kept {
    pub seq: u64,
    pub attempt: u32,
    pub at: i64,
    pub conversation: String,
    pub record: KeptRecord,
}

impl Manager {
    /// The records that were kept of a session, newest attempt first, in each the conversation's own before those of sub-agents. Blocks.
    pub fn kept_transcripts(&self, session: &Session) -> Result<Vec<Kept>, Error> {
        let mut out = Vec::new();
        let mut upto = session.last_seq;
        while upto > 0 {
            let from = upto.saturating_sub(STEP - 1).max(1);
            for e in self.inner.store.events(&session.id, from, STEP as usize)?.into_iter().rev().filter(|e| e.envelope.seq <= upto) {
                let (seq, attempt, at) = (e.envelope.seq, e.envelope.attempt, e.envelope.at);
                if let Event::TranscriptKept(t) = e.envelope.event {
                    let kept = |record| Kept { seq, attempt, at, conversation: t.conversation.clone(), record };
                    out.extend(t.files.into_iter().map(kept));
                }
            }
            upto = from - 1;
        }
        Ok(out)
    }

    /// The newest, or that of an attempt, or of one file. Blocks.
    pub fn kept_transcript(&self, session: &Session, attempt: Option<u32>, source: Option<&str>) -> Result<Vec<u8>, Error> {
        let none = |why: &str| Error::NoTranscript { session: session.id.clone(), why: why.to_owned() };
        let all = self.kept_transcripts(session)?;
        let fits = |k: &&Kept| attempt.is_none_or(|a| a == k.attempt) && source.is_none_or(|s| s == k.record.source);
        let found = all.iter().find(fits).ok_or_else(|| {
            none(if all.is_empty() {
                "a copy is made when an attempt ends, of agents that keep a record of their own"
            } else {
                "there are others; see --list"
            })
        })?;
        let digest = found.record.blob.as_deref().ok_or_else(|| none("it was erased"))?;
        let digest = digest.parse().map_err(|_| none("its digest is damaged; run `beadle verify`"))?;
        Ok(self.inner.store.blob(&digest)?)
    }
}
