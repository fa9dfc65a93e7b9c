//! What is on record: the agent's output, verification, export.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::App;
use super::error::ApiError;
use super::types::{
    ENDED_HEADER, ErasureDoc, FindingDoc, LOGS_MAX, LogStream, LogsQuery, NEXT_HEADER, OFFSET_HEADER, VerifyDoc, VerifyRequest, WAIT_MAX_MS,
};
use crate::model::{SessionId, Status};
use crate::process::{Stream, read_log, read_tail};
use crate::store::{Checkpoint, Heads, Report};

/// Findings listed in one answer.
const FINDINGS_MAX: usize = 1000;
/// Events of one portion of an export.
const EXPORT_READ: usize = 256;
/// How often a waiting reader of logs looks again.
const LOGS_POLL: Duration = Duration::from_millis(100);

pub async fn logs(
    State(app): State<App>,
    Path(key): Path<String>,
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(q) = query?;
    let session = app.manager.find(&key)?;
    let attempt = q.attempt.unwrap_or(session.attempt);
    if q.attempt.is_some() && !(1..=session.attempt).contains(&attempt) {
        let message = format!("session {} has attempts 1 to {}, and {attempt} is none of them", session.id, session.attempt);
        return Err(ApiError::new(StatusCode::NOT_FOUND, "BDL-API-040", message));
    }
    let (id, dir) = (session.id.clone(), app.manager.attempt_dir(&session.id, attempt));
    let which = match q.stream {
        LogStream::Out => Stream::Out,
        LogStream::Err => Stream::Err,
    };
    let limit = q.limit.unwrap_or(LOGS_MAX).clamp(1, LOGS_MAX);
    let deadline = tokio::time::Instant::now() + Duration::from_millis(q.wait_ms.unwrap_or(0).min(WAIT_MAX_MS));
    loop {
        // why in this order: a session seen as ended before the read has written all it will.
        let now = app.manager.store().session(&id)?;
        let ended = now.status == Status::Ended || q.attempt.is_some_and(|n| n < now.attempt);
        let part = match (q.offset, q.tail) {
            (None, Some(n)) => read_tail(&dir, which, usize::try_from(n).unwrap_or(limit).min(limit)),
            (offset, _) => read_log(&dir, which, offset.unwrap_or(0), limit),
        };
        let part = part.map_err(crate::session::Error::from)?;
        let at_end = ended && part.bytes.len() < limit;
        if part.bytes.is_empty() && !at_end && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(LOGS_POLL).await;
            continue;
        }
        let headers = [
            (HeaderName::from_static(OFFSET_HEADER), part.offset.to_string()),
            (HeaderName::from_static(NEXT_HEADER), part.next.to_string()),
            (HeaderName::from_static(ENDED_HEADER), at_end.to_string()),
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        ];
        return Ok((headers, part.bytes).into_response());
    }
}

pub async fn verify_session(State(app): State<App>, Path(key): Path<String>) -> Result<Json<VerifyDoc>, ApiError> {
    let id = app.manager.find(&key)?.id;
    run(app, Some(id), None).await
}

pub async fn verify_all(State(app): State<App>) -> Result<Json<VerifyDoc>, ApiError> {
    run(app, None, None).await
}

pub async fn verify(State(app): State<App>, body: Result<Json<VerifyRequest>, JsonRejection>) -> Result<Json<VerifyDoc>, ApiError> {
    let Json(r) = body?;
    let id = r.session.map(|key| app.manager.find(&key)).transpose()?.map(|s| s.id);
    run(app, id, r.against).await
}

async fn run(app: App, id: Option<SessionId>, against: Option<serde_json::Value>) -> Result<Json<VerifyDoc>, ApiError> {
    let store = app.manager.store().clone();
    let (mut checkpoint, mut heads) = (None, None);
    match against {
        Some(document) if document.get("heads").is_some() => heads = Some(Heads::from_json(document.to_string().as_bytes())?),
        Some(document) => checkpoint = Some(Checkpoint::from_json(document.to_string().as_bytes())?),
        None => {}
    }
    let check = move || -> Result<(Report, Option<serde_json::Value>), crate::store::Error> {
        let report = match (&checkpoint, &heads) {
            (Some(c), _) => store.verify_against(id.as_ref(), c)?,
            (_, Some(h)) => store.verify_heads(id.as_ref(), h)?,
            _ => store.verify(id.as_ref())?,
        };
        let now = id.is_none().then(|| store.checkpoint()).transpose()?;
        Ok((report, now.and_then(|c| serde_json::to_value(c).ok())))
    };
    let (report, now) = tokio::task::spawn_blocking(check)
        .await
        .map_err(|e| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "BDL-API-010", format!("verification ended abnormally: {e}")))??;
    Ok(Json(document(report, now)))
}

fn document(r: Report, checkpoint: Option<serde_json::Value>) -> VerifyDoc {
    VerifyDoc {
        ok: r.is_sound(),
        session_count: r.sessions,
        event_count: r.events,
        finding_count: r.findings.len() as u64 + r.more,
        findings: r
            .findings
            .into_iter()
            .take(FINDINGS_MAX)
            .map(|f| FindingDoc { session: f.session, seq: f.seq, what: f.detail })
            .collect(),
        archive_count: r.archives,
        erased_count: r.erased,
        erasures: r.erasures.into_iter().map(|(session, seq)| ErasureDoc { session, seq }).collect(),
        checkpoint,
    }
}

/// The whole log as JSON lines, read and sent in portions.
pub async fn export(State(app): State<App>, Path(key): Path<String>) -> Result<Response, ApiError> {
    let id = app.manager.find(&key)?.id;
    let body = Body::from_stream(stream::unfold(Some(1u64), move |next| {
        let (app, id) = (app.clone(), id.clone());
        async move {
            let from = next?;
            match portion(&app, &id, from) {
                Ok((bytes, _)) if bytes.is_empty() => None,
                Ok((bytes, next)) => Some((Ok::<Bytes, std::io::Error>(bytes), Some(next))),
                // why an error in the stream: the reader must see that the export is not whole.
                Err(e) => Some((Err(std::io::Error::other(e.problem.message)), None)),
            }
        }
    }));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

fn portion(app: &App, id: &SessionId, from: u64) -> Result<(Bytes, u64), ApiError> {
    let mut out = Vec::new();
    let mut next = from;
    for e in app.manager.store().events(id, from, EXPORT_READ)? {
        next = e.envelope.seq + 1;
        let line = serde_json::to_vec(&super::events::doc(&e)?).unwrap_or_default();
        out.extend_from_slice(&line);
        out.push(b'\n');
    }
    Ok((out.into(), next))
}
