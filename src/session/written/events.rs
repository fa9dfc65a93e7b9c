//! The events that one write becomes, with the blobs that they name. Pure. Called by `written`.

use crate::model::written::{AttemptEnd, Invocation, WRITE_JSON_MAX, Written};
use crate::model::{
    Actor, AgentHandedOff, AgentReplied, AttemptCheckpointed, AttemptEnded, AttemptStarted, CheckpointResumed, ContextCompacted, Custom,
    Event, Excerpt, InvocationAttempt, InvocationRecorded, MemoryRecalled, ModelResponded, Note, Outcome, OutputUnparsed, PriceTable,
    PromptSubmitted, Session, SessionEnded, SubAgentInvoked, ToolEnded, ToolReported, UsageLimitExceeded,
};
use crate::session::{live, mask};

/// Longest text that stands in an event whose field is no excerpt, in bytes.
const SHORT: usize = 1_024;
/// Longest reply that stands in its event, in bytes.
const REPLY_MAX: usize = 256 << 10;

/// What a write comes to.
pub struct Made {
    /// At least one.
    pub events: Vec<Event>,
    pub blobs: Vec<Vec<u8>>,
    /// The attempt that it must belong to; 0 where it does not matter.
    pub number: u32,
}

/// Masked before it is cut, so that no part of a secret is left at the end.
fn masked(text: &str, max: usize) -> String {
    live::cut(&mask::text(text), max)
}

struct Maker {
    blobs: Vec<Vec<u8>>,
}

impl Maker {
    fn excerpt(&mut self, text: &str) -> Excerpt {
        let (excerpt, blob) = live::excerpt(mask::text(text).into_owned().into_bytes());
        self.blobs.extend(blob);
        excerpt
    }

    fn maybe(&mut self, text: Option<&String>) -> Option<Excerpt> {
        text.map(|t| self.excerpt(t))
    }
}

/// `at` is when it happened: prices hold by the day. `begun`: a write before it in its request begins an attempt.
pub fn make(w: &Written, session: &Session, begun: bool, at: i64, prices: &PriceTable, by: &Actor) -> Made {
    let mut m = Maker { blobs: vec![] };
    let mut number = 0;
    let mut more: Vec<Event> = vec![];
    let first: Event = match w {
        Written::AttemptStarted(a) => {
            number = a.number.unwrap_or(0);
            // why the first only: it is one snapshot, however often the work is tried.
            if let Some(p) = a.prompt.as_ref().filter(|_| session.attempt == 0 && !begun && session.prompt.is_none()) {
                more.push(PromptSubmitted { prompt: m.excerpt(p), by: by.clone() }.into());
            }
            AttemptStarted {
                agent: a.agent.clone(),
                phase: a.phase.clone(),
                tier: a.tier.clone(),
                model: a.model.clone(),
                warm: a.warm,
                ..AttemptStarted::default()
            }
            .into()
        }
        Written::AttemptEnded(a) => {
            number = a.number.unwrap_or(0);
            let ended = attempt_ended(a, &mut m).into();
            match &a.checkpoint {
                None => ended,
                Some(commit) => {
                    more.push(ended);
                    let (reference, tree) = (String::new(), String::new());
                    // why held to that number: the checkpoint names its attempt. Of one that is begun in the same request it is known
                    // only where the events are taken.
                    if number == 0 && !begun {
                        number = session.attempt;
                    }
                    AttemptCheckpointed { attempt: number, commit: commit.to_ascii_lowercase(), reference, tree, cwd: session.cwd.clone() }
                        .into()
                }
            }
        }
        Written::PromptSubmitted(t) => PromptSubmitted { prompt: m.excerpt(&t.text), by: by.clone() }.into(),
        Written::AgentReplied(t) => {
            let mut events = replied(&t.text, None, None, &mut m).into_iter();
            // why never none: the reply itself is first.
            let Some(first) = events.next() else { return Made { events: vec![], blobs: vec![], number } };
            more.extend(events);
            first
        }
        Written::ToolStarted(t) => {
            let json = t.input.to_string();
            let is_large = json.len() > WRITE_JSON_MAX;
            ToolReported {
                call_id: t.call_id.clone(),
                tool: t.tool.clone(),
                whole: is_large.then(|| m.excerpt(&json)),
                input: if is_large { serde_json::Value::Null } else { t.input.clone() },
                parent_call_id: t.parent_call_id.clone(),
            }
            .into()
        }
        Written::ToolEnded(t) => {
            let output = m.excerpt(t.output.as_deref().unwrap_or_default());
            let (call_id, ran) = (Some(t.call_id.clone()), Some(true));
            ToolEnded { call: None, call_id, is_error: t.is_error, ran, output, duration_ms: t.duration_ms }.into()
        }
        Written::ModelResponded(r) => {
            let usage = r.usage.capped();
            if let Some(text) = r.text.as_ref().filter(|t| !t.is_empty()) {
                more.extend(replied(text, Some(r.message_id.clone()), r.parent_call_id.clone(), &mut m));
            }
            ModelResponded {
                message_id: r.message_id.clone(),
                model: r.model.clone(),
                usage,
                cost: prices.cost(&r.model, usage, at),
                prices: Some(prices.digest.clone()).filter(|d| !d.is_empty()),
                context_used: r.context_used,
                parent_call_id: r.parent_call_id.clone(),
            }
            .into()
        }
        Written::SubAgentInvoked(s) => {
            SubAgentInvoked { call_id: s.call_id.clone(), agent_type: s.agent_type.clone(), description: masked(&s.description, SHORT) }
                .into()
        }
        Written::AgentHandedOff(h) => {
            let reason = m.maybe(h.reason.as_ref());
            AgentHandedOff { from: h.from.clone(), to: h.to.clone(), session: None, reason, by: by.clone() }.into()
        }
        Written::CheckpointResumed(c) => {
            CheckpointResumed { checkpoint: c.checkpoint.clone(), detail: c.detail.as_ref().map(|d| masked(d, SHORT)) }.into()
        }
        Written::MemoryRecalled(r) => {
            let query = m.maybe(r.query.as_ref());
            MemoryRecalled { tier: r.tier.clone(), namespace: r.namespace.clone(), hits: r.hits, query, ids: vec![] }.into()
        }
        Written::UsageLimitExceeded(l) => {
            let (what, unit) = (l.limit.as_str(), l.limit.unit());
            let told = || match l.value {
                Some(value) => format!("{what} {value} {unit} is over its own limit of {} {unit}", l.max),
                None => format!("its own limit of {what} ({} {unit}) was passed", l.max),
            };
            let reason = l.reason.as_ref().map_or_else(told, |r| masked(r, SHORT));
            UsageLimitExceeded { limit: l.limit, value: l.value, max: l.max, unit: unit.to_owned(), reason, tree: None }.into()
        }
        Written::ContextCompacted(c) => ContextCompacted {
            trigger: c.trigger.clone().unwrap_or_else(|| "auto".to_owned()),
            tokens_before: c.tokens_before,
            tokens_after: c.tokens_after,
            dropped: c.dropped,
            retained: c.retained,
            host: None,
        }
        .into(),
        Written::InvocationRecorded(i) => invocation(i, &mut m).into(),
        Written::Custom(c) => Custom { name: c.name.clone(), body: c.body.clone() }.into(),
        Written::Note(t) => Note { text: masked(&t.text, live::EXCERPT) }.into(),
        Written::SessionEnded(e) => {
            let outcome = outcome(e.success);
            SessionEnded { outcome, reason: e.reason.as_ref().map(|r| masked(r, SHORT)), report: None }.into()
        }
    };
    Made { events: std::iter::once(first).chain(more).collect(), blobs: m.blobs, number }
}

/// Words in full, as for agents that the host reads; of very long ones the beginning, and the whole as a blob in an event beside it.
fn replied(text: &str, message_id: Option<String>, parent_call_id: Option<String>, m: &mut Maker) -> Vec<Event> {
    let mut events: Vec<Event> = vec![AgentReplied { text: masked(text, REPLY_MAX), message_id, parent_call_id }.into()];
    if text.len() > REPLY_MAX {
        let reason = format!("a reply over {REPLY_MAX} bytes, whole");
        events.push(OutputUnparsed { reason, raw: m.excerpt(text) }.into());
    }
    events
}

const fn outcome(success: Option<bool>) -> Outcome {
    match success {
        Some(true) => Outcome::Succeeded,
        Some(false) => Outcome::Failed,
        None => Outcome::Exited,
    }
}

fn attempt_ended(a: &AttemptEnd, m: &mut Maker) -> AttemptEnded {
    AttemptEnded {
        duration_ms: a.duration_ms,
        success: a.success,
        error: a.error.as_ref().map(|e| masked(e, live::EXCERPT)),
        cost: a.cost_nanousd,
        model: a.model.clone(),
        is_final: a.is_final,
        output_summary: m.maybe(a.output_summary.as_ref()),
        runner_output: m.maybe(a.runner_output.as_ref()),
        ..AttemptEnded::with(outcome(a.success))
    }
}

fn invocation(i: &Invocation, m: &mut Maker) -> InvocationRecorded {
    let attempts = i.attempts.iter().map(|t| InvocationAttempt {
        number: t.number,
        model: t.model.clone(),
        tier: t.tier.clone(),
        duration_ms: t.duration_ms,
        warm: t.warm,
        verified: t.verified,
        verdict: t.verdict.clone(),
        feedback: m.maybe(t.feedback.as_ref()),
        output_summary: m.maybe(t.output_summary.as_ref()),
        runner_output: m.maybe(t.runner_output.as_ref()),
    });
    let attempts = attempts.collect();
    let path = |p: &Option<String>| p.as_ref().map(|p| masked(p, live::EXCERPT));
    InvocationRecorded {
        skill: i.skill.clone(),
        phase: i.phase.clone(),
        project_root: path(&i.project_root),
        input: m.maybe(i.input.as_ref()),
        final_status: i.final_status.clone(),
        file: path(&i.file),
        model: i.model.clone(),
        duration_ms: i.duration_ms,
        message: m.maybe(i.message.as_ref()),
        attempts,
    }
}
