//! What a session's policies keep between calls: read when a chain first needs it, recorded in the append that holds their answers.
//!
//! Invariants: what is in force is what the log will have (a masked secret is masked for the policy too); state that cannot be read fails
//! its use, never the judgement of policies that keep none.
//!
//! Called by `gate`, `run`, `park` and `start`.

use std::sync::Arc;

use super::mask;
use super::run::Runner;
use crate::model::{Event, PluginStates};
use crate::plugin::States;

/// The state of a session that has no log yet.
pub(super) fn of_new_session() -> Arc<States> {
    States::new(PluginStates::default())
}

/// The changes that are not on record yet, as the log may hold them.
pub(super) fn changes(states: &States) -> Vec<Event> {
    let mut out = Vec::new();
    for change in states.take_changes() {
        let event = mask::event(change.clone().into());
        if let Event::PluginStateChanged(masked) = &event
            && *masked != change
        {
            states.correct(masked);
        }
        out.push(event);
    }
    out
}

impl Runner {
    /// Blocks for one read of the store, the first time that a policy keeps state.
    pub(super) fn states(&self) -> &Arc<States> {
        self.states.get_or_init(|| match self.inner.store.plugin_states(&self.id) {
            Ok(states) => States::new(states),
            Err(e) => States::unreadable(format!("the state cannot be read: {e} [{}]", e.code())),
        })
    }

    /// What goes into the append that is about to be made.
    pub(super) fn state_changes(&self) -> Vec<Event> {
        self.states.get().map(|s| changes(s)).unwrap_or_default()
    }
}
