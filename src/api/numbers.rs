//! Numbers: totals over sessions, and the daemon's own in the form that Prometheus reads.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;

use super::App;
use super::error::ApiError;
use super::sessions::label_of;
use super::types::{PAGE_MAX, STATS_MAX, StatsDoc, StatsQuery};
use crate::metrics::{Looked, SinkNumbers, TEXT_TYPE};
use crate::model::{Clock, Status, SystemClock, format_ms};
use crate::sink::SinkStatus;
use crate::store::Filter;

const STATUSES: [Status; 6] = [Status::Queued, Status::Starting, Status::Running, Status::Paused, Status::Stopping, Status::Ended];

pub async fn metrics(State(app): State<App>) -> Result<impl IntoResponse, ApiError> {
    let (counts, waiting) = app.manager.store().counts()?;
    let of = |s: Status| counts.iter().find(|(name, _)| name == s.as_str()).map_or(0, |(_, n)| *n);
    let looked = Looked {
        sessions: STATUSES.map(|s| (s, of(s))).to_vec(),
        waiting,
        resident_bytes: super::host::rss_kb().saturating_mul(1024),
        sinks: app.sinks.status().into_iter().map(numbers).collect(),
    };
    Ok(([(header::CONTENT_TYPE, TEXT_TYPE)], app.metrics.text(&looked)))
}

fn numbers(s: SinkStatus) -> SinkNumbers {
    SinkNumbers {
        name: s.name,
        lag_events: s.lag_events,
        lag_ms: s.lag_ms,
        delivered: s.delivered,
        failures: s.failures,
        dropped: s.dropped,
        dead_letters: s.dead_letters,
    }
}

pub async fn stats(State(app): State<App>, query: Result<Query<StatsQuery>, QueryRejection>) -> Result<Json<StatsDoc>, ApiError> {
    let Query(q) = query?;
    let since = q.since.as_deref().map(|t| chrono::DateTime::parse_from_rfc3339(t).map(|t| t.timestamp_millis())).transpose();
    let since = since.map_err(|e| ApiError::malformed(format!("since is not a time as in 2026-01-01T00:00:00Z: {e}")))?;
    let label = q.label.as_deref().map(label_of).transpose()?;
    let store = app.manager.store().clone();
    // why blocking: a large store is read in many pages.
    let added = tokio::task::spawn_blocking(move || -> Result<StatsDoc, ApiError> {
        let mut doc = StatsDoc { since: since.map(format_ms), ..StatsDoc::default() };
        let now = SystemClock.wall_ms();
        let mut filter = Filter { agent: q.agent, label, limit: PAGE_MAX, ..Filter::default() };
        loop {
            let page = store.sessions(&filter)?;
            for s in &page.items {
                if since.is_some_and(|t| s.created_at < t) {
                    // Newest first: all that follow are older.
                    return Ok(doc);
                }
                doc.add(s, now);
            }
            filter.cursor = page.next;
            doc.truncated = doc.all.session_count >= STATS_MAX && filter.cursor.is_some();
            if filter.cursor.is_none() || doc.truncated {
                return Ok(doc);
            }
        }
    });
    let added =
        added.await.map_err(|e| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "BDL-API-031", format!("adding up failed: {e}")))?;
    added.map(Json)
}
