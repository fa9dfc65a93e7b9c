//! New chains for live sessions.
//!
//! Invariants:
//! - a session's chain is replaced as a whole: a decision takes the chain once, when it begins, and is made by that one alone, its second
//!   round after a rewrite included; decisions that have begun end on the chain they began with;
//! - the chain is in force before the session's log says so;
//! - only a reload brings what the files of the configuration say by now; a change of plugins or rules does not;
//! - a session that was started or adopted meanwhile catches up: its chain says which state of the plugins it was made from.
//!
//! Called by `plugins`, and by `start` and `external` for sessions that have just begun.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::super::{Error, Inner, LiveSession, Manager};
use crate::model::{Event, Note, PluginReplaced, SessionId};
use crate::policy::{Chain, Taken};

/// How long a change waits for the logs of the sessions that it concerns.
const NOTED_WITHIN: Duration = Duration::from_secs(2);

/// Gives every live session the chain that its rules and the installed plugins now make; returns how many changed.
pub(in crate::session) async fn all(inner: &Arc<Inner>, why: &str) -> usize {
    finish(some(inner, None, why, MadeOf::Before).await).await.0
}

/// The same of a configuration that was taken, where a session whose own folder's cannot be read keeps its chain; how many changed, and
/// which kept theirs and why.
pub(super) async fn reloaded(inner: &Arc<Inner>, taken: &Taken, why: &str) -> (usize, Kept) {
    finish(some(inner, None, why, MadeOf::Taken(taken)).await).await
}

async fn finish((changed, mut notes, kept): (usize, JoinSet<()>, Kept)) -> (usize, Kept) {
    // why not waited out: the chains are in force; a session whose task is busy writes its note later.
    let noted = async { while notes.join_next().await.is_some() {} };
    if tokio::time::timeout(NOTED_WITHIN, noted).await.is_err() {
        notes.detach_all();
    }
    (changed, kept)
}

/// Sessions that keep their chain, and why.
type Kept = Vec<(SessionId, String)>;

/// Of which configuration the chains are made.
#[derive(Clone, Copy)]
enum MadeOf<'a> {
    /// Of the one that each was made of: what the files say by now is for a reload to take, and to try first.
    Before,
    /// Of the files as they are; where they cannot be read, the chain denies.
    Files,
    Taken(&'a Taken),
}

/// A session that has just begun gets the chain of now, where its own was made (from these plugins, with these rules) before a change.
/// Awaited before it is heard: its first call is judged by that chain.
pub(in crate::session) async fn catch_up(inner: &Arc<Inner>, id: &SessionId, (generation, rules): (u64, u64)) {
    let Some(live) = inner.live().get(id).cloned() else { return };
    let now = inner.rules().for_session(id, &live.cwd.to_string_lossy(), live.two_person);
    if generation != inner.chains.generation() || rules != Chain::rules_mark(&now) {
        // why its log is not waited for: nobody empties its mailbox yet.
        some(inner, Some(id), "plugins or rules changed while the session began", MadeOf::Files).await.1.detach_all();
    }
}

/// How many changed, what writes that down, and which kept their chain.
async fn some(inner: &Arc<Inner>, only: Option<&SessionId>, why: &str, made_of: MadeOf<'_>) -> (usize, JoinSet<()>, Kept) {
    // why held: the chain that is swapped in last must hold the newest rules and plugins.
    let _changing = inner.changing_rules.lock().await;
    let concerned: Vec<(SessionId, LiveSession)> =
        inner.live().iter().filter(|(id, _)| only.is_none_or(|o| o == *id)).map(|(id, l)| (id.clone(), l.clone())).collect();
    let (mut changed, mut kept) = (0, Vec::new());
    let mut notes = JoinSet::new();
    for (id, live) in concerned {
        let rules = inner.rules().for_session(&id, &live.cwd.to_string_lossy(), live.two_person);
        let (chain, events) = match made_of {
            MadeOf::Before => {
                let old = live.chain.borrow().clone();
                inner.chains.again(&old, None, &live.cwd, &rules).await
            }
            MadeOf::Files => match inner.chains.assemble(Some(&live.cwd), &rules).await {
                Ok(a) => (a.chain, a.events),
                Err(_) => (inner.chains.assemble_or_deny(&live.cwd, &rules).await, vec![]),
            },
            MadeOf::Taken(taken) => match inner.chains.assemble_taken(taken, None, Some(&live.cwd), &rules).await {
                Ok(a) => (a.chain, a.events),
                Err(e) => {
                    kept.push((id, e.to_string()));
                    continue;
                }
            },
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
    (changed, notes, kept)
}

/// Whether the same component is asked in another way.
fn settings_differ(old: &Chain, new: &Chain, name: &str) -> bool {
    let of = |chain: &Chain| {
        let slot = chain.slots.iter().find(|s| s.name == name)?;
        let plugin = slot.policy.as_ref().ok().and_then(|p| p.plugin());
        let given = plugin.map(|p| (p.config_digest().to_owned(), p.grants().clone()));
        Some((slot.mode, slot.on_failure, slot.deadline, slot.tighten_only, given))
    };
    of(old) != of(new)
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
                Some(before) if before == p.digest && !settings_differ(old, new, &p.policy) => {}
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
    if old.default != new.default {
        let text = format!("a call of which no policy has an opinion is now: {}: {why}", new.default.as_str());
        events.push(Note { text }.into());
    }
    for slot in &old.slots {
        if digest(new, &slot.name).is_none() {
            events.push(Note { text: format!("policy {} is not asked any more: {why}", slot.name) }.into());
        }
    }
    events
}
