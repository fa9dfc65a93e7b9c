//! What the plugins of a live session have logged.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};

use super::App;
use super::error::ApiError;
use super::types::{Page, PluginLineDoc, PluginLogDoc, PluginLogsQuery};
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
        dropped_count: l.dropped,
        lines: l.lines.into_iter().map(|l| PluginLineDoc { at: format_ms(l.at), level: level(l.level).to_owned(), text: l.text }).collect(),
    });
    Ok(Json(Page { items: items.collect(), next: None }))
}
