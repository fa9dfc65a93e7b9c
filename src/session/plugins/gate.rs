//! What a change of plugins would do to recorded calls: judged with the chain of now and with the one to come.
//!
//! Both judge now, so that nothing but the change can make the difference. Bounds: the newest [`SESSIONS`] sessions, the first
//! [`CALLS`] of their calls, [`TIME`]; what was left out is said.
//!
//! Called by `plugins` before an upgrade or a rollback.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::Inner;
use crate::model::{POLICY_KIND, PluginLock, Replay};
use crate::policy::Chain;
use crate::policy::replay::{Reader, compare, judge};
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

/// Judges recent calls with the chain of now and with that of `lock`. A log or folder that cannot be read is left out and makes it partial.
pub(super) async fn replay(inner: &Inner, name: &str, lock: &PluginLock) -> Replay {
    let mut out = Replay::default();
    // why: only policies decide.
    if lock.get(name).is_none_or(|p| p.kind != POLICY_KIND) {
        return out;
    }
    let begun = Instant::now();
    let filter = Filter { limit: SESSIONS, ..Filter::default() };
    let Ok(sessions) = inner.store.sessions(&filter) else { return Replay { partial: true, ..out } };
    out.partial = sessions.next.is_some();
    for session in sessions.items {
        let cwd = Path::new(&session.cwd);
        let two = inner.config_of(cwd).needs_two(&session.labels);
        let rules = inner.rules().for_session(&session.id, &session.cwd, two);
        let now = inner.chains.assemble(Some(cwd), &rules).await.map(|a| a.chain);
        let then = inner.chains.assemble_as(lock.clone(), Some(cwd), &rules).await.map(|a| a.chain);
        let (Ok(now), Ok(then)) = (now, then) else {
            out.partial = true;
            continue;
        };
        one(inner, &session.id, session.last_seq, (&now, &then), begun, &mut out).await;
        if out.judged >= CALLS || begun.elapsed() > TIME {
            out.partial = true;
            break;
        }
    }
    out
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
