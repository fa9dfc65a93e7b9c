//! Where a session stands on its ladder, as a fold over its events, and the one decision what follows an attempt.
//!
//! Invariant: a fold of the log gives what the living task holds, so that a new daemon goes on where the old one stopped.
//!
//! Called by `live` (the fold) and `ladder`.

use crate::model::{AttemptScheduled, AttemptsPlanned, Envelope, Event, Outcome, PlannedTier, RESTART, Restart, Verdict};

/// Longest feedback in bytes that is handed on.
pub const FEEDBACK_MAX: usize = 4096;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ladder {
    pub plan: Option<AttemptsPlanned>,
    /// The tier of the newest attempt, and how often that tier was tried by then.
    tier: u32,
    tries: u32,
    /// When the newest attempt began, wall milliseconds.
    pub began_at: Option<i64>,
    /// The attempt that is to come.
    pub next: Option<AttemptScheduled>,
    /// Its one restart is decided on.
    restarted: bool,
}

impl Ladder {
    /// Folds one event of the log, oldest first. True when an attempt of the plan begins anew, with another conversation.
    pub fn replay(&mut self, e: &Envelope) -> bool {
        match &e.event {
            Event::AttemptsPlanned(p) => self.plan = Some(p.clone()),
            Event::AttemptScheduled(n) => self.follows(n),
            Event::AttemptStarted(_) if self.plan.is_some() => return self.begin(e.at),
            _ => {}
        }
        false
    }

    /// A further attempt is decided on.
    pub fn follows(&mut self, next: &AttemptScheduled) {
        self.restarted |= next.why == RESTART;
        self.next = Some(next.clone());
    }

    /// An attempt began.
    pub fn begin(&mut self, at: i64) -> bool {
        self.began_at = Some(at);
        match self.next.take() {
            Some(n) => {
                // why: a loss says nothing against the tier.
                let more = u32::from(n.why != RESTART);
                self.tries = if n.tier == self.tier { self.tries.saturating_add(more) } else { 1 };
                self.tier = n.tier;
                true
            }
            None => {
                self.tries = self.tries.max(1);
                false
            }
        }
    }

    pub fn is_planned(&self) -> bool {
        self.plan.is_some()
    }

    /// The tier that works now, or worked last.
    pub fn tier(&self) -> Option<&PlannedTier> {
        self.plan.as_ref()?.tiers.get(self.tier as usize)
    }

    /// The host's name of the agent that works now.
    pub fn agent<'a>(&'a self, of_session: &'a str) -> &'a str {
        self.tier().map_or(of_session, |t| t.agent.as_str())
    }

    /// What follows attempt `number`, which ended with `outcome` by itself; nothing where that is all. `spread` spreads the waiting.
    pub fn after(
        &self,
        number: u32,
        outcome: Outcome,
        verdict: Option<&Verdict>,
        why: &str,
        now: i64,
        spread: u64,
    ) -> Option<AttemptScheduled> {
        let plan = self.plan.as_ref()?;
        if outcome == Outcome::Lost || !plan.tells_what_follows() {
            return self.restart(plan, number, outcome, verdict, why, now);
        }
        let feedback = match (verdict, outcome) {
            (Some(Verdict::Error(_)), _) => return None,
            (Some(Verdict::Escalate(text)), Outcome::Succeeded | Outcome::Exited | Outcome::Failed | Outcome::MissingReport) => {
                Some(text.as_str())
            }
            (_, Outcome::Failed | Outcome::TimedOut | Outcome::MissingReport) => None,
            _ => return None,
        };
        let has_tries = plan.tiers.get(self.tier as usize).is_some_and(|t| self.tries < t.attempts);
        let has_next = plan.tiers.len() > self.tier as usize + 1;
        // why: more of the same is for what failed; what was judged wants another one, where there is one.
        let climbs = has_next && (feedback.is_some() || !has_tries);
        if !climbs && !has_tries {
            return None;
        }
        let wait = if climbs { 0 } else { self.backoff(plan, spread) };
        let handed = feedback.or(climbs.then_some(why)).filter(|t| !t.trim().is_empty());
        Some(AttemptScheduled {
            attempt: number.saturating_add(1),
            tier: self.tier + u32::from(climbs),
            not_before: now.saturating_add(i64::try_from(wait).unwrap_or(i64::MAX)),
            why: if climbs { "escalate" } else { "retry" }.to_owned(),
            feedback: handed.map(|t| super::super::live::cut(t, FEEDBACK_MAX)),
        })
    }

    /// The one restart, where the session has it still and this end is one for it.
    fn restart(
        &self,
        plan: &AttemptsPlanned,
        number: u32,
        outcome: Outcome,
        verdict: Option<&Verdict>,
        why: &str,
        now: i64,
    ) -> Option<AttemptScheduled> {
        let failed = matches!(outcome, Outcome::Lost | Outcome::Failed | Outcome::TimedOut | Outcome::MissingReport);
        let ended = matches!(outcome, Outcome::Succeeded | Outcome::Exited);
        let wanted = match plan.restart {
            Restart::No => false,
            Restart::OnFailure => failed,
            Restart::Always => failed || ended,
        };
        // why not in error: nobody could tell whether the work is good, and more of it would not say either.
        if !wanted || self.restarted || (outcome != Outcome::Lost && matches!(verdict, Some(Verdict::Error(_)))) {
            return None;
        }
        Some(AttemptScheduled {
            attempt: number.saturating_add(1),
            tier: self.tier,
            not_before: now.saturating_add(i64::try_from(plan.backoff_ms).unwrap_or(i64::MAX)),
            why: RESTART.to_owned(),
            feedback: Some(super::super::live::cut(why, FEEDBACK_MAX)).filter(|t| !t.trim().is_empty()),
        })
    }

    /// Whether a lost agent would be started once more.
    pub fn restarts_lost(&self) -> bool {
        !self.restarted && self.plan.as_ref().is_some_and(|p| !p.restart.is_no())
    }

    /// Doubled for each try of the tier, capped, then between a half and all of it.
    fn backoff(&self, plan: &AttemptsPlanned, spread: u64) -> u64 {
        let doubled = plan.backoff_ms.saturating_mul(1u64.checked_shl(self.tries.saturating_sub(1)).unwrap_or(u64::MAX));
        let whole = doubled.min(plan.backoff_max_ms);
        whole - spread % (whole / 2 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ladder(attempts: &[u32]) -> Ladder {
        let tier = |n: &u32| PlannedTier { name: "t".into(), agent: "generic".into(), attempts: *n, ..PlannedTier::default() };
        let tiers = attempts.iter().map(tier).collect();
        let plan = AttemptsPlanned { tiers, backoff_ms: 100, backoff_max_ms: 350, ..AttemptsPlanned::default() };
        let mut l = Ladder { plan: Some(plan), ..Ladder::default() };
        l.begin(0);
        l
    }

    #[test]
    fn failures_are_tried_again_and_then_climb_and_judgements_climb_at_once() {
        let mut l = ladder(&[2, 1]);
        let n = l.after(1, Outcome::Failed, None, "exit 1", 1_000, 0).unwrap();
        assert_eq!((n.attempt, n.tier, n.not_before, n.why.as_str(), n.feedback), (2, 0, 1_100, "retry", None));
        let up = l.after(1, Outcome::Exited, Some(&Verdict::Escalate("more".into())), "", 1_000, 0).unwrap();
        assert_eq!((up.tier, up.not_before, up.why.as_str(), up.feedback.as_deref()), (1, 1_000, "escalate", Some("more")));
        l.next = Some(l.after(1, Outcome::Failed, None, "exit 1", 1_000, 0).unwrap());
        assert!(l.begin(1_100));
        let up = l.after(2, Outcome::TimedOut, None, "too slow", 2_000, 0).unwrap();
        assert_eq!((up.attempt, up.tier, up.feedback.as_deref()), (3, 1, Some("too slow")));
        l.next = Some(up);
        l.begin(2_000);
        assert_eq!(l.after(3, Outcome::Failed, None, "", 0, 0), None);
        assert_eq!(l.after(3, Outcome::Exited, Some(&Verdict::Escalate("more".into())), "", 0, 0), None);
    }

    #[test]
    fn what_was_ended_or_accepted_or_in_error_is_not_tried_again() {
        let l = ladder(&[5, 5]);
        for outcome in
            [Outcome::Stopped, Outcome::Killed, Outcome::Budget, Outcome::Breach, Outcome::Lost, Outcome::Succeeded, Outcome::Exited]
        {
            assert_eq!(l.after(1, outcome, None, "", 0, 0), None, "{outcome:?}");
        }
        for outcome in Outcome::ALL {
            assert_eq!(l.after(1, outcome, Some(&Verdict::Error("x".into())), "", 0, 0), None);
        }
        for outcome in [Outcome::Stopped, Outcome::Killed, Outcome::Budget, Outcome::Breach, Outcome::Lost] {
            assert_eq!(l.after(1, outcome, Some(&Verdict::Escalate("x".into())), "", 0, 0), None);
        }
    }

    #[test]
    fn what_is_lost_or_fails_or_ends_is_restarted_once_as_it_was_asked_for() {
        use Outcome::{Breach, Budget, Exited, Failed, Killed, Lost, MissingReport, Stopped, Succeeded, TimedOut};
        let table = [(Lost, true, true), (Failed, true, true), (TimedOut, true, true), (MissingReport, true, true)].into_iter();
        let table = table.chain([(Succeeded, false, true), (Exited, false, true)]);
        let table: Vec<_> = table.chain([Stopped, Killed, Budget, Breach].map(|o| (o, false, false))).collect();
        assert_eq!(table.len(), Outcome::ALL.len());
        for (outcome, on_failure, always) in table {
            for (restart, is) in [(Restart::No, false), (Restart::OnFailure, on_failure), (Restart::Always, always)] {
                let mut l = ladder(&[1]);
                l.plan.as_mut().unwrap().restart = restart;
                let next = l.after(1, outcome, None, "why", 1_000, 0);
                assert_eq!(next.is_some(), is, "{outcome:?} {restart:?}");
                let Some(next) = next else { continue };
                let (why, told) = (next.why.as_str(), next.feedback.as_deref());
                assert_eq!((next.attempt, next.tier, next.not_before, why, told), (2, 0, 1_100, RESTART, Some("why")));
                l.follows(&next);
                assert!(!l.restarts_lost(), "decided on is enough");
                l.begin(1_100);
                assert_eq!(l.after(2, outcome, None, "why", 2_000, 0), None, "once");
            }
        }
    }

    #[test]
    fn beside_a_plan_only_a_loss_is_restarted_and_takes_no_try() {
        let mut l = ladder(&[2]);
        l.plan.as_mut().unwrap().restart = Restart::Always;
        assert_eq!(l.after(1, Outcome::Exited, None, "", 0, 0), None, "its tiers say what follows an end");
        let next = l.after(1, Outcome::Lost, None, "gone", 0, 0).unwrap();
        l.follows(&next);
        l.begin(0);
        let retry = l.after(2, Outcome::Failed, None, "", 0, 0).unwrap();
        assert_eq!((retry.attempt, retry.why.as_str()), (3, "retry"));
        l.follows(&retry);
        l.begin(0);
        assert_eq!(l.after(3, Outcome::Failed, None, "", 0, 0), None);
        assert_eq!(l.after(3, Outcome::Lost, None, "", 0, 0), None);
    }

    proptest! {
        #[test]
        fn every_ladder_ends_within_its_attempts(tiers in proptest::collection::vec(1u32..5, 1..5), ends in proptest::collection::vec((any::<bool>(), any::<u64>()), 40)) {
            let mut l = ladder(&tiers);
            let mut attempts = 1;
            for (fails, spread) in ends {
                let verdict = Verdict::Escalate("x".into());
                let (outcome, verdict) = if fails { (Outcome::Failed, None) } else { (Outcome::Exited, Some(&verdict)) };
                let Some(n) = l.after(attempts, outcome, verdict, "w", 0, spread) else { break };
                prop_assert!(n.not_before <= 350, "the cap holds");
                prop_assert!(n.why == "escalate" || n.not_before >= 50, "half of the first at least");
                prop_assert!(n.tier as usize >= l.tier as usize);
                attempts = n.attempt;
                l.next = Some(n);
                l.begin(0);
            }
            prop_assert!(attempts <= tiers.iter().sum());
            prop_assert_eq!(l.after(attempts, Outcome::Failed, None, "w", 0, 0).is_none() || attempts < tiers.iter().sum(), true);
        }
    }
}
