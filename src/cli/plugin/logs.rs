//! `beadle plugin logs`: what the plugins of a live session have logged, traps with the guest's own functions among it.

use crate::api::types::PluginLogDoc;
use crate::cli::args::PluginLogsArgs;
use crate::cli::exit::{Coded, Exit};
use crate::cli::printer::Tone;
use crate::cli::text::safe;
use crate::cli::{Context, Outcome};

pub async fn logs(cx: &mut Context, args: PluginLogsArgs) -> Outcome {
    let page = cx.client()?.plugin_logs(&args.session, args.policy.as_deref()).await?;
    if let (Some(policy), true) = (&args.policy, page.items.is_empty()) {
        let message = format!("no policy {policy:?} is loaded in the chain of {}; see `beadle policy ls`", args.session);
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
