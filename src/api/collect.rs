//! Garbage and backups.

use std::path::PathBuf;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::{Extension, Json};

use super::App;
use super::error::ApiError;
use super::sessions::time_of;
use super::types::{ArchiveDoc, BackupDoc, BackupRequest, CollectDoc, CollectRequestDoc, CollectedDoc, StaysDoc};
use crate::model::{Actor, format_ms};
use crate::session::{CollectRequest, Places};

pub async fn collect(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<CollectRequestDoc>, JsonRejection>,
) -> Result<Json<CollectDoc>, ApiError> {
    let Json(r) = body?;
    let before = r.before.as_deref().map(time_of).transpose()?;
    let raw_before = r.raw_before.as_deref().map(time_of).transpose()?;
    let request = CollectRequest { before, raw_before, over: r.over_bytes, outcomes: r.outcomes, keep: r.keep, dry_run: r.dry_run };
    let folders = &app.about.folders;
    let places = Places { data: folders.data.clone(), cache: folders.cache.clone() };
    let done = app.manager.collect(request, places, actor).await?;
    let items: Vec<_> = done
        .items
        .into_iter()
        .map(|i| CollectedDoc { kind: i.kind.to_owned(), name: i.name, bytes: i.bytes, why: i.why, failed: i.failed })
        .collect();
    Ok(Json(CollectDoc {
        dry_run: r.dry_run,
        bytes: items.iter().filter(|i| i.failed.is_none()).map(|i| i.bytes).sum(),
        failed_count: items.iter().filter(|i| i.failed.is_some()).count() as u64,
        items,
        kept: done.kept.into_iter().map(|(session, why)| StaysDoc { session, why }).collect(),
    }))
}

pub async fn backup(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<BackupRequest>, JsonRejection>,
) -> Result<Json<BackupDoc>, ApiError> {
    let Json(r) = body?;
    let to = PathBuf::from(&r.to);
    if !to.is_absolute() {
        return Err(ApiError::malformed("to: give an absolute path".to_owned()));
    }
    if to.starts_with(&app.about.folders.data) {
        return Err(ApiError::malformed("to: that is inside the data folder; give a place elsewhere, best on another disk".to_owned()));
    }
    let made = app.manager.backup(to, actor).await?;
    Ok(Json(BackupDoc {
        to: r.to,
        made_at: format_ms(made.made_at),
        bytes: made.bytes(),
        file_count: made.files.len() as u64,
        session_count: made.sessions,
        schema: made.schema,
        missing: made.missing.into_iter().map(|m| ArchiveDoc::unread(m.session, (m.first, m.last), &m.path, m.why)).collect(),
    }))
}
