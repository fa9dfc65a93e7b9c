//! What one event of the log tells: the span that ends with it, and what it adds to metrics. Pure, but for looking back in the log.
//!
//! Called by `sink` for each event that it delivers.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::model::{
    ApprovalResolved, Attempt, AttemptEnded, AttemptVerified, By, CompactionFailed, ContextCompacted, Effect, Event, InvocationRecorded,
    MediationBreached, ModelResponded, Outcome, SIDECHAIN, Session, SessionEnded, SinkEvent, ToolDecided, UNATTRIBUTED, UsageLimitExceeded,
};

use super::conventions as names;
use super::ids;
use super::message::{KeyValue, Link, Span, SpanEvent, SpanKind, Status, StatusCode};
use super::numbers::Point;
use super::parts::{Attributes, failed, nanos, span};

mod call;
mod seldom;

/// Kinds of events that tell something; others need not be read.
pub const KINDS: &[&str] = &[
    "approval_resolved",
    "attempt_ended",
    "attempt_verified",
    "compaction_failed",
    "context_compacted",
    "invocation_recorded",
    "mediation_breached",
    "model_responded",
    "plugin_failed",
    "session_ended",
    "tool_decided",
    "tool_ended",
    "usage_limit_exceeded",
];
/// Most calls without a result that are told at the end of a session.
pub const UNFINISHED_MAX: usize = 256;
/// Most responses of one millisecond that are looked back at.
const SAME_MS_MAX: u32 = 1_000;
/// Where a model may have got what it answered to.
const BEFORE_A_MODEL: &[&str] =
    &["agent_started", "attempt_started", "context_compacted", "prompt_submitted", "session_resumed", "tool_ended"];

/// An event that lies behind.
#[derive(Debug, Clone)]
pub struct Past {
    pub seq: u64,
    pub at: i64,
    pub attempt: u32,
    pub kind: String,
    pub body: Vec<u8>,
}

impl Past {
    fn event(&self) -> Option<Event> {
        Event::from_parts(&self.kind, &self.body).ok()
    }
}

/// The log, as far as it is looked up. Errors are texts: a later try may work.
pub trait Log {
    fn session(&self, id: &str) -> Result<Option<Arc<Session>>, String>;

    fn attempt(&self, session: &str, number: u32) -> Result<Option<Attempt>, String>;

    /// One event; none where it was archived or removed.
    fn event(&self, session: &str, seq: u64) -> Result<Option<Past>, String>;

    /// Events of these kinds behind `after` and before `before`, newest first, until `visit` says no more or a cap of looking back is met.
    fn back(
        &self,
        session: &str,
        range: (u64, u64),
        kinds: &[&str],
        visit: &mut dyn FnMut(Past) -> Result<bool, String>,
    ) -> Result<(), String>;

    /// When the first count of a message was recorded.
    fn counted_at(&self, session: &str, message: &str) -> Result<Option<i64>, String>;
}

/// What an event tells.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Told {
    pub spans: Vec<Span>,
    pub points: Vec<Point>,
}

/// Why an event tells nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It never will: its body is not what its kind says.
    Never(String),
    /// The log could not be read now.
    Later(String),
}

impl From<String> for Trouble {
    fn from(why: String) -> Self {
        Self::Later(why)
    }
}

type Result<T, E = Trouble> = std::result::Result<T, E>;

/// See the module. `content`: words are told too.
pub fn tell(e: &SinkEvent, log: &dyn Log, content: bool) -> Result<Told> {
    if !KINDS.contains(&e.kind.as_str()) {
        return Ok(Told::default());
    }
    let event = Event::from_parts(&e.kind, e.body.as_bytes()).map_err(|err| Trouble::Never(err.to_string()))?;
    let session = log.session(&e.session)?;
    let mut t = Teller { e, log, content, session, out: Told::default() };
    match &event {
        Event::SessionEnded(s) => t.session_ended(s)?,
        Event::AttemptEnded(a) => t.attempt_ended(a)?,
        Event::AttemptVerified(v) => t.verified(v),
        Event::ModelResponded(m) => t.responded(m)?,
        Event::ToolDecided(d) => t.decided(d)?,
        Event::ToolEnded(r) => t.tool_ended(r)?,
        Event::ApprovalResolved(a) => t.approved(a)?,
        Event::MediationBreached(b) => t.breached(b)?,
        Event::ContextCompacted(c) => t.compacted(c)?,
        Event::CompactionFailed(c) => t.not_compacted(c)?,
        Event::UsageLimitExceeded(l) => t.limited(l),
        Event::InvocationRecorded(i) => t.invoked(i),
        Event::PluginFailed(f) => {
            let of = [(names::POLICY, f.policy.as_str()), (names::CAUSE, f.cause.as_str())];
            t.out.points.push(Point::new(&names::POLICY_FAILURES, 1.0, &of));
        }
        _ => {}
    }
    Ok(t.out)
}

struct Teller<'a> {
    e: &'a SinkEvent,
    log: &'a dyn Log,
    content: bool,
    session: Option<Arc<Session>>,
    out: Told,
}

impl Teller<'_> {
    fn agent(&self) -> &str {
        self.session.as_ref().map_or(names::UNKNOWN, |s| s.agent.as_str())
    }

    fn provider(&self) -> &'static str {
        let model = self.session.as_ref().and_then(|s| s.model.as_deref()).unwrap_or_default();
        match names::provider(model) {
            names::UNKNOWN => names::provider(self.agent()),
            known => known,
        }
    }

    /// What every span says.
    fn common(&self) -> Attributes {
        let mut a = Attributes::default().with(names::CONVERSATION, self.e.session.as_str()).with(names::AGENT_NAME, self.agent());
        a.maybe(names::SESSION_NAME, self.session.as_ref().map(|s| s.name.as_str()));
        if self.e.attempt > 0 {
            a.add(names::ATTEMPT, u64::from(self.e.attempt));
        }
        a
    }

    /// Where what happens in an attempt hangs: a sub-agent's below the call that started it, where that is known.
    fn parent(&self, attempt: u32, call: Option<&str>) -> Vec<u8> {
        match (call.filter(|id| ![UNATTRIBUTED, SIDECHAIN].contains(id)), attempt) {
            (Some(id), _) => ids::call(&self.e.session, attempt, id),
            (None, 0) => ids::session(&self.e.session),
            (None, n) => ids::attempt(&self.e.session, n),
        }
    }

    /// A span of this very event.
    fn own(&self, name: String, parent: Vec<u8>, from: i64, a: Attributes) -> Span {
        let id = ids::event(&self.e.session, self.e.seq);
        span((ids::trace(&self.e.session), id, parent), name, (nanos(from), nanos(self.e.at)), a)
    }

    /// `about`: the model or the tool, by the attribute's name.
    fn duration(&mut self, operation: &str, about: Option<(&'static str, &str)>, s: &Span, error: Option<&str>) {
        let model = about.filter(|(of, _)| *of == names::REQUEST_MODEL);
        let provider = model.map_or_else(|| self.provider(), |(_, m)| names::provider(m));
        let mut of = vec![(names::OPERATION, operation), (names::PROVIDER, provider)];
        of.extend(about);
        of.extend(error.map(|e| (names::ERROR_TYPE, e)));
        #[allow(clippy::cast_precision_loss)] // why: a duration for a graph.
        let seconds = (s.end_time_unix_nano - s.start_time_unix_nano) as f64 / 1e9;
        self.out.points.push(Point::new(&names::OPERATION_DURATION, seconds, &of));
    }

    fn session_ended(&mut self, ended: &SessionEnded) -> Result<()> {
        self.unfinished()?;
        let id = self.e.session.clone();
        let outcome = ended.outcome.as_str();
        let mut a = Attributes::default()
            .with(names::OPERATION, names::INVOKE_AGENT)
            .with(names::PROVIDER, self.provider())
            .with(names::CONVERSATION, id.as_str())
            .with(names::AGENT_NAME, self.agent())
            .with(names::OUTCOME, outcome);
        let mut links = vec![];
        if let Some(s) = &self.session {
            a.add(names::SESSION_NAME, s.name.as_str());
            a.maybe(names::AGENT_VERSION, s.agent_version.as_deref());
            a.maybe(names::REQUEST_MODEL, s.model.as_deref());
            a.add(names::MEDIATION, s.mediation.as_str());
            a.add(names::OWNER, s.record.owner.as_str());
            a.maybe(names::PHASE, s.record.phase.as_deref());
            a.maybe(names::PARENT, s.record.parent.as_ref().map(|p| p.as_str()));
            a.0.extend(tokens(s.usage));
            a.maybe(names::COST, s.cost.map(usd));
            for (key, n) in
                [(names::TURNS, s.turns), (names::CALLS, s.calls), (names::CALLS_DENIED, s.denied), (names::BREACHES, s.breaches)]
            {
                a.add(key, n);
            }
            for (k, v) in s.labels.iter().take(16) {
                a.add(&format!("{}{k}", names::LABEL), v.as_str());
            }
            let prompt = s.prompt.as_ref().map(|p| p.text.as_str());
            a.content(self.content, names::PROMPT, prompt);
            let origin = s.record.origin.as_ref().map(|o| (o.session.as_str(), o.how.as_str()));
            for (to, how) in s.record.parent.as_ref().map(|p| (p.as_str(), "parent")).into_iter().chain(origin) {
                let attributes = vec![KeyValue::new("beadle.link", how)];
                links.push(Link { trace_id: ids::trace(to), span_id: ids::session(to), attributes });
            }
        }
        a.content(self.content, names::REASON, ended.reason.as_deref());
        let begun = self.session.as_ref().map(|s| s.created_at);
        if begun.is_none() {
            a.add(names::START_UNKNOWN, true);
        }
        let own = (ids::trace(&id), ids::session(&id), vec![]);
        let name = format!("{} {}", names::INVOKE_AGENT, self.agent());
        let mut s = span(own, name, (nanos(begun.unwrap_or(self.e.at)), nanos(self.e.at)), a);
        s.links = links;
        let error = mark(&mut s, ended.outcome);
        self.duration(names::INVOKE_AGENT, None, &s, error);
        let of = [(names::OUTCOME, outcome), (names::AGENT_NAME, self.agent())];
        self.out.points.push(Point::new(&names::SESSION_ENDS, 1.0, &of));
        self.out.spans.push(s);
        Ok(())
    }

    fn attempt_ended(&mut self, ended: &AttemptEnded) -> Result<()> {
        let number = self.e.attempt;
        let known = self.log.attempt(&self.e.session, number)?.unwrap_or_default();
        let mut a = self.common().with(names::OUTCOME, ended.outcome.as_str());
        a.maybe(names::TIER, known.tier.as_deref());
        a.maybe(names::WHY, known.why.as_deref());
        a.maybe(names::PHASE, known.phase.as_deref());
        a.maybe(names::REQUEST_MODEL, ended.model.as_deref().or(known.model.as_deref()));
        a.maybe(names::EXIT_CODE, ended.exit_code.map(i64::from));
        a.maybe(names::SIGNAL, ended.signal.map(i64::from));
        a.maybe(names::COST, ended.cost.map(usd));
        a.content(self.content, names::REASON, ended.reason.as_deref());
        let end = ended.ended_at.map_or(self.e.at, |at| at.min(self.e.at));
        let begun = known.started_at.or_else(|| Some(end.saturating_sub(i64::try_from(ended.duration_ms?).ok()?)));
        if begun.is_none() {
            a.add(names::START_UNKNOWN, true);
        }
        // why the event's time, not the process's: what the agent said last is read after it ended, and lies within.
        let own = (ids::trace(&self.e.session), ids::attempt(&self.e.session, number), ids::session(&self.e.session));
        let mut s = span(own, format!("attempt {number}"), (nanos(begun.unwrap_or(self.e.at)), nanos(self.e.at)), a);
        match ended.succeeded() {
            Some(false) => failed(&mut s, ended.outcome.as_str(), ended.outcome.as_str()),
            Some(true) => s.status = Some(Status { message: String::new(), code: StatusCode::Ok.into() }),
            None => {}
        }
        self.out.points.push(Point::new(&names::ATTEMPT_ENDS, 1.0, &[(names::OUTCOME, ended.outcome.as_str())]));
        self.out.spans.push(s);
        Ok(())
    }

    fn verified(&mut self, v: &AttemptVerified) {
        let mut a = self.common().with(names::RESULT, v.verdict.as_str()).with("beadle.verify.round", u64::from(v.round));
        a.maybe(names::EXIT_CODE, v.verifier.as_ref().and_then(|r| r.exit_code).map(i64::from));
        let took = v.verifier.as_ref().map_or(0, |r| i64::try_from(r.duration_ms).unwrap_or(0));
        let parent = self.parent(self.e.attempt, None);
        let s = self.own("verify".to_owned(), parent, self.e.at.saturating_sub(took), a);
        self.out.spans.push(s);
    }

    fn responded(&mut self, m: &ModelResponded) -> Result<()> {
        let again = match self.log.counted_at(&self.e.session, &m.message_id)? {
            Some(at) if at == self.e.at => self.counted_just_before(&m.message_id)?,
            counted => counted.is_some(),
        };
        let is_call = !again && m.model != UNATTRIBUTED;
        let mut begun = self.e.at;
        if is_call {
            let range = (0, self.e.seq);
            self.log.back(&self.e.session, range, BEFORE_A_MODEL, &mut |p| {
                begun = p.at;
                Ok(false)
            })?;
        }
        let provider = names::provider(&m.model);
        let mut a = self.common();
        a.add(names::OPERATION, names::CHAT);
        a.add(names::PROVIDER, provider);
        a.add(names::REQUEST_MODEL, m.model.as_str());
        a.add(names::RESPONSE_MODEL, m.model.as_str());
        a.add(names::RESPONSE_ID, m.message_id.as_str());
        a.0.extend(tokens(m.usage));
        a.maybe(names::COST, m.cost.map(usd));
        if again {
            a.add(names::CORRECTION, true);
        }
        let parent = self.parent(self.e.attempt, m.parent_call_id.as_deref());
        let mut s = self.own(format!("{} {}", names::CHAT, m.model), parent, begun, a);
        s.kind = SpanKind::Client.into();
        if is_call {
            self.duration(names::CHAT, Some((names::REQUEST_MODEL, m.model.as_str())), &s, None);
        }
        self.out.spans.push(s);
        let u = m.usage;
        let input = u.total().saturating_sub(u.output);
        for (kind, n) in [("input", input), ("output", u.output)].into_iter().filter(|(_, n)| *n > 0) {
            let of = [
                (names::OPERATION, names::CHAT),
                (names::PROVIDER, provider),
                (names::TOKEN_TYPE, kind),
                (names::REQUEST_MODEL, m.model.as_str()),
                (names::RESPONSE_MODEL, m.model.as_str()),
            ];
            self.out.points.push(Point::new(&names::TOKEN_USAGE, float(n), &of));
        }
        for (kind, n) in [("input", u.input), ("output", u.output), ("cache_read", u.cache_read), ("cache_write", u.cache_write)] {
            if n > 0 {
                self.out.points.push(Point::new(&names::USAGE_TOKENS, float(n), &[(names::KIND, kind), (names::REQUEST_MODEL, &m.model)]));
            }
        }
        let of = [(names::REQUEST_MODEL, m.model.as_str())];
        self.out.points.push(match m.cost {
            Some(cost) => Point::new(&names::USAGE_COST, usd(cost), &of),
            None => Point::new(&names::USAGE_UNPRICED, 1.0, &of),
        });
        Ok(())
    }

    /// Whether an event of the same millisecond counted the message already: an imported record has many of them.
    fn counted_just_before(&self, message: &str) -> Result<bool> {
        let (mut again, mut looks) = (false, 0);
        self.log.back(&self.e.session, (0, self.e.seq), &["model_responded"], &mut |p| {
            looks += 1;
            again |= matches!(p.event(), Some(Event::ModelResponded(before)) if before.message_id == message);
            Ok(!again && p.at >= self.e.at && looks < SAME_MS_MAX)
        })?;
        Ok(again)
    }

    fn decided(&mut self, d: &ToolDecided) -> Result<()> {
        let call = self.call(d.call)?;
        let mut a = self.common();
        a.add(names::CALL, d.call);
        a.maybe(names::TOOL_NAME, call.as_ref().map(|c| c.tool.as_str()));
        a.add(names::EFFECT, d.effect.as_str());
        a.add(names::BY, by(d.by));
        a.maybe(names::RULE, d.rule.as_deref());
        // Whose answer it was: the first that says what was decided.
        a.maybe(names::POLICY, d.answers.iter().find(|p| p.decision.effect == d.effect).map(|p| p.policy.as_str()));
        a.add(names::LATENCY, d.latency_us);
        a.add(names::CHANGED, d.updated_input.is_some());
        a.content(self.content, names::REASON, Some(&d.reason));
        let tool = call.as_ref().map_or(names::UNKNOWN, |c| c.tool.as_str());
        let begun = call.as_ref().map_or(self.e.at, |c| c.at);
        let parent = match &call {
            Some(c) => c.span_id(&self.e.session),
            None => self.parent(self.e.attempt, None),
        };
        let mut s = self.own(format!("decide {tool}"), parent, begun, a);
        if s.start_time_unix_nano == s.end_time_unix_nano {
            // why: question and decision are recorded together, with one time of milliseconds.
            s.end_time_unix_nano += d.latency_us.min(999_999).saturating_mul(1_000).min(999_999);
        }
        if d.effect == Effect::Deny {
            failed(&mut s, "denied", "");
        }
        self.out.spans.push(s);
        let of = [(names::EFFECT, d.effect.as_str()), (names::BY, by(d.by))];
        self.out.points.push(Point::new(&names::DECISIONS, 1.0, &of));
        self.out.points.push(Point::new(&names::DECISION_DURATION, float(d.latency_us) / 1e6, &[(names::EFFECT, d.effect.as_str())]));
        Ok(())
    }

    fn approved(&mut self, r: &ApprovalResolved) -> Result<()> {
        let call = self.call(r.call)?;
        let mut begun = None;
        self.log.back(&self.e.session, (r.call, self.e.seq), &["approval_requested"], &mut |p| {
            let found = matches!(p.event(), Some(Event::ApprovalRequested(q)) if q.call == r.call);
            begun = found.then_some(p.at).or(begun);
            Ok(!found)
        })?;
        let state = r.state();
        let who = r.by.name.as_deref().unwrap_or(&r.by.role);
        let mut a = self.common().with(names::CALL, r.call).with(names::STATE, state.as_str()).with(names::APPROVER, who);
        a.content(self.content, names::REASON, Some(&r.reason));
        if begun.is_none() {
            a.add(names::START_UNKNOWN, true);
        }
        let tool = call.as_ref().map_or(names::UNKNOWN, |c| c.tool.as_str());
        let parent = call.as_ref().map_or_else(|| self.parent(self.e.attempt, None), |c| c.span_id(&self.e.session));
        let s = self.own(format!("approval {tool}"), parent, begun.unwrap_or(self.e.at), a);
        self.out.spans.push(s);
        self.out.points.push(Point::new(&names::APPROVALS, 1.0, &[(names::STATE, state.as_str())]));
        Ok(())
    }

    fn breached(&mut self, b: &MediationBreached) -> Result<()> {
        let call = b.call.map(|seq| self.call(seq)).transpose()?.flatten();
        let mut a = self.common().with(names::BREACH, b.what.as_str()).with(names::ACTION, b.action.as_str());
        a.maybe(names::CALL, b.call);
        a.maybe(names::TOOL_NAME, call.as_ref().map(|c| c.tool.as_str()));
        let parent = call.as_ref().map_or_else(|| self.parent(self.e.attempt, None), |c| c.span_id(&self.e.session));
        let mut s = self.own(format!("breach {}", b.what), parent, self.e.at, a);
        let mut said = Attributes::default().with(names::BREACH, b.what.as_str());
        said.content(self.content, names::REASON, Some(&b.detail));
        s.events.push(SpanEvent { time_unix_nano: nanos(self.e.at), name: names::BREACH.to_owned(), attributes: said.0 });
        failed(&mut s, "mediation_breached", &b.what);
        self.out.spans.push(s);
        self.out.points.push(Point::new(&names::MEDIATION_BREACHES, 1.0, &[(names::BREACH, &b.what)]));
        Ok(())
    }
}

/// How an end looks to who reads traces: a stop is no error of anyone's.
fn mark(s: &mut Span, outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Succeeded => s.status = Some(Status { message: String::new(), code: StatusCode::Ok.into() }),
        Outcome::Exited | Outcome::Stopped => {}
        other => {
            failed(s, other.as_str(), other.as_str());
            return Some(other.as_str());
        }
    }
    None
}

/// Usage as the conventions have it: input with all that was cached.
fn tokens(u: crate::model::Usage) -> Vec<KeyValue> {
    let mut a = Attributes::default();
    a.add(names::INPUT_TOKENS, u.total().saturating_sub(u.output));
    a.add(names::OUTPUT_TOKENS, u.output);
    a.maybe(names::CACHE_READ_TOKENS, Some(u.cache_read).filter(|n| *n > 0));
    a.maybe(names::CACHE_CREATION_TOKENS, Some(u.cache_write).filter(|n| *n > 0));
    a.maybe(names::REASONING_TOKENS, u.reasoning);
    a.0
}

const fn by(by: By) -> &'static str {
    match by {
        By::Policy => "policy",
        By::Default => "default",
        By::Approval => "approval",
        By::Agent => "agent",
        By::Unattended => "unattended",
        By::Expired => "expired",
        By::Withdrawn => "withdrawn",
        By::Host => "host",
    }
}

#[allow(clippy::cast_precision_loss)] // why: a number for a graph; the log has the exact one.
fn float(n: u64) -> f64 {
    n as f64
}

fn usd(nanousd: u64) -> f64 {
    float(nanousd) / 1e9
}

#[cfg(test)]
mod tests;
