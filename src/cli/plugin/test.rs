//! `beadle plugin test`: the cases of a project, on the engine that sessions use, with the grants that the file gives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::asked::{Said, left_behind, mismatches};
use super::cases::scene::World;
use super::cases::{self, Case, Step};
use super::{Component, Stage, component, load};
use crate::cli::args::TestArgs;
use crate::cli::exit::{Exit, UsageError};
use crate::cli::printer::Tone;
use crate::cli::text::safe;
use crate::cli::{Context, Outcome};
use crate::model::PluginStates;
use crate::plugin::{Plugin, Round, States};

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
    /// The answer, where there is one; of a case in steps, all of them.
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
    let cases = judge(&Stage::new()?, &component, &all).await;
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

/// Judges all, one after another. What is compiled is compiled once for each configuration and set of grants.
pub async fn judge(stage: &Stage, component: &Component, cases: &[Case]) -> Vec<Judged> {
    let mut compiled: HashMap<String, Result<Arc<Plugin>, String>> = HashMap::new();
    let mut out = Vec::with_capacity(cases.len());
    for case in cases {
        if let Err(why) = stage.world.enter(&case.scene, &case.grants) {
            out.push(Judged { mismatches: vec![why], ..Judged::of(case) });
            continue;
        }
        let key = format!("{:?} {}", case.grants.words(), case.config);
        // why anew: each case has a log and a count of failures of its own. What the first compiled is used.
        let known = compiled.get(&key).and_then(|p| p.as_ref().err().cloned());
        let plugin = match known {
            Some(why) => Err(why),
            None => load(&stage.host, &component.name, &component.wasm, case.config.clone(), case.grants.clone())
                .await
                .map_err(|e| format!("{} ({})", e, e.code())),
        };
        out.push(match &plugin {
            Ok(plugin) => one(plugin, case, &stage.world).await,
            Err(why) => not_loaded(case, why),
        });
        compiled.entry(key).or_insert(plugin);
        stage.world.leave();
    }
    out
}

/// A plugin that does not load is what a case may expect: `fails = "load"`.
fn not_loaded(case: &Case, why: &str) -> Judged {
    let expect = if case.in_steps { Some(&case.expect) } else { case.steps.first().map(|s| &s.expect) };
    let of = |key: &str| expect.and_then(|e| e.get(key)).and_then(Value::as_str);
    let mismatches = match (of("fails"), of("reason")) {
        (Some("load"), reason) if reason.is_none_or(|r| why.contains(r)) => Vec::new(),
        _ => vec![format!("it does not load: {why}")],
    };
    Judged { passed: mismatches.is_empty(), mismatches, ..Judged::of(case) }
}

impl Judged {
    fn of(case: &Case) -> Self {
        Self { name: case.name.clone(), passed: false, answer: None, mismatches: Vec::new(), frames: Vec::new(), log: Vec::new() }
    }
}

/// Puts the questions of a case in turn; between them what the policy wrote is kept, as the record of an answer keeps it.
async fn one(plugin: &Arc<Plugin>, case: &Case, world: &World) -> Judged {
    let mut kept = PluginStates([(plugin.name().to_owned(), case.kv.clone())].into());
    let states = States::new(kept.clone());
    let (mut judged, mut answers) = (Judged::of(case), Vec::new());
    for (n, step) in case.steps.iter().enumerate() {
        let (said, log) = put(plugin, step, case, world, &states).await;
        states.take_changes().iter().for_each(|c| kept.change(c));
        let wrong = mismatches(&step.expect, &said, &log).into_iter().chain(after(&step.expect, plugin, &kept, world));
        judged.mismatches.extend(wrong.map(|m| if case.in_steps { format!("step {}: {m}", n + 1) } else { m }));
        judged.log.extend(log);
        match said {
            Ok(answer) => answers.push(answer),
            Err(f) => {
                if judged.frames.is_empty() {
                    judged.frames = f.frames;
                }
                answers.push(Value::Null);
            }
        }
    }
    judged.mismatches.extend(after(&case.expect, plugin, &kept, world));
    // why always: whatever the plugin makes of it, the case does not say what it stands for.
    let (_, unanswered) = world.sent();
    judged.mismatches.extend(unanswered.iter().map(|r| format!("it sent {r}, for which the case has no answer; give one in its `http`")));
    judged.answer = if case.in_steps { Some(Value::Array(answers)) } else { answers.pop().filter(|a| !a.is_null()) };
    judged.passed = judged.mismatches.is_empty();
    judged
}

async fn put(plugin: &Arc<Plugin>, step: &Step, case: &Case, world: &World, states: &Arc<States>) -> (Said, Vec<String>) {
    let before = plugin.log().read().0.len();
    let round = Round::new(Arc::clone(states));
    world.set_time(step.at_ms);
    let said = step.asked.in_round(&round).put(plugin, Duration::from_millis(case.deadline_ms)).await;
    // As a chain does: what a call wrote counts when it was answered.
    if said.is_ok() {
        round.commit(&[plugin.name()]);
    } else {
        round.drop_all();
    }
    (said, plugin.log().read().0.into_iter().skip(before).map(|l| l.text).collect())
}

fn after(expect: &serde_json::Map<String, Value>, plugin: &Plugin, kept: &PluginStates, world: &World) -> Vec<String> {
    let none = crate::model::PluginState::new();
    let kv = kept.0.get(plugin.name()).unwrap_or(&none);
    left_behind(expect, kv, &|path| world.file(path), &world.sent().0)
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
