//! Start of an agent: a bare posix_spawn with the same files against a shim; flatness in the daemon's size; memory of idle shims.
//!
//! `cargo bench -p beadle-benches --bench spawn`. All rows are measured in turn in one run, so their ratios hold on any machine. *Running* means
//! that the agent (`sh`) has written its first byte to a FIFO.
#![allow(clippy::print_stdout, reason = "a bench reports on stdout")]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use beadle::process::{LaunchSpec, Shim, ShimEvent, ShimHandle};

const ROUNDS: usize = 100;
const IDLE_SHIMS: usize = 100;
const BALLAST: usize = 500 << 20;

struct Bench {
    dir: tempfile::TempDir,
    shim: std::path::PathBuf,
    /// Times at which agents said that they run.
    running: std::sync::mpsc::Receiver<Instant>,
    script: String,
    runtime: tokio::runtime::Runtime,
    count: usize,
}

fn main() -> anyhow::Result<()> {
    // `cargo test --benches` only wants to know that it starts.
    if std::env::args().any(|a| a == "--test") {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let shim = beadle::process::install(dir.path())?;
    let path = dir.path().join("fifo");
    anyhow::ensure!(Command::new("mkfifo").arg(&path).status()?.success(), "mkfifo failed");
    // Open for both, so that neither side waits for the other to come.
    let mut fifo = OpenOptions::new().read(true).write(true).open(&path)?;
    let (said, running) = std::sync::mpsc::channel();
    std::thread::spawn(move || while fifo.read_exact(&mut [0u8; 1]).is_ok() && said.send(Instant::now()).is_ok() {});
    let script = format!("echo > {}; read x", path.display());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut b = Bench { dir, shim, running, script, runtime, count: 0 };
    let tmux = Tmux::start(b.dir.path());

    let (mut bare, mut shimmed, mut returned, mut tmuxed) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        bare.push(b.bare()?);
        let (running, back) = b.shimmed()?;
        shimmed.push(running);
        returned.push(back);
        if let Some(t) = &tmux {
            tmuxed.push(b.tmux(t)?);
        }
    }
    let ballast = vec![1u8; BALLAST];
    let (mut big_bare, mut big_shimmed) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        big_bare.push(b.bare()?);
        big_shimmed.push(b.shimmed()?.0);
    }
    std::hint::black_box(&ballast);
    drop(ballast);

    let base = median(&mut bare);
    println!("{:<52} {:>8} {:>8} {:>8} {:>8}", "start of an agent", "p10 us", "p50 us", "p99 us", "x bare");
    let row = |name: &str, v: &mut Vec<Duration>, base: Duration| {
        let m = median(v);
        let p10 = v[v.len() / 10].as_micros();
        println!(
            "{name:<52} {p10:>8} {:>8} {:>8} {:>8.2}",
            m.as_micros(),
            v[v.len() * 99 / 100].as_micros(),
            m.as_secs_f64() / base.as_secs_f64()
        );
    };
    row("bare posix_spawn, output to files: running", &mut bare, base);
    row("shim: running", &mut shimmed, base);
    row("shim: launch() returned", &mut returned, base);
    let big = median(&mut big_bare);
    row("bare, parent with 500 MB more: running", &mut big_bare, base);
    row("shim, parent with 500 MB more: running (x that bare)", &mut big_shimmed, big);
    match tmux {
        Some(_) => row("tmux new-session -d, server running: running", &mut tmuxed, base),
        None => println!("tmux is not installed: skipped"),
    }
    b.idle()
}

fn posix_spawn(script: &str, stdio: [RawFd; 3]) -> anyhow::Result<libc::pid_t> {
    let script = CString::new(script)?;
    let argv = [c"sh".as_ptr().cast_mut(), c"-c".as_ptr().cast_mut(), script.as_ptr().cast_mut(), std::ptr::null_mut()];
    let env = [std::ptr::null_mut()];
    let mut pid = 0;
    // SAFETY: attributes and actions are initialised before use and destroyed after; all pointers outlive the calls.
    let failed = unsafe {
        let mut actions: libc::posix_spawn_file_actions_t = std::mem::zeroed();
        let mut attr: libc::posix_spawnattr_t = std::mem::zeroed();
        libc::posix_spawn_file_actions_init(&mut actions);
        libc::posix_spawnattr_init(&mut attr);
        libc::posix_spawnattr_setflags(&mut attr, libc::POSIX_SPAWN_SETSID as libc::c_short);
        for (number, fd) in (0..).zip(stdio) {
            libc::posix_spawn_file_actions_adddup2(&mut actions, fd, number);
        }
        let r = libc::posix_spawn(&mut pid, c"/bin/sh".as_ptr(), &actions, &attr, argv.as_ptr(), env.as_ptr());
        libc::posix_spawnattr_destroy(&mut attr);
        libc::posix_spawn_file_actions_destroy(&mut actions);
        r
    };
    anyhow::ensure!(failed == 0, "posix_spawn failed: {}", std::io::Error::from_raw_os_error(failed));
    Ok(pid)
}

fn median(v: &mut [Duration]) -> Duration {
    v.sort_unstable();
    v[v.len() / 2]
}

impl Bench {
    fn fresh(&mut self) -> std::path::PathBuf {
        self.count += 1;
        self.dir.path().join(self.count.to_string())
    }

    fn running(&self) -> anyhow::Result<Instant> {
        Ok(self.running.recv_timeout(Duration::from_secs(20))?)
    }

    /// posix_spawn into a session of its own, as a detached agent needs it. (On a busy machine the kernel gives each session its
    /// own share of the processors, so rows with and without one cannot be compared.)
    fn bare(&mut self) -> anyhow::Result<Duration> {
        let run = self.fresh();
        let begin = Instant::now();
        std::fs::create_dir(&run)?;
        let (out, err) = (File::create(run.join("out"))?, File::create(run.join("err"))?);
        let (stdin, other_end) = std::os::unix::net::UnixStream::pair()?;
        let pid = posix_spawn(&self.script, [stdin.as_raw_fd(), out.as_raw_fd(), err.as_raw_fd()])?;
        drop(stdin);
        let took = self.running()? - begin;
        drop(other_end);
        // SAFETY: plain call; the child is ours.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        Ok(took)
    }

    fn spec(&mut self, script: &str) -> LaunchSpec {
        let mut spec = LaunchSpec::new(self.fresh(), format!("bench-{}", self.count), "/bin/sh", self.dir.path());
        spec.args = vec!["-c".into(), script.into()];
        spec
    }

    fn shimmed(&mut self) -> anyhow::Result<(Duration, Duration)> {
        let script = self.script.clone();
        let spec = self.spec(&script);
        let begin = Instant::now();
        let launched = self.runtime.block_on(Shim::launch(&self.shim, &spec));
        let returned = begin.elapsed();
        let (handle, mut events) = launched?;
        let took = self.running()? - begin;
        self.runtime.block_on(async {
            handle.close_input(1).await?;
            while !matches!(events.recv().await, None | Some(ShimEvent::Exited(_))) {}
            handle.ack_exit().await?;
            anyhow::Ok(())
        })?;
        Ok((took, returned))
    }

    fn tmux(&mut self, tmux: &Tmux) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        let script = self.script.replace("; read x", "");
        anyhow::ensure!(tmux.command().args(["new-session", "-d", "/bin/sh", "-c", &script]).status()?.success(), "tmux failed");
        Ok(self.running()? - begin)
    }

    /// Proportional memory of idle shims, each with a waiting agent.
    fn idle(&mut self) -> anyhow::Result<()> {
        let mut handles: Vec<ShimHandle> = Vec::new();
        let mut kept = Vec::new();
        for _ in 0..IDLE_SHIMS {
            let spec = self.spec("read x");
            let (handle, events) = self.runtime.block_on(Shim::launch(&self.shim, &spec))?;
            handles.push(handle);
            kept.push(events);
        }
        std::thread::sleep(Duration::from_millis(500));
        let mut pss: Vec<u64> = Vec::new();
        for h in &handles {
            let all = self.runtime.block_on(h.processes())?;
            pss.extend(all.iter().filter(|p| p.id == h.shim()).filter_map(|p| p.pss_kb));
        }
        pss.sort_unstable();
        match pss.get(pss.len() / 2) {
            Some(m) => println!("{IDLE_SHIMS} idle shims: median PSS {m} KB, largest {} KB", pss[pss.len() - 1]),
            None => println!("memory of idle shims: skipped, only root may look at them"),
        }
        for h in &handles {
            self.runtime.block_on(h.kill())?;
        }
        for events in &mut kept {
            self.runtime.block_on(async { while !matches!(events.recv().await, None | Some(ShimEvent::Exited(_))) {} });
        }
        Ok(())
    }
}

/// A tmux server of our own, ended with this value.
struct Tmux {
    socket: std::path::PathBuf,
}

impl Tmux {
    fn start(dir: &Path) -> Option<Self> {
        let t = Self { socket: dir.join("tmux") };
        t.command().args(["new-session", "-d", "sleep", "1000"]).status().ok()?.success().then_some(t)
    }

    fn command(&self) -> Command {
        let mut c = Command::new("tmux");
        c.arg("-f").arg("/dev/null").arg("-S").arg(&self.socket).stdin(Stdio::null()).stderr(Stdio::null());
        c
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        // A server that is gone already needs no end.
        let _ = self.command().arg("kill-server").status();
    }
}
