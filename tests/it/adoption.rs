//! Two hundred live sessions and a daemon that dies: all are adopted, none is lost or started twice, nothing is judged or run twice.
//!
//! A session's proof is its file, to which each of its calls appends its own number. How many sessions: `BEADLE_ADOPTION`, else 200.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde_json::{Value, json};

use crate::support::{Model, Said, TestHost, bash, lines_of, marked, rules, until};

/// Calls of a session; the second is denied, at the third it waits.
const CALLS: u64 = 4;
/// One session in so many waits for a person instead of a tool.
const ASKS: usize = 10;
/// `beadle run` processes at a time.
const STARTERS: usize = 4;

/// Sessions at work, all in the middle of a call.
struct Fleet {
    host: TestHost,
    ids: Vec<String>,
    /// Held shared by no tool while the test holds it alone.
    gate: std::fs::File,
    _models: [Model; 2],
}

fn size() -> usize {
    std::env::var("BEADLE_ADOPTION").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
}

fn folder(host: &TestHost, n: usize) -> PathBuf {
    host.work().join(format!("s{n}"))
}

/// The same for many sessions at once: what a conversation holds already tells which call is next.
fn script(third: &str) -> Value {
    let calls = ["echo even 0 >> out.txt", "echo odd 1 >> out.txt", third, "echo even 3 >> out.txt"];
    let step = |n: usize| {
        let mut step = calls.get(n).map_or_else(|| json!({ "text": "done" }), |c| bash(c));
        step["times"] = 10_000.into();
        if let Some(last) = n.checked_sub(1) {
            step["when"] = json!({ "anywhere": calls[last] });
        }
        step
    };
    json!({ "steps": (0..=calls.len()).rev().map(step).collect::<Vec<_>>() })
}

impl Fleet {
    fn start(size: usize) -> Self {
        let host = TestHost::new();
        let allow = ["Bash(echo even:*)", "Bash(flock:*)", "Bash(true)", "Edit(./**)"];
        host.config(&rules(&allow, &["Bash(touch:*)"], &["Bash(echo odd:*)"]));
        let gate = std::fs::File::create(host.work().join("gate")).expect("a gate");
        rustix::fs::flock(gate.as_fd(), FlockOperation::LockExclusive).expect("held");
        let models = [Model::start(&script("flock -s ../gate true")), Model::start(&script("touch asked"))];
        let mut ids = Vec::with_capacity(size);
        for first in (0..size).step_by(STARTERS) {
            let started: Vec<_> = (first..size.min(first + STARTERS))
                .map(|n| {
                    std::fs::create_dir_all(folder(&host, n)).expect("a folder");
                    let mut run = host.command(["--json", "run", "--agent", "demo", "--detach", "go"]);
                    let model = &models[usize::from(n % ASKS == 0)];
                    run.current_dir(folder(&host, n)).env("ANTHROPIC_BASE_URL", model.url()).env("ANTHROPIC_API_KEY", "test");
                    run.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("the binary starts")
                })
                .collect();
            for run in started {
                let said: Said = run.wait_with_output().expect("its output").into();
                ids.push(said.ok().json()["id"].as_str().expect("an id").to_owned());
            }
        }
        let fleet = Self { host, ids, gate, _models: models };
        until("every session is in the middle of its third call", || {
            let busy = (0..size).all(|n| lines_of(&folder(&fleet.host, n).join("out.txt")).len() == 1);
            (busy && fleet.asked() == size.div_ceil(ASKS) && fleet.tools() == size - size.div_ceil(ASKS)).then_some(())
        });
        fleet
    }

    fn asked(&self) -> usize {
        self.host.beadle(["--json", "approvals"]).ok().lines().len()
    }

    /// Tools that wait at the gate.
    fn tools(&self) -> usize {
        let waiting = |pid: &Path| std::fs::read(pid.join("cmdline")).is_ok_and(|c| c.starts_with(b"flock\0-s\0../gate\0"));
        let here = self.host.work();
        let ours = |pid: &Path| std::fs::read_link(pid.join("cwd")).is_ok_and(|c| c.starts_with(&here));
        let all = std::fs::read_dir("/proc").expect("/proc").flatten().map(|e| e.path());
        all.filter(|p| waiting(p) && ours(p)).count()
    }

    fn live(&self) -> u64 {
        self.host.beadle(["--json", "host", "status"]).ok().json()["live_count"].as_u64().expect("a count")
    }

    /// Lets all go on.
    fn release(&self) {
        rustix::fs::flock(self.gate.as_fd(), FlockOperation::Unlock).expect("released");
        for a in self.host.beadle(["--json", "approvals"]).ok().lines() {
            self.host.beadle(["approve", a["id"].as_str().expect("an id")]).ok();
        }
    }

    /// Every session did each of its calls once, has ended, and left nothing; the log is whole.
    fn prove(&self) {
        for (n, id) in self.ids.iter().enumerate() {
            let s = self.host.ended(id);
            assert_eq!((s["outcome"].as_str(), s["breach_count"].as_u64()), (Some("succeeded"), Some(0)), "{s:#}");
            assert_eq!(lines_of(&folder(&self.host, n).join("out.txt")), ["even 0", "even 3"], "{id}");
            let events = self.host.events(id);
            let of = |kind: &str| events.iter().filter(|e| e["kind"] == kind).count() as u64;
            assert_eq!(["tool_requested", "tool_decided", "tool_started"].map(of), [CALLS, CALLS, CALLS - 1], "{id}: each call once");
            assert_eq!(
                ["session_created", "attempt_started", "attempt_ended", "session_ended"].map(of),
                [1; 4],
                "{id}: started and ended once"
            );
            assert_eq!(marked(id), Vec::<u32>::new(), "{id} left processes");
        }
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
fn all_are_adopted_after_kills_and_over_an_upgrade() {
    let size = size();
    let fleet = Fleet::start(size);
    for round in 1..=3 {
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
    fleet.prove();
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
    assert!(!crate::support::alive(hung), "what was started and is not wanted is ended");
}
