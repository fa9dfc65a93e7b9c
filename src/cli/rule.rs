//! `beadle rule`: rules added at run time.

use super::args::RuleEffect;
use super::confirm::confirmed;
use super::exit::Exit;
use super::text::{age, brief, safe};
use super::{Context, Outcome};
use crate::api::types::{RuleDoc, RuleRequest};
use crate::model::{Clock, Effect, SystemClock};

pub async fn add(cx: &mut Context, effect: RuleEffect, rule: String, session: Option<String>) -> Outcome {
    let effect = match effect {
        RuleEffect::Allow => Effect::Allow,
        RuleEffect::Ask => Effect::Ask,
        RuleEffect::Deny => Effect::Deny,
    };
    let request = RuleRequest { effect, rule, session };
    let doc = confirmed(cx, None, async |client| client.add_rule(&request).await).await?;
    say(cx, &doc, "added")
}

pub async fn revoke(cx: &mut Context, id: &str) -> Outcome {
    let doc = confirmed(cx, None, async |client| client.revoke_rule(id).await).await?;
    say(cx, &doc, "revoked")
}

pub async fn ls(cx: &mut Context, session: Option<&str>) -> Outcome {
    let page = cx.client()?.rules(session).await?;
    if cx.printer.json() {
        for doc in &page.items {
            cx.printer.document(doc)?;
        }
        return Ok(Exit::Done);
    }
    let now = SystemClock.wall_ms();
    let row = |r: &RuleDoc| {
        let scope = r.session.as_deref().map(safe).or_else(|| r.dir.as_deref().map(|d| format!("in {}", brief(d, 100))));
        let scope = scope.unwrap_or_else(|| "all".to_owned());
        vec![safe(&r.id), r.effect.as_str().to_owned(), brief(&r.rule, 100), scope, brief(&r.by.role, 40), age(&r.added_at, now)]
    };
    let rows: Vec<_> = page.items.iter().map(row).collect();
    if rows.is_empty() {
        cx.printer.note("no rule was added at run time; those of the configuration are in `beadle config show`")?;
    } else {
        cx.printer.table(&["ID", "EFFECT", "RULE", "HOLDS FOR", "BY", "AGE"], &rows)?;
    }
    Ok(Exit::Done)
}

fn say(cx: &mut Context, doc: &RuleDoc, what: &str) -> Outcome {
    match (cx.printer.json(), cx.printer.quiet()) {
        (true, _) => cx.printer.document(doc)?,
        (_, true) => cx.printer.line(&safe(&doc.id))?,
        _ => cx.printer.line(&format!("{} {what}: {} {}", safe(&doc.id), doc.effect.as_str(), brief(&doc.rule, 200)))?,
    }
    Ok(Exit::Done)
}
