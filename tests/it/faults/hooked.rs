//! Cells of a session that was not started here: its agent is known by its hooks alone, and its hook client waits for the daemon
//! while that is in trouble at a point.
//!
//! Two clients ask about one call, as two settings files make an agent do: one that takes what one request gives it, and one that
//! asks again until its patience ends. What must hold for each: blocked with nothing on its standard output, or the decision that is
//! on record; never an allow that the next daemon does not find in the log. Called by `act`.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::Cell;
use super::rig::{WATCH, config, signal, spoiled_disk, workspace};
use crate::hooks::{Agent, Begun, asked, decision, payload};
use crate::support::{TestHost, until};

/// The conversation, and calls of it by name: an even number is allowed, an odd one denied.
const TALK: &str = "5f0f5b0e-0000-4000-8000-00000000000a";
/// Long enough on any machine.
const AMPLE: &str = "--deadline-ms 60000";
const AGAIN: &str = "--deadline-ms 60000 --wait-ms 60000";
/// Over before the trouble is.
const SHORT: &str = "--deadline-ms 300";

struct Hooked {
    host: TestHost,
    daemon: Child,
    control: PathBuf,
    agent: Agent,
}

impl Hooked {
    /// An agent with a session on record, and a daemon that does `action` when the first call gets to the point.
    fn start(action: impl Fn(&Path) -> String) -> Self {
        let host = workspace();
        config(&host, None);
        let control = host.home().join("control");
        std::fs::create_dir(&control).expect("a folder");
        let (library, folder) = (spoiled_disk().to_string_lossy().into_owned(), control.to_string_lossy().into_owned());
        let env = [("BEADLE_FAILPOINT", action(&control)), ("LD_PRELOAD", library), ("BEADLE_TEST_DISK", folder)];
        let daemon = host.daemon_env(&env.each_ref().map(|(k, v)| (*k, v.as_str())));
        let mut agent = Agent::start(&host);
        assert_eq!(agent.hook(&payload(&host, TALK, "SessionStart", json!({ "source": "startup" }))).code, 0);
        Self { host, daemon, control, agent }
    }

    fn ask(&mut self, call: u64, options: &str) -> Begun {
        let word = if call.is_multiple_of(2) { "even" } else { "odd" };
        let p = asked(&self.host, TALK, &format!("t{call}"), &format!("echo {word} {call} >> out.txt"));
        self.agent.begin(p.to_string().as_bytes(), options)
    }

    /// Asks, and waits for the answer.
    fn answer(&mut self, call: u64) -> String {
        let begun = self.ask(call, AMPLE);
        self.agent.tell("wait");
        decision(&begun.end())
    }

    fn reached(&self) {
        until("the daemon is at the point", || self.control.join("reached").exists().then_some(()));
    }

    fn touch(&self, name: &str) {
        std::fs::write(self.control.join(name), "").expect("a file");
    }

    fn kill_daemon(&mut self) {
        signal(self.daemon.id(), Signal::KILL);
        self.daemon.wait().expect("a child");
    }

    fn new_daemon(&mut self) {
        self.daemon = self.host.daemon_env(&[]);
    }

    fn session(&self) -> String {
        let all = self.host.beadle(["--json", "ls"]).ok().lines();
        assert_eq!(all.len(), 1, "{all:#?}");
        all[0]["id"].as_str().expect("an id").to_owned()
    }

    /// Effects on record for a call.
    fn recorded(&self, call: u64) -> Vec<String> {
        let events = self.host.events(&self.session());
        let id = format!("t{call}");
        let seqs: Vec<u64> = events
            .iter()
            .filter(|e| e["kind"] == "tool_requested" && e["body"]["call"]["call_id"] == id.as_str())
            .filter_map(|e| e["seq"].as_u64())
            .collect();
        assert!(seqs.len() <= 1, "call {call} was put on record twice: {seqs:?}");
        let decided =
            events.iter().filter(|e| e["kind"] == "tool_decided" && e["body"]["call"].as_u64().is_some_and(|c| seqs.contains(&c)));
        decided.map(|e| e["body"]["effect"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// What the agent was told is what the next daemon has on record, once; it tells the same again and goes on judging.
    fn prove(mut self, told: &[(u64, String)], what: &str) {
        self.kill_daemon();
        self.new_daemon();
        for (call, said) in told {
            let on_record = self.recorded(*call);
            assert!(on_record.len() <= 1, "{what}: call {call} was judged twice: {on_record:?}");
            assert!(said == "blocked" || on_record == [said.as_str()], "{what}: told {said}, on record is {on_record:?}");
        }
        for (call, effect) in [(0, "allow"), (1, "deny"), (2, "allow")] {
            assert_eq!(self.answer(call), effect, "{what}: call {call}");
            assert_eq!(self.recorded(call), [effect], "{what}: call {call}");
        }
        let v = self.host.beadle(["--json", "verify"]).ok().json();
        assert_eq!(v["ok"], true, "{what}: {v:#}");
        let id = self.session();
        self.agent.die();
        self.host.ended(&id);
        self.host.beadle(["host", "stop"]);
        until("the daemon has ended", || self.daemon.try_wait().ok().flatten());
    }
}

/// `blocked` when the client says no for want of an answer, else the decision that it gives on.
fn outcome(begun: &Begun) -> String {
    let said = begun.end();
    match said.err.contains("no decision was obtained") {
        true => {
            assert_eq!((said.code, said.out.as_str()), (2, ""), "{}", said.err);
            "blocked".to_owned()
        }
        false => decision(&said),
    }
}

/// Watches for a while that no client is told to go on.
fn silent(clients: &[&Begun], what: &str) {
    let end = Instant::now() + WATCH;
    while Instant::now() < end {
        assert!(!clients.iter().any(|c| c.has_answered()), "{what}: told what was not durable");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn execute(c: Cell, what: &str) {
    let point = c.point();
    if c.state() == "slow" {
        let mut h = Hooked::start(|_| format!("{point}=slow:40"));
        let told = [(0, h.answer(0)), (1, h.answer(1))];
        assert_eq!(told, [(0, "allow".to_owned()), (1, "deny".to_owned())], "{what}");
        return h.prove(&told, what);
    }
    let mut h = Hooked::start(|control| format!("{point}=wait:{}", control.display()));
    let hung = c.state() == "hung";
    let once = h.ask(0, if hung { SHORT } else { AMPLE });
    let again = h.ask(0, AGAIN);
    h.reached();
    // Each of the points comes before the answer.
    silent(&[&once, &again], what);
    let blocked = |told: &str| assert_eq!(told, "blocked", "{what}: nothing was durable and told yet");
    let first;
    match c.state() {
        "killed" => {
            h.kill_daemon();
            h.agent.tell("wait");
            first = outcome(&once);
            blocked(&first);
            h.new_daemon();
        }
        "hung" => {
            signal(h.daemon.id(), Signal::STOP);
            h.agent.tell("wait");
            first = outcome(&once);
            blocked(&first);
            signal(h.daemon.id(), Signal::CONT);
            h.touch("go");
        }
        "full disk" => {
            h.touch("full");
            // One more call, so that there is something to write wherever the first one stands.
            let third = h.ask(2, AMPLE);
            h.agent.tell("wait");
            h.touch("go");
            until("the daemon has met the full disk", || h.control.join("met").exists().then_some(()));
            match point {
                "requested" | "decided" => silent(&[&once, &again, &third], what),
                // The first one may have been written before the disk was full.
                _ => silent(&[&third], what),
            }
            std::fs::remove_file(h.control.join("full")).expect("a file");
            first = outcome(&once);
            assert_eq!(outcome(&again), "allow", "{what}");
            assert_eq!(outcome(&third), "allow", "{what}");
            return h.prove(&[(0, first), (0, "allow".to_owned()), (2, "allow".to_owned())], what);
        }
        "restarted" => {
            let mut stop = h.host.spawn(["host", "stop"]);
            h.agent.tell("wait");
            h.touch("go");
            until("the command has ended", || stop.try_wait().ok().flatten());
            until("the daemon has ended", || h.daemon.try_wait().ok().flatten());
            h.new_daemon();
            first = outcome(&once);
        }
        other => panic!("{other}"),
    }
    let second = outcome(&again);
    assert_eq!(second, "allow", "{what}: the client that asks again gets the decision, and said {}", again.end().err);
    h.prove(&[(0, first), (0, second)], what);
}
