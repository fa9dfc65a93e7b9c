//! The account of a session: the fold over its log, made when it is asked for.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};

use super::App;
use super::error::ApiError;
use super::types::{AccountDoc, AccountQuery};

pub async fn show(
    State(app): State<App>,
    Path(key): Path<String>,
    query: Result<Query<AccountQuery>, QueryRejection>,
) -> Result<Json<AccountDoc>, ApiError> {
    let Query(q) = query?;
    let id = app.manager.find(&key)?.id;
    // why blocking: a log of many thousand events is read whole, a page at a time.
    let (session, account) = tokio::task::block_in_place(|| app.manager.account(&id))?;
    Ok(Json(AccountDoc::new(&session, &account, &q)))
}
