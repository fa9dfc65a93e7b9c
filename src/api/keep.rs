//! Archives and erasures.

use std::path::PathBuf;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};

use super::App;
use super::confirm::{Asking, Refusal};
use super::error::ApiError;
use super::sessions::time_of;
use super::types::{
    ArchiveDoc, ArchiveRequest, ArchivesRequest, ERASE_TEXT_MAX, PAUSE_REASON_MAX, Page, RedactDoc, RedactRequest, RedactedDoc,
    SharedBlobDoc, TranscriptDoc, TranscriptQuery,
};
use crate::model::{Actor, SessionArchived, SessionId, Status, Subject, format_ms};
use crate::operator::Need;
use crate::session::Kept;
use crate::store::Erase;

type Answer<T> = Result<Json<T>, ApiError>;

pub async fn archive(
    State(app): State<App>,
    asking: Asking,
    Path(key): Path<String>,
    body: Result<Json<ArchiveRequest>, JsonRejection>,
) -> Result<Json<ArchiveDoc>, Refusal> {
    let Json(r) = body?;
    let session = app.manager.find(&key)?;
    let last = match r.below {
        Some(below @ ..=1) => return Err(ApiError::malformed(format!("below: {below}: there is no event before it")).into()),
        below => below.map(|b| b - 1),
    };
    let file = r.file.map(PathBuf::from);
    if file.as_ref().is_some_and(|f| !f.is_absolute()) {
        return Err(ApiError::malformed("file: give an absolute path".to_owned()).into());
    }
    let elsewhere = file.as_ref().is_some_and(|f| !is_within(f, &app.about.folders.data));
    // why: what a live session still needs, and what the host shall depend on though others may move it, is a person's to give away.
    let actor = if elsewhere || (last.is_some() && session.status != Status::Ended) {
        let subject = Subject::new("archive a log")
            .with("session", session.id.to_string())
            .with("events", last.map_or_else(|| "all".to_owned(), |n| format!("up to {n}")))
            .with("file", file.as_ref().map_or_else(|| "in the data folder".to_owned(), |f| f.display().to_string()));
        asking.confirmed(&app, Need::Configured, subject).await?
    } else {
        asking.actor()
    };
    Ok(Json(archived(&session.id, app.manager.archive(&session.id, last, file, actor).await?)))
}

/// Whether a file that is to be made would lie below a folder, whatever links lead there.
fn is_within(file: &std::path::Path, dir: &std::path::Path) -> bool {
    let real = |p: &std::path::Path| std::fs::canonicalize(p).ok();
    file.parent().and_then(real).zip(real(dir)).is_some_and(|(file, dir)| file.starts_with(dir))
}

pub async fn archive_ended(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<ArchivesRequest>, JsonRejection>,
) -> Answer<Page<ArchiveDoc>> {
    let Json(r) = body?;
    let done = app.manager.archive_ended(time_of(&r.ended_before)?, &actor).await?;
    let doc = |(id, done): (SessionId, Result<SessionArchived, _>)| match done {
        Ok(a) => archived(&id, a),
        Err(e) => ArchiveDoc { session: id.to_string(), error: Some(ApiError::from(e).problem), ..ArchiveDoc::default() },
    };
    Ok(Json(Page { items: done.into_iter().map(doc).collect(), next: None }))
}

fn archived(id: &SessionId, a: SessionArchived) -> ArchiveDoc {
    ArchiveDoc {
        session: id.to_string(),
        first_seq: a.first,
        last_seq: a.last,
        file: Some(a.file),
        digest: Some(a.digest),
        bytes: Some(a.bytes),
        error: None,
    }
}

pub async fn restore(State(app): State<App>, Extension(actor): Extension<Actor>, Path(key): Path<String>) -> Answer<Page<ArchiveDoc>> {
    let id = app.manager.find(&key)?.id;
    let done = app.manager.restore_archives(&id, actor).await?;
    let doc = |first, last| ArchiveDoc { session: id.to_string(), first_seq: first, last_seq: last, ..ArchiveDoc::default() };
    Ok(Json(Page { items: done.into_iter().map(|a| doc(a.first, a.last)).collect(), next: None }))
}

pub async fn redact(
    State(app): State<App>,
    asking: Asking,
    Path(key): Path<String>,
    body: Result<Json<RedactRequest>, JsonRejection>,
) -> Result<Json<RedactDoc>, Refusal> {
    let Json(r) = body?;
    let reason = r.reason.unwrap_or_else(|| "an operator erased it".to_owned());
    if reason.len() > PAUSE_REASON_MAX || reason.chars().any(char::is_control) {
        return Err(ApiError::malformed(format!("a reason has at most {PAUSE_REASON_MAX} bytes and no control characters")).into());
    }
    let id = app.manager.find(&key)?.id;
    let what = match (r.text, r.seq) {
        (Some(t), _) if t.is_empty() || t.len() > ERASE_TEXT_MAX => {
            return Err(ApiError::malformed(format!("a text has 1 to {ERASE_TEXT_MAX} bytes; this one has {}", t.len())).into());
        }
        (None, None) => return Err(ApiError::malformed("give the event's seq, or a text, or both".to_owned()).into()),
        (Some(t), _) => Erase::Text(t),
        (None, Some(_)) => Erase::Whole,
    };
    let of = r.seq.map_or_else(|| "all that hold the text".to_owned(), |s| s.to_string());
    let how = match &what {
        Erase::Whole => "the whole event".to_owned(),
        // why not the text: the question is shown and kept.
        Erase::Text(t) => format!("a text of {} bytes", t.len()),
    };
    let subject = Subject::new("erase from the log").with("session", id.to_string()).with("event", of).with("what", how);
    let actor = asking.confirmed(&app, Need::Configured, subject).await?;
    let done = app.manager.redact(&id, r.seq, what, reason, actor).await?;
    Ok(Json(RedactDoc {
        session: id.to_string(),
        events: done.events.into_iter().map(|(seq, kind)| RedactedDoc { seq, kind }).collect(),
        more: done.more,
        blobs: done.blobs,
        shared: done.shared.into_iter().map(|(blob, session, seq)| SharedBlobDoc { blob, session, seq }).collect(),
        memories: done.memories,
        overwritten: done.overwritten.iter().map(|p| p.display().to_string()).collect(),
        left: done.left,
        failed: done.failed,
        scrubbed: done.scrubbed,
    }))
}

fn broken(e: &tokio::task::JoinError) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "BDL-API-040", format!("reading broke off: {e}; try again"))
}

pub async fn transcripts(State(app): State<App>, Path(key): Path<String>) -> Answer<Page<TranscriptDoc>> {
    let session = app.manager.find(&key)?;
    let (manager, of) = (app.manager.clone(), session.clone());
    let kept = tokio::task::spawn_blocking(move || manager.kept_transcripts(&of)).await.map_err(|e| broken(&e))??;
    let doc = |k: Kept| TranscriptDoc {
        session: session.id.to_string(),
        seq: k.seq,
        attempt: k.attempt,
        at: format_ms(k.at),
        conversation: k.conversation,
        source: k.record.source,
        bytes: k.record.bytes,
        blob: k.record.blob,
    };
    Ok(Json(Page { items: kept.into_iter().map(doc).collect(), next: None }))
}

pub async fn transcript(
    State(app): State<App>,
    Path(key): Path<String>,
    query: Result<Query<TranscriptQuery>, QueryRejection>,
) -> Result<impl IntoResponse, ApiError> {
    let Query(q) = query?;
    let session = app.manager.find(&key)?;
    let manager = app.manager.clone();
    let read = tokio::task::spawn_blocking(move || manager.kept_transcript(&session, q.attempt, q.source.as_deref())).await;
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], read.map_err(|e| broken(&e))??))
}
