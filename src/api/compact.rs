//! Making a session's conversation shorter.

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
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
