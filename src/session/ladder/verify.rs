//! One run of a verifier command, under a shim like an agent: its whole tree ends with it, and it outlives the daemon.
//!
//! | what it does | verdict |
//! | --- | --- |
//! | prints a JSON object with `verdict` (`accept`, `escalate`, `error`), `feedback`, `summary` | that one; an `accept` needs exit code 0 |
//! | prints anything else, exit code 0 | accept |
//! | … exit code 1 to 125 | escalate, with the end of what it printed as feedback |
//! | is ended by a signal, cannot be run (126, 127, missing), passes its deadline, prints over [`OUTPUT_MAX`], JSON that says no verdict | error |
//!
//! Invariant: only a run that ended by itself, in time, with code 0 and whole output accepts.
//!
//! Called by `ladder`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;

use crate::model::{Excerpt, SessionId, Verdict, VerifierRun};
use crate::process::{Adopted, ExitRecord, LaunchSpec, Limits, Shim, ShimEvent, ShimEvents, ShimHandle, Stream, read_log, read_tail};
use crate::session::{Inner, failpoint, live, mask};

use super::state::FEEDBACK_MAX;

/// Most output of one stream; more is an error.
pub(super) const OUTPUT_MAX: u64 = 1 << 20;
/// Most bytes of it that are kept as a blob, both streams.
const KEPT_MAX: usize = 256 << 10;
/// Longest word that is left out where the output was cut.
const WORD_MAX: usize = 4096;
/// Longest summary in bytes.
const SUMMARY_MAX: usize = 1024;
/// How long the end of a killed run is waited for.
const END_WITHIN: Duration = Duration::from_secs(20);

/// What is run.
pub(super) struct Job {
    pub inner: Arc<Inner>,
    pub id: SessionId,
    /// Of this run alone.
    pub dir: PathBuf,
    /// Program and arguments.
    pub command: Vec<String>,
    pub env: Vec<(std::ffi::OsString, std::ffi::OsString)>,
    pub cwd: PathBuf,
    pub umask: u32,
    pub deadline: Duration,
}

/// The verdict, the run and the blob that its output names.
pub(super) type Ran = (Verdict, Option<VerifierRun>, Option<Vec<u8>>);

/// What it may print.
#[derive(Debug, Deserialize)]
struct Said {
    verdict: String,
    #[serde(default)]
    feedback: Option<String>,
    #[serde(default)]
    summary: Option<String>,
}

/// Runs it, or goes on with one that an earlier daemon started. `cancel` ends it. None: it was cancelled.
pub(super) async fn run(job: Job, mut cancel: watch::Receiver<bool>) -> Option<Ran> {
    let (handle, mut events, ended) = match begin(&job).await {
        Ok(begun) => begun,
        Err(why) => return Some((Verdict::Error(format!("the verifier cannot be run: {}", live::cut(&why, 400))), None, None)),
    };
    failpoint::hit("verifying");
    // why: what the verifier runs is of the session, and must not speak for its operator.
    if let Some(entry) = job.inner.live().get_mut(&job.id) {
        entry.shim = handle.clone();
    }
    let mut late = false;
    let record = match ended {
        Some(record) => Some(record),
        None => {
            let exited = tokio::select! {
                record = exit(&mut events) => Some(record),
                () = tokio::time::sleep(job.deadline) => None,
                () = cancelled(&mut cancel) => {
                    kill(&handle, &mut events).await;
                    return None;
                }
            };
            match exited {
                Some(record) => record,
                None => {
                    late = true;
                    kill(&handle, &mut events).await
                }
            }
        }
    };
    // why ignored: without it the shim goes by itself after its linger.
    let _ = handle.ack_exit().await;
    let dir = job.dir.clone();
    let read = tokio::task::spawn_blocking(move || Printed::read(&dir)).await.unwrap_or_default();
    Some(judge(&job, record, late, read))
}

type Begun = (ShimHandle, ShimEvents, Option<ExitRecord>);

async fn begin(job: &Job) -> Result<Begun, String> {
    if job.dir.exists() {
        match Shim::adopt(&job.dir, job.id.as_str()).await.map_err(|e| e.to_string())? {
            Adopted::Live(handle, events, _) => return Ok((handle, events, None)),
            Adopted::Ended(record) => {
                let (handle, events) = ShimHandle::gone(&job.dir);
                return Ok((handle, events, Some(record)));
            }
            // Nobody can say how it ended: it is run again.
            Adopted::Lost { .. } => std::fs::remove_dir_all(&job.dir).map_err(|e| e.to_string())?,
        }
    }
    let program = job.command.first().ok_or("it has no command")?;
    let mut spec = LaunchSpec::new(&job.dir, job.id.as_str(), program, &job.cwd);
    spec.args = job.command.iter().skip(1).map(Into::into).collect();
    spec.env.clone_from(&job.env);
    (spec.umask, spec.gated, spec.keep_stdin) = (job.umask, false, false);
    spec.limits = Limits { segment_bytes: OUTPUT_MAX / 4, unread_bytes: OUTPUT_MAX * 2, retain_bytes: OUTPUT_MAX * 2, linger_ms: 10_000 };
    let (handle, events) = Shim::launch(&job.inner.shim_bin, &spec).await.map_err(|e| e.to_string())?;
    Ok((handle, events, None))
}

/// Resolves on the word only: a daemon that goes leaves the run to the next one.
pub(super) async fn cancelled(cancel: &mut watch::Receiver<bool>) {
    if cancel.wait_for(|c| *c).await.is_err() {
        std::future::pending().await
    }
}

/// Its end; None where the link broke and nobody can tell.
pub(in crate::session) async fn exit(events: &mut ShimEvents) -> Option<ExitRecord> {
    loop {
        match events.recv().await {
            Some(ShimEvent::Exited(record)) => return Some(record),
            Some(ShimEvent::Disconnected) | None => return None,
            Some(_) => {}
        }
    }
}

/// Ends a run with all below it, and waits for that.
pub(in crate::session) async fn kill(handle: &ShimHandle, events: &mut ShimEvents) -> Option<ExitRecord> {
    // why ignored: then it has ended.
    let _ = handle.kill().await;
    tokio::time::timeout(END_WITHIN, exit(events)).await.ok().flatten()
}

/// From the first whole word on: of a secret that was cut at its front the rest would not be known for one.
pub(in crate::session) fn from_a_word(mut bytes: Vec<u8>) -> Vec<u8> {
    let near = &bytes[..bytes.len().min(WORD_MAX)];
    let at = near.iter().position(u8::is_ascii_whitespace).unwrap_or(near.len());
    bytes.drain(..at);
    bytes
}

/// What it printed, both streams, without secrets: they are masked before anything is cut.
#[derive(Default)]
struct Printed {
    out: Vec<u8>,
    err: Vec<u8>,
    cut: bool,
}

impl Printed {
    fn read(dir: &std::path::Path) -> Self {
        let max = usize::try_from(OUTPUT_MAX).unwrap_or(usize::MAX);
        let all = |stream| match read_log(dir, stream, 0, max + 1) {
            Ok(c) if c.offset == 0 && c.bytes.len() <= max => (mask::bytes(c.bytes), false),
            _ => (mask::bytes(from_a_word(read_tail(dir, stream, KEPT_MAX / 2).map(|c| c.bytes).unwrap_or_default())), true),
        };
        let ((out, a), (err, b)) = (all(Stream::Out), all(Stream::Err));
        Self { out, err, cut: a || b }
    }

    /// The ends of both, together within the cap.
    fn kept(&self) -> Vec<u8> {
        let tail = |b: &[u8]| b[b.len().saturating_sub(KEPT_MAX / 2)..].to_vec();
        let (mut all, err) = (tail(&self.out), tail(&self.err));
        if !all.is_empty() && !all.ends_with(b"\n") && !err.is_empty() {
            all.push(b'\n');
        }
        all.extend(err);
        all
    }
}

fn judge(job: &Job, record: Option<ExitRecord>, late: bool, printed: Printed) -> Ran {
    let took = record.map_or(0, |r| r.ended_boot_ms.saturating_sub(r.started_boot_ms));
    let (verdict, summary) = match (late, &record) {
        (true, _) => (Verdict::Error(format!("the verifier did not end within {} ms and was ended", job.deadline.as_millis())), None),
        (_, None) => (Verdict::Error("how the verifier ended is not known".to_owned()), None),
        (false, Some(r)) => verdict(r.code, r.signal, &printed),
    };
    let (output, blob): (Excerpt, _) = live::excerpt(printed.kept());
    let (exit_code, signal) = record.map_or((None, None), |r| (r.code, r.signal));
    let run = VerifierRun { exit_code, signal, duration_ms: took, summary, output, cut: printed.cut };
    (verdict, Some(run), blob)
}

/// The table of this file.
fn verdict(code: Option<i32>, signal: Option<i32>, printed: &Printed) -> (Verdict, Option<String>) {
    let error = |why: String| (Verdict::Error(why), None);
    if let Some(signal) = signal {
        return error(format!("the verifier was ended by signal {signal}"));
    }
    let code = match code {
        Some(c @ 0..=125) => c,
        Some(c) => return error(format!("the verifier could not run (exit code {c})")),
        None => return error("how the verifier ended is not known".to_owned()),
    };
    if printed.cut {
        return error(format!("the verifier printed over {OUTPUT_MAX} bytes"));
    }
    let text = String::from_utf8_lossy(&printed.out);
    if !text.trim_start().starts_with('{') {
        let end = String::from_utf8_lossy(&printed.kept()).trim().to_owned();
        return (if code == 0 { Verdict::Accept } else { Verdict::Escalate(last(&end, FEEDBACK_MAX)) }, None);
    }
    let said: Said = match serde_json::from_str(text.trim()) {
        Ok(said) => said,
        Err(e) => return error(format!("the verifier's answer is not understood: {e}")),
    };
    // why masked again: escapes may have hidden a secret.
    let text = |s: &str, max| live::cut(&mask::text(s), max);
    let summary = said.summary.map(|s| text(&s, SUMMARY_MAX));
    let feedback = text(&said.feedback.unwrap_or_default(), FEEDBACK_MAX);
    match said.verdict.as_str() {
        "accept" if code == 0 => (Verdict::Accept, summary),
        "accept" => error(format!("the verifier says accept and ends with exit code {code}")),
        "escalate" => (Verdict::Escalate(feedback), summary),
        "error" => (Verdict::Error(feedback), summary),
        other => error(format!("the verifier's verdict {:?} is none of accept, escalate and error", live::cut(other, 60))),
    }
}

/// The end of a text, whole characters.
fn last(text: &str, max: usize) -> String {
    let mut at = text.len().saturating_sub(max);
    while !text.is_char_boundary(at) {
        at += 1;
    }
    text[at..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: Option<i32>, signal: Option<i32>, out: &str) -> Verdict {
        verdict(code, signal, &Printed { out: out.into(), ..Printed::default() }).0
    }

    #[test]
    fn only_a_whole_run_with_code_0_accepts() {
        assert_eq!(of(Some(0), None, "all 12 tests passed"), Verdict::Accept);
        assert_eq!(of(Some(0), None, r#"{"verdict": "accept", "summary": "s", "score": 1}"#), Verdict::Accept);
        assert_eq!(of(Some(0), None, ""), Verdict::Accept);
        for (code, signal, out) in [
            (Some(1), None, r#"{"verdict": "accept"}"#),
            (Some(0), None, r#"{"verdict": "fine"}"#),
            (Some(0), None, r#"{"verdict": "accept""#),
            (Some(0), None, r#"{"verdict": "accept"} {"verdict": "accept"}"#),
            (Some(0), None, "{}"),
            (Some(127), None, ""),
            (Some(126), None, "ok"),
            (Some(255), None, "ok"),
            (None, Some(9), r#"{"verdict": "accept"}"#),
            (Some(0), Some(9), ""),
            (None, None, ""),
        ] {
            assert!(matches!(of(code, signal, out), Verdict::Error(_)), "{code:?} {signal:?} {out}");
        }
        let flood = Printed { out: b"x".to_vec(), cut: true, ..Printed::default() };
        assert!(matches!(verdict(Some(0), None, &flood).0, Verdict::Error(_)));
    }

    #[test]
    fn a_secret_that_the_cap_cuts_is_masked_all_the_same() {
        let token = format!("ghp_{}", "a1B2".repeat(9));
        let read = |text: &str| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(format!("out-{:020}.seg", 0)), text).unwrap();
            Printed::read(dir.path())
        };
        // The caps of what is kept and of the feedback fall into the middle of one.
        for max in [FEEDBACK_MAX, KEPT_MAX / 2] {
            let printed = read(&format!("{token}{}", " ".repeat(max - 20)));
            let Verdict::Escalate(text) = verdict(Some(1), None, &printed).0 else { panic!("escalates") };
            let all = format!("{text} {}", String::from_utf8_lossy(&printed.kept()));
            assert!(!all.contains("a1B2a1B2"), "{max}: {}", all.trim());
        }
        let said = format!("{{\"verdict\": \"escalate\", \"feedback\": \"{}{token}\"}}", "x ".repeat(FEEDBACK_MAX / 2 - 8));
        let Verdict::Escalate(text) = verdict(Some(0), None, &read(&said)).0 else { panic!("escalates") };
        assert!(!text.contains("a1B2"), "{}", &text[text.len() - 60..]);
        let flood = read(&format!("{}{token}{}", " ".repeat(OUTPUT_MAX as usize), " ".repeat(KEPT_MAX / 2 - 20)));
        assert!(flood.cut && !String::from_utf8_lossy(&flood.kept()).contains("a1B2"));
    }

    #[test]
    fn feedback_is_what_it_says_or_the_end_of_what_it_printed() {
        assert_eq!(of(Some(2), None, "2 tests failed\n"), Verdict::Escalate("2 tests failed".into()));
        assert_eq!(of(Some(0), None, r#"{"verdict": "escalate", "feedback": "more"}"#), Verdict::Escalate("more".into()));
        assert_eq!(of(Some(0), None, r#"{"verdict": "error", "feedback": "no"}"#), Verdict::Error("no".into()));
        let long = format!("{}end", "é".repeat(FEEDBACK_MAX));
        let Verdict::Escalate(text) = of(Some(1), None, &long) else { panic!("escalates") };
        assert!(text.len() <= FEEDBACK_MAX && text.ends_with("end"));
    }
}
