//! Many live sessions on one host: what they cost, how fast they start, how long a decision takes among them, and that all are adopted.
//! And a soak: sessions come and go for minutes, and memory, descriptors and zombies must stay flat.
//!
//! `cargo build --release && cargo bench -p beadle-benches --bench fleet [-- live 1000 10000 | soak 20]`. The agents are this program itself; each
//! asks a question every two seconds, or after so many milliseconds. What one start and one decision take at least is in the benches `spawn` and `host`.
#![allow(clippy::print_stdout, reason = "a bench reports on stdout")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use beadle_benches::rig::{Asked, Host, at, plays_agent, sorted};
use serde_json::Value;

const LIVE: usize = 1_000;
const MINUTES: u64 = 20;
/// Commands at once.
const HANDS: usize = 4;
/// Between two questions of an agent.
const PAUSE_MS: u64 = 2_000;
const QUESTIONS: usize = 15;
const POLICIES: &str = "[[policy]]\nname = \"rules\"\nplugin = \"rules\"\n[policy.config]\nallow = [\"Bash(git status:*)\", \"Bash(cargo test:*)\"]\n[limits]\nlive_sessions = 2000\n";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if plays_agent(&args)? || args.iter().any(|a| a == "--test") {
        return Ok(());
    }
    let words: Vec<&str> = args.iter().map(String::as_str).filter(|a| !a.starts_with('-')).collect();
    match words[..] {
        [] => {
            live(LIVE, PAUSE_MS)?;
            soak(MINUTES)
        }
        ["live"] => live(LIVE, PAUSE_MS),
        ["live", n] => live(n.parse()?, PAUSE_MS),
        ["live", n, pause_ms] => live(n.parse()?, pause_ms.parse()?),
        ["soak"] => soak(MINUTES),
        ["soak", minutes] => soak(minutes.parse()?),
        _ => anyhow::bail!("live [SESSIONS [PAUSE_MS]] or soak [MINUTES], not {words:?}"),
    }
}

fn live(count: usize, pause_ms: u64) -> Result<()> {
    let host = Host::new(POLICIES)?;
    host.run(&["--json", "ls"])?;
    let pid = daemon(&host)?;
    let before = Process::of(pid)?;
    let go = host.dir.path().join("go");
    let mut askers = Vec::new();
    for n in 0..count {
        askers.push(host.paced(&format!("a{n}"), QUESTIONS, pause_ms, &go)?);
    }
    let begun = Instant::now();
    let ids = each(&askers, |(program, _)| host.start(program))?;
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    println!("{count} sessions: {rate:.0} started a second by {HANDS} hands, each a whole `beadle run --detach`");

    let after = Process::of(pid)?;
    let each_kb = (after.rss_kb.saturating_sub(before.rss_kb)) as f64 / count as f64;
    let shims = sorted(ids.iter().step_by((count / 50).max(1)).filter_map(|id| shim_pss_kb(&host, id)));
    println!("  daemon {} MB before, {} MB with them: {each_kb:.0} KB a session   goal <= 150", before.rss_kb / 1024, after.rss_kb / 1024);
    println!("  a shim has {:.0} KB PSS (median of {})   goal <= 64", at(&shims, 0.5), shims.len());

    let mut took = Vec::new();
    for _ in 0..50 {
        let t = Instant::now();
        host.run(&["-q", "ls"])?;
        took.push(t.elapsed().as_secs_f64() * 1e3);
    }
    let took = sorted(took.into_iter());
    println!("  `beadle ls`, the whole process: {:.1} ms p50, {:.1} ms p99   goal <= 20", at(&took, 0.5), at(&took, 0.99));

    adopted(&host, pid, count)?;
    let pid = daemon(&host)?;
    std::fs::File::create(&go)?;
    let mut times = Vec::new();
    for (_, out) in &askers {
        while !out.exists() {
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    for (_, out) in &askers {
        // why not the first: all begin within one pause.
        times.extend(Asked::read(out)?.answers.into_iter().skip(3).map(|(_, ns)| ns as f64 / 1e6));
    }
    let times = sorted(times.into_iter());
    println!(
        "  a decision among them, {} a second asked for: {:.2} ms p50, {:.2} ms p99 of {}   goal p99 <= 5",
        count as u64 * 1000 / pause_ms,
        at(&times, 0.5),
        at(&times, 0.99),
        times.len()
    );
    println!("  daemon then {} MB, {} descriptors, {} threads", Process::of(pid)?.rss_kb / 1024, after.descriptors, after.threads);
    Ok(())
}

/// The daemon is killed; the next one has all sessions again.
fn adopted(host: &Host, pid: u32, count: usize) -> Result<()> {
    let open = || -> Result<usize> {
        let out = host.command(&["--json", "ls", "--status", "running", "-n", "5000"]).output()?;
        Ok(out.stdout.iter().filter(|b| **b == b'\n').count())
    };
    let were = open()?;
    let raw = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("a pid")?;
    rustix::process::kill_process(raw, rustix::process::Signal::KILL)?;
    while std::path::Path::new(&format!("/proc/{pid}")).exists() {
        std::thread::yield_now();
    }
    let t = Instant::now();
    let status = host
        .run(&["--json", "host", "status"])
        .or_else(|_| host.run(&["--json", "ls"]).and_then(|_| host.run(&["--json", "host", "status"])))?;
    println!(
        "  after kill -9 of the daemon: {} of {were} live sessions adopted (of {count} started) within {:.1} s\n",
        status["recovered"]["adopted_count"],
        t.elapsed().as_secs_f64()
    );
    ensure!(status["recovered"]["adopted_count"].as_u64() == Some(were as u64), "not all were adopted: {status}");
    Ok(())
}

/// Sessions come and go for so long, and what the host holds is looked at every ten seconds.
fn soak(minutes: u64) -> Result<()> {
    let host = Host::new(POLICIES)?;
    host.run(&["--json", "ls"])?;
    let pid = daemon(&host)?;
    let until = Instant::now() + Duration::from_secs(minutes * 60);
    let (done, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut seen: Vec<Process> = Vec::new();
    std::thread::scope(|s| -> Result<()> {
        for hand in 0..HANDS {
            let (host, done, failed) = (&host, &done, &failed);
            s.spawn(move || {
                while Instant::now() < until && !failed.load(Ordering::Relaxed) {
                    match cycle(host, hand) {
                        Ok(()) => done.fetch_add(1, Ordering::Relaxed),
                        Err(e) => {
                            println!("  a session failed: {e:#}");
                            failed.store(true, Ordering::Relaxed);
                            0
                        }
                    };
                }
            });
        }
        while Instant::now() < until && !failed.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_secs(10));
            seen.push(Process::of(pid)?);
        }
        Ok(())
    })?;
    ensure!(!failed.load(Ordering::Relaxed), "a session failed");
    let quarter = |n: usize, f: Look| {
        let part = &seen[seen.len() * n / 4..seen.len() * (n + 1) / 4];
        at(&sorted(part.iter().map(|p| f(p) as f64)), 0.5)
    };
    println!("soak: {} sessions came and went in {minutes} minutes; medians of each quarter", done.load(Ordering::Relaxed));
    let rows: [(&str, Look); 4] =
        [("daemon, KB", |p| p.rss_kb), ("descriptors", |p| p.descriptors), ("threads", |p| p.threads), ("zombies", |p| p.zombies)];
    for (name, f) in rows {
        println!("  {name:<12} {:>9.0} {:>9.0} {:>9.0} {:>9.0}", quarter(0, f), quarter(1, f), quarter(2, f), quarter(3, f));
    }
    // why from the second: the first also fills caches and pools.
    let grew = |f: Look| quarter(3, f) / quarter(1, f).max(1.0);
    ensure!(grew(|p| p.rss_kb) < 1.1 && grew(|p| p.descriptors) < 1.2 && grew(|p| p.threads) < 1.2, "memory, descriptors or threads grow");
    ensure!(quarter(3, |p| p.zombies) <= 2.0, "zombies stay");
    Ok(())
}

/// A session from its start to its removal; every third is killed in its middle.
fn cycle(host: &Host, hand: usize) -> Result<()> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("h{hand}");
    let _ = std::fs::remove_file(host.dir.path().join(format!("{name}.out")));
    let (program, _) = host.asker(&name, if n.is_multiple_of(3) { 1_000_000 } else { 5 })?;
    let id = host.start(&program)?;
    if n.is_multiple_of(3) {
        host.run(&["-q", "kill", &id])?;
    } else {
        host.ended(&id)?;
    }
    host.run(&["-q", "rm", "--force", &id])?;
    Ok(())
}

fn daemon(host: &Host) -> Result<u32> {
    Ok(u32::try_from(host.run(&["--json", "host", "status"])?["pid"].as_u64().context("a pid")?)?)
}

/// Does it for each, so many at once, in order of the list.
fn each<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let size = items.len().div_ceil(HANDS).max(1);
    std::thread::scope(|s| {
        let f = &f;
        let hands: Vec<_> = items.chunks(size).map(|part| s.spawn(move || part.iter().map(f).collect::<Result<Vec<R>>>())).collect();
        let mut all = Vec::new();
        for h in hands {
            all.extend(h.join().map_err(|_| anyhow::anyhow!("a hand broke off"))??);
        }
        Ok(all)
    })
}

fn shim_pss_kb(host: &Host, id: &str) -> Option<f64> {
    let out = host.command(&["--json", "ps", id]).output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let shim = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()).find(|p| p["role"] == "shim")?;
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", shim["pid"])).ok()?;
    rollup.lines().find_map(|l| l.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
}

/// One of the numbers of a process.
type Look = fn(&Process) -> usize;

/// What a process holds now.
struct Process {
    rss_kb: usize,
    descriptors: usize,
    threads: usize,
    /// Ended children that nobody waited for.
    zombies: usize,
}

impl Process {
    fn of(pid: u32) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the daemon is gone")?;
        let field = |name: &str| -> usize {
            let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        let children = std::fs::read_dir("/proc")?.flatten().filter_map(|e| std::fs::read_to_string(e.path().join("stat")).ok());
        let is_zombie = |stat: &String| {
            let mut rest = stat.rsplit(") ").next().unwrap_or_default().split(' ');
            (rest.next(), rest.next().and_then(|p| p.parse().ok())) == (Some("Z"), Some(pid))
        };
        Ok(Self {
            rss_kb: field("VmRSS:"),
            threads: field("Threads:"),
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            zombies: children.filter(is_zombie).count(),
        })
    }
}
