//! A command whose words are context: one run under a shim of its own, so that its whole tree ends with it.
//!
//! Invariants:
//! - it is told nothing: no input, no variable of the session's, of the daemon's environment a few plain ones ([`KEPT`]);
//! - its processes have no role: they stand below a shim whose session this host does not know;
//! - what a killed daemon left running is ended by the next one ([`left`], [`sweep`]); a run has a folder of its own, which goes with it.
//!
//! Called by `context` and, once, by `Manager::recover`.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Piece, to_a_word};
use crate::process::{self, Adopted, LaunchSpec, Limits, Shim, ShimHandle, Stream, read_log, read_tail};
use crate::session::{Inner, ladder, live, mask, start};

/// Begins the names of run folders, which are the markers of their processes, too.
const PREFIX: &str = "context-";
/// Most output; more is a failure.
const OUTPUT_MAX: u64 = 1 << 20;
/// Bytes of its last words in a failure.
const LAST_WORDS: usize = 300;
/// Variables that it gets, beside `LC_*`.
const KEPT: &[&str] = &["PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR"];

/// What it prints; the error says why that is not known.
pub(super) async fn run(inner: &Arc<Inner>, name: &str, command: &[String], cwd: &str, within: Duration) -> Result<Piece, String> {
    let marker = format!("{PREFIX}{}", start::uuid(inner));
    let dir = inner.run_root.join(&marker);
    let ran = run_in(inner, &dir, &marker, name, command, cwd, within).await;
    clear(&dir);
    ran
}

async fn run_in(
    inner: &Inner,
    dir: &Path,
    marker: &str,
    name: &str,
    command: &[String],
    cwd: &str,
    within: Duration,
) -> Result<Piece, String> {
    let (program, args) = command.split_first().ok_or("it has no command")?;
    let mut spec = LaunchSpec::new(dir, marker, program, cwd);
    spec.args = args.iter().map(OsString::from).collect();
    spec.env = environment(std::env::vars_os());
    spec.env.push(("BEADLE_CONTEXT".into(), name.into()));
    (spec.umask, spec.gated, spec.keep_stdin) = (0o077, false, false);
    spec.limits = Limits { segment_bytes: OUTPUT_MAX / 4, unread_bytes: OUTPUT_MAX * 2, retain_bytes: OUTPUT_MAX * 2, linger_ms: 10_000 };
    let (handle, mut events) = Shim::launch(&inner.shim_bin, &spec).await.map_err(|e| e.to_string())?;
    let Ok(ended) = tokio::time::timeout(within, ladder::run_exit(&mut events)).await else {
        end(&handle, &mut events).await;
        return Err(format!("the command did not end within {} ms and was ended with all that it started", within.as_millis()));
    };
    // why ignored: without it the shim goes by itself after its linger.
    let _ = handle.ack_exit().await;
    let from = dir.to_owned();
    let read = tokio::task::spawn_blocking(move || (output(&from), last_words(&from))).await;
    let (printed, words) = read.map_err(|e| e.to_string())?;
    let record = ended.ok_or("how the command ended is not known")?;
    match (record.code, record.signal) {
        (Some(0), None) => printed,
        (Some(code), None) => Err(format!("the command ended with exit code {code}{words}")),
        (_, signal) => Err(format!("the command was ended by signal {}{words}", signal.unwrap_or_default())),
    }
}

/// Kills it with all below it, and lets the shim go.
async fn end(handle: &ShimHandle, events: &mut process::ShimEvents) {
    ladder::end_run(handle, events).await;
    let _ = handle.ack_exit().await;
}

fn environment(vars: impl Iterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let kept = vars.filter(|(name, _)| name.to_str().is_some_and(|n| KEPT.contains(&n) || n.starts_with("LC_")));
    kept.map(|(name, value)| if name == "PATH" { (name, absolute_only(&value)) } else { (name, value) }).collect()
}

/// Without entries that stand for the folder it runs in: a repository must not bring the program.
fn absolute_only(path: &std::ffi::OsStr) -> OsString {
    std::env::join_paths(std::env::split_paths(path).filter(|p| p.is_absolute())).unwrap_or_default()
}

fn output(dir: &Path) -> Result<Piece, String> {
    let max = usize::try_from(OUTPUT_MAX).unwrap_or(usize::MAX);
    match read_log(dir, Stream::Out, 0, max + 1) {
        Ok(c) if c.offset == 0 && c.bytes.len() <= max => {
            Ok(Piece { text: String::from_utf8_lossy(&c.bytes).into_owned(), ..Piece::default() })
        }
        Ok(_) => Err(format!("the command printed over {OUTPUT_MAX} bytes")),
        Err(e) => Err(format!("what the command printed cannot be read: {e}")),
    }
}

/// The end of what it said on its standard error, as the end of a sentence.
fn last_words(dir: &Path) -> String {
    let Ok(tail) = read_tail(dir, Stream::Err, LAST_WORDS * 4) else { return String::new() };
    let mut text = mask::text(&String::from_utf8_lossy(&tail.bytes)).trim().to_owned();
    if text.len() >= LAST_WORDS * 4 {
        to_a_word(&mut text);
    }
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
    entries.filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.starts_with(PREFIX)).collect()
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
                // An error is a thread that could not be had.
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
        assert_eq!(kept, ["PATH", "LC_ALL", "HOME"]);
        assert_eq!(absolute_only(std::ffi::OsStr::new(".:/usr/bin::bin:/bin:")), "/usr/bin:/bin");
    }
}
