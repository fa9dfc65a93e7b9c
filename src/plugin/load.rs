//! From bytes to a plugin that can be asked: checks, description, configuration, snapshot, machine code.
//!
//! Order, cheapest refusal first: size and header; cache; compile; imports and exports by name; their shapes;
//! `describe`; `configure`; snapshot; cache. The same bytes, configuration and engine always give the same result.
//!
//! Called by `host`, on a thread where blocking is right.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wasmtime::component::{Component, InstancePre};
use wasmtime::{Engine, Store};

use crate::model::{FailureCause, Wants};

use super::cache::Artefact;
use super::call::{self, CallFailure};
use super::capability::INTERFACES;
use super::engine::{Engines, Kind};
use super::error::{Error, Result};
use super::limits::{Limits, MAX_COMPONENT, MAX_CONFIG};
use super::log::PluginLog;
use super::ready::Spare;
use super::snapshot;
use super::state::{self, State};
use super::v0_1::{self, Ask, Description, Exports, Missing, PluginKind};
use super::wasi::Inert;

/// What is known of a compiled plugin; kept in the cache beside the code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) description: Description,
    pub(super) kind: Kind,
    pub(super) kind_reason: String,
    pub(super) snapshotted: bool,
    /// Why there is no snapshot.
    pub(super) note: Option<String>,
    pub(super) wasi: bool,
}

/// A component ready for calls.
pub(super) struct Loaded {
    pub(super) meta: Meta,
    pub(super) pre: InstancePre<State>,
    pub(super) exports: Exports,
    /// Whether it imports a capability.
    pub(super) capable: bool,
    /// What it wants, as far as this host knows it.
    pub(super) wants: Wants,
}

/// What to load: everything that compiling depends on.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) plugin: String,
    pub(super) wasm: std::borrow::Cow<'static, [u8]>,
    pub(super) config: String,
    pub(super) limits: Limits,
    pub(super) log: Arc<PluginLog>,
    /// What it should be; `None` where any kind will do.
    pub(super) wanted: Option<PluginKind>,
}

impl Source {
    /// Refuses what is not worth a look.
    pub(super) fn check(&self) -> Result<()> {
        let plugin = || self.plugin.clone();
        if self.wasm.len() > MAX_COMPONENT {
            return Err(Error::TooLarge { plugin: plugin(), size: self.wasm.len() });
        }
        if self.config.len() > MAX_CONFIG {
            return Err(Error::ConfigTooLarge { plugin: plugin(), size: self.config.len() });
        }
        match self.wasm.first_chunk::<8>() {
            Some([0, b'a', b's', b'm', _, _, 1, 0]) => Ok(()),
            Some([0, b'a', b's', b'm', _, _, 0, 0]) => Err(Error::CoreModule { plugin: plugin() }),
            _ => {
                let found = match self.wasm.get(..self.wasm.len().min(8)) {
                    Some(b"") | None => "nothing: the file is empty".to_owned(),
                    Some(bytes) => bytes.escape_ascii().to_string(),
                };
                Err(Error::NotWasm { plugin: plugin(), found })
            }
        }
    }

    /// Compiles, asks and configures; the costly way.
    pub(super) fn build(&self, engines: &Engines) -> Result<Artefact> {
        let code = self.compile(engines, &self.wasm)?;
        let (kind, kind_reason, component) = self.place(engines, &code)?;
        let wasi = self.check_names(engines.get(kind), &component)?;
        let draft = self.link(engines.get(kind), &component, wasi)?;

        let mut store = self.store(engines.get(kind), wasi);
        let shape = |e: CallFailure| match e.cause {
            FailureCause::BadAnswer => Error::WrongShape { plugin: self.plugin.clone(), detail: e.detail },
            _ => Error::Start { plugin: self.plugin.clone(), failure: e },
        };
        call::once(engines, &mut store, &draft.0, |s, i| draft.1.check(s, i)).map_err(shape)?;
        let description = self.describe(engines, kind, wasi, &draft)?;
        let holds_handles = self.configure(engines, kind, wasi, &draft)?;
        let mut meta = Meta { description, kind, kind_reason, snapshotted: false, note: None, wasi };

        let snapshot = if holds_handles {
            Err("it holds handles of the host after `configure`".to_owned())
        } else {
            let inert = wasi.then(|| self.inert());
            snapshot::take(engines, engines.get(kind), &self.wasm, &self.config, &self.limits, inert, &self.log)
        };
        match snapshot.and_then(|bytes| self.compile(engines, &bytes).map_err(|e| e.to_string())) {
            // A snapshot that the engine refuses (a larger table, say) is as good as none.
            Ok(code) if self.component(engines.get(kind), &code).is_ok() => {
                meta.snapshotted = true;
                Ok(Artefact { meta, code })
            }
            Ok(_) => {
                meta.note = Some("the engine refuses the snapshot".to_owned());
                Ok(Artefact { meta, code })
            }
            Err(why) => {
                meta.note = Some(why);
                Ok(Artefact { meta, code })
            }
        }
    }

    /// Makes the artefact callable.
    pub(super) fn open(&self, engines: &Engines, artefact: Artefact) -> Result<Loaded> {
        let engine = engines.get(artefact.meta.kind);
        let component = self.component(engine, &artefact.code).map_err(|e| self.invalid(&e))?;
        let (pre, exports) = self.link(engine, &component, artefact.meta.wasi)?;
        let is_capability = |n: &String| n.split_once('@').is_some_and(|(i, _)| INTERFACES.contains(&i));
        let capable = v0_1::names(&component, engine).0.iter().any(is_capability);
        let (wants, _) = Wants::parse(artefact.meta.description.wants.iter().map(|w| w.capability.as_str()));
        Ok(Loaded { meta: artefact.meta, pre, exports, capable, wants })
    }

    fn compile(&self, engines: &Engines, wasm: &[u8]) -> Result<Vec<u8>> {
        // Both engines compile alike; the small one also runs what fits it.
        engines.get(Kind::Small).precompile_component(wasm).map_err(|e| self.invalid(&e))
    }

    fn component(&self, engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
        // SAFETY: `code` was made by `precompile_component` of an engine with the same settings: either just now in this
        // process, or earlier and then authenticated by the cache's keyed digest over these very bytes.
        unsafe { Component::deserialize(engine, code) }
    }

    /// The small engine when the component fits its pool, else the large one.
    fn place(&self, engines: &Engines, code: &[u8]) -> Result<(Kind, String, Component)> {
        match self.component(engines.get(Kind::Small), code) {
            Ok(c) => Ok((Kind::Small, "fits the pool".to_owned(), c)),
            Err(small) => match self.component(engines.get(Kind::Large), code) {
                Ok(c) => Ok((Kind::Large, small.root_cause().to_string(), c)),
                Err(e) => Err(self.invalid(&e)),
            },
        }
    }

    /// Whether it imports WASI; refuses foreign imports and other worlds.
    fn check_names(&self, engine: &Engine, component: &Component) -> Result<bool> {
        let (imports, exports) = v0_1::names(component, engine);
        let kind = self.exports(component, &exports).map(|e| e.kind);
        let may = |i: &str| match &kind {
            Ok(k) => k.imports(i),
            // Refused below, for what it lacks.
            Err(_) => PluginKind::ALL.iter().any(|k| k.imports(i)),
        };
        let ours = |n: &str| n.split_once('@').is_some_and(|(i, v)| may(i) && format!("@{v}").starts_with(v0_1::TRACK));
        let is_wasi = |n: &str| n.starts_with("wasi:") && n.rsplit('@').next().is_some_and(|v| v.starts_with("0.2."));
        let foreign: Vec<&str> = imports.iter().map(String::as_str).filter(|n| !ours(n) && !is_wasi(n)).collect();
        if !foreign.is_empty() {
            return Err(Error::ForbiddenImport { plugin: self.plugin.clone(), imports: list(&foreign) });
        }
        kind?;
        Ok(imports.iter().any(|n| is_wasi(n)))
    }

    /// What it exports of the contract; refuses a component that is not of the wanted kind, of none, or of several.
    fn exports(&self, component: &Component, names: &[String]) -> Result<Exports> {
        let plugin = || self.plugin.clone();
        let wanted = self.wanted.unwrap_or(PluginKind::PermissionPolicy);
        match Exports::find(component, wanted) {
            Ok(e) if self.wanted.is_some_and(|w| w != e.kind) => {
                Err(Error::OtherKind { plugin: plugin(), kind: e.kind.as_str(), wanted: wanted.as_str() })
            }
            Ok(e) => Ok(e),
            Err(Missing::OneKind(kinds)) => {
                let kinds: Vec<&str> = kinds.iter().map(|k| k.as_str()).collect();
                Err(Error::SeveralKinds { plugin: plugin(), kinds: list(&kinds) })
            }
            Err(Missing::Names(kind, missing)) => {
                let found: Vec<&str> = names.iter().map(String::as_str).collect();
                Err(Error::WrongWorld { plugin: plugin(), world: kind.as_str(), missing: list(&missing), found: list(&found) })
            }
        }
    }

    fn link(&self, engine: &Engine, component: &Component, wasi: bool) -> Result<(InstancePre<State>, Exports)> {
        let shape = |detail: String| Error::WrongShape { plugin: self.plugin.clone(), detail };
        let pre = state::linker(engine, component, wasi).and_then(|l| l.instantiate_pre(component)).map_err(|e| shape(format!("{e:#}")))?;
        let exports = self.exports(component, &[])?;
        Ok((pre, exports))
    }

    fn describe(&self, engines: &Engines, kind: Kind, wasi: bool, draft: &(InstancePre<State>, Exports)) -> Result<Description> {
        let mut store = self.store(engines.get(kind), wasi);
        call::once(engines, &mut store, &draft.0, |s, i| draft.1.describe(s, i))
            .and_then(|d| d.map_err(|detail| CallFailure::new(FailureCause::BadAnswer, detail)))
            .map_err(|failure| Error::Describe { plugin: self.plugin.clone(), failure })
    }

    /// Whether handles of the host are alive after it.
    fn configure(&self, engines: &Engines, kind: Kind, wasi: bool, draft: &(InstancePre<State>, Exports)) -> Result<bool> {
        let mut store = self.store(engines.get(kind), wasi);
        let plugin = self.plugin.clone();
        match call::once(engines, &mut store, &draft.0, |s, i| draft.1.configure(s, i, &self.config)) {
            Ok(Ok(())) => Ok(store.data().wasi.as_ref().is_some_and(|w| w.holds_handles())),
            Ok(Err(mut reason)) => {
                reason.truncate(reason.floor_char_boundary(MAX_REASON));
                Err(Error::ConfigRefused { plugin, reason })
            }
            Err(failure) => Err(Error::Configure { plugin, failure }),
        }
    }

    fn store(&self, engine: &Engine, wasi: bool) -> Store<State> {
        let inert = wasi.then(|| self.inert());
        state::store(engine, state::state(&self.limits, &self.log, inert), self.limits.configure)
    }

    /// WASI for loading: no question is there yet, so time is zero and the random numbers are always the same.
    fn inert(&self) -> Inert {
        Inert::new(0, &[0; 32], &self.log)
    }

    fn invalid(&self, e: &wasmtime::Error) -> Error {
        Error::Invalid { plugin: self.plugin.clone(), detail: e.root_cause().to_string() }
    }
}

/// Longest refusal of a configuration that is shown, in bytes.
const MAX_REASON: usize = 16 << 10;

impl Loaded {
    /// The store of one call.
    pub(super) fn store(
        &self,
        engines: &Engines,
        limits: &Limits,
        log: &Arc<PluginLog>,
        question: &impl Ask,
        ahead: Duration,
    ) -> Store<State> {
        let inert = self.meta.wasi.then(|| Inert::new(question.at_ms(), &question.seed(), log));
        state::store(engines.get(self.meta.kind), state::state(limits, log, inert), ahead)
    }

    /// An instance for a question that is not there yet; only where there is a snapshot.
    pub(super) fn ahead(&self, engines: &Engines, limits: &Limits, log: &Arc<PluginLog>) -> wasmtime::Result<Spare> {
        let mut store = state::store(engines.get(self.meta.kind), state::state(limits, log, None), limits.configure);
        // The snapshot has no start function left; should one run all the same, it is stopped.
        let _ticking = engines.ticker.enter();
        let instance = self.pre.instantiate(&mut store)?;
        Ok(Spare { store, instance })
    }

    /// The same question and time for an instance that was made ahead.
    pub(super) fn meet(&self, store: &mut Store<State>, log: &Arc<PluginLog>, question: &impl Ask, ahead: Duration) {
        if self.meta.wasi {
            store.data_mut().wasi = Some(Box::new(Inert::new(question.at_ms(), &question.seed(), log)));
        }
        // why: another chain with the same plugin may have made it.
        store.data_mut().log = Arc::clone(log);
        store.set_epoch_deadline(super::ticker::ticks(ahead));
    }
}

fn list(names: &[&str]) -> String {
    /// Names shown of a list that a guest wrote.
    const SHOWN: usize = 8;
    match names {
        [] => "none".to_owned(),
        n if n.len() > SHOWN => format!("{} and {} more", n[..SHOWN].join(", "), n.len() - SHOWN),
        n => n.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SystemClock;

    fn source(wasm: &'static [u8]) -> Source {
        let log = Arc::new(PluginLog::new(Arc::new(SystemClock)));
        Source { plugin: "p".to_owned(), wasm: wasm.into(), config: String::new(), limits: Limits::default(), log, wanted: None }
    }

    /// A component of one core instance whose module has a table of this many elements (as a two-byte number).
    fn with_table(low: u8, high: u8) -> Vec<u8> {
        let module = [b"\0asm\x01\0\0\0\x04\x05\x01\x70\x00".as_slice(), &[low, high]].concat();
        let mut out = [b"\0asm\x0d\0\x01\0\x01".as_slice(), &[module.len() as u8], &module].concat();
        out.extend(b"\x02\x04\x01\x00\x00\x00");
        out
    }

    #[test]
    fn a_large_table_goes_to_the_large_engine() {
        let engines = Engines::new(|| {}).unwrap();
        let s = source(b"");
        let place = |low, high| {
            let code = s.compile(&engines, &with_table(low, high)).unwrap();
            let (kind, why, _) = s.place(&engines, &code).unwrap();
            (kind, why)
        };
        assert_eq!(place(0xD0, 0x0F).0, Kind::Small, "2,000 elements");
        let (kind, why) = place(0xD1, 0x0F);
        assert_eq!(kind, Kind::Large, "2,001 elements");
        assert!(why.contains("2001"), "{why}");
    }
}
