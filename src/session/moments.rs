//! The optional moments of a session: what policies say of its start, its prompts, its results and its attempts, recorded and acted on.
//!
//! Invariants:
//! - what a policy forbids has happened nowhere: a refused session has no process, a refused prompt no frame, a withheld result no answer
//!   that lets it pass;
//! - the judgement is in the log with, or before, what it led to; a new daemon repeats no answer that was recorded;
//! - a chain without a policy for a moment leaves no event of it.
//!
//! Called by `start`, `command`, `run`, `finish` and `hook`.

use std::sync::Arc;

use super::plugins::watchdog;
use super::{Inner, live};
use crate::agent::Driver;
use crate::model::moment::{NewPrompt, SessionStart};
use crate::model::{Event, Moment, PluginFailed, PromptContext, PromptJudged, Refusal, Session, SessionJudged};
use crate::policy::Chain;
use crate::policy::moments::{CONTEXT_MAX, Failures};

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
    if !chain.takes_part(Moment::JudgePrompt) {
        return (vec![], Ok(vec![]));
    }
    let ruling = chain.judge_prompt(session, &prompt, inner.clock.wall_ms()).await;
    watchdog::heard(inner, &ruling.answers);
    let mut context = ruling.context;
    let mut not_given = (!ruling.left_out.is_empty())
        .then(|| format!("that of {} is over the {CONTEXT_MAX} bytes that one prompt may get", ruling.left_out.join(", ")));
    if !driver.takes_context() && !context.is_empty() {
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
    let mut events = failed(ruling.failures, None);
    events.push(judged.into());
    (events, ruling.refused.map_or(Ok(context), Err))
}

/// The events of policies that failed.
pub(super) fn failed(failures: Failures, call: Option<u64>) -> Vec<Event> {
    let event = |(policy, f, on_failure): (String, crate::policy::Failure, _)| {
        PluginFailed { policy, cause: f.cause, detail: live::cut(&f.detail, 1024), on_failure, call }.into()
    };
    failures.into_iter().map(event).collect()
}
