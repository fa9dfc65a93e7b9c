//! New chains for live sessions.
//!
//! Invariants:
//! - a session's chain is replaced as a whole: a decision takes the chain once, when it begins, and is made by that one alone, its second
//!   round after a rewrite included; decisions that have begun end on the chain they began with;
//! - the chain is in force before the session's log says so;
//! - a session that was started or adopted meanwhile catches up: its chain says which state of the plugins it was made from.
//!
//! Called by `plugins`, and by `start` and `external` for sessions that have just begun.

use std::sync::Arc;
use std::time::Duration;

use super::super::{Error, Inner, LiveSession, Manager};
use crate::model::{Event, Note, PluginReplaced, SessionId};
use crate::policy::Chain;

/// How long a change waits for the logs of the sessions that it concerns.
const NOTED_WITHIN: Duration = Duration::from_secs(2);

/// Gives every live session the chain that its folder, rules and the installed plugins now make; returns how many changed.
pub(in crate::session) async fn all(inner: &Arc<Inner>, why: &str) -> usize {
    some(inner, None, why).await
}

/// A session that has just begun gets the chain of now, where its own was made before a change.
pub(in crate::session) fn catch_up(inner: &Arc<Inner>, id: &SessionId, generation: u64) {
    if generation != inner.chains.generation() {
        let (inner, id) = (inner.clone(), id.clone());
        tokio::spawn(async move { some(&inner, Some(&id), "the installed plugins changed while the session began").await });
    }
}

async fn some(inner: &Arc<Inner>, only: Option<&SessionId>, why: &str) -> usize {
    // why held: the chain that is swapped in last must hold the newest rules and plugins.
    let changing = inner.changing_rules.lock().await;
    let concerned: Vec<(SessionId, LiveSession)> =
        inner.live().iter().filter(|(id, _)| only.is_none_or(|o| o == *id)).map(|(id, l)| (id.clone(), l.clone())).collect();
    let mut changed = 0;
    let mut notes = tokio::task::JoinSet::new();
    for (id, live) in concerned {
        let rules = inner.rules().for_session(&id, &live.cwd.to_string_lossy(), live.two_person);
        let (chain, events) = match inner.chains.assemble(Some(&live.cwd), &rules).await {
            Ok(a) => (a.chain, a.events),
            Err(_) => (inner.chains.assemble_or_deny(&live.cwd, &rules).await, vec![]),
        };
        let old = live.chain.send_replace(chain.clone());
        let events = differences(&old, &chain, events, why);
        if events.is_empty() {
            continue;
        }
        changed += 1;
        let manager = Manager { inner: inner.clone() };
        notes.spawn(async move {
            match manager.record(&id, events).await {
                // why: a session that ended meanwhile needs no plugin.
                Ok(_) | Err(Error::Ended(_)) => {}
                Err(e) => tracing::warn!(session = %id, code = e.code(), error = %e, "a change of plugins does not stand in its log yet"),
            }
        });
    }
    drop(changing);
    // why not waited out: the chains are in force; a session whose task is busy writes its note later.
    let noted = async { while notes.join_next().await.is_some() {} };
    if tokio::time::timeout(NOTED_WITHIN, noted).await.is_err() {
        notes.detach_all();
    }
    changed
}

/// What a session's log says of a new chain: policies that came, were replaced, went, or failed to load.
fn differences(old: &Chain, new: &Chain, loads: Vec<Event>, why: &str) -> Vec<Event> {
    let digest = |chain: &Chain, name: &str| {
        chain.slots.iter().find(|s| s.name == name).map(|s| s.policy.as_ref().map(|p| p.digest().to_owned()).unwrap_or_default())
    };
    let mut events = Vec::new();
    for event in loads {
        match &event {
            Event::PluginLoaded(p) => match digest(old, &p.policy) {
                Some(before) if before == p.digest => {}
                Some(before) => {
                    let replaced = PluginReplaced {
                        policy: p.policy.clone(),
                        old_digest: before,
                        digest: p.digest.clone(),
                        config_digest: p.config_digest.clone(),
                        reason: why.to_owned(),
                    };
                    events.push(replaced.into());
                }
                None => events.push(event),
            },
            Event::PluginFailed(p) if digest(old, &p.policy).is_none_or(|d| !d.is_empty()) => events.push(event),
            _ => {}
        }
    }
    for slot in &old.slots {
        if digest(new, &slot.name).is_none() {
            events.push(Note { text: format!("policy {} is not asked any more: {why}", slot.name) }.into());
        }
    }
    events
}
