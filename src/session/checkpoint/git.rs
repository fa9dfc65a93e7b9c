//! Runs git's plumbing in a private repository folder: bounded in time and output, with nothing of the environment or of any
//! configuration but its own.
//!
//! Called by `checkpoint` only.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Why, file};

/// How long all commands of one checkpoint may take together.
const DEADLINE: Duration = Duration::from_secs(60);
/// Most output of one command.
const OUTPUT_MAX: u64 = 128 << 20;
/// Most bytes of what git says of its own failure that are told on.
const SAID_MAX: u64 = 400;
/// Where git is looked up: not on the session's PATH, which an agent may have filled.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Between two looks at a command that runs.
const LOOK: Duration = Duration::from_millis(2);
/// What the private repository says. Objects are synced once for each command; contents are taken as they are.
const CONFIG: &str = "[core]\n\tbare = false\n\thooksPath = /dev/null\n\tfsmonitor = false\n\tfsync = committed\n\tfsyncMethod = batch\n\
    \tautocrlf = false\n\tsymlinks = true\n\tfileMode = true\n\tlogAllRefUpdates = false\n\tuntrackedCache = false\n\
    [gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n[protocol]\n\tallow = never\n[submodule]\n\trecurse = false\n";
/// Over every attribute of the worktree's own.
const ATTRIBUTES: &str = "* -text -ident -filter -working-tree-encoding -diff -merge\n";

/// A private repository folder.
pub(super) struct Git {
    dir: PathBuf,
    objects: PathBuf,
    worktree: Option<PathBuf>,
    until: Instant,
    date: String,
    umask: u32,
}

impl Git {
    /// `dir` is made; it must not hold anything that matters.
    pub fn new(dir: &Path, objects: &Path, worktree: Option<&Path>, is_sha256: bool, ignored: &[u8]) -> Result<Self, Why> {
        let make = || -> std::io::Result<()> {
            if dir.exists() {
                fs::remove_dir_all(dir)?;
            }
            for sub in ["refs", "info", "objects"] {
                fs::create_dir_all(dir.join(sub))?;
            }
            let version = if is_sha256 {
                "\trepositoryformatversion = 1\n[extensions]\n\tobjectFormat = sha256\n"
            } else {
                "\trepositoryformatversion = 0\n"
            };
            fs::write(dir.join("HEAD"), "ref: refs/heads/none\n")?;
            fs::write(dir.join("config"), format!("[core]\n{version}{CONFIG}"))?;
            fs::write(dir.join("info/attributes"), ATTRIBUTES)?;
            fs::write(dir.join("info/exclude"), ignored)
        };
        make().map_err(|e| file("make", dir, &e))?;
        let until = Instant::now() + DEADLINE;
        let (dir, worktree, date) = (dir.to_owned(), worktree.map(Path::to_owned), String::new());
        Ok(Self { dir, objects: objects.to_owned(), worktree, until, date, umask: 0o077 }.like(objects))
    }

    /// What is made is open to those to whom this folder is; the host's own umask lets nobody else in.
    pub fn like(mut self, folder: &Path) -> Self {
        self.umask = fs::metadata(folder).map_or(0o077, |m| !m.permissions().mode() & 0o077);
        self
    }

    /// With this time, in milliseconds, as that of what is committed.
    pub fn at(mut self, ms: i64) -> Self {
        self.date = format!("@{} +0000", ms.div_euclid(1000).max(0));
        self
    }

    /// Its standard output; an error with what git says where it fails, takes too long or says too much.
    pub fn run(&self, args: &[&str], index: Option<&Path>, input: &[u8]) -> Result<Vec<u8>, Why> {
        let name = args.first().copied().unwrap_or_default();
        let failed = |why: String| format!("git {name}: {why}");
        let mut child = self.command(args, index).spawn().map_err(|e| failed(format!("cannot be started ({e}); is it installed?")))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (out, said, status) = std::thread::scope(|s| {
            // why threads: whoever of the three were waited for could wait for another.
            s.spawn(move || stdin.map(|mut w| w.write_all(input)));
            let out = s.spawn(move || read(stdout, OUTPUT_MAX));
            let said = s.spawn(move || read(stderr, SAID_MAX));
            let status = self.wait(&mut child);
            (out.join().unwrap_or_default(), said.join().unwrap_or_default(), status)
        });
        let status = status.map_err(failed)?;
        if !status.success() {
            let text: String = String::from_utf8_lossy(&said.0).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            return Err(failed(if text.trim().is_empty() { status.to_string() } else { text.trim().to_owned() }));
        }
        if out.1 {
            return Err(failed(format!("printed over {OUTPUT_MAX} bytes")));
        }
        Ok(out.0)
    }

    /// An error when the time of all commands together is over.
    pub fn in_time(&self) -> Result<(), Why> {
        if Instant::now() < self.until { Ok(()) } else { Err(format!("it took longer than {} s in all", DEADLINE.as_secs())) }
    }

    fn command(&self, args: &[&str], index: Option<&Path>) -> Command {
        let mut c = Command::new("git");
        let dir = self.worktree.as_ref().unwrap_or(&self.dir);
        c.env_clear()
            .env("PATH", PATH)
            .env("HOME", &self.dir)
            .env("LC_ALL", "C")
            .env("GIT_DIR", &self.dir)
            .env("GIT_OBJECT_DIRECTORY", &self.objects)
            .env("GIT_INDEX_FILE", index.map_or_else(|| self.dir.join("none").into_os_string(), OsString::from))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_TERMINAL_PROMPT", "0");
        for who in ["AUTHOR", "COMMITTER"] {
            c.env(format!("GIT_{who}_NAME"), "Beadle").env(format!("GIT_{who}_EMAIL"), "beadle@localhost");
            c.env(format!("GIT_{who}_DATE"), if self.date.is_empty() { "@0 +0000" } else { &self.date });
        }
        if let Some(top) = &self.worktree {
            c.env("GIT_WORK_TREE", top);
        }
        let umask = self.umask;
        // SAFETY: umask is one system call, which a child may make between fork and exec; nothing is allocated.
        unsafe {
            c.pre_exec(move || {
                libc::umask(umask);
                Ok(())
            });
        }
        c.args(args).current_dir(dir).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        c
    }

    fn wait(&self, child: &mut Child) -> Result<std::process::ExitStatus, Why> {
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if Instant::now() < self.until => std::thread::sleep(LOOK),
                Ok(None) => {
                    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                        // why ignored: then it has ended by itself.
                        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                    }
                    let _ = child.wait();
                    return Err(format!("took longer than {} s in all and was ended", DEADLINE.as_secs()));
                }
                Err(e) => return Err(format!("cannot be waited for ({e})")),
            }
        }
    }
}

/// What a pipe gives, up to a cap; true when there was more, which is read and dropped.
fn read(pipe: Option<impl Read>, max: u64) -> (Vec<u8>, bool) {
    let Some(mut pipe) = pipe else { return Default::default() };
    let mut bytes = Vec::new();
    let _ = pipe.by_ref().take(max).read_to_end(&mut bytes);
    let more = std::io::copy(&mut pipe, &mut std::io::sink()).unwrap_or(0);
    (bytes, more > 0)
}
