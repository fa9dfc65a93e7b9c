//! One session of the built-in agent that is held at a failpoint, and the proof that nothing went wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use beadle::api::client::{Client, Item};
use beadle::api::types::EventsQuery;
use beadle::config::Folders;
use rustix::process::{Pid, Resource, Rlimit, Signal};
use serde_json::{Value, json};

use crate::support::{Model, TestHost, alive, bash, lines_of, marked, rules, runtime, until};

/// Calls of each session by number: even ones are allowed, odd ones denied; 2 and 4 wait, while they run, for the test.
pub const CALLS: usize = 7;
/// The calls that policy allows.
pub const ALLOWED: [u64; 4] = [0, 2, 4, 6];
/// How long it is watched that nothing happens.
pub const WATCH: Duration = Duration::from_millis(100);

/// What a session must have come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Every allowed call ran, once and in order, and the agent ended well.
    Whole,
    /// The agent ended well; some allowed calls failed by themselves or were denied.
    Less,
    /// The session was ended by the fault.
    Broken(&'static str),
}

pub struct Rig {
    pub host: TestHost,
    _model: Model,
    pub id: String,
    pub daemon: Child,
    pub shim: u32,
    pub agent: u32,
    /// Where the test meets the daemon and its disk.
    pub control: PathBuf,
    seen: Seen,
}

/// What a follower was told to be durable: hashes by seq.
struct Seen {
    hashes: Arc<Mutex<BTreeMap<u64, String>>>,
    stop: Arc<AtomicBool>,
}

impl Seen {
    /// Follows a session through deaths of the daemon, without starting one.
    fn follow(home: &Path, id: &str) -> Self {
        let folders =
            Folders { config: home.join("config"), data: home.join("data"), cache: home.join("cache"), runtime: home.join("run") };
        let (hashes, stop) = (Arc::new(Mutex::new(BTreeMap::new())), Arc::new(AtomicBool::new(false)));
        let (into, end, id) = (Arc::clone(&hashes), Arc::clone(&stop), id.to_owned());
        runtime().spawn(async move {
            let client = Client::without_start(folders);
            while !end.load(Ordering::Relaxed) {
                let Ok(mut stream) = client.stream(Some(&id), EventsQuery { from: Some(1), ..EventsQuery::default() }).await else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                while let Ok(Some(Ok(item))) = tokio::time::timeout(Duration::from_secs(5), stream.next()).await {
                    match item {
                        Item::Event(e) => {
                            let hash = e.hash.unwrap_or_default();
                            let old = into.lock().unwrap_or_else(PoisonError::into_inner).insert(e.seq, hash.clone());
                            assert!(old.is_none_or(|o| o == hash), "seq {} changed after it was shown", e.seq);
                        }
                        Item::End(_) => return,
                        Item::Approval(_) | Item::Ready | Item::Missed(_) => {}
                    }
                }
            }
        });
        Self { hashes, stop }
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The library that spoils a daemon's disk.
pub fn spoiled_disk() -> &'static Path {
    static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let build = || {
        let dir = tempfile::tempdir().expect("a folder");
        let lib = dir.path().join("libdisk.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/faults/disk.rs");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let mut c = Command::new(rustc);
        c.args(["--edition", "2024", "--crate-type", "cdylib", "-O", "-C", "panic=abort", "-o"]).arg(&lib).arg(source);
        let out = c.output().expect("rustc starts");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        (dir, lib)
    };
    &BUILT.get_or_init(build).1
}

/// What the session's policy is beside the rules.
pub fn config(host: &TestHost, way: Option<&str>) {
    let mut toml = rules(&["Bash(echo even:*)", "Bash(./hold even:*)", "Edit(./**)"], &[], &["Bash(echo odd:*)"]);
    if let Some(way) = way {
        toml.push_str(&format!(
            "[[policy]]\nname = \"other\"\nplugin = \"{}\"\ndeadline_ms = {}\n[policy.config]\nway = \"{way}\"\n",
            host.home().join("p.wasm").display(),
            if way == "loop" { 200 } else { 10_000 },
        ));
    }
    host.config(&toml);
}

fn script() -> Value {
    let call = |n: usize| match n {
        2 | 4 => bash(&format!("./hold even {n}")),
        n if n % 2 == 0 => bash(&format!("echo even {n} >> out.txt")),
        n => bash(&format!("echo odd {n} >> out.txt")),
    };
    let mut steps: Vec<_> = (0..CALLS).map(call).collect();
    steps.push(json!({ "text": "done" }));
    json!({ "steps": steps })
}

/// Compiled plugins and their key, which every cell begins with: compiling them anew would be most of a cell's time.
fn compiled(into: &TestHost) {
    static BUILT: OnceLock<Mutex<TestHost>> = OnceLock::new();
    let build = || {
        let host = TestHost::new();
        std::fs::write(host.home().join("p.wasm"), crate::plugin::HOSTILE).expect("a guest");
        for way in [None, Some("allow"), Some("trap"), Some("loop"), Some("slow"), Some("memory")] {
            config(&host, way);
            host.beadle(["run", "--detach", "--", "true"]).ok();
        }
        host.beadle(["host", "stop"]).ok();
        Mutex::new(host)
    };
    let from = BUILT.get_or_init(build).lock().unwrap_or_else(PoisonError::into_inner).beadle_home();
    let to = into.beadle_home();
    for dir in ["cache/plugins", "data"] {
        std::fs::create_dir_all(to.join(dir)).expect("a folder");
    }
    for e in std::fs::read_dir(from.join("cache/plugins")).expect("the cache").flatten() {
        std::fs::copy(e.path(), to.join("cache/plugins").join(e.file_name())).expect("a copy");
    }
    std::fs::copy(from.join("data/plugin-cache.key"), to.join("data/plugin-cache.key")).expect("a copy");
}

/// A host with the workspace that the script needs.
pub fn workspace() -> TestHost {
    let host = TestHost::new();
    compiled(&host);
    let hold = host.file("hold", "#!/bin/sh\nset -e\necho $1 $2 >> out.txt\nuntil [ -e go.$2 ]; do sleep 0.01; done\n");
    std::fs::set_permissions(hold, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    host
}

impl Rig {
    /// A session held at the first visit of `point`, its daemon on a disk that can be spoilt.
    pub fn held(point: &str, visit: u32, plugin: bool) -> Self {
        let rig = Self::start(&|control| format!("{point}:{visit}=wait:{}", control.display()), plugin);
        until(&format!("the daemon is at {point}"), || rig.control.join("reached").exists().then_some(()));
        rig
    }

    /// A session whose daemon is slow at every visit of `point`.
    pub fn slow(point: &str) -> Self {
        Self::start(&|_| format!("{point}=slow:40"), false)
    }

    fn start(failpoint: &dyn Fn(&Path) -> String, plugin: bool) -> Self {
        let mut host = workspace();
        if plugin {
            std::fs::write(host.home().join("p.wasm"), crate::plugin::HOSTILE).expect("a guest");
        }
        config(&host, plugin.then_some("allow"));
        let control = host.home().join("control");
        std::fs::create_dir(&control).expect("a folder");
        let library = spoiled_disk().to_string_lossy().into_owned();
        let control_text = control.to_string_lossy().into_owned();
        let daemon =
            host.daemon_env(&[("BEADLE_FAILPOINT", &failpoint(&control)), ("LD_PRELOAD", &library), ("BEADLE_TEST_DISK", &control_text)]);
        let model = Model::start(&script());
        let id = host.run_demo(&model, "go", &[]);
        let seen = Seen::follow(&host.beadle_home(), &id);
        let started = host.events_of(&id, "attempt_started");
        let pid = |key: &str| u32::try_from(started[0]["body"][key].as_u64().expect("a pid")).expect("a pid");
        let (shim, agent) = (pid("shim_pid"), pid("pid"));
        Self { host, _model: model, id, daemon, shim, agent, control, seen }
    }

    /// Lets the held daemon go on.
    pub fn go(&self) {
        std::fs::write(self.control.join("go"), "").expect("a file");
    }

    /// Makes the daemon's disk bad in the named way.
    pub fn spoil(&self, way: &str) {
        std::fs::write(self.control.join(way), "").expect("a file");
    }

    pub fn heal(&self, way: &str) {
        std::fs::remove_file(self.control.join(way)).expect("a file");
    }

    /// Waits until the spoilt disk was felt.
    pub fn disk_was_met(&self) {
        until("the daemon has met the spoilt disk", || self.control.join("met").exists().then_some(()));
    }

    /// Lets a call that waits while it runs go on, also before it begins.
    pub fn release(&self, call: usize) {
        self.host.file(&format!("go.{call}"), "");
    }

    pub fn release_all(&self) {
        self.release(2);
        self.release(4);
    }

    /// What really ran, in order.
    pub fn marks(&self) -> Vec<u64> {
        let number = |l: String| {
            let (kind, n) = l.split_once(' ').expect("a mark");
            let n: u64 = n.parse().expect("a number");
            assert_eq!(kind == "even", n.is_multiple_of(2), "{l}");
            n
        };
        lines_of(&self.host.work().join("out.txt")).into_iter().map(number).collect()
    }

    /// Watches for a while that no call runs but `may`.
    pub fn only(&self, may: &[u64]) {
        let end = Instant::now() + WATCH;
        while Instant::now() < end {
            let marks = self.marks();
            assert!(marks.iter().all(|m| may.contains(m)), "{marks:?} ran, and only {may:?} may have");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Gives the policy another way to behave and puts it into force; returns the command that does so, which the held session keeps.
    pub fn plugin_way(&self, way: &str) -> Child {
        config(&self.host, Some(way));
        let c = self.host.command(["--json", "host", "reload", "--accept-changes"]).stdout(Stdio::piped()).spawn();
        c.expect("the binary starts")
    }

    /// `kill -9` of the held daemon.
    pub fn kill_daemon(&mut self) {
        signal(self.daemon.id(), Signal::KILL);
        self.daemon.wait().expect("a child");
    }

    /// Tells the held daemon to end, and lets it go on to its end.
    pub fn end_daemon(&mut self) {
        let mut stop = self.host.spawn(["host", "stop"]);
        self.go();
        until("the command has ended", || stop.try_wait().ok().flatten());
        until("the daemon has ended", || self.daemon.try_wait().ok().flatten());
    }

    /// A new daemon without failpoint, on a sound disk.
    pub fn new_daemon(&mut self) {
        self.daemon = self.host.daemon_env(&[]);
    }

    /// Waits for the end and checks everything that must hold in every cell. Gives the session.
    pub fn prove(mut self, end: End, what: &str) {
        let s = self.host.ended(&self.id);
        let events = self.host.events(&self.id);
        let text = |e: &Value| e["body"]["call"]["input"]["command"].as_str().unwrap_or_default().to_owned();
        let asked: BTreeMap<u64, u64> = events
            .iter()
            .filter(|e| e["kind"] == "tool_requested")
            .map(|e| (e["seq"].as_u64().unwrap_or(0), text(e).split(' ').find_map(|w| w.parse().ok()).expect("a call's number")))
            .collect();
        let mut allowed = BTreeSet::new();
        let mut decided = Vec::new();
        for e in events.iter().filter(|e| e["kind"] == "tool_decided") {
            let call = asked[&e["body"]["call"].as_u64().expect("a call")];
            decided.push(call);
            if e["body"]["effect"] == "allow" {
                allowed.insert(call);
            }
        }
        // No call that was denied or not decided ran, none ran twice, none was judged twice.
        let marks = self.marks();
        let once: BTreeSet<u64> = marks.iter().copied().collect();
        assert_eq!(once.len(), marks.len(), "{what}: a call ran twice: {marks:?}");
        assert!(once.is_subset(&allowed), "{what}: {marks:?} ran, allowed were {allowed:?}\n{s:#}");
        assert!(allowed.iter().all(|n| n % 2 == 0), "{what}: {allowed:?}");
        assert_eq!(decided.iter().collect::<BTreeSet<_>>().len(), decided.len(), "{what}: a call was judged twice: {decided:?}");
        assert_eq!(asked.values().collect::<BTreeSet<_>>().len(), asked.len(), "{what}: a call was asked twice: {asked:?}");
        match end {
            End::Whole => {
                assert_eq!(s["outcome"], "succeeded", "{what}: {s:#}");
                let why: Vec<&Value> = events.iter().filter(|e| e["kind"] == "tool_decided").map(|e| &e["body"]["reason"]).collect();
                assert_eq!((marks.as_slice(), decided.len()), (ALLOWED.as_slice(), CALLS), "{what}: {why:?}");
            }
            End::Less => assert_eq!((s["outcome"].as_str(), decided.len()), (Some("succeeded"), CALLS), "{what}: {s:#}"),
            End::Broken(outcome) => assert_eq!(s["outcome"], outcome, "{what}: {s:#}"),
        }
        assert!(!events.iter().any(|e| e["kind"] == "mediation_breached"), "{what}: a breach was recorded");
        // What a follower was shown, and so was acknowledged, is all there, unchanged.
        let hashes: BTreeMap<u64, String> =
            events.iter().map(|e| (e["seq"].as_u64().unwrap_or(0), e["hash"].as_str().unwrap_or_default().to_owned())).collect();
        let seen = self.seen.hashes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert!(!seen.is_empty(), "{what}: the follower saw nothing");
        for (seq, hash) in &seen {
            assert_eq!(hashes.get(seq), Some(hash), "{what}: the acknowledged event {seq} is lost");
        }
        let v = self.host.beadle(["--json", "verify"]).ok().json();
        assert_eq!(v["ok"], true, "{what}: {v:#}");
        until("no process of the session is left", || marked(&self.id).is_empty().then_some(()));
        assert!(!alive(self.shim) || marked(&self.id).is_empty(), "{what}");
        self.host.beadle(["host", "stop"]);
        until("the daemon has ended", || self.daemon.try_wait().ok().flatten());
    }
}

pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    let _ = rustix::process::kill_process(pid, signal);
}

/// Files may not grow over `bytes`, in this process and in those that it starts from now on. A process that has ended meanwhile needs
/// its limit lifted no more.
pub fn file_limit(pid: u32, bytes: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    let limit = Rlimit { current: bytes, maximum: None };
    match rustix::process::prlimit(pid, Resource::Fsize, limit) {
        Err(rustix::io::Errno::SRCH) if bytes.is_none() => {}
        done => drop(done.expect("a process of ours")),
    }
}

/// Stops and continues a process again and again until it is dropped, and then leaves it running.
pub struct Pulses {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Pulses {
    pub fn of(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&stop);
        let pulse = move || {
            while !end.load(Ordering::Relaxed) && alive(pid) {
                for s in [Signal::STOP, Signal::CONT] {
                    signal(pid, s);
                    std::thread::sleep(Duration::from_millis(15));
                }
            }
        };
        Self { stop, thread: Some(std::thread::spawn(pulse)) }
    }
}

impl Drop for Pulses {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}
