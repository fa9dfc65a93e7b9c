//! A conversation as a text, made from the log: for agents that keep no record, or whose record is gone.
//!
//! It is data to the agent, told apart from its user's words, and says what it is. Secrets were masked when they were logged; long texts stand
//! there as the log has them, shortened. At most [`MAX`] bytes: the oldest parts go first, and the text says so. Called by `branch`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::model::{Effect, Envelope, Event};
use crate::session::live::cut;

/// Longest text in bytes: what one prompt's context may have.
const MAX: usize = 60 << 10;
/// Longest part in bytes.
const PART: usize = 4 << 10;
/// Calls whose tool is remembered until they end.
const CALLS: usize = 10_000;

/// The parts so far; the oldest are forgotten past [`MAX`].
#[derive(Debug, Default)]
pub struct Replay {
    parts: VecDeque<String>,
    bytes: usize,
    forgotten: u64,
    /// By seq of the request.
    calls: BTreeMap<u64, String>,
    sub_agents: BTreeSet<String>,
}

impl Replay {
    pub fn fold(&mut self, e: &Envelope) {
        match &e.event {
            Event::PromptSubmitted(p) => self.add(format!("USER: {}", p.prompt.text)),
            Event::AgentReplied(r) if r.parent_call_id.is_none() => self.add(format!("AGENT: {}", r.text)),
            Event::ToolRequested(r) if r.call.parent_call_id.is_some() => {
                if let Some(id) = r.call.call_id.clone().filter(|_| self.sub_agents.len() < CALLS) {
                    self.sub_agents.insert(id);
                }
            }
            Event::ToolRequested(r) if self.calls.len() < CALLS => {
                self.calls.insert(e.seq, format!("{} {}", r.call.tool, r.call.input));
            }
            Event::ToolDecided(d) if d.effect == Effect::Deny => {
                if let Some(call) = self.calls.remove(&d.call) {
                    self.add(format!("CALL: {}\nDENIED: {}", cut(&call, PART / 2), cut(&d.reason, PART / 2)));
                }
            }
            Event::ToolEnded(t) => {
                if let Some(call) = t.call.and_then(|c| self.calls.remove(&c)) {
                    let word = if t.is_error { "FAILED" } else { "RESULT" };
                    self.add(format!("CALL: {}\n{word}: {}", cut(&call, PART / 2), cut(&t.output.text, PART / 2)));
                }
            }
            Event::ContextCompacted(_) => self.add("(the conversation was made shorter here)".to_owned()),
            _ => {}
        }
    }

    pub fn is_of_sub_agent(&self, call_id: &str) -> bool {
        self.sub_agents.contains(call_id)
    }

    fn add(&mut self, part: String) {
        let part = cut(&part, PART);
        self.bytes += part.len() + 2;
        self.parts.push_back(part);
        while self.bytes > MAX {
            let Some(gone) = self.parts.pop_front() else { break };
            self.bytes -= gone.len() + 2;
            self.forgotten += 1;
        }
    }

    pub fn text(&self) -> String {
        let mut out = "This is the record of an earlier conversation that you go on with. It is not a new instruction; texts in it may be shortened.\n\n"
            .to_owned();
        if self.forgotten > 0 {
            out.push_str(&format!("({} older parts are left out)\n\n", self.forgotten));
        }
        for p in &self.parts {
            out.push_str(p);
            out.push_str("\n\n");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AgentReplied, Excerpt, PromptSubmitted, SessionId};

    fn at(seq: u64, event: Event) -> Envelope {
        let session: SessionId = "s-mwpus4jk-aaaaa".parse().expect("an id");
        Envelope { session, seq, at: 1, attempt: 1, event }
    }

    #[test]
    fn the_newest_parts_stay_and_what_is_gone_is_said() {
        let mut r = Replay::default();
        let prompt = Excerpt { text: "the very first".into(), bytes: 14, blob: None };
        r.fold(&at(1, PromptSubmitted { prompt, by: crate::model::Actor::default() }.into()));
        assert!(r.text().contains("USER: the very first") && !r.text().contains("left out"));
        for n in 0..100 {
            let text = format!("reply {n} {}", "x".repeat(3_000));
            r.fold(&at(2 + n, AgentReplied { text, message_id: None, parent_call_id: None }.into()));
        }
        let text = r.text();
        assert!(text.len() <= (64 << 10) && text.contains("reply 99 ") && !text.contains("the very first"), "{}", text.len());
        assert!(text.contains("older parts are left out"));
    }
}
