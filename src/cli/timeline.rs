//! The live timeline: events to lines, pure. Each line begins with a mark and a word, so it reads without colour.
//!
//! | mark | says |
//! | --- | --- |
//! | `✓ allowed` `✗ denied` `~ changed` | a tool call and its decision, with policy, rule, reason and latency |
//! | `? ask` | a call that waits for a person |
//! | `└` | what became of the call above |
//! | `»` `“` `·` `!` `■` | prompt, the agent's words, figures, trouble, the end |
//!
//! Invariants: text of agents is untrusted and made safe here; memory is bounded by [`OPEN_MAX`] calls.
//! Called by `attach` and `events`.

mod moments;
mod queue;
mod tree;
mod written;

use std::collections::BTreeMap;

use serde_json::Value;

use super::printer::Tone;
use super::text::{LINE_MAX, brief, count, micros, money, safe, safe_lines};
use crate::api::types::{EventDoc, Money, SessionDoc};
use crate::model::{Answer, By, Call, Effect, Event, Mode, ToolDecided, Usage, usd};

/// Most calls whose request is remembered until their decision and end; the oldest are forgotten first.
pub const OPEN_MAX: usize = 1024;
/// Most characters of a call's input that a question shows.
pub const DETAIL_MAX: usize = 4000;

/// One line to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub tone: Tone,
    pub text: String,
}

/// What a line of a call needs later.
#[derive(Debug, Clone)]
struct Open {
    tool: String,
    summary: String,
    /// Indent and name of the sub-agent, empty for the main one.
    lead: String,
}

/// Folds events of one session into lines.
#[derive(Debug, Default)]
pub struct Timeline {
    open: BTreeMap<u64, Open>,
}

impl Timeline {
    /// The lines of one event; most kinds give none or one.
    pub fn lines(&mut self, doc: &EventDoc) -> Vec<Line> {
        let event = match doc.event() {
            Ok(event) => event,
            Err(e) => return vec![line(Tone::Bad, format!("! event {} is unreadable: {}", doc.seq, brief(&e.to_string(), LINE_MAX)))],
        };
        match event {
            Event::SessionCreated(s) => {
                let text = format!(
                    "▸ {}  agent {}, mediation {}, in {}",
                    safe(&doc.session),
                    safe(&s.agent),
                    s.mediation.as_str(),
                    brief(&s.cwd, LINE_MAX)
                );
                vec![line(Tone::Strong, text)]
            }
            Event::AgentStarted(a) => {
                let part = |name: &str, v: Option<String>| v.map(|v| format!(" {name} {}", brief(&v, 60))).unwrap_or_default();
                vec![line(Tone::Dim, format!("· agent is up{}{}", part("version", a.version), part("model", a.model)))]
            }
            Event::PromptSubmitted(p) => vec![line(Tone::Strong, format!("» {}", brief(&p.prompt.text, LINE_MAX)))],
            Event::AgentReplied(r) => {
                let lead = if r.parent_call_id.is_some() { "  " } else { "" };
                vec![line(Tone::Plain, format!("{lead}“{}”", brief(&r.text, LINE_MAX)))]
            }
            Event::ToolRequested(t) => {
                self.remember(doc.seq, &t.call);
                vec![]
            }
            Event::ToolDecided(d) => vec![self.decided(&d)],
            Event::ApprovalRequested(a) => {
                let (lead, what) = self.subject(a.call);
                let rule = a.rule.as_deref().map(|r| format!(" · rule {}", brief(r, 80))).unwrap_or_default();
                vec![line(
                    Tone::Question,
                    format!("{lead}? ask      {what}  — {}{rule} · {}:{}", brief(&a.reason, LINE_MAX), safe(&doc.session), a.call),
                )]
            }
            Event::ApprovalEndorsed(x) => {
                let who = x.by.name.as_deref().unwrap_or(&x.by.role);
                vec![line(
                    Tone::Question,
                    format!("· {}:{} is allowed by {}; it needs a second person", safe(&doc.session), x.call, brief(who, 80)),
                )]
            }
            Event::ToolEnded(t) => {
                let lead = t.call.and_then(|c| self.open.remove(&c)).map(|o| o.lead).unwrap_or_default();
                let word = if t.is_error { "failed" } else { "ok" };
                let took = t.duration_ms.map(|ms| format!(" in {}", micros(ms.saturating_mul(1000)))).unwrap_or_default();
                let said = brief(&t.output.text, 120);
                let said = if said.is_empty() { String::new() } else { format!(": {said}") };
                let tone = if t.is_error { Tone::Bad } else { Tone::Dim };
                vec![line(tone, format!("{lead}  └ {word}{took}{said}"))]
            }
            Event::ModelResponded(m) => {
                let cost = m.cost.map_or_else(|| "cost unknown".to_owned(), |c| money(&Money::from(c)));
                let lead = if m.parent_call_id.is_some() { "  " } else { "" };
                vec![line(Tone::Dim, format!("{lead}· {} · {cost}", tokens(m.usage)))]
            }
            Event::UsageDisagreed(d) => {
                let ours = d.ours.map_or_else(|| "unknown".to_owned(), usd);
                let text = format!("! the agent's own total is {}, ours {ours}: {}", usd(d.theirs), brief(&d.why, 300));
                vec![line(Tone::Changed, text)]
            }
            Event::UsageLimitExceeded(x) => vec![line(Tone::Bad, format!("■ limit passed: {}", brief(&x.reason, 300)))],
            Event::ToolReported(_)
            | Event::MemoryRecalled(_)
            | Event::MemoryAdded(_)
            | Event::ContextProviderAdded(_)
            | Event::ContextProviderRemoved(_)
            | Event::ContextAdded(_)
            | Event::ReportGiven(_)
            | Event::CheckpointResumed(_)
            | Event::InvocationRecorded(_)
            | Event::Custom(_)
            | Event::WritesLost(_) => written::lines(&event),
            Event::SubAgentInvoked(s) => {
                vec![line(Tone::Plain, format!("  ▸ sub-agent {}: {}", brief(&s.agent_type, 60), brief(&s.description, 120)))]
            }
            Event::CompactionBegan(c) => {
                let text = format!("· compacting ({}) by {}: the agent is started anew", brief(&c.trigger, 40), brief(&c.strategy, 80));
                vec![line(Tone::Plain, text)]
            }
            Event::CompactionFailed(c) => {
                let (strategy, reason) = (brief(&c.strategy, 80), brief(&c.reason, LINE_MAX));
                vec![line(Tone::Bad, format!("· not compacted ({}) by {strategy}: {reason} [{}]", brief(&c.trigger, 40), safe(&c.code)))]
            }
            Event::ContextCompacted(c) => {
                let from_to = match (c.tokens_before, c.tokens_after) {
                    (Some(a), Some(b)) => format!(" from {} to {} tokens", count(a), count(b)),
                    (Some(a), None) => format!(" from {} tokens", count(a)),
                    _ => String::new(),
                };
                vec![line(Tone::Plain, format!("· context compacted ({}){from_to}", brief(&c.trigger, 40)))]
            }
            Event::SessionForked(_)
            | Event::AgentHandedOff(_)
            | Event::TreeActBegan(_)
            | Event::TreeActEnded(_)
            | Event::TaskUpdated(_) => tree::lines(&event),
            Event::SessionJudged(_) | Event::PromptJudged(_) | Event::ResultJudged(_) | Event::AttemptVerified(_) => moments::lines(&event),
            Event::RuleAdded(r) => {
                vec![line(Tone::Plain, format!("· rule added: {} {} ({})", r.effect.as_str(), brief(&r.rule, LINE_MAX), safe(&r.id.0)))]
            }
            Event::RuleRevoked(r) => vec![line(Tone::Plain, format!("· rule revoked: {}", safe(&r.id.0)))],
            Event::PluginFailed(p) => {
                let text = format!(
                    "! policy {} failed ({}): {} — counts as {}",
                    brief(&p.policy, 60),
                    p.cause.as_str(),
                    brief(&p.detail, LINE_MAX),
                    p.on_failure.effect().as_str()
                );
                vec![line(Tone::Bad, text)]
            }
            Event::MediationBreached(b) => {
                vec![line(
                    Tone::Bad,
                    format!("! BREACH: {}: {} — {}", brief(&b.what, 80), brief(&b.detail, LINE_MAX), brief(&b.action, 20)),
                )]
            }
            Event::MediationLowered(m) => {
                vec![line(Tone::Bad, format!("! mediation is now {}: {}", m.to.as_str(), brief(&m.reason, LINE_MAX)))]
            }
            Event::OutputUnparsed(o) => vec![line(
                Tone::Question,
                format!("! output that is not of the protocol ({}): {}", brief(&o.reason, 80), brief(&o.raw.text, 80)),
            )],
            Event::ConfigIgnored(c) => {
                vec![line(
                    Tone::Question,
                    format!(
                        "! {} is not trusted; not taken from it: {} (`beadle trust` to accept)",
                        brief(&c.path, LINE_MAX),
                        brief(&c.keys.join(", "), LINE_MAX)
                    ),
                )]
            }
            Event::TurnEnded(t) if t.is_error => {
                vec![line(
                    Tone::Bad,
                    format!(
                        "! turn ended badly: {}",
                        brief(t.subtype.as_deref().or(t.result.as_deref()).unwrap_or("no reason given"), LINE_MAX)
                    ),
                )]
            }
            Event::SessionQueued(_) | Event::SessionClaimed(_) | Event::QueueMoved(_) | Event::QueueRetried(_) => queue::lines(&event),
            Event::SessionPaused(p) => {
                vec![line(Tone::Question, format!("· session paused ({}): {}", p.mode.as_str(), brief(&p.reason, LINE_MAX)))]
            }
            Event::SessionContinued(_) => vec![line(Tone::Dim, "· session resumed".to_owned())],
            Event::SessionResumed(_) => vec![line(Tone::Dim, "· session resumed: the agent is started anew".to_owned())],
            Event::SessionStopping(s) => vec![line(Tone::Dim, format!("· stopping ({})", brief(&s.how, 60)))],
            Event::SessionEnded(s) => {
                let why = s.reason.map(|r| format!(": {}", brief(&r, LINE_MAX))).unwrap_or_default();
                vec![line(Tone::Dim, format!("· session ended, {}{why}", s.outcome.as_str()))]
            }
            Event::AttemptScheduled(n) => {
                let why = n.feedback.map(|f| format!(": {}", brief(&f, LINE_MAX))).unwrap_or_default();
                vec![line(Tone::Dim, format!("· attempt {} follows ({}){why}", n.attempt, brief(&n.why, 40)))]
            }
            Event::AttemptCheckpointed(c) => {
                let short = c.commit.get(..12).unwrap_or(&c.commit);
                vec![line(
                    Tone::Dim,
                    format!("· attempt {} is kept as commit {}", if c.attempt == 0 { doc.attempt } else { c.attempt }, brief(short, 12)),
                )]
            }
            Event::AttemptRolledBack(r) => {
                let to = r.restored_to.map(|d| format!(", restored to {}", brief(&d, 200))).unwrap_or_default();
                vec![line(Tone::Dim, format!("· attempt {} is rolled back{to}", r.attempt))]
            }
            Event::SecretRedacted(s) => vec![line(Tone::Dim, format!("· a secret was redacted from event {}", s.seq))],
            Event::SessionArchived(a) => vec![line(Tone::Dim, format!("· events {} to {} were archived", a.first, a.last))],
            Event::Note(_)
            | Event::AttemptsPlanned(_)
            | Event::ArchiveRestored(_)
            | Event::TranscriptKept(_)
            | Event::AttemptStarted(_)
            | Event::AttemptEnded(_)
            | Event::ToolStarted(_)
            | Event::ToolDeferred(_)
            | Event::ToolAnswered(_)
            | Event::RelaunchKept(_)
            | Event::ApprovalResolved(_)
            | Event::TurnEnded(_)
            | Event::UsageLimitsSet(_)
            | Event::CompactionSet(_)
            | Event::PluginLoaded(_)
            | Event::TranscriptNamed(_)
            | Event::EffectsObserved(_)
            | Event::PluginReplaced(_)
            | Event::PluginStateChanged(_)
            | Event::HostToolAnswered(_)
            | Event::Unknown(_) => vec![],
        }
    }

    fn remember(&mut self, seq: u64, call: &Call) {
        let lead = match (&call.sub_agent, &call.parent_call_id) {
            (Some(name), _) => format!("  [{}] ", brief(name, 30)),
            (None, Some(_)) => "  ".to_owned(),
            (None, None) => String::new(),
        };
        self.open.insert(seq, Open { tool: brief(&call.tool, 60), summary: summary(&call.input), lead });
        while self.open.len() > OPEN_MAX {
            self.open.pop_first();
        }
    }

    fn subject(&self, call: u64) -> (String, String) {
        match self.open.get(&call) {
            Some(o) => (o.lead.clone(), format!("{}  {}", o.tool, o.summary).trim_end().to_owned()),
            None => (String::new(), format!("call {call}")),
        }
    }

    fn decided(&mut self, d: &ToolDecided) -> Line {
        let (lead, what) = self.subject(d.call);
        let latency = micros(d.latency_us);
        let why = because(d);
        match (d.effect, &d.updated_input) {
            (Effect::Allow, None) => line(Tone::Good, format!("{lead}✓ allowed  {what}  — {why} · {latency}")),
            (Effect::Allow, Some(new)) => line(Tone::Changed, format!("{lead}~ changed  {what}  → {}  — {why} · {latency}", summary(new))),
            (Effect::Ask, _) => line(Tone::Question, format!("{lead}? ask      {what}  — {why} · {latency}")),
            _ => {
                // A denied call has no end to wait for.
                self.open.remove(&d.call);
                line(Tone::Bad, format!("{lead}✗ denied   {what}  — {why} · {latency}"))
            }
        }
    }
}

/// Who decided and why: `rules: Bash(git push:*): reason`, `a person: reason`, `default`.
fn because(d: &ToolDecided) -> String {
    let reason = brief(&d.reason, LINE_MAX);
    let said = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    match d.by {
        By::Policy => {
            let names: Vec<String> = d.answers.iter().filter(|a| decisive(a, d)).map(|a| brief(&a.policy, 60)).collect();
            let rule = d.rule.as_deref().map(|r| format!(" {}", brief(r, 100))).unwrap_or_default();
            format!("{}{rule}{said}", if names.is_empty() { "policy".to_owned() } else { names.join(", ") })
        }
        By::Default => format!("default{said}"),
        By::Approval => format!("a person{said}"),
        By::Agent => format!("the agent's own prompt{said}"),
        By::Unattended => format!("nobody could answer{said}"),
        By::Expired => format!("nobody answered in time{said}"),
        By::Withdrawn => format!("the question went away{said}"),
        By::Host => format!("host{said}"),
    }
}

/// Whether a policy's answer made the decision: the same effect, or the rewrite that was taken.
fn decisive(a: &Answer, d: &ToolDecided) -> bool {
    a.mode == Mode::Enforce && (a.decision.effect == d.effect || (d.updated_input.is_some() && a.decision.updated_input == d.updated_input))
}

/// The part of a tool's input that says most: command, path, address, pattern; else the whole, shortened.
pub fn summary(input: &Value) -> String {
    const FIELDS: &[&str] =
        &["command", "cmd", "file_path", "path", "absolute_path", "notebook_path", "url", "pattern", "query", "description", "prompt"];
    for field in FIELDS {
        match input.get(*field) {
            Some(Value::String(s)) => return brief(s, LINE_MAX),
            Some(Value::Array(words)) if !words.is_empty() && words.iter().all(Value::is_string) => {
                let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
                return brief(&words.join(" "), LINE_MAX);
            }
            _ => {}
        }
    }
    match input {
        Value::Object(map) if map.is_empty() => String::new(),
        other => brief(&other.to_string(), 120),
    }
}

/// A tool's input as a person must see it before saying yes: the command itself, else all of it as JSON, many lines, made safe.
pub fn detail(input: &Value) -> String {
    let command = input.get("command").and_then(Value::as_str);
    let alone = input.as_object().is_some_and(|m| m.keys().all(|k| matches!(k.as_str(), "command" | "description" | "timeout")));
    let text = match command {
        Some(c) if alone => safe_lines(c),
        _ => safe_lines(&serde_json::to_string_pretty(input).unwrap_or_default()),
    };
    let shown: String = text.chars().take(DETAIL_MAX).collect();
    let rest = text.chars().count().saturating_sub(DETAIL_MAX);
    if rest == 0 {
        shown
    } else {
        format!("{shown}\n… and {} characters more, not shown", count(u64::try_from(rest).unwrap_or(u64::MAX)))
    }
}

/// `3,600 in, 102 out, cache 3,000 read 150 written`.
pub fn tokens(u: Usage) -> String {
    let mut out = format!("{} in, {} out", count(u.input), count(u.output));
    if u.cache_read + u.cache_write > 0 {
        out.push_str(&format!(", cache {} read {} written", count(u.cache_read), count(u.cache_write)));
    }
    out
}

/// The last line of an attached run: outcome, calls, tokens, cost.
pub fn end(doc: &SessionDoc) -> Line {
    let outcome = doc.outcome.map_or(doc.status.as_str(), |o| o.as_str());
    let mut parts = vec![format!("■ {outcome}")];
    let n = |n: u64, what: &str| if n == 0 { None } else { Some(format!("{} {what}", count(n))) };
    let kinds =
        [n(doc.allowed_count, "allowed"), n(doc.denied_count, "denied"), n(doc.asked_count, "asked"), n(doc.rewritten_count, "changed")];
    let kinds: Vec<String> = kinds.into_iter().flatten().collect();
    let word = if doc.call_count == 1 { "call" } else { "calls" };
    let detail = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
    parts.push(format!("{} {word}{detail}", count(doc.call_count)));
    if doc.usage.total() > 0 {
        parts.push(format!("tokens {}", tokens(doc.usage)));
    }
    if let Some(c) = &doc.cost {
        let agents = match &doc.agent_cost {
            Some(a) if a == c => " (the agent says the same)".to_owned(),
            Some(a) => format!(" (the agent says {})", money(a)),
            None => String::new(),
        };
        parts.push(format!("cost {}{agents}", super::text::cost(Some(c), doc.unpriced_count, &doc.unpriced)));
    } else if doc.unpriced_count > 0 {
        parts.push(format!("cost {}", super::text::cost(None, doc.unpriced_count, &doc.unpriced)));
    }
    if doc.breach_count > 0 {
        parts.push(format!("{} BREACHES", count(doc.breach_count)));
    }
    let good = super::exit::Exit::of_session(doc) == super::exit::Exit::Done && doc.breach_count == 0;
    line(if good { Tone::Good } else { Tone::Bad }, parts.join(" · "))
}

fn line(tone: Tone, text: String) -> Line {
    Line { tone, text }
}

#[cfg(test)]
mod tests;
