//! The threads that run plugins, and what keeps a slow plugin from slowing the others.
//!
//! Two lanes. A call begins on the quick lane, one thread a core. A call that has used more than [`SPEND`] of a core is
//! moved out of the way while it runs: its thread loses priority, another takes its place on the quick lane, and its
//! plugin is slow from then on. Calls of slow plugins run on the slow lane, threads of low priority, each plugin on one of
//! them at most, until [`FORGIVEN`] of them in a row were quick. A call that waits for something outside gives way: another thread takes its
//! place, on either lane.
//!
//! Invariants: at most [`CAPACITY`] jobs wait, of one plugin at most [`WAITING`]; a plugin never runs on all threads of the
//! quick lane; jobs of one plugin start in the order in which they came; the number of threads is bounded, so that
//! instances always find a slot.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};

use crate::whole::apart;

/// Jobs that wait, over all plugins.
const CAPACITY: usize = 8192;
/// Jobs of one plugin that wait: more than sessions that ask at one time.
const WAITING: usize = 2048;
/// How long a job runs before its use of the core is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// What a job may use of a core from then on before it is moved to the slow lane.
const SPEND: Duration = Duration::from_millis(2);
/// Quick calls in a row after which a slow plugin is a quick one again.
const FORGIVEN: u32 = 8;
/// Threads of the quick lane at most, however many cores there are.
const MAX_QUICK: usize = 24;
/// Threads of the slow lane.
const SLOW: usize = 4;
/// Calls that were moved while they ran, at one time. Beyond it such a call keeps its place until its deadline.
const MAX_MOVED: usize = 24;
/// Of these, calls of one plugin that gave way because they wait for something outside.
const MAX_ASIDE: usize = 6;
/// By how much the priority of slow work is lower, as `nice` counts: a third of the weight. More would starve slow but fair
/// plugins, and loads, on a machine that builds something on all its cores.
const LOWER: i32 = 5;

/// What the pool knows of a plugin.
#[derive(Default)]
pub(super) struct Standing(Mutex<State>);

#[derive(Default)]
struct State {
    /// Calls that run, on either lane.
    running: usize,
    waiting: usize,
    /// Calls that gave way; they hold no place.
    aside: usize,
    slow: bool,
    /// Quick calls in a row while it is slow.
    quick: u32,
}

/// One call to run.
pub(super) struct Job {
    pub(super) standing: Arc<Standing>,
    pub(super) work: Box<dyn FnOnce() + Send>,
}

pub(super) struct Pool(Arc<Shared>);

/// What the ticker calls while calls are in flight.
#[derive(Clone)]
pub(super) struct Overseer(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    quick: Condvar,
    slow: Condvar,
    share: usize,
}

#[derive(Default)]
struct Queue {
    quick: VecDeque<Job>,
    slow: VecDeque<Job>,
    /// Jobs on the quick lane now.
    on: Vec<Running>,
    /// Jobs that were moved and still run.
    moved: usize,
    next: u64,
    stop: bool,
}

struct Running {
    job: u64,
    thread: Pid,
    since: Instant,
    /// What the thread had used when this was first looked at.
    used: Option<Duration>,
    standing: Arc<Standing>,
}

impl Standing {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls that run now.
    pub(super) fn running(&self) -> usize {
        self.lock().running
    }

    /// Whether its calls go to the slow lane.
    pub(super) fn is_slow(&self) -> bool {
        self.lock().slow
    }
}

impl Pool {
    /// `threads` is at least 2, so that no plugin can hold the whole quick lane.
    pub(super) fn start(threads: usize) -> io::Result<Self> {
        let threads = threads.clamp(2, MAX_QUICK);
        let pool = Self(Arc::new(Shared { queue: Mutex::default(), quick: Condvar::new(), slow: Condvar::new(), share: threads - 1 }));
        for _ in 0..threads {
            pool.0.spawn_quick()?;
        }
        for _ in 0..SLOW {
            pool.0.spawn_slow()?;
        }
        Ok(pool)
    }

    pub(super) fn overseer(&self) -> Overseer {
        Overseer(Arc::clone(&self.0))
    }

    /// Queues the job; false when there is no room, and then it never runs.
    pub(super) fn submit(&self, job: Job) -> bool {
        let mut queue = self.0.lock();
        let mut of = job.standing.lock();
        if queue.quick.len() + queue.slow.len() >= CAPACITY || of.waiting >= WAITING {
            return false;
        }
        of.waiting += 1;
        let slow = of.slow;
        drop(of);
        let (lane, wake) = if slow { (&mut queue.slow, &self.0.slow) } else { (&mut queue.quick, &self.0.quick) };
        lane.push_back(job);
        drop(queue);
        wake.notify_one();
        true
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.lock().stop = true;
        self.0.quick.notify_all();
        self.0.slow.notify_all();
    }
}

impl Overseer {
    /// Moves calls that use a core for too long out of the way of the others.
    pub(super) fn look(&self) {
        let mut queue = self.0.lock();
        let mut at = 0;
        while at < queue.on.len() {
            let full = queue.moved >= MAX_MOVED;
            let r = &mut queue.on[at];
            if r.since.elapsed() < LOOK {
                at += 1;
                continue;
            }
            let Some(now) = used_by(r.thread) else {
                at += 1;
                continue;
            };
            if now.saturating_sub(*r.used.get_or_insert(now)) < SPEND || full || self.0.spawn_quick().is_err() {
                at += 1;
                continue;
            }
            let r = queue.on.swap_remove(at);
            lower(Some(r.thread));
            queue.moved += 1;
            let mut of = r.standing.lock();
            (of.slow, of.quick) = (true, 0);
            drop(of);
            // Its other calls go after it.
            let (theirs, others) = std::mem::take(&mut queue.quick).into_iter().partition(|j| Arc::ptr_eq(&j.standing, &r.standing));
            queue.quick = others;
            queue.slow.extend::<VecDeque<Job>>(theirs);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn_quick(self: &Arc<Self>) -> io::Result<()> {
        let shared = Arc::clone(self);
        thread::Builder::new().name("plugin-quick".to_owned()).spawn(move || shared.work_quick()).map(drop)
    }

    fn spawn_slow(self: &Arc<Self>) -> io::Result<()> {
        let shared = Arc::clone(self);
        thread::Builder::new().name("plugin-slow".to_owned()).spawn(move || shared.work_slow()).map(drop)
    }

    /// Runs a job; whether it gave way meanwhile.
    fn run(self: &Arc<Self>, job: Job, number: Option<u64>) -> bool {
        let place = Place { shared: Arc::clone(self), standing: job.standing, job: number, aside: false };
        PLACE.set(Some(place));
        // Whoever waits for the answer sees its sender dropped; the thread goes on with the next job.
        let _ = apart(job.work);
        let Some(place) = PLACE.take().filter(|p| p.aside) else { return false };
        let mut queue = self.lock();
        place.standing.lock().aside -= 1;
        queue.moved -= 1;
        true
    }

    /// One thread of the quick lane; it ends with the first job that was moved, because priority never comes back.
    fn work_quick(self: &Arc<Self>) {
        let thread = rustix::thread::gettid();
        let mut queue = self.lock();
        while !queue.stop {
            let Some(job) = take(&mut queue.quick, self.share) else {
                queue = self.quick.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let number = queue.next;
            queue.next += 1;
            let standing = Arc::clone(&job.standing);
            queue.on.push(Running { job: number, thread, since: Instant::now(), used: None, standing: Arc::clone(&standing) });
            drop(queue);
            if self.run(job, Some(number)) {
                return;
            }
            queue = self.lock();
            standing.lock().running -= 1;
            let Some(at) = queue.on.iter().position(|r| r.job == number) else {
                queue.moved -= 1;
                // Calls of its plugin may wait for its end.
                self.slow.notify_one();
                return;
            };
            // A job that waited for this plugin is found by this very thread, so nobody needs to be woken.
            queue.on.swap_remove(at);
        }
    }

    fn work_slow(self: &Arc<Self>) {
        lower(None);
        let mut queue = self.lock();
        while !queue.stop {
            let Some(job) = take(&mut queue.slow, 1) else {
                queue = self.slow.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(queue);
            let standing = Arc::clone(&job.standing);
            let before = used();
            if self.run(job, None) {
                return;
            }
            let quick = used().saturating_sub(before) < SPEND;
            queue = self.lock();
            let mut of = standing.lock();
            of.running -= 1;
            of.quick = if quick { of.quick + 1 } else { 0 };
            // Not while calls of it wait here: they would be overtaken.
            if of.quick >= FORGIVEN && of.waiting == 0 {
                of.slow = false;
            }
        }
    }
}

thread_local! {
    static PLACE: RefCell<Option<Place>> = const { RefCell::new(None) };
}

/// The job that this thread runs.
struct Place {
    shared: Arc<Shared>,
    standing: Arc<Standing>,
    /// Its number on the quick lane; none on the slow one.
    job: Option<u64>,
    /// It gave way: its thread ends with it.
    aside: bool,
}

/// The call on this thread is about to wait for something outside: another thread takes its place, and its plugin may run elsewhere
/// meanwhile. False when too many wait already; then it must not wait.
pub(super) fn give_way() -> bool {
    PLACE.with_borrow_mut(|place| {
        // Outside the pool nobody else wants the thread.
        let Some(p) = place.as_mut().filter(|p| !p.aside) else { return true };
        let mut queue = p.shared.lock();
        let at = match p.job {
            Some(job) => match queue.on.iter().position(|r| r.job == job) {
                Some(at) => Some(at),
                // It used too much of a core before and is out of the way.
                None => return true,
            },
            None => None,
        };
        let mut of = p.standing.lock();
        if queue.moved >= MAX_MOVED || of.aside >= MAX_ASIDE {
            return false;
        }
        let spawned = if at.is_some() { p.shared.spawn_quick() } else { p.shared.spawn_slow() };
        if spawned.is_err() {
            return false;
        }
        if let Some(at) = at {
            queue.on.swap_remove(at);
            // why: nobody looks at its use of the core from here on.
            lower(None);
        }
        queue.moved += 1;
        of.aside += 1;
        of.running -= 1;
        p.aside = true;
        true
    })
}

/// The first job whose plugin runs on fewer than `share` threads.
fn take(lane: &mut VecDeque<Job>, share: usize) -> Option<Job> {
    let next = lane.iter().position(|j| j.standing.lock().running < share)?;
    let job = lane.remove(next)?;
    let mut of = job.standing.lock();
    of.running += 1;
    of.waiting -= 1;
    drop(of);
    Some(job)
}

/// Lowers the priority of a thread of ours, or of this one. Where that is refused, it keeps what it has.
pub(super) fn lower(thread: Option<Pid>) {
    if let Ok(now) = rustix::process::getpriority_process(thread) {
        let _ = rustix::process::setpriority_process(thread, (now + LOWER).min(19));
    }
}

/// CPU time of this thread.
fn used() -> Duration {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

/// CPU time of another thread of ours.
fn used_by(thread: Pid) -> Option<Duration> {
    // The kernel's MAKE_THREAD_CPUCLOCK(thread, CPUCLOCK_SCHED).
    let clock = (!thread.as_raw_nonzero().get() << 3) | 6;
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to `t` only; a clock that does not exist is an error.
    if unsafe { libc::clock_gettime(clock, &mut t) } != 0 {
        return None;
    }
    Some(Duration::new(u64::try_from(t.tv_sec).ok()?, u32::try_from(t.tv_nsec).ok()?))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn job(standing: &Arc<Standing>, work: impl FnOnce() + Send + 'static) -> Job {
        Job { standing: Arc::clone(standing), work: Box::new(work) }
    }

    /// Calls of it that wait, and that run.
    fn counts(of: &Standing) -> (usize, usize) {
        let of = of.lock();
        (of.waiting, of.running)
    }

    /// Looks as often as the ticker does, until `done`.
    fn look_until(pool: &Pool, done: impl Fn() -> bool) {
        let end = Instant::now() + LONG;
        while !done() {
            assert!(Instant::now() < end, "gave up");
            pool.overseer().look();
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Uses a core until it is told to stop.
    fn spin(stop: &Arc<AtomicBool>) -> impl FnOnce() + Send + 'static {
        let stop = Arc::clone(stop);
        move || while !stop.load(Ordering::Relaxed) {}
    }

    #[test]
    fn a_plugin_that_holds_its_share_leaves_a_thread_to_others() {
        let pool = Pool::start(2).unwrap();
        let (stuck, free) = (Arc::<Standing>::default(), Arc::<Standing>::default());
        let (go, wait) = mpsc::channel::<()>();
        let (done, seen) = mpsc::channel();
        pool.submit(job(&stuck, move || wait.recv().unwrap()));
        let second = done.clone();
        pool.submit(job(&stuck, move || second.send("stuck").unwrap()));
        pool.submit(job(&free, move || done.send("free").unwrap()));
        assert_eq!(seen.recv_timeout(LONG), Ok("free"));
        go.send(()).unwrap();
        assert_eq!(seen.recv_timeout(LONG), Ok("stuck"));
    }

    #[test]
    fn calls_that_spin_are_moved_and_the_quick_lane_stays_whole() {
        let pool = Pool::start(2).unwrap();
        let stop = Arc::<AtomicBool>::default();
        let spinning: Vec<Arc<Standing>> = (0..4).map(|_| Arc::default()).collect();
        // More plugins than there are threads; and a second call of each.
        spinning.iter().for_each(|s| assert!(pool.submit(job(s, spin(&stop)))));
        look_until(&pool, || spinning.iter().all(|s| s.is_slow() && s.running() == 1));
        spinning.iter().for_each(|s| assert!(pool.submit(job(s, || {}))));
        let (done, seen) = mpsc::channel();
        let good = Arc::<Standing>::default();
        for _ in 0..50 {
            let done = done.clone();
            pool.submit(job(&good, move || done.send(()).unwrap()));
            seen.recv_timeout(LONG).unwrap();
        }
        assert!(!good.is_slow());
        // The second calls waited: one core at most for each.
        assert!(spinning.iter().all(|s| counts(s) == (1, 1)));
        stop.store(true, Ordering::Relaxed);
        look_until(&pool, || spinning.iter().all(|s| counts(s) == (0, 0)));
        assert_eq!(pool.0.lock().moved, 0);
    }

    #[test]
    fn who_waits_is_not_moved_and_who_is_quick_again_is_forgiven() {
        let pool = Pool::start(2).unwrap();
        let plugin = Arc::<Standing>::default();
        let (go, wait) = mpsc::channel::<()>();
        pool.submit(job(&plugin, move || wait.recv().unwrap()));
        let begun = Instant::now();
        look_until(&pool, || begun.elapsed() > LOOK * 10);
        assert!(!plugin.is_slow(), "a machine under load is not the plugin's doing");
        go.send(()).unwrap();
        let stop = Arc::<AtomicBool>::default();
        pool.submit(job(&plugin, spin(&stop)));
        look_until(&pool, || plugin.is_slow());
        stop.store(true, Ordering::Relaxed);
        let (done, seen) = mpsc::channel();
        for n in 1..=FORGIVEN {
            let done = done.clone();
            pool.submit(job(&plugin, move || done.send(()).unwrap()));
            seen.recv_timeout(LONG).unwrap();
            look_until(&pool, || plugin.running() == 0);
            assert_eq!(plugin.is_slow(), n < FORGIVEN, "{n}");
        }
    }

    #[test]
    fn who_waits_outside_gives_way_on_either_lane() {
        let pool = Pool::start(2).unwrap();
        for slow in [false, true] {
            let (outside, other) = (Arc::<Standing>::default(), Arc::<Standing>::default());
            outside.lock().slow = slow;
            let (told, gave) = mpsc::channel();
            let mut go = Vec::new();
            // One more than may wait outside, though its share of either lane is one.
            for _ in 0..=MAX_ASIDE {
                let (end, wait) = mpsc::channel::<()>();
                go.push(end);
                let told = told.clone();
                pool.submit(job(&outside, move || {
                    let gave = give_way() && give_way();
                    told.send(gave).unwrap();
                    if gave {
                        let _ = wait.recv();
                    }
                }));
            }
            let gave: Vec<bool> = (0..=MAX_ASIDE).map(|_| gave.recv_timeout(LONG).unwrap()).collect();
            assert_eq!(gave.iter().filter(|g| **g).count(), MAX_ASIDE);
            let (done, seen) = mpsc::channel();
            for standing in [&other, &outside] {
                let done = done.clone();
                pool.submit(job(standing, move || done.send(()).unwrap()));
                seen.recv_timeout(LONG).unwrap();
            }
            drop(go);
            look_until(&pool, || counts(&outside) == (0, 0) && outside.lock().aside == 0 && pool.0.lock().moved == 0);
        }
        assert!(give_way(), "outside the pool");
    }

    #[test]
    fn no_plugin_fills_the_queue_and_a_panic_is_survived() {
        let pool = Pool::start(2).unwrap();
        let (full, other) = (Arc::<Standing>::default(), Arc::<Standing>::default());
        pool.submit(job(&full, || std::panic::resume_unwind(Box::new(()))));
        let (go, wait) = mpsc::channel::<()>();
        let (began, begin) = mpsc::channel();
        pool.submit(job(&full, move || {
            began.send(()).unwrap();
            let _ = wait.recv();
        }));
        begin.recv_timeout(LONG).unwrap();
        for _ in 0..WAITING {
            assert!(pool.submit(job(&full, || {})));
        }
        assert!(!pool.submit(job(&full, || {})), "one plugin has its own bound");
        assert!(pool.submit(job(&other, || {})), "and the others still find room");
        drop(go);
        look_until(&pool, || counts(&full) == (0, 0));
    }
}
