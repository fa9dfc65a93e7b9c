//! `beadle events`: the log itself, one line an event.

use super::args::EventsArgs;
use super::exit::{Exit, UsageError};
use super::printer::Tone;
use super::text::{LINE_MAX, brief, count, safe};
use super::timeline::Timeline;
use super::{Context, Outcome};
use crate::api::client::Item;
use crate::api::types::{EventDoc, EventsQuery, PAGE_MAX};

struct Show {
    timeline: Option<Timeline>,
    /// Events of several sessions: each line names its own.
    many: bool,
}

/// Pages, or with `-f` the live stream.
pub async fn events(cx: &mut Context, args: EventsArgs) -> Outcome {
    let client = cx.client()?;
    let kinds = (!args.kinds.is_empty()).then(|| args.kinds.join(","));
    if args.timeline && args.session.is_none() {
        return Err(UsageError("--timeline needs a session".into()).into());
    }
    let mut show = Show { timeline: args.timeline.then(Timeline::default), many: args.session.is_none() };
    let mut wanted =
        EventsQuery { from: args.from, tail: args.tail, kinds, attempt: args.attempt, max_lag: args.max_lag, ..EventsQuery::default() };
    let id = match &args.session {
        Some(session) => Some(client.session(session).await?.id),
        None => None,
    };
    if args.follow {
        let mut stream = match &args.after {
            Some(token) => client.stream_after(token, wanted).await?,
            None => client.stream(id.as_deref(), wanted).await?,
        };
        while let Some(item) = stream.next().await {
            match item? {
                Item::Event(doc) => show.event(cx, &doc)?,
                Item::Missed(m) if cx.printer.json() => cx.printer.document(&serde_json::json!({ "missed": m }))?,
                Item::Missed(m) => {
                    let text = format!(
                        "{} events were not given ({}); they come after the token {}",
                        count(m.count),
                        safe(&m.why),
                        safe(&m.after)
                    );
                    cx.printer.notice(Tone::Bad, &text)?;
                }
                Item::End(_) => break,
                Item::Approval(_) | Item::Ready => {}
            }
        }
        return Ok(Exit::Done);
    }
    let Some(id) = id else { return Err(UsageError("name a session, or follow all with -f".into()).into()) };
    wanted.limit = Some(wanted.tail.unwrap_or(PAGE_MAX).min(PAGE_MAX));
    loop {
        let page = client.events(&id, &wanted).await?;
        for doc in &page.items {
            show.event(cx, doc)?;
        }
        match (page.next, page.items.last()) {
            (Some(_), Some(last)) => (wanted.from, wanted.tail) = (Some(last.seq + 1), None),
            _ => return Ok(Exit::Done),
        }
    }
}

impl Show {
    fn event(&mut self, cx: &mut Context, doc: &EventDoc) -> anyhow::Result<()> {
        if cx.printer.json() {
            cx.printer.document(doc)?;
            return Ok(());
        }
        if let Some(timeline) = &mut self.timeline {
            for line in timeline.lines(doc) {
                cx.printer.toned(line.tone, &line.text)?;
            }
            return Ok(());
        }
        let session = if self.many { format!("{}  ", safe(&doc.session)) } else { String::new() };
        let text = format!("{session}{:>5}  {}  {:<20}  {}", doc.seq, safe(&doc.at), safe(&doc.kind), brief(doc.body.get(), LINE_MAX));
        cx.printer.line(&text)?;
        Ok(())
    }
}
