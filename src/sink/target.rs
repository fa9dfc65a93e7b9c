//! What takes a batch: the native sinks and plugins, behind one answer.
//!
//! `jsonl`, `http` and `otlp` are part of the host because they need a file, the network and the log; they answer as a plugin does, and the worker treats
//! them alike. Called by `worker`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderMap, RETRY_AFTER};

use super::backoff::ASKED_MAX_MS;
use super::form;
use super::jsonl::Jsonl;
use super::line::Answer;
use super::otlp::Otlp;
use super::plugin::{self, Pins};
use super::state::SinkComponent;
use crate::config::{HttpConfig, SinkEntry, SinkKind};
use crate::model::{Clock, Delivery, SinkEvent};
use crate::outbound::{Kept, Message, Receiver};
use crate::plugin::{Batch, Host, Level, Plugin};
use crate::store::SinkReader;

/// Media type of what `http` sends.
const BATCH_TYPE: &str = "application/cloudevents-batch+json";
/// How many events of the batch were taken, where not all were.
const ACCEPTED: &str = "beadle-accepted";
/// Place of the event that can never be taken, counted from 0; those before it were.
const POISON: &str = "beadle-poison";

/// One sink, open.
pub enum Target {
    Jsonl(Arc<Mutex<Jsonl>>),
    Http(Box<Receiver>, String),
    Otlp(Arc<Otlp>),
    Plugin(Arc<Plugin>),
}

/// What `otlp` is opened with: where it looks things up, and what it has summed up to its cursor.
pub struct Looks<'a> {
    pub reader: Arc<Mutex<SinkReader>>,
    pub sums: Option<Vec<u8>>,
    pub clock: &'a dyn Clock,
}

impl Target {
    /// Opens what the configuration names; errors are texts, since a later try may work. `source` names this host.
    pub async fn open(entry: &SinkEntry, host: &Host, pins: &Arc<dyn Pins>, source: &str, looks: Looks<'_>) -> Result<Self, String> {
        let deadline = Duration::from_millis(entry.timeout_ms);
        match &entry.kind {
            SinkKind::Jsonl(c) => Ok(Self::Jsonl(Arc::new(Mutex::new(Jsonl::new(c.clone()))))),
            SinkKind::Http(c) => receiver(c, deadline).map(|r| Self::Http(Box::new(r), source.to_owned())),
            SinkKind::Otlp(c) => {
                let Looks { reader, sums, clock } = looks;
                Otlp::open(c, deadline, source, reader, sums.as_deref(), clock).map(|o| Self::Otlp(Arc::new(o)))
            }
            SinkKind::Plugin { from, config, grants } => {
                let (host, pins, entry) = (host.clone(), Arc::clone(pins), entry.clone());
                let (from, config, grants) = (from.clone(), config.clone(), grants.clone());
                let load = move || plugin::load(&entry, (&from, config.as_ref(), &grants), &host, &*pins);
                let loaded = tokio::task::spawn_blocking(load).await;
                loaded.unwrap_or_else(|_| Err("loading the plugin broke off".to_owned())).map(Self::Plugin)
            }
        }
    }

    /// The component that takes the events, where it is one.
    pub fn plugin(&self) -> Option<SinkComponent> {
        let Self::Plugin(p) = self else { return None };
        let d = p.describe();
        Some(SinkComponent { name: d.name.clone(), version: d.version.clone(), digest: p.digest().to_owned() })
    }

    /// The newest warning of a plugin's log since then (wall clock): why it did not take its events, often; a capability that it lacks.
    pub fn complaint(&self, since: i64) -> Option<String> {
        let Self::Plugin(p) = self else { return None };
        let newest = p.log().read().0.into_iter().rfind(|l| matches!(l.level, Level::Warn | Level::Error))?;
        (newest.at >= since).then_some(newest.text)
    }

    /// So many events of the last batch are done with: what to store with the cursor.
    pub fn passed(&self, events: usize) -> Option<Vec<u8>> {
        if let Self::Otlp(o) = self { o.passed(events) } else { None }
    }

    /// That is stored.
    pub fn stored(&self) {
        if let Self::Otlp(o) = self {
            o.stored();
        }
    }

    /// Largest body that one event may have here.
    pub const fn max_body(&self) -> usize {
        match self {
            // why: the contract of plugins says so.
            Self::Plugin(_) => super::BATCH_BYTES,
            Self::Jsonl(_) | Self::Http(..) | Self::Otlp(_) => usize::MAX,
        }
    }

    /// One try, within the deadline.
    pub async fn write(&self, batch: Vec<SinkEvent>, tries: u32, clock: &dyn Clock, deadline: Duration, pins: &dyn Pins) -> Answer {
        match self {
            Self::Jsonl(file) => {
                let file = Arc::clone(file);
                let work = move || match file.try_lock() {
                    Ok(mut f) => f.write(&batch),
                    // why not waiting: a disk that hangs must not take a thread with each try.
                    Err(_) => Answer::Failed { why: "the write before has not ended yet".to_owned() },
                };
                match tokio::time::timeout(deadline, tokio::task::spawn_blocking(work)).await {
                    Ok(done) => done.unwrap_or_else(|_| Answer::Failed { why: "the write broke off".to_owned() }),
                    Err(_) => Answer::Failed { why: format!("the file was not synced within {} ms", deadline.as_millis()) },
                }
            }
            Self::Http(receiver, source) => post(receiver, source, &batch, tries, clock).await,
            Self::Otlp(otlp) => otlp.write(batch, clock).await,
            Self::Plugin(plugin) => {
                let asked = Arc::new(Batch::new(batch, tries + 1, clock.wall_ms()));
                match plugin.write(&asked, deadline).await {
                    Ok(said) => Answer::Said(said),
                    Err(failure) => {
                        pins.broke(plugin.digest(), failure.cause);
                        Answer::Failed { why: failure.to_string() }
                    }
                }
            }
        }
    }
}

fn receiver(c: &HttpConfig, deadline: Duration) -> Result<Receiver, String> {
    let secret = Kept { file: c.secret_file.as_ref(), variable: c.secret_env.as_ref() };
    let bearer = Kept { file: c.bearer_file.as_ref(), variable: c.bearer_env.as_ref() };
    Receiver::new(c.url.clone(), &secret, &bearer, deadline).map_err(|e| format!("{e} ({})", e.code()))
}

async fn post(receiver: &Receiver, source: &str, batch: &[SinkEvent], tries: u32, clock: &dyn Clock) -> Answer {
    let mut body = String::from("[");
    for (index, e) in batch.iter().enumerate() {
        match form::cloud_event(e, source) {
            Ok(one) => {
                if index > 0 {
                    body.push(',');
                }
                body.push_str(&one);
            }
            // why only alone: those before it are not sent yet; a smaller batch finds it at its front.
            Err(reason) => return Answer::Refused { reason },
        }
    }
    body.push(']');
    let message = Message {
        content_type: BATCH_TYPE,
        headers: vec![("beadle-events", batch.len().to_string()), ("beadle-attempt", (tries + 1).to_string())],
        body: Bytes::from(body),
    };
    match receiver.post(message).await {
        Ok(reply) => judge(reply.status, &reply.headers, batch.len(), clock.wall_ms()),
        Err(failure) => Answer::Failed { why: failure.why },
    }
}

/// What an answer means. Only what says that the content is at fault is a refusal; a wrong address or key is not the events' fault.
pub(super) fn judge(status: StatusCode, headers: &HeaderMap, len: usize, now: i64) -> Answer {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let count = |name: &str| text(name).and_then(|t| t.parse::<usize>().ok());
    let reason = format!("the receiver answered {}", status.as_u16());
    if status.is_success() {
        return Answer::Said(Delivery::Accepted { count: count(ACCEPTED).map_or(len, |n| n.min(len)) });
    }
    if let Some(ms) = text(RETRY_AFTER.as_str()).and_then(|t| after(t, now)) {
        return Answer::Said(Delivery::RetryAfter { ms });
    }
    match status {
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => match count(POISON) {
            Some(index) if index < len => Answer::Said(Delivery::Poison { index, reason }),
            _ => Answer::Refused { reason },
        },
        _ if status.is_redirection() => Answer::Failed { why: format!("{reason}, a redirect, which is never followed") },
        _ => Answer::Failed { why: reason },
    }
}

/// Seconds or a date, as milliseconds from now, within bounds.
fn after(text: &str, now: i64) -> Option<u64> {
    let ms = match text.trim().parse::<u64>() {
        Ok(seconds) => seconds.saturating_mul(1_000),
        Err(_) => {
            let at = chrono::DateTime::parse_from_rfc2822(text.trim()).ok()?.timestamp_millis();
            u64::try_from(at.saturating_sub(now)).unwrap_or(0)
        }
    };
    Some(ms.min(ASKED_MAX_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, headers: &[(&'static str, &str)]) -> Answer {
        let headers = headers.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect();
        judge(StatusCode::from_u16(status).unwrap(), &headers, 10, 1_445_412_420_000)
    }

    #[test]
    fn answers_mean_what_the_standard_says() {
        let accepted = |count| Answer::Said(Delivery::Accepted { count });
        let later = |ms| Answer::Said(Delivery::RetryAfter { ms });
        assert_eq!([judged(200, &[]), judged(204, &[]), judged(200, &[(ACCEPTED, "4")])], [accepted(10), accepted(10), accepted(4)]);
        assert_eq!(judged(200, &[(ACCEPTED, "40")]), accepted(10));
        assert_eq!([judged(429, &[("retry-after", "7")]), judged(503, &[("retry-after", "999999999")])], [later(7_000), later(3_600_000)]);
        assert_eq!(judged(503, &[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")]), later(60_000));
        assert_eq!(judged(503, &[("retry-after", "Fri, 21 Oct 2005 07:28:00 GMT")]), later(0));
        for s in [400, 413, 422] {
            assert!(matches!(judged(s, &[]), Answer::Refused { .. }), "{s}");
            assert!(matches!(judged(s, &[(POISON, "3")]), Answer::Said(Delivery::Poison { index: 3, .. })), "{s}");
        }
        for s in [301, 401, 403, 404, 408, 429, 500, 503] {
            assert!(matches!(judged(s, &[("retry-after", "soon")]), Answer::Failed { .. }), "{s}");
        }
    }
}
