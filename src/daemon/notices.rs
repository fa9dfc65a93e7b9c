//! Hands changes of approvals to the channels that tell people, each at its own pace.
//!
//! The queue is the store's: a channel that hangs holds one notice in memory, and what was answered meanwhile comes once, answered. How
//! far a channel got is a setting of the host, so a restart tells the rest (the newest notice perhaps twice).

use std::collections::HashSet;
use std::time::Duration;

use crate::model::{Approval, ApprovalId, ApprovalState, Clock};
use crate::notify::{Channel, Notice};
use crate::session::Manager;

/// Approvals remembered as told, so that their end is told too.
const TOLD_MAX: usize = 10_000;
/// An end that is older than this is no news.
const NEWS_MS: i64 = 600_000;
/// Pause after the store could not be read.
const AGAIN: Duration = Duration::from_secs(5);

/// Follows approvals for one channel, for as long as the daemon runs.
pub async fn follow(manager: Manager, mut channel: Channel, clock: std::sync::Arc<dyn Clock>) {
    let key = format!("notify_{}", channel.name);
    let begun = clock.wall_ms();
    let mut told = HashSet::new();
    loop {
        let after = manager.store().setting(&key).ok().flatten().and_then(|t| t.parse().ok());
        let mut changes = match manager.approval_changes(after) {
            Ok(changes) => changes,
            Err(e) => {
                tracing::warn!(channel = channel.name, error = %e, "approvals cannot be followed");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        if after.is_none() {
            save(&manager, &key, changes.position()).await;
        }
        loop {
            match changes.next().await {
                Ok((at, approval)) => {
                    if let Some(notice) = notice(&manager, approval) {
                        let id = notice.id();
                        if is_news(&notice.approval, told.contains(&id), begun, clock.wall_ms()) {
                            channel.tell(&notice).await;
                            remember(&mut told, id, &notice.approval);
                        } else {
                            channel.skip(&notice);
                        }
                    }
                    save(&manager, &key, at).await;
                }
                Err(e) => {
                    tracing::warn!(channel = channel.name, error = %e, "approvals cannot be read");
                    tokio::time::sleep(AGAIN).await;
                    break;
                }
            }
        }
    }
}

fn remember(told: &mut HashSet<ApprovalId>, id: ApprovalId, a: &Approval) {
    if a.state == ApprovalState::Waiting && told.len() < TOLD_MAX {
        told.insert(id);
    } else {
        told.remove(&id);
    }
}

/// A question while it waits; its end when the question was told here, or may have been told by the daemon before.
fn is_news(a: &Approval, told: bool, begun: i64, now: i64) -> bool {
    match &a.resolution {
        None => a.expires_at > now,
        Some(r) => told || (a.requested_at < begun && now - r.at < NEWS_MS),
    }
}

/// `None` when the session was removed meanwhile.
fn notice(manager: &Manager, approval: Approval) -> Option<Notice> {
    let session = manager.store().session(&approval.session).ok()?;
    Some(Notice { approval, session_name: session.name, labels: session.labels })
}

async fn save(manager: &Manager, key: &str, at: u64) {
    if let Err(e) = manager.store().set_setting(key, Some(at.to_string())).await {
        tracing::warn!(error = %e, "how far notices got cannot be written; some may come twice");
    }
}
