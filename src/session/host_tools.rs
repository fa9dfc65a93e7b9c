//! The host's own tools for a session's agent: memory, tasks, handoff, note, report.
//!
//! They are a tool server that lives in the host and speaks over the agent's own channel: no process, no port, no token. Only the agent on
//! that channel can ask, and what it asks for was asked about at the gate before, like any other call. An agent without such a channel
//! starts `beadle mcp` ([`server`]).
//!
//! Invariants:
//! - a call is served only for a call of that tool, id and input that was asked about, allowed, told, and not served yet; any other is
//!   a breach, and nothing is done;
//! - what a call does, that it was served, and its answer are one append, with the place in the agent's output that it was read from: a
//!   daemon that dies before it has done nothing, and one that dies behind it has done it once;
//! - a session reaches its own namespace, tasks and log, and nothing else.
//!
//! Called by `run` (messages), `gate` (what a call of them is) and `live` (the fold). That they pass where nobody has an opinion is the
//! chain's rule (`policy::chain`).

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::gate::input_hash;
use super::run::Runner;
use super::tasks::{self, TaskChange};
use super::waiting::Waiting;
use super::{Error, Manager, failpoint, live, mask, memory};
use crate::agent::Driver;
use crate::agent::mcp::{self, Act, Request, ToolCall};
use crate::config::Config;
use crate::model::{
    Actor, AgentHandedOff, Call, Channel, Effect, Event, HostToolAnswered, MEMORY_HITS, MemoryAdded, MemoryTier, Note, ReportGiven, Task,
    ToolDecided, check_text,
};
use crate::policy::call::as_own;
use crate::store::Frame;

mod server;

pub use server::Answered;

/// Allowed calls that may wait to be served; the oldest is forgotten first, and is then a breach if it comes.
const OPEN: usize = 1_024;
/// Most entries that one session's agent adds to memory, and their bytes. Memory has one cap over all folders: no session may fill it.
const ADDED_MAX: u32 = 200;
const ADDED_BYTES_MAX: u64 = 1 << 20;
/// Most bytes of a list that the model is given.
const LIST_MAX: usize = 40_000;
/// Longest note, reason of a handoff, and report in bytes; and the name of who takes over.
const NOTE_MAX: usize = 4_000;
const REASON_MAX: usize = 16 << 10;
const REPORT_MAX: usize = 128 << 10;
const NAME_MAX: usize = 200;

/// Whether a session's agent is given them.
pub(super) fn are_given(config: &Config, wanted: Option<bool>, unsafe_args: &[String], drivers: &[&dyn Driver]) -> bool {
    // why not with those: a loosened channel may not ask.
    config.host_tools
        && wanted != Some(false)
        && unsafe_args.is_empty()
        && drivers.iter().any(|d| d.takes_host_tools() || d.starts_tool_server())
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Open {
    call_id: Option<String>,
    tool: String,
    /// Hash of the input that it was told to use.
    input: String,
    /// The agent was told: of a call that was held, its gate asks once more.
    told: bool,
    channel: Channel,
}

/// Calls of these tools that were allowed and are not served yet, as a fold over the session's events.
#[derive(Debug, Default)]
pub(super) struct Allowed {
    open: BTreeMap<u64, Open>,
    /// Entries that the agent added to memory, and their bytes.
    added: (u32, u64),
    /// Bytes of the entry that was added last, by whomever, while the log is read.
    last: u64,
    /// What was served through a server that the agent started, the newest last: whoever asks again gets the same answer.
    served: VecDeque<server::Served>,
}

impl Allowed {
    /// Folds one event of the log, oldest first; `waiting` as it is before the event.
    pub fn replay(&mut self, event: &Event, waiting: &BTreeMap<u64, Waiting>) {
        match event {
            Event::ToolDecided(d) => {
                if let Some(w) = waiting.get(&d.call) {
                    self.decided(d, &w.call);
                }
            }
            Event::ToolAnswered(a) => self.told(a.call),
            Event::ToolEnded(t) => t.call.into_iter().for_each(|c| self.over(c)),
            Event::HostToolAnswered(h) => {
                if h.tool == "memory_add" && !h.is_error {
                    self.added(self.last);
                }
                self.replay_served(h);
                self.over(h.call);
            }
            // Of the agent's own the answer stands right behind it.
            Event::MemoryAdded(m) => self.last = added_bytes(m),
            _ => {}
        }
    }

    pub fn decided(&mut self, d: &ToolDecided, call: &Call) {
        if d.effect != Effect::Allow || !mcp::is_own(&call.tool) {
            return;
        }
        if self.open.len() >= OPEN {
            self.open.pop_first();
        }
        let open = Open {
            call_id: call.call_id.clone(),
            tool: call.tool.clone(),
            input: d.input_hash.clone(),
            told: d.frame.is_some(),
            channel: call.channel,
        };
        self.open.insert(d.call, open);
    }

    /// The gate asked again about a call that was held, and was told.
    pub fn told(&mut self, call: u64) {
        if let Some(open) = self.open.get_mut(&call) {
            open.told = true;
        }
    }

    /// It was served, or has a result: a call is served once.
    pub fn over(&mut self, call: u64) {
        self.open.remove(&call);
    }

    /// The agent added an entry to memory.
    fn added(&mut self, bytes: u64) {
        self.added = (self.added.0.saturating_add(1), self.added.1.saturating_add(bytes));
    }

    /// The agent was started anew: it asks again about what it has not been told.
    pub fn begin_attempt(&mut self) {
        self.open.retain(|_, o| !o.told);
    }

    /// Another agent begins with the work.
    pub fn new_try(&mut self) {
        self.open.clear();
    }

    fn find(&self, call: &ToolCall) -> Option<u64> {
        let (tool, input) = (mcp::full_name(&call.name), input_hash(&call.arguments));
        let fits = |o: &Open| {
            let same_id = call.call_id.is_none() || call.call_id == o.call_id;
            o.told && same_id && o.tool == tool && o.input == input
        };
        self.open.iter().find(|(_, o)| fits(o)).map(|(call, _)| *call)
    }
}

fn added_bytes(m: &MemoryAdded) -> u64 {
    (m.text.len() + m.tags.iter().map(String::len).sum::<usize>()) as u64
}

/// What was done: a text for the model, and what goes into the log.
struct Done {
    text: String,
    events: Vec<Event>,
    blob: Option<Vec<u8>>,
}

impl Done {
    fn new(text: impl Into<String>, event: impl Into<Event>) -> Self {
        Self { text: text.into(), events: vec![event.into()], blob: None }
    }
}

impl Runner {
    /// Whether its agent was given them.
    pub(super) fn has_host_tools(&self) -> bool {
        self.session.record.host_tools && self.driver.takes_host_tools() && self.external.is_none()
    }

    pub(super) fn as_own(&self, call: Call) -> Call {
        if self.has_host_tools() { as_own(call, &self.session.cwd) } else { call }
    }

    /// One message of the agent to a server of the host's.
    pub(super) async fn mcp(&mut self, request_id: String, server: &str, message: &Value) {
        if !self.has_host_tools() || server != mcp::SERVER {
            let detail = match self.has_host_tools() {
                true => format!("the host has no MCP server {:?}", live::cut(&mask::text(server), 80)),
                false => "the host registered no MCP server of its own".to_owned(),
            };
            return self.breach("mcp_message", detail, None).await;
        }
        if self.input_closed || (self.finishing && self.ending.is_some()) {
            // why nothing is done: no answer could reach it, and what an operator has ended does no more.
            return;
        }
        let answer = match mcp::read(message) {
            Request::Notification => mcp::noted(),
            Request::Initialize { id, version } => mcp::initialized(&id, version.as_deref()),
            Request::Ping { id } => mcp::pong(&id),
            Request::List { id } => mcp::list(&id),
            Request::Invalid { answer } => answer,
            Request::Call { id, call } => return self.called(&request_id, &id, call).await,
        };
        let no = self.live.next_frame();
        self.pending.frames.push(Frame { no, bytes: self.driver.mcp_answer(&request_id, &answer) });
    }

    async fn called(&mut self, request_id: &str, id: &Value, call: ToolCall) {
        let Some(seq) = self.live.host_tools.find(&call) else {
            let text = "refused: no call of this tool with this id and these arguments was allowed and is open";
            let no = self.live.next_frame();
            self.pending.frames.push(Frame { no, bytes: self.driver.mcp_answer(request_id, &mcp::called(id, text, true)) });
            // why masked first: of a secret that is cut not even its beginning may stand there.
            let said = |text: &str, max| live::cut(&mask::text(text), max);
            let of = call.call_id.as_deref().map(|c| format!(", call id {}", said(c, 128))).unwrap_or_default();
            let detail = format!("{}{of}: {}", said(&call.name, 80), said(&call.arguments.to_string(), 300));
            return self.breach("a host tool without an allowed call", detail, None).await;
        };
        failpoint::hit("host_tool");
        let done = match Act::read(&call.name, &call.arguments) {
            Ok(act) => self.act(act).await.map_err(|e| format!("{e} [{}]", e.code())),
            Err(why) => Err(why),
        };
        self.live.host_tools.over(seq);
        let is_error = done.is_err();
        let done = done.unwrap_or_else(|why| Done { text: live::cut(&why, 1024), events: vec![], blob: None });
        let frame = self.live.next_frame();
        self.pending.events.extend(done.events);
        self.pending.blobs.extend(done.blob);
        self.pending.events.push(HostToolAnswered { call: seq, tool: call.name, is_error, frame, id: None }.into());
        let answer = mcp::called(id, &done.text, is_error);
        self.pending.frames.push(Frame { no: frame, bytes: self.driver.mcp_answer(request_id, &answer) });
    }

    /// Nothing is written here but what was collected before.
    async fn act(&mut self, act: Act) -> Result<Done, Error> {
        let manager = Manager { inner: self.inner.clone() };
        let by = Actor { role: "agent".to_owned(), ..Actor::default() };
        match act {
            Act::MemoryAdd(m) => {
                let place = memory::namespace(&self.session);
                // why that one: what nobody asked a person about makes room by itself.
                let tier = m.tier.unwrap_or(MemoryTier::Working);
                let entry = manager.entry(place, tier, &m.text, &m.tags.unwrap_or_default())?;
                let told = format!("kept as {} ({})", entry.id, entry.tier.as_str());
                let event = memory::added(entry);
                let (entries, bytes) = self.live.host_tools.added;
                if entries >= ADDED_MAX || bytes.saturating_add(added_bytes(&event)) > ADDED_BYTES_MAX {
                    let why = format!(
                        "may add {ADDED_MAX} entries and {ADDED_BYTES_MAX} bytes to memory, and has; search and change what is there"
                    );
                    return Err(Error::Refused { what: "this session".to_owned(), why });
                }
                self.live.host_tools.added(added_bytes(&event));
                Ok(Done::new(told, event))
            }
            Act::MemorySearch(m) => {
                let limit = m.limit.map_or(MEMORY_HITS, |l| usize::try_from(l).unwrap_or(usize::MAX));
                let (event, found) = manager.recalled(&self.session, &m.query, m.tier, m.tag, limit).await?;
                let hits = found
                    .into_iter()
                    .map(|h| h.memory)
                    .map(|m| json!({"id": m.id, "tier": MemoryTier::as_str(m.tier), "tags": m.tags, "text": m.text, "from": m.session}));
                Ok(Done::new(listed("memories", hits), event))
            }
            Act::TaskAdd(t) => {
                let tasks = self.tasks_now().await?;
                let change = TaskChange { title: Some(t.title), note: t.note, ..TaskChange::default() };
                let new = tasks::new_task(&self.id, &tasks, change, by)?;
                Ok(Done::new(format!("task {} added", new.task), new))
            }
            Act::TaskList => {
                let mut tasks = self.tasks_now().await?;
                // why: what is left out is done.
                tasks.sort_by_key(|t| !t.status.is_open());
                Ok(Done { text: listed("tasks", tasks.into_iter().map(shown)), events: vec![], blob: None })
            }
            Act::TaskUpdate(t) => {
                let tasks = self.tasks_now().await?;
                let change = TaskChange { title: t.title, status: t.status, owner: t.owner, note: t.note };
                let new = tasks::changed_task(&self.id, tasks, &t.id, change, by)?;
                let told = format!("task {} is {}", new.task, new.status.as_str());
                let event = Event::from(new);
                // why: the agent's own list is compared with what it was last.
                self.live.tasks.replay(&event);
                Ok(Done::new(told, event))
            }
            Act::HandOff(h) => {
                check_text("the agent's name", &h.to, NAME_MAX)?;
                let reason = h.reason.map(|r| text("the reason", r, REASON_MAX)).transpose()?;
                let (reason, blob) = reason.map_or((None, None), |(r, blob)| (Some(r), blob));
                let from = Some(self.driver.name().to_owned());
                let told = format!("recorded: {} takes over", h.to);
                let event = AgentHandedOff { from, to: h.to, session: None, reason, by };
                Ok(Done { blob, ..Done::new(told, event) })
            }
            Act::Note(n) => {
                let (note, _) = text("the note", n.text, NOTE_MAX)?;
                Ok(Done::new("noted", Note { text: format!("the agent notes: {}", note.text) }))
            }
            Act::Report(r) => {
                let (report, blob) = text("the report", r.text, REPORT_MAX)?;
                Ok(Done { blob, ..Done::new("the report is kept", ReportGiven { report }) })
            }
        }
    }

    /// The tasks, with what was collected and not written yet.
    async fn tasks_now(&mut self) -> Result<Vec<Task>, Error> {
        self.commit().await;
        Ok(self.inner.store.tasks(&self.id)?)
    }
}

/// A text that is kept whole: its beginning in the event, the rest as a blob.
fn text(what: &'static str, text: String, max: usize) -> Result<(crate::model::Excerpt, Option<Vec<u8>>), Error> {
    let refused = |why: String| Err(Error::Refused { what: what.to_owned(), why });
    if text.trim().is_empty() {
        return refused("is empty; say it".to_owned());
    }
    if text.len() > max {
        return refused(format!("has {} bytes, over the limit of {max}; shorten it", text.len()));
    }
    if let Some(c) = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t' | '\r')) {
        return refused(format!("has the character {c:?}, which no terminal can show; take it out"));
    }
    Ok(live::excerpt(mask::text(&text).into_owned().into_bytes()))
}

fn shown(t: Task) -> Value {
    let mut v = json!({"id": t.id, "title": t.title, "status": t.status.as_str()});
    for (key, text) in [("owner", t.owner), ("note", t.note)] {
        if let Some(text) = text {
            v[key] = text.into();
        }
    }
    v
}

/// A list as the model is given it, cut to [`LIST_MAX`] but for its first entry, and what is not in it counted.
fn listed(name: &str, items: impl Iterator<Item = Value>) -> String {
    let (mut list, mut bytes, mut left_out) = (Vec::new(), 0, 0_u64);
    for item in items {
        let size = item.to_string().len();
        if left_out > 0 || (!list.is_empty() && bytes + size > LIST_MAX) {
            left_out += 1;
            continue;
        }
        bytes += size;
        list.push(item);
    }
    let mut out = json!({ name: list });
    if left_out > 0 {
        out["left_out"] = left_out.into();
    }
    out.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::By;
    use crate::policy::call::{CallInput, build};
    use crate::policy::paths::RealPaths;

    fn call(tool: &str, id: &str, input: &Value) -> Call {
        let at = CallInput {
            agent: "claude",
            tool,
            input,
            cwd: "/w",
            home: None,
            write_root: None,
            call_id: Some(id),
            parent_call_id: None,
            sub_agent: None,
            channel: crate::model::Channel::Driver,
        };
        build(&at, &RealPaths)
    }

    fn decided(call: u64, effect: Effect, input: &Value, frame: Option<u64>) -> ToolDecided {
        ToolDecided {
            call,
            effect,
            by: By::Policy,
            reason: String::new(),
            rule: None,
            answers: vec![],
            input_hash: input_hash(input),
            updated_input: None,
            approver: None,
            latency_us: 0,
            frame,
        }
    }

    fn made(name: &str, id: Option<&str>, arguments: Value) -> ToolCall {
        ToolCall { name: name.into(), arguments, call_id: id.map(str::to_owned) }
    }

    #[test]
    fn only_an_allowed_call_with_the_same_words_is_served_and_once() {
        let input = json!({"text": "x", "tags": ["a"]});
        let note = || call("mcp__beadle__note", "t1", &input);
        let mut a = Allowed::default();
        a.decided(&decided(1, Effect::Deny, &input, Some(1)), &note());
        assert_eq!(a.find(&made("note", Some("t1"), input.clone())), None, "denied");
        a.decided(&decided(1, Effect::Allow, &input, Some(1)), &call("mcp__other__note", "t1", &input));
        a.decided(&decided(1, Effect::Allow, &input, Some(1)), &call("Bash", "t1", &input));
        assert_eq!(a.find(&made("note", Some("t1"), input.clone())), None, "of others");
        a.decided(&decided(5, Effect::Allow, &input, Some(1)), &note());
        for (name, id, arguments) in [
            ("report", Some("t1"), input.clone()),
            ("note", Some("t2"), input.clone()),
            ("note", Some("t1"), json!({"text": "y", "tags": ["a"]})),
            ("note", Some("t1"), json!({"text": "x"})),
            ("note", None, json!({})),
        ] {
            assert_eq!(a.find(&made(name, id, arguments.clone())), None, "{name} {id:?} {arguments}");
        }
        assert_eq!(a.find(&made("note", Some("t1"), json!({"tags": ["a"], "text": "x"}))), Some(5), "in whatever order");
        assert_eq!(a.find(&made("note", None, input.clone())), Some(5));
        a.over(5);
        assert_eq!(a.find(&made("note", Some("t1"), input.clone())), None, "once");
    }

    #[test]
    fn a_held_call_waits_for_its_gate_and_a_new_agent_asks_anew() {
        let input = json!({"text": "x"});
        let note = |id: &str| call("mcp__beadle__note", id, &input);
        let mut a = Allowed::default();
        a.decided(&decided(1, Effect::Allow, &input, None), &note("held"));
        a.decided(&decided(2, Effect::Allow, &input, Some(3)), &note("told"));
        assert_eq!(a.find(&made("note", Some("held"), input.clone())), None, "not told yet");
        a.begin_attempt();
        assert_eq!(a.find(&made("note", Some("told"), input.clone())), None, "of an agent that is gone");
        a.told(1);
        assert_eq!(a.find(&made("note", Some("held"), input.clone())), Some(1));
        for n in 10..(10 + 2 * OPEN as u64) {
            a.decided(&decided(n, Effect::Allow, &input, Some(n)), &note("many"));
        }
        assert_eq!(a.open.len(), OPEN, "bounded");
        a.new_try();
        assert!(a.open.is_empty());
    }

    #[test]
    fn what_the_agent_added_counts_and_what_people_added_does_not() {
        let entry = |text: &str, tags: &[&str]| {
            let tags = tags.iter().map(|t| (*t).to_owned()).collect();
            Event::from(MemoryAdded { id: "m".into(), tier: MemoryTier::Working, namespace: "/w".into(), text: text.into(), tags })
        };
        let answered = |tool: &str, is_error| Event::from(HostToolAnswered { call: 1, tool: tool.into(), is_error, frame: 1, id: None });
        let mut a = Allowed::default();
        for e in [
            entry("a person's", &[]),
            answered("note", false),
            entry("12345", &["67"]),
            answered("memory_add", false),
            answered("memory_add", true),
        ] {
            a.replay(&e, &BTreeMap::new());
        }
        assert_eq!(a.added, (1, 7));
    }

    #[test]
    fn lists_are_cut_and_say_so() {
        let long = |n: usize| json!({"id": n, "text": "x".repeat(15_000)});
        let v: Value = serde_json::from_str(&listed("memories", (0..9).map(long))).expect("json");
        assert_eq!((v["memories"].as_array().map(Vec::len), v["left_out"].as_u64()), (Some(2), Some(7)));
        let v: Value = serde_json::from_str(&listed("memories", std::iter::once(json!("y".repeat(2 * LIST_MAX))))).expect("json");
        assert_eq!(v["memories"].as_array().map(Vec::len), Some(1), "one is always told");
        assert_eq!(listed("tasks", std::iter::empty()), r#"{"tasks":[]}"#);
    }
}
