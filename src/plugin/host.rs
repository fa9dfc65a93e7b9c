//! The front: a [`Host`] loads [`Plugin`]s and asks them.
//!
//! Invariants: a plugin is immutable once loaded; each question to it ends in a decision or in one [`CallFailure`] by
//! the deadline and a little; only its own failures count towards its quarantine.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;
use wasmtime::Store;

use crate::model::moment::{PromptAnswer, ResultAnswer, SessionAnswer};
use crate::model::{Clock, Decision, Delivery, Edit, FailureCause, Grant, Grants, Moment, SystemClock, Verdict};
use crate::whole::apart;

use super::cache::{CacheOptions, Name};
use super::call::{self, CallFailure};
use super::capability::{NoSecrets, Rights, Secrets, Surroundings, Uses};
use super::compile::Compiler;
use super::engine::Engines;
use super::error::{Error, Result};
use super::http::{Network, Resolver, SystemResolver};
use super::kept::KeptLogs;
use super::limits::Limits;
use super::load::{Loaded, Source};
use super::log::{Level, PluginLog};
use super::machine::{Machine, ThisMachine};
use super::pool::{Job, Pool, Standing};
use super::quarantine::{Quarantine, QuarantineOptions};
use super::ready::{Ready, Spare};
use super::state::State;
use super::v0_1::{Ask, AttemptQuestion, Batch, PlanQuestion, PluginKind, PromptQuestion, Question, ResultQuestion, SessionQuestion};

mod about;

pub use about::Footprint;

/// How long after its deadline a running call is waited for; stopping a guest takes a few milliseconds.
const STOPPING: Duration = Duration::from_millis(100);

/// How to run plugins.
#[derive(Clone)]
pub struct HostOptions {
    /// Where compiled plugins are kept; without it they are compiled at every load.
    pub cache: Option<CacheOptions>,
    /// Threads for quick calls, 2 to 24; by default one for each core. Slow ones have a few more of low priority.
    pub threads: usize,
    pub quarantine: QuarantineOptions,
    pub clock: Arc<dyn Clock>,
    pub secrets: Arc<dyn Secrets>,
    /// Folders that no plugin reaches, whatever is granted: the host's own.
    pub own: Vec<PathBuf>,
    pub resolver: Arc<dyn Resolver>,
    /// What capabilities reach; another one than this machine where cases are judged.
    pub machine: Arc<dyn Machine>,
    /// Keeps what plugins log beyond their sessions.
    pub logs: Option<KeptLogs>,
}

impl Default for HostOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            cache: None,
            threads,
            quarantine: QuarantineOptions::default(),
            clock: Arc::new(SystemClock),
            secrets: Arc::new(NoSecrets),
            own: Vec::new(),
            resolver: Arc::new(SystemResolver),
            machine: Arc::new(ThisMachine),
            logs: None,
        }
    }
}

/// A plugin to load.
#[derive(Clone)]
pub struct LoadSpec {
    /// The policy's name in the configuration; stands in errors.
    pub name: String,
    pub wasm: Cow<'static, [u8]>,
    /// JSON of at most 1 MiB; `{}` where the operator gave none.
    pub config: String,
    pub limits: Limits,
    /// What the operator grants it; it has effect as far as the plugin wants it.
    pub grants: Grants,
}

/// The plugin engine. Cheap to clone.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    options: HostOptions,
    engines: Engines,
    fingerprint: [u8; 32],
    compiler: Compiler,
    pool: Pool,
    around: Arc<Surroundings>,
    /// What is loaded and in use; forgotten with its last plugin.
    loaded: Mutex<HashMap<(Name, Grants), Weak<Program>>>,
}

impl Host {
    /// Reserves address space for the pool and starts the threads.
    pub fn new(options: HostOptions) -> Result<Self> {
        let pool = Pool::start(options.threads).map_err(|e| Error::Engine { detail: format!("no threads for plugins: {e}") })?;
        let overseer = pool.overseer();
        let engines = Engines::new(move || overseer.look())?;
        let fingerprint = engines.fingerprint();
        let around = Arc::new(Surroundings {
            secrets: Arc::clone(&options.secrets),
            own: options.own.clone(),
            network: Network::new(&options.resolver),
            machine: Arc::clone(&options.machine),
        });
        let inner = Inner { options, engines, fingerprint, compiler: Compiler::default(), pool, around, loaded: Mutex::default() };
        Ok(Self(Arc::new(inner)))
    }

    /// What plugins have logged, where that is kept.
    pub fn logs(&self) -> Option<&KeptLogs> {
        self.0.options.logs.as_ref()
    }

    /// Loads a component: from the cache in well under a millisecond, else compiling it, which takes 0.1 to 30 seconds.
    /// Blocks; never call it from an asynchronous task.
    ///
    /// The component must be a permission policy.
    pub fn load(&self, spec: LoadSpec) -> Result<Arc<Plugin>> {
        self.load_kind(spec, Some(PluginKind::PermissionPolicy))
    }

    /// The same for a component of this kind, or of whatever kind it is.
    pub fn load_kind(&self, spec: LoadSpec, wanted: Option<PluginKind>) -> Result<Arc<Plugin>> {
        let log = PluginLog::new(Arc::clone(&self.0.options.clock)).kept(self.0.options.logs.as_ref(), &spec.name);
        let log = Arc::new(log);
        let LoadSpec { name, wasm, config, limits, grants } = spec;
        let source = Source { plugin: name.clone(), wasm, config, limits: limits.clone(), log: Arc::clone(&log), wanted };
        source.check()?;
        let digest = blake3::hash(&source.wasm);
        let config_digest = blake3::hash(source.config.as_bytes());
        let key = Name::new(&digest, &config_digest, &self.0.fingerprint);
        let program = match self.in_use(&key, &limits, &grants, wanted) {
            Some(p) => p,
            None => {
                let loaded = apart(|| self.open(&source, &key)).unwrap_or_else(|detail| Err(Error::Engine { detail }))?;
                let wants = loaded.wants.clone();
                let program = Arc::new(Program {
                    digest: digest.to_hex().to_string(),
                    config_digest: config_digest.to_hex().to_string(),
                    config: (!loaded.meta.snapshotted).then_some(source.config),
                    loaded,
                    limits,
                    rights: Arc::new(Rights { grants: grants.clone(), wants }),
                    // One plugin never has all threads.
                    ready: Ready::new(self.0.engines.spares.clone(), self.0.options.threads.max(2) - 1),
                    standing: Arc::default(),
                });
                let mut all = self.0.loaded.lock().unwrap_or_else(PoisonError::into_inner);
                all.retain(|_, p| p.strong_count() > 0);
                all.insert((key, grants), Arc::downgrade(&program));
                program
            }
        };
        Ok(self.equip(name, program, log))
    }

    /// The same plugin for another chain: with a log, and failures, of its own. Blocks.
    pub fn again(&self, plugin: &Plugin) -> Arc<Plugin> {
        let log = PluginLog::new(Arc::clone(&self.0.options.clock)).kept(self.0.options.logs.as_ref(), &plugin.name);
        self.equip(plugin.name.clone(), Arc::clone(&plugin.program), Arc::new(log))
    }

    fn equip(&self, name: String, program: Arc<Program>, log: Arc<PluginLog>) -> Arc<Plugin> {
        // why now: what a granted secret is has to be masked from the first moment that somebody could have it.
        for name in program.rights.grants.iter().filter_map(|g| if let Grant::Secret(Some(name)) = g { Some(name) } else { None }) {
            match self.0.options.secrets.get(name) {
                Ok(value) => log.hide(&value),
                Err(why) => log.write(Level::Warn, &why),
            }
        }
        let quarantine = Quarantine::new(self.0.options.quarantine);
        let plugin = Arc::new(Plugin { name, program, log, quarantine, host: Arc::clone(&self.0) });
        plugin.make_ahead();
        plugin
    }

    /// The same component with the same configuration, limits and grants, where one is loaded.
    fn in_use(&self, key: &Name, limits: &Limits, grants: &Grants, wanted: Option<PluginKind>) -> Option<Arc<Program>> {
        let key = (key.clone(), grants.clone());
        let program = self.0.loaded.lock().unwrap_or_else(PoisonError::into_inner).get(&key)?.upgrade()?;
        (program.limits == *limits && wanted.is_none_or(|k| k == program.loaded.exports.kind)).then_some(program)
    }

    fn open(&self, source: &Source, key: &Name) -> Result<Loaded> {
        let cache = self.0.options.cache.as_ref();
        if let Some(artefact) = cache.and_then(|c| c.get(key)) {
            match source.open(&self.0.engines, artefact) {
                Ok(loaded) => return Ok(loaded),
                // The artefact is sound, and of another kind.
                Err(e @ Error::OtherKind { .. }) => return Err(e),
                Err(_) => {}
            }
        }
        let (inner, mine) = (Arc::clone(&self.0), source.clone());
        let built = self.0.compiler.run(source.limits.compile, move || mine.build(&inner.engines));
        let Some(built) = built else {
            let budget_ms = source.limits.compile.as_millis();
            return Err(Error::CompileBudget { plugin: source.plugin.clone(), budget_ms });
        };
        let artefact = built?;
        if let Some(Err(e)) = cache.map(|c| c.put(key, &artefact)) {
            tracing::warn!(plugin = source.plugin, error = %e, "a compiled plugin could not be kept; the next start compiles it again");
        }
        source.open(&self.0.engines, artefact)
    }
}

/// A component with its configuration, compiled: the same one for all sessions that have it in their chain.
struct Program {
    digest: String,
    config_digest: String,
    /// Given to every instance where there is no snapshot.
    config: Option<String>,
    loaded: Loaded,
    limits: Limits,
    rights: Arc<Rights>,
    ready: Ready,
    standing: Arc<Standing>,
}

/// A loaded and configured plugin, as one chain has it. Its log and its failures are its own: a session that makes a policy
/// fail quarantines it for nobody else.
pub struct Plugin {
    name: String,
    program: Arc<Program>,
    log: Arc<PluginLog>,
    quarantine: Quarantine,
    host: Arc<Inner>,
}

impl Plugin {
    /// The policy's name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Calls that run now on the host's threads.
    pub fn running(&self) -> usize {
        self.program.standing.running()
    }

    /// Whether its calls run apart from those of quick plugins, because one of them took too much of a core.
    pub fn slow(&self) -> bool {
        self.program.standing.is_slow()
    }

    pub fn log(&self) -> &PluginLog {
        &self.log
    }

    /// Asks about a tool call.
    pub async fn decide(self: &Arc<Self>, question: &Arc<Question>, deadline: Duration) -> Outcome {
        self.put(question, deadline).await
    }

    /// Asks on one of the host's threads, and answers by the deadline and a few milliseconds.
    pub(super) async fn put<Q>(self: &Arc<Self>, question: &Arc<Q>, deadline: Duration) -> Answered<Q::Answer>
    where
        Q: Ask + Send + Sync + 'static,
        Q::Answer: Send,
    {
        self.admit()?;
        let until = Instant::now() + deadline;
        let began = Arc::new(AtomicBool::new(false));
        let (answer, mut answered) = oneshot::channel();
        let (plugin, question, starts) = (Arc::clone(self), Arc::clone(question), Arc::clone(&began));
        let work = Box::new(move || {
            // Nobody waits any more: then it is not worth a core.
            if !answer.is_closed() {
                starts.store(true, Ordering::Release);
                let (outcome, used) = plugin.ask(&*question, call::left(until));
                let _ = answer.send(outcome);
                drop(used);
                plugin.make_ahead();
            }
        });
        if !self.host.pool.submit(Job { standing: Arc::clone(&self.program.standing), work }) {
            return Err(busy("too many calls wait for a thread"));
        }
        let lost = |_| Err(CallFailure::new(FailureCause::Trap, "the engine failed; see the host's log"));
        match timeout(deadline, &mut answered).await {
            Ok(answer) => answer.unwrap_or_else(lost),
            Err(_) if !began.load(Ordering::Acquire) => Err(busy("no thread was free for it before its deadline")),
            Err(_) => match timeout(STOPPING, &mut answered).await {
                Ok(answer) => answer.unwrap_or_else(lost),
                Err(_) => Err(CallFailure::new(FailureCause::Deadline, "the call did not end when it was stopped")),
            },
        }
    }

    /// Asks on this very thread, outside the pool and its shares; for the command line, tests and benches.
    pub fn decide_here(&self, question: &Question, deadline: Duration) -> Outcome {
        self.decide_then(question, deadline).0
    }

    /// The same, and what is left to do after the answer: dropping it throws the used instance away.
    pub fn decide_then(&self, question: &Question, deadline: Duration) -> (Outcome, Used) {
        match self.admit() {
            Ok(()) => self.ask(question, deadline),
            Err(e) => (Err(e), Used(None)),
        }
    }

    /// The same for a compaction strategy.
    pub fn plan_then(&self, question: &PlanQuestion, deadline: Duration) -> (Answered<Vec<Edit>>, Used) {
        match self.is(PluginKind::CompactionStrategy).and_then(|()| self.admit()) {
            Ok(()) => self.ask(question, deadline),
            Err(e) => (Err(e), Used(None)),
        }
    }

    /// The same for an audit sink.
    pub fn write_then(&self, batch: &Batch, deadline: Duration) -> (Answered<Delivery>, Used) {
        match self.is(PluginKind::AuditSink).and_then(|()| self.admit()) {
            Ok(()) => self.ask(batch, deadline),
            Err(e) => (Err(e), Used(None)),
        }
    }

    /// Makes an instance for the next call where none waits. The host's threads do so after each answer.
    pub fn make_ahead(&self) {
        if self.program.loaded.meta.snapshotted {
            self.program.ready.fill(|| self.program.loaded.ahead(&self.host.engines, &self.program.limits, &self.log));
        }
    }

    fn admit(&self) -> std::result::Result<(), CallFailure> {
        self.quarantine.admit(self.host.options.clock.boot_ms()).map_err(|ms| {
            let detail = format!("it failed too often in a row and is asked again in {ms} ms");
            CallFailure::new(FailureCause::Quarantined, detail)
        })
    }

    fn ask<Q: Ask>(&self, question: &Q, ahead: Duration) -> (Answered<Q::Answer>, Used) {
        if ahead.is_zero() {
            return (Err(busy("its deadline was over before it began")), Used(None));
        }
        let engines = &self.host.engines;
        let (mut store, from) = match self.program.ready.take() {
            Some(Spare { mut store, instance }) => {
                self.program.loaded.meet(&mut store, &self.log, question, ahead);
                (store, call::From::Ready(instance))
            }
            None => (
                self.program.loaded.store(engines, &self.program.limits, &self.log, question, ahead),
                call::From::New { pre: &self.program.loaded.pre, config: self.program.config.as_deref() },
            ),
        };
        let uses =
            self.program.loaded.capable.then(|| {
                Uses::new(&self.name, &self.program.rights, &self.log, Instant::now() + ahead, &self.host.around, question.state())
            });
        let outcome = call::put(engines, &mut store, from, &self.program.loaded.exports, question, uses);
        if let Err(f) = &outcome
            && !f.frames.is_empty()
        {
            self.log.write(Level::Error, &format!("{}: {}; in {}", f.cause.as_str(), f.detail, f.frames.join(" < ")));
        }
        match &outcome {
            Ok(_) => self.quarantine.succeeded(),
            Err(f) if f.is_plugins_own() => self.quarantine.failed(self.host.options.clock.boot_ms()),
            Err(_) => {}
        }
        (outcome, Used(Some(store)))
    }
}

impl Plugin {
    /// Asks about a session that is about to start.
    pub async fn judge_session(self: &Arc<Self>, question: &Arc<SessionQuestion>, deadline: Duration) -> Answered<SessionAnswer> {
        self.takes_part(Moment::JudgeSession)?;
        self.put(question, deadline).await
    }

    /// Asks about a prompt.
    pub async fn judge_prompt(self: &Arc<Self>, question: &Arc<PromptQuestion>, deadline: Duration) -> Answered<PromptAnswer> {
        self.takes_part(Moment::JudgePrompt)?;
        self.put(question, deadline).await
    }

    /// Asks about a tool's result.
    pub async fn judge_result(self: &Arc<Self>, question: &Arc<ResultQuestion>, deadline: Duration) -> Answered<ResultAnswer> {
        self.takes_part(Moment::JudgeResult)?;
        self.put(question, deadline).await
    }

    /// Asks about an attempt.
    pub async fn judge_attempt(self: &Arc<Self>, question: &Arc<AttemptQuestion>, deadline: Duration) -> Answered<Verdict> {
        self.takes_part(Moment::JudgeAttempt)?;
        self.put(question, deadline).await
    }

    /// Asks a compaction strategy for its plan.
    pub async fn plan(self: &Arc<Self>, question: &Arc<PlanQuestion>, deadline: Duration) -> Answered<Vec<Edit>> {
        self.is(PluginKind::CompactionStrategy)?;
        self.put(question, deadline).await
    }

    /// Gives an audit sink a batch.
    pub async fn write(self: &Arc<Self>, batch: &Arc<Batch>, deadline: Duration) -> Answered<Delivery> {
        self.is(PluginKind::AuditSink)?;
        self.put(batch, deadline).await
    }

    fn takes_part(&self, moment: Moment) -> Answered<()> {
        if self.program.loaded.exports.has(moment) {
            return Ok(());
        }
        Err(CallFailure::new(FailureCause::Load, format!("it does not export `{}`", moment.as_str())))
    }

    fn is(&self, kind: PluginKind) -> Answered<()> {
        if self.kind() == kind {
            return Ok(());
        }
        Err(CallFailure::new(FailureCause::Load, format!("it is a {}, not a {}", self.kind().as_str(), kind.as_str())))
    }
}

/// An answer, or why there is none.
pub type Answered<T> = std::result::Result<T, CallFailure>;

/// The instance of an answered call. Dropping it gives its memory back.
pub struct Used(Option<Store<State>>);

impl Used {
    /// Linear memory that the instance had at its end, in bytes.
    pub fn memory(&self) -> usize {
        self.0.as_ref().map_or(0, |s| s.data().meter.used())
    }
}

/// A decision, or why there is none.
pub type Outcome = Answered<Decision>;

fn busy(detail: &str) -> CallFailure {
    CallFailure::new(FailureCause::Busy, detail)
}
