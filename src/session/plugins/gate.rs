//! What a change of plugins or of the configuration would do to recorded calls: judged with the chain of now and with the one to come.
//!
//! Both judge now, so that nothing but the change can make the difference. Bounds: the newest [`SESSIONS`] sessions, the first
//! [`CALLS`] of their calls, [`TIME`]; what was left out is said.
//!
//! The chain of now is that of the live session, made anew (what fails in a replay is quarantined there only); of a session that has
//! ended, what its folder would get by the configuration that was taken last.
//!
//! Called by `plugins` before an upgrade or a rollback, and by `reload`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::Inner;
use crate::model::{POLICY_KIND, PluginLock, Replay, Session};
use crate::policy::replay::{Reader, compare, judge};
use crate::policy::taken::alike;
use crate::policy::{Chain, Taken};
use crate::store::{Filter, MAX_PAGE};

/// Sessions whose calls are judged, newest first.
const SESSIONS: usize = 20;
/// Calls that are judged.
const CALLS: u64 = 500;
/// How long it may take.
const TIME: Duration = Duration::from_secs(10);
/// Changes that are told one by one.
const SHOWN: usize = 50;
/// Events read at a time.
const PAGE: usize = if MAX_PAGE < 1000 { MAX_PAGE } else { 1000 };

/// What is to change.
#[derive(Clone, Copy)]
enum Change<'a> {
    Installed(&'a PluginLock),
    Configuration(&'a Taken),
}

/// Judges recent calls with the chain of now and with that of `lock`. A log or folder that cannot be read is left out and makes it partial.
pub(super) async fn installed(inner: &Inner, name: &str, lock: &PluginLock) -> Replay {
    // why: only policies decide.
    if lock.get(name).is_none_or(|p| p.kind != POLICY_KIND) {
        return Replay::default();
    }
    replay(inner, Change::Installed(lock)).await
}

/// The same with the chain of another configuration.
pub(super) async fn configured(inner: &Inner, taken: &Taken) -> Replay {
    replay(inner, Change::Configuration(taken)).await
}

async fn replay(inner: &Inner, change: Change<'_>) -> Replay {
    let mut out = Replay::default();
    let taken = inner.plugins.taken.lock().await.clone();
    let begun = Instant::now();
    let filter = Filter { limit: SESSIONS, ..Filter::default() };
    let Ok(sessions) = inner.store.sessions(&filter) else { return Replay { partial: true, ..out } };
    out.partial = sessions.next.is_some();
    for session in sessions.items {
        let Some((now, then)) = two(inner, &session, taken.as_ref(), change).await else {
            out.partial = true;
            continue;
        };
        // why not judged: where the chain stays as it is, nothing is decided otherwise.
        if !alike(&now, &then) {
            one(inner, &session.id, session.last_seq, (&now, &then), begun, &mut out).await;
        }
        if out.judged >= CALLS || begun.elapsed() > TIME {
            out.partial = true;
            break;
        }
    }
    out
}

/// The chains of a session before and after the change; none where its folder's configuration cannot be read.
async fn two(inner: &Inner, session: &Session, taken: Option<&Taken>, change: Change<'_>) -> Option<(Arc<Chain>, Arc<Chain>)> {
    let cwd = Path::new(&session.cwd);
    let live = inner.live().get(&session.id).map(|l| (l.chain.borrow().clone(), l.two_person));
    let two_person = live.as_ref().map_or_else(|| inner.config_of(cwd).needs_two(&session.labels), |l| l.1);
    let rules = inner.rules().for_session(&session.id, &session.cwd, two_person);
    let with = async |lock: Option<&PluginLock>| match (&live, taken) {
        (Some((chain, _)), _) => Some(inner.chains.again(chain, lock, cwd, &rules).await.0),
        (None, Some(taken)) => Some(inner.chains.assemble_taken(taken, lock, Some(cwd), &rules).await.ok()?.chain),
        (None, None) => None,
    };
    let then = match change {
        Change::Installed(lock) => with(Some(lock)).await?,
        Change::Configuration(new) => inner.chains.assemble_taken(new, None, Some(cwd), &rules).await.ok()?.chain,
    };
    Some((with(None).await?, then))
}

async fn one(
    inner: &Inner,
    id: &crate::model::SessionId,
    last: u64,
    (now, then): (&Arc<Chain>, &Arc<Chain>),
    begun: Instant,
    out: &mut Replay,
) {
    let mut reader = Reader::default();
    let mut from = 1;
    while from <= last {
        let Ok(page) = inner.store.events(id, from, PAGE) else {
            out.partial = true;
            break;
        };
        let Some(newest) = page.last() else { break };
        from = newest.envelope.seq + 1;
        for e in &page {
            let Some(recorded) = reader.read(&e.envelope) else { continue };
            let (was, would) = (judge(now, &recorded).await, judge(then, &recorded).await);
            out.take(compare(&recorded, &was, &would), SHOWN);
            if out.judged >= CALLS || begun.elapsed() > TIME {
                out.skipped += reader.skipped();
                out.partial = true;
                return;
            }
        }
    }
    out.skipped += reader.skipped();
}
