//! What one instance may use, and the meter that says no.

use std::time::Duration;

use wasmtime::ResourceLimiter;

pub use super::answer::{MAX_INPUT, MAX_REASON, MAX_RULE};

/// Largest component, in bytes. JavaScript and Python guests have 12 to 19 MB.
pub const MAX_COMPONENT: usize = 32 << 20;
/// Longest configuration, in bytes of JSON.
pub const MAX_CONFIG: usize = 1 << 20;
/// Longest context that a policy adds to a prompt, in bytes.
pub const MAX_CONTEXT: usize = 16 << 10;
/// Longest feedback on an attempt, in bytes.
pub const MAX_WORDS: usize = 16 << 10;
/// Longest flag of a result, in bytes.
pub const MAX_FLAG: usize = 1 << 10;
/// Most labels, and most tightened settings, of one answer.
pub const MAX_LABELS: usize = 32;
/// Longest key of a label, in bytes; a value may have four times as many.
pub const MAX_LABEL: usize = 64;
/// Most edits of a compaction plan.
pub const MAX_EDITS: usize = 10_000;
/// Text that the edits of one plan may have together, in bytes.
pub const MAX_PLAN: usize = 4 << 20;
/// What a guest may hand to the host in one call, in bytes: the longest answer and some room for its frame.
pub(super) const MAX_LIFT: usize = MAX_INPUT + MAX_REASON + MAX_RULE + (64 << 10);
/// Memory that a slot of the pool can have, so also the most that `Limits::memory` can allow in the small engine.
pub(super) const MAX_MEMORY: usize = 64 << 20;
/// Component-model handles of one instance.
pub(super) const MAX_HANDLES: usize = 1024;

/// Limits of one plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of an instance over all its memories, in bytes; at most 64 MiB.
    pub memory: usize,
    /// Table elements of an instance over all its tables.
    pub table_elements: usize,
    /// How long `describe` and `configure` may take, each.
    pub configure: Duration,
    /// How long compiling may take; a cached component is not compiled.
    pub compile: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: MAX_MEMORY, table_elements: 20_000, configure: Duration::from_secs(2), compile: Duration::from_secs(120) }
    }
}

/// Counts what an instance takes, and remembers that it was refused something.
#[derive(Debug)]
pub(super) struct Meter {
    allowed: usize,
    memory: usize,
    table_elements: usize,
    refused: bool,
}

impl Meter {
    pub(super) fn new(limits: &Limits) -> Self {
        let allowed = limits.memory.min(MAX_MEMORY);
        Self { allowed, memory: allowed, table_elements: limits.table_elements, refused: false }
    }

    /// Linear memory that the instance has, over all its memories, in bytes.
    pub(super) const fn used(&self) -> usize {
        self.allowed - self.memory
    }

    /// Whether the guest asked for more than it may have: then whatever went wrong later is a matter of memory.
    pub(super) const fn refused(&self) -> bool {
        self.refused
    }

    fn take(left: &mut usize, refused: &mut bool, current: usize, desired: usize) -> bool {
        match left.checked_sub(desired.saturating_sub(current)) {
            Some(rest) => {
                *left = rest;
                true
            }
            None => {
                *refused = true;
                false
            }
        }
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        Ok(Self::take(&mut self.memory, &mut self.refused, current, desired))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        Ok(Self::take(&mut self.table_elements, &mut self.refused, current, desired))
    }

    fn instances(&self) -> usize {
        128
    }

    fn tables(&self) -> usize {
        128
    }

    fn memories(&self) -> usize {
        16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meter_sums_over_memories_and_remembers_a_refusal() {
        let mut m = Meter::new(&Limits { memory: 100, ..Limits::default() });
        assert!(m.memory_growing(0, 60, None).unwrap());
        assert!(m.memory_growing(0, 40, None).unwrap());
        assert!(!m.refused());
        assert!(!m.memory_growing(40, 41, None).unwrap());
        assert!(m.refused());
    }

    #[test]
    fn memory_is_capped_at_what_a_slot_has() {
        let mut m = Meter::new(&Limits { memory: usize::MAX, ..Limits::default() });
        assert!(!m.memory_growing(0, MAX_MEMORY + 1, None).unwrap());
    }
}
