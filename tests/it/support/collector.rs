//! A receiver of CloudEvents on loopback that fails as told: statuses, silence, closed connections, poison.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;

/// What it does with one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Does {
    Takes,
    /// Only so many, counted from the first.
    TakesPart(usize),
    /// A status and further header lines.
    Status(u16, String),
    /// Says nothing for ever.
    Hangs,
    /// Closes after it has read everything.
    Closes,
    /// Closes before the body has ended.
    ClosesMidBody,
    /// Takes it, and the answer is lost.
    TakesAndCloses,
}

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// When its head was read.
    pub at: Instant,
    pub headers: Vec<(String, String)>,
    pub text: String,
    pub events: Vec<Value>,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v.as_str())
    }
}

type Plan = Box<dyn Fn(usize, &Request) -> Does + Send>;

pub struct Collector {
    pub port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
    /// Data of the events that it took, in order.
    taken: Arc<Mutex<Vec<Value>>>,
    plan: Arc<Mutex<Plan>>,
}

impl Collector {
    /// `plan` is asked with the number of the request, from 0.
    pub fn start(plan: impl Fn(usize, &Request) -> Does + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let it = Self { port, requests: Arc::default(), taken: Arc::default(), plan: Arc::new(Mutex::new(Box::new(plan))) };
        let (requests, taken, plan) = (it.requests.clone(), it.taken.clone(), it.plan.clone());
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                serve(stream, &requests, &taken, &plan, &mut held);
            }
        });
        it
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/events", self.port)
    }

    /// From now on it does otherwise.
    pub fn plan(&self, plan: impl Fn(usize, &Request) -> Does + Send + 'static) {
        *self.plan.lock().expect("no panic holds it") = Box::new(plan);
    }

    pub fn taken(&self) -> Vec<Value> {
        self.taken.lock().expect("no panic holds it").clone()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic holds it").clone()
    }
}

fn serve(mut stream: TcpStream, requests: &Mutex<Vec<Request>>, taken: &Mutex<Vec<Value>>, plan: &Mutex<Plan>, held: &mut Vec<TcpStream>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a copy"));
    let Some((_, headers, len)) = head(&mut reader) else { return };
    let at = Instant::now();
    let number = requests.lock().expect("no panic holds it").len();
    let blank = Request { at, headers: headers.clone(), text: String::new(), events: vec![] };
    // why asked twice: this one closes before there is a body to show.
    if plan.lock().expect("no panic holds it")(number, &blank) == Does::ClosesMidBody {
        let _ = reader.read_exact(&mut vec![0; len / 2]);
        requests.lock().expect("no panic holds it").push(blank);
        return;
    }
    let mut body = vec![0; len];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let text = String::from_utf8(body).expect("JSON is text");
    let events: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let request = Request { at, headers, text, events };
    let does = plan.lock().expect("no panic holds it")(number, &request);
    let take = |n: usize| {
        let data = request.events.iter().take(n).map(|e| e["data"].clone());
        taken.lock().expect("no panic holds it").extend(data);
    };
    let all = request.events.len();
    let answer = match does {
        Does::Takes => {
            take(all);
            Some("204 No Content\r\n".to_owned())
        }
        Does::TakesPart(n) => {
            take(n);
            Some(format!("200 OK\r\ncontent-length: 0\r\nbeadle-accepted: {}\r\n", n.min(all)))
        }
        Does::Status(code, more) => Some(format!("{code} X\r\ncontent-length: 0\r\n{more}")),
        Does::TakesAndCloses => {
            take(all);
            None
        }
        Does::Closes | Does::ClosesMidBody => None,
        Does::Hangs => {
            held.push(stream.try_clone().expect("a copy"));
            None
        }
    };
    requests.lock().expect("no panic holds it").push(request);
    if let Some(answer) = answer {
        let _ = write!(stream, "HTTP/1.1 {answer}connection: close\r\n\r\n");
    }
}

/// A request's first line, its headers with small names, and the length of its body.
type Head = (String, Vec<(String, String)>, usize);

pub fn head(reader: &mut impl BufRead) -> Option<Head> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|n| *n > 0)?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((k, v)) = line.trim().split_once(": ") else { break };
        headers.push((k.to_ascii_lowercase(), v.to_owned()));
    }
    let len = headers.iter().find(|(k, _)| k == "content-length")?.1.parse().ok()?;
    Some((first, headers, len))
}

/// Of events as they came: the first time of each, by session, in the order in which they came. Panics where a repeated one differs.
pub fn firsts(events: &[Value]) -> HashMap<String, Vec<u64>> {
    let mut seen: HashMap<(String, u64), &Value> = HashMap::new();
    let mut out: HashMap<String, Vec<u64>> = HashMap::new();
    for e in events {
        let session = e["session"].as_str().expect("a session").to_owned();
        let seq = e["seq"].as_u64().expect("a seq");
        match seen.get(&(session.clone(), seq)) {
            Some(before) => assert_eq!(**before, *e, "a repeated event is the same"),
            None => {
                seen.insert((session.clone(), seq), e);
                out.entry(session).or_default().push(seq);
            }
        }
    }
    out
}
