//! Followers of events over all sessions: the newest events are read once and shared, whoever is behind reads for itself.
//!
//! | follower | reads | holds |
//! | --- | --- | --- |
//! | at the end | the shared tail: one read of the store for all of them | at most [`QUEUE`] events, shared with the others |
//! | behind it | the store, a portion at a time | at most [`QUEUE`] events, and [`QUEUE_BYTES`] of bodies (one event excepted) |
//! | farther behind than it wants to be | nothing: it is told what it missed, and goes on at the end | nothing |
//!
//! Invariants: a place is the number of an event's row, which only grows and outlives the daemon, so it is the token to go on from; what a
//! follower is not given is told to it by number; the shared tail holds at most [`TAIL`] events and [`TAIL_BYTES`] of bodies.
//!
//! Called by `events`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::store::{Error, Store, StoredEvent};

/// Events that one follower holds.
pub const QUEUE: usize = 64;
/// Bytes of bodies that one follower holds for itself.
pub const QUEUE_BYTES: usize = 1 << 20;
/// Events of the shared tail, and bytes of their bodies.
const TAIL: usize = 1_024;
const TAIL_BYTES: usize = 8 << 20;

/// An event with its place.
pub type Placed = (u64, Arc<StoredEvent>);

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Placed>,
    bytes: usize,
    /// All that came behind this place are in the ring, up to `to`.
    from: u64,
    to: u64,
}

/// The newest events, shared.
#[derive(Debug, Default)]
pub struct Tail(Mutex<Ring>);

impl Tail {
    /// Events behind a place, in order, at most [`QUEUE`]. Blocks for one read of the store at most.
    pub fn after(&self, store: &Store, place: u64) -> Result<Vec<Placed>, Error> {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.to == 0 || place > ring.to {
            // Nobody read on for a while: the tail begins where this follower stands.
            *ring = Ring { from: place, to: place, ..Ring::default() };
        }
        if place < ring.from {
            drop(ring);
            return own(store, place);
        }
        if place >= ring.to {
            let read = store.events_after_row(ring.to, QUEUE)?;
            for (row, e) in read {
                ring.bytes += e.body.len();
                ring.to = row;
                ring.events.push_back((row, Arc::new(e)));
            }
            while ring.events.len() > TAIL || (ring.bytes > TAIL_BYTES && ring.events.len() > 1) {
                let Some((row, e)) = ring.events.pop_front() else { break };
                ring.bytes -= e.body.len();
                ring.from = row;
            }
        }
        let first = ring.events.partition_point(|(row, _)| *row <= place);
        Ok(ring.events.iter().skip(first).take(QUEUE).cloned().collect())
    }
}

fn own(store: &Store, place: u64) -> Result<Vec<Placed>, Error> {
    let mut bytes = 0;
    let read = store.events_after_row(place, QUEUE)?.into_iter().enumerate();
    let fits = read.take_while(|(i, (_, e))| {
        bytes += e.body.len();
        *i == 0 || bytes <= QUEUE_BYTES
    });
    Ok(fits.map(|(_, (row, e))| (row, Arc::new(e))).collect())
}
