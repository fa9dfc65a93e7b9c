//! The client against servers that misbehave: none of these is a daemon, each is a few bytes on a unix socket.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use beadle::api::client::{Client, Error, Item};
use beadle::api::types::{EventsQuery, LogsQuery};
use beadle::config::Folders;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

struct Fake {
    dir: TempDir,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// Answers the n-th connection with the n-th text, then closes it; later connections get the last one.
    fn serve(answers: Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folders = folders(dir.path());
        folders.create().unwrap();
        let listener = UnixListener::bind(folders.socket()).unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, count) = (requests.clone(), AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                let mut byte = [0u8; 1];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).await.is_ok_and(|n| n == 1) {
                    head.push(byte[0]);
                }
                seen.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
                let n = count.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1);
                let _ = stream.write_all(answers[n].as_bytes()).await;
            }
        });
        Self { dir, requests }
    }

    fn client(&self) -> Client {
        Client::without_start(folders(self.dir.path()))
    }
}

fn folders(root: &Path) -> Folders {
    Folders { config: root.join("c"), data: root.join("d"), cache: root.join("k"), runtime: root.join("r") }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

fn event(seq: u64) -> String {
    format!(
        "id: {seq}\nevent: event\ndata: {{\"session\":\"s\",\"seq\":{seq},\"at\":\"t\",\"attempt\":1,\"kind\":\"x\",\"body\":{{}}}}\n\n"
    )
}

fn stream(events: &str) -> String {
    // No length: the body lasts until the connection is closed.
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n: hello\n\n{events}")
}

#[tokio::test]
async fn a_broken_stream_goes_on_where_it_ended() {
    let end = "event: problem\ndata: {\"code\":\"BDL-TEST-001\",\"message\":\"enough\"}\n\n";
    let cut = &event(9)[..20];
    let fake = Fake::serve(vec![stream(&format!("{}{}{cut}", event(7), event(8))), stream(&format!("{}{end}", event(9)))]);
    let mut s = fake.client().stream(Some("s"), EventsQuery { from: Some(7), ..EventsQuery::default() }).await.unwrap();
    let mut seqs = Vec::new();
    let failed = loop {
        match s.next().await.unwrap() {
            Ok(Item::Event(doc)) => seqs.push(doc.seq),
            Ok(other) => unreachable!("{other:?} was not sent"),
            Err(e) => break e,
        }
    };
    assert_eq!(seqs, [7, 8, 9]);
    assert_eq!(failed.code(), "BDL-TEST-001");
    assert!(s.next().await.is_none());
    let requests = fake.requests.lock().unwrap();
    assert!(requests[0].starts_with("GET /v1/sessions/s/events?from=7 ") && !requests[0].contains("last-event-id"));
    assert!(requests[1].starts_with("GET /v1/sessions/s/events ") && requests[1].contains("last-event-id: 8\r\n"));
}

#[tokio::test]
async fn refusals_and_nonsense_are_told_apart() {
    let problem = r#"{"code":"BDL-API-404","message":"there is no session \"x\"","hint":"see `beadle ls`"}"#;
    let cases = [
        (answer("404 Not Found", "", problem), "BDL-API-404", 3),
        (answer("500 Internal Server Error", "", "oops"), "BDL-CLIENT-005", 125),
        (answer("200 OK", "", "{\"id\":3}"), "BDL-CLIENT-005", 125),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned(), "BDL-CLIENT-004", 4),
        ("nonsense\r\n\r\n".to_owned(), "BDL-CLIENT-004", 4),
        (String::new(), "BDL-CLIENT-004", 4),
    ];
    for (text, code, exit) in cases {
        let fake = Fake::serve(vec![text.clone()]);
        let e = fake.client().session("x").await.unwrap_err();
        assert_eq!((e.code(), e.exit()), (code, exit), "{text:?}: {e}");
    }
    let fake = Fake::serve(vec![answer("404 Not Found", "", problem)]);
    assert_eq!(fake.client().session("../x y").await.unwrap_err().hint(), Some("see `beadle ls`"));
    assert!(fake.requests.lock().unwrap()[0].starts_with("GET /v1/sessions/..%2Fx%20y HTTP/1.1"));
}

#[tokio::test]
async fn logs_need_their_headers() {
    let fake = Fake::serve(vec![
        answer("200 OK", "beadle-offset: 3\r\nbeadle-next: 5\r\nbeadle-ended: true\r\n", "hi"),
        answer("200 OK", "", "hi"),
    ]);
    let chunk = fake.client().logs("s", &LogsQuery::default()).await.unwrap();
    assert_eq!((chunk.offset, chunk.next, chunk.ended, &chunk.bytes[..]), (3, 5, true, &b"hi"[..]));
    assert!(matches!(fake.client().logs("s", &LogsQuery::default()).await, Err(Error::NotUnderstood(_))));
}

#[tokio::test]
async fn a_socket_that_nobody_serves_is_unreachable() {
    let dir = tempfile::tempdir().unwrap();
    let folders = folders(dir.path());
    folders.create().unwrap();
    drop(std::os::unix::net::UnixListener::bind(folders.socket()).unwrap());
    let e = Client::without_start(folders).host().await.unwrap_err();
    assert_eq!((e.code(), e.exit()), ("BDL-CLIENT-001", 4));
}

#[tokio::test]
async fn the_socket_in_the_data_folder_is_found_when_the_runtime_folder_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("x".repeat(150));
    let folders = folders(&long);
    folders.create().unwrap();
    let short = beadle::config::short_path(&folders.sockets()[1]).unwrap();
    let listener = UnixListener::bind(&short.path).unwrap();
    std::fs::remove_dir_all(&folders.runtime).unwrap();
    let answered = tokio::spawn(async move { listener.accept().await.is_ok() });
    let e = Client::without_start(folders).host().await.unwrap_err();
    // Broken off, and when it was tried again nobody listened.
    assert_eq!(e.code(), "BDL-CLIENT-001");
    assert!(answered.await.unwrap());
}
