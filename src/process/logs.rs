//! An agent's raw output for `logs`: segments by offset and from the end. Called by `inbox` and `api`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Error, Result};

/// Most bytes that one read gives.
pub const MAX_CHUNK: usize = 8 << 20;

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

impl Stream {
    fn prefix(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Err => "err",
        }
    }
}

/// Bytes of a log. Untrusted, not always UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// Offset of the first byte; later than asked for when older output was dropped.
    pub offset: u64,
    pub bytes: Vec<u8>,
    /// Where to read on.
    pub next: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub start: u64,
    pub len: u64,
}

pub(super) fn segment_path(run_dir: &Path, stream: Stream, start: u64) -> PathBuf {
    run_dir.join(format!("{}-{start:020}.seg", stream.prefix()))
}

/// The segments on disk, oldest first; none when the folder is missing.
pub(super) fn segments(run_dir: &Path, stream: Stream) -> Result<Vec<Segment>> {
    let entries = match std::fs::read_dir(run_dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        r => r.map_err(Error::file("list", run_dir))?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::file("list", run_dir))?;
        let name = entry.file_name();
        let Some(start) = name.to_str().and_then(|n| parse_name(n, stream)) else { continue };
        match entry.metadata() {
            Ok(m) => all.push(Segment { start, len: m.len() }),
            // Dropped since it was listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::file("look at", &entry.path())(e)),
        }
    }
    all.sort_unstable_by_key(|s| s.start);
    Ok(all)
}

fn parse_name(name: &str, stream: Stream) -> Option<u64> {
    let digits = name.strip_prefix(stream.prefix())?.strip_prefix('-')?.strip_suffix(".seg")?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Up to `limit` bytes (at most 8 MiB) from `offset` on; empty at the end of what is written.
pub fn read_log(run_dir: &Path, stream: Stream, offset: u64, limit: usize) -> Result<LogChunk> {
    let limit = limit.min(MAX_CHUNK);
    let all = segments(run_dir, stream)?;
    let offset = offset.max(all.first().map_or(0, |s| s.start));
    let mut bytes = Vec::new();
    for s in all.iter().filter(|s| s.start + s.len > offset) {
        let at = offset + bytes.len() as u64;
        if bytes.len() >= limit || s.start > at {
            break;
        }
        let path = segment_path(run_dir, stream, s.start);
        let want = usize::try_from(s.start + s.len - at).unwrap_or(usize::MAX).min(limit - bytes.len());
        let old = bytes.len();
        bytes.resize(old + want, 0);
        let n = match File::open(&path) {
            // Dropped since it was listed: what was read so far is whole; the reader comes back for the rest.
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            f => read_full(&f.map_err(Error::file("open", &path))?, &mut bytes[old..], at - s.start).map_err(Error::file("read", &path))?,
        };
        bytes.truncate(old + n);
        if n < want {
            break;
        }
    }
    let next = offset + bytes.len() as u64;
    Ok(LogChunk { offset, bytes, next })
}

/// The last `bytes` bytes (at most 8 MiB).
pub fn read_tail(run_dir: &Path, stream: Stream, bytes: usize) -> Result<LogChunk> {
    let end = segments(run_dir, stream)?.last().map_or(0, |s| s.start + s.len);
    read_log(run_dir, stream, end.saturating_sub(bytes.min(MAX_CHUNK) as u64), bytes)
}

fn read_full(file: &File, buf: &mut [u8], mut at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], at) {
            Ok(0) => break,
            Ok(n) => {
                done += n;
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::super::Inbox;
    use super::*;
    use proptest::prelude::*;

    /// Writes `text` as segments of `cap` bytes, from `from` on.
    fn write(dir: &Path, text: &[u8], cap: usize, from: usize) {
        for (i, part) in text.chunks(cap).enumerate().skip(from) {
            std::fs::write(segment_path(dir, Stream::Out, (i * cap) as u64), part).unwrap();
        }
    }

    proptest! {
        #[test]
        fn lines_come_whole_whatever_the_segments(lines in proptest::collection::vec("[a-z]{0,9}", 0..12), cap in 1usize..30) {
            let dir = tempfile::tempdir().unwrap();
            let mut text: Vec<u8> = lines.iter().flat_map(|l| format!("{l}\n").into_bytes()).collect();
            text.extend(b"half");
            write(dir.path(), &text, cap, 0);
            let mut inbox = Inbox::open(dir.path(), 0);
            let mut cursors = vec![0];
            for l in &lines {
                let got = inbox.next_line().unwrap().unwrap();
                prop_assert_eq!(&got.bytes, l.as_bytes());
                prop_assert_eq!(got.skipped, 0);
                cursors.push(got.end_offset);
            }
            prop_assert_eq!(inbox.next_line().unwrap(), None);
            prop_assert_eq!(inbox.rest().unwrap().bytes, b"half".to_vec());
            prop_assert_eq!(inbox.rest(), None);
            // A second reader at any cursor sees the same.
            for (i, at) in cursors.iter().enumerate() {
                let mut again = Inbox::open(dir.path(), *at);
                prop_assert_eq!(again.next_line().unwrap().map(|l| l.bytes), lines.get(i).map(|l| l.clone().into_bytes()));
            }
            // And so do the logs.
            let tail = read_tail(dir.path(), Stream::Out, 5).unwrap();
            prop_assert_eq!(&tail.bytes[..], &text[text.len().saturating_sub(5)..]);
            let all = read_log(dir.path(), Stream::Out, 0, MAX_CHUNK).unwrap();
            prop_assert_eq!((all.next, all.bytes), (text.len() as u64, text));
        }
    }

    #[test]
    fn an_inbox_follows_what_is_appended() {
        let dir = tempfile::tempdir().unwrap();
        let mut inbox = Inbox::open(dir.path(), 0);
        assert_eq!(inbox.next_line().unwrap(), None);
        write(dir.path(), b"ab", 4, 0);
        assert_eq!(inbox.next_line().unwrap(), None);
        write(dir.path(), b"abc\n", 4, 0);
        assert_eq!(inbox.next_line().unwrap().unwrap().bytes, b"abc");
        assert_eq!(inbox.next_line().unwrap(), None);
        write(dir.path(), b"abc\nde\n", 4, 0);
        assert_eq!(inbox.next_line().unwrap().unwrap().bytes, b"de");
    }

    #[test]
    fn dropped_segments_are_said_and_the_half_line_after_them_is_not_given() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), b"one\ntwo\nthree\nfour\n", 5, 2);
        let mut inbox = Inbox::open(dir.path(), 4);
        let line = inbox.next_line().unwrap().unwrap();
        // Bytes 4..14 are gone: the segments up to 10, and the rest of `three`.
        assert_eq!((line.bytes.as_slice(), line.skipped, line.end_offset), (&b"four"[..], 10, 19));
        assert_eq!(read_log(dir.path(), Stream::Out, 0, 2).unwrap(), LogChunk { offset: 10, bytes: b"re".to_vec(), next: 12 });
    }

    #[test]
    fn an_offset_beyond_the_end_waits() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), b"one\n", 16, 0);
        assert_eq!(Inbox::open(dir.path(), 9).next_line().unwrap(), None);
        assert_eq!(read_log(dir.path(), Stream::Err, 0, 9).unwrap().bytes, b"");
    }
}
