//! The optional moments of a session: what policies say of its start, its prompts, its results and its attempts, recorded and acted on.
//!
//! Invariants:
//! - what a policy forbids has happened nowhere: a refused session has no process, a refused prompt no frame, a withheld result no answer
//!   that lets it pass;
//! - the judgement is in the log with, or before, what it led to; a new daemon repeats no answer that was recorded;
//! - a chain without a policy for a moment leaves no event of it;
//! - what context providers add goes the same way as what policies add, after them.
//!
//! Called by `start`, `command`, `run`, `finish` and `hook`.

use std::sync::Arc;

use super::plugins::watchdog;
use super::{Inner, context, live};
use crate::agent::Driver;
use crate::model::moment::{NewPrompt, SessionStart};
use crate::model::{Event, Moment, PluginFailed, PromptContext, PromptJudged, Refusal, Session, SessionJudged};
use crate::policy::Chain;
use crate::policy::moments::{CONTEXT_MAX, Failures, PromptRuling};

mod attempt;
mod hooked;
mod result;
mod state;

pub use state::Moments;

/// Asks about a session that is about to start. The event is without what was not taken, which the caller adds.
pub(super) async fn judge_session(
    inner: &Arc<Inner>,
    chain: &Chain,
    session: &Session,
    start: &SessionStart,
) -> Option<(SessionJudged, Vec<Event>)> {
    if !chain.takes_part(Moment::JudgeSession) {
        return None;
    }
    let ruling = chain.judge_session(session, start, inner.clock.wall_ms()).await;
    watchdog::heard(inner, &ruling.answers);
    let judged = SessionJudged {
        refused: ruling.refused,
        tightened: ruling.tighten,
        labels: ruling.labels,
        ignored: vec![],
        answers: ruling.answers,
    };
    Some((judged, failed(ruling.failures, None)))
}

/// Asks about a prompt: its events, and what goes to the agent beside it.
pub(super) async fn judge_prompt(
    inner: &Arc<Inner>,
    chain: &Chain,
    driver: &dyn Driver,
    session: &Session,
    prompt: NewPrompt,
) -> (Vec<Event>, Result<Vec<PromptContext>, Refusal>) {
    let (judges, due) = (chain.takes_part(Moment::JudgePrompt), context::is_due(session, prompt.number));
    if !judges && !due {
        return (vec![], Ok(vec![]));
    }
    let mut ruling = match judges {
        true => chain.judge_prompt(session, &prompt, inner.clock.wall_ms()).await,
        false => PromptRuling::default(),
    };
    watchdog::heard(inner, &ruling.answers);
    let mut events = failed(ruling.failures, None);
    let mut context = ruling.context;
    if due && ruling.refused.is_none() && driver.takes_context() {
        let room = CONTEXT_MAX.saturating_sub(context.iter().map(|c| c.text.len()).sum());
        let found = context::gather(inner, chain, session, &prompt, room).await;
        events.extend(found.events);
        match found.refused {
            Some(refused) => {
                context.clear();
                ruling.refused = Some(refused);
            }
            None => context.extend(found.context),
        }
    }
    let mut not_given = (!ruling.left_out.is_empty())
        .then(|| format!("that of {} is over the {CONTEXT_MAX} bytes that one prompt may get", ruling.left_out.join(", ")));
    if !driver.takes_context() && (due || !context.is_empty()) {
        not_given = Some(format!("agent {} has no way to take it apart from its user's words", driver.name()));
    }
    let judged = PromptJudged {
        number: prompt.number,
        refused: ruling.refused.clone(),
        context: context.clone(),
        not_given,
        answers: ruling.answers,
    };
    if !driver.takes_context() {
        context.clear();
    }
    // why not without one: where nothing is judged nor given there is nothing to tell.
    if judges || judged.refused.is_some() || judged.not_given.is_some() || !judged.context.is_empty() {
        events.push(judged.into());
    }
    (events, ruling.refused.map_or(Ok(context), Err))
}

/// The events of policies that failed.
pub(super) fn failed(failures: Failures, call: Option<u64>) -> Vec<Event> {
    let event = |(policy, f, on_failure): (String, crate::policy::Failure, _)| {
        PluginFailed { policy, cause: f.cause, detail: live::cut(&f.detail, 1024), on_failure, call }.into()
    };
    failures.into_iter().map(event).collect()
}
