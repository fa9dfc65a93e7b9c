//! `beadle plugin dev`: at each change of the sources, build, judge every recorded call and case anew, and say what became different.
//!
//! Invariants: a build that fails changes nothing of what was judged last; files watched, calls judged and differences shown are capped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::cases;
use super::project::Project;
use super::test::{self, Judged};
use super::{Component, Stage, load};
use crate::cli::args::DevArgs;
use crate::cli::exit::{Exit, UsageError};
use crate::cli::printer::Tone;
use crate::cli::text::{safe, safe_lines};
use crate::cli::{Context, Outcome};
use crate::model::Grants;
use crate::plugin::PluginKind;

/// How often the sources are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Most files watched.
const MAX_WATCHED: usize = 2000;
/// Most differences shown of one build.
const MAX_SHOWN: usize = 100;

/// One build and what it changed.
#[derive(Serialize)]
struct Round {
    build: u64,
    elapsed_ms: u128,
    /// Why there is no new component.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    judged: usize,
    passed: usize,
    failed: usize,
    /// Against the last build that worked; empty for the first.
    changed: Vec<Change>,
}

#[derive(Serialize)]
struct Change {
    name: String,
    before: String,
    after: String,
}

/// What each call and case came to, by its name.
type Answers = BTreeMap<String, String>;

struct Judgement {
    answers: Answers,
    cases: Vec<Judged>,
}

pub async fn dev(cx: &mut Context, args: DevArgs) -> Outcome {
    let project = Project::find(&args.dir)?;
    let stage = Stage::new()?;
    let ended = tokio::signal::ctrl_c();
    tokio::pin!(ended);
    let (mut seen, mut last, mut builds) = (None, None::<Answers>, 0u64);
    loop {
        let now = watched(&project.dir)?;
        if seen.as_ref() != Some(&now) {
            seen = Some(now);
            builds += 1;
            let round = round(cx, &project, &stage, args.offline, builds, &mut last).await;
            show(cx, &round)?;
            if args.builds.is_some_and(|most| builds >= most) {
                return Ok(if round.error.is_none() && round.failed == 0 { Exit::Done } else { Exit::No });
            }
        }
        tokio::select! {
            _ = &mut ended => return Ok(Exit::Done),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn round(cx: &mut Context, project: &Project, stage: &Stage, offline: bool, build: u64, last: &mut Option<Answers>) -> Round {
    let began = Instant::now();
    let mut round = Round { build, elapsed_ms: 0, error: None, judged: 0, passed: 0, failed: 0, changed: Vec::new() };
    match judge(cx, project, stage, offline).await {
        Ok(Judgement { answers, cases }) => {
            round.judged = answers.len();
            round.passed = cases.iter().filter(|c| c.passed).count();
            round.failed = cases.len() - round.passed;
            if let Some(before) = last.as_ref() {
                round.changed = changes(before, &answers);
            }
            *last = Some(answers);
        }
        Err(e) => round.error = Some(format!("{e:#}")),
    }
    round.elapsed_ms = began.elapsed().as_millis();
    round
}

async fn judge(cx: &mut Context, project: &Project, stage: &Stage, offline: bool) -> anyhow::Result<Judgement> {
    let built = project.build(cx, offline)?;
    let component = Component { file: built.file.display().to_string(), name: project.name.clone(), wasm: built.wasm, project: None };
    let mut all = Vec::new();
    for file in cases::files(&project.dir) {
        all.extend(cases::read(&file).map_err(UsageError)?);
    }
    let (config, grants) = all.first().map_or_else(|| ("{}".to_owned(), Grants::default()), |c| (c.config.clone(), c.grants.clone()));
    let plugin = load(&stage.host, &component.name, &component.wasm, config, grants).await.map_err(|e| super::coded(e.code(), &e))?;
    let mut answers = Answers::new();
    if let Some(first) = all.first() {
        stage.world.enter(&first.scene, &first.grants).map_err(UsageError)?;
    }
    if plugin.kind() == PluginKind::PermissionPolicy {
        for (name, asked) in cases::all_recorded(Some(&project.dir)).map_err(UsageError)? {
            let said = asked.put(&plugin, Duration::from_secs(1)).await;
            let said = said.map_or_else(|f| format!("failed ({}): {}", f.cause, f.detail), |v| v.to_string());
            answers.insert(name, said);
        }
    }
    let cases = test::judge(stage, &component, &all).await;
    for c in &cases {
        let said = c.answer.as_ref().map_or_else(|| c.mismatches.join("; "), ToString::to_string);
        answers.insert(format!("case {:?}", c.name), said);
    }
    Ok(Judgement { answers, cases })
}

fn changes(before: &Answers, after: &Answers) -> Vec<Change> {
    let none = || "not asked".to_owned();
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differs = |n: &&&String| before.get(**n) != after.get(**n);
    let change = |n: &String| Change {
        name: n.clone(),
        before: before.get(n).cloned().unwrap_or_else(none),
        after: after.get(n).cloned().unwrap_or_else(none),
    };
    names.iter().filter(differs).map(|n| change(n)).take(MAX_SHOWN).collect()
}

/// What a build depends on, with size and time of change.
fn watched(dir: &Path) -> anyhow::Result<BTreeMap<PathBuf, (u64, SystemTime)>> {
    let mut out = BTreeMap::new();
    let mut open: Vec<PathBuf> =
        ["Cargo.toml", "cases.toml", "cases.json", "src", "cases", "calls", "vendor"].iter().map(|n| dir.join(n)).collect();
    while let Some(path) = open.pop() {
        // What goes away while it is looked at is looked at again next time.
        let Ok(data) = std::fs::symlink_metadata(&path) else { continue };
        if data.is_dir() {
            open.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
        } else if data.is_file() {
            out.insert(path, (data.len(), data.modified().unwrap_or(SystemTime::UNIX_EPOCH)));
        }
        if out.len() + open.len() > MAX_WATCHED {
            return Err(UsageError(format!(
                "{} has more than {MAX_WATCHED} files to watch in src, cases, calls and vendor",
                dir.display()
            ))
            .into());
        }
    }
    Ok(out)
}

fn show(cx: &mut Context, round: &Round) -> anyhow::Result<()> {
    if cx.printer.json() {
        return Ok(cx.printer.document(round)?);
    }
    if let Some(error) = &round.error {
        return Ok(cx.printer.notice(Tone::Bad, &format!("build {}: {}", round.build, safe_lines(error)))?);
    }
    let seconds = round.elapsed_ms as f64 / 1e3;
    let (judged, passed, failed) = (round.judged, round.passed, round.failed);
    let tone = if failed == 0 { Tone::Good } else { Tone::Bad };
    cx.printer.toned(tone, &format!("build {}: {judged} judged, cases {passed} passed, {failed} failed, {seconds:.1} s", round.build))?;
    for c in &round.changed {
        cx.printer.toned(Tone::Changed, &format!("  {}", safe(&c.name)))?;
        cx.printer.line(&format!("    before: {}", safe(&c.before)))?;
        cx.printer.line(&format!("    now:    {}", safe(&c.after)))?;
    }
    if round.build > 1 && round.changed.is_empty() {
        cx.printer.note("nothing is decided differently")?;
    }
    if round.build == 1 {
        cx.printer.note("watching src, cases, calls and vendor; Ctrl-C ends")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_what_came_and_went() {
        let of = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Answers>();
        let found = changes(&of(&[("a", "1"), ("b", "1"), ("c", "1")]), &of(&[("a", "1"), ("b", "2"), ("d", "3")]));
        let short: Vec<String> = found.iter().map(|c| format!("{} {} {}", c.name, c.before, c.after)).collect();
        assert_eq!(short, ["b 1 2", "c 1 not asked", "d not asked 3"]);
    }
}
