//! `beadle plugin logs`: what a plugin has logged, traps with the guest's own functions among it: the newest lines over all sessions, or
//! those of one live session's chain.

use std::time::Duration;

use crate::api::client;
use crate::api::types::PluginLogDoc;
use crate::cli::args::PluginLogsArgs;
use crate::cli::exit::{Coded, Exit};
use crate::cli::printer::Tone;
use crate::cli::text::safe;
use crate::cli::{Context, Outcome};

/// How often a followed log is looked at.
const FOLLOW: Duration = Duration::from_millis(300);

pub async fn logs(cx: &mut Context, args: PluginLogsArgs) -> Outcome {
    if args.policy.is_none() {
        match cx.client()?.kept_plugin_logs(&args.name, 0, Some(args.tail)).await {
            Ok(doc) => return kept(cx, &args, doc).await,
            Err(client::Error::Refused { status: 404, .. }) if !args.follow => {}
            Err(e) => return Err(e.into()),
        }
    }
    let page = cx.client()?.plugin_logs(&args.name, args.policy.as_deref()).await?;
    if let (Some(policy), true) = (&args.policy, page.items.is_empty()) {
        let message = format!("no policy {policy:?} is loaded in the chain of {}; see `beadle policy ls`", args.name);
        return Err(Coded { exit: Exit::NotFound, code: "BDL-AUTHOR-011".to_owned(), message }.into());
    }
    if cx.printer.json() {
        for doc in &page.items {
            cx.printer.document(doc)?;
        }
        return Ok(Exit::Done);
    }
    let several = page.items.len() > 1;
    for doc in &page.items {
        show(cx, doc, several)?;
    }
    if page.items.iter().all(|d| d.lines.is_empty()) {
        cx.printer.note("nothing was logged")?;
    }
    Ok(Exit::Done)
}

/// What is kept of a plugin; where it is followed, until it is broken off.
async fn kept(cx: &mut Context, args: &PluginLogsArgs, mut doc: PluginLogDoc) -> Outcome {
    if doc.lines.is_empty() && !args.follow && !cx.printer.json() {
        cx.printer.note("nothing was logged")?;
    }
    loop {
        if cx.printer.json() {
            if !args.follow || !doc.lines.is_empty() {
                cx.printer.document(&doc)?;
            }
        } else {
            show(cx, &doc, false)?;
        }
        if !args.follow {
            return Ok(Exit::Done);
        }
        tokio::time::sleep(FOLLOW).await;
        doc = cx.client()?.kept_plugin_logs(&args.name, doc.next.unwrap_or(0), None).await?;
    }
}

fn show(cx: &mut Context, doc: &PluginLogDoc, named: bool) -> anyhow::Result<()> {
    for line in &doc.lines {
        let tone = match line.level.as_str() {
            "error" => Tone::Bad,
            "warn" => Tone::Question,
            _ => Tone::Plain,
        };
        let name = if named { format!("{} ", safe(&doc.policy)) } else { String::new() };
        cx.printer.toned(tone, &format!("{} {:<5} {name}{}", safe(&line.at), safe(&line.level), safe(&line.text)))?;
    }
    if doc.dropped_count > 0 {
        cx.printer.note(&format!("{}: {} lines were left out", safe(&doc.policy), doc.dropped_count))?;
    }
    Ok(())
}
