//! What spans are put together from: attributes within their caps, times, the resource.

use super::conventions as names;
use super::message::{KeyValue, Resource, Scope, Span, SpanKind, Status, StatusCode, Value};

/// Longest value of an attribute, in bytes.
pub const ATTRIBUTE_MAX: usize = 1024;
/// Longest value of an attribute that holds content (`content = true`), in bytes.
pub const CONTENT_MAX: usize = 4096;

/// Attributes, in the order they were added.
#[derive(Debug, Default, Clone)]
pub struct Attributes(pub Vec<KeyValue>);

impl Attributes {
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.add(key, value);
        self
    }

    pub fn add(&mut self, key: &str, value: impl Into<Value>) {
        let value = match value.into() {
            Value::Text(t) => Value::Text(cut(&t, ATTRIBUTE_MAX).to_owned()),
            other => other,
        };
        self.0.push(KeyValue::new(key, value));
    }

    /// Nothing for what is not known.
    pub fn maybe(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(v) = value {
            self.add(key, v);
        }
    }

    /// Words of a person, an agent or a tool; `on` is the operator's leave.
    pub fn content(&mut self, on: bool, key: &str, text: Option<&str>) {
        if let Some(t) = text.filter(|t| on && !t.is_empty()) {
            self.0.push(KeyValue::new(key, cut(t, CONTENT_MAX)));
        }
    }
}

/// The longest beginning of a text within so many bytes.
pub fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// Milliseconds of the wall clock as nanoseconds; none before 1970.
pub fn nanos(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or(0).saturating_mul(1_000_000)
}

/// From when to when; never backwards, however the wall clock was set.
pub fn span(ids: (Vec<u8>, Vec<u8>, Vec<u8>), name: String, (start, end): (u64, u64), attributes: Attributes) -> Span {
    let (trace_id, span_id, parent_span_id) = ids;
    Span {
        trace_id,
        span_id,
        parent_span_id,
        name: cut(&name, ATTRIBUTE_MAX).to_owned(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: start.min(end),
        end_time_unix_nano: end,
        attributes: attributes.0,
        events: vec![],
        links: vec![],
        status: None,
    }
}

/// Marks a span as gone wrong: `error.type`, and the status.
pub fn failed(span: &mut Span, kind: &str, message: &str) {
    span.attributes.push(KeyValue::new(names::ERROR_TYPE, cut(kind, ATTRIBUTE_MAX)));
    span.status = Some(Status { message: cut(message, ATTRIBUTE_MAX).to_owned(), code: StatusCode::Error.into() });
}

/// Who sends. `host` is the public key of this host's chain; `more` what the operator adds.
pub fn resource(host: &str, more: &[(String, String)]) -> Resource {
    let mut a = Attributes::default()
        .with(names::SERVICE_NAME, "beadle")
        .with(names::SERVICE_VERSION, env!("CARGO_PKG_VERSION"))
        .with(names::SERVICE_INSTANCE, host);
    for (k, v) in more {
        // why replaced: an operator may call the service otherwise.
        a.0.retain(|have| have.key != *k);
        a.add(k, v.as_str());
    }
    Resource { attributes: a.0 }
}

pub fn scope() -> Scope {
    Scope { name: names::SCOPE.to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
}
