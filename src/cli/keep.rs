//! `beadle archive`, `beadle redact` and `beadle transcript`.

use std::io::{Read, Write};

use super::args::{ArchiveArgs, ArchiveVerb, RedactArgs, TranscriptArgs};
use super::confirm::confirmed;
use super::exit::{Exit, UsageError};
use super::logs::Screen;
use super::text::{brief, count, kib, safe};
use super::{Context, Outcome};
use crate::api::types::{ArchiveDoc, ArchiveRequest, ArchivesRequest, ERASE_TEXT_MAX, RedactDoc, RedactRequest, TranscriptQuery};

pub async fn archive(cx: &mut Context, args: ArchiveArgs) -> Outcome {
    let client = cx.client()?;
    if let Some(ArchiveVerb::Restore { session }) = args.verb {
        let page = client.restore_archives(&session).await?;
        for doc in &page.items {
            told(cx, doc, &format!("events {} to {} are back in the database", doc.first_seq, doc.last_seq))?;
        }
        if page.items.is_empty() {
            cx.printer.note("nothing of it is archived")?;
        }
        return Ok(Exit::Done);
    }
    if let Some(ended_before) = args.ended_before {
        let page = client.archive_ended(&ArchivesRequest { ended_before }).await?;
        let mut exit = Exit::Done;
        for doc in &page.items {
            one(cx, doc)?;
            exit = if doc.error.is_some() { Exit::No } else { exit };
        }
        if page.items.is_empty() {
            cx.printer.note("no session ended before that and is not archived")?;
        }
        return Ok(exit);
    }
    let file = args.to.map(|p| std::path::absolute(&p)).transpose()?.map(|p| p.to_string_lossy().into_owned());
    let (session, request) = (args.session.unwrap_or_default(), ArchiveRequest { below: args.below, file });
    let doc = confirmed(cx, None, async |client| client.archive(&session, &request).await).await?;
    one(cx, &doc)?;
    Ok(Exit::Done)
}

fn one(cx: &mut Context, doc: &ArchiveDoc) -> anyhow::Result<()> {
    let text = match &doc.error {
        Some(e) => format!("not archived: {}", brief(&e.message, 300)),
        None => {
            let size = kib(doc.bytes.unwrap_or(0).div_ceil(1024));
            format!("events {} to {} archived to {}, {size}", doc.first_seq, doc.last_seq, safe(doc.file.as_deref().unwrap_or_default()))
        }
    };
    told(cx, doc, &text)
}

fn told(cx: &mut Context, doc: &ArchiveDoc, what: &str) -> anyhow::Result<()> {
    match (cx.printer.json(), cx.printer.quiet()) {
        (true, _) => cx.printer.document(doc)?,
        (_, true) => cx.printer.line(&safe(&doc.session))?,
        _ => cx.printer.line(&format!("{}: {what}", safe(&doc.session)))?,
    }
    Ok(())
}

pub async fn redact(cx: &mut Context, args: RedactArgs) -> Outcome {
    let text = args.pattern.map(read_text).transpose()?;
    let request = RedactRequest { seq: args.seq, text, reason: args.reason };
    let doc = confirmed(cx, None, async |client| client.redact(&args.session, &request).await).await?;
    if cx.printer.json() {
        cx.printer.document(&doc)?;
    } else {
        say(cx, &doc)?;
    }
    let nothing = doc.events.is_empty() && doc.memories == 0 && doc.blobs.is_empty();
    Ok(if nothing || !doc.failed.is_empty() { Exit::No } else { Exit::Done })
}

fn say(cx: &mut Context, doc: &RedactDoc) -> anyhow::Result<()> {
    if doc.events.is_empty() && doc.memories == 0 {
        cx.printer.note("no event holds it; nothing was erased")?;
    }
    if doc.memories > 0 {
        cx.printer.line(&format!("erased from {} entries of memory", count(doc.memories)))?;
    }
    for e in &doc.events {
        cx.printer.line(&format!("{}: event {} erased ({})", safe(&doc.session), e.seq, safe(&e.kind)))?;
    }
    if !doc.blobs.is_empty() {
        cx.printer.line(&format!("{} payloads erased", count(doc.blobs.len() as u64)))?;
    }
    for b in &doc.shared {
        cx.printer.note(&format!(
            "payload {} stays: event {} of {} names it too; erase it there",
            safe(&b.blob),
            b.seq,
            safe(&b.session)
        ))?;
    }
    for path in &doc.overwritten {
        cx.printer.line(&format!("overwritten in {}", safe(path)))?;
    }
    for place in &doc.left {
        cx.printer.note(&format!("it may still stand in {}", safe(place)))?;
    }
    for what in &doc.failed {
        cx.printer.note(&format!("not done: {}", brief(what, 500)))?;
    }
    if doc.more {
        cx.printer.note("more events hold it; the same command again takes the next ones")?;
    }
    if (!doc.events.is_empty() || doc.memories > 0) && !doc.scrubbed {
        cx.printer.note("the database's log could not be emptied yet; it is when the host starts next")?;
    }
    Ok(())
}

/// Octets of an agent on their way to a terminal.
struct Shown<'w> {
    screen: Screen,
    to: &'w mut dyn Write,
}

impl Write for Shown<'_> {
    fn write(&mut self, piece: &[u8]) -> std::io::Result<usize> {
        self.to.write_all(self.screen.show(piece).as_bytes())?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// Octets as they were kept, except on a terminal; or what there is.
pub async fn transcript(cx: &mut Context, args: TranscriptArgs) -> Outcome {
    let client = cx.client()?;
    if !args.list {
        let wanted = TranscriptQuery { attempt: args.attempt, source: args.source };
        if cx.printer.on_terminal() && !args.raw {
            let mut shown = Shown { screen: Screen::default(), to: cx.printer.sink() };
            client.transcript(&args.session, &wanted, &mut shown).await?;
        } else {
            client.transcript(&args.session, &wanted, cx.printer.sink()).await?;
        }
        return Ok(Exit::Done);
    }
    let page = client.transcripts(&args.session).await?;
    let mut rows = Vec::new();
    for doc in &page.items {
        if cx.printer.json() {
            cx.printer.document(doc)?;
        }
        let state = if doc.blob.is_some() { "kept" } else { "erased" };
        rows.push(vec![doc.attempt.to_string(), safe(&doc.source), kib(doc.bytes.div_ceil(1024)), safe(&doc.at), state.to_owned()]);
    }
    if !cx.printer.json() {
        cx.printer.table(&["ATTEMPT", "SOURCE", "SIZE", "AT", "STATE"], &rows)?;
    }
    Ok(Exit::Done)
}

fn read_text(given: String) -> anyhow::Result<String> {
    if given != "-" {
        return Ok(given);
    }
    let mut text = String::new();
    std::io::stdin().take(ERASE_TEXT_MAX as u64 + 2).read_to_string(&mut text)?;
    let text = text.strip_suffix('\n').unwrap_or(&text).to_owned();
    if text.is_empty() {
        return Err(UsageError("--pattern -: standard input is empty; give the text there".to_owned()).into());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_wrote_does_not_act_on_a_terminal() {
        let mut out = Vec::new();
        let mut shown = Shown { screen: Screen::default(), to: &mut out };
        shown.write_all(b"{\"a\":1}\n\x1b]0;title\x07").unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "{\"a\":1}\n\\x1b]0;title\\x07");
    }
}
