//! What the plugins of a live session have logged, and what was kept of each.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;

use super::App;
use super::error::ApiError;
use super::types::{KeptLogsQuery, Page, PluginLineDoc, PluginLogDoc, PluginLogsQuery};
use crate::model::format_ms;
use crate::session::plugin_logs::level;

pub async fn of_session(
    State(app): State<App>,
    Path(key): Path<String>,
    query: Result<Query<PluginLogsQuery>, QueryRejection>,
) -> Result<Json<Page<PluginLogDoc>>, ApiError> {
    let Query(q) = query?;
    let id = app.manager.find(&key)?.id;
    let logs = app.manager.plugin_logs(&id, q.policy.as_deref())?;
    let items = logs.into_iter().map(|l| PluginLogDoc {
        policy: l.policy,
        next: None,
        dropped_count: l.dropped,
        lines: l.lines.into_iter().map(|l| PluginLineDoc { at: format_ms(l.at), level: level(l.level).to_owned(), text: l.text }).collect(),
    });
    Ok(Json(Page { items: items.collect(), next: None }))
}

/// Most lines of one answer.
const MOST: usize = 1000;

pub async fn of_plugin(
    State(app): State<App>,
    Path(name): Path<String>,
    query: Result<Query<KeptLogsQuery>, QueryRejection>,
) -> Result<Json<PluginLogDoc>, ApiError> {
    let Query(q) = query?;
    let after = q.after.unwrap_or(0);
    let most = q.limit.map_or(MOST, |n| usize::try_from(n).unwrap_or(MOST).min(MOST));
    let (manager, of) = (app.manager.clone(), name.clone());
    // why apart: files are read.
    let read = tokio::task::spawn_blocking(move || manager.kept_plugin_logs(&of, after, most)).await;
    let kept =
        read.map_err(|e| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "BDL-API-023", format!("reading ended abnormally: {e}")))??;
    let next = kept.last().map_or(after, |l| l.no);
    let dropped_count = kept.iter().map(|l| l.left_out).sum();
    let lines = kept.into_iter().map(|l| PluginLineDoc { at: format_ms(l.at), level: level(l.level).to_owned(), text: l.text }).collect();
    Ok(Json(PluginLogDoc { policy: name, lines, dropped_count, next: Some(next) }))
}
