//! `beadle host`: the daemon on this machine. None of these starts one.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use super::confirm::confirmed;
use super::exit::{Coded, Exit};
use super::logs::Screen;
use super::text::{age, brief, count, kib, safe};
use super::{Context, Outcome, replay};
use crate::api::client::{self, Client};
use crate::api::types::{HostDoc, PolicyDoc, ReloadRequest};
use crate::model::{Clock, SystemClock};
use crate::process::{self, Watch};

/// Most bytes of the log that `--tail` looks through.
const TAIL_MAX: u64 = 4 << 20;
/// How often a followed log is looked at.
const FOLLOW: Duration = Duration::from_millis(200);
/// How long to wait for a told daemon to be gone.
const GONE: Duration = Duration::from_secs(10);

pub async fn status(cx: &mut Context) -> Outcome {
    let doc = Client::without_start(cx.folders()?).host().await?;
    if cx.printer.json() {
        cx.printer.document(&doc)?;
        return Ok(Exit::Done);
    }
    cx.printer.fields(&fields(&doc))?;
    let rows: Vec<_> = doc.policies.iter().map(row).collect();
    if !rows.is_empty() {
        cx.printer.line("")?;
        cx.printer.table(&["POLICY", "PLUGIN", "VERSION", "DIGEST", "MODE", "ON FAILURE", "DEADLINE", "STATE"], &rows)?;
    }
    Ok(Exit::Done)
}

fn fields(doc: &HostDoc) -> [(&'static str, String); 9] {
    [
        ("version", safe(&doc.version)),
        ("pid", doc.pid.to_string()),
        ("up", age(&doc.started_at, SystemClock.wall_ms())),
        ("sessions", format!("{} live, {} in all", count(doc.live_count), count(doc.session_count))),
        ("memory", kib(doc.rss_kb)),
        ("data", safe(&doc.data)),
        ("socket", safe(&doc.socket)),
        ("config", safe(&doc.config)),
        ("log", safe(&doc.log)),
    ]
}

fn row(p: &PolicyDoc) -> Vec<String> {
    let mode = serde_json::json!(p.mode).as_str().unwrap_or_default().to_owned();
    let detail = p.detail.as_deref().map(|d| format!(": {}", brief(d, 100))).unwrap_or_default();
    let fresh = if p.snapshotted { "" } else { ", unsnapshotted" };
    vec![
        safe(&p.name),
        brief(&p.plugin, 40),
        safe(&p.version),
        brief(&p.digest, 12),
        mode,
        p.on_failure.effect().as_str().to_owned(),
        format!("{} ms", p.deadline_ms),
        format!("{}{fresh}{detail}", safe(&p.state)),
    ]
}

/// The daemon's own log, read from its file: it must be readable when the daemon is not there.
pub async fn logs(cx: &mut Context, follow: bool, tail: usize) -> Outcome {
    let path = cx.folders()?.log_file();
    let Ok(mut file) = File::open(&path) else {
        cx.printer.note(&format!("no log yet at {}", safe(&path.to_string_lossy())))?;
        return Ok(Exit::NotFound);
    };
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL_MAX)))?;
    let mut bytes = Vec::new();
    (&mut file).take(TAIL_MAX).read_to_end(&mut bytes)?;
    let mut screen = Screen::default();
    cx.printer.octets(screen.show(last_lines(&bytes, tail)).as_bytes())?;
    if !follow {
        return Ok(Exit::Done);
    }
    loop {
        bytes.clear();
        (&mut file).take(TAIL_MAX).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            // A rotated log goes on under the same name; what was written to the old file before that was read just now.
            match (file.metadata(), std::fs::metadata(&path)) {
                (Ok(old), Ok(new)) if old.ino() != new.ino() && old.len() <= file.stream_position().unwrap_or(0) => {
                    file = File::open(&path)?
                }
                _ => tokio::time::sleep(FOLLOW).await,
            }
        } else {
            cx.printer.octets(screen.show(&bytes).as_bytes())?;
        }
    }
}

fn last_lines(bytes: &[u8], n: usize) -> &[u8] {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let start = body.iter().enumerate().rev().filter(|(_, b)| **b == b'\n').nth(n.saturating_sub(1)).map_or(0, |(i, _)| i + 1);
    if n == 0 { &[] } else { &bytes[start..] }
}

/// Has the configuration read anew. What is refused has changed nothing: then the answer is no.
pub async fn reload(cx: &mut Context, accept_changes: bool) -> Outcome {
    // why not started for this: a daemon that begins reads the configuration anyhow.
    let client = Client::without_start(cx.folders()?);
    let look = client.look_at_reload().await.map_err(|e| unchanged(e.into()))?;
    replay::tell(cx, &look.replay)?;
    let request = ReloadRequest { accept_changes };
    let told = match client.reload(&request).await {
        Err(client::Error::Confirm(_)) => confirmed(cx, None, async |client| client.reload(&request).await).await,
        other => other.map_err(anyhow::Error::from),
    };
    let doc = told.map_err(unchanged)?;
    if cx.printer.json() {
        cx.printer.document(&doc)?;
        return Ok(Exit::Done);
    }
    let (changed, live) = (count(doc.changed_count), count(doc.live_count));
    cx.printer.line(&format!("the configuration was read anew; {changed} of {live} live sessions have other policies now"))?;
    for k in &doc.kept {
        cx.printer.note(&format!("session {} keeps the policies it has: {}", safe(&k.session), brief(&k.why, 300)))?;
    }
    if !doc.at_restart.is_empty() {
        let keys = safe(&doc.at_restart.join(", "));
        cx.printer.note(&format!("not yet in force: {keys}; `beadle host stop`, and the next daemon has it (sessions go on)"))?;
    }
    Ok(Exit::Done)
}

fn unchanged(e: anyhow::Error) -> anyhow::Error {
    match e.downcast_ref::<client::Error>() {
        Some(refused @ client::Error::Refused { status: 422 | 409, .. }) => {
            let message = format!("{refused}; nothing was changed, what runs goes on with the configuration of before");
            Coded { exit: Exit::No, code: refused.code().to_owned(), message }.into()
        }
        _ => e,
    }
}

/// Ends the daemon that answers and waits until its process has ended, or [`GONE`] is over; its last words.
pub async fn end(client: &Client) -> Result<HostDoc, client::Error> {
    let doc = client.shutdown().await?;
    let begun = std::time::Instant::now();
    let process = process::identify(doc.pid).and_then(|id| Watch::open(id).ok());
    while begun.elapsed() < GONE && client.host().await.is_ok_and(|d| d.pid == doc.pid) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // why: it answers no more before its database is closed, and holds the data folder until then.
    if let Some(process) = process {
        // why ignored: a folder that is held for longer is an error of what comes next.
        let _ = tokio::time::timeout(GONE.saturating_sub(begun.elapsed()), process.gone()).await;
    }
    Ok(doc)
}

/// Ends the daemon; sessions go on. Waits until it has ended, so that its folder is free.
pub async fn stop(cx: &mut Context) -> Outcome {
    let doc = end(&Client::without_start(cx.folders()?)).await?;
    if cx.printer.json() {
        cx.printer.document(&doc)?;
    } else {
        cx.printer.line(&format!("daemon {} ends; {} live sessions go on", doc.pid, count(doc.live_count)))?;
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log_is_whole_lines() {
        let log = b"a\nb\nc\n";
        assert_eq!([last_lines(log, 0), last_lines(log, 1), last_lines(log, 2), last_lines(log, 9)], [&b""[..], b"c\n", b"b\nc\n", log]);
        assert_eq!(last_lines(b"", 3), b"");
    }
}
