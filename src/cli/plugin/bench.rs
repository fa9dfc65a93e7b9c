//! `beadle plugin bench`: how long a plugin takes and how much memory it uses, beside what it may use.
//!
//! The questions are those of the project's cases and, for a policy, every recorded call. Each runs as in a session: in a fresh instance
//! that was made ahead. A policy is also set beside the smallest one inside this program, asked the same in the same run, because times
//! alone say as much of the machine as of the plugin.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::asked::Asked;
use super::cases::Case;
use super::{Stage, cases, component, load};
use crate::cli::args::{BenchArgs, TestArgs};
use crate::cli::exit::{Exit, UsageError};
use crate::cli::printer::Tone;
use crate::cli::text::safe;
use crate::cli::{Context, Outcome};
use crate::model::Grants;
use crate::plugin::{Limits, Plugin, PluginKind, standard};

/// Deadline of a policy whose operator sets none.
const DEADLINE: Duration = Duration::from_millis(100);

#[derive(Serialize)]
struct Doc {
    file: String,
    questions: usize,
    calls: usize,
    load_ms: f64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
    /// Most memory of one instance, in bytes.
    memory: usize,
    budget: Budget,
    /// p50 beside that of the smallest policy inside this program, in the same run; for policies.
    #[serde(skip_serializing_if = "Option::is_none")]
    times_smallest: Option<f64>,
    /// Questions whose answer was a failure; they are not in the times.
    failures: usize,
    within: bool,
}

#[derive(Serialize)]
struct Budget {
    p99_us: f64,
    p99_ratio: f64,
    memory: usize,
    memory_ratio: f64,
}

struct Times {
    micros: Vec<f64>,
    memory: usize,
    failures: usize,
}

impl Times {
    fn at(&self, share: f64) -> f64 {
        let last = self.micros.len().saturating_sub(1);
        self.micros.get(((last as f64) * share).round() as usize).copied().unwrap_or(0.0)
    }
}

pub async fn bench(cx: &mut Context, args: BenchArgs) -> Outcome {
    let component = component(cx, &args.target)?;
    let named = TestArgs { target: args.target.clone(), cases: args.cases.clone() };
    let has_cases = !args.cases.is_empty() || component.project.as_ref().is_some_and(|p| !cases::files(&p.dir).is_empty());
    let own = if has_cases { super::test::read(&component, &named)? } else { Vec::new() };
    // All are asked with one configuration: the first one's, as an operator has one.
    let (config, grants) = own.first().map_or_else(|| ("{}".to_owned(), Grants::default()), |c| (c.config.clone(), c.grants.clone()));
    let Stage { host, world } = Stage::new()?;
    if let Some(first) = own.first() {
        world.enter(&first.scene, &first.grants).map_err(UsageError)?;
    }
    let began = Instant::now();
    let plugin = load(&host, &component.name, &component.wasm, config, grants).await.map_err(|e| super::coded(e.code(), &e))?;
    let load_ms = began.elapsed().as_secs_f64() * 1e3;
    let mut questions: Vec<Asked> = own.iter().flat_map(questions_of).collect();
    questions.retain(|q| match q {
        Asked::Call(_) => plugin.kind() == PluginKind::PermissionPolicy,
        Asked::Plan(_) => plugin.kind() == PluginKind::CompactionStrategy,
        Asked::Write(_) => plugin.kind() == PluginKind::AuditSink,
        _ => false,
    });
    if plugin.kind() == PluginKind::PermissionPolicy {
        let dir = component.project.as_ref().map(|p| p.dir.as_path());
        questions.extend(cases::all_recorded(dir).map_err(UsageError)?.into_iter().map(|(_, q)| q));
    }
    if questions.is_empty() {
        return Err(UsageError("there is nothing to ask: write cases, and name them with --cases".into()).into());
    }
    let times = run(&plugin, &questions, args.calls);
    let smallest = if plugin.kind() == PluginKind::PermissionPolicy {
        let hello =
            load(&host, "hello", standard::HELLO, "{}".to_owned(), Grants::default()).await.map_err(|e| super::coded(e.code(), &e))?;
        Some(run(&hello, &questions, args.calls))
    } else {
        None
    };
    let budget_us = args.p99_us.unwrap_or(DEADLINE.as_secs_f64() * 1e6);
    let memory = Limits::default().memory;
    let budget =
        Budget { p99_us: budget_us, p99_ratio: times.at(0.99) / budget_us, memory, memory_ratio: times.memory as f64 / memory as f64 };
    let within = budget.p99_ratio <= 1.0 && budget.memory_ratio <= 1.0 && times.failures == 0;
    let doc = Doc {
        file: component.file,
        questions: questions.len(),
        calls: times.micros.len(),
        load_ms,
        p50_us: times.at(0.5),
        p99_us: times.at(0.99),
        max_us: times.at(1.0),
        memory: times.memory,
        budget,
        times_smallest: smallest.map(|s| times.at(0.5) / s.at(0.5).max(f64::EPSILON)),
        failures: times.failures,
        within,
    };
    if cx.printer.json() {
        cx.printer.document(&doc)?;
    } else {
        show(cx, &doc)?;
    }
    Ok(if within { Exit::Done } else { Exit::No })
}

/// What a case asks that is answered.
fn questions_of(case: &Case) -> impl Iterator<Item = Asked> {
    case.steps.iter().filter(|s| !s.expect.contains_key("fails")).map(|s| s.asked.clone())
}

/// So many calls round the questions, after one round that is not counted.
fn run(plugin: &Plugin, questions: &[Asked], calls: usize) -> Times {
    let mut times = Times { micros: Vec::with_capacity(calls), memory: 0, failures: 0 };
    for (i, question) in questions.iter().chain(questions.iter().cycle().take(calls)).enumerate() {
        plugin.make_ahead();
        let began = Instant::now();
        let Some((answer, used)) = question.put_here(plugin, DEADLINE) else { continue };
        let took = began.elapsed();
        times.memory = times.memory.max(used.memory());
        if i < questions.len() {
            continue;
        }
        match answer {
            Ok(()) => times.micros.push(took.as_secs_f64() * 1e6),
            Err(_) => times.failures += 1,
        }
    }
    times.micros.sort_by(f64::total_cmp);
    times
}

fn show(cx: &mut Context, d: &Doc) -> anyhow::Result<()> {
    let fields = [
        ("file", safe(&d.file)),
        ("asked", format!("{} calls of {} questions, {} failed", d.calls, d.questions, d.failures)),
        ("load", format!("{:.1} ms, compiled anew", d.load_ms)),
        ("p50", format!("{:.1} us", d.p50_us)),
        ("p99", format!("{:.1} us, {:.5} of the budget of {:.0} us", d.p99_us, d.budget.p99_ratio, d.budget.p99_us)),
        ("max", format!("{:.1} us", d.max_us)),
        ("memory", format!("{} KiB, {:.3} of the budget of {} KiB", d.memory >> 10, d.budget.memory_ratio, d.budget.memory >> 10)),
        (
            "beside",
            d.times_smallest.map_or_else(String::new, |t| format!("{t:.2} times the p50 of the smallest policy (`hello`) in this run")),
        ),
    ];
    if !cx.printer.quiet() {
        cx.printer.fields(&fields)?;
    }
    if !d.within {
        cx.printer.notice(Tone::Bad, "over the budget, or some calls failed: `beadle plugin test` shows which")?;
    }
    Ok(())
}
