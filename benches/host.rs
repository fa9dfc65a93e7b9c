//! The whole host through the real binary: what an agent waits for, many agents at once, a cold start, `ls`, and Claude Code's added time.
//!
//! `cargo build --release && cargo bench -p beadle-benches --bench host [-- gate many cold ls claude]`. The agent is this program itself: it
//! speaks the protocol of Claude Code's approval channel and asks as fast as it is answered. Peers of the same run: a flush of the same
//! disk, a bare peer that answers the same questions over the same kind of socket, and for Claude Code the same answered at once.
#![allow(clippy::print_stdout, reason = "a bench reports on stdout")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use beadle::gateway::{Options, Script, Server};
use beadle_benches::rig::{Asked, Host, at, flushes, monotonic, plays_agent, row, sorted};
use serde_json::{Value, json};

const QUESTIONS: usize = 2_000;
const SESSIONS: usize = 64;
const QUESTIONS_EACH: usize = 400;
const CLAUDE_CALLS: usize = 60;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if plays_agent(&args)? {
        return Ok(());
    }
    // `cargo test --benches` only wants to know that it starts.
    if args.iter().any(|a| a == "--test") {
        return Ok(());
    }
    let chosen = |part: &str| !args.iter().any(|a| !a.starts_with('-')) || args.iter().any(|a| a == part);
    if chosen("gate") {
        gate()?;
    }
    if chosen("many") {
        many()?;
    }
    if chosen("cold") {
        cold()?;
    }
    if chosen("ls") {
        listing()?;
    }
    if chosen("claude") {
        claude()?;
    }
    Ok(())
}

const POLICIES: &str = r#"
[[policy]]
name = "rules"
plugin = "rules"
[policy.config]
allow = ["Bash(git status:*)", "Bash(cargo test:*)", "Read(./**)"]
deny = ["Bash(git push:*)", "Bash(rm:*)"]
[[policy]]
name = "second"
plugin = "rules"
[policy.config]
deny = ["Bash(sudo:*)", "Bash(curl:*)"]
[[policy]]
name = "hello"
plugin = "hello"
"#;

/// The same agent answered at once by a thread of this process: what the channel itself costs.
fn bare(dir: &Path) -> Result<Asked> {
    let (ours, theirs) = UnixStream::pair()?;
    let out = dir.join("bare.out");
    let stdio = || -> Result<Stdio> { Ok(std::os::fd::OwnedFd::from(theirs.try_clone()?).into()) };
    let mut child = Command::new(std::env::current_exe()?)
        .args(["asker", &QUESTIONS.to_string()])
        .arg(&out)
        .stdin(stdio()?)
        .stdout(stdio()?)
        .spawn()?;
    drop(theirs);
    answer_all(BufReader::new(ours.try_clone()?), ours)?;
    child.wait()?;
    Asked::read(&out)
}

/// Says hello, gives a prompt, and allows whatever is asked until the agent's result.
fn answer_all(lines: impl BufRead, mut to: impl Write) -> Result<Value> {
    let mut say = |v: Value| -> Result<()> { Ok(to.write_all(format!("{v}\n").as_bytes())?) };
    say(json!({"type": "control_request", "request_id": "init", "request": {"subtype": "initialize"}}))?;
    say(
        json!({"type": "user", "message": {"role": "user", "content": [{"type": "text", "text": "go"}]}, "parent_tool_use_id": null, "session_id": ""}),
    )?;
    for line in lines.lines() {
        let v: Value = serde_json::from_str(&line?)?;
        match v["type"].as_str() {
            Some("control_request") => {
                say(json!({"type": "control_response", "response": {"subtype": "success", "request_id": v["request_id"],
                "response": {"behavior": "allow", "updatedInput": v["request"]["input"]}}}))?
            }
            Some("result") => return Ok(v),
            _ => {}
        }
    }
    anyhow::bail!("the agent ended without a result")
}

// ---- the rows ----

fn gate() -> Result<()> {
    let host = Host::new(POLICIES)?;
    let flush = flushes(host.dir.path(), 500)?;
    let bare = bare(host.dir.path())?.times();
    let (program, out) = host.asker("one", QUESTIONS)?;
    let id = host.start(&program)?;
    host.ended(&id)?;
    let ours = Asked::read(&out)?.times();
    println!("{:<58} {:>9} {:>9}", "a question of an agent, 3 policies, durable", "p50 us", "p99 us");
    row("append + fdatasync, 4 KiB", &flush);
    row("the same agent answered at once by a bare peer", &bare);
    row("the host: from question to answer, in the agent", &ours);
    println!("the host's share above one flush: {:.0} us at p50   goal <= 100", at(&ours, 0.5) - at(&flush, 0.5));
    let metrics = host.metrics()?;
    let mean = |name: &str| {
        let value = |suffix: &str| {
            let line = metrics.lines().filter_map(|l| l.strip_prefix("beadle_")?.strip_prefix(name)?.strip_prefix(suffix));
            line.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
        };
        value("_seconds_sum") * 1e6 / value("_seconds_count").max(1.0)
    };
    println!(
        "means by the daemon's own clock: {:.0} us from reading the line until the answer is handed to the agent, of which {:.0} us append\n",
        mean("gate"),
        mean("append")
    );
    Ok(())
}

fn many() -> Result<()> {
    let host = Host::new(POLICIES)?;
    host.run(&["--json", "ls"])?;
    // All wait for the last one: the first question is asked when the gate file is there.
    let mut all = Vec::new();
    for n in 0..SESSIONS {
        let (program, out) = host.asker(&format!("a{n}"), QUESTIONS_EACH)?;
        let script = std::fs::read_to_string(&program)?;
        let go = host.dir.path().join("go").display().to_string();
        std::fs::write(&program, script.replace("exec ", &format!("while [ ! -e '{go}' ]; do sleep 0.05; done\nexec ")))?;
        all.push((host.start(&program)?, out));
    }
    File::create(host.dir.path().join("go"))?;
    let (mut begin, mut end, mut times) = (u64::MAX, 0, Vec::new());
    for (id, out) in &all {
        host.ended(id)?;
        let asked = Asked::read(out)?;
        (begin, end) = (begin.min(asked.begin), end.max(asked.end));
        times.extend(asked.times());
    }
    let rate = times.len() as f64 / ((end - begin) as f64 / 1e9);
    let times = sorted(times.into_iter());
    println!("{SESSIONS} sessions at once: {rate:.0} decisions a second acknowledged and answered   goal >= 20000");
    println!(
        "  an answer takes p50 {:.1} ms, p99 {:.1} ms; the {SESSIONS} agents run on the same cores\n",
        at(&times, 0.5) / 1e3,
        at(&times, 0.99) / 1e3
    );
    Ok(())
}

fn cold() -> Result<()> {
    let ten: String = (0..10)
        .map(|n| format!("[[policy]]\nname = \"p{n}\"\nplugin = \"rules\"\n[policy.config]\nallow = [\"Bash(git status:*)\", \"Bash(cargo test:*)\"]\ndeny = [\"Bash(no{n}:*)\"]\n"))
        .collect();
    let host = Host::new(&ten)?;
    let mut took = Vec::new();
    for n in 0..9 {
        let (program, out) = host.asker(&format!("c{n}"), 200_000)?;
        let id = host.start(&program)?;
        let pid = host.run(&["--json", "host", "status"])?["pid"].as_i64().context("a pid")?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("a pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        while std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).is_ok_and(|s| !s.contains(") Z ")) {
            std::thread::yield_now();
        }
        let started = monotonic();
        let mut daemon = host.command(&["daemon"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        // The waiting agent is answered by the new daemon: its next answer is the first decision.
        let log = host.dir.path().join(format!("c{n}.out"));
        let answered = first_answer_after(&host, &id, started)?;
        took.push((answered - started) as f64 / 1e6);
        host.run(&["kill", &id])?;
        host.run(&["host", "stop"])?;
        reap(&mut daemon)?;
        ensure!(!log.exists() || out == log, "one asker a round");
    }
    let took = sorted(took.into_iter());
    println!(
        "daemon cold start, 10 cached plugins, a live session adopted, to its first durable decision: {:.0} ms p50, {:.0} ms worst   goal <= 60\n",
        at(&took, 0.5),
        at(&took, 1.0)
    );
    Ok(())
}

/// Wall time of the first decision after `since`, on the clock of `monotonic`, from the log.
fn first_answer_after(host: &Host, id: &str, since: u64) -> Result<u64> {
    let wall = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map(|d| d.as_nanos() as u64);
    let offset = wall()?.wrapping_sub(monotonic());
    loop {
        let out = host.command(&["--json", "events", id, "--tail", "400"]).output()?;
        let first = String::from_utf8_lossy(&out.stdout)
            .lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).ok())
            .filter(|e| e["kind"] == "tool_decided")
            .filter_map(|e| chrono_ns(e["at"].as_str()?))
            .map(|at| at.wrapping_sub(offset))
            .find(|at| *at > since);
        if let Some(at) = first {
            return Ok(at);
        }
    }
}

/// Nanoseconds since 1970 of an RFC 3339 time in UTC with milliseconds.
fn chrono_ns(text: &str) -> Option<u64> {
    let t = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    u64::try_from(t.timestamp_nanos_opt()?).ok()
}

fn reap(child: &mut Child) -> Result<()> {
    child.wait()?;
    Ok(())
}

fn listing() -> Result<()> {
    let host = Host::new(POLICIES)?;
    let store = beadle::store::Store::open(&host.dir.path().join("b/data"), beadle::store::Options::default())?;
    for i in 0..20 {
        let tickets: Vec<_> =
            (0..500).map(|n| beadle_benches::created(&format!("s-{i}-{n}")).map(|b| store.append(b))).collect::<serde_json::Result<_>>()?;
        tickets.into_iter().try_for_each(|t| t.wait().map(drop))?;
    }
    store.close();
    drop(store);
    host.run(&["--json", "ls"])?;
    let time = |args: &[&str]| -> Result<Vec<f64>> {
        let mut took = Vec::new();
        for _ in 0..60 {
            let t = Instant::now();
            let out = host.command(args).output()?;
            took.push(t.elapsed().as_nanos() as f64 / 1e3);
            ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        }
        Ok(sorted(took.into_iter()))
    };
    println!("{:<58} {:>9} {:>9}", "whole processes, warm daemon, 10,000 sessions", "p50 us", "p99 us");
    row("beadle --version", &time(&["--version"])?);
    let ls = time(&["ls"])?;
    row("beadle ls (newest 50)", &ls);
    println!("goal <= 20000 us\n");
    Ok(())
}

fn claude() -> Result<()> {
    let program = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/agents/node_modules/.bin/claude"));
    if !program.exists() {
        println!("claude: skipped, npm install --prefix target/agents @anthropic-ai/claude-code@2.1.197");
        return Ok(());
    }
    let program = program.canonicalize()?.display().to_string();
    let host = Host::new("[[policy]]\nname = \"rules\"\nplugin = \"rules\"\n[policy.config]\nallow = [\"Read(./**)\"]\n")?;
    let file = host.dir.path().join("work/a.txt");
    std::fs::write(&file, "a\n")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let play = |calls: usize, ours: bool| -> Result<Duration> {
        let mut steps = vec![json!({"tool": "Read", "input": {"file_path": file}}); calls];
        steps.push(json!({"text": "done"}));
        let script = Script::parse(&json!({ "steps": steps }).to_string()).map_err(|e| anyhow::anyhow!("{e}"))?;
        let model = runtime.block_on(Server::start(script, Options::default()))?;
        let environment = |c: &mut Command| {
            c.env("ANTHROPIC_BASE_URL", model.url()).env("ANTHROPIC_API_KEY", "x").env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1");
            c.env("CLAUDE_CONFIG_DIR", host.dir.path().join("user/claude"));
        };
        let begin = Instant::now();
        if ours {
            let mut c = host.command(&["-q", "run", "--agent", "claude", "--program", &program, "go"]);
            environment(&mut c);
            let out = c.stdout(Stdio::null()).output()?;
            ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        } else {
            let (mine, theirs) = UnixStream::pair()?;
            let stdio = || -> Result<Stdio> { Ok(std::os::fd::OwnedFd::from(theirs.try_clone()?).into()) };
            let mut c = Command::new(&program);
            c.args(["-p", "--input-format=stream-json", "--output-format=stream-json", "--include-partial-messages", "--verbose"]);
            c.args(["--permission-prompt-tool=stdio", "--setting-sources=", "--strict-mcp-config"]);
            c.arg(r#"--settings={"permissions":{"ask":["*"]},"disableAllHooks":true,"includeGitInstructions":false}"#);
            c.current_dir(host.dir.path().join("work")).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
            c.env("HOME", host.dir.path().join("user")).stdin(stdio()?).stdout(stdio()?).stderr(Stdio::null());
            environment(&mut c);
            let mut child = c.spawn()?;
            drop((theirs, c));
            answer_all(BufReader::new(mine.try_clone()?), &mine)?;
            mine.shutdown(std::net::Shutdown::Write)?;
            let mut rest = Vec::new();
            (&mine).read_to_end(&mut rest)?;
            child.wait()?;
        }
        Ok(begin.elapsed())
    };
    play(1, true)?;
    let per_call = |ours: bool| -> Result<f64> {
        let (short, long) = (play(1, ours)?, play(CLAUDE_CALLS + 1, ours)?);
        Ok((long.as_secs_f64() - short.as_secs_f64()) * 1e3 / CLAUDE_CALLS as f64)
    };
    let (mut bare, mut ours) = (vec![], vec![]);
    for _ in 0..7 {
        bare.push(per_call(false)?);
        ours.push(per_call(true)?);
    }
    // Pairs measured one after the other: what the machine does beside them hits both alike.
    let added = sorted(ours.iter().zip(&bare).map(|(o, b)| o - b));
    let (bare, ours) = (sorted(bare.into_iter()), sorted(ours.into_iter()));
    let flush = at(&flushes(host.dir.path(), 300)?, 0.5) / 1e3;
    println!(
        "Claude Code, a turn with one Read: {:.2} ms answered at once over its approval channel, {:.2} ms through the host",
        at(&bare, 0.5),
        at(&ours, 0.5)
    );
    let (low, added, high) = (at(&added, 0.25), at(&added, 0.5), at(&added, 0.75));
    println!("added: {added:.2} ms a call (quartiles {low:.2} to {high:.2}), one flush is {flush:.2} ms   goal <= 1 ms + one flush");
    Ok(())
}
