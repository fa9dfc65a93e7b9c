//! The clock of deadlines: advances the engines' epochs once a millisecond, but only while calls are in flight.
//!
//! Invariants: an epoch is a millisecond of the monotonic clock, missed ones are made up for; a call that began while
//! the ticker slept wakes it; the thread ends with the last [`Ticker`]. At each tick it also has the pool looked after.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use wasmtime::Engine;

const TICK: Duration = Duration::from_millis(1);
/// Ticks without a call after which the thread sleeps. Waking it costs a call some microseconds.
const LINGER: u32 = 50;

struct Shared {
    in_flight: AtomicUsize,
    asleep: AtomicBool,
    stop: AtomicBool,
}

pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

/// Keeps the ticker awake while it lives.
pub(super) struct Ticking<'a>(&'a Ticker);

impl Ticker {
    /// `look` is called once a millisecond while calls are in flight, and must not take long.
    pub(super) fn start(engines: Vec<Engine>, look: impl Fn() + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared { in_flight: AtomicUsize::new(0), asleep: AtomicBool::new(false), stop: AtomicBool::new(false) });
        let mine = Arc::clone(&shared);
        let handle = thread::Builder::new().name("plugin-ticker".to_owned()).spawn(move || run(&mine, &engines, &look))?;
        Ok(Self { shared, thread: handle.thread().clone() })
    }

    /// Says that a call begins.
    pub(super) fn enter(&self) -> Ticking<'_> {
        self.shared.in_flight.fetch_add(1, Ordering::SeqCst);
        // Both orders are sequentially consistent: either this sees `asleep`, or the ticker sees the call before it parks.
        if self.shared.asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Ticking(self)
    }
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.shared.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

/// Epochs until a deadline that lies this far ahead: one more than its milliseconds, because the first may be nearly over.
pub(super) fn ticks(ahead: Duration) -> u64 {
    u64::try_from(ahead.as_micros().div_ceil(1000)).unwrap_or(u64::MAX / 2).saturating_add(1)
}

fn run(shared: &Shared, engines: &[Engine], look: &dyn Fn()) {
    let mut next = Instant::now() + TICK;
    let mut idle = 0;
    while !shared.stop.load(Ordering::SeqCst) {
        if idle >= LINGER {
            shared.asleep.store(true, Ordering::SeqCst);
            while shared.in_flight.load(Ordering::SeqCst) == 0 && !shared.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            shared.asleep.store(false, Ordering::SeqCst);
            next = Instant::now() + TICK;
            idle = 0;
        }
        thread::sleep(next.saturating_duration_since(Instant::now()));
        let now = Instant::now();
        while next <= now {
            engines.iter().for_each(Engine::increment_epoch);
            next += TICK;
        }
        look();
        idle = if shared.in_flight.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_cut_short() {
        assert_eq!(ticks(Duration::ZERO), 1);
        assert_eq!(ticks(Duration::from_micros(1)), 2);
        assert_eq!(ticks(Duration::from_millis(50)), 51);
        assert!(ticks(Duration::MAX) > 1 << 60);
    }
}
