//! What is done where a compaction fails: another strategy plans, the next try waits, the agent goes back to its old conversation.
//!
//! Invariants:
//! - every compaction that fails at the threshold, or after the agent was ended for it, is an event with a stable code;
//! - at the threshold a fallback strategy plans at most once a try; tries that come to nothing are further and further apart;
//! - an agent that ends before it said anything, started from a shorter record, is started anew from the old one: once, and with the
//!   prompts that it was given.
//!
//! Called by `compact`, `park` (the agent's end, its return) and `run` (what it says).

use super::{CompactRequest, Compaction, PROMPTS, wanted, whole};
use crate::agent::Output;
use crate::model::{Actor, CompactionFailed, Event, Outcome, SessionPaused, TranscriptNamed};
use crate::process::ExitRecord;
use crate::session::run::Runner;
use crate::session::witness::Witnesses;
use crate::session::{Error, failpoint, finish, live};

/// A context that is still over the threshold after a try must have grown by this share of the window before the next.
const AGAIN_AFTER: u64 = 20;
/// That growth doubles with each try that comes to nothing, so often at most.
const DOUBLINGS: u32 = 2;
/// Events looked at for prompts that an agent was given and did not take.
const LOOK_BACK: usize = 256;

impl Compaction {
    /// Whether a context of this size is to be tried; below the threshold nothing is remembered.
    pub(super) fn may_try(&mut self, used: u64, is_over: bool) -> bool {
        if !is_over {
            (self.again_at, self.failures) = (0, 0);
        }
        is_over && used >= self.again_at
    }

    /// A try begins: the next one only when the context has grown.
    pub(super) fn tries(&mut self, used: u64, window: u64) {
        let growth = (window / AGAIN_AFTER) << self.failures.min(DOUBLINGS);
        self.again_at = used.saturating_add(growth.max(1));
    }

    /// It came to nothing: the next one is further away. Gives from which size on.
    pub(super) fn came_to_nothing(&mut self, used: u64, window: u64) -> u64 {
        self.failures = self.failures.saturating_add(1);
        self.tries(used, window);
        self.again_at
    }

    /// Keeps a prompt for the case that the agent does not take the shorter record.
    pub(in crate::session) fn given(&mut self, frame: &[u8]) {
        if self.given.len() < PROMPTS {
            self.given.push(frame.to_vec());
        }
    }
}

impl Runner {
    /// The context is over its threshold: plans, by the fallback where the strategy fails, and begins; or says why not.
    pub(super) async fn compact_over(&mut self, used: u64, window: u64) {
        self.compaction.tries(used, window);
        self.record_follows().await;
        let first = wanted(CompactRequest::default(), &self.inner, &self.config);
        let strategy = first.strategy.clone().unwrap_or_default();
        let error = match self.plan_that_saves(&first).await {
            Ok(p) => return self.begin(&p, first, "auto", Actor::host()).await,
            Err(e) => e,
        };
        let other = self.config.compaction.fallback.clone();
        // why not where nothing is saved: the strategy works, and what it keeps is what the operator chose to keep.
        let falls_back = !matches!(error, Error::NothingSaved { .. }) && !other.is_empty() && other != strategy;
        if !falls_back {
            let again_at = Some(self.compaction.came_to_nothing(used, window));
            return self.not_compacted(CompactionFailed { again_at, ..failed("auto", &strategy, "plan", &error) }).await;
        }
        self.not_compacted(CompactionFailed { fallback: Some(other.clone()), ..failed("auto", &strategy, "plan", &error) }).await;
        let second = wanted(CompactRequest { strategy: Some(other.clone()), ..CompactRequest::default() }, &self.inner, &self.config);
        match self.plan_that_saves(&second).await {
            Ok(p) => self.begin(&p, second, "auto", Actor::host()).await,
            Err(e) => {
                let again_at = Some(self.compaction.came_to_nothing(used, window));
                self.not_compacted(CompactionFailed { again_at, ..failed("auto", &other, "plan", &e) }).await;
            }
        }
    }

    async fn not_compacted(&mut self, event: CompactionFailed) {
        self.pending.events.push(event.into());
        self.commit().await;
    }

    /// What the agent said, but for an error that may be its last word, started from a shorter record.
    pub(in crate::session) fn heard(&mut self, outs: Vec<Output>) -> Vec<Output> {
        let outs = self.let_refusal_go(outs);
        outs.into_iter().filter(|o| !self.holds_refusal(o)).collect()
    }

    /// What came of it stands in the agent's own error, where it ends at once: held back until it is known whether it does. True when this
    /// output is held.
    fn holds_refusal(&mut self, out: &Output) -> bool {
        let refuses = matches!(out, Output::TurnEnded(t) if t.is_error);
        let holds = refuses && self.live.parking.unproven.is_some() && self.compaction.refusal.is_none();
        if holds {
            self.compaction.refusal = Some(out.clone());
        }
        holds
    }

    /// The agent goes on, so what was held back of its output was meant: it comes first.
    fn let_refusal_go(&mut self, outs: Vec<Output>) -> Vec<Output> {
        // why messages to the host's own tools, too: it greets their server whether it took the record or not; a call of one was asked first.
        if outs.iter().all(|o| matches!(o, Output::Quiet | Output::Mcp { .. })) {
            return outs;
        }
        let Some(held) = self.compaction.refusal.take() else { return outs };
        self.live.parking.unproven = None;
        std::iter::once(held).chain(outs).collect()
    }

    /// The agent has ended: true when that was before it said anything, started from a shorter record. It is started anew from the old one.
    pub(in crate::session) async fn refused_record(&mut self, record: &ExitRecord) -> bool {
        if self.live.parking.unproven.is_none() {
            return false;
        }
        // why: its last words may show that it took the record.
        self.drain().await;
        let Some(left) = self.live.parking.unproven.clone() else { return false };
        if self.ending.is_some() || self.is_usurped || self.input_closed {
            return false;
        }
        let root = self.live.parking.root.clone();
        let old = tokio::task::block_in_place(|| whole::read(&root, &left.from, &self.session.cwd));
        let old = match old {
            Ok(old) => old,
            Err(why) => {
                self.why = Some(format!("the agent did not take the compacted conversation, and its old one cannot be read: {why}"));
                return false;
            }
        };
        let end = match (record.code, record.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no status".to_owned(),
        };
        let said = match self.compaction.refusal.take() {
            Some(Output::TurnEnded(t)) => t.subtype.map(|s| format!(", after the error {:?}", live::cut(&s, 80))).unwrap_or_default(),
            _ => String::new(),
        };
        let reason = format!("the agent ended before it took the shorter conversation ({end}{said}); it is started anew from the old one");
        failpoint::hit("compaction_refused");
        self.compaction.failures = self.compaction.failures.saturating_add(1);
        let error = Error::NotTaken { session: self.id.clone(), why: format!("it ended before it said anything ({end}{said})") };
        let back_to = Some(left.from.clone());
        let event = CompactionFailed { back_to, ..failed(&left.trigger, &left.strategy, "resume", &error) };
        let named = TranscriptNamed { root, conversation: left.from, written: old.bytes.len() as u64 };
        self.pending.events.push(finish::attempt_ended(Outcome::Failed, record, Some(reason.clone())).into());
        self.pending.events.extend([Event::from(event), Event::from(named.clone())]);
        self.pending.events.push(SessionPaused { reason, ..SessionPaused::default() }.into());
        self.commit().await;
        self.live.parking.unproven = None;
        self.live.parking.named(&named);
        self.witnesses = Witnesses::new(Some(&named), &self.session);
        // why ignore: without it the shim goes by itself after its linger.
        let _ = self.shim.ack_exit().await;
        self.put_away(None);
        true
    }

    /// Frames of the prompts that an agent was given which did not take its record: the next one gets them.
    pub(in crate::session) fn prompts_again(&self) -> Vec<Vec<u8>> {
        if self.live.prompts <= self.live.turns {
            return vec![];
        }
        if !self.compaction.given.is_empty() {
            return self.compaction.given.clone();
        }
        // why from the log: an earlier daemon gave them. Context that policies added, and secrets, are not in it.
        let events = self.inner.store.events(&self.id, self.live.parking.began + 1, LOOK_BACK).unwrap_or_default();
        let text = |e: &Event| match e {
            Event::PromptSubmitted(p) if p.prompt.blob.is_none() => self.driver.prompt(&p.prompt.text, &[]),
            _ => None,
        };
        events.iter().filter_map(|e| text(&e.envelope.event)).take(PROMPTS).collect()
    }
}

/// The event of a strategy that failed, or of a plan that is not done.
pub(super) fn failed(trigger: &str, strategy: &str, stage: &str, error: &Error) -> CompactionFailed {
    CompactionFailed {
        trigger: trigger.to_owned(),
        strategy: strategy.to_owned(),
        stage: stage.to_owned(),
        code: error.code().to_owned(),
        reason: live::cut(&error.to_string(), 2048),
        ..CompactionFailed::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_that_come_to_nothing_are_further_and_further_apart() {
        let mut c = Compaction::default();
        assert!(!c.may_try(79, false) && c.may_try(80, true));
        c.tries(80, 100);
        assert!(!c.may_try(84, true) && c.may_try(85, true), "a try alone: a twentieth of the window");
        let mut at = 80;
        for growth in [10, 20, 20] {
            assert!(c.may_try(at.max(85), true));
            let again = c.came_to_nothing(at, 100);
            assert_eq!(again - at, growth);
            assert!(!c.may_try(again - 1, true));
            at = again;
        }
        assert!(!c.may_try(10, false) && c.may_try(80, true), "below the threshold it is forgotten");
    }
}
