//! OpenTelemetry: what the stored log means as spans and metrics, by the GenAI semantic conventions. Pure, but for a log to look things up in.
//!
//! Invariants:
//! - everything follows from the log: the same event gives the same span, byte for byte, however often it is sent and after whatever
//!   crash. Ids are BLAKE3 of session, attempt and call ([`ids`]), times are those of events;
//! - no state between events but the sums of metrics: what a span needs of its beginning is looked up in the log when its end comes, so a
//!   session may last for months and outlive any number of daemons;
//! - one trace a session; a child session has its own, with a link to its parent's root;
//! - words of prompts, inputs, outputs and reasons are exported only where the operator says `content = true`, as they are stored (masked),
//!   and cut to [`CONTENT_MAX`] bytes;
//! - metrics are cumulative, with one start time for the life of a sink: their sums are stored in the transaction that moves the sink's
//!   cursor, so each event counts exactly once although it may be sent twice. (A delta of what each batch held would count a redelivered
//!   batch again, and sums from the daemon's own `/metrics` begin anew with each daemon.)
//!
//! A span is sent when it ends: an attempt's with `attempt_ended`, a session's with `session_ended`. A call's goes with its result, or,
//! where none ever came, with the end of its session.
//!
//! Called by `sink`, which delivers them with a cursor, retries and dead letters of its own.

pub mod conventions;
pub mod ids;
pub mod message;
mod numbers;
mod parts;
mod tell;

pub use numbers::{Point, SERIES_MAX, Series};
pub use parts::{ATTRIBUTE_MAX, CONTENT_MAX, resource, scope};
pub use tell::{KINDS, Log, Past, Told, Trouble, UNFINISHED_MAX, tell};
