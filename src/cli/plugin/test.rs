//! `beadle plugin test`: the cases of a project, on the engine that sessions use, with the grants that the file gives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::asked::{Said, mismatches};
use super::cases::{self, Case};
use super::{Component, component, host, load};
use crate::cli::args::TestArgs;
use crate::cli::exit::{Exit, UsageError};
use crate::cli::printer::Tone;
use crate::cli::text::safe;
use crate::cli::{Context, Outcome};
use crate::plugin::{Host, Plugin};

#[derive(Serialize)]
struct Doc {
    file: String,
    passed: usize,
    failed: usize,
    cases: Vec<Judged>,
}

/// One case as it went.
#[derive(Serialize)]
pub struct Judged {
    pub name: String,
    pub passed: bool,
    /// The answer, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mismatches: Vec<String>,
    /// Functions of the guest that were running when it failed, the innermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

pub async fn test(cx: &mut Context, args: TestArgs) -> Outcome {
    let component = component(cx, &args.target)?;
    let all = read(&component, &args)?;
    let cases = judge(&host()?, &component, &all).await;
    let failed = cases.iter().filter(|c| !c.passed).count();
    let doc = Doc { file: component.file, passed: cases.len() - failed, failed, cases };
    if cx.printer.json() {
        cx.printer.document(&doc)?;
    } else {
        show(cx, &doc)?;
    }
    Ok(if failed == 0 { Exit::Done } else { Exit::No })
}

/// The cases of a project, or of the files that were named.
pub fn read(component: &Component, args: &TestArgs) -> anyhow::Result<Vec<Case>> {
    let files = match (&component.project, args.cases.is_empty()) {
        (_, false) => args.cases.clone(),
        (Some(project), true) => cases::files(&project.dir),
        (None, true) => return Err(UsageError("name the file of cases with --cases, or give the project's folder".into()).into()),
    };
    let mut all = Vec::new();
    for file in &files {
        all.extend(cases::read(file).map_err(UsageError)?);
    }
    if all.is_empty() {
        return Err(UsageError("there are no cases: write some into cases.toml".into()).into());
    }
    Ok(all)
}

/// Judges all; a plugin is loaded once for each configuration and set of grants.
pub async fn judge(host: &Host, component: &Component, cases: &[Case]) -> Vec<Judged> {
    let mut loaded: HashMap<String, Result<Arc<Plugin>, String>> = HashMap::new();
    let mut out = Vec::with_capacity(cases.len());
    for case in cases {
        let key = format!("{:?} {}", case.grants.words(), case.config);
        if !loaded.contains_key(&key) {
            let plugin = load(host, &component.name, &component.wasm, case.config.clone(), case.grants.clone()).await;
            loaded.insert(key.clone(), plugin.map_err(|e| format!("{} ({})", e, e.code())));
        }
        out.push(match &loaded[&key] {
            Ok(plugin) => one(plugin, case).await,
            Err(why) => not_loaded(case, why),
        });
    }
    out
}

/// A plugin that does not load is what a case may expect: `fails = "load"`.
fn not_loaded(case: &Case, why: &str) -> Judged {
    let expected = case.expect.get("fails").is_some_and(|f| f == "load");
    let says = case.expect.get("reason").and_then(Value::as_str).is_none_or(|r| why.contains(r));
    let mismatches = if expected && says { Vec::new() } else { vec![format!("it does not load: {why}")] };
    Judged { name: case.name.clone(), passed: mismatches.is_empty(), answer: None, mismatches, frames: Vec::new(), log: Vec::new() }
}

async fn one(plugin: &Arc<Plugin>, case: &Case) -> Judged {
    let before = plugin.log().read().0.len();
    let said: Said = case.asked.put(plugin, Duration::from_millis(case.deadline_ms)).await;
    let log: Vec<String> = plugin.log().read().0.into_iter().skip(before).map(|l| l.text).collect();
    let mismatches = mismatches(&case.expect, &said, &log);
    let frames = said.as_ref().err().map(|f| f.frames.clone()).unwrap_or_default();
    Judged { name: case.name.clone(), passed: mismatches.is_empty(), answer: said.ok(), mismatches, frames, log }
}

fn show(cx: &mut Context, doc: &Doc) -> anyhow::Result<()> {
    for c in &doc.cases {
        if c.passed {
            if !cx.printer.quiet() {
                cx.printer.toned(Tone::Good, &format!("ok    {}", safe(&c.name)))?;
            }
            continue;
        }
        cx.printer.toned(Tone::Bad, &format!("FAIL  {}", safe(&c.name)))?;
        for m in &c.mismatches {
            cx.printer.line(&format!("      {}", safe(m)))?;
        }
        for (n, frame) in c.frames.iter().enumerate() {
            cx.printer.line(&format!("        {n}: {}", safe(frame)))?;
        }
        for line in &c.log {
            cx.printer.line(&format!("      log: {}", safe(line)))?;
        }
    }
    if !cx.printer.quiet() {
        cx.printer.line(&format!("{} passed, {} failed", doc.passed, doc.failed))?;
    }
    Ok(())
}
