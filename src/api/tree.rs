//! Trees of sessions, handoffs, tasks.

use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};

use super::App;
use super::confirm::{Asking, Refusal};
use super::error::ApiError;
use super::types::{
    HandOffRequest, PAUSE_REASON_MAX, PROMPT_MAX, Page, SessionDoc, SubAgentDoc, TaskDoc, TaskRequest, TogetherDoc, TreeActDoc,
    TreeActRequest, TreeDoc, TreeNodeDoc,
};
use crate::model::{Actor, Status, Subject, TreeAct};
use crate::operator::Need;
use crate::session::{ActRequest, HandOff, TaskChange};

/// Longest grace that is taken, in milliseconds.
const GRACE_MAX: u64 = 3_600_000;

pub async fn show(State(app): State<App>, Path(key): Path<String>) -> Result<Json<TreeDoc>, ApiError> {
    let id = app.manager.find(&key)?.id;
    let manager = app.manager.clone();
    // why blocking: a large tree is read row by row.
    let tree = tokio::task::spawn_blocking(move || manager.tree(&id)).await;
    let tree =
        tree.map_err(|e| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "BDL-API-040", format!("reading the tree failed: {e}")))??;
    let node = |n: &crate::session::Node| TreeNodeDoc {
        depth: n.depth,
        session: SessionDoc::from(&n.session),
        together: TogetherDoc::from(&n.together),
        sub_agents: n.sub_agents.iter().map(SubAgentDoc::from).collect(),
    };
    Ok(Json(TreeDoc { nodes: tree.nodes.iter().map(node).collect(), truncated: tree.truncated }))
}

pub async fn act(
    State(app): State<App>,
    asking: Asking,
    Path(key): Path<String>,
    body: Result<Json<TreeActRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<TreeActDoc>), Refusal> {
    let Json(r) = body?;
    let reason = r.reason.unwrap_or_else(|| "an operator paused its tree".to_owned());
    if reason.len() > PAUSE_REASON_MAX || reason.chars().any(char::is_control) {
        let why = format!("a reason has at most {PAUSE_REASON_MAX} bytes and no control characters");
        return Err(ApiError::malformed(why).into());
    }
    let root = app.manager.find(&key)?.id;
    let breached: Vec<String> = match r.act {
        TreeAct::Resume => {
            let found = app.manager.store().tree(&root, crate::session::TREE_MAX)?;
            let breached = |s: &crate::model::Session| s.status == Status::Paused && s.breaches > 0;
            found.into_iter().filter(|(_, s)| breached(s)).map(|(_, s)| s.id.to_string()).collect()
        }
        _ => vec![],
    };
    let actor = if breached.is_empty() {
        asking.actor()
    } else {
        let subject = Subject::new("let sessions go on that had a breach").with("sessions", breached.join(" "));
        asking.confirmed(&app, Need::Configured, subject).await?
    };
    let request = ActRequest { grace: r.grace_ms.map(|ms| Duration::from_millis(ms.min(GRACE_MAX))), mode: r.mode, reason };
    let report = app.manager.act_on_tree(&root, r.act, request, actor).await?;
    let done = report.done.iter().map(ToString::to_string).collect();
    Ok((StatusCode::ACCEPTED, Json(TreeActDoc { act: r.act, done, failed: report.failed })))
}

pub async fn hand_off(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Path(key): Path<String>,
    body: Result<Json<HandOffRequest>, JsonRejection>,
) -> Result<Json<SessionDoc>, ApiError> {
    let Json(r) = body?;
    if r.reason.as_ref().is_some_and(|t| t.len() > PROMPT_MAX) {
        return Err(ApiError::malformed(format!("a reason has at most {PROMPT_MAX} bytes")));
    }
    let id = app.manager.find(&key)?.id;
    let handed = HandOff { from: r.from, to: r.to, session: r.session, reason: r.reason };
    Ok(Json(SessionDoc::from(&app.manager.hand_off(&id, handed, actor).await?)))
}

pub async fn tasks(State(app): State<App>, Path(key): Path<String>) -> Result<Json<Page<TaskDoc>>, ApiError> {
    let id = app.manager.find(&key)?.id;
    Ok(Json(Page { items: app.manager.tasks(&id)?.iter().map(TaskDoc::from).collect(), next: None }))
}

pub async fn add_task(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Path(key): Path<String>,
    body: Result<Json<TaskRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<TaskDoc>), ApiError> {
    let Json(r) = body?;
    let id = app.manager.find(&key)?.id;
    Ok((StatusCode::CREATED, Json(TaskDoc::from(&app.manager.add_task(&id, change(r), actor).await?))))
}

pub async fn set_task(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Path((key, task)): Path<(String, String)>,
    body: Result<Json<TaskRequest>, JsonRejection>,
) -> Result<Json<TaskDoc>, ApiError> {
    let Json(r) = body?;
    let id = app.manager.find(&key)?.id;
    Ok(Json(TaskDoc::from(&app.manager.set_task(&id, &task, change(r), actor).await?)))
}

fn change(r: TaskRequest) -> TaskChange {
    TaskChange { title: r.title, status: r.status, owner: r.owner, note: r.note }
}
