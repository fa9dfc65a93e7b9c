//! Sessions: start, judge, record, stop, adopt. The core that ties agents, policies, processes and the store together.
//!
//! Invariants:
//! - a session is its event log; what stands here in memory can be rebuilt from it (`recovery`);
//! - append before act, everywhere;
//! - one task per live session owns its log; others send it commands over a bounded mailbox.
//!
//! Called by `api` and `daemon`.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Config;
use crate::metrics::Metrics;
use crate::model::{Actor, Clock, Entropy, Event, PauseMode, PriceTable, RuleId, Session, SessionId, Status};
use crate::policy::own::OwnFolders;
use crate::policy::{Chain, Chains};
use crate::process::{self, ProcessInfo, ShimHandle};
use crate::store::Store;

mod accounts;
mod approvals;
mod attest;
mod bounds;
mod branch;
mod budget;
mod checkpoint;
mod collect;
mod command;
mod compact;
mod context;
mod drain;
mod elsewhere;
mod error;
mod external;
mod failpoint;
mod finish;
mod gate;
mod hold;
mod hook;
mod hooked;
mod host_tools;
mod ids;
pub mod instructions;
mod keep;
mod ladder;
mod link;
mod live;
pub mod mask;
mod memory;
mod moments;
mod overwrite;
mod park;
mod pause;
pub mod plugin_logs;
mod plugins;
mod queue;
mod reconcile;
mod recovery;
mod refused;
mod relaunch;
mod report;
mod rollback;
mod rules;
mod run;
mod start;
mod state;
mod taken;
mod tasks;
mod timers;
mod transcript;
mod tree;
mod usage;
mod usurped;
mod waiting;
mod witness;
mod words;
mod written;

pub use approvals::{Always, Answer, ApprovalChanges, ApprovalDetail, REASON_MAX, Reach};
pub use attest::{AttestRequest, Attested, ProgramSeen};
pub use collect::{CollectRequest, Collection, Item, Places};
pub use hook::{GONE as QUESTION_GONE, HookCall, HookOutcome};
pub use hooked::{HOOKS_MAX, Installed};
pub use host_tools::Answered;
pub use keep::{ERASED_MAX, Erased};
pub use memory::{NewMemory, namespace, namespace_of};
pub use plugins::{Looked, NewPlugin, PluginChange};
pub use queue::{Ask, Error as QueueError, Hold, LaneNumbers, Leased, Move, Settled, WORKER_OUTPUT_MAX, Waiting as QueuedSession};
pub use recovery::Recovered;
pub use rollback::{Restored, Selection, TakenBack};
pub use rules::{NewRule, Rule};
pub use start::{Brief, StartRequest, is_gated};
pub use transcript::kept::Kept;
pub use written::{LOST_KEYS_MAX, LostWrites, OpenWritten, WriteCall, WriteTo, Wrote};

pub use crate::compaction::{ESTIMATOR, Unpinned};
pub use branch::{BranchRequest, GoingOn};
use command::Command;
pub use command::{AttachGuard, EffectReport};
pub use compact::{CompactReport, CompactRequest};
pub use error::Error;
pub use failpoint::clock;
pub use tasks::TaskChange;
pub use tree::{ActReport, ActRequest, HandOff, Node, TREE_MAX, Tree, TreeError};

/// How long a caller waits for a session's task to take a command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

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
    /// Ids whose session is about to begin.
    starting: Mutex<HashSet<SessionId>>,
    /// Held while a session that no task has is taken up again.
    reconciling: tokio::sync::Mutex<()>,
    rules: Mutex<rules::Rules>,
    /// Held while a task is changed: no id is given twice.
    changing_tasks: tokio::sync::Mutex<()>,
    /// Held while memory is changed: the caps are looked at first.
    changing_memory: tokio::sync::Mutex<()>,
    trees: tree::Trees,
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
    /// Held while something is moved, erased or copied: each takes the files as they are.
    keeping: Arc<tokio::sync::Mutex<()>>,
    queue: queue::Queue,
    idle: written::idle::Idle,
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
    /// Where its project's configuration is looked for at a reload.
    cwd: PathBuf,
    /// Two persons must allow its calls: rules added at run time allow nothing there.
    two_person: bool,
    agent: &'static str,
    /// It was told to end: a call that waits for audit sinks is denied at once, so that its task hears of it.
    stopping: bool,
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
        let (rules, trees) = (rules::Rules::load(&parts.store)?, tree::Trees::load(&parts.store)?);
        parts.chains.set_installed(plugins::load(&parts.store, parts.chains.registry())?);
        let attested = attest::load(&parts.store)?;
        let hooked = hooked::Hooked::load(&parts.store)?;
        let (shutdown, _) = watch::channel(false);
        let queue = queue::Queue::new(&parts.config.queue);
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
                starting: Mutex::new(HashSet::new()),
                reconciling: tokio::sync::Mutex::new(()),
                rules: Mutex::new(rules),
                changing_tasks: tokio::sync::Mutex::new(()),
                changing_memory: tokio::sync::Mutex::new(()),
                trees,
                changing_rules: tokio::sync::Mutex::new(()),
                plugins: plugins::Acts::default(),
                programs: crate::process::Programs::default(),
                attested: Mutex::new(attested),
                attesting: tokio::sync::Mutex::new(()),
                externals: tokio::sync::Mutex::new(()),
                hooked,
                keeping: Arc::default(),
                queue,
                idle: written::idle::Idle::default(),
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
        let inner = Arc::clone(&self.inner);
        // why: half a start would stay until the next daemon looks.
        keep::to_the_end(async move { start::start(&inner, request, by, start::How::Now).await }).await
    }

    /// Adopts what an earlier daemon left. Called once, before the first request is served.
    pub async fn recover(&self) -> Result<Recovered, Error> {
        plugins::reload::begin(&self.inner).await;
        let left = context::left(&self.inner);
        if !left.is_empty() {
            tokio::spawn(context::sweep(self.inner.clone(), left));
        }
        let found = recovery::recover(&self.inner).await?;
        self.name_branches().await;
        queue::load(&self.inner).await?;
        tokio::spawn(written::idle::run(self.inner.clone()));
        self.go_on_with_trees();
        Ok(found)
    }

    /// By id, unique prefix of one, or name.
    pub fn find(&self, key: &str) -> Result<Session, Error> {
        Ok(self.inner.store.session(&self.inner.store.find(key)?)?)
    }

    /// Gives a live session its next prompt; returns once that is durable.
    pub async fn send(&self, id: &SessionId, text: String, by: Actor) -> Result<Session, Error> {
        self.command(id, |reply| Command::Prompt { text, by, reply }).await?
    }

    /// Pauses a running session; without a mode, where it has a gate its calls wait there, else its tree is frozen.
    pub async fn pause(&self, id: &SessionId, mode: Option<PauseMode>, reason: String, by: Actor) -> Result<Session, Error> {
        match self.command(id, |reply| Command::Pause { mode, reason, by, reply }).await {
            Err(Error::Ended(_)) => Err(Error::not_running(&self.inner.store.session(id)?)),
            told => told?,
        }
    }

    /// Lets a paused session go on.
    pub async fn unpause(&self, id: &SessionId, by: Actor) -> Result<Session, Error> {
        match self.command(id, |reply| Command::Continue { by, reply }).await {
            Err(Error::Ended(_)) => Err(Error::not_paused(&self.inner.store.session(id)?)),
            told => told?,
        }
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

    /// Where the output of one attempt lies.
    pub fn attempt_dir(&self, id: &SessionId, attempt: u32) -> PathBuf {
        self.inner.run_dir(id, attempt)
    }

    /// Live sessions by the identity of their shim, or of the agent where there is none: whoever descends from it has that
    /// session's role.
    pub fn shims(&self) -> Vec<(crate::process::ProcessId, SessionId)> {
        let root = |l: &LiveSession| l.external.as_ref().map_or_else(|| l.shim.shim(), |e| e.process);
        self.inner.live().iter().map(|(id, l)| (root(l), id.clone())).collect()
    }

    /// Whether it is a shim of this data folder, or of one that a restored backup took the place of.
    pub fn is_shim(&self, process: crate::process::ProcessId) -> bool {
        let Some(program) = crate::process::program_of(process) else { return false };
        // why resolved: the kernel names the program without links.
        let bin = self.inner.shim_bin.canonicalize().unwrap_or_else(|_| self.inner.shim_bin.clone());
        bin.ancestors().nth(2).is_some_and(|data| crate::process::is_shim_below(&program, data))
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
            let session = self.inner.store.session(id)?;
            if session.record.writer.is_some() && session.status != Status::Ended {
                return Err(Error::OtherWriter(id.clone()));
            }
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
