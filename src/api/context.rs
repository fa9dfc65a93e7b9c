//! Context providers of a session: the operator's to add and remove, while it lives.

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};

use super::App;
use super::confirm::{Asking, Refusal};
use super::error::ApiError;
use super::types::{ContextProviderDoc, ContextRequest, Page};
use crate::model::{Actor, CONTEXT_BYTES, CONTEXT_HITS, CONTEXT_TIMEOUT_MS, ContextAt, ContextProvider, ContextSource, Session, Subject};
use crate::operator::Need;

pub async fn list(State(app): State<App>, Path(key): Path<String>) -> Result<Json<Page<ContextProviderDoc>>, ApiError> {
    Ok(Json(page(&app.manager.find(&key)?)))
}

pub async fn add(
    State(app): State<App>,
    asking: Asking,
    Path(key): Path<String>,
    body: Result<Json<ContextRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<Page<ContextProviderDoc>>), Refusal> {
    let Json(r) = body?;
    let session = app.manager.find(&key)?;
    let provider = match r.kind {
        None if r == (ContextRequest { name: r.name.clone(), ..ContextRequest::default() }) => {
            app.manager.configured_context(&session, &r.name)?
        }
        None => return Err(ApiError::malformed("kind: memory, files or command, where more than a name is said").into()),
        Some(_) => provider(r)?,
    };
    provider.check().map_err(crate::session::Error::from)?;
    // why not of the others: what they read is the session's own, and is looked at; a command runs beside every gate.
    let actor = match &provider.source {
        ContextSource::Command { command, .. } => {
            let subject = Subject::new("run a command beside the prompts of a session, without a gate")
                .with("session", session.id.as_str())
                .with("command", command.join(" "));
            asking.confirmed(&app, Need::Configured, subject).await?
        }
        ContextSource::Memory { .. } | ContextSource::Files { .. } => asking.actor(),
    };
    let session = app.manager.add_context(&session.id, provider, actor).await?;
    Ok((StatusCode::CREATED, Json(page(&session))))
}

pub async fn remove(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Path((key, name)): Path<(String, String)>,
) -> Result<Json<Page<ContextProviderDoc>>, ApiError> {
    let id = app.manager.find(&key)?.id;
    Ok(Json(page(&app.manager.remove_context(&id, &name, actor).await?)))
}

fn page(session: &Session) -> Page<ContextProviderDoc> {
    Page { items: session.context.iter().map(ContextProviderDoc::from).collect(), next: None }
}

fn provider(r: ContextRequest) -> Result<ContextProvider, ApiError> {
    let kind = r.kind.as_deref().unwrap_or_default();
    let stray = |used: bool, what: &str| match used {
        true => Err(ApiError::malformed(format!("{what}: not of the kind {kind}"))),
        false => Ok(()),
    };
    stray(kind != "memory" && (r.tier.is_some() || r.tag.is_some() || r.limit.is_some()), "tier, tag, limit")?;
    stray(kind != "files" && !r.paths.is_empty(), "paths")?;
    stray(kind != "command" && (!r.command.is_empty() || r.timeout_ms.is_some()), "command, timeout_ms")?;
    let source = match kind {
        "memory" => ContextSource::Memory { tier: r.tier, tag: r.tag, limit: r.limit.unwrap_or(CONTEXT_HITS) },
        "files" => ContextSource::Files { paths: r.paths },
        "command" => ContextSource::Command { command: r.command, timeout_ms: r.timeout_ms.unwrap_or(CONTEXT_TIMEOUT_MS.2) },
        _ => return Err(ApiError::malformed("kind: memory, files or command")),
    };
    let mut at = if r.at.is_empty() { vec![ContextAt::Prompt] } else { r.at };
    at.sort();
    at.dedup();
    Ok(ContextProvider { name: r.name, source, at, max_bytes: r.max_bytes.unwrap_or(CONTEXT_BYTES), required: r.required })
}
