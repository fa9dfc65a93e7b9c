//! The two engines, and what they share.
//!
//! Invariants: both engines have the same compile-time settings, so code compiled by one runs in the other and one
//! artefact serves both; both stop guests by epochs, which only the [`Ticker`] advances; neither has threads, shared
//! memory, 64-bit memories, a garbage-collected heap (so no exceptions either) or asynchronous component functions.

use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::error::{Error, Result};
use super::limits::MAX_MEMORY;
use super::ready;
use super::ticker::Ticker;

/// Instances alive at once in the small engine, over all plugins: those made ahead, and those of calls, which the number of threads bounds.
const SLOTS: u32 = 64 + ready::MOST as u32;
/// Table elements of a small guest. Rust and C guests have some dozens.
const SMALL_TABLE: usize = 2_000;
/// Bytes of a slot's memory that stay mapped between calls, and are copied back rather than faulted in.
const KEEP_RESIDENT: usize = 256 << 10;

/// Which engine runs a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The tuned pool: microseconds a call.
    Small,
    /// On demand, for guests with large tables or many core modules (JavaScript, Python): about a millisecond a call.
    Large,
}

/// Both engines with their ticker.
pub(super) struct Engines {
    small: Engine,
    large: Engine,
    pub(super) ticker: Ticker,
    /// Instances made ahead, over all plugins.
    pub(super) spares: ready::Count,
}

impl Engines {
    /// `look` is for the ticker.
    pub(super) fn new(look: impl Fn() + Send + 'static) -> Result<Self> {
        let mut pooled = base();
        pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pool()));
        let engine = |c: &Config| Engine::new(c).map_err(|e| Error::Engine { detail: format!("{e:#}") });
        let (small, large) = (engine(&pooled)?, engine(&base())?);
        let ticker = Ticker::start(vec![small.clone(), large.clone()], look)
            .map_err(|e| Error::Engine { detail: format!("no thread for deadlines: {e}") })?;
        Ok(Self { small, large, ticker, spares: ready::Count::default() })
    }

    pub(super) const fn get(&self, kind: Kind) -> &Engine {
        match kind {
            Kind::Small => &self.small,
            Kind::Large => &self.large,
        }
    }

    /// Digest of everything that compiled code depends on: wasmtime's version, its settings, this machine's CPU.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let mut h = Digest(blake3::Hasher::new());
        env!("CARGO_PKG_VERSION").hash(&mut h);
        self.small.precompile_compatibility_hash().hash(&mut h);
        *h.0.finalize().as_bytes()
    }
}

fn base() -> Config {
    let mut c = Config::new();
    c.epoch_interruption(true)
        .concurrency_support(false)
        .wasm_threads(false)
        .wasm_memory64(false)
        // Their heap is one more memory, which no guest of ours needs.
        .wasm_gc(false)
        .wasm_exceptions(false)
        .wasm_function_references(false)
        .relaxed_simd_deterministic(true)
        // A panic takes some ten of them before the guest's own begin.
        .wasm_backtrace_max_frames(NonZeroUsize::new(32));
    c
}

fn pool() -> PoolingAllocationConfig {
    let mut p = PoolingAllocationConfig::new();
    p.total_component_instances(SLOTS)
        .total_core_instances(SLOTS * 4)
        .total_memories(SLOTS)
        .total_tables(SLOTS * 4)
        // Only `configure` under the snapshot maker runs on a stack of its own.
        .total_stacks(4)
        .max_memories_per_component(1)
        .max_memory_size(MAX_MEMORY)
        .table_elements(SMALL_TABLE)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(64 << 10)
        .async_stack_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto);
    p
}

/// A [`Hasher`] that keeps all of what it was given, for digests that last longer than a process.
struct Digest(blake3::Hasher);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0.finalize().as_bytes()[..8]);
        u64::from_le_bytes(first)
    }
}
