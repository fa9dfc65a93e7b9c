//! The control protocol from the agent's side: reads lines from stdin, writes lines to stdout, joins each question with its
//! answer.
//!
//! Invariants: a question is answered at most once; whatever is waiting when stdin closes (or breaks) is denied; a line of
//! stdout is written whole. The reader runs on its own thread and never waits for a turn, so an answer cannot be stuck behind
//! a prompt.

use std::collections::HashMap;
use std::io::{BufRead, Read as _, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Error;

/// Longest line read from stdin, in bytes.
pub const MAX_LINE: usize = 16 * 1024 * 1024;
/// Most prompts that may wait while a turn runs.
pub const MAX_PROMPTS: usize = 64;

/// What the host said that starts or ends something.
#[derive(Debug)]
pub(super) enum Input {
    /// The content of a user message.
    Prompt(Value),
    /// Stdin is not usable any more.
    Failed(Error),
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Reply {
    /// Run it, with this input if given.
    Allow(Option<Map<String, Value>>),
    Deny(String),
    /// Nobody can answer any more.
    Closed,
}

pub(super) struct Channel {
    out: Mutex<Box<dyn Write + Send>>,
    state: Mutex<State>,
    session_id: String,
}

struct State {
    open: bool,
    waiting: HashMap<String, oneshot::Sender<Reply>>,
    turn: CancellationToken,
}

impl Channel {
    pub fn new(out: Box<dyn Write + Send>, session_id: String) -> Self {
        let state = State { open: true, waiting: HashMap::new(), turn: CancellationToken::new() };
        Self { out: Mutex::new(out), state: Mutex::new(state), session_id }
    }

    /// Reads until stdin ends; then nothing that waits will be allowed.
    pub fn pump(&self, stdin: &mut dyn BufRead, inputs: &mpsc::Sender<Input>) {
        let mut line = Vec::new();
        let failure = loop {
            line.clear();
            match stdin.take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line) {
                Ok(0) => break None,
                Ok(_) if line.len() > MAX_LINE => break Some(Error::Protocol(format!("a line is over {MAX_LINE} bytes"))),
                Ok(_) if line.trim_ascii().is_empty() => {}
                Ok(_) => {
                    if let Err(e) = self.line(&line, inputs) {
                        break Some(e);
                    }
                }
                Err(e) => break Some(Error::Input(e)),
            }
        };
        let mut state = self.state();
        state.open = false;
        state.waiting.clear();
        let broken = failure.is_some();
        if let Some(e) = failure {
            // why: a full queue still ends: the receiver sees the closed channel and the asks are denied already.
            let _ = inputs.try_send(Input::Failed(e));
        }
        if broken {
            state.turn.cancel();
        }
    }

    fn line(&self, line: &[u8], inputs: &mpsc::Sender<Input>) -> Result<(), Error> {
        let v: Value = serde_json::from_slice(line).map_err(|e| Error::Protocol(e.to_string()))?;
        match v["type"].as_str() {
            Some("user") => {
                let content = v["message"]["content"].clone();
                if !content.is_string() && !content.is_array() {
                    return Err(Error::Protocol("a user message without content".into()));
                }
                inputs.try_send(Input::Prompt(content)).map_err(|_| Error::Protocol(format!("more than {MAX_PROMPTS} prompts wait")))
            }
            Some("control_request") => {
                let id = v["request_id"].as_str().ok_or_else(|| Error::Protocol("a control_request without request_id".into()))?;
                self.send(&self.answer(id, &v["request"]));
                Ok(())
            }
            Some("control_response") => {
                let response = &v["response"];
                if let Some(waiting) = response["request_id"].as_str().and_then(|id| self.state().waiting.remove(id)) {
                    // why: the asker may have been interrupted in between; then the answer has no use.
                    let _ = waiting.send(reply(response));
                }
                Ok(())
            }
            Some("keep_alive" | "control_cancel_request") => Ok(()),
            other => Err(Error::Protocol(format!("type {:?}", other.unwrap_or("missing").chars().take(64).collect::<String>()))),
        }
    }

    fn answer(&self, id: &str, request: &Value) -> Value {
        let success = |response: Value| json!({"subtype": "success", "request_id": id, "response": response});
        let response = match request["subtype"].as_str() {
            Some("initialize") => success(json!({
                "commands": [], "agents": [], "output_style": "default", "available_output_styles": ["default"], "models": [],
                "account": {"tokenSource": "none", "apiKeySource": "ANTHROPIC_API_KEY"}, "pid": std::process::id(),
            })),
            Some("interrupt") => {
                self.state().turn.cancel();
                success(json!({}))
            }
            Some("mcp_status") => success(json!({"mcpServers": []})),
            // Only the mode that asks is there.
            Some("set_permission_mode") if request["mode"] == "default" => success(json!({"mode": "default"})),
            other => {
                json!({"subtype": "error", "request_id": id, "error": format!("the demo agent does not know {other:?} with these values")})
            }
        };
        json!({"type": "control_response", "response": response})
    }

    /// Starts a turn: the token is cancelled by an interrupt.
    pub fn begin_turn(&self) -> CancellationToken {
        let token = CancellationToken::new();
        self.state().turn = token.clone();
        token
    }

    /// Asks the host and waits, for as long as it takes. A dropped question is withdrawn.
    pub async fn ask(&self, request: Value) -> Reply {
        let id = uuid();
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.state();
            if !state.open {
                return Reply::Closed;
            }
            state.waiting.insert(id.clone(), sender);
        }
        let question = Question { channel: self, id };
        self.send(&json!({"type": "control_request", "request_id": question.id, "request": request}));
        receiver.await.unwrap_or(Reply::Closed)
    }

    /// Writes a line of the conversation, with the session and an id of its own.
    pub fn emit(&self, mut line: Value) {
        line["session_id"] = json!(self.session_id);
        line["uuid"] = json!(uuid());
        self.send(&line);
    }

    fn send(&self, line: &Value) {
        let mut bytes = line.to_string().into_bytes();
        bytes.push(b'\n');
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if out.write_all(&bytes).and_then(|()| out.flush()).is_err() {
            // Nobody reads: nothing more may run.
            let mut state = self.state();
            state.open = false;
            state.waiting.clear();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question under way; withdrawn when dropped unanswered.
struct Question<'a> {
    channel: &'a Channel,
    id: String,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let unanswered = self.channel.state().waiting.remove(&self.id).is_some();
        if unanswered {
            self.channel.send(&json!({"type": "control_cancel_request", "request_id": self.id}));
        }
    }
}

/// Anything but a well-formed allow is a deny.
fn reply(response: &Value) -> Reply {
    let answer = &response["response"];
    match (response["subtype"].as_str(), answer["behavior"].as_str(), &answer["updatedInput"]) {
        (Some("success"), Some("allow"), Value::Null) => Reply::Allow(None),
        (Some("success"), Some("allow"), Value::Object(input)) => Reply::Allow(Some(input.clone())),
        (Some("success"), Some("deny"), _) => Reply::Deny(answer["message"].as_str().unwrap_or("denied").to_owned()),
        (Some("error"), ..) => Reply::Deny(format!("Tool permission request failed: {}", response["error"].as_str().unwrap_or("unknown"))),
        _ => Reply::Deny("Tool permission request failed: the answer has the wrong shape".into()),
    }
}

/// A random UUID, version 4.
pub(super) fn uuid() -> String {
    let mut b = [0u8; 16];
    // why: getrandom(2) cannot fail after boot on a supported kernel; a predictable request id would be worse than an end.
    getrandom::fill(&mut b).expect("getrandom(2) failed: the operating system gives no randomness");
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let hex = |r: std::ops::Range<usize>| b[r].iter().map(|x| format!("{x:02x}")).collect::<String>();
    format!("{}-{}-{}-{}-{}", hex(0..4), hex(4..6), hex(6..8), hex(8..10), hex(10..16))
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Cursor;
    use std::sync::Arc;

    use super::*;

    /// A stdout to look at.
    #[derive(Clone, Default)]
    pub struct Screen(pub Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Screen {
        pub fn lines(&self) -> Vec<Value> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
        }
    }

    fn channel() -> (Arc<Channel>, Screen) {
        let screen = Screen::default();
        (Arc::new(Channel::new(Box::new(screen.clone()), "s".into())), screen)
    }

    fn response(body: Value) -> Reply {
        reply(&json!({"subtype": "success", "response": body}))
    }

    #[test]
    fn only_a_well_formed_allow_allows() {
        assert_eq!(response(json!({"behavior": "allow"})), Reply::Allow(None));
        assert!(matches!(response(json!({"behavior": "allow", "updatedInput": {"a": 1}})), Reply::Allow(Some(_))));
        assert_eq!(response(json!({"behavior": "deny", "message": "no"})), Reply::Deny("no".into()));
        for bad in [json!({"behavior": "allow", "updatedInput": "x"}), json!({"behavior": "Allow"}), json!({}), json!(null), json!([1])] {
            assert!(matches!(response(bad), Reply::Deny(_)));
        }
        assert!(matches!(reply(&json!({"subtype": "error", "response": {"behavior": "allow"}})), Reply::Deny(_)));
    }

    #[tokio::test]
    async fn the_first_answer_counts_and_an_unknown_one_does_nothing() {
        let (channel, screen) = channel();
        let (sender, _inputs) = mpsc::channel(4);
        let asking = tokio::spawn({
            let channel = channel.clone();
            async move { channel.ask(json!({"subtype": "can_use_tool"})).await }
        });
        while screen.lines().is_empty() {
            tokio::task::yield_now().await;
        }
        let id = screen.lines()[0]["request_id"].clone();
        let line = |id: &Value, behavior: &str| json!({"type": "control_response", "response": {"subtype": "success", "request_id": id, "response": {"behavior": behavior, "message": "no"}}});
        let text = format!("{}\n{}\n{}\n", line(&json!("other"), "allow"), line(&id, "deny"), line(&id, "allow"));
        channel.pump(&mut Cursor::new(text), &sender);
        assert_eq!(asking.await.unwrap(), Reply::Deny("no".into()));
    }

    #[tokio::test]
    async fn closed_stdin_denies_what_waits_and_what_comes() {
        let (channel, screen) = channel();
        let (sender, mut inputs) = mpsc::channel(4);
        let asking = tokio::spawn({
            let channel = channel.clone();
            async move { channel.ask(json!({})).await }
        });
        while screen.lines().is_empty() {
            tokio::task::yield_now().await;
        }
        channel.pump(&mut Cursor::new(""), &sender);
        assert_eq!(asking.await.unwrap(), Reply::Closed);
        assert_eq!(channel.ask(json!({})).await, Reply::Closed);
        drop(sender);
        assert!(inputs.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_dropped_question_is_withdrawn() {
        let (channel, screen) = channel();
        tokio::select! {
            biased;
            _ = channel.ask(json!({})) => panic!("nobody answered"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(screen.lines()[1]["type"], "control_cancel_request");
        assert_eq!(screen.lines()[0]["request_id"], screen.lines()[1]["request_id"]);
    }

    #[test]
    fn what_is_not_of_the_protocol_ends_it() {
        for bad in ["{", "[]", "{\"type\":\"user\"}", "{\"type\":\"control_request\"}", "\u{0}"] {
            let (channel, _) = channel();
            let (sender, mut inputs) = mpsc::channel(4);
            channel.pump(&mut Cursor::new(bad), &sender);
            assert!(matches!(inputs.try_recv(), Ok(Input::Failed(Error::Protocol(_)))), "{bad}");
        }
    }

    #[test]
    fn handshake_and_prompt() {
        let (channel, screen) = channel();
        let (sender, mut inputs) = mpsc::channel(4);
        let text = "{\"type\":\"control_request\",\"request_id\":\"i\",\"request\":{\"subtype\":\"initialize\"}}\n\n\
                    {\"type\":\"control_request\",\"request_id\":\"j\",\"request\":{\"subtype\":\"set_permission_mode\",\"mode\":\"bypassPermissions\"}}\n\
                    {\"type\":\"user\",\"message\":{\"role\":\"user\",\"content\":\"hi\"}}";
        channel.pump(&mut Cursor::new(text), &sender);
        let lines = screen.lines();
        assert_eq!((&lines[0]["response"]["request_id"], &lines[0]["response"]["subtype"]), (&json!("i"), &json!("success")));
        assert_eq!(lines[1]["response"]["subtype"], "error");
        assert!(matches!(inputs.try_recv(), Ok(Input::Prompt(Value::String(s))) if s == "hi"));
    }
}
