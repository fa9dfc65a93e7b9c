//! Making a session's conversation shorter, and what it was before.

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};

use super::App;
use super::error::ApiError;
use super::types::{CompactDoc, CompactRequestDoc};
use crate::model::Actor;
use crate::session::{CompactRequest, ESTIMATOR, Unpinned};

pub async fn compact(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Path(key): Path<String>,
    body: Result<Json<CompactRequestDoc>, JsonRejection>,
) -> Result<(StatusCode, Json<CompactDoc>), ApiError> {
    let Json(r) = body?;
    let id = app.manager.find(&key)?.id;
    let dry_run = r.dry_run;
    let request = CompactRequest {
        strategy: r.strategy,
        config: r.config,
        target: r.target,
        unpinned: Unpinned { user: r.unpin_user, system: r.unpin_system },
        dry_run,
    };
    let report = app.manager.compact(&id, request, actor).await?;
    let doc = CompactDoc {
        session: id.to_string(),
        dry_run,
        strategy: report.strategy,
        version: report.version,
        digest: report.digest,
        estimator: ESTIMATOR.to_owned(),
        target: report.target,
        reached: report.tokens_after <= report.target,
        tokens_before: report.tokens_before,
        tokens_after: report.tokens_after,
        dropped_count: report.dropped,
        changed_count: report.changed,
        retained_count: report.retained,
        spared_count: report.spared,
        edits: report.edits,
        began_seq: report.began,
    };
    Ok((if dry_run { StatusCode::OK } else { StatusCode::ACCEPTED }, Json(doc)))
}

pub async fn original(State(app): State<App>, Path((key, seq)): Path<(String, u64)>) -> Result<impl IntoResponse, ApiError> {
    let id = app.manager.find(&key)?.id;
    let manager = app.manager.clone();
    let read = tokio::task::spawn_blocking(move || manager.original(&id, seq)).await;
    let bytes = read.map_err(|_| ApiError::malformed("reading broke off".to_owned()))??;
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], bytes))
}
