//! `beadle verify` and `beadle export`: the log proves itself, and leaves as JSON lines.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::args::VerifyArgs;
use super::exit::{Exit, UsageError};
use super::printer::Tone;
use super::text::{brief, count, safe};
use super::{Context, Outcome, heads};
use crate::api::types::{VerifyDoc, VerifyRequest};

/// Largest checkpoint file in bytes.
const CHECKPOINT_MAX: u64 = 3 << 20;

/// 0 when everything holds, 1 when anything was found.
pub async fn verify(cx: &mut Context, args: VerifyArgs) -> Outcome {
    let against = args.against.as_deref().map(read_checkpoint).transpose()?;
    let compared = against.is_some();
    let doc = cx.client()?.verify(&VerifyRequest { session: args.session, against }).await?;
    if let Some(path) = &args.save {
        save(path, &doc)?;
        cx.printer.note(&format!(
            "checkpoint written to {}; keep it where this machine's user cannot change it",
            safe(&path.to_string_lossy())
        ))?;
    }
    if cx.printer.json() {
        cx.printer.document(&doc)?;
    } else {
        report(cx, &doc, compared)?;
    }
    Ok(if doc.ok { Exit::Done } else { Exit::No })
}

fn report(cx: &mut Context, doc: &VerifyDoc, compared: bool) -> anyhow::Result<()> {
    for f in &doc.findings {
        let place = f.session.as_deref().map_or_else(|| "host chain".to_owned(), safe);
        let seq = f.seq.map(|s| format!(" event {s}")).unwrap_or_default();
        cx.printer.toned(Tone::Bad, &format!("✗ {place}{seq}: {}", brief(&f.what, 400)))?;
    }
    for e in &doc.erasures {
        cx.printer.line(&format!("· {} event {}: its body was erased, as the log tells", safe(&e.session), e.seq))?;
    }
    let mut seen = format!("{} events of {} sessions", count(doc.event_count), count(doc.session_count));
    if doc.archive_count > 0 {
        seen.push_str(&format!(", {} archives", count(doc.archive_count)));
    }
    if doc.ok {
        let more = if compared { " and agree with the checkpoint" } else { "" };
        cx.printer.toned(Tone::Good, &format!("✓ whole: {seen}, every hash holds{more}"))?;
    } else {
        cx.printer.toned(Tone::Bad, &format!("✗ not whole: {} findings in {seen}", count(doc.finding_count)))?;
    }
    Ok(())
}

fn read_checkpoint(path: &Path) -> anyhow::Result<serde_json::Value> {
    let bad = |why: String| {
        let path = safe(&path.to_string_lossy());
        UsageError(format!("--against {path}: {why}; give a file that `beadle verify --save` or a sink of kind jsonl wrote"))
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| bad(e.to_string()))?;
    file.take(CHECKPOINT_MAX + 1).read_to_end(&mut bytes).map_err(|e| bad(e.to_string()))?;
    if let Some(heads) = sink_heads(path, &bytes).map_err(&bad)? {
        return Ok(heads);
    }
    if bytes.len() as u64 > CHECKPOINT_MAX {
        return Err(bad(format!("over {CHECKPOINT_MAX} bytes")).into());
    }
    Ok(serde_json::from_slice(&bytes).map_err(|e| bad(format!("not JSON: {e}")))?)
}

/// What a sink wrote has one document a line, and each names its kind; a checkpoint has not.
fn sink_heads(path: &Path, begin: &[u8]) -> Result<Option<serde_json::Value>, String> {
    let first = begin.split(|b| *b == b'\n').next().unwrap_or_default();
    let is_event =
        serde_json::from_slice::<serde_json::Value>(first).is_ok_and(|v| v.get("kind").is_some() || v.get("specversion").is_some());
    if !is_event {
        return Ok(None);
    }
    heads::read(path)?.map(Some).ok_or_else(|| "it holds no signed head".to_owned())
}

/// Never over an older one: a checkpoint is evidence.
fn save(path: &Path, doc: &VerifyDoc) -> anyhow::Result<()> {
    let bad = |why: String| UsageError(format!("--save {}: {why}; give a new file", safe(&path.to_string_lossy())));
    let checkpoint = doc.checkpoint.as_ref().ok_or_else(|| bad("the daemon gave no checkpoint".into()))?;
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).map_err(|e| bad(e.to_string()))?;
    let mut text = serde_json::to_vec(checkpoint)?;
    text.push(b'\n');
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(|e| bad(e.to_string()))?;
    Ok(())
}

/// The session's log as the store gives it. Octets as they are: the hashes are over them.
pub async fn export(cx: &mut Context, id: &str) -> Outcome {
    let client = cx.client()?;
    client.export(id, cx.printer.sink()).await?;
    Ok(Exit::Done)
}
