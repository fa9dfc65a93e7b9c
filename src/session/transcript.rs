//! Follows the agent's own record of its conversation: the second witness of what ran.
//!
//! Claude Code writes `<config>/projects/<working directory, other characters as ->/<conversation>.jsonl`, and one file a
//! sub-agent in `<conversation>/subagents/`. They come late, in torn pieces, are sometimes cut back, and stand where the agent's
//! own calls may write: nothing in them is trusted beyond being evidence.
//!
//! Looking is a few `stat` calls (6 us, and 6 us more for each sub-agent's file: measured), so it is done by the clock ([`LOOK`])
//! and not by inotify: that has 128 instances a user by default, does not see folders before they are made, and nothing on a network
//! home.
//!
//! Invariants:
//! - below the named root no link is followed and only regular files are opened;
//! - whole lines only, each once; a line over [`LINE_MAX`] is left out and counted;
//! - at most [`PORTION`] bytes a look (one longer line excepted), at most [`FILES`] files a session.
//!
//! Called by `witness`.

use std::collections::HashSet;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, statat};

use crate::model::TranscriptNamed;

pub mod kept;
pub mod whole;

/// How often a session at work is looked after, and one between turns.
pub const LOOK: Duration = Duration::from_millis(200);
pub const LOOK_IDLE: Duration = Duration::from_millis(800);
/// Bytes read at one look.
const PORTION: usize = 4 << 20;
/// Longest line.
const LINE_MAX: usize = 32 << 20;
/// Files of one session: its own and its sub-agents'.
const FILES: usize = 1024;
/// Folders looked through for the conversation's file, where it is not where it should be.
const FOLDERS: usize = 4096;
/// Looks between two such searches.
const SEARCH_EVERY: u32 = 25;
/// Lines remembered by their digest, so that what is written again after a cut is not read again.
const REMEMBERED: usize = 65_536;

/// New whole lines of one file, with the offset after each.
#[derive(Debug, Default)]
pub struct Portion {
    /// The file, relative to its folder.
    pub source: String,
    pub lines: Vec<(u64, Vec<u8>)>,
}

#[derive(Debug)]
struct Followed {
    source: String,
    inode: u64,
    read: u64,
    /// Inside a line that is too long.
    skipping: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Transcript {
    root: PathBuf,
    conversation: String,
    folder_name: String,
    /// The folder that holds the conversation's file.
    folder: Option<OwnedFd>,
    files: Vec<Followed>,
    /// Where an earlier daemon had read to, by file.
    resume: Vec<(String, u64)>,
    /// When the folder of sub-agents was last seen to change: seconds and nanoseconds.
    listed: Option<(i64, i64)>,
    looks: u32,
    seen: HashSet<u64>,
    /// Lines that could not be read: too long, or not of the form.
    pub unread: u64,
    /// More may be there than the last look read.
    pub more: bool,
}

impl Transcript {
    pub fn new(named: &TranscriptNamed, cwd: &str) -> Self {
        let known = (named.written > 0).then(|| (format!("{}.jsonl", named.conversation), named.written));
        Self {
            root: PathBuf::from(&named.root),
            conversation: named.conversation.clone(),
            folder_name: folder_name(cwd),
            folder: None,
            files: Vec::new(),
            resume: known.into_iter().collect(),
            listed: None,
            looks: 0,
            seen: HashSet::new(),
            unread: 0,
            more: false,
        }
    }

    /// Whether this is the conversation that it follows.
    pub fn is_of(&self, named: &TranscriptNamed) -> bool {
        self.conversation == named.conversation
    }

    /// An earlier daemon read `source` up to here.
    pub fn resume(&mut self, source: &str, upto: u64) {
        if let Some(r) = self.resume.iter_mut().find(|(s, _)| s == source) {
            r.1 = r.1.max(upto);
        } else if self.resume.len() < FILES {
            self.resume.push((source.to_owned(), upto));
        }
    }

    /// Whether there is one, or it may still come: agents write theirs when they begin.
    pub fn is_there(&self) -> bool {
        self.folder.is_some() || self.looks < SEARCH_EVERY
    }

    /// What was written since the last look. What is missing or unreadable gives nothing.
    pub fn look(&mut self) -> Vec<Portion> {
        self.more = false;
        self.find();
        let Some(folder) = self.folder.take() else { return Vec::new() };
        self.list(&folder);
        let mut left = PORTION;
        let mut out = Vec::new();
        for f in &mut self.files {
            let mut portion = Portion { source: f.source.clone(), lines: Vec::new() };
            let more = f.read(&folder, &mut left, &mut portion, &mut self.unread).unwrap_or(false);
            self.more |= more;
            portion.lines.retain(|(_, line)| fresh(&mut self.seen, line));
            if !portion.lines.is_empty() {
                out.push(portion);
            }
        }
        self.folder = Some(folder);
        out
    }

    /// Opens the folder once the conversation's file is in it.
    fn find(&mut self) {
        if self.folder.is_some() {
            return;
        }
        self.looks += 1;
        let name = format!("{}.jsonl", self.conversation);
        // why: the configuration folder itself is the user's, who may have put a link there; below it none is followed.
        let Ok(root) = openat(CWD, &self.root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) else { return };
        let holds = |folder: &str| folder_at(&root, folder).filter(|f| regular(f, &name).is_some());
        self.folder = holds(&self.folder_name);
        if self.folder.is_none() && self.looks.is_multiple_of(SEARCH_EVERY) {
            let list = openat(&root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).and_then(Dir::new);
            let names = list.into_iter().flatten().flatten().take(FOLDERS).map(|e| e.file_name().to_string_lossy().into_owned());
            self.folder = names.filter(|n| !n.starts_with('.')).find_map(|n| holds(&n));
        }
        if self.folder.is_some() {
            self.follow(name);
        }
    }

    /// Finds the files of new sub-agents.
    fn list(&mut self, folder: &OwnedFd) {
        let Some(own) = folder_at(folder, &self.conversation) else { return };
        let Some(sub) = folder_at(&own, "subagents") else { return };
        let Ok(stat) = rustix::fs::fstat(&sub) else { return };
        #[allow(clippy::unnecessary_cast)] // why: the width differs between architectures.
        let changed = (stat.st_mtime as i64, stat.st_mtime_nsec as i64);
        if self.listed == Some(changed) {
            return;
        }
        self.listed = Some(changed);
        let list = openat(&sub, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).and_then(Dir::new);
        for e in list.into_iter().flatten().flatten() {
            let name = e.file_name().to_string_lossy().into_owned();
            if name.starts_with("agent-") && name.ends_with(".jsonl") {
                self.follow(format!("{}/subagents/{name}", self.conversation));
            }
        }
    }

    fn follow(&mut self, source: String) {
        if self.files.len() >= FILES || self.files.iter().any(|f| f.source == source) {
            return;
        }
        let read = self.resume.iter().find(|(s, _)| *s == source).map_or(0, |r| r.1);
        self.files.push(Followed { source, inode: 0, read, skipping: false });
    }
}

impl Followed {
    /// Reads whole lines; true when there is more.
    fn read(&mut self, folder: &OwnedFd, left: &mut usize, out: &mut Portion, unread: &mut u64) -> Option<bool> {
        let (parent, name) = match self.source.rsplit_once('/') {
            None => (folder.try_clone().ok()?, self.source.as_str()),
            Some((path, name)) => {
                let folders = path.split('/').try_fold(folder.try_clone().ok()?, |at, part| folder_at(&at, part));
                (folders?, name)
            }
        };
        let stat = regular(&parent, name)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        // why: the agent cuts its record back when a message came to nothing; what is written anew is told apart by its lines.
        if (self.inode != 0 && self.inode != stat.st_ino) || size < self.read {
            (self.read, self.skipping) = (0, false);
        }
        self.inode = stat.st_ino;
        if size == self.read {
            return Some(false);
        }
        if *left == 0 {
            return Some(true);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = std::fs::File::from(openat(&parent, name, flags, Mode::empty()).ok()?);
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let begun = self.read;
        let mut bytes = self.fetch(&file, size, (*left).min(PORTION))?;
        if !bytes.contains(&b'\n') && begun + bytes.len() as u64 != size {
            bytes = self.fetch(&file, size, LINE_MAX)?;
        }
        *left = left.saturating_sub(bytes.len());
        self.lines(&bytes, out, unread);
        Some(self.read > begun && self.read < size)
    }

    fn fetch(&self, file: &std::fs::File, size: u64, most: usize) -> Option<Vec<u8>> {
        let want = usize::try_from(size - self.read).unwrap_or(usize::MAX).min(most);
        let mut bytes = Vec::with_capacity(want);
        let mut from = From { file, at: self.read };
        Read::by_ref(&mut from).take(want as u64).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    fn lines(&mut self, bytes: &[u8], out: &mut Portion, unread: &mut u64) {
        let mut at = 0;
        while let Some(n) = bytes[at..].iter().position(|b| *b == b'\n') {
            let line = &bytes[at..at + n];
            at += n + 1;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if !line.is_empty() {
                out.lines.push((self.read + at as u64, line.to_vec()));
            }
        }
        if at == 0 && bytes.len() >= LINE_MAX {
            *unread += u64::from(!self.skipping);
            self.skipping = true;
            at = bytes.len();
        }
        self.read += at as u64;
    }
}

struct From<'a> {
    file: &'a std::fs::File,
    at: u64,
}

impl Read for From<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Whether a line was not read before. Past the cap every line counts as new.
fn fresh(seen: &mut HashSet<u64>, line: &[u8]) -> bool {
    let digest = blake3::hash(line);
    let mut head = [0u8; 8];
    head.copy_from_slice(&digest.as_bytes()[..8]);
    let digest = u64::from_le_bytes(head);
    if seen.len() >= REMEMBERED {
        return !seen.contains(&digest);
    }
    seen.insert(digest)
}

/// How the agent names the folder of a working directory's records.
fn folder_name(cwd: &str) -> String {
    cwd.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

fn folder_at(at: &OwnedFd, name: &str) -> Option<OwnedFd> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return None;
    }
    openat(at, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn regular(at: &OwnedFd, name: &str) -> Option<Stat> {
    let stat = statat(at, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(stat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::path::Path;

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(dir.path().join("projects/-w-a-b/c/subagents")).unwrap();
            Self { dir }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join("projects/-w-a-b").join(name)
        }

        fn append(&self, name: &str, text: &str) {
            let mut f = std::fs::File::options().create(true).append(true).open(self.path(name)).unwrap();
            f.write_all(text.as_bytes()).unwrap();
        }

        fn transcript(&self) -> Transcript {
            let root = self.dir.path().join("projects").display().to_string();
            Transcript::new(&TranscriptNamed { root, conversation: "c".into(), written: 0 }, "/w/a_b")
        }
    }

    fn read(t: &mut Transcript) -> Vec<String> {
        t.look().into_iter().flat_map(|p| p.lines).map(|(_, l)| String::from_utf8(l).unwrap()).collect()
    }

    #[test]
    fn whole_lines_once_from_files_that_come_late() {
        let p = Place::new();
        let mut t = p.transcript();
        assert!(read(&mut t).is_empty(), "nothing is there yet");
        p.append("c.jsonl", "one\ntw");
        assert_eq!(read(&mut t), ["one"]);
        p.append("c.jsonl", "o\n");
        p.append("c/subagents/agent-1.jsonl", "sub\n");
        assert_eq!(read(&mut t), ["two", "sub"]);
        assert!(read(&mut t).is_empty());
        p.append("c/subagents/agent-2.jsonl", "late\n");
        p.append("c/subagents/other.jsonl", "not one of its files\n");
        assert_eq!(read(&mut t), ["late"]);
    }

    #[test]
    fn a_later_reader_goes_on_where_the_log_ends() {
        let p = Place::new();
        p.append("c.jsonl", "one\ntwo\n");
        let upto = p.transcript().look()[0].lines[0].0;
        let mut t = p.transcript();
        t.resume("c.jsonl", upto);
        assert_eq!(read(&mut t), ["two"]);
    }

    #[test]
    fn what_is_cut_back_and_written_again_is_read_once() {
        let p = Place::new();
        let mut t = p.transcript();
        p.append("c.jsonl", "one\ntwo\nthree\n");
        assert_eq!(read(&mut t).len(), 3);
        std::fs::write(p.path("c.jsonl"), "one\nnew\n").unwrap();
        assert_eq!(read(&mut t), ["new"]);
        std::fs::rename(p.path("c.jsonl"), p.path("old")).unwrap();
        assert!(read(&mut t).is_empty());
        p.append("c.jsonl", "one\nnew\nnewer, in another file of more bytes\n");
        assert_eq!(read(&mut t), ["newer, in another file of more bytes"]);
    }

    #[test]
    fn links_and_what_is_no_file_are_not_followed() {
        let p = Place::new();
        let secret = p.dir.path().join("secret");
        std::fs::create_dir(&secret).unwrap();
        std::fs::write(secret.join("c.jsonl"), "secret\n").unwrap();
        std::os::unix::fs::symlink(secret.join("c.jsonl"), p.path("c.jsonl")).unwrap();
        let mut t = p.transcript();
        assert!(read(&mut t).is_empty(), "a link in the place of the file");
        std::fs::remove_file(p.path("c.jsonl")).unwrap();
        p.append("c.jsonl", "one\n");
        assert_eq!(read(&mut t), ["one"]);
        std::os::unix::fs::symlink(secret.join("c.jsonl"), p.path("c/subagents/agent-1.jsonl")).unwrap();
        rustix::fs::mknodat(CWD, p.path("c/subagents/agent-2.jsonl"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(read(&mut t).is_empty());
        // The folder itself as a link.
        let q = Place::new();
        std::fs::remove_dir_all(q.path("")).unwrap();
        std::os::unix::fs::symlink(&secret, q.dir.path().join("projects/-w-a-b")).unwrap();
        assert!(read(&mut q.transcript()).is_empty());
        assert!(folder_at(&openat(CWD, Path::new("/"), OFlags::PATH, Mode::empty()).unwrap(), "..").is_none());
    }

    #[test]
    fn another_folder_name_is_found_in_time() {
        let p = Place::new();
        std::fs::rename(p.path(""), p.dir.path().join("projects/of-another-release")).unwrap();
        std::fs::write(p.dir.path().join("projects/of-another-release/c.jsonl"), "one\n").unwrap();
        let mut t = p.transcript();
        let lines: Vec<String> = (0..=SEARCH_EVERY).flat_map(|_| read(&mut t)).collect();
        assert_eq!(lines, ["one"]);
    }

    #[test]
    fn large_files_come_in_portions_and_long_lines_are_left_out() {
        let p = Place::new();
        let line = format!("{}\n", "x".repeat(1 << 20));
        for n in 0..6 {
            p.append("c.jsonl", &format!("{n}{line}"));
        }
        let mut t = p.transcript();
        assert!(t.look().iter().map(|p| p.lines.len()).sum::<usize>() < 6 && t.more);
        let mut rest = 0;
        while t.more {
            rest += t.look().iter().map(|p| p.lines.len()).sum::<usize>();
        }
        assert!(rest >= 2, "{rest}");
        p.append("c.jsonl", &"y".repeat(LINE_MAX + 5));
        p.append("c.jsonl", "\nshort\n");
        let mut lines = Vec::new();
        for _ in 0..4 {
            lines.extend(read(&mut t));
        }
        assert_eq!((lines, t.unread), (vec!["short".to_owned()], 1));
    }
}
