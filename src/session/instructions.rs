//! The repository's own instructions to its agent, read by the host so that nothing outside the workspace can be drawn in.
//!
//! An agent whose settings sources are cut reads no CLAUDE.md; the host hands the text over instead. A repository is not
//! trusted with that: a CLAUDE.md that is a symlink, or imports one, would carry a secret to the model.
//!
//! Invariants:
//! - every file is opened beneath the workspace with no symlink followed at any step (`openat2`, `RESOLVE_BENEATH |
//!   RESOLVE_NO_SYMLINKS`), and is a regular file by its descriptor;
//! - what is read is bounded: [`TOTAL_MAX`] bytes, [`FILES_MAX`] files, [`DEPTH_MAX`] imports deep; a file is taken whole or
//!   not at all;
//! - what was left out is said, with the reason.
//!
//! Called by `session` when it starts an agent. Does I/O; the sizes make it short enough for any thread.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Text taken from all files together, in bytes.
pub const TOTAL_MAX: usize = 64 * 1024;
/// Files read.
pub const FILES_MAX: usize = 64;
/// Imports of imports followed.
pub const DEPTH_MAX: usize = 5;
/// Entries of [`Instructions::skipped`]; later ones are dropped.
pub const SKIPPED_MAX: usize = 64;
/// Folders between the working directory and the workspace's root.
const ANCESTORS_MAX: usize = 64;

/// Names in each folder, in the order in which the agent itself would read them.
const NAMES: [&str; 3] = ["CLAUDE.md", ".claude/CLAUDE.md", "CLAUDE.local.md"];

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Instructions {
    /// The files' text under a heading each, outermost folder first; `None` when there is none.
    pub text: Option<String>,
    /// The workspace's root: the nearest folder with a `.git`, else the working directory.
    pub root: PathBuf,
    /// Files read, relative to `root`.
    pub files: Vec<String>,
    pub skipped: Vec<Skipped>,
}

/// A file that exists, or an import that points outside, and was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// As named, relative to the root where it lies beneath it.
    pub path: String,
    pub why: &'static str,
}

/// Reads the instructions that hold for `cwd`. Missing files are no error; whatever cannot be read safely is skipped.
pub fn read(cwd: &Path) -> Instructions {
    let Ok(cwd) = cwd.canonicalize() else { return Instructions::default() };
    let root = workspace(&cwd);
    let mut reader =
        Reader { out: Instructions { root: root.clone(), ..Default::default() }, text: String::new(), seen: HashSet::new(), root: None };
    match rustix::fs::open(&root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => reader.root = Some(fd),
        Err(_) => reader.skip(".", "the workspace cannot be opened"),
    }
    let below = cwd.strip_prefix(&root).unwrap_or(Path::new(""));
    let mut folder = PathBuf::new();
    let mut folders = vec![folder.clone()];
    for part in below.components() {
        folder.push(part);
        folders.push(folder.clone());
    }
    for folder in folders {
        for name in NAMES {
            reader.file(&folder.join(name), 0);
        }
    }
    let Reader { mut out, text, .. } = reader;
    if !text.is_empty() {
        let heading = "# Project instructions\n\nThe repository's own instructions for working in it, as its files have them:\n";
        out.text = Some(format!("{heading}{text}"));
    }
    out
}

/// The nearest folder at or above `cwd` that holds `.git`, as long as all folders on the way belong to the owner of `cwd`
/// (a `.git` that somebody else put into a shared folder makes no workspace).
fn workspace(cwd: &Path) -> PathBuf {
    let owner = |p: &Path| p.symlink_metadata().ok().map(|m| m.uid());
    let mine = owner(cwd);
    for folder in cwd.ancestors().take(ANCESTORS_MAX) {
        if mine.is_none() || owner(folder) != mine {
            break;
        }
        if folder.join(".git").symlink_metadata().is_ok() {
            return folder.to_path_buf();
        }
    }
    cwd.to_path_buf()
}

struct Reader {
    out: Instructions,
    text: String,
    seen: HashSet<PathBuf>,
    root: Option<OwnedFd>,
}

impl Reader {
    fn skip(&mut self, path: impl AsRef<Path>, why: &'static str) {
        if self.out.skipped.len() < SKIPPED_MAX {
            let path = path.as_ref().to_string_lossy().chars().take(256).collect();
            self.out.skipped.push(Skipped { path, why });
        }
    }

    /// Takes one file and then its imports. `path` is relative to the root and lexically normal.
    fn file(&mut self, path: &Path, depth: usize) {
        if !self.seen.insert(path.to_path_buf()) {
            return;
        }
        let body = match self.contents(path) {
            Ok(Some(body)) => body,
            Ok(None) => return,
            Err(why) => return self.skip(path, why),
        };
        if body.trim().is_empty() {
            return;
        }
        // why: writing to a string cannot fail.
        let _ = write!(self.text, "\n## {}\n\n{}\n", path.display(), body.trim_end());
        self.out.files.push(path.to_string_lossy().into_owned());
        for import in imports(&body) {
            match beneath(path, &self.out.root, &import) {
                Some(target) if depth < DEPTH_MAX => self.file(&target, depth + 1),
                Some(target) => self.skip(target, "imported too deep"),
                None => self.skip(import, "imported from outside the workspace"),
            }
        }
    }

    /// The file's text; `None` when there is no such file.
    fn contents(&self, path: &Path) -> Result<Option<String>, &'static str> {
        let Some(root) = &self.root else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let fd = match rustix::fs::openat2(root.as_fd(), path, flags, Mode::empty(), resolve) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => return Ok(None),
            Err(Errno::LOOP) => return Err("a symlink"),
            Err(Errno::XDEV) => return Err("outside the workspace"),
            Err(Errno::ACCESS) => return Err("not readable"),
            Err(Errno::NOSYS | Errno::PERM) => return Err("this system has no openat2, so it cannot be read safely"),
            Err(_) => return Err("cannot be opened"),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|_| "cannot be examined")?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err("not a regular file");
        }
        if self.out.files.len() >= FILES_MAX {
            return Err("over the cap of 64 files");
        }
        let left = TOTAL_MAX.saturating_sub(self.text.len());
        let mut bytes = Vec::new();
        // why: one byte more than is left shows that the file does not fit, whatever its size says.
        let limit = u64::try_from(left).unwrap_or(u64::MAX).saturating_add(1);
        std::fs::File::from(fd).take(limit).read_to_end(&mut bytes).map_err(|_| "cannot be read")?;
        if bytes.len() > left {
            return Err("over the cap of 64 KiB for all instructions together");
        }
        String::from_utf8(bytes).map(Some).map_err(|_| "not UTF-8")
    }
}

/// What `@path` words of a text name, in order, code spans and fenced blocks left out.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        let start = line.trim_start();
        if start.starts_with("```") || start.starts_with("~~~") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            continue;
        }
        let outside_spans: String = line.split('`').step_by(2).collect::<Vec<_>>().join("\u{0}");
        for word in outside_spans.split_whitespace() {
            let Some(path) = word.strip_prefix('@') else { continue };
            let path = path.trim_end_matches([',', ';', ':', '!', '?', ')', '"', '\'']);
            if path.starts_with(|c: char| c.is_ascii_alphanumeric() || "./~_-".contains(c)) && !path.contains('\u{0}') {
                found.push(path.to_owned());
            }
        }
    }
    found
}

/// Where an import of the file `from` leads, relative to the root, or `None` when that is not beneath it.
fn beneath(from: &Path, root: &Path, import: &str) -> Option<PathBuf> {
    if import.starts_with('~') {
        return None;
    }
    let import = Path::new(import);
    let joined = if import.is_absolute() {
        import.strip_prefix(root).ok()?.to_path_buf()
    } else {
        from.parent().unwrap_or(Path::new("")).join(import)
    };
    let mut normal = PathBuf::new();
    for part in joined.components() {
        match part {
            Component::Normal(p) => normal.push(p),
            Component::CurDir => {}
            Component::ParentDir => {
                if !normal.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!normal.as_os_str().is_empty()).then_some(normal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Ws(tempfile::TempDir);

    impl Ws {
        fn new() -> Self {
            let d = tempfile::tempdir().expect("a folder");
            std::fs::create_dir_all(d.path().join("ws/.git")).expect("a folder");
            std::fs::write(d.path().join("secret"), "TOPSECRET").expect("a file");
            Self(d)
        }

        fn path(&self, p: &str) -> PathBuf {
            self.0.path().canonicalize().expect("a path").join("ws").join(p)
        }

        fn write(&self, p: &str, text: impl AsRef<[u8]>) {
            let p = self.path(p);
            std::fs::create_dir_all(p.parent().expect("a parent")).expect("a folder");
            std::fs::write(p, text).expect("a file");
        }

        fn read(&self, cwd: &str) -> Instructions {
            let i = read(&self.path(cwd));
            assert!(!i.text.as_deref().unwrap_or_default().contains("TOPSECRET"));
            i
        }
    }

    fn skipped(i: &Instructions) -> Vec<(&str, &str)> {
        i.skipped.iter().map(|s| (s.path.as_str(), s.why)).collect()
    }

    #[test]
    fn files_from_the_root_down_with_their_imports() {
        let ws = Ws::new();
        ws.write("CLAUDE.md", "root text, see @docs/a.md and @someone, not `@docs/no.md`\n```\n@docs/no.md\n```\n");
        ws.write("docs/a.md", "imported @b.md @../CLAUDE.md");
        ws.write("docs/b.md", "deeper");
        ws.write("docs/no.md", "NOT WANTED");
        ws.write("sub/.claude/CLAUDE.md", "sub text");
        ws.write("other/CLAUDE.md", "NOT WANTED");
        let i = ws.read("sub");
        assert_eq!(i.files, ["CLAUDE.md", "docs/a.md", "docs/b.md", "sub/.claude/CLAUDE.md"]);
        assert_eq!(i.root, ws.path(""));
        assert!(skipped(&i).is_empty(), "{:?}", i.skipped);
        let text = i.text.expect("text");
        assert!(!text.contains("NOT WANTED"));
        let at = |s: &str| text.find(s).expect(s);
        assert!(at("root text") < at("imported") && at("imported") < at("deeper") && at("deeper") < at("sub text"));
    }

    #[test]
    fn no_way_leads_out_of_the_workspace() {
        let ws = Ws::new();
        let secret = ws.0.path().join("secret");
        symlink(&secret, ws.path("CLAUDE.md")).expect("a link");
        symlink(ws.0.path(), ws.path("up")).expect("a link");
        symlink("inner.md", ws.path("link.md")).expect("a link");
        ws.write("inner.md", "inner");
        let text = format!(
            "@../secret @{} @~/secret @/etc/hostname @up/secret @link.md @sub/../../secret @/proc/self/environ @inner.md",
            secret.display()
        );
        ws.write("CLAUDE.local.md", text);
        let i = ws.read("");
        assert_eq!(i.files, ["CLAUDE.local.md", "inner.md"]);
        let s = skipped(&i);
        for want in [
            ("CLAUDE.md", "a symlink"),
            ("up/secret", "a symlink"),
            ("link.md", "a symlink"),
            ("../secret", "imported from outside the workspace"),
            ("~/secret", "imported from outside the workspace"),
        ] {
            assert!(s.contains(&want), "{want:?} not in {s:?}");
        }
        assert_eq!(s.len(), 9);
    }

    #[test]
    fn a_symlinked_folder_of_instructions_is_refused() {
        let ws = Ws::new();
        std::fs::create_dir(ws.0.path().join("evil")).expect("a folder");
        std::fs::write(ws.0.path().join("evil/CLAUDE.md"), "TOPSECRET").expect("a file");
        symlink(ws.0.path().join("evil"), ws.path(".claude")).expect("a link");
        let i = ws.read("");
        assert_eq!((i.text.is_none(), skipped(&i)), (true, vec![(".claude/CLAUDE.md", "a symlink")]));
    }

    #[test]
    fn odd_files_and_sizes() {
        let ws = Ws::new();
        ws.write("CLAUDE.md", vec![b'x'; TOTAL_MAX + 1]);
        ws.write(".claude/CLAUDE.md", b"\xff\xfe");
        rustix::fs::mkfifoat(rustix::fs::CWD, ws.path("CLAUDE.local.md"), Mode::from_raw_mode(0o600)).expect("a fifo");
        let i = ws.read("");
        assert_eq!(
            skipped(&i),
            [
                ("CLAUDE.md", "over the cap of 64 KiB for all instructions together"),
                (".claude/CLAUDE.md", "not UTF-8"),
                ("CLAUDE.local.md", "not a regular file"),
            ]
        );
        assert!(i.text.is_none());
        assert_eq!(read(Path::new("/does/not/exist")), Instructions::default());
    }

    #[test]
    fn chains_and_crowds_are_cut() {
        let ws = Ws::new();
        ws.write("CLAUDE.md", "@d0.md");
        for n in 0..20 {
            ws.write(&format!("d{n}.md"), format!("level {n} @d{}.md", n + 1));
        }
        let i = ws.read("");
        assert_eq!(i.files.len(), 1 + DEPTH_MAX);
        assert_eq!(skipped(&i), [("d5.md", "imported too deep")]);

        let ws = Ws::new();
        let many: String = (0..200).map(|n| format!("@c{n}.md ")).collect();
        ws.write("CLAUDE.md", many);
        for n in 0..200 {
            ws.write(&format!("c{n}.md"), "x");
        }
        let i = ws.read("");
        assert_eq!((i.files.len(), i.skipped.len()), (FILES_MAX, SKIPPED_MAX));
        assert!(i.text.is_some_and(|t| t.len() <= TOTAL_MAX + 1024));
    }

    #[test]
    fn without_a_repository_the_working_directory_is_the_workspace() {
        let d = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(d.path().join("a/b")).expect("a folder");
        std::fs::write(d.path().join("a/CLAUDE.md"), "above").expect("a file");
        std::fs::write(d.path().join("a/b/CLAUDE.md"), "here").expect("a file");
        let i = read(&d.path().join("a/b"));
        assert_eq!(i.files, ["CLAUDE.md"]);
        assert!(i.text.is_some_and(|t| t.contains("here") && !t.contains("above")));
    }
}
