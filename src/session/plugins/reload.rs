//! `beadle host reload`: the configuration is read anew and its chains given to live sessions, without a restart.
//!
//! | who | gets |
//! | --- | --- |
//! | recorded calls | are judged first, by the chains of before and after; what loosens one is not taken unaccepted |
//! | live sessions | the chain of the new configuration: policies, their settings and grants, the default, run-time rules as they are |
//! | live sessions | keep what they were started with: limits, deadlines of approvals, what is done at a breach, compaction |
//! | new sessions | all of the new configuration; they read it at their start in any case |
//! | the queue | places, depth and lanes; what runs or is leased runs on, also over a smaller number |
//! | the daemon | keeps [`AT_START`] until it is restarted; which of them differ is said |
//!
//! Invariants: a configuration that cannot be read, has a policy that does not load, or loosens unaccepted, changes nothing; what was
//! judged is what is taken, whatever the files say by then; a session whose own folder's configuration cannot be read keeps its chain, and
//! is named; a decision that has begun ends on the chain it began with (`swap`).
//!
//! Not judged: sessions that start later, and a daemon that starts anew with all that it takes over, take the configuration as it is. No
//! signal has it read.
//!
//! Called by `api`.

use std::sync::Arc;

use super::super::{Error, Inner, Manager};
use super::{gate, refused, swap};
use crate::config::Config;
use crate::model::{Actor, Event, Replay, SessionId};
use crate::policy::{Assembled, Taken};
use crate::store::{ConfigReloaded, HostEvent};

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct Reloaded {
    /// Live sessions whose policies are not the same as before.
    pub changed: usize,
    /// Live sessions that keep their chain, and why.
    pub kept: Vec<(SessionId, String)>,
    /// Settings that differ and wait for a restart of the daemon.
    pub at_restart: Vec<&'static str>,
    /// What it did to recorded calls.
    pub replay: Replay,
}

/// Settings that the daemon reads when it starts, and no later.
const AT_START: [(&str, Same); 9] = [
    ("host.log", |a, b| a.log == b.log),
    ("host.linger_ms", |a, b| a.linger_ms == b.linger_ms),
    ("usage.prices", |a, b| a.prices == b.prices),
    ("operator.confirm", |a, b| a.confirm == b.confirm),
    ("notify", |a, b| a.notify == b.notify),
    ("sink", |a, b| a.sinks == b.sinks),
    ("sink_group", |a, b| a.sink_groups == b.sink_groups),
    ("limits.live_sessions", |a, b| a.live_sessions == b.live_sessions),
    ("approvals.park_after_ms", |a, b| a.park_after_ms == b.park_after_ms),
];

type Same = fn(&Config, &Config) -> bool;

/// At the start of a daemon: the configuration of now is the one that the next reload takes the place of.
pub(in crate::session) async fn begin(inner: &Arc<Inner>) {
    let mut taken = inner.plugins.taken.clone().lock_owned().await;
    let (chains, file) = (inner.chains.clone(), inner.chains.user_file());
    // why apart: a component may have to be compiled; only a replay waits for it.
    tokio::spawn(async move {
        match file {
            Ok(file) => match chains.take_files(file).await {
                Ok(t) => *taken = Some(t),
                Err(e) => tracing::warn!(code = e.code(), error = %e, "what a reload would change for ended sessions is not known"),
            },
            Err(e) => tracing::warn!(code = e.code(), error = %e, "what a reload would change for ended sessions is not known"),
        }
    });
}

/// Reads the configuration. Errors: it cannot be read, or a policy of it does not load.
async fn read(inner: &Inner) -> Result<(Taken, Assembled), Error> {
    let (taken, new) = inner.chains.take().await?;
    for event in &new.events {
        if let Event::PluginFailed(f) = event {
            let why = format!("does not load: {}", super::super::live::cut(&f.detail, 1024));
            return Err(refused(format!("policy {}", f.policy), why));
        }
    }
    Ok((taken, new))
}

impl Manager {
    /// What a reload would do to recorded calls.
    pub async fn look_at_reload(&self) -> Result<Replay, Error> {
        let (taken, _) = read(&self.inner).await?;
        Ok(gate::configured(&self.inner, &taken).await)
    }

    /// `accept`: although recorded calls would be decided less strictly.
    pub async fn reload(&self, accept: bool, by: &Actor) -> Result<Reloaded, Error> {
        let inner = &self.inner;
        let one = inner.plugins.reloading.lock().await;
        let (taken, new) = read(inner).await?;
        let replay = gate::configured(inner, &taken).await;
        let (loosened, judged) = (replay.loosened, replay.judged);
        if loosened > 0 && !accept {
            return Err(Error::Loosens { count: loosened, judged });
        }
        // why: a session that is starting now may have read the old one; with another generation it catches up. Held, so that no plugin is
        // changed in between.
        let changing = inner.plugins.changing.lock().await;
        if let Some(lock) = inner.chains.installed() {
            inner.chains.set_installed(lock);
        }
        drop(changing);
        inner.queue.reconfigured(&new.config.queue);
        let at_restart = differing(&inner.config, &new.config);
        let who = by.name.as_deref().unwrap_or(&by.role);
        let accepted = (loosened > 0)
            .then(|| format!("{loosened} of {judged} recorded calls would be decided less strictly, accepted by {}", by.role));
        let why = accepted.as_ref().map_or_else(String::new, |a| format!(": {a}"));
        let (changed, kept) = swap::reloaded(inner, &taken, &format!("the configuration was read anew by {who}{why}")).await;
        *inner.plugins.taken.lock().await = Some(taken);
        drop(one);
        tracing::info!(by = who, changed, kept = kept.len(), ?at_restart, "the configuration was read anew");
        let event = ConfigReloaded {
            changed: changed as u64,
            kept: kept.len() as u64,
            at_restart: at_restart.iter().map(|s| (*s).to_owned()).collect(),
            reason: accepted,
            by: by.clone(),
        };
        inner.store.note(HostEvent::ConfigReloaded(event), Vec::new()).await?;
        Ok(Reloaded { changed, kept, at_restart, replay })
    }
}

fn differing(old: &Config, new: &Config) -> Vec<&'static str> {
    AT_START.iter().filter(|(_, same)| !same(old, new)).map(|(name, _)| *name).collect()
}
