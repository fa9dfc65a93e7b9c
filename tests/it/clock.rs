//! A wall clock that is set while sessions go on: what is due stays due when it was.

use std::path::PathBuf;
use std::process::Child;

use serde_json::json;

use crate::support::{Model, TestHost, bash, rules, until};

const DAY_MS: i64 = 86_400_000;

/// A daemon whose wall clock is set by [`set`].
fn daemon(host: &TestHost) -> (Child, PathBuf) {
    let file = host.home().join("clock");
    let child = host.daemon_with("BEADLE_FAILPOINT", &format!("clock=from:{}", file.display()));
    (child, file)
}

fn set(file: &PathBuf, by_ms: i64) {
    let new = file.with_extension("new");
    std::fs::write(&new, by_ms.to_string()).expect("written");
    std::fs::rename(&new, file).expect("in place");
}

fn end(host: &TestHost, mut daemon: Child) {
    host.beadle(["host", "stop"]).ok();
    daemon.wait().expect("it has ended");
}

#[test]
fn a_question_waits_as_long_as_it_may_whatever_the_clock_says() {
    let mut host = TestHost::new();
    host.config(&format!("approvals.timeout_ms = 12000\n{}", rules(&[], &["Bash"], &[])));
    let (child, clock) = daemon(&host);
    let model = Model::start(&json!({ "steps": [bash("echo a >> f"), bash("echo b >> f"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    let asked = |n: usize| until("it is asked", || (host.events_of(&id, "approval_requested").len() == n).then_some(()));
    asked(1);
    let first = host.beadle(["--json", "approvals"]).ok().lines()[0]["id"].as_str().expect("an id").to_owned();
    // A day on: it is not over.
    set(&clock, DAY_MS);
    host.beadle(["approve", &first]).ok();
    asked(2);
    // Two days back: it is over after its twelve seconds all the same.
    set(&clock, -DAY_MS);
    assert_eq!(host.ended(&id)["outcome"], "succeeded");
    let by: Vec<_> = host.events_of(&id, "tool_decided").iter().map(|d| d["body"]["by"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(by, ["approval", "expired"]);
    assert_eq!(std::fs::read_to_string(host.work().join("f")).unwrap_or_default(), "a\n");
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
    end(&host, child);
}

#[test]
fn limits_of_time_and_pauses_between_attempts_go_by_no_clock_that_is_set() {
    let host = TestHost::new();
    host.config("[queue.out]\nhandler = \"external\"\nconcurrency = 2\nlease_ms = 3600000\n");
    let (child, clock) = daemon(&host);
    let run =
        |args: &[&str]| host.beadle([&["--json", "run", "--detach"], args].concat()).ok().json()["id"].as_str().expect("an id").to_owned();
    let go = host.work().join("go");
    let waits = format!("until test -e {}; do sleep 0.05; done", go.display());
    let long = run(&["--max-time", "1h", "--", "sh", "-c", &waits]);
    let tree = run(&["--max-time", "1h", "--tree-limits", "--", "sh", "-c", &waits]);
    let again = run(&["--retries", "1", "--backoff", "4000", "--", "sh", "-c", "echo x >> tries; exit 1"]);
    let short = run(&["--max-time", "10s", "--", "sleep", "600"]);
    let lease = |limit: &str| {
        let id = host.beadle(["--json", "run", "--queue=out", "--max-time", limit, "--", "true"]).ok().json()["id"].clone();
        let task = host.beadle(["--json", "queue", "lease", "out", "--wait", "30s"]).ok().json();
        assert_eq!(task["session"]["id"], id);
        (id.as_str().expect("an id").to_owned(), task["lease"]["number"].to_string())
    };
    let ((held, number), (held_short, _)) = (lease("1h"), lease("10s"));
    until("they are looked at", || (host.show(&short)["status"] == "running" && host.show(&tree)["status"] == "running").then_some(()));
    until("the first try is over", || (!host.events_of(&again, "attempt_scheduled").is_empty()).then_some(()));
    set(&clock, -DAY_MS);
    for (id, outcome) in [(&short, "budget"), (&held_short, "budget"), (&again, "failed")] {
        assert_eq!(host.ended(id)["outcome"], outcome);
    }
    assert_eq!(std::fs::read_to_string(host.work().join("tries")).unwrap_or_default(), "x\nx\n");
    set(&clock, DAY_MS);
    // Each is made to look at its limits.
    let child_of =
        host.beadle(["--json", "run", "--detach", "--parent", &tree, "--", "true"]).ok().json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(host.ended(&child_of)["outcome"], "exited");
    host.beadle(["pause", &long]).ok();
    host.beadle(["resume", &long]).ok();
    let turn = run(&["--queue", "--", "true"]);
    host.ended(&turn);
    host.beadle(["queue", "complete", &held, &number]).ok();
    assert_eq!(host.show(&held)["outcome"], "succeeded");
    std::fs::write(&go, "").expect("written");
    for id in [&long, &tree] {
        let s = host.ended(id);
        assert_eq!((s["outcome"].as_str(), s["exceeded"].as_object()), (Some("exited"), None), "{s:#}");
    }
    end(&host, child);
}
