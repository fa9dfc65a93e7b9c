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
use crate::metrics::{Looked, QueueNumbers, SinkNumbers, TEXT_TYPE};
use crate::model::{Clock, Status, SystemClock, format_ms};
use crate::session::LaneNumbers;
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
        lanes: app.manager.lanes().0.into_iter().map(lane).collect(),
    };
    Ok(([(header::CONTENT_TYPE, TEXT_TYPE)], app.metrics.text(&looked)))
}

/// A time of a query, in milliseconds.
pub(super) fn time(name: &str, given: Option<&str>) -> Result<Option<i64>, ApiError> {
    let read = given.map(|t| chrono::DateTime::parse_from_rfc3339(t).map(|t| t.timestamp_millis())).transpose();
    read.map_err(|e| ApiError::malformed(format!("{name} is not a time as in 2026-01-01T00:00:00Z: {e}")))
}

fn lane(l: LaneNumbers) -> QueueNumbers {
    QueueNumbers {
        lane: l.lane,
        depth: l.depth,
        running: l.running,
        leased: l.leased,
        oldest_ms: l.oldest_ms,
        wait_p50_ms: l.wait_p50_ms,
        wait_p99_ms: l.wait_p99_ms,
        started: l.started,
        ended: l.ended,
        dead: l.dead,
    }
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
    let (since, until) = (time("since", q.since.as_deref())?, time("until", q.until.as_deref())?);
    let label = q.label.as_deref().map(label_of).transpose()?;
    let store = app.manager.store().clone();
    // why blocking: a large store is read in many pages.
    let added = tokio::task::spawn_blocking(move || -> Result<StatsDoc, ApiError> {
        let mut doc = StatsDoc { since: since.map(format_ms), until: until.map(format_ms), ..StatsDoc::default() };
        let now = SystemClock.wall_ms();
        let mut filter = Filter { agent: q.agent, labels: label.into_iter().collect(), limit: PAGE_MAX, ..Filter::default() };
        loop {
            let page = store.sessions(&filter)?;
            for s in &page.items {
                if since.is_some_and(|t| s.created_at < t) {
                    // Newest first: all that follow are older.
                    return Ok(doc);
                }
                if until.is_none_or(|t| s.created_at < t) {
                    doc.add(s, now);
                }
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
