//! `beadle:plugin@0.1`: the generated bindings and every conversion between them and the model, and nothing else.
//!
//! Called by `call` and `load`. A later track gets a file of its own beside this one.

use serde::{Deserialize, Serialize};
use wasmtime::component::{Component, ComponentExportIndex, HasSelf, Instance, Linker, TypedFunc};
use wasmtime::{Engine, Store};

use crate::model;

use super::limits::{MAX_INPUT, MAX_REASON, MAX_RULE};
use super::log::Level;
use super::state::State;

mod bindings {
    wasmtime::component::bindgen!({ path: "wit/v0.1", world: "permission-policy" });
}

use bindings::beadle::plugin::{log, types};

/// The package as imports and exports name it, up to the last number of its version.
pub(super) const TRACK: &str = "@0.1.";
/// The only interface of ours that a policy may call.
pub(super) const LOG: &str = "beadle:plugin/log";
/// Types alone: nothing to call.
pub(super) const TYPES: &str = "beadle:plugin/types";
const POLICY: &str = "beadle:plugin/policy@0.1.0";

/// Longest field of a description, in bytes, and most capabilities wanted.
const MAX_TEXT: usize = 4 << 10;
const MAX_SCHEMA: usize = 256 << 10;
const MAX_WANTS: usize = 64;

type DecideParams<'a> = (&'a types::Session, &'a types::Call);

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
pub struct Question {
    session: types::Session,
    call: types::Call,
}

impl Question {
    /// `at_ms` is the wall time of the request, the only clock that a policy has.
    pub fn new(session: &model::Session, call: &model::Call, at_ms: i64) -> Self {
        Self { session: of_session(session), call: of_call(call, at_ms) }
    }

    pub(super) const fn at_ms(&self) -> u64 {
        self.call.at_ms
    }

    /// Seed of the randomness that inert WASI gives: the same question gets the same numbers.
    pub(super) fn seed(&self) -> [u8; 32] {
        let mut h = blake3::Hasher::new_derive_key("beadle 2026 plugin random v1");
        h.update(self.session.id.as_bytes()).update(&self.call.at_ms.to_le_bytes());
        h.update(self.call.call_id.as_deref().unwrap_or_default().as_bytes());
        *h.finalize().as_bytes()
    }
}

/// Where a component has the three functions of the world.
#[derive(Clone)]
pub(super) struct Exports {
    describe: ComponentExportIndex,
    configure: ComponentExportIndex,
    decide: ComponentExportIndex,
}

impl Exports {
    /// The names that are missing, when some are.
    pub(super) fn find(component: &Component) -> Result<Self, Vec<&'static str>> {
        let describe = component.get_export_index(None, "describe");
        let configure = component.get_export_index(None, "configure");
        let decide = component.get_export_index(None, POLICY).and_then(|i| component.get_export_index(Some(&i), "decide"));
        match (describe, configure, decide) {
            (Some(describe), Some(configure), Some(decide)) => Ok(Self { describe, configure, decide }),
            (d, c, p) => {
                let named = [("describe", d.is_none()), ("configure", c.is_none()), (POLICY, p.is_none())];
                Err(named.into_iter().filter_map(|(name, missing)| missing.then_some(name)).collect())
            }
        }
    }

    /// Whether all three have the shapes of the world; [`Exports::decide`] may be used only on components that passed.
    pub(super) fn check(&self, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<()> {
        instance.get_typed_func::<(), (types::Description,)>(&mut *store, self.describe)?;
        instance.get_typed_func::<(&str,), (Result<(), String>,)>(&mut *store, self.configure)?;
        instance.get_typed_func::<DecideParams<'_>, (types::Decision,)>(&mut *store, self.decide)?;
        Ok(())
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

    /// Puts a question; the inner error says which limit the answer broke.
    pub(super) fn decide(
        &self,
        store: &mut Store<State>,
        instance: &Instance,
        question: &Question,
    ) -> wasmtime::Result<Result<model::Decision, String>> {
        let Some(f) = instance.get_func(&mut *store, self.decide) else {
            wasmtime::bail!("the export `decide` is gone");
        };
        // SAFETY: `check` compared this export of this component with the same types when the plugin was loaded, and a
        // component's types never change. Comparing them in every instance would cost as much as the call.
        let f = unsafe { TypedFunc::<DecideParams<'_>, (types::Decision,)>::new_unchecked(f) };
        Ok(to_decision(f.call(store, (&question.session, &question.call))?.0))
    }
}

/// Gives the log, all that a policy can call.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    log::add_to_linker::<State, HasSelf<State>>(linker, |s| s)
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
    let over = |what: &str, len: usize, max: usize| format!("{what} of {len} bytes; the limit is {max}");
    if d.reason.len() > MAX_REASON {
        return Err(over("a reason", d.reason.len(), MAX_REASON));
    }
    if let Some(rule) = d.rule.as_ref().filter(|r| r.len() > MAX_RULE) {
        return Err(over("a rule", rule.len(), MAX_RULE));
    }
    let updated_input = match d.updated_input {
        None => None,
        Some(text) if text.len() > MAX_INPUT => return Err(over("an updated input", text.len(), MAX_INPUT)),
        Some(text) => match serde_json::from_str(&text) {
            Ok(v @ serde_json::Value::Object(_)) => Some(v),
            Ok(_) => return Err("an updated input that is not a JSON object".to_owned()),
            Err(e) => return Err(format!("an updated input that is not JSON: {e}")),
        },
    };
    Ok(model::Decision { effect, reason: d.reason, rule: d.rule, updated_input })
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
        created_at_ms: u64::try_from(s.created_at).unwrap_or(0),
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
        at_ms: u64::try_from(at_ms).unwrap_or(0),
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
