//! The threads that run plugins: a fixed number, one bounded queue, no plugin on all of them.
//!
//! Invariants: at most `capacity` jobs wait; a plugin runs on at most `share` threads at once, so one that loops until
//! its deadline leaves the others a thread; jobs of one plugin run in the order in which they came.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// One call to run. `running` counts the calls of its plugin that run now, and is changed under the queue's lock only.
pub(super) struct Job {
    pub(super) running: Arc<AtomicUsize>,
    pub(super) work: Box<dyn FnOnce() + Send>,
}

pub(super) struct Pool {
    shared: Arc<Shared>,
    capacity: usize,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    share: usize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    stop: bool,
}

impl Pool {
    /// `threads` is at least 2, so that no plugin can hold them all.
    pub(super) fn start(threads: usize, capacity: usize) -> io::Result<Self> {
        let threads = threads.max(2);
        let shared = Arc::new(Shared { queue: Mutex::default(), wake: Condvar::new(), share: threads - 1 });
        let pool = Self { shared, capacity };
        for n in 0..threads {
            let shared = Arc::clone(&pool.shared);
            thread::Builder::new().name(format!("plugin-{n}")).spawn(move || shared.work())?;
        }
        Ok(pool)
    }

    /// Queues the job; false when the queue is full, and then it never runs.
    pub(super) fn submit(&self, job: Job) -> bool {
        let mut queue = self.shared.lock();
        if queue.jobs.len() >= self.capacity {
            return false;
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.shared.wake.notify_one();
        true
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut queue = self.lock();
        while !queue.stop {
            let next = queue.jobs.iter().position(|j| j.running.load(Ordering::Relaxed) < self.share);
            let Some(job) = next.and_then(|i| queue.jobs.remove(i)) else {
                queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            job.running.fetch_add(1, Ordering::Relaxed);
            drop(queue);
            // Whoever waits for the answer sees its sender dropped; the thread goes on with the next job.
            let _ = catch_unwind(AssertUnwindSafe(job.work));
            queue = self.lock();
            // A job that waited for this plugin is found by this very thread, so nobody needs to be woken.
            job.running.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn job(running: &Arc<AtomicUsize>, work: impl FnOnce() + Send + 'static) -> Job {
        Job { running: Arc::clone(running), work: Box::new(work) }
    }

    #[test]
    fn a_plugin_that_holds_its_share_leaves_a_thread_to_others() {
        let pool = Pool::start(2, 8).unwrap();
        let (stuck, free) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (go, wait) = mpsc::channel::<()>();
        let (done, seen) = mpsc::channel();
        pool.submit(job(&stuck, move || wait.recv().unwrap()));
        let second = done.clone();
        pool.submit(job(&stuck, move || second.send("stuck").unwrap()));
        pool.submit(job(&free, move || done.send("free").unwrap()));
        assert_eq!(seen.recv_timeout(Duration::from_secs(10)), Ok("free"));
        go.send(()).unwrap();
        assert_eq!(seen.recv_timeout(Duration::from_secs(10)), Ok("stuck"));
    }

    #[test]
    fn the_queue_is_bounded_and_a_panic_is_survived() {
        let pool = Pool::start(2, 1).unwrap();
        let running = Arc::<AtomicUsize>::default();
        pool.submit(job(&running, || std::panic::resume_unwind(Box::new(()))));
        let (go, wait) = mpsc::channel::<()>();
        let (began, begin) = mpsc::channel();
        // Full only for as long as the panicking job waits.
        while !pool.submit(job(&running, {
            let began = began.clone();
            move || began.send(()).unwrap()
        })) {
            thread::yield_now();
        }
        begin.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(pool.submit(job(&running, move || {
            began.send(()).unwrap();
            let _ = wait.recv();
        })));
        begin.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(pool.submit(job(&running, || {})));
        assert!(!pool.submit(job(&running, || {})));
        drop(go);
    }
}
