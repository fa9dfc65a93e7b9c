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
    BriefRequest, CHILDREN_SHOWN, ChildDoc, LABELS_MAX, PAGE_DEFAULT, PAGE_MAX, PROMPT_MAX, Page, ProcessDoc, QueueRequest, RemoveQuery,
    RunRequest, SendRequest, SessionDetailDoc, SessionDoc, SessionsQuery, StopRequest, WAIT_MAX_MS, WaitQuery,
};
use crate::model::{Actor, CONTEXT_PROVIDERS_MAX, Handler, Session, Subject};
use crate::operator::Need;
use crate::session::{Ask, Brief, StartRequest, is_gated};
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
    if r.compact_at.is_some_and(|p| !(1..=100).contains(&p)) {
        return Err(ApiError::malformed("compact_at: 1 to 100 percent, 100 is never".to_owned()).into());
    }
    if r.context.as_ref().is_some_and(|c| c.len() > CONTEXT_PROVIDERS_MAX) {
        return Err(ApiError::malformed(format!("context: at most {CONTEXT_PROVIDERS_MAX} names")).into());
    }
    let actor = match loosens(&r).or_else(|| elsewhere(&app, &r)) {
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
        brief: brief(r.brief),
        write_root: r.write_root.map(PathBuf::from),
        model: r.model,
        mcp_config: r.mcp_config,
        host_tools: r.host_tools,
        attach: r.attach,
        keep_open: r.keep_open,
        limits: r.limits,
        compact_at: r.compact_at,
        context: r.context,
        going_on: None,
        plan: r.plan,
    };
    let session = match r.queue {
        Some(q) => app.manager.enqueue(request, ask(q)?, actor).await?,
        None => app.manager.start(request, actor).await?,
    };
    Ok((StatusCode::CREATED, Json(SessionDoc::from(&session))))
}

pub(super) fn brief(b: BriefRequest) -> Brief {
    Brief {
        target: b.target,
        owner: b.owner,
        mission: b.mission,
        assignment: b.assignment,
        phase: b.phase,
        tenant: b.tenant,
        thread: b.thread,
        parent: b.parent,
        allowed_tools: b.allowed_tools,
        read_only_repo: b.read_only_repo,
        expect_report: b.expect_report,
        origin: None,
    }
}

fn ask(q: QueueRequest) -> Answer<Ask> {
    let at = q.at.as_deref().map(time_of).transpose()?;
    if at.is_some() && q.delay_ms.is_some() {
        return Err(ApiError::malformed("queue: at and delay_ms exclude each other"));
    }
    Ok(Ask { lane: q.lane, priority: q.priority, at, delay_ms: q.delay_ms, after: q.after })
}

/// Workers elsewhere may run it, where no gate of this host is.
fn elsewhere(app: &App, r: &RunRequest) -> Option<&'static str> {
    let handler = app.manager.handler_of(r.queue.as_ref()?.lane.as_deref())?;
    (handler != Handler::Internal).then_some("queue a session that workers may run without a gate")
}

/// What is confirmed about a start: nothing where every call will be judged.
fn loosens(r: &RunRequest) -> Option<&'static str> {
    if !r.unsafe_args.is_empty() {
        return Some("start a session with arguments that lower its mediation");
    }
    let plan = r.plan.as_ref();
    if plan.is_some_and(|p| p.verifier.is_some()) {
        return Some("start a session whose attempts a command judges");
    }
    let tiers = plan.map(|p| p.tiers.as_slice()).unwrap_or_default();
    let ungated = tiers.iter().any(|t| t.agent.is_empty() || !is_gated(&t.agent)) || (tiers.is_empty() && !is_gated(&r.agent));
    ungated.then_some("start a session without a gate")
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
    let labels = q.labels().map_err(|part| ApiError::malformed(format!("label {part:?} is not of the form key=value")))?;
    if labels.len() > LABELS_MAX {
        return Err(ApiError::malformed(format!("{} labels, over the limit of {LABELS_MAX}", labels.len())));
    }
    let time = |t: &Option<String>| t.as_deref().map(time_of).transpose();
    let (since, until) = (time(&q.since)?, time(&q.until)?);
    let parent = q.parent.as_deref().map(|key| app.manager.store().find(key)).transpose()?;
    let page = app.manager.store().sessions(&Filter {
        status: q.status.into_iter().collect(),
        outcome: q.outcome.into_iter().collect(),
        agent: q.agent,
        name: q.name,
        owner: q.owner,
        mission: q.mission,
        phase: q.phase,
        tenant: q.tenant,
        thread: q.thread,
        parent,
        labels,
        since,
        until,
        sort: q.sort.unwrap_or_default(),
        reverse: q.reverse.unwrap_or_default(),
        limit: q.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX),
        cursor: q.cursor,
    })?;
    let mut items = Vec::with_capacity(page.items.len());
    for session in page.items {
        items.push(SessionDoc::from(&app.manager.reconciled(session).await));
    }
    Ok(Json(Page { items, next: page.next }))
}

pub async fn show(State(app): State<App>, Path(key): Path<String>) -> Answer<Json<SessionDetailDoc>> {
    let session = app.manager.reconciled(app.manager.find(&key)?).await;
    let store = app.manager.store();
    let newest = store.sessions(&Filter { parent: Some(session.id.clone()), limit: CHILDREN_SHOWN, ..Filter::default() })?.items;
    let child = |s: Session| ChildDoc { id: s.id.to_string(), name: s.name, status: s.status, outcome: s.outcome };
    let folder = Some(app.manager.run_dir(&session)).filter(|d| d.is_dir());
    Ok(Json(SessionDetailDoc {
        session: SessionDoc::from(&session),
        children: newest.into_iter().map(child).collect(),
        children_count: store.children(&session.id)?,
        folder: folder.map(|d| d.display().to_string()),
    }))
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

/// A time in RFC 3339 as wall milliseconds.
pub(super) fn time_of(given: &str) -> Answer<i64> {
    let wrong =
        || ApiError::malformed(format!("time {:?} is not of the form 2026-01-31T08:00:00Z", given.chars().take(40).collect::<String>()));
    chrono::DateTime::parse_from_rfc3339(given).map(|t| t.timestamp_millis()).map_err(|_| wrong())
}

/// `key=value`.
pub(super) fn label_of(given: &str) -> Answer<(String, String)> {
    let (k, v) = given.split_once('=').ok_or_else(|| ApiError::malformed(format!("label {given:?} is not of the form key=value")))?;
    Ok((k.to_owned(), v.to_owned()))
}

fn doc(s: &Session) -> Json<SessionDoc> {
    Json(SessionDoc::from(s))
}
