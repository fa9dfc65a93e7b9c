//! `beadle context`: what adds context beside a session's prompts, and what it added.

use serde::Serialize;

use super::args::{ContextAddArgs, ContextKind, ContextVerb};
use super::confirm::confirmed;
use super::exit::Exit;
use super::printer::Tone;
use super::text::{LINE_MAX, brief, count, safe, safe_lines};
use super::{Context, Outcome};
use crate::api::client::Client;
use crate::api::types::{ContextProviderDoc, ContextRequest, EventsQuery, Page};
use crate::model::{ContextAdded, Event, PromptContext};

/// Events of a page: a text may have 64 KiB.
const PAGE: usize = 200;

/// One use of a provider, with the text as the agent got it.
#[derive(Debug, Serialize)]
struct AddedDoc {
    seq: u64,
    added_at: String,
    #[serde(flatten)]
    added: ContextAdded,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

pub async fn run(cx: &mut Context, verb: ContextVerb) -> Outcome {
    match verb {
        ContextVerb::Ls(args) => {
            let page = cx.client()?.context(&args.session).await?;
            list(cx, &page)
        }
        ContextVerb::Add(args) => {
            let session = args.session.clone();
            let request = request(args);
            let page = confirmed(cx, None, async |client| client.add_context(&session, &request).await).await?;
            said(cx, &page, &format!("{} is asked from the next prompt on", safe(&request.name)))
        }
        ContextVerb::Remove { session, name } => {
            let page = cx.client()?.remove_context(&session, &name).await?;
            said(cx, &page, &format!("{} is asked no more", safe(&name)))
        }
        ContextVerb::Show(args) => show(cx, &args.session).await,
    }
}

fn request(a: ContextAddArgs) -> ContextRequest {
    let of_memory = a.tier.is_some() || a.tag.is_some() || a.limit.is_some();
    let follows = match (a.command.is_empty(), a.paths.is_empty()) {
        (false, _) => Some(ContextKind::Command),
        (_, false) => Some(ContextKind::Files),
        _ => of_memory.then_some(ContextKind::Memory),
    };
    ContextRequest {
        name: a.name,
        kind: a.kind.or(follows).map(|k| k.as_str().to_owned()),
        at: a.at.into_iter().map(Into::into).collect(),
        max_bytes: a.max_bytes,
        required: a.required,
        tier: a.tier.map(Into::into),
        tag: a.tag,
        limit: a.limit,
        paths: a.paths,
        command: a.command,
        timeout_ms: a.timeout,
    }
}

fn said(cx: &mut Context, page: &Page<ContextProviderDoc>, text: &str) -> Outcome {
    match (cx.printer.json(), cx.printer.quiet()) {
        (true, _) => return list(cx, page),
        (_, true) => {}
        _ => cx.printer.line(text)?,
    }
    Ok(Exit::Done)
}

fn list(cx: &mut Context, page: &Page<ContextProviderDoc>) -> Outcome {
    let mut rows = Vec::new();
    for p in &page.items {
        match (cx.printer.json(), cx.printer.quiet()) {
            (true, _) => cx.printer.document(p)?,
            (_, true) => cx.printer.line(&safe(&p.name))?,
            _ => rows.push(vec![
                safe(&p.name),
                safe(&p.kind),
                p.at.iter().map(|a| a.as_str()).collect::<Vec<_>>().join(", "),
                count(p.max_bytes),
                if p.required { "yes" } else { "" }.to_owned(),
                brief(&source(p), 100),
            ]),
        }
    }
    if page.items.is_empty() && !cx.printer.json() && !cx.printer.quiet() {
        cx.printer.note("nothing adds context; `beadle context add` does")?;
    } else if !rows.is_empty() {
        cx.printer.table(&["NAME", "KIND", "AT", "MAX BYTES", "REQUIRED", "FROM"], &rows)?;
    }
    Ok(Exit::Done)
}

fn source(p: &ContextProviderDoc) -> String {
    let tier = p.tier.map(|t| format!("tier {}", t.as_str()));
    let tag = p.tag.as_ref().map(|t| format!("tag {t}"));
    let limit = p.limit.map(|n| format!("at most {n}"));
    let command = p.timeout_ms.map(|ms| format!("{} (within {ms} ms)", p.command.join(" ")));
    let paths = (!p.paths.is_empty()).then(|| p.paths.join(" "));
    [tier, tag, limit, command, paths].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

async fn show(cx: &mut Context, session: &str) -> Outcome {
    let client = cx.client()?;
    let id = client.session(session).await?.id;
    let all = added(&client, &id).await?;
    if all.is_empty() && !cx.printer.json() {
        cx.printer.note("no context provider was asked yet")?;
    }
    for a in &all {
        one(cx, a)?;
    }
    Ok(Exit::Done)
}

/// Every use on record. The texts stand in the judgement that follows in the same append.
async fn added(client: &Client, id: &str) -> anyhow::Result<Vec<AddedDoc>> {
    let mut wanted = EventsQuery { limit: Some(PAGE), kinds: Some("context_added,prompt_judged".to_owned()), ..EventsQuery::default() };
    let mut out: Vec<AddedDoc> = Vec::new();
    loop {
        let page = client.events(id, &wanted).await?;
        for doc in &page.items {
            match doc.event()? {
                Event::ContextAdded(added) => out.push(AddedDoc { seq: doc.seq, added_at: doc.at.clone(), added, text: None }),
                Event::PromptJudged(j) => {
                    let mut texts: Vec<PromptContext> = j.context;
                    let waiting = out.iter_mut().rev().take_while(|a| a.added.prompt == j.number && a.text.is_none());
                    for a in waiting.filter(|a| a.added.bytes > 0) {
                        let label = format!("context {} ({})", a.added.provider, a.added.kind);
                        let at = texts.iter().position(|t| t.policy == label);
                        a.text = at.map(|at| texts.swap_remove(at).text);
                    }
                }
                _ => {}
            }
        }
        match (page.next, page.items.last()) {
            (Some(_), Some(last)) => wanted.from = Some(last.seq + 1),
            _ => return Ok(out),
        }
    }
}

fn one(cx: &mut Context, a: &AddedDoc) -> anyhow::Result<()> {
    if cx.printer.json() {
        return Ok(cx.printer.document(a)?);
    }
    let c = &a.added;
    let cut = if c.truncated { ", cut" } else { "" };
    let head = format!("prompt {}  {} ({})  {} bytes{cut}", c.prompt, safe(&c.provider), safe(&c.kind), count(c.bytes));
    cx.printer.toned(Tone::Strong, &head)?;
    if cx.printer.quiet() {
        return Ok(());
    }
    if let Some(why) = &c.failed {
        cx.printer.toned(Tone::Bad, &format!("  nothing: {}", brief(why, LINE_MAX)))?;
    }
    for left in &c.left_out {
        cx.printer.toned(Tone::Question, &format!("  left out: {}", brief(left, LINE_MAX)))?;
    }
    for line in a.text.as_deref().map(safe_lines).unwrap_or_default().lines() {
        cx.printer.line(&format!("  {line}"))?;
    }
    Ok(())
}
