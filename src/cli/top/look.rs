//! One look at the host: live sessions, their memory, what waits for a person. Never more than the caps below.

use std::collections::HashMap;

use serde::Serialize;

use crate::api::client::{Client, Error};
use crate::api::types::{ApprovalDetailDoc, ApprovalDoc, ApprovalsQuery, SessionDoc, SessionsQuery};
use crate::model::Status;

/// Most sessions fetched.
pub const SESSIONS_MAX: usize = 100;
/// Most questions fetched.
pub const APPROVALS_MAX: usize = 50;
/// Most sessions whose processes are looked at.
pub const MEMORY_MAX: usize = 20;

/// What was seen. `more` says that there is more than what was fetched.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Look {
    /// Newest first.
    pub sessions: Vec<SessionDoc>,
    pub more_sessions: bool,
    /// Oldest first.
    pub approvals: Vec<ApprovalDoc>,
    pub more_approvals: bool,
    /// Resident KiB of a session's whole tree, by id.
    pub memory_kb: HashMap<String, u64>,
}

impl Look {
    pub async fn take(client: &Client) -> Result<Self, Error> {
        let mut look = Self::default();
        for status in [Status::Running, Status::Starting, Status::Stopping, Status::Paused, Status::Queued] {
            let left = SESSIONS_MAX.saturating_sub(look.sessions.len());
            let wanted = SessionsQuery { status: Some(status), limit: Some(left.max(1)), ..SessionsQuery::default() };
            let page = client.sessions(&wanted).await?;
            look.more_sessions |= page.next.is_some() || page.items.len() > left;
            look.sessions.extend(page.items.into_iter().take(left));
        }
        look.sessions.sort_by(|a, b| b.created_at.cmp(&a.created_at));
        let waiting = client.approvals(&ApprovalsQuery { limit: Some(APPROVALS_MAX), ..ApprovalsQuery::default() }).await?;
        look.more_approvals = waiting.next.is_some();
        look.approvals = waiting.items.into_iter().take(APPROVALS_MAX).collect();
        for s in look.sessions.iter().take(MEMORY_MAX) {
            // why not an error: it may have ended since.
            if let Ok(tree) = client.processes(&s.id).await {
                look.memory_kb.insert(s.id.clone(), tree.items.iter().map(|p| p.pss_kb.unwrap_or(p.rss_kb)).sum());
            }
        }
        Ok(look)
    }
}

/// The whole story of one question; none when it has gone.
pub async fn story(client: &Client, of: &ApprovalDoc) -> Option<ApprovalDetailDoc> {
    client.approval(&of.session, of.call).await.ok()
}
