//! Which programs passed `beadle doctor`, and whether the one that is about to run is among them.
//!
//! Invariants:
//! - an attestation counts for the very content of the program, this version of the host and its launch recipe, and for nothing else;
//! - the digest is taken here, from the file that is executed, never believed from a caller;
//! - after the start the running process is compared with the file that was read, before it is told anything ([`runs`]).
//!
//! What remains: a script's interpreter opens the script once more by its path, and libraries that a program loads are not covered.
//!
//! Called by `start` and, through [`Manager`], by `api`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Error, Inner, Manager, start};
use crate::agent;
use crate::model::{Actor, Attestation, AttestedCheck, AttestedFile, SessionProgram};
use crate::process::Inspected;
use crate::store::{HostEvent, Store};

/// Name of the host document.
const DOCUMENT: &str = "attestations";
/// Most attestations kept; the oldest go first.
const KEPT: usize = 64;
/// Most checks of one, and bytes of a check's name.
const CHECKS_MAX: usize = 64;
const NAME_MAX: usize = 64;

/// An attestation and when it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attested {
    pub at: i64,
    pub attestation: Attestation,
}

/// A program as the host sees it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramSeen {
    pub inspected: Inspected,
    /// Of this host's version.
    pub recipe: String,
    /// The newest attestation of this very content, whether it passed or not.
    pub newest: Option<Attested>,
    /// Why it does not count as attested; absent when it does.
    pub why_not: Option<String>,
}

/// What a caller reports of the checks it ran.
#[derive(Debug, Clone, Default)]
pub struct AttestRequest {
    pub agent: String,
    pub program: String,
    /// PATH to look the program up on.
    pub path: Option<String>,
    pub digest: String,
    pub version: Option<String>,
    pub beadle_version: String,
    pub recipe: String,
    pub checks: Vec<AttestedCheck>,
    pub duration_ms: u64,
}

pub(super) fn load(store: &Store) -> Result<Vec<Attested>, Error> {
    // why default: a list that cannot be read attests nothing.
    Ok(store.setting(DOCUMENT)?.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default())
}

/// What is known of the program of a session that is about to start. `None` for agents that are not attested at all.
pub(super) struct Checked {
    pub seen: SessionProgram,
    inspected: Option<Inspected>,
}

/// Reads the program where there is something to compare it with; refuses the start where it must be attested and is not.
pub(super) async fn check(
    inner: &Arc<Inner>,
    agent: &str,
    program: &Path,
    search: Option<OsString>,
    unsafe_args: bool,
    required: bool,
) -> Result<Option<Checked>, Error> {
    if !agent::attestable(agent) {
        return Ok(None);
    }
    let refuse = |why: String| Error::NotAttested { agent: agent.to_owned(), program: program.display().to_string(), why };
    if unsafe_args {
        let why = "arguments accepted with --unsafe-arg were not part of the checks".to_owned();
        if required {
            return Err(refuse(why));
        }
        return Ok(Some(Checked { seen: SessionProgram { digest: None, attested: false, note: Some(why) }, inspected: None }));
    }
    if !required && !inner.attested().iter().any(|a| a.attestation.agent == agent) {
        return Ok(Some(Checked { seen: SessionProgram { digest: None, attested: false, note: None }, inspected: None }));
    }
    let seen = match inspect(inner, agent, program.to_owned(), search).await {
        Ok(seen) => seen,
        Err(e) if required => return Err(e),
        Err(e) => {
            let note = Some(e.to_string());
            return Ok(Some(Checked { seen: SessionProgram { digest: None, attested: false, note }, inspected: None }));
        }
    };
    if let (Some(why), true) = (&seen.why_not, required) {
        return Err(refuse(why.clone()));
    }
    let program = SessionProgram { digest: Some(seen.inspected.digest()), attested: seen.why_not.is_none(), note: seen.why_not };
    Ok(Some(Checked { seen: program, inspected: Some(seen.inspected) }))
}

/// Whether what runs is what was read. Only an attested program has something to lose.
pub(super) fn runs(checked: Option<&Checked>, pid: u32) -> bool {
    match checked {
        Some(Checked { seen, inspected: Some(i) }) if seen.attested => i.runs_as(pid),
        _ => true,
    }
}

async fn inspect(inner: &Arc<Inner>, agent: &str, program: PathBuf, search: Option<OsString>) -> Result<ProgramSeen, Error> {
    let recipe = agent::recipe(agent)?;
    let (host, path) = (inner.clone(), program.clone());
    let search = search.unwrap_or_else(|| start::DEFAULT_PATH.into());
    // why blocking: the first look at a program reads it whole (0.2 GB for some).
    let inspected = tokio::task::spawn_blocking(move || host.programs.inspect(&path, &search))
        .await
        .map_err(|e| Error::Refused { what: program.display().to_string(), why: format!("could not be read: {e}") })??;
    let digest = inspected.digest();
    let list = inner.attested();
    let of_agent = || list.iter().filter(|a| a.attestation.agent == agent);
    let newest = of_agent().rev().find(|a| a.attestation.digest == digest).cloned();
    let why_not = match &newest {
        None if of_agent().any(|a| a.attestation.passed()) => Some("its content is not that of any program that passed".to_owned()),
        None => Some("no program of this agent was checked yet".to_owned()),
        Some(a) if a.attestation.beadle_version != env!("CARGO_PKG_VERSION") || a.attestation.recipe != recipe => {
            Some(format!("it was checked by Beadle {} with another launch recipe", a.attestation.beadle_version))
        }
        Some(a) if a.attestation.program_kind == "wrapper" => {
            Some("it is a wrapper, and what it runs is not known; name the real program with --program".to_owned())
        }
        Some(a) if !a.attestation.passed() => Some("its last check did not pass".to_owned()),
        Some(_) => None,
    };
    drop(list);
    Ok(ProgramSeen { inspected, recipe, newest, why_not })
}

impl Manager {
    /// The program as a session would run it: found on `path`, read, compared with what passed. Blocks nobody.
    pub async fn inspect(&self, agent: &str, program: Option<&str>, path: Option<&str>) -> Result<ProgramSeen, Error> {
        if !agent::attestable(agent) {
            agent::driver(agent)?;
            return Err(Error::Refused {
                what: format!("agent {agent}"),
                why: "has no program of its own that could be attested".to_owned(),
            });
        }
        let program = start::find_program(Path::new(program.unwrap_or(agent)), path.map(OsStr::new))?;
        inspect(&self.inner, agent, program, path.map(OsString::from)).await
    }

    /// Newest last.
    pub fn attestations(&self, agent: Option<&str>) -> Vec<Attested> {
        self.inner.attested().iter().filter(|a| agent.is_none_or(|n| n == a.attestation.agent)).cloned().collect()
    }

    /// Records what a caller found. The host reads the program itself: another content, version or recipe than checked is refused.
    pub async fn attest(&self, r: AttestRequest, by: Actor) -> Result<Attested, Error> {
        let inner = &self.inner;
        let refused = |what: &str, why: String| Error::Refused { what: what.to_owned(), why };
        let named = |c: &AttestedCheck| !c.name.is_empty() && c.name.len() <= NAME_MAX;
        if r.checks.is_empty() || r.checks.len() > CHECKS_MAX || !r.checks.iter().all(named) {
            return Err(refused("checks", format!("must be 1 to {CHECKS_MAX}, each with a name of at most {NAME_MAX} bytes")));
        }
        if r.beadle_version != env!("CARGO_PKG_VERSION") {
            return Err(refused("the report", format!("is by Beadle {}, this host is {}", r.beadle_version, env!("CARGO_PKG_VERSION"))));
        }
        let seen = self.inspect(&r.agent, Some(&r.program), r.path.as_deref()).await?;
        if seen.inspected.digest() != r.digest {
            let why = format!("has the digest {} now, not the checked {}; run the checks again", seen.inspected.digest(), r.digest);
            return Err(refused(&r.program, why));
        }
        if seen.recipe != r.recipe {
            return Err(refused("the report", "is of another launch recipe; end the old host with `beadle host stop`".to_owned()));
        }
        let file = |f: &crate::process::ProgramFile| AttestedFile {
            path: f.path.display().to_string(),
            digest: f.digest.clone(),
            bytes: f.id.size,
        };
        let attestation = Attestation {
            agent: r.agent,
            program: seen.inspected.program.display().to_string(),
            program_kind: seen.inspected.kind.as_str().to_owned(),
            digest: r.digest,
            files: seen.inspected.files.iter().map(file).collect(),
            version: r.version.map(|v| v.chars().take(64).collect()),
            beadle_version: r.beadle_version,
            recipe: seen.recipe,
            checks: r.checks,
            duration_ms: r.duration_ms,
            by,
        };
        let made = Attested { at: inner.clock.wall_ms(), attestation };
        let _one = inner.attesting.lock().await;
        let mut list = inner.attested().clone();
        // The newest of one content replaces the ones before: a program that fails now is not attested by an older pass.
        let same = |a: &Attestation, b: &Attestation| a.agent == b.agent && a.digest == b.digest;
        list.retain(|a| !same(&a.attestation, &made.attestation));
        list.push(made.clone());
        let over = list.len().saturating_sub(KEPT);
        list.drain(..over);
        let text = serde_json::to_string(&list).unwrap_or_default();
        inner.store.note(HostEvent::AgentAttested(Box::new(made.attestation.clone())), vec![(DOCUMENT.to_owned(), Some(text))]).await?;
        *inner.attested() = list;
        Ok(made)
    }
}
