//! Inert WASI, for guests whose language runtime imports it unasked.
//!
//! Invariants: no arguments, environment, folders, sockets or names; output goes to the plugin's log and input is
//! closed; the clock stands at the time of the call, so a sleep is over at once; randomness follows from the question.
//! Nothing here can block, so the deadline of the guest bounds the call.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::Engine;
use wasmtime::component::types::{self, ComponentItem};
use wasmtime::component::{Component, HasData, Linker, LinkerInstance, Resource, ResourceTable, ResourceType};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::{self, DynPollable, OutputStream, Pollable, StreamResult, subscribe};
use wasmtime_wasi::{Deterministic, HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView, async_trait};

use super::log::{Level, PluginLog};
use super::state::State;

/// Handles that one call may hold in the host.
const MAX_RESOURCES: usize = 1024;
/// Random bytes before they repeat.
const RANDOM: usize = 4096;
/// Most random bytes that one request gets.
const MAX_RANDOM: u64 = 64 << 10;
/// Bytes of output that are taken at once.
const WRITE: usize = 4096;

/// The WASI of one call.
pub(super) struct Inert {
    ctx: WasiCtx,
    table: ResourceTable,
    now_ms: u64,
}

impl Inert {
    pub(super) fn new(now_ms: u64, seed: &[u8; 32], log: &Arc<PluginLog>) -> Self {
        let mut random = vec![0; RANDOM];
        blake3::Hasher::new_keyed(seed).finalize_xof().fill(&mut random);
        let mut half = [0; 16];
        half.copy_from_slice(&random[..16]);
        let ctx = builder(now_ms)
            .stdout(Output { log: Arc::clone(log), level: Level::Info })
            .stderr(Output { log: Arc::clone(log), level: Level::Warn })
            .secure_random(Deterministic::new(random.clone()))
            .insecure_random(Deterministic::new(random))
            .insecure_random_seed(u128::from_le_bytes(half))
            .build();
        Self { ctx, table: table(), now_ms }
    }

    /// Whether the guest holds something of the host: then its memory is worth nothing without this store.
    pub(super) fn holds_handles(&self) -> bool {
        !self.table.is_empty()
    }

    pub(super) fn view(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.ctx, table: &mut self.table }
    }
}

impl Default for Inert {
    fn default() -> Self {
        Self { ctx: builder(0).build(), table: table(), now_ms: 0 }
    }
}

fn builder(now_ms: u64) -> WasiCtxBuilder {
    let mut b = WasiCtxBuilder::new();
    b.allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(MAX_RANDOM)
        .wall_clock(Still(Duration::from_millis(now_ms)))
        .monotonic_clock(Still(Duration::from_millis(now_ms)));
    b
}

fn table() -> ResourceTable {
    let mut table = ResourceTable::new();
    table.set_max_capacity(MAX_RESOURCES);
    table
}

/// Gives WASI 0.2 without anything behind it; calling what the host does not have at all, such as HTTP, ends the call.
pub(super) fn link(linker: &mut Linker<State>, component: &Component) -> wasmtime::Result<()> {
    p2::add_to_linker_sync(linker)?;
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<State, StillClock>(linker, |s| {
        let now_ms = s.wasi.as_ref().map_or(0, |w| w.now_ms);
        StillClockView { table: s.ctx().table, now_ms }
    })?;
    linker.allow_shadowing(false);
    let engine = linker.engine().clone();
    for (name, import) in component.component_type().imports(&engine) {
        if let ComponentItem::ComponentInstance(instance) = import.ty
            && name.starts_with("wasi:")
            && !PACKAGES.iter().any(|p| name.starts_with(p))
        {
            refuse(&mut linker.instance(name)?, name, &instance, &engine)?;
        }
    }
    Ok(())
}

/// The packages that the host has.
const PACKAGES: [&str; 6] = ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];

/// Defines every function of an interface as one that is refused.
fn refuse(
    linker: &mut LinkerInstance<'_, State>,
    interface: &str,
    instance: &types::ComponentInstance,
    engine: &Engine,
) -> wasmtime::Result<()> {
    for (name, item) in instance.exports(engine) {
        match item.ty {
            ComponentItem::ComponentFunc(_) => {
                let what = format!("access denied: {interface} {name} is not granted to a policy");
                linker.func_new(name, move |_, _, _, _| Err(wasmtime::Error::msg(what.clone())))?;
            }
            ComponentItem::Resource(_) => {
                // Streams and the like are `wasi:io`'s own and have to be the same here; the rest never comes to life.
                let ty = match name {
                    "input-stream" => ResourceType::host::<p2::DynInputStream>(),
                    "output-stream" => ResourceType::host::<p2::DynOutputStream>(),
                    "pollable" => ResourceType::host::<DynPollable>(),
                    "error" | "io-error" => ResourceType::host::<p2::bindings::io::error::Error>(),
                    _ => ResourceType::host::<Refused>(),
                };
                linker.resource(name, ty, |_, _| Ok(()))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// A resource of an interface that is refused.
struct Refused;

/// A clock that stands.
struct Still(Duration);

impl HostWallClock for Still {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        self.0
    }
}

impl HostMonotonicClock for Still {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The monotonic clock's interface over again: the usual one would really wait.
struct StillClock;

impl HasData for StillClock {
    type Data<'a> = StillClockView<'a>;
}

struct StillClockView<'a> {
    table: &'a mut ResourceTable,
    now_ms: u64,
}

struct Ready;

#[async_trait]
impl Pollable for Ready {
    async fn ready(&mut self) {}
}

impl StillClockView<'_> {
    fn ready(&mut self) -> wasmtime::Result<Resource<DynPollable>> {
        let ready = self.table.push(Ready)?;
        subscribe(self.table, ready)
    }
}

impl monotonic_clock::Host for StillClockView<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.now_ms.saturating_mul(1_000_000))
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(1_000_000)
    }

    fn subscribe_instant(&mut self, _when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.ready()
    }

    fn subscribe_duration(&mut self, _duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.ready()
    }
}

/// Standard output or error: lines of the plugin's log.
#[derive(Clone)]
struct Output {
    log: Arc<PluginLog>,
    level: Level,
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only WASI 0.3 asks for this, and the host does not link it.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        for line in bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            self.log.write(self.level, &String::from_utf8_lossy(line));
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE)
    }
}
