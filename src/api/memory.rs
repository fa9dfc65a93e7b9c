//! What is kept in memory: for people. Agents reach their namespace through the host's own tools (`session::host_tools`).

use std::path::PathBuf;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};

use super::App;
use super::error::ApiError;
use super::types::{MemoryAddRequest, MemoryDoc, MemoryQuery, Page};
use crate::model::{Actor, MEMORY_HITS, MEMORY_HITS_MAX, MemoryFilter};
use crate::session::{NewMemory, namespace_of};

/// Entries of a page of all where nobody says.
const PAGE: usize = 100;

pub async fn add(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<MemoryAddRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<MemoryDoc>), ApiError> {
    let Json(r) = body?;
    let session = r.session.as_deref().map(|key| app.manager.find(key)).transpose()?.map(|s| s.id);
    let new = NewMemory { namespace: r.namespace, cwd: r.cwd.map(PathBuf::from), session, tier: r.tier, text: r.text, tags: r.tags };
    Ok((StatusCode::CREATED, Json(MemoryDoc::from(&app.manager.add_memory(new, actor).await?))))
}

pub async fn list(State(app): State<App>, query: Result<Query<MemoryQuery>, QueryRejection>) -> Result<Json<Page<MemoryDoc>>, ApiError> {
    let Query(q) = query?;
    let session = q.session.as_deref().map(|key| app.manager.find(key)).transpose()?.map(|s| s.id);
    let of_folder = || q.cwd.as_deref().map(|cwd| tokio::task::block_in_place(|| namespace_of(std::path::Path::new(cwd))));
    let namespace = q.namespace.clone().or_else(of_folder);
    let filter = MemoryFilter { namespace, tier: q.tier, session, tag: q.tag, cursor: q.cursor, ..MemoryFilter::default() };
    if let Some(words) = q.q {
        let limit = q.limit.unwrap_or(MEMORY_HITS).clamp(1, MEMORY_HITS_MAX);
        let found = app.manager.search_memory(&words, MemoryFilter { limit, ..filter }).await?;
        return Ok(Json(Page { items: found.iter().map(MemoryDoc::from).collect(), next: None }));
    }
    // why in place: a page may be 32 MB of text.
    let page = tokio::task::block_in_place(|| app.manager.store().memories(&MemoryFilter { limit: q.limit.unwrap_or(PAGE), ..filter }))?;
    Ok(Json(Page { items: page.items.iter().map(MemoryDoc::from).collect(), next: page.next }))
}

pub async fn remove(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<MemoryDoc>, ApiError> {
    let gone = app.manager.remove_memory(vec![id], &actor).await?;
    let gone = gone.first().map(MemoryDoc::from);
    gone.map(Json).ok_or_else(|| ApiError::malformed("an id is needed"))
}
