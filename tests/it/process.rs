//! Shims and agents as real processes: launch, input, output, stop, adoption, loss, confinement, hook client.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use beadle::process::{
    Adopted, EndedBy, ExitRecord, Inbox, LaunchSpec, Peer, Shim, ShimEvent, ShimEvents, ShimHandle, Stream, descends_from, identify,
    kill_leftovers, read_exit, read_log, read_tail,
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// The shim under test: a file given by the build, else the one that the executable carries.
fn shim_bin() -> PathBuf {
    static SHIM: OnceLock<(Option<TempDir>, PathBuf)> = OnceLock::new();
    let (_, path) = SHIM.get_or_init(|| match std::env::var_os("BEADLE_TEST_SHIM") {
        Some(path) => (None, path.into()),
        None => {
            let dir = TempDir::new().unwrap();
            let path = beadle::process::install(dir.path()).unwrap();
            (Some(dir), path)
        }
    });
    path.clone()
}

/// A folder for one run, and the end of everything in it.
struct Run {
    dir: TempDir,
    marker: String,
}

impl Run {
    fn new(name: &str) -> Self {
        Self { dir: TempDir::new().unwrap(), marker: format!("test-{name}-{}", std::process::id()) }
    }

    fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `sh -c script` in the test's folder.
    fn sh(&self, script: &str) -> LaunchSpec {
        let mut spec = LaunchSpec::new(self.run_dir(), &self.marker, "sh", self.dir.path());
        spec.args = vec!["-c".into(), script.into()];
        spec.env = vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())];
        spec
    }

    async fn launch(&self, spec: &LaunchSpec) -> (ShimHandle, ShimEvents) {
        Shim::launch(&shim_bin(), spec).await.unwrap()
    }

    async fn adopt(&self) -> Adopted {
        Shim::adopt(&self.run_dir(), &self.marker).await.unwrap()
    }

    async fn output(&self, spec: &LaunchSpec) -> String {
        let (handle, mut events) = self.launch(spec).await;
        exited(&mut events).await;
        handle.ack_exit().await.unwrap();
        String::from_utf8(read_log(&self.run_dir(), Stream::Out, 0, 1 << 20).unwrap().bytes).unwrap()
    }

    /// Processes that carry the marker and are not dead.
    fn marked(&self) -> Vec<u32> {
        let entry = format!("BEADLE_SESSION={}", self.marker).into_bytes();
        let pids = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|env| env.split(|b| *b == 0).any(|e| e == entry)))
            .collect()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        kill_leftovers(&self.marker);
    }
}

async fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    let mut tick = tokio::time::interval(Duration::from_millis(3));
    while !ready() {
        assert!(Instant::now() < give_up, "waited in vain for {what}");
        tick.tick().await;
    }
}

async fn event(events: &mut ShimEvents, what: &str, wanted: impl Fn(&ShimEvent) -> bool) -> ShimEvent {
    let wait = async {
        loop {
            match events.recv().await {
                Some(e) if wanted(&e) => return e,
                Some(_) => {}
                None => panic!("disconnected before {what}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

async fn exited(events: &mut ShimEvents) -> ExitRecord {
    match event(events, "the exit", |e| matches!(e, ShimEvent::Exited(_))).await {
        ShimEvent::Exited(record) => record,
        other => panic!("{other:?}"),
    }
}

async fn taken(events: &mut ShimEvents, no: u64) {
    event(events, "taken", |e| *e == ShimEvent::Taken(no)).await;
}

fn lines(run: &Run) -> Vec<String> {
    let mut inbox = Inbox::open(&run.run_dir(), 0);
    std::iter::from_fn(|| inbox.next_line().unwrap()).map(|l| String::from_utf8(l.bytes).unwrap()).collect()
}

fn is_gone(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| s.contains(") Z ") || s.contains(") X "))
}

#[tokio::test]
async fn exit_code_usage_and_end_time_are_learnt() {
    let run = Run::new("exit");
    let before = wall_ms();
    let (handle, mut events) = run.launch(&run.sh("i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; exit 7")).await;
    let record = exited(&mut events).await;
    assert_eq!((record.code, record.signal, record.ended_by, record.left), (Some(7), None, EndedBy::Itself, 0));
    assert!(record.user_us > 0 && record.max_rss_kb > 0, "{record:?}");
    assert!((before..=wall_ms()).contains(&record.ended_wall_ms), "{record:?}");
    assert!(record.ended_boot_ms >= record.started_boot_ms);
    assert_eq!(record.agent, handle.agent());
    assert_eq!(read_exit(&run.run_dir()).unwrap(), Some(record));
    handle.ack_exit().await.unwrap();
    event(&mut events, "the end", |e| *e == ShimEvent::Disconnected).await;
    assert_eq!(events.recv().await, None);
    until("the shim to be waited for", || identify(handle.shim().pid) != Some(handle.shim())).await;
    assert!(matches!(run.adopt().await, Adopted::Ended(r) if r == record));
}

fn wall_ms() -> i64 {
    i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

#[tokio::test]
async fn the_ending_signal_is_learnt() {
    let run = Run::new("signal");
    let (_handle, mut events) = run.launch(&run.sh("kill -SEGV $$")).await;
    let record = exited(&mut events).await;
    assert_eq!((record.code, record.signal, record.ended_by), (None, Some(11), EndedBy::Itself));
}

#[tokio::test]
async fn what_cannot_be_started_is_said_clearly() {
    let run = Run::new("launch-errors");
    let file = |name: &str, text: &str, mode: u32| {
        let path = run.file(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let plain = file("plain", "#!/bin/sh\n", 0o600);
    let no_format = file("no-format", "just text", 0o700);
    let no_interpreter = file("no-interpreter", "#!/no/such/interpreter\n", 0o700);
    let cases: [(&str, PathBuf, PathBuf, &str); 8] = [
        ("name", "no-such-program-at-all".into(), run.dir.path().into(), "BDL-PROCESS-001"),
        ("path", "/no/such/program".into(), run.dir.path().into(), "BDL-PROCESS-001"),
        ("plain", plain.clone(), run.dir.path().into(), "BDL-PROCESS-002"),
        ("folder", run.dir.path().into(), run.dir.path().into(), "BDL-PROCESS-002"),
        ("format", no_format, run.dir.path().into(), "BDL-PROCESS-002"),
        ("interpreter", no_interpreter, run.dir.path().into(), "BDL-PROCESS-002"),
        ("no cwd", "sh".into(), "/no/such/folder".into(), "BDL-PROCESS-003"),
        ("file as cwd", "sh".into(), plain, "BDL-PROCESS-003"),
    ];
    for (name, program, cwd, code) in cases {
        let mut spec = run.sh("true");
        spec.run_dir = run.file(&format!("run-{name}"));
        spec.program = program.clone();
        spec.cwd = cwd.clone();
        let e = Shim::launch(&shim_bin(), &spec).await.unwrap_err();
        assert_eq!(e.code(), code, "{name}: {e}");
        let shown = if code == "BDL-PROCESS-003" { cwd } else { program };
        assert!(e.to_string().contains(shown.to_str().unwrap()), "{name}: {e}");
    }
    let mut spec = run.sh("true");
    spec.args.push(OsString::from("a\0b"));
    assert_eq!(Shim::launch(&shim_bin(), &spec).await.unwrap_err().code(), "BDL-PROCESS-007");
    assert_eq!(Shim::launch(Path::new("/no/shim"), &run.sh("true")).await.unwrap_err().code(), "BDL-PROCESS-005");
    run.output(&run.sh("true")).await;
    assert_eq!(Shim::launch(&shim_bin(), &run.sh("true")).await.unwrap_err().code(), "BDL-PROCESS-008");
    let mut spec = run.sh("true");
    spec.run_dir = "/no/such/parent/run".into();
    assert_eq!(Shim::launch(&shim_bin(), &spec).await.unwrap_err().code(), "BDL-PROCESS-009");
}

#[tokio::test]
async fn the_agent_gets_its_environment_umask_folder_and_marker() {
    let run = Run::new("env");
    let mut spec = run
        .sh("umask; pwd -P; echo \"$A-$BEADLE_SESSION-$HOME\"; [ \"$(ulimit -c)\" = 0 ] && echo no-core; ls /proc/self/fd | tr '\\n' ' '");
    spec.env.push(("A".into(), "one two".into()));
    spec.env.push(("BEADLE_SESSION".into(), "forged".into()));
    // Larger than a socket's buffer, so that it goes in parts; the kernel allows 128 KiB in one string.
    spec.env.extend((0..10).map(|i| (format!("BIG_{i}").into(), "x".repeat(100_000).into())));
    spec.umask = 0o027;
    spec.keep_stdin = false;
    let cwd = run.dir.path().canonicalize().unwrap();
    // `ls` itself has the folder open as 3.
    assert_eq!(run.output(&spec).await, format!("0027\n{}\none two-{}-\nno-core\n0 1 2 3 ", cwd.display(), run.marker));
}

#[tokio::test]
async fn a_stop_ends_descendants_in_other_groups_and_sessions() {
    let run = Run::new("tree");
    let script = "setsid sh -c 'sleep 1000 & sleep 1000' & ( (setsid sleep 1000 &) & ) ; env -i \"$(command -v setsid)\" \"$(command -v sleep)\" 1000 & wait";
    let (handle, mut events) = run.launch(&run.sh(script)).await;
    let mut family = Vec::new();
    let give_up = Instant::now() + PATIENCE;
    while family.iter().filter(|p: &&beadle::process::ProcessInfo| p.comm == "sleep").count() < 4 {
        assert!(Instant::now() < give_up, "{family:#?}");
        family = handle.processes().await.unwrap();
    }
    assert!(family.iter().any(|p| p.id == handle.shim()) && family.iter().any(|p| p.id == handle.agent() && p.rss_kb > 0));
    handle.stop(Duration::from_millis(500)).await.unwrap();
    let record = exited(&mut events).await;
    assert_eq!((record.ended_by, record.left), (EndedBy::Stop, 0));
    for p in family.iter().filter(|p| p.id != handle.shim()) {
        assert!(is_gone(p.id.pid), "{p:?} is left");
    }
    assert_eq!(run.marked(), Vec::<u32>::new());
}

#[tokio::test]
async fn a_tree_that_ignores_term_is_killed_after_the_grace() {
    let run = Run::new("stubborn");
    let script = "trap '' TERM; sh -c 'trap \"\" TERM; echo up; while :; do sleep 1000; done' & while :; do sleep 1000; done";
    let (handle, mut events) = run.launch(&run.sh(script)).await;
    until("the trap", || lines(&run).contains(&"up".to_owned())).await;
    let begin = Instant::now();
    handle.stop(Duration::from_millis(150)).await.unwrap();
    let record = exited(&mut events).await;
    assert_eq!((record.signal, record.ended_by, record.left), (Some(9), EndedBy::Stop, 0));
    assert!(begin.elapsed() >= Duration::from_millis(150));
    assert_eq!(run.marked(), Vec::<u32>::new());
}

#[tokio::test]
async fn an_agent_that_obeys_has_its_grace_and_keeps_its_code() {
    let run = Run::new("polite");
    let (handle, mut events) = run.launch(&run.sh("trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.02; done")).await;
    until("the trap", || lines(&run).contains(&"up".to_owned())).await;
    let begin = Instant::now();
    handle.stop(Duration::from_secs(600)).await.unwrap();
    let record = exited(&mut events).await;
    assert_eq!((record.code, record.ended_by), (Some(3), EndedBy::Stop));
    assert!(begin.elapsed() < PATIENCE);
    assert_eq!(lines(&run), ["up", "bye"]);
}

#[tokio::test]
async fn a_kill_has_no_grace() {
    let run = Run::new("kill");
    let (handle, mut events) = run.launch(&run.sh("trap '' TERM; sleep 1000")).await;
    handle.kill().await.unwrap();
    let record = exited(&mut events).await;
    assert_eq!((record.signal, record.ended_by, record.left), (Some(9), EndedBy::Kill, 0));
}

#[tokio::test]
async fn descendants_that_hold_the_output_do_not_hold_up_the_end() {
    let run = Run::new("holder");
    let (_handle, mut events) = run.launch(&run.sh("sleep 1000 & echo done; exit 4")).await;
    let record = exited(&mut events).await;
    assert_eq!((record.code, record.left, record.out_bytes), (Some(4), 0, 5));
    assert_eq!(run.marked(), Vec::<u32>::new());
}

#[tokio::test]
async fn a_tree_is_left_alone_when_that_is_asked_for() {
    let run = Run::new("keep");
    let mut spec = run.sh("setsid sleep 1000 >/dev/null 2>&1 & exit 0");
    spec.keep_tree = true;
    let (handle, mut events) = run.launch(&spec).await;
    let record = exited(&mut events).await;
    assert_eq!((record.code, record.left), (Some(0), 1));
    handle.ack_exit().await.unwrap();
    assert_eq!(run.marked().len(), 1);
    assert_eq!(kill_leftovers(&run.marker).len(), 1);
    until("the leftover's end", || run.marked().is_empty()).await;
}

#[tokio::test]
async fn input_is_taken_once_over_reconnections_and_gaps_are_refused() {
    let run = Run::new("input");
    let (handle, mut events) = run.launch(&run.sh("cat")).await;
    handle.send(1, b"one\n").await.unwrap();
    taken(&mut events, 1).await;
    handle.send(1, b"one again\n").await.unwrap();
    taken(&mut events, 1).await;
    handle.send(3, b"three too early\n").await.unwrap();
    event(&mut events, "the refusal", |e| *e == ShimEvent::Refused { no: 3, last: 1 }).await;
    handle.send(2, b"two\n").await.unwrap();
    // The connection is cut before the answer is looked at: whether frame 2 was taken is not known here.
    drop((handle, events));
    let Adopted::Live(handle, mut events, status) = run.adopt().await else { panic!("not live") };
    assert!((1..=2).contains(&status.taken), "{status:?}");
    for no in 1..=3 {
        handle.send(no, format!("resent {no}\n").as_bytes()).await.unwrap();
    }
    taken(&mut events, 3).await;
    handle.close_input(4).await.unwrap();
    let record = exited(&mut events).await;
    assert_eq!(record.code, Some(0));
    let second = if status.taken == 2 { "two" } else { "resent 2" };
    assert_eq!(lines(&run), ["one", second, "resent 3"]);
}

#[tokio::test]
async fn what_was_handed_over_before_the_connection_ended_is_done() {
    for round in 0..50 {
        let run = Run::new(&format!("handed-over-{round}"));
        let (handle, events) = run.launch(&run.sh("echo busy; cat; exit 6")).await;
        match round % 2 {
            0 => handle.close_input(1).await.unwrap(),
            _ => handle.stop(Duration::ZERO).await.unwrap(),
        }
        drop((handle, events));
        until("the end", || read_exit(&run.run_dir()).unwrap().is_some()).await;
    }
}

#[tokio::test]
async fn a_removed_run_folder_ends_shim_and_agent() {
    let run = Run::new("removed");
    let mut spec = run.sh("trap '' TERM; while :; do echo line; done");
    spec.limits.segment_bytes = 1000;
    spec.gated = false;
    let (handle, events) = run.launch(&spec).await;
    // A segment may be made while its folder is emptied.
    until("the removal", || std::fs::remove_dir_all(run.run_dir()).is_ok()).await;
    until("the agent's end", || is_gone(handle.agent().pid)).await;
    until("the shim's end", || identify(handle.shim().pid) != Some(handle.shim())).await;
    drop(events);
}

#[tokio::test]
async fn a_removed_run_folder_ends_an_agent_that_says_nothing_and_has_no_daemon() {
    let run = Run::new("removed-quiet");
    let (handle, events) = run.launch(&run.sh("exec sleep 1000")).await;
    let (shim, agent) = (handle.shim(), handle.agent());
    drop((handle, events));
    std::fs::remove_dir_all(run.run_dir()).unwrap();
    until("the agent's end", || is_gone(agent.pid)).await;
    until("the shim's end", || identify(shim.pid) != Some(shim)).await;
}

#[tokio::test]
async fn a_large_input_to_a_slow_reader_arrives_whole() {
    let run = Run::new("large-input");
    let (handle, mut events) = run.launch(&run.sh("read go; wc -c")).await;
    let part = vec![b'x'; 20 << 20];
    // The third does not fit beside the first two until the agent reads.
    for no in 1..=3 {
        handle.send(no, &part).await.unwrap();
    }
    handle.close_input(4).await.unwrap();
    // A question gets past inputs that wait.
    assert!(handle.status().await.unwrap().taken <= 1);
    assert_eq!(handle.send(5, &vec![0; (32 << 20) + 1]).await.unwrap_err().code(), "BDL-PROCESS-013");
    handle.kill().await.unwrap();
    assert_eq!(exited(&mut events).await.ended_by, EndedBy::Kill);

    let run = Run::new("large-input-read");
    let (handle, mut events) = run.launch(&run.sh("wc -c")).await;
    for no in 1..=3 {
        handle.send(no, &part).await.unwrap();
    }
    handle.close_input(4).await.unwrap();
    assert_eq!(exited(&mut events).await.code, Some(0));
    assert_eq!(lines(&run), [(60 << 20).to_string()]);
}

#[tokio::test]
async fn what_is_said_while_no_daemon_listens_is_read_later() {
    let run = Run::new("alone");
    let script = "read go; i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; echo oops >&2; exit 5";
    let (handle, mut events) = run.launch(&run.sh(script)).await;
    handle.send(1, b"go\n").await.unwrap();
    taken(&mut events, 1).await;
    drop((handle, events));
    until("the exit record", || read_exit(&run.run_dir()).unwrap().is_some()).await;
    let Adopted::Ended(record) = run.adopt().await else { panic!("not ended") };
    assert_eq!(record.code, Some(5));
    let got = lines(&run);
    assert_eq!(got.len(), 2000);
    assert_eq!(got.last().map(String::as_str), Some("line 1999"));
    assert_eq!(read_tail(&run.run_dir(), Stream::Err, 100).unwrap().bytes, b"oops\n");
}

#[tokio::test]
async fn a_newer_connection_replaces_the_older() {
    let run = Run::new("newer");
    let (_first, mut events) = run.launch(&run.sh("cat")).await;
    let Adopted::Live(second, _events, _) = run.adopt().await else { panic!("not live") };
    event(&mut events, "the replacement", |e| *e == ShimEvent::Disconnected).await;
    assert_eq!(second.status().await.unwrap().taken, 0);
    second.kill().await.unwrap();
}

#[tokio::test]
async fn a_dead_shim_takes_its_agent_along_and_the_rest_is_found() {
    let run = Run::new("lost");
    let (handle, mut events) = run.launch(&run.sh("setsid sleep 1000 & (sh -c 'setsid sleep 1000; :' &) ; echo up; cat")).await;
    until("the agent", || lines(&run).contains(&"up".to_owned())).await;
    until("its children", || run.marked().len() >= 5).await;
    // SAFETY: plain call; the shim is our child and not waited for while it lives.
    unsafe { libc::kill(handle.shim().pid as libc::pid_t, libc::SIGKILL) };
    event(&mut events, "the loss", |e| *e == ShimEvent::Disconnected).await;
    until("the agent's end", || is_gone(handle.agent().pid)).await;
    let Adopted::Lost { leftovers } = run.adopt().await else { panic!("not lost") };
    assert!(leftovers.len() >= 2, "{leftovers:?}");
    until("the leftovers' end", || run.marked().iter().all(|p| is_gone(*p))).await;
    assert!(matches!(run.adopt().await, Adopted::Lost { leftovers } if leftovers.is_empty()));
}

#[tokio::test]
async fn a_shim_that_is_stopped_is_waited_for_and_its_full_queue_blocks_nobody() {
    let run = Run::new("silent");
    let (handle, events) = run.launch(&run.sh("exec cat")).await;
    let shim = handle.shim().pid as libc::pid_t;
    drop((handle, events));
    // SAFETY: plain calls; the shim is our child and not waited for while it lives.
    let signal = move |signal| assert_eq!(unsafe { libc::kill(shim, signal) }, 0);
    signal(libc::SIGSTOP);
    // More than a shim's queue holds: the last of them are refused, not left waiting.
    let mut queue = Vec::new();
    while let Ok(stream) = tokio::net::UnixStream::connect(run.run_dir().join("s")).await {
        assert!(queue.len() < 100, "the queue has no end");
        queue.push(stream);
    }
    let e = Shim::adopt(&run.run_dir(), &run.marker).await.unwrap_err();
    assert_eq!(e.code(), "BDL-PROCESS-011", "it lives, so it is not lost: {e}");
    let patient = |run: &Run| {
        let (dir, marker) = (run.run_dir(), run.marker.clone());
        tokio::spawn(async move { Shim::adopt_patiently(&dir, &marker).await.unwrap() })
    };
    let waiting = patient(&run);
    drop(queue);
    signal(libc::SIGCONT);
    let Adopted::Live(handle, ..) = waiting.await.unwrap() else { panic!("not live") };
    assert_eq!(handle.status().await.unwrap().taken, 0);
    drop(handle);
    // Its end is learnt as well.
    signal(libc::SIGSTOP);
    let waiting = patient(&run);
    signal(libc::SIGKILL);
    assert!(matches!(waiting.await.unwrap(), Adopted::Lost { .. }));
    until("the agent's end", || run.marked().iter().all(|p| is_gone(*p))).await;
}

#[tokio::test]
async fn a_reused_number_is_not_mistaken_for_a_shim() {
    let run = Run::new("reused");
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    std::fs::create_dir(run.run_dir()).unwrap();
    std::fs::write(run.run_dir().join("lock"), format!("shim {0} agent {0}\n", stranger.id())).unwrap();
    let adopted = run.adopt().await;
    assert!(matches!(&adopted, Adopted::Lost { leftovers } if leftovers.is_empty()), "{adopted:?}");
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger was killed");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test]
async fn a_torn_exit_record_is_an_error_not_an_end() {
    let run = Run::new("torn");
    std::fs::create_dir(run.run_dir()).unwrap();
    std::fs::write(run.run_dir().join("exit"), "beadle-exit 1\nagent_pid=1\n").unwrap();
    let e = Shim::adopt(&run.run_dir(), &run.marker).await.unwrap_err();
    assert_eq!(e.code(), "BDL-PROCESS-010");
}

/// Not a test of its own: run as an agent by the one below.
#[test]
fn inner_peer() {
    let (Some(shim), Some(ours)) = (std::env::var_os("TEST_SHIM_SOCKET"), std::env::var_os("TEST_OUR_SOCKET")) else { return };
    let mut report = UnixStream::connect(ours).unwrap();
    let mut word = [0u8; 1];
    let refused = match UnixStream::connect(shim) {
        Err(_) => true,
        Ok(mut s) => {
            s.set_read_timeout(Some(PATIENCE)).unwrap();
            // A refusal closes; a greeting would be bytes.
            s.read(&mut word).map_or_else(|e| e.kind() == std::io::ErrorKind::ConnectionReset, |n| n == 0)
        }
    };
    report.write_all(&[u8::from(refused)]).unwrap();
    // Lives until it was looked at.
    let _ = report.read(&mut word);
}

#[tokio::test]
async fn who_descends_from_a_shim_is_known_and_refused_by_it() {
    let run = Run::new("peer");
    let ours = run.file("ours");
    let listener = UnixListener::bind(&ours).unwrap();
    let mut spec = run.sh("");
    spec.program = std::env::current_exe().unwrap();
    let inner = format!("{}::inner_peer", module_path!().split_once("::").unwrap().1);
    // Double-forked through setsid, so that only the subreaper keeps it in the family.
    spec.args = vec!["-c".into(), format!("(setsid \"$EXE\" --exact {inner} &) ; sleep 1000").into()];
    spec.env.push(("EXE".into(), std::mem::replace(&mut spec.program, "sh".into()).into()));
    spec.env.push(("TEST_SHIM_SOCKET".into(), run.run_dir().join("s").into()));
    spec.env.push(("TEST_OUR_SOCKET".into(), ours.into()));
    let (handle, _events) = run.launch(&spec).await;
    let (shim, other) = (handle.shim(), identify(std::process::id()).unwrap());
    let (refused, role) = tokio::task::spawn_blocking(move || {
        let (mut s, _) = listener.accept().unwrap();
        s.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut word = [0u8; 1];
        s.read_exact(&mut word).unwrap();
        let peer = Peer::of(&s).unwrap();
        let reused = beadle::process::ProcessId { start: shim.start + 1, ..shim };
        assert_eq!(descends_from(&peer, &[reused]).unwrap(), None);
        (word[0] == 1, descends_from(&peer, &[shim, other]).unwrap())
    })
    .await
    .unwrap();
    assert!(refused, "a descendant was let in");
    assert_eq!(role, Some(shim));
    handle.kill().await.unwrap();
}

#[tokio::test]
async fn stdio_cannot_be_reopened_and_the_agent_is_confined() {
    let run = Run::new("confined");
    let script = "for f in /proc/self/fd/0 /proc/self/fd/1 /proc/$$/fd/0 /proc/$$/fd/2; do (: > $f) 2>/dev/null && echo open $f; done
        i=0; while [ $i -lt 32 ]; do (: > /proc/$PPID/fd/$i) 2>/dev/null && echo open parent $i; i=$((i+1)); done
        (: < /proc/$PPID/mem) 2>/dev/null && echo open mem; (: < /proc/$PPID/environ) 2>/dev/null && echo open environ
        grep -E '^(CapBnd|CapPrm|CapInh|NoNewPrivs|SigIgn|SigBlk)' /proc/self/status";
    let text = run.output(&run.sh(script)).await;
    assert!(!text.contains("open"), "{text}");
    let value =
        |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(":\t")).unwrap_or_else(|| panic!("{name} in {text}"));
    let is_root = rustix::process::geteuid().is_root();
    for set in ["CapPrm", "CapInh"].into_iter().chain(is_root.then_some("CapBnd")) {
        let bits = u64::from_str_radix(value(set), 16).unwrap();
        for cap in [16, 17, 19, 21, 22, 38, 39, 40] {
            assert_eq!(bits >> cap & 1, 0, "capability {cap} in {set}");
        }
    }
    assert_eq!((value("NoNewPrivs"), value("SigBlk")), ("1", "0000000000000000"));
    // Signals 32 and 33 belong to the C library, which ignores them in what it spawns.
    assert_eq!(u64::from_str_radix(value("SigIgn"), 16).unwrap() & !(3 << 31), 0);
}

#[tokio::test]
async fn an_ungated_agent_keeps_the_newest_output() {
    let run = Run::new("rotate");
    let mut spec = run.sh("i=0; while [ $i -lt 5000 ]; do echo line $i; echo err $i >&2; i=$((i+1)); done");
    spec.gated = false;
    (spec.limits.segment_bytes, spec.limits.retain_bytes) = (1000, 5000);
    let (_handle, mut events) = run.launch(&spec).await;
    let record = exited(&mut events).await;
    for (stream, total) in [(Stream::Out, record.out_bytes), (Stream::Err, record.err_bytes)] {
        let tail = read_log(&run.run_dir(), stream, 0, 1 << 20).unwrap();
        assert_eq!(tail.next, total);
        assert!((5000..=7000).contains(&tail.bytes.len()), "{}", tail.bytes.len());
        assert_eq!(tail.offset % 1000, 0);
    }
    let mut inbox = Inbox::open(&run.run_dir(), 0);
    let first = inbox.next_line().unwrap().unwrap();
    assert!(first.skipped > 0 && first.bytes.starts_with(b"line "), "{first:?}");
    assert_eq!(lines(&run).last().map(String::as_str), Some("line 4999"));
}

#[tokio::test]
async fn a_gated_agent_waits_at_the_unread_cap_and_goes_on() {
    let run = Run::new("gated");
    let mut spec = run.sh("yes 123456789012345 | head -c 4000000; echo > done");
    (spec.limits.segment_bytes, spec.limits.unread_bytes, spec.limits.retain_bytes) = (50_000, 200_000, 100_000);
    let (handle, mut events) = run.launch(&spec).await;
    event(&mut events, "the cap", |e| matches!(e, ShimEvent::Written { out, .. } if *out >= 200_000)).await;
    let status = handle.status().await.unwrap();
    assert!(status.out_bytes < 200_000 + (64 << 10) && !run.file("done").exists(), "{status:?}");
    let mut inbox = Inbox::open(&run.run_dir(), 0);
    let mut count = 0;
    let record = loop {
        while let Some(line) = inbox.next_line().unwrap() {
            assert_eq!((line.bytes.as_slice(), line.skipped), (&b"123456789012345"[..], 0));
            count += 1;
        }
        handle.ack(inbox.offset()).await.unwrap();
        let status = handle.status().await.unwrap();
        assert!(status.ended || status.out_bytes - status.acked < 200_000 + (64 << 10), "{status:?}");
        match tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap() {
            ShimEvent::Exited(record) => break record,
            ShimEvent::Disconnected => panic!("disconnected"),
            _ => {}
        }
    };
    while inbox.next_line().unwrap().is_some() {
        count += 1;
    }
    assert_eq!((record.out_bytes, count), (4_000_000, 250_000));
    assert!(run.file("done").exists());
    let kept = read_log(&run.run_dir(), Stream::Out, 0, 8 << 20).unwrap();
    assert!(kept.offset > 3_000_000 && kept.next == 4_000_000, "{} to {}", kept.offset, kept.next);
}

#[tokio::test]
async fn a_disk_that_takes_no_more_blocks_the_agent_and_drops_nothing() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let run = Run::new("full");
    let (handle, mut events) = run.launch(&run.sh("read go; yes 1234567 | head -c 1000000; read more")).await;
    let shim = Pid::from_raw(handle.shim().pid as i32);
    // A file size limit stands for a full disk.
    let limit = |n| prlimit(shim, Resource::Fsize, Rlimit { current: n, maximum: None }).unwrap();
    limit(Some(100_000));
    handle.send(1, b"go\n").await.unwrap();
    event(&mut events, "the full disk", |e| matches!(e, ShimEvent::Blocked(errno) if *errno != 0)).await;
    let status = handle.status().await.unwrap();
    assert_eq!((status.out_bytes, status.blocked), (100_000, libc::EFBIG));
    limit(None);
    event(&mut events, "room", |e| *e == ShimEvent::Blocked(0)).await;
    handle.close_input(2).await.unwrap();
    assert_eq!(exited(&mut events).await.out_bytes, 1_000_000);
    assert!(lines(&run).iter().all(|l| l == "1234567"));
}

#[tokio::test]
async fn a_run_folder_with_a_long_path_works() {
    let run = Run::new("long");
    let mut spec = run.sh("cat");
    spec.run_dir = run.file(&"x".repeat(120));
    let (handle, events) = run.launch(&spec).await;
    drop((handle, events));
    let Adopted::Live(handle, mut events, _) = Shim::adopt(&spec.run_dir, &run.marker).await.unwrap() else { panic!("not live") };
    handle.close_input(1).await.unwrap();
    assert_eq!(exited(&mut events).await.code, Some(0));
}

#[tokio::test]
async fn an_ending_shim_that_is_asked_to_stop_by_the_machine_stops_its_agent() {
    let run = Run::new("shutdown");
    let (handle, mut events) = run.launch(&run.sh("trap 'exit 9' TERM; echo up; while :; do sleep 0.02; done")).await;
    until("the trap", || lines(&run).contains(&"up".to_owned())).await;
    // SAFETY: plain call; the shim is our child and not waited for while it lives.
    unsafe { libc::kill(handle.shim().pid as libc::pid_t, libc::SIGTERM) };
    assert_eq!(exited(&mut events).await.code, Some(9));
}

/// What the hook client did.
struct Hooked {
    code: Option<i32>,
    out: Vec<u8>,
    err: String,
}

fn hook(socket: &Path, deadline_ms: &str, input: &[u8]) -> Hooked {
    let mut child = Command::new(shim_bin())
        .args(["hook", "claude"])
        .env_clear()
        .env("BEADLE_SOCKET", socket)
        .env("BEADLE_HOOK_DEADLINE_MS", deadline_ms)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A client that gave up early does not read on.
    let _ = stdin.write_all(input);
    drop(stdin);
    let o = child.wait_with_output().unwrap();
    Hooked { code: o.status.code(), out: o.stdout, err: String::from_utf8(o.stderr).unwrap() }
}

/// Answers one request with these bytes; gives the request.
fn answer_once(socket: &Path, answer: Vec<u8>) -> std::thread::JoinHandle<Vec<u8>> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (mut s, _) = listener.accept().unwrap();
        let (mut got, mut buf) = (Vec::new(), [0u8; 65536]);
        loop {
            let n = s.read(&mut buf).unwrap();
            got.extend_from_slice(&buf[..n]);
            let text = String::from_utf8_lossy(&got);
            let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
                head.lines().find_map(|l| l.strip_prefix("content-length: ")).is_some_and(|l| l.parse::<usize>().unwrap() <= body.len())
            });
            if whole || n == 0 {
                break;
            }
        }
        s.write_all(&answer).unwrap();
        got
    })
}

fn assert_blocked(h: &Hooked, why: &str) {
    assert_eq!((h.code, h.out.as_slice()), (Some(2), &b""[..]), "{why}: {}", h.err);
    assert!(h.err.starts_with("beadle: blocked") && h.err.ends_with('\n') && h.err.lines().count() == 1, "{why}: {:?}", h.err);
}

#[test]
fn the_hook_client_passes_the_question_and_the_answer() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("d");
    let server = answer_once(&socket, b"HTTP/1.1 200 OK\r\nx-beadle-exit: 0\r\ncontent-length: 8\r\n\r\n{\"a\":1}\n".to_vec());
    let h = hook(&socket, "20000", br#"{"tool":"Bash"}"#);
    assert_eq!((h.code, h.out.as_slice(), h.err.as_str()), (Some(0), &b"{\"a\":1}\n"[..], ""));
    let request = String::from_utf8(server.join().unwrap()).unwrap();
    assert!(request.starts_with("POST /v1/hooks/claude HTTP/1.1\r\n") && request.ends_with("\r\n\r\n{\"tool\":\"Bash\"}"), "{request}");
    assert!(request.contains("connection: close\r\n"), "{request}");
}

#[test]
fn the_hook_client_takes_the_exit_code_and_long_paths_and_inputs() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("y".repeat(120));
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(&folder, dir.path().join("short")).unwrap();
    let server = answer_once(&dir.path().join("short/d"), b"HTTP/1.1 200 OK\r\nX-Beadle-Exit: 2\r\nContent-Length: 2\r\n\r\nno".to_vec());
    let h = hook(&folder.join("d"), "20000", &vec![b'z'; 3 << 20]);
    assert_eq!((h.code, h.out.as_slice(), h.err.as_str()), (Some(2), &b""[..], "no"), "a denial's reason is on stderr");
    assert!(server.join().unwrap().len() > 3 << 20);
}

#[test]
fn a_hook_without_a_sound_answer_blocks() {
    let dir = TempDir::new().unwrap();
    assert_blocked(&hook(&dir.path().join("absent"), "2000", b"{}"), "no daemon");
    let answers: [&[u8]; 7] = [
        b"",
        b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"allow\":true}",
        b"HTTP/1.1 200 OK\r\n\r\n{\"allow\":true}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 20000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx-beadle-exit: yes\r\ncontent-length: 2\r\n\r\n{}",
        b"\x00\x01\x02\x03\r\n\r\n",
    ];
    for (i, answer) in answers.iter().enumerate() {
        let socket = dir.path().join(format!("a{i}"));
        let server = answer_once(&socket, answer.to_vec());
        assert_blocked(&hook(&socket, "20000", b"{}"), &String::from_utf8_lossy(answer));
        server.join().unwrap();
    }
    let silent = dir.path().join("silent");
    let _listener = UnixListener::bind(&silent).unwrap();
    let begin = Instant::now();
    assert_blocked(&hook(&silent, "150", b"{}"), "a silent daemon");
    assert!(begin.elapsed() < PATIENCE);
    assert_blocked(&hook(&silent, "soon", b"{}"), "a deadline that is no number");
    assert_blocked(&hook(&silent, "20000", &vec![b'x'; (18 << 20) + 1]), "an input over the cap");
}

#[test]
fn a_hook_for_a_forged_agent_name_blocks() {
    for name in ["", "a/b", "a b", "a\r\nx: y", "ü"] {
        let o = Command::new(shim_bin()).args(["hook", name]).stdin(Stdio::null()).output().unwrap();
        assert_eq!((o.status.code(), o.stdout.as_slice()), (Some(2), &b""[..]), "{name:?}");
    }
    let o = Command::new(shim_bin()).output().unwrap();
    assert_eq!(o.status.code(), Some(2));
}
