//! Files of a session's folder as context, read when a prompt is given.
//!
//! Invariants:
//! - a file is opened beneath the folder by the kernel, so no link leads out of it, whenever it is put there; what it is, and where, is
//!   looked at on that descriptor, and only then it is read: a device, a FIFO or a socket is never opened;
//! - Beadle's own folders, files that look like secrets, and files that a policy of the session denies, or asks about, are left out, and
//!   said so;
//! - entries looked at, files and bytes are capped; a pattern follows no link to a folder.
//!
//! Called by `context`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;
use serde_json::json;

use super::secret::{glob, looks_secret};
use super::{LEFT_OUT_MAX, Piece, WHY_MAX, to_a_word};
use crate::model::{By, Channel, Effect, Session};
use crate::policy::Chain;
use crate::policy::call::{CallInput, build};
use crate::policy::paths::RealPaths;
use crate::session::{Inner, live};

/// What is read beyond a cap.
pub(super) const SLACK: usize = 8 << 10;
/// Most files of one provider.
const FILES_MAX: usize = 64;
/// Most files that one pattern gives.
const NAMES_MAX: usize = FILES_MAX * 4;
/// Most entries of folders that patterns look at, and how deep `**` goes.
const ENTRIES_MAX: usize = 10_000;
const DEPTH_MAX: usize = 16;
const DEEP: &str = "**";

/// A file that was opened and read.
struct Found {
    /// Below the folder, as it was found.
    name: String,
    /// Where it lies.
    real: String,
    text: String,
    cut: bool,
}

pub(super) async fn read(inner: &Arc<Inner>, chain: &Chain, session: &Session, paths: Vec<String>, most: usize) -> Result<Piece, String> {
    let root = PathBuf::from(&session.cwd);
    let own = inner.own.clone();
    let looked = tokio::task::spawn_blocking(move || look(&root, &paths, most, &|p| own.holds(p)));
    let (found, mut left_out, over) = looked.await.map_err(|e| e.to_string())??;
    let mut piece = Piece { cut: over, ..Piece::default() };
    for f in found {
        // why both: what was read lies there, and a rule may name the link.
        let named = format!("{}/{}", session.cwd.trim_end_matches('/'), f.name);
        let mut why = denied(inner, chain, session, &named).await;
        if why.is_none() && f.real != named {
            why = denied(inner, chain, session, &f.real).await;
        }
        if let Some(why) = why {
            left_out.push(format!("{}: {why}", f.name));
            continue;
        }
        piece.cut |= f.cut;
        let mark = if f.cut { " (its beginning)" } else { "" };
        piece.text.push_str(&format!("--- {}{mark}\n{}\n", f.name, f.text.trim_end()));
    }
    left_out.truncate(LEFT_OUT_MAX);
    if piece.text.is_empty() && !left_out.is_empty() {
        return Err(format!("no file could be given: {}", left_out.join("; ")));
    }
    piece.left_out = left_out.into_iter().map(|l| live::cut(&l, WHY_MAX)).collect();
    Ok(piece)
}

/// Why a policy of the session lets its agent not read a file, or not before a person says so: nobody is asked here.
async fn denied(inner: &Inner, chain: &Chain, session: &Session, path: &str) -> Option<String> {
    let input = json!({ "file_path": path });
    let asked = CallInput {
        agent: &session.agent,
        tool: "Read",
        input: &input,
        cwd: &session.cwd,
        write_root: session.write_root.as_deref(),
        home: session.home.as_deref(),
        call_id: None,
        parent_call_id: None,
        sub_agent: None,
        channel: Channel::Driver,
    };
    let call = build(&asked, &RealPaths);
    if let Some(why) = inner.own.check(&call) {
        return Some(why);
    }
    // why without what policies keep: this is no call of the agent, and counts as none.
    let chain = Chain { states: None, ..chain.clone() };
    let judged = chain.judge(session, &call, inner.clock.wall_ms(), &|_| Err("a read is not changed here".to_owned())).await;
    let why = |reason: String| match judged.effect {
        Effect::Deny => Some(reason),
        Effect::Ask => Some(format!("a person must allow that it is read: {reason}")),
        Effect::Allow | Effect::Abstain => None,
    };
    if judged.by == By::Policy { why(judged.reason.clone()) } else { None }
}

type Looked = (Vec<Found>, Vec<String>, bool);

/// Every file that fits, in the order of the paths; what was left out, and whether there were too many.
fn look(root: &Path, paths: &[String], most: usize, own: &dyn Fn(&Path) -> bool) -> Result<Looked, String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat2(CWD, root, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS);
    let folder = folder.map_err(|e| format!("the session's folder {} cannot be opened: {e}", root.display()))?;
    let (mut found, mut left_out, mut over) = (Vec::new(), Vec::new(), false);
    let (mut seen, mut entries, mut room) = (BTreeSet::new(), 0, most);
    for path in paths {
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
        let plain = !parts.iter().any(|p| p.contains(['*', '?']));
        let mut names = Vec::new();
        if plain {
            names.push(parts.join("/"));
        } else {
            walk(root, "", &parts, 0, &mut entries, &mut names);
            names.sort();
            over |= entries >= ENTRIES_MAX || names.len() >= NAMES_MAX;
        }
        for name in names {
            if !seen.insert(name.clone()) {
                continue;
            }
            if found.len() >= FILES_MAX || room == 0 {
                over = true;
                continue;
            }
            match one(&folder, &name, room, own) {
                Ok(Some(f)) => {
                    room = if f.cut { 0 } else { room.saturating_sub(f.text.len()) };
                    found.push(f);
                }
                // why silent: a pattern fits folders, too.
                Ok(None) if !plain => {}
                Ok(None) => left_out.push(format!("{name}: it is no regular file")),
                Err(why) => left_out.push(format!("{name}: {why}")),
            }
        }
    }
    Ok((found, left_out, over))
}

/// Names below a folder that fit a pattern. Links to folders are not followed; names with a dot need a pattern with one.
fn walk(root: &Path, at: &str, parts: &[&str], depth: usize, entries: &mut usize, out: &mut Vec<String>) {
    let Some((part, rest)) = parts.split_first() else { return };
    if depth > DEPTH_MAX || out.len() >= NAMES_MAX {
        return;
    }
    let join = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") };
    if *part == DEEP {
        // No folder at all, too; at the end it stands for every file.
        let files: &[&str] = &["*"];
        walk(root, at, if rest.is_empty() { files } else { rest }, depth, entries, out);
    } else if !part.contains(['*', '?']) {
        let next = join(part);
        match std::fs::symlink_metadata(root.join(&next)) {
            Ok(_) if rest.is_empty() => out.push(next),
            Ok(m) if m.is_dir() => walk(root, &next, rest, depth + 1, entries, out),
            _ => {}
        }
        return;
    }
    for entry in std::fs::read_dir(root.join(at)).into_iter().flatten().flatten() {
        *entries += 1;
        if *entries >= ENTRIES_MAX || out.len() >= NAMES_MAX {
            return;
        }
        let Ok(name) = entry.file_name().into_string() else { continue };
        let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
        let hidden = name.starts_with('.') && !part.starts_with('.');
        if *part == DEEP {
            if is_dir && !hidden {
                walk(root, &join(&name), parts, depth + 1, entries, out);
            }
        } else if !hidden && glob::fits(part, &name, false) {
            match rest.is_empty() {
                true if !is_dir => out.push(join(&name)),
                false if is_dir => walk(root, &join(&name), rest, depth + 1, entries, out),
                _ => {}
            }
        }
    }
}

/// Opens and reads one file; None where it is none.
fn one(folder: &OwnedFd, name: &str, room: usize, own: &dyn Fn(&Path) -> bool) -> Result<Option<Found>, String> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    let place = loop {
        match openat2(folder, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), beneath) {
            Ok(fd) => break fd,
            // why again: the kernel says so where a folder was moved while it looked.
            Err(Errno::AGAIN) if tries < 8 => tries += 1,
            Err(Errno::XDEV | Errno::LOOP) => return Err("it leads out of the session's folder".to_owned()),
            Err(Errno::NOENT) => return Err("it is not there".to_owned()),
            Err(e) => return Err(e.to_string()),
        }
    };
    let link = format!("/proc/self/fd/{}", place.as_raw_fd());
    let real = std::fs::read_link(&link).map_err(|e| e.to_string())?;
    if own(&real) {
        return Err("it lies in one of Beadle's own folders".to_owned());
    }
    // why both: a link of a plain name may lead to a secret one, and the other way round.
    let real = real.to_string_lossy().into_owned();
    for path in [&real, &format!("/{name}")] {
        if let Some(pattern) = looks_secret(path) {
            return Err(format!("it looks like a secret ({pattern})"));
        }
    }
    if FileType::from_raw_mode(fstat(&place).map_err(|e| e.to_string())?.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = openat(CWD, link.as_str(), flags, Mode::empty()).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    File::from(file).take(room as u64 + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    let cut = bytes.len() > room;
    bytes.truncate(room);
    if bytes.contains(&0) {
        return Err("it is no text".to_owned());
    }
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if cut {
        to_a_word(&mut text);
    }
    Ok(Some(Found { name: name.to_owned(), real, text, cut }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: &str| dir.path().join("w").join(n);
        for d in ["docs/deep", ".git", "own"] {
            std::fs::create_dir_all(at(d)).unwrap();
        }
        for (name, text) in [
            ("a.md", "A\n"),
            ("b.txt", "B\n"),
            ("docs/c.md", "C\n"),
            ("docs/deep/d.md", "D\n"),
            (".git/e.md", "E\n"),
            (".env", "K=1\n"),
            ("own/log.md", "L\n"),
            ("bin.md", "x\0y"),
        ] {
            std::fs::write(at(name), text).unwrap();
        }
        std::fs::write(dir.path().join("outside.md"), "OUT\n").unwrap();
        symlink("../outside.md", at("up.md")).unwrap();
        symlink("/etc/hostname", at("absolute.md")).unwrap();
        symlink("a.md", at("fine.md")).unwrap();
        symlink(".env", at("plain.md")).unwrap();
        symlink("..", at("out")).unwrap();
        dir
    }

    fn looked(dir: &tempfile::TempDir, paths: &[&str], most: usize) -> (Vec<String>, Vec<String>) {
        let (root, own) = (dir.path().join("w"), dir.path().canonicalize().unwrap().join("w/own"));
        let paths: Vec<String> = paths.iter().map(|p| (*p).to_owned()).collect();
        let (found, left, _) = look(&root, &paths, most, &|p| p.starts_with(&own)).unwrap();
        (found.into_iter().map(|f| f.name).collect(), left)
    }

    #[test]
    fn files_are_found_by_path_and_pattern_below_the_folder_only() {
        let d = dir();
        assert_eq!(looked(&d, &["a.md", "./docs/c.md", "fine.md"], 100).0, ["a.md", "docs/c.md", "fine.md"]);
        let (found, left) = looked(&d, &["*.md"], 100);
        assert_eq!(found, ["a.md", "fine.md"]);
        for (name, why) in [("up.md", "leads out"), ("absolute.md", "leads out"), ("plain.md", "a secret"), ("bin.md", "no text")] {
            assert!(left.iter().any(|l| l.starts_with(name) && l.contains(why)), "{name}: {left:?}");
        }
        let (found, left) = looked(&d, &["**/*.md"], 100);
        assert_eq!(found, ["a.md", "docs/c.md", "docs/deep/d.md", "fine.md"], "neither .git nor what is the host's own");
        assert!(left.iter().any(|l| l.starts_with("own/log.md") && l.contains("own folders")), "{left:?}");
        assert_eq!(looked(&d, &["docs/**"], 100).0, ["docs/c.md", "docs/deep/d.md"]);
        for bad in ["out/outside.md", ".env", "nowhere", "docs", "up.md"] {
            let (found, left) = looked(&d, &[bad], 100);
            assert!(found.is_empty() && left.len() == 1, "{bad}: {found:?} {left:?}");
        }
    }

    #[test]
    fn no_more_is_read_than_there_is_room_for() {
        let d = dir();
        std::fs::write(d.path().join("w/long"), "word ".repeat(10_000)).unwrap();
        let paths = ["long".to_owned(), "a.md".to_owned()];
        let (found, _, over) = look(&d.path().join("w"), &paths, 12, &|_| false).unwrap();
        assert_eq!((found.len(), found[0].text.as_str(), found[0].cut, over), (1, "word word", true, true));
        for n in 0..2 * NAMES_MAX {
            std::fs::write(d.path().join(format!("w/docs/n{n}.bin")), "\0").unwrap();
        }
        let (found, left, over) = look(&d.path().join("w"), &["docs/*.bin".to_owned()], 12, &|_| false).unwrap();
        assert_eq!((found.len(), left.len(), over), (0, NAMES_MAX, true));
    }
}
