//! The newest lines of each plugin, kept in files, so that an author can read them when the session has ended.
//!
//! A file for each name, of one JSON object a line with a growing number; when it is full it becomes the older half and a new one begins.
//!
//! Invariants:
//! - at most [`FILES`] names, two files of [`FILE`] bytes each; at most [`RATE`] lines a second of one name, over all sessions; lines that
//!   were left out are counted on the next one;
//! - a call never waits for the disk: lines go through a queue of [`QUEUE`], and are left out when that is full;
//! - what is handed over is masked already, and masked once more for secrets of well-known forms;
//! - files belong to their user alone. They are for people: nothing is decided by them, and they are not synced.
//!
//! Called by `log` (lines), wired by `daemon`, read by `session`.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::log::{LINE, Level, Line, RATE};

/// Names that have files; the one that was silent longest makes room.
pub const FILES: usize = 128;
/// Size at which a file is full, in bytes.
pub const FILE: u64 = 256 << 10;
/// Lines that wait to be written.
const QUEUE: usize = 1024;
/// Longest name that is used as it is.
const NAME: usize = 64;

/// One line as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptLine {
    /// Grows by one with each line of the name.
    pub no: u64,
    /// Wall milliseconds.
    pub at: i64,
    pub level: Level,
    pub text: String,
    /// Lines left out just before this one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // why: serde's shape.
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Masks what nobody should read.
pub type Mask = fn(String) -> String;

/// The kept lines of all plugins. Cheap to clone.
#[derive(Clone)]
pub struct KeptLogs(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    queue: SyncSender<(String, Line, u64)>,
    rates: Mutex<HashMap<String, Credit>>,
}

/// What a name may still write, in thousandths of a line, and what was left out since its last line.
struct Credit {
    left: u64,
    counted: u64,
    left_out: u64,
}

impl KeptLogs {
    /// Makes the folder and starts the thread that writes.
    pub fn start(dir: PathBuf, mask: Mask) -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let (queue, lines) = sync_channel(QUEUE);
        let place = dir.clone();
        std::thread::Builder::new().name("plugin-logs".to_owned()).spawn(move || write_all(&place, &lines, mask))?;
        Ok(Self(Arc::new(Inner { dir, queue, rates: Mutex::default() })))
    }

    /// Hands a line over; never waits. `now` is boot milliseconds.
    pub(super) fn take(&self, name: &str, line: &Line, now: u64) {
        let mut rates = self.0.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if rates.len() >= FILES && !rates.contains_key(name) {
            // why all: names are few; who floods with them only loses count.
            rates.clear();
        }
        let c = rates.entry(name.to_owned()).or_insert(Credit { left: RATE * 1000, counted: now, left_out: 0 });
        c.left = c.left.saturating_add(now.saturating_sub(c.counted).saturating_mul(RATE)).min(RATE * 1000);
        c.counted = now;
        if c.left < 1000 || self.0.queue.try_send((name.to_owned(), line.clone(), c.left_out)).is_err() {
            c.left_out += 1;
            return;
        }
        c.left -= 1000;
        c.left_out = 0;
    }

    /// The newest lines of a name behind this number, oldest first; none where nothing was kept of it.
    pub fn read(&self, name: &str, after: u64, most: usize) -> Option<Vec<KeptLine>> {
        let (old, new) = paths(&self.0.dir, name);
        if !old.exists() && !new.exists() {
            return None;
        }
        let mut lines: Vec<KeptLine> = [old, new].iter().flat_map(|p| lines(p)).filter(|l| l.no > after).collect();
        lines.drain(..lines.len().saturating_sub(most));
        Some(lines)
    }
}

/// The file of a name that is full, and the one that is written.
fn paths(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    let file = if plain && !name.starts_with('.') && (1..=NAME).contains(&name.len()) {
        name.to_owned()
    } else {
        // A name that is no name of a file gets one; no plain name has its form.
        format!("_{}", &blake3::hash(name.as_bytes()).to_hex()[..32])
    };
    (dir.join(format!("{file}.old")), dir.join(format!("{file}.new")))
}

fn lines(path: &Path) -> Vec<KeptLine> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    // A line that was cut by the end of a daemon is none.
    BufReader::new(file.take(FILE * 2)).split(b'\n').map_while(Result::ok).filter_map(|l| serde_json::from_slice(&l).ok()).collect()
}

/// A file that is being written.
struct Open {
    file: File,
    size: u64,
    next: u64,
}

fn write_all(dir: &Path, queue: &Receiver<(String, Line, u64)>, mask: Mask) {
    let mut open: HashMap<String, Open> = HashMap::new();
    let mut failed = false;
    while let Ok((name, line, left_out)) = queue.recv() {
        if open.len() >= FILES && !open.contains_key(&name) {
            open.clear();
        }
        match write(dir, &mut open, &name, line, left_out, mask) {
            Ok(()) => failed = false,
            Err(e) => {
                open.remove(&name);
                // why once: a full disk would fill the daemon's log too.
                if !std::mem::replace(&mut failed, true) {
                    tracing::warn!(plugin = name, error = %e, "lines of a plugin's log are not kept");
                }
            }
        }
    }
}

fn write(dir: &Path, open: &mut HashMap<String, Open>, name: &str, line: Line, left_out: u64, mask: Mask) -> std::io::Result<()> {
    let (old, new) = paths(dir, name);
    let begin = |next| -> std::io::Result<Open> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(&new)?;
        let size = file.metadata()?.len();
        Ok(Open { file, size, next })
    };
    if !open.contains_key(name) {
        let newest = [&new, &old].into_iter().find_map(|p| lines(p).last().map(|l| l.no)).unwrap_or(0);
        if !new.exists() && !old.exists() {
            make_room(dir);
        }
        let mut begun = begin(newest + 1)?;
        // What a daemon that was killed left of a line must not spoil the next.
        begun.file.write_all(b"\n")?;
        open.insert(name.to_owned(), begun);
    }
    let Some(o) = open.get_mut(name) else { return Ok(()) };
    if o.size >= FILE {
        std::fs::rename(&new, &old)?;
        *o = begin(o.next)?;
    }
    let mut text = mask(line.text);
    text.truncate(text.floor_char_boundary(LINE));
    let kept = KeptLine { no: o.next, at: line.at, level: line.level, text, left_out };
    let mut bytes = serde_json::to_vec(&kept).map_err(std::io::Error::other)?;
    bytes.push(b'\n');
    o.file.write_all(&bytes)?;
    o.size += bytes.len() as u64;
    o.next += 1;
    Ok(())
}

/// Takes away the files that were silent longest, where a further name would be too many.
fn make_room(dir: &Path) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut all: Vec<_> = entries.filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path()))).collect();
    all.sort();
    let over = (all.len() + 2).saturating_sub(FILES * 2);
    for (_, path) in all.iter().take(over) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(text: String) -> String {
        text.replace("hunter2", "[masked]")
    }

    fn line(text: &str) -> Line {
        Line { at: 7, level: Level::Warn, text: text.to_owned() }
    }

    /// What is there once this many lines are, or as many as come within ten seconds.
    fn until(logs: &KeptLogs, name: &str, count: usize) -> Vec<KeptLine> {
        let begun = std::time::Instant::now();
        loop {
            let found = logs.read(name, 0, usize::MAX).unwrap_or_default();
            if found.len() >= count || begun.elapsed().as_secs() > 10 {
                return found;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn lines_outlive_who_wrote_them_and_go_on_counting() {
        let dir = tempfile::tempdir().unwrap();
        let logs = KeptLogs::start(dir.path().join("logs"), same).unwrap();
        assert_eq!(logs.read("p", 0, 9), None);
        logs.take("p", &line("one hunter2"), 0);
        assert_eq!(until(&logs, "p", 1)[0].text, "one [masked]");
        drop(logs);
        // A line that was cut.
        let file = dir.path().join("logs/p.new");
        let mut cut = OpenOptions::new().append(true).open(&file).unwrap();
        cut.write_all(b"{\"no\":2,\"at\":").unwrap();
        let logs = KeptLogs::start(dir.path().join("logs"), same).unwrap();
        logs.take("p", &line("two"), 0);
        let found = until(&logs, "p", 2);
        assert_eq!(found.iter().map(|l| (l.no, l.text.as_str())).collect::<Vec<_>>(), [(1, "one [masked]"), (2, "two")]);
        assert_eq!(logs.read("p", 1, 9).unwrap().len(), 1);
        assert_eq!(logs.read("p", 0, 1).unwrap()[0].no, 2);
        logs.take("../etc/x", &line("odd"), 0);
        assert_eq!(until(&logs, "../etc/x", 1).len(), 1);
        assert!(std::fs::read_dir(dir.path()).unwrap().count() == 1, "nothing outside its folder");
    }

    #[test]
    fn a_flood_is_cut_to_the_rate_and_files_to_their_size() {
        let dir = tempfile::tempdir().unwrap();
        let logs = KeptLogs::start(dir.path().to_owned(), same).unwrap();
        (0..RATE + 5).for_each(|_| logs.take("p", &line("x"), 0));
        logs.take("p", &line("later"), 1000);
        let found = until(&logs, "p", RATE as usize + 1);
        assert_eq!((found.len() as u64, found.last().unwrap().left_out), (RATE + 1, 5));
        let long = "y".repeat(LINE);
        for n in 0..800u64 {
            logs.take("p", &line(&long), 2000 + n * 10);
            // So that the queue never is full.
            if n % 100 == 99 {
                until(&logs, "p", 1);
            }
        }
        logs.take("p", &line("end"), 60_000);
        let begun = std::time::Instant::now();
        while logs.read("p", 0, 1).unwrap().last().is_none_or(|l| l.text != "end") && begun.elapsed().as_secs() < 10 {
            std::thread::yield_now();
        }
        let size = |f: &str| std::fs::metadata(dir.path().join(f)).unwrap().len();
        assert!(size("p.new") <= FILE + 2048 && size("p.old") <= FILE + 2048);
        assert!(until(&logs, "p", 1).len() >= 250, "the newest stay");
    }
}
