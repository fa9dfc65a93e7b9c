//! The sink `otlp`: spans and metrics of the events, by OTLP/HTTP as protobuf.
//!
//! Invariants:
//! - an event counts as delivered when the receiver took its spans; one that ends no span counts at once;
//! - a receiver that takes a part (`partial_success`) is not sent the same request again: it is narrowed down, as every refusal is, until the
//!   events whose spans it never takes are known, and those are dead letters. Spans that were taken meanwhile come again with the same ids;
//! - sums of metrics move with the cursor, in its transaction, and only sums that are stored are sent; so what a receiver sees never goes
//!   back, whatever crashes. A push that fails is not tried for itself: the next one holds all of it;
//! - events that were skipped or dropped are in no sum, also when they are delivered later; dead letters are, but for those of which
//!   nothing can be told.
//!
//! Called by `target` and `worker`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use prost::Message as _;

use super::line::Answer;
use crate::config::OtlpConfig;
use crate::model::{Attempt, Clock, Delivery, Session, SinkEvent};
use crate::otlp::message::{ExportResponse, Resource, ResourceSpans, ScopeSpans, Span, TraceRequest};
use crate::otlp::{self, Log, Past, Point, Series, Told, Trouble};
use crate::outbound::{Kept, Message, Receiver, headers_of};
use crate::store::{self, SinkPast, SinkReader};

const TYPE: &str = "application/x-protobuf";
/// Most bytes of an answer that are read.
const ANSWER_MAX: usize = 64 << 10;

/// See the module.
pub struct Otlp {
    config: OtlpConfig,
    traces: Receiver,
    metrics: Receiver,
    resource: Resource,
    reader: Arc<Mutex<SinkReader>>,
    sums: Mutex<Sums>,
}

struct Sums {
    /// As stored with the cursor.
    stored: Series,
    /// With what the last step adds, until it is stored.
    next: Option<Series>,
    /// Of each event of the last batch.
    told: Vec<Vec<Point>>,
    /// When (boot clock) the next push is due.
    due: u64,
}

impl Otlp {
    /// `source` names this host; `stored` is what was summed up to the cursor. Errors are texts.
    pub fn open(
        config: &OtlpConfig,
        deadline: Duration,
        source: &str,
        reader: Arc<Mutex<SinkReader>>,
        stored: Option<&[u8]>,
        clock: &dyn Clock,
    ) -> Result<Self, String> {
        let said = |e: crate::outbound::Error| format!("{e} ({})", e.code());
        let headers = config.headers_file.as_deref().map(headers_of).transpose().map_err(said)?.unwrap_or_default();
        let receiver = |path: &str| {
            let mut url = config.url.clone();
            url.set_path(&format!("{}/{path}", url.path().trim_end_matches('/')));
            let bearer = Kept { file: config.bearer_file.as_ref(), variable: config.bearer_env.as_ref() };
            let made = Receiver::new(url, &Kept::default(), &bearer, deadline).map_err(said)?;
            Ok::<_, String>(made.with_headers(headers.clone()).hearing(ANSWER_MAX))
        };
        let host = source.rsplit(':').next().unwrap_or(source);
        let now = clock.wall_ms();
        let stored = stored.map_or_else(|| Series::begin(now), |b| Series::read(b, now));
        Ok(Self {
            traces: receiver("v1/traces")?,
            metrics: receiver("v1/metrics")?,
            resource: otlp::resource(host, &config.resource),
            config: config.clone(),
            reader,
            sums: Mutex::new(Sums { stored, next: None, told: vec![], due: 0 }),
        })
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One try: all spans of the batch in one request.
    pub async fn write(self: &Arc<Self>, batch: Vec<SinkEvent>, clock: &dyn Clock) -> Answer {
        let len = batch.len();
        let own = Arc::clone(self);
        let told = match tokio::task::spawn_blocking(move || own.tell(&batch)).await {
            Ok(told) => told,
            Err(_) => return Answer::Failed { why: "making spans broke off".to_owned() },
        };
        let (told, bad) = match told {
            Ok(done) => done,
            Err(why) => return Answer::Failed { why },
        };
        let mut spans = Vec::new();
        let mut points = Vec::with_capacity(len);
        for t in told {
            spans.extend(t.spans);
            points.push(t.points);
        }
        let taken = points.len();
        self.sums().told = points;
        if self.config.traces && !spans.is_empty() {
            let answer = self.send(spans, taken, clock).await;
            if answer != Answer::Said(Delivery::Accepted { count: taken }) {
                return answer;
            }
        }
        Answer::Said(match bad {
            Some(reason) => Delivery::Poison { index: taken, reason },
            None => Delivery::Accepted { count: len },
        })
    }

    /// What each event tells, up to the first that never will; why that one does not.
    fn tell(&self, batch: &[SinkEvent]) -> Result<(Vec<Told>, Option<String>), String> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let log = Look::new(&reader, batch);
        let mut out = Vec::with_capacity(batch.len());
        for e in batch {
            match otlp::tell(e, &log, self.config.content) {
                Ok(told) => out.push(told),
                Err(Trouble::Never(reason)) => return Ok((out, Some(reason))),
                Err(Trouble::Later(why)) => return Err(why),
            }
        }
        Ok((out, None))
    }

    async fn send(&self, spans: Vec<Span>, events: usize, clock: &dyn Clock) -> Answer {
        let sent = spans.len();
        let schema_url = otlp::conventions::SCHEMA_URL.to_owned();
        let scope = ScopeSpans { scope: Some(otlp::scope()), spans, schema_url: schema_url.clone() };
        let of = ResourceSpans { resource: Some(self.resource.clone()), scope_spans: vec![scope], schema_url };
        let body = TraceRequest { resource_spans: vec![of] }.encode_to_vec();
        let reply = match self.traces.post(message(body)).await {
            Ok(reply) => reply,
            Err(failure) => return Answer::Failed { why: failure.why },
        };
        if reply.status == StatusCode::OK {
            // why lenient: what cannot be read says nothing against the spans; and a warning with nothing rejected is none of ours.
            let said = ExportResponse::decode(reply.body.clone()).ok().and_then(|r| r.partial_success).filter(|p| p.rejected > 0);
            if let Some(p) = said {
                let words: String = p.error_message.chars().take(300).filter(|c| !c.is_control()).collect();
                return Answer::Refused { reason: format!("the receiver rejected {} of {sent} spans: {words}", p.rejected) };
            }
        }
        super::target::judge(reply.status, &reply.headers, events, clock.wall_ms())
    }

    /// So many events of the last batch are done with: the sums to store with the cursor, where they change.
    pub fn passed(&self, events: usize) -> Option<Vec<u8>> {
        let mut sums = self.sums();
        let mut next = sums.stored.clone();
        sums.told.iter().take(events).flatten().for_each(|p| next.add(p));
        sums.told.clear();
        if next == sums.stored {
            return None;
        }
        let bytes = next.bytes();
        sums.next = Some(next);
        Some(bytes)
    }

    /// What [`Self::passed`] gave is stored.
    pub fn stored(&self) {
        let mut sums = self.sums();
        if let Some(next) = sums.next.take() {
            sums.stored = next;
        }
    }

    /// Sends the sums. An error is for the sink's status only.
    pub async fn push(&self, clock: &dyn Clock) -> Result<(), String> {
        let request = self.sums().stored.request(self.resource.clone(), clock.wall_ms());
        let sent = self.metrics.post(message(request.encode_to_vec())).await;
        self.sums().due = clock.boot_ms().saturating_add(self.config.interval_ms);
        let failed = |why: String| format!("metrics: {why}");
        let reply = sent.map_err(|f| failed(f.why))?;
        let said = ExportResponse::decode(reply.body).ok().and_then(|r| r.partial_success).filter(|p| p.rejected > 0);
        match said {
            _ if !reply.status.is_success() => Err(failed(format!("the receiver answered {}", reply.status.as_u16()))),
            Some(p) => Err(failed(format!("the receiver rejected {} data points", p.rejected))),
            None => Ok(()),
        }
    }

    /// Whether there are sums, and it is time to send them.
    pub fn is_due(&self, clock: &dyn Clock) -> bool {
        let sums = self.sums();
        self.config.metrics && !sums.stored.is_empty() && clock.boot_ms() >= sums.due
    }
}

fn message(body: Vec<u8>) -> Message {
    Message { content_type: TYPE, headers: vec![], body: Bytes::from(body) }
}

/// The log as the sink's own connection reads it; what lies in the batch is not read again.
struct Look<'a> {
    reader: &'a SinkReader,
    batch: &'a [SinkEvent],
    places: HashMap<(&'a str, u64), usize>,
    sessions: RefCell<HashMap<String, Option<Arc<Session>>>>,
}

impl<'a> Look<'a> {
    fn new(reader: &'a SinkReader, batch: &'a [SinkEvent]) -> Self {
        let places = batch.iter().enumerate().map(|(i, e)| ((e.session.as_str(), e.seq), i)).collect();
        Self { reader, batch, places, sessions: RefCell::default() }
    }
}

/// The store's error, or a text of the visitor's.
struct Text(String);

impl From<store::Error> for Text {
    fn from(e: store::Error) -> Self {
        Self(said(&e))
    }
}

fn said(e: &store::Error) -> String {
    format!("{e} ({})", e.code())
}

impl Log for Look<'_> {
    fn session(&self, id: &str) -> Result<Option<Arc<Session>>, String> {
        if let Some(known) = self.sessions.borrow().get(id) {
            return Ok(known.clone());
        }
        let found = self.reader.session(id).map_err(|e| said(&e))?.map(Arc::new);
        self.sessions.borrow_mut().insert(id.to_owned(), found.clone());
        Ok(found)
    }

    fn attempt(&self, session: &str, number: u32) -> Result<Option<Attempt>, String> {
        self.reader.attempt(session, number).map_err(|e| said(&e))
    }

    fn event(&self, session: &str, seq: u64) -> Result<Option<Past>, String> {
        if let Some(i) = self.places.get(&(session, seq)) {
            let e = &self.batch[*i];
            let body = e.body.clone().into_bytes();
            return Ok(Some(Past { seq, at: e.at, attempt: e.attempt, kind: e.kind.clone(), body }));
        }
        Ok(self.reader.past(session, seq).map_err(|e| said(&e))?.map(past))
    }

    fn back(
        &self,
        session: &str,
        range: (u64, u64),
        kinds: &[&str],
        visit: &mut dyn FnMut(Past) -> Result<bool, String>,
    ) -> Result<(), String> {
        self.reader.back(session, range, kinds, |p| visit(past(p)).map_err(Text)).map_err(|Text(why)| why)
    }

    fn counted_at(&self, session: &str, message: &str) -> Result<Option<i64>, String> {
        self.reader.counted_at(session, message).map_err(|e| said(&e))
    }
}

fn past(p: SinkPast) -> Past {
    Past { seq: p.seq, at: p.at, attempt: p.attempt, kind: p.kind, body: p.body }
}
