//! `stats` and `/metrics` through the real binaries, with the built-in agent.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::json;

use crate::support::{Model, TestHost, bash, knock, rules};

/// The body of `GET path` at the host's own socket, with its head.
pub fn get(host: &TestHost, path: &str) -> String {
    let mut s = UnixStream::connect(host.beadle_home().join("run/beadle.sock")).expect("a socket");
    s.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).expect("sent");
    let mut out = String::new();
    s.read_to_string(&mut out).expect("an answer");
    out
}

/// The value of a line of the metrics page.
pub fn value(page: &str, name: &str) -> f64 {
    let line = page.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{page}")).trim().parse().expect("a number")
}

fn played(host: &mut TestHost, more: &[&str]) -> String {
    let model = Model::start(&json!({ "steps": [bash("echo yes > a"), bash("echo no > b"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", more);
    host.ended(&id);
    id
}

#[test]
fn sessions_are_added_up_and_filtered() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash(echo yes:*)", "Edit(./**)"], &[], &["Bash(echo no:*)"]));
    let empty = host.beadle(["--json", "stats"]).ok().json();
    assert_eq!((empty["session_count"].as_u64(), empty["cost"].is_null()), (Some(0), true), "{empty:#}");
    let id = played(&mut host, &["--label", "team=a"]);
    played(&mut host, &[]);
    host.beadle(["run", "--wait", "--", "true"]).ok();
    let all = host.beadle(["--json", "stats"]).ok().json();
    let one = host.show(&id);
    let number = |v: &serde_json::Value| v.as_u64().unwrap_or_else(|| panic!("{v}"));
    assert_eq!((number(&all["session_count"]), number(&all["call_count"])), (3, 4), "{all:#}");
    assert_eq!((number(&all["allowed_count"]), number(&all["denied_count"])), (2, 2));
    assert_eq!(number(&all["usage"]["output"]), 2 * number(&one["usage"]["output"]));
    assert_eq!(number(&all["cost"]["nanousd"]), 2 * number(&one["cost"]["nanousd"]));
    assert_eq!(
        (&all["by_outcome"]["succeeded"], &all["by_outcome"]["exited"], &all["by_status"]["ended"]),
        (&json!(2), &json!(1), &json!(3))
    );
    assert_eq!(all["by_agent"]["generic"]["session_count"], 1);
    assert!(all["by_agent"]["generic"]["cost"].is_null(), "no model, no cost: {all:#}");
    let only = |args: &[&str]| number(&host.beadle([&["--json", "stats"], args].concat()).ok().json()["session_count"]);
    assert_eq!(
        [only(&["--agent", "demo"]), only(&["--label", "team=a"]), only(&["--since", "1h"]), only(&["--since", "0s"])],
        [2, 1, 3, 0]
    );
    let text = host.beadle(["stats"]).ok().out;
    assert!(text.contains("4: 2 allowed (0 changed), 2 denied; 0 asked about") && text.contains("generic"), "{text}");
    assert_eq!(host.beadle(["-q", "stats"]).ok().out, "3\n");
    assert_eq!(host.beadle(["stats", "--since", "soon"]).code, 2);
}

#[test]
fn the_metrics_page_tells_what_the_log_tells() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash(echo yes:*)", "Edit(./**)"], &[], &["Bash(echo no:*)"]));
    let id = played(&mut host, &[]);
    let page = get(&host, "/metrics");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("application/openmetrics-text; version=1.0.0"), "{page}");
    let one = host.show(&id);
    assert_eq!(value(&page, "beadle_decisions_total{effect=\"allow\",by=\"policy\"}"), 1.0);
    assert_eq!(value(&page, "beadle_decisions_total{effect=\"deny\",by=\"policy\"}"), 1.0);
    assert_eq!(value(&page, "beadle_policy_answers_total{policy=\"rules\",effect=\"deny\"}"), 1.0);
    for histogram in ["beadle_decide_seconds", "beadle_gate_seconds", "beadle_policy_decide_seconds"] {
        let labels = if histogram.contains("policy") { "{policy=\"rules\"}" } else { "" };
        assert_eq!(value(&page, &format!("{histogram}_count{labels}")), 2.0, "{histogram}");
        assert!(value(&page, &format!("{histogram}_sum{labels}")) > 0.0, "{histogram}");
    }
    // A question's answer is durable before it is handed on.
    assert!(value(&page, "beadle_append_seconds_count") >= 2.0);
    assert!(value(&page, "beadle_gate_seconds_sum") > value(&page, "beadle_decide_seconds_sum"));
    let model = one["model"].as_str().expect("a model");
    let output = value(&page, &format!("beadle_tokens_total{{model=\"{model}\",kind=\"output\"}}"));
    assert_eq!(Some(output), one["usage"]["output"].as_f64());
    let usd: f64 = one["cost"]["usd"].as_str().and_then(|c| c.parse().ok()).expect("a cost");
    assert!((value(&page, "beadle_cost_usd_total") - usd).abs() < 1e-9);
    assert_eq!((value(&page, "beadle_sessions{status=\"ended\"}"), value(&page, "beadle_sessions{status=\"running\"}")), (1.0, 0.0));
    assert_eq!((value(&page, "beadle_breaches_total"), value(&page, "beadle_approvals_waiting")), (0.0, 0.0));
    assert!(value(&page, "process_resident_memory_bytes") > 1e6);
    // Counters begin with the daemon; what is stored does not.
    host.kill_daemon();
    host.beadle(["ls"]).ok();
    let again = get(&host, "/metrics");
    assert_eq!(value(&again, "beadle_decisions_total{effect=\"allow\",by=\"policy\"}"), 0.0);
    assert_eq!(value(&again, "beadle_sessions{status=\"ended\"}"), 1.0);
}

#[test]
fn failures_of_a_policy_and_waiting_questions_are_counted() {
    let mut host = TestHost::new();
    crate::gate::failing_policy(&host, "trap", "deny");
    let model = Model::start(&json!({ "steps": [bash("touch a"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    assert_eq!(value(&get(&host, "/metrics"), "beadle_policy_failures_total{policy=\"bad\",cause=\"trap\"}"), 1.0);
    host.beadle(["host", "stop"]).ok();
    host.config(&rules(&["Edit(./**)"], &["Bash(touch:*)"], &[]));
    let model = Model::start(&json!({ "steps": [bash("touch b"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    crate::support::until("a question waits", || (host.show(&id)["waiting_count"] == 1).then_some(()));
    let page = get(&host, "/metrics");
    assert_eq!((value(&page, "beadle_approvals_waiting"), value(&page, "beadle_sessions{status=\"running\"}")), (1.0, 1.0));
    assert_eq!(host.beadle(["--json", "stats"]).ok().json()["waiting_count"], 1);
}

#[test]
fn a_session_reads_no_numbers() {
    let mut host = TestHost::new();
    host.config(crate::gate::NO_RULES);
    let steps = ["GET /metrics", "GET /v1/stats"].map(|say| bash(&knock::command("$h/b/run/beadle.sock", say, "1.txt")));
    let model = Model::start(&json!({ "steps": [steps[0], steps[1], { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    let said = std::fs::read_to_string(host.work().join("1.txt")).unwrap_or_default();
    assert_eq!(said.matches("answer: HTTP/1.1 403").count(), 2, "{said}");
}
