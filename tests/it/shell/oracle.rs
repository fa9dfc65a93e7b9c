//! A real bash as oracle: runs many scripts where every program is a recorder, and says what was executed.
//!
//! Nothing else can run: PATH holds recorders only, those of wrappers (`env`, `xargs`, …) go on as the real wrapper, whose own PATH is the
//! same; scripts name no absolute path and never change PATH (the callers' generators hold that, [`is_tame`] checks it). Processor time,
//! memory, file size and descriptors are limited, each batch has a deadline.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Wrappers that really run what they are given.
const REAL: &[&str] = &["bash", "sh", "dash", "env", "xargs", "find", "timeout", "nice", "nohup", "setsid", "stdbuf"];
/// Time for one batch on a slow, shared machine.
const LIMIT: Duration = Duration::from_secs(240);

pub struct Oracle {
    dir: TempDir,
}

/// True for a text that can only reach what is on its PATH, and that ends by itself.
pub fn is_tame(script: &str) -> bool {
    let rest = script.replace("/dev/null", "");
    let absolute = rest
        .match_indices('/')
        .any(|(i, _)| i == 0 || !rest[..i].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '*')));
    let banned = [
        "PATH",
        "env -",
        "command -p",
        "kill",
        "..",
        "~",
        "ulimit",
        "/dev/tcp",
        "select",
        "until",
        "sleep",
        "fc ",
        "9>",
        "9<",
        "$$",
        "PPID",
        "read ",
        // A login shell runs the machine's own profile; `exec -a` gives a program another name than the one that is listed.
        "bash -l",
        "exec -a",
    ];
    !absolute && !banned.iter().any(|b| script.contains(b)) && script.len() < 4000 && !script.contains('\0')
}

impl Oracle {
    /// Builds the recorder and gives it a name for each program.
    pub fn new(programs: &[String]) -> Self {
        let dir = tempfile::Builder::new().prefix("oracle").tempdir().expect("a folder");
        for folder in ["bin", "real", "work", "logs", "scripts"] {
            std::fs::create_dir(dir.path().join(folder)).expect("a folder");
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/shell/recorder.c");
        let recorder = dir.path().join("recorder");
        let built = Command::new("cc")
            .arg(format!("-DREAL=\"{}\"", dir.path().join("real").display()))
            .args(["-O1", "-o"])
            .args([&recorder, &source])
            .output()
            .expect("cc, which the build needs too");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        for name in REAL {
            if let Some(real) = ["/usr/bin", "/bin"].iter().map(|d| Path::new(d).join(name)).find(|p| p.exists()) {
                std::os::unix::fs::symlink(real, dir.path().join("real").join(name)).expect("a link");
                std::fs::hard_link(&recorder, dir.path().join("bin").join(name)).expect("a link");
            }
        }
        for name in programs.iter().filter(|n| !REAL.contains(&n.as_str())) {
            let to = dir.path().join("bin").join(name);
            if !to.exists() {
                std::fs::hard_link(&recorder, to).expect("a link");
            }
        }
        Self { dir }
    }

    /// What each script executed, in two processes beside each other.
    pub fn run(&self, scripts: &[String]) -> Vec<Vec<Vec<String>>> {
        for (i, script) in scripts.iter().enumerate() {
            assert!(is_tame(script), "not for a real shell: {script:?}");
            std::fs::write(self.at("scripts", i), script).expect("written");
            let work = self.at("work", i);
            std::fs::create_dir(&work).expect("a folder");
            std::fs::write(work.join("one.txt"), "a b\n").expect("written");
        }
        let half = scripts.len() / 2;
        std::thread::scope(|s| {
            s.spawn(|| self.batch(0, half));
            self.batch(half, scripts.len());
        });
        let out = (0..scripts.len()).map(|i| records(&std::fs::read(self.at("logs", i)).expect("a log"))).collect();
        for folder in ["work", "logs", "scripts"] {
            std::fs::remove_dir_all(self.dir.path().join(folder)).expect("removed");
            std::fs::create_dir(self.dir.path().join(folder)).expect("a folder");
        }
        out
    }

    fn at(&self, folder: &str, i: usize) -> PathBuf {
        self.dir.path().join(folder).join(i.to_string())
    }

    fn batch(&self, from: usize, to: usize) {
        let driver = format!(
            "ulimit -S -t 20 -f 4096 -c 0 -n 200 -v 4000000; i={from}; while [ $i -lt {to} ]; do IFS= read -r -d '' s < $T/scripts/$i; \
             cd $T/work/$i; : > $T/logs/$i; (unset T i; /bin/bash --norc --noprofile -c \"$s\" 9>> \"$1/$2\") < /dev/null > /dev/null 2>&1; i=$((i+1)); done"
        )
        .replace("\"$1/$2\"", "$L");
        let driver = driver.replace(": > $T/logs/$i;", ": > $T/logs/$i; L=$T/logs/$i;");
        let mut child = Command::new("/bin/bash")
            .args(["--norc", "--noprofile", "-c", &driver])
            .env_clear()
            .env("PATH", self.dir.path().join("bin"))
            .env("T", self.dir.path())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("bash");
        let end = Instant::now() + LIMIT;
        while child.try_wait().expect("a status").is_none() {
            if Instant::now() > end {
                let _ = child.kill();
                let _ = child.wait();
                let last = (from..to).rev().find(|i| self.at("logs", *i).exists()).unwrap_or(from);
                panic!("a batch did not end; it hangs at {:?}", std::fs::read_to_string(self.at("scripts", last)));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Argument lists from a log: a count, then so many words, each ended by a NUL.
fn records(log: &[u8]) -> Vec<Vec<String>> {
    let mut words = log.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned());
    let mut out = Vec::new();
    while let Some(count) = words.next().and_then(|c| c.parse::<usize>().ok()) {
        out.push(words.by_ref().take(count).collect());
    }
    out
}
