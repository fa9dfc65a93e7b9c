//! Makes a component that is configured already: runs `configure` once and writes the memory back into the component.
//!
//! Called by `load`, after the same configuration was accepted in an ordinary instance. What cannot be snapshotted is
//! no error: the plugin then is configured anew for every call.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use wasmtime::component::{Component, Val};
use wasmtime::{Engine, Store};
use wasmtime_wizer::Wizer;

use crate::whole::apart;

use super::engine::Engines;
use super::limits::{Limits, MAX_MEMORY};
use super::log::PluginLog;
use super::state::{self, State};
use super::ticker;
use super::wasi::Inert;

/// Components over this size are not snapshotted: making it takes as long as compiling them twice, and they are the
/// guests of languages whose runtime is a snapshot already.
const MAX_SNAPSHOT: usize = 8 << 20;

/// The configured component, or why there is none.
pub(super) fn take(
    engines: &Engines,
    engine: &Engine,
    wasm: &[u8],
    config: &str,
    limits: &Limits,
    inert: Option<Inert>,
    log: &Arc<PluginLog>,
) -> Result<Vec<u8>, String> {
    if wasm.len() > MAX_SNAPSHOT {
        return Err(format!("the component has {} bytes, and only up to {MAX_SNAPSHOT} are snapshotted", wasm.len()));
    }
    let with_wasi = inert.is_some();
    // Reading the state out follows the run and is not the guest's doing, so it gets time of its own.
    let mut store = state::store(engine, state::state(limits, log, inert), limits.configure * 4);
    // And it hands over the whole memory at once.
    store.set_hostcall_fuel(MAX_MEMORY * 2);
    let _ticking = engines.ticker.enter();
    let mut wizer = Wizer::new();
    wizer.init_func(format!("configure({})", wave_string(config))).keep_init_func(true);
    let run = wizer.run_component(&mut store, wasm, async |s: &mut Store<State>, c: &Component| {
        // The component was compiled in between, which is the host's time: on a busy machine seconds for a large one.
        s.set_epoch_deadline(ticker::ticks(limits.configure * 4));
        state::linker(s.engine(), c, with_wasi)?.instantiate_async(s, c).await
    });
    // The snapshot maker panics on state that it cannot read out; that is a plugin without a snapshot, not a bug here.
    match apart(|| finish(run)) {
        Err(_) => Err("its state cannot be read out".to_owned()),
        Ok(Err(e)) => Err(format!("{:#}", e.root_cause())),
        Ok(Ok((bytes, returned))) => match returned.as_slice() {
            [Val::Result(Ok(_))] => Ok(bytes),
            _ => Err("`configure` did not accept the same configuration twice".to_owned()),
        },
    }
}

/// Runs a future that never waits for anything outside: no guest code here awaits.
fn finish<T>(f: impl Future<Output = T>) -> T {
    let mut f = pin!(f);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        match f.as_mut().poll(&mut cx) {
            Poll::Ready(out) => return out,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

/// A string literal of the WAVE notation.
fn wave_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{{{:x}}}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wasmtime::component::wasm_wave;

    use super::*;

    proptest! {
        #[test]
        fn every_text_survives_the_notation(text in any::<String>()) {
            let back: String = wasm_wave::from_str::<wasm_wave::value::Value>(&wasm_wave::value::Type::STRING, &wave_string(&text))
                .map(|v| wasm_wave::wasm::WasmValue::unwrap_string(&v).into_owned()).unwrap();
            prop_assert_eq!(back, text);
        }
    }
}
