//! Model calls, grouped; tool calls by tool.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;

use super::App;
use super::error::ApiError;
use super::numbers::time;
use super::sessions::label_of;
use super::types::{LedgerDoc, LedgerQuery, LedgerRow, LedgerSumDoc, ToolRow, ToolSumDoc, ToolsDoc, ToolsQuery};
use crate::model::ledger::{Dimension, Overflow};
use crate::model::{Clock, SystemClock, format_ms};
use crate::store;

/// Farthest offset of any clock on Earth, in minutes.
const OFFSET_MAX: i32 = 14 * 60;

pub async fn ledger(State(app): State<App>, query: Result<Query<LedgerQuery>, QueryRejection>) -> Result<Json<LedgerDoc>, ApiError> {
    let Query(q) = query?;
    let by = q.by.as_deref().unwrap_or("model");
    let unknown = || ApiError::malformed(format!("by is {:?}; expected {}", by.chars().take(80).collect::<String>(), Dimension::NAMES));
    let by = Dimension::parse(by).ok_or_else(unknown)?;
    let offset_minutes = q.utc_offset_minutes.unwrap_or(0);
    if !(-OFFSET_MAX..=OFFSET_MAX).contains(&offset_minutes) {
        return Err(ApiError::malformed(format!("utc_offset_minutes is {offset_minutes}; expected -{OFFSET_MAX} to {OFFSET_MAX}")));
    }
    let session = q.session.as_deref().map(|key| app.manager.find(key)).transpose()?;
    let reconciled = session.as_ref().and_then(|s| s.reconciled.clone());
    let session = session.map(|s| s.id);
    let wanted = store::LedgerQuery {
        by,
        since: time("since", q.since.as_deref())?,
        until: time("until", q.until.as_deref())?,
        session,
        agent: q.agent,
        label: q.label.as_deref().map(label_of).transpose()?,
        offset_minutes,
        now: SystemClock.wall_ms(),
    };
    let store = app.manager.store().clone();
    let (by, since, until, session) =
        (wanted.by.name(), wanted.since.map(format_ms), wanted.until.map(format_ms), wanted.session.as_ref().map(ToString::to_string));
    // why blocking: a large store is read row by row.
    let grouped = tokio::task::spawn_blocking(move || store.ledger(&wanted)).await;
    let grouped = grouped.map_err(|e| broken(&e))??;
    let whole = || -> Result<LedgerDoc, Overflow> {
        let rows = grouped.rows.iter().map(|(key, g)| LedgerRow::of(key.clone(), g)).collect::<Result<_, _>>()?;
        let all = LedgerSumDoc::of(&grouped.all, grouped.sessions)?;
        let (utc_offset_minutes, left_out_count) = (offset_minutes, grouped.left_out);
        Ok(LedgerDoc { by, since, until, session, utc_offset_minutes, reconciled, all, rows, left_out_count })
    };
    let doc = whole().map_err(|e| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "BDL-API-036", e.to_string()))?;
    Ok(Json(doc))
}

pub async fn tools(State(app): State<App>, query: Result<Query<ToolsQuery>, QueryRejection>) -> Result<Json<ToolsDoc>, ApiError> {
    let Query(q) = query?;
    let wanted = store::ToolQuery {
        since: time("since", q.since.as_deref())?,
        until: time("until", q.until.as_deref())?,
        session: q.session.as_deref().map(|key| app.manager.find(key)).transpose()?.map(|s| s.id),
        agent: q.agent,
        label: q.label.as_deref().map(label_of).transpose()?,
    };
    let store = app.manager.store().clone();
    let (since, until, session) =
        (wanted.since.map(format_ms), wanted.until.map(format_ms), wanted.session.as_ref().map(ToString::to_string));
    // why blocking: logs are read whole.
    let found = tokio::task::spawn_blocking(move || store.tools(&wanted)).await.map_err(|e| broken(&e))??;
    let all = ToolSumDoc { session_count: found.sessions, ..ToolSumDoc::of(found.sums.all()) };
    let (rows, left_out_count) = found.sums.ordered();
    let rows = rows.into_iter().map(|(key, sum)| ToolRow { key, sum: ToolSumDoc::of(sum) }).collect();
    let (unreadable_count, truncated) = (found.unreadable, found.truncated);
    Ok(Json(ToolsDoc { by: "tool".to_owned(), since, until, session, all, rows, left_out_count, unreadable_count, truncated }))
}

fn broken(e: &tokio::task::JoinError) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "BDL-API-031", format!("adding up failed: {e}"))
}
