//! Pause and resume.

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::{Extension, Json};

use super::App;
use super::confirm::{Asking, Refusal};
use super::error::ApiError;
use super::types::{PAUSE_REASON_MAX, PauseRequest, ResumeRequest, SessionDoc};
use crate::model::{Actor, Session, Subject};
use crate::operator::Need;

type Answer = Result<Json<SessionDoc>, ApiError>;

pub async fn pause(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Path(key): Path<String>,
    body: Result<Json<PauseRequest>, JsonRejection>,
) -> Answer {
    let Json(r) = body?;
    let reason = r.reason.unwrap_or_else(|| "an operator paused it".to_owned());
    if reason.len() > PAUSE_REASON_MAX || reason.chars().any(char::is_control) {
        return Err(ApiError::malformed(format!("a reason has at most {PAUSE_REASON_MAX} bytes and no control characters")));
    }
    let id = app.manager.find(&key)?.id;
    Ok(Json(SessionDoc::from(&app.manager.pause(&id, r.mode, reason, actor).await?)))
}

pub async fn resume(
    State(app): State<App>,
    asking: Asking,
    Path(key): Path<String>,
    body: Result<Json<ResumeRequest>, JsonRejection>,
) -> Result<Json<SessionDoc>, Refusal> {
    let Json(ResumeRequest {}) = body?;
    let session = app.manager.find(&key)?;
    let id = session.id.clone();
    let actor = going_on(asking, &app, &session).await?;
    Ok(Json(SessionDoc::from(&app.manager.unpause(&id, actor).await?)))
}

/// A session that had a breach goes on only if a person says so, where that is configured.
async fn going_on(asking: Asking, app: &App, session: &Session) -> Result<Actor, Refusal> {
    if session.breaches == 0 {
        return Ok(asking.actor());
    }
    let subject = Subject::new("let a session go on that had a breach")
        .with("session", session.id.as_str())
        .with("breaches", session.breaches.to_string());
    asking.confirmed(app, Need::Configured, subject).await
}
