//! `beadle memory`: what is kept over sessions.

use super::args::{MemoryAddArgs, MemoryPlaceArgs, MemoryVerb};
use super::exit::Exit;
use super::run::read_prompt;
use super::text::{brief, safe, safe_lines};
use super::{Context, Outcome};
use crate::api::types::{MemoryAddRequest, MemoryDoc, MemoryQuery};

pub async fn run(cx: &mut Context, verb: MemoryVerb) -> Outcome {
    match verb {
        MemoryVerb::Add(args) => add(cx, args).await,
        MemoryVerb::Search(args) => {
            let q = Some(args.words.join(" "));
            let found = cx.client()?.memories(&MemoryQuery { q, ..query(args.place)? }).await?.items;
            if found.is_empty() && !cx.printer.json() {
                cx.printer.note("nothing was found")?;
            }
            for m in &found {
                hit(cx, m)?;
            }
            Ok(if found.is_empty() { Exit::No } else { Exit::Done })
        }
        MemoryVerb::Ls(args) => {
            let page = cx.client()?.memories(&query(args)?).await?;
            ls(cx, &page.items)?;
            if page.next.is_some() && !cx.printer.json() {
                cx.printer.note("there are more; --limit shows up to 1,000")?;
            }
            Ok(Exit::Done)
        }
        MemoryVerb::Rm { ids } => {
            let client = cx.client()?;
            for id in ids {
                let gone = client.remove_memory(&id).await?;
                match (cx.printer.json(), cx.printer.quiet()) {
                    (true, _) => cx.printer.document(&gone)?,
                    (_, true) => {}
                    _ => cx.printer.line(&format!("removed {}", safe(&gone.id)))?,
                }
            }
            Ok(Exit::Done)
        }
    }
}

async fn add(cx: &mut Context, args: MemoryAddArgs) -> Outcome {
    let here = || std::env::current_dir().map(|d| d.to_string_lossy().into_owned());
    let cwd = if args.namespace.is_none() && args.session.is_none() { Some(here()?) } else { None };
    let request = MemoryAddRequest {
        text: if args.text == "-" { read_prompt(args.text)? } else { args.text },
        tier: args.tier.into(),
        namespace: args.namespace,
        cwd,
        tags: args.tags,
        session: args.session,
    };
    let kept = cx.client()?.add_memory(&request).await?;
    match (cx.printer.json(), cx.printer.quiet()) {
        (true, _) => cx.printer.document(&kept)?,
        (_, true) => cx.printer.line(&safe(&kept.id))?,
        _ => cx.printer.line(&format!("kept {} in {} ({})", safe(&kept.id), safe(&kept.namespace), kept.tier.as_str()))?,
    }
    Ok(Exit::Done)
}

fn query(p: MemoryPlaceArgs) -> anyhow::Result<MemoryQuery> {
    let here = p.namespace.is_none() && !p.all && p.session.is_none();
    let cwd = match p.cwd {
        Some(dir) => Some(std::path::absolute(dir)?),
        None if here => Some(std::env::current_dir()?),
        None => None,
    };
    Ok(MemoryQuery {
        q: None,
        namespace: p.namespace,
        cwd: cwd.map(|d| d.to_string_lossy().into_owned()),
        tier: p.tier.map(Into::into),
        tag: p.tag,
        session: p.session,
        limit: p.limit,
        cursor: None,
    })
}

fn hit(cx: &mut Context, m: &MemoryDoc) -> anyhow::Result<()> {
    if cx.printer.json() {
        return Ok(cx.printer.document(m)?);
    }
    if cx.printer.quiet() {
        return Ok(cx.printer.line(&safe(&m.id))?);
    }
    let tags = if m.tags.is_empty() { String::new() } else { format!("  [{}]", safe(&m.tags.join(", "))) };
    cx.printer.line(&format!("{}  {}  {}{tags}", safe(&m.id), m.tier.as_str(), safe(&m.namespace)))?;
    for line in safe_lines(&m.text).lines() {
        cx.printer.line(&format!("  {line}"))?;
    }
    Ok(())
}

fn ls(cx: &mut Context, all: &[MemoryDoc]) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for m in all {
        match (cx.printer.json(), cx.printer.quiet()) {
            (true, _) => cx.printer.document(m)?,
            (_, true) => cx.printer.line(&safe(&m.id))?,
            _ => rows.push(vec![
                safe(&m.id),
                m.tier.as_str().to_owned(),
                brief(&m.namespace, 40),
                m.session.as_deref().map(|s| brief(s, 40)).unwrap_or_default(),
                brief(&m.tags.join(","), 30),
                brief(&m.text, 80),
            ]),
        }
    }
    if all.is_empty() && !cx.printer.json() && !cx.printer.quiet() {
        cx.printer.note("nothing is kept here; --all shows every namespace")?;
    } else if !rows.is_empty() {
        cx.printer.table(&["ID", "TIER", "NAMESPACE", "SESSION", "TAGS", "TEXT"], &rows)?;
    }
    Ok(())
}
