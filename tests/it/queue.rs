//! Sessions that wait for a place: order, limits, workers, dead letters, dependencies, and a daemon that dies at any step.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{TestHost, lines_of, until};

/// A queue of two places; short waits between tries.
const CONFIG: &str = "[queue]\nconcurrency = 2\n[queue.default]\nconcurrency = 1\nretry_ms = 10\n\
                      [queue.wide]\nconcurrency = 8\npriority = 1\nlimits = { \"repo=*\" = 1 }\n\
                      [queue.out]\nhandler = \"external\"\nconcurrency = 2\nattempts = 2\nretry_ms = 0\nlease_ms = 60000\n\
                      [queue.short]\nhandler = \"external\"\nattempts = 2\nretry_ms = 0\nlease_ms = 300\n\
                      [queue.both]\nhandler = \"hybrid\"\nretry_ms = 0\n";

fn host() -> TestHost {
    let host = TestHost::new();
    host.config(CONFIG);
    host
}

/// Puts a shell script into the queue; gives the session's id.
fn queue(host: &TestHost, name: &str, options: &[&str], script: &str) -> String {
    let args = [&["--json", "run", "--name", name][..], options, &["--", "sh", "-c", script]].concat();
    host.beadle(args).ok().json()["id"].as_str().expect("an id").to_owned()
}

fn state(host: &TestHost, id: &str) -> Option<String> {
    let list = host.beadle(["--json", "queue", "ls"]).ok().lines();
    list.iter().find(|i| i["session"]["id"] == id).and_then(|i| i["state"].as_str().map(str::to_owned))
}

fn stands(host: &TestHost, id: &str, want: &str) {
    until(&format!("{id} is {want}"), || (state(host, id).as_deref() == Some(want)).then_some(()));
}

fn kinds(host: &TestHost, id: &str) -> Vec<String> {
    let of = |e: Value| e["kind"].as_str().unwrap_or_default().to_owned();
    host.events(id)
        .into_iter()
        .map(of)
        .filter(|k| k.starts_with("session_") || k.starts_with("attempt_") || k.starts_with("queue_"))
        .collect()
}

fn verified(host: &TestHost) {
    let said = host.beadle(["--json", "verify"]).ok().json();
    assert_eq!(said["ok"], true, "a projection is not as its log says: {said:#}");
}

/// Files of kept requests.
fn kept(host: &TestHost) -> Vec<std::path::PathBuf> {
    let list = std::fs::read_dir(host.data().join("s")).into_iter().flatten().flatten();
    list.map(|e| e.path()).filter(|p| p.to_string_lossy().ends_with(".queue.json")).collect()
}

fn go(host: &TestHost) {
    host.file("go", "");
}

const WAIT: &str = "until [ -e go ]; do sleep 0.02; done";

#[test]
fn owners_take_turns_and_priority_goes_first() {
    let host = host();
    host.beadle(["queue", "pause", "default"]).ok();
    let mut ids = vec![];
    for n in 0..4 {
        ids.push(queue(&host, &format!("a{n}"), &["--queue", "--owner", "ann"], &format!("echo a{n} >> order")));
    }
    ids.push(queue(&host, "b0", &["--queue=default", "--owner", "bob"], "echo b0 >> order"));
    ids.push(queue(&host, "a9", &["--queue", "--owner", "ann", "--priority", "5"], "echo a9 >> order"));
    assert_eq!(state(&host, &ids[0]).as_deref(), Some("held"));
    let s = host.show(&ids[5]);
    assert_eq!(
        (s["status"].as_str(), s["queue"]["lane"].as_str(), s["queue"]["priority"].as_i64()),
        (Some("queued"), Some("default"), Some(5))
    );
    assert_eq!(kinds(&host, &ids[0]), ["session_created", "session_queued"]);
    let text = host.beadle(["queue", "ls"]).ok().out;
    assert!(text.contains("held") && text.contains("bob"), "{text}");
    host.beadle(["queue", "start", "default"]).ok();
    for id in &ids {
        assert_eq!(host.ended(id)["outcome"], "exited");
    }
    assert_eq!(lines_of(&host.work().join("order")), ["a9", "b0", "a0", "a1", "a2", "a3"]);
    assert_eq!(
        kinds(&host, &ids[0]),
        ["session_created", "session_queued", "session_claimed", "attempt_started", "attempt_ended", "session_ended"]
    );
    until("no request is kept", || kept(&host).is_empty().then_some(()));
    let stats = host.beadle(["--json", "queue", "stats"]).ok().json();
    let lane = stats["lanes"].as_array().and_then(|l| l.iter().find(|l| l["lane"] == "default")).expect("the lane").clone();
    assert_eq!((lane["depth"].as_u64(), lane["ended_last_hour"].as_u64(), lane["dead_last_hour"].as_u64()), (Some(0), Some(6), Some(0)));
    assert!(lane["wait_p99_ms"].as_u64() >= lane["wait_p50_ms"].as_u64() && lane["wait_p50_ms"].is_u64(), "{lane}");
    verified(&host);
}

#[test]
fn a_lane_with_priority_goes_before_sessions_with_a_higher_one_of_their_own() {
    let host = TestHost::new();
    host.config("[queue]\nconcurrency = 1\n[queue.low]\n[queue.high]\npriority = 3\n");
    host.beadle(["queue", "pause"]).ok();
    let one = |name: &str, lane: &str, own: &str| queue(&host, name, &[lane, "--priority", own], &format!("echo {name} >> order"));
    let ids =
        [one("l1", "--queue=low", "0"), one("l2", "--queue=low", "9"), one("h1", "--queue=high", "0"), one("h2", "--queue=high", "1")];
    host.beadle(["queue", "start"]).ok();
    ids.iter().for_each(|id| assert_eq!(host.ended(id)["outcome"], "exited"));
    assert_eq!(lines_of(&host.work().join("order")), ["h2", "h1", "l2", "l1"]);
}

#[test]
fn limits_of_labels_lanes_and_the_host_hold() {
    let host = host();
    let ids: Vec<String> = [("x1", "repo=x"), ("x2", "repo=x"), ("y1", "repo=y"), ("z1", "repo=z")]
        .iter()
        .map(|(name, label)| queue(&host, name, &["--queue=wide", "--label", label], WAIT))
        .collect();
    stands(&host, &ids[0], "running");
    stands(&host, &ids[2], "running");
    assert_eq!(state(&host, &ids[1]).as_deref(), Some("waiting"), "one of a repository at once");
    assert_eq!(state(&host, &ids[3]).as_deref(), Some("waiting"), "two of the host at once");
    let stats = host.beadle(["--json", "queue", "stats"]).ok().json();
    let wide = stats["lanes"].as_array().and_then(|l| l.iter().find(|l| l["lane"] == "wide")).expect("the lane").clone();
    assert_eq!((wide["depth"].as_u64(), wide["running"].as_u64()), (Some(2), Some(2)));
    go(&host);
    ids.iter().for_each(|id| assert_eq!(host.ended(id)["outcome"], "exited"));
}

/// Each step at which a daemon may die: the work is done once, whatever it was.
#[test]
fn killed_at_each_step_nothing_is_lost_and_nothing_runs_twice() {
    for (point, prompt) in [
        ("queue_kept", None),
        ("queued", None),
        ("queue_claiming", None),
        ("queue_claimed", None),
        ("queue_claimed", Some("once")),
        ("queue_launched", None),
        ("queue_launched", Some("once")),
    ] {
        let host = host();
        let mut daemon = host.daemon_with("BEADLE_FAILPOINT", point);
        // why with a prompt too: it is stored with the claim, to be told to the agent.
        let what = prompt.map_or(vec!["--", "sh", "-c", "echo once >> done"], |p| vec!["-p", p, "--", "sh", "-c", "cat >> done"]);
        let said = host.beadle([&["--json", "run", "--queue", "--name", "job"][..], &what].concat());
        until("the daemon has died", || daemon.try_wait().ok().flatten());
        let listed = host.beadle(["--json", "ls"]).ok().lines();
        if point == "queue_kept" {
            assert_ne!(said.code, 0, "{point}");
            assert_eq!((listed.len(), kept(&host).len()), (0, 0), "{point}: what was never told is gone");
            continue;
        }
        assert_eq!(listed.len(), 1, "{point}");
        let id = listed[0]["id"].as_str().expect("an id").to_owned();
        let s = host.ended(&id);
        assert_eq!(s["outcome"], "exited", "{point}: {:#?} {}", kinds(&host, &id), s["end_reason"]);
        assert_eq!(lines_of(&host.work().join("done")), ["once"], "{point} {prompt:?}");
        let claims = host.events_of(&id, "session_claimed").len();
        assert_eq!(claims, if point == "queue_claimed" { 2 } else { 1 }, "{point}");
        assert_eq!(s["queue"]["failure_count"], 0, "{point}: the host's own end is no failure of the session");
        verified(&host);
    }
}

#[test]
fn what_waits_survives_the_daemon_with_all_that_it_was_given() {
    let mut host = host();
    host.set("BEADLE_TEST_TOKEN", "hunter2-of-the-queue");
    std::fs::create_dir_all(host.work().join("sub")).expect("a folder");
    host.beadle(["queue", "pause"]).ok();
    let script = "umask > seen; pwd >> seen; echo $TOKEN >> seen; cat >> seen";
    let args = [
        "run",
        "--queue",
        "--in",
        "1ms",
        "-C",
        "sub",
        "-e",
        "TOKEN=hunter2-of-the-queue",
        "--name",
        "job",
        "-p",
        "the prompt",
        "--",
        "sh",
        "-c",
        script,
    ];
    let shell = "umask 027; exec \"$0\" \"$@\"";
    let mut c = std::process::Command::new("sh");
    let beadle = host.command(args);
    c.arg("-c").arg(shell).arg(beadle.get_program()).args(beadle.get_args()).current_dir(host.work()).env_clear();
    c.envs(beadle.get_envs().filter_map(|(k, v)| Some((k, v?))));
    assert!(c.output().expect("it starts").status.success());
    let files = kept(&host);
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].metadata().expect("there").permissions().mode() & 0o777, 0o600);
    let secret = |p: &Path| std::fs::read(p).is_ok_and(|b| b.windows(20).any(|w| w == b"hunter2-of-the-queue"));
    assert!(secret(&files[0]));
    host.kill_daemon();
    host.daemon();
    let mut stack = vec![host.beadle_home()];
    let mut holds = vec![];
    while let Some(dir) = stack.pop() {
        for e in std::fs::read_dir(dir).expect("a folder").flatten() {
            if e.path().is_dir() {
                stack.push(e.path());
            } else if secret(&e.path()) {
                holds.push(e.path());
            }
        }
    }
    assert_eq!(holds, files, "no log and no database has the value");
    assert_eq!(state(&host, host.show("job")["id"].as_str().expect("an id")).as_deref(), Some("held"), "the hold survives too");
    host.beadle(["queue", "start"]).ok();
    let id = host.show("job")["id"].as_str().expect("an id").to_owned();
    assert_eq!(host.ended(&id)["outcome"], "exited");
    let sub = host.work().join("sub").canonicalize().expect("there");
    let want = ["0027", &sub.display().to_string(), "hunter2-of-the-queue", "the prompt"];
    assert_eq!(lines_of(&sub.join("seen")), want);
    until("the request is gone", || kept(&host).is_empty().then_some(()));
}

#[test]
fn a_worker_leases_keeps_loses_and_completes() {
    let host = host();
    let id = queue(&host, "job", &["--queue=out", "--prompt", "do it"], "true");
    let second = queue(&host, "two", &["--queue=out"], "true");
    assert_eq!(host.show(&id)["mediation"], "none");
    let lease = |lane: &str, worker: &str| host.beadle(["--json", "queue", "lease", lane, "--worker", worker, "--wait", "10s"]).ok().json();
    let task = lease("out", "w1");
    assert_eq!((task["session"]["id"].as_str(), task["prompt"].as_str()), (Some(id.as_str()), Some("do it")));
    assert!(task["env_names"].as_array().is_some_and(|n| n.contains(&json!("PATH"))) && task.get("env").is_none(), "{task:#}");
    let number = task["lease"]["number"].as_u64().expect("a number").to_string();
    let s = host.show(&id);
    assert_eq!(
        (s["status"].as_str(), s["attempt"].as_u64(), s["queue"]["lease"]["worker"].as_str()),
        (Some("running"), Some(1), Some("w1"))
    );
    host.beadle(["queue", "heartbeat", &id, &number]).ok();
    host.kill_daemon();
    host.beadle(["queue", "heartbeat", &id, &number]).ok();
    assert_eq!(state(&host, &id).as_deref(), Some("leased"), "a lease outlives the daemon");
    let stale = host.beadle(["queue", "complete", &id, "1"]);
    assert!(stale.code == 1 && stale.err.contains("BDL-QUEUE-008"), "{stale:?}");
    host.beadle(["queue", "fail", &id, &number, "--reason", "no luck"]).ok();
    let s = host.show(&id);
    assert_eq!(
        (s["status"].as_str(), s["queue"]["failure_count"].as_u64(), s["queue"]["reason"].as_str()),
        (Some("queued"), Some(1), Some("no luck"))
    );
    let again = host.beadle(["queue", "complete", &id, &number]);
    assert!(again.code == 1 && again.err.contains("BDL-QUEUE-008"), "{again:?}");
    let task = lease("out", "w2");
    assert_eq!(task["session"]["id"].as_str(), Some(id.as_str()), "who came first stays first");
    let number = task["lease"]["number"].as_u64().expect("a number").to_string();
    for _ in 0..2 {
        let done = host.beadle(["queue", "complete", &id, &number, "--output", "all well", "--exit-code", "0"]);
        assert_eq!(done.code, 0, "told twice it is the same end: {done:?}");
    }
    let s = host.show(&id);
    assert_eq!((s["outcome"].as_str(), s["last_text"].as_str(), s["exit_code"].as_i64()), (Some("succeeded"), Some("all well"), Some(0)));
    assert_eq!(
        kinds(&host, &id),
        [
            "session_created",
            "session_queued",
            "session_claimed",
            "attempt_started",
            "attempt_ended",
            "session_queued",
            "session_claimed",
            "attempt_started",
            "attempt_ended",
            "session_ended"
        ]
    );
    let task = lease("out", "w3");
    assert_eq!(task["session"]["id"].as_str(), Some(second.as_str()));
    host.beadle(["stop", &second]).ok();
    let number = task["lease"]["number"].as_u64().expect("a number").to_string();
    let told = host.beadle(["queue", "heartbeat", &second, &number]);
    assert!(told.code == 1 && told.err.contains("BDL-QUEUE-008"), "its worker is told: {told:?}");
    assert_eq!(host.show(&second)["outcome"], "stopped");
    assert_eq!(host.beadle(["queue", "lease", "out"]).code, 1, "none waits");
    let wrong = host.beadle(["queue", "lease", "default"]);
    assert!(wrong.code == 2 && wrong.err.contains("BDL-QUEUE-004"), "{wrong:?}");
    verified(&host);
}

#[test]
fn a_silent_worker_loses_its_session_and_the_last_try_is_a_dead_letter() {
    let host = host();
    let id = queue(&host, "job", &["--queue=short"], "true");
    for n in 1..=2u64 {
        let task = host.beadle(["--json", "queue", "lease", "short", "--wait", "30s"]).ok().json();
        assert_eq!(task["session"]["id"].as_str(), Some(id.as_str()));
        until("the lease is lost", || (host.show(&id)["queue"]["failure_count"] == n || host.show(&id)["status"] == "ended").then_some(()));
    }
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["queue"]["is_dead"].as_bool()), (Some("failed"), Some(true)));
    assert!(
        s["end_reason"].as_str().is_some_and(|r| r.starts_with("given up after 2 tries") && r.contains("not heard of for 300 ms")),
        "{s:#}"
    );
    let lost: Vec<_> = host.events_of(&id, "attempt_ended").iter().map(|e| e["body"]["outcome"].clone()).collect();
    assert_eq!(lost, ["lost", "lost"]);
    let dead = host.beadle(["--json", "queue", "dead", "short"]).ok().lines();
    assert_eq!(dead.len(), 1);
    assert!(host.beadle(["queue", "dead"]).ok().out.contains("given up"));
    let new = host.beadle(["--json", "queue", "retry", &id]).ok().json()["id"].as_str().expect("an id").to_owned();
    let twice = host.beadle(["queue", "retry", &id]);
    assert!(twice.code == 1 && twice.err.contains("BDL-QUEUE-007"), "{twice:?}");
    assert!(host.beadle(["--json", "queue", "dead"]).ok().out.is_empty());
    assert_eq!(
        (host.show(&id)["queue"]["retried_as"].as_str(), host.show(&new)["queue"]["retry_of"].as_str()),
        (Some(new.as_str()), Some(id.as_str()))
    );
    assert_eq!(host.beadle(["queue", "rm", &new]).code, 0);
    assert_eq!(host.show(&new)["outcome"], "stopped");
    verified(&host);
}

#[test]
fn a_worker_holds_a_limit_of_time_and_others_are_refused() {
    let host = host();
    let no = host.beadle(["run", "--queue=out", "--agent", "demo", "--max-turns", "3", "go"]);
    assert!(no.code == 2 && no.err.contains("a worker does not tell what it uses"), "{no:?}");
    let id = queue(&host, "job", &["--queue=out", "--max-time", "1s"], "true");
    let task = host.beadle(["--json", "queue", "lease", "out", "--wait", "30s"]).ok().json();
    assert_eq!(task["session"]["limits"]["time_ms"], 1_000, "{task:#}");
    let number = task["lease"]["number"].as_u64().expect("a number").to_string();
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["exceeded"]["limit"].as_str()), (Some("budget"), Some("time")), "{s:#}");
    let told = host.beadle(["queue", "complete", &id, &number]);
    assert!(told.code == 1 && told.err.contains("BDL-QUEUE-008"), "its worker is told: {told:?}");
    assert!(state(&host, &id).is_none(), "it is off the board");
    verified(&host);
}

#[test]
fn a_parent_is_the_session_that_was_named_when_the_child_was_queued() {
    let host = host();
    host.beadle(["queue", "pause"]).ok();
    let parent = queue(&host, "p", &["--detach"], "true");
    host.ended(&parent);
    let child = queue(&host, "child", &["--queue", "--parent", "p"], "true");
    host.beadle(["rm", "p"]).ok();
    host.beadle(["queue", "start"]).ok();
    let s = host.ended(&child);
    assert_eq!((s["outcome"].as_str(), s["parent"].as_str()), (Some("exited"), Some(parent.as_str())), "{s:#}");
}

#[test]
fn a_lease_is_given_once_however_the_daemon_dies() {
    for point in ["queue_leasing", "queue_leased"] {
        let host = host();
        let id = queue(&host, "job", &["--queue=out"], "true");
        host.beadle(["host", "stop"]).ok();
        let mut daemon = host.daemon_with("BEADLE_FAILPOINT", point);
        let said = host.beadle(["--json", "queue", "lease", "out"]);
        until("the daemon has died", || daemon.try_wait().ok().flatten());
        assert_ne!(said.code, 0, "{point}: nobody was told");
        let leased = host.show(&id)["queue"]["lease"].is_object();
        assert_eq!(leased, point == "queue_leased", "{point}");
        let second = host.beadle(["queue", "lease", "out"]).code;
        assert_eq!(second, i32::from(leased), "{point}: what is on record is somebody's until it runs out");
        verified(&host);
    }
}

#[test]
fn a_hybrid_lane_is_the_hosts_while_it_has_room() {
    let host = host();
    let ids: Vec<String> = (0..3).map(|n| queue(&host, &format!("h{n}"), &["--queue=both"], WAIT)).collect();
    stands(&host, &ids[0], "running");
    stands(&host, &ids[1], "running");
    let task = host.beadle(["--json", "queue", "lease", "both", "--wait", "10s"]).ok().json();
    assert_eq!(task["session"]["id"].as_str(), Some(ids[2].as_str()), "the host has no room for it");
    let number = task["lease"]["number"].as_u64().expect("a number").to_string();
    go(&host);
    host.ended(&ids[0]);
    host.ended(&ids[1]);
    host.beadle(["queue", "release", &ids[2], &number, "--reason", "going home"]).ok();
    let s = host.ended(&ids[2]);
    assert_eq!(
        (s["outcome"].as_str(), s["attempt"].as_u64(), s["queue"]["failure_count"].as_u64()),
        (Some("exited"), Some(2), Some(0)),
        "{s:#}"
    );
}

#[test]
fn what_waits_for_others_goes_or_is_given_up_by_how_they_end() {
    let host = host();
    let base = queue(&host, "base", &["--detach"], WAIT);
    let ok = queue(&host, "ok", &["--queue=wide", "--after", &base], "echo ok >> order");
    let chain = queue(&host, "chain", &["--queue=wide", "--after", "ok", "--after", "base:any"], "echo chain >> order");
    let sorry = queue(&host, "sorry", &["--queue=wide", "--after", "base:failed"], "true");
    let further = queue(&host, "further", &["--queue=wide", "--after", "sorry"], "true");
    let mends = queue(&host, "mends", &["--queue=wide", "--after", "sorry:failed"], "echo mends >> order");
    assert_eq!(state(&host, &ok).as_deref(), Some("blocked"));
    let circle = host.beadle(["queue", "move", "ok", "--after", "chain"]);
    assert!(circle.code == 2 && circle.err.contains("BDL-QUEUE-005"), "{circle:?}");
    let own = host.beadle(["queue", "move", "ok", "--after", "ok"]);
    assert!(own.code == 2 && own.err.contains("BDL-QUEUE-005"), "{own:?}");
    let wrong = host.beadle(["run", "--queue", "--after", "base:fine", "--", "true"]);
    assert!(wrong.code == 2 && wrong.err.contains("fine"), "{wrong:?}");
    assert_eq!(host.beadle(["run", "--queue", "--after", "nobody", "--", "true"]).code, 3);
    host.kill_daemon();
    go(&host);
    for (id, outcome) in
        [(&base, "exited"), (&ok, "exited"), (&chain, "exited"), (&sorry, "failed"), (&further, "failed"), (&mends, "exited")]
    {
        assert_eq!(host.ended(id)["outcome"], outcome, "{id}");
    }
    assert!(host.show(&sorry)["end_reason"].as_str().is_some_and(|r| r.contains("ended exited, not failed")));
    assert!(host.show(&further)["end_reason"].as_str().is_some_and(|r| r.contains("ended failed, not ok")));
    let order = lines_of(&host.work().join("order"));
    assert!(order.len() == 3 && order.iter().position(|l| l == "ok") < order.iter().position(|l| l == "chain"), "{order:?}");
    let gone = queue(&host, "gone", &["--detach"], "until [ -e never ]; do sleep 0.02; done");
    let left = queue(&host, "left", &["--queue", "--after", "gone"], "true");
    host.beadle(["rm", "--force", &gone]).ok();
    assert_eq!(host.ended(&left)["outcome"], "failed");
    verified(&host);
}

#[test]
fn a_delay_survives_and_a_stop_is_an_end() {
    let host = host();
    let later = queue(&host, "later", &["--queue", "--in", "1h"], "echo ran >> later");
    let at = queue(&host, "at", &["--queue", "--at", "2100-01-01"], "true");
    let past = queue(&host, "past", &["--queue=wide", "--at", "2020-01-01"], "true");
    host.ended(&past);
    stands(&host, &later, "delayed");
    host.kill_daemon();
    stands(&host, &later, "delayed");
    assert_eq!(host.show(&at)["queue"]["not_before"], "2100-01-01T00:00:00.000Z");
    host.beadle(["queue", "move", "later", "--in", "0s", "--lane", "wide", "--priority", "-3"]).ok();
    assert_eq!(host.ended(&later)["outcome"], "exited");
    assert_eq!(host.events_of(&later, "queue_moved")[0]["body"]["lane"], "wide");
    let waiter = host.spawn(["wait", &at]);
    host.beadle(["stop", &at]).ok();
    assert_eq!(waiter.wait_with_output().expect("it ends").status.code(), Some(1));
    let killed = queue(&host, "killed", &["--queue", "--in", "1h"], "true");
    host.beadle(["kill", &killed]).ok();
    assert_eq!((host.show(&at)["outcome"].as_str(), host.show(&killed)["outcome"].as_str()), (Some("stopped"), Some("killed")));
    let gone = queue(&host, "gone", &["--queue", "--in", "1h"], "true");
    assert_eq!(host.beadle(["rm", &gone]).code, 1, "it has not ended");
    host.beadle(["rm", "--force", &gone]).ok();
    assert_eq!(host.beadle(["show", &gone]).code, 3);
    assert_eq!(kept(&host).len(), 0, "nothing is kept of what is over");
    assert_eq!(host.beadle(["run", "--queue", "--wait", "--", "sh", "-c", "exit 7"]).code, 7, "the agent's own code");
    let end = host.beadle(["queue", "rm", "later"]);
    assert!(end.code == 1 && end.err.contains("BDL-QUEUE-006"), "{end:?}");
}

#[test]
fn what_cannot_be_started_is_tried_again_then_a_dead_letter_then_mended() {
    let host = host();
    host.beadle(["queue", "pause"]).ok();
    let tool = host.program("tool", "#!/bin/sh\necho made >> made\n");
    let id =
        host.beadle(["--json", "run", "--queue", "--", tool.to_str().expect("text")]).ok().json()["id"].as_str().expect("an id").to_owned();
    std::fs::rename(&tool, tool.with_extension("away")).expect("moved");
    host.beadle(["queue", "start"]).ok();
    let s = host.ended(&id);
    assert!(s["end_reason"].as_str().is_some_and(|r| r.starts_with("given up after 3 tries") && r.contains("does not exist")), "{s:#}");
    assert_eq!(host.events_of(&id, "session_queued").len(), 3);
    assert_eq!(kept(&host).len(), 1, "a dead letter keeps its request");
    std::fs::rename(tool.with_extension("away"), &tool).expect("moved");
    let new = host.beadle(["--json", "queue", "retry", &id]).ok().json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(host.ended(&new)["outcome"], "exited");
    assert_eq!(lines_of(&host.work().join("made")), ["made"]);
    let failed = queue(&host, "failed", &["--queue"], "exit 3");
    host.ended(&failed);
    until("it is a dead letter", || (host.beadle(["-q", "queue", "dead"]).ok().out.trim() == failed).then_some(()));
    host.beadle(["rm", &failed]).ok();
    assert_eq!(kept(&host).len(), 0);
}

#[test]
fn a_stopped_lane_refuses_and_a_full_queue_too() {
    let host = TestHost::new();
    host.config("[queue]\ndepth = 1\n");
    host.beadle(["queue", "stop", "default"]).ok();
    let no = host.beadle(["run", "--queue", "--", "true"]);
    assert!(no.code == 1 && no.err.contains("BDL-QUEUE-002"), "{no:?}");
    host.kill_daemon();
    assert_eq!(host.beadle(["run", "--queue", "--", "true"]).code, 1, "it survives");
    host.beadle(["queue", "start", "default"]).ok();
    let failed = queue(&host, "failed", &["--queue"], "exit 3");
    host.ended(&failed);
    host.beadle(["queue", "stop", "default"]).ok();
    let no = host.beadle(["queue", "retry", &failed]);
    assert!(no.code == 1 && no.err.contains("BDL-QUEUE-002"), "a retry goes in like any other: {no:?}");
    host.beadle(["queue", "pause", "default"]).ok();
    host.beadle(["run", "--queue", "--", "true"]).ok();
    let no = host.beadle(["queue", "retry", &failed]);
    assert!(no.code == 1 && no.err.contains("BDL-QUEUE-003"), "{no:?}");
    let full = host.beadle(["run", "--queue", "--", "true"]);
    assert!(full.code == 1 && full.err.contains("BDL-QUEUE-003"), "{full:?}");
    let lane = host.beadle(["run", "--queue=nowhere", "--", "true"]);
    assert!(lane.code == 3 && lane.err.contains("the configuration has default"), "{lane:?}");
    let bad = host.beadle(["run", "--queue", "--", "/nonexistent/x"]);
    assert_ne!(bad.code, 0);
    host.beadle(["queue", "start", "default"]).ok();
    let text = host.beadle(["queue", "stats"]).ok().out;
    assert!(text.contains("open") && text.contains("internal"), "{text}");
}

#[test]
fn a_retry_that_was_cut_short_is_one_retry() {
    let host = host();
    let id = queue(&host, "job", &["--queue"], "echo x >> runs; exit 1");
    host.ended(&id);
    host.beadle(["queue", "pause"]).ok();
    host.beadle(["host", "stop"]).ok();
    let mut daemon = host.daemon_with("BEADLE_FAILPOINT", "queue_retried");
    host.beadle(["queue", "retry", &id]);
    until("the daemon has died", || daemon.try_wait().ok().flatten());
    let again = host.beadle(["queue", "retry", &id]);
    assert!(again.code == 1 && again.err.contains("BDL-QUEUE-007"), "{again:?}");
    host.beadle(["queue", "start"]).ok();
    until("it ran once more", || (lines_of(&host.work().join("runs")).len() == 2).then_some(()));
    assert_eq!(host.beadle(["-q", "ls"]).ok().out.lines().count(), 2);
}

#[test]
fn a_reload_changes_places_and_lanes() {
    let host = host();
    let first = queue(&host, "first", &["--queue"], WAIT);
    let second = queue(&host, "second", &["--queue"], WAIT);
    stands(&host, &first, "running");
    stands(&host, &second, "waiting");
    let changed =
        CONFIG.replace("[queue.default]\nconcurrency = 1", "[queue.default]\nconcurrency = 2") + "[queue.fresh]\nhandler = \"external\"\n";
    host.config(&changed);
    let early = host.beadle(["run", "--queue=fresh", "--", "true"]);
    assert!(early.code != 0 && early.err.contains("BDL-QUEUE-001"), "not before it is told to: {early:?}");
    host.beadle(["host", "reload"]).ok();
    stands(&host, &second, "running");
    let third = queue(&host, "third", &["--queue=fresh"], "true");
    stands(&host, &third, "waiting");
    // The lane is the host's now: what waits in it is still the workers'.
    host.config(&changed.replace("[queue.fresh]\nhandler = \"external\"", "[queue.fresh]\nhandler = \"internal\""));
    host.beadle(["host", "reload"]).ok();
    let task = host.beadle(["--json", "queue", "lease", "fresh", "--wait", "10s"]).ok().json();
    assert_eq!(task["session"]["id"].as_str(), Some(third.as_str()), "{task:#}");
    let number = task["lease"]["number"].as_u64().expect("a number").to_string();
    host.beadle(["queue", "release", &third, &number, "--reason", "not now"]).ok();
    stands(&host, &third, "waiting");
    // Fewer places and no such lane: what runs runs on, what waits stays where it is until it is taken out.
    host.config(CONFIG);
    host.beadle(["host", "reload"]).ok();
    assert_eq!((state(&host, &first).as_deref(), state(&host, &third).as_deref()), (Some("running"), Some("waiting")));
    host.beadle(["queue", "rm", &third]).ok();
    go(&host);
    for id in [&first, &second] {
        assert_eq!(host.ended(id)["outcome"], "exited");
    }
    verified(&host);
}

#[test]
fn a_plan_of_attempts_waits_its_turn_and_keeps_its_place() {
    let host = host();
    host.beadle(["queue", "pause"]).ok();
    let script = "echo run >> runs; [ $(wc -l < runs) -ge 3 ]";
    let id = queue(&host, "plan", &["--queue", "--retries", "3", "--backoff", "20"], script);
    let lost = queue(
        &host,
        "lost",
        &["--queue=wide", "--restart", "on-failure", "--backoff", "20"],
        "echo up >> up; until [ -e go ]; do sleep 0.02; done",
    );
    host.kill_daemon();
    host.beadle(["queue", "start"]).ok();
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["attempt"].as_u64()), (Some("exited"), Some(3)), "{s:#}");
    until("the other runs", || (lines_of(&host.work().join("up")).len() == 1).then_some(()));
    let shim = host.beadle(["--json", "ps", &lost]).ok().lines().iter().find(|p| p["role"] == "shim").and_then(|p| p["pid"].as_u64());
    crate::support::kill(u32::try_from(shim.expect("a shim")).expect("a pid"));
    until("it is started once more", || (lines_of(&host.work().join("up")).len() == 2).then_some(()));
    go(&host);
    assert_eq!(host.ended(&lost)["attempt"], 2);
    let elsewhere = host.beadle(["run", "--queue=out", "--retries", "1", "--", "true"]);
    assert!(elsewhere.code != 0 && elsewhere.err.contains("workers serve"), "{elsewhere:?}");
    // An agent that ran and failed is a dead letter when its plan has no more attempts.
    let dead = queue(&host, "dead", &["--queue", "--retries", "1", "--backoff", "20"], "exit 3");
    assert_eq!(host.ended(&dead)["attempt"], 2);
    until("it is a dead letter", || (host.beadle(["-q", "queue", "dead"]).ok().out.trim() == dead).then_some(()));
    verified(&host);
}

#[test]
fn a_retry_waits_for_what_goes_on_and_for_retries() {
    let host = host();
    let open = queue(&host, "open", &["--detach"], WAIT);
    let first = queue(&host, "first", &["--queue"], "[ -e good ]");
    let second = queue(&host, "second", &["--queue", "--after", &first, "--after", &open], "true");
    for id in [&first, &second] {
        assert_eq!(host.ended(id)["outcome"], "failed", "{id}");
    }
    host.beadle(["queue", "pause"]).ok();
    host.file("good", "");
    let retry = |id: &str| host.beadle(["--json", "queue", "retry", id]).ok().json()["id"].as_str().expect("an id").to_owned();
    let (first, second) = (retry(&first), retry(&second));
    let after = host.events_of(&second, "session_queued")[0]["body"]["after"].to_string();
    assert!(after.contains(&first) && after.contains(&open), "{after}");
    host.beadle(["queue", "start"]).ok();
    assert_eq!(host.ended(&first)["outcome"], "exited");
    stands(&host, &second, "blocked");
    go(&host);
    assert_eq!(host.ended(&second)["outcome"], "exited");
    verified(&host);
}

#[test]
fn workers_are_not_given_agents_whose_gate_is_required() {
    let mut host = host();
    host.set("ANTHROPIC_API_KEY", "test");
    for lane in ["out", "both"] {
        let said = host.beadle(["run", &format!("--queue={lane}"), "--agent", "demo", "go"]);
        assert!(said.code != 0 && said.err.contains("without a gate") && said.err.contains("internal lane"), "{lane}: {said:?}");
    }
    host.config(&format!("[session]\nrequire_mediation = \"none\"\nrequire_attested = true\n{CONFIG}"));
    host.beadle(["host", "reload"]).ok();
    let said = host.beadle(["run", "--queue=out", "--agent", "demo", "go"]);
    assert!(said.code != 0 && said.err.contains("not seen here"), "{said:?}");
    host.config(&format!("[session]\nrequire_mediation = \"none\"\n{CONFIG}"));
    let id = host.beadle(["--json", "run", "--queue=out", "--agent", "demo", "go"]).ok().json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(host.show(&id)["mediation"], "none");
}

#[test]
fn a_stop_and_a_rollback_of_a_tree_reach_what_waits_and_what_others_write() {
    let host = host();
    let parent = queue(&host, "parent", &["--detach"], WAIT);
    let waits = queue(&host, "waits", &["--queue", "--parent", &parent, "--in", "3600s"], "echo ran >> ran");
    host.beadle(["session", "create", "--key", "k", "--name", "k", "--target", "shop", "--parent", &parent]).ok();
    host.beadle(["session", "attempt-start", "k"]).ok();
    let early = host.beadle(["rollback", "--tree", &parent]);
    assert!(early.code == 1 && early.err.contains("BDL-SESSION-007"), "{early:?}");
    host.beadle(["stop", "--tree", &parent]).ok();
    for id in [&parent, &waits, "k"] {
        assert_eq!(host.ended(id)["outcome"], "stopped", "{id}");
    }
    assert!(lines_of(&host.work().join("ran")).is_empty());
    let doc = host.beadle(["--json", "rollback", "--tree", &parent]).ok().json();
    assert_eq!(doc["marked_count"], 2, "the parent's attempt and the written one: {doc}");
    assert_eq!(host.events_of("k", "attempt_rolled_back").len(), 1);
    verified(&host);
}
