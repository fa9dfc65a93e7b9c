//! `beadle host restore`: works without a daemon, which must not run meanwhile.

use super::args::RestoreArgs;
use super::collect::not_in_it;
use super::exit::{Coded, Exit};
use super::text::{count, safe};
use super::{Context, Outcome};
use crate::api::types::{ArchiveDoc, RestoreDoc};
use crate::daemon;
use crate::model::format_ms;

pub async fn restore(cx: &mut Context, args: RestoreArgs) -> Outcome {
    let folders = cx.folders()?;
    let data = folders.data.display().to_string();
    let done = tokio::task::spawn_blocking(move || daemon::restore(&folders, &args.from, args.replace)).await?;
    let done = done.map_err(|e| Coded { exit: Exit::No, code: e.code().to_owned(), message: e.to_string() })?;
    let doc = RestoreDoc {
        data,
        made_at: format_ms(done.manifest.made_at),
        session_count: done.report.sessions,
        event_count: done.report.events,
        aside: done.aside.map(|p| p.display().to_string()),
        missing: done.manifest.missing.into_iter().map(|m| ArchiveDoc::unread(m.session, (m.first, m.last), &m.path, m.why)).collect(),
    };
    if cx.printer.json() {
        cx.printer.document(&doc)?;
        return Ok(Exit::Done);
    }
    let what = format!("{} events of {} sessions", count(doc.event_count), count(doc.session_count));
    cx.printer.line(&format!("restored to {}: {what}, every hash holds; as of {}", safe(&doc.data), safe(&doc.made_at)))?;
    for m in &doc.missing {
        cx.printer.note(&not_in_it(m))?;
    }
    if let Some(aside) = &doc.aside {
        cx.printer.note(&format!("what stood there is in {}", safe(aside)))?;
    }
    Ok(Exit::Done)
}
