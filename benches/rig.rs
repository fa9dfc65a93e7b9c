//! What benches through the real binary share: a daemon with a folder of its own, and an agent that asks as fast as it is answered.
//!
//! The agent is the bench program itself, started again with `asker`; it speaks the protocol of Claude Code's approval channel.
#![allow(clippy::print_stdout, reason = "a bench reports on stdout")]

use std::fs::OpenOptions;
use std::io::{BufRead, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// Plays the agent where this program was started as one; whether it was.
pub fn plays_agent(args: &[String]) -> Result<bool> {
    let Some([mode, count, out]) = args.get(..3) else { return Ok(false) };
    if mode == "asker" {
        let pause = args.get(3).map_or(Ok(0), |ms| ms.parse())?;
        asker(count.parse()?, Path::new(out), Duration::from_millis(pause), args.get(4).map(Path::new))?;
    }
    Ok(mode == "asker")
}

/// Asks `count` questions, one after the other with a pause between, from when `go` is there; writes when it began and ended, and how long each answer took, in nanoseconds.
fn asker(count: usize, out: &Path, pause: Duration, go: Option<&Path>) -> Result<()> {
    let mut lines = std::io::stdin().lock().lines();
    let mut stdout = std::io::stdout().lock();
    let mut say = |v: Value| -> Result<()> {
        let mut line = v.to_string();
        line.push('\n');
        stdout.write_all(line.as_bytes())?;
        Ok(stdout.flush()?)
    };
    let mut hear = || -> Result<Value> { Ok(serde_json::from_str(&lines.next().context("the host closed the channel")??)?) };
    let hello = hear()?;
    say(json!({"type": "control_response", "response": {"subtype": "success", "request_id": hello["request_id"], "response": {}}}))?;
    hear()?;
    say(json!({"type": "system", "subtype": "init", "session_id": "s", "model": "none", "tools": ["Bash"], "permissionMode": "default"}))?;
    let mut text = String::new();
    while go.is_some_and(|go| !go.exists()) {
        std::thread::sleep(Duration::from_millis(500));
    }
    // why: agents do not ask in step.
    std::thread::sleep(pause.mul_f64(f64::from(std::process::id() % 97) / 97.0));
    let begin = monotonic();
    for n in 0..count {
        let input = json!({"command": "git status --short && cargo test --workspace", "description": "x".repeat(380)});
        let asked = monotonic();
        say(json!({"type": "control_request", "request_id": format!("r{n}"), "request":
            {"subtype": "can_use_tool", "tool_name": "Bash", "input": input, "tool_use_id": format!("t{n}")}}))?;
        let answer = hear()?;
        let now = monotonic();
        ensure!(answer["response"]["response"]["behavior"] == "allow", "not allowed: {answer}");
        text.push_str(&format!("{now} {}\n", now - asked));
        std::thread::sleep(pause);
    }
    std::fs::write(out, format!("{begin} {}\n{text}", monotonic()))?;
    say(json!({"type": "result", "subtype": "success", "is_error": false, "result": "done", "num_turns": 1, "duration_ms": 1,
        "session_id": "s", "usage": {"input_tokens": 0, "output_tokens": 0}}))?;
    while hear().is_ok() {}
    Ok(())
}

/// Nanoseconds of a clock that all processes share.
pub fn monotonic() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0)
}

/// What an asker wrote: begin, end, and for each answer when it came and how long it took.
pub struct Asked {
    pub begin: u64,
    pub end: u64,
    pub answers: Vec<(u64, u64)>,
}

impl Asked {
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{} is missing: the session failed", path.display()))?;
        let mut lines = text.lines().map(|l| -> Result<(u64, u64)> {
            let (a, b) = l.split_once(' ').context("two numbers a line")?;
            Ok((a.parse()?, b.parse()?))
        });
        let (begin, end) = lines.next().context("a first line")??;
        Ok(Self { begin, end, answers: lines.collect::<Result<_>>()? })
    }

    pub fn times(&self) -> Vec<f64> {
        sorted(self.answers.iter().map(|(_, ns)| *ns as f64 / 1e3))
    }
}

/// In order.
pub fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut v: Vec<f64> = values.collect();
    v.sort_by(f64::total_cmp);
    v
}

/// The value at a share of a sorted list.
pub fn at(v: &[f64], q: f64) -> f64 {
    v.get(((v.len().saturating_sub(1)) as f64 * q) as usize).copied().unwrap_or(0.0)
}

/// A host of its own below the folder of the bench.
pub struct Host {
    pub dir: tempfile::TempDir,
    beadle: PathBuf,
}

impl Host {
    pub fn new(policies: &str) -> Result<Self> {
        let exe = std::env::current_exe()?;
        let beadle =
            exe.ancestors().map(|d| d.join("beadle")).find(|p| p.is_file()).context("no `beadle` beside it: cargo build --release")?;
        // Beside the benches' own files: the disk that users have, not a memory file system.
        let dir = tempfile::Builder::new().prefix("bdl").tempdir_in(exe.parent().context("a folder")?)?;
        for d in ["work", "user", "b/config"] {
            std::fs::create_dir_all(dir.path().join(d))?;
        }
        std::fs::write(dir.path().join("b/config/beadle.toml"), policies)?;
        Ok(Self { dir, beadle })
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(&self.beadle);
        c.args(args).current_dir(self.dir.path().join("work")).env_clear();
        c.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.dir.path().join("user"));
        c.env("BEADLE_HOME", self.dir.path().join("b")).env("NO_COLOR", "1").stdin(Stdio::null());
        c
    }

    pub fn run(&self, args: &[&str]) -> Result<Value> {
        let out = self.command(args).output()?;
        ensure!(out.status.success(), "beadle {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(serde_json::from_slice(&out.stdout).unwrap_or(Value::Null))
    }

    /// The daemon's numbers in the Prometheus text form.
    pub fn metrics(&self) -> Result<String> {
        let mut socket = UnixStream::connect(self.dir.path().join("b/run/beadle.sock"))?;
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: beadle\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        ensure!(text.starts_with("HTTP/1.1 200"), "no metrics: {}", text.lines().next().unwrap_or_default());
        Ok(text)
    }

    /// A program that Beadle takes for Claude Code.
    pub fn asker(&self, name: &str, count: usize) -> Result<(String, PathBuf)> {
        use std::os::unix::fs::PermissionsExt;
        let (program, out) = (self.dir.path().join(name), self.dir.path().join(format!("{name}.out")));
        let exe = std::env::current_exe()?;
        std::fs::write(&program, format!("#!/bin/sh\nexec '{}' asker {count} '{}'\n", exe.display(), out.display()))?;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
        Ok((program.display().to_string(), out))
    }

    /// One that begins when the file `go` is there and pauses between its questions.
    pub fn paced(&self, name: &str, count: usize, pause_ms: u64, go: &Path) -> Result<(String, PathBuf)> {
        let (program, out) = self.asker(name, count)?;
        let text = std::fs::read_to_string(&program)?.trim_end().to_owned() + &format!(" {pause_ms} '{}'\n", go.display());
        std::fs::write(&program, text)?;
        Ok((program, out))
    }

    pub fn start(&self, program: &str) -> Result<String> {
        let s = self.run(&["--json", "run", "--agent", "claude", "--program", program, "--detach", "go"])?;
        Ok(s["id"].as_str().context("an id")?.to_owned())
    }

    pub fn ended(&self, id: &str) -> Result<()> {
        let out = self.command(&["-q", "wait", id]).output()?;
        ensure!(out.status.success(), "session {id} failed: {}", String::from_utf8_lossy(&out.stderr));
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Sessions of a bench that failed half way must not go on.
        if let Ok(out) = self.command(&["--json", "ls", "--status", "running"]).output() {
            for l in String::from_utf8_lossy(&out.stdout).lines() {
                let id = serde_json::from_str::<Value>(l).unwrap_or_default()["id"].as_str().unwrap_or_default().to_owned();
                let _ = self.command(&["kill", &id]).output();
            }
        }
        let _ = self.command(&["host", "stop"]).output();
    }
}

/// Appends and flushes as the store must at least, on the same disk: microseconds of each.
pub fn flushes(dir: &Path, count: usize) -> Result<Vec<f64>> {
    let mut f = OpenOptions::new().append(true).create(true).open(dir.join("flush"))?;
    let record = vec![b'a'; 4096];
    let mut took = Vec::new();
    for _ in 0..count {
        let t = Instant::now();
        f.write_all(&record)?;
        f.sync_data()?;
        took.push(t.elapsed().as_nanos() as f64 / 1e3);
    }
    Ok(sorted(took.into_iter()))
}

/// One line of a table: median and 99th percentile.
pub fn row(name: &str, v: &[f64]) {
    println!("{name:<58} {:>9.0} {:>9.0}", at(v, 0.5), at(v, 0.99));
}
