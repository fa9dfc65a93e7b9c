//! `beadle daemon`: the service itself, in the foreground.

use super::args::DaemonArgs;
use super::exit::{Coded, Exit};
use super::text::{brief, count, safe};
use super::{Context, Outcome};
use crate::api::policies;
use crate::api::types::{CheckDoc, RehearsalDoc};
use crate::daemon;

/// Runs until it is told to end. `--detach` leaves the caller's terminal session, so that a closed terminal does not end it.
pub async fn run(cx: &mut Context, args: DaemonArgs) -> Outcome {
    if args.detach {
        // why ignore: it fails only for the leader of a process group, which has no terminal to lose here.
        let _ = rustix::process::setsid();
    }
    let folders = cx.folders()?;
    if args.rehearse {
        let found = tokio::task::spawn_blocking(move || daemon::rehearse(&folders)).await?.map_err(coded)?;
        let against = found.against();
        let doc = RehearsalDoc {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema: found.schema,
            found_schema: found.found,
            session_count: found.report.sessions,
            event_count: found.report.events,
            finding_count: against.len() as u64,
            first_finding: against.first().map(|f| format!("{}: {}", f.session.as_deref().unwrap_or("the host"), f.detail)),
        };
        return rehearsed(cx, &doc);
    }
    if args.check {
        let found = daemon::check(folders).await.map_err(coded)?;
        let doc = CheckDoc {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema: found.schema,
            found_schema: found.found_schema,
            policies: policies(&found.policies),
        };
        return said(cx, &doc);
    }
    daemon::run(folders).await.map_err(coded)?;
    Ok(Exit::Done)
}

fn coded(e: daemon::Error) -> Coded {
    let exit = if matches!(e, daemon::Error::Config(_)) { Exit::Usage } else { Exit::Internal };
    Coded { exit, code: e.code().to_owned(), message: e.to_string() }
}

fn said(cx: &mut Context, doc: &CheckDoc) -> Outcome {
    let failed: Vec<_> = doc.policies.iter().filter(|p| p.state != "ready").collect();
    let exit = if failed.is_empty() { Exit::Done } else { Exit::No };
    if cx.printer.json() {
        cx.printer.document(doc)?;
        return Ok(exit);
    }
    let found = doc.found_schema.map_or_else(|| "none yet".to_owned(), |n| n.to_string());
    cx.printer.line(&format!("beadle {} could run here: store schema {found}, written as {}", safe(&doc.version), doc.schema))?;
    for p in failed {
        let why = p.detail.as_deref().map(|d| brief(d, 300)).unwrap_or_default();
        cx.printer.note(&format!("policy {} fails: {why}", safe(&p.name)))?;
    }
    Ok(exit)
}

fn rehearsed(cx: &mut Context, doc: &RehearsalDoc) -> Outcome {
    if cx.printer.json() {
        cx.printer.document(doc)?;
    } else {
        let what = format!("{} events of {} sessions", count(doc.event_count), count(doc.session_count));
        cx.printer.line(&format!(
            "a copy of the store was brought to schema {}: {what}; {} findings",
            doc.schema,
            count(doc.finding_count)
        ))?;
        if let Some(first) = &doc.first_finding {
            cx.printer.note(&brief(first, 300))?;
        }
    }
    Ok(if doc.finding_count == 0 { Exit::Done } else { Exit::No })
}
