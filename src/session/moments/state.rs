//! What the moments of a session must remember; folded again from its log by a new daemon.

use std::sync::Arc;

use crate::config::Config;
use crate::model::moment::Tightened;
use crate::model::{Envelope, Event, Moment, Refusal, Verdict};
use crate::session::live::{Recent, cut};

/// Longest line kept of what was removed from a result, in bytes.
const LINE_MAX: usize = 200;

/// See the module.
#[derive(Debug, Default)]
pub struct Moments {
    /// The agent was told to show results to the host first.
    pub results: bool,
    /// Who refused the session; one that the host started has then no agent.
    pub refused: Option<Refusal>,
    tightened: Vec<Tightened>,
    /// The threshold of compaction that its starter set, in percent.
    pub compact_at: Option<u64>,
    /// Results that were judged and not yet reported, by the agent's id of the call.
    judged: Recent<Judged>,
    /// Rounds of feedback on the attempt.
    pub round: u32,
    /// The attempt has its verdict, and nothing was asked of the agent since.
    pub verified: bool,
    pub verdict: Option<Verdict>,
    /// The agent's newest words.
    pub last_words: String,
}

/// A judged result that the agent has yet to report.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// What must not show in the report.
    pub removed: Vec<String>,
    /// What the log holds in place of the report.
    pub instead: Option<String>,
}

impl Moments {
    /// Rebuilds from one event of the log, oldest first.
    pub fn replay(&mut self, e: &Envelope) {
        match &e.event {
            Event::PluginLoaded(p) => self.results |= p.moments.contains(&Moment::JudgeResult),
            Event::SessionJudged(j) => {
                self.tightened.extend(j.tightened.iter().cloned());
                self.refused.clone_from(&j.refused);
            }
            Event::CompactionSet(c) => self.compact_at = Some(c.threshold_percent),
            Event::ResultJudged(r) => self.judged(&r.call_id, vec![], None),
            Event::ToolEnded(t) => {
                if let Some(id) = &t.call_id {
                    self.reported(id);
                }
            }
            Event::PromptSubmitted(_) => self.verified = false,
            Event::AttemptVerified(v) => {
                self.round = v.round + u32::from(v.given);
                self.verified = !v.given;
                self.verdict = Some(v.verdict.clone());
            }
            Event::AgentReplied(r) if r.parent_call_id.is_none() => r.text.clone_into(&mut self.last_words),
            Event::TurnEnded(t) => {
                if let Some(r) = t.result.as_ref().filter(|r| !r.is_empty()) {
                    r.clone_into(&mut self.last_words);
                }
            }
            _ => {}
        }
    }

    /// Another agent begins with the work: the verdict on the one before is not about it.
    pub fn new_try(&mut self) {
        (self.round, self.verified, self.verdict) = (0, false, None);
        self.last_words.clear();
    }

    /// A result was judged. What an earlier daemon removed is not known again: then a report is not compared with it.
    pub(super) fn judged(&mut self, call_id: &str, removed: Vec<String>, instead: Option<String>) {
        let removed = removed.into_iter().map(|l| cut(&l, LINE_MAX).trim_end_matches('…').to_owned()).collect();
        *self.judged.entry_or(call_id, Judged::default) = Judged { removed, instead };
    }

    /// The agent reports a result; `None` when it was not judged.
    pub(super) fn reported(&mut self, call_id: &str) -> Option<Judged> {
        self.judged.remove(call_id)
    }

    /// The configuration with what this session was given: its threshold of compaction, and what is tighter.
    pub fn applied(&self, config: Arc<Config>) -> Arc<Config> {
        if self.tightened.is_empty() && self.compact_at.is_none() {
            return config;
        }
        let mut c = (*config).clone();
        c.compaction.threshold_percent = self.compact_at.unwrap_or(c.compaction.threshold_percent);
        for t in &self.tightened {
            // why ignore: the folder's own configuration may be tighter by now.
            let _ = c.tighten(t);
        }
        Arc::new(c)
    }
}
