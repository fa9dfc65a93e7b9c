//! The plan of attempts that `run` asks for: from its options, or a ladder file.
//!
//! Called by `run`.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::args::PlanArgs;
use super::exit::UsageError;
use super::text::safe;
use crate::model::{AttemptPlan, Checkpointing, PlanTier, PlanVerifier};

/// Largest ladder file in bytes.
const FILE_MAX: u64 = 256 << 10;

/// None where nothing is asked for.
pub fn plan(args: PlanArgs) -> anyhow::Result<Option<AttemptPlan>> {
    if let Some(file) = &args.ladder {
        return read(file).map(|plan| Some(AttemptPlan { restart: args.restart, ..plan }));
    }
    let verifier = args.verify.map(|v| PlanVerifier {
        command: vec!["/bin/sh".to_owned(), "-c".to_owned(), v],
        deadline_ms: args.verify_time.unwrap_or(PlanVerifier::deadline()),
    });
    let tried = args.retries.is_some_and(|n| n > 0) || verifier.is_some();
    if !tried && args.checkpoint.is_none_or(|c| c == Checkpointing::Never) {
        return Ok(args
            .restart
            .map(|r| AttemptPlan { backoff_ms: args.backoff.unwrap_or(AttemptPlan::backoff()), ..AttemptPlan::once(Some(r)) }));
    }
    Ok(Some(AttemptPlan {
        tiers: vec![],
        retries: args.retries.unwrap_or(0),
        backoff_ms: args.backoff.unwrap_or(AttemptPlan::backoff()),
        backoff_max_ms: AttemptPlan::backoff_max(),
        verifier,
        checkpoint: args.checkpoint.unwrap_or(Checkpointing::Success),
        restart: args.restart,
    }))
}

/// A ladder file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// A shell command, or program and arguments.
    #[serde(default)]
    verify: Option<Words>,
    #[serde(default)]
    verify_ms: Option<u64>,
    #[serde(default)]
    backoff_ms: Option<u64>,
    #[serde(default)]
    backoff_max_ms: Option<u64>,
    #[serde(default)]
    checkpoint: Checkpointing,
    tier: Vec<PlanTier>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Words {
    Shell(String),
    Program(Vec<String>),
}

fn read(file: &Path) -> anyhow::Result<AttemptPlan> {
    let bad = |why: String| UsageError(format!("--ladder {}: {why}", safe(&file.to_string_lossy())));
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(|e| bad(e.to_string()))?;
    opened.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|e| bad(e.to_string()))?;
    if text.len() as u64 > FILE_MAX {
        return Err(bad(format!("over {FILE_MAX} bytes")).into());
    }
    parse(&text).map_err(|why| bad(why).into())
}

fn parse(text: &str) -> Result<AttemptPlan, String> {
    let f: File = toml::from_str(text).map_err(|e| e.to_string())?;
    if f.tier.is_empty() {
        return Err("it has no [[tier]]; each has a name and an agent or a command".to_owned());
    }
    let command = f.verify.map(|v| match v {
        Words::Shell(v) => vec!["/bin/sh".to_owned(), "-c".to_owned(), v],
        Words::Program(v) => v,
    });
    let verifier = command.map(|command| PlanVerifier { command, deadline_ms: f.verify_ms.unwrap_or(PlanVerifier::deadline()) });
    Ok(AttemptPlan {
        tiers: f.tier,
        retries: 0,
        backoff_ms: f.backoff_ms.unwrap_or(AttemptPlan::backoff()),
        backoff_max_ms: f.backoff_max_ms.unwrap_or(AttemptPlan::backoff_max()),
        verifier,
        checkpoint: f.checkpoint,
        restart: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ladder_file_is_read_whole_or_refused() {
        let p = parse(
            "verify = \"make test\"\nverify_ms = 5000\n[[tier]]\nname = \"small\"\nkind = \"local\"\ncommand = [\"./small\"]\nattempts = 2\n\
             [[tier]]\nname = \"big\"\nagent = \"claude\"\nmodel = \"m\"\ntime_ms = 60000\n",
        )
        .unwrap();
        assert_eq!((p.tiers.len(), p.tiers[0].attempts, p.tiers[1].attempts, p.checkpoint), (2, 2, 1, Checkpointing::Success));
        assert_eq!(p.verifier.map(|v| (v.command[2].clone(), v.deadline_ms)), Some(("make test".to_owned(), 5000)));
        for bad in
            ["", "tier = []", "[[tier]]\nname = 1", "[[tier]]\nname = \"a\"\nretry = 1", "checkpoint = \"often\"\n[[tier]]\nname = \"a\""]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_example_is_one() {
        let p = parse(include_str!("../../examples/ladder.toml")).unwrap();
        assert_eq!(p.tiers.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["small", "big"]);
    }

    #[test]
    fn nothing_asked_for_is_no_plan() {
        assert_eq!(plan(PlanArgs::default()).unwrap(), None);
        let p = plan(PlanArgs { retries: Some(2), ..PlanArgs::default() }).unwrap().unwrap();
        assert_eq!((p.retries, p.checkpoint, p.verifier), (2, Checkpointing::Success, None));
        let p = plan(PlanArgs { checkpoint: Some(Checkpointing::Always), ..PlanArgs::default() }).unwrap().unwrap();
        assert_eq!((p.retries, p.checkpoint), (0, Checkpointing::Always));
    }
}
