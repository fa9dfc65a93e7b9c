//! Audit sinks: the trait.

use crate::{Batch, Description, Outcome};

/// An audit sink: given the events of sessions in order, each at least once.
///
/// `describe` and `configure` are those of a [`Policy`](crate::Policy).
pub trait Sink: Sized {
    /// Who this is. Called before `configure` and independent of it.
    fn describe() -> Description;

    /// Takes the configuration, JSON of at most 1 MiB. Must be a pure function of its bytes.
    fn configure(config: &str) -> Result<Self, String>;

    /// Delivers a batch, and says how far it got. A panic or a missed deadline is a failure that is tried again. An event that was
    /// delivered before may come again: session and seq name it.
    fn write(&self, batch: &Batch) -> Outcome;
}
