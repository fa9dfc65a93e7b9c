//! One turn: prompt, answers of the model, questions, tools, results, and the line that ends it.
//!
//! Lines have the shapes that Claude Code 2.1 writes. A cost is written only for a model whose price is known.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use super::api::{Api, Refusal};
use super::channel::{Channel, Reply};
use super::tools::{self, Done};
use super::{MODEL, NAME};

/// Most answers of the model in one turn.
const MAX_RESPONSES: u64 = 200;
/// Most calls in one answer.
const MAX_CALLS: usize = 32;
/// Largest conversation sent, in bytes of JSON.
const MAX_CONVERSATION: usize = 16 * 1024 * 1024;
/// How often a request is sent again, and the longest wait in between.
const MAX_RETRIES: u32 = 4;
const MAX_WAIT: Duration = Duration::from_secs(5);
/// Longest answer asked for, in tokens.
const MAX_TOKENS: u64 = 8192;
/// The window that the agent reports, in tokens.
const CONTEXT_WINDOW: u64 = 200_000;
/// Price of [`MODEL`] in billionths of a US dollar per token: input, output, cache read, cache write.
const PRICE: [u64; 4] = [5000, 25000, 500, 6250];

const CLOSED: &str = "Tool permission request failed: Error: Tool permission stream closed before response received";
const INTERRUPTED: &str = "[Request interrupted by user for tool use]";

/// The agent's memory and its way to model and host.
pub(super) struct Conversation {
    channel: Arc<Channel>,
    api: Api,
    model: String,
    cwd: PathBuf,
    messages: Vec<Value>,
    bytes: usize,
    /// Over the process, by model.
    totals: BTreeMap<String, Counts>,
    /// Calls that change something run one at a time.
    hands: Mutex<()>,
}

/// Tokens: input, output, cache read, cache write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts([u64; 4]);

impl Counts {
    fn of(usage: &Value) -> Self {
        let n = |key: &str| usage[key].as_u64().unwrap_or(0);
        Self([n("input_tokens"), n("output_tokens"), n("cache_read_input_tokens"), n("cache_creation_input_tokens")])
    }

    fn add(&mut self, other: Self) {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a = a.saturating_add(b);
        }
    }

    fn usd(self, model: &str) -> Option<f64> {
        let nano = || self.0.iter().zip(PRICE).fold(0u64, |sum, (n, p)| sum.saturating_add(n.saturating_mul(p)));
        // why: a double holds every cost under nine million dollars exactly enough.
        #[allow(clippy::cast_precision_loss)]
        (model == MODEL).then(|| nano() as f64 / 1e9)
    }
}

/// What a turn gathers for its last line.
#[derive(Default)]
struct Account {
    usage: Counts,
    calls: usize,
    api_time: Duration,
    denials: Vec<Value>,
    text: String,
    stop_reason: Value,
}

/// How a turn ends.
enum End {
    Done,
    Refused(Refusal),
    TooManyResponses,
    TooLarge,
    Closed,
    Interrupted,
}

impl Conversation {
    pub fn new(channel: Arc<Channel>, api: Api, model: String, cwd: PathBuf) -> Self {
        Self { channel, api, model, cwd, messages: Vec::new(), bytes: 0, totals: BTreeMap::new(), hands: Mutex::new(()) }
    }

    /// Answers one prompt; says whether it went well.
    pub async fn turn(&mut self, content: Value) -> bool {
        let started = Instant::now();
        let interrupted = self.channel.begin_turn();
        self.channel.emit(json!({
            "type": "system", "subtype": "init", "cwd": self.cwd.to_string_lossy(), "tools": tools::NAMES, "mcp_servers": [],
            "model": self.model, "permissionMode": "default", "slash_commands": [], "apiKeySource": "ANTHROPIC_API_KEY",
            "claude_code_version": concat!("beadle-demo-agent ", env!("CARGO_PKG_VERSION")), "output_style": "default",
            "agents": [], "skills": [], "plugins": [],
        }));
        self.remember(json!({"role": "user", "content": content}));
        let mut account = Account::default();
        let end = tokio::select! {
            biased;
            () = interrupted.cancelled() => End::Interrupted,
            end = self.work(&mut account) => end,
        };
        self.close_open_calls();
        let good = matches!(end, End::Done);
        self.conclude(&end, &account, started.elapsed());
        good
    }

    async fn work(&mut self, account: &mut Account) -> End {
        for _ in 0..MAX_RESPONSES {
            if self.bytes > MAX_CONVERSATION {
                return End::TooLarge;
            }
            let message = match self.respond(account).await {
                Ok(message) => message,
                Err(refusal) => return End::Refused(refusal),
            };
            let calls: Vec<Value> =
                message["content"].as_array().into_iter().flatten().filter(|b| b["type"] == "tool_use").cloned().collect();
            if calls.len() > MAX_CALLS {
                return End::Refused(Refusal { status: None, message: format!("{} calls in one answer", calls.len()), retry_after: None });
            }
            self.remember(json!({"role": "assistant", "content": message["content"]}));
            if calls.is_empty() {
                return End::Done;
            }
            let called = join_all(calls.iter().map(|c| self.call(c))).await;
            account.calls += calls.len();
            let closed = called.iter().any(|c| c.closed);
            let (results, denials): (Vec<Value>, Vec<Option<Value>>) = called.into_iter().map(|c| (c.result, c.denial)).unzip();
            account.denials.extend(denials.into_iter().flatten());
            self.remember(json!({"role": "user", "content": results}));
            if closed {
                return End::Closed;
            }
        }
        End::TooManyResponses
    }

    /// One answer of the model, written out block by block.
    async fn respond(&mut self, account: &mut Account) -> Result<Value, Refusal> {
        let body = json!({
            "model": self.model, "max_tokens": MAX_TOKENS, "tools": tools::schemas(), "messages": self.messages,
            "system": format!("You are the {NAME}. You work in {} with the tools you are given.", self.cwd.to_string_lossy()),
        });
        let started = Instant::now();
        let mut tries = 0;
        let (message, request_id) = loop {
            match self.api.send(&body).await {
                Ok(answer) => break answer,
                Err(refusal) if refusal.passing() && tries < MAX_RETRIES => {
                    let wait = refusal.retry_after.map_or(Duration::from_millis(100 << tries), Duration::from_secs).min(MAX_WAIT);
                    tries += 1;
                    self.channel.emit(json!({
                        "type": "system", "subtype": "api_retry", "attempt": tries, "max_retries": MAX_RETRIES,
                        "retry_delay_ms": u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), "error_status": refusal.status, "error": refusal.message,
                    }));
                    tokio::time::sleep(wait).await;
                }
                Err(refusal) => return Err(refusal),
            }
        };
        account.api_time += started.elapsed();
        account.stop_reason = message["stop_reason"].clone();
        let model = message["model"].as_str().unwrap_or(&self.model).to_owned();
        let counts = Counts::of(&message["usage"]);
        account.usage.add(counts);
        self.totals.entry(model).or_default().add(counts);
        for block in message["content"].as_array().into_iter().flatten() {
            if let Some(text) = block["text"].as_str() {
                text.clone_into(&mut account.text);
            }
            let mut part = message.clone();
            part["content"] = json!([block]);
            part["stop_reason"] = Value::Null;
            self.channel.emit(json!({"type": "assistant", "message": part, "parent_tool_use_id": null, "request_id": request_id}));
        }
        Ok(message)
    }

    /// Asks about one call, runs it if allowed, writes its result.
    async fn call(&self, block: &Value) -> Called {
        let (id, name) = (block["id"].as_str().unwrap_or(""), block["name"].as_str().unwrap_or(""));
        let asked = block["input"].as_object().cloned().unwrap_or_default();
        let described = ["description", "command", "file_path"].iter().find_map(|k| asked.get(*k)).cloned();
        let reply = self
            .channel
            .ask(json!({
                "subtype": "can_use_tool", "tool_name": name, "display_name": name, "input": asked, "description": described,
                "decision_reason_type": "rule", "tool_use_id": id,
            }))
            .await;
        let (done, allowed) = match &reply {
            Reply::Allow(input) => (self.run(name, input.as_ref().unwrap_or(&asked)).await, true),
            Reply::Deny(reason) => (Done::error(reason.as_str()), false),
            Reply::Closed => (Done::error(CLOSED), false),
        };
        let result = json!({"tool_use_id": id, "type": "tool_result", "content": done.content, "is_error": done.is_error});
        let detail = if allowed { done.detail } else { json!(format!("Error: {}", done.content)) };
        self.channel.emit(json!({
            "type": "user", "message": {"role": "user", "content": [result]}, "parent_tool_use_id": null, "tool_use_result": detail,
        }));
        let denial = (!allowed).then(|| json!({"tool_name": name, "tool_use_id": id, "tool_input": asked}));
        Called { result, denial, closed: reply == Reply::Closed }
    }

    async fn run(&self, name: &str, input: &Map<String, Value>) -> Done {
        let _hands = if tools::changes(name) { Some(self.hands.lock().await) } else { None };
        tools::run(name, input, &self.cwd).await
    }

    fn remember(&mut self, message: Value) {
        self.bytes = self.bytes.saturating_add(message.to_string().len());
        self.messages.push(message);
    }

    /// After an interrupt: the model's API wants a result for each call, so the next turn can go on.
    fn close_open_calls(&mut self) {
        let Some(last) = self.messages.last().filter(|m| m["role"] == "assistant") else { return };
        let open: BTreeSet<String> = last["content"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|b| b["type"] == "tool_use")
            .filter_map(|b| b["id"].as_str().map(str::to_owned))
            .collect();
        if !open.is_empty() {
            let results: Vec<Value> =
                open.iter().map(|id| json!({"tool_use_id": id, "type": "tool_result", "content": INTERRUPTED, "is_error": true})).collect();
            self.remember(json!({"role": "user", "content": results}));
        }
    }

    fn conclude(&self, end: &End, account: &Account, took: Duration) {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let [input, output, cache_read, cache_write] = account.usage.0;
        let mut models = Map::new();
        let mut cost = Some(0.0);
        for (model, counts) in &self.totals {
            let usd = counts.usd(model);
            cost = cost.zip(usd).map(|(sum, usd)| sum + usd);
            let mut entry = json!({
                "inputTokens": counts.0[0], "outputTokens": counts.0[1], "cacheReadInputTokens": counts.0[2],
                "cacheCreationInputTokens": counts.0[3], "webSearchRequests": 0, "contextWindow": CONTEXT_WINDOW, "maxOutputTokens": MAX_TOKENS,
            });
            if let Some(usd) = usd {
                entry["costUSD"] = json!(usd);
            }
            models.insert(model.clone(), entry);
        }
        // The API's refusals are a "success" with is_error, as Claude Code has it.
        let (subtype, terminal, status, result) = match end {
            End::Done => ("success", "completed", None, Some(account.text.clone())),
            End::Refused(r) => {
                let status = r.status.map_or("no answer".to_owned(), |s| s.to_string());
                ("success", "completed", r.status, Some(format!("API Error: {status} {}", r.message)))
            }
            End::TooManyResponses => ("error_max_turns", "max_turns", None, None),
            End::TooLarge => ("error_during_execution", "conversation_too_large", None, None),
            End::Closed => ("error_during_execution", "stdin_closed", None, None),
            End::Interrupted => ("error_during_execution", "interrupted", None, None),
        };
        let mut line = json!({
            "type": "result", "subtype": subtype, "is_error": !matches!(end, End::Done), "api_error_status": status,
            "duration_ms": ms(took), "duration_api_ms": ms(account.api_time), "num_turns": account.calls + 1,
            "stop_reason": account.stop_reason, "modelUsage": models, "permission_denials": account.denials, "terminal_reason": terminal,
            "usage": {"input_tokens": input, "cache_creation_input_tokens": cache_write, "cache_read_input_tokens": cache_read,
                      "output_tokens": output, "service_tier": "standard"},
        });
        if let Some(result) = result {
            line["result"] = json!(result);
        }
        if let Some(cost) = cost {
            line["total_cost_usd"] = json!(cost);
        }
        self.channel.emit(line);
    }
}

/// A call that came to an end.
struct Called {
    result: Value,
    denial: Option<Value>,
    closed: bool,
}

#[cfg(test)]
mod tests {
    use super::super::channel::tests::Screen;
    use super::*;

    fn conversation() -> (Conversation, Screen) {
        let screen = Screen::default();
        let channel = Arc::new(Channel::new(Box::new(screen.clone()), "s".into()));
        let api = Api::new("http://127.0.0.1:1", "k").unwrap();
        (Conversation::new(channel, api, MODEL.into(), "/".into()), screen)
    }

    #[test]
    fn cost_is_what_claude_code_computes_and_unknown_is_left_out() {
        // captures: 3,600 in, 102 out, 3,000 cache read, 150 cache write = 0.0229875 USD.
        let counts = Counts([3600, 102, 3000, 150]);
        assert_eq!(counts.usd(MODEL), Some(0.022_987_5));
        assert_eq!(counts.usd("another"), None);
        let (mut c, screen) = conversation();
        c.totals.insert(MODEL.into(), counts);
        c.conclude(&End::Done, &Account::default(), Duration::ZERO);
        c.totals.insert("another".into(), counts);
        c.conclude(&End::Done, &Account::default(), Duration::ZERO);
        let lines = screen.lines();
        assert_eq!(lines[0]["total_cost_usd"], 0.022_987_5);
        assert!(lines[1].get("total_cost_usd").is_none() && lines[1]["modelUsage"]["another"].get("costUSD").is_none());
    }

    #[test]
    fn open_calls_are_closed_once() {
        let (mut c, _) = conversation();
        c.remember(json!({"role": "assistant", "content": [{"type": "text", "text": "x"}, {"type": "tool_use", "id": "a"}]}));
        c.close_open_calls();
        c.close_open_calls();
        assert_eq!(c.messages.len(), 2);
        assert_eq!(c.messages[1]["content"][0]["tool_use_id"], "a");
    }
}
