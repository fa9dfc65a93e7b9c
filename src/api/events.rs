//! Events as pages and as server-sent streams that resume.
//!
//! A stream reads from the store and sleeps on its wake-ups, so a slow reader costs no memory: it simply reads later. What it holds is bounded,
//! and what it was not given it is told ([`follow`](super::follow)).

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
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
use super::follow::{Placed, QUEUE, QUEUE_BYTES, Tail};
use super::types::{Attach, EventDoc, EventsQuery, MissedDoc, PAGE_BYTES, PAGE_DEFAULT, PAGE_MAX, Page, Problem, SSE_TYPE, SessionDoc};
use crate::model::{SessionId, Status, format_ms};
use crate::session::{AttachGuard, Manager};
use crate::store::StoredEvent;

/// Events of a page that are read from the store at a time.
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
    let wanted = Wanted::of(&q);
    let from = match (q.tail, q.from) {
        (Some(n), _) => session.last_seq.saturating_sub(n as u64) + 1,
        (None, from) => from.unwrap_or(1).max(1),
    };
    if !wants_stream(&headers) {
        let page = page(&app.manager, &session.id, from, q.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX), &wanted)?;
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
        wanted,
        max_lag: q.max_lag,
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
        Some(id) => {
            let token = id.chars().take(40).collect::<String>();
            let place = id.parse().map_err(|_| ApiError::malformed(format!("Last-Event-ID {token:?} is not a cursor of this stream")))?;
            let newest = store.newest_row()?;
            if place > newest {
                let why = format!("Last-Event-ID {token:?} is behind the newest event of this host, {newest}: it is another host's cursor");
                return Err(ApiError::malformed(why));
            }
            place
        }
        None => store.newest_row()?,
    };
    let reader = AllReader {
        wake: store.watch(),
        manager: app.manager.clone(),
        tail: app.tail.clone(),
        after,
        wanted: Wanted::of(&q),
        max_lag: q.max_lag,
        ready: Vec::new().into_iter(),
    };
    Ok(sse(stream::unfold(reader, |mut r| async move { r.message().await.map(|m| (Ok(m), r)) })))
}

/// Which events a reader wants.
struct Wanted {
    /// All where it is empty.
    kinds: BTreeSet<String>,
    attempt: Option<u32>,
}

impl Wanted {
    fn of(q: &EventsQuery) -> Self {
        Self { kinds: kinds(q.kinds.as_deref()), attempt: q.attempt }
    }

    fn has(&self, e: &StoredEvent) -> bool {
        let (envelope, kinds) = (&e.envelope, &self.kinds);
        (kinds.is_empty() || kinds.contains(envelope.event.kind())) && self.attempt.is_none_or(|n| n == envelope.attempt)
    }
}

/// One page, cut by count and by bytes.
fn page(manager: &Manager, id: &SessionId, from: u64, limit: usize, wanted: &Wanted) -> Result<Page<EventDoc>, ApiError> {
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
            if !wanted.has(&e) {
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
        cursor: None,
    })
}

struct Reader {
    manager: Manager,
    id: SessionId,
    next: u64,
    wanted: Wanted,
    max_lag: Option<u64>,
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
                if self.wanted.has(&e) {
                    let id = e.envelope.seq;
                    return Some(message(&e, id.to_string()));
                }
            }
            if let Some(missed) = self.skip() {
                return Some(missed);
            }
            match self.manager.store().events(&self.id, self.next, QUEUE) {
                Ok(list) if !list.is_empty() => self.ready = bounded(list).into_iter(),
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

    /// Goes to the end, where the follower is farther behind than it wants to be.
    fn skip(&mut self) -> Option<sse::Event> {
        let max = self.max_lag?;
        let newest = self.manager.store().session(&self.id).ok()?.last_seq;
        let count = (newest + 1).checked_sub(self.next).filter(|lag| *lag > max)?;
        let missed = MissedDoc { after: (self.next - 1).to_string(), count, why: "lag".to_owned() };
        self.next = newest + 1;
        Some(json_message("missed", &missed).id(newest.to_string()))
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

/// What one follower holds: at least one event.
fn bounded(mut list: Vec<StoredEvent>) -> Vec<StoredEvent> {
    let mut bytes = 0;
    let fits = list.iter().take_while(|e| {
        bytes += e.body.len();
        bytes <= QUEUE_BYTES
    });
    let fits = fits.count().max(1);
    list.truncate(fits);
    list
}

struct AllReader {
    manager: Manager,
    tail: Arc<Tail>,
    after: u64,
    wanted: Wanted,
    max_lag: Option<u64>,
    wake: tokio::sync::broadcast::Receiver<crate::store::Wake>,
    ready: std::vec::IntoIter<Placed>,
}

impl AllReader {
    async fn message(&mut self) -> Option<sse::Event> {
        loop {
            while let Some((row, e)) = self.ready.as_slice().first().cloned() {
                // why: numbers of rows have no gaps but those of removed sessions.
                if row > self.after + 1 {
                    let missed = MissedDoc { after: self.after.to_string(), count: row - self.after - 1, why: "gone".to_owned() };
                    self.after = row - 1;
                    return Some(json_message("missed", &missed).id(self.after.to_string()));
                }
                self.ready.next();
                self.after = row;
                if self.wanted.has(&e) {
                    return Some(message(&e, row.to_string()));
                }
            }
            if let Some(missed) = self.skip() {
                return Some(missed);
            }
            match self.tail.after(self.manager.store(), self.after) {
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

    /// Goes to the end, where the follower is farther behind than it wants to be.
    fn skip(&mut self) -> Option<sse::Event> {
        let max = self.max_lag?;
        let newest = self.manager.store().newest_row().ok()?;
        let count = newest.checked_sub(self.after).filter(|lag| *lag > max)?;
        let missed = MissedDoc { after: self.after.to_string(), count, why: "lag".to_owned() };
        self.after = newest;
        Some(json_message("missed", &missed).id(newest.to_string()))
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
