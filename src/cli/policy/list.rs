//! `beadle policy ls`: the chain that a session of a folder gets, with what each policy is and at which moments it is asked.
//!
//! It loads the chain as a session's start does, without a daemon. Called by `cli`.

use serde::Serialize;

use super::{Scratch, coded};
use crate::cli::args::PolicyLsArgs;
use crate::cli::exit::Exit;
use crate::cli::text::safe;
use crate::cli::{Context, Outcome};
use crate::model::{Event, Mode, PluginFailed, PluginLoaded};
use crate::plugin::{Host, HostOptions};
use crate::policy::Chains;

/// A policy of the chain, in its order.
#[derive(Serialize)]
#[serde(untagged)]
enum Row<'a> {
    Loaded(&'a PluginLoaded),
    Failed(&'a PluginFailed),
}

/// Exits with 1 where a policy could not be loaded: it then counts as its `on_failure`.
pub async fn ls(cx: &mut Context, args: PolicyLsArgs) -> Outcome {
    let scratch = Scratch::of(cx, args.cwd.as_deref(), args.config.as_deref())?;
    let plugins = Host::new(HostOptions::default()).map_err(|e| coded(e.code(), &e))?;
    let assembled = Chains::new(scratch.folders.clone(), plugins, Default::default()).assemble(Some(&scratch.cwd), &[]).await?;
    let rows: Vec<Row<'_>> = assembled
        .events
        .iter()
        .filter_map(|e| match e {
            Event::PluginLoaded(p) => Some(Row::Loaded(p)),
            Event::PluginFailed(f) => Some(Row::Failed(f)),
            _ => None,
        })
        .collect();
    if cx.printer.json() {
        for row in &rows {
            cx.printer.document(row)?;
        }
    } else {
        let cells: Vec<Vec<String>> = rows.iter().map(|r| cells(r, cx.printer.quiet())).collect();
        cx.printer.table(&["POLICY", "PLUGIN", "MODE", "ON FAILURE", "DEADLINE", "DIGEST", "ASKED AT"], &cells)?;
        for row in &rows {
            if let Row::Failed(f) = row {
                cx.printer.note(&format!("{}: {}", safe(&f.policy), safe(&f.detail)))?;
            }
        }
        cx.printer.note(&format!("when all abstain: {}", assembled.chain.default.as_str()))?;
    }
    Ok(if rows.iter().any(|r| matches!(r, Row::Failed(_))) { Exit::No } else { Exit::Done })
}

fn cells(row: &Row<'_>, quiet: bool) -> Vec<String> {
    match row {
        Row::Loaded(p) if quiet => vec![safe(&p.policy)],
        Row::Failed(f) if quiet => vec![safe(&f.policy)],
        Row::Loaded(p) => {
            let asked: Vec<&str> = std::iter::once("decide").chain(p.moments.iter().map(|m| m.as_str())).collect();
            vec![
                safe(&p.policy),
                safe(&format!("{} {}", p.plugin, p.version)),
                match p.mode {
                    Mode::Enforce => "enforce",
                    Mode::Monitor => "monitor",
                }
                .to_owned(),
                p.on_failure.effect().as_str().to_owned(),
                format!("{} ms", p.deadline_ms),
                p.digest.chars().take(12).collect(),
                asked.join(", "),
            ]
        }
        Row::Failed(f) => {
            vec![
                safe(&f.policy),
                "not loaded".to_owned(),
                "-".to_owned(),
                f.on_failure.effect().as_str().to_owned(),
                "-".to_owned(),
                "-".to_owned(),
                "-".to_owned(),
            ]
        }
    }
}
