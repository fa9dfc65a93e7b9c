//! `beadle compact`: makes a session's conversation shorter, or shows what would come of it; `compact show` tells what was done,
//! `compact bench` is the scoreboard.

mod bench;
mod show;

use std::time::{Duration, Instant};

use super::args::{CompactArgs, CompactVerb, Unpin};
use super::exit::{Coded, Exit, UsageError};
use super::printer::Tone;
use super::text::{brief, count, safe};
use super::{Context, Outcome};
use crate::api::client::Client;
use crate::api::types::{CompactDoc, CompactRequestDoc, EventDoc, EventsQuery};
use crate::model::Event;

/// How long an agent that is started anew is waited for.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

pub async fn compact(cx: &mut Context, args: CompactArgs) -> Outcome {
    match args.verb {
        Some(CompactVerb::Bench(args)) => return bench::bench(cx, args).await,
        Some(CompactVerb::Show(args)) => return show::show(cx, args).await,
        None => {}
    }
    let Some(session) = args.session else { return Err(UsageError("name a session".to_owned()).into()) };
    let request = CompactRequestDoc {
        strategy: args.strategy.map(|s| absolute(&s)).transpose()?,
        config: args.config,
        target: args.target,
        unpin_user: args.unpin.contains(&Unpin::User),
        unpin_system: args.unpin.contains(&Unpin::System),
        dry_run: args.dry_run,
    };
    let client = cx.client()?;
    let doc = client.compact(&session, &request).await?;
    let Some(began) = doc.began_seq else { return show(cx, &doc).map(|()| Exit::Done) };
    match done(&client, &doc.session, began).await? {
        Some(event) => finish(cx, &doc, &event),
        None => {
            let text = "the agent was not back within 3 minutes; see `beadle events`";
            cx.printer.notice(Tone::Bad, text)?;
            Ok(Exit::No)
        }
    }
}

/// A path as the daemon understands it; names stay.
fn absolute(strategy: &str) -> anyhow::Result<String> {
    if !strategy.contains('/') && !strategy.ends_with(".wasm") {
        return Ok(strategy.to_owned());
    }
    Ok(std::path::absolute(strategy)?.display().to_string())
}

fn show(cx: &mut Context, doc: &CompactDoc) -> anyhow::Result<()> {
    if cx.printer.json() {
        return Ok(cx.printer.document(doc)?);
    }
    if cx.printer.quiet() {
        return Ok(cx.printer.line(&doc.tokens_after.to_string())?);
    }
    let saved = doc.tokens_before.saturating_sub(doc.tokens_after);
    cx.printer.fields(&[
        ("strategy", format!("{} {}", safe(&doc.strategy), safe(&doc.version))),
        (
            "tokens",
            format!("{} to {} ({} saved; {})", count(doc.tokens_before), count(doc.tokens_after), count(saved), safe(&doc.estimator)),
        ),
        ("target", format!("{}, {}", count(doc.target), if doc.reached { "reached" } else { "not reached" })),
        (
            "entries",
            format!(
                "{} dropped, {} changed, {} kept ({} of them pinned and named by an edit)",
                count(doc.dropped_count),
                count(doc.changed_count),
                count(doc.retained_count),
                count(doc.spared_count)
            ),
        ),
        ("edits", count(doc.edits.len() as u64)),
    ])?;
    if doc.dry_run {
        cx.printer.note("nothing was done; leave out --dry-run to do it")?;
    }
    Ok(())
}

/// The event that tells what came of it, once the agent is back.
async fn done(client: &Client, session: &str, began: u64) -> anyhow::Result<Option<EventDoc>> {
    let give_up = Instant::now() + PATIENCE;
    let (mut after, mut told) = (began, None);
    while Instant::now() < give_up {
        let page = client.events(session, &EventsQuery { from: Some(after + 1), ..EventsQuery::default() }).await?;
        for e in page.items {
            after = e.seq;
            match e.kind.as_str() {
                "context_compacted" => told = Some(e),
                "compaction_failed" if told.is_none() => told = Some(e),
                "attempt_started" | "session_ended" => return Ok(told.or(Some(e))),
                _ => {}
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(None)
}

fn finish(cx: &mut Context, doc: &CompactDoc, event: &EventDoc) -> Outcome {
    match event.event()? {
        Event::ContextCompacted(c) => {
            // why: it was planned once more when the agent had written all.
            let mut doc = doc.clone();
            doc.tokens_before = c.tokens_before.unwrap_or(doc.tokens_before);
            doc.tokens_after = c.tokens_after.unwrap_or(doc.tokens_after);
            if let Some(h) = c.host {
                (doc.dropped_count, doc.changed_count, doc.retained_count) = (h.dropped, h.changed, h.retained);
                (doc.spared_count, doc.reached) = (h.spared, h.reached);
            }
            show(cx, &doc)?;
            Ok(Exit::Done)
        }
        Event::CompactionFailed(f) => {
            let message = format!("not compacted after all, and the conversation goes on as it was: {}", brief(&f.reason, 500));
            Err(Coded { exit: Exit::No, code: f.code, message }.into())
        }
        other => {
            cx.printer.notice(Tone::Bad, &format!("not compacted: the session has a {}", other.kind()))?;
            Ok(Exit::No)
        }
    }
}
