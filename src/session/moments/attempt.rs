//! Attempts: judged when the agent is done, sent back with feedback while rounds are left.

use super::{failed, judge_prompt};
use crate::model::moment::{AttemptSeen, NewPrompt};
use crate::model::{Actor, AttemptVerified, Moment, Outcome, PromptSubmitted, Verdict};
use crate::process::ExitRecord;
use crate::session::plugins::watchdog;
use crate::session::run::Runner;
use crate::session::{live, mask};
use crate::store::Frame;

impl Runner {
    /// The agent's turn is over and nothing more was asked of it: whether it goes on, because a policy gives it feedback.
    pub(in crate::session) async fn goes_on(&mut self) -> bool {
        if self.live.moments.verified
            || self.limits.over.is_some()
            || self.ending.is_some()
            || self.external.is_some()
            || self.live.prompts > self.live.turns
        {
            return false;
        }
        let rounds = u64::from(self.live.moments.round) < self.config.feedback_rounds;
        let listens = !self.input_closed && self.driver.speaks();
        let ran = self.inner.clock.wall_ms().saturating_sub(self.session.started_at.unwrap_or_default());
        let seen = AttemptSeen { duration_ms: u64::try_from(ran).unwrap_or(0), can_continue: rounds && listens, ..self.attempt_seen() };
        let Some(mut verified) = self.verify(&seen).await else { return false };
        let mut context = Vec::new();
        if let Verdict::Escalate(text) = verified.verdict.clone() {
            verified.not_given = if text.is_empty() {
                Some("there is no feedback to give".to_owned())
            } else if !rounds {
                Some(format!("{} rounds are the limit, `attempts.feedback_rounds`", self.config.feedback_rounds))
            } else if !listens {
                Some("the agent takes no further prompts".to_owned())
            } else if let Some(why) = self.over_turns() {
                Some(why)
            } else {
                let prompt = NewPrompt { text, number: self.live.prompts + 1, role: Actor::host().role };
                let (events, ruling) = judge_prompt(&self.inner, &self.chain_now(), self.driver, &self.session, prompt).await;
                self.pending.events.extend(events);
                match ruling {
                    Ok(c) => {
                        context = c;
                        None
                    }
                    Err(r) => Some(format!("policy {} refuses it: {}", r.policy, r.reason)),
                }
            };
            verified.given = verified.not_given.is_none();
        }
        let (given, text) = (verified.given, verified.verdict.text().to_owned());
        self.live.moments.verdict = Some(verified.verdict.clone());
        self.live.moments.verified = !given;
        self.pending.events.push(verified.into());
        if let Some(bytes) = self.driver.prompt(&text, &context).filter(|_| given) {
            self.live.moments.round += 1;
            self.live.prompts += 1;
            let (prompt, blob) = live::excerpt(mask::text(&text).into_owned().into_bytes());
            self.pending.events.push(PromptSubmitted { prompt, by: Actor::host() }.into());
            self.pending.blobs.extend(blob);
            let no = self.live.next_frame();
            self.pending.frames.push(Frame { no, bytes });
        }
        self.commit().await;
        given
    }

    /// The agent has ended by itself: its attempt gets a verdict, if it has none yet.
    pub(in crate::session) async fn verify_end(&mut self, exit: Option<&ExitRecord>) {
        if self.live.moments.verified || self.ending.is_some() {
            return;
        }
        let took = exit.map_or(0, |e| e.ended_boot_ms.saturating_sub(e.started_boot_ms));
        let seen = AttemptSeen {
            exit_code: exit.and_then(|e| e.code),
            signal: exit.and_then(|e| e.signal),
            duration_ms: took,
            ..self.attempt_seen()
        };
        let Some(mut verified) = self.verify(&seen).await else { return };
        if matches!(verified.verdict, Verdict::Escalate(_)) {
            verified.not_given = Some("the agent has ended".to_owned());
        }
        self.live.moments.verdict = Some(verified.verdict.clone());
        self.live.moments.verified = true;
        self.pending.events.push(verified.into());
    }

    /// What an outcome becomes, and why, where the policies did not accept the attempt.
    pub(in crate::session) fn verified_outcome(&self, outcome: Outcome) -> (Outcome, Option<String>) {
        let said = match &self.live.moments.verdict {
            Some(Verdict::Error(text)) => format!("the policies find an error: {text}"),
            Some(Verdict::Escalate(text)) => format!("the policies do not accept the attempt: {text}"),
            Some(Verdict::Accept) | None => return (outcome, None),
        };
        match outcome {
            Outcome::Succeeded | Outcome::Exited | Outcome::Failed => {
                (Outcome::Failed, Some(live::cut(said.trim_end_matches([':', ' ']), 1024)))
            }
            other => (other, None),
        }
    }

    fn attempt_seen(&self) -> AttemptSeen {
        AttemptSeen {
            number: self.session.attempt.max(1),
            round: self.live.moments.round,
            succeeded: self.live.turn_failed.map(|f| !f),
            last_words: self.live.moments.last_words.clone(),
            ..AttemptSeen::default()
        }
    }

    async fn verify(&mut self, seen: &AttemptSeen) -> Option<AttemptVerified> {
        let chain = self.chain_now();
        if !chain.takes_part(Moment::JudgeAttempt) {
            return None;
        }
        let ruling = chain.judge_attempt(&self.session, seen, self.inner.clock.wall_ms()).await;
        watchdog::heard(&self.inner, &ruling.answers);
        self.pending.events.extend(failed(ruling.failures, None));
        let (verdict, answers) = (ruling.verdict, ruling.answers);
        Some(AttemptVerified { verdict, round: seen.round, given: false, not_given: None, answers, verifier: None })
    }
}
