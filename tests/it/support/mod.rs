//! A host of one's own for each test: temporary folders, the real binary, the scripted model, ways to break things.

pub mod collector;
pub mod knock;
pub mod otlp;
mod screen;

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use beadle::gateway::{Options, Script, Server};
use serde_json::Value;
use tempfile::TempDir;

/// How long a condition may take to become true on a slow, shared machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the async parts of tests.
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RT: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RT.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime"))
}

/// Polls until `f` gives a value; panics with `what` after [`PATIENCE`].
pub fn until<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(v) = f() {
            return v;
        }
        assert!(Instant::now() < end, "gave up waiting until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(o: Output) -> Self {
        Self {
            code: o.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&o.stdout).into_owned(),
            err: String::from_utf8_lossy(&o.stderr).into_owned(),
        }
    }
}

impl Said {
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    /// Every line of standard output as JSON.
    pub fn lines(&self) -> Vec<Value> {
        self.out.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
    }

    /// Standard output as one JSON document.
    pub fn json(&self) -> Value {
        serde_json::from_str(self.out.trim()).unwrap_or_else(|e| panic!("{e}: {}\nstderr: {}", self.out, self.err))
    }
}

/// Folders, workspace and environment of one host. Its daemon is started on demand by the commands and ended on drop.
pub struct TestHost {
    dir: TempDir,
    program: PathBuf,
    env: Vec<(String, String)>,
    breaches: std::cell::Cell<bool>,
}

/// Makes a file so long without taking room, or as long as its file system lets one be; gives its length.
pub fn sparse(path: &Path, bytes: u64) -> u64 {
    let file = std::fs::File::options().write(true).create(true).truncate(false).open(path).expect("a file");
    std::iter::successors(Some(bytes), |n| Some(n / 2)).find(|n| file.set_len(*n).is_ok()).expect("a length")
}

/// A pipe with a name; gives what its writing end is once somebody reads.
pub fn fifo(path: &Path) -> impl Fn() -> std::fs::File + use<> {
    use std::os::unix::fs::OpenOptionsExt;
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
    let path = path.to_owned();
    move || {
        until("somebody reads", || {
            std::fs::File::options().write(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32).open(&path).ok()
        })
    }
}

impl TestHost {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("bdl").tempdir().expect("a temporary folder");
        let host = Self { dir, program: env!("CARGO_BIN_EXE_beadle").into(), env: vec![], breaches: std::cell::Cell::new(false) };
        for d in [host.work(), host.home()] {
            std::fs::create_dir_all(d).expect("folders");
        }
        host
    }

    /// The agent's working directory.
    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// The operator's home folder.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("user")
    }

    /// Everything of Beadle's.
    pub fn beadle_home(&self) -> PathBuf {
        self.dir.path().join("b")
    }

    pub fn data(&self) -> PathBuf {
        self.beadle_home().join("data")
    }

    /// From now on every command is this executable, in place of the one that cargo built.
    pub fn runs(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    pub fn set(&mut self, name: &str, value: impl AsRef<str>) {
        self.env.retain(|(n, _)| n != name);
        self.env.push((name.to_owned(), value.as_ref().to_owned()));
    }

    /// Writes the operator's configuration.
    pub fn config(&self, toml: &str) -> &Self {
        let dir = self.beadle_home().join("config");
        std::fs::create_dir_all(&dir).expect("config folder");
        std::fs::write(dir.join("beadle.toml"), toml).expect("config file");
        self
    }

    /// Writes a file below the workspace.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.work().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        std::fs::write(&path, text).expect("a file");
        path
    }

    /// An executable script below the test's folder.
    pub fn program(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let (path, draft) = (self.dir.path().join(name), self.dir.path().join(format!("{name}.draft")));
        std::fs::write(&draft, text).expect("written");
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o755)).expect("executable");
        // why copied by a child: what another test's thread starts has our descriptors for a moment, and nothing that is open for
        // writing can be run.
        assert!(Command::new("cp").args([&draft, &path]).status().expect("cp").success());
        path
    }

    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut c = Command::new(&self.program);
        c.args(args)
            .current_dir(self.work())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home())
            .env("BEADLE_HOME", self.beadle_home())
            .env("NO_COLOR", "1")
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null());
        c
    }

    pub fn beadle<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Said {
        self.command(args).output().expect("the binary starts").into()
    }

    /// Starts a command and leaves it running.
    pub fn spawn<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts")
    }

    /// `beadle --json show`.
    pub fn show(&self, id: &str) -> Value {
        self.beadle(["--json", "show", id]).ok().json()
    }

    /// All events of a session, oldest first.
    pub fn events(&self, id: &str) -> Vec<Value> {
        self.beadle(["--json", "events", id]).ok().lines()
    }

    pub fn events_of(&self, id: &str, kind: &str) -> Vec<Value> {
        self.events(id).into_iter().filter(|e| e["kind"] == kind).collect()
    }

    /// Sessions of this host break the gate on purpose; of all other hosts every session is proved to be accounted when it is dropped.
    pub fn expects_breaches(&self) {
        self.breaches.set(true);
    }

    /// Nothing of a session is unexplained: every effect has its decision.
    pub fn assert_accounted(&self, id: &str) {
        let said = self.beadle(["--json", "account", id]);
        assert!(said.code == 0 && said.json()["clean"] == true, "{id} is not accounted: {} {}", said.out, said.err);
    }

    /// Waits for the end and gives the session.
    pub fn ended(&self, id: &str) -> Value {
        until("the session has ended", || {
            let s = self.show(id);
            (s["status"] == "ended").then_some(s)
        })
    }

    /// The daemon's pid; starts one when none runs.
    pub fn daemon(&self) -> u32 {
        self.beadle(["ls"]).ok();
        let pid = self.beadle(["--json", "host", "status"]).ok().json()["pid"].as_u64().expect("a pid");
        u32::try_from(pid).expect("a pid")
    }

    /// `kill -9` of the daemon; returns when it is gone.
    pub fn kill_daemon(&self) {
        kill(self.daemon());
    }

    /// A daemon in the foreground, with further environment; for failpoints. Waits out one that is still ending.
    pub fn daemon_with(&self, name: &str, value: &str) -> Child {
        self.daemon_env(&[(name, value)])
    }

    /// The same with several variables.
    pub fn daemon_env(&self, env: &[(&str, &str)]) -> Child {
        let start = || {
            let mut c = self.command(["daemon"]);
            c.envs(env.iter().copied()).stdout(Stdio::null()).stderr(Stdio::null());
            c.spawn().expect("the daemon starts")
        };
        let mut child = start();
        until("the daemon listens", || {
            if child.try_wait().ok().flatten().is_some() {
                child = start();
            }
            let up = std::os::unix::net::UnixStream::connect(self.beadle_home().join("run/beadle.sock")).is_ok();
            (up && child.try_wait().ok().flatten().is_none()).then_some(())
        });
        child
    }

    /// The built-in agent playing `script`; returns the session's id.
    pub fn run_demo(&mut self, model: &Model, prompt: &str, more: &[&str]) -> String {
        self.set("ANTHROPIC_BASE_URL", model.url());
        self.set("ANTHROPIC_API_KEY", "test");
        let mut args = vec!["--json", "run", "--agent", "demo", "--detach"];
        args.extend(more);
        args.push(prompt);
        self.beadle(args).ok().json()["id"].as_str().expect("an id").to_owned()
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        let prove = !self.breaches.get() && !std::thread::panicking();
        for s in self.beadle(["--json", "ls"]).out.lines() {
            let Ok(s) = serde_json::from_str::<Value>(s) else { continue };
            let Some(id) = s["id"].as_str() else { continue };
            if s["status"] != "ended" {
                self.beadle(["kill", id]);
            }
            if prove {
                self.assert_accounted(id);
            }
        }
        self.beadle(["host", "stop"]);
    }
}

/// SIGKILL, and wait until the process is gone. Only for processes that the test started.
pub fn kill(pid: u32) {
    let Some(p) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return };
    let _ = rustix::process::kill_process(p, rustix::process::Signal::KILL);
    until("the killed process is gone", || (!alive(pid)).then_some(()));
}

/// Whether any thread of a process still runs (a zombie does not): until then its files and locks are open.
pub fn alive(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().any(|t| {
        let stat = std::fs::read_to_string(t.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
    })
}

/// Pids whose environment has `BEADLE_SESSION=<id>`.
pub fn marked(id: &str) -> Vec<u32> {
    let mark = format!("BEADLE_SESSION={id}");
    let Ok(proc) = std::fs::read_dir("/proc") else { return vec![] };
    proc.flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|b| b.split(|c| *c == 0).any(|v| v == mark.as_bytes())) && alive(*pid)
        })
        .collect()
}

/// A scripted model on loopback.
pub struct Model(Server);

impl Model {
    pub fn start(script: &Value) -> Self {
        let script = Script::parse(&script.to_string()).unwrap_or_else(|e| panic!("{e}"));
        Self(runtime().block_on(Server::start(script, Options::default())).unwrap_or_else(|e| panic!("{e}")))
    }

    pub fn url(&self) -> String {
        self.0.url()
    }

    /// Bodies of the requests so far.
    pub fn requests(&self) -> Vec<Value> {
        self.0.requests().iter().map(|r| serde_json::to_value(r).unwrap_or(Value::Null)).collect()
    }
}

/// A step that runs one shell command.
pub fn bash(command: &str) -> Value {
    serde_json::json!({ "tool": "Bash", "input": { "command": command, "description": "test" } })
}

/// A policy configuration that replaces the embedded rules.
pub fn rules(allow: &[&str], ask: &[&str], deny: &[&str]) -> String {
    let list = |l: &[&str]| l.iter().map(|r| format!("{r:?}")).collect::<Vec<_>>().join(", ");
    format!(
        // why: on a busy machine the default deadline may pass, and what is then denied is right but no test's matter.
        "[[policy]]\nname = \"rules\"\nplugin = \"rules\"\ndeadline_ms = 10000\n[policy.config]\nallow = [{}]\nask = [{}]\ndeny = [{}]\n",
        list(allow),
        list(ask),
        list(deny)
    )
}

/// Lines of a file; none when it is not there.
pub fn lines_of(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Lines of JSON that a running command prints, as they come.
pub struct Lines(std::sync::mpsc::Receiver<Value>);

impl Lines {
    pub fn of(child: &mut Child) -> Self {
        let out = child.stdout.take().expect("a pipe");
        let (tx, rx) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in std::io::BufRead::lines(std::io::BufReader::new(out)).map_while(Result::ok) {
                let _ = tx.send(serde_json::from_str(&line).unwrap_or(Value::String(line)));
            }
        });
        Self(rx)
    }

    pub fn next(&self, what: &str) -> Value {
        self.0.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("gave up waiting until {what}"))
    }
}

/// A command on a terminal of its own (a pty): for what only a person at a terminal sees and types.
pub struct Terminal {
    child: Child,
    keys: std::fs::File,
    screen: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
    reader: std::thread::JoinHandle<()>,
    size: (u16, u16),
}

impl Terminal {
    pub fn start(command: Command) -> Self {
        Self::sized(command, 24, 80)
    }

    pub fn sized(mut command: Command, rows: u16, columns: u16) -> Self {
        use std::os::fd::{AsRawFd, FromRawFd};
        use std::os::unix::process::CommandExt;
        let (mut master, mut slave) = (-1, -1);
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: both descriptors are written by the call and owned by the files below; name and settings may be null.
        let (master, slave) = unsafe {
            assert_eq!(libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), &raw const size), 0, "a pty");
            libc::fcntl(master, libc::F_SETFD, libc::FD_CLOEXEC);
            libc::fcntl(slave, libc::F_SETFD, libc::FD_CLOEXEC);
            (std::fs::File::from_raw_fd(master), std::fs::File::from_raw_fd(slave))
        };
        assert!(master.as_raw_fd() >= 0);
        command.stdin(slave.try_clone().expect("a copy")).stdout(slave.try_clone().expect("a copy")).stderr(slave);
        // SAFETY: between fork and exec only two async-signal-safe system calls are made.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("the binary starts");
        drop(command);
        let keys = master.try_clone().expect("a copy");
        let screen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let (mut from, shown) = (master, screen.clone());
        let reader = std::thread::spawn(move || {
            let mut buf = [0u8; 4096];
            // An error is the end: the last slave has closed.
            while let Ok(n @ 1..) = std::io::Read::read(&mut from, &mut buf) {
                shown.lock().expect("no panic holds it").extend_from_slice(&buf[..n]);
            }
        });
        Self { child, keys, screen, reader, size: (rows, columns) }
    }

    /// What stands on the screen so far.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().expect("no panic holds it")).into_owned()
    }

    /// The lines that a person sees now, of the whole screen.
    pub fn seen(&self) -> String {
        screen::lines(&self.screen(), self.size.0.into(), self.size.1.into()).join("\n")
    }

    /// Waits until a person sees this text.
    pub fn wait_seen(&self, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.seen().contains(text) {
            assert!(Instant::now() < end, "gave up waiting until one sees {text:?}; there stands\n{}", self.seen());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether typed keys are shown and come line by line, as in a shell.
    pub fn takes_lines(&self) -> bool {
        use std::os::fd::AsRawFd;
        // SAFETY: plain data that the call fills; the descriptor is open.
        let flags = unsafe {
            let mut t: libc::termios = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(self.keys.as_raw_fd(), &mut t), 0, "settings");
            t.c_lflag
        };
        flags & (libc::ICANON | libc::ECHO | libc::ISIG) == libc::ICANON | libc::ECHO | libc::ISIG
    }

    pub fn wait_for(&self, text: &str) {
        self.wait_for_times(text, 1);
    }

    pub fn wait_for_times(&self, text: &str, times: usize) {
        until(&format!("the screen shows {text:?} {times} times"), || (self.screen().matches(text).count() >= times).then_some(()));
    }

    pub fn type_line(&mut self, line: &str) {
        self.keys.write_all(format!("{line}\n").as_bytes()).expect("typed");
    }

    /// Keys as a terminal in raw mode sends them; Enter is `\r`.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("pressed");
    }

    /// Gives the terminal another size; programs that fill it draw all of it anew.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        use std::os::fd::AsRawFd;
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is open and the argument valid for the call.
        assert_eq!(unsafe { libc::ioctl(self.keys.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }, 0, "a size");
        self.size = (rows, columns);
    }

    /// What the end of a login does: the group of the terminal's leader gets a hang-up, the leader dies, the terminal is gone.
    pub fn hang_up(mut self) {
        let leader = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::HUP);
        let _ = self.child.kill();
        let _ = self.child.wait();
        drop(self.keys);
        // The reader has the terminal's other end, and ends when the last process that holds it has.
    }

    /// Waits for the command, and whether the terminal takes lines then; gives what stood on the screen.
    pub fn finish_as_before(mut self) -> (String, bool) {
        until("the command on the terminal ends", || self.child.try_wait().ok().flatten());
        let as_before = self.takes_lines();
        (self.finish(), as_before)
    }

    /// Waits for the command and gives what stood on the screen.
    pub fn finish(mut self) -> String {
        until("the command on the terminal ends", || self.child.try_wait().ok().flatten());
        let _ = self.reader.join();
        String::from_utf8_lossy(&self.screen.lock().expect("no panic holds it")).into_owned()
    }
}
