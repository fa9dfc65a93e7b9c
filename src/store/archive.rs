//! Archive files: a session's older events as zstd-compressed JSON lines, one event a line with everything that its hash needs.
//!
//! Invariants:
//! - a body stands in its line byte for byte; a log that does not verify is not archived;
//! - a file is many zstd frames of about [`FRAME`] bytes of lines, so a reader begins near what it looks for and holds one frame;
//!   `zstd -dc` reads the whole;
//! - a file under its final name is whole and synced, its folder too.
//!
//! Called by `keep` (writing) and by `sqlite::archives`, through which every reader of events reads on into the archives.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::chain::{Hash, Link, commitment, hex, unhex};
use super::error::{Error, Result};
use super::folder::{fail, sync_parent};
use super::sqlite::RawEvent;

/// Bytes of lines after which a frame ends.
const FRAME: usize = 1 << 20;
/// Most bytes of lines that a frame can have: the last of them is one event more, and an erased one may have grown.
const FRAME_MAX: u64 = 1 << 30;
/// Most unfinished drafts of one name that may lie about.
const DRAFTS_MAX: u32 = 100;
/// Level of compression: the library's default.
const LEVEL: i32 = 3;

/// Where events lie in a file: the first one, where its frame begins, how long that is, and how long once decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place(pub u64, pub u64, pub u64, pub u64);

/// A file with a range of a session's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    pub session: String,
    pub first: u64,
    pub last: u64,
    /// As stored: below the data folder unless it is absolute.
    pub file: String,
    pub path: PathBuf,
    pub digest: Hash,
    /// Hash of its last event.
    pub head: Hash,
    pub bytes: u64,
    pub places: Vec<Place>,
}

/// One event as a line. `row` is its number over all sessions, by which sinks and followers know their place.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    session: Cow<'a, str>,
    seq: u64,
    row: i64,
    at: i64,
    attempt: i64,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    body: &'a RawValue,
    salt: String,
    /// Where salt and body were erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    commitment: Option<Hash>,
    prev: Hash,
    hash: Hash,
}

/// What gives the events that are written, in order.
pub type Feed<'f> = dyn FnOnce(&mut dyn FnMut(&RawEvent<'_>) -> Result<bool>) -> Result<()> + 'f;

/// Writes a new file under `path`. The events must be `first` to `last`, and continue the hash `prev`.
pub fn write(session: &str, (first, last): (u64, u64), prev: Hash, path: &Path, feed: Box<Feed<'_>>) -> Result<Archive> {
    let (draft, file) = draft_of(path)?;
    let mut out = Out { file, at: 0, hasher: blake3::Hasher::new(), lines: Vec::new(), begins: first, places: Vec::new() };
    let (mut next, mut head) = (first, prev);
    let damaged =
        |seq: u64, why: &str| Error::Damaged { session: session.to_owned(), detail: format!("seq {seq} {why}, so nothing was archived") };
    let mut broken = None;
    feed(&mut |raw| {
        if raw.seq > last {
            return Ok(false);
        }
        if raw.seq != next {
            return Err(damaged(next, "is missing"));
        }
        let line = line(session, raw, head).ok_or_else(|| damaged(raw.seq, "is not what its hash says"))?;
        head = line.hash;
        next += 1;
        if let Err(e) = out.line(&line) {
            broken = Some(e);
            return Ok(false);
        }
        Ok(true)
    })
    .and_then(|()| if next == last + 1 || broken.is_some() { Ok(()) } else { Err(damaged(next, "is missing")) })
    .inspect_err(|_| drop(std::fs::remove_file(&draft)))?;
    let mut finish = || {
        if let Some(e) = broken.take() {
            return Err(e);
        }
        out.frame()?;
        out.file.sync_all()?;
        // why linked and not renamed: a file that is there already is somebody's.
        std::fs::hard_link(&draft, path)?;
        std::fs::remove_file(&draft)?;
        sync_parent(path)
    };
    if let Err(e) = finish() {
        let _ = std::fs::remove_file(&draft);
        return Err(fail(path, "write it")(e));
    }
    let digest = Hash(*out.hasher.finalize().as_bytes());
    let file = path.to_string_lossy().into_owned();
    Ok(Archive { session: session.to_owned(), first, last, file, path: path.to_owned(), digest, head, bytes: out.at, places: out.places })
}

/// A new file beside `path`: one that is there already, or a link, is somebody's.
fn draft_of(path: &Path) -> Result<(PathBuf, File)> {
    for n in 0..DRAFTS_MAX {
        let mut draft = path.as_os_str().to_owned();
        draft.push(if n == 0 { ".draft".to_owned() } else { format!(".{n}.draft") });
        let draft = PathBuf::from(draft);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map_err(fail(&draft, "write it")).map(|file| (draft, file)),
        }
    }
    Err(fail(path, "write it")(io::Error::other(format!("{DRAFTS_MAX} drafts of it are there already; remove them"))))
}

/// `None` where it does not continue `prev`, or its body is not JSON as it stands.
fn line<'a>(session: &'a str, raw: &'a RawEvent<'_>, prev: Hash) -> Option<Line<'a>> {
    let body: &RawValue = serde_json::from_slice(raw.body).ok().filter(|b: &&RawValue| b.get().as_bytes() == raw.body)?;
    let hash = raw.computed(session, &prev).filter(|h| h.0 == raw.hash)?;
    Some(Line {
        session: session.into(),
        seq: raw.seq,
        row: raw.row,
        at: raw.at,
        attempt: raw.attempt,
        kind: std::str::from_utf8(raw.kind).ok()?.into(),
        body,
        salt: hex(raw.salt),
        commitment: Hash::from_slice(raw.commitment),
        prev,
        hash,
    })
}

struct Out {
    file: File,
    at: u64,
    hasher: blake3::Hasher,
    lines: Vec<u8>,
    /// First event of the open frame.
    begins: u64,
    places: Vec<Place>,
}

impl Out {
    fn line(&mut self, line: &Line<'_>) -> io::Result<()> {
        if self.lines.is_empty() {
            self.begins = line.seq;
        }
        serde_json::to_writer(&mut self.lines, line).map_err(io::Error::from)?;
        self.lines.push(b'\n');
        if self.lines.len() >= FRAME { self.frame() } else { Ok(()) }
    }

    fn frame(&mut self) -> io::Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let packed = zstd::bulk::compress(&self.lines, LEVEL)?;
        self.file.write_all(&packed)?;
        self.hasher.update(&packed);
        self.places.push(Place(self.begins, self.at, packed.len() as u64, self.lines.len() as u64));
        self.at += packed.len() as u64;
        self.lines.clear();
        Ok(())
    }
}

impl RawEvent<'_> {
    /// What its hash commits to.
    pub fn committed(&self) -> Option<Hash> {
        Hash::from_slice(self.commitment).or_else(|| Some(commitment(&self.salt.try_into().ok()?, self.body)))
    }

    /// The hash that it must have behind `prev`; `None` where its columns cannot be an event's.
    pub fn computed(&self, session: &str, prev: &Hash) -> Option<Hash> {
        let committed = self.committed()?;
        let attempt = u32::try_from(self.attempt).ok()?;
        Some(Link { session, seq: self.seq, at: self.at, attempt, kind: self.kind, prev, commitment: &committed }.hash())
    }
}

/// Opens what is a file. Anybody can put a pipe in the place of one that lies elsewhere, and would hold up who opens it for ever.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a file")) }
}

impl Archive {
    fn error(&self, missing: bool, detail: impl Into<String>) -> Error {
        Error::Archive { session: self.session.clone(), path: self.path.clone(), missing, detail: detail.into() }
    }

    fn open(&self) -> Result<File> {
        open_regular(&self.path).map_err(|e| self.error(e.kind() == io::ErrorKind::NotFound, e.to_string()))
    }

    /// Whether it lies in the folder of archives, and goes with its events; a file that was put elsewhere is its owner's.
    pub fn is_ours(&self) -> bool {
        let file = Path::new(&self.file);
        file.starts_with(super::keep::ARCHIVES) && file.components().all(|c| matches!(c, std::path::Component::Normal(_)))
    }

    /// Bytes of lines in it, as they were counted when it was written.
    pub fn plain_bytes(&self) -> u64 {
        self.places.iter().fold(0, |all, p| all.saturating_add(p.3))
    }

    /// Whether a file of that size is there: what is known without reading it.
    pub fn look(&self) -> Result<()> {
        let size = self.open()?.metadata().map_err(|e| self.error(false, e.to_string()))?.len();
        if size == self.bytes { Ok(()) } else { Err(self.error(false, format!("it has {size} bytes, {} were written", self.bytes))) }
    }

    /// Whether the file is there with the bytes that were written.
    pub fn check(&self) -> Result<()> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(self.open()?).map_err(|e| self.error(false, e.to_string()))?;
        if hasher.finalize().as_bytes() == &self.digest.0 {
            Ok(())
        } else {
            Err(self.error(false, format!("its bytes are not those that were written (digest {})", self.digest)))
        }
    }

    /// Its events from `from` on, until `each` says no; false when it did.
    pub fn walk(&self, from: u64, each: &mut dyn FnMut(&RawEvent<'_>) -> Result<bool>) -> Result<bool> {
        let file = self.open()?;
        let begin = self.places.iter().rposition(|p| p.0 <= from).unwrap_or(0);
        for place in &self.places[begin..] {
            let lines = self.frame(&file, place)?;
            for text in lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                let line: Line<'_> = serde_json::from_slice(text).map_err(|e| self.error(false, format!("a line is not an event: {e}")))?;
                if line.seq < from {
                    continue;
                }
                let mut salt = vec![0; line.salt.len() / 2];
                unhex(&line.salt, &mut salt).ok_or_else(|| self.error(false, "a salt is not hexadecimal"))?;
                let commitment = line.commitment.map(|c| c.0.to_vec()).unwrap_or_default();
                let raw = RawEvent {
                    row: line.row,
                    seq: line.seq,
                    at: line.at,
                    attempt: line.attempt,
                    kind: line.kind.as_bytes(),
                    hash: &line.hash.0,
                    salt: &salt,
                    commitment: &commitment,
                    body: line.body.get().as_bytes(),
                };
                if !each(&raw)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// All of its events, each only where it is what the log has behind `prev`, the hash of the event before the first.
    pub fn walk_proven(&self, prev: Hash, each: &mut dyn FnMut(&RawEvent<'_>) -> Result<()>) -> Result<()> {
        let (mut next, mut head) = (self.first, prev);
        self.walk(self.first, &mut |raw| {
            let hash = raw.computed(&self.session, &head).filter(|h| h.0 == raw.hash && raw.seq == next);
            head = hash.ok_or_else(|| self.error(false, format!("event {next} in it is not what its hash says")))?;
            next += 1;
            each(raw).map(|()| true)
        })?;
        if next == self.last + 1 && head == self.head {
            Ok(())
        } else {
            Err(self.error(false, "its last event is not the one that the log has"))
        }
    }

    fn frame(&self, file: &File, place: &Place) -> Result<Vec<u8>> {
        let broken = |e: io::Error| self.error(false, e.to_string());
        let (packed, plain) = (place.2, place.3);
        // why looked at: lengths come from the database, which may be damaged or a stranger's.
        let size = file.metadata().map_err(broken)?.len();
        if packed > size || plain > FRAME_MAX {
            return Err(self.error(false, "a part of it is cut or too long"));
        }
        let mut bytes = vec![0; usize::try_from(packed).unwrap_or(0)];
        file.read_exact_at(&mut bytes, place.1).map_err(broken)?;
        let mut lines = Vec::with_capacity(usize::try_from(plain).unwrap_or(0).min(2 * FRAME));
        let decoder = zstd::stream::read::Decoder::with_buffer(bytes.as_slice()).map_err(broken)?;
        decoder.take(plain + 1).read_to_end(&mut lines).map_err(broken)?;
        if lines.len() as u64 != plain {
            return Err(self.error(false, "a part of it is cut or too long"));
        }
        Ok(lines)
    }
}
