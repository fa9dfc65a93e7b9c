//! Checkpoints: the worktree of an attempt as a commit that no branch names, made without touching anything of the agent's.
//!
//! Git is run for its plumbing only, with a **private** repository folder of the host's own (its own configuration, index and attributes,
//! no hooks) that uses the objects of the real one. Of the real repository git is given the object folder and a copy of the index to read
//! names from; its `config`, hooks and attributes it never sees.
//!
//! Invariants:
//! - index, worktree, HEAD, branches, reflogs and stash of the repository stay byte for byte as they are; what is new are objects and one
//!   ref under `refs/beadle/`;
//! - nothing that the repository says is executed: no hook, filter, textconv, diff driver, fsmonitor, signing program, lazy fetch, pager
//!   (`.git/config` is the agent's to write); submodules are kept as the commit that the index names, and are never entered;
//!   what a sparse checkout leaves out stays as the index names it; nested
//!   repositories that are not tracked are left out;
//! - contents are kept byte for byte: no end of line is changed;
//! - bounded: files, bytes, time; over a bound there is no checkpoint, and the error says which;
//! - the ref is the repository's from then on: it stays when the session is removed (`git update-ref -d` takes it away), since what it
//!   names may be all that is left of somebody's work;
//! - the same worktree gives the same commit again, so that a daemon that died before it was on record makes no second one.
//!
//! Called by `ladder` (after an attempt), `Manager::checkpoint` (on the word of an operator) and `rollback` (restoring).

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::model::{AttemptCheckpointed, SessionId};

mod git;

use git::Git;

/// Most files of the worktree that are kept.
const FILES_MAX: usize = 200_000;
/// Most bytes of all files together.
const BYTES_MAX: u64 = 2 << 30;
/// Longest link file (`.git` of a linked worktree, `commondir`, a ref).
const LINK_MAX: u64 = 4096;
/// Largest index, list of packed refs or of ignored names that is read.
const FILE_MAX: u64 = 64 << 20;
/// Most files that are read with a split index.
const SHARED_MAX: usize = 4;
/// Most folders that are looked at on the way up.
const UP: usize = 64;

/// Why there is none, in words.
type Why = String;

/// A commit that nothing names yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Made {
    pub commit: String,
    pub tree: String,
    top: PathBuf,
    common: PathBuf,
}

/// A worktree and its repository, found without running git.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    top: PathBuf,
    /// Of this worktree: HEAD and index.
    own: PathBuf,
    /// Of all worktrees: objects and refs.
    common: PathBuf,
}

/// Makes the commit. `scratch` is a folder of the host's own that may be made and removed. Blocks, for a minute at most. `Ok(None)`: the
/// folder lies in no repository.
pub(super) fn make(cwd: &Path, scratch: &Path, id: &SessionId, attempt: u32, at: i64) -> Result<Option<Made>, Why> {
    let Some(place) = place(cwd)? else { return Ok(None) };
    let made = commit(&place, scratch, id, attempt, at);
    // why ignored: what is left goes with the session's folder.
    let _ = fs::remove_dir_all(scratch);
    made.map(Some)
}

fn commit(place: &Place, scratch: &Path, id: &SessionId, attempt: u32, at: i64) -> Result<Made, Why> {
    let head = head(place)?;
    let is_sha256 = head.as_ref().is_some_and(|h| h.len() == 64);
    let ignored = small(&place.common.join("info/exclude"), FILE_MAX).unwrap_or_default();
    let git = Git::new(scratch, &place.common.join("objects"), Some(&place.top), is_sha256, &ignored)?;
    let names = names(&git, place, scratch)?;
    let own_index = scratch.join("index");
    git.run(&["update-index", "--add", "-z", "--stdin"], Some(&own_index), &names.files)?;
    git.run(&["update-index", "-z", "--index-info"], Some(&own_index), &names.named)?;
    let args: &[&str] = if names.is_sparse { &["write-tree", "--missing-ok"] } else { &["write-tree"] };
    let tree = oid(&git.run(args, Some(&own_index), &[])?)?;
    let message = format!("Beadle: session {id}, attempt {attempt}\n");
    let mut args = vec!["commit-tree".to_owned(), tree.clone()];
    // why asked for: a shallow clone may name what it does not have.
    if let Some(head) = head.filter(|h| git.run(&["cat-file", "-e", &format!("{h}^{{commit}}")], None, &[]).is_ok()) {
        args.extend(["-p".to_owned(), head]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let commit = oid(&git.at(at).run(&args, None, message.as_bytes())?)?;
    Ok(Made { commit, tree, top: place.top.clone(), common: place.common.clone() })
}

/// Names the commit in the repository, so that it stays. The same again changes nothing.
pub(super) fn keep(made: &Made, id: &SessionId, attempt: u32) -> Result<AttemptCheckpointed, Why> {
    if made.common.join("reftable").exists() {
        return Err("the repository keeps its refs in a table, which is not written here".to_owned());
    }
    let reference = format!("refs/beadle/{id}/{attempt}");
    let refs = made.common.join("refs");
    let mut folder = refs.clone();
    for part in ["beadle", id.as_str()] {
        folder.push(part);
        match fs::create_dir(&folder) {
            Ok(()) => open_like(&refs, &folder),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(file("make", &folder, &e)),
        }
        // why: a link there would lead the ref elsewhere.
        if !fs::symlink_metadata(&folder).is_ok_and(|m| m.is_dir()) {
            return Err(format!("{} is not a folder", folder.display()));
        }
    }
    let draft = folder.join(format!(".{attempt}.draft"));
    let write = || -> std::io::Result<()> {
        let _ = fs::remove_file(&draft);
        let mut f = fs::OpenOptions::new().write(true).create_new(true).open(&draft)?;
        writeln!(f, "{}", made.commit)?;
        f.sync_all()?;
        open_like(&refs, &draft);
        fs::rename(&draft, folder.join(attempt.to_string()))?;
        fs::File::open(&folder)?.sync_all()
    };
    write().map_err(|e| file("write", &folder, &e))?;
    let (commit, tree) = (made.commit.clone(), made.tree.clone());
    Ok(AttemptCheckpointed { attempt, commit, reference, tree, cwd: made.top.display().to_string() })
}

/// What goes into the commit.
#[derive(Default)]
struct Names {
    /// Paths, each ended by a NUL.
    files: Vec<u8>,
    /// What is kept as the index names it, as `update-index --index-info` takes it: submodules, and what a sparse checkout leaves out.
    named: Vec<u8>,
    /// Some of it may be no object that is there: a partial clone fetches it when it is wanted.
    is_sparse: bool,
}

/// How `ls-files -t -s` begins a line: a letter and a blank, then the mode. The first is that of a submodule's line, the second that of one
/// that a sparse checkout leaves out of the worktree.
const TAG: usize = 2;
const MODULE: &[u8] = b"H 160000 ";
const SPARSE: &[u8] = b"S ";

/// The files beside a split index in which the rest of it lies. It names one; where more are found, they are four at most.
fn shared(own: &Path, index: &[u8]) -> Vec<std::ffi::OsString> {
    let is = |n: &std::ffi::OsString| n.as_bytes().starts_with(b"sharedindex.");
    let there: HashSet<_> = fs::read_dir(own).into_iter().flatten().flatten().take(100_000).map(|e| e.file_name()).filter(is).collect();
    let mut found = Vec::new();
    if there.is_empty() {
        return found;
    }
    // Signature, length, then the name as 20 or 32 bytes.
    for at in (0..index.len()).filter(|at| index[*at..].starts_with(b"link")) {
        let names = [20, 32].into_iter().filter_map(|len| index.get(at + 8..at + 8 + len));
        let names = names.map(|oid| oid.iter().fold("sharedindex.".to_owned(), |s, b| s + &format!("{b:02x}")));
        found.extend(names.map(std::ffi::OsString::from).filter(|n| there.contains(n)));
        if found.len() >= SHARED_MAX {
            break;
        }
    }
    found
}

/// Tracked names and those that are neither tracked nor ignored, without what is gone, no file, or behind a link.
fn names(git: &Git, place: &Place, scratch: &Path) -> Result<Names, Why> {
    let theirs = scratch.join("theirs");
    let index = place.own.join("index");
    if index.symlink_metadata().is_ok() {
        let copy = small(&index, FILE_MAX).ok_or_else(|| format!("the index {} is no file of at most 64 MiB", index.display()))?;
        fs::write(&theirs, &copy).map_err(|e| file("write", &theirs, &e))?;
        for name in shared(&place.own, &copy) {
            let bytes = small(&place.own.join(&name), FILE_MAX).ok_or("its shared index is no file of at most 64 MiB")?;
            let to = scratch.join(&name);
            fs::write(&to, bytes).map_err(|e| file("write", &to, &e))?;
        }
    }
    let tracked = git.run(&["ls-files", "-z", "-s", "-t"], Some(&theirs), &[])?;
    let others = git.run(&["ls-files", "-z", "-o", "--exclude-standard"], Some(&theirs), &[])?;
    let (mut out, mut look) = (Names::default(), Look { top: &place.top, folders: HashMap::new(), files: 0, bytes: 0 });
    for entry in tracked.split(|b| *b == 0).filter(|e| !e.is_empty()) {
        let at = entry.iter().position(|b| *b == b'\t').ok_or("git lists an entry without a name")?;
        let (head, path) = (&entry[..at], &entry[at + 1..]);
        let is_kept = !head.starts_with(MODULE) && look.is_kept(path)?;
        if is_kept {
            out.files.extend_from_slice(path);
            out.files.push(0);
        } else if head.starts_with(MODULE) || (head.starts_with(SPARSE) && look.is_left_out(path)) {
            out.named.extend_from_slice(&entry[TAG..]);
            out.named.push(0);
            out.is_sparse |= head.starts_with(SPARSE);
        }
        git.in_time()?;
    }
    for path in others.split(|b| *b == 0).filter(|e| !e.is_empty() && !e.ends_with(b"/")) {
        git.in_time()?;
        if look.is_kept(path)? {
            out.files.extend_from_slice(path);
            out.files.push(0);
        }
    }
    Ok(out)
}

struct Look<'a> {
    top: &'a Path,
    /// Whether a folder is one, and none above it is a link.
    folders: HashMap<PathBuf, bool>,
    files: usize,
    bytes: u64,
}

impl Look<'_> {
    fn is_kept(&mut self, path: &[u8]) -> Result<bool, Why> {
        let path = Path::new(OsStr::from_bytes(path));
        if !path.parent().is_none_or(|p| self.is_folder(p)) {
            return Ok(false);
        }
        let Ok(meta) = self.top.join(path).symlink_metadata() else { return Ok(false) };
        if !meta.is_file() && !meta.is_symlink() {
            return Ok(false);
        }
        self.files += 1;
        self.bytes = self.bytes.saturating_add(meta.len());
        if self.files > FILES_MAX {
            return Err(format!("the worktree has over {FILES_MAX} files that are not ignored"));
        }
        if self.bytes > BYTES_MAX {
            return Err(format!("the worktree's files that are not ignored have over {BYTES_MAX} bytes"));
        }
        Ok(true)
    }

    /// Nothing is in its place, nor in that of a folder above it.
    fn is_left_out(&mut self, path: &[u8]) -> bool {
        let path = Path::new(OsStr::from_bytes(path));
        let is_missing = |p: &Path| self.top.join(p).symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound);
        is_missing(path) && path.ancestors().skip(1).all(|d| self.is_folder(d) || is_missing(d))
    }

    fn is_folder(&mut self, dir: &Path) -> bool {
        if dir.as_os_str().is_empty() {
            return true;
        }
        if let Some(known) = self.folders.get(dir) {
            return *known;
        }
        let above = dir.parent().is_none_or(|p| self.is_folder(p));
        let is = above && self.top.join(dir).symlink_metadata().is_ok_and(|m| m.is_dir());
        self.folders.insert(dir.to_owned(), is);
        is
    }
}

/// Makes a new worktree at `to` with a checkpoint, detached. `to` is missing or an empty folder; the worktree that was kept is not touched.
pub(super) fn restore(kept: &AttemptCheckpointed, to: &Path, scratch: &Path, name: &str) -> Result<(), Why> {
    let place = place(Path::new(&kept.cwd))?.ok_or_else(|| format!("{} is in no repository any more", kept.cwd))?;
    match fs::symlink_metadata(to) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(file("look at", to, &e)),
        Ok(m) if !m.is_dir() => return Err(format!("{} is there and not a folder", to.display())),
        Ok(_) => match fs::read_dir(to).map(|mut d| d.next().is_some()) {
            Ok(false) => {}
            Ok(true) => return Err(format!("{} is not empty, and nothing in it is overwritten; name a new folder", to.display())),
            Err(e) => return Err(file("read", to, &e)),
        },
    }
    let is_new = !to.exists();
    let admin = admin(&place.common, name)?;
    let done = fill(kept, &place, &admin, to, scratch);
    let _ = fs::remove_dir_all(scratch);
    if done.is_err() {
        // why ignored: the error is told; what is left over is in no one's way.
        let _ = fs::remove_dir_all(&admin);
        if is_new {
            let _ = fs::remove_dir_all(to);
        }
    }
    done
}

/// The folder that git keeps of a linked worktree; the first name that is free.
fn admin(common: &Path, name: &str) -> Result<PathBuf, Why> {
    let all = common.join("worktrees");
    if !all.is_dir() {
        fs::create_dir(&all).map_err(|e| file("make", &all, &e))?;
        open_like(common, &all);
    }
    for n in 0..1_000 {
        let dir = all.join(if n == 0 { name.to_owned() } else { format!("{name}-{n}") });
        match fs::create_dir(&dir) {
            Ok(()) => {
                open_like(common, &dir);
                return Ok(dir);
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(file("make", &dir, &e)),
        }
    }
    Err(format!("{} has no free name", all.display()))
}

fn fill(kept: &AttemptCheckpointed, place: &Place, admin: &Path, to: &Path, scratch: &Path) -> Result<(), Why> {
    if !to.exists() {
        fs::create_dir_all(to).map_err(|e| file("make", to, &e))?;
        open_like(&place.top, to);
    }
    let to = &to.canonicalize().map_err(|e| file("resolve", to, &e))?;
    let write = |path: PathBuf, text: String| fs::write(&path, text).map_err(|e| file("write", &path, &e));
    let is_sha256 = head(place).ok().flatten().map_or(kept.commit.len(), |h| h.len()) == 64;
    let git = Git::new(scratch, &place.common.join("objects"), Some(to), is_sha256, &[])?;
    // why asked: a program that writes its own sessions may have named it in short, and HEAD takes no such name.
    let commit = oid(&git.run(&["rev-parse", "--verify", "--end-of-options", &format!("{}^{{commit}}", kept.commit)], None, &[])?)?;
    let index = admin.join("index");
    git.run(&["read-tree", &commit], Some(&index), &[])?;
    git.like(&place.top).run(&["checkout-index", "--all", "--index"], Some(&index), &[])?;
    write(admin.join("HEAD"), format!("{commit}\n"))?;
    write(admin.join("commondir"), "../..\n".to_owned())?;
    write(admin.join("gitdir"), format!("{}\n", to.join(".git").display()))?;
    write(to.join(".git"), format!("gitdir: {}\n", admin.display()))?;
    for made in ["index", "HEAD", "commondir", "gitdir"].map(|n| admin.join(n)) {
        open_like(&place.common, &made);
    }
    open_like(&place.top, &to.join(".git"));
    Ok(())
}

/// What is made in a repository, or beside it, is open to those to whom `model` is. The host's own umask lets nobody else in.
fn open_like(model: &Path, made: &Path) {
    let mode = |p: &Path| p.symlink_metadata().map(|m| (m.permissions().mode() & 0o777, m.is_dir()));
    if let (Ok((model, _)), Ok((_, is_dir))) = (mode(model), mode(made)) {
        let mode = if is_dir { model } else { model & 0o666 };
        // why ignored: then it stays the host's own.
        let _ = fs::set_permissions(made, fs::Permissions::from_mode(mode));
    }
}

fn place(cwd: &Path) -> Result<Option<Place>, Why> {
    let Some(top) = cwd.ancestors().take(UP).find(|d| d.join(".git").symlink_metadata().is_ok()) else { return Ok(None) };
    let dot = top.join(".git");
    let own = if dot.is_dir() {
        dot
    } else {
        let text = small(&dot, LINK_MAX).and_then(|t| String::from_utf8(t).ok()).unwrap_or_default();
        let named = text.strip_prefix("gitdir:").map(str::trim).filter(|n| !n.is_empty());
        top.join(named.ok_or_else(|| format!("{} names no repository", dot.display()))?)
    };
    let common = match small(&own.join("commondir"), LINK_MAX).and_then(|t| String::from_utf8(t).ok()) {
        Some(text) => own.join(text.trim()),
        None => own.clone(),
    };
    let whole = |p: &Path| p.canonicalize().map_err(|e| file("resolve", p, &e));
    let (own, common) = (whole(&own)?, whole(&common)?);
    if !common.join("objects").is_dir() {
        return Err(format!("{} is not a repository", common.display()));
    }
    Ok(Some(Place { top: top.to_owned(), own, common }))
}

/// The commit that HEAD names; none before the first.
fn head(place: &Place) -> Result<Option<String>, Why> {
    let read = |p: &Path| small(p, LINK_MAX).and_then(|t| String::from_utf8(t).ok()).map(|t| t.trim().to_owned());
    let mut text = read(&place.own.join("HEAD")).ok_or("its HEAD cannot be read")?;
    // A ref may name another one; git stops at five, too.
    for _ in 0..5 {
        if is_oid(&text) {
            return Ok(Some(text));
        }
        let Some(name) = text.strip_prefix("ref: ").map(str::trim).filter(|n| n.starts_with("refs/") && !n.contains("..")) else {
            return Err("its HEAD is not understood".to_owned());
        };
        match read(&place.common.join(name)) {
            Some(next) => text = next,
            None => return Ok(packed(&place.common, name)),
        }
    }
    Err("its HEAD leads in a circle".to_owned())
}

fn packed(common: &Path, name: &str) -> Option<String> {
    let list = small(&common.join("packed-refs"), FILE_MAX)?;
    let find = |line: &[u8]| {
        let (oid, of) = std::str::from_utf8(line).ok()?.split_once(' ')?;
        (of == name && is_oid(oid)).then(|| oid.to_owned())
    };
    list.split(|b| *b == b'\n').find_map(find)
}

fn is_oid(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn oid(out: &[u8]) -> Result<String, Why> {
    let text = std::str::from_utf8(out).unwrap_or_default().trim();
    if is_oid(text) { Ok(text.to_owned()) } else { Err("git gave no object id".to_owned()) }
}

/// A regular file of at most `max` bytes, opened without waiting.
fn small(path: &Path, max: u64) -> Option<Vec<u8>> {
    let f = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY).open(path).ok()?;
    let meta = f.metadata().ok()?;
    if !meta.is_file() || meta.len() > max {
        return None;
    }
    let mut bytes = Vec::new();
    f.take(max).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn file(verb: &str, path: &Path, e: &std::io::Error) -> Why {
    format!("cannot {verb} {} ({e})", path.display())
}

#[cfg(test)]
mod tests;
