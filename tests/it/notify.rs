//! Notices through the real daemon: a receiver on loopback that fails, hangs, redirects; a stand-in for `notify-send`; secrets; restarts.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto::ring};

use crate::support::collector::head;
use crate::support::{Model, TestHost, bash, lines_of, rules, runtime, until};

/// What a receiver does with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Takes,
    Status(u16),
    /// Reads it and says nothing for ever.
    Hangs,
    Closes,
    Redirects,
}

/// One request as it came.
#[derive(Debug, Clone)]
struct Got {
    path: String,
    headers: Vec<(String, String)>,
    text: String,
    body: Value,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v.as_str())
    }

    fn kind(&self) -> String {
        format!("{} {}", self.body["type"].as_str().unwrap_or_default(), self.body["approval"]["id"].as_str().unwrap_or_default())
    }
}

struct Receiver {
    port: u16,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    /// Does these things in turn, then takes what comes.
    fn start(does: &[Does]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let got = Arc::new(Mutex::new(Vec::new()));
        let (does, seen) = (does.to_vec(), got.clone());
        std::thread::spawn(move || {
            let (mut held, mut turns) = (Vec::new(), does.into_iter());
            for stream in listener.incoming().map_while(Result::ok) {
                let does = turns.next().unwrap_or(Does::Takes);
                let mut reader = BufReader::new(stream.try_clone().expect("a copy"));
                let Some(request) = read(&mut reader) else { continue };
                seen.lock().expect("no panic holds it").push(request);
                let mut stream = stream;
                let _ = match does {
                    Does::Takes => write!(stream, "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"),
                    Does::Status(n) => write!(stream, "HTTP/1.1 {n} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
                    Does::Redirects => {
                        write!(stream, "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{port}/elsewhere\r\ncontent-length: 0\r\n\r\n")
                    }
                    Does::Closes => Ok(()),
                    Does::Hangs => {
                        held.push(stream);
                        Ok(())
                    }
                };
            }
        });
        Self { port, got }
    }

    fn all(&self) -> Vec<Got> {
        self.got.lock().expect("no panic holds it").clone()
    }

    fn until_got(&self, n: usize) -> Vec<Got> {
        until(&format!("{n} requests came"), || Some(self.all()).filter(|g| g.len() >= n))
    }
}

fn read(reader: &mut impl BufRead) -> Option<Got> {
    let (first, headers, len) = head(reader)?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    let text = String::from_utf8(body).ok()?;
    Some(Got { path, headers, body: serde_json::from_str(&text).ok()?, text })
}

fn host(notify: &str, more: &str) -> TestHost {
    let host = TestHost::new();
    host.config(&format!("[notify]\n{notify}\n{more}\n{}", rules(&["Edit(./**)"], &["Bash(echo:*)"], &[])));
    host
}

fn asks(command: &str) -> Model {
    Model::start(&json!({ "steps": [bash(command), { "text": "done" }] }))
}

fn waiting(host: &TestHost, id: &str, n: usize) -> String {
    until("a call waits", || host.events_of(id, "approval_requested").get(n).map(|e| format!("{id}:{}", e["body"]["call"])))
}

fn counts(host: &TestHost, channel: &str) -> Value {
    let status = host.beadle(["--json", "host", "status"]).ok().json();
    status["notices"].as_array().into_iter().flatten().find(|n| n["channel"] == channel).cloned().unwrap_or_default()
}

#[test]
fn a_receiver_is_told_of_the_question_and_of_its_answer_signed_and_masked() {
    let receiver = Receiver::start(&[]);
    let mut host = host(&format!("webhook = \"http://127.0.0.1:{}/hook?x=1\"\nsecret_file = \"secret\"", receiver.port), "");
    let secret = host.beadle_home().join("config/secret");
    std::fs::write(&secret, "s3cret\n").expect("written");
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("private");
    let key = format!("ghp_{}", "a1B2".repeat(10));
    let model = asks(&format!("echo {key} {}", "x".repeat(3000)));
    let id = host.run_demo(&model, "go", &["--name", "fix", "--label", "team=a"]);
    let approval = waiting(&host, &id, 0);
    let got = receiver.until_got(1)[0].clone();
    assert_eq!((got.path.as_str(), got.kind()), ("/hook?x=1", format!("approval_requested {approval}")));
    let a = &got.body["approval"];
    assert_eq!((a["tool"].as_str(), a["session_name"].as_str(), a["labels"]["team"].as_str()), (Some("Bash"), Some("fix"), Some("a")));
    assert!(a["rule"] == "Bash(echo:*)" && a["expires_at"].is_string() && a["reason"].as_str().is_some_and(|r| !r.is_empty()), "{a}");
    assert_eq!(got.body["answer"]["approve"], format!("beadle approve {approval}"));
    assert!(!got.text.contains(&key) && got.text.contains("[secret masked]") && got.text.len() < 2500, "{}", got.text);
    let mut mac = Hmac::<Sha256>::new_from_slice(b"s3cret").expect("any length");
    mac.update(format!("{}.{}", got.header("beadle-timestamp"), got.text).as_bytes());
    let theirs: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(got.header("beadle-signature"), format!("v1={theirs}"));
    host.beadle(["deny", &approval, "--reason", "not this"]).ok();
    let end = receiver.until_got(2)[1].clone();
    assert_eq!(end.kind(), format!("approval_denied {approval}"));
    assert_eq!((end.body["resolution"]["by"].as_str(), end.body["resolution"]["reason"].as_str()), (Some("operator"), Some("not this")));
    assert!(end.body.get("answer").is_none() && end.header("beadle-delivery") != got.header("beadle-delivery"));
    until("both are counted", || (counts(&host, "webhook")["delivered_count"] == 2).then_some(()));
    host.ended(&id);
}

#[test]
fn what_fails_is_tried_again_with_the_same_delivery_and_a_redirect_is_not_followed() {
    let receiver = Receiver::start(&[Does::Status(500), Does::Closes, Does::Takes, Does::Redirects]);
    let mut host = host(&format!("webhook = \"http://127.0.0.1:{}/\"", receiver.port), "");
    let model = asks("echo x");
    let id = host.run_demo(&model, "go", &[]);
    let approval = waiting(&host, &id, 0);
    let got = receiver.until_got(3);
    assert!(got.iter().all(|g| g.kind() == format!("approval_requested {approval}")), "{got:#?}");
    assert!(got.iter().all(|g| g.header("beadle-delivery") == got[0].header("beadle-delivery")));
    assert!(got.iter().all(|g| g.header("beadle-signature").is_empty()));
    until("it is delivered", || (counts(&host, "webhook")["delivered_count"] == 1).then_some(()));
    host.beadle(["approve", &approval]).ok();
    host.ended(&id);
    let end = until("the redirect is given up", || Some(counts(&host, "webhook")).filter(|c| c["failed_count"] == 1));
    assert!(end["last_error"].as_str().is_some_and(|e| e.contains("302")), "{end}");
    assert_eq!(receiver.all().len(), 4, "one try, nowhere else: {:#?}", receiver.all());
    let log = lines_of(&host.data().join("daemon.log")).join("\n");
    assert!(log.contains("a notice was given up"), "{log}");
}

#[test]
fn a_receiver_that_hangs_holds_nothing_up_and_what_is_old_is_not_told() {
    let receiver = Receiver::start(&[Does::Hangs; 5]);
    let notify = format!("webhook = \"http://127.0.0.1:{}/\"\ntimeout_ms = 300", receiver.port);
    let mut host = host(&notify, "");
    let model = Model::start(&json!({ "steps": [bash("echo 1"), bash("echo 2"), bash("echo 3"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    for n in 0..3 {
        let approval = waiting(&host, &id, n);
        host.beadle(["approve", &approval]).ok();
    }
    assert_eq!(host.ended(&id)["outcome"], "succeeded", "the gate did not wait for the receiver");
    // The first question has five tries; by then all is answered: its end is told, the two others never were.
    let c = until("all is settled", || {
        Some(counts(&host, "webhook")).filter(|c| c["failed_count"].as_u64() >= Some(1) && c["outdated_count"].as_u64() >= Some(2))
    });
    assert!(c["last_error"].as_str().is_some_and(|e| e.contains("300 ms")), "{c}");
    let kinds: Vec<String> = receiver.all().iter().map(|g| g.body["type"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(kinds[..5], ["approval_requested"; 5]);
}

#[test]
fn an_end_by_time_is_told_and_a_restart_tells_the_rest() {
    let receiver = Receiver::start(&[Does::Status(503); 200]);
    let mut host = host(&format!("webhook = \"http://127.0.0.1:{}/\"", receiver.port), "[approvals]\ntimeout_ms = 20000\n");
    let model = asks("echo x");
    let id = host.run_demo(&model, "go", &[]);
    let approval = waiting(&host, &id, 0);
    receiver.until_got(1);
    host.kill_daemon();
    let before = receiver.all().len();
    host.daemon();
    let again = receiver.until_got(before + 1);
    assert_eq!(again[before].kind(), format!("approval_requested {approval}"), "what was not delivered is told by the next daemon");
    let ends = until("its end is told", || {
        let ends: Vec<Got> = receiver.all().into_iter().filter(|g| g.body["type"] == "approval_expired").collect();
        (!ends.is_empty()).then_some(ends)
    });
    assert_eq!(ends[0].body["resolution"]["by"], "host");
    host.ended(&id);
}

#[test]
fn nothing_is_sent_unsigned_when_the_secret_is_missing() {
    let receiver = Receiver::start(&[]);
    let mut host = host(&format!("webhook = \"http://127.0.0.1:{}/\"\nsecret_file = \"missing\"", receiver.port), "");
    let model = asks("echo x");
    let id = host.run_demo(&model, "go", &[]);
    let approval = waiting(&host, &id, 0);
    host.beadle(["deny", &approval]).ok();
    host.ended(&id);
    let log = lines_of(&host.data().join("daemon.log")).join("\n");
    assert!(log.contains("BDL-NOTIFY-001") && receiver.all().is_empty(), "{log}");
}

#[test]
fn the_desktop_is_told_by_arguments_on_the_operators_bus_and_a_program_that_hangs_is_killed() {
    let mut host = host("desktop = true", "");
    let (bin, run) = (host.home().join("bin"), host.home().join("run"));
    for dir in [&bin, &run] {
        std::fs::create_dir_all(dir).expect("a folder");
    }
    let _bus = std::os::unix::net::UnixListener::bind(run.join("bus")).expect("a bus");
    let said = host.home().join("said");
    let script = format!(
        "#!/bin/sh\nfor a in \"$@\"; do printf '%s\\n' \"[$a]\"; done >> {0}\nenv >> {0}\necho end >> {0}\ncase \"$*\" in *hang*) echo $$ > {0}.pid; exec sleep 1000;; esac\n",
        said.display()
    );
    let program = bin.join("notify-send");
    std::fs::write(&program, script).expect("written");
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    host.set("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default()));
    host.set("XDG_RUNTIME_DIR", run.display().to_string());
    host.set("SECRET_OF_THE_CALLER", "x");
    let model = Model::start(&json!({ "steps": [bash("echo '<b>$(touch evil)</b>'"), bash("echo hang"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &["--name=--urgency=low"]);
    let first = waiting(&host, &id, 0);
    until("it was shown", || lines_of(&said).contains(&"end".to_owned()).then_some(()));
    let lines = lines_of(&said);
    for want in ["[--urgency=critical]", "[--]", "[--urgency=low waits for an answer]"] {
        assert!(lines.contains(&want.to_owned()), "no {want} in {lines:#?}");
    }
    let text = lines.join("\n");
    assert!(text.contains("&lt;b&gt;$(touch evil)&lt;/b&gt;") && text.contains(&format!("beadle approve {first}")), "{text}");
    assert!(text.contains(&format!("DBUS_SESSION_BUS_ADDRESS=unix:path={}/bus", run.display())), "{text}");
    assert!(!text.contains("SECRET_OF_THE_CALLER") && !text.contains("BEADLE_HOME"), "{text}");
    host.beadle(["deny", &first]).ok();
    let second = waiting(&host, &id, 1);
    let pid: u32 = until("the second hangs", || lines_of(&said.with_extension("pid")).first()?.parse().ok());
    host.beadle(["deny", &second]).ok();
    assert_eq!(host.ended(&id)["outcome"], "succeeded", "nothing waits for the desktop");
    assert!(std::fs::read_to_string(&said).is_ok_and(|t| t.contains("denied by operator")), "the end of the first was shown");
    until("what hung is killed", || (!crate::support::alive(pid)).then_some(()));
    until("it is counted", || counts(&host, "desktop")["failed_count"].as_u64().filter(|n| *n >= 1));
    assert!(!host.work().join("evil").exists());
}

pub fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tls").join(name)
}

/// A receiver behind TLS whose certificate names `localhost`; gives its port and what came. A request ends with the character `last`.
pub fn behind_tls(last: char) -> (u16, Arc<Mutex<Vec<String>>>) {
    let chain = vec![CertificateDer::from_pem_file(golden("leaf.pem")).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(golden("leaf.key")).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|c| c.with_no_client_auth().with_single_cert(chain, key))
        .expect("a server");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let got = Arc::new(Mutex::new(Vec::new()));
    let seen = got.clone();
    runtime().spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut text = String::new();
            let mut buf = vec![0; 64 << 10];
            while !text.ends_with(last) {
                match stream.read(&mut buf).await {
                    Ok(n @ 1..) => text.push_str(&String::from_utf8_lossy(&buf[..n])),
                    _ => break,
                }
            }
            seen.lock().expect("no panic holds it").push(text);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            let _ = stream.flush().await;
        }
    });
    (port, got)
}

#[test]
fn over_tls_only_a_receiver_with_a_trusted_certificate_for_its_name_is_told() {
    let (port, got) = behind_tls('}');
    let tell = |address: &str, roots: &str| {
        let mut host = host(&format!("webhook = \"https://{address}:{port}/\""), "");
        let mut daemon = host.daemon_with("SSL_CERT_FILE", &golden(roots).display().to_string());
        let model = asks("echo x");
        let id = host.run_demo(&model, "go", &[]);
        waiting(&host, &id, 0);
        let c = until("it is told or given up", || {
            let c = counts(&host, "webhook");
            (c["delivered_count"] == 1 || c["failed_count"] == 1).then_some(c)
        });
        host.beadle(["kill", &id]).ok();
        host.beadle(["host", "stop"]).ok();
        daemon.wait().expect("the daemon ends");
        c
    };
    let c = tell("localhost", "ca.pem");
    assert_eq!(c["delivered_count"], 1, "{c}");
    // Its end by the kill may have been told too.
    let told = got.lock().expect("no panic holds it").clone();
    assert!(told.first().is_some_and(|t| t.contains("approval_requested")), "{told:?}");
    let c = tell("127.0.0.1", "ca.pem");
    assert!(c["last_error"].as_str().is_some_and(|e| e.starts_with("TLS: ")), "another name: {c}");
    let c = tell("localhost", "leaf.pem");
    assert!(c["last_error"].as_str().is_some_and(|e| e.starts_with("TLS: ")), "an authority that is not trusted: {c}");
    assert_eq!(got.lock().expect("no panic holds it").len(), told.len(), "nothing was said to who could not prove its name");
}
