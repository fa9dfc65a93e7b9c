//! An OTLP/HTTP receiver on loopback: decodes the protobuf of traces and metrics, keeps what it took, fails as told.

use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use beadle::otlp::message::{Data, ExportResponse, KeyValue, MetricsRequest, Number, PartialSuccess, Span, TraceRequest, Value};
use prost::Message;

use super::collector::head;

/// Larger requests are a fault of the sender.
const BODY_MAX: usize = 32 << 20;

/// What it does with one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answers {
    Takes,
    /// Takes it, but for so many spans.
    Rejects(i64, String),
    /// A status and further header lines.
    Status(u16, String),
    Closes,
    /// Takes it, and the answer is lost.
    TakesAndCloses,
}

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Sent {
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub traces: Option<TraceRequest>,
    pub metrics: Option<MetricsRequest>,
}

impl Sent {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v.as_str())
    }

    pub fn spans(&self) -> Vec<Span> {
        let of = self.traces.iter().flat_map(|t| &t.resource_spans).flat_map(|r| &r.scope_spans);
        of.flat_map(|s| s.spans.iter().cloned()).collect()
    }
}

type Plan = Box<dyn Fn(usize, &Sent) -> Answers + Send>;

/// See the module.
pub struct Otlp {
    pub port: u16,
    requests: Arc<Mutex<Vec<Sent>>>,
    taken: Arc<Mutex<Vec<Sent>>>,
    plan: Arc<Mutex<Plan>>,
}

impl Otlp {
    /// `plan` is asked with the number of the request, from 0.
    pub fn start(plan: impl Fn(usize, &Sent) -> Answers + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let it = Self { port, requests: Arc::default(), taken: Arc::default(), plan: Arc::new(Mutex::new(Box::new(plan))) };
        let (requests, taken, plan) = (it.requests.clone(), it.taken.clone(), it.plan.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &requests, &taken, &plan);
            }
        });
        it
    }

    pub fn plan(&self, plan: impl Fn(usize, &Sent) -> Answers + Send + 'static) {
        *self.plan.lock().expect("no panic holds it") = Box::new(plan);
    }

    pub fn requests(&self) -> Vec<Sent> {
        self.requests.lock().expect("no panic holds it").clone()
    }

    /// What it took, in order.
    pub fn taken(&self) -> Vec<Sent> {
        self.taken.lock().expect("no panic holds it").clone()
    }

    /// Spans by id; panics where one came again and is another.
    pub fn spans(&self) -> HashMap<Vec<u8>, Span> {
        let mut out: HashMap<Vec<u8>, Span> = HashMap::new();
        for s in self.taken().iter().flat_map(Sent::spans) {
            if let Some(before) = out.get(&s.span_id) {
                assert_eq!(before.encode_to_vec(), s.encode_to_vec(), "a repeated span is the same: {before:?} and {s:?}");
            }
            out.insert(s.span_id.clone(), s);
        }
        out
    }

    /// Pushes of metrics, in order.
    pub fn pushes(&self) -> Vec<Numbers> {
        self.taken().iter().filter_map(|s| s.metrics.as_ref()).map(Numbers::of).collect()
    }
}

/// One point: start time, count (1 a sum), sum.
pub type OnePoint = (u64, u64, f64);

/// Points of one push, by name and attributes (`k=v,…`).
#[derive(Debug, Clone, Default)]
pub struct Numbers(pub HashMap<(String, String), OnePoint>);

impl Numbers {
    fn of(request: &MetricsRequest) -> Self {
        let mut out = HashMap::new();
        let attributes = |a: &[KeyValue]| a.iter().map(|a| format!("{}={}", a.key, text(a))).collect::<Vec<_>>().join(",");
        for m in request.resource_metrics.iter().flat_map(|r| &r.scope_metrics).flat_map(|s| &s.metrics) {
            match m.data.as_ref().expect("data") {
                Data::Sum(s) => {
                    assert!(s.is_monotonic && s.aggregation_temporality == 2, "cumulative");
                    for p in &s.data_points {
                        let value = match p.value {
                            Some(Number::Double(d)) => d,
                            other => panic!("{other:?}"),
                        };
                        out.insert((m.name.clone(), attributes(&p.attributes)), (p.start_time_unix_nano, 1, value));
                    }
                }
                Data::Histogram(h) => {
                    assert_eq!(h.aggregation_temporality, 2, "cumulative");
                    for p in &h.data_points {
                        assert_eq!((p.bucket_counts.iter().sum::<u64>(), p.bucket_counts.len()), (p.count, p.explicit_bounds.len() + 1));
                        let point = (p.start_time_unix_nano, p.count, p.sum.expect("a sum"));
                        out.insert((m.name.clone(), attributes(&p.attributes)), point);
                    }
                }
            }
        }
        Self(out)
    }

    /// Count and sum of all series of a metric whose attributes hold this text.
    pub fn total(&self, name: &str, holds: &str) -> (u64, f64) {
        let of = self.0.iter().filter(|((n, a), _)| n == name && a.contains(holds));
        of.fold((0, 0.0), |(c, s), (_, (_, count, sum))| (c + count, s + sum))
    }
}

/// An attribute's value as text; empty for none.
pub fn text(a: &KeyValue) -> String {
    match a.value() {
        Some(Value::Text(t)) => t.clone(),
        Some(Value::Int(n)) => n.to_string(),
        Some(Value::Flag(b)) => b.to_string(),
        Some(Value::Double(d)) => d.to_string(),
        None => String::new(),
    }
}

pub fn attribute(s: &Span, key: &str) -> String {
    s.attributes.iter().find(|a| a.key == key).map(text).unwrap_or_default()
}

fn serve(mut stream: TcpStream, requests: &Mutex<Vec<Sent>>, taken: &Mutex<Vec<Sent>>, plan: &Mutex<Plan>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a copy"));
    let Some((first, headers, len)) = head(&mut reader) else { return };
    assert!(len <= BODY_MAX, "a request of {len} bytes");
    let mut body = vec![0; len];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let traces = path.ends_with("/v1/traces").then(|| TraceRequest::decode(&body[..]).expect("a request of traces"));
    let metrics = path.ends_with("/v1/metrics").then(|| MetricsRequest::decode(&body[..]).expect("a request of metrics"));
    let sent = Sent { path, headers, body, traces, metrics };
    let number = requests.lock().expect("no panic holds it").len();
    let does = plan.lock().expect("no panic holds it")(number, &sent);
    requests.lock().expect("no panic holds it").push(sent.clone());
    let said = |partial_success| ExportResponse { partial_success }.encode_to_vec();
    let (takes, answer) = match does {
        Answers::Takes => (true, Some(("200 OK\r\n".to_owned(), said(None)))),
        Answers::Rejects(rejected, error_message) => {
            // why not kept: which of them it refused, nobody is told.
            (false, Some(("200 OK\r\n".to_owned(), said(Some(PartialSuccess { rejected, error_message })))))
        }
        Answers::Status(code, more) => (false, Some((format!("{code} X\r\n{more}"), vec![]))),
        Answers::Closes => (false, None),
        Answers::TakesAndCloses => (true, None),
    };
    if takes {
        taken.lock().expect("no panic holds it").push(sent);
    }
    if let Some((status, body)) = answer {
        let _ = write!(
            stream,
            "HTTP/1.1 {status}content-type: application/x-protobuf\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all(&body);
    }
}
