//! Notices: people are told of calls that wait for an answer, by a webhook and on the desktop.
//!
//! Invariants:
//! - nothing here is waited for by a session: a channel reads the durable queue of approvals at its own pace, and holds one notice at a time;
//! - every try has a deadline, every notice a number of tries; what is given up or out of date is counted and logged;
//! - what leaves the machine comes from the log, where secrets are masked, and is cut; a redirect is never followed;
//! - a notice may come twice (after a restart), never unsigned where a secret is set.
//!
//! Called by `daemon`, which hands over each change; `api` shows the counts.

mod desktop;
mod notice;
mod webhook;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::Notify;
use crate::model::Entropy;
use crate::outbound::Failure;

pub use notice::Notice;

use desktop::Desktop;
use webhook::Webhook;

/// Why there is a channel that cannot work. Codes are stable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the secret of the webhook cannot be read from {from}: {why}; correct it, or unset it: nothing is sent unsigned instead")]
    Secret { from: String, why: String },
    #[error("no certificate authority of this system can be read ({0}), so no https webhook can be trusted; install ca-certificates")]
    Roots(String),
    #[error("notify.desktop is set and there is no notify-send on the daemon's PATH; install libnotify, or unset it")]
    NoNotifySend,
}

impl Error {
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Secret { .. } => "BDL-NOTIFY-001",
            Self::Roots(_) => "BDL-NOTIFY-002",
            Self::NoNotifySend => "BDL-NOTIFY-003",
        }
    }
}

/// What became of notices.
#[derive(Debug, Default)]
pub struct Counts {
    pub delivered: AtomicU64,
    /// Given up after all tries.
    pub failed: AtomicU64,
    /// Not sent: answered before it could be told, or long ago.
    pub outdated: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl Counts {
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One way to tell people.
pub struct Channel {
    /// `webhook` or `desktop`.
    pub name: &'static str,
    pub counts: Arc<Counts>,
    way: Way,
    entropy: Arc<dyn Entropy>,
    /// The notice before was given up: one try is enough until one gets through.
    failing: bool,
}

enum Way {
    Webhook(Box<Webhook>),
    Desktop(Desktop),
}

/// Most tries of one notice.
const TRIES: u32 = 5;
/// Wait after the first try; doubled after each further one.
const BACKOFF: Duration = Duration::from_millis(500);
/// Longest wait between tries.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The channels that are configured, and those that are and cannot work.
pub fn channels(config: &Notify, entropy: &Arc<dyn Entropy>) -> (Vec<Channel>, Vec<Error>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let mut add = |name, way: Result<Way, Error>| match way {
        Ok(way) => good.push(Channel { name, counts: Arc::default(), way, entropy: entropy.clone(), failing: false }),
        Err(e) => bad.push(e),
    };
    if let Some(url) = &config.webhook {
        add("webhook", Webhook::new(url.clone(), config).map(|w| Way::Webhook(Box::new(w))));
    }
    if config.desktop {
        add("desktop", Desktop::find().map(Way::Desktop));
    }
    (good, bad)
}

impl Channel {
    /// Tells people, with as many tries as it takes, up to [`TRIES`]. True when it got through.
    pub async fn tell(&mut self, notice: &Notice) -> bool {
        let mut id = [0u8; 16];
        self.entropy.fill(&mut id);
        let delivery: String = id.iter().map(|b| format!("{b:02x}")).collect();
        let tries = if self.failing { 1 } else { TRIES };
        for n in 1..=tries {
            let sent = match &self.way {
                Way::Webhook(w) => w.send(notice, &delivery).await,
                Way::Desktop(d) => d.show(notice).await,
            };
            let Err(failure) = sent else {
                self.failing = false;
                self.counts.delivered.fetch_add(1, Ordering::Relaxed);
                return true;
            };
            tracing::debug!(channel = self.name, try_no = n, error = %failure.why, "a notice did not get through");
            *self.counts.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure.why.clone());
            if !failure.again || n == tries {
                tracing::warn!(channel = self.name, approval = %notice.id(), tries = n, error = %failure.why, "a notice was given up");
                break;
            }
            tokio::time::sleep(self.pause(n)).await;
        }
        self.failing = true;
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Counts a notice that nobody needs any more.
    pub fn skip(&self, notice: &Notice) {
        tracing::debug!(channel = self.name, approval = %notice.id(), "a notice was out of date");
        self.counts.outdated.fetch_add(1, Ordering::Relaxed);
    }

    /// Doubles, with up to half as much again by chance: receivers that were down are not hit by all at once.
    fn pause(&self, after: u32) -> Duration {
        let base = (BACKOFF * 2u32.saturating_pow(after.saturating_sub(1).min(10))).min(BACKOFF_MAX);
        let mut chance = [0u8; 2];
        self.entropy.fill(&mut chance);
        base + base.mul_f64(f64::from(u16::from_le_bytes(chance)) / f64::from(u16::MAX) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OsEntropy;

    #[test]
    fn pauses_grow_up_to_a_cap() {
        let way = Way::Desktop(Desktop::at("/bin/true".into()));
        let c = Channel { name: "x", counts: Arc::default(), way, entropy: Arc::new(OsEntropy), failing: false };
        for (after, least) in [(1, 500), (2, 1000), (4, 4000), (20, 30_000)] {
            let p = c.pause(after).as_millis();
            assert!(p >= least && p <= least * 3 / 2, "{after}: {p}");
        }
    }
}
