//! What a store carries, and how a store is made. A store lives for one call.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{WasiCtxView, WasiView};

use crate::model::Transcript;

use super::capability::Uses;
use super::limits::{Limits, MAX_HANDLES, MAX_LIFT, Meter};
use super::log::PluginLog;
use super::wasi::Inert;
use super::{ticker, v0_1, wasi};

pub(super) struct State {
    pub(super) meter: Meter,
    pub(super) log: Arc<PluginLog>,
    /// There for components that import WASI, and for no others.
    pub(super) wasi: Option<Box<Inert>>,
    /// The conversation that a compaction strategy reads during its call.
    pub(super) lent: Option<Arc<dyn Transcript>>,
    /// What the call may use; there while a question is put, to plugins that import a capability.
    pub(super) uses: Option<Box<Uses>>,
    /// What it said of its own panic, secrets masked.
    pub(super) panic: Option<String>,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        // A component that did not import WASI when it was loaded has no function linked that could come here.
        self.wasi.get_or_insert_with(Box::default).view()
    }
}

/// A store whose guest has this long.
pub(super) fn store(engine: &Engine, state: State, ahead: Duration) -> Store<State> {
    let mut store = Store::new(engine, state);
    store.limiter(|s| &mut s.meter);
    store.set_epoch_deadline(ticker::ticks(ahead));
    store.set_hostcall_fuel(MAX_LIFT);
    store.set_max_component_handles(MAX_HANDLES);
    store
}

/// State for a component that imports WASI (`inert` is some) or not.
pub(super) fn state(limits: &Limits, log: &Arc<PluginLog>, inert: Option<Inert>) -> State {
    State { meter: Meter::new(limits), log: Arc::clone(log), wasi: inert.map(Box::new), lent: None, uses: None, panic: None }
}

/// Everything that this component may call. Its imports were checked before.
pub(super) fn linker(engine: &Engine, component: &Component, with_wasi: bool) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    v0_1::link(&mut linker)?;
    if with_wasi {
        wasi::link(&mut linker, component)?;
    }
    Ok(linker)
}
