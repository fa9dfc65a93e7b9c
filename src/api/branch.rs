//! Sessions that go on from others.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::App;
use super::confirm::{Asking, Refusal};
use super::error::ApiError;
use super::types::{BranchRequestDoc, ENV_MAX, PROMPT_MAX, SessionDoc};
use crate::model::{Event, Subject};
use crate::operator::Need;
use crate::session::{BranchRequest, is_gated};

pub async fn branch(
    State(app): State<App>,
    asking: Asking,
    Path(key): Path<String>,
    body: Result<Json<BranchRequestDoc>, JsonRejection>,
) -> Result<(StatusCode, Json<SessionDoc>), Refusal> {
    let Json(r) = body?;
    if r.prompt.as_ref().is_some_and(|p| p.is_empty() || p.len() > PROMPT_MAX) {
        return Err(ApiError::malformed(format!("a prompt has 1 to {PROMPT_MAX} bytes")).into());
    }
    if r.env.len() > ENV_MAX {
        return Err(ApiError::malformed(format!("{} environment variables, over the limit of {ENV_MAX}", r.env.len())).into());
    }
    let session = app.manager.find(&key)?;
    let first = app.manager.store().events(&session.id, 1, 1)?.into_iter().next().map(|e| e.envelope.event);
    let loosens = matches!(first, Some(Event::SessionCreated(c)) if !c.unsafe_args.is_empty()) || !is_gated(&session.agent);
    let mut subject = Subject::new(if session.breaches > 0 {
        "let the work of a session go on that had a breach"
    } else {
        "start a session with arguments that lower its mediation"
    });
    let actor = if loosens || session.breaches > 0 {
        let whole = serde_json::to_vec(&r).unwrap_or_default();
        subject = subject.with("session", session.id.as_str()).with("how", r.how.as_str()).with("breaches", session.breaches.to_string());
        subject = subject.with("request", blake3::hash(&whole).to_hex().to_string());
        asking.confirmed(&app, Need::Configured, subject).await?
    } else {
        asking.actor()
    };
    let request = BranchRequest {
        at: r.at,
        name: r.name,
        prompt: r.prompt,
        env: r.env,
        umask: r.umask,
        model: r.model,
        mcp_config: r.mcp_config,
        limits: r.limits,
        keep_open: r.keep_open,
        attach: r.attach,
        parent: r.parent,
        replay: r.replay,
    };
    let started = app.manager.branch(&session.id, r.how, request, actor).await?;
    Ok((StatusCode::CREATED, Json(SessionDoc::from(&started))))
}
