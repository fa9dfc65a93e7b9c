//! Operator keys: listed, added, removed.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::App;
use super::confirm::{Asking, Refusal, key};
use super::types::{OperatorDoc, OperatorKeyDoc, OperatorKeyRequest};
use crate::model::{Actor, OperatorKey, Subject};
use crate::operator::Need;
use crate::store::OperatorKeyRemoved;

pub async fn show(State(app): State<App>) -> Json<OperatorDoc> {
    let keys = app.operators.keys().into_iter().map(key).collect();
    Json(OperatorDoc { confirm: app.operators.confirm().as_str().to_owned(), keys })
}

pub async fn add(
    State(app): State<App>,
    asking: Asking,
    body: Result<Json<OperatorKeyRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<OperatorKeyDoc>), Refusal> {
    let Json(r) = body?;
    let added_at = chrono::Utc::now().timestamp_millis();
    let mut new = OperatorKey { name: r.name, derivation: r.derivation, public: r.public, added_at, by: Actor::default() };
    app.operators.may_add(&new)?;
    let subject = Subject::new("add an operator key").with("name", &new.name).with("public key", &new.public);
    let first = app.operators.keys().is_empty();
    new.by = asking.confirmed(&app, Need::Keys, subject).await?;
    app.operators.add(new.clone(), first).await?;
    Ok((StatusCode::CREATED, Json(key(new))))
}

pub async fn remove(State(app): State<App>, asking: Asking, Path(name): Path<String>) -> Result<Json<OperatorKeyDoc>, Refusal> {
    let found = app.operators.keys().into_iter().find(|k| k.name == name);
    let found = found.ok_or_else(|| crate::operator::Error::NoKey(name.chars().take(80).collect()))?;
    let subject = Subject::new("remove an operator key").with("name", &found.name).with("public key", &found.public);
    let by = asking.confirmed(&app, Need::Keys, subject).await?;
    Ok(Json(key(app.operators.remove(OperatorKeyRemoved { name, by }).await?)))
}
