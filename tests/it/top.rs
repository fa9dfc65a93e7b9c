//! `beadle top` on a terminal of its own, with real sessions of the built-in agent.

use serde_json::{Value, json};

use crate::operator::{self, ALICE, code_on, first_key};
use crate::support::{Model, Terminal, TestHost, bash, rules, until};

/// What a program writes when it takes the whole screen, and when it gives it back.
const TAKEN: &str = "\u{1b}[?1049h";
const GIVEN_BACK: &str = "\u{1b}[?1049l";
/// A line that stands there whenever nothing is typed and nothing happened.
const KEYS: &str = "y allow  n deny  up/down select";

/// Asks before these commands, one after the other.
fn asks(commands: &[&str]) -> Model {
    let mut steps: Vec<Value> = commands.iter().map(|c| bash(c)).collect();
    steps.push(json!({ "text": "done" }));
    Model::start(&json!({ "steps": steps }))
}

fn host() -> TestHost {
    let host = TestHost::new();
    host.config(&rules(&["Edit(./**)"], &["Bash(touch:*)"], &[]));
    host
}

fn asked(host: &TestHost, id: &str) {
    until("a question waits", || (host.show(id)["waiting_count"] == 1).then_some(()));
}

/// On a screen in which ids, reasons and errors are not cut.
fn top(host: &TestHost) -> Terminal {
    let top = Terminal::sized(host.command(["top"]), 30, 240);
    top.wait_seen(KEYS);
    top
}

/// Begins an answer to the question about `command` and sends it with a reason.
fn answer(top: &mut Terminal, command: &str, key: &str, reason: &str) {
    top.wait_seen(&format!("Bash  {command}"));
    // The whole story must be there before an answer can be begun.
    top.wait_seen("why: ");
    top.press(key);
    top.wait_seen("Enter sends, Esc does not: _");
    top.press(reason);
    top.wait_seen(&format!("Esc does not: {reason}_"));
    top.press("\r");
}

fn resolved(host: &TestHost, id: &str, n: usize) -> Value {
    until("the answer is in the log", || host.events_of(id, "approval_resolved").get(n).map(|e| e["body"].clone()))
}

#[test]
fn without_a_terminal_it_says_what_to_use_or_gives_one_look() {
    let mut host = TestHost::new();
    let said = host.beadle(["top"]);
    assert!(said.code == 2 && said.err.contains("beadle --json top"), "{said:?}");
    host.config(&rules(&["Edit(./**)"], &["Bash(touch:*)"], &[]));
    host.beadle(["host", "stop"]).ok();
    let model = asks(&["touch a"]);
    let id = host.run_demo(&model, "go", &[]);
    asked(&host, &id);
    let look = host.beadle(["--json", "top"]).ok().json();
    assert_eq!((&look["sessions"][0]["id"], &look["approvals"][0]["session"]), (&json!(id), &json!(id)), "{look:#}");
    assert!(look["memory_kb"][&id].as_u64().is_some_and(|kb| kb > 100), "{look:#}");
    assert_eq!((&look["more_sessions"], &look["more_approvals"]), (&json!(false), &json!(false)));
}

#[test]
fn the_terminal_is_given_back() {
    for keys in ["q", "\u{1b}", "\u{3}"] {
        let host = host();
        let mut top = top(&host);
        top.wait_seen("beadle top: 0 live, 0 waiting for a person");
        assert!(!top.takes_lines(), "keys come one by one");
        top.resize(20, 100);
        top.wait_seen("nothing waits for an answer");
        top.press(keys);
        let (screen, as_before) = top.finish_as_before();
        assert!(as_before, "{keys:?}: {screen:?}");
        assert_eq!((screen.matches(TAKEN).count(), screen.matches(GIVEN_BACK).count()), (1, 1), "{keys:?}");
        assert!(screen.rfind(GIVEN_BACK) > screen.rfind("waiting"), "nothing is drawn afterwards: {screen:?}");
    }
}

#[test]
fn questions_are_answered_by_key() {
    let mut host = host();
    let model = asks(&["touch a", "touch b"]);
    let id = host.run_demo(&model, "go", &[]);
    let mut top = top(&host);
    top.wait_seen("Bash  touch a");
    top.wait_seen("why: ");
    // Begun and taken back.
    top.press("y");
    top.wait_seen("Enter sends, Esc does not: _");
    top.press("\u{1b}");
    top.wait_seen("nothing was sent");
    assert!(host.events_of(&id, "approval_resolved").is_empty() && !host.work().join("a").exists());
    answer(&mut top, "touch a", "y", "looks right");
    let first = resolved(&host, &id, 0);
    assert_eq!((&first["effect"], &first["reason"]), (&json!("allow"), &json!("looks right")), "{first}");
    top.wait_seen(&format!("{id}:{} approved", first["call"]));
    answer(&mut top, "touch b", "n", "quite enough");
    let second = resolved(&host, &id, 1);
    assert_eq!((&second["effect"], &second["reason"]), (&json!("deny"), &json!("quite enough")), "{second}");
    top.wait_seen(&format!("{id}:{} denied", second["call"]));
    host.ended(&id);
    assert!(host.work().join("a").exists() && !host.work().join("b").exists());
    top.wait_seen("nothing waits for an answer");
    top.press("q");
    assert!(top.finish_as_before().1);
}

#[test]
fn a_session_is_paused_and_resumed_by_key() {
    let mut host = host();
    let model = asks(&["touch a"]);
    let id = host.run_demo(&model, "go", &["--name", "fix"]);
    asked(&host, &id);
    let wait = ["--json", "run", "--detach", "--name", "wait", "--", "sh", "-c", "until [ -e end ]; do sleep 0.01; done"];
    let other = host.beadle(wait).ok().json()["id"].as_str().expect("an id").to_owned();
    let mut top = top(&host);
    top.wait_seen("> wait");
    top.press("p");
    top.wait_seen("wait is paused (freeze); p lets it go on");
    top.press("\t");
    top.wait_seen("> fix");
    top.press("p");
    top.wait_seen("fix is paused (hold); p lets it go on");
    for (id, mode) in [(&other, "freeze"), (&id, "hold")] {
        let paused = &host.events_of(id, "session_paused")[0]["body"];
        assert_eq!((&paused["mode"], &paused["by"]["role"]), (&json!(mode), &json!("operator")), "{paused}");
    }
    top.press("p");
    top.wait_seen("fix goes on");
    top.press("\u{1b}[Z");
    top.wait_seen("> wait");
    assert_eq!(host.show(&other)["status"], "paused", "only the selected one went on");
    top.press("p");
    top.wait_seen("wait goes on");
    assert_eq!((&host.show(&id)["status"], &host.show(&other)["status"]), (&json!("running"), &json!("running")));
    // Its question waits still, and is answered as before.
    answer(&mut top, "touch a", "n", "no");
    host.ended(&id);
    host.file("end", "");
    host.ended(&other);
    top.wait_seen("beadle top: 0 live");
    top.press("p");
    top.wait_seen("no session is live");
    top.press("q");
    assert!(top.finish_as_before().1);
}

#[test]
fn the_help_comes_and_goes() {
    let host = host();
    let mut top = top(&host);
    top.press("?");
    top.wait_seen("any key goes back");
    for line in ["allow the selected question", "deny it, the same way", "q        end; sessions go on"] {
        assert!(top.seen().contains(line), "no {line:?} in\n{}", top.seen());
    }
    top.press("q");
    until("the help is gone", || (!top.seen().contains("any key goes back")).then_some(()));
    top.wait_seen(KEYS);
    top.press("q");
    assert!(top.finish_as_before().1);
}

#[test]
fn a_yes_is_proved_by_a_code_on_the_ordinary_screen() {
    let mut host = operator::host("tty", "");
    let model = asks(&["touch a", "touch b"]);
    let id = host.run_demo(&model, "go", &[]);
    let mut top = top(&host);
    let code = |top: &Terminal, times: usize| {
        top.wait_for_times("type the code", times);
        assert!(top.takes_lines() && top.seen().contains("beadle: allow a call"), "{}", top.seen());
        code_on(&top.screen()).expect("a code stands there")
    };
    // Taken back.
    answer(&mut top, "touch a", "y", "one");
    code(&top, 1);
    top.press("\u{3}");
    top.wait_seen("nothing was sent");
    // Wrong.
    answer(&mut top, "touch a", "y", "two");
    code(&top, 2);
    top.type_line("no code");
    top.wait_seen("the code is wrong; ask again");
    assert!(host.events_of(&id, "approval_resolved").is_empty() && !host.work().join("a").exists());
    // Right; keys go to the screen again, every one of them.
    answer(&mut top, "touch a", "y", "three");
    let right = code(&top, 3);
    top.type_line(&right);
    let first = resolved(&host, &id, 0);
    assert!(first["effect"] == "allow" && first["reason"] == "three", "{first}");
    assert!(first["by"]["via"].as_str().is_some_and(|v| v.starts_with("tty:/dev/pts/")), "{first}");
    top.wait_seen(&format!("{id}:{} approved", first["call"]));
    // A no needs nothing.
    answer(&mut top, "touch b", "n", "never");
    assert_eq!(resolved(&host, &id, 1)["reason"], "never");
    host.ended(&id);
    assert!(host.work().join("a").exists() && !host.work().join("b").exists());
    top.press("q");
    let (screen, as_before) = top.finish_as_before();
    assert!(as_before && screen.matches(TAKEN).count() == 4 && screen.matches(GIVEN_BACK).count() == 4, "{screen:?}");
}

#[test]
fn a_yes_is_signed_with_a_passphrase_that_is_not_shown() {
    let mut host = operator::host("key", "");
    first_key(&host);
    let model = asks(&["touch a"]);
    let id = host.run_demo(&model, "go", &[]);
    let mut top = top(&host);
    for (passphrase, then) in [("not the passphrase", "the signature of key alice is wrong"), (ALICE, " approved")] {
        let before = top.screen().matches("passphrase of alice").count();
        answer(&mut top, "touch a", "y", "signed");
        top.wait_for_times("passphrase of alice", before + 1);
        top.type_line(passphrase);
        top.wait_seen(then);
    }
    let by = resolved(&host, &id, 0)["by"].clone();
    assert_eq!((&by["name"], &by["via"]), (&json!("alice"), &json!("key:alice")), "{by}");
    host.ended(&id);
    top.press("q");
    let (screen, as_before) = top.finish_as_before();
    assert!(as_before && !screen.contains(ALICE), "{screen:?}");
}
