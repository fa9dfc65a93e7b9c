//! A plan as it is kept with its session: what every further attempt needs, checked before the first one starts.
//!
//! Invariants: the file is the host's own (0600, in the session's folder), its digest is in the log, and one that was changed starts
//! nothing; environment and prompt are in it whole and nowhere else; every tier was seen to be startable before the session began.
//!
//! Called by `start` (making it) and `ladder` (each further attempt).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::{self, LaunchRequest};
use crate::model::{
    AttemptPlan, AttemptsPlanned, BACKOFF_MAX_MS, PlanTier, PlannedTier, PlannedVerifier, Restart, TIER_ATTEMPTS_MAX, TIERS_MAX,
    VERIFY_MAX_MS,
};
use crate::session::start::{StartRequest, find_program, resolve};
use crate::session::{Error, Inner, host_tools, live};

/// The kept file, in the session's folder.
pub(in crate::session) const FILE: &str = "plan.json";
/// Longest name of a tier in bytes.
const NAME_MAX: usize = 100;
const KINDS: [&str; 3] = ["local", "sub-agent", "managed"];

/// See the module. Its JSON is the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::session) struct Kept {
    /// Random: its digest tells nothing about values.
    pub salt: String,
    pub tiers: Vec<Tier>,
    /// Program and arguments.
    pub verifier: Option<Vec<String>>,
    pub env: BTreeMap<String, String>,
    pub cwd: String,
    pub umask: u32,
    pub prompt: Option<String>,
    pub mcp_config: Option<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::session) struct Tier {
    pub name: String,
    pub agent: String,
    /// Absolute.
    pub program: String,
    pub args: Vec<String>,
    pub unsafe_args: Vec<String>,
    pub model: Option<String>,
}

impl Kept {
    /// The request for a launch of this tier; the prompt is the caller's matter.
    pub fn recipe(&self, tier: &Tier, inner: &Inner) -> LaunchRequest {
        let program = if tier.agent == "demo" { inner.host_bin.clone() } else { PathBuf::from(&tier.program) };
        LaunchRequest {
            program: Some(program),
            args: tier.args.clone(),
            unsafe_args: tier.unsafe_args.clone(),
            env: self.env.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))).collect(),
            cwd: PathBuf::from(&self.cwd),
            model: tier.model.clone(),
            mcp_config: self.mcp_config.clone().filter(|_| tier.agent == "claude"),
            ..LaunchRequest::default()
        }
    }
}

fn refused(what: String, why: &str) -> Error {
    Error::Refused { what, why: why.to_owned() }
}

/// Puts the first tier in the place of the request's own agent, and the configured restart where the caller says nothing; a plan that asks
/// for nothing is none.
pub(in crate::session) fn first_tier(inner: &Inner, request: &mut StartRequest, elsewhere: bool) -> Result<(), Error> {
    if elsewhere && request.plan.as_ref().is_some_and(|p| !p.is_once() || p.restart.is_some_and(|r| !r.is_no())) {
        let why = "cannot be held in a lane that workers serve; the lane's `attempts` say how often it is tried there";
        return Err(refused("a plan of attempts".to_owned(), why));
    }
    if request.plan.as_ref().is_none_or(|p| p.restart.is_none()) {
        let restart = if elsewhere { Restart::No } else { inner.config_of(&request.cwd).record.restart };
        request.plan.get_or_insert_with(|| AttemptPlan::once(None)).restart = Some(restart);
    }
    request.plan.take_if(|p| p.is_once() && p.restart.is_none_or(|r| r.is_no()));
    let Some(plan) = &request.plan else { return Ok(()) };
    if plan.tiers.len() > TIERS_MAX {
        return Err(refused(format!("a plan of {} tiers", plan.tiers.len()), "is over the limit of 16"));
    }
    if request.keep_open && !plan.is_once() {
        return Err(refused("a plan of attempts".to_owned(), "cannot be held by a session that is kept for further prompts"));
    }
    let Some(first) = plan.tiers.first().cloned() else { return Ok(()) };
    let (program, args) = command(&first)?;
    (request.agent, request.program, request.args, request.model) = (agent_of(&first).to_owned(), program, args, first.model);
    Ok(())
}

fn agent_of(tier: &PlanTier) -> &str {
    if tier.agent.is_empty() { "generic" } else { &tier.agent }
}

/// Program, where one is named, and arguments.
fn command(tier: &PlanTier) -> Result<(Option<String>, Vec<String>), Error> {
    if agent_of(tier) != "generic" || tier.program.is_some() {
        return Ok((tier.program.clone(), tier.command.clone()));
    }
    match tier.command.split_first() {
        Some((program, args)) => Ok((Some(program.clone()), args.to_vec())),
        None => Err(refused(format!("tier {:?}", live::cut(&tier.name, 60)), "has neither a command nor an agent")),
    }
}

/// The plan's event (its digest still to be set) and what is kept; None where nothing is planned. `env` is what the session gets.
pub(in crate::session) fn plan(
    inner: &Inner,
    request: &StartRequest,
    program: &Path,
    cwd: &Path,
    env: &BTreeMap<OsString, OsString>,
) -> Result<Option<(AttemptsPlanned, Kept)>, Error> {
    let Some(wanted) = &request.plan else { return Ok(None) };
    if wanted.backoff_ms > BACKOFF_MAX_MS || wanted.backoff_max_ms > BACKOFF_MAX_MS {
        return Err(refused("a wait between attempts".to_owned(), "is over the limit of a day"));
    }
    let text = |s: &OsString| s.to_str().map(str::to_owned).ok_or_else(|| refused("an environment variable".to_owned(), "is not UTF-8"));
    let mut salt = [0u8; 32];
    inner.entropy.fill(&mut salt);
    let mut kept = Kept {
        salt: salt.iter().map(|b| format!("{b:02x}")).collect(),
        tiers: vec![],
        verifier: None,
        env: env.iter().map(|(k, v)| Ok((text(k)?, text(v)?))).collect::<Result<_, Error>>()?,
        cwd: cwd.display().to_string(),
        umask: request.umask.unwrap_or(0o022) & 0o777,
        prompt: request.prompt.clone(),
        mcp_config: request.mcp_config.clone(),
    };
    let own = || PlanTier {
        name: "1".to_owned(),
        agent: request.agent.clone(),
        attempts: wanted.retries.saturating_add(1),
        ..PlanTier::default()
    };
    let tiers = if wanted.tiers.is_empty() { vec![own()] } else { wanted.tiers.clone() };
    let mut planned = AttemptsPlanned {
        backoff_ms: wanted.backoff_ms,
        backoff_max_ms: wanted.backoff_max_ms.max(wanted.backoff_ms),
        checkpoint: wanted.checkpoint.as_str().to_owned(),
        restart: wanted.restart.unwrap_or_default(),
        ..AttemptsPlanned::default()
    };
    for (place, tier) in tiers.iter().enumerate() {
        let is_own = wanted.tiers.is_empty();
        checked(tier)?;
        let (named, args) = if place == 0 { (request.program.clone(), request.args.clone()) } else { command(tier)? };
        let model = if is_own { request.model.clone() } else { tier.model.clone() };
        let mut one = Tier {
            name: tier.name.clone(),
            agent: agent_of(tier).to_owned(),
            program: named.unwrap_or_default(),
            args,
            unsafe_args: if place == 0 { request.unsafe_args.clone() } else { vec![] },
            model,
        };
        // why now: a ladder whose second step is missing is found out when nobody looks any more.
        one.program =
            if place == 0 { program.to_path_buf() } else { startable(inner, &kept, &one, cwd, request.host_tools)? }.display().to_string();
        planned.tiers.push(PlannedTier {
            name: tier.name.clone(),
            kind: tier.kind.clone(),
            agent: one.agent.clone(),
            model: one.model.clone(),
            attempts: tier.attempts,
            time_ms: tier.time_ms,
        });
        kept.tiers.push(one);
    }
    if let Some(v) = &wanted.verifier {
        let (first, args) = v.command.split_first().ok_or_else(|| refused("a verifier".to_owned(), "has no command"))?;
        if v.deadline_ms == 0 || v.deadline_ms > VERIFY_MAX_MS {
            return Err(refused("a verifier's deadline".to_owned(), "is not between a millisecond and a day"));
        }
        let named = if first.contains('/') { cwd.join(first) } else { PathBuf::from(first) };
        let path = env.get(std::ffi::OsStr::new("PATH")).map(OsString::as_os_str);
        let program = find_program(&named, path)?;
        kept.verifier = Some([vec![program.display().to_string()], args.to_vec()].concat());
        planned.verifier = Some(PlannedVerifier { command: v.command.clone(), deadline_ms: v.deadline_ms });
    }
    Ok(Some((planned, kept)))
}

fn checked(tier: &PlanTier) -> Result<(), Error> {
    let bad = |why: &str| Err(refused(format!("tier {:?}", live::cut(&tier.name, 60)), why));
    if tier.name.is_empty() || tier.name.len() > NAME_MAX || tier.name.chars().any(char::is_control) {
        return bad("has no name of 1 to 100 bytes");
    }
    if tier.kind.as_deref().is_some_and(|k| !KINDS.contains(&k)) {
        return bad("is of a kind that is none of local, sub-agent and managed");
    }
    if !(1..=TIER_ATTEMPTS_MAX).contains(&tier.attempts) {
        return bad("is tried less than once or over 100 times");
    }
    if tier.time_ms.is_some_and(|ms| ms == 0 || Duration::from_millis(ms) > Duration::from_secs(365 * 86_400)) {
        return bad("may take no time, or over a year");
    }
    Ok(())
}

/// `wanted`: whether the host's own tools are.
fn startable(inner: &Inner, kept: &Kept, tier: &Tier, cwd: &Path, wanted: Option<bool>) -> Result<PathBuf, Error> {
    let driver = agent::driver(&tier.agent)?;
    let mut recipe = kept.recipe(tier, inner);
    recipe.host_tools = host_tools::are_given(&inner.config_of(cwd), wanted, &tier.unsafe_args, &[driver]);
    recipe.program = recipe.program.filter(|p| !p.as_os_str().is_empty());
    let launch = driver.launch(&recipe)?;
    crate::session::start::required_of(driver, &tier.unsafe_args, &launch, inner.config_of(cwd).require_mediation)?;
    resolve(&launch, cwd)
}
