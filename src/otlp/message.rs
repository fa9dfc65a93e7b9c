//! The messages of OTLP/HTTP that traces and metrics need, as protobuf: the fields of `opentelemetry.proto` 1.x that Beadle writes or reads.
//!
//! Why by hand: the crate with the generated ones brings the OpenTelemetry SDK along, for structs. Field numbers are the protocol's and never
//! change; a test holds them to bytes that another implementation made. Written by this room, sent by `sink`, read by the tests' receiver.

/// `POST /v1/traces`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TraceRequest {
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

/// `POST /v1/metrics`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetricsRequest {
    #[prost(message, repeated, tag = "1")]
    pub resource_metrics: Vec<ResourceMetrics>,
}

/// The answer to either request.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

/// What of a request was not taken.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PartialSuccess {
    /// Spans or data points.
    #[prost(int64, tag = "1")]
    pub rejected: i64,
    #[prost(string, tag = "2")]
    pub error_message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Scope {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValue {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 2, 3, 4")]
    pub value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Flag(bool),
    #[prost(int64, tag = "3")]
    Int(i64),
    #[prost(double, tag = "4")]
    Double(f64),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub scope_spans: Vec<ScopeSpans>,
    #[prost(string, tag = "3")]
    pub schema_url: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    pub spans: Vec<Span>,
    #[prost(string, tag = "3")]
    pub schema_url: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Span {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    /// 8 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    /// 8 bytes; empty for a root.
    #[prost(bytes = "vec", tag = "4")]
    pub parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub name: String,
    #[prost(enumeration = "SpanKind", tag = "6")]
    pub kind: i32,
    #[prost(fixed64, tag = "7")]
    pub start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<SpanEvent>,
    #[prost(message, repeated, tag = "13")]
    pub links: Vec<Link>,
    #[prost(message, optional, tag = "15")]
    pub status: Option<Status>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SpanEvent {
    #[prost(fixed64, tag = "1")]
    pub time_unix_nano: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(message, repeated, tag = "3")]
    pub attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Link {
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    #[prost(message, repeated, tag = "4")]
    pub attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(enumeration = "StatusCode", tag = "3")]
    pub code: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum SpanKind {
    Unspecified = 0,
    Internal = 1,
    Server = 2,
    Client = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum StatusCode {
    Unset = 0,
    Ok = 1,
    Error = 2,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceMetrics {
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub scope_metrics: Vec<ScopeMetrics>,
    #[prost(string, tag = "3")]
    pub schema_url: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ScopeMetrics {
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    pub metrics: Vec<Metric>,
    #[prost(string, tag = "3")]
    pub schema_url: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Metric {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub description: String,
    #[prost(string, tag = "3")]
    pub unit: String,
    #[prost(oneof = "Data", tags = "7, 9")]
    pub data: Option<Data>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Data {
    #[prost(message, tag = "7")]
    Sum(Sum),
    #[prost(message, tag = "9")]
    Histogram(Histogram),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Sum {
    #[prost(message, repeated, tag = "1")]
    pub data_points: Vec<NumberPoint>,
    #[prost(enumeration = "Temporality", tag = "2")]
    pub aggregation_temporality: i32,
    #[prost(bool, tag = "3")]
    pub is_monotonic: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Histogram {
    #[prost(message, repeated, tag = "1")]
    pub data_points: Vec<HistogramPoint>,
    #[prost(enumeration = "Temporality", tag = "2")]
    pub aggregation_temporality: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Temporality {
    Unspecified = 0,
    Delta = 1,
    Cumulative = 2,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct NumberPoint {
    #[prost(fixed64, tag = "2")]
    pub start_time_unix_nano: u64,
    #[prost(fixed64, tag = "3")]
    pub time_unix_nano: u64,
    #[prost(oneof = "Number", tags = "4, 6")]
    pub value: Option<Number>,
    #[prost(message, repeated, tag = "7")]
    pub attributes: Vec<KeyValue>,
}

#[derive(Clone, Copy, PartialEq, prost::Oneof)]
pub enum Number {
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(sfixed64, tag = "6")]
    Int(i64),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct HistogramPoint {
    #[prost(fixed64, tag = "2")]
    pub start_time_unix_nano: u64,
    #[prost(fixed64, tag = "3")]
    pub time_unix_nano: u64,
    #[prost(fixed64, tag = "4")]
    pub count: u64,
    #[prost(double, optional, tag = "5")]
    pub sum: Option<f64>,
    #[prost(fixed64, repeated, tag = "6")]
    pub bucket_counts: Vec<u64>,
    #[prost(double, repeated, tag = "7")]
    pub explicit_bounds: Vec<f64>,
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<KeyValue>,
}

impl KeyValue {
    pub fn new(key: impl Into<String>, value: impl Into<Value>) -> Self {
        Self { key: key.into(), value: Some(AnyValue { value: Some(value.into()) }) }
    }

    /// None for a message without a value.
    pub fn value(&self) -> Option<&Value> {
        self.value.as_ref()?.value.as_ref()
    }
}

impl From<String> for Value {
    fn from(v: String) -> Self {
        Self::Text(v)
    }
}

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Self::Text(v.to_owned())
    }
}

impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Self::Flag(v)
    }
}

impl From<u64> for Value {
    fn from(v: u64) -> Self {
        Self::Int(i64::try_from(v).unwrap_or(i64::MAX))
    }
}

impl From<i64> for Value {
    fn from(v: i64) -> Self {
        Self::Int(v)
    }
}

impl From<f64> for Value {
    fn from(v: f64) -> Self {
        Self::Double(v)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Bytes that the generated messages of another implementation made (Python, opentelemetry-proto 1.45.2) of the same content.
    #[test]
    fn bytes_are_those_of_the_protocol() {
        let attributes = |k: &str, v: &str| vec![KeyValue::new(k, v)];
        let span = Span {
            trace_id: (1..=16).collect(),
            span_id: (1..=8).collect(),
            parent_span_id: (1..=8).rev().collect(),
            name: "chat m".into(),
            kind: SpanKind::Client.into(),
            start_time_unix_nano: 1,
            end_time_unix_nano: 1_795_232_000_000_000_000,
            attributes: vec![KeyValue::new("a", 7u64), KeyValue::new("b", 0.5), KeyValue::new("c", true)],
            events: vec![SpanEvent { time_unix_nano: 3, name: "e".into(), attributes: attributes("k", "v") }],
            links: vec![Link { trace_id: vec![9; 16], span_id: vec![9; 8], attributes: attributes("k", "v") }],
            status: Some(Status { message: "m".into(), code: StatusCode::Error.into() }),
        };
        let scope = Some(Scope { name: "beadle".into(), version: "1".into() });
        let resource = Some(Resource { attributes: attributes("service.name", "beadle") });
        let scope_spans = vec![ScopeSpans { scope, spans: vec![span], schema_url: "u".into() }];
        let trace = TraceRequest { resource_spans: vec![ResourceSpans { resource, scope_spans, schema_url: "u".into() }] };
        let want = concat!(
            "0ae0010a1a0a180a0c736572766963652e6e616d6512080a06626561646c6512be010a0b0a06626561646c6512013112ab010a100102030405060708",
            "090a0b0c0d0e0f1012080102030405060708220808070605040302012a0663686174206d30033901000000000000004100006a11fef1e9184a070a01",
            "61120218074a0e0a0162120921000000000000e03f4a070a0163120210015a160903000000000000001201651a080a016b12030a01766a260a100909",
            "09090909090909090909090909091208090909090909090922080a016b12030a01767a0512016d18021a01751a0175",
        );
        assert_eq!(hex(&trace.encode_to_vec()), want);
        let sum = Sum {
            data_points: vec![NumberPoint {
                start_time_unix_nano: 1,
                time_unix_nano: 2,
                value: Some(Number::Double(1.5)),
                attributes: attributes("k", "v"),
            }],
            aggregation_temporality: Temporality::Cumulative.into(),
            is_monotonic: true,
        };
        let histogram = Histogram {
            data_points: vec![HistogramPoint {
                start_time_unix_nano: 1,
                time_unix_nano: 2,
                count: 3,
                sum: Some(4.5),
                bucket_counts: vec![1, 2],
                explicit_bounds: vec![0.25],
                attributes: attributes("k", "v"),
            }],
            aggregation_temporality: Temporality::Cumulative.into(),
        };
        let metrics = vec![
            Metric { name: "n".into(), description: "d".into(), unit: "s".into(), data: Some(Data::Sum(sum)) },
            Metric { name: "h".into(), data: Some(Data::Histogram(histogram)), ..Metric::default() },
        ];
        let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
        let request = MetricsRequest {
            resource_metrics: vec![ResourceMetrics { scope_metrics, schema_url: "u".into(), ..ResourceMetrics::default() }],
        };
        let want = concat!(
            "0a9301128d0112360a016e1201641a01733a2b0a2511010000000000000019020000000000000021000000000000f83f3a080a016b12030a01761002",
            "180112530a01684a4e0a4a11010000000000000019020000000000000021030000000000000029000000000000124032100100000000000000020000",
            "00000000003a08000000000000d03f4a080a016b12030a017610021a0175",
        );
        assert_eq!(hex(&request.encode_to_vec()), want);
        let answer = ExportResponse { partial_success: Some(PartialSuccess { rejected: 2, error_message: "no".into() }) };
        assert_eq!(hex(&answer.encode_to_vec()), "0a06080212026e6f");
    }
}
