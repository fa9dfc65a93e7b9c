//! Sub-agents of an agent, as its log shows them: children of the session that have no log of their own.
//!
//! A fold: what they asked for and what they used is found by the call that began them, where the agent tells it. What they used is part
//! of the session's own ledger. Called by `session::tree`.

use std::collections::BTreeMap;

use super::event::{Envelope, Event};
use super::usage::{Nanousd, Usage};

/// Sub-agents that are told apart in one session; what later ones did is in the session's sums only.
pub const SUB_AGENTS_MAX: usize = 1_000;

/// One of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubAgent {
    /// The agent's own id of the call that began it.
    pub call_id: String,
    /// The call in which the sub-agent runs that began this one.
    pub parent_call_id: Option<String>,
    pub agent_type: String,
    pub description: String,
    pub began_at: i64,
    /// When the call that began it ended.
    pub ended_at: Option<i64>,
    pub is_error: bool,
    pub calls: u64,
    pub denied: u64,
    pub usage: Usage,
    pub cost: Option<Nanousd>,
    pub unpriced: u64,
    /// seq of the event that told of it.
    pub seq: u64,
}

/// All of one session, in the order in which they began.
#[derive(Debug, Clone, Default)]
pub struct SubAgents {
    pub all: Vec<SubAgent>,
    at: BTreeMap<String, usize>,
    /// Calls of sub-agents by seq: whose they are.
    calls: BTreeMap<u64, usize>,
    /// In which sub-agent a call was asked for, by the agent's id: where a sub-agent begins another.
    within: BTreeMap<String, String>,
}

impl SubAgents {
    pub fn fold(&mut self, e: &Envelope) {
        match &e.event {
            Event::SubAgentInvoked(s) => {
                let call_id = s.call_id.clone().unwrap_or_else(|| format!("event-{}", e.seq));
                if self.all.len() >= SUB_AGENTS_MAX || self.at.contains_key(&call_id) {
                    return;
                }
                self.at.insert(call_id.clone(), self.all.len());
                let parent_call_id = self.within.get(&call_id).cloned();
                let (agent_type, description) = (s.agent_type.clone(), s.description.clone());
                self.all.push(SubAgent {
                    call_id,
                    parent_call_id,
                    agent_type,
                    description,
                    began_at: e.at,
                    seq: e.seq,
                    ..SubAgent::default()
                });
            }
            Event::ToolRequested(r) => {
                let Some(parent) = &r.call.parent_call_id else { return };
                if let Some(id) = r.call.call_id.as_ref().filter(|_| self.within.len() < SUB_AGENTS_MAX * 16) {
                    self.within.insert(id.clone(), parent.clone());
                    if let Some(i) = self.at.get(id) {
                        self.all[*i].parent_call_id = Some(parent.clone());
                    }
                }
                if let Some(i) = self.at.get(parent) {
                    self.all[*i].calls += 1;
                    self.calls.insert(e.seq, *i);
                }
            }
            Event::ToolDecided(d) => {
                if let Some(i) = self.calls.remove(&d.call)
                    && d.effect == super::Effect::Deny
                {
                    self.all[i].denied += 1;
                }
            }
            Event::ToolEnded(t) => {
                if let Some(i) = t.call_id.as_ref().and_then(|id| self.at.get(id)) {
                    self.all[*i].ended_at = Some(e.at);
                    self.all[*i].is_error = t.is_error;
                }
            }
            Event::ModelResponded(m) => {
                let Some(i) = m.parent_call_id.as_ref().and_then(|id| self.at.get(id)) else { return };
                let s = &mut self.all[*i];
                s.usage = s.usage.plus(m.usage);
                match m.cost {
                    Some(c) => s.cost = Some(s.cost.unwrap_or(0).saturating_add(c)),
                    None => s.unpriced += 1,
                }
            }
            _ => {}
        }
    }
}
