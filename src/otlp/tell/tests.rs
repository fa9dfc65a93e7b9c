use std::cell::Cell;

use serde_json::json;

use super::*;
use crate::model::{Envelope, SessionId};

/// A log in memory.
struct Memory {
    events: Vec<SinkEvent>,
    session: Option<Arc<Session>>,
    looks: Cell<u32>,
}

const ID: &str = "fix-1-abcde";

fn memory(bodies: &[(&str, serde_json::Value)]) -> Memory {
    let mut events = Vec::new();
    let mut session: Option<Session> = None;
    for (i, (kind, body)) in bodies.iter().enumerate() {
        let (seq, at) = (i as u64 + 1, 1_000 * (i as i64 + 1));
        let attempt = u32::from(i > 0);
        let e = SinkEvent {
            session: ID.into(),
            seq,
            at,
            attempt,
            kind: (*kind).into(),
            body: body.to_string(),
            hash: String::new(),
            labels: BTreeMap::new(),
        };
        let event = Event::from_parts(kind, e.body.as_bytes()).unwrap_or_else(|e| panic!("{e:?}"));
        let envelope = Envelope { session: ID.parse::<SessionId>().expect("an id"), seq, at, attempt, event };
        match &mut session {
            Some(s) => s.fold(&envelope),
            None => session = Session::begin(&envelope),
        }
        events.push(e);
    }
    Memory { events, session: session.map(Arc::new), looks: Cell::new(0) }
}

impl Log for Memory {
    fn session(&self, _: &str) -> Result<Option<Arc<Session>>, String> {
        Ok(self.session.clone())
    }

    fn attempt(&self, _: &str, number: u32) -> Result<Option<Attempt>, String> {
        Ok(Some(Attempt { number, started_at: Some(2_000), tier: Some("local".into()), ..Attempt::default() }))
    }

    fn event(&self, _: &str, seq: u64) -> Result<Option<Past>, String> {
        Ok(self.events.iter().find(|e| e.seq == seq).map(past))
    }

    fn back(
        &self,
        _: &str,
        (after, before): (u64, u64),
        kinds: &[&str],
        visit: &mut dyn FnMut(Past) -> Result<bool, String>,
    ) -> Result<(), String> {
        self.looks.set(self.looks.get() + 1);
        for e in self.events.iter().rev().filter(|e| e.seq > after && e.seq < before && kinds.contains(&e.kind.as_str())) {
            if !visit(past(e))? {
                break;
            }
        }
        Ok(())
    }

    fn counted_at(&self, _: &str, message: &str) -> Result<Option<i64>, String> {
        Ok(self.events.iter().find(|e| e.kind == "model_responded" && e.body.contains(&format!("\"{message}\""))).map(|e| e.at))
    }
}

fn past(e: &SinkEvent) -> Past {
    Past { seq: e.seq, at: e.at, attempt: e.attempt, kind: e.kind.clone(), body: e.body.clone().into_bytes() }
}

fn created() -> (&'static str, serde_json::Value) {
    let by = json!({ "role": "operator" });
    let body = json!({ "name": "fix", "agent": "claude", "command": ["claude"], "cwd": "/w", "mediation": "gate", "created_by": by,
        "beadle_version": "0", "owner": "ana", "labels": { "team": "x" }, "parent": "top-1-abcde" });
    ("session_created", body)
}

fn requested(call_id: &str, command: &str) -> (&'static str, serde_json::Value) {
    let call = json!({ "agent": "claude", "tool": "Bash", "kind": "execute", "input": { "command": command }, "cwd": "/w",
        "parse": "complete", "call_id": call_id, "channel": "driver" });
    ("tool_requested", json!({ "call": call }))
}

fn decided(call: u64, effect: &str) -> (&'static str, serde_json::Value) {
    let answers =
        json!([{ "policy": "rules", "digest": "d", "mode": "enforce", "effect": effect, "reason": "secret words", "latency_us": 9 }]);
    let body = json!({ "call": call, "effect": effect, "by": "policy", "reason": "secret words", "rule": "Bash(x:*)", "answers": answers,
        "input_hash": "h", "latency_us": 250 });
    ("tool_decided", body)
}

fn ended(call: u64, call_id: &str, is_error: bool) -> (&'static str, serde_json::Value) {
    ("tool_ended", json!({ "call": call, "call_id": call_id, "is_error": is_error, "output": { "text": "secret words", "bytes": 12 } }))
}

fn responded(id: &str, output: u64) -> (&'static str, serde_json::Value) {
    let usage = json!({ "input": 3, "output": output, "cache_read": 20, "cache_write": 7 });
    ("model_responded", json!({ "message_id": id, "model": "claude-opus-4-8", "usage": usage, "cost": 1_500_000 }))
}

fn all(m: &Memory, content: bool) -> Vec<Span> {
    m.events.iter().flat_map(|e| tell(e, m, content).expect("it tells").spans).collect()
}

fn of<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    spans.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no {name} in {:?}", spans.iter().map(|s| &s.name).collect::<Vec<_>>()))
}

fn attribute(s: &Span, key: &str) -> String {
    use super::super::message::Value;
    match s.attributes.iter().find(|a| a.key == key).and_then(KeyValue::value) {
        Some(Value::Text(t)) => t.clone(),
        Some(Value::Int(n)) => n.to_string(),
        Some(Value::Flag(b)) => b.to_string(),
        Some(Value::Double(d)) => d.to_string(),
        None => String::new(),
    }
}

fn session_of_two_calls() -> Memory {
    let end = json!({ "outcome": "succeeded" });
    memory(&[
        created(),
        ("attempt_started", json!({ "argv": ["claude"], "pid": 1, "shim_pid": 2 })),
        requested("toolu_1", "echo secret words"),
        decided(3, "allow"),
        responded("msg_1", 40),
        ended(3, "toolu_1", false),
        requested("toolu_2", "curl secret words"),
        decided(7, "deny"),
        ended(7, "toolu_2", true),
        responded("msg_2", 5),
        requested("toolu_3", "sleep 9"),
        ("attempt_ended", end.clone()),
        ("session_ended", end),
    ])
}

#[test]
fn a_session_is_one_tree_and_each_span_has_its_beginning() {
    let m = session_of_two_calls();
    let spans = all(&m, false);
    let names: Vec<&str> = spans.iter().map(|s| s.name.as_str()).collect();
    let want = [
        "decide Bash",
        "chat claude-opus-4-8",
        "execute_tool Bash",
        "decide Bash",
        "execute_tool Bash",
        "chat claude-opus-4-8",
        "attempt 1",
        "execute_tool Bash",
        "invoke_agent claude",
    ];
    assert_eq!(names, want);
    let root = of(&spans, "invoke_agent claude");
    assert!(root.parent_span_id.is_empty() && spans.iter().all(|s| s.trace_id == root.trace_id));
    assert_eq!((root.start_time_unix_nano, root.end_time_unix_nano), (1_000_000_000, 13_000_000_000));
    assert_eq!(root.links[0].span_id, ids::session("top-1-abcde"));
    assert_eq!((attribute(root, names::INPUT_TOKENS).as_str(), attribute(root, "beadle.label.team").as_str()), ("60", "x"));
    let known: HashSet<&[u8]> = spans.iter().map(|s| s.span_id.as_slice()).collect();
    assert_eq!(known.len(), spans.len(), "no id twice");
    assert!(spans.iter().all(|s| s.parent_span_id.is_empty() || known.contains(s.parent_span_id.as_slice())), "no span hangs in the air");
    let (allowed, denied, never) = (&spans[2], &spans[4], &spans[7]);
    assert_eq!((allowed.start_time_unix_nano, allowed.end_time_unix_nano), (3_000_000_000, 6_000_000_000));
    assert_eq!((attribute(denied, names::ERROR_TYPE).as_str(), attribute(denied, names::EFFECT).as_str()), ("denied", "deny"));
    assert_eq!(attribute(never, names::UNFINISHED), "true");
    assert_eq!(spans[0].parent_span_id, allowed.span_id, "a decision lies in its call");
    assert_eq!((attribute(&spans[0], names::RULE).as_str(), attribute(&spans[0], names::POLICY).as_str()), ("Bash(x:*)", "rules"));
    let chat = &spans[1];
    assert_eq!((chat.kind, chat.start_time_unix_nano), (i32::from(SpanKind::Client), 2_000_000_000), "since the attempt began");
    assert_eq!((attribute(chat, names::INPUT_TOKENS).as_str(), attribute(chat, names::CACHE_READ_TOKENS).as_str()), ("30", "20"));
    assert_eq!((attribute(chat, names::COST).as_str(), attribute(chat, names::PROVIDER).as_str()), ("0.0015", "anthropic"));
    assert_eq!(all(&m, false), spans, "told again, the very same");
}

#[test]
fn words_are_told_only_with_leave_and_cut() {
    let m = session_of_two_calls();
    assert!(!format!("{:?}", all(&m, false)).contains("secret words"));
    let spans = all(&m, true);
    let call = of(&spans, "execute_tool Bash");
    assert_eq!(attribute(call, names::TOOL_ARGUMENTS), r#"{"command":"echo secret words"}"#);
    assert_eq!(attribute(call, names::TOOL_RESULT), "secret words");
    let long = memory(&[created(), requested("t", &"ä".repeat(9_000)), ended(2, "t", false)]);
    let cut = attribute(of(&all(&long, true), "execute_tool Bash"), names::TOOL_ARGUMENTS).len();
    assert!((CONTENT_FLOOR..=crate::otlp::CONTENT_MAX).contains(&cut), "{cut}");
}

/// A character may be left out at the cut.
const CONTENT_FLOOR: usize = crate::otlp::CONTENT_MAX - 3;

#[test]
fn a_second_result_and_a_correction_are_not_told_as_further_calls() {
    let m = memory(&[created(), requested("t", "a"), decided(2, "allow"), ended(2, "t", false), ended(2, "t", true), responded("m", 4)]);
    assert_eq!(all(&m, false).iter().filter(|s| s.name.starts_with("execute_tool")).count(), 1);
    let m = memory(&[created(), responded("m", 4), responded("m", 2)]);
    let told: Vec<Told> = m.events.iter().map(|e| tell(e, &m, false).expect("it tells")).collect();
    assert_eq!(attribute(&told[2].spans[0], names::CORRECTION), "true");
    assert!(
        format!("{:?}", told[1].points).contains("operation.duration") && !format!("{:?}", told[2].points).contains("operation.duration")
    );
    // Lines of an imported record share their millisecond: the first is the call, and another message is another call.
    let mut m = memory(&[created(), responded("m", 4), responded("n", 2), responded("m", 2)]);
    m.events.iter_mut().skip(1).for_each(|e| e.at = 2_000);
    let told: Vec<Told> = m.events.iter().map(|e| tell(e, &m, false).expect("it tells")).collect();
    let is_call = |n: usize| format!("{:?}", told[n].points).contains("operation.duration");
    assert_eq!((is_call(1), is_call(2), is_call(3)), (true, true, false));
    assert_eq!(attribute(&told[3].spans[0], names::CORRECTION), "true");
}

#[test]
fn what_names_no_call_hangs_below_its_attempt() {
    let parent = |of: &str| {
        let (kind, mut body) = responded("m", 4);
        body["parent_call_id"] = json!(of);
        all(&memory(&[created(), (kind, body)]), false).pop().expect("a span").parent_span_id
    };
    let attempt = all(&memory(&[created(), responded("m", 4)]), false).pop().expect("a span").parent_span_id;
    assert_eq!([parent(crate::model::SIDECHAIN), parent(UNATTRIBUTED)], [attempt.clone(), attempt.clone()]);
    assert_ne!(parent("t"), attempt);
}

#[test]
fn breaches_and_approvals_are_spans_below_their_call() {
    let by = json!({ "role": "operator", "name": "ana" });
    let m = memory(&[
        created(),
        requested("t", "rm -rf build"),
        ("approval_requested", json!({ "call": 2, "reason": "r", "expires_at": 9 })),
        ("approval_resolved", json!({ "call": 2, "effect": "allow", "reason": "ok", "by": by, "state": "approved" })),
        decided(2, "allow"),
        ended(2, "t", false),
        ("mediation_breached", json!({ "what": "result without a call", "detail": "secret words", "call": 2, "action": "stop" })),
    ]);
    let spans = all(&m, false);
    let (call, approval, breach) =
        (of(&spans, "execute_tool Bash"), of(&spans, "approval Bash"), of(&spans, "breach result without a call"));
    assert!(approval.parent_span_id == call.span_id && breach.parent_span_id == call.span_id);
    assert_eq!((approval.start_time_unix_nano, approval.end_time_unix_nano), (3_000_000_000, 4_000_000_000));
    assert_eq!((attribute(approval, names::STATE).as_str(), attribute(approval, names::APPROVER).as_str()), ("approved", "ana"));
    assert_eq!((breach.status.as_ref().map(|s| s.code), breach.events.len()), (Some(StatusCode::Error.into()), 1));
}

#[test]
fn what_is_not_as_its_kind_says_never_tells_and_other_kinds_cost_nothing() {
    let mut m = memory(&[created(), ("note", json!({ "text": "x" }))]);
    assert_eq!((tell(&m.events[1], &m, true), m.looks.get()), (Ok(Told::default()), 0));
    m.events[1].kind = "tool_decided".into();
    assert!(matches!(tell(&m.events[1], &m, true), Err(Trouble::Never(why)) if why.contains("tool_decided")));
    let known: HashSet<&str> = Event::KINDS.iter().copied().collect();
    assert!(KINDS.iter().all(|k| known.contains(k)), "every kind is one that is written");
}
