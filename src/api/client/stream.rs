//! A stream of events that is taken up again where it broke.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;

use super::super::types::{ANSWER_MAX, ApprovalDoc, ApprovalsQuery, EventDoc, EventsQuery, MissedDoc, Problem, SSE_TYPE, SessionDoc};
use super::{Client, Error, Result, SseReader, escape, query};

/// Silence after which the link counts as dead; the server speaks every 15 s.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a broken stream is tried again before it is an error.
pub const RECONNECT_DEADLINE: Duration = Duration::from_secs(15);
/// Pause between two tries.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// What a stream brings.
#[derive(Debug)]
pub enum Item {
    Event(EventDoc),
    /// The session has ended and all its events were given.
    End(Box<SessionDoc>),
    /// An approval as it now is.
    Approval(Box<ApprovalDoc>),
    /// All that wait were given; what follows are changes.
    Ready,
    /// Events that are not given.
    Missed(MissedDoc),
}

/// Events as they are appended. Dropping it ends the stream.
pub struct EventStream {
    client: Client,
    /// As first asked for, and when it is taken up again.
    path: String,
    again: String,
    last_id: Option<String>,
    is_of_all: bool,
    body: Option<Incoming>,
    reader: SseReader,
    done: bool,
}

impl Client {
    /// Follows one session, or with `None` all of them. The first connection is made here, so a wrong id is an error here.
    pub async fn stream(&self, session: Option<&str>, query: EventsQuery) -> Result<EventStream> {
        let path = session.map_or_else(|| "/v1/events".to_owned(), |id| format!("/v1/sessions/{}/events", escape(id)));
        let again = EventsQuery { from: None, tail: None, ..query.clone() };
        let (first, again) = (format!("{path}{}", super::query(&query)?), format!("{path}{}", super::query(&again)?));
        self.open(first, again, None, session.is_none()).await
    }

    /// Follows all sessions from behind a token, which an event or a [`MissedDoc`] had.
    pub async fn stream_after(&self, token: &str, query: EventsQuery) -> Result<EventStream> {
        let path = format!("/v1/events{}", super::query(&EventsQuery { from: None, tail: None, ..query })?);
        self.open(path.clone(), path, Some(token.to_owned()), true).await
    }

    /// Follows approvals: those that wait, [`Item::Ready`], then each change.
    pub async fn approval_stream(&self, session: Option<&str>) -> Result<EventStream> {
        let wanted = ApprovalsQuery { session: session.map(str::to_owned), ..ApprovalsQuery::default() };
        let path = format!("/v1/approvals{}", query(&wanted)?);
        self.open(path.clone(), path, None, false).await
    }

    async fn open(&self, path: String, again: String, last_id: Option<String>, is_of_all: bool) -> Result<EventStream> {
        let mut stream =
            EventStream { client: self.clone(), path, again, last_id, is_of_all, body: None, reader: SseReader::default(), done: false };
        stream.connect().await?;
        Ok(stream)
    }
}

impl EventStream {
    /// The next item; `None` after the end. Safe to drop and call again between items.
    pub async fn next(&mut self) -> Option<Result<Item>> {
        let mut broken_since: Option<Instant> = None;
        while !self.done {
            if let Some(message) = self.reader.message() {
                if message.id.is_some() {
                    self.last_id = message.id;
                }
                match self.item(&message.event, &message.data) {
                    Some(item) => return Some(item),
                    None => continue,
                }
            }
            let failed = match &mut self.body {
                None => match self.connect().await {
                    Ok(()) => continue,
                    Err(e @ (Error::Unreachable { .. } | Error::Broken(_) | Error::NotStarted { .. })) => e,
                    Err(e) => return Some(self.fail(e)),
                },
                Some(body) => match tokio::time::timeout(SILENCE, body.frame()).await {
                    Ok(Some(Ok(frame))) => {
                        broken_since = None;
                        if frame.data_ref().is_some_and(|d| !self.reader.push(d)) {
                            let e = Error::NotUnderstood(format!("an event over {ANSWER_MAX} bytes"));
                            return Some(self.fail(e));
                        }
                        continue;
                    }
                    Ok(Some(Err(e))) => Error::Broken(e.to_string()),
                    Ok(None) => Error::Broken("the event stream ended".to_owned()),
                    Err(_) => Error::Broken(format!("silence for {} s", SILENCE.as_secs())),
                },
            };
            self.body = None;
            self.reader = SseReader::default();
            if broken_since.get_or_insert_with(Instant::now).elapsed() > RECONNECT_DEADLINE {
                return Some(self.fail(failed));
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
        None
    }

    fn fail(&mut self, e: Error) -> Result<Item> {
        self.done = true;
        Err(e)
    }

    fn item(&mut self, event: &str, data: &str) -> Option<Result<Item>> {
        let not_understood = |e: serde_json::Error| Error::NotUnderstood(format!("an event: {e}"));
        match event {
            "approval" => Some(serde_json::from_str(data).map(|d| Item::Approval(Box::new(d))).map_err(not_understood)),
            "ready" => Some(Ok(Item::Ready)),
            "missed" => Some(serde_json::from_str(data).map(Item::Missed).map_err(not_understood)),
            "event" => {
                let cursor = self.last_id.clone().filter(|_| self.is_of_all);
                Some(serde_json::from_str(data).map(|d| Item::Event(EventDoc { cursor, ..d })).map_err(not_understood))
            }
            "end" => {
                self.done = true;
                Some(serde_json::from_str(data).map(|d| Item::End(Box::new(d))).map_err(not_understood))
            }
            "problem" => {
                self.done = true;
                let problem = serde_json::from_str::<Problem>(data).map_err(not_understood);
                Some(problem.and_then(|problem| Err(Error::Refused { status: 500, problem })))
            }
            // A newer server may say more.
            _ => None,
        }
    }

    async fn connect(&mut self) -> Result<()> {
        let path = if self.last_id.is_some() { &self.again } else { &self.path };
        let response = self.client.send(Method::GET, path, Bytes::new(), Some(SSE_TYPE), self.last_id.as_deref()).await?;
        self.body = Some(response.into_body());
        Ok(())
    }
}
