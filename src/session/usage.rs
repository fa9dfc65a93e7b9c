//! What models used, against the agent's own total and against the session's limits.
//!
//! A limit that is passed is on record before anything follows from it. Then no further call is allowed, what waits for a person is
//! denied, a call that runs may end (for `limits.finish_ms`), and the agent is stopped between calls. The outcome is `budget`.
//!
//! Called by `run` and its parts.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::run::{Ending, Runner, told};
use super::{Inner, live};
use crate::agent::Turn;
use crate::config::{Config, UnknownCost};
use crate::model::limits::Used;
use crate::model::{
    Actor, By, Event, Note, PricesAt, Reconciliation, Session, SessionId, SessionStopping, Usage, UsageDisagreed, UsageLimitExceeded,
    UsageLimits, usd,
};

/// Longest text of why two totals differ, in bytes.
const WHY_MAX: usize = 1024;

/// Where a session stands to its limits.
#[derive(Debug, Default)]
pub struct Limits {
    /// The one that it passed.
    pub over: Option<UsageLimitExceeded>,
    /// Until when calls that run then may go on.
    finish_by: Option<Instant>,
    /// It was said that a limit of money cannot be held.
    warned: bool,
    /// The sessions whose limits count this one with others.
    roots: Vec<SessionId>,
}

impl Limits {
    /// As the log has it: an earlier daemon may have found one passed.
    pub(super) fn new(inner: &Inner, session: &Session, config: &Config) -> Self {
        let over = session.exceeded.clone();
        let finish_by = over.as_ref().map(|_| Instant::now() + Duration::from_millis(config.finish_ms));
        Self { over, finish_by, warned: false, roots: inner.budget_roots(session) }
    }
}

/// What may make the agent's own total another than ours, model by model; `recorded` is of the same attempt.
pub(super) fn discrepancies(t: &Turn, recorded: &BTreeMap<String, Usage>, prices: PricesAt<'_>) -> Vec<String> {
    let mut out = Vec::new();
    for (model, theirs) in &t.model_usage {
        let ours = recorded.get(model).copied().unwrap_or_default();
        let model_name = live::cut(model, 80);
        let more = ours.beyond(*theirs).total();
        if more > 0 {
            out.push(format!("{more} tokens of {model_name} are in its messages and not in its totals"));
        }
        match (prices.cost(model, ours), t.model_cost.get(model)) {
            (None, Some(cost)) => out.push(format!("{model_name} has no price here, and the agent takes {}", usd(*cost))),
            (Some(here), Some(there)) if more == 0 => {
                let r = Reconciliation::of(Some(here), 0, *there);
                if !r.agrees {
                    out.push(format!("the same tokens of {model_name} cost {} here and {} there", usd(here), usd(*there)));
                }
            }
            _ => {}
        }
    }
    if t.web_searches > 0 {
        out.push(format!("{} searches of the web are not priced here", t.web_searches));
    }
    out
}

impl Runner {
    /// After a turn: a difference to the agent's own total goes into the log, once for each difference.
    pub(super) fn reconcile(&mut self) {
        let before = self.session.reconciled.as_ref().and_then(|r| r.why.as_ref().map(|_| (r.ours, r.theirs)));
        let Some(r) = self.session_seen().reconciled else { return };
        let reasons = std::mem::take(&mut self.live.discrepancies);
        if r.agrees || before == Some((r.ours, r.theirs)) {
            return;
        }
        let why = if reasons.is_empty() {
            "no model explains it: an attempt that ended before its total, or use that is in no message and in no total by model".to_owned()
        } else {
            reasons.join("; ")
        };
        let why = live::cut(&why, WHY_MAX);
        let (ours, theirs, difference, tolerance) = (r.ours, r.theirs, r.difference, r.tolerance);
        self.pending.events.push(UsageDisagreed { ours, theirs, difference, tolerance, why }.into());
    }

    /// Why no further call is allowed, when a limit is passed. Looks at what is collected and not appended yet, too.
    pub(super) fn over_limit(&mut self) -> Option<String> {
        self.look_at_limits(0)
    }

    /// A further prompt that would be over the limit of turns ends the session as well.
    pub(super) fn over_turns(&mut self) -> Option<String> {
        self.look_at_limits(1)
    }

    fn look_at_limits(&mut self, more_prompts: u64) -> Option<String> {
        if let Some(x) = &self.limits.over {
            return Some(x.reason.clone());
        }
        if self.session.limits.is_none() && self.limits.roots.is_empty() {
            return None;
        }
        let seen = self.session_seen();
        if let Some(x) = seen.exceeded.clone() {
            return Some(self.limit_passed(x));
        }
        let (now, prompts) = (self.session_now(), self.live.earlier_turns + self.live.prompts + more_prompts);
        let own = seen.limits.filter(|l| !l.tree);
        let x = own.and_then(|l| l.exceeded(&seen, prompts, now).or_else(|| self.unknown(l, &Used::of(&seen, prompts), None)));
        let x = x.or_else(|| self.over_tree(&seen, prompts))?;
        self.pending.events.push(x.clone().into());
        Some(self.limit_passed(x))
    }

    /// The first limit of a tree that this session counts in.
    fn over_tree(&mut self, seen: &Session, prompts: u64) -> Option<UsageLimitExceeded> {
        let used = Used::of(seen, prompts);
        for root in self.limits.roots.clone() {
            let Some(s) = self.inner.count_in(&root, &self.id, &used) else { continue };
            if let Some(x) = s.limits.passed(&s.sum, s.now, Some(&root)).or_else(|| self.unknown(s.limits, &s.sum, Some(&root))) {
                self.inner.tell_tree(&root);
                return Some(x);
            }
        }
        None
    }

    fn unknown(&mut self, limits: UsageLimits, used: &Used, tree: Option<&SessionId>) -> Option<UsageLimitExceeded> {
        let x = limits.unknown(used, tree)?;
        if self.config.unknown_cost == UnknownCost::Stop {
            return Some(x);
        }
        if !std::mem::replace(&mut self.limits.warned, true) {
            let text = format!("{}; it goes on, because limits.unknown_cost is \"warn\"", live::cut(&x.reason, WHY_MAX));
            self.pending.events.push(Event::from(Note { text }));
        }
        None
    }

    fn limit_passed(&mut self, x: UsageLimitExceeded) -> String {
        let reason = x.reason.clone();
        self.why.get_or_insert_with(|| reason.clone());
        self.limits.over = Some(x);
        self.limits.finish_by = Some(Instant::now() + Duration::from_millis(self.config.finish_ms));
        reason
    }

    /// Looks at the limits, and stops the agent between calls once one is passed.
    pub(super) async fn hold_limits(&mut self) {
        if self.ending.is_some() || self.over_limit().is_none() {
            return;
        }
        self.resolve_all(By::Withdrawn, "a limit of the session is passed", !self.input_closed);
        let waited = self.limits.finish_by.is_some_and(|t| Instant::now() >= t);
        if self.live.account.is_running() && !waited {
            return;
        }
        self.ending = Some(Ending::Budget);
        let (how, grace_ms) = ("usage limit exceeded".to_owned(), self.config.grace_ms);
        self.pending.events.push(SessionStopping { by: Actor::host(), how, grace_ms }.into());
        self.commit().await;
        if !self.live.parking.away() {
            told(&self.id, self.shim.stop(Duration::from_millis(grace_ms)).await);
        }
    }

    /// When the limits must be looked at again without anything being said: the time is up, or a running call had time enough.
    pub(super) fn limits_due(&self) -> Option<Instant> {
        if self.ending.is_some() {
            return None;
        }
        if self.limits.over.is_some() {
            return self.limits.finish_by;
        }
        // why one more: a limit is passed when more than it was taken.
        let own = self.session.limits.filter(|l| !l.tree).and_then(|l| l.time_ms);
        let own = own.and_then(|max| self.session_at(max.saturating_add(1)));
        let trees = self.limits.roots.iter().filter_map(|root| self.inner.tree_left(root));
        own.into_iter().chain(trees.filter_map(|left| Instant::now().checked_add(left))).min()
    }
}
