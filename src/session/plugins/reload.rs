//! `beadle host reload`: the configuration is read anew and its chains given to live sessions, without a restart.
//!
//! | who | gets |
//! | --- | --- |
//! | live sessions | the chain of the new configuration: policies, their settings and grants, the default, run-time rules as they are |
//! | live sessions | keep what they were started with: limits, deadlines of approvals, what is done at a breach, compaction |
//! | new sessions | all of the new configuration; they read it at their start in any case |
//! | the queue | places, depth and lanes; what runs or is leased runs on, also over a smaller number |
//! | the daemon | keeps [`AT_START`] until it is restarted; which of them differ is said |
//!
//! Invariants: a configuration that cannot be read, or has a policy that does not load, changes nothing; a session whose own folder's
//! configuration cannot be read keeps its chain, and is named; a decision that has begun ends on the chain it began with (`swap`).
//!
//! Called by `api`.

use super::super::{Error, Manager};
use super::{refused, swap};
use crate::config::Config;
use crate::model::{Actor, Event, SessionId};
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

impl Manager {
    pub async fn reload(&self, by: &Actor) -> Result<Reloaded, Error> {
        let inner = &self.inner;
        let new = inner.chains.assemble(None, &[]).await?;
        for event in &new.events {
            if let Event::PluginFailed(f) = event {
                let why = format!("does not load: {}", super::super::live::cut(&f.detail, 1024));
                return Err(refused(format!("policy {}", f.policy), why));
            }
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
        let (changed, kept) = swap::reloaded(inner, &format!("the configuration was read anew by {who}")).await;
        tracing::info!(by = who, changed, kept = kept.len(), ?at_restart, "the configuration was read anew");
        let event = ConfigReloaded {
            changed: changed as u64,
            kept: kept.len() as u64,
            at_restart: at_restart.iter().map(|s| (*s).to_owned()).collect(),
            by: by.clone(),
        };
        inner.store.note(HostEvent::ConfigReloaded(event), Vec::new()).await?;
        Ok(Reloaded { changed, kept, at_restart })
    }
}

fn differing(old: &Config, new: &Config) -> Vec<&'static str> {
    AT_START.iter().filter(|(_, same)| !same(old, new)).map(|(name, _)| *name).collect()
}
