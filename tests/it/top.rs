//! `beadle top` on a terminal of its own, with real sessions of the built-in agent.

use serde_json::json;

use crate::support::{Model, Terminal, TestHost, bash, rules, until};

/// What a program writes when it takes the whole screen, and when it gives it back.
const TAKEN: &str = "\u{1b}[?1049h";
const GIVEN_BACK: &str = "\u{1b}[?1049l";

#[test]
fn questions_are_answered_by_key_and_the_terminal_is_given_back() {
    let mut host = TestHost::new();
    host.config(&rules(&["Edit(./**)"], &["Bash(touch:*)"], &[]));
    let model = Model::start(&json!({ "steps": [bash("touch a"), bash("touch b"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &["--name", "asked"]);
    until("a question waits", || (host.show(&id)["waiting_count"] == 1).then_some(()));
    let mut top = Terminal::start(host.command(["top"]));
    top.resize(30, 120);
    top.wait_for("touch a");
    top.wait_for("asked");
    assert!(!host.work().join("a").exists(), "nothing runs before the answer");
    // A key before the question's story is read is no answer.
    let mut width = 0;
    until("its story is read", || {
        width += 1;
        top.resize(30, 118 + width % 2);
        top.screen().contains("demo, in ").then_some(())
    });
    top.press("y");
    // Another size makes it draw the whole screen, so that each text stands there in one piece.
    top.resize(31, 121);
    top.wait_for("reason (may be empty), Enter sends");
    top.press("looks fine\r");
    until("the allowed call ran", || host.work().join("a").exists().then_some(()));
    until("the next question waits", || (host.show(&id)["asked_count"] == 2).then_some(()));
    top.resize(32, 122);
    top.wait_for("touch b");
    until("its story can be answered", || {
        top.press("n");
        top.resize(33, 123);
        top.screen().contains(&format!("deny {id}")).then_some(())
    });
    // Every further `n` went into the reason; it is taken back and given once more.
    top.press("\u{1b}");
    top.resize(34, 124);
    top.wait_for("nothing was sent");
    top.press("n");
    top.press("not today\r");
    let ended = host.ended(&id);
    assert_eq!((ended["allowed_count"].as_u64(), ended["denied_count"].as_u64()), (Some(1), Some(1)), "{ended:#}");
    assert!(!host.work().join("b").exists());
    let decided = host.events_of(&id, "tool_decided");
    let reasons: Vec<&str> = decided.iter().filter_map(|d| d["body"]["reason"].as_str()).collect();
    assert_eq!(reasons, ["looks fine", "not today"]);
    top.resize(35, 125);
    top.wait_for("nothing waits for an answer");
    top.press("?");
    top.resize(36, 126);
    top.wait_for("any key goes back");
    top.press("xq");
    let screen = top.finish();
    assert_eq!((screen.matches(TAKEN).count(), screen.matches(GIVEN_BACK).count()), (1, 1));
    assert!(screen.rfind(GIVEN_BACK) > screen.rfind(TAKEN));
}

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
