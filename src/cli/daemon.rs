//! `beadle daemon`: the service itself, in the foreground.

use super::args::DaemonArgs;
use super::exit::{Coded, Exit};
use super::text::{brief, safe};
use super::{Context, Outcome};
use crate::api::policies;
use crate::api::types::CheckDoc;
use crate::daemon;

/// Runs until it is told to end. `--detach` leaves the caller's terminal session, so that a closed terminal does not end it.
pub async fn run(cx: &mut Context, args: DaemonArgs) -> Outcome {
    if args.detach {
        // why ignore: it fails only for the leader of a process group, which has no terminal to lose here.
        let _ = rustix::process::setsid();
    }
    let folders = cx.folders()?;
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
