//! Approvals: those that wait, the whole story of one, the answer, and a stream of changes.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::sse;
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::App;
use super::confirm::{Asking, Refusal, answering};
use super::error::ApiError;
use super::events::{json_message, last_event_id, sse, wants_stream};
use super::types::{
    AlwaysDoc, AlwaysReach, AlwaysRequest, ApprovalAnswer, ApprovalDetailDoc, ApprovalDoc, ApprovalsQuery, PAGE_DEFAULT, PAGE_MAX, Page,
    PolicyAnswerDoc,
};
use crate::model::{Approval, ApprovalState, SessionId};
use crate::session::{Always, Answer, ApprovalChanges, ApprovalDetail, Reach};

/// Largest input that is shown with an approval, in bytes of JSON.
const INPUT_MAX: usize = 256 << 10;

/// A page, or with `Accept: text/event-stream` those that wait and then each change.
pub async fn list(
    State(app): State<App>,
    query: Result<Query<ApprovalsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(q) = query?;
    let session = q.session.map(|key| app.manager.find(&key)).transpose()?.map(|s| s.id);
    if !wants_stream(&headers) {
        let limit = q.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
        let page = app.manager.approvals(session, !q.all, limit, q.cursor)?;
        let keys = keys(&app);
        return Ok(Json(Page { items: page.items.into_iter().map(|a| shown(a, &keys)).collect(), next: page.next }).into_response());
    }
    let after = match last_event_id(&headers) {
        Some(id) => Some(id.parse().map_err(|_| ApiError::malformed(format!("Last-Event-ID {id:?} is not a cursor of this stream")))?),
        None => None,
    };
    // why before the snapshot: what changes while it is read comes again as a change, and nothing is missed.
    let changes = app.manager.approval_changes(after)?;
    let snapshot = after.is_none().then(Snapshot::default);
    let reader = Reader { app: app.clone(), session, changes, snapshot, done: false };
    Ok(sse(stream::unfold(reader, |mut r| async move { r.message().await.map(|m| (Ok(m), r)) })))
}

pub async fn show(State(app): State<App>, Path((key, call)): Path<(String, u64)>) -> Result<Json<ApprovalDetailDoc>, ApiError> {
    Ok(Json(detail(app.manager.approval_detail(&key, call).await?, &keys(&app))))
}

pub async fn answer(
    State(app): State<App>,
    asking: Asking,
    Path((key, call)): Path<(String, u64)>,
    body: Result<Json<ApprovalAnswer>, JsonRejection>,
) -> Result<Json<ApprovalDoc>, Refusal> {
    let Json(r) = body?;
    let approval = app.manager.approval(&key, call)?;
    let id = approval.id();
    let words = match &r.always {
        Some(a) => Some(always_words(&app, &key, call, a).await?),
        None => None,
    };
    let actor = answering(asking, &app, &approval, r.effect, words).await?;
    let always = r.always.map(|a| Always {
        rule: a.rule,
        reach: match a.reach {
            AlwaysReach::Session => Reach::Session,
            AlwaysReach::Folder => Reach::Folder,
            AlwaysReach::All => Reach::All,
        },
    });
    let a = app.manager.answer(&id, Answer { effect: r.effect, reason: r.reason, always, actor, keys: keys(&app) }).await?;
    Ok(Json(shown(a, &keys(&app))))
}

/// Which rules an answer would add, and where they would hold.
async fn always_words(app: &App, key: &str, call: u64, always: &AlwaysRequest) -> Result<String, ApiError> {
    let rules = match &always.rule {
        Some(rule) => rule.clone(),
        None => match app.manager.approval_detail(key, call).await?.always {
            Some(Ok(rules)) => rules.join(", "),
            // Then there is none, and the answer is refused.
            Some(Err(_)) | None => "none".to_owned(),
        },
    };
    let reach = match always.reach {
        AlwaysReach::Session => "this session",
        AlwaysReach::Folder => "sessions of this folder",
        AlwaysReach::All => "every session",
    };
    Ok(format!("{rules}, for {reach}"))
}

/// Public keys of the operators there are.
fn keys(app: &App) -> Vec<String> {
    app.operators.keys().into_iter().map(|k| k.public).collect()
}

/// As it stands: while it waits, only a yes by a key that is still there counts as one.
fn shown(mut a: Approval, keys: &[String]) -> ApprovalDoc {
    if a.state == ApprovalState::Waiting {
        a.endorsed.retain(|e| e.by.key.as_ref().is_some_and(|k| keys.contains(k)));
    }
    ApprovalDoc::from(&a)
}

fn detail(d: ApprovalDetail, keys: &[String]) -> ApprovalDetailDoc {
    let policies = d.asked.answers.into_iter().map(|a| PolicyAnswerDoc {
        policy: a.policy,
        effect: a.decision.effect,
        mode: a.mode,
        reason: a.decision.reason,
        rule: a.decision.rule,
        failed: a.failed,
    });
    ApprovalDetailDoc {
        approval: shown(d.approval, keys),
        agent: d.call.agent,
        cwd: d.call.cwd,
        sub_agent: d.call.sub_agent,
        input: Some(d.call.input).filter(|i| i.to_string().len() <= INPUT_MAX),
        updated_input: d.asked.updated_input.filter(|i| i.to_string().len() <= INPUT_MAX),
        parse: d.call.parse,
        parse_reason: d.call.parse_reason,
        policies: policies.collect(),
        words: d.words,
        description: d.description,
        diff: d.diff,
        diff_cut: d.diff_cut,
        always: d.always.map(|a| a.map_or_else(AlwaysDoc::Refused, AlwaysDoc::Rules)),
    }
}

/// Those that wait, page by page.
#[derive(Default)]
struct Snapshot {
    ready: std::vec::IntoIter<Approval>,
    begun: bool,
    next: Option<String>,
}

struct Reader {
    app: App,
    session: Option<SessionId>,
    changes: ApprovalChanges,
    /// Until all of it was given.
    snapshot: Option<Snapshot>,
    done: bool,
}

impl Reader {
    async fn message(&mut self) -> Option<sse::Event> {
        if self.done {
            return None;
        }
        while let Some(s) = &mut self.snapshot {
            if let Some(a) = s.ready.next() {
                return Some(json_message("approval", &shown(a, &keys(&self.app))));
            }
            if s.begun && s.next.is_none() {
                self.snapshot = None;
                return Some(sse::Event::default().event("ready").data("{}").id(self.changes.position().to_string()));
            }
            match self.app.manager.approvals(self.session.clone(), true, PAGE_MAX, s.next.take()) {
                Ok(page) => *s = Snapshot { ready: page.items.into_iter(), begun: true, next: page.next },
                Err(e) => return Some(self.problem(e.into())),
            }
        }
        loop {
            match self.changes.next().await {
                Ok((at, a)) if self.session.as_ref().is_none_or(|s| *s == a.session) => {
                    return Some(json_message("approval", &shown(a, &keys(&self.app))).id(at.to_string()));
                }
                Ok(_) => {}
                Err(e) => return Some(self.problem(e.into())),
            }
        }
    }

    fn problem(&mut self, e: ApiError) -> sse::Event {
        self.done = true;
        json_message("problem", &e.problem)
    }
}
