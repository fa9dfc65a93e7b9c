//! Sessions: run, list, show, send, stop, wait, remove, processes.

use std::path::PathBuf;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};

use super::App;
use super::confirm::{Asking, Refusal};
use super::error::ApiError;
use super::types::{
    LABELS_MAX, PAGE_DEFAULT, PAGE_MAX, PROMPT_MAX, Page, ProcessDoc, RemoveQuery, RunRequest, SendRequest, SessionDoc, SessionsQuery,
    StopRequest, WAIT_MAX_MS, WaitQuery,
};
use crate::model::{Actor, Session, Subject};
use crate::operator::Need;
use crate::session::{StartRequest, is_gated};
use crate::store::Filter;

type Answer<T> = Result<T, ApiError>;

pub async fn run(
    State(app): State<App>,
    asking: Asking,
    body: Result<Json<RunRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<SessionDoc>), Refusal> {
    let Json(r) = body?;
    if r.prompt.as_ref().is_some_and(|p| p.len() > PROMPT_MAX) {
        return Err(ApiError::malformed(format!("the prompt is over {PROMPT_MAX} bytes")).into());
    }
    if r.labels.len() > LABELS_MAX || r.labels.iter().any(|(k, v)| k.is_empty() || k.len() > 64 || v.len() > 256) {
        return Err(ApiError::malformed(format!("labels: at most {LABELS_MAX}, keys of 1 to 64 bytes, values of at most 256")).into());
    }
    let actor = match loosens(&r) {
        Some(action) => asking.confirmed(&app, Need::Configured, ungated(&r, action)).await?,
        None => asking.actor(),
    };
    let request = StartRequest {
        name: r.name,
        agent: r.agent,
        program: r.program,
        args: r.args,
        unsafe_args: r.unsafe_args,
        cwd: PathBuf::from(r.cwd),
        umask: r.umask,
        env: r.env,
        prompt: r.prompt,
        labels: r.labels,
        write_root: r.write_root.map(PathBuf::from),
        model: r.model,
        mcp_config: r.mcp_config,
        attach: r.attach,
        keep_open: r.keep_open,
    };
    let session = app.manager.start(request, actor).await?;
    Ok((StatusCode::CREATED, Json(SessionDoc::from(&session))))
}

/// What is confirmed about a start: nothing where every call will be judged.
fn loosens(r: &RunRequest) -> Option<&'static str> {
    if !r.unsafe_args.is_empty() {
        return Some("start a session with arguments that lower its mediation");
    }
    (!is_gated(&r.agent)).then_some("start a session without a gate")
}

/// Every part of such a start.
fn ungated(r: &RunRequest, action: &str) -> Subject {
    let whole = serde_json::to_vec(r).unwrap_or_default();
    let mut subject = Subject::new(action).with("agent", &r.agent);
    if let Some(program) = &r.program {
        subject = subject.with("program", program).with("arguments", r.args.join(" "));
    }
    if !r.unsafe_args.is_empty() {
        subject = subject.with("unsafe arguments", r.unsafe_args.join(" "));
    }
    subject.with("folder", &r.cwd).with("request", blake3::hash(&whole).to_hex().to_string())
}

pub async fn list(State(app): State<App>, query: Result<Query<SessionsQuery>, QueryRejection>) -> Answer<Json<Page<SessionDoc>>> {
    let Query(q) = query?;
    let label = q.label.as_deref().map(label_of).transpose()?;
    let page = app.manager.store().sessions(&Filter {
        status: q.status.into_iter().collect(),
        agent: q.agent,
        label,
        limit: q.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX),
        cursor: q.cursor,
    })?;
    Ok(Json(Page { items: page.items.iter().map(SessionDoc::from).collect(), next: page.next }))
}

pub async fn show(State(app): State<App>, Path(key): Path<String>) -> Answer<Json<SessionDoc>> {
    Ok(doc(&app.manager.find(&key)?))
}

pub async fn remove(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Path(key): Path<String>,
    query: Result<Query<RemoveQuery>, QueryRejection>,
) -> Answer<Json<SessionDoc>> {
    let Query(q) = query?;
    let id = app.manager.find(&key)?.id;
    Ok(doc(&app.manager.remove(&id, q.force, actor).await?))
}

pub async fn send(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Path(key): Path<String>,
    body: Result<Json<SendRequest>, JsonRejection>,
) -> Answer<(StatusCode, Json<SessionDoc>)> {
    let Json(r) = body?;
    if r.prompt.is_empty() || r.prompt.len() > PROMPT_MAX {
        return Err(ApiError::malformed(format!("a prompt has 1 to {PROMPT_MAX} bytes; this one has {}", r.prompt.len())));
    }
    let id = app.manager.find(&key)?.id;
    Ok((StatusCode::ACCEPTED, doc(&app.manager.send(&id, r.prompt, actor).await?)))
}

pub async fn stop(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Path(key): Path<String>,
    body: Result<Json<StopRequest>, JsonRejection>,
) -> Answer<(StatusCode, Json<SessionDoc>)> {
    let Json(r) = body?;
    let id = app.manager.find(&key)?.id;
    let grace = r.grace_ms.map(|ms| Duration::from_millis(ms.min(3_600_000)));
    Ok((StatusCode::ACCEPTED, doc(&app.manager.stop(&id, grace, r.kill, actor).await?)))
}

pub async fn wait(
    State(app): State<App>,
    Path(key): Path<String>,
    query: Result<Query<WaitQuery>, QueryRejection>,
) -> Answer<Json<SessionDoc>> {
    let Query(q) = query?;
    let id = app.manager.find(&key)?.id;
    let timeout = Duration::from_millis(q.timeout_ms.unwrap_or(WAIT_MAX_MS).min(WAIT_MAX_MS));
    Ok(doc(&app.manager.ended(&id, timeout).await?))
}

pub async fn processes(State(app): State<App>, Path(key): Path<String>) -> Answer<Json<Page<ProcessDoc>>> {
    let session = app.manager.find(&key)?;
    let list = app.manager.processes(&session.id).await?;
    let shims = app.manager.shims();
    // why: an agent that the host did not start stands for itself in that list.
    let shim = shims.iter().find(|(_, id)| *id == session.id).map(|(p, _)| p.pid).filter(|p| Some(*p) != session.pid);
    let items = list
        .into_iter()
        .map(|p| {
            let role = if Some(p.id.pid) == shim {
                "shim"
            } else if Some(p.id.pid) == session.pid {
                "agent"
            } else {
                "descendant"
            };
            ProcessDoc {
                pid: p.id.pid,
                ppid: p.ppid,
                start: p.id.start,
                role: role.to_owned(),
                name: p.comm,
                cmdline: p.cmdline.split(' ').map(str::to_owned).collect(),
                rss_kb: p.rss_kb,
                pss_kb: p.pss_kb,
                cpu_ms: p.cpu_ms,
            }
        })
        .collect();
    Ok(Json(Page { items, next: None }))
}

/// `key=value`.
pub(super) fn label_of(given: &str) -> Answer<(String, String)> {
    let (k, v) = given.split_once('=').ok_or_else(|| ApiError::malformed(format!("label {given:?} is not of the form key=value")))?;
    Ok((k.to_owned(), v.to_owned()))
}

fn doc(s: &Session) -> Json<SessionDoc> {
    Json(SessionDoc::from(s))
}
