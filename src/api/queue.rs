//! The queue: lanes, who waits, dead letters, and workers with their leases.

use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};

use super::App;
use super::confirm::{Asking, Refusal};
use super::error::ApiError;
use super::sessions::time_of;
use super::types::{
    LaneAct, LaneDoc, LaneRequest, LeaseAct, LeaseDoc, LeaseRequest, LeaseWord, LeasedDoc, Page, QUEUE_SHOWN, QueueDoc, QueueMoveRequest,
    QueueQuery, QueuedDoc, SessionDoc, WAIT_MAX_MS, WORKER_OUTPUT,
};
use crate::model::{Actor, Handler, Mediation, Session, Subject};
use crate::operator::Need;
use crate::session::{Hold, Leased, Move, QueuedSession, Settled};

type Answer<T> = Result<Json<T>, ApiError>;

/// Most lanes that a worker names.
const LANES_MAX: usize = 64;

pub async fn show(State(app): State<App>) -> Json<QueueDoc> {
    Json(document(&app))
}

const fn word(hold: Hold) -> &'static str {
    match hold {
        Hold::Paused => "paused",
        Hold::Stopped => "stopped",
    }
}

fn document(app: &App) -> QueueDoc {
    let (lanes, hold) = app.manager.lanes();
    let config = &app.manager.config().queue;
    let lanes = lanes.into_iter().map(|l| LaneDoc {
        lane: l.lane,
        handler: l.handler,
        configured: l.configured,
        hold: l.hold.map(|h| word(h).to_owned()),
        priority: l.priority,
        concurrency: l.concurrency,
        depth: l.depth,
        delayed: l.delayed,
        blocked: l.blocked,
        running: l.running,
        leased: l.leased,
        oldest_ms: l.oldest_ms,
        wait_p50_ms: l.wait_p50_ms,
        wait_p99_ms: l.wait_p99_ms,
        ended_last_hour: l.ended_last_hour,
        dead_last_hour: l.dead_last_hour,
    });
    QueueDoc { hold: hold.map(|h| word(h).to_owned()), concurrency: config.concurrency, depth_max: config.depth, lanes: lanes.collect() }
}

pub async fn hold(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<LaneRequest>, JsonRejection>,
) -> Answer<QueueDoc> {
    let Json(r) = body?;
    let hold = match r.act {
        LaneAct::Start => None,
        LaneAct::Pause => Some(Hold::Paused),
        LaneAct::Stop => Some(Hold::Stopped),
    };
    app.manager.hold_lane(r.lane.as_deref(), hold, &actor).await?;
    Ok(Json(document(&app)))
}

pub async fn list(State(app): State<App>, query: Result<Query<QueueQuery>, QueryRejection>) -> Answer<Page<QueuedDoc>> {
    let Query(q) = query?;
    let mut items: Vec<QueuedDoc> = app.manager.queued(q.lane.as_deref(), QUEUE_SHOWN)?.into_iter().map(queued).collect();
    items.truncate(QUEUE_SHOWN);
    Ok(Json(Page { items, next: None }))
}

fn queued(q: QueuedSession) -> QueuedDoc {
    QueuedDoc { place: q.place, state: q.state.to_owned(), left_ms: q.left_ms, after: q.after, session: SessionDoc::from(&q.session) }
}

pub async fn move_to(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Path(key): Path<String>,
    body: Result<Json<QueueMoveRequest>, JsonRejection>,
) -> Answer<SessionDoc> {
    let Json(r) = body?;
    let id = app.manager.find(&key)?.id;
    let at = r.at.as_deref().map(time_of).transpose()?;
    let to = Move { lane: r.lane, priority: r.priority, at, delay_ms: r.delay_ms, after: r.after };
    Ok(doc(&app.manager.requeue(&id, to, actor).await?))
}

pub async fn remove(State(app): State<App>, Extension(actor): Extension<Actor>, Path(key): Path<String>) -> Answer<SessionDoc> {
    let session = app.manager.find(&key)?;
    Ok(doc(&app.manager.dequeue(&session.id, actor).await?))
}

pub async fn dead(State(app): State<App>, query: Result<Query<QueueQuery>, QueryRejection>) -> Answer<Page<SessionDoc>> {
    let Query(q) = query?;
    let manager = app.manager.clone();
    // why blocking: many sessions may be looked at.
    let found = tokio::task::spawn_blocking(move || manager.dead_letters(q.lane.as_deref())).await;
    let found = found
        .map_err(|e| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "BDL-API-032", format!("looking for dead letters failed: {e}")))?;
    Ok(Json(Page { items: found?.iter().take(QUEUE_SHOWN).map(SessionDoc::from).collect(), next: None }))
}

pub async fn retry(State(app): State<App>, asking: Asking, Path(key): Path<String>) -> Result<(StatusCode, Json<SessionDoc>), Refusal> {
    let session = app.manager.find(&key).map_err(ApiError::from)?;
    let ungated = session.mediation != Mediation::Gate || session.queue.as_ref().is_some_and(|q| q.handler != Handler::Internal);
    let actor = if ungated {
        let subject = Subject::new("try a session without a gate again").with("session", session.id.as_str()).with("agent", &session.agent);
        asking.confirmed(&app, Need::Configured, subject).await?
    } else {
        asking.actor()
    };
    let new = app.manager.retry(&session.id, actor).await.map_err(ApiError::from)?;
    Ok((StatusCode::CREATED, doc(&new)))
}

pub async fn lease(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<LeaseRequest>, JsonRejection>,
) -> Answer<LeaseDoc> {
    let Json(r) = body?;
    if r.lanes.len() > LANES_MAX {
        return Err(ApiError::malformed(format!("{} lanes, over the limit of {LANES_MAX}", r.lanes.len())));
    }
    let wait = Duration::from_millis(r.wait_ms.min(WAIT_MAX_MS));
    let leased = app.manager.lease(&r.worker, &r.lanes, wait, actor).await?;
    Ok(Json(LeaseDoc { task: leased.map(task) }))
}

fn task(l: Leased) -> LeasedDoc {
    let r = l.request;
    LeasedDoc {
        session: SessionDoc::from(&l.session),
        lease: l.lease,
        agent: r.agent,
        program: r.program,
        args: r.args,
        cwd: r.cwd.display().to_string(),
        write_root: r.write_root.map(|p| p.display().to_string()),
        model: r.model,
        prompt: r.prompt,
        mcp_config: r.mcp_config,
        labels: r.labels,
        env_names: l.env_names,
    }
}

pub async fn settle(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Path(key): Path<String>,
    body: Result<Json<LeaseWord>, JsonRejection>,
) -> Answer<SessionDoc> {
    let Json(w) = body?;
    if w.output.as_ref().is_some_and(|o| o.len() > WORKER_OUTPUT) {
        return Err(ApiError::malformed(format!("the output is over {WORKER_OUTPUT} bytes; leave it in a file and name that")));
    }
    let reason = || w.reason.clone().filter(|r| !r.trim().is_empty()).unwrap_or_else(|| "no reason given".to_owned());
    let said = match w.act {
        LeaseAct::Heartbeat => Settled::Beat,
        LeaseAct::Complete => Settled::Completed { exit_code: w.exit_code, output: w.output.clone() },
        LeaseAct::Fail => Settled::Failed { reason: reason(), exit_code: w.exit_code, last: w.last },
        LeaseAct::Release => Settled::Released { reason: reason() },
    };
    let id = app.manager.find(&key)?.id;
    Ok(doc(&app.manager.settle_lease(&id, w.lease, said, actor).await?))
}

fn doc(s: &Session) -> Json<SessionDoc> {
    Json(SessionDoc::from(s))
}
