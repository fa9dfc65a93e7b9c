//! Events as pages and as server-sent streams that resume.
//!
//! A stream reads from the store and sleeps on its wake-ups, so a slow reader costs no memory: it simply reads later.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use serde_json::value::RawValue;

use super::App;
use super::error::ApiError;
use super::types::{Attach, EventDoc, EventsQuery, PAGE_BYTES, PAGE_DEFAULT, PAGE_MAX, Page, Problem, SSE_TYPE, SessionDoc};
use crate::model::{SessionId, Status, format_ms};
use crate::session::{AttachGuard, Manager};
use crate::store::StoredEvent;

/// Events read from the store at a time.
const READ: usize = 256;
/// How often an idle link says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A stream looks at the store at least so often, whatever wake-ups say.
const POLL: Duration = Duration::from_secs(5);

pub async fn of_session(
    State(app): State<App>,
    Path(key): Path<String>,
    query: Result<Query<EventsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(q) = query?;
    let session = app.manager.find(&key)?;
    let kinds = kinds(q.kinds.as_deref());
    let from = match (q.tail, q.from) {
        (Some(n), _) => session.last_seq.saturating_sub(n as u64) + 1,
        (None, from) => from.unwrap_or(1).max(1),
    };
    if !wants_stream(&headers) {
        let page = page(&app.manager, &session.id, from, q.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX), &kinds)?;
        return Ok(Json(page).into_response());
    }
    let from = match last_event_id(&headers) {
        Some(id) => id.parse::<u64>().map_err(|_| ApiError::malformed(format!("Last-Event-ID {id:?} is not a seq")))? + 1,
        None => from,
    };
    let guard = match q.attach {
        Some(Attach::Answer) => app.manager.attach(&session.id).await,
        None => None,
    };
    let reader = Reader {
        wake: app.manager.store().watch(),
        manager: app.manager.clone(),
        id: session.id,
        next: from,
        kinds,
        ready: Vec::new().into_iter(),
        done: false,
        _guard: guard,
    };
    Ok(sse(stream::unfold(reader, |mut r| async move { r.message().await.map(|m| (Ok(m), r)) })))
}

pub async fn of_all(
    State(app): State<App>,
    query: Result<Query<EventsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(q) = query?;
    let store = app.manager.store();
    let after = match last_event_id(&headers) {
        Some(id) => id.parse().map_err(|_| ApiError::malformed(format!("Last-Event-ID {id:?} is not a cursor of this stream")))?,
        None => store.newest_row()?,
    };
    let reader = AllReader {
        wake: store.watch(),
        manager: app.manager.clone(),
        after,
        kinds: kinds(q.kinds.as_deref()),
        ready: Vec::new().into_iter(),
    };
    Ok(sse(stream::unfold(reader, |mut r| async move { r.message().await.map(|m| (Ok(m), r)) })))
}

/// One page, cut by count and by bytes.
fn page(manager: &Manager, id: &SessionId, from: u64, limit: usize, kinds: &BTreeSet<String>) -> Result<Page<EventDoc>, ApiError> {
    let mut items = Vec::new();
    let mut bytes = 0;
    let mut next = from;
    loop {
        let got = manager.store().events(id, next, READ)?;
        if got.is_empty() {
            return Ok(Page { items, next: None });
        }
        for e in got {
            next = e.envelope.seq + 1;
            if !kinds.is_empty() && !kinds.contains(e.envelope.event.kind()) {
                continue;
            }
            bytes += e.body.len();
            items.push(doc(&e)?);
            if items.len() >= limit || bytes >= PAGE_BYTES {
                return Ok(Page { items, next: Some(next.to_string()) });
            }
        }
    }
}

/// An event as a document.
pub fn doc(e: &StoredEvent) -> Result<EventDoc, ApiError> {
    let damaged = |why: String| {
        ApiError::new(
            axum::http::StatusCode::INTERNAL_SERVER_ERROR,
            "BDL-API-009",
            format!("session {}, seq {}: {why}; run `beadle verify`", e.envelope.session, e.envelope.seq),
        )
    };
    let text = String::from_utf8(e.body.clone()).map_err(|_| damaged("the stored body is not text".to_owned()))?;
    Ok(EventDoc {
        session: e.envelope.session.to_string(),
        seq: e.envelope.seq,
        at: format_ms(e.envelope.at),
        attempt: e.envelope.attempt,
        kind: e.envelope.event.kind().to_owned(),
        body: RawValue::from_string(text).map_err(|x| damaged(format!("the stored body is not JSON ({x})")))?,
        prev: Some(e.prev.to_string()),
        hash: Some(e.hash.to_string()),
    })
}

struct Reader {
    manager: Manager,
    id: SessionId,
    next: u64,
    kinds: BTreeSet<String>,
    wake: tokio::sync::broadcast::Receiver<crate::store::Wake>,
    ready: std::vec::IntoIter<StoredEvent>,
    done: bool,
    _guard: Option<AttachGuard>,
}

impl Reader {
    async fn message(&mut self) -> Option<sse::Event> {
        if self.done {
            return None;
        }
        loop {
            for e in self.ready.by_ref() {
                self.next = e.envelope.seq + 1;
                if self.kinds.is_empty() || self.kinds.contains(e.envelope.event.kind()) {
                    let id = e.envelope.seq;
                    return Some(message(&e, id.to_string()));
                }
            }
            match self.manager.store().events(&self.id, self.next, READ) {
                Ok(list) if !list.is_empty() => self.ready = list.into_iter(),
                Ok(_) => match self.manager.store().session(&self.id) {
                    Ok(s) if s.status == Status::Ended && s.last_seq < self.next => {
                        self.done = true;
                        return Some(json_message("end", &SessionDoc::from(&s)));
                    }
                    Ok(s) if s.last_seq >= self.next => {}
                    Ok(_) => self.sleep().await,
                    Err(e) => return Some(self.problem(e.into())),
                },
                Err(e) => return Some(self.problem(e.into())),
            }
        }
    }

    async fn sleep(&mut self) {
        let woken = async {
            while let Ok(w) = self.wake.recv().await {
                if w.session == self.id {
                    break;
                }
            }
        };
        // why ignore: a lagged or silent channel is answered by reading again.
        let _ = tokio::time::timeout(POLL, woken).await;
    }

    fn problem(&mut self, e: ApiError) -> sse::Event {
        self.done = true;
        json_message("problem", &e.problem)
    }
}

struct AllReader {
    manager: Manager,
    after: u64,
    kinds: BTreeSet<String>,
    wake: tokio::sync::broadcast::Receiver<crate::store::Wake>,
    ready: std::vec::IntoIter<(u64, StoredEvent)>,
}

impl AllReader {
    async fn message(&mut self) -> Option<sse::Event> {
        loop {
            for (row, e) in self.ready.by_ref() {
                self.after = row;
                if self.kinds.is_empty() || self.kinds.contains(e.envelope.event.kind()) {
                    return Some(message(&e, row.to_string()));
                }
            }
            match self.manager.store().events_after_row(self.after, READ) {
                Ok(list) if !list.is_empty() => self.ready = list.into_iter(),
                Ok(_) => {
                    let _ = tokio::time::timeout(POLL, self.wake.recv()).await;
                }
                Err(e) => {
                    tracing::error!(error = %e, "a stream over all sessions ends");
                    return None;
                }
            }
        }
    }
}

fn message(e: &StoredEvent, id: String) -> sse::Event {
    match doc(e) {
        Ok(d) => json_message("event", &d).id(id),
        Err(e) => json_message("problem", &e.problem),
    }
}

pub fn json_message<T: serde::Serialize>(name: &str, body: &T) -> sse::Event {
    sse::Event::default().event(name).json_data(body).unwrap_or_else(|e| {
        let p = Problem { code: "BDL-API-009".to_owned(), message: format!("an event cannot be written as JSON: {e}"), hint: None };
        sse::Event::default().event("problem").data(serde_json::to_string(&p).unwrap_or_default())
    })
}

pub fn sse(s: impl Stream<Item = Result<sse::Event, Infallible>> + Send + 'static) -> Response {
    Sse::new(s).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

fn kinds(list: Option<&str>) -> BTreeSet<String> {
    list.into_iter().flat_map(|l| l.split(',')).map(str::trim).filter(|k| !k.is_empty()).map(str::to_owned).collect()
}

pub fn wants_stream(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).and_then(|a| a.to_str().ok()).is_some_and(|a| a.contains(SSE_TYPE))
}

pub fn last_event_id(headers: &HeaderMap) -> Option<&str> {
    headers.get("last-event-id")?.to_str().ok()
}
