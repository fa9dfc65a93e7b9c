//! `beadle top` on a terminal of its own, with real sessions of the built-in agent.

use serde_json::json;

use crate::support::{Model, Terminal, TestHost, bash, rules, until};

/// What a program writes when it takes the whole screen, and when it gives it back.
const TAKEN: &str = "\u{1b}[?1049h";
const GIVEN_BACK: &str = "\u{1b}[?1049l";

#[test]
fn without_a_terminal_it_says_what_to_use_or_gives_one_look() {
    let mut host = TestHost::new();
    let said = host.beadle(["top"]);
    assert!(said.code == 2 && said.err.contains("beadle --json top"), "{said:?}");
    host.config(&rules(&["Edit(./**)"], &["Bash(touch:*)"], &[]));
    host.beadle(["host", "stop"]).ok();
    let model = Model::start(&json!({ "steps": [bash("touch a"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    until("a question waits", || (host.show(&id)["waiting_count"] == 1).then_some(()));
    let look = host.beadle(["--json", "top"]).ok().json();
    assert_eq!((&look["sessions"][0]["id"], &look["approvals"][0]["session"]), (&json!(id), &json!(id)), "{look:#}");
    assert!(look["memory_kb"][&id].as_u64().is_some_and(|kb| kb > 100), "{look:#}");
    assert_eq!((&look["more_sessions"], &look["more_approvals"]), (&json!(false), &json!(false)));
}

#[test]
fn the_terminal_is_given_back() {
    let mut host = TestHost::new();
    host.config(&rules(&["Edit(./**)"], &["Bash(touch:*)"], &[]));
    let model = Model::start(&json!({ "steps": [bash("touch a"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    until("a question waits", || (host.show(&id)["waiting_count"] == 1).then_some(()));
    let mut top = Terminal::start(host.command(["top"]));
    top.resize(30, 120);
    top.wait_for("touch a");
    top.press("q");
    let screen = top.finish();
    assert_eq!((screen.matches(TAKEN).count(), screen.matches(GIVEN_BACK).count()), (1, 1));
}
