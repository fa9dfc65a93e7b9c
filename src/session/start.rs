//! Starting a session: check everything that can be checked, record, then start the shim.
//!
//! The log begins before the process does: `session_created` and the first frames are durable first, so that a host that dies
//! in between finds either a shim to adopt or a start that never was.
//!
//! Called by `Manager::start`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::branch::GoingOn;
use super::live::{self, Live};
use super::run::{CLOSE_INPUT, MAILBOX, Runner};
use super::tree::Start;
use super::witness::Witnesses;
use super::{Error, Inner, LiveSession, attest, context, host_tools, instructions, ladder, mask, moments, relaunch, state};
use crate::agent::{self, Driver, Launch, LaunchRequest};
use crate::config::Config;
use crate::model::moment::NewPrompt;
use crate::model::{
    Actor, AttemptPlan, AttemptStarted, CompactionSet, Event, Excerpt, Mediation, Moment, Outcome, PromptSubmitted, Record, RelaunchKept,
    Session, SessionCreated, SessionEnded, SessionProgram, Status, UsageLimits, UsageLimitsSet,
};
use crate::policy::Chain;
use crate::process::{Inbox, LaunchSpec, Shim, ShimEvents, ShimHandle, default_limits};
use crate::store::{Batch, Frame};

pub(super) mod brief;
mod found;
mod how;
mod kept;
mod opening;
pub(super) mod repository;

pub use brief::Brief;
use found::folder;
pub(super) use found::{DEFAULT_PATH, find_program, resolve};
pub(super) use how::How;
use kept::{sealed, sealed_plan};
pub(super) use opening::{first, preview, take};

/// Longest name in bytes.
const NAME_MAX: usize = 200;
/// Most arguments, and bytes of one.
const ARGS_MAX: usize = 1024;
const ARG_MAX: usize = 128 << 10;

/// What a caller wants started; see `RunRequest` of the API. Its JSON is part of the file that a queued session's request is kept in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StartRequest {
    pub name: Option<String>,
    pub agent: String,
    pub program: Option<String>,
    pub args: Vec<String>,
    pub unsafe_args: Vec<String>,
    pub cwd: PathBuf,
    pub umask: Option<u32>,
    pub env: BTreeMap<String, String>,
    pub prompt: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub brief: Brief,
    pub write_root: Option<PathBuf>,
    pub model: Option<String>,
    pub mcp_config: Option<Value>,
    /// False: without the host's own tools; else as configured.
    #[serde(default)]
    pub host_tools: Option<bool>,
    /// A terminal will attach at once: asks wait for it from the start.
    pub attach: bool,
    pub keep_open: bool,
    pub limits: UsageLimits,
    /// Percent of the model's window from which on the conversation is compacted; 100 is never.
    pub compact_at: Option<u64>,
    /// It goes on from another session's log.
    #[serde(skip)]
    pub going_on: Option<GoingOn>,
    /// Names of the context providers that it gets; as configured when nobody says.
    #[serde(default)]
    pub context: Option<Vec<String>>,
    /// How often it is tried, by whom, and who judges it.
    #[serde(default)]
    pub plan: Option<AttemptPlan>,
}

pub(super) async fn start(inner: &Arc<Inner>, mut request: StartRequest, by: Actor, mut how: How<'_>) -> Result<Session, Error> {
    let elsewhere = how.is_elsewhere();
    if how.needs_room() && inner.live().len() as u64 >= inner.config.live_sessions {
        return Err(Error::TooMany(inner.config.live_sessions));
    }
    ladder::kept::first_tier(inner, &mut request, how.may_be_elsewhere())?;
    let driver = agent::driver(&request.agent)?;
    let cwd = folder(&request.cwd)?;
    limits(&request)?;
    request.write_root = request.write_root.as_deref().map(folder).transpose()?;
    how.can_hold(&request.limits, driver)?;
    let (parent, repository) = (how.parent().map_or_else(|| request.brief.parent(inner), Ok)?, repository::of(&cwd));
    let mut below = inner.may_begin(parent.as_ref(), driver, &cwd, matches!(how, How::Claim(..))).await?.map(Start::keeping_place);
    let mut env: BTreeMap<OsString, OsString> = BTreeMap::new();
    for (k, v) in &request.env {
        if !k.is_empty() && !k.contains(['=', '\0']) && !v.contains('\0') {
            env.insert(k.into(), v.into());
        }
    }
    let home = env.get(OsStr::new("HOME")).and_then(|h| h.to_str()).map(str::to_owned);
    let found = instructions::read(&cwd);
    let program = if request.agent == "demo" { Some(inner.host_bin.clone()) } else { request.program.as_ref().map(PathBuf::from) };
    let goes_on = request.going_on.as_ref().and_then(|g| g.record.clone());
    let conversation = goes_on.as_ref().map_or_else(|| uuid(inner), |r| r.conversation.clone());
    let mut recipe = LaunchRequest {
        program,
        args: request.args.clone(),
        unsafe_args: request.unsafe_args.clone(),
        env,
        cwd: cwd.clone(),
        prompt: request.prompt.clone(),
        agent_session_id: conversation.clone(),
        goes_on: goes_on.is_some(),
        context: request.going_on.iter().filter_map(|g| g.context.clone()).collect(),
        model: request.model.clone(),
        instructions: found.text.clone(),
        mcp_config: request.mcp_config.clone(),
        host_tools: !elsewhere && host_tools(&request, driver, &inner.config_of(&cwd)),
        // why not where programs must be attested: what was checked is the recipe that holds no calls.
        hold: inner.config.park_after_ms.is_some() && request.plan.is_none() && !inner.config_of(&cwd).require_attested,
        ..LaunchRequest::default()
    };
    let mut launch = driver.launch(&recipe)?;
    // why not found: a worker has its own.
    let program = if elsewhere { launch.program.clone() } else { resolve(&launch, &cwd)? };
    if elsewhere {
        (launch.mediation, launch.mediation_note) = (Mediation::None, Some("workers elsewhere run it".to_owned()));
    }
    let planned = ladder::kept::plan(inner, &request, &program, &cwd, &recipe.env)?.map(|(p, k)| sealed_plan(p, &k)).transpose()?;
    let name = how.name().or_else(|| request.name.clone()).unwrap_or_else(|| default_name(&request, &program));
    let reserved = how.reserve(inner, &name)?;
    let id = reserved.id.clone();
    // why only with labels: the configuration is read once more for this.
    let two_person = !request.labels.is_empty() && inner.config_of(&cwd).needs_two(&request.labels);
    let rules = inner.rules().for_session(&id, &cwd.to_string_lossy(), two_person);
    let mut assembled = inner.chains.assemble(Some(&cwd), &rules).await?;
    let mut judged = Vec::new();
    let states = state::of_new_session();
    let mut kept_as = request.brief.record(&assembled.config.record, parent.clone(), repository.clone())?;
    kept_as.host_tools = !elsewhere && host_tools(&request, driver, &assembled.config);
    let draft = created(&request, &kept_as, name.clone(), &cwd, home.clone(), &launch, by.clone(), None);
    if let Some((ruling, failures)) =
        opening::judge(inner, &assembled.chain.keeping(&states), &id, draft, &request, &program, &launch, &by).await
    {
        judged.extend(failures);
        let ruling = opening::take(ruling, &mut request.labels, &mut assembled.config);
        how.same_labels(&request.labels)?;
        judged.push(ruling.clone().into());
        judged.extend(state::changes(&states));
        // why again: a policy may have tightened it.
        kept_as = request.brief.record(&assembled.config.record, parent, repository)?;
        kept_as.host_tools = !elsewhere && host_tools(&request, driver, &assembled.config);
        if let Some(r) = ruling.refused {
            let first = created(&request, &kept_as, name, &cwd, home, &launch, by, None);
            return opening::refused(inner, &id, [vec![first], assembled.events, judged].concat(), r, false, &how).await;
        }
        if !two_person && assembled.config.needs_two(&request.labels) {
            let rules = inner.rules().for_session(&id, &cwd.to_string_lossy(), true);
            assembled.chain = inner.chains.assemble(Some(&cwd), &rules).await?.chain;
        }
    }
    super::failpoint::hit("assembled");
    how.bounds_workers(driver, &assembled.config)?;
    required_of(driver, &request.unsafe_args, &launch, assembled.config.require_mediation)?;
    let search = launch.env.get(OsStr::new("PATH")).cloned();
    let must = assembled.config.require_attested;
    let checked = if elsewhere {
        None
    } else {
        attest::check(inner, &request.agent, &program, search, !request.unsafe_args.is_empty(), must).await?
    };

    let first = created(&request, &kept_as, name, &cwd, home, &launch, by.clone(), checked.as_ref().map(|c| c.seen.clone()));
    let named = request.context.as_deref();
    let providers = if elsewhere { context::chosen_elsewhere(named) } else { context::chosen(&assembled.config, named, driver) }?;
    if let How::Wait(entry) = how {
        Start::count(&mut below).await;
        return super::queue::enqueue(inner, &id, [vec![first], assembled.events, judged].concat(), request, by, entry).await;
    }
    assembled.events.extend(context::added(&providers, &by));
    let tools = how.host_tools(kept_as.host_tools);
    let others = std::mem::replace(&mut recipe.host_tools, tools) != tools;
    recipe.results = driver.shows_results() && assembled.chain.takes_part(Moment::JudgeResult);
    let asked = !providers.is_empty() || assembled.chain.takes_part(Moment::JudgePrompt);
    if let Some(text) = request.prompt.clone().filter(|_| asked) {
        let session = opening::preview(inner, &id, first.clone()).map(|s| s.with_context(providers));
        let prompt = NewPrompt { text, number: 1, role: by.role.clone() };
        let (more, ruling) = match &session {
            Some(s) => moments::judge_prompt(inner, &assembled.chain.keeping(&states), driver, s, prompt).await,
            None => (vec![], Ok(vec![])),
        };
        judged.extend(more);
        judged.extend(state::changes(&states));
        match ruling {
            Ok(context) => recipe.context.extend(context),
            Err(r) => return opening::refused(inner, &id, [vec![first], assembled.events, judged].concat(), r, true, &how).await,
        }
    }
    // why: a policy may have tightened it for this session.
    let unheld = recipe.hold && must;
    recipe.hold &= !must;
    if recipe.results || unheld || others || !recipe.context.is_empty() {
        launch = driver.launch(&recipe)?;
    }
    let mut events: Vec<Event> = vec![first];
    if !request.limits.is_empty() {
        events.push(UsageLimitsSet { limits: request.limits }.into());
    }
    // why its own: the agent's record holds what was said before, which is nobody's here.
    launch.transcript = goes_on.or(launch.transcript);
    events.extend(planned.iter().map(|(plan, _)| plan.clone().into()));
    events.extend(launch.transcript.clone().map(Event::from));
    let spec = LaunchSpec {
        run_dir: inner.run_dir(&id, how.attempt()),
        marker: id.to_string(),
        program: program.clone(),
        args: launch.args.clone(),
        env: launch.env.clone().into_iter().collect(),
        cwd: cwd.clone(),
        umask: request.umask.unwrap_or(0o022) & 0o777,
        gated: driver.speaks(),
        keep_stdin: launch.keep_stdin,
        keep_tree: false,
        limits: default_limits(driver.speaks()),
    };
    // why only those: what one without further prompts is told ends with its turn, so there is no time to compact it.
    let kept = if launch.holds || (launch.resumes && request.keep_open) { Some(sealed(inner, &spec, &conversation)?) } else { None };
    events.extend(kept.iter().map(|(_, digest)| RelaunchKept { digest: digest.clone(), holds: launch.holds }.into()));
    events.extend(assembled.events);
    events.extend(judged);
    events.extend(request.compact_at.map(|percent| CompactionSet { threshold_percent: percent, by: by.clone() }.into()));
    for skipped in found.skipped {
        events.push(crate::model::Note { text: format!("instructions {} were left out: {}", skipped.path, skipped.why) }.into());
    }
    let mut blobs: Vec<Vec<u8>> = request.going_on.as_mut().and_then(|g| g.blob.take()).into_iter().collect();
    if let Some(p) = &request.prompt {
        let (prompt, blob) = prompt_of(p);
        events.push(PromptSubmitted { prompt, by }.into());
        blobs.extend(blob);
    }
    let mut inputs = launch.frames.clone();
    if !driver.speaks() && launch.keep_stdin && !request.keep_open {
        // why: nothing tells when a plain command has had enough; its input ends with the prompt.
        inputs.push(CLOSE_INPUT.to_vec());
    }
    let frames: Vec<Frame> = (1u64..).zip(inputs).map(|(no, bytes)| Frame { no, bytes }).collect();
    Start::count(&mut below).await;
    let done =
        inner.store.append(Batch { cursor: Some(0), frames: frames.clone(), blobs, ..opening::first(inner, &id, events, &how) }).await?;
    if let Some(start) = &mut below {
        start.recorded();
    }
    how.claimed(inner, &id)?;

    if let Some((bytes, _)) = &kept
        && let Err(e) = relaunch::keep(&inner.run_dir(&id, 1), bytes)
    {
        how.failed(inner, &done.session, &e).await?;
        return Err(e);
    }
    if let Some((_, bytes)) = &planned
        && let Err(e) = kept::keep_plan(inner, &id, bytes)
    {
        how.failed(inner, &done.session, &e).await?;
        return Err(e);
    }
    let shim = match Shim::launch(&inner.shim_bin, &spec).await {
        Ok(shim) => shim,
        Err(e) => {
            let e = Error::from(e);
            how.failed(inner, &done.session, &e).await?;
            return Err(e);
        }
    };
    if !attest::runs(checked.as_ref(), shim.0.agent().pid) {
        // why: it has been told nothing yet, not even the prompt.
        super::run::told(&id, shim.0.kill().await);
        let why = "the file was replaced between its check and its start; start the session again".to_owned();
        let e = Error::NotAttested { agent: request.agent, program: program.display().to_string(), why };
        how.failed(inner, &done.session, &e).await?;
        return Err(e);
    }
    super::failpoint::hit("queue_launched");
    let session = match started(inner, &done.session, &launch_argv(&program, &launch), &shim.0).await {
        Ok(session) => session,
        Err(e) => {
            // why: what cannot be recorded must not run; its agent has been told nothing yet.
            super::run::told(&id, shim.0.kill().await);
            return Err(e);
        }
    };
    for f in &frames {
        super::run::send(&shim.0, f).await;
    }
    let mut live = Live::default();
    live.last_frame = frames.len() as u64;
    live.prompts = u64::from(request.prompt.is_some());
    live.moments.results = recipe.results;
    live.moments.compact_at = request.compact_at;
    live.ladder.plan = session.planned.clone();
    live.ladder.begin(session.last_activity_at);
    if let Some((_, digest)) = kept {
        live.parking.ready(digest, launch.holds);
    }
    if let Some(named) = &launch.transcript {
        live.parking.named(named);
    }
    let witnesses = Witnesses::new(launch.transcript.as_ref(), &session);
    spawn(inner, driver, session.clone(), live, shim, 0, assembled.config, assembled.chain, request.attach, witnesses).await;
    Ok(session)
}

/// Records that the agent runs.
pub(super) async fn started(inner: &Arc<Inner>, session: &Session, argv: &[String], shim: &ShimHandle) -> Result<Session, Error> {
    // why only of several: one tier without a name of its own says nothing.
    let tier = session.planned.as_ref().filter(|p| p.tiers.len() > 1).and_then(|p| p.tiers.first());
    let event = AttemptStarted {
        argv: argv.to_vec(),
        pid: shim.agent().pid,
        shim_pid: shim.shim().pid,
        warm: Some(false),
        agent: tier.map(|t| t.agent.clone()),
        tier: tier.map(|t| t.name.clone()),
        model: tier.and_then(|t| t.model.clone()),
        ..AttemptStarted::default()
    };
    Ok((*inner.store.append(batch(inner, session, vec![mask::event(event.into())])).await?.session).clone())
}

/// Records a start that came to nothing.
pub(super) async fn failed(inner: &Arc<Inner>, session: &Session, reason: String) -> Result<Session, Error> {
    super::finish::forget(&inner.run_dir(&session.id, 1));
    let outcome = Outcome::Failed;
    let ended = super::finish::unseen(outcome, reason.clone());
    let events = vec![ended.into(), SessionEnded { outcome, reason: Some(reason), report: None }.into()];
    Ok((*inner.store.append(batch(inner, session, events)).await?.session).clone())
}

fn batch(inner: &Inner, session: &Session, events: Vec<Event>) -> Batch {
    Batch {
        session: session.id.clone(),
        expected: Some(session.last_seq),
        attempt: attempt_of(session),
        at: inner.clock.wall_ms(),
        events,
        cursor: None,
        frames: vec![],
        taken: None,
        blobs: vec![],
    }
}

/// The attempt that a session is in, or about to begin.
pub(super) fn attempt_of(session: &Session) -> u32 {
    if session.status == Status::Starting { session.attempt + 1 } else { session.attempt.max(1) }
}

/// Starts the task of a session whose agent runs.
#[allow(clippy::too_many_arguments)] // why: the parts of a running session, handed over once.
pub(super) async fn spawn(
    inner: &Arc<Inner>,
    driver: &'static dyn Driver,
    session: Session,
    live: Live,
    shim: (ShimHandle, ShimEvents),
    cursor: u64,
    config: Arc<Config>,
    chain: Arc<Chain>,
    attach: bool,
    witnesses: Witnesses,
) {
    let inbox = Inbox::open(&inner.run_dir(&session.id, session.attempt), cursor);
    let (mailbox, commands) = mpsc::channel(MAILBOX);
    let made = (chain.generation, chain.rules);
    let (chain, chains) = watch::channel(chain);
    let cwd = PathBuf::from(&session.cwd);
    let two_person = config.needs_two(&session.labels);
    let entry =
        LiveSession { mailbox, chain, shim: shim.0.clone(), cwd, two_person, agent: driver.name(), stopping: false, external: None };
    inner.live().insert(session.id.clone(), entry);
    super::plugins::swap::catch_up(inner, &session.id, made).await;
    let runner = Runner::new(inner.clone(), driver, session, live, shim, inbox, config, chains, commands, attach, witnesses);
    tokio::spawn(runner.run(inner.shutdown.subscribe()));
}

#[allow(clippy::too_many_arguments)] // why: the parts of one event.
fn created(
    request: &StartRequest,
    record: &Record,
    name: String,
    cwd: &Path,
    home: Option<String>,
    launch: &Launch,
    by: Actor,
    program: Option<SessionProgram>,
) -> Event {
    let mut command = vec![launch.program.display().to_string()];
    command.extend(request.args.iter().cloned());
    SessionCreated {
        name,
        agent: request.agent.clone(),
        command,
        cwd: cwd.display().to_string(),
        home,
        write_root: request.write_root.as_ref().map(|p| p.display().to_string()),
        labels: request.labels.clone(),
        env_names: launch.env.keys().map(|k| k.to_string_lossy().into_owned()).collect(),
        mediation: launch.mediation,
        mediation_note: launch.mediation_note.clone(),
        keep_open: request.keep_open,
        created_by: by,
        unsafe_args: request.unsafe_args.clone(),
        beadle_version: env!("CARGO_PKG_VERSION").to_owned(),
        program,
        prompt: request.prompt.as_ref().map(|p| prompt_of(p).0),
        record: record.clone(),
    }
    .into()
}

/// Whether the session's agent, or one of its plan, gets the host's own tools.
fn host_tools(r: &StartRequest, driver: &dyn Driver, config: &Config) -> bool {
    let later = r.plan.iter().flat_map(|p| &p.tiers).filter_map(|t| agent::driver(&t.agent).ok());
    let drivers: Vec<&dyn Driver> = std::iter::once(driver).chain(later.map(|d| d as &dyn Driver)).collect();
    host_tools::are_given(config, r.host_tools, &r.unsafe_args, &drivers)
}

/// A prompt without secrets, as events keep it; the whole as a blob where it is longer.
pub(super) fn prompt_of(text: &str) -> (Excerpt, Option<Vec<u8>>) {
    live::excerpt(mask::text(text).into_owned().into_bytes())
}

fn launch_argv(program: &Path, launch: &Launch) -> Vec<String> {
    let mut argv = vec![program.display().to_string()];
    argv.extend(launch.args.iter().map(|a| live::cut(&a.to_string_lossy(), 2048)));
    argv
}

fn default_name(request: &StartRequest, program: &Path) -> String {
    match request.agent.as_str() {
        "generic" => program.file_name().map_or_else(|| "session".to_owned(), |f| f.to_string_lossy().into_owned()),
        agent => agent.to_owned(),
    }
}

/// Whether an agent's calls wait for a decision. One that is not known is not started at all.
pub fn is_gated(agent: &str) -> bool {
    crate::agent::driver(agent).map_or(true, |d| d.speaks())
}

/// An agent we know is not started with less mediation than required. Arguments accepted with `--unsafe-arg` were accepted with
/// their price, which the session then shows everywhere.
pub(super) fn required_of(driver: &dyn Driver, unsafe_args: &[String], launch: &Launch, want: Mediation) -> Result<(), Error> {
    if !driver.speaks() || !unsafe_args.is_empty() || launch.mediation >= want {
        return Ok(());
    }
    Err(Error::Mediation {
        agent: driver.name().to_owned(),
        got: launch.mediation.as_str(),
        want: want.as_str(),
        hint: "lower it in the configuration to start it all the same",
    })
}

fn limits(r: &StartRequest) -> Result<(), Error> {
    let refused = |what: String, why: &str| Err(Error::Refused { what, why: why.to_owned() });
    if r.name.as_ref().is_some_and(|n| n.is_empty() || n.len() > NAME_MAX) {
        return refused("--name".to_owned(), "must have 1 to 200 bytes");
    }
    if r.args.len() + r.unsafe_args.len() > ARGS_MAX {
        return refused(format!("{} arguments", r.args.len()), "are over the limit of 1024");
    }
    if let Some(a) = r.args.iter().chain(&r.unsafe_args).find(|a| a.len() > ARG_MAX || a.contains('\0')) {
        return refused(format!("argument {:?}", live::cut(a, 60)), "is over 128 KiB or holds a NUL byte");
    }
    if let Some(root) = r.write_root.as_ref().filter(|w| !w.is_absolute() || !w.is_dir()) {
        return refused(format!("write root {}", root.display()), "is not an existing folder with an absolute path");
    }
    Ok(())
}

pub(super) fn uuid(inner: &Inner) -> String {
    let mut b = [0u8; 16];
    inner.entropy.fill(&mut b);
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let h: String = b.iter().map(|x| format!("{x:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
}
