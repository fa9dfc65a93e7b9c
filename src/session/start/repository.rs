//! The repository that a folder lies in, read from git's own files: no git is run, so nothing of the repository is.
//!
//! Invariants: what is read is at most [`MAX`] bytes of a regular file, opened without waiting (a pipe in its place holds nothing up); what
//! is kept has the form of a branch's name or a commit, whatever else stands there is left out.
//!
//! Called by `start`.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::model::Repository;

/// Most bytes of `.git` or `HEAD` that are read.
const MAX: u64 = 4096;
/// Most folders that are looked at on the way up.
const UP: usize = 64;
/// Longest branch in bytes.
const BRANCH_MAX: usize = 255;

/// `None` where no folder up to the root has a `.git`.
pub(in crate::session) fn of(cwd: &Path) -> Option<Repository> {
    let root = cwd.ancestors().take(UP).find(|d| d.join(".git").symlink_metadata().is_ok())?;
    let head = git_dir(root).and_then(|d| small(&d.join("HEAD")));
    let (branch, commit) = head.as_deref().map_or((None, None), parse);
    Some(Repository { root: root.to_str()?.to_owned(), branch, commit })
}

/// `.git` itself, or the folder that the file of a work tree names.
fn git_dir(root: &Path) -> Option<PathBuf> {
    let dot = root.join(".git");
    if dot.is_dir() {
        return Some(dot);
    }
    let text = small(&dot)?;
    let named = text.strip_prefix("gitdir:")?.trim();
    (!named.is_empty()).then(|| root.join(named))
}

fn small(path: &Path) -> Option<String> {
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Branch, else commit.
fn parse(head: &str) -> (Option<String>, Option<String>) {
    let line = head.lines().next().unwrap_or_default().trim_end();
    if let Some(branch) = line.strip_prefix("ref: refs/heads/") {
        return (is_branch(branch).then(|| branch.to_owned()), None);
    }
    let is_commit = matches!(line.len(), 40 | 64) && line.bytes().all(|b| b.is_ascii_hexdigit());
    (None, is_commit.then(|| line.to_owned()))
}

/// The rules of git-check-ref-format that keep a name from being anything else.
fn is_branch(name: &str) -> bool {
    let bad = |c: char| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\');
    let parts_good = name.split('/').all(|p| !p.is_empty() && !p.starts_with('.') && !p.ends_with(".lock"));
    name.len() <= BRANCH_MAX && parts_good && !name.contains("..") && !name.contains("@{") && !name.ends_with('.') && !name.contains(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn at(dir: &Path) -> Option<(Option<String>, Option<String>)> {
        of(dir).map(|r| (r.branch, r.commit))
    }

    #[test]
    fn branch_and_commit_are_read_from_below_and_from_a_work_tree() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let deep = root.join("repo/a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::create_dir_all(root.join("repo/.git")).unwrap();
        fs::write(root.join("repo/.git/HEAD"), "ref: refs/heads/feature/one\n").unwrap();
        let found = of(&deep).unwrap();
        assert_eq!((found.root, found.branch.as_deref()), (root.join("repo").display().to_string(), Some("feature/one")));
        let commit = "0123456789abcdef0123456789abcdef01234567";
        fs::write(root.join("repo/.git/HEAD"), format!("{commit}\n")).unwrap();
        assert_eq!(at(&deep), Some((None, Some(commit.to_owned()))));
        let tree = root.join("tree");
        let admin = root.join("repo/.git/worktrees/tree");
        fs::create_dir_all(&tree).unwrap();
        fs::create_dir_all(&admin).unwrap();
        fs::write(tree.join(".git"), format!("gitdir: {}\n", admin.display())).unwrap();
        fs::write(admin.join("HEAD"), "ref: refs/heads/side\n").unwrap();
        assert_eq!(at(&tree), Some((Some("side".to_owned()), None)));
    }

    #[test]
    fn a_hostile_repository_gives_nothing_and_holds_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("r");
        fs::create_dir_all(repo.join(".git")).unwrap();
        let head = repo.join(".git/HEAD");
        for text in [
            "ref: refs/heads/../../x",
            "ref: refs/heads/a b",
            "ref: refs/heads/\x1b[2J",
            "ref: refs/heads/a//b",
            "ref: refs/heads/.a",
            "ref: refs/heads/",
            "ref: refs/tags/x",
            "root:x:0:0:root:/root:/bin/sh",
            "",
            "0123",
        ] {
            fs::write(&head, text).unwrap();
            assert_eq!(at(&repo), Some((None, None)), "{text:?}");
        }
        fs::write(&head, [0xff; 10]).unwrap();
        assert_eq!(at(&repo), Some((None, None)));
        fs::remove_file(&head).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &head, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert_eq!(at(&repo), Some((None, None)), "a pipe");
        fs::remove_dir_all(repo.join(".git")).unwrap();
        std::os::unix::fs::symlink("/nonexistent", repo.join(".git")).unwrap();
        assert_eq!(at(&repo), Some((None, None)), "a link to nowhere");
    }
}
