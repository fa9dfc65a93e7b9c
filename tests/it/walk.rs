//! Random walks of real sessions against a model: start, pause, resume, stop, kill, crashes of agent, shim and daemon, and time.
//!
//! After each step the session stands where the model says, a step that the table does not have is refused by its code and changes
//! nothing, and at the end the log proves itself: its transitions follow the one table, it ends once, nothing is left running.
//!
//! `BEADLE_WALKS` is how many walks are made; a failing one is told whole.

use std::cell::RefCell;

use beadle::model::{Event, Status, status_of};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::support::{Model, TestHost, bash, kill, marked, rules, until};

/// Walks of an ordinary run.
const WALKS: u32 = 40;
/// What an agent waits for before it ends by itself.
const WAITS: &str = "until [ -e end ]; do sleep 0.02; done";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A command: no gate, so that a pause can only freeze it.
    Plain,
    /// An agent with a gate, in the middle of a call.
    Gated,
    /// A command that may take a second.
    Timed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Pause(Mode),
    Resume,
    Stop,
    Kill,
    /// The daemon is killed; the next command finds another.
    DaemonDies,
    /// The daemon ends in order.
    DaemonEnds,
    AgentDies,
    ShimDies,
    /// The agent has done its work.
    AgentEnds,
    /// Time passes until a session that is bounded by it has ended.
    Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Hold,
    Freeze,
}

impl Mode {
    const fn word(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Freeze => "freeze",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Running,
    Paused(Mode),
    Ended(&'static str),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Pause(Mode::Freeze)),
        3 => Just(Step::Pause(Mode::Hold)),
        4 => Just(Step::Resume),
        1 => Just(Step::Stop),
        1 => Just(Step::Kill),
        3 => Just(Step::DaemonDies),
        1 => Just(Step::DaemonEnds),
        1 => Just(Step::AgentDies),
        1 => Just(Step::ShimDies),
        1 => Just(Step::AgentEnds),
        1 => Just(Step::Time),
    ]
}

/// The model of one session.
struct Walk<'a> {
    host: &'a TestHost,
    kind: Kind,
    id: String,
    at: At,
    /// It has done its work and lives: frozen, or held and not heard.
    ends: bool,
}

impl Walk<'_> {
    fn ended_well(&self) -> &'static str {
        if self.kind == Kind::Gated { "succeeded" } else { "exited" }
    }

    /// The session as it is. One that time bounds may have ended at any moment.
    fn look(&mut self) -> Value {
        let s = self.host.show(&self.id);
        if self.kind == Kind::Timed && s["status"] == "ended" && s["outcome"] == "budget" && !matches!(self.at, At::Ended(_)) {
            self.at = At::Ended("budget");
        }
        s
    }

    /// Waits until the session stands where the model says.
    fn stands(&mut self, step: Step) {
        until(&format!("after {step:?} it is {:?}", self.at), || {
            let s = self.look();
            let is = match self.at {
                At::Running => s["status"] == "running" && s["pause"].is_null(),
                At::Paused(m) => s["status"] == "paused" && s["pause"]["mode"] == m.word(),
                At::Ended(outcome) => s["status"] == "ended" && s["outcome"] == outcome,
            };
            is.then_some(())
        });
    }

    /// A verb that the table has here, or does not.
    fn verb(&mut self, args: &[&str], to: Option<At>, code: &str) {
        let said = self.host.beadle(args);
        self.look();
        match to {
            _ if self.at == At::Ended("budget") => {}
            Some(to) => {
                assert_eq!(said.code, 0, "{args:?} where it is {:?}: {said:?}", self.at);
                self.at = to;
            }
            None => assert!(said.code != 0 && said.err.contains(code), "{args:?} where it is {:?}: {said:?}", self.at),
        }
    }

    fn pid(&self, role: &str) -> Option<u32> {
        let said = self.host.beadle(["--json", "ps", &self.id]);
        let found = said.lines().into_iter().find(|p| p["role"] == role)?["pid"].as_u64()?;
        u32::try_from(found).ok()
    }

    fn take(&mut self, step: Step) {
        let id = self.id.clone();
        self.look();
        let open = !matches!(self.at, At::Ended(_));
        match step {
            Step::Pause(mode) => {
                let to = match (self.at, mode, self.kind) {
                    (At::Running, Mode::Hold, Kind::Plain | Kind::Timed) => None,
                    (At::Running, ..) => Some(At::Paused(mode)),
                    _ => None,
                };
                let code = if self.at == At::Running { "BDL-SESSION-053" } else { "BDL-SESSION-051" };
                self.verb(&["pause", "--mode", mode.word(), &id], to, code);
            }
            // An ended one is resumed as another session; that is not of this walk.
            Step::Resume if !open => {}
            Step::Resume => {
                let to = matches!(self.at, At::Paused(_)).then_some(At::Running);
                self.verb(&["resume", &id], to, "BDL-SESSION-052");
                if self.ends && self.at == At::Running {
                    self.at = At::Ended(self.ended_well());
                }
            }
            Step::Stop | Step::Kill => {
                let (verb, outcome) = if step == Step::Stop { ("stop", "stopped") } else { ("kill", "killed") };
                let was = self.at;
                let said = self.host.beadle([verb, &id]);
                self.look();
                if open && self.at == was {
                    assert_eq!(said.code, 0, "{verb}: {said:?}");
                    self.at = At::Ended(outcome);
                }
            }
            Step::DaemonDies => self.host.kill_daemon(),
            Step::DaemonEnds => {
                self.host.beadle(["host", "stop"]).ok();
            }
            Step::AgentDies | Step::ShimDies => {
                let role = if step == Step::AgentDies { "agent" } else { "shim" };
                let pid = self.pid(role).filter(|_| open);
                self.look();
                if let Some(pid) = pid.filter(|_| !matches!(self.at, At::Ended(_))) {
                    kill(pid);
                    self.at = At::Ended(if step == Step::AgentDies { "failed" } else { "lost" });
                }
            }
            Step::AgentEnds => {
                self.host.file("end", "");
                match self.at {
                    At::Running => self.at = At::Ended(self.ended_well()),
                    At::Paused(_) => self.ends = true,
                    At::Ended(_) => {}
                }
            }
            Step::Time if self.kind == Kind::Timed => {
                self.host.ended(&id);
                self.look();
            }
            Step::Time => {}
        }
        self.stands(step);
    }

    /// What is true of each log, however it came to be.
    fn prove(&mut self) {
        let events = self.host.events(&self.id);
        let mut at = Status::Starting;
        for (n, e) in events.iter().enumerate() {
            assert_eq!(e["seq"].as_u64(), Some(n as u64 + 1), "gapless");
            let event = Event::from_parts(e["kind"].as_str().expect("a kind"), e["body"].to_string().as_bytes()).expect("a body");
            if let Some(next) = status_of(&event).filter(|next| *next != at) {
                assert!(at.may_become(next), "{at:?} to {next:?} at {n}: {events:#?}");
                at = next;
            }
        }
        let ends = events.iter().filter(|e| e["kind"] == "session_ended").count();
        assert_eq!((at == Status::Ended, ends), (matches!(self.at, At::Ended(_)), usize::from(at == Status::Ended)));
        assert_eq!(self.host.beadle(["--json", "verify", &self.id]).ok().json()["ok"], true);
    }
}

fn walk(host: &mut TestHost, kind: Kind, steps: &[Step]) {
    let _ = std::fs::remove_file(host.work().join("end"));
    let command: &[&str] = match kind {
        Kind::Plain => &["--", "sh", "-c", WAITS],
        Kind::Timed => &["--max-time", "1s", "--", "sh", "-c", WAITS],
        Kind::Gated => &[],
    };
    // The script of one session; it lives as long as the walk.
    let model = Model::start(&json!({ "steps": [bash(WAITS), { "text": "done" }] }));
    let id = if kind == Kind::Gated {
        host.run_demo(&model, "go", &[])
    } else {
        let said = host.beadle([&["--json", "run", "--detach"], command].concat()).ok();
        said.json()["id"].as_str().expect("an id").to_owned()
    };
    if kind == Kind::Gated {
        until("its call runs", || (!host.events_of(&id, "tool_started").is_empty()).then_some(()));
    }
    let mut walk = Walk { host, kind, id: id.clone(), at: At::Running, ends: false };
    for s in steps {
        walk.take(*s);
    }
    if !matches!(walk.at, At::Ended(_)) {
        walk.take(Step::Kill);
    }
    walk.prove();
    until("nothing is left", || marked(&id).is_empty().then_some(()));
}

#[test]
fn random_walks_follow_the_table_and_the_log() {
    let host = TestHost::new();
    host.config(&rules(&["Bash"], &[], &[]));
    let host = RefCell::new(host);
    let cases = std::env::var("BEADLE_WALKS").ok().and_then(|n| n.parse().ok()).unwrap_or(WALKS);
    let config = Config { cases, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
    let kinds = prop_oneof![2 => Just(Kind::Plain), 3 => Just(Kind::Gated), 1 => Just(Kind::Timed)];
    let steps = (kinds, proptest::collection::vec(step(), 1..9));
    let done = TestRunner::new(config).run(&steps, |(kind, steps)| {
        walk(&mut host.borrow_mut(), kind, &steps);
        Ok(())
    });
    if let Err(e) = done {
        panic!("{e}");
    }
}
