//! What a session must remember between two lines of its agent, and the pure step from a line's meaning to events.
//!
//! Invariants:
//! - everything here can be folded again from the session's events: a new daemon continues where the old one stopped;
//! - a call is known by the seq of its `tool_requested` event, never by an id that the agent chose;
//! - usage of a message only grows, and is counted once.
//!
//! Called by `run` (live) and `recovery` (rebuilding).

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::agent::{Asked, Output};
use crate::model::{
    AgentReplied, AgentStarted, Call, ContextCompacted, Effect, Envelope, Event, Excerpt, MediationBreached, ModelResponded,
    OutputUnparsed, PriceTable, SubAgentInvoked, ToolEnded, TurnEnded, Usage,
};

/// Text kept inside an event, in bytes; the whole goes to a blob when it is longer.
pub const EXCERPT: usize = 4096;
/// Parent of usage that belongs to no message of the stream.
pub const UNATTRIBUTED: &str = "unattributed";
/// Ids remembered per session for joining; the oldest are forgotten first.
const REMEMBERED: usize = 65_536;

/// A call that waits for a person.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    pub request_id: String,
    pub call: std::sync::Arc<Call>,
    pub asked: crate::model::ApprovalRequested,
}

/// One judged call, until its result is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Decided {
    seq: u64,
    effect: Effect,
    ended: bool,
}

/// The events that one output leads to, and blobs that they name.
#[derive(Debug, Default, PartialEq)]
pub struct Step {
    pub events: Vec<Event>,
    pub blobs: Vec<Vec<u8>>,
}

/// A bounded map that forgets its oldest entries.
#[derive(Debug, Default)]
struct Recent<V> {
    map: HashMap<String, V>,
    order: VecDeque<String>,
}

impl<V> Recent<V> {
    fn entry_or(&mut self, key: &str, v: impl FnOnce() -> V) -> &mut V {
        if !self.map.contains_key(key) {
            if self.order.len() >= REMEMBERED
                && let Some(old) = self.order.pop_front()
            {
                self.map.remove(&old);
            }
            self.order.push_back(key.to_owned());
        }
        self.map.entry(key.to_owned()).or_insert_with(v)
    }
}

/// Joins what the agent says line by line.
#[derive(Debug, Default)]
pub struct Live {
    /// By the agent's question id: a digest of what was asked.
    requests: Recent<[u8; 32]>,
    /// By the agent's call id, in order of asking (ids may repeat).
    calls: Recent<Vec<Decided>>,
    /// Tool names by call id, as the model asked for them.
    tools: Recent<String>,
    messages: Recent<Usage>,
    /// The main agent's message of which only the start count is known; its final one usually follows and is recorded in its place.
    opened: Option<(String, String, Usage)>,
    /// Sums by model of what `messages` holds.
    recorded: BTreeMap<String, Usage>,
    /// Answers sent but not yet seen taken: frame number to call.
    pub untaken: BTreeMap<u64, u64>,
    /// Calls that wait for a person, by seq.
    pub waiting: BTreeMap<u64, Waiting>,
    /// Number of the newest frame.
    pub last_frame: u64,
    /// Prompts given, and turns that ended.
    pub prompts: u64,
    pub turns: u64,
    /// Whether the newest turn ended in an error.
    pub turn_failed: Option<bool>,
}

/// What a question is, before it is judged.
#[derive(Debug, PartialEq, Eq)]
pub enum Question {
    New,
    /// The same question again: it was answered, or will be.
    Repeat,
    /// The same id with other content.
    Forged,
}

impl Live {
    /// Rebuilds from one event of the log, oldest first.
    pub fn replay(&mut self, e: &Envelope) {
        match &e.event {
            Event::PromptSubmitted(_) => self.prompts += 1,
            Event::ToolRequested(r) => {
                if let Some(id) = &r.request_id {
                    let digest = question_digest(&r.call.tool, &r.call.input, r.call.call_id.as_deref());
                    self.requests.entry_or(id, || digest);
                }
                self.asked(e.seq, r.call.call_id.as_deref());
                self.waiting.insert(
                    e.seq,
                    Waiting {
                        request_id: r.request_id.clone().unwrap_or_default(),
                        call: std::sync::Arc::new(r.call.clone()),
                        asked: crate::model::ApprovalRequested { call: e.seq, ..Default::default() },
                    },
                );
            }
            Event::ApprovalRequested(a) => {
                if let Some(w) = self.waiting.get_mut(&a.call) {
                    w.asked = a.clone();
                }
            }
            Event::ToolDecided(d) => {
                let id = self.waiting.remove(&d.call).and_then(|w| w.call.call_id.clone());
                self.decided(d.call, id.as_deref(), d.effect);
                if let Some(no) = d.frame {
                    self.last_frame = self.last_frame.max(no);
                    if d.effect == Effect::Allow {
                        self.untaken.insert(no, d.call);
                    }
                }
            }
            Event::ToolStarted(s) => self.untaken.retain(|_, call| *call != s.call),
            Event::ToolEnded(t) => {
                if let (Some(seq), Some(id)) = (t.call, &t.call_id) {
                    self.ended(id, seq);
                }
            }
            Event::ModelResponded(m) => {
                let u = self.messages.entry_or(&m.message_id, Usage::default);
                *u = u.plus(m.usage);
                self.count(&m.model, m.usage);
            }
            Event::TurnEnded(t) => {
                self.turns += 1;
                self.turn_failed = Some(t.is_error);
            }
            _ => {}
        }
    }

    /// Whether a question is new. A new one is remembered.
    pub fn question(&mut self, asked: &Asked) -> Question {
        let digest = question_digest(&asked.tool, &asked.input, asked.call_id.as_deref());
        match self.requests.map.get(&asked.request_id) {
            None => {
                self.requests.entry_or(&asked.request_id, || digest);
                Question::New
            }
            Some(d) if *d == digest => Question::Repeat,
            Some(_) => Question::Forged,
        }
    }

    /// Whether the model asked for this call under another tool's name (`Task` and `Agent` are one).
    pub fn renamed(&self, asked: &Asked) -> Option<String> {
        let alias = |t: &str| if t == "Task" { "Agent".to_owned() } else { t.to_owned() };
        let seen = self.tools.map.get(asked.call_id.as_deref()?)?;
        (alias(seen) != alias(&asked.tool)).then(|| seen.clone())
    }

    /// A call was asked about; its result is now expected once it is decided.
    pub fn asked(&mut self, seq: u64, call_id: Option<&str>) {
        if let Some(id) = call_id {
            self.calls.entry_or(id, Vec::new).push(Decided { seq, effect: Effect::Abstain, ended: false });
        }
    }

    pub fn decided(&mut self, seq: u64, call_id: Option<&str>, effect: Effect) {
        if let Some(list) = call_id.and_then(|id| self.calls.map.get_mut(id))
            && let Some(d) = list.iter_mut().find(|d| d.seq == seq)
        {
            d.effect = effect;
        }
    }

    fn ended(&mut self, call_id: &str, seq: u64) {
        if let Some(d) = self.calls.map.get_mut(call_id).and_then(|l| l.iter_mut().find(|d| d.seq == seq)) {
            d.ended = true;
        }
    }

    /// The events of one output other than a question. Prices come from `prices`.
    pub fn step(&mut self, out: Output, prices: &PriceTable) -> Step {
        let mut s = Step::default();
        match out {
            Output::Started { agent_session_id, version, model, permission_mode, tools, mcp_servers } => {
                s.events.push(AgentStarted { agent_session_id, version, model, permission_mode, tools, mcp_servers }.into());
            }
            Output::ToolUse { call_id, tool, .. } => *self.tools.entry_or(&call_id, String::new) = tool,
            Output::ToolResult { call_id, is_error, content, .. } => self.result(&call_id, is_error, content, &mut s),
            Output::Replied { text, message_id, parent_call_id } => {
                let text = cut(&text, EXCERPT);
                s.events.push(AgentReplied { text, message_id, parent_call_id }.into());
            }
            Output::Usage { message_id, model, usage, parent_call_id } => {
                self.counted(message_id, model, usage, parent_call_id, prices, &mut s);
            }
            Output::TurnEnded(t) => {
                self.turns += 1;
                self.turn_failed = Some(t.is_error);
                self.settle_opened(prices, &mut s);
                // why: requests that the stream does not show (sub-agents, compaction, titles) are in the agent's own totals only.
                for (model, usage) in t.unaccounted(&self.recorded) {
                    let message_id = format!("unattributed-{}-{model}", self.turns);
                    self.usage(message_id, model, usage, Some(UNATTRIBUTED.to_owned()), prices, &mut s);
                }
                s.events.push(
                    TurnEnded {
                        is_error: t.is_error,
                        subtype: t.subtype,
                        result: t.result.map(|r| cut(&r, EXCERPT)),
                        duration_ms: t.duration_ms,
                        agent_cost: t.agent_cost,
                        context_window: t.context_window,
                        agent_usage: t.agent_usage,
                        denials: t.denials,
                    }
                    .into(),
                );
            }
            Output::Compacted { trigger, tokens_before, tokens_after } => {
                s.events.push(ContextCompacted { trigger, tokens_before, tokens_after }.into());
            }
            Output::SubAgent { call_id, agent_type, description } => {
                s.events.push(SubAgentInvoked { call_id, agent_type, description: cut(&description, EXCERPT) }.into());
            }
            Output::Unparsed { .. }
            | Output::Forged { .. }
            | Output::Declined { .. }
            | Output::Quiet
            | Output::Asked(_)
            | Output::Cancelled { .. } => {}
        }
        s
    }

    fn result(&mut self, call_id: &str, is_error: bool, content: String, s: &mut Step) {
        let call = self.calls.map.get_mut(call_id).and_then(|l| l.iter_mut().find(|d| !d.ended));
        let (seq, effect) = match call {
            Some(d) => {
                d.ended = true;
                (Some(d.seq), Some(d.effect))
            }
            None => (None, None),
        };
        let (output, blob) = excerpt(super::mask::text(&content).into_owned().into_bytes());
        s.blobs.extend(blob);
        s.events.push(ToolEnded { call: seq, call_id: Some(call_id.to_owned()), is_error, output, duration_ms: None }.into());
        // why: an agent answers a malformed call by an error of its own without asking; only a success shows that something ran.
        let breach = match effect {
            _ if is_error => None,
            Some(Effect::Allow) => None,
            Some(Effect::Deny) => Some("a denied call has a result"),
            Some(_) => Some("a call that waits for its decision has a result"),
            None => Some("a result without a decided call"),
        };
        if let Some(what) = breach {
            s.events.push(breach_event(what, format!("call id {}", cut(call_id, 128)), seq));
        }
    }

    /// Holds back a start count until the final one, another message, or the end of the turn. Losing it with the daemon costs
    /// nothing: the turn's totals make up for it.
    fn counted(&mut self, message_id: String, model: String, usage: Usage, parent: Option<String>, prices: &PriceTable, s: &mut Step) {
        if self.opened.as_ref().is_some_and(|o| o.0 != message_id) {
            self.settle_opened(prices, s);
        }
        if parent.is_none() && usage.output <= 1 && !self.messages.map.contains_key(&message_id) {
            self.opened = Some((message_id, model, usage));
            return;
        }
        let begun = self.opened.take().map_or_else(Usage::default, |o| o.2);
        self.usage(message_id, model, usage.max(begun), parent, prices, s);
    }

    fn settle_opened(&mut self, prices: &PriceTable, s: &mut Step) {
        if let Some((id, model, usage)) = self.opened.take() {
            self.usage(id, model, usage, None, prices, s);
        }
    }

    fn usage(&mut self, message_id: String, model: String, usage: Usage, parent: Option<String>, prices: &PriceTable, s: &mut Step) {
        let known = self.messages.entry_or(&message_id, Usage::default);
        let grown = known.max(usage);
        if grown == *known {
            return;
        }
        let difference = Usage {
            input: grown.input - known.input,
            output: grown.output - known.output,
            cache_read: grown.cache_read - known.cache_read,
            cache_write: grown.cache_write - known.cache_write,
            reasoning: grown.reasoning.map(|r| r - known.reasoning.unwrap_or(0).min(r)),
        };
        *known = grown;
        self.count(&model, difference);
        let cost = prices.cost(&model, difference);
        let context_used = parent.is_none().then(|| grown.total());
        s.events.push(ModelResponded { message_id, model, usage: difference, cost, context_used, parent_call_id: parent }.into());
    }

    fn count(&mut self, model: &str, more: Usage) {
        let sum = self.recorded.entry(model.to_owned()).or_default();
        *sum = sum.plus(more);
    }

    /// The frame number after the newest; the caller stores the frame under it.
    pub fn next_frame(&mut self) -> u64 {
        self.last_frame += 1;
        self.last_frame
    }

    /// Calls whose allow the agent has now taken, in order of asking.
    pub fn taken(&mut self, upto: u64) -> Vec<u64> {
        let rest = self.untaken.split_off(&upto.saturating_add(1));
        std::mem::replace(&mut self.untaken, rest).into_values().collect()
    }
}

/// A breach as an event; what the host does about it is the caller's to fill in.
pub fn breach_event(what: &str, detail: String, call: Option<u64>) -> Event {
    MediationBreached { what: what.to_owned(), detail, call, action: String::new() }.into()
}

/// A line that is not of the protocol, kept raw.
pub fn unparsed_event(reason: String, line: &[u8]) -> (Event, Option<Vec<u8>>) {
    let (raw, blob) = excerpt(line.to_vec());
    (OutputUnparsed { reason, raw }.into(), blob)
}

/// The beginning of `bytes` as text, and the whole as a blob where that is longer.
pub fn excerpt(bytes: Vec<u8>) -> (Excerpt, Option<Vec<u8>>) {
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(EXCERPT)]).into_owned();
    if bytes.len() <= EXCERPT && std::str::from_utf8(&bytes).is_ok() {
        return (Excerpt { text, bytes: len, blob: None }, None);
    }
    let digest = blake3::hash(&bytes).to_hex().to_string();
    (Excerpt { text, bytes: len, blob: Some(digest) }, Some(bytes))
}

/// At most `max` bytes of `s`, cut at a character, with a mark when something is missing.
pub fn cut(s: &str, max: usize) -> String {
    if s.len() <= max {
        return s.to_owned();
    }
    let mut end = max;
    while !s.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &s[..end])
}

fn question_digest(tool: &str, input: &serde_json::Value, call_id: Option<&str>) -> [u8; 32] {
    let mut h = blake3::Hasher::new();
    for part in [tool.as_bytes(), input.to_string().as_bytes(), call_id.unwrap_or("").as_bytes()] {
        h.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        h.update(part);
    }
    *h.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(request: &str, input: serde_json::Value) -> Asked {
        Asked { request_id: request.into(), call_id: Some("t1".into()), tool: "Bash".into(), input, parent_call_id: None, sub_agent: None }
    }

    fn result(id: &str, is_error: bool) -> Output {
        Output::ToolResult { call_id: id.into(), is_error, content: "x".into(), parent_call_id: None }
    }

    fn breaches(s: &Step) -> usize {
        s.events.iter().filter(|e| matches!(e, Event::MediationBreached(_))).count()
    }

    #[test]
    fn a_question_id_with_other_content_is_forged() {
        let mut l = Live::default();
        assert_eq!(l.question(&asked("r", json!({"command": "ls"}))), Question::New);
        assert_eq!(l.question(&asked("r", json!({"command": "ls"}))), Question::Repeat);
        assert_eq!(l.question(&asked("r", json!({"command": "rm"}))), Question::Forged);
    }

    #[test]
    fn results_are_joined_with_decisions() {
        let p = PriceTable::default();
        let mut l = Live::default();
        assert_eq!(breaches(&l.step(result("t1", false), &p)), 1, "nothing was asked");
        assert_eq!(breaches(&l.step(result("t1", true), &p)), 0, "an error shows nothing that ran");
        l.asked(5, Some("t1"));
        l.decided(5, Some("t1"), Effect::Allow);
        l.asked(7, Some("t1"));
        l.decided(7, Some("t1"), Effect::Deny);
        assert_eq!(breaches(&l.step(result("t1", false), &p)), 0);
        assert_eq!(breaches(&l.step(result("t1", false), &p)), 1, "the second of that id was denied");
    }

    #[test]
    fn usage_is_counted_once_per_message_and_never_falls() {
        let p = PriceTable::embedded();
        let mut l = Live::default();
        let say = |out| Output::Usage {
            message_id: "m".into(),
            model: "claude-opus-4-8".into(),
            usage: Usage { input: 10, output: out, ..Usage::default() },
            parent_call_id: None,
        };
        let costs: Vec<u64> = [1, 1, 34, 2]
            .into_iter()
            .flat_map(|n| l.step(say(n), &p).events)
            .filter_map(|e| if let Event::ModelResponded(m) = e { m.cost } else { None })
            .collect();
        assert_eq!(costs, [10 * 5000 + 34 * 25000], "one event, when the final count is there");
    }

    #[test]
    fn a_renamed_tool_is_seen_and_the_alias_is_not() {
        let mut l = Live::default();
        let p = PriceTable::default();
        let mut q = asked("r", json!({}));
        q.tool = "Agent".into();
        l.step(Output::ToolUse { call_id: "t1".into(), tool: "Task".into(), input: json!({}), parent_call_id: None }, &p);
        assert_eq!(l.renamed(&q), None);
        q.tool = "Read".into();
        assert_eq!(l.renamed(&q), Some("Task".into()));
    }

    #[test]
    fn excerpts_keep_the_whole_elsewhere() {
        let (e, blob) = excerpt(vec![b'a'; EXCERPT + 1]);
        assert_eq!((e.text.len(), e.bytes, blob.map(|b| b.len())), (EXCERPT, 4097, Some(4097)));
        let (e, blob) = excerpt(b"\xff\xfe".to_vec());
        assert!(e.blob.is_some() && blob.is_some(), "bytes that are not text are kept whole");
        assert_eq!(cut("äöü", 3), "ä…");
    }
}
