//! What a session must remember between two lines of its agent, and the pure step from a line's meaning to events.
//!
//! Invariants:
//! - everything here can be folded again from the session's events: a new daemon continues where the old one stopped;
//! - a call is known by the seq of its `tool_requested` event, never by an id that the agent chose;
//! - usage of a message only grows, and is counted once.
//!
//! Called by `run` (live) and `recovery` (rebuilding).

use std::collections::{BTreeMap, HashMap, VecDeque};

pub use super::waiting::Waiting;
use super::waiting::question_digest;
use super::words::{Mismatch, Words};
use crate::agent::{Asked, Output};
use crate::model::account::{Account, Joined, Seen};
use crate::model::{
    AgentReplied, AgentStarted, ContextCompacted, Effect, EffectSeen, EffectsObserved, Envelope, Event, MediationBreached, ModelResponded,
    OutputUnparsed, PricesAt, SubAgentInvoked, ToolDecided, ToolEnded, TurnEnded, UNATTRIBUTED, Usage, Witness,
};

mod text;

pub use text::{cut, excerpt};

/// Text kept inside an event, in bytes; the whole goes to a blob when it is longer.
pub const EXCERPT: usize = 4096;
/// Effects that wait for the next event to go into the log with.
const OBSERVED: usize = 256;
/// Ids remembered per session for joining; the oldest are forgotten first.
const REMEMBERED: usize = 65_536;

/// What another witness than the stream reports of a call.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    pub witness: Witness,
    /// The file it stands in, for a transcript.
    pub source: &'a str,
    pub call_id: &'a str,
    pub tool: &'a str,
    /// The input it ran with, where the witness tells.
    pub input: Option<&'a serde_json::Value>,
    pub seen: Seen,
}

/// The events that one output leads to, and blobs that they name.
#[derive(Debug, Default, PartialEq)]
pub struct Step {
    pub events: Vec<Event>,
    pub blobs: Vec<Vec<u8>>,
}

/// A bounded map that forgets its oldest entries.
#[derive(Debug, Default)]
pub(super) struct Recent<V> {
    map: HashMap<String, V>,
    order: VecDeque<String>,
}

impl<V> Recent<V> {
    pub(super) fn entry_or(&mut self, key: &str, v: impl FnOnce() -> V) -> &mut V {
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

    pub(super) fn remove(&mut self, key: &str) -> Option<V> {
        let v = self.map.remove(key)?;
        self.order.retain(|k| k != key);
        Some(v)
    }
}

/// Joins what the agent says line by line.
#[derive(Debug, Default)]
pub struct Live {
    /// By the agent's question id: a digest of what was asked.
    requests: Recent<[u8; 32]>,
    /// Decisions joined with effects.
    pub account: Account,
    /// What was asked for, by whom, in which words.
    pub words: Words,
    /// What other witnesses said and no event holds yet. At most [`OBSERVED`] effects.
    observed: Vec<EffectsObserved>,
    messages: Recent<Usage>,
    /// The main agent's message of which only the start count is known; its final one usually follows and is recorded in its place.
    opened: Option<(String, String, Usage)>,
    /// Sums by model of what `messages` holds.
    pub(super) recorded: BTreeMap<String, Usage>,
    /// Why the agent's own total of its newest turn may be another than ours.
    pub(super) discrepancies: Vec<String>,
    /// Answers sent but not yet seen taken: frame number to call.
    pub untaken: BTreeMap<u64, u64>,
    /// Calls that wait for a person, by seq.
    pub waiting: BTreeMap<u64, Waiting>,
    /// Calls that came through hooks and wait for their answer or their result.
    pub(super) hooks: super::hook::HookCalls,
    /// Calls of the host's own tools that were allowed and are to come.
    pub(super) host_tools: super::host_tools::Allowed,
    /// The agent's own list of tasks.
    pub(super) tasks: super::tasks::AgentTasks,
    /// What policies said at the optional moments.
    pub moments: super::moments::Moments,
    /// Where it stands on its ladder of attempts.
    pub ladder: super::ladder::Ladder,
    /// Where it stands between being put away and coming back.
    pub parking: super::park::Parking,
    /// Number of the newest frame.
    pub last_frame: u64,
    /// Prompts given, and turns that ended, of this attempt; and prompts that the attempts before it answered, which a limit of turns counts too.
    pub earlier_turns: u64,
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
        self.account.apply(e);
        self.hooks.replay(e);
        self.moments.replay(e);
        self.parking.replay(e, &self.waiting);
        self.tasks.replay(&e.event);
        self.host_tools.replay(&e.event, &self.waiting);
        if self.ladder.replay(e) {
            self.new_try();
        }
        match &e.event {
            // why: a turn before it came to nothing.
            Event::SessionClaimed(_) => self.prompts = 0,
            Event::PromptSubmitted(_) => self.prompts += 1,
            Event::ToolRequested(r) => {
                if let Some(id) = &r.request_id {
                    let digest = question_digest(&r.call.tool, &r.call.input, r.call.call_id.as_deref());
                    self.requests.entry_or(id, || digest);
                }
                if let Some(id) = &r.call.call_id {
                    // why ignored: what did not fit is in the log already.
                    let _ = self.words.asked(e.seq, id, &r.call.tool, &r.call.input);
                }
                self.waiting.insert(
                    e.seq,
                    Waiting {
                        request_id: r.request_id.clone().unwrap_or_default(),
                        call: std::sync::Arc::new(r.call.clone()),
                        asked: crate::model::ApprovalRequested { call: e.seq, ..Default::default() },
                        endorsed: vec![],
                        is_from_log: true,
                    },
                );
            }
            Event::ApprovalRequested(a) => {
                if let Some(w) = self.waiting.get_mut(&a.call) {
                    w.asked = a.clone();
                }
            }
            Event::ApprovalEndorsed(x) => {
                if let Some(w) = self.waiting.get_mut(&x.call) {
                    w.endorsed.push(x.by.clone());
                }
            }
            Event::ToolDecided(d) => {
                let id = self.waiting.remove(&d.call).and_then(|w| w.call.call_id.clone());
                self.told(d, id.as_deref());
                if let Some(no) = d.frame {
                    self.last_frame = self.last_frame.max(no);
                    if d.effect == Effect::Allow {
                        self.untaken.insert(no, d.call);
                    }
                }
            }
            Event::ResultJudged(r) => self.last_frame = self.last_frame.max(r.frame.unwrap_or(0)),
            Event::AttemptStarted(_) if self.parking.began == e.seq => self.begin_attempt(e.seq),
            Event::CompactionBegan(c) => self.last_frame = self.last_frame.max(c.frame),
            Event::ToolDeferred(d) => self.last_frame = self.last_frame.max(d.frame),
            Event::ToolAnswered(a) => {
                self.last_frame = self.last_frame.max(a.frame);
                if self.account.effect_of(a.call) == Some(Effect::Allow) {
                    self.untaken.insert(a.frame, a.call);
                }
            }
            Event::ToolStarted(s) => self.untaken.retain(|_, call| *call != s.call),
            Event::ModelResponded(m) => {
                let u = self.messages.entry_or(&m.message_id, Usage::default);
                *u = u.plus(m.usage);
                self.count(&m.model, m.usage);
            }
            Event::TurnEnded(t) if t.deferred.is_none() => {
                self.turns += 1;
                self.turn_failed = Some(t.is_error);
            }
            _ => {}
        }
    }

    /// Another agent begins with the work: nothing was said to it or by it.
    pub fn new_try(&mut self) {
        self.earlier_turns += self.prompts.min(self.turns);
        (self.prompts, self.turns, self.turn_failed) = (0, 0, None);
        self.waiting.clear();
        self.tasks.new_try();
        self.host_tools.new_try();
        self.moments.new_try();
    }

    /// The agent was started anew: its ids, frames and sums begin again. `seq` is the attempt's first event.
    pub fn begin_attempt(&mut self, seq: u64) {
        self.parking.begin(seq);
        (self.requests, self.opened, self.last_frame) = (Recent::default(), None, 0);
        self.recorded.clear();
        self.untaken.clear();
        self.host_tools.begin_attempt();
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

    /// Whether the question is about another call than the model, or the agent's own record, shows under this id.
    pub fn changed(&mut self, seq: u64, asked: &Asked) -> Option<Mismatch> {
        self.words.asked(seq, asked.call_id.as_deref()?, &asked.tool, &asked.input)
    }

    /// A call was decided, in this process.
    pub fn decided(&mut self, d: &ToolDecided, call_id: Option<&str>) {
        self.account.decided(d.call, d.effect, d.updated_input.is_some());
        self.told(d, call_id);
    }

    fn told(&mut self, d: &ToolDecided, call_id: Option<&str>) {
        if let (Some(id), Some(input)) = (call_id, &d.updated_input) {
            self.words.told(d.call, id, input);
        }
    }

    /// Joins what another witness than the stream saw. Its events are breaches; the effect itself goes into the log with what
    /// comes next ([`Live::observed`]).
    pub fn effect(&mut self, r: Report<'_>) -> Step {
        let mut s = Step::default();
        if let Some(m) = r.input.and_then(|input| self.words.ran(r.call_id, r.tool, input)) {
            s.events.push(mismatch_event(m, r.call_id, r.witness));
        }
        let joined = self.account.effect(r.witness, r.source, r.call_id, r.seen);
        s.events.extend(self.breach_of(joined, r.call_id, r.witness));
        let effect = EffectSeen { call_id: r.call_id.to_owned(), is_error: r.seen.is_error, ran: r.seen.ran };
        match self.observed.last_mut().filter(|o| o.witness == r.witness && o.source == r.source) {
            Some(o) => o.effects.push(effect),
            None => {
                let (witness, source) = (r.witness, r.source.to_owned());
                self.observed.push(EffectsObserved { witness, source, upto: None, effects: vec![effect] });
            }
        }
        s
    }

    /// What a line of the agent's own record says; `upto` are the bytes of `source` read with it.
    pub fn recorded(&mut self, source: &str, upto: u64, out: Output) -> Step {
        match out {
            Output::ToolUse { call_id, tool, input, .. } => Step {
                events: self
                    .words
                    .recorded(&call_id, &tool, &input)
                    .map(|m| mismatch_event(m, &call_id, Witness::Transcript))
                    .into_iter()
                    .collect(),
                blobs: vec![],
            },
            Output::ToolResult { call_id, is_error, ran, .. } => {
                let seen = Seen { is_error, ran };
                let step = self.effect(Report { witness: Witness::Transcript, source, call_id: &call_id, tool: "", input: None, seen });
                if let Some(o) = self.observed.last_mut() {
                    o.upto = Some(upto);
                }
                step
            }
            _ => Step::default(),
        }
    }

    /// Whether what other witnesses said is much enough for an event of its own.
    pub fn observed_full(&self) -> bool {
        self.observed.iter().map(|o| o.effects.len()).sum::<usize>() >= OBSERVED
    }

    /// The events of what other witnesses said since the last time.
    pub fn observed(&mut self) -> Vec<Event> {
        self.observed.drain(..).map(Event::from).collect()
    }

    /// The events of one output other than a question. Prices come from `prices`.
    pub fn step(&mut self, out: Output, prices: PricesAt<'_>) -> Step {
        let mut s = Step::default();
        self.parking.said(&out);
        match out {
            Output::Started { agent_session_id, version, model, permission_mode, tools, mcp_servers } => {
                s.events.push(AgentStarted { agent_session_id, version, model, permission_mode, tools, mcp_servers }.into());
            }
            Output::ToolUse { call_id, tool, input, parent_call_id } => {
                self.tasks.asked(&call_id, parent_call_id.as_deref(), &tool, &input);
                let wrong = self.words.used(&call_id, &tool, &input);
                s.events.extend(wrong.map(|m| mismatch_event(m, &call_id, Witness::Stream)));
            }
            Output::ToolResult { call_id, is_error, ran, content, .. } => {
                let changed = self.tasks.ended(&call_id, is_error, &content);
                self.result(&call_id, Seen { is_error, ran }, content, &mut s);
                s.events.extend(changed);
            }
            Output::Replied { text, message_id, parent_call_id } => {
                let text = cut(&text, EXCERPT);
                if parent_call_id.is_none() {
                    text.clone_into(&mut self.moments.last_words);
                }
                s.events.push(AgentReplied { text, message_id, parent_call_id }.into());
            }
            Output::Usage { message_id, model, usage, parent_call_id } => {
                self.counted(message_id, model, usage, parent_call_id, prices, &mut s);
            }
            Output::TurnEnded(mut t) => {
                let named = t.deferred.take();
                let deferred = named.clone().filter(|id| self.parking.turn_ended(Some(id)));
                if deferred.is_none() {
                    _ = self.parking.turn_ended(None);
                    // why: it ended at a call that it was not told to defer, so its work is not done.
                    t.is_error |= named.is_some();
                    self.turns += 1;
                    self.turn_failed = Some(t.is_error);
                }
                if let Some(r) = t.result.as_ref().filter(|r| !r.is_empty()) {
                    self.moments.last_words = cut(r, EXCERPT);
                }
                self.settle_opened(prices, &mut s);
                // why: requests that the stream does not show (sub-agents, compaction, titles) are in the agent's own totals only.
                for (model, usage) in t.unaccounted(&self.recorded) {
                    let message_id = format!("unattributed-{}.{}-{model}", self.parking.began, self.turns);
                    self.usage(message_id, model, usage, Some(UNATTRIBUTED.to_owned()), prices, &mut s);
                }
                self.discrepancies = super::usage::discrepancies(&t, &self.recorded, prices);
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
                        deferred,
                    }
                    .into(),
                );
            }
            Output::Compacted { trigger, tokens_before, tokens_after } => {
                s.events.push(ContextCompacted { trigger, tokens_before, tokens_after, dropped: None, retained: None, host: None }.into());
            }
            Output::SubAgent { call_id, agent_type, description } => {
                self.account.sub_agent_started(call_id.as_deref());
                s.events.push(SubAgentInvoked { call_id, agent_type, description: cut(&description, EXCERPT) }.into());
            }
            Output::Unparsed { .. }
            | Output::Forged { .. }
            | Output::Declined { .. }
            | Output::Quiet
            | Output::Mcp { .. }
            | Output::Asked(_)
            | Output::Shown(_)
            | Output::Held(_)
            | Output::Cancelled { .. } => {}
        }
        s
    }

    fn result(&mut self, call_id: &str, seen: Seen, content: String, s: &mut Step) {
        let by = self.account.reporter;
        let joined = self.account.effect(by, "", call_id, seen);
        joined.call.into_iter().for_each(|c| self.host_tools.over(c));
        let (output, blob) = excerpt(super::mask::text(&content).into_owned().into_bytes());
        s.blobs.extend(blob);
        let is_error = seen.is_error;
        let ran = (seen.ran == is_error).then_some(seen.ran);
        s.events.push(ToolEnded { call: joined.call, call_id: Some(call_id.to_owned()), is_error, ran, output, duration_ms: None }.into());
        s.events.extend(self.breach_of(joined, call_id, by));
    }

    fn breach_of(&self, joined: Joined, call_id: &str, by: Witness) -> Option<Event> {
        let words = self.words.describe(call_id).map(|w| format!(": {w}")).unwrap_or_default();
        let detail = format!("call id {}, seen in the {}{words}", cut(call_id, 128), by.as_str());
        joined.breach.map(|what| breach_event(what, detail, joined.call))
    }

    /// Holds back a start count until the final one, another message, or the end of the turn. Losing it with the daemon costs
    /// nothing: the turn's totals make up for it.
    fn counted(&mut self, message_id: String, model: String, usage: Usage, parent: Option<String>, prices: PricesAt<'_>, s: &mut Step) {
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

    fn settle_opened(&mut self, prices: PricesAt<'_>, s: &mut Step) {
        if let Some((id, model, usage)) = self.opened.take() {
            self.usage(id, model, usage, None, prices, s);
        }
    }

    /// Tokens of a message as the agent's own record has them, where no stream tells them. Counted once, however often it is read.
    pub fn metered(&mut self, out: Output, prices: PricesAt<'_>) -> Step {
        let mut s = Step::default();
        if let Output::Usage { message_id, model, usage, parent_call_id } = out {
            self.usage(message_id, model, usage, parent_call_id, prices, &mut s);
        }
        s
    }

    fn usage(&mut self, message_id: String, model: String, usage: Usage, parent: Option<String>, prices: PricesAt<'_>, s: &mut Step) {
        let known = self.messages.entry_or(&message_id, Usage::default);
        let grown = known.max(usage.capped());
        if grown == *known {
            return;
        }
        let difference = grown.beyond(*known);
        *known = grown;
        self.count(&model, difference);
        let cost = prices.cost(&model, difference);
        let table = Some(prices.table.digest.clone()).filter(|d| !d.is_empty());
        let context_used = parent.is_none().then(|| grown.total());
        s.events.push(
            ModelResponded { message_id, model, usage: difference, cost, prices: table, context_used, parent_call_id: parent }.into(),
        );
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

fn mismatch_event(m: Mismatch, call_id: &str, by: Witness) -> Event {
    breach_event(m.what, format!("call id {}, seen in the {}: {}", cut(call_id, 128), by.as_str(), m.detail), m.call)
}

/// A line that is not of the protocol, kept raw.
pub fn unparsed_event(reason: String, line: &[u8]) -> (Event, Option<Vec<u8>>) {
    let (raw, blob) = excerpt(line.to_vec());
    (OutputUnparsed { reason, raw }.into(), blob)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PriceTable;
    use serde_json::json;

    fn asked(request: &str, input: serde_json::Value) -> Asked {
        Asked { request_id: request.into(), call_id: Some("t1".into()), tool: "Bash".into(), input, parent_call_id: None, sub_agent: None }
    }

    fn result(id: &str, is_error: bool) -> Output {
        Output::ToolResult { call_id: id.into(), is_error, ran: !is_error, content: "x".into(), parent_call_id: None }
    }

    fn decide(l: &mut Live, seq: u64, effect: Effect) {
        l.account.requested(seq, Some("t1"), "Bash");
        l.account.decided(seq, effect, false);
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
        assert_eq!(breaches(&l.step(result("t1", false), p.at(0))), 1, "nothing was asked");
        assert_eq!(breaches(&l.step(result("t1", true), p.at(0))), 0, "an error shows nothing that ran");
        decide(&mut l, 5, Effect::Allow);
        decide(&mut l, 7, Effect::Deny);
        assert_eq!(breaches(&l.step(result("t1", false), p.at(0))), 0);
        assert_eq!(breaches(&l.step(result("t1", false), p.at(0))), 1, "the second of that id was denied");
    }

    #[test]
    fn other_witnesses_are_joined_and_wait_for_the_next_event() {
        let mut l = Live::default();
        decide(&mut l, 5, Effect::Allow);
        assert_eq!(breaches(&l.recorded("main.jsonl", 10, result("t1", false))), 0);
        assert_eq!(breaches(&l.recorded("main.jsonl", 20, result("t2", true))), 0, "an error shows nothing that ran");
        assert_eq!(breaches(&l.recorded("main.jsonl", 30, result("t3", false))), 1);
        let input = json!({"command": "ls"});
        l.words.asked(5, "t1", "Bash", &json!({"command": "rm"}));
        let seen = Seen { is_error: false, ran: true };
        let hook = Report { witness: Witness::Hook, source: "", call_id: "t1", tool: "Bash", input: Some(&input), seen };
        assert_eq!(breaches(&l.effect(hook)), 1, "it ran with another input");
        let kept = l.observed();
        let seen: Vec<(Witness, Option<u64>, usize)> = kept
            .iter()
            .filter_map(|e| if let Event::EffectsObserved(o) = e { Some((o.witness, o.upto, o.effects.len())) } else { None })
            .collect();
        assert_eq!(seen, [(Witness::Transcript, Some(30), 3), (Witness::Hook, None, 1)]);
        assert!(l.observed().is_empty());
    }

    /// Every recorded stream: what was asked about is explained, and exactly what ran unasked (recordings made without the gate) is
    /// not. Where a recording lacks the host's answers, all were allowed.
    #[test]
    fn recorded_streams_have_nothing_unexplained_but_what_was_not_asked() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/claude/2.1.197");
        let gated = ["z_cov", "s_askstar_hookallow", "sub_agent", "mcp_elicitation", "slash", "interrupt", "two_prompts", "api_error"];
        let (mut calls, mut unasked) = (0, 0);
        for entry in ["control-protocol", "stream"].iter().flat_map(|d| std::fs::read_dir(root.join(d)).unwrap().flatten()) {
            let name = entry.path().file_stem().unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let driver = crate::agent::driver("claude").unwrap();
            let (mut l, p) = (Live::default(), PriceTable::default());
            let mut state = crate::agent::ReadState::default();
            let mut open: HashMap<String, u64> = HashMap::new();
            let (mut asked, mut found, mut ran) = (Vec::new(), 0, 0);
            for (seq, line) in (1u64..).zip(text.lines()) {
                let v: serde_json::Value = serde_json::from_str(line).unwrap();
                let msg = if v["msg"].is_object() { &v["msg"] } else { &v };
                if v["dir"] == "->agent" {
                    let r = &msg["response"];
                    let effect = if r["response"]["behavior"] == "allow" { Effect::Allow } else { Effect::Deny };
                    if let Some(call) = r["request_id"].as_str().and_then(|id| open.remove(id)) {
                        l.account.decided(call, effect, false);
                    }
                    continue;
                }
                for out in driver.read(&mut state, msg.to_string().as_bytes()) {
                    match &out {
                        Output::Asked(a) => {
                            assert_eq!(l.changed(seq, a), None, "{name}: {line}");
                            l.account.requested(seq, a.call_id.as_deref(), &a.tool);
                            if v["dir"].is_null() {
                                l.account.decided(seq, Effect::Allow, false);
                            }
                            open.insert(a.request_id.clone(), seq);
                            asked.push(a.call_id.clone().unwrap());
                            continue;
                        }
                        Output::ToolResult { call_id, ran: true, .. } if !asked.contains(call_id) => ran += 1,
                        _ => {}
                    }
                    found += breaches(&l.step(out, p.at(0)));
                }
            }
            l.account.over = true;
            assert_eq!((found as u64, l.account.unexplained()), (ran as u64, ran as u64), "{name}");
            assert!(ran == 0 || !gated.contains(&name.as_str()), "{name}: {ran} calls were not asked about");
            calls += asked.len();
            unasked += ran;
        }
        assert!(calls >= 15 && unasked >= 3, "{calls} calls asked about, {unasked} not");
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
            .flat_map(|n| l.step(say(n), p.at(0)).events)
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
        l.step(Output::ToolUse { call_id: "t1".into(), tool: "Task".into(), input: json!({}), parent_call_id: None }, p.at(0));
        assert_eq!(l.changed(1, &q), None);
        q.tool = "Read".into();
        l.step(Output::ToolUse { call_id: "t1".into(), tool: "Task".into(), input: json!({}), parent_call_id: None }, p.at(0));
        assert_eq!(l.changed(2, &q).map(|m| m.what), Some("tool renamed"));
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
