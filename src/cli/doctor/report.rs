//! What `doctor` says: documents for `--json`, and the same as text.

use serde::{Deserialize, Serialize};

use crate::api::types::AttestationDoc;
use crate::cli::printer::{Printer, Tone};
use crate::cli::text::{age, brief, micros, safe};
use crate::model::{AttestedFile, CheckResult, Clock, SystemClock};

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckDoc {
    pub name: String,
    pub result: CheckResult,
    pub seen: String,
    pub why: String,
    /// What to do, where it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `doctor <agent>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentReport {
    pub agent: String,
    pub program: String,
    pub kind: String,
    pub digest: String,
    pub files: Vec<AttestedFile>,
    pub covers: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub beadle_version: String,
    pub recipe: String,
    /// No check failed.
    pub ok: bool,
    /// On record with the digest.
    pub stored: bool,
    /// What is on record counts as an attestation.
    pub attested: bool,
    /// Why it was not stored, or does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    pub duration_ms: u64,
    pub checks: Vec<CheckDoc>,
    /// With `--keep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
}

/// `doctor host`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    pub ok: bool,
    pub checks: Vec<CheckDoc>,
}

/// An agent that this version can check, in `doctor` without arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFound {
    pub agent: String,
    /// Absent when it is not on PATH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    pub attested: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The newest one of what is there, else of this agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<AttestationDoc>,
}

/// `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overview {
    pub ok: bool,
    pub host: Vec<CheckDoc>,
    pub agents: Vec<AgentFound>,
}

fn sign(result: CheckResult) -> (Tone, char) {
    match result {
        CheckResult::Ok => (Tone::Good, '✓'),
        CheckResult::Failed => (Tone::Bad, '✗'),
        CheckResult::Skipped => (Tone::Dim, '-'),
    }
}

/// One line a check, and two more where it failed.
pub fn checks(p: &mut Printer, checks: &[CheckDoc]) -> std::io::Result<()> {
    let width = checks.iter().map(|c| c.name.len()).max().unwrap_or(0);
    for c in checks {
        let (tone, sign) = sign(c.result);
        if p.quiet() && c.result != CheckResult::Failed {
            continue;
        }
        p.toned(tone, &format!("{sign} {:<width$}  {}", c.name, safe(&c.seen)))?;
        if let Some(next) = &c.next {
            p.line(&format!("  {:<width$}  why: {}", "", c.why))?;
            p.line(&format!("  {:<width$}  next: {next}", ""))?;
        }
    }
    Ok(())
}

pub fn agent(p: &mut Printer, r: &AgentReport) -> std::io::Result<()> {
    checks(p, &r.checks)?;
    if p.quiet() {
        return Ok(());
    }
    let of = |result| r.checks.iter().filter(|c| c.result == result).count();
    let (good, bad, left) = (of(CheckResult::Ok), of(CheckResult::Failed), of(CheckResult::Skipped));
    p.line("")?;
    let counts = format!("{good} ok, {bad} failed, {left} skipped in {}", micros(r.duration_ms.saturating_mul(1000)));
    p.toned(if r.ok { Tone::Good } else { Tone::Bad }, &counts)?;
    p.fields(&[
        ("program", format!("{} {}", safe(&r.program), r.version.as_deref().map(safe).unwrap_or_default()).trim_end().to_owned()),
        ("digest", format!("{} ({})", brief(&r.digest, 16), safe(&r.covers))),
        ("attested", standing(r)),
        ("folder", r.folder.as_deref().map(safe).unwrap_or_default()),
    ])
}

fn standing(r: &AgentReport) -> String {
    let note = r.note.as_deref().map(|n| format!(": {}", safe(n))).unwrap_or_default();
    match (r.stored, r.attested) {
        (true, true) => format!("yes, by Beadle {}", safe(&r.beadle_version)),
        (true, false) => format!("no{note}; on record"),
        (false, _) => format!("no{note}; not on record"),
    }
}

pub fn overview(p: &mut Printer, o: &Overview) -> std::io::Result<()> {
    checks(p, &o.host)?;
    if p.quiet() {
        return Ok(());
    }
    p.line("")?;
    let now = SystemClock.wall_ms();
    let rows: Vec<Vec<String>> = o.agents.iter().map(|a| row(a, now)).collect();
    p.table(&["AGENT", "PROGRAM", "ATTESTED", "VERSION", "CHECKED", "DIGEST"], &rows)
}

fn row(a: &AgentFound, now: i64) -> Vec<String> {
    let last = |f: fn(&AttestationDoc) -> String| a.last.as_ref().map_or_else(|| "-".to_owned(), f);
    let note = a.note.as_deref().map(|n| format!("no: {}", brief(n, 80)));
    vec![
        a.agent.clone(),
        a.program.as_deref().map_or_else(|| "not on PATH".to_owned(), |p| brief(p, 60)),
        if a.attested { "yes".to_owned() } else { note.unwrap_or_else(|| "no".to_owned()) },
        last(|l| l.version.as_deref().map_or_else(|| "-".to_owned(), |v| brief(v, 20))),
        a.last.as_ref().map_or_else(|| "-".to_owned(), |l| format!("{} ago", age(&l.at, now))),
        last(|l| brief(&l.digest, 12)),
    ]
}
