//! Sinks: listed, tried again, moved past events.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};

use super::App;
use super::confirm::{Asking, Refusal};
use super::error::ApiError;
use super::types::{
    DeadLetterDoc, DeadLettersQuery, PAGE_DEFAULT, PAGE_MAX, Page, SinkCursor, SinkDoc, SinkErrorDoc, SinkPluginDoc, SinkRetryDoc,
    SinkRetryRequest, SinkSkipDoc, SinkSkipRequest, SinksDoc,
};
use crate::model::{Subject, format_ms};
use crate::operator::Need;
use crate::sink::{Error, SinkStatus, Skip};
use crate::store::DeadLetter;

pub async fn list(State(app): State<App>) -> Json<SinksDoc> {
    Json(SinksDoc { sinks: app.sinks.status().into_iter().map(doc).collect(), key: app.sinks.key().to_owned() })
}

pub async fn dead_letters(
    State(app): State<App>,
    Path(name): Path<String>,
    query: Result<Query<DeadLettersQuery>, QueryRejection>,
) -> Result<Json<Page<DeadLetterDoc>>, ApiError> {
    let Query(q) = query?;
    let limit = q.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    let sinks = app.sinks.clone();
    let found = tokio::task::spawn_blocking(move || sinks.dead_letters(&name, q.after.unwrap_or(0), limit + 1)).await;
    let mut found = found.map_err(|_| Error::Store { sink: String::new(), why: "reading broke off".to_owned() })??;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|l| l.id.to_string());
    Ok(Json(Page { items: found.into_iter().map(letter).collect(), next }))
}

pub async fn retry(
    State(app): State<App>,
    Path(name): Path<String>,
    body: Result<Json<SinkRetryRequest>, JsonRejection>,
) -> Result<Json<SinkRetryDoc>, ApiError> {
    let Json(r) = body?;
    let status = app.sinks.retry(&name).await?;
    if !r.dead_letters {
        return Ok(Json(SinkRetryDoc { sink: name, redelivered: None, dead_letters: status.dead_letters, trouble: None }));
    }
    let done = app.sinks.redeliver(&name).await?;
    Ok(Json(SinkRetryDoc { sink: name, redelivered: Some(done.delivered), dead_letters: done.left, trouble: done.trouble }))
}

pub async fn skip(
    State(app): State<App>,
    asking: Asking,
    Path(name): Path<String>,
    body: Result<Json<SinkSkipRequest>, JsonRejection>,
) -> Result<Json<SinkSkipDoc>, Refusal> {
    let Json(r) = body?;
    let what: Skip = r.what.parse().map_err(ApiError::from)?;
    if !app.sinks.status().iter().any(|s| s.name == name) {
        return Err(ApiError::from(Error::NoSink(name.chars().take(80).collect())).into());
    }
    let subject = Subject::new("skip events of an audit sink").with("sink", &name).with("events", &r.what);
    let by = asking.confirmed(&app, Need::Configured, subject).await?;
    let skipped = app.sinks.skip(&name, what, by).await.map_err(ApiError::from)?;
    Ok(Json(SinkSkipDoc { sink: name, skipped }))
}

fn doc(s: SinkStatus) -> SinkDoc {
    SinkDoc {
        name: s.name,
        kind: s.kind.to_owned(),
        mode: s.mode.to_owned(),
        group: s.group,
        plugin: s.component.map(|c| SinkPluginDoc { name: c.name, version: c.version, digest: c.digest }),
        cursor: SinkCursor { host_seq: s.place.host_seq, row: s.place.row },
        lag_events: s.lag_events,
        lag_ms: s.lag_ms,
        lagging: s.lagging,
        delivered: s.delivered,
        dropped: s.dropped,
        skipped: s.skipped,
        dead_letters: s.dead_letters,
        failures: s.failures,
        last_error: s.last_error.map(|(at, message)| SinkErrorDoc { at: format_ms(at), message }),
        next_try_at: s.next_try_at.map(format_ms),
    }
}

fn letter(l: DeadLetter) -> DeadLetterDoc {
    // why null: a body that is no JSON is one of the reasons why an event is here.
    let body = serde_json::value::RawValue::from_string(l.event.body).unwrap_or_else(|_| serde_json::value::RawValue::NULL.to_owned());
    DeadLetterDoc {
        id: l.id,
        at: format_ms(l.at),
        reason: l.reason,
        session: l.event.session,
        seq: l.event.seq,
        kind: l.event.kind,
        hash: l.event.hash,
        body,
    }
}
