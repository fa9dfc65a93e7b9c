//! One call: a fresh store and instance, the question, the answer, and what went wrong.
//!
//! Invariants: a store serves one call; a failure has exactly one cause, and the narrowest that is true:
//! a guest that was refused memory failed for memory, whatever it did then.

use std::time::{Duration, Instant};

use wasmtime::component::{Instance, InstancePre};
use wasmtime::{PoolConcurrencyLimitError, Store, Trap};

use crate::model::FailureCause;

use super::capability::Uses;
use super::engine::Engines;
use super::state::State;
use super::v0_1::{Ask, Exports};

/// Longest detail of a failure, in bytes.
const MAX_DETAIL: usize = 1 << 10;

/// Most frames of a failure, and the longest name of one in bytes.
pub const MAX_FRAMES: usize = 16;
const MAX_FRAME: usize = 256;

/// Why a plugin gave no usable answer, with the engine's own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", .cause.as_str())]
pub struct CallFailure {
    pub cause: FailureCause,
    pub detail: String,
    /// Functions of the guest that were running, the innermost first, where it kept its names; at most [`MAX_FRAMES`].
    pub frames: Vec<String>,
}

impl CallFailure {
    pub(super) fn new(cause: FailureCause, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        detail.truncate(detail.floor_char_boundary(MAX_DETAIL));
        Self { cause, detail, frames: Vec::new() }
    }

    /// Whether it is the plugin's doing; only such failures lead to quarantine.
    pub const fn is_plugins_own(&self) -> bool {
        match self.cause {
            FailureCause::Trap | FailureCause::Deadline | FailureCause::Memory | FailureCause::BadAnswer => true,
            FailureCause::Load | FailureCause::Quarantined | FailureCause::Busy => false,
        }
    }
}

/// Where the instance of a call comes from.
pub(super) enum From<'a> {
    /// Made ahead from a snapshot, so it is configured.
    Ready(Instance),
    /// To be made; `config` is given first where there is no snapshot that holds it.
    New { pre: &'a InstancePre<State>, config: Option<&'a str> },
}

/// Puts the question to an instance that no call has used. The store is the caller's to throw away.
pub(super) fn put<Q: Ask>(
    engines: &Engines,
    store: &mut Store<State>,
    from: From<'_>,
    exports: &Exports,
    question: &Q,
    uses: Option<Uses>,
) -> Result<Q::Answer, CallFailure> {
    let _ticking = engines.ticker.enter();
    let asked = ask(store, from, exports, question, uses);
    // why here: what it staged is lost with a failure, and nobody waits for the instance to be thrown away.
    let uses = store.data_mut().uses.take();
    if matches!(asked, Ok(Ok(_)))
        && let Some(uses) = uses
    {
        uses.keep();
    }
    match asked {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(detail)) => Err(CallFailure::new(FailureCause::BadAnswer, detail)),
        Err(e) => Err(failure(store, &e)),
    }
}

fn ask<Q: Ask>(
    store: &mut Store<State>,
    from: From<'_>,
    exports: &Exports,
    question: &Q,
    uses: Option<Uses>,
) -> wasmtime::Result<Result<Q::Answer, String>> {
    let (instance, config) = match from {
        From::Ready(instance) => (instance, None),
        From::New { pre, config } => (pre.instantiate(&mut *store)?, config),
    };
    if let Some(config) = config
        && let Err(reason) = exports.configure(store, &instance, config)?
    {
        return Ok(Err(format!("`configure` accepted its configuration at load and refuses it now: {reason}")));
    }
    question.prepare(store);
    // why only now: `configure` runs without grants.
    store.data_mut().uses = uses.map(Box::new);
    question.put(exports, store, &instance)
}

/// Runs one of the functions of loading in a fresh instance, under the ticker.
pub(super) fn once<T>(
    engines: &Engines,
    store: &mut Store<State>,
    pre: &InstancePre<State>,
    f: impl FnOnce(&mut Store<State>, &Instance) -> wasmtime::Result<T>,
) -> Result<T, CallFailure> {
    let _ticking = engines.ticker.enter();
    let done = pre.instantiate(&mut *store).and_then(|instance| f(store, &instance));
    done.map_err(|e| failure(store, &e))
}

fn failure(store: &Store<State>, e: &wasmtime::Error) -> CallFailure {
    let cause = if e.is::<PoolConcurrencyLimitError>() {
        FailureCause::Busy
    } else if store.data().meter.refused() {
        FailureCause::Memory
    } else {
        match e.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => FailureCause::Deadline,
            Some(_) => FailureCause::Trap,
            // A host function that refuses, or a guest that exits, ends the call as a trap does; what is left is an
            // answer that does not decode.
            None if from_guest_code(e) => FailureCause::Trap,
            None => FailureCause::BadAnswer,
        }
    };
    let detail = match &store.data().panic {
        Some(why) if cause == FailureCause::Trap => format!("{why} ({})", e.root_cause()),
        _ => e.root_cause().to_string(),
    };
    CallFailure { frames: frames(e), ..CallFailure::new(cause, detail) }
}

/// What was running, by names, without the machinery of a panic on top.
fn frames(e: &wasmtime::Error) -> Vec<String> {
    let Some(trace) = e.downcast_ref::<wasmtime::WasmBacktrace>() else { return Vec::new() };
    let name = |f: &wasmtime::FrameInfo| match f.func_name() {
        Some(name) => {
            let mut name = format!("{:#}", rustc_demangle::demangle(name));
            name.truncate(name.floor_char_boundary(MAX_FRAME));
            name
        }
        None => format!("function {}", f.func_index()),
    };
    let all: Vec<String> = trace.frames().iter().map(name).collect();
    let machinery = |n: &&String| PANIC.iter().any(|p| n.starts_with(p));
    let own = all.iter().take_while(machinery).count();
    let from = if own == all.len() { 0 } else { own };
    all.into_iter().skip(from).take(MAX_FRAMES).collect()
}

/// Where names of functions begin that only pass a panic on, or are the standard library's.
const PANIC: [&str; 5] = ["core::", "std::", "alloc::", "__rust", "rust_"];

/// Whether the guest's code was running: only then is there a backtrace of it.
fn from_guest_code(e: &wasmtime::Error) -> bool {
    e.is::<wasmtime_wasi::I32Exit>() || e.downcast_ref::<wasmtime::WasmBacktrace>().is_some()
}

/// How long a call may still take; zero when its time is over.
pub(super) fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}
