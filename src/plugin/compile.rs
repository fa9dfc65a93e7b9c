//! Bounds the time of a load: compiling cannot be interrupted, so it runs on a thread that is waited for only so long.
//!
//! Invariants: one compilation at a time over the host, given up ones included, so hostile components pile up no threads;
//! machine code is made by threads of low priority, so that the decisions of other sessions do not wait for it.

use std::error::Error as _;
use std::sync::{Arc, Condvar, Mutex, Once, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rayon_core::ThreadPoolBuilder;

use crate::whole::{apart, end, thread_apart};

use super::{call, pool};

static LOW: Once = Once::new();

/// The one place for a compilation.
#[derive(Clone, Default)]
pub(super) struct Compiler(Arc<Place>);

#[derive(Default)]
struct Place {
    taken: Mutex<bool>,
    free: Condvar,
}

/// Holds the place, wherever the work went.
struct Taken(Compiler);

impl Compiler {
    /// Runs the work, or gives `None` when it is not done within the budget. Given up work runs on to its end.
    pub(super) fn run<T: Send + 'static>(&self, budget: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let until = Instant::now() + budget;
        let taken = self.take(until)?;
        LOW.call_once(threads);
        let (done, result) = mpsc::sync_channel(1);
        let run = move || {
            let out = apart(work);
            drop(taken);
            // Nobody waits any more when the budget is over. Who waits for work that panicked sees its sender dropped.
            if let Ok(out) = out {
                let _ = done.send(out);
            }
        };
        thread::Builder::new().name("plugin-compiler".to_owned()).spawn(run).ok()?;
        result.recv_timeout(call::left(until)).ok()
    }

    fn take(&self, until: Instant) -> Option<Taken> {
        let Place { taken, free, .. } = &*self.0;
        let guard = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut guard, _) = free.wait_timeout_while(guard, call::left(until), |t| *t).unwrap_or_else(PoisonError::into_inner);
        if *guard {
            return None;
        }
        *guard = true;
        Some(Taken(self.clone()))
    }
}

/// The threads on which the engine compiles functions side by side, those of the whole process: nothing else here uses them.
/// What a guest runs at load stays on the caller's thread, at full priority, so a busy machine does not make it late.
fn threads() {
    let start = |_| {
        pool::lower(None);
        // A panic is handed to the thread that compiles.
        thread_apart();
    };
    let builder = ThreadPoolBuilder::new().thread_name(|n| format!("plugin-compile-{n}")).start_handler(start);
    // Where they run already that is an error without a source. One with a source is a thread that the system refuses, and nobody gets another
    // try: no plugin could be compiled any more.
    if let Err(e) = builder.build_global()
        && let Some(why) = e.source()
    {
        end(&format!("no threads for compiling plugins: {why}"));
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Place { taken, free, .. } = &*self.0.0;
        *taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        free.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_up_work_keeps_the_place_until_it_ends() {
        let c = Compiler::default();
        let (go, wait) = mpsc::channel::<()>();
        assert_eq!(c.run(Duration::from_millis(5), move || wait.recv().is_ok()), None);
        assert_eq!(c.run(Duration::from_millis(5), || 1), None);
        go.send(()).unwrap();
        assert_eq!(c.run(Duration::from_secs(10), || 2), Some(2));
    }

    #[test]
    fn work_that_panics_frees_the_place() {
        let c = Compiler::default();
        assert_eq!(c.run(Duration::from_secs(10), || -> u8 { std::panic::resume_unwind(Box::new(())) }), None);
        assert_eq!(c.run(Duration::from_secs(10), || 3), Some(3));
    }
}
