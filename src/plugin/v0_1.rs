//! `beadle:plugin@0.1`: the generated bindings and every conversion between them and the model, and nothing else.
//!
//! Invariants: what a guest answers is checked against its limits here, before anyone else sees it; a component is of one kind, and
//! is asked only for what it exports. The optional moments, strategies and sinks have their own files below this one.
//!
//! Called by `call` and `load`. A later track gets a file of its own beside this one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wasmtime::component::{Component, ComponentExportIndex, HasSelf, Instance, Linker, TypedFunc};
use wasmtime::{Engine, Store};

use crate::model;
use crate::model::Moment;

use super::answer::{self, within};
use super::capability::INTERFACES;
use super::kv::{Round, Source};
use super::log::Level;
use super::state::State;

mod audit;
mod capabilities;
mod compaction;
mod moments;

pub use audit::Batch;
pub use compaction::PlanQuestion;
pub use moments::{AttemptQuestion, PromptQuestion, ResultQuestion, SessionQuestion};

mod bindings {
    wasmtime::component::bindgen!({
        // Everything of the contract at once, so that all kinds and moments share one set of types.
        inline: "
            package beadle:host;
            world everything {
                include beadle:plugin/permission-policy@0.1.0;
                import beadle:plugin/transcript@0.1.0;
                import beadle:plugin/kv@0.1.0;
                import beadle:plugin/clock@0.1.0;
                import beadle:plugin/random@0.1.0;
                import beadle:plugin/env@0.1.0;
                import beadle:plugin/secret@0.1.0;
                import beadle:plugin/fs@0.1.0;
                import beadle:plugin/http@0.1.0;
                export beadle:plugin/judge-session@0.1.0;
                export beadle:plugin/judge-prompt@0.1.0;
                export beadle:plugin/judge-result@0.1.0;
                export beadle:plugin/judge-attempt@0.1.0;
                export beadle:plugin/compaction@0.1.0;
                export beadle:plugin/audit@0.1.0;
            }
        ",
        path: "wit/v0.1",
        world: "beadle:host/everything",
        with: { "beadle:plugin/transcript.transcript": super::compaction::Lent },
    });
}

use bindings::beadle::plugin::{clock, env, fs, http, kv, log, random, secret, transcript, types};
use bindings::exports::beadle::plugin as exported;

/// The package as imports and exports name it, up to the last number of its version.
pub(super) const TRACK: &str = "@0.1.";
/// The only interface of ours that every kind may call.
pub(super) const LOG: &str = "beadle:plugin/log";
/// Types alone: nothing to call.
pub(super) const TYPES: &str = "beadle:plugin/types";
/// What a compaction strategy may call besides.
pub(super) const TRANSCRIPT: &str = "beadle:plugin/transcript";
const POLICY: &str = "beadle:plugin/policy@0.1.0";
const COMPACTION: &str = "beadle:plugin/compaction@0.1.0";
const AUDIT: &str = "beadle:plugin/audit@0.1.0";

/// Longest field of a description, in bytes, and most capabilities wanted.
const MAX_TEXT: usize = 4 << 10;
const MAX_SCHEMA: usize = 256 << 10;
const MAX_WANTS: usize = 64;

/// How the line begins in which the SDK says why a guest panicked, and how much of it goes into the failure.
const PANIC: &str = "panicked at ";
const MAX_PANIC: usize = 512;

type DecideParams<'a> = (&'a types::Session, &'a types::Call);

/// What a component is, by its exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PluginKind {
    PermissionPolicy,
    CompactionStrategy,
    AuditSink,
}

impl PluginKind {
    pub const ALL: [Self; 3] = [Self::PermissionPolicy, Self::CompactionStrategy, Self::AuditSink];

    /// The name of its world.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PermissionPolicy => "permission-policy",
            Self::CompactionStrategy => "compaction-strategy",
            Self::AuditSink => "audit-sink",
        }
    }

    /// Its own interface, without version.
    pub(super) const fn interface(self) -> &'static str {
        match self {
            Self::PermissionPolicy => "beadle:plugin/policy",
            Self::CompactionStrategy => "beadle:plugin/compaction",
            Self::AuditSink => "beadle:plugin/audit",
        }
    }

    /// Its own interface, and the function in it.
    const fn export(self) -> (&'static str, &'static str) {
        match self {
            Self::PermissionPolicy => (POLICY, "decide"),
            Self::CompactionStrategy => (COMPACTION, "plan"),
            Self::AuditSink => (AUDIT, "write"),
        }
    }

    /// Whether it may import an interface of ours, given without its version.
    pub(super) fn imports(self, interface: &str) -> bool {
        [LOG, TYPES].contains(&interface)
            || INTERFACES.contains(&interface)
            || (self == Self::CompactionStrategy && interface == TRANSCRIPT)
    }
}

/// Who a plugin says it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    pub name: String,
    pub version: String,
    pub purpose: String,
    /// JSON Schema of its configuration.
    pub config_schema: String,
    pub wants: Vec<Want>,
}

/// A capability that a plugin would like to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    pub capability: String,
    pub reason: String,
}

/// A call with the session it is made in, as plugins see them. Made once per call and put to every policy.
#[derive(Clone)]
pub struct Question {
    session: types::Session,
    call: types::Call,
    round: Option<Arc<Round>>,
}

impl Question {
    /// `at_ms` is the wall time of the request, the only clock that a policy has.
    pub fn new(session: &model::Session, call: &model::Call, at_ms: i64) -> Self {
        Self { session: of_session(session), call: of_call(call, at_ms), round: None }
    }

    /// Gives policies their state of this session.
    #[must_use]
    pub fn in_round(self, round: Option<&Arc<Round>>) -> Self {
        Self { round: round.cloned(), ..self }
    }
}

/// Something that a plugin can be asked, once in an instance of its own.
pub(super) trait Ask {
    type Answer;

    /// Wall time of the question: the plugin's clock.
    fn at_ms(&self) -> u64;

    /// Seed of the randomness that inert WASI gives: the same question gets the same numbers.
    fn seed(&self) -> [u8; 32];

    /// The state that a plugin has for it.
    fn state(&self) -> Source {
        Source::None
    }

    /// Gives the store what the question lends.
    fn prepare(&self, _store: &mut Store<State>) {}

    /// Puts the question; the inner error says which limit the answer broke.
    fn put(&self, exports: &Exports, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<Result<Self::Answer, String>>;
}

/// The state of a question to policies: that of its round, else none that lasts.
fn of_round(round: Option<&Arc<Round>>) -> Source {
    round.map_or(Source::Scratch, |r| Source::Round(Arc::clone(r)))
}

/// The seed of a question by what tells it apart.
fn seed(session: &str, at_ms: u64, what: &str) -> [u8; 32] {
    let mut h = blake3::Hasher::new_derive_key("beadle 2026 plugin random v1");
    h.update(session.as_bytes()).update(&at_ms.to_le_bytes());
    h.update(what.as_bytes());
    *h.finalize().as_bytes()
}

impl Ask for Question {
    type Answer = model::Decision;

    fn at_ms(&self) -> u64 {
        self.call.at_ms
    }

    fn seed(&self) -> [u8; 32] {
        seed(&self.session.id, self.call.at_ms, self.call.call_id.as_deref().unwrap_or_default())
    }

    fn state(&self) -> Source {
        of_round(self.round.as_ref())
    }

    fn put(&self, exports: &Exports, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<Result<model::Decision, String>> {
        if exports.kind != PluginKind::PermissionPolicy {
            wasmtime::bail!("it is a {}, and only policies are asked about calls", exports.kind.as_str());
        }
        let Some(f) = instance.get_func(&mut *store, exports.main) else {
            wasmtime::bail!("the export `decide` is gone");
        };
        // SAFETY: `check` compared this export of this component, a policy, with the same types when it was loaded, and a component's
        // types never change. Comparing them in every instance would cost as much as the call.
        let f = unsafe { TypedFunc::<DecideParams<'_>, (types::Decision,)>::new_unchecked(f) };
        Ok(to_decision(f.call(store, (&self.session, &self.call))?.0))
    }
}

/// What a component exports of the contract.
#[derive(Clone)]
pub(super) struct Exports {
    pub(super) kind: PluginKind,
    describe: ComponentExportIndex,
    configure: ComponentExportIndex,
    /// The function of its kind: `decide`, `plan` or `write`.
    main: ComponentExportIndex,
    /// In the order of [`Moment::ALL`]; only policies have any.
    moments: [Option<ComponentExportIndex>; 4],
}

impl Exports {
    /// Finds the exports of the kind that the component is. The error has the names that are missing, of `wanted` when it is of no kind,
    /// or the kinds when it is of several.
    pub(super) fn find(component: &Component, wanted: PluginKind) -> Result<Self, Missing> {
        let function = |interface: &str, name: &str| {
            component.get_export_index(None, interface).and_then(|i| component.get_export_index(Some(&i), name))
        };
        let own = |k: PluginKind| function(k.export().0, k.export().1);
        let kinds: Vec<PluginKind> = PluginKind::ALL.into_iter().filter(|k| own(*k).is_some()).collect();
        if kinds.len() > 1 {
            return Err(Missing::OneKind(kinds));
        }
        let kind = kinds.first().copied().unwrap_or(wanted);
        let found = (component.get_export_index(None, "describe"), component.get_export_index(None, "configure"), own(kind));
        let (Some(describe), Some(configure), Some(main)) = found else {
            let named = [("describe", found.0.is_none()), ("configure", found.1.is_none()), (kind.export().0, found.2.is_none())];
            return Err(Missing::Names(kind, named.into_iter().filter_map(|(name, missing)| missing.then_some(name)).collect()));
        };
        let moments = Moment::ALL.map(|m| function(&interface(m), "judge").filter(|_| kind == PluginKind::PermissionPolicy));
        Ok(Self { kind, describe, configure, main, moments })
    }

    /// The optional moments that it takes part in.
    pub(super) fn moments(&self) -> Vec<Moment> {
        Moment::ALL.into_iter().zip(&self.moments).filter(|(_, i)| i.is_some()).map(|(m, _)| m).collect()
    }

    pub(super) fn has(&self, moment: Moment) -> bool {
        self.moment(moment).is_some()
    }

    fn moment(&self, moment: Moment) -> Option<ComponentExportIndex> {
        Moment::ALL.iter().zip(&self.moments).find(|(m, _)| **m == moment).and_then(|(_, i)| *i)
    }

    /// Whether all have the shapes of the contract; a policy may be asked only when its component passed.
    pub(super) fn check(&self, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<()> {
        instance.get_typed_func::<(), (types::Description,)>(&mut *store, self.describe)?;
        instance.get_typed_func::<(&str,), (Result<(), String>,)>(&mut *store, self.configure)?;
        match self.kind {
            PluginKind::PermissionPolicy => {
                instance.get_typed_func::<DecideParams<'_>, (types::Decision,)>(&mut *store, self.main)?;
                moments::check(self, store, instance)
            }
            PluginKind::CompactionStrategy => compaction::check(self.main, store, instance),
            PluginKind::AuditSink => audit::check(self.main, store, instance),
        }
    }

    /// Asks who the plugin is; the inner error says which limit the answer broke.
    pub(super) fn describe(&self, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<Result<Description, String>> {
        let f = instance.get_typed_func::<(), (types::Description,)>(&mut *store, self.describe)?;
        Ok(to_description(f.call(store, ())?.0))
    }

    /// Configures the instance; the inner error is the plugin's own.
    pub(super) fn configure(&self, store: &mut Store<State>, instance: &Instance, config: &str) -> wasmtime::Result<Result<(), String>> {
        let f = instance.get_typed_func::<(&str,), (Result<(), String>,)>(&mut *store, self.configure)?;
        Ok(f.call(store, (config,))?.0)
    }
}

/// Why a component's exports are not those of a plugin.
pub(super) enum Missing {
    /// It exports the interfaces of several kinds.
    OneKind(Vec<PluginKind>),
    Names(PluginKind, Vec<&'static str>),
}

/// The full name of a moment's interface.
fn interface(moment: Moment) -> String {
    format!("beadle:plugin/{}@0.1.0", moment.as_str())
}

/// Gives everything that plugins can call; which kind may import what was checked before.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    log::add_to_linker::<State, HasSelf<State>>(linker, |s| s)?;
    kv::add_to_linker::<State, HasSelf<State>>(linker, |s| s)?;
    clock::add_to_linker::<State, HasSelf<State>>(linker, |s| s)?;
    random::add_to_linker::<State, HasSelf<State>>(linker, |s| s)?;
    env::add_to_linker::<State, HasSelf<State>>(linker, |s| s)?;
    secret::add_to_linker::<State, HasSelf<State>>(linker, |s| s)?;
    fs::add_to_linker::<State, HasSelf<State>>(linker, |s| s)?;
    http::add_to_linker::<State, HasSelf<State>>(linker, |s| s)?;
    transcript::add_to_linker::<State, HasSelf<State>>(linker, |s| s)
}

/// Names of a component's imports and of its exports.
pub(super) fn names(component: &Component, engine: &Engine) -> (Vec<String>, Vec<String>) {
    let ty = component.component_type();
    (ty.imports(engine).map(|(n, _)| n.to_owned()).collect(), ty.exports(engine).map(|(n, _)| n.to_owned()).collect())
}

impl log::Host for State {
    fn log(&mut self, level: log::Level, message: String) {
        let level = match level {
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warn,
            log::Level::Error => Level::Error,
        };
        if level == Level::Error && message.starts_with(PANIC) {
            let mut text = self.log.shown(&message);
            text.truncate(text.floor_char_boundary(MAX_PANIC));
            self.panic = Some(text);
        }
        self.log.write(level, &message);
    }
}

fn to_description(d: types::Description) -> Result<Description, String> {
    let texts = [&d.name, &d.version, &d.purpose].into_iter().chain(d.wants.iter().flat_map(|w| [&w.capability, &w.reason]));
    if let Some(long) = texts.map(String::len).max().filter(|n| *n > MAX_TEXT) {
        return Err(format!("a text of {long} bytes in the description; the limit is {MAX_TEXT}"));
    }
    if d.config_schema.len() > MAX_SCHEMA {
        return Err(format!("a schema of {} bytes; the limit is {MAX_SCHEMA}", d.config_schema.len()));
    }
    if d.wants.len() > MAX_WANTS {
        return Err(format!("{} capabilities wanted; the limit is {MAX_WANTS}", d.wants.len()));
    }
    let wants = d.wants.into_iter().map(|w| Want { capability: w.capability, reason: w.reason }).collect();
    Ok(Description { name: d.name, version: d.version, purpose: d.purpose, config_schema: d.config_schema, wants })
}

fn to_decision(d: types::Decision) -> Result<model::Decision, String> {
    let effect = match d.effect {
        types::Effect::Abstain => model::Effect::Abstain,
        types::Effect::Allow => model::Effect::Allow,
        types::Effect::Ask => model::Effect::Ask,
        types::Effect::Deny => model::Effect::Deny,
    };
    answer::read(effect, d.reason, d.rule, d.updated_input.as_deref())
}

/// The same as [`within`] for a text that may be missing.
fn within_any(what: &str, text: Option<&String>, max: usize) -> Result<(), String> {
    text.map_or(Ok(()), |t| within(what, t, max))
}

/// Wall time as guests know it.
fn at(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or(0)
}

fn of_session(s: &model::Session) -> types::Session {
    types::Session {
        id: s.id.to_string(),
        name: s.name.clone(),
        agent: s.agent.clone(),
        root: s.cwd.clone(),
        home: s.home.clone(),
        labels: s.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        // Sessions have no parents yet.
        parent: None,
        attempt: s.attempt,
        mediation: match s.mediation {
            model::Mediation::None => types::Mediation::None,
            model::Mediation::Hooks => types::Mediation::Hooks,
            model::Mediation::Gate => types::Mediation::Gate,
        },
        created_at_ms: at(s.created_at),
        calls: s.calls,
        denied: s.denied,
        sub_agents: s.sub_agents,
        turns: s.turns,
        usage: types::Usage {
            input: s.usage.input,
            output: s.usage.output,
            cache_read: s.usage.cache_read,
            cache_write: s.usage.cache_write,
        },
        cost_nanousd: s.cost,
        unpriced: s.unpriced,
        model: s.model.clone(),
    }
}

fn of_call(c: &model::Call, at_ms: i64) -> types::Call {
    types::Call {
        agent: c.agent.clone(),
        tool: c.tool.clone(),
        kind: of_kind(c.kind),
        input: c.input.to_string(),
        cwd: c.cwd.clone(),
        write_root: c.write_root.clone(),
        paths: c.paths.iter().map(of_path).collect(),
        urls: c.urls.clone(),
        commands: c.commands.iter().map(of_command).collect(),
        parse: match c.parse {
            model::Parse::Complete => types::Parse::Complete,
            model::Parse::Partial => types::Parse::Partial,
            model::Parse::Failed => types::Parse::Failed,
        },
        parse_reason: c.parse_reason.clone(),
        call_id: c.call_id.clone(),
        parent_call_id: c.parent_call_id.clone(),
        sub_agent: c.sub_agent.clone(),
        channel: match c.channel {
            model::Channel::Driver => types::Channel::Driver,
            model::Channel::Hook => types::Channel::Hook,
            model::Channel::Proxy => types::Channel::Proxy,
        },
        at_ms: at(at_ms),
    }
}

const fn of_kind(k: model::ToolKind) -> types::ToolKind {
    match k {
        model::ToolKind::Read => types::ToolKind::Read,
        model::ToolKind::Edit => types::ToolKind::Edit,
        model::ToolKind::Delete => types::ToolKind::Delete,
        model::ToolKind::Move => types::ToolKind::Move,
        model::ToolKind::Search => types::ToolKind::Search,
        model::ToolKind::Execute => types::ToolKind::Execute,
        model::ToolKind::Think => types::ToolKind::Think,
        model::ToolKind::Fetch => types::ToolKind::Fetch,
        model::ToolKind::Other => types::ToolKind::Other,
    }
}

const fn of_access(a: model::Access) -> types::Access {
    match a {
        model::Access::Read => types::Access::Read,
        model::Access::Write => types::Access::Write,
        model::Access::ReadWrite => types::Access::ReadWrite,
    }
}

fn of_word(w: &model::Word) -> types::Word {
    types::Word { text: w.text.clone(), exact: w.exact }
}

fn of_path(p: &model::PathUse) -> types::PathUse {
    types::PathUse {
        written: p.written.clone(),
        absolute: p.absolute.clone(),
        resolved: p.resolved.clone(),
        access: of_access(p.access),
        exact: p.exact,
    }
}

fn of_command(c: &model::Command) -> types::Command {
    types::Command {
        argv: c.argv.iter().map(of_word).collect(),
        env: c.env.iter().map(of_word).collect(),
        redirects: c.redirects.iter().map(|r| types::Redirect { target: of_word(&r.target), access: of_access(r.access) }).collect(),
        origin: c.origin.clone(),
        exact: c.exact,
    }
}
