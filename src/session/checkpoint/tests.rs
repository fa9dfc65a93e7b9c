use super::*;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

fn git(dir: &Path, args: &[&str]) -> String {
    let out = Command::new("git").args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(args).current_dir(dir).output().unwrap();
    assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn id() -> SessionId {
    SessionId::parse("s-1-aaaaa").unwrap()
}

/// All of a repository that must stay as it is: names, modes and bytes, but for objects and our refs.
fn state(top: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    fn walk(dir: &Path, out: &mut Vec<(PathBuf, u32, Vec<u8>)>) {
        for e in fs::read_dir(dir).unwrap() {
            let path = e.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            if path.ends_with(".git/objects") || path.ends_with(".git/refs/beadle") {
                continue;
            }
            if meta.is_dir() {
                walk(&path, out);
            } else if meta.is_symlink() {
                out.push((path.clone(), 0, fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()));
            } else if meta.is_file() {
                out.push((path.clone(), meta.permissions().mode(), fs::read(&path).unwrap()));
            }
        }
    }
    let mut out = vec![];
    walk(top, &mut out);
    out.sort();
    out
}

/// A repository with committed, staged, changed, deleted, new and ignored files, and a stash.
fn repository(top: &Path) {
    fs::create_dir_all(top.join("sub")).unwrap();
    git(top, &["init", "-q", "-b", "main"]);
    for (name, text) in [("a", "one\r\n"), ("gone", "x"), ("sub/b", "two"), (".gitignore", "*.o\n"), ("tracked.o", "kept")] {
        fs::write(top.join(name), text).unwrap();
    }
    git(top, &["add", "-f", "."]);
    git(top, &["commit", "-q", "-m", "first"]);
    fs::write(top.join("a"), "stashed").unwrap();
    git(top, &["stash", "-q"]);
    fs::write(top.join("staged"), "staged").unwrap();
    git(top, &["add", "staged"]);
    fs::write(top.join("staged"), "changed after").unwrap();
    fs::write(top.join("a"), "uncommitted\r\n").unwrap();
    fs::remove_file(top.join("gone")).unwrap();
    fs::write(top.join("new file"), "new").unwrap();
    fs::write(top.join("x.o"), "ignored").unwrap();
    std::os::unix::fs::symlink("a", top.join("link")).unwrap();
    fs::set_permissions(top.join("new file"), fs::Permissions::from_mode(0o755)).unwrap();
}

fn made(top: &Path) -> Made {
    let scratch = tempfile::tempdir().unwrap();
    make(top, &scratch.path().join("git"), &id(), 1, 1_700_000_000_000).unwrap().unwrap()
}

#[test]
fn the_worktree_is_kept_whole_and_nothing_of_the_repository_changes() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().canonicalize().unwrap().join("r");
    repository(&top);
    let before = state(&top);
    let head = git(&top, &["rev-parse", "HEAD"]);
    let before_stash = git(&top, &["stash", "list"]);
    assert_eq!(state(&top), before, "these two questions changed nothing");
    let first = made(&top);
    let kept = keep(&first, &id(), 1).unwrap();
    assert_eq!(state(&top), before, "index, worktree, HEAD, refs, logs and stash");
    assert_eq!(made(&top), first, "the same worktree is the same commit");
    assert_eq!(keep(&first, &id(), 1).unwrap(), kept);
    assert_eq!(git(&top, &["rev-parse", &kept.reference]).trim(), kept.commit);
    assert_eq!(git(&top, &["rev-parse", &format!("{}^", kept.commit)]), head);
    let list = git(&top, &["ls-tree", "-r", &kept.commit]);
    let names: Vec<&str> = list.lines().filter_map(|l| l.split('\t').nth(1)).collect();
    assert_eq!(names, [".gitignore", "a", "link", "new file", "staged", "sub/b", "tracked.o"]);
    assert!(list.contains("100755 blob") && list.contains("120000 blob"), "{list}");
    assert_eq!(git(&top, &["cat-file", "blob", &format!("{}:a", kept.commit)]), "uncommitted\r\n", "byte for byte");
    assert_eq!(git(&top, &["cat-file", "blob", &format!("{}:staged", kept.commit)]), "changed after");
    assert_eq!(git(&top, &["stash", "list"]), before_stash);
    git(&top, &["fsck", "--strict"]);
}

#[test]
fn a_checkpoint_is_restored_into_a_new_worktree_only() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let (top, to, scratch) = (root.join("r"), root.join("back"), root.join("s"));
    repository(&top);
    let kept = keep(&made(&top), &id(), 1).unwrap();
    fs::write(top.join("a"), "worse").unwrap();
    let before = state(&top);
    restore(&kept, &to, &scratch, "n").unwrap();
    assert_eq!(fs::read(to.join("a")).unwrap(), b"uncommitted\r\n");
    assert_eq!((git(&to, &["rev-parse", "HEAD"]).trim(), git(&to, &["status", "--porcelain"]).trim()), (kept.commit.as_str(), ""));
    let now: Vec<_> = state(&top).into_iter().filter(|(p, ..)| !p.starts_with(top.join(".git/worktrees"))).collect();
    assert_eq!(now, before, "the first worktree stays");
    assert!(restore(&kept, &to, &scratch, "n").unwrap_err().contains("is not empty"));
    let empty = root.join("empty");
    fs::create_dir(&empty).unwrap();
    restore(&kept, &empty, &scratch, "n").unwrap();
    assert!(git(&top, &["worktree", "list"]).contains("/empty"));
    let linked = keep(&made(&to), &id(), 2).unwrap();
    assert_eq!(linked.tree, kept.tree, "a linked worktree has the same files");
    fs::write(root.join("f"), "").unwrap();
    assert!(restore(&kept, &root.join("f"), &scratch, "n").is_err());
    let lost = AttemptCheckpointed { commit: "0".repeat(40), ..kept };
    assert!(restore(&lost, &root.join("lost"), &scratch, "n").is_err());
    assert!(!root.join("lost").exists(), "nothing half-made is left");
}

#[test]
fn a_hostile_repository_runs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let (top, trap) = (root.join("r"), root.join("trapped"));
    repository(&top);
    let program = root.join("evil");
    fs::write(&program, format!("#!/bin/sh\necho \"$0 $*\" >> {}\ncat\n", trap.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let evil = program.display().to_string();
    let module = top.join("module");
    fs::create_dir(&module).unwrap();
    git(&module, &["init", "-q"]);
    git(&module, &["commit", "-q", "--allow-empty", "-m", "m"]);
    git(&top, &["add", "module"]);
    git(&top, &["add", "-A"]);
    git(&top, &["commit", "-q", "-m", "second"]);
    fs::write(top.join("a"), "changed").unwrap();
    fs::write(top.join(".gitattributes"), "* filter=evil diff=evil merge=evil text eol=crlf ident working-tree-encoding=UTF-16\n").unwrap();
    let hooks = root.join("hooks");
    fs::create_dir(&hooks).unwrap();
    for hook in ["pre-commit", "post-commit", "reference-transaction", "post-index-change", "post-checkout", "pre-auto-gc", "commit-msg"] {
        fs::copy(&program, hooks.join(hook)).unwrap();
        fs::copy(&program, top.join(".git/hooks").join(hook)).unwrap();
    }
    let text = format!(
        "[core]\n fsmonitor = {evil}\n hooksPath = {}\n sshCommand = {evil}\n pager = {evil}\n editor = {evil}\n alternateRefsCommand = {evil}\n\
         [filter \"evil\"]\n clean = {evil}\n smudge = {evil}\n process = {evil}\n required = true\n\
         [diff]\n external = {evil}\n[diff \"evil\"]\n textconv = {evil}\n command = {evil}\n[merge \"evil\"]\n driver = {evil}\n\
         [commit]\n gpgSign = true\n[gpg]\n program = {evil}\n[gpg \"ssh\"]\n program = {evil}\n[credential]\n helper = !{evil}\n\
         [extensions]\n partialClone = origin\n[remote \"origin\"]\n url = ext::{evil}\n promisor = true\n uploadpack = {evil}\n\
         [gc]\n auto = 1\n[uploadpack]\n packObjectsHook = {evil}\n[trace2]\n eventTarget = {}\n[include]\n path = {evil}\n",
        hooks.display(),
        trap.display()
    );
    for config in [top.join(".git/config"), module.join(".git/config")] {
        fs::write(config, format!("[core]\n repositoryformatversion = 0\n{text}")).unwrap();
    }
    let before = state(&top);
    let first = made(&top);
    let kept = keep(&first, &id(), 1).unwrap();
    assert_eq!(state(&top), before);
    restore(&kept, &root.join("back"), &root.join("s"), "n").unwrap();
    assert!(!trap.exists(), "ran: {}", fs::read_to_string(&trap).unwrap_or_default());
    assert_eq!(fs::read(root.join("back/a")).unwrap(), b"changed");
    let plain = |args: &[&str]| {
        let out = Command::new("git")
            .args(args)
            .env("GIT_DIR", root.join("plain"))
            .env("GIT_OBJECT_DIRECTORY", top.join(".git/objects"))
            .output();
        String::from_utf8(out.unwrap().stdout).unwrap()
    };
    Command::new("git").args(["init", "-q", "--bare"]).arg(root.join("plain")).status().unwrap();
    assert!(plain(&["ls-tree", &kept.commit, "module"]).starts_with("160000 commit"), "a submodule stays a commit");
}

#[test]
fn odd_worktrees_are_kept_or_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let scratch = root.join("s");
    assert_eq!(make(&root, &scratch, &id(), 1, 0), Ok(None), "no repository");
    let top = root.join("r");
    fs::create_dir(&top).unwrap();
    git(&top, &["init", "-q"]);
    let first = made(&top);
    assert_eq!(git(&top, &["ls-tree", &first.commit]), "", "an empty one before its first commit");
    // A tracked folder that became a link, a pipe, a nested repository, a name with a line end.
    fs::create_dir(top.join("d")).unwrap();
    fs::write(top.join("d/f"), "x").unwrap();
    git(&top, &["add", "."]);
    fs::remove_dir_all(top.join("d")).unwrap();
    std::os::unix::fs::symlink("/etc", top.join("d")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, top.join("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    fs::create_dir(top.join("nested")).unwrap();
    git(&top.join("nested"), &["init", "-q"]);
    fs::write(top.join("nested/f"), "x").unwrap();
    fs::write(top.join("odd\nname"), "x").unwrap();
    let list = git(&top, &["ls-tree", "-z", "--name-only", &made(&top).commit]);
    assert_eq!(list.split('\0').collect::<Vec<_>>(), ["d", "odd\nname", ""]);
    for (file, text) in [("HEAD", "nonsense"), ("HEAD", "ref: refs/heads/../../x")] {
        fs::write(top.join(".git").join(file), text).unwrap();
        assert!(make(&top, &scratch, &id(), 1, 0).unwrap_err().contains("HEAD"), "{text}");
    }
    fs::remove_dir_all(top.join(".git")).unwrap();
    fs::write(top.join(".git"), "gitdir: /nowhere\n").unwrap();
    assert!(make(&top, &scratch, &id(), 1, 0).is_err());
}

#[test]
fn what_a_sparse_checkout_leaves_out_is_kept_as_the_index_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().canonicalize().unwrap().join("r");
    repository(&top);
    git(&top, &["add", "-A"]);
    git(&top, &["commit", "-q", "-m", "second"]);
    fs::create_dir(top.join("in")).unwrap();
    fs::write(top.join("in/c"), "three").unwrap();
    git(&top, &["add", "."]);
    git(&top, &["commit", "-q", "-m", "third"]);
    for more in [&["--no-sparse-index"][..], &["--sparse-index"]] {
        git(&top, &[&["sparse-checkout", "set", "--cone"][..], more, &["in"]].concat());
        assert!(!top.join("sub").exists());
        fs::write(top.join("in/c"), "changed").unwrap();
        let commit = made(&top).commit;
        assert_eq!(git(&top, &["diff", "--name-only", "HEAD", &commit]).trim(), "in/c", "{more:?}");
        // What stands there in spite of it is what counts; what stands in the way leaves no room for it.
        fs::create_dir(top.join("sub")).unwrap();
        fs::write(top.join("sub/b"), "written").unwrap();
        assert_eq!(git(&top, &["cat-file", "blob", &format!("{}:sub/b", made(&top).commit)]), "written");
        fs::remove_dir_all(top.join("sub")).unwrap();
        fs::write(top.join("sub"), "a file").unwrap();
        assert_eq!(git(&top, &["cat-file", "blob", &format!("{}:sub", made(&top).commit)]), "a file");
        fs::remove_file(top.join("sub")).unwrap();
        fs::write(top.join("in/c"), "three").unwrap();
    }
}

#[test]
fn of_a_split_index_one_other_file_is_read_and_no_flood() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().canonicalize().unwrap().join("r");
    repository(&top);
    let whole = made(&top).tree;
    git(&top, &["update-index", "--split-index"]);
    let own = top.join(".git");
    let named = shared(&own, &fs::read(own.join("index")).unwrap());
    assert_eq!(named.len(), 1, "{named:?}");
    for n in 0..50 {
        fs::write(own.join(format!("sharedindex.{n:040x}")), "x").unwrap();
    }
    assert_eq!(shared(&own, &fs::read(own.join("index")).unwrap()), named);
    assert_eq!(made(&top).tree, whole);
    // An index that names them all.
    let hostile: Vec<u8> = (0..50u8).flat_map(|n| [b"link\0\0\0\0".as_slice(), &[0; 19], &[n]].concat()).collect();
    assert!(shared(&own, &hostile).len() <= SHARED_MAX);
}

#[test]
fn a_commit_named_in_short_is_restored_and_open_to_whom_the_worktree_was() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let top = root.join("r");
    repository(&top);
    let mode = |p: PathBuf| p.symlink_metadata().unwrap().permissions().mode() & 0o777;
    fs::set_permissions(&top, fs::Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(top.join(".git/refs"), fs::Permissions::from_mode(0o775)).unwrap();
    let kept = keep(&made(&top), &id(), 1).unwrap();
    assert_eq!((mode(top.join(".git/refs/beadle")), mode(top.join(".git").join(&kept.reference))), (0o775, 0o664));
    let short = AttemptCheckpointed { commit: kept.commit[..8].to_owned(), ..kept.clone() };
    let to = root.join("back");
    restore(&short, &to, &root.join("s"), "n").unwrap();
    assert_eq!(git(&to, &["rev-parse", "HEAD"]).trim(), kept.commit);
    assert_eq!(git(&to, &["status", "--porcelain"]).trim(), "");
    let modes = ["", "a", "new file", "sub", ".git"].map(|n| mode(to.join(n)));
    assert_eq!(modes, [0o750, 0o640, 0o750, 0o750, 0o640]);
    let none = AttemptCheckpointed { commit: "abcdef0".to_owned(), ..kept };
    assert!(restore(&none, &root.join("none"), &root.join("s"), "n").is_err());
}
