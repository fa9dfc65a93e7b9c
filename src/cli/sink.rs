//! `beadle sink`: how far audit sinks got, and what an operator does about it.

use super::args::{DeadLettersArgs, SinkRetryArgs, SinkSkipArgs, SinkStatusArgs, SinkVerb};
use super::confirm::confirmed;
use super::exit::{Coded, Exit};
use super::text::{age, brief, count, micros, safe};
use super::{Context, Outcome};
use crate::api::types::{DeadLettersQuery, SinkDoc, SinkRetryRequest, SinkSkipRequest};
use crate::model::{Clock, SystemClock};

pub async fn run(cx: &mut Context, verb: SinkVerb) -> Outcome {
    match verb {
        SinkVerb::Status(args) => status(cx, args).await,
        SinkVerb::Retry(args) => retry(cx, args).await,
        SinkVerb::Skip(args) => skip(cx, args).await,
        SinkVerb::DeadLetters(args) => dead_letters(cx, args).await,
        SinkVerb::Key => {
            let key = cx.client()?.sinks().await?.key;
            if cx.printer.json() {
                cx.printer.document(&serde_json::json!({ "key": key }))?
            } else {
                cx.printer.line(&safe(&key))?
            }
            Ok(Exit::Done)
        }
    }
}

async fn status(cx: &mut Context, args: SinkStatusArgs) -> Outcome {
    let doc = cx.client()?.sinks().await?;
    if let Some(name) = args.name {
        let Some(sink) = doc.sinks.iter().find(|s| s.name == name) else {
            let message = format!("there is no sink {}; `beadle sink status` lists them", brief(&name, 80));
            return Err(Coded { exit: Exit::NotFound, code: "BDL-SINK-001".to_owned(), message }.into());
        };
        match (cx.printer.json(), cx.printer.quiet()) {
            (true, _) => cx.printer.document(sink)?,
            (_, true) => cx.printer.line(&sink.lag_events.to_string())?,
            _ => cx.printer.fields(&fields(sink))?,
        }
        return Ok(if sink.lagging { Exit::No } else { Exit::Done });
    }
    if cx.printer.json() {
        for sink in &doc.sinks {
            cx.printer.document(sink)?;
        }
        return Ok(Exit::Done);
    }
    if doc.sinks.is_empty() {
        cx.printer.note("no sink is configured; a [[sink]] in your own configuration adds one")?;
    } else if cx.printer.quiet() {
        for sink in &doc.sinks {
            cx.printer.line(&safe(&sink.name))?;
        }
    } else {
        let rows: Vec<_> = doc.sinks.iter().map(row).collect();
        cx.printer.table(&["NAME", "KIND", "MODE", "LAG", "BEHIND", "DELIVERED", "DEAD", "STATE"], &rows)?;
    }
    Ok(Exit::Done)
}

async fn retry(cx: &mut Context, args: SinkRetryArgs) -> Outcome {
    let doc = cx.client()?.retry_sink(&args.name, &SinkRetryRequest { dead_letters: args.dead_letters }).await?;
    if cx.printer.json() {
        cx.printer.document(&doc)?;
    } else if !cx.printer.quiet() {
        let name = safe(&doc.sink);
        cx.printer.line(&match doc.redelivered {
            Some(n) => format!("{name}: {} dead letters delivered, {} left", count(n), count(doc.dead_letters)),
            None => format!("{name} is tried now"),
        })?;
        if let Some(trouble) = &doc.trouble {
            cx.printer.note(&brief(trouble, 400))?;
        }
    }
    Ok(if doc.trouble.is_some() { Exit::No } else { Exit::Done })
}

async fn skip(cx: &mut Context, args: SinkSkipArgs) -> Outcome {
    let request = SinkSkipRequest { what: args.what };
    let doc = confirmed(cx, None, async |client| client.skip_sink(&args.name, &request).await).await?;
    match (cx.printer.json(), cx.printer.quiet()) {
        (true, _) => cx.printer.document(&doc)?,
        (_, true) => cx.printer.line(&doc.skipped.to_string())?,
        _ => cx.printer.line(&format!("{}: {} skipped, kept as dead letters", safe(&doc.sink), count(doc.skipped)))?,
    }
    Ok(Exit::Done)
}

async fn dead_letters(cx: &mut Context, args: DeadLettersArgs) -> Outcome {
    let query = DeadLettersQuery { after: None, limit: Some(args.limit.into()) };
    let page = cx.client()?.dead_letters(&args.name, &query).await?;
    if cx.printer.json() {
        for letter in &page.items {
            cx.printer.document(letter)?;
        }
        return Ok(Exit::Done);
    }
    if cx.printer.quiet() {
        for letter in &page.items {
            cx.printer.line(&format!("{}:{}", safe(&letter.session), letter.seq))?;
        }
        return Ok(Exit::Done);
    }
    if page.items.is_empty() {
        cx.printer.note("there is none")?;
        return Ok(Exit::Done);
    }
    let now = SystemClock.wall_ms();
    let row = |l: &crate::api::types::DeadLetterDoc| {
        vec![l.id.to_string(), format!("{}:{}", safe(&l.session), l.seq), brief(&l.kind, 40), age(&l.at, now), brief(&l.reason, 100)]
    };
    let rows: Vec<_> = page.items.iter().map(row).collect();
    cx.printer.table(&["ID", "EVENT", "KIND", "AGE", "REASON"], &rows)?;
    if page.next.is_some() {
        cx.printer.note("there are more; --limit shows up to 1,000")?;
    }
    Ok(Exit::Done)
}

fn state(s: &SinkDoc) -> String {
    match (&s.last_error, &s.next_try_at) {
        (Some(e), Some(_)) => brief(&e.message, 80),
        _ if s.lagging => "behind".to_owned(),
        _ => "ok".to_owned(),
    }
}

fn row(s: &SinkDoc) -> Vec<String> {
    vec![
        safe(&s.name),
        safe(&s.kind),
        safe(&s.mode),
        count(s.lag_events),
        micros(s.lag_ms.saturating_mul(1000)),
        count(s.delivered),
        count(s.dead_letters),
        state(s),
    ]
}

fn fields(s: &SinkDoc) -> Vec<(&'static str, String)> {
    let some = |n: u64| if n == 0 { String::new() } else { count(n) };
    let last = s.last_error.as_ref().map(|e| format!("{} ({})", brief(&e.message, 400), safe(&e.at))).unwrap_or_default();
    vec![
        ("name", safe(&s.name)),
        ("kind", safe(&s.kind)),
        (
            "plugin",
            s.plugin.as_ref().map(|p| format!("{} {} ({})", safe(&p.name), safe(&p.version), brief(&p.digest, 16))).unwrap_or_default(),
        ),
        ("mode", safe(&s.mode)),
        ("group", s.group.as_deref().map(safe).unwrap_or_default()),
        ("cursor", format!("row {}, host chain {}", count(s.cursor.row), count(s.cursor.host_seq))),
        ("lag", format!("{} events, {}", count(s.lag_events), micros(s.lag_ms.saturating_mul(1000)))),
        ("state", if s.lagging { "too far behind".to_owned() } else { "ok".to_owned() }),
        ("delivered", count(s.delivered)),
        ("dropped", some(s.dropped)),
        ("skipped", some(s.skipped)),
        ("dead letters", some(s.dead_letters)),
        ("failed tries", some(s.failures)),
        ("last error", last),
        ("next try", s.next_try_at.as_deref().map(safe).unwrap_or_default()),
    ]
}
