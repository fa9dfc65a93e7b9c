//! Rules added and revoked at run time.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;

use super::App;
use super::confirm::{Asking, Refusal};
use super::error::ApiError;
use super::types::{Page, RuleDoc, RuleRequest, RulesQuery};
use crate::model::{Effect, RuleId, Subject, format_ms};
use crate::operator::Need;
use crate::session::{NewRule, Rule};

pub async fn list(State(app): State<App>, query: Result<Query<RulesQuery>, QueryRejection>) -> Result<Json<Page<RuleDoc>>, ApiError> {
    let Query(q) = query?;
    let session = q.session.map(|key| app.manager.find(&key)).transpose()?;
    let items = app.manager.rules(session.as_ref()).into_iter().map(doc).collect();
    Ok(Json(Page { items, next: None }))
}

pub async fn add(
    State(app): State<App>,
    asking: Asking,
    body: Result<Json<RuleRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<RuleDoc>), Refusal> {
    let Json(r) = body?;
    let session = r.session.map(|key| app.manager.find(&key)).transpose()?.map(|s| s.id);
    let actor = if r.effect == Effect::Allow {
        let scope = session.as_ref().map_or("all sessions", |s| s.as_str());
        asking.confirmed(&app, Need::Configured, Subject::new("add an allow rule").with("rule", &r.rule).with("for", scope)).await?
    } else {
        asking.actor()
    };
    let rule = app.manager.add_rule(NewRule { session, dir: None, effect: r.effect, rule: r.rule }, actor).await?;
    Ok((StatusCode::CREATED, Json(doc(rule))))
}

pub async fn revoke(State(app): State<App>, asking: Asking, Path(id): Path<String>) -> Result<Json<RuleDoc>, Refusal> {
    // why not of an allow rule: taking that back tightens.
    let loosens = app.manager.rules_of_all().into_iter().find(|r| r.id.0 == id).filter(|r| r.effect != Effect::Allow);
    let actor = match loosens {
        Some(rule) => {
            let subject = Subject::new("take a rule back").with("id", &id).with("rule", &rule.rule).with("effect", rule.effect.as_str());
            asking.confirmed(&app, Need::Configured, subject).await?
        }
        None => asking.actor(),
    };
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
