//! What is really run under a program's name, and its digest.
//!
//! | the file | what is digested |
//! | --- | --- |
//! | an executable image (ELF) | that file, links resolved |
//! | a script for another interpreter (`#!/usr/bin/env node`) | the script and its interpreter; modules that it loads are not |
//! | a shell script with one `exec` of an absolute path | the script, its shell and, again by this table, that program |
//! | any other shell script | the script and its shell only: [`Kind::Wrapper`] says that what it runs is not known |
//!
//! Invariants:
//! - bytes are read from the descriptor whose identity is kept, and the identity is looked at again after the last byte;
//! - a digest is remembered by device, inode, size, change and modification time: a changed file is read again;
//! - the files are read, never mapped: a file that is cut short meanwhile is an error here and not the end of the host.
//!
//! Called by `session` at a start and for attestations.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{Error, Result};

/// Largest file that is digested.
const FILE_MAX: u64 = 2 << 30;
/// Bytes read at a time.
const PIECE: usize = 1 << 20;
/// Bytes of a script in which its `exec` is looked for.
const SCRIPT_MAX: usize = 64 << 10;
/// How many wrappers may stand one behind the other.
const DEPTH: usize = 4;
/// Digests remembered; all are forgotten when there are more.
const REMEMBERED: usize = 256;
/// Interpreters whose scripts are there to run other programs.
const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "busybox", "fish"];

/// What kind of file a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Binary,
    Script,
    /// A shell script, or a file of no known form: it runs something that was not digested.
    Wrapper,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Script => "script",
            Self::Wrapper => "wrapper",
        }
    }
}

/// A file as it was when it was read: a file with the same identity has the same bytes, as far as the kernel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    pub dev: u64,
    pub ino: u64,
    pub size: u64,
    mtime_ns: i128,
    ctime_ns: i128,
}

impl From<&Metadata> for FileId {
    fn from(m: &Metadata) -> Self {
        let ns = |s: i64, n: i64| i128::from(s) * 1_000_000_000 + i128::from(n);
        Self {
            dev: m.dev(),
            ino: m.ino(),
            size: m.size(),
            mtime_ns: ns(m.mtime(), m.mtime_nsec()),
            ctime_ns: ns(m.ctime(), m.ctime_nsec()),
        }
    }
}

/// One file that was digested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramFile {
    /// With links resolved.
    pub path: PathBuf,
    /// BLAKE3, hex.
    pub digest: String,
    pub id: FileId,
}

/// A program and everything of it that was digested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// As asked for, absolute.
    pub program: PathBuf,
    pub kind: Kind,
    /// The program first, then what it is run by or runs.
    pub files: Vec<ProgramFile>,
}

impl Inspected {
    /// Names the program's content: the file's own BLAKE3 where there is one file, else the BLAKE3 of all in order.
    pub fn digest(&self) -> String {
        if let [only] = self.files.as_slice() {
            return only.digest.clone();
        }
        let mut hasher = blake3::Hasher::new_derive_key("beadle 2026-11 program of several files");
        for f in &self.files {
            hasher.update(f.digest.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// What the digest covers, in words.
    pub fn covers(&self) -> String {
        let names: Vec<String> = self.files.iter().map(|f| f.path.display().to_string()).collect();
        match self.kind {
            Kind::Binary => names.join(", "),
            Kind::Script => format!("{}; modules that the script loads are not covered", names.join(", ")),
            Kind::Wrapper => format!("{} only: what this wrapper runs is not known and not covered", names.join(", ")),
        }
    }

    /// Whether the process still runs one of these very files. To be asked right after the start, before it is told anything:
    /// it closes the time between reading a file and executing it under the same path.
    pub fn runs_as(&self, pid: u32) -> bool {
        if self.kind == Kind::Wrapper {
            return true;
        }
        let exe = std::fs::metadata(format!("/proc/{pid}/exe")).map(|m| FileId::from(&m));
        let unchanged = |f: &ProgramFile| std::fs::metadata(&f.path).is_ok_and(|m| FileId::from(&m) == f.id);
        exe.is_ok_and(|id| self.files.iter().any(|f| f.id == id)) && self.files.iter().all(unchanged)
    }
}

/// Digests that were made, so that a start need not read a large file again.
#[derive(Debug, Default)]
pub struct Programs {
    known: Mutex<HashMap<FileId, String>>,
}

impl Programs {
    /// Reads what is needed. `search` is the PATH on which `#!/usr/bin/env` looks. Blocks.
    pub fn inspect(&self, program: &Path, search: &OsStr) -> Result<Inspected> {
        let mut out = Inspected { program: program.to_owned(), kind: Kind::Binary, files: Vec::new() };
        out.kind = self.add(program, search, &mut out.files, DEPTH)?;
        Ok(out)
    }

    fn add(&self, path: &Path, search: &OsStr, files: &mut Vec<ProgramFile>, depth: usize) -> Result<Kind> {
        let path = path.canonicalize().map_err(Error::file("find", path))?;
        let (file, head) = self.digest(&path)?;
        files.push(file);
        if head.starts_with(b"\x7fELF") {
            return Ok(Kind::Binary);
        }
        let Some(interpreter) = interpreter(&head, search) else { return Ok(Kind::Wrapper) };
        let shell = interpreter.file_name().and_then(OsStr::to_str).is_some_and(|n| SHELLS.contains(&n));
        let found = interpreter.canonicalize().map_err(Error::file("find", &interpreter))?;
        files.push(self.digest(&found)?.0);
        if !shell {
            return Ok(Kind::Script);
        }
        match exec_target(&head).filter(|_| depth > 0) {
            Some(target) => self.add(&target, search, files, depth - 1),
            None => Ok(Kind::Wrapper),
        }
    }

    /// One file and its beginning.
    fn digest(&self, path: &Path) -> Result<(ProgramFile, Vec<u8>)> {
        let fail = |e| Error::file("read", path)(e);
        // why NONBLOCK: a FIFO in its place must not hold us.
        let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        if !meta.is_file() || meta.len() > FILE_MAX {
            return Err(fail(std::io::Error::other(format!("not a regular file of at most {FILE_MAX} bytes"))));
        }
        let id = FileId::from(&meta);
        let mut head = Vec::new();
        let known = self.known().get(&id).cloned();
        let digest = match known {
            Some(digest) => {
                file.take(SCRIPT_MAX as u64).read_to_end(&mut head).map_err(fail)?;
                digest
            }
            None => {
                let digest = hash(&mut file, &mut head).map_err(fail)?;
                if FileId::from(&file.metadata().map_err(fail)?) != id {
                    return Err(fail(std::io::Error::other("it changes while it is read; try again")));
                }
                let mut known = self.known();
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                known.insert(id, digest.clone());
                digest
            }
        };
        Ok((ProgramFile { path: path.to_owned(), digest, id }, head))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<FileId, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash(file: &mut File, head: &mut Vec<u8>) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0u8; PIECE];
    let mut total = 0u64;
    loop {
        let n = file.read(&mut piece)?;
        if n == 0 {
            return Ok(hasher.finalize().to_hex().to_string());
        }
        total += n as u64;
        if total > FILE_MAX {
            return Err(std::io::Error::other("it grows while it is read"));
        }
        if head.len() < SCRIPT_MAX {
            head.extend_from_slice(&piece[..n.min(SCRIPT_MAX - head.len())]);
        }
        hasher.update(&piece[..n]);
    }
}

/// The interpreter that a `#!` line names; that of `env` is looked up on `search`.
fn interpreter(head: &[u8], search: &OsStr) -> Option<PathBuf> {
    let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let mut words = line.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty()).map(OsStr::from_bytes);
    let named = PathBuf::from(words.next()?);
    if named.file_name() != Some(OsStr::new("env")) {
        return Some(named);
    }
    let wanted = words.find(|w| !w.as_bytes().starts_with(b"-") && !w.as_bytes().contains(&b'='))?;
    if wanted.as_bytes().contains(&b'/') {
        return Some(wanted.into());
    }
    std::env::split_paths(search).filter(|d| d.is_absolute()).map(|d| d.join(wanted)).find(|p| p.is_file())
}

/// The program of a shell script's `exec`, where there is exactly one and its path is absolute and plain.
fn exec_target(script: &[u8]) -> Option<PathBuf> {
    let text = std::str::from_utf8(script).ok().filter(|t| t.len() < SCRIPT_MAX)?;
    let mut targets = text.lines().filter_map(|l| l.trim().strip_prefix("exec ")).map(str::trim_start);
    let rest = targets.next().filter(|_| targets.next().is_none())?;
    let word = match rest.chars().next()? {
        q @ ('"' | '\'') => rest[1..].split(q).next()?,
        _ => rest.split_whitespace().next()?,
    };
    let plain = word.starts_with('/') && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+@".contains(c));
    plain.then(|| word.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(dir: &Path, name: &str, text: &[u8]) -> PathBuf {
        let path = dir.join(name);
        let mut f = File::create(&path).expect("a file");
        f.write_all(text).expect("written");
        path
    }

    #[test]
    fn a_digest_is_the_files_own_and_follows_every_change() {
        let dir = tempfile::tempdir().expect("a folder");
        let elf = file(dir.path(), "real", b"\x7fELF one");
        std::os::unix::fs::symlink(&elf, dir.path().join("link")).expect("a link");
        let programs = Programs::default();
        let first = programs.inspect(&dir.path().join("link"), OsStr::new("")).expect("inspected");
        assert_eq!((first.kind, first.files.len()), (Kind::Binary, 1));
        assert_eq!(first.digest(), blake3::hash(b"\x7fELF one").to_hex().to_string());
        assert_eq!(first.files[0].path, elf.canonicalize().expect("a path"));
        assert_eq!(programs.inspect(&elf, OsStr::new("")).expect("inspected").digest(), first.digest());
        // The same length and, put back, the same modification time: the change time tells it.
        let old = std::fs::metadata(&elf).and_then(|m| m.modified()).expect("a time");
        file(dir.path(), "real", b"\x7fELF two");
        File::options().write(true).open(&elf).and_then(|f| f.set_modified(old)).expect("set");
        assert_ne!(programs.inspect(&elf, OsStr::new("")).expect("inspected").digest(), first.digest());
        assert!(programs.inspect(dir.path(), OsStr::new("")).is_err(), "a folder is no program");
    }

    #[test]
    fn scripts_and_wrappers_say_what_is_covered() {
        let dir = tempfile::tempdir().expect("a folder");
        let d = dir.path().canonicalize().expect("a path");
        let search = d.as_os_str();
        let elf = file(&d, "real", b"\x7fELF");
        file(&d, "node", b"\x7fELF node");
        file(&d, "sh", b"\x7fELF shell");
        let programs = Programs::default();
        let look = |name: &str, text: String| programs.inspect(&file(&d, name, text.as_bytes()), search).expect("inspected");
        let paths = |i: &Inspected| -> Vec<String> {
            i.files.iter().map(|f| f.path.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect()
        };
        let script = look("cli.js", "#!/usr/bin/env -S node --x\nrun()\n".to_owned());
        assert_eq!((script.kind, paths(&script)), (Kind::Script, vec!["cli.js".to_owned(), "node".to_owned()]));
        assert!(script.covers().contains("modules"), "{}", script.covers());
        let known = look("w1", format!("#!/usr/bin/env sh\nA=1\nexec \"{}\" \"$@\"\n", elf.display()));
        assert_eq!((known.kind, paths(&known)), (Kind::Binary, vec!["w1".to_owned(), "sh".to_owned(), "real".to_owned()]));
        for unknown in ["exec \"$basedir/real\"", "/bin/true", &format!("exec {0}\nexec {0}", elf.display()), "exec ../real"] {
            let wrapper = look("w2", format!("#!/usr/bin/env sh\n{unknown}\n"));
            assert_eq!(wrapper.kind, Kind::Wrapper, "{unknown}");
            assert!(wrapper.covers().contains("not known"), "{}", wrapper.covers());
        }
        assert_eq!(look("odd", "echo no interpreter line".to_owned()).kind, Kind::Wrapper);
        assert_ne!(known.digest(), known.files[0].digest, "all files count");
    }

    #[test]
    fn the_running_process_is_checked_against_what_was_read() {
        let programs = Programs::default();
        let own = std::env::current_exe().expect("a path");
        let inspected = programs.inspect(&own, OsStr::new("")).expect("inspected");
        assert!(inspected.runs_as(std::process::id()));
        let other = programs.inspect(Path::new("/bin/true"), OsStr::new("")).expect("inspected");
        assert!(!other.runs_as(std::process::id()), "another file runs there");
    }
}
