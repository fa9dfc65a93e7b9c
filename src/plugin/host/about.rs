//! What is known of a loaded plugin.
//!
//! Called by whoever shows plugins.

use super::super::engine::Kind;
use super::super::v0_1::{Description, PluginKind};
use super::Plugin;
use crate::model::{Grant, Grants, Moment, Wants};

/// What one instance has to begin with, and what its code takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Pages of 64 KiB of its largest memory before a call; with a snapshot, as `configure` left it.
    pub pages: u64,
    /// Elements of its largest table.
    pub elements: u64,
    /// Machine code and the data beside it, in bytes.
    pub compiled: usize,
}

impl Plugin {
    /// Who the component says it is.
    pub fn describe(&self) -> &Description {
        &self.program.loaded.meta.description
    }

    /// What it is, by its exports.
    pub fn kind(&self) -> PluginKind {
        self.program.loaded.exports.kind
    }

    /// The optional moments that it takes part in.
    pub fn moments(&self) -> Vec<Moment> {
        self.program.loaded.exports.moments()
    }

    pub fn takes_part_in(&self, moment: Moment) -> bool {
        self.program.loaded.exports.has(moment)
    }

    /// BLAKE3 of the component, hex.
    pub fn digest(&self) -> &str {
        &self.program.digest
    }

    /// BLAKE3 of the configuration as given, hex.
    pub fn config_digest(&self) -> &str {
        &self.program.config_digest
    }

    /// What the operator granted.
    pub fn grants(&self) -> &Grants {
        &self.program.rights.grants
    }

    /// What it wants, as far as this host knows it.
    pub fn wants(&self) -> &Wants {
        &self.program.rights.wants
    }

    /// Whether its calls may use state: both keys are there, and it imports a capability.
    pub fn keeps_state(&self) -> bool {
        self.program.loaded.capable && self.wants().cover(&Grant::Kv) && self.grants().covers(&Grant::Kv)
    }

    /// Whether calls start from a snapshot; else each call configures anew, and `snapshot_note` says why.
    pub fn snapshotted(&self) -> bool {
        self.program.loaded.meta.snapshotted
    }

    pub fn snapshot_note(&self) -> Option<&str> {
        self.program.loaded.meta.note.as_deref()
    }

    /// The engine that runs it, and why that one.
    pub fn engine(&self) -> (Kind, &str) {
        (self.program.loaded.meta.kind, &self.program.loaded.meta.kind_reason)
    }

    /// Whether it imports WASI (which is inert).
    pub fn imports_wasi(&self) -> bool {
        self.program.loaded.meta.wasi
    }

    /// What an instance takes before it is asked anything.
    pub fn footprint(&self) -> Footprint {
        let component = self.program.loaded.pre.component();
        let needs = component.resources_required();
        let range = component.image_range();
        Footprint {
            pages: needs.as_ref().and_then(|n| n.max_initial_memory_size).unwrap_or(0),
            elements: needs.as_ref().and_then(|n| n.max_initial_table_size).unwrap_or(0),
            compiled: (range.end as usize).saturating_sub(range.start as usize),
        }
    }
}
