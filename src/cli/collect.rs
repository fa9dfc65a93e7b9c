//! `beadle host gc` and `host backup`.

use std::path::PathBuf;

use super::args::GcArgs;
use super::exit::Exit;
use super::text::{brief, count, kib, safe};
use super::{Context, Outcome};
use crate::api::types::{ArchiveDoc, BackupRequest, CollectRequestDoc};

/// Prints each item, one a line; 1 where something could not be removed.
pub async fn gc(cx: &mut Context, args: GcArgs) -> Outcome {
    let request = CollectRequestDoc {
        before: args.older_than,
        raw_before: args.raw_older_than,
        over_bytes: args.over,
        outcomes: args.outcome,
        keep: args.keep,
        dry_run: args.dry_run,
    };
    let doc = cx.client()?.collect(&request).await?;
    let exit = if doc.failed_count > 0 { Exit::No } else { Exit::Done };
    if cx.printer.json() {
        cx.printer.document(&doc)?;
        return Ok(exit);
    }
    for i in &doc.items {
        let failed = i.failed.as_deref().map(|f| format!("; it stays: {}", brief(f, 200))).unwrap_or_default();
        cx.printer.line(&format!("{} {} ({}): {}{failed}", safe(&i.kind), safe(&i.name), kib(i.bytes.div_ceil(1024)), safe(&i.why)))?;
    }
    for k in &doc.kept {
        cx.printer.note(&format!("session {} stays: {}", safe(&k.session), brief(&k.why, 200)))?;
    }
    let done = doc.items.len() as u64 - doc.failed_count;
    let word = if doc.dry_run { "would go" } else { "removed" };
    cx.printer.note(&format!("{} {word}, {}", count(done), kib(doc.bytes.div_ceil(1024))))?;
    Ok(exit)
}

pub async fn backup(cx: &mut Context, to: PathBuf) -> Outcome {
    let to = std::path::absolute(to)?.to_string_lossy().into_owned();
    let doc = cx.client()?.backup(&BackupRequest { to }).await?;
    if cx.printer.json() {
        cx.printer.document(&doc)?;
    } else {
        let size = kib(doc.bytes.div_ceil(1024));
        cx.printer.line(&format!("{} sessions in {} files, {size}: {}", count(doc.session_count), count(doc.file_count), safe(&doc.to)))?;
        for m in &doc.missing {
            cx.printer.note(&not_in_it(m))?;
        }
        cx.printer.note("it holds the host's keys and everything that sessions said: keep it as you keep those")?;
    }
    Ok(if doc.missing.is_empty() { Exit::Done } else { Exit::No })
}

/// An archive that a backup has not got as it was written.
pub fn not_in_it(m: &ArchiveDoc) -> String {
    let why = m.error.as_ref().map(|e| brief(&e.message, 200)).unwrap_or_default();
    let file = safe(m.file.as_deref().unwrap_or_default());
    format!("not in it as it was written: {file}, events {} to {} of {}: {why}", m.first_seq, m.last_seq, safe(&m.session))
}
