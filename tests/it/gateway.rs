//! The scripted model over real sockets, and the built-in demo agent as a real process between it and a host played here.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use beadle::demo::workspace;
use beadle::gateway::{Options, Script, Server};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

/// How long anything here may take.
const DEADLINE: Duration = Duration::from_secs(60);

async fn serve(script: &str) -> Server {
    Server::start(Script::parse(script).unwrap(), Options::default()).await.unwrap()
}

/// One request on a connection of its own: status, headers, body; or that the connection broke.
async fn http(server: &Server, method: &str, path: &str, body: &str) -> Result<(u16, hyper::HeaderMap, String), String> {
    let talk = async {
        let stream = tokio::net::TcpStream::connect(server.addr()).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let running = tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "x")
            .header("x-api-key", "s3cret")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        running.abort();
        Ok((status, headers, String::from_utf8(body.to_vec()).unwrap()))
    };
    tokio::time::timeout(DEADLINE, talk).await.unwrap()
}

async fn post(server: &Server, body: Value) -> Result<(u16, Value), String> {
    let (status, _, text) = http(server, "POST", "/v1/messages?beta=true", &body.to_string()).await?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

fn ask(stream: bool) -> Value {
    json!({"model": "m", "max_tokens": 10, "stream": stream, "tools": [{"name": "Bash"}], "messages": [{"role": "user", "content": "go"}]})
}

#[tokio::test]
async fn a_message_whole_and_streamed_say_the_same() {
    let step = r#"{"text": "two calls", "tools": [{"name": "Bash", "input": {"command": "ls"}}, {"name": "Read", "input": {"file_path": "x"}, "id": "fixed"}], "usage": {"in": 7, "out": 8, "cache_read": 9, "cache_write": 10}}"#;
    let server = serve(&format!(r#"{{"steps": [{step}, {step}]}}"#)).await;
    let (status, whole) = post(&server, ask(false)).await.unwrap();
    assert_eq!((status, &whole["stop_reason"], &whole["content"][2]["id"]), (200, &json!("tool_use"), &json!("fixed")));
    assert_eq!(whole["usage"]["cache_creation_input_tokens"], 10);
    let (_, Value::String(events)) = post(&server, ask(true)).await.unwrap() else { panic!("not a stream") };
    let events: Vec<Value> = events.lines().filter_map(|l| l.strip_prefix("data: ")).map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(events[0]["message"]["usage"]["output_tokens"], 1);
    assert_eq!(events.iter().filter(|e| e["type"] == "content_block_start").count(), 3);
    let last = events.iter().find(|e| e["type"] == "message_delta").unwrap();
    assert_eq!((&last["usage"]["output_tokens"], &last["delta"]["stop_reason"]), (&json!(8), &json!("tool_use")));
    assert_eq!(post(&server, ask(false)).await.unwrap().1["content"][0]["text"], "done.");
    server.stop().await;
}

#[tokio::test]
async fn failures_are_served_as_written() {
    let server = serve(
        r#"{"steps": [{"error": {"status": 529, "retry_after": 3}}, {"error": {"status": 418, "body": {"odd": true}}},
                      {"drop": "before"}, {"drop": "middle", "text": "half of this"}, {"text": "at last"}]}"#,
    )
    .await;
    let (status, headers, body) = http(&server, "POST", "/v1/messages", &ask(true).to_string()).await.unwrap();
    assert_eq!((status, headers["retry-after"].to_str().unwrap()), (529, "3"));
    assert!(body.contains("overloaded_error"));
    assert_eq!(post(&server, ask(true)).await.unwrap(), (418, json!({"odd": true})));
    for _ in 0..2 {
        assert!(post(&server, ask(true)).await.is_err());
    }
    assert_eq!(post(&server, ask(false)).await.unwrap().1["content"][0]["text"], "at last");
    assert_eq!(server.requests().iter().map(|r| r.status).collect::<Vec<_>>(), [529, 418, 0, 200, 200]);
}

#[tokio::test]
async fn bad_requests_get_the_api_s_own_errors_and_use_no_step() {
    let server = serve(r#"{"steps": [{"text": "only"}]}"#).await;
    for body in ["", "{", "[]", "{}", r#"{"model": "m", "messages": []}"#, "\u{0}\u{1}"] {
        let (status, _, text) = http(&server, "POST", "/v1/messages", body).await.unwrap();
        assert!(status == 400 && text.contains("invalid_request_error"), "{body}: {status} {text}");
    }
    let big = "x".repeat(beadle::gateway::MAX_BODY + 1);
    // The server may close before all of it is sent.
    assert!(
        http(&server, "POST", "/v1/messages", &big).await.is_ok_and(|r| r.0 == 413) || server.requests().iter().any(|r| r.status == 413)
    );
    assert_eq!(http(&server, "GET", "/v1/none", "").await.unwrap().0, 404);
    assert_eq!(http(&server, "HEAD", "/", "").await.unwrap().0, 200);
    assert!(http(&server, "GET", "/v1/models", "").await.unwrap().2.contains("scripted"));
    let (_, _, count) = http(&server, "POST", "/v1/messages/count_tokens", "12345678").await.unwrap();
    assert_eq!(count, r#"{"input_tokens":2}"#);
    assert_eq!(post(&server, ask(false)).await.unwrap().1["content"][0]["text"], "only");
    assert_eq!(http(&server, "POST", "/_script/reset", "").await.unwrap().0, 200);
    assert_eq!(post(&server, ask(false)).await.unwrap().1["content"][0]["text"], "only");
    assert!(server.requests().iter().all(|r| r.headers["x-api-key"] == "<redacted>"));
}

#[tokio::test]
async fn the_log_has_a_line_a_request_and_no_key_and_the_port_is_free_after_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let options = Options { log: Some(log.clone()), ..Options::default() };
    let server = Server::start(Script::parse(r#"{"steps": [{"text": "a"}]}"#).unwrap(), options).await.unwrap();
    let port = server.addr().port();
    for _ in 0..3 {
        post(&server, ask(true)).await.unwrap();
    }
    let text = std::fs::read_to_string(&log).unwrap();
    let steps: Vec<Value> = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["step"].clone()).collect();
    assert_eq!(steps, [json!(0), Value::Null, Value::Null]);
    assert!(!text.contains("s3cret"));
    server.stop().await;
    let at = |port| Server::start(Script::parse(r#"{"steps": [{"text": "a"}]}"#).unwrap(), Options { port, ..Options::default() });
    let (mut port, mut again) = (port, at(port).await);
    // A neighbour may have been given the port in between: then another one is tried.
    for _ in 0..9 {
        if again.is_ok() {
            break;
        }
        let server = at(0).await.unwrap();
        port = server.addr().port();
        server.stop().await;
        again = at(port).await;
    }
    let again = again.unwrap();
    let taken = at(port).await;
    assert_eq!(taken.err().map(|e| e.code()), Some("BDL-GATEWAY-005"));
    drop(again);
}

/// The agent as a process, its stdio a socketpair as the shim makes it.
struct Agent {
    child: Child,
    to: Option<UnixStream>,
    from: BufReader<UnixStream>,
}

impl Agent {
    fn start(server: &Server, cwd: &Path) -> Self {
        let (ours_in, theirs_in) = UnixStream::pair().unwrap();
        let (ours_out, theirs_out) = UnixStream::pair().unwrap();
        ours_out.set_read_timeout(Some(DEADLINE)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_beadle"))
            .args(["demo-agent", "--session-id", "11111111-1111-4111-8111-111111111111"])
            .current_dir(cwd)
            .env("ANTHROPIC_BASE_URL", server.url())
            .env("ANTHROPIC_API_KEY", "s3cret")
            .stdin(Stdio::from(OwnedFd::from(theirs_in)))
            .stdout(Stdio::from(OwnedFd::from(theirs_out)))
            .spawn()
            .unwrap();
        let mut agent = Self { child, to: Some(ours_in), from: BufReader::new(ours_out) };
        agent.send(&json!({"type": "control_request", "request_id": "init", "request": {"subtype": "initialize", "hooks": null}}));
        assert_eq!(agent.line().unwrap()["response"]["request_id"], "init");
        agent
    }

    fn send(&mut self, line: &Value) {
        self.to.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn prompt(&mut self, text: &str) {
        self.send(&json!({"type": "user", "message": {"role": "user", "content": [{"type": "text", "text": text}]}, "parent_tool_use_id": null, "session_id": ""}));
    }

    fn answer(&mut self, question: &Value, response: Value) {
        let id = &question["request_id"];
        self.send(&json!({"type": "control_response", "response": {"subtype": "success", "request_id": id, "response": response}}));
    }

    fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        (self.from.read_line(&mut line).unwrap() > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    /// Lines up to and with the next of this type.
    fn until(&mut self, kind: &str) -> Vec<Value> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().unwrap_or_else(|| panic!("ended before {kind}: {lines:#?}"));
            let found = line["type"] == kind;
            lines.push(line);
            if found {
                return lines;
            }
        }
    }

    /// Answers questions by `decide` (given tool and input) until the turn ends.
    fn turn(&mut self, decide: impl Fn(&str, &Value) -> Value) -> Vec<Value> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().unwrap_or_else(|| panic!("ended early: {lines:#?}"));
            if line["type"] == "control_request" {
                let request = &line["request"];
                let response = decide(request["tool_name"].as_str().unwrap(), &request["input"]);
                self.answer(&line, response);
            }
            let end = line["type"] == "result";
            lines.push(line);
            if end {
                return lines;
            }
        }
    }

    fn close(&mut self) {
        self.to = None;
    }

    fn exit_code(mut self) -> Option<i32> {
        self.close();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // why: a test that failed must not leave the process behind; one that ended is already reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn allow(input: &Value) -> Value {
    json!({"behavior": "allow", "updatedInput": input})
}

fn bash(command: &str) -> String {
    json!({"tool": "Bash", "input": {"command": command}}).to_string()
}

fn results(lines: &[Value]) -> Vec<(String, bool)> {
    let of = |l: &Value| {
        let r = &l["message"]["content"][0];
        (r["content"].as_str().unwrap().to_owned(), r["is_error"].as_bool().unwrap())
    };
    lines.iter().filter(|l| l["type"] == "user").map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_runs_what_is_allowed_rewritten_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&format!(
        r#"{{"steps": [{}, {}, {}, {{"when": {{"last": "not today"}}, "text": "all three"}}]}}"#,
        bash("echo one >> ran"),
        bash("echo two >> ran"),
        bash("echo three >> ran")
    ))
    .await;
    let mut agent = Agent::start(&server, dir.path());
    agent.prompt("go");
    let lines = agent.turn(|_, input| match input["command"].as_str().unwrap() {
        "echo two >> ran" => allow(&json!({"command": "echo instead >> ran"})),
        "echo three >> ran" => json!({"behavior": "deny", "message": "not today"}),
        _ => allow(input),
    });
    assert_eq!(std::fs::read_to_string(dir.path().join("ran")).unwrap(), "one\ninstead\n");
    assert_eq!(results(&lines)[2], ("not today".into(), true));
    assert_eq!((&lines[0]["type"], &lines[0]["subtype"]), (&json!("system"), &json!("init")));
    let result = lines.last().unwrap();
    assert_eq!((&result["result"], &result["is_error"], &result["num_turns"]), (&json!("all three"), &json!(false), &json!(4)));
    assert_eq!(result["permission_denials"][0]["tool_input"]["command"], "echo three >> ran");
    // 4 answers of 1,200 in, 34 out, 1,000 cache read, 50 cache write.
    assert!((result["total_cost_usd"].as_f64().unwrap() - 4.0 * 0.007_662_5).abs() < 1e-12);
    assert_eq!(result["modelUsage"]["claude-opus-4-8"]["outputTokens"], 136);
    // What the model was told: each call has its result.
    let last = server.requests().last().unwrap().body.clone();
    assert_eq!(last["messages"].as_array().unwrap().len(), 7);
    assert_eq!(last["messages"][6]["content"][0]["content"], "not today");
    // A second prompt goes on in the same conversation.
    agent.prompt("more");
    let more = agent.turn(|_, input| allow(input));
    assert_eq!(more.last().unwrap()["result"], "done.");
    assert_eq!(agent.exit_code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_calls_are_asked_at_once_and_joined_by_id() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(
        r#"{"steps": [{"tools": [{"name": "Bash", "input": {"command": "echo a"}}, {"name": "Write", "input": {"file_path": "b", "content": "b"}},
                                 {"name": "Read", "input": {"file_path": "c"}}]}, {"text": "end"}]}"#,
    )
    .await;
    let mut agent = Agent::start(&server, dir.path());
    agent.prompt("go");
    let mut questions = Vec::new();
    while questions.len() < 3 {
        questions.extend(agent.until("control_request").pop());
    }
    // All three wait; the answers come in the other order.
    for q in questions.iter().rev() {
        agent.answer(q, allow(&q["request"]["input"]));
    }
    let lines = agent.turn(|_, _| panic!("a fourth question"));
    assert_eq!(results(&lines).len(), 3);
    let told = server.requests().last().unwrap().body["messages"][2]["content"].clone();
    let ids: Vec<&Value> = questions.iter().map(|q| &q["request"]["tool_use_id"]).collect();
    assert_eq!(told.as_array().unwrap().iter().map(|r| &r["tool_use_id"]).collect::<Vec<_>>(), ids);
    assert_eq!(agent.exit_code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stdin_closed_or_broken_while_asked_runs_nothing() {
    for broken in [None, Some("not json\n"), Some("{\"type\":\"control_response\"}\n{\"type\":\"weird\"}\n")] {
        let dir = tempfile::tempdir().unwrap();
        let server = serve(&format!(r#"{{"steps": [{}, {{"text": "end"}}]}}"#, bash("touch ran"))).await;
        let mut agent = Agent::start(&server, dir.path());
        agent.prompt("go");
        agent.until("control_request");
        if let Some(text) = broken {
            agent.to.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
        } else {
            agent.close();
            let lines = agent.until("result");
            assert!(results(&lines)[0].1 && lines.last().unwrap()["is_error"] == true);
        }
        assert_eq!(agent.exit_code(), Some(1));
        assert!(!dir.path().join("ran").exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_withdraws_the_question_kills_the_command_and_the_next_prompt_works() {
    let dir = tempfile::tempdir().unwrap();
    let server =
        serve(&format!(r#"{{"steps": [{}, {}, {{"text": "back"}}]}}"#, bash("touch ran"), bash("touch started; sleep 1000"))).await;
    let mut agent = Agent::start(&server, dir.path());
    let interrupt = json!({"type": "control_request", "request_id": "stop", "request": {"subtype": "interrupt"}});
    agent.prompt("go");
    let question = agent.until("control_request").pop().unwrap();
    agent.send(&interrupt);
    assert_eq!(agent.until("control_cancel_request").pop().unwrap()["request_id"], question["request_id"]);
    assert_eq!(agent.until("result").pop().unwrap()["subtype"], "error_during_execution");
    agent.prompt("again");
    let question = agent.until("control_request").pop().unwrap();
    agent.answer(&question, allow(&question["request"]["input"]));
    let deadline = std::time::Instant::now() + DEADLINE;
    while !dir.path().join("started").exists() {
        assert!(std::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    agent.send(&interrupt);
    agent.until("result");
    agent.prompt("and now");
    assert_eq!(agent.turn(|_, _| panic!("asked")).last().unwrap()["result"], "back");
    assert!(!dir.path().join("ran").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_the_model_are_retried_or_reported() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(
        r#"{"steps": [{"error": {"status": 529, "retry_after": 0}}, {"drop": "before"}, {"drop": "middle", "text": "half"}, {"text": "whole"},
                      {"error": {"status": 400, "message": "bad"}}]}"#,
    )
    .await;
    let mut agent = Agent::start(&server, dir.path());
    agent.prompt("go");
    let lines = agent.turn(|_, _| panic!("asked"));
    assert_eq!(lines.iter().filter(|l| l["subtype"] == "api_retry").count(), 3);
    assert_eq!(lines.last().unwrap()["result"], "whole");
    agent.prompt("again");
    let last = agent.turn(|_, _| panic!("asked")).pop().unwrap();
    assert_eq!((&last["is_error"], &last["api_error_status"]), (&json!(true), &json!(400)));
    assert_eq!(agent.exit_code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_s_script_plays_whole_in_its_workspace() {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in workspace::workspace_files() {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    for args in workspace::git_setup() {
        assert!(Command::new("git").args(*args).current_dir(dir.path()).status().unwrap().success(), "git {args:?}");
    }
    let server = serve(workspace::SCRIPT).await;
    let mut agent = Agent::start(&server, dir.path());
    agent.prompt(workspace::PROMPT);
    // The demo's policies in short: what they would say to each of the script's calls.
    let lines = agent.turn(|_, input| match input["command"].as_str().unwrap_or("") {
        "git push origin main" => allow(&json!({"command": "git push origin main --dry-run"})),
        c if c.starts_with("curl") || c == "cat .env" => json!({"behavior": "deny", "message": "denied"}),
        _ => allow(input),
    });
    let results = results(&lines);
    let errors: Vec<bool> = results.iter().map(|r| r.1).collect();
    let test_runs: Vec<&str> = results.iter().map(|r| r.0.as_str()).filter(|c| c.contains("ok: Hello, Ada!")).collect();
    assert!(test_runs[0].contains("FAILED: wanted 'Hello, world!'") && test_runs[1].contains("all tests passed"), "{results:#?}");
    assert_eq!(errors.iter().filter(|e| **e).count(), 3, "the failing test and two denials: {results:#?}");
    assert!(results.iter().any(|r| r.0.contains("main -> main")), "the dry run of the push: {results:#?}");
    assert!(!dir.path().join("build").exists());
    assert_eq!(server.state()[0].unused, 0);
    assert!(lines.last().unwrap()["total_cost_usd"].as_f64().unwrap() > 0.01);
    assert_eq!(agent.exit_code(), Some(0));
}

#[test]
fn every_example_script_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scripts");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        Script::load(&entry.unwrap().path()).unwrap();
        count += 1;
    }
    assert!(count >= 4);
    let missing = Script::load(Path::new("/nonexistent/script.json")).unwrap_err();
    assert_eq!(missing.code(), "BDL-GATEWAY-001");
}
