//! Sessions: start, judge, record, stop, adopt. The core that ties agents, policies, processes and the store together.
//!
//! Invariants:
//! - a session is its event log; what stands here in memory can be rebuilt from it (`recovery`);
//! - append before act, everywhere;
//! - one task per live session owns its log; others send it commands over a bounded mailbox.
//!
//! Called by `api` and `daemon`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Config;
use crate::metrics::Metrics;
use crate::model::{Actor, ApprovalId, Clock, Entropy, Event, PriceTable, RuleId, Session, SessionId, Status};
use crate::policy::own::OwnFolders;
use crate::policy::{Chain, Chains};
use crate::process::{self, ProcessInfo, ShimHandle};
use crate::store::Store;

mod accounts;
mod approvals;
mod attest;
mod command;
mod compact;
mod external;
mod failpoint;
mod finish;
mod gate;
mod hold;
mod hook;
mod hooked;
pub mod instructions;
mod link;
mod live;
pub mod mask;
mod moments;
mod park;
pub mod plugin_logs;
mod plugins;
mod recovery;
mod relaunch;
mod rules;
mod run;
mod start;
mod state;
mod taken;
mod transcript;
mod usurped;
mod waiting;
mod witness;
mod words;

pub use approvals::{Always, Answer, ApprovalChanges, ApprovalDetail, REASON_MAX, Reach};
pub use attest::{AttestRequest, Attested, ProgramSeen};
pub use hook::{HookCall, HookOutcome};
pub use hooked::{HOOKS_MAX, Installed};
pub use plugins::{Looked, NewPlugin, PluginChange};
pub use recovery::Recovered;
pub use rules::{NewRule, Rule};
pub use start::{StartRequest, is_gated};

pub use crate::compaction::{ESTIMATOR, Unpinned};
use command::Command;
pub use command::{AttachGuard, EffectReport};
pub use compact::{CompactReport, CompactRequest};

/// How long a caller waits for a session's task to take a command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// What can go wrong with sessions. Codes are stable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("working directory {path} {why}; give an existing folder with --cwd")]
    Cwd { path: String, why: String },
    #[error("program {program:?} {why}; install it, put it on PATH, or give its path")]
    Program { program: String, why: String },
    #[error("{what} {why}")]
    Refused { what: String, why: String },
    #[error("session {0} has ended; see `beadle show {0}`")]
    Ended(SessionId),
    #[error("session {0} takes no further prompts: its input is closed; start it with --keep to send more later")]
    InputClosed(SessionId),
    #[error(
        "session {session} is put away until call {call} is answered; answer it with `beadle approve {session}:{call}` or `beadle deny`, then send again"
    )]
    PutAway { session: SessionId, call: u64 },
    #[error("session {session} cannot be compacted: {why}")]
    Compaction { session: SessionId, why: String },
    #[error("agent {0} takes no prompts; its command line is all it gets")]
    NoPrompts(String),
    #[error("session {0} is {1}; stop it first, or remove it with --force")]
    NotEnded(SessionId, &'static str),
    #[error("no call of session {session} waits for an answer under number {call}; see `beadle show {session}`")]
    NothingWaits { session: SessionId, call: u64 },
    #[error("approval {id} was {state} by {by} at {at}: {reason}")]
    Answered { id: ApprovalId, state: &'static str, by: String, at: String, reason: String },
    #[error("no rule is added for approval {id}, which still waits: {why}")]
    NoSuchRule { id: ApprovalId, why: String },
    #[error("approval {id} was taken and the call allowed, but its rule is not in force: {why}; add it with `beadle rule add`")]
    RuleLost { id: ApprovalId, why: String },
    #[error("call {call} of session {session} needs two persons, told apart by their keys; approve it with operator.confirm = \"key\"")]
    Unnamed { session: SessionId, call: u64 },
    #[error("call {call} of session {session} was allowed by {name} already; it needs a second person, with another key")]
    Endorsed { session: SessionId, call: u64, name: String },
    #[error("policy {policy} refuses session {session}, which was not started: {reason}")]
    SessionRefused { session: SessionId, policy: String, reason: String },
    #[error("policy {policy} refuses this prompt of session {session}: {reason}")]
    PromptRefused { session: SessionId, policy: String, reason: String },
    #[error("rule {rule:?} is not a rule: {why}")]
    BadRule { rule: String, why: String },
    #[error("there is no rule {0}; see `beadle rule ls`")]
    NoRule(String),
    #[error("{0} sessions are live, the limit `limits.live_sessions`; end some first")]
    TooMany(u64),
    #[error("{agent} would run with mediation {got}, and `session.require_mediation` is {want}; {hint}")]
    Mediation { agent: String, got: &'static str, want: &'static str, hint: &'static str },
    #[error("{agent} at {program} is not attested: {why}; run `beadle doctor {agent}`, or unset `session.require_attested`")]
    NotAttested { agent: String, program: String, why: String },
    #[error(transparent)]
    Config(#[from] crate::config::Error),
    #[error("the session's task did not answer within {} s; see `beadle host logs`", COMMAND_TIMEOUT.as_secs())]
    Busy,
    #[error(
        "the log of session {0} has another writer, so this was neither recorded nor done and its agent is ended; see `beadle verify` and \
         `beadle host logs`"
    )]
    Usurped(SessionId),
    #[error("the shim of session {0} is alive and does not answer, so nothing was done; try again, or end both with `beadle kill {0}`")]
    Silent(SessionId),
    #[error("session {0} was not started by the host: it takes prompts in its own terminal only")]
    NotOurs(SessionId),
    #[error("the conversation is session {session}, which belongs to process {pid}; that process lives, so no other may speak for it")]
    OtherProcess { session: SessionId, pid: u32 },
    #[error("the host is shutting down; try again in a moment")]
    ShuttingDown,
    #[error(transparent)]
    Agent(#[from] crate::agent::Error),
    #[error(transparent)]
    Plugin(#[from] crate::registry::Error),
    #[error(transparent)]
    Process(#[from] crate::process::Error),
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Self::Cwd { .. } => "BDL-SESSION-001",
            Self::Program { .. } => "BDL-SESSION-002",
            Self::Refused { .. } => "BDL-SESSION-003",
            Self::Ended(_) => "BDL-SESSION-004",
            Self::InputClosed(_) => "BDL-SESSION-005",
            Self::PutAway { .. } => "BDL-SESSION-040",
            Self::Compaction { .. } => "BDL-SESSION-041",
            Self::NoPrompts(_) => "BDL-SESSION-006",
            Self::NotEnded(..) => "BDL-SESSION-007",
            Self::NothingWaits { .. } => "BDL-SESSION-008",
            Self::BadRule { .. } => "BDL-SESSION-009",
            Self::NoRule(_) => "BDL-SESSION-010",
            Self::TooMany(_) => "BDL-SESSION-011",
            Self::Mediation { .. } => "BDL-SESSION-014",
            Self::Answered { .. } => "BDL-SESSION-015",
            Self::NotAttested { .. } => "BDL-SESSION-030",
            Self::NoSuchRule { .. } => "BDL-SESSION-016",
            Self::RuleLost { .. } => "BDL-SESSION-017",
            Self::Unnamed { .. } => "BDL-SESSION-032",
            Self::Endorsed { .. } => "BDL-SESSION-033",
            Self::SessionRefused { .. } => "BDL-SESSION-036",
            Self::PromptRefused { .. } => "BDL-SESSION-037",
            Self::NotOurs(_) => "BDL-SESSION-020",
            Self::OtherProcess { .. } => "BDL-SESSION-021",
            Self::Config(e) => e.code(),
            Self::Usurped(_) => "BDL-SESSION-034",
            Self::Silent(_) => "BDL-SESSION-035",
            Self::Busy => "BDL-SESSION-012",
            Self::ShuttingDown => "BDL-SESSION-013",
            Self::Agent(e) => e.code(),
            Self::Plugin(e) => e.code(),
            Self::Process(e) => e.code(),
            Self::Store(e) => e.code(),
        }
    }
}

/// What a manager is made of.
pub struct Parts {
    pub store: Store,
    pub config: Arc<Config>,
    pub chains: Chains,
    pub own: OwnFolders,
    pub prices: PriceTable,
    pub metrics: Arc<Metrics>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    /// The shim's executable.
    pub shim_bin: PathBuf,
    /// The host's own executable: the demo agent is a hidden command of it.
    pub host_bin: PathBuf,
    /// Holds one folder per live or kept session.
    pub run_root: PathBuf,
}

/// Shared by all session tasks.
pub struct Inner {
    pub(super) store: Store,
    pub(super) config: Arc<Config>,
    pub(super) chains: Chains,
    pub(super) own: OwnFolders,
    pub(super) prices: PriceTable,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    shim_bin: PathBuf,
    host_bin: PathBuf,
    run_root: PathBuf,
    live: Mutex<HashMap<SessionId, LiveSession>>,
    rules: Mutex<rules::Rules>,
    /// Held while a change of the rules is written: document and list change together.
    changing_rules: tokio::sync::Mutex<()>,
    plugins: plugins::Acts,
    /// Digests of programs that were read.
    programs: crate::process::Programs,
    attested: Mutex<Vec<attest::Attested>>,
    /// Held while an attestation is written: list and document change together.
    attesting: tokio::sync::Mutex<()>,
    /// Held while a session that the host did not start is put on record: one conversation is one session.
    externals: tokio::sync::Mutex<()>,
    /// Settings files of agents that hold our hooks.
    pub(super) hooked: hooked::Hooked,
    /// Audit sinks that calls may have to wait for.
    audit: std::sync::OnceLock<Arc<dyn crate::model::AuditHold>>,
    shutdown: watch::Sender<bool>,
}

/// The way to a live session's task.
#[derive(Clone)]
struct LiveSession {
    mailbox: mpsc::Sender<Command>,
    chain: watch::Sender<Arc<Chain>>,
    shim: ShimHandle,
    /// Its project's policies are looked up again when rules change.
    cwd: PathBuf,
    /// Two persons must allow its calls: rules added at run time allow nothing there.
    two_person: bool,
    agent: &'static str,
    /// Set where there is no shim.
    external: Option<external::External>,
}

impl Inner {
    fn live(&self) -> MutexGuard<'_, HashMap<SessionId, LiveSession>> {
        // why: a panic while the map was held leaves it whole; going on is better than refusing every session.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rules(&self) -> MutexGuard<'_, rules::Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attested(&self) -> MutexGuard<'_, Vec<attest::Attested>> {
        self.attested.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn forget(&self, id: &SessionId) {
        self.live().remove(id);
    }

    /// The configuration of a folder; the host's own when that one can no longer be read.
    fn config_of(&self, cwd: &std::path::Path) -> Arc<Config> {
        self.chains.config(Some(cwd)).map_or_else(|_| self.config.clone(), |l| Arc::new(l.config))
    }

    /// The folder of one attempt. That of the first is the session's own, in which those of others lie.
    fn run_dir(&self, id: &SessionId, attempt: u32) -> PathBuf {
        let own = self.run_root.join(id.as_str());
        if attempt <= 1 { own } else { own.join(format!("attempt-{attempt}")) }
    }
}

/// The handle through which sessions are started and spoken to. Cheap to clone.
#[derive(Clone)]
pub struct Manager {
    inner: Arc<Inner>,
}

impl Manager {
    pub fn new(parts: Parts) -> Result<Self, Error> {
        let rules = rules::Rules::load(&parts.store)?;
        parts.chains.set_installed(plugins::load(&parts.store, parts.chains.registry())?);
        let attested = attest::load(&parts.store)?;
        let hooked = hooked::Hooked::load(&parts.store)?;
        let (shutdown, _) = watch::channel(false);
        Ok(Self {
            inner: Arc::new(Inner {
                store: parts.store,
                config: parts.config,
                chains: parts.chains,
                own: parts.own,
                prices: parts.prices,
                metrics: parts.metrics,
                clock: parts.clock,
                entropy: parts.entropy,
                shim_bin: parts.shim_bin,
                host_bin: parts.host_bin,
                run_root: parts.run_root,
                live: Mutex::new(HashMap::new()),
                rules: Mutex::new(rules),
                changing_rules: tokio::sync::Mutex::new(()),
                plugins: plugins::Acts::default(),
                programs: crate::process::Programs::default(),
                attested: Mutex::new(attested),
                attesting: tokio::sync::Mutex::new(()),
                externals: tokio::sync::Mutex::new(()),
                hooked,
                audit: std::sync::OnceLock::new(),
                shutdown,
            }),
        })
    }

    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    pub fn config(&self) -> &Arc<Config> {
        &self.inner.config
    }

    pub fn chains(&self) -> &Chains {
        &self.inner.chains
    }

    /// Starts a session and returns once its agent runs.
    pub async fn start(&self, request: StartRequest, by: Actor) -> Result<Session, Error> {
        start::start(&self.inner, request, by).await
    }

    /// Adopts what an earlier daemon left. Called once, before the first request is served.
    pub async fn recover(&self) -> Result<Recovered, Error> {
        recovery::recover(&self.inner).await
    }

    /// By id, unique prefix of one, or name.
    pub fn find(&self, key: &str) -> Result<Session, Error> {
        Ok(self.inner.store.session(&self.inner.store.find(key)?)?)
    }

    /// Gives a live session its next prompt; returns once that is durable.
    pub async fn send(&self, id: &SessionId, text: String, by: Actor) -> Result<Session, Error> {
        self.command(id, |reply| Command::Prompt { text, by, reply }).await?
    }

    /// Ends a session: TERM to the whole tree, `grace` (default: configured), then KILL; `kill` skips TERM and grace.
    pub async fn stop(&self, id: &SessionId, grace: Option<Duration>, kill: bool, by: Actor) -> Result<Session, Error> {
        self.command(id, |reply| Command::Stop { grace, kill, by, reply }).await?
    }

    /// One call of an agent's hook.
    pub async fn hook(&self, call: HookCall) -> Result<HookOutcome, Error> {
        external::hook(&self.inner, call).await
    }

    /// Settings files of agents that hold our hooks, by path.
    pub fn hooked(&self) -> Vec<Installed> {
        self.inner.hooked.list()
    }

    /// Notes that a settings file now holds our hooks (`None`: no more).
    pub async fn set_hooked(&self, path: PathBuf, installed: Option<Installed>) -> Result<(), Error> {
        self.inner.hooked.set(&self.inner.store, path, installed).await
    }

    /// Marks a terminal that can answer approvals; `None` when the session is not live.
    pub async fn attach(&self, id: &SessionId) -> Option<AttachGuard> {
        let mailbox = self.inner.live().get(id)?.mailbox.clone();
        mailbox.send(Command::Attached(true)).await.ok()?;
        Some(AttachGuard { mailbox })
    }

    pub async fn add_rule(&self, rule: NewRule, by: Actor) -> Result<rules::Rule, Error> {
        rules::add(&self.inner, rule, by).await
    }

    pub async fn revoke_rule(&self, id: &RuleId, by: Actor) -> Result<rules::Rule, Error> {
        rules::revoke(&self.inner, id, by).await
    }

    /// Rules that outlive a session; with one, all that hold for it.
    pub fn rules(&self, session: Option<&Session>) -> Vec<rules::Rule> {
        self.inner.rules().list(session.map(|s| (&s.id, s.cwd.as_str())))
    }

    /// What a hook reports of a call that was made: a witness beside the agent's stream. Returns once it is durable.
    pub async fn report(&self, id: &SessionId, report: EffectReport) -> Result<Session, Error> {
        self.command(id, |reply| Command::Report { report, reply }).await?
    }

    /// Rules of all sessions.
    pub fn rules_of_all(&self) -> Vec<rules::Rule> {
        self.inner.rules().all()
    }

    /// Deletes an ended session's rows and files; the host chain keeps that it was there.
    pub async fn remove(&self, id: &SessionId, force: bool, by: Actor) -> Result<Session, Error> {
        let session = self.inner.store.session(id)?;
        if session.status != Status::Ended {
            if !force {
                return Err(Error::NotEnded(id.clone(), session.status.as_str()));
            }
            self.stop(id, None, true, by.clone()).await?;
            self.ended(id, COMMAND_TIMEOUT).await?;
        }
        let session = self.inner.store.session(id)?;
        self.inner.remove_delivered(id, &by).await?;
        rules::forget(&self.inner, id).await?;
        if let Err(e) = std::fs::remove_dir_all(self.inner.run_dir(id, 1))
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(session = %id, error = %e, "the folder of a removed session stays");
        }
        Ok(session)
    }

    /// Waits until the session has ended, at most `timeout`; returns it as it then is.
    pub async fn ended(&self, id: &SessionId, timeout: Duration) -> Result<Session, Error> {
        let deadline = tokio::time::Instant::now() + timeout;
        let mut wake = self.inner.store.watch();
        loop {
            let session = self.inner.store.session(id)?;
            if session.status == Status::Ended {
                return Ok(session);
            }
            if tokio::time::timeout_at(deadline, wake.recv()).await.is_err() {
                return Ok(session);
            }
        }
    }

    /// The session's tree, parents before children; empty when it is not live.
    pub async fn processes(&self, id: &SessionId) -> Result<Vec<ProcessInfo>, Error> {
        let found = self.inner.live().get(id).map(|l| (l.shim.clone(), l.external.as_ref().map(|e| e.process)));
        Ok(match found {
            Some((_, Some(agent))) => {
                tokio::task::spawn_blocking(move || process::processes_of(agent)).await.map_err(|_| process::Error::Disconnected)?
            }
            Some((shim, None)) => shim.processes().await?,
            None => vec![],
        })
    }

    /// Where the agent's output lies: that of its newest attempt.
    pub fn run_dir(&self, session: &Session) -> PathBuf {
        self.inner.run_dir(&session.id, session.attempt)
    }

    /// Live sessions by the identity of their shim, or of the agent where there is none: whoever descends from it has that
    /// session's role.
    pub fn shims(&self) -> Vec<(crate::process::ProcessId, SessionId)> {
        let root = |l: &LiveSession| l.external.as_ref().map_or_else(|| l.shim.shim(), |e| e.process);
        self.inner.live().iter().map(|(id, l)| (root(l), id.clone())).collect()
    }

    pub fn live_count(&self) -> usize {
        self.inner.live().len()
    }

    /// Ends the tasks, not the sessions: the next daemon adopts them.
    pub fn shutdown(&self) {
        self.inner.shutdown.send_replace(true);
    }

    /// Writes events that come from elsewhere into a live session's log.
    async fn record(&self, id: &SessionId, events: Vec<Event>) -> Result<Session, Error> {
        self.command(id, |reply| Command::Record { events, reply }).await?
    }

    async fn command<T>(&self, id: &SessionId, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Error> {
        let mailbox = self.inner.live().get(id).map(|l| l.mailbox.clone());
        let Some(mailbox) = mailbox else {
            self.inner.store.session(id)?;
            return Err(Error::Ended(id.clone()));
        };
        let (reply, answer) = oneshot::channel();
        let sent = async {
            mailbox.send(make(reply)).await.map_err(|_| Error::Ended(id.clone()))?;
            answer.await.map_err(|_| if *self.inner.shutdown.borrow() { Error::ShuttingDown } else { Error::Ended(id.clone()) })
        };
        tokio::time::timeout(COMMAND_TIMEOUT, sent).await.map_err(|_| Error::Busy)?
    }
}
