//! `beadle compact show`: what was compacted of a session, and its conversation as it was before.

use super::super::args::CompactShowArgs;
use super::{Context, Outcome};
use crate::api::types::{EventDoc, EventsQuery, PAGE_MAX};
use crate::cli::exit::{Coded, Exit};
use crate::cli::text::{age, brief, count};
use crate::model::{Clock, Event, SystemClock};

/// Events that tell of it.
const KINDS: &str = "context_compacted,compaction_failed";
/// Most of them that are shown, the newest.
const SHOWN: usize = 200;

pub async fn show(cx: &mut Context, args: CompactShowArgs) -> Outcome {
    let client = cx.client()?;
    let (mut events, mut from) = (Vec::new(), Some(1));
    while let Some(seq) = from {
        let query = EventsQuery { from: Some(seq), limit: Some(PAGE_MAX), kinds: Some(KINDS.to_owned()), ..EventsQuery::default() };
        let page = client.events(&args.session, &query).await?;
        events.extend(page.items);
        events.drain(..events.len().saturating_sub(SHOWN));
        from = page.next.and_then(|n| n.parse().ok()).filter(|n| *n > seq);
    }
    if args.original {
        let newest =
            || events.iter().rev().find(|e| matches!(e.event(), Ok(Event::ContextCompacted(c)) if c.host.is_some())).map(|e| e.seq);
        let Some(seq) = args.seq.or_else(newest) else {
            let message =
                format!("session {} was not compacted by the host; its record is as the agent wrote it", brief(&args.session, 80));
            return Err(Coded { exit: Exit::NotFound, code: "BDL-SESSION-057".to_owned(), message }.into());
        };
        client.original(&args.session, seq, cx.printer.sink()).await?;
        return Ok(Exit::Done);
    }
    if cx.printer.json() {
        for e in &events {
            cx.printer.document(e)?;
        }
        return Ok(Exit::Done);
    }
    if cx.printer.quiet() {
        for e in &events {
            cx.printer.line(&e.seq.to_string())?;
        }
        return Ok(Exit::Done);
    }
    if events.is_empty() {
        cx.printer.note("nothing of it was compacted")?;
        return Ok(Exit::Done);
    }
    let now = SystemClock.wall_ms();
    let rows: Vec<_> = events.iter().map(|e| row(e, now)).collect();
    cx.printer.table(&["SEQ", "AGE", "TRIGGER", "STRATEGY", "TOKENS", "ENTRIES", "RESULT"], &rows)?;
    Ok(Exit::Done)
}

fn row(e: &EventDoc, now: i64) -> Vec<String> {
    let known = |n: Option<u64>| n.map_or_else(|| "unknown".to_owned(), count);
    let (trigger, strategy, tokens, entries, result) = match e.event() {
        Ok(Event::ContextCompacted(c)) => {
            let tokens = format!("{} to {}", known(c.tokens_before), known(c.tokens_after));
            let Some(h) = &c.host else {
                return cells(e, now, &c.trigger, ["the agent's own".to_owned(), tokens, String::new(), "done".to_owned()]);
            };
            let kept = if h.copy.is_some() { "done; original kept" } else { "done; original not kept" };
            let entries = format!("{} dropped, {} changed", count(h.dropped), count(h.changed));
            (c.trigger, format!("{} {}", brief(&h.strategy, 40), brief(&h.version, 20)), tokens, entries, kept.to_owned())
        }
        Ok(Event::CompactionFailed(f)) => {
            let result = format!("{} [{}]", brief(&f.reason, 100), brief(&f.code, 40));
            (f.trigger, brief(&f.strategy, 40), String::new(), String::new(), result)
        }
        _ => (String::new(), String::new(), String::new(), String::new(), String::new()),
    };
    cells(e, now, &trigger, [strategy, tokens, entries, result])
}

fn cells(e: &EventDoc, now: i64, trigger: &str, rest: [String; 4]) -> Vec<String> {
    [e.seq.to_string(), age(&e.at, now), brief(trigger, 20)].into_iter().chain(rest).collect()
}
