//! `beadle host upgrade`: another executable takes over, and is looked at; what is not as it was is taken back.
//!
//! In order: the new executable checks configuration, store and policies beside the daemon that runs, and where it changes the store's
//! schema, does so with a copy; that one keeps a copy of itself and ends (sessions go on); the new one starts, adopts, and must be who it
//! said, with no session that cannot be adopted. Else it is ended and the copy runs again, with the store from before.
//!
//! Invariants: nothing is ended before the checks; the store from before comes back only where nobody was told anything since; whatever
//! dies in between, the next command that needs a daemon starts one.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::exit::{Coded, Exit, UsageError};
use super::host::end;
use super::text::{brief, count, safe};
use super::{Context, Outcome};
use crate::api::client::Client;
use crate::api::types::{CheckDoc, HostDoc, RehearsalDoc, UpgradeDoc};
use crate::daemon;

/// How long the check may take: policies may be compiled in it.
const CHECK: Duration = Duration::from_secs(120);
/// How long the new schema may be tried on a copy: every event is read.
const REHEARSAL: Duration = Duration::from_secs(3_600);
/// How long a daemon may take to listen, at least; it opens the store first.
const LISTEN: Duration = Duration::from_secs(60);
/// More than that for a large store: so many times what the trial on a copy took, and a second for so many bytes.
const LISTEN_TRIALS: u32 = 4;
const LISTEN_BYTES: u64 = 4 << 20;
/// How long a daemon may take to adopt its sessions and answer.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a daemon may take to end.
const END: Duration = Duration::from_secs(10);
/// Starts, where another command was faster with another executable.
const TRIES: u32 = 3;
/// The code of a folder that another process holds.
const IN_USE: &str = "BDL-STORE-003";
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(5);

pub async fn run(cx: &mut Context, to: Option<PathBuf>, force: bool, within: Option<u64>) -> Outcome {
    let client = Client::without_start(cx.folders()?);
    let old = client.host().await?;
    let program = match to {
        Some(path) => path.canonicalize().map_err(|e| UsageError(format!("{}: {e}; give an executable", path.display())))?,
        None => std::env::current_exe()?,
    };
    let checked: CheckDoc = asked(&program, &["--json", "daemon", "--check"], CHECK).await?;
    refuse_lost_policies(&old, &checked, force)?;
    let mut patience = LISTEN.max(Duration::from_secs(stored_bytes(&cx.folders()?.data) / LISTEN_BYTES));
    let migrates = checked.found_schema.filter(|found| *found < checked.schema);
    if let Some(found) = migrates {
        cx.printer.note(&format!("the store goes from schema {found} to {}; that is tried on a copy first", checked.schema))?;
        let begun = Instant::now();
        let tried = asked(&program, &["--json", "daemon", "--check", "--rehearse"], REHEARSAL).await?;
        patience = patience.max(begun.elapsed() * LISTEN_TRIALS);
        refuse_unsound(&tried, force)?;
    }
    let patience = within.map_or(patience, Duration::from_millis);
    let kept = PathBuf::from(client.keep_program().await?.path);

    let last = end(&client).await?;
    let begun = Instant::now();
    let mut started = None;
    let why = match start(&client, (&program, patience), &checked.version, &mut started).await {
        Ok(doc) => match differs(&last, &doc) {
            None => return done(cx, &old, &doc, &program, begun.elapsed(), None),
            Some(why) => why,
        },
        Err(why) => why,
    };
    if let Some(child) = started {
        discard(&client, child).await;
    }
    let why = match migrates {
        Some(schema) => step_back(cx, &client, schema, why, (&program, patience), &checked.version).await?,
        None => why,
    };
    let back = start(&client, (&kept, patience.max(LISTEN)), &old.version, &mut None).await.map_err(|e| Coded {
        exit: Exit::Internal,
        code: "BDL-CLI-042".to_owned(),
        message: format!("{why}; and {} does not run again: {e}; sessions wait: start it with `{} daemon`", kept.display(), kept.display()),
    })?;
    done(cx, &old, &back, &kept, begun.elapsed(), Some(why))
}

/// What the new executable finds. Nothing has happened yet when it finds fault.
async fn asked<T: DeserializeOwned>(program: &Path, args: &[&str], within: Duration) -> anyhow::Result<T> {
    let refused = |why: String| Coded {
        exit: Exit::No,
        code: "BDL-CLI-040".to_owned(),
        message: format!("{} cannot take over: {why}; nothing was changed", program.display()),
    };
    let mut command = tokio::process::Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let out = match tokio::time::timeout(within, command.output()).await {
        Ok(Ok(out)) => out,
        Ok(Err(e)) => return Err(refused(format!("it cannot be run ({e})")).into()),
        Err(_) => return Err(refused(format!("its check took over {} s", within.as_secs())).into()),
    };
    serde_json::from_slice(&out.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&out.stderr);
        let last = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("and said nothing");
        refused(format!("its check ended with {}: {}", out.status, brief(last, 500))).into()
    })
}

/// A store that the new executable would leave unsound stays as it is.
fn refuse_unsound(tried: &RehearsalDoc, force: bool) -> Result<(), Coded> {
    if tried.finding_count == 0 || force {
        return Ok(());
    }
    Err(Coded {
        exit: Exit::No,
        code: "BDL-CLI-040".to_owned(),
        message: format!(
            "a copy of the store that beadle {} brought to schema {} does not verify ({} findings; the first: {}); nothing was changed. \
             Where `beadle verify` finds the same now, mend it, or upgrade with --force",
            safe(&tried.version),
            tried.schema,
            count(tried.finding_count),
            tried.first_finding.as_deref().map(|d| brief(d, 300)).unwrap_or_default()
        ),
    })
}

/// The store from before takes the place of the one that the new executable made. Where anybody was told anything since, it does not: then
/// the new executable is what can go on, and is started once more.
async fn step_back(
    cx: &Context,
    client: &Client,
    schema: i64,
    why: String,
    program: (&Path, Duration),
    version: &str,
) -> anyhow::Result<String> {
    let begun = Instant::now();
    let done = loop {
        let folders = cx.folders()?;
        let done = tokio::task::spawn_blocking(move || daemon::step_back(&folders, schema)).await?;
        // why again: a daemon lets go of the folder a moment after its last answer.
        if begun.elapsed() >= END || !done.as_ref().is_err_and(|e| e.code() == IN_USE) {
            break done;
        }
        tokio::time::sleep(LOOK).await;
    };
    match done {
        Ok(None) => Ok(why),
        Ok(Some(failed)) => Ok(format!("{why}; the store is the one of before again, and what it had become is {}", failed.display())),
        Err(e) => {
            let runs = match start(client, program, version, &mut None).await {
                Ok(_) => format!("beadle {} runs on", safe(version)),
                Err(e) => format!("no daemon runs, and sessions wait ({}); see `beadle host logs`", brief(&e, 200)),
            };
            Err(Coded { exit: Exit::No, code: "BDL-CLI-041".to_owned(), message: format!("{why}; it is not taken back: {e}; {runs}") }
                .into())
        }
    }
}

/// A policy that is in force and would fail in the new executable denies, asks or lets go of every call: the operator must want that.
fn refuse_lost_policies(old: &HostDoc, new: &CheckDoc, force: bool) -> Result<(), Coded> {
    let in_force = |name: &str| old.policies.iter().any(|p| p.name == name && p.state == "ready");
    let lost = new.policies.iter().find(|p| p.state != "ready" && in_force(&p.name));
    match lost {
        Some(p) if !force => Err(Coded {
            exit: Exit::No,
            code: "BDL-CLI-040".to_owned(),
            message: format!(
                "policy {} is in force and fails in beadle {}: {}; nothing was changed. Mend it, or upgrade with --force",
                safe(&p.name),
                safe(&new.version),
                p.detail.as_deref().map(|d| brief(d, 300)).unwrap_or_default()
            ),
        }),
        _ => Ok(()),
    }
}

/// Bytes of the database and of archives: a daemon may have to read all of them before it listens.
fn stored_bytes(data: &Path) -> u64 {
    let below = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let files = below(data).filter(|f| f.file_name().to_string_lossy().starts_with("beadle.db")).chain(below(&data.join("archives")));
    files.filter_map(|f| f.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum()
}

/// Starts one, waits so long for it to listen, and then for its answer. A daemon that another command started meanwhile is ended again.
async fn start(
    client: &Client,
    (program, patience): (&Path, Duration),
    version: &str,
    started: &mut Option<Child>,
) -> Result<HostDoc, String> {
    let mut was = String::new();
    for _ in 0..TRIES {
        client.start_program(program, started, patience).await.map_err(|e| e.to_string())?;
        let doc = match tokio::time::timeout(ANSWER, client.host()).await {
            Ok(doc) => doc.map_err(|e| e.to_string())?,
            Err(_) => return Err(format!("{} gave no answer within {} s", program.display(), ANSWER.as_secs())),
        };
        if Path::new(&doc.program) == program && doc.version == version {
            return Ok(doc);
        }
        was = format!("beadle {} of {} runs in its place", safe(&doc.version), safe(&doc.program));
        end(client).await.map_err(|e| format!("{was}, and does not end: {e}"))?;
    }
    Err(was)
}

/// What is not as it was: every live session must be adopted, or have ended by itself.
fn differs(last: &HostDoc, now: &HostDoc) -> Option<String> {
    let (failed, before) = (now.recovered.failed_count, last.recovered.failed_count);
    if failed > before {
        return Some(format!("{failed} sessions cannot be adopted by beadle {}", safe(&now.version)));
    }
    let found = now.recovered.adopted_count + now.recovered.ended_count;
    (found < last.live_count).then(|| format!("{} sessions were live, and beadle {} found {found}", last.live_count, safe(&now.version)))
}

/// Ends what was started and is not wanted.
async fn discard(client: &Client, mut child: Child) {
    let told = matches!(tokio::time::timeout(END, client.shutdown()).await, Ok(Ok(_)));
    let begun = Instant::now();
    // why not where it does not listen: it has told nobody anything, and does not know that it is to end.
    while told && begun.elapsed() < END && matches!(child.try_wait(), Ok(None)) {
        tokio::time::sleep(LOOK).await;
    }
    // why no check: it is ours and not waited for yet, so the number is no other's; one that has ended is not hurt.
    let _ = child.kill();
    let _ = child.wait();
}

fn done(cx: &mut Context, old: &HostDoc, now: &HostDoc, program: &Path, gap: Duration, rolled_back: Option<String>) -> Outcome {
    let exit = if rolled_back.is_some() { Exit::No } else { Exit::Done };
    let doc = UpgradeDoc {
        old_version: old.version.clone(),
        version: now.version.clone(),
        program: program.display().to_string(),
        pid: now.pid,
        gap_ms: u64::try_from(gap.as_millis()).unwrap_or(u64::MAX),
        recovered: now.recovered,
        rolled_back,
    };
    if cx.printer.json() {
        cx.printer.document(&doc)?;
        return Ok(exit);
    }
    if let Some(why) = &doc.rolled_back {
        cx.printer.note(&format!("not upgraded: {}; the executable of before runs again", brief(why, 500)))?;
    }
    let r = &doc.recovered;
    cx.printer.line(&format!(
        "beadle {} runs (was {}); {} sessions adopted, {} had ended meanwhile; {} ms without a daemon",
        safe(&doc.version),
        safe(&doc.old_version),
        count(r.adopted_count),
        count(r.ended_count),
        count(doc.gap_ms)
    ))?;
    Ok(exit)
}
