//! Named places in a call's life at which a test breaks things: `BEADLE_FAILPOINT=<name>[:<n>][=<action>]`.
//!
//! The names: `assembled` (a session that starts has its chain), `requested` (a question was read), `decided` (it was judged), `appended` (its decision is queued for the log),
//! `synced` (the decision is durable), `sent` (the answer was handed to the shim), `taken` (the agent's side took an allow), `shown`
//! (the agent holds a result back until the policies judged it), `stopping` (a stop is on record and nothing was told of it), `ran` (a result was read), `reported` (the result is durable), `host_tool` (a call of a host tool is about to be served), `host_tool_answered`
//! (what it did and its answer are durable, and not told). Of
//! a session that is put away and comes back: `deferring` (its call is about to be deferred), `deferred` (that is durable and not told),
//! `confirmed` (the agent named the call), `left` (it has ended), `paused` (that is durable), `resuming`, `resumed` (the relaunch is about
//! to be, and is, on record), `relaunched` (the agent runs and is not on record), `reasked` (its gate asks), `answered` (what was decided
//! is on record and not told). Of one that is compacted: `compacting` (its agent is about to be told to end), `compaction_began` (that is
//! durable), `compaction_left` (the agent has ended), `compaction_written` (the new record stands and is not named), `compacted` (it is
//! named), `compaction_refused` (the agent did not take it), then `resuming`, `resumed`, `relaunched`. Of one with a plan of attempts: `examining` (an attempt is about to
//! be judged), `verifying` (its verifier runs), `checkpointed` (its worktree has its ref, and nothing of it is on record), `scheduled` (the next is on record), `heard_out` (a breach of one that is lost is on record, and not what follows), `tried` (its agent runs and
//! is not). Of a change of an installed plugin: `plugin_staged` (nothing is written),
//! `plugin_noted` (it is durable), `plugin_locked` (the lock file has it). Of an act on a tree: `tree_began` (it is written down), `tree_told` (one session was told), `tree_done` (all
//! were told, and have ended where they should).
//! Of an archive: `archive_written` (the file is synced),
//! `archive_staged` (the database knows it), `archived` (its events are out of the database), `archive_restored` (they are back); of an erasure:
//! `redaction_written`, `redaction_staged`, `redacted` (it is in force), `redaction_finished` (its payloads are gone); of a backup: `backup_begun`, `backup_copied` (it is whole, and not on record). Of the queue: `queue_kept` (a request is kept, no
//! session begun), `queued` (that is durable), `queue_claiming` (its turn has come), `queue_claimed` (that is durable, its agent not
//! started), `queue_launched` (its agent runs and is not on record), `queue_leasing` and `queue_leased` (a worker's lease is about to be,
//! and is, durable and not told), `queue_back` (it is back in the queue or given up), `queue_retried` (the new session is durable, the
//! old one not marked). At the
//! nth visit, the first by default, the daemon
//! - dies as by `kill -9` when no action is given;
//! - `wait:<folder>`: makes the file `reached` in the folder and goes on when `go` is there, after [`PATIENCE`] at the latest;
//! - `slow:<ms>`: takes so long there, at every later visit too;
//! - `panic`: panics there.
//!
//! And `clock=from:<file>`: the daemon's wall clock is the machine's and so many milliseconds as the file says, as if somebody had set it.
//!
//! Invariants: the variable is read once, so only who starts the daemon can set it; none of the actions allows, skips or changes
//! anything; without the variable a visit is one atomic load. Called by `gate`, `run`, `park`, `compact`, `relaunch`,
//! `queue`, `plugins` and `tree`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::model::{Clock, SystemClock};

/// How long a visit waits for its test.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks for the file `go`.
const LOOK: Duration = Duration::from_millis(1);

#[derive(Debug, PartialEq)]
enum Action {
    Die,
    Wait(PathBuf),
    Slow(Duration),
    Panic,
    Clock(PathBuf),
}

#[derive(Debug)]
struct Armed {
    name: String,
    at: u64,
    visits: AtomicU64,
    action: Action,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

fn armed() -> Option<&'static Armed> {
    ARMED.get_or_init(|| std::env::var("BEADLE_FAILPOINT").ok().map(|v| parse(&v))).as_ref()
}

/// The machine's clocks, or those that a test sets.
pub fn clock() -> Arc<dyn Clock> {
    match armed().map(|a| &a.action) {
        Some(Action::Clock(file)) => Arc::new(SetClock(file.clone())),
        _ => Arc::new(SystemClock),
    }
}

struct SetClock(PathBuf);

impl Clock for SetClock {
    fn wall_ms(&self) -> i64 {
        let by = std::fs::read_to_string(&self.0).ok().and_then(|t| t.trim().parse::<i64>().ok());
        SystemClock.wall_ms().saturating_add(by.unwrap_or(0))
    }

    fn boot_ms(&self) -> u64 {
        SystemClock.boot_ms()
    }
}

/// Does here what the environment asks for.
pub fn hit(name: &str) {
    let Some(armed) = armed() else { return };
    if armed.name != name {
        return;
    }
    let visit = armed.visits.fetch_add(1, Ordering::SeqCst) + 1;
    match &armed.action {
        Action::Die if visit == armed.at => std::process::abort(),
        Action::Panic if visit == armed.at => panic!("at the failpoint {name}"),
        Action::Wait(folder) if visit == armed.at => aside(|| {
            // why: a test that has gone away must not hold the daemon for ever.
            let give_up = Instant::now() + PATIENCE;
            let _ = std::fs::write(folder.join("reached"), name);
            while !folder.join("go").exists() && Instant::now() < give_up {
                std::thread::sleep(LOOK);
            }
        }),
        Action::Slow(time) if visit >= armed.at => aside(|| std::thread::sleep(*time)),
        _ => {}
    }
}

/// The thread is held, as by a slow disk; the runtime's other tasks go on elsewhere.
fn aside(f: impl FnOnce()) {
    tokio::task::block_in_place(f);
}

/// What cannot be understood dies at the first visit: a test that is spelt wrongly must not pass.
fn parse(text: &str) -> Armed {
    let (place, action) = text.split_once('=').map_or((text, None), |(p, a)| (p, Some(a)));
    let (name, at) = place.split_once(':').map_or((place, 1), |(a, b)| (a, b.parse().unwrap_or(1)));
    let action = match action.map(|a| a.split_once(':').unwrap_or((a, ""))) {
        Some(("wait", folder)) => Action::Wait(folder.into()),
        Some(("from", file)) if name == "clock" => Action::Clock(file.into()),
        Some(("panic", "")) => Action::Panic,
        Some(("slow", ms)) => ms.parse().map_or(Action::Die, |ms| Action::Slow(Duration::from_millis(ms))),
        _ => Action::Die,
    };
    Armed { name: name.to_owned(), at, visits: AtomicU64::new(0), action }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_understood() {
        let p = |s| {
            let a = parse(s);
            (a.name, a.at, a.action)
        };
        assert_eq!(p("sent"), ("sent".into(), 1, Action::Die));
        assert_eq!(p("sent:3"), ("sent".into(), 3, Action::Die));
        assert_eq!(p("ran:2=wait:/a:b=c"), ("ran".into(), 2, Action::Wait("/a:b=c".into())));
        assert_eq!(p("ran=slow:40"), ("ran".into(), 1, Action::Slow(Duration::from_millis(40))));
        assert_eq!(p("clock=from:/a").2, Action::Clock("/a".into()));
        assert_eq!(p("ran:2=panic"), ("ran".into(), 2, Action::Panic));
        assert_eq!(p("ran=slow:x").2, Action::Die);
        assert_eq!(p("ran=sleep:1").2, Action::Die);
    }
}
