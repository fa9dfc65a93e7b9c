//! `beadle compact bench`: the scoreboard of strategies over recorded conversations. Works without a daemon.
//!
//! A record is a file of the agent's own (`*.jsonl`). Beside it may lie `<name>.probes.json` with what was planted in it; paths and errors
//! are found in the record itself. Every conversation is compacted once by every strategy, to the same share of its size.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::super::args::CompactBenchArgs;
use super::{Context, Outcome, absolute};
use crate::agent;
use crate::cli::exit::{Coded, Exit, UsageError};
use crate::cli::printer::Tone;
use crate::cli::text::{brief, count};
use crate::compaction::score::{Kept, Probes, Score, score};
use crate::compaction::{ESTIMATOR, Folded, Unpinned, check};
use crate::model::{Actor, Clock, EntryKind, Envelope, Grants, Mediation, Record, Session, SessionCreated, SessionId, SystemClock};
use crate::plugin::{Host, HostOptions, Limits, LoadSpec, PlanQuestion, Plugin, PluginKind, standard};

/// Most records of a folder, and most bytes of one.
const RECORDS: usize = 1000;
const RECORD_MAX: u64 = 64 << 20;
const PLAN_WITHIN: Duration = Duration::from_secs(20);

/// What lies beside a record.
#[derive(Debug, Default, Deserialize)]
struct Planted {
    #[serde(default)]
    label: Option<String>,
    #[serde(default)]
    facts: BTreeSet<String>,
    #[serde(default)]
    constraints: BTreeSet<String>,
}

struct Conversation {
    name: String,
    label: String,
    calls: u64,
    folded: Arc<Folded>,
    probes: Probes,
}

/// One conversation compacted by one strategy.
#[derive(Debug, Serialize)]
struct Row {
    strategy: String,
    record: String,
    label: String,
    call_count: u64,
    /// Why nothing came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    reached: bool,
    plan_us: u64,
    apply_us: u64,
    #[serde(flatten)]
    score: Score,
}

pub async fn bench(cx: &mut Context, args: CompactBenchArgs) -> Outcome {
    let conversations = conversations(&args.dir)?;
    let strategies = strategies(&args)?;
    let session = nobody()?;
    let mut rows = Vec::new();
    for plugin in &strategies {
        for c in &conversations {
            let row = play(plugin, c, &session, args.target_percent).await;
            if cx.printer.json() {
                cx.printer.document(&row)?;
            }
            rows.push(row);
        }
    }
    if !cx.printer.json() {
        table(cx, &strategies, &conversations, &rows, args.target_percent)?;
    }
    let sound = rows.iter().all(|r| r.refused.is_none() && r.score.dangling == 0);
    Ok(if sound { Exit::Done } else { Exit::No })
}

fn table(cx: &mut Context, strategies: &[Arc<Plugin>], conversations: &[Conversation], rows: &[Row], percent: u64) -> anyhow::Result<()> {
    const HEADER: [&str; 11] =
        ["STRATEGY", "SAVED", "REACHED", "DANGLING", "FACTS", "CONSTRAINTS", "PATHS", "ERRORS", "PREFIX", "PLAN p50", "APPLY p50"];
    let lines: Vec<Vec<String>> = strategies.iter().map(|p| line(p.name(), rows)).collect();
    cx.printer.table(&HEADER, &lines)?;
    for r in rows.iter().filter(|r| r.refused.is_some()) {
        let why = brief(r.refused.as_deref().unwrap_or_default(), 300);
        cx.printer.toned(Tone::Bad, &format!("{} on {}: {why}", brief(&r.strategy, 60), brief(&r.record, 80)))?;
    }
    let calls: u64 = conversations.iter().map(|c| c.calls).sum();
    let tokens: u64 = conversations.iter().map(|c| c.folded.used()).sum();
    let replayed = conversations.iter().filter(|c| c.label == "replayed").count();
    cx.printer.note(&format!(
        "{} conversations ({replayed} replayed) with {} calls and {} tokens ({ESTIMATOR}), each to {percent} %; prefix: tokens before the first change",
        conversations.len(),
        count(calls),
        count(tokens)
    ))?;
    Ok(())
}

fn line(strategy: &str, rows: &[Row]) -> Vec<String> {
    let of: Vec<&Row> = rows.iter().filter(|r| r.strategy == strategy).collect();
    let sum = |f: fn(&Score) -> u64| of.iter().map(|r| f(&r.score)).sum::<u64>();
    let kept = |f: fn(&Score) -> Kept| {
        let k = of.iter().map(|r| f(&r.score)).fold(Kept::default(), Kept::plus);
        format!("{:.0} % ({}/{})", 100.0 * k.share(), k.kept, k.of)
    };
    let before = sum(|s| s.tokens_before).max(1) as f64;
    let middle = |f: fn(&Row) -> u64| {
        let mut all: Vec<u64> = of.iter().map(|r| f(r)).collect();
        all.sort_unstable();
        format!("{:.1} ms", all.get(all.len() / 2).copied().unwrap_or(0) as f64 / 1000.0)
    };
    vec![
        brief(strategy, 60),
        format!("{:.1} %", 100.0 * (1.0 - sum(|s| s.tokens_after) as f64 / before)),
        format!("{}/{}", of.iter().filter(|r| r.reached).count(), of.len()),
        sum(|s| s.dangling).to_string(),
        kept(|s| s.facts),
        kept(|s| s.constraints),
        kept(|s| s.paths),
        kept(|s| s.errors),
        format!("{:.1} %", 100.0 * sum(|s| s.prefix_tokens) as f64 / before),
        middle(|r| r.plan_us),
        middle(|r| r.apply_us),
    ]
}

async fn play(plugin: &Arc<Plugin>, c: &Conversation, session: &Session, percent: u64) -> Row {
    let target = c.folded.used() * percent / 100;
    let budget = c.folded.budget(c.folded.used(), target);
    let question = Arc::new(PlanQuestion::new(session, c.folded.clone(), &budget, SystemClock.wall_ms()));
    let micros = |since: Instant| u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
    let begun = Instant::now();
    let planned = plugin.plan(&question, PLAN_WITHIN).await.map_err(|f| format!("{:?}: {}", f.cause, f.detail));
    let plan_us = micros(begun);
    let begun = Instant::now();
    let done = planned.and_then(|edits| check(&c.folded, &edits).map_err(|e| format!("{e} [{}]", e.code())));
    let apply_us = micros(begun);
    let after = done.as_ref().map_or(c.folded.pieces(), |d| d.pieces.as_slice());
    let score = score(&c.folded, after, &c.probes);
    Row {
        strategy: plugin.name().to_owned(),
        record: c.name.clone(),
        label: c.label.clone(),
        call_count: c.calls,
        reached: done.is_ok() && score.tokens_after <= target,
        refused: done.err(),
        plan_us,
        apply_us,
        score,
    }
}

fn strategies(args: &CompactBenchArgs) -> anyhow::Result<Vec<Arc<Plugin>>> {
    let named: Vec<String> = if args.strategy.is_empty() {
        standard::STRATEGIES.iter().map(|(n, _)| (*n).to_owned()).collect()
    } else {
        args.strategy.iter().map(|s| absolute(s)).collect::<anyhow::Result<_>>()?
    };
    let host = Host::new(HostOptions::default()).map_err(coded)?;
    let load = |name: String| -> anyhow::Result<Arc<Plugin>> {
        let wasm = match standard::strategy(&name) {
            Some(wasm) => wasm.into(),
            None => {
                std::fs::read(&name).map_err(|e| UsageError(format!("strategy {name}: {e}; name a standard one or a .wasm file")))?.into()
            }
        };
        let config = args.config.clone().unwrap_or_else(|| "{}".to_owned());
        let spec = LoadSpec { name, wasm, config, limits: Limits::default(), grants: Grants::default() };
        Ok(host.load_kind(spec, Some(PluginKind::CompactionStrategy)).map_err(coded)?)
    };
    named.into_iter().map(load).collect()
}

fn coded(e: crate::plugin::Error) -> Coded {
    Coded { exit: Exit::Usage, code: e.code().to_owned(), message: e.to_string() }
}

fn conversations(dir: &Path) -> anyhow::Result<Vec<Conversation>> {
    let wrong = |why: String| UsageError(format!("{}: {why}", dir.display()));
    let entries = std::fs::read_dir(dir).map_err(|e| wrong(format!("{e}; name a folder of records")))?;
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "jsonl")).take(RECORDS + 1).collect();
    files.sort();
    if files.is_empty() || files.len() > RECORDS {
        return Err(wrong(format!("it holds {} records (*.jsonl); 1 to {RECORDS} are scored at a time", files.len())).into());
    }
    let driver = agent::driver("claude")?;
    let one = |path: PathBuf| -> anyhow::Result<Conversation> {
        let wrong = |why: String| UsageError(format!("{}: {why}", path.display()));
        let size = std::fs::metadata(&path).map_err(|e| wrong(e.to_string()))?.len();
        if size > RECORD_MAX {
            return Err(wrong(format!("it has {size} bytes; at most {RECORD_MAX} are read")).into());
        }
        let bytes = std::fs::read(&path).map_err(|e| wrong(e.to_string()))?;
        let folded = driver.conversation(&bytes).and_then(|p| Folded::new(p, Unpinned::default())).map_err(wrong)?;
        let beside = path.with_extension("probes.json");
        let planted: Planted = match std::fs::read(&beside) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| UsageError(format!("{}: {e}", beside.display())))?,
            Err(_) => Planted::default(),
        };
        let probes = Probes { facts: planted.facts, constraints: planted.constraints, ..Probes::derived(folded.pieces()) };
        Ok(Conversation {
            name: path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default(),
            label: planted.label.unwrap_or_else(|| "recorded".to_owned()),
            calls: folded.pieces().iter().filter(|p| p.entry.kind == EntryKind::ToolCall).count() as u64,
            folded: Arc::new(folded),
            probes,
        })
    };
    files.into_iter().map(one).collect()
}

/// The session that strategies are told of: of a recording nothing but the agent is known.
fn nobody() -> anyhow::Result<Session> {
    let created = SessionCreated {
        name: "bench".to_owned(),
        agent: "claude".to_owned(),
        command: vec![],
        cwd: "/".to_owned(),
        home: None,
        write_root: None,
        labels: std::collections::BTreeMap::new(),
        env_names: vec![],
        mediation: Mediation::Gate,
        mediation_note: None,
        keep_open: true,
        created_by: Actor::host(),
        unsafe_args: vec![],
        beadle_version: env!("CARGO_PKG_VERSION").to_owned(),
        prompt: None,
        record: Record::default(),
        program: None,
    };
    let id = SessionId::parse("bench-0-aaaaa")?;
    let first = Envelope { session: id, seq: 1, at: SystemClock.wall_ms(), attempt: 1, event: created.into() };
    Session::begin(&first).ok_or_else(|| anyhow::anyhow!("a session that does not begin"))
}
