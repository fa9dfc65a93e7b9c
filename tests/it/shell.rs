//! The shell reader against the real bash, and against bombs in a process of its own.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use beadle::model::Parse;
use beadle::shell::parse;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Programs that exist on the test's PATH: each writes down its argv and runs what its arguments ask for, if it is a wrapper.
const STAND_INS: &[&str] = &["alpha", "beta", "gamma", "git", "rm", "cat"];
/// Real programs that the commands may use.
const REAL: &[&str] = &["bash", "sh", "env", "xargs", "find", "timeout", "nice", "nohup", "setsid"];

/// A folder with the stand-ins; the log takes one line per argv, words separated by `\x1f`.
fn stage(dir: &Path) {
    let bin = dir.join("bin");
    std::fs::create_dir(&bin).expect("bin");
    for name in STAND_INS {
        // why: one write for one argv, so that parts of a pipeline do not mix.
        let script = "#!/bin/bash\nr=${0##*/}\nfor a; do r+=$'\\x1f'$a; done\nprintf '%s\\x1e' \"$r\" >>\"$STAND_LOG\"\n";
        std::fs::write(bin.join(name), script).expect("stand-in");
        std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).expect("mode");
    }
    for name in REAL {
        let real = ["/usr/bin", "/bin"].iter().map(|d| Path::new(d).join(name)).find(|p| p.exists());
        if let Some(real) = real {
            std::os::unix::fs::symlink(real, bin.join(name)).expect("link");
        }
    }
}

/// Waits for the child; past the limit it is killed and `None` comes back.
fn finish(mut child: Child, limit: Duration) -> Option<ExitStatus> {
    let pid = rustix::process::Pid::from_child(&child);
    let (told, ended) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let status = child.wait().expect("wait");
        let _ = told.send(());
        status
    });
    let in_time = ended.recv_timeout(limit).is_ok();
    if !in_time {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    let status = waiter.join().expect("waiter");
    in_time.then_some(status)
}

/// What bash really ran of the stand-ins.
fn executed(dir: &Path, command: &str) -> BTreeSet<Vec<String>> {
    // why: what a process substitution starts may write after bash ended; it must not write into the next log.
    static RUN: AtomicUsize = AtomicUsize::new(0);
    let log = dir.join(format!("log{}", RUN.fetch_add(1, Ordering::Relaxed)));
    std::fs::write(&log, "").expect("log");
    let work = dir.join("work");
    let _ = std::fs::remove_dir_all(&work);
    std::fs::create_dir(&work).expect("work");
    std::fs::write(work.join("one.txt"), "a b\n").expect("file");
    let child = Command::new("/bin/bash")
        .args(["--norc", "--noprofile", "-c", command])
        .env_clear()
        .env("PATH", dir.join("bin"))
        .env("STAND_LOG", &log)
        .current_dir(&work)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("bash");
    finish(child, Duration::from_secs(20));
    let text = String::from_utf8_lossy(&std::fs::read(&log).expect("log")).into_owned();
    text.split('\x1e').filter(|r| !r.is_empty()).map(|r| r.split('\x1f').map(str::to_owned).collect()).collect()
}

fn word() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "x",
        "'a b'",
        "\"a b\"",
        "a\\ b",
        "x'y'\"z\"",
        "$'\\x61\\tb'",
        "*.txt",
        "$V",
        "\"$V\"",
        "${V:-d}",
        "$(alpha in)",
        "\"`beta in`\"",
        "{p,q}",
        "~",
        "-n",
        "'#'",
        "a#b",
        "''",
        "$((1+2))",
        "é",
        "\\$x",
        "'\\'",
        "\"\\\\\"",
        "a=b",
        "$'\\''",
        "\"it's\"",
        "'\"'",
        "\\#",
        "{}",
    ])
    .prop_map(str::to_owned)
}

fn script() -> impl Strategy<Value = String> {
    let program = prop::sample::select(vec![
        "alpha",
        "beta",
        "gamma",
        "git push",
        "rm",
        "al\\pha",
        "'beta'",
        "g''amma",
        "cat",
        "\"rm\" -rf",
        "V=1 alpha",
        "$'\\x72m'",
        "command git",
        "builtin command rm",
        "exec beta",
        "{alpha,beta}",
        "$P",
    ]);
    let simple = (program, proptest::collection::vec(word(), 0..3)).prop_map(|(p, w)| format!("{p} {}", w.join(" ")));
    simple.prop_recursive(4, 16, 2, |inner| {
        let quote = |t: &str| format!("'{}'", t.replace('\'', "'\\''"));
        (0usize..30, inner.clone(), inner).prop_map(move |(how, a, b)| match how {
            0 => format!("{a} && {b}"),
            1 => format!("{a} || {b}"),
            2 => format!("{a}; {b}"),
            3 => format!("{a} | {b}"),
            4 => format!("( {a}\n)"),
            5 => format!("{{ {a}\n}}"),
            6 => format!("if {a}\nthen {b}\nfi"),
            7 => format!("for i in 1 2; do {a}\ndone"),
            8 => format!("case x in x) {a}\n;; *) {b}\nesac"),
            9 => format!("alpha $({a}\n)"),
            10 => format!("alpha \"$({a}\n) z\""),
            11 => format!("sh -c {}", quote(&a)),
            12 => format!("bash -c {} n v", quote(&a)),
            13 => format!("eval {}", quote(&a)),
            14 => format!("env A=b sh -c {}", quote(&a)),
            15 => format!("timeout 9 nice sh -c {}", quote(&a)),
            16 => format!("find . -name one.txt -exec sh -c {} \\;", quote(&a)),
            17 => format!("xargs sh -c {} <one.txt", quote(&a)),
            18 => format!("cat <({a}\n)"),
            19 => format!("cat <<E\n$({a}\n)\nE\n{b}"),
            20 => format!("cat <<'E'\n$({a}\n)\nE\n{b}"),
            21 => format!("bash <<'E'\n{a}\nE\n{b}"),
            22 => format!("f() {{ {a}\n}}; f"),
            23 => format!("! {a} # {b}"),
            24 => format!("{a} >out 2>&1; {b}"),
            25 => format!("x=$({a}\n) {b}"),
            26 => format!("{a} &\nwait; {b}"),
            27 => format!("V=git; P=rm; {a}; {b}"),
            28 => format!("trap {} EXIT; {b}", quote(&a)),
            _ => format!("while {a}\ndo {b}\nbreak; done"),
        })
    })
}

#[test]
fn all_that_bash_runs_is_listed_or_the_reading_is_not_complete() {
    let dir = tempfile::tempdir().expect("folder");
    stage(dir.path());
    let config = Config { cases: 400, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let (complete, ran) = (Cell::new(0), Cell::new(0));
    runner
        .run(&script(), |command| {
            let parsed = parse(&command);
            if parsed.parse != Parse::Complete {
                return Ok(());
            }
            let real = executed(dir.path(), &command);
            complete.set(complete.get() + 1);
            ran.set(ran.get() + real.len());
            for argv in &real {
                let listed = parsed.commands().any(|c| {
                    // why: a word that is not exact can be none, one or several at run time; the program's name is always exact.
                    let name = c.argv[0].text.rsplit('/').next() == Some(argv[0].as_str());
                    name && (!c.argv.iter().all(|w| w.exact)
                        || (c.argv.len() == argv.len() && c.argv.iter().zip(argv).skip(1).all(|(w, a)| w.text == *a)))
                });
                prop_assert!(
                    listed,
                    "bash ran {argv:?} of {command:?}, listed were {:?}",
                    parsed.commands().map(|c| &c.argv).collect::<Vec<_>>()
                );
            }
            Ok(())
        })
        .expect("the reader misses nothing");
    let (complete, ran) = (complete.get(), ran.get());
    assert!(complete > 60 && ran > 100, "the test is hollow: {complete} complete readings, {ran} executions");
}

#[test]
fn tricks_that_readers_fall_for_are_not_taken_for_complete() {
    let dir = tempfile::tempdir().expect("folder");
    stage(dir.path());
    for command in [
        "echo $(true # ) '\n rm x #'\n)",
        "echo \\$'a\\' ; rm x; echo 'b'",
        "alpha $((rm x) ; (rm y))",
        "rm{,} x",
        "g=rm; $g x",
        "a='b[$(rm x)]'; echo $((a))",
        "a='b[$(rm x)]'; [[ $a -eq 1 ]]",
        "r\\\nm x",
        "al\\\npha; r''m x",
        "cat <<E; rm x\nE\nrm y",
        "cat <<'E' | bash\nrm x\nE",
        "alpha() { rm x; }; alpha",
        "PS4='$(rm x)'; set -x; alpha",
        "printf -v 'a[$(rm x)]' y",
        "echo ${a[$(rm x)]}",
        "eval \"r\"m x",
        "find . -name one.txt -exec rm x {} +",
        "echo one.txt | xargs rm x",
        "{ rm x; } 2>&1 | cat",
        "time rm x",
        "if ! rm x; then rm y; fi",
        "coproc rm x",
        "(( 1 )) && rm x",
        "for ((i=0;i<1;i++)); do rm x; done",
        "echo \"`echo \\`rm x\\``\"",
        "x=(a $(rm x) b)",
        "export x=$(rm x)",
        "alpha <<< $(rm x)",
        ">$(rm x) alpha",
        "exec rm x",
        "trap 'rm x' EXIT",
        "command -p rm x; alpha",
        "\"r\"'m' x",
        "$'\\162\\155' x",
    ] {
        let parsed = parse(command);
        for argv in executed(dir.path(), command) {
            let listed = parsed.commands().any(|c| c.argv[0].text == argv[0]);
            assert!(parsed.parse != Parse::Complete || listed, "bash ran {argv:?} of {command:?}");
        }
    }
}

/// Runs the test named below in a process of its own, where an abort is seen as a signal and not as the end of the test run.
fn in_a_process(bomb: &str) {
    let me = std::env::current_exe().expect("own path");
    let done = tempfile::NamedTempFile::new().expect("mark");
    let child = Command::new(me)
        .args(["--exact", "--nocapture"])
        .arg(bomb_name())
        .env("BEADLE_TEST_BOMB", bomb)
        .env("BEADLE_TEST_MARK", done.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("own process");
    let status = finish(child, Duration::from_secs(60));
    assert!(status.is_some_and(|s| s.success()), "{bomb}: {status:?}");
    // why: a process that matched no test would succeed too.
    assert_eq!(std::fs::read(done.path()).expect("mark"), b"read", "{bomb}: the process ran no test");
}

fn bomb_name() -> String {
    format!("{}::a_bomb_is_refused_in_time", module_path!().split_once("::").map_or("", |(_, rest)| rest))
}

const SHAPES: &[(&str, &str)] = &[
    ("{ ", "}"),
    ("if ", " fi"),
    ("$(", ")"),
    ("( ", " )"),
    ("((", "))"),
    ("`", "`"),
    ("\"$(", ")\""),
    ("${x:-", "}"),
    ("$((", "))"),
    ("case x in x) ", " esac"),
    ("case x in x) ", ";; esac"),
    ("while ", " done"),
    ("[[ ( ", " ) ]]"),
    ("! ", ""),
    ("coproc ", ""),
    ("f() { ", "}"),
    ("function f { ", "}"),
    ("a[", "]"),
    ("a[$(:)", ""),
    ("<(", ")"),
    ("{a,", "}"),
    ("'", "'"),
    ("\"", "\""),
    ("\\", ""),
    ("<<E ", ""),
    ("sudo ", ""),
    ("env ", ""),
    ("eval ", ""),
    ("sh -c ", ""),
    ("time ", ""),
    ("a | ", ""),
    ("a && ", "a"),
    ("x=(", ")"),
    ("$'", "'"),
    ("find . -exec ", ""),
];

/// The body of the process; does nothing in an ordinary run.
#[test]
fn a_bomb_is_refused_in_time() {
    let Ok(which) = std::env::var("BEADLE_TEST_BOMB") else { return };
    let (open, close) = SHAPES[which.parse::<usize>().expect("a number")];
    // why: a thread of the daemon's pools has 2 MiB.
    let reader = std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(move || {
        for depth in [8, 12, 16, 30, 64, 100, 400, 2_000, 100_000] {
            for text in [
                open.repeat(depth),
                format!("{}a{}", open.repeat(depth), close.repeat(depth)),
                format!("{}a;{}", open.repeat(depth), close.repeat(depth)),
            ] {
                let start = Instant::now();
                let _ = parse(&text);
                assert!(start.elapsed() < Duration::from_secs(2), "{depth} of {open:?} took {:?}", start.elapsed());
            }
        }
        // Many groups that each stay below the caps, closed rightly and wrongly.
        for depth in 1..=11 {
            for middle in ["a", "a;", "a\n", "a ;; "] {
                for closer in [close.to_owned(), format!("{close};"), format!("{close}\n")] {
                    let one = format!("{}{middle}{};", open.repeat(depth), closer.repeat(depth));
                    let start = Instant::now();
                    let _ = parse(&one.repeat(16 * 1024 / one.len()));
                    assert!(start.elapsed() < Duration::from_secs(2), "groups of {depth} {open:?} took {:?}", start.elapsed());
                }
            }
        }
        let _ = parse(&open.repeat(10 * 1024 * 1024 / open.len()));
    });
    reader.expect("thread").join().expect("no panic");
    std::fs::write(std::env::var_os("BEADLE_TEST_MARK").expect("mark"), "read").expect("mark");
}

#[test]
fn bombs_do_not_abort_the_process() {
    for which in 0..SHAPES.len() {
        in_a_process(&which.to_string());
    }
}
