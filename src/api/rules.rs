//! Rules added and revoked at run time.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};

use super::App;
use super::error::ApiError;
use super::types::{Page, RuleDoc, RuleRequest, RulesQuery};
use crate::model::{Actor, RuleId, format_ms};
use crate::session::{NewRule, Rule};

pub async fn list(State(app): State<App>, query: Result<Query<RulesQuery>, QueryRejection>) -> Result<Json<Page<RuleDoc>>, ApiError> {
    let Query(q) = query?;
    let session = q.session.map(|key| app.manager.find(&key)).transpose()?;
    let items = app.manager.rules(session.as_ref()).into_iter().map(doc).collect();
    Ok(Json(Page { items, next: None }))
}

pub async fn add(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<RuleRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<RuleDoc>), ApiError> {
    let Json(r) = body?;
    let session = r.session.map(|key| app.manager.find(&key)).transpose()?.map(|s| s.id);
    let rule = app.manager.add_rule(NewRule { session, dir: None, effect: r.effect, rule: r.rule }, actor).await?;
    Ok((StatusCode::CREATED, Json(doc(rule))))
}

pub async fn revoke(State(app): State<App>, Extension(actor): Extension<Actor>, Path(id): Path<String>) -> Result<Json<RuleDoc>, ApiError> {
    Ok(Json(doc(app.manager.revoke_rule(&RuleId(id), actor).await?)))
}

/// A rule as a document.
pub fn doc(r: Rule) -> RuleDoc {
    RuleDoc {
        id: r.id.0,
        effect: r.effect,
        rule: r.rule,
        session: r.session.map(|s| s.to_string()),
        dir: r.dir,
        added_at: format_ms(r.added_at),
        by: r.by,
    }
}
