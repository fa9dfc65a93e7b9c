//! What policies say of a session before its agent is started: taken into the request and its configuration, or the end of it.
//!
//! Called by `start` and `external`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{How, StartRequest};
use crate::agent::Launch;
use crate::config::Config;
use crate::model::moment::SessionStart;
use crate::model::{Actor, Envelope, Event, Outcome, Refusal, Session, SessionEnded, SessionId, SessionJudged};
use crate::policy::Chain;
use crate::session::{Error, Inner, live, mask, moments};
use crate::store::Batch;

/// The session as it would begin: what policies see of one that has no log yet.
pub(in crate::session) fn preview(inner: &Inner, id: &SessionId, created: Event) -> Option<Session> {
    Session::begin(&Envelope { session: id.clone(), seq: 1, at: inner.clock.wall_ms(), attempt: 1, event: created })
}

/// Asks the policies that judge sessions; `None` when there is none.
#[allow(clippy::too_many_arguments)] // why: the parts of a start, handed over once.
pub(super) async fn judge(
    inner: &Arc<Inner>,
    chain: &Chain,
    id: &SessionId,
    created: Event,
    request: &StartRequest,
    program: &Path,
    launch: &Launch,
    by: &Actor,
) -> Option<(SessionJudged, Vec<Event>)> {
    let session = preview(inner, id, created)?;
    let start = SessionStart {
        program: program.display().to_string(),
        args: request.args.clone(),
        unsafe_args: request.unsafe_args.clone(),
        env_names: launch.env.keys().map(|k| k.to_string_lossy().into_owned()).collect(),
        write_root: request.write_root.as_ref().map(|p| p.display().to_string()),
        model: request.model.clone(),
        prompt: request.prompt.clone(),
        keep_open: request.keep_open,
        role: by.role.clone(),
    };
    moments::judge_session(inner, chain, &session, &start).await
}

/// Takes labels and tightened settings; what comes back says what was taken and what was not.
pub(in crate::session) fn take(
    mut ruling: SessionJudged,
    labels: &mut BTreeMap<String, String>,
    config: &mut Arc<Config>,
) -> SessionJudged {
    let mut tighter = (**config).clone();
    ruling.tightened.retain(|t| match tighter.tighten(t) {
        Ok(()) => true,
        Err(why) => {
            ruling.ignored.push(live::cut(&why, 512));
            false
        }
    });
    *config = Arc::new(tighter);
    for (key, value) in &ruling.labels {
        if let Some(old) = labels.insert(key.clone(), value.clone()).filter(|old| old != value) {
            ruling.ignored.push(live::cut(&format!("the caller's label {key}={old}: a policy says {value}"), 512));
        }
    }
    ruling
}

/// Records a session that a policy refuses: it is in the log, and never had a process.
pub(super) async fn refused(
    inner: &Inner,
    id: &SessionId,
    mut events: Vec<Event>,
    by: Refusal,
    prompt: bool,
    how: &How<'_>,
) -> Result<Session, Error> {
    let what = if prompt { "its first prompt" } else { "it" };
    let reason = format!("policy {} refuses {what}: {}", by.policy, by.reason);
    events.push(SessionEnded { outcome: Outcome::Failed, reason: Some(live::cut(&reason, 1024)), report: None }.into());
    inner.store.append(first(inner, id, events, how)).await?;
    let (session, policy, reason) = (id.clone(), by.policy, by.reason);
    Err(if prompt { Error::PromptRefused { session, policy, reason } } else { Error::SessionRefused { session, policy, reason } })
}

/// The first events of a new session, without secrets; of one that was queued, those that follow, with its claim in the place of its
/// beginning.
pub(in crate::session) fn first(inner: &Inner, id: &SessionId, mut events: Vec<Event>, how: &How<'_>) -> Batch {
    if let (How::Claim(_, claim), Some(created)) = (how, events.first_mut()) {
        *created = claim.clone().into();
    }
    Batch {
        session: id.clone(),
        expected: Some(how.last_seq()),
        attempt: how.attempt(),
        at: inner.clock.wall_ms(),
        events: events.into_iter().map(mask::event).collect(),
        cursor: None,
        frames: vec![],
        taken: None,
        blobs: vec![],
    }
}
