//! The shell reader against the real bash, and against bombs in a process of its own.

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
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

#[path = "shell/oracle.rs"]
mod oracle;

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
        (0usize..44, inner.clone(), inner).prop_map(move |(how, a, b)| match how {
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
            29 => format!("{a} >/dev/null 2>&1 || true; {b}"),
            30 => format!("[ -f one.txt ] && {a}; [[ -n x ]] || {b}"),
            31 => format!("stdbuf -oL nohup sh -c {}", quote(&a)),
            32 => format!("env -u V A=b bash -c {}", quote(&a)),
            33 => format!("xargs -n1 -I{{}} bash -c {} < one.txt", quote(&a)),
            34 => format!("( {a}\n) | {{ {b}\n}}"),
            35 => format!("V=$({a}\n); alpha \"$V\"; {b}"),
            36 => format!("alpha <<< \"$({a}\n)\"; {b}"),
            37 => format!("bash -s a b <<E\n{a}\nE\n{b}"),
            38 => format!("if ! {a}\nthen :; elif {b}\nthen alpha; else beta; fi"),
            39 => format!("setsid -w sh -c {} & wait; {b}", quote(&a)),
            40 => format!("# {a} it's\n{b}"),
            41 => format!("alpha \\\n  x; {a}; {b}"),
            42 => format!("export W=1; {{ {a}\n}} 2>/dev/null; {b}"),
            _ => format!("while {a}\ndo {b}\nbreak; done"),
        })
    })
}

/// Whether a listed command can be what was executed: exact words as they are, others as any number of words.
fn can_be(listed: &beadle::model::Command, argv: &[String]) -> bool {
    fn words(listed: &[beadle::model::Word], argv: &[String], open: bool) -> bool {
        match (listed.split_first(), argv.split_first()) {
            (None, rest) => rest.is_none() || open,
            (Some((w, more)), Some((a, rest))) if w.exact => w.text == *a && words(more, rest, open),
            (Some((w, _)), None) if w.exact => false,
            (Some((_, more)), _) => (0..=argv.len()).any(|n| words(more, &argv[n..], open)),
        }
    }
    // why: all words exact and the command not: more come at run time.
    let open = !listed.exact && listed.argv.iter().all(|w| w.exact);
    let name = listed.argv[0].text.rsplit('/').next() == Some(argv[0].as_str());
    name && words(&listed.argv[1..], &argv[1..], open)
}

/// Number of generated scripts; `BEADLE_ORACLE_SCRIPTS` asks for more.
fn script_count() -> usize {
    std::env::var("BEADLE_ORACLE_SCRIPTS").ok().and_then(|n| n.parse().ok()).unwrap_or(3000)
}

/// Seed of the generator; `BEADLE_ORACLE_SEED` gives another one, failures print it.
fn seed() -> [u8; 32] {
    let given = std::env::var("BEADLE_ORACLE_SEED").ok().and_then(|n| n.parse::<u64>().ok()).unwrap_or(20_261_121);
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&given.to_le_bytes());
    seed
}

#[test]
fn all_that_bash_runs_is_listed_or_the_reading_is_not_complete() {
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &seed()));
    let strategy = script();
    let mut scripts: Vec<String> = Vec::new();
    // why: only complete readings promise anything, so only those are run; the other shell gets its share by `sh -c`.
    for n in 0.. {
        assert!(n < script_count() * 20, "the generator makes too few complete readings: {}", scripts.len());
        let plain = strategy.new_tree(&mut runner).expect("a script").current();
        let text = if n % 5 == 4 { format!("sh -c '{}'", plain.replace('\'', "'\\''")) } else { plain };
        if oracle::is_tame(&text) && parse(&text).parse == Parse::Complete {
            scripts.push(text);
        }
        if scripts.len() == script_count() {
            break;
        }
    }
    let generated = scripts.len();
    let stage = crate::attacks::corpus::Stage::new();
    let corpus = crate::attacks::corpus::load(&stage);
    let innocent = corpus.iter().filter(|c| c.tool == "Bash").filter_map(|c| c.input["command"].as_str());
    scripts.extend(innocent.filter(|t| oracle::is_tame(t) && parse(t).parse == Parse::Complete).map(str::to_owned));
    let mut programs: Vec<String> = STAND_INS.iter().map(|s| (*s).to_owned()).collect();
    for text in &scripts[generated..] {
        // why: any word could be what runs, so every one that can be a file's name gets a recorder.
        let names = text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+')));
        programs.extend(names.filter(|n| n.len() < 40 && n.starts_with(|c: char| c.is_ascii_alphabetic())).map(str::to_owned));
    }
    let oracle = oracle::Oracle::new(&programs);
    let executed = oracle.run(&scripts);
    let (mut ran, mut silent, mut missed) = (0, 0, Vec::new());
    for (script, argvs) in scripts.iter().zip(&executed) {
        let parsed = parse(script);
        ran += argvs.len();
        silent += usize::from(argvs.is_empty());
        for argv in argvs.iter().filter(|argv| !parsed.commands().any(|c| can_be(c, argv))) {
            missed.push(format!("{argv:?} of {script:?}\n    listed: {:?}", parsed.commands().map(|c| &c.argv).collect::<Vec<_>>()));
        }
    }
    assert!(missed.is_empty(), "seed {:?}: bash ran {} that are not listed:\n{}", &seed()[..8], missed.len(), missed.join("\n"));
    let innocent = scripts.len() - generated;
    assert!(
        innocent > 300 && ran > scripts.len() && silent < scripts.len() / 3,
        "hollow: {innocent} of the corpus, {ran} executions, {silent} silent"
    );
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
