//! Attempts of a session, or of a tree of sessions: shown, kept as a commit, taken back.

use std::collections::{HashMap, HashSet};

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};

use super::App;
use super::error::ApiError;
use super::types::{
    ATTEMPTS_SHOWN, AttemptDoc, AttemptsDoc, AttemptsQuery, CheckpointDoc, CheckpointRequest, RestoredDoc, RollbackDoc, RollbackRequest,
    RolledBackDoc, TREE_MAX,
};
use crate::model::ledger::{Dimension, Group};
use crate::model::{Actor, Clock, Session, SessionId, SystemClock};
use crate::session::Selection;
use crate::store::{Filter, LedgerQuery, MAX_SESSIONS, Store};

pub async fn list(
    State(app): State<App>,
    Path(key): Path<String>,
    query: Result<Query<AttemptsQuery>, QueryRejection>,
) -> Result<Json<AttemptsDoc>, ApiError> {
    let Query(q) = query?;
    let session = app.manager.reconciled(app.manager.find(&key)?).await;
    let store = app.manager.store().clone();
    let added = tokio::task::spawn_blocking(move || added(&store, session, q.tree)).await;
    Ok(Json(added.map_err(|e| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "BDL-API-041", format!("adding up failed: {e}")))??))
}

fn added(store: &Store, root: Session, whole: bool) -> Result<AttemptsDoc, ApiError> {
    let now = SystemClock.wall_ms();
    let (sessions, mut truncated) = if whole { tree(store, root)? } else { (vec![root], false) };
    let mut doc = AttemptsDoc::default();
    'sessions: for s in &sessions {
        let rows = store.attempts(&s.id)?;
        let q = LedgerQuery {
            by: Dimension::Attempt,
            since: None,
            until: None,
            session: Some(s.id.clone()),
            agent: None,
            label: None,
            offset_minutes: 0,
            now,
        };
        let groups: HashMap<String, Group> = store.ledger(&q)?.rows.into_iter().collect();
        for a in rows.0.values() {
            if doc.items.len() >= ATTEMPTS_SHOWN {
                truncated = true;
                break 'sessions;
            }
            let of = AttemptDoc::of(s, a, groups.get(&a.number.to_string()), now).and_then(|a| doc.add(a));
            of.map_err(|e| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "BDL-API-036", e.to_string()))?;
        }
    }
    doc.truncated = truncated;
    Ok(doc)
}

pub async fn checkpoint(
    State(app): State<App>,
    Path(key): Path<String>,
    body: Result<Json<CheckpointRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<CheckpointDoc>), ApiError> {
    let Json(CheckpointRequest {}) = body?;
    let session = app.manager.find(&key)?;
    let kept = app.manager.checkpoint(&session).await?;
    let (attempt, commit, reference) = (kept.attempt, kept.commit, kept.reference);
    Ok((StatusCode::CREATED, Json(CheckpointDoc { session: session.id.to_string(), attempt, commit, reference })))
}

pub async fn roll_back(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<RollbackRequest>, JsonRejection>,
) -> Result<Json<RollbackDoc>, ApiError> {
    let Json(r) = body?;
    if r.sessions.is_empty() || r.sessions.len() > TREE_MAX {
        return Err(ApiError::malformed(format!("sessions: 1 to {TREE_MAX}; there are {}", r.sessions.len())));
    }
    let store = app.manager.store().clone();
    let (mut sessions, mut seen): (Vec<Session>, HashSet<SessionId>) = Default::default();
    for key in &r.sessions {
        let named = app.manager.find(key)?;
        let (found, more) = if r.tree { tokio::task::block_in_place(|| tree(&store, named))? } else { (vec![named], false) };
        if more {
            return Err(ApiError::malformed(format!("the tree of {key:?} has over {TREE_MAX} sessions; roll back parts of it")));
        }
        for s in found {
            if seen.insert(s.id.clone()) {
                sessions.push(s);
            }
        }
    }
    let which = Selection { attempt: r.attempt, agent: r.agent, phase: r.phase };
    let restore = r.restore.map(std::path::PathBuf::from);
    let (all, restored) = app.manager.roll_back(&sessions, &which, restore.as_deref(), &actor).await?;
    let marked_count = all.iter().filter(|t| t.marked).count() as u64;
    let items = all.into_iter().map(|t| RolledBackDoc { session: t.session, attempt: t.attempt, marked: t.marked }).collect();
    let restored =
        restored.map(|x| RestoredDoc { session: x.session, attempt: x.attempt, commit: x.commit, folder: x.folder.display().to_string() });
    Ok(Json(RollbackDoc { items, marked_count, restored }))
}

/// A session and all that were started for it, nearest first; true when there are more than are looked at.
pub(super) fn tree(store: &Store, root: Session) -> Result<(Vec<Session>, bool), ApiError> {
    let mut seen: HashSet<_> = [root.id.clone()].into();
    let mut all = vec![root];
    let mut at = 0;
    while let Some(parent) = all.get(at).map(|s| s.id.clone()) {
        at += 1;
        let mut filter = Filter { parent: Some(parent), limit: MAX_SESSIONS, ..Filter::default() };
        loop {
            let page = store.sessions(&filter)?;
            for s in page.items {
                if all.len() >= TREE_MAX {
                    return Ok((all, true));
                }
                if seen.insert(s.id.clone()) {
                    all.push(s);
                }
            }
            match page.next {
                Some(next) => filter.cursor = Some(next),
                None => break,
            }
        }
    }
    Ok((all, false))
}
