//! The daemon's inbox: whole lines of an agent's stdout, read from its segments at a byte offset.
//!
//! Invariants:
//! - the same offset gives the same line, before and after a restart: the cursor is the end offset of the last line handled;
//! - a line is given once its newline is on disk, or by [`Inbox::rest`] when the agent has ended;
//! - memory is bounded by one line ([`MAX_LINE`]) plus one read, and is given back between lines;
//! - the disk is not asked for more than the shim told of where it tells ([`Inbox::is_read_up`]);
//! - who says how much is written ([`Inbox::heard`]) gets all of it or an error: what is gone from the disk is not waited for.
//!
//! Called by the session loop. Reads are of small local files and block shortly.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::logs::{Stream, segment_path, segments};
use super::{Error, Result};

/// Longest line, in bytes, without its newline.
pub const MAX_LINE: usize = 64 << 20;
/// Bytes read at a time, and of a line that begins: most are short, and cleared memory costs more than the read.
const READ: usize = 64 << 10;
const READ_FIRST: usize = 8 << 10;
/// Buffers up to this are kept between lines.
const KEEP: usize = 4 << 10;

/// One line of output, without its newline; untrusted and not always UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub bytes: Vec<u8>,
    /// Offset after the newline: the next cursor.
    pub end_offset: u64,
    /// Bytes lost before this line because an ungated agent was read too late.
    pub skipped: u64,
}

/// A reader at an offset.
#[derive(Debug)]
pub struct Inbox {
    run_dir: PathBuf,
    /// Offset of `buf[pos]`.
    offset: u64,
    /// What was read; the bytes before `pos` are done with.
    buf: Vec<u8>,
    pos: usize,
    /// Up to here `buf` is known to hold no newline.
    searched: usize,
    /// The open segment and its first offset.
    segment: Option<(File, u64)>,
    skipped: u64,
    /// So much is written, as the shim says; `None` where nobody says.
    written: Option<u64>,
    /// After a gap: what comes up to the next newline is the tail of a lost line.
    resync: bool,
}

impl Inbox {
    /// A reader whose first line starts at `offset` (0, or the `end_offset` of a line).
    pub fn open(run_dir: &Path, offset: u64) -> Self {
        Self {
            run_dir: run_dir.to_owned(),
            offset,
            buf: Vec::new(),
            pos: 0,
            searched: 0,
            segment: None,
            skipped: 0,
            written: None,
            resync: false,
        }
    }

    /// The shim says that it has written up to here.
    pub fn heard(&mut self, written: u64) {
        self.written = self.written.max(Some(written));
    }

    /// Whether everything that the shim told of was read and searched: a look at the disk would show nothing. False where it told nothing.
    pub fn is_read_up(&self) -> bool {
        self.searched == self.buf.len() && self.written.is_some_and(|w| self.read() >= w)
    }

    /// Where what was read ends.
    fn read(&self) -> u64 {
        self.offset + (self.buf.len() - self.pos) as u64
    }

    /// The cursor: where the next line starts.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next whole line; `None` when there is none yet. A line over the cap is an error, again and again.
    pub fn next_line(&mut self) -> Result<Option<Line>> {
        loop {
            if let Some(at) = self.buf[self.searched..].iter().position(|b| *b == b'\n') {
                let end = self.searched + at;
                if self.resync {
                    self.lose(end + 1);
                    self.resync = false;
                    continue;
                }
                if end - self.pos > MAX_LINE {
                    return Err(Error::LineTooLong { offset: self.offset });
                }
                return Ok(Some(self.cut(end, 1)));
            }
            self.searched = self.buf.len();
            if self.resync {
                self.lose(self.buf.len());
            } else if self.buf.len() - self.pos > MAX_LINE {
                return Err(Error::LineTooLong { offset: self.offset });
            }
            if !self.fill()? {
                let (read, written) = (self.read(), self.written.unwrap_or(0));
                return if read < written { Err(self.gone(read, written)) } else { Ok(None) };
            }
        }
    }

    /// What is left without a newline, once the agent has ended and [`Inbox::next_line`] gave `None`.
    pub fn rest(&mut self) -> Option<Line> {
        (self.pos < self.buf.len()).then(|| self.cut(self.buf.len(), 0))
    }

    fn gone(&self, from: u64, to: u64) -> Error {
        Error::OutputGone { from, to, run_dir: self.run_dir.clone() }
    }

    fn cut(&mut self, end: usize, newline: usize) -> Line {
        let bytes = self.buf[self.pos..end].to_vec();
        self.advance(end + newline);
        Line { bytes, end_offset: self.offset, skipped: std::mem::take(&mut self.skipped) }
    }

    fn lose(&mut self, to: usize) {
        self.skipped += (to - self.pos) as u64;
        self.advance(to);
    }

    fn advance(&mut self, to: usize) {
        self.offset += (to - self.pos) as u64;
        self.pos = to;
        self.searched = to;
    }

    /// Reads on; `false` at the end of what is written.
    fn fill(&mut self) -> Result<bool> {
        self.buf.drain(..self.pos);
        self.searched -= self.pos;
        self.pos = 0;
        loop {
            let at = self.read();
            let Some((file, start)) = &self.segment else {
                if self.find(at)? {
                    continue;
                }
                return Ok(false);
            };
            let old = self.buf.len();
            self.buf.resize(old + if old == 0 { READ_FIRST } else { READ }, 0);
            let n = file.read_at(&mut self.buf[old..], at - start);
            self.buf.truncate(old + n.as_ref().map_or(0, |n| *n));
            if n.map_err(Error::file("read", &segment_path(&self.run_dir, Stream::Out, *start)))? > 0 {
                return Ok(true);
            }
            if self.buf.capacity() > KEEP && self.buf.len() * 2 < self.buf.capacity() {
                self.buf.shrink_to(KEEP);
            }
            // The end of this segment, if the next one is there.
            let next = segment_path(&self.run_dir, Stream::Out, at);
            match File::open(&next) {
                Ok(f) if at > *start => self.segment = Some((f, at)),
                Ok(_) => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    // Dropped meanwhile, with this one, as the oldest go first: then a later one is there, and `find` sees the gap.
                    // why not looked for at once: this is asked at the end of every line, and a folder is slow to read.
                    let dropped = file.metadata().map_or(true, |m| m.nlink() == 0);
                    if !dropped || segments(&self.run_dir, Stream::Out)?.last().is_none_or(|s| s.start <= at) {
                        return Ok(false);
                    }
                    self.segment = None;
                }
                Err(e) => return Err(Error::file("open", &next)(e)),
            }
        }
    }

    /// Opens the segment that holds `at`; after a gap, the oldest one there is.
    fn find(&mut self, at: u64) -> Result<bool> {
        let all = segments(&self.run_dir, Stream::Out)?;
        let holder = all.iter().rev().find(|s| s.start <= at && (at < s.start + s.len || Some(s.start) == all.last().map(|l| l.start)));
        let start = match (holder, all.iter().find(|s| s.start > at)) {
            (Some(s), _) => s.start,
            (None, Some(oldest)) if self.written.is_some_and(|w| w > 0) => return Err(self.gone(at, oldest.start)),
            (None, Some(oldest)) => {
                // Everything up to its start is lost, with what was read of the line before.
                self.skipped += oldest.start - self.offset;
                self.buf = Vec::new();
                (self.pos, self.searched) = (0, 0);
                self.offset = oldest.start;
                self.resync = true;
                oldest.start
            }
            (None, None) => return Ok(false),
        };
        let path = segment_path(&self.run_dir, Stream::Out, start);
        match File::open(&path) {
            Ok(f) => {
                self.segment = Some((f, start));
                Ok(true)
            }
            // Dropped between the two looks: the next call sees it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::file("open", &path)(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn who_reads_only_what_it_was_told_of_misses_nothing(pieces in prop::collection::vec("[a-c\n]{0,12}", 1..24)) {
            let dir = tempfile::tempdir().expect("a folder");
            let mut file = File::create(segment_path(dir.path(), Stream::Out, 0)).expect("a segment");
            let (mut inbox, mut lines, mut told) = (Inbox::open(dir.path(), 0), Vec::new(), 0);
            prop_assert!(!inbox.is_read_up(), "nothing was told");
            for piece in &pieces {
                file.write_all(piece.as_bytes()).expect("written");
                told += piece.len() as u64;
                inbox.heard(told);
                while !inbox.is_read_up() {
                    let Some(line) = inbox.next_line().expect("read") else { break };
                    lines.push(String::from_utf8(line.bytes).expect("text"));
                }
                prop_assert!(inbox.is_read_up() && inbox.next_line().expect("read").is_none());
            }
            let all = pieces.concat();
            let whole = all.rfind('\n').map_or("", |end| &all[..end + 1]);
            prop_assert_eq!(lines, whole.lines().map(str::to_owned).collect::<Vec<_>>());
        }
    }
}
