//! The hook client as agents run it (`sh -c CMD`, event on stdin, answer on stdout) against an empty shell and script hooks.
//!
//! `cargo bench -p beadle-benches --bench hook`. The daemon is a thread that answers at once, so this is the client's own cost. All rows are
//! measured in turn in one run, so their ratios hold on any machine. Interpreters that are not installed are named as skipped.
#![allow(clippy::print_stdout, reason = "a bench reports on stdout")]

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 200;
/// Script hooks take so long that fewer rounds do.
const SLOW_ROUNDS: usize = 40;
const ANSWER: &str = r#"{"hookSpecificOutput":{"hookEventName":"PreToolUse","permissionDecision":"allow"}}"#;

struct Row {
    name: &'static str,
    program: String,
    args: Vec<String>,
    slow: bool,
    answers: bool,
    took: Vec<Duration>,
}

fn main() -> anyhow::Result<()> {
    // `cargo test --benches` only wants to know that it starts.
    if std::env::args().any(|a| a == "--test") {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let shim = beadle::process::install(dir.path())?;
    let socket = dir.path().join("daemon.sock");
    serve(&socket)?;
    let event = format!(
        r#"{{"session_id":"{0}","transcript_path":"/{0}","cwd":"/home/u/project","hook_event_name":"PreToolUse","tool_name":"Bash","tool_input":{{"command":"git status","description":"{0}"}}}}"#,
        "x".repeat(150)
    );
    let shell = |name, command: String, slow| Row {
        name,
        program: "sh".to_owned(),
        args: vec!["-c".to_owned(), command],
        slow,
        answers: true,
        took: Vec::new(),
    };
    let python = format!("python3 -c 'import json,sys; json.load(sys.stdin); print(json.dumps(json.loads(r\"\"\"{ANSWER}\"\"\")))'");
    let node = "node -e 'let s=\"\";process.stdin.on(\"data\",d=>s+=d).on(\"end\",()=>{JSON.parse(s);console.log(JSON.stringify({permissionDecision:\"allow\"}))})'";
    let jq = "bash -c 'e=$(cat); t=$(jq -r .tool_name <<<\"$e\"); c=$(jq -r .tool_input.command <<<\"$e\"); jq -n --arg t \"$t$c\" \"{permissionDecision: \\\"allow\\\"}\"'";
    let mut rows = vec![
        Row { answers: false, ..shell("sh -c ':'", ":".to_owned(), false) },
        shell("beadle-shim hook, through sh -c", format!("{} hook claude", shim.display()), false),
        Row {
            program: shim.display().to_string(),
            args: vec!["hook".into(), "claude".into()],
            ..shell("beadle-shim hook, exec'd directly", String::new(), false)
        },
    ];
    for (needs, row) in [
        (&["python3"][..], shell("python3 hook, no daemon", python, true)),
        (&["node"], shell("node hook, no daemon", node.to_owned(), true)),
        (&["bash", "jq"], shell("bash with three jq, no daemon", jq.to_owned(), true)),
    ] {
        match needs.iter().find(|p| !is_installed(p)) {
            None => rows.push(row),
            Some(missing) => println!("{}: skipped, {missing} is not installed", row.name),
        }
    }
    for round in 0..ROUNDS {
        for row in rows.iter_mut().filter(|r| !r.slow || round < SLOW_ROUNDS) {
            let took = run(row, &socket, &event)?;
            row.took.push(took);
        }
    }
    for row in &mut rows {
        row.took.sort_unstable();
    }
    let p50 = |r: &Row| r.took[r.took.len() / 2].as_secs_f64() * 1e6;
    let (floor, ours) = (p50(&rows[0]), p50(&rows[1]));
    println!("{:<40} {:>9} {:>9} {:>12} {:>8}", "hook, whole process", "p50 us", "p99 us", "x sh -c ':'", "x ours");
    for r in &rows {
        let p99 = r.took[r.took.len() * 99 / 100].as_micros();
        println!("{:<40} {:>9.0} {p99:>9} {:>12.2} {:>8.2}", r.name, p50(r), p50(r) / floor, p50(r) / ours);
    }
    Ok(())
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

fn run(row: &Row, socket: &Path, event: &str) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let mut child =
        Command::new(&row.program).args(&row.args).env("BEADLE_SOCKET", socket).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // The empty shell may be gone before it could be asked.
        let _ = stdin.write_all(event.as_bytes());
    }
    let mut out = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut out)?;
    }
    let status = child.wait()?;
    let took = begin.elapsed();
    anyhow::ensure!(status.success(), "{} failed: {status}", row.name);
    anyhow::ensure!(!row.answers || out.contains("allow"), "{} answered {out:?}", row.name);
    Ok(took)
}

/// Answers every request as soon as its body is there.
fn serve(socket: &Path) -> anyhow::Result<()> {
    let listener = UnixListener::bind(socket)?;
    std::thread::spawn(move || {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{ANSWER}", ANSWER.len());
        let mut buf = [0u8; 16 << 10];
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut n = 0;
            while !buf[..n].ends_with(b"}}") {
                match stream.read(&mut buf[n..]) {
                    Ok(more @ 1..) => n += more,
                    _ => break,
                }
            }
            // A client that went away is measured as the failure it is.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    Ok(())
}
