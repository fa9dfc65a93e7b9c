//! Writes of other programs into sessions of their own.
//!
//! Only the operator may: a process inside a session has no word in another's log, nor a second one in its own.

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::{Extension, Json};

use super::App;
use super::error::ApiError;
use super::sessions::brief;
use super::types::{LABELS_MAX, OpenRequest, SessionDoc, WriteRequest, WroteDoc};
use crate::model::Actor;
use crate::session::{LostWrites, OpenWritten, WriteCall, WriteTo};

pub async fn write(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<WriteRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<WroteDoc>), ApiError> {
    let Json(r) = body?;
    let to = match (r.session, r.open) {
        (Some(session), None) => WriteTo::Session(session),
        (None, Some(open)) => WriteTo::Open(Box::new(opening(open)?)),
        _ => return Err(ApiError::malformed("a write names its session by `session` or by `open`, and not by both")),
    };
    let lost = r.lost.map(|l| LostWrites { id: l.id, count: l.count, keys: l.keys, since: l.since, why: l.why });
    let wrote = app.manager.write(WriteCall { to, key: r.key, writes: r.writes, lost }, actor).await?;
    let is_new = wrote.opened || (wrote.seqs.is_some() && !wrote.repeated) || wrote.lost > 0;
    let doc = WroteDoc {
        opened: wrote.opened,
        repeated: wrote.repeated,
        first_seq: wrote.seqs.map(|(first, _)| first),
        last_seq: wrote.seqs.map(|(_, last)| last),
        lost: wrote.lost,
        session: SessionDoc::from(&wrote.session),
    };
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(doc)))
}

fn opening(o: OpenRequest) -> Result<OpenWritten, ApiError> {
    if o.labels.len() > LABELS_MAX || o.labels.iter().any(|(k, v)| k.is_empty() || k.len() > 64 || v.len() > 256) {
        return Err(ApiError::malformed(format!("labels: at most {LABELS_MAX}, keys of 1 to 64 bytes, values of at most 256")));
    }
    Ok(OpenWritten {
        key: o.key,
        name: o.name,
        agent: o.agent,
        cwd: o.cwd.unwrap_or_default(),
        prompt: o.prompt,
        labels: o.labels,
        brief: brief(o.brief),
        idle_ms: o.idle_ms,
    })
}
