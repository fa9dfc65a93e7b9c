//! Who may loosen something: a code typed at a terminal, keys, two persons; and every way round them that was thought of.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Model, Said, Terminal, TestHost, alive, bash, lines_of, rules, until};

/// Set for the copy of this test binary that plays a terminal from inside a session: where it writes the terminal's name.
const PLAYS: &str = "BEADLE_TEST_PLAYS";
pub const ALICE: &str = "alice has a long one";
const BOB: &str = "bob has another one";

pub fn host(confirm: &str, more: &str) -> TestHost {
    let host = TestHost::new();
    host.config(&format!("[operator]\nconfirm = \"{confirm}\"\n{more}\n{}", rules(&["Edit(./**)"], &[], &[])));
    host
}

/// A session whose agent asks once; and the id of that question.
fn asking(host: &mut TestHost, model: &Model, more: &[&str]) -> (String, String) {
    let id = host.run_demo(model, "go", more);
    let approval = waiting(host, &id);
    (id, approval)
}

pub fn waiting(host: &TestHost, id: &str) -> String {
    until("a call waits", || {
        let asked = host.events_of(id, "approval_requested");
        asked.first().map(|e| format!("{id}:{}", e["body"]["call"]))
    })
}

fn one_call() -> Model {
    Model::start(&json!({ "steps": [bash("echo ran >> out.txt"), { "text": "done" }] }))
}

fn ran(host: &TestHost) -> bool {
    host.work().join("out.txt").exists()
}

/// The newest code on a screen.
pub fn code_on(screen: &str) -> Option<String> {
    let at = screen.rfind("good for 60 s: ")? + "good for 60 s: ".len();
    screen.get(at..at + 6).filter(|c| c.bytes().all(|b| b.is_ascii_digit())).map(str::to_owned)
}

pub fn wait_code(t: &Terminal) -> String {
    until("a code stands on the screen", || code_on(&t.screen()).filter(|_| t.screen().contains("type the code")))
}

/// Another program, with the folder and environment that a command of the host gets.
fn like(host: &TestHost, program: &str) -> Command {
    let model = host.command(["ls"]);
    let mut c = Command::new(program);
    c.current_dir(host.work()).env_clear().stdin(Stdio::null());
    for (k, v) in model.get_envs() {
        c.env(k, v.unwrap_or_default());
    }
    c
}

/// Runs a command with passphrases on descriptor 3.
fn with_passphrases(host: &TestHost, lines: &[&str], operator: Option<&str>, args: &[&str]) -> Said {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), lines.join("\n")).expect("written");
    let mut c = like(host, "sh");
    c.args(["-c", "f=$1; shift; exec \"$@\" 3<\"$f\"", "sh"]).arg(file.path()).arg(env!("CARGO_BIN_EXE_beadle")).args(args);
    c.env("BEADLE_PASSPHRASE_FD", "3");
    if let Some(name) = operator {
        c.env("BEADLE_OPERATOR", name);
    }
    c.output().expect("the binary starts").into()
}

/// The first key, at a terminal; then the second, with the first.
fn two_keys(host: &TestHost) {
    first_key(host);
    let said = with_passphrases(host, &[BOB, ALICE], None, &["operator", "key", "add", "bob"]).ok();
    assert_eq!(said.out, "key bob added\n");
}

pub fn first_key(host: &TestHost) {
    let mut t = Terminal::start(host.command(["operator", "key", "add", "alice"]));
    t.wait_for("a new passphrase for alice");
    t.type_line(ALICE);
    t.wait_for("the same again");
    t.type_line(ALICE);
    let code = wait_code(&t);
    t.type_line(&code);
    let screen = t.finish();
    assert!(screen.contains("key alice added"), "{screen}");
    assert!(!screen.contains(ALICE), "a passphrase is not shown: {screen}");
}

/// A request from this very process, as a program would send it.
fn raw(host: &TestHost, method: &str, path: &str, confirm: Option<&str>, body: &Value) -> (u16, Value) {
    let mut s = UnixStream::connect(host.beadle_home().join("run/beadle.sock")).expect("the daemon listens");
    s.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    // why none for `null`: who is answered before the body is read may find the socket closed.
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let confirm = confirm.map(|c| format!("beadle-confirm: {c}\r\n")).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n{confirm}content-length: {}\r\n\r\n",
        body.len()
    );
    s.write_all((head + &body).as_bytes()).expect("sent");
    let mut answer = String::new();
    s.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    let body = answer.split_once("\r\n\r\n").map(|(_, b)| b).unwrap_or_default();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

fn approve_path(approval: &str) -> String {
    let (session, call) = approval.rsplit_once(':').expect("an approval id");
    format!("/v1/approvals/{session}/{call}")
}

/// Without a controlling terminal, whoever runs the tests.
fn without_terminal(mut c: Command) -> Said {
    // SAFETY: between fork and exec one async-signal-safe system call is made.
    unsafe {
        c.pre_exec(|| if libc::setsid() < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) });
    }
    c.output().expect("the binary starts").into()
}

#[test]
fn a_code_typed_at_the_terminal_approves_and_stands_in_the_log() {
    let mut host = host("tty", "");
    let model = one_call();
    let (id, approval) = asking(&mut host, &model, &[]);
    let mut t = Terminal::start(host.command(["approve", &approval]));
    let code = wait_code(&t);
    for shown in ["beadle: allow a call", &format!("approval: {approval}"), "about: echo ran >> out.txt"] {
        assert!(t.screen().contains(shown), "no {shown:?} in {}", t.screen());
    }
    assert!(!ran(&host));
    t.type_line(&code);
    let screen = t.finish();
    assert!(screen.contains(&format!("{approval} allowed")), "{screen}");
    host.ended(&id);
    assert!(ran(&host));
    let by = &host.events_of(&id, "approval_resolved")[0]["body"]["by"];
    assert!(by["via"].as_str().is_some_and(|v| v.starts_with("tty:/dev/pts/")) && by.get("name").is_none(), "{by}");
    assert_eq!(host.events_of(&id, "tool_decided")[0]["body"]["approver"], *by);
}

#[test]
fn a_question_at_the_terminal_and_the_code_after_it_are_read_one_by_one() {
    let mut host = host("tty", "");
    let project = host.file("p/beadle.toml", "[session]\ngrace_ms = 7\n");
    let dir = project.parent().expect("a folder").display().to_string();
    let mut t = Terminal::start(host.command(["trust", &dir]));
    t.wait_for("y or n");
    t.type_line("y");
    let code = wait_code(&t);
    t.type_line(&code);
    let screen = t.finish();
    assert!(screen.contains("trusted "), "{screen}");
    // The prompt of an attached session, too.
    let model = one_call();
    host.set("ANTHROPIC_BASE_URL", model.url());
    host.set("ANTHROPIC_API_KEY", "test");
    let mut t = Terminal::start(host.command(["run", "--agent", "demo", "--name", "here", "go"]));
    t.wait_for("l later");
    t.type_line("y it is fine");
    let code = wait_code(&t);
    t.type_line("no code");
    t.wait_for("not taken");
    assert!(!ran(&host));
    t.type_line("y it is fine");
    let next = until("another code stands there", || code_on(&t.screen()).filter(|c| *c != code));
    t.wait_for_times("type the code", 2);
    t.type_line(&next);
    let screen = t.finish();
    assert!(ran(&host), "{screen}");
}

#[test]
fn a_code_is_good_once_for_its_request_its_terminal_and_its_process() {
    let mut host = host("tty", "");
    let model = Model::start(&json!({ "steps": [bash("echo a >> out.txt"), bash("echo b >> other.txt"), { "text": "done" }] }));
    let (id, approval) = asking(&mut host, &model, &[]);
    // Another terminal, the same question: two codes, and neither is good on the other side.
    let mut one = Terminal::start(host.command(["approve", &approval]));
    let mut two = Terminal::start(host.command(["approve", &approval]));
    let (first, second) = (wait_code(&one), wait_code(&two));
    if first != second {
        two.type_line(&first);
        assert!(two.finish().contains("BDL-OPERATOR-006"));
    }
    // Another question on the same terminal kind.
    let mut rule = Terminal::start(host.command(["rule", "add", "allow", "Bash(echo:*)"]));
    let third = wait_code(&rule);
    if third != first {
        rule.type_line(&first);
        assert!(rule.finish().contains("BDL-OPERATOR-006"));
    }
    assert!(host.events_of(&id, "approval_resolved").is_empty());
    one.type_line(&first);
    one.finish();
    until("the first call ran", || ran(&host).then_some(()));
    // The code that was good is no longer.
    let next =
        until("the second call waits", || host.events_of(&id, "approval_requested").get(1).map(|e| format!("{id}:{}", e["body"]["call"])));
    let mut again = Terminal::start(host.command(["approve", &next]));
    if wait_code(&again) != first {
        again.type_line(&first);
        assert!(again.finish().contains("BDL-OPERATOR-006"));
    }
    assert!(!host.work().join("other.txt").exists());
    // Stopping, denying and tightening need nothing.
    host.beadle(["rule", "add", "deny", "Bash(curl:*)"]).ok();
    host.beadle(["deny", &next]).ok();
    assert_eq!(host.ended(&id)["outcome"], "succeeded");
}

#[test]
fn without_a_terminal_of_ones_own_there_is_no_code() {
    let mut host = host("tty", "");
    let model = one_call();
    let (id, approval) = asking(&mut host, &model, &[]);
    let project = host.file("p/beadle.toml", "[limits]\nwaiting_asks = 3\n");
    let dir = project.parent().expect("a folder").display().to_string();
    for args in [
        vec!["approve", &approval],
        vec!["rule", "add", "allow", "Bash(echo:*)"],
        vec!["trust", "--yes", &dir],
        vec!["run", "--detach", "--agent", "claude", "--unsafe-arg", "--dangerously-skip-permissions", "hi"],
        vec!["run", "--detach", "--", "touch", "made"],
    ] {
        let said = without_terminal(host.command(&args));
        assert!(said.code == 1 && said.err.contains("BDL-PROCESS-020") && said.err.contains("controlling terminal"), "{args:?}: {said:?}");
    }
    // In the background of a terminal it is the same.
    let mut background = like(&host, "bash");
    background.args(["-c", &format!("set -m; {} approve {approval} & wait", env!("CARGO_BIN_EXE_beadle"))]);
    let t = Terminal::start(background);
    let screen = t.finish();
    assert!(screen.contains("not in the foreground"), "{screen}");
    assert!(host.events_of(&id, "approval_resolved").is_empty() && !ran(&host));
    assert!(host.beadle(["--json", "rule", "ls"]).ok().lines().is_empty());
    assert_eq!(host.beadle(["--json", "ls"]).ok().lines().len(), 1, "no other session was started");
}

#[test]
fn a_code_does_not_pass_from_one_process_to_another() {
    let mut host = host("tty", "");
    let model = one_call();
    let (id, approval) = asking(&mut host, &model, &[]);
    let allow = json!({ "effect": "allow" });
    // A challenge that this process, without a terminal, cannot have; and made-up answers.
    for made_up in ["", "x", "x:code:123456", "x:key:alice:00", &format!("{}:code:000000", "0".repeat(64)), &"y".repeat(5000)] {
        let (status, body) = raw(&host, "POST", &approve_path(&approval), Some(made_up), &allow);
        assert!(status == 403 || status == 422, "{made_up:?}: {status} {body}");
    }
    let (status, body) = raw(&host, "POST", &approve_path(&approval), None, &allow);
    // Where the tests are run at a terminal, this process may have one; then it is asked for the code.
    assert!(status == 403 || status == 428, "{status} {body}");
    assert!(host.events_of(&id, "approval_resolved").is_empty() && !ran(&host));
}

/// Run by a session: makes a pseudo-terminal, says its name, and holds its other side for ever.
#[test]
fn plays_a_terminal() {
    let Some(out) = std::env::var_os(PLAYS).map(PathBuf::from) else { return };
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: both descriptors are written by the call; the other arguments may be null.
    unsafe {
        assert_eq!(libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), std::ptr::null()), 0);
        let name = std::fs::read_link(format!("/proc/self/fd/{slave}")).expect("a name");
        libc::close(slave);
        let whole = out.with_extension("tmp");
        std::fs::write(&whole, name.to_str().expect("text")).expect("written");
        std::fs::rename(&whole, &out).expect("renamed");
        // What a player would do: read the screen, to find the code there.
        let mut screen = String::new();
        let mut buf = [0u8; 4096];
        loop {
            match libc::read(master, buf.as_mut_ptr().cast(), buf.len()) {
                n @ 1.. => {
                    screen.push_str(&String::from_utf8_lossy(&buf[..usize::try_from(n).unwrap_or(0)]));
                    if let Some(code) = code_on(&screen) {
                        let line = format!("{code}\n");
                        libc::write(master, line.as_ptr().cast(), line.len());
                        screen.clear();
                    }
                }
                _ => std::thread::park_timeout(Duration::from_millis(50)),
            }
        }
    }
}

#[test]
fn a_session_cannot_play_the_terminal_of_a_process_that_left_it() {
    let mut host = host("tty", "");
    let model = one_call();
    let (_, approval) = asking(&mut host, &model, &[]);
    let name = host.work().join("terminal");
    let me = std::env::current_exe().expect("a path").display().to_string();
    let plays = format!("{PLAYS}={}", name.display());
    let args = ["run", "--detach", "--env", &plays, "--", &me, "--exact", "operator::plays_a_terminal", "--nocapture"];
    let mut run = Terminal::start(host.command(args));
    let code = wait_code(&run);
    run.type_line(&code);
    run.finish();
    let device = until("the terminal is there", || std::fs::read_to_string(&name).ok());
    // This command is no descendant of the session, as one started by cron would be; only the terminal is the session's.
    let slave = std::fs::OpenOptions::new().read(true).write(true).open(&device).expect("the terminal");
    let mut c = host.command(["approve", &approval]);
    c.stdin(slave.try_clone().expect("a copy")).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: between fork and exec only two async-signal-safe system calls are made.
    unsafe {
        c.pre_exec(|| {
            if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    let said: Said = c.output().expect("the binary starts").into();
    assert!(said.code == 1 && said.err.contains("BDL-PROCESS-020") && said.err.contains("belongs to a session"), "{said:?}");
    assert!(!ran(&host));
}

#[test]
fn a_process_of_a_session_adds_no_key_and_approves_nothing() {
    let mut host = host("key", "");
    first_key(&host);
    let model = one_call();
    let (id, approval) = asking(&mut host, &model, &[]);
    let beadle = env!("CARGO_BIN_EXE_beadle");
    let secret = host.file("secret", &format!("{ALICE}\n{ALICE}\n"));
    let script = format!(
        "export BEADLE_HOME={} BEADLE_PASSPHRASE_FD=3; for a in 'approve {approval}' 'operator key add eve' 'operator key rm alice' 'rule add allow Bash'; do \
         {beadle} $a 3<{} >> said 2>&1; done; touch over",
        host.beadle_home().display(),
        secret.display()
    );
    with_passphrases(&host, &[ALICE], None, &["run", "--detach", "--", "sh", "-c", &script]).ok();
    until("the session tried", || host.work().join("over").exists().then_some(()));
    let said = std::fs::read_to_string(host.work().join("said")).unwrap_or_default();
    assert_eq!(said.matches("BDL-API-001").count(), 4, "{said}");
    assert_eq!(host.beadle(["--json", "operator", "key", "ls"]).ok().json()["keys"].as_array().map(Vec::len), Some(1));
    assert!(host.events_of(&id, "approval_resolved").is_empty() && !ran(&host));
}

#[test]
fn keys_sign_for_what_they_were_shown_and_stand_in_the_log_by_name() {
    let mut host = host("key", "");
    let model = one_call();
    let (id, approval) = asking(&mut host, &model, &[]);
    let none = host.beadle(["approve", &approval]);
    assert!(none.code == 1 && none.err.contains("BDL-OPERATOR-009"), "{none:?}");
    // Keys guard keys: a first one needs a terminal, a further one a key.
    let eve = with_passphrases(&host, &["eve has a long one too"], None, &["operator", "key", "add", "eve"]);
    assert!(eve.code != 0 && !eve.err.contains("added"), "{eve:?}");
    two_keys(&host);
    let eve = with_passphrases(&host, &["eve has a long one too", "a guess at alice's"], Some("alice"), &["operator", "key", "add", "eve"]);
    assert!(eve.code == 1 && eve.err.contains("BDL-OPERATOR-007"), "{eve:?}");
    let short = with_passphrases(&host, &["short"], None, &["operator", "key", "add", "eve"]);
    assert!(short.code == 2 && short.err.contains("BDL-OPERATOR-016"), "{short:?}");

    let allow = json!({ "effect": "allow" });
    let (status, challenge) = raw(&host, "POST", &approve_path(&approval), None, &allow);
    assert_eq!(status, 428, "{challenge}");
    let fields = &challenge["subject"]["fields"];
    assert!(fields.to_string().contains(&approval) && fields.to_string().contains("echo ran"), "{fields}");
    let wrong = with_passphrases(&host, &["not the passphrase"], Some("alice"), &["approve", &approval]);
    assert!(wrong.code == 1 && wrong.err.contains("BDL-OPERATOR-007"), "{wrong:?}");
    assert!(!ran(&host));

    let good = with_passphrases(&host, &[ALICE], Some("alice"), &["approve", &approval]).ok();
    assert!(good.out.contains("allowed"), "{good:?}");
    host.ended(&id);
    assert!(ran(&host));
    let by = &host.events_of(&id, "approval_resolved")[0]["body"]["by"];
    assert_eq!((by["name"].as_str(), by["via"].as_str()), (Some("alice"), Some("key:alice")), "{by}");

    let gone = with_passphrases(&host, &[BOB], Some("bob"), &["operator", "key", "rm", "alice"]).ok();
    assert_eq!(gone.out, "key alice removed\n");
    let late = with_passphrases(&host, &[ALICE], Some("alice"), &["rule", "add", "allow", "Bash(echo:*)"]);
    assert!(late.code == 2, "{late:?}");
    with_passphrases(&host, &[BOB], None, &["rule", "add", "allow", "Bash(echo:*)"]).ok();
    let rule = &host.beadle(["--json", "rule", "ls"]).ok().lines()[0];
    assert_eq!(rule["by"]["name"], "bob", "{rule}");
    let ask = host.beadle(["--json", "rule", "add", "ask", "Bash(ls:*)"]).ok().json();
    let id = ask["id"].as_str().expect("an id").to_owned();
    let loosens = host.beadle(["rule", "revoke", &id]);
    assert!(loosens.code != 0, "taking an ask rule back loosens: {loosens:?}");
    with_passphrases(&host, &[BOB], None, &["rule", "revoke", &id]).ok();
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn a_signature_is_not_taken_twice_nor_for_another_call() {
    let mut host = host("key", "");
    first_key(&host);
    let model = Model::start(&json!({ "steps": [bash("echo a >> out.txt"), bash("echo b >> other.txt"), { "text": "done" }] }));
    let (id, approval) = asking(&mut host, &model, &[]);
    let allow = json!({ "effect": "allow" });
    let sign = |challenge: &Value| {
        let derivation = serde_json::from_value(challenge["keys"][0]["derivation"].clone()).expect("how to derive");
        let subject = serde_json::from_value(challenge["subject"].clone()).expect("a subject");
        let secret = beadle::operator::key::derive(ALICE.as_bytes(), &derivation).expect("a key");
        let nonce = challenge["challenge"].as_str().expect("a challenge");
        format!("{nonce}:key:alice:{}", secret.sign(nonce, &subject))
    };
    // Signed for a rule, used for a call.
    let rule = json!({ "effect": "allow", "rule": "Bash(pwd)" });
    let (status, challenge) = raw(&host, "POST", "/v1/rules", None, &rule);
    assert_eq!(status, 428);
    let signed = sign(&challenge);
    let (status, said) = raw(&host, "POST", &approve_path(&approval), Some(&signed), &allow);
    assert_eq!((status, said["code"].as_str()), (403, Some("BDL-OPERATOR-004")), "{said}");
    let (status, said) = raw(&host, "POST", "/v1/rules", Some(&signed), &rule);
    assert_eq!((status, said["code"].as_str()), (403, Some("BDL-OPERATOR-003")), "spent by the wrong use: {said}");
    // A subject that was signed over differently from what the daemon would do.
    let (_, mut challenge) = raw(&host, "POST", &approve_path(&approval), None, &allow);
    challenge["subject"]["fields"][0][1] = json!("another:1");
    let (status, said) = raw(&host, "POST", &approve_path(&approval), Some(&sign(&challenge)), &allow);
    assert_eq!((status, said["code"].as_str()), (403, Some("BDL-OPERATOR-007")), "{said}");
    // Right once, then replayed on the next call and on the same.
    let (_, challenge) = raw(&host, "POST", &approve_path(&approval), None, &allow);
    let signed = sign(&challenge);
    let (status, said) = raw(&host, "POST", &approve_path(&approval), Some(&signed), &allow);
    assert_eq!(status, 200, "{said}");
    let next =
        until("the second call waits", || host.events_of(&id, "approval_requested").get(1).map(|e| format!("{id}:{}", e["body"]["call"])));
    for path in [approve_path(&next), approve_path(&approval)] {
        let (status, said) = raw(&host, "POST", &path, Some(&signed), &allow);
        assert!(
            matches!((status, said["code"].as_str()), (403, Some("BDL-OPERATOR-003")) | (409, Some("BDL-SESSION-015"))),
            "{status} {said}"
        );
    }
    // Wrong ones cost time: after a few, the next is not even looked at.
    let mut codes = Vec::new();
    while codes.last().is_none_or(|c| c != "BDL-OPERATOR-008") {
        assert!(codes.len() < 12, "wrong ones never cost anything: {codes:?}");
        let (_, challenge) = raw(&host, "POST", &approve_path(&next), None, &allow);
        let nonce = challenge["challenge"].as_str().expect("a challenge").to_owned();
        let (status, said) = raw(&host, "POST", &approve_path(&next), Some(&format!("{nonce}:key:alice:{}", "0".repeat(128))), &allow);
        assert!(status == 403 || status == 429, "{status} {said}");
        codes.push(said["code"].as_str().unwrap_or_default().to_owned());
    }
    assert!(codes.len() > 3 && !host.work().join("other.txt").exists(), "{codes:?}");
    host.beadle(["stop", &id]).ok();
}

#[test]
fn two_persons_of_two_keys_and_the_first_survives_the_daemon() {
    let mut host = host("key", "[approvals]\ntwo_person = [\"env=prod\"]\n");
    two_keys(&host);
    let model = one_call();
    let (id, approval) = asking(&mut host, &model, &["--label", "env=prod"]);
    with_passphrases(&host, &[ALICE], Some("alice"), &["approve", &approval, "--reason", "looks right"]).ok();
    let endorsed = host.events_of(&id, "approval_endorsed");
    assert_eq!(endorsed.len(), 1);
    assert_eq!((endorsed[0]["body"]["by"]["name"].as_str(), endorsed[0]["body"]["reason"].as_str()), (Some("alice"), Some("looks right")));
    assert!(!ran(&host) && host.events_of(&id, "tool_decided").is_empty());

    host.kill_daemon();
    let again = with_passphrases(&host, &[ALICE], Some("alice"), &["approve", &approval]);
    assert!(again.code == 1 && again.err.contains("BDL-SESSION-033"), "the same person twice: {again:?}");
    let shown = host.beadle(["--json", "approvals", &approval]).ok().json();
    assert_eq!((shown["two_person"].as_bool(), shown["endorsed"][0]["by"]["name"].as_str()), (Some(true), Some("alice")), "{shown}");
    let text = host.beadle(["approvals"]).ok().out;
    assert!(text.contains("allowed by alice; needs a second person"), "{text}");
    // A rule of one person allows nothing there, and no rule comes of an answer.
    with_passphrases(&host, &[ALICE], Some("alice"), &["rule", "add", "allow", "Bash(echo:*)"]).ok();
    let always = with_passphrases(&host, &[BOB], Some("bob"), &["approve", &approval, "--always"]);
    assert!(always.code == 1 && always.err.contains("BDL-API-021"), "{always:?}");
    assert!(!ran(&host));

    with_passphrases(&host, &[BOB], Some("bob"), &["approve", &approval]).ok();
    host.ended(&id);
    assert!(ran(&host));
    assert_eq!(host.events_of(&id, "approval_resolved")[0]["body"]["by"]["name"], "bob");

    std::fs::remove_file(host.work().join("out.txt")).expect("it ran");
    let model = one_call();
    let (id, approval) = asking(&mut host, &model, &["--label", "env=prod"]);
    with_passphrases(&host, &[BOB], Some("bob"), &["approve", &approval]).ok();
    host.beadle(["deny", &approval, "--reason", "no"]).ok();
    host.ended(&id);
    assert!(!ran(&host), "one denies");
    // Without the label the rule of alice is enough.
    let model = one_call();
    let id = host.run_demo(&model, "go", &["--label", "env=dev"]);
    host.ended(&id);
    assert!(ran(&host) && host.events_of(&id, "approval_requested").is_empty());
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn two_persons_without_keys_is_a_mistake_that_config_check_names() {
    for confirm in ["none", "tty"] {
        let host = host(confirm, "[approvals]\ntwo_person = [\"env=prod\"]\n");
        let said = host.beadle(["config", "check"]);
        assert!(said.code == 1 && said.err.contains("BDL-CONFIG-021"), "{said:?}");
    }
    let mut host = host("key", "[approvals]\ntwo_person = [\"env=prod\"]\n");
    host.beadle(["config", "check"]).ok();
    host.set("BEADLE_OPERATOR_CONFIRM", "none");
    let said = host.beadle(["ls"]);
    assert!(said.code != 0 && said.err.contains("BDL-CONFIG-004"), "the environment does not loosen it: {said:?}");
    host.set("BEADLE_OPERATOR_CONFIRM", "key");
}

#[test]
fn a_change_of_what_is_asked_for_stands_in_the_host_chain() {
    let host = host("key", "");
    let first = host.daemon();
    host.beadle(["host", "stop"]).ok();
    until("the daemon has ended", || (!alive(first)).then_some(()));
    host.config("[operator]\nconfirm = \"none\"\n");
    host.daemon();
    let log = lines_of(&host.data().join("daemon.log")).join("\n");
    assert!(log.contains("operator.confirm is another than at the last start"), "{log}");
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn a_yes_by_a_key_that_was_removed_since_counts_no_more() {
    const NEW: &str = "another person is alice now";
    let mut host = host("key", "[approvals]\ntwo_person = [\"env=prod\"]\n");
    two_keys(&host);
    let model = one_call();
    let (id, approval) = asking(&mut host, &model, &["--label", "env=prod"]);
    with_passphrases(&host, &[ALICE], Some("alice"), &["approve", &approval]).ok();
    let yes = |host: &TestHost| {
        let shown = host.beadle(["--json", "approvals", &approval]).ok().json();
        shown["endorsed"].as_array().map(|e| e.iter().map(|e| e["by"]["name"].clone()).collect::<Vec<_>>()).unwrap_or_default()
    };
    assert_eq!(yes(&host), ["alice"]);
    with_passphrases(&host, &[BOB], Some("bob"), &["operator", "key", "rm", "alice"]).ok();
    assert!(yes(&host).is_empty(), "nobody's yes stands");
    // The name is given again: not the yes that was said under it.
    with_passphrases(&host, &[NEW, BOB], Some("bob"), &["operator", "key", "add", "alice"]).ok();
    assert!(yes(&host).is_empty());
    host.kill_daemon();
    let said = with_passphrases(&host, &[BOB], Some("bob"), &["approve", &approval]).ok();
    assert!(said.out.contains("allowed by bob; needs a second person"), "{said:?}");
    assert!(host.events_of(&id, "approval_resolved").is_empty() && !ran(&host), "one person's yes is not two");
    assert_eq!(yes(&host), ["bob"]);
    with_passphrases(&host, &[NEW], Some("alice"), &["approve", &approval]).ok();
    host.ended(&id);
    assert!(ran(&host));
    let keys: Vec<Value> = host.events_of(&id, "approval_endorsed").iter().map(|e| e["body"]["by"]["key"].clone()).collect();
    assert!(keys.len() == 2 && keys[0] != keys[1] && keys.iter().all(Value::is_string), "{keys:?}");
}

#[test]
fn a_session_without_a_gate_is_started_by_a_person_only() {
    let host = host("key", "");
    first_key(&host);
    let run = json!({ "agent": "generic", "program": "touch", "args": ["made"], "cwd": host.work(), "env": {} });
    let (status, challenge) = raw(&host, "POST", "/v1/sessions", None, &run);
    assert_eq!(status, 428, "{challenge}");
    assert_eq!(challenge["subject"]["action"], "start a session without a gate");
    assert!(challenge["subject"]["fields"].to_string().contains("made"), "{challenge}");
    let wrong = with_passphrases(&host, &["a guess at the passphrase"], None, &["run", "--wait", "--", "touch", "made"]);
    assert!(wrong.code == 1 && wrong.err.contains("BDL-OPERATOR-007"), "{wrong:?}");
    assert!(!host.work().join("made").exists() && host.beadle(["--json", "ls"]).ok().lines().is_empty());
    with_passphrases(&host, &[ALICE], None, &["run", "--wait", "--", "touch", "made"]).ok();
    assert!(host.work().join("made").exists());
    let id = host.beadle(["--json", "ls"]).ok().lines()[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(host.events_of(&id, "session_created")[0]["body"]["created_by"]["via"], "key:alice");
}

#[test]
fn an_attestation_that_passed_is_confirmed_and_one_that_failed_is_not() {
    let host = host("key", "");
    first_key(&host);
    let program = host.program("claude", "#!/bin/sh\n");
    let seen = raw(&host, "GET", &format!("/v1/programs?agent=claude&program={}", program.display()), None, &Value::Null).1;
    let attest = |result: &str| {
        json!({ "agent": "claude", "program": program, "digest": seen["digest"], "beadle_version": env!("CARGO_PKG_VERSION"),
            "recipe": seen["recipe"], "checks": [{ "name": "deny", "result": result }], "duration_ms": 1 })
    };
    let (status, said) = raw(&host, "POST", "/v1/attestations", None, &attest("ok"));
    assert_eq!((status, said["subject"]["action"].as_str()), (428, Some("attest an agent's program")), "{said}");
    assert!(said["subject"]["fields"].to_string().contains(seen["digest"].as_str().expect("a digest")), "{said}");
    let (status, said) = raw(&host, "POST", "/v1/attestations", None, &attest("failed"));
    assert_eq!((status, said["passed"].as_bool()), (201, Some(false)), "{said}");
    let list = raw(&host, "GET", "/v1/attestations", None, &Value::Null).1;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list}");
}

#[test]
fn hooks_are_put_in_by_anyone_and_taken_out_by_a_person() {
    let host = host("key", "");
    first_key(&host);
    host.beadle(["hook", "install", "claude"]).ok();
    let settings = host.home().join(".claude/settings.json");
    let before = std::fs::read_to_string(&settings).expect("settings");
    let refused = with_passphrases(&host, &["a guess at the passphrase"], None, &["hook", "uninstall", "claude"]);
    assert!(refused.code == 1 && refused.err.contains("BDL-OPERATOR-007"), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&settings).expect("settings"), before, "the file stays as it is");
    let body = json!({ "agent": "claude", "path": settings.canonicalize().expect("a path"), "installed": false });
    let (status, said) = raw(&host, "POST", "/v1/hooks", None, &body);
    assert_eq!((status, said["subject"]["action"].as_str()), (428, Some("take hooks out")), "{said}");
    with_passphrases(&host, &[ALICE], None, &["hook", "uninstall", "claude"]).ok();
    assert!(!settings.exists(), "it was made for the hooks");
    host.beadle(["hook", "uninstall", "claude"]).ok();
}
