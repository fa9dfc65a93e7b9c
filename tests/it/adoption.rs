//! Two hundred live sessions whose daemon dies, whose login ends, whose machine goes down: all are adopted, none is lost or started twice,
//! nothing is judged or run twice; after the machine went down, each that asked for it is started once, and the others are told lost.
//!
//! A session's proof is its file, to which each of its calls appends its own number. How many sessions: `BEADLE_ADOPTION`, else 200.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::FlockOperation;
use rustix::process::{Resource, Rlimit, Signal};
use serde_json::{Value, json};

use crate::support::{Model, Said, Terminal, TestHost, alive, bash, lines_of, marked, rules, until};

/// Calls of a session; the second is denied, at the third and the last it waits.
const CALLS: [&str; 5] =
    ["echo even 0 >> out.txt", "echo odd 1 >> out.txt", "flock -s ../gate true", "echo even 3 >> out.txt", "flock -s ../again true"];
/// The third of those that ask.
const ASKED: &str = "touch asked";
/// Calls of one that was started again; at the first it waits.
const ANEW: [&str; 2] = ["flock -s ../anew true", "echo even anew >> out.txt"];
/// One session in so many waits for a person instead of a tool.
const ASKS: usize = 10;
/// `beadle run` processes at a time.
const STARTERS: usize = 4;
/// What sessions say of a restart, in turns; the last two ask for one.
const RESTARTS: [&str; 4] = ["", "--restart no", "--restart on-failure --backoff 20", "--restart always --backoff 20"];

/// Sessions at work, all in the middle of a call.
struct Fleet {
    host: TestHost,
    ids: Vec<String>,
    gates: BTreeMap<&'static str, std::fs::File>,
    login: Option<Terminal>,
    _models: [Model; 2],
}

fn size() -> usize {
    std::env::var("BEADLE_ADOPTION").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
}

fn folder(host: &TestHost, n: usize) -> PathBuf {
    host.work().join(format!("s{n}"))
}

fn asks_for_restart(n: usize) -> bool {
    RESTARTS[n % RESTARTS.len()].contains("--backoff")
}

/// The same for many sessions at once: what a conversation holds already tells which call is next.
fn script(third: &str) -> Value {
    let mut calls = CALLS;
    calls[2] = third;
    let step = |calls: &[&str], n: usize, first: Option<&str>| {
        let mut step = calls.get(n).map_or_else(|| json!({ "text": "done" }), |c| bash(c));
        step["times"] = 10_000.into();
        if let Some(seen) = n.checked_sub(1).map(|last| calls[last]).or(first) {
            step["when"] = json!({ "anywhere": seen });
        }
        step
    };
    let anew = (0..=ANEW.len()).rev().map(|n| step(&ANEW, n, Some("are started again")));
    json!({ "steps": anew.chain((0..=calls.len()).rev().map(|n| step(&calls, n, None))).collect::<Vec<_>>() })
}

impl Fleet {
    /// From a login of their own, so many at a time.
    fn start(size: usize) -> Self {
        let host = TestHost::new();
        let allow = ["Bash(echo even:*)", "Bash(flock:*)", "Bash(true)", "Edit(./**)"];
        host.config(&rules(&allow, &["Bash(touch:*)"], &["Bash(echo odd:*)"]));
        let held = |name| {
            let gate = std::fs::File::create(host.work().join(name)).expect("a gate");
            rustix::fs::flock(gate.as_fd(), FlockOperation::LockExclusive).expect("held");
            (name, gate)
        };
        let gates = ["gate", "again", "anew"].map(held).into();
        let models = [Model::start(&script(CALLS[2])), Model::start(&script(ASKED))];
        let run = |n: usize| {
            std::fs::create_dir_all(folder(&host, n)).expect("a folder");
            let (url, restart) = (models[usize::from(n.is_multiple_of(ASKS))].url(), RESTARTS[n % RESTARTS.len()]);
            let beadle = env!("CARGO_BIN_EXE_beadle");
            format!("(cd s{n} && ANTHROPIC_BASE_URL={url} exec {beadle} --json run --agent demo --detach {restart} go > id.json) &\n")
        };
        let lines = (0..size).map(|n| run(n) + if n % STARTERS == STARTERS - 1 { "wait\n" } else { "" });
        host.file("login.sh", &format!("{}wait\nexec sleep 3600\n", lines.collect::<String>()));
        let like = host.command(["ls"]);
        let mut shell = Command::new("sh");
        shell.arg("login.sh").current_dir(host.work()).env_clear().env("ANTHROPIC_API_KEY", "test");
        shell.envs(like.get_envs().filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned()))));
        let login = Terminal::start(shell);
        let id = |n: usize| {
            let said = || serde_json::from_str::<Value>(&lines_of(&folder(&host, n).join("id.json")).concat()).ok();
            until(&format!("session {n} is started"), || Some(said()?["id"].as_str()?.to_owned()))
        };
        let ids = (0..size).map(id).collect();
        let fleet = Self { host, ids, gates, login: Some(login), _models: models };
        until("every session is in the middle of its third call", || {
            let busy = (0..size).all(|n| lines_of(&folder(&fleet.host, n).join("out.txt")).len() == 1);
            (busy && fleet.asked().len() == size.div_ceil(ASKS) && fleet.tools("gate") == size - size.div_ceil(ASKS)).then_some(())
        });
        fleet
    }

    /// Calls that wait for a person.
    fn asked(&self) -> Vec<String> {
        self.host.beadle(["--json", "approvals"]).ok().lines().iter().filter_map(|a| Some(a["id"].as_str()?.to_owned())).collect()
    }

    /// Tools that wait at a gate.
    fn tools(&self, gate: &str) -> usize {
        let line = format!("flock\0-s\0../{gate}\0");
        let waiting = |pid: &Path| std::fs::read(pid.join("cmdline")).is_ok_and(|c| c.starts_with(line.as_bytes()));
        let here = self.host.work();
        let ours = |pid: &Path| std::fs::read_link(pid.join("cwd")).is_ok_and(|c| c.starts_with(&here));
        let all = std::fs::read_dir("/proc").expect("/proc").flatten().map(|e| e.path());
        all.filter(|p| waiting(p) && ours(p)).count()
    }

    fn live(&self) -> u64 {
        self.host.beadle(["--json", "host", "status"]).ok().json()["live_count"].as_u64().expect("a count")
    }

    fn open(&self, gate: &str) {
        rustix::fs::flock(self.gates[gate].as_fd(), FlockOperation::Unlock).expect("released");
    }

    /// Lets all go on to their last call.
    fn release(&self) {
        self.open("gate");
        for id in self.asked() {
            self.host.beadle(["approve", &id]).ok();
        }
    }

    /// Their terminal hangs up, its leader dies, the runtime folder is removed.
    fn log_out(&mut self) {
        let daemon = self.host.daemon();
        self.login.take().expect("a login").hang_up();
        std::fs::remove_dir_all(self.host.beadle_home().join("run")).expect("the runtime folder");
        assert_eq!((self.host.daemon(), self.live()), (daemon, self.ids.len() as u64), "daemon and sessions go on");
    }

    /// Processes of the sessions, and the shims above them.
    fn processes(&self) -> (BTreeSet<u32>, BTreeSet<u32>) {
        let ids: BTreeSet<&[u8]> = self.ids.iter().map(String::as_bytes).collect();
        let of = |pid: u32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
            environ.split(|c| *c == 0).any(|v| v.strip_prefix(b"BEADLE_SESSION=").is_some_and(|id| ids.contains(id))).then_some(pid)
        };
        let pids = std::fs::read_dir("/proc").expect("/proc").flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        let agents: BTreeSet<u32> = pids.filter_map(of).filter(|pid| alive(*pid)).collect();
        let parent = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit(") ").next()?.split(' ').nth(1)?.parse::<u32>().ok().filter(|p| *p > 1 && !agents.contains(p))
        };
        let shims = agents.iter().filter_map(parent).collect();
        (agents, shims)
    }

    /// What the machine does when it goes down: everything ends at once, and nobody writes down how.
    fn reboot(&self) {
        let daemon = self.host.daemon();
        let (agents, shims) = self.processes();
        assert_eq!(shims.len(), self.ids.len(), "one shim a session");
        // A shim before its agent: it would write down how that ended.
        let all: Vec<u32> = [daemon].into_iter().chain(shims).chain(agents).collect();
        for pid in &all {
            let pid = i32::try_from(*pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
            // An agent ends with its shim.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        until("all of the host is gone", || all.iter().all(|pid| !alive(*pid)).then_some(()));
    }

    /// Every event has the number after that of the one before it, every call is decided once, and the session's file has what was
    /// allowed; gives how many events there are of each kind.
    fn counts(&self, n: usize) -> BTreeMap<String, usize> {
        let id = &self.ids[n];
        let events = self.host.events(id);
        let seqs: Vec<u64> = events.iter().filter_map(|e| e["seq"].as_u64()).collect();
        assert_eq!(seqs, (1..=events.len() as u64).collect::<Vec<_>>(), "{id}: none twice, none missing");
        let of = |kind: &str| events.iter().filter(|e| e["kind"] == kind).collect::<Vec<_>>();
        // The number of a call is that of its question.
        let requested: Vec<_> = of("tool_requested").iter().map(|e| e["seq"].as_u64()).collect();
        let mut decided: Vec<_> = of("tool_decided").iter().map(|e| e["body"]["call"].as_u64()).collect();
        decided.sort_unstable();
        assert_eq!(requested, decided, "{id}: each call is decided, and once");
        let allowed = of("tool_decided").into_iter().filter(|e| e["body"]["effect"] == "allow");
        let allowed: BTreeSet<_> = allowed.map(|e| e["body"]["call"].as_u64()).collect();
        let commands = of("tool_requested").into_iter().filter(|e| allowed.contains(&e["seq"].as_u64()));
        let commands = commands.filter_map(|e| e["body"]["call"]["input"]["command"].as_str());
        let wrote: Vec<_> = commands.filter_map(|c| Some(c.strip_prefix("echo ")?.strip_suffix(" >> out.txt")?.to_owned())).collect();
        assert_eq!(lines_of(&folder(&self.host, n).join("out.txt")), wrote, "{id}: what was allowed ran, and once");
        let mut of = BTreeMap::new();
        events.iter().for_each(|e| *of.entry(e["kind"].as_str().unwrap_or_default().to_owned()).or_default() += 1);
        of
    }

    /// Every session did each of its calls once, was started again if it asked for that, has ended, and left nothing; the log is whole.
    fn prove(&self) {
        for (n, id) in self.ids.iter().enumerate() {
            let s = self.host.ended(id);
            let anew = asks_for_restart(n);
            let outcome = if anew { "succeeded" } else { "lost" };
            assert_eq!((s["outcome"].as_str(), s["breach_count"].as_u64()), (Some(outcome), Some(0)), "{s:#}");
            let ran: &[&str] = if anew { &["even 0", "even 3", "even anew"] } else { &["even 0", "even 3"] };
            assert_eq!(lines_of(&folder(&self.host, n).join("out.txt")), ran, "{id}");
            let counts = self.counts(n);
            let of = |kind: &str| counts.get(kind).copied().unwrap_or_default();
            let attempts = 1 + usize::from(anew);
            let calls = CALLS.len() + if anew { ANEW.len() } else { 0 };
            assert_eq!(of("tool_requested"), calls, "{id}: each call once");
            // Whether the agent took the answer to the call at which all ended may have gone with it.
            assert!((calls - 2..calls).contains(&of("tool_started")), "{id}: {counts:?}");
            let lives = ["session_created", "attempt_started", "attempt_scheduled", "attempt_ended", "session_ended"].map(of);
            assert_eq!(lives, [1, attempts, attempts - 1, attempts, 1], "{id}: started, restarted and ended once");
        }
        assert_eq!(self.processes(), Default::default(), "processes were left");
        self.sound();
    }

    fn sound(&self) {
        let v = self.host.beadle(["--json", "verify"]).ok().json();
        assert_eq!(v["ok"], true, "{v:#}");
    }
}

/// The binary under another path.
fn copy(host: &TestHost) -> PathBuf {
    let path = host.work().join("beadle-next");
    std::fs::copy(env!("CARGO_BIN_EXE_beadle"), &path).expect("a copy");
    path
}

/// An executable whose check is the real one's and whose daemon does what `daemon` says.
fn faulty(host: &TestHost, daemon: &str) -> PathBuf {
    let real = env!("CARGO_BIN_EXE_beadle");
    host.program("faulty", &format!("#!/bin/sh\ncase \"$*\" in *--check*) exec {real} \"$@\" ;; esac\n{daemon}\n"))
}

fn upgrade(host: &TestHost, to: &Path) -> Said {
    host.beadle(["--json", "host", "upgrade", "--to", to.to_str().expect("text")])
}

#[test]
fn all_are_adopted_after_kills_a_logout_and_an_upgrade_and_a_reboot_starts_those_that_ask_for_it() {
    let size = size();
    let mut fleet = Fleet::start(size);
    for round in 1..=3 {
        if round == 2 {
            fleet.log_out();
        }
        fleet.host.kill_daemon();
        fleet.host.daemon();
        assert_eq!(fleet.live(), size as u64, "after kill {round}");
    }
    let before = fleet.host.daemon();
    let said = upgrade(&fleet.host, &faulty(&fleet.host, "exit 7"));
    let doc = said.json();
    assert!(said.code == 1 && doc["rolled_back"].as_str().is_some_and(|w| w.contains("exit status: 7")), "{said:?}");
    assert!(doc["program"].as_str().is_some_and(|p| p.contains("/bin/host-")), "the copy of before runs: {doc:#}");
    assert_eq!((fleet.live(), doc["recovered"]["adopted_count"].as_u64()), (size as u64, Some(size as u64)));
    let next = copy(&fleet.host);
    let doc = upgrade(&fleet.host, &next).ok().json();
    assert_eq!((doc["program"].as_str(), doc["rolled_back"].as_str()), (next.to_str(), None));
    assert_eq!(doc["recovered"], json!({ "adopted_count": size, "ended_count": 0, "failed_count": 0 }));
    assert_ne!(u64::from(before), doc["pid"].as_u64().expect("a pid"));
    fleet.release();
    // In the middle of what they do now.
    fleet.host.kill_daemon();
    fleet.host.daemon();
    until("every session is in the middle of its last call", || (fleet.tools("again") == size).then_some(()));
    fleet.reboot();
    let anew = (0..size).filter(|n| asks_for_restart(*n)).count();
    fleet.host.daemon();
    until("each that asked for it is started again", || (fleet.tools("anew") == anew).then_some(()));
    // Another daemon starts none of them a third time.
    fleet.host.kill_daemon();
    fleet.host.daemon();
    assert_eq!((fleet.live(), fleet.processes().1.len(), fleet.tools("anew")), (anew as u64, anew, anew));
    fleet.open("anew");
    fleet.prove();
}

/// It gets no more memory than it has, while calls come and one agent says a line that needs it.
#[test]
fn a_daemon_that_is_refused_memory_serves_on_or_dies_whole() {
    let fleet = Fleet::start(8);
    let host = &fleet.host;
    let line = "until [ -e go ]; do sleep 0.02; done; head -c 12000000 /dev/zero | tr '\\0' x; echo; sleep 600";
    let agent = host.program("says", &format!("#!/bin/sh\n{line}\n"));
    let greedy =
        host.beadle(["--json", "run", "--detach", "--agent", "claude", "--program", &agent.display().to_string(), "hi"]).ok().json();
    let greedy = greedy["id"].as_str().expect("an id").to_owned();
    until("it runs", || (host.show(&greedy)["status"] == "running").then_some(()));
    host.kill_daemon();
    // Without the room that its allocator has put by.
    let mut daemon = host.daemon_with("MALLOC_ARENA_MAX", "1");
    assert_eq!(fleet.live(), 9);
    starve(daemon.id());
    // Calls that come now are decided, or wait.
    fleet.open("gate");
    for words in [["show", &fleet.ids[0]], ["ps", &fleet.ids[0]], ["account", &fleet.ids[0]]] {
        let served = host.beadle(words);
        assert!(served.code == 0 || served.err.contains("BDL-"), "it answers, or is gone: {served:?}");
    }
    host.file("go", "");
    let how = until("the daemon is gone, whole", || daemon.try_wait().expect("a child"));
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&how), Some(6), "{how}: by its own word");
    let next = host.daemon();
    assert_eq!(fleet.live(), 9);
    assert_eq!(host.show(&greedy)["status"], "running");
    host.beadle(["kill", &greedy]).ok();
    for id in fleet.asked() {
        host.beadle(["approve", &id]).ok();
    }
    fleet.open("again");
    // Those that always ask for a restart.
    fleet.open("anew");
    for (n, id) in fleet.ids.iter().enumerate() {
        let s = host.ended(id);
        assert_eq!((s["outcome"].as_str(), s["breach_count"].as_u64()), (Some("succeeded"), Some(0)), "{s:#}");
        assert_eq!(fleet.counts(n)["session_ended"], 1, "{id}");
    }
    assert_eq!(host.daemon(), next);
    fleet.sound();
}

/// By `oom_score_adj`; a host that is high already can put its agents no higher than the kernel knows.
#[test]
fn when_memory_runs_out_agents_and_what_they_started_go_before_shims_and_the_daemon() {
    for raise in [-1000, 800] {
        let mut host = TestHost::new();
        let raised = format!("own=$(cat /proc/self/oom_score_adj)\n[ \"$own\" -gt {raise} ] || echo {raise} > /proc/self/oom_score_adj\n");
        let program = host.program("raised", &format!("#!/bin/sh\n{raised}exec {} \"$@\"\n", env!("CARGO_BIN_EXE_beadle")));
        host.runs(&program);
        let doc = host.beadle(["--json", "run", "--detach", "--", "sh", "-c", "sleep 600 & wait"]).ok().json();
        let id = doc["id"].as_str().expect("an id").to_owned();
        until("it has a child", || (marked(&id).len() == 2).then_some(()));
        let score = |pid: u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("a process");
            text.trim().parse::<i32>().expect("a number")
        };
        let family = host.beadle(["--json", "ps", &id]).ok().lines();
        let shim = family.iter().find(|p| p["role"] == "shim").and_then(|p| p["pid"].as_u64()).and_then(|p| u32::try_from(p).ok());
        let own = score(host.daemon());
        assert_eq!(score(shim.expect("a shim")), own);
        assert!(own >= raise, "{own}");
        marked(&id).into_iter().for_each(|pid| assert_eq!(score(pid), (own + 500).min(1000), "{pid}"));
    }
}

/// From now on the process gets no more room than it has.
fn starve(pid: u32) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let process = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    for (what, resource) in [("VmSize:", Resource::As), ("VmData:", Resource::Data)] {
        let kb = status.lines().find_map(|l| l.strip_prefix(what)?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        let now = Some(kb.expect("its size") << 10);
        rustix::process::prlimit(process, resource, Rlimit { current: now, maximum: now }).expect("limited");
    }
}

#[test]
fn what_cannot_take_over_changes_nothing() {
    let host = TestHost::new();
    assert_eq!(upgrade(&host, Path::new("/bin/true")).code, 4, "no daemon, nothing to upgrade");
    let pid = host.daemon();
    for (program, says) in [
        (host.program("refuses", "#!/bin/sh\necho nonsense >&2\nexit 3\n"), "its check ended with exit status: 3: nonsense"),
        (host.work().join("absent"), "give an executable"),
    ] {
        let said = upgrade(&host, &program);
        assert!(said.code != 0 && said.err.contains(says), "{said:?}");
    }
    // A new version whose engine does not take a policy any more.
    let real = env!("CARGO_BIN_EXE_beadle");
    let lost = host.program("lost", &format!("#!/bin/sh\n{real} \"$@\" | sed 's/\"state\":\"ready\"/\"state\":\"failed\"/'\n"));
    let said = upgrade(&host, &lost);
    assert!(said.code == 1 && said.err.contains("BDL-CLI-040") && said.err.contains("policy rules is in force and fails"), "{said:?}");
    assert_eq!(host.daemon(), pid, "the same daemon all the while");
}

#[test]
fn an_executable_that_hangs_is_ended_and_taken_back() {
    let host = TestHost::new();
    let pid = host.daemon();
    let to = faulty(&host, "echo $$ > \"$BEADLE_HOME/hung\"; exec sleep 1000");
    let said = host.beadle(["--json", "host", "upgrade", "--within", "5s", "--to", to.to_str().expect("text")]);
    assert!(said.code == 1 && said.json()["rolled_back"].is_string(), "{said:?}");
    assert_ne!(host.daemon(), pid);
    let hung: u32 = lines_of(&host.beadle_home().join("hung"))[0].parse().expect("a pid");
    assert!(!alive(hung), "what was started and is not wanted is ended");
}
