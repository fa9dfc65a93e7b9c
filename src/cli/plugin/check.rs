//! `beadle plugin check`: what a component is, and by name what differs from the contract.

use serde::Serialize;

use super::{Stage, component, load};
use crate::cli::args::CheckArgs;
use crate::cli::exit::Exit;
use crate::cli::printer::Tone;
use crate::cli::text::{safe, safe_lines};
use crate::cli::{Context, Outcome};
use crate::model::{Grants, Wants};
use crate::plugin::contract::{self, Finding, Look, Weight, Wrong};
use crate::plugin::{Want, kit};

#[derive(Serialize)]
struct Doc<'a> {
    file: &'a str,
    good: bool,
    #[serde(flatten)]
    look: &'a Look,
    /// `current`, `other`, or none where the component does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    built_with: Option<&'static str>,
    wants: &'a [Want],
    /// Why the engine refuses it, where the contract does not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failed>,
}

#[derive(Serialize)]
struct Failed {
    code: &'static str,
    message: String,
}

pub async fn check(cx: &mut Context, args: CheckArgs) -> Outcome {
    let component = component(cx, &args.target)?;
    if let Some(remark) = component.project.as_ref().and_then(|p| p.sdk().remark()) {
        cx.printer.note(&remark)?;
    }
    let look = contract::look(&component.name, &component.wasm, None).map_err(|e| super::coded(e.code(), &e))?;
    let refused = look.findings.iter().any(|f| f.weight == Weight::Refused);
    // What the contract refuses the engine refuses too, in other words.
    let (wants, error) = if refused {
        (Vec::new(), None)
    } else {
        match load(&Stage::new()?.host, &component.name, &component.wasm, args.config, Grants::default()).await {
            Ok(plugin) => (plugin.describe().wants.clone(), None),
            Err(e) => (Vec::new(), Some(Failed { code: e.code(), message: e.to_string() })),
        }
    };
    let built_with = look.sdk.as_ref().map(|d| if *d == kit::digest() { "current" } else { "other" });
    let doc = Doc { file: &component.file, good: !refused && error.is_none(), look: &look, built_with, wants: &wants, error };
    if cx.printer.json() {
        cx.printer.document(&doc)?;
    } else {
        show(cx, &doc)?;
    }
    Ok(if doc.good { Exit::Done } else { Exit::No })
}

fn show(cx: &mut Context, doc: &Doc<'_>) -> anyhow::Result<()> {
    let none = |list: Vec<String>| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    if !cx.printer.quiet() {
        let moments = doc.look.moments.iter().map(|m| m.as_str().to_owned()).collect();
        let wants = doc.wants.iter().map(|w| safe(&format!("{} ({})", w.capability, w.reason))).collect();
        cx.printer.fields(&[
            ("file", safe(doc.file)),
            ("kind", doc.look.kind.map_or_else(|| "of no single kind".to_owned(), |k| k.as_str().to_owned())),
            ("moments", none(moments)),
            ("imports", none(doc.look.imports.iter().map(|i| safe(i)).collect())),
            ("wants", none(wants)),
            (
                "sdk",
                doc.built_with
                    .map_or("it does not say", |s| if s == "current" { "of this beadle" } else { "of another beadle" })
                    .to_owned(),
            ),
        ])?;
    }
    findings(cx, &doc.look.findings)?;
    let words = doc.wants.iter().map(|w| w.capability.as_str());
    for (word, why) in Wants::parse(words).1 {
        cx.printer.toned(Tone::Question, &format!("remark: extra: the want {}: {}", safe(&word), safe(&why.to_string())))?;
        cx.printer.line("  it can never be granted here; correct the word in the description")?;
    }
    if let Some(failed) = &doc.error {
        cx.printer.notice(Tone::Bad, &format!("refused[{}]: {}", failed.code, safe_lines(&failed.message)))?;
    } else if doc.good && !cx.printer.quiet() {
        cx.printer.toned(Tone::Good, "good: it loads, describes itself and takes its configuration")?;
    }
    Ok(())
}

/// One finding a line, with what to do below it.
pub fn findings(cx: &mut Context, findings: &[Finding]) -> anyhow::Result<()> {
    for f in findings {
        let wrong = match f.wrong {
            Wrong::Missing => "missing",
            Wrong::Extra => "extra",
            Wrong::Different => "different",
        };
        let (tone, weight) = if f.weight == Weight::Refused { (Tone::Bad, "refused") } else { (Tone::Question, "remark") };
        cx.printer.toned(tone, &format!("{weight}: {wrong}: {}: {}", safe(&f.name), safe(&f.detail)))?;
        cx.printer.line(&format!("  {}", safe(&f.advice)))?;
    }
    Ok(())
}
