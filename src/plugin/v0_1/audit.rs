//! Audit sinks: one batch of events, and what became of it.

use wasmtime::Store;
use wasmtime::component::{ComponentExportIndex, Instance};

use super::super::limits::MAX_REASON;
use super::super::state::State;
use super::exported::audit as wit;
use super::{Ask, Exports, at, seed, within};
use crate::model::{Delivery, SinkEvent};

type WriteParams<'a> = (&'a wit::Batch,);

/// Whether the function has the shape of the contract.
pub(super) fn check(index: ComponentExportIndex, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<()> {
    instance.get_typed_func::<WriteParams<'_>, (wit::Outcome,)>(store, index).map(drop)
}

/// Events for a sink.
pub struct Batch {
    batch: wit::Batch,
}

impl Batch {
    /// `attempt` is 1 for the first try of these events.
    pub fn new(events: Vec<SinkEvent>, attempt: u32, at_ms: i64) -> Self {
        let events = events.into_iter().map(|e| wit::Event {
            session: e.session,
            seq: e.seq,
            at_ms: at(e.at),
            attempt: e.attempt,
            kind: e.kind,
            body: e.body,
            hash: e.hash,
            labels: e.labels.into_iter().collect(),
        });
        Self { batch: wit::Batch { events: events.collect(), attempt, at_ms: at(at_ms) } }
    }

    pub fn len(&self) -> usize {
        self.batch.events.len()
    }

    pub fn is_empty(&self) -> bool {
        self.batch.events.is_empty()
    }
}

impl Ask for Batch {
    type Answer = Delivery;

    fn at_ms(&self) -> u64 {
        self.batch.at_ms
    }

    fn seed(&self) -> [u8; 32] {
        let first = self.batch.events.first();
        seed(first.map_or("", |e| &e.session), self.batch.at_ms, "audit")
    }

    fn put(&self, exports: &Exports, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<Result<Delivery, String>> {
        let f = instance.get_typed_func::<WriteParams<'_>, (wit::Outcome,)>(&mut *store, exports.main)?;
        Ok(to_delivery(f.call(store, (&self.batch,))?.0, self.len()))
    }
}

fn to_delivery(o: wit::Outcome, len: usize) -> Result<Delivery, String> {
    match o {
        wit::Outcome::Accepted(n) if n as usize <= len => Ok(Delivery::Accepted { count: n as usize }),
        wit::Outcome::Accepted(n) => Err(format!("{n} events accepted of {len}")),
        wit::Outcome::RetryAfter(ms) => Ok(Delivery::RetryAfter { ms: u64::from(ms) }),
        wit::Outcome::Poison(p) if (p.index as usize) < len => {
            within("a reason", &p.reason, MAX_REASON)?;
            Ok(Delivery::Poison { index: p.index as usize, reason: p.reason })
        }
        wit::Outcome::Poison(p) => Err(format!("poison at place {} of {len} events", p.index)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_about_the_batch_that_was_given() {
        assert_eq!(to_delivery(wit::Outcome::Accepted(2), 2), Ok(Delivery::Accepted { count: 2 }));
        assert!(to_delivery(wit::Outcome::Accepted(3), 2).is_err());
        let poison = |index| wit::Outcome::Poison(wit::Poison { index, reason: "no".to_owned() });
        assert_eq!(to_delivery(poison(1), 2), Ok(Delivery::Poison { index: 1, reason: "no".to_owned() }));
        assert!(to_delivery(poison(2), 2).is_err());
    }
}
