//! `beadle doctor`: whether this machine will do, and whether an installed agent's gate holds.
//!
//! `doctor <agent>` runs the agent's own program against the scripted model on hosts of its own, all below one temporary folder: no
//! login, no network, and neither the agent's configuration nor the user's daemon takes part. Only the result goes to the user's
//! daemon, which reads the program itself before it records the digest.
//!
//! Invariants: sessions run side by side, at most one a core and at least two; every one is over or killed when the report is made.

mod channel;
mod checks;
mod hooked;
mod host;
mod notes;
mod report;
mod rig;
mod scenes;

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};

use super::args::DoctorArgs;
use super::confirm::confirmed;
use super::exit::{Coded, Exit};
use super::printer::Tone;
use super::stage::{PrivateHost, temporary};
use super::text::micros;
use super::{Context, Outcome};
use crate::api::client::Client;
use crate::api::types::{AttestationRequest, ProgramDoc, ProgramQuery, VerifyRequest};
use crate::model::{AttestedCheck, CheckResult};
use checks::{CHECKS, Facts};
use report::{AgentFound, AgentReport, CheckDoc, HostReport, Overview};
use rig::{Rig, Told, words};

/// Agents whose program can be checked.
const AGENTS: &[&str] = &["claude"];
/// Most sessions at once.
const SIDE_BY_SIDE: usize = 4;

/// The hidden tool server of a check.
pub fn notes(log: &Path) -> Outcome {
    notes::serve(log)?;
    Ok(Exit::Done)
}

pub async fn run(cx: &mut Context, args: DoctorArgs) -> Outcome {
    match args.what.as_deref() {
        None => overview(cx).await,
        Some("host") => {
            let checks = host::look(&cx.folders()?);
            let report = HostReport { ok: !any_failed(&checks), checks };
            match cx.printer.json() {
                true => cx.printer.document(&report)?,
                false => report::checks(&mut cx.printer, &report.checks)?,
            }
            Ok(if report.ok { Exit::Done } else { Exit::No })
        }
        Some(name) if AGENTS.contains(&name) => examine(cx, name.to_owned(), &args).await,
        Some(name) => {
            let message = format!("doctor knows {} and host, not {name:?}", AGENTS.join(", "));
            Err(Coded { exit: Exit::Usage, code: "BDL-CLI-030".to_owned(), message }.into())
        }
    }
}

fn any_failed(checks: &[CheckDoc]) -> bool {
    checks.iter().any(|c| c.result == CheckResult::Failed)
}

fn search_path() -> String {
    std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned())
}

async fn overview(cx: &mut Context) -> Outcome {
    let mut checks = host::look(&cx.folders()?);
    let client = cx.client()?;
    let up = client.host().await;
    checks.push(CheckDoc {
        name: "daemon".to_owned(),
        result: if up.is_ok() { CheckResult::Ok } else { CheckResult::Failed },
        seen: up.as_ref().map_or_else(words, |d| format!("version {} answers (pid {})", d.version, d.pid)),
        why: "sessions live under it".to_owned(),
        next: up.is_err().then(|| "see `beadle host logs`".to_owned()),
    });
    let mut agents = Vec::new();
    for name in AGENTS {
        agents.push(found(&client, name).await);
    }
    let overview = Overview { ok: !any_failed(&checks), host: checks, agents };
    match cx.printer.json() {
        true => cx.printer.document(&overview)?,
        false => report::overview(&mut cx.printer, &overview)?,
    }
    Ok(if overview.ok { Exit::Done } else { Exit::No })
}

async fn found(client: &Client, name: &str) -> AgentFound {
    let wanted = ProgramQuery { agent: name.to_owned(), program: None, path: Some(search_path()) };
    let all = client.attestations(Some(name)).await.map(|p| p.items).unwrap_or_default();
    let newest = all.last().cloned();
    match client.program(&wanted).await {
        Ok(p) => AgentFound {
            agent: name.to_owned(),
            program: Some(p.program),
            attested: p.attested,
            note: p.why_not,
            last: p.attestation.or(newest),
        },
        Err(e) => AgentFound { agent: name.to_owned(), program: None, attested: false, note: Some(e.to_string()), last: newest },
    }
}

async fn examine(cx: &mut Context, agent: String, args: &DoctorArgs) -> Outcome {
    let begun = Instant::now();
    let root = temporary("beadle-doctor")?;
    let done = on_stage(cx, &agent, args, &root, begun).await;
    if !args.keep
        && let Err(e) = std::fs::remove_dir_all(&root)
    {
        cx.printer.note(&format!("{} is left behind: {e}", root.display()))?;
    }
    let mut report = done?;
    report.folder = args.keep.then(|| root.display().to_string());
    match cx.printer.json() {
        true => cx.printer.document(&report)?,
        false => report::agent(&mut cx.printer, &report)?,
    }
    Ok(if report.ok { Exit::Done } else { Exit::No })
}

async fn on_stage(cx: &mut Context, agent: &str, args: &DoctorArgs, root: &Path, begun: Instant) -> anyhow::Result<AgentReport> {
    let host = PrivateHost::start(&root.join("first"), scenes::CONFIG).await?;
    let told = examined(cx, agent, args, root, &host).await;
    host.stop().await;
    let (program, facts) = told?;
    let version = facts.version.as_ref().ok().cloned();
    let checks: Vec<CheckDoc> = CHECKS
        .iter()
        .map(|c| {
            let finding = c.judge(&facts);
            let next = (finding.result == CheckResult::Failed).then(|| c.next.to_owned());
            CheckDoc { name: c.name.to_owned(), result: finding.result, seen: finding.seen, why: c.why.to_owned(), next }
        })
        .collect();
    let mut report = AgentReport {
        agent: agent.to_owned(),
        program: program.program,
        kind: program.kind,
        digest: program.digest,
        files: program.files,
        covers: program.covers,
        version,
        beadle_version: env!("CARGO_PKG_VERSION").to_owned(),
        recipe: program.recipe,
        ok: !any_failed(&checks),
        stored: false,
        attested: false,
        note: None,
        duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        checks,
        folder: None,
    };
    if args.no_store {
        report.note = Some("--no-store".to_owned());
    } else {
        store(cx, &mut report).await;
    }
    Ok(report)
}

/// Puts the result on record. A host that refuses it, or is not there, makes the report fail: the user asked for a record.
async fn store(cx: &mut Context, report: &mut AgentReport) {
    let request = AttestationRequest {
        agent: report.agent.clone(),
        program: report.program.clone(),
        path: Some(search_path()),
        digest: report.digest.clone(),
        version: report.version.clone(),
        beadle_version: report.beadle_version.clone(),
        recipe: report.recipe.clone(),
        checks: report.checks.iter().map(|c| AttestedCheck { name: c.name.clone(), result: c.result }).collect(),
        duration_ms: report.duration_ms,
    };
    match confirmed(cx, None, async |client| client.attest(&request).await).await {
        Ok(doc) => {
            report.stored = true;
            report.attested = doc.passed;
            report.note = match (doc.passed, doc.kind.as_str()) {
                (true, _) => None,
                (false, "wrapper") => Some("what this wrapper runs is not known; name the real program with --program".to_owned()),
                (false, _) => Some("not every required check passed".to_owned()),
            };
        }
        Err(e) => {
            report.ok = false;
            report.note = Some(format!("{e:#}"));
        }
    }
}

async fn examined(
    cx: &mut Context,
    agent: &str,
    args: &DoctorArgs,
    root: &Path,
    host: &PrivateHost,
) -> anyhow::Result<(ProgramDoc, Facts)> {
    let given = args.program.as_ref().map(std::path::absolute).transpose()?;
    let program = given.map(|p| p.display().to_string());
    let wanted = ProgramQuery { agent: agent.to_owned(), program, path: Some(search_path()) };
    let before = host.client().program(&wanted).await?;
    if !cx.printer.json() {
        cx.printer.note(&format!("{} ({}), scripted model, in {}", before.program, before.kind, root.display()))?;
    }
    let rig = Rig {
        root: root.to_owned(),
        agent: agent.to_owned(),
        program: before.program.clone(),
        path: search_path(),
        own: std::env::current_exe()?,
    };
    std::fs::create_dir_all(root.join("home"))?;
    let facts = play(cx, &rig, host.client()).await?;
    let after = host.client().program(&wanted).await?;
    if (&after.digest, &after.program) != (&before.digest, &before.program) {
        let message = format!("{} changed while it was checked; run `beadle doctor {agent}` again", before.program);
        return Err(Coded { exit: Exit::No, code: "BDL-CLI-031".to_owned(), message }.into());
    }
    Ok((after, facts))
}

/// Plays all sessions, a few at a time, and says as each is over.
async fn play(cx: &mut Context, rig: &Rig, client: &Client) -> anyhow::Result<Facts> {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let (say, mut said) = mpsc::channel::<(&'static str, Option<String>, Duration)>(16);
    let turns = Turns { permits: Semaphore::new(cores.clamp(2, SIDE_BY_SIDE)), say };
    let quiet = cx.printer.json() || cx.printer.quiet();
    let printer = &mut cx.printer;
    let speaking = async move {
        while let Some((name, failed, took)) = said.recv().await {
            let (tone, how) = match &failed {
                Some(why) => (Tone::Bad, why.as_str()),
                None => (Tone::Dim, "played"),
            };
            if !quiet {
                printer.notice(
                    tone,
                    &format!("  {name}: {} in {}", super::text::safe(how), micros(u64::try_from(took.as_micros()).unwrap_or(u64::MAX))),
                )?;
            }
        }
        anyhow::Ok(())
    };
    let playing = async move {
        let (outage, plain, repository, sub_agent, ask, stop, closed, results, hooked, version) = tokio::join!(
            // The one with a daemon of its own first: it takes longest.
            turns.take("outage", scenes::outage(rig)),
            turns.take("calls", scenes::plain(rig, client)),
            turns.take("repository", scenes::repository(rig, client)),
            turns.take("sub-agent", scenes::sub_agent(rig, client)),
            turns.take("questions", scenes::ask(rig, client)),
            turns.take("stop", scenes::stop(rig, client)),
            turns.take("closed channel", scenes::closed(rig)),
            turns.take("results", scenes::results(rig)),
            turns.take("hooks", hooked::play(rig, client)),
            turns.take("version", scenes::version(rig)),
        );
        let verified = client.verify(&VerifyRequest::default()).await.map_err(words);
        Facts { version, plain, sub_agent, ask, repository, stop, outage, closed, results, hooked, verified }
    };
    let (facts, spoken) = tokio::join!(playing, speaking);
    spoken?;
    Ok(facts)
}

/// Lets a few sessions play at a time and says when each is over.
struct Turns {
    permits: Semaphore,
    say: mpsc::Sender<(&'static str, Option<String>, Duration)>,
}

impl Turns {
    async fn take<T>(&self, name: &'static str, played: impl Future<Output = Told<T>>) -> Told<T> {
        let _permit = self.permits.acquire().await.map_err(words)?;
        let begun = Instant::now();
        let outcome = played.await;
        // why ignore: nobody listens when the output is gone; the outcome counts all the same.
        let _ = self.say.send((name, outcome.as_ref().err().cloned(), begun.elapsed())).await;
        outcome
    }
}
