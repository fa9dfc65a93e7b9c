//! A daemon lives whole or dies whole: a panic in any of its threads or tasks ends the process, but for what stands apart.
//!
//! why: what a lost task was to do nobody does, and its session looks alive and never answers. A daemon that is gone costs little: agents
//! wait at their questions, and the next one adopts them all. A thread that the system refuses is a panic of the runtime, so it comes here
//! as well; refused memory ends the process by itself.
//!
//! Invariants:
//! - what stands apart is foreign (the bytes of an agent, a plugin's component, a request) and gives its caller an error, so nobody waits
//!   for it, and nobody can end the daemon by sending it;
//! - a panic is said on standard error, where the daemon's log is, before the process ends.
//!
//! Called by `daemon` ([`guard`]), and by `api`, `plugin`, `session` and `shell` (what stands apart).

use std::any::Any;
use std::cell::Cell;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

thread_local! {
    /// How many frames of this thread stand apart.
    static APART: Cell<u32> = const { Cell::new(0) };
}

/// From now on the process ends at a panic that is not apart.
pub fn guard() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        if APART.get() == 0 {
            std::process::abort();
        }
    }));
}

/// Runs `f`; a panic in it is an error with what it said.
pub fn apart<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    APART.set(APART.get() + 1);
    let done = catch_unwind(AssertUnwindSafe(f));
    APART.set(APART.get() - 1);
    done.map_err(|said| words(&*said))
}

/// The same for a future.
pub async fn apart_task<T>(f: impl Future<Output = T>) -> Result<T, String> {
    let mut f = pin!(f);
    std::future::poll_fn(move |cx| match apart(|| f.as_mut().poll(cx)) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
        Err(why) => Poll::Ready(Err(why)),
    })
    .await
}

/// All that this thread runs stands apart: its panics are handed to who gave it the work.
pub fn thread_apart() {
    APART.set(APART.get() + 1);
}

/// Ends the process, for what cannot be mended in it.
pub fn end(why: &str) -> ! {
    // why ignore: with nobody reading, the end still says it.
    let _ = writeln!(std::io::stderr(), "{why}; this process ends, the next one begins anew");
    std::process::abort()
}

fn words(said: &(dyn Any + Send)) -> String {
    let text = said.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| said.downcast_ref::<String>().cloned());
    text.map_or_else(|| "a panic".to_owned(), |t| t.chars().take(512).collect())
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn what_stands_apart_gives_an_error_with_its_words() {
        assert_eq!(apart(|| 1), Ok(1));
        let said = apart(|| -> u8 { std::panic::resume_unwind(Box::new("no room".to_owned())) });
        assert_eq!(said, Err("no room".to_owned()));
        assert_eq!(apart(|| apart(|| -> u8 { std::panic::resume_unwind(Box::new(())) })), Ok(Err("a panic".to_owned())));
        assert_eq!(APART.get(), 0);
    }

    #[test]
    fn a_future_that_stands_apart_does_so_at_each_step() {
        let steps = async |panics: bool| {
            let mut begun = false;
            std::future::poll_fn(|_| if std::mem::replace(&mut begun, true) { Poll::Ready(()) } else { Poll::Pending }).await;
            assert_eq!(APART.get(), 1);
            if panics {
                std::panic::resume_unwind(Box::new("at the second step"));
            }
            7
        };
        let mut cx = Context::from_waker(Waker::noop());
        for (panics, want) in [(false, Ok(7)), (true, Err("at the second step".to_owned()))] {
            let mut f = pin!(apart_task(steps(panics)));
            assert_eq!(f.as_mut().poll(&mut cx), Poll::Pending);
            assert_eq!(APART.get(), 0, "what runs beside it does not stand apart");
            assert_eq!(f.as_mut().poll(&mut cx), Poll::Ready(want));
        }
        assert_eq!(APART.get(), 0);
    }
}
