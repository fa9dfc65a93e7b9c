//! Instances made ahead: a call takes one that is ready, and the next is made after the answer has gone out.
//!
//! Invariants: an instance serves one call and is then thrown away, made ahead or not; only components with a snapshot are
//! made ahead, so that no code of the guest runs before its call; over all plugins at most [`MOST`] are kept.
//!
//! Why: making an instance and throwing one away take longer than the call itself, and nobody has to wait for either.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use wasmtime::Store;
use wasmtime::component::Instance;

use super::state::State;

/// Instances kept over all plugins. Each holds a slot of the pool, and some 30 KB of memory.
pub(super) const MOST: usize = 48;

/// Counts what is kept over all plugins.
#[derive(Clone, Default)]
pub(super) struct Count(Arc<AtomicUsize>);

/// An instance that no call has used.
pub(super) struct Spare {
    pub(super) store: Store<State>,
    pub(super) instance: Instance,
}

/// The spare instances of one plugin.
pub(super) struct Ready {
    count: Count,
    most: usize,
    spares: Mutex<Vec<Spare>>,
}

impl Ready {
    /// `most` is how many calls of the plugin can run at once.
    pub(super) fn new(count: Count, most: usize) -> Self {
        Self { count, most, spares: Mutex::default() }
    }

    pub(super) fn take(&self) -> Option<Spare> {
        let spare = self.spares.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        self.count.0.fetch_sub(1, Ordering::Relaxed);
        Some(spare)
    }

    /// Makes one more where there is room. One that cannot be made is made, or fails, in the call that needs it.
    pub(super) fn fill(&self, make: impl FnOnce() -> wasmtime::Result<Spare>) {
        if self.spares.lock().unwrap_or_else(PoisonError::into_inner).len() >= self.most {
            return;
        }
        if self.count.0.fetch_add(1, Ordering::Relaxed) >= MOST {
            self.count.0.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        match make() {
            Ok(spare) => self.spares.lock().unwrap_or_else(PoisonError::into_inner).push(spare),
            Err(_) => {
                self.count.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        let spares = self.spares.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.count.0.fetch_sub(spares.len(), Ordering::Relaxed);
    }
}
