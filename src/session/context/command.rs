//! A command whose words are context: one run under a shim of its own, so that its whole tree ends with it.
//!
//! Invariants:
//! - it is told nothing: no input, no variable of the session's, of the daemon's environment a few plain ones ([`KEPT`]);
//! - its processes have no role: they stand below a shim whose session this host does not know;
//! - git is told to run nothing that the settings of the folder's repository name, as far as that can be told ([`GIT`]);
//! - it is ended with its session's stop and with the daemon's. What a killed daemon left running is ended by the next one ([`left`],
//!   [`sweep`]); a run has a folder of its own, of a name that no session's has, which goes with it;
//! - no more than [`RUNS_MAX`] run at a time, whoever asks; the wait for a place is part of its time.
//!
//! Called by `context` and, once, by `Manager::recover`.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::{Piece, clean, to_a_word};
use crate::model::SessionId;
use crate::process::{self, Adopted, LaunchSpec, Limits, Shim, ShimHandle, Stream, read_log, read_tail};
use crate::session::{Inner, ladder, live, start};

/// Begins the names of run folders, which are the markers of their processes, too. No session's id has a dot there.
const PREFIX: &str = ".context-";
/// Most commands at a time.
const RUNS_MAX: usize = 16;
/// How often it is looked whether the session is being stopped.
const LOOK: Duration = Duration::from_millis(20);
/// Most output; more is a failure.
const OUTPUT_MAX: u64 = 1 << 20;
/// Bytes of its last words in a failure.
const LAST_WORDS: usize = 300;
/// Variables that it gets, beside `LC_*`.
const KEPT: &[&str] = &["PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR"];
/// Against programs that a repository's own settings name and git runs unasked. Filters have names of their own: nothing turns off those.
const GIT: &[(&str, &str)] = &[
    ("GIT_CONFIG_COUNT", "3"),
    ("GIT_CONFIG_KEY_0", "core.fsmonitor"),
    ("GIT_CONFIG_VALUE_0", "false"),
    ("GIT_CONFIG_KEY_1", "core.hooksPath"),
    ("GIT_CONFIG_VALUE_1", "/dev/null"),
    ("GIT_CONFIG_KEY_2", "log.showSignature"),
    ("GIT_CONFIG_VALUE_2", "false"),
    ("GIT_NO_LAZY_FETCH", "1"),
    ("GIT_OPTIONAL_LOCKS", "0"),
    ("GIT_PAGER", "cat"),
    ("GIT_TERMINAL_PROMPT", "0"),
];

static RUNS: Semaphore = Semaphore::const_new(RUNS_MAX);

/// What is run.
pub(super) struct Job<'a> {
    pub session: &'a SessionId,
    pub name: &'a str,
    pub command: &'a [String],
    pub cwd: &'a str,
    pub within: Duration,
    /// Bytes of its output that are of use.
    pub most: usize,
}

/// What it prints; the error says why that is not known.
pub(super) async fn run(inner: &Arc<Inner>, job: Job<'_>) -> Result<Piece, String> {
    let until = Instant::now() + job.within;
    let over = |what: &str| format!("{what} within {} ms", job.within.as_millis());
    let place = tokio::time::timeout_at(until, RUNS.acquire()).await;
    let _place = place.map_err(|_| over(&format!("{RUNS_MAX} other commands of providers ran, and none of them ended")))?;
    let marker = format!("{PREFIX}{}", start::uuid(inner));
    let dir = inner.run_root.join(&marker);
    let ran = run_in(inner, &dir, &marker, &job, until).await;
    clear(&dir);
    ran
}

async fn run_in(inner: &Inner, dir: &Path, marker: &str, job: &Job<'_>, until: Instant) -> Result<Piece, String> {
    let (program, args) = job.command.split_first().ok_or("it has no command")?;
    let mut spec = LaunchSpec::new(dir, marker, program, job.cwd);
    spec.args = args.iter().map(OsString::from).collect();
    spec.env = environment(std::env::vars_os());
    spec.env.push(("BEADLE_CONTEXT".into(), job.name.into()));
    (spec.umask, spec.gated, spec.keep_stdin) = (0o077, false, false);
    spec.limits = Limits { segment_bytes: OUTPUT_MAX / 4, unread_bytes: OUTPUT_MAX * 2, retain_bytes: OUTPUT_MAX * 2, linger_ms: 10_000 };
    let mut shutdown = inner.shutdown.subscribe();
    let (handle, mut events) = Shim::launch(&inner.shim_bin, &spec).await.map_err(|e| e.to_string())?;
    let ended = tokio::select! {
        ended = ladder::run_exit(&mut events) => ended,
        () = tokio::time::sleep_until(until) => {
            end(&handle, &mut events).await;
            return Err(format!("the command did not end within {} ms and was ended with all that it started", job.within.as_millis()));
        }
        () = stopped(inner, job.session) => {
            end(&handle, &mut events).await;
            return Err("the command was ended: its session is being stopped".to_owned());
        }
        () = told_to_end(&mut shutdown) => {
            // why no more than the word, and no return: the daemon waits for nobody, and what was asked for is not to be half done.
            let _ = handle.kill().await;
            clear(dir);
            return std::future::pending().await;
        }
    };
    // why ignored: without it the shim goes by itself after its linger.
    let _ = handle.ack_exit().await;
    if ended.is_none() {
        // why: with its shim gone nobody ended what it had started, and its folder is what the next daemon would find that by.
        let marker = marker.to_owned();
        let _ = tokio::task::spawn_blocking(move || process::kill_leftovers(&marker)).await;
    }
    let (from, most) = (dir.to_owned(), job.most);
    let read = tokio::task::spawn_blocking(move || (output(&from, most), last_words(&from))).await;
    let (printed, words) = read.map_err(|e| e.to_string())?;
    let record = ended.ok_or("how the command ended is not known")?;
    match (record.code, record.signal) {
        (Some(0), None) => printed,
        (Some(code), None) => Err(format!("the command ended with exit code {code}{words}")),
        (_, signal) => Err(format!("the command was ended by signal {}{words}", signal.unwrap_or_default())),
    }
}

/// Resolves when the daemon ends.
async fn told_to_end(shutdown: &mut watch::Receiver<bool>) {
    // An error: who would tell is gone already.
    let _ = shutdown.wait_for(|down| *down).await;
}

/// Resolves when a live session was told to end.
async fn stopped(inner: &Inner, id: &SessionId) {
    while !inner.is_stopping(id) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Kills it with all below it, and lets the shim go.
async fn end(handle: &ShimHandle, events: &mut process::ShimEvents) {
    ladder::end_run(handle, events).await;
    let _ = handle.ack_exit().await;
}

fn environment(vars: impl Iterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let kept = vars.filter(|(name, _)| name.to_str().is_some_and(|n| KEPT.contains(&n) || n.starts_with("LC_")));
    let plain = kept.map(|(name, value)| if name == "PATH" { (name, absolute_only(&value)) } else { (name, value) });
    // why not an empty one: an empty entry is the folder it runs in. Without any the shim has its own.
    let plain = plain.filter(|(name, value)| name != "PATH" || !value.is_empty());
    plain.chain(GIT.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)))).collect()
}

/// Without entries that stand for the folder it runs in: a repository must not bring the program.
fn absolute_only(path: &std::ffi::OsStr) -> OsString {
    std::env::join_paths(std::env::split_paths(path).filter(|p| p.is_absolute())).unwrap_or_default()
}

/// No more of it than is of use: whatever it is, it is looked through for secrets.
fn output(dir: &Path, most: usize) -> Result<Piece, String> {
    let max = usize::try_from(OUTPUT_MAX).unwrap_or(usize::MAX);
    match read_log(dir, Stream::Out, 0, max + 1) {
        Ok(c) if c.offset == 0 && c.bytes.len() <= max => {
            let cut = c.bytes.len() > most;
            let mut text = String::from_utf8_lossy(&c.bytes[..c.bytes.len().min(most)]).into_owned();
            if cut {
                to_a_word(&mut text);
            }
            Ok(Piece { text, cut, ..Piece::default() })
        }
        Ok(_) => Err(format!("the command printed over {OUTPUT_MAX} bytes")),
        Err(e) => Err(format!("what the command printed cannot be read: {e}")),
    }
}

/// The end of what it said on its standard error, as the end of a sentence.
fn last_words(dir: &Path) -> String {
    let Ok(tail) = read_tail(dir, Stream::Err, LAST_WORDS * 4) else { return String::new() };
    let bytes = if tail.offset > 0 { ladder::from_a_word(tail.bytes) } else { tail.bytes };
    let text = clean(&String::from_utf8_lossy(&bytes));
    let line = text.lines().next_back().unwrap_or_default().trim();
    if line.is_empty() { String::new() } else { format!(": {}", live::cut(line, LAST_WORDS)) }
}

fn clear(dir: &Path) {
    if let Err(e) = std::fs::remove_dir_all(dir)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %dir.display(), error = %e, "the folder of a context command stays; `beadle host gc` removes it");
    }
}

/// Run folders that an earlier daemon left. Looked for before this one runs any.
pub(in crate::session) fn left(inner: &Inner) -> Vec<String> {
    let entries = std::fs::read_dir(&inner.run_root).into_iter().flatten().flatten();
    let folders = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    folders.filter_map(|e| e.file_name().into_string().ok()).filter(|n| is_a_runs(n)).collect()
}

/// Whether a folder's name is one that [`run`] gives.
fn is_a_runs(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let parts: Vec<usize> = rest.split('-').map(str::len).collect();
    parts == [8, 4, 4, 4, 12] && rest.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
}

/// Ends what runs in them, and removes them.
pub(in crate::session) async fn sweep(inner: Arc<Inner>, left: Vec<String>) {
    for name in left {
        let dir = inner.run_root.join(&name);
        match Shim::adopt(&dir, &name).await {
            Ok(Adopted::Live(handle, mut events, _)) => end(&handle, &mut events).await,
            Err(process::Error::Unreachable { .. }) => {
                let shim = process::shim_in(&dir).await.unwrap_or_default();
                let marker = name.clone();
                // An error is the runtime's end.
                let _ = tokio::task::spawn_blocking(move || (process::kill_silent(shim), process::kill_leftovers(&marker))).await;
            }
            Ok(Adopted::Ended(_) | Adopted::Lost { .. }) | Err(_) => {}
        }
        clear(&dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_gets_a_few_plain_variables() {
        let vars = ["PATH", "LC_ALL", "BEADLE_HOME", "ANTHROPIC_API_KEY", "LD_PRELOAD", "SSH_AUTH_SOCK", "HOME"];
        let kept: Vec<OsString> =
            environment(vars.iter().map(|v| (OsString::from(v), OsString::new()))).into_iter().map(|(n, _)| n).collect();
        let kept: Vec<_> = kept.into_iter().filter(|n| !n.to_string_lossy().starts_with("GIT_")).collect();
        assert_eq!(kept, ["LC_ALL", "HOME"], "and no PATH where that has nothing");
        assert_eq!(absolute_only(std::ffi::OsStr::new(".:/usr/bin::bin:/bin:")), "/usr/bin:/bin");
        let path = |value: &str| environment([("PATH".into(), value.into())].into_iter()).into_iter().find(|(n, _)| n == "PATH");
        assert_eq!(path(".:/bin"), Some(("PATH".into(), "/bin".into())));
        assert_eq!(path(".:bin:"), None, "an empty one would stand for the folder it runs in");
        let count: usize = GIT.iter().find(|(n, _)| *n == "GIT_CONFIG_COUNT").unwrap().1.parse().unwrap();
        assert_eq!(GIT.iter().filter(|(n, _)| n.starts_with("GIT_CONFIG_KEY_")).count(), count);
    }

    #[test]
    fn no_session_has_a_folder_of_that_name() {
        let uuid = "0d4b0a3e-5c1f-4a53-8f1b-0123456789ab";
        assert!(is_a_runs(&format!("{PREFIX}{uuid}")) && SessionId::parse(&format!("{PREFIX}{uuid}")).is_err());
        for name in ["context-fix-m0x1-abcde", ".context-", ".context-fix", &format!("context-{uuid}"), &format!("{PREFIX}{uuid}0")] {
            assert!(!is_a_runs(name), "{name}");
        }
    }

    #[test]
    fn no_part_of_a_secret_stays_where_output_is_cut() {
        let token = format!("ghp_{}", "a1B2".repeat(9));
        let dir = tempfile::tempdir().unwrap();
        let write = |stream: &str, text: String| std::fs::write(dir.path().join(format!("{stream}-{:020}.seg", 0)), text).unwrap();
        // The front of what is kept falls into it, and its rest begins the last line.
        write("err", format!("{token}: {}", "x".repeat(LAST_WORDS * 4 - 22)));
        assert!(!last_words(dir.path()).contains("a1B2"), "{}", last_words(dir.path()));
        write("err", "one\n\x1b[2Jtwo\n\n".to_owned());
        assert_eq!(last_words(dir.path()), ": [2Jtwo");
        write("out", format!("{} {token}", "x".repeat(100)));
        let piece = output(dir.path(), 120).unwrap();
        assert_eq!((piece.text.len(), piece.cut), (100, true));
        assert!(!output(dir.path(), 1_000).unwrap().cut);
    }
}
