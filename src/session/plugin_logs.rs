//! What the plugins of a live session's chain have logged.
//!
//! A plugin's log is in memory, capped and rate-limited, and its own for each chain: it goes with the session, and begins anew when the
//! chain is put together anew (a rule was added, the daemon was restarted).
//!
//! The newest lines of each name are kept beyond that, in files (`plugin::KeptLogs`).
//!
//! Called by `Manager`.

use super::{Error, Manager};
use crate::model::SessionId;
use crate::plugin::{KeptLine, Level, Line};

/// The log of one policy of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginLogs {
    pub policy: String,
    /// Oldest first.
    pub lines: Vec<Line>,
    /// Lines that were left out since the chain was put together.
    pub dropped: u64,
}

/// The name of a level.
pub const fn level(level: Level) -> &'static str {
    match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    }
}

impl Manager {
    /// What was kept of a plugin, over all sessions: the newest lines behind this number.
    pub fn kept_plugin_logs(&self, name: &str, after: u64, most: usize) -> Result<Vec<KeptLine>, Error> {
        let kept = self.inner.chains.plugins().logs().and_then(|l| l.read(name, after, most));
        match kept {
            Some(lines) => Ok(lines),
            // An installed one that has said nothing yet.
            None => self.plugin(name).map(|_| Vec::new()),
        }
    }

    /// Those of every policy of the session's chain, in its order, or of the one of this name.
    pub fn plugin_logs(&self, id: &SessionId, policy: Option<&str>) -> Result<Vec<PluginLogs>, Error> {
        let chain = self.inner.live().get(id).map(|l| l.chain.borrow().clone()).ok_or_else(|| Error::Ended(id.clone()))?;
        let wanted = chain.slots.iter().filter(|s| policy.is_none_or(|p| p == s.name));
        let read = |s: &crate::policy::PolicySlot| {
            let plugin = s.policy.as_ref().ok()?.plugin()?;
            let (lines, dropped) = plugin.log().read();
            Some(PluginLogs { policy: s.name.clone(), lines, dropped })
        };
        Ok(wanted.filter_map(read).collect())
    }
}
