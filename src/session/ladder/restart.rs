//! The one restart that `run --restart` asks for: an agent that was lost, or ended, is started again as a new attempt of its session.
//!
//! | the agent | what it is started with |
//! | --- | --- |
//! | keeps a record of its conversation that is there | its own resume, from a copy of that record cut behind the last whole call, and a prompt that says what happened |
//! | speaks, and there is no record | the same prompt, with a text made from the log beside it where it takes one, else its first prompt with that remark |
//! | a plain command | what the first attempt was started with, and `BEADLE_RESTART` with the reason |
//!
//! Invariants:
//! - the restart is on record (`attempt_scheduled`, with the reason) before anything is started, and a session that has one on record gets
//!   no other, whatever daemon reads it;
//! - lost is only who left no exit status and whose shim's lock nobody holds; what was left of its processes is ended first. A shim that is
//!   silent is waited for;
//! - a session that an operator, a breach or a limit ends is not restarted, also where it was lost on its way out. One that is paused waits
//!   with its restart until it is resumed.
//!
//! Called by `run` (a loss) and `again` (what the new attempt is given); a start that is on record and whose agent was not begun stays lost.

use super::kept::Kept;
use super::{Climb, clear};
use crate::agent::Driver;
use crate::model::{Actor, AttemptEnded, AttemptScheduled, By, Event, Excerpt, Note, Outcome, PromptContext, TranscriptNamed};
use crate::session::park::stage::Stage;
use crate::session::run::Runner;
use crate::session::{Inner, Manager, failpoint, finish, live};

/// Events among which the prompt is looked for that the agent had not answered.
const LOOK_BACK: usize = 1_000;
/// How much earlier than the machine's start an attempt must have begun to be of an earlier one.
const SLACK_MS: i64 = 2_000;

/// What the agent is given that is started again.
#[derive(Default)]
pub(super) struct Given {
    pub prompt: Option<String>,
    pub context: Vec<PromptContext>,
    /// The record that it goes on from.
    pub record: Option<TranscriptNamed>,
    pub notes: Vec<Event>,
}

impl Runner {
    /// The agent is lost: true when it is started once more, which is on record then.
    pub(in crate::session) async fn restarts(&mut self, why: &str) -> bool {
        // why not without an attempt: nobody knows whether its agent was begun, and it was told nothing.
        if !self.live.ladder.restarts_lost() || !self.ends_by_itself() || self.is_usurped || self.session.attempt == 0 {
            return false;
        }
        let why = self.lost_with(why);
        self.hear_out().await;
        if self.breached_late {
            self.commit().await;
            failpoint::hit("heard_out");
        }
        if self.is_breached_late() {
            return false;
        }
        self.over_limit();
        let (number, now) = (self.session.attempt, self.inner.clock.wall_ms());
        let next = self.live.ladder.after(number, Outcome::Lost, None, &why, now, 0).filter(|_| self.ends_by_itself());
        let Some(next) = next else { return false };
        self.consult_last().await;
        self.resolve_all(By::Withdrawn, "the agent was lost before the answer", false);
        if !self.ends_by_itself() {
            return false;
        }
        let ended = AttemptEnded { success: Some(false), error: Some(why.clone()), ..finish::unseen(Outcome::Lost, why) };
        failpoint::hit("restarting");
        self.schedule(ended, next).await;
        true
    }

    /// Puts on record what follows an attempt, and lets go of what there was of it.
    pub(super) async fn schedule(&mut self, ended: AttemptEnded, next: AttemptScheduled) {
        let number = self.session.attempt;
        self.live.ladder.follows(&next);
        self.pending.events.extend([ended.into(), next.into()]);
        self.commit().await;
        failpoint::hit("scheduled");
        clear(&self.inner.run_dir(&self.id, number));
        // why ignore: without it the shim goes by itself after its linger.
        let _ = self.shim.ack_exit().await;
        self.without_agent(Stage::Waiting, true);
        self.climb = Climb::default();
        self.finishing = false;
    }

    /// The reason, and whether the machine was started anew.
    fn lost_with(&self, why: &str) -> String {
        match is_of_earlier_boot(&self.inner, self.live.ladder.began_at) {
            true => format!("the machine was started anew since the attempt began: {why}"),
            false => why.to_owned(),
        }
    }

    /// What the agent is given; `conversation` is the id of the one that it goes on with.
    pub(super) async fn given(&self, driver: &dyn Driver, next: &AttemptScheduled, kept: &Kept, conversation: &str) -> Given {
        let reason = next.feedback.as_deref().unwrap_or("its end");
        if !driver.speaks() {
            return Given { prompt: kept.prompt.clone(), ..Given::default() };
        }
        // why: one that is kept for prompts and had answered all of them waits for the next.
        if self.session.keep_open && self.live.prompts <= self.live.turns && self.live.turn_failed != Some(true) {
            let (record, notes, _) = self.conversation(driver, conversation).await;
            // why no context: there is no prompt that it could be given beside.
            return Given { prompt: None, context: vec![], record, notes };
        }
        let asked = self.asked(kept);
        let (record, notes, context) = self.conversation(driver, conversation).await;
        let prompt = if record.is_some() || !context.is_empty() {
            goes_on(reason, asked.as_deref().unwrap_or_default())
        } else {
            begins(reason, asked.as_deref().unwrap_or_default())
        };
        Given { prompt: Some(prompt), context, record, notes }
    }

    /// The agent's own record, cut and under its new id; else what the log tells of it.
    async fn conversation(&self, driver: &dyn Driver, new: &str) -> (Option<TranscriptNamed>, Vec<Event>, Vec<PromptContext>) {
        let manager = Manager { inner: self.inner.clone() };
        let past = match manager.past(&self.session, self.session.last_seq) {
            Ok(past) => past,
            Err(e) => return (None, vec![note(&format!("the log could not be read for the restart: {e}"))], vec![]),
        };
        let made = match past.made(new, &self.session.cwd, driver) {
            Some(made) => Ok((made, None)),
            None => manager.record_of(driver, &self.session, &past, true, new).await.map(|(named, cut)| (named, cut.left_out)),
        };
        match made {
            Ok((named, left_out)) => {
                let left_out = left_out.map(|l| format!("; left out: {l}")).unwrap_or_default();
                (Some(named), vec![note(&format!("the agent goes on with its conversation as {new}{left_out}"))], vec![])
            }
            Err(why) if driver.takes_context() => {
                let text = format!(
                    "the agent's own record cannot be gone on with ({why}); it is given a text made from events 1 to {}",
                    self.session.last_seq
                );
                let context = PromptContext { policy: format!("beadle restart of {}", self.id), text: past.told() };
                (None, vec![note(&text)], vec![context])
            }
            Err(why) => (None, vec![note(&format!("the agent begins anew: {why}"))], vec![]),
        }
    }

    /// The prompt that the agent was at work on.
    fn asked(&self, kept: &Kept) -> Option<String> {
        let of_people = |p: &crate::model::PromptSubmitted| p.by != Actor::host();
        let tail = self.inner.store.tail(&self.id, LOOK_BACK).unwrap_or_default();
        let newest: Option<Excerpt> = tail.into_iter().rev().find_map(|e| match e.envelope.event {
            Event::PromptSubmitted(p) if of_people(&p) => Some(p.prompt),
            _ => None,
        });
        // why the kept one: it is whole, where the log has its beginning.
        let is_first = |e: &Excerpt| self.session.prompt.as_ref().is_some_and(|p| p.bytes == e.bytes && e.text.starts_with(&p.text));
        match newest {
            Some(e) if !is_first(&e) => Some(self.whole(e)),
            _ => kept.prompt.clone(),
        }
    }

    /// A text that the log has the beginning of.
    fn whole(&self, e: Excerpt) -> String {
        let stored = e.blob.as_ref().and_then(|b| b.parse().ok()).and_then(|hash| self.inner.store.blob(&hash).ok());
        match stored {
            Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            None if e.blob.is_some() => format!("{}\n(the rest of it is not kept any more)", e.text),
            None => e.text,
        }
    }
}

fn note(text: &str) -> Event {
    Note { text: live::cut(text, 1024) }.into()
}

/// Whether the machine was started after this moment.
fn is_of_earlier_boot(inner: &Inner, began: Option<i64>) -> bool {
    let up = i64::try_from(inner.clock.boot_ms()).unwrap_or(i64::MAX);
    began.is_some_and(|began| began.saturating_add(SLACK_MS) < inner.clock.wall_ms().saturating_sub(up))
}

fn goes_on(reason: &str, asked: &str) -> String {
    format!(
        "You were ended in the middle of your work and are started again, with what was said so far. The reason: {reason}\nA call that ran at \
         that moment may be done, or half done: look before you repeat it. Go on with what you were asked last:\n\n{asked}"
    )
}

fn begins(reason: &str, asked: &str) -> String {
    format!("{asked}\n\nThis was begun before, and ended: {reason}\nWhat was done then may be there, whole or in part: look first.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_and_what_was_asked_stand_in_the_prompt_in_the_open() {
        let text = goes_on("the shim was killed", "make it green");
        assert!(text.contains("The reason: the shim was killed\n") && text.ends_with("\n\nmake it green"));
        let text = begins("it ended as failed", "make it green");
        assert!(text.starts_with("make it green\n\n") && text.contains("ended: it ended as failed\n"));
    }
}
