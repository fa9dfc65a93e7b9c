//! `beadle operator`: the keys by which persons are told apart.

use super::args::{KeyVerb, OperatorVerb};
use super::confirm::{confirmed, new_key};
use super::exit::{Exit, UsageError};
use super::text::{age, brief, safe};
use super::{Context, Outcome};
use crate::api::types::{OperatorKeyDoc, OperatorKeyRequest};
use crate::model::{Clock, OsEntropy, SystemClock, is_operator_name};
use crate::operator::key::new_derivation;

pub async fn run(cx: &mut Context, verb: OperatorVerb) -> Outcome {
    let OperatorVerb::Key(verb) = verb;
    match verb {
        KeyVerb::Add { name } => add(cx, name).await,
        KeyVerb::Ls => ls(cx).await,
        KeyVerb::Rm { name } => {
            let doc = confirmed(cx, None, async |client| client.remove_operator_key(&name).await).await?;
            say(cx, &doc, "removed")
        }
    }
}

async fn add(cx: &mut Context, name: String) -> Outcome {
    if !is_operator_name(&name) {
        return Err(UsageError(format!("operator key {}: a name is 1 to 64 of a-z A-Z 0-9 - _ .", brief(&name, 80))).into());
    }
    let derivation = new_derivation(&OsEntropy);
    let (secret, mut terminal) = new_key(cx, &name, &derivation).await?;
    let request = OperatorKeyRequest { name, derivation, public: secret.public() };
    drop(secret);
    let doc = confirmed(cx, terminal.as_mut(), async |client| client.add_operator_key(&request).await).await?;
    say(cx, &doc, "added")
}

async fn ls(cx: &mut Context) -> Outcome {
    let doc = cx.client()?.operator().await?;
    if cx.printer.json() {
        cx.printer.document(&doc)?;
        return Ok(Exit::Done);
    }
    let now = SystemClock.wall_ms();
    let row = |k: &OperatorKeyDoc| {
        let by = k.by.via.as_deref().unwrap_or(&k.by.role);
        vec![safe(&k.name), safe(&k.public[..k.public.len().min(16)]), brief(by, 60), age(&k.added_at, now)]
    };
    let rows: Vec<_> = doc.keys.iter().map(row).collect();
    if rows.is_empty() {
        cx.printer.note("there is no operator key; `beadle operator key add <name>` adds one")?;
    } else {
        cx.printer.table(&["NAME", "KEY", "ADDED BY", "AGE"], &rows)?;
    }
    cx.printer.note(&format!("operator.confirm is {}", safe(&doc.confirm)))?;
    Ok(Exit::Done)
}

fn say(cx: &mut Context, doc: &OperatorKeyDoc, what: &str) -> Outcome {
    match (cx.printer.json(), cx.printer.quiet()) {
        (true, _) => cx.printer.document(doc)?,
        (_, true) => cx.printer.line(&safe(&doc.name))?,
        _ => cx.printer.line(&format!("key {} {what}", safe(&doc.name)))?,
    }
    Ok(Exit::Done)
}
