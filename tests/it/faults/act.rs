//! What is done to each component, and what must come of it.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::Cell;
use super::rig::{End, Pulses, Rig, file_limit, signal};
use crate::support::{kill, until};

/// Why a cell cannot be executed.
pub fn impossible(c: Cell) -> Option<&'static str> {
    match (c.component(), c.state()) {
        ("shim", "restarted") => Some("a shim is never started again: its agent ends with it, and the session is recorded as lost"),
        ("agent", "restarted") => Some("an attempt has one agent process; resuming a session in a new one does not exist yet"),
        ("daemon by hook", _) if matches!(c.point(), "sent" | "taken" | "ran" | "reported") => Some(
            "a hook's answer goes to the client that waits for it, and to no shim that would take it; the agent runs the call by itself",
        ),
        _ => None,
    }
}

/// What is done, for the table.
pub fn words(c: Cell) -> &'static str {
    match (c.component(), c.state()) {
        ("daemon", "killed") => "`kill -9` at the point, then a new daemon",
        ("daemon", "hung") => {
            "stopped by SIGSTOP; a hook client is refused meanwhile; continued in one session, killed while stopped in a second"
        }
        ("daemon", "slow") => "40 ms more at every visit of the point",
        ("daemon", "full disk") => "every write below its folders fails with ENOSPC until a write has failed",
        ("daemon", "restarted") => "told to end at the point, then a new daemon",
        ("shim", "killed") => "`kill -9`: the agent dies with it, the session ends as lost",
        ("shim", "hung") => "stopped by SIGSTOP, continued later",
        ("shim", "slow") => "stopped and continued in turns of 15 ms to the end",
        ("shim", "full disk") => "its files may not grow (RLIMIT_FSIZE) until it says that it waits",
        ("hook client", "killed") => "`kill -9` before its input is whole",
        ("hook client", "hung") => "stopped by SIGSTOP until its own deadline is over",
        ("hook client", "slow") => "its input comes more slowly than its deadline allows",
        ("hook client", "full disk") => "its standard output is /dev/full",
        ("hook client", "restarted") => "killed, then asked again",
        ("plugin", "killed") => "traps at every call from the point on",
        ("plugin", "hung") => "loops at every call from the point on, until its deadline",
        ("plugin", "slow") => "takes long, but less than its deadline, from the point on",
        ("plugin", "full disk") => "asks for more memory than it may have at every call from the point on (a plugin has no disk)",
        ("plugin", "restarted") => "its component is replaced by another build at the point",
        ("store", "killed") => "every write and sync of the database fails with EIO until one has failed",
        ("store", "hung") => "a write or sync of the database does not return, later it does",
        ("store", "slow") => "20 ms more for every write and sync of the database to the end",
        ("store", "full disk") => "every write of the database fails with ENOSPC until one has failed",
        ("store", "restarted") => "closed with its daemon, its log copied and its index removed by another process, opened again",
        ("agent", "killed") => "`kill -9`: the session fails",
        ("agent", "hung") => "stopped by SIGSTOP, continued later",
        ("agent", "slow") => "stopped and continued in turns of 15 ms to the end",
        ("agent", "full disk") => "its files and those of its calls may not grow (RLIMIT_FSIZE) until a call has failed by that",
        ("terminal", "killed") => "the attached command gets `kill -9`",
        ("terminal", "hung") => "the attached command is stopped by SIGSTOP to the end of the session",
        ("terminal", "slow") => "the attached command is stopped and continued in turns of 15 ms",
        ("terminal", "full disk") => "a second command attaches with /dev/full as its standard output",
        ("terminal", "restarted") => "the attached command is killed and another attaches",
        ("daemon by hook", "killed") => {
            "a session known by its hooks alone: `kill -9` while a client waits; it blocks, and one that asks again gets the next daemon's word"
        }
        ("daemon by hook", "hung") => "stopped by SIGSTOP over the client's deadline, then continued; a second client waits it out",
        ("daemon by hook", "slow") => "40 ms more at every visit of the point",
        ("daemon by hook", "full disk") => {
            "every write below its folders fails with ENOSPC until one has failed; clients wait and get no word"
        }
        ("daemon by hook", "restarted") => "told to end at the point, then a new daemon",
        _ => "",
    }
}

/// Runs a cell; panics when something does not hold.
pub fn execute(c: Cell, what: &str) {
    match c.component() {
        "daemon" => daemon(c, what),
        "shim" => shim(c, what),
        "hook client" => hook(c, what),
        "plugin" => plugin(c, what),
        "store" => store(c, what),
        "agent" => agent(c, what),
        "terminal" => terminal(c, what),
        "daemon by hook" => super::hooked::execute(c, what),
        other => panic!("no component {other}"),
    }
}

/// Calls that may have run while the first one is held at a point: none before its decision is durable and sent.
fn may_run(point: &str) -> &'static [u64] {
    match point {
        "requested" | "decided" | "appended" | "synced" => &[],
        // Once the first call was answered, the next ones may be too when the daemon goes on.
        _ => &[0],
    }
}

/// The same when the daemon goes on but cannot record: nothing new may run.
fn held(c: Cell) -> Rig {
    let rig = Rig::held(c.point(), 1, false);
    rig.only(may_run(c.point()));
    rig
}

fn daemon(c: Cell, what: &str) {
    match c.state() {
        "killed" => {
            let mut rig = held(c);
            rig.kill_daemon();
            rig.only(may_run(c.point()));
            rig.new_daemon();
            rig.release_all();
            rig.prove(End::Whole, what);
        }
        "hung" => {
            for dies in [false, true] {
                let mut rig = held(c);
                signal(rig.daemon.id(), Signal::STOP);
                refused(&rig, Duration::from_millis(150));
                rig.only(may_run(c.point()));
                if dies {
                    rig.kill_daemon();
                    rig.new_daemon();
                } else {
                    signal(rig.daemon.id(), Signal::CONT);
                    rig.go();
                }
                rig.release_all();
                rig.prove(End::Whole, what);
            }
        }
        "slow" => {
            let rig = Rig::slow(c.point());
            rig.release_all();
            rig.prove(End::Whole, what);
        }
        "full disk" => {
            let rig = held(c);
            unwritable(&rig, c, "full");
            rig.prove(End::Whole, what);
        }
        "restarted" => {
            let mut rig = held(c);
            rig.end_daemon();
            rig.new_daemon();
            rig.release_all();
            rig.prove(End::Whole, what);
        }
        other => panic!("{other}"),
    }
}

/// Spoils the disk at the point until some call was met by it; a decision that could not be made durable lets nothing run.
fn unwritable(rig: &Rig, c: Cell, way: &str) {
    rig.spoil(way);
    rig.go();
    // The calls that wait go on, so that there is something to record at every point.
    rig.release_all();
    rig.disk_was_met();
    match c.point() {
        "requested" | "decided" => rig.only(&[]),
        // Its append may have been written before the disk was spoilt; the next call's cannot.
        _ => rig.only(&[0]),
    }
    rig.heal(way);
}

/// One process is killed, and the session ends as that makes it end.
fn killed(rig: Rig, of: fn(&Rig) -> u32, outcome: &'static str, what: &str) {
    kill(of(&rig));
    rig.go();
    rig.release_all();
    rig.prove(End::Broken(outcome), what);
}

/// One process is stopped for a while: no answer reaches the agent, so at the most the call that was answered before runs.
fn stopped(rig: Rig, c: Cell, of: fn(&Rig) -> u32, what: &str) {
    signal(of(&rig), Signal::STOP);
    rig.go();
    rig.only(may_run(c.point()));
    signal(of(&rig), Signal::CONT);
    rig.release_all();
    rig.prove(End::Whole, what);
}

/// One process is stopped and continued again and again to the end of the session.
fn pulsed(rig: Rig, of: fn(&Rig) -> u32, what: &str) {
    let pulses = Pulses::of(of(&rig));
    rig.go();
    rig.release_all();
    rig.host.ended(&rig.id);
    drop(pulses);
    rig.prove(End::Whole, what);
}

fn shim(c: Cell, what: &str) {
    let rig = held(c);
    match c.state() {
        "killed" => killed(rig, |r| r.shim, "lost", what),
        "hung" => stopped(rig, c, |r| r.shim, what),
        "slow" => pulsed(rig, |r| r.shim, what),
        "full disk" => {
            file_limit(rig.shim, Some(0));
            rig.go();
            rig.release_all();
            let log = rig.host.data().join("daemon.log");
            until("the shim says that it waits", || {
                std::fs::read_to_string(&log).unwrap_or_default().contains("cannot be written; it waits").then_some(())
            });
            file_limit(rig.shim, None);
            rig.prove(End::Whole, what);
        }
        other => panic!("{other}"),
    }
}

/// A hook client below a shell of its own. Who starts a hook client is the agent to the host, and what that starts has the role of
/// its session: that must not be this test.
fn hook_client(rig: &Rig, deadline: Duration) -> Command {
    let shim = shim_of(rig).display().to_string();
    hook_command(rig, deadline, Command::new("/bin/sh"), &["-c", "\"$0\" hook claude; exit $?", &shim])
}

/// The hook client's own number, below the shell `parent`; it runs its program by then.
fn client_below(rig: &Rig, parent: u32) -> u32 {
    let shim = shim_of(rig);
    until("the shell has started the hook client", || {
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        let child: u32 = children.split_whitespace().next()?.parse().ok()?;
        (std::fs::read_link(format!("/proc/{child}/exe")).ok()? == shim).then_some(child)
    })
}

fn shim_of(rig: &Rig) -> std::path::PathBuf {
    let bin = rig.host.data().join("bin");
    std::fs::read_dir(bin).expect("the daemon's programs").flatten().next().expect("a shim").path()
}

fn hook_command(rig: &Rig, deadline: Duration, mut c: Command, args: &[&str]) -> Command {
    c.args(args)
        .env_clear()
        .env("BEADLE_SOCKET", rig.host.beadle_home().join("run/beadle.sock"))
        .env("BEADLE_HOOK_DEADLINE_MS", deadline.as_millis().to_string())
        .current_dir(rig.host.work())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    c
}

/// A hook client asks about a call and is not answered in time: blocked, and nothing on its standard output.
fn refused(rig: &Rig, deadline: Duration) {
    let mut child = hook_client(rig, deadline).spawn().expect("the hook client starts");
    child.stdin.take().expect("a pipe").write_all(QUESTION).expect("written");
    let out = child.wait_with_output().expect("a child");
    assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(2), &b""[..]), "{}", String::from_utf8_lossy(&out.stderr));
}

/// As Claude Code asks before a call.
const QUESTION: &[u8] = br#"{"session_id":"5f0f5b0e-0000-4000-8000-000000000000","transcript_path":"/tmp/t.jsonl","cwd":"/tmp","permission_mode":"default","hook_event_name":"PreToolUse","tool_name":"Bash","tool_input":{"command":"echo odd 9 >> out.txt"},"tool_use_id":"toolu_9"}"#;

fn hook(c: Cell, what: &str) {
    let rig = held(c);
    let short = Duration::from_millis(150);
    match c.state() {
        "killed" | "restarted" => {
            let mut child = hook_client(&rig, Duration::from_secs(30)).spawn().expect("the hook client starts");
            child.stdin.as_mut().expect("a pipe").write_all(&QUESTION[..40]).expect("written");
            signal(client_below(&rig, child.id()), Signal::KILL);
            let out = child.wait_with_output().expect("a child");
            assert!(!out.status.success() && out.stdout.is_empty(), "{what}: {out:?}");
            if c.state() == "restarted" {
                signal(rig.daemon.id(), Signal::STOP);
                refused(&rig, short);
                signal(rig.daemon.id(), Signal::CONT);
            }
        }
        "hung" => {
            let mut child = hook_client(&rig, short).spawn().expect("the hook client starts");
            let client = client_below(&rig, child.id());
            signal(client, Signal::STOP);
            child.stdin.take().expect("a pipe").write_all(QUESTION).expect("written");
            rig.only(may_run(c.point()));
            std::thread::sleep(short);
            signal(client, Signal::CONT);
            let out = child.wait_with_output().expect("a child");
            assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(2), &b""[..]), "{what}: {out:?}");
        }
        "slow" => {
            let mut child = hook_client(&rig, short).spawn().expect("the hook client starts");
            let mut input = child.stdin.take().expect("a pipe");
            for byte in QUESTION {
                // Broken when the client has given up, as it must.
                if input.write_all(&[*byte]).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            drop(input);
            let out = child.wait_with_output().expect("a child");
            assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(2), &b""[..]), "{what}: {out:?}");
        }
        "full disk" => {
            let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
            let mut child = hook_client(&rig, Duration::from_secs(5)).stdout(full).spawn().expect("the hook client starts");
            child.stdin.take().expect("a pipe").write_all(QUESTION).expect("written");
            let out = child.wait_with_output().expect("a child");
            assert_eq!(out.status.code(), Some(2), "{what}: {out:?}");
        }
        other => panic!("{other}"),
    }
    rig.go();
    rig.release_all();
    rig.prove(End::Whole, what);
}

fn plugin(c: Cell, what: &str) {
    let rig = Rig::held(c.point(), 1, true);
    rig.only(may_run(c.point()));
    let way = match c.state() {
        "killed" => "trap",
        "hung" => "loop",
        "slow" => "slow",
        "full disk" => "memory",
        _ => "allow",
    };
    if c.state() == "restarted" {
        // Another build of it: a custom section more.
        let mut wasm = crate::plugin::HOSTILE.to_vec();
        wasm.extend([0, 5, 4, b'n', b'o', b't', b'e']);
        std::fs::write(rig.host.home().join("p.wasm"), wasm).expect("a guest");
    }
    let mut change = rig.plugin_way(way);
    rig.go();
    // Only now are all later calls judged by it: the third call waits while it runs.
    until("the change is in force", || change.try_wait().ok().flatten());
    rig.release_all();
    let (host, id) = (&rig.host, rig.id.clone());
    host.ended(&id);
    let decided = host.events_of(&id, "tool_decided");
    let last = decided.last().expect("a decision").clone();
    let answer = |d: &Value| d["body"]["answers"].as_array().into_iter().flatten().find(|a| a["policy"] == "other").cloned();
    match c.state() {
        "slow" | "restarted" => {
            let digests: std::collections::BTreeSet<String> =
                decided.iter().filter_map(answer).map(|a| a["digest"].as_str().unwrap_or_default().to_owned()).collect();
            if c.state() == "restarted" && c.point() != "requested" {
                assert_eq!(digests.len(), 2, "{what}: {decided:#?}");
            }
            rig.prove(End::Whole, what);
        }
        state => {
            let cause = match state {
                "killed" => "trap",
                "hung" => "deadline",
                _ => "memory",
            };
            // After some failures in a row it is not even asked any more: `quarantined`.
            let causes: Vec<Value> = decided.iter().filter_map(answer).map(|a| a["failed"].clone()).collect();
            assert!(causes.contains(&cause.into()), "{what}: {causes:?}");
            assert_eq!(last["body"]["effect"], "deny", "{what}");
            assert!(!rig.marks().contains(&6), "{what}");
            rig.prove(End::Less, what);
        }
    }
}

fn store(c: Cell, what: &str) {
    let mut rig = held(c);
    match c.state() {
        "killed" => unwritable(&rig, c, "db-broken"),
        "hung" => unwritable(&rig, c, "db-hung"),
        "full disk" => unwritable(&rig, c, "db-full"),
        "slow" => {
            rig.spoil("db-slow");
            rig.go();
            rig.release_all();
            rig.host.ended(&rig.id);
        }
        "restarted" => {
            rig.end_daemon();
            let db = rusqlite::Connection::open(rig.host.data().join("beadle.db")).expect("the database");
            db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("copied");
            drop(db);
            let _ = std::fs::remove_file(rig.host.data().join("beadle.db-shm"));
            rig.new_daemon();
            rig.release_all();
        }
        other => panic!("{other}"),
    }
    rig.prove(End::Whole, what);
}

fn agent(c: Cell, what: &str) {
    let rig = held(c);
    match c.state() {
        "killed" => killed(rig, |r| r.agent, "failed", what),
        "hung" => stopped(rig, c, |r| r.agent, what),
        "slow" => pulsed(rig, |r| r.agent, what),
        "full disk" => {
            file_limit(rig.agent, Some(0));
            rig.go();
            until("a call has failed for want of space", || {
                rig.host
                    .events_of(&rig.id, "tool_ended")
                    .iter()
                    .any(|e| {
                        let text = e["body"]["output"]["text"].as_str().unwrap_or_default();
                        e["body"]["is_error"] == true && !text.contains("denied")
                    })
                    .then_some(())
            });
            file_limit(rig.agent, None);
            rig.release_all();
            rig.prove(End::Less, what);
        }
        other => panic!("{other}"),
    }
}

fn terminal(c: Cell, what: &str) {
    let rig = held(c);
    let attach = |stdout: Stdio| {
        let mut command = rig.host.command(["attach", &rig.id]);
        command.stdout(stdout).stderr(Stdio::null()).spawn().expect("the binary starts")
    };
    let shown = |name: &str| {
        let path = rig.host.home().join(name);
        (path.clone(), Stdio::from(std::fs::File::create(path).expect("a file")))
    };
    let (path, out) = shown("terminal");
    let mut first = attach(out);
    until("the terminal shows the session", || (std::fs::metadata(&path).ok()?.len() > 0).then_some(()));
    let mut more = None;
    let mut pulses = None;
    match c.state() {
        "killed" => kill_child(&mut first),
        "hung" => signal(first.id(), Signal::STOP),
        "slow" => pulses = Some(Pulses::of(first.id())),
        "full disk" => {
            let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
            more = Some(attach(full.into()));
        }
        "restarted" => {
            kill_child(&mut first);
            let (path, out) = shown("again");
            more = Some(attach(out));
            until("the new terminal shows the session", || (std::fs::metadata(&path).ok()?.len() > 0).then_some(()));
        }
        other => panic!("{other}"),
    }
    rig.go();
    rig.release_all();
    rig.host.ended(&rig.id);
    drop(pulses);
    if c.state() == "hung" {
        signal(first.id(), Signal::CONT);
    }
    for child in std::iter::once(&mut first).chain(&mut more) {
        until("the terminal's command has ended", || child.try_wait().ok().flatten());
    }
    rig.prove(End::Whole, what);
}

fn kill_child(child: &mut std::process::Child) {
    child.kill().expect("killed");
    child.wait().expect("a child");
}
