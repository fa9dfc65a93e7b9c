//! Confirmation of what loosens: handlers say what exactly is asked for, `operator` says whether a person did.
//!
//! A request that must be confirmed is answered 428 with a [`ChallengeDoc`]; the peer sends the same request again with the answer in the
//! header [`CONFIRM_HEADER`].
//!
//! | act | confirmed |
//! | --- | --- |
//! | a yes to a waiting call, alone or with a rule | yes |
//! | add a rule | an allow rule |
//! | take a rule back | an ask or deny rule |
//! | trust a project's configuration | yes |
//! | start or queue a session, or try one again | without a gate: `generic`, arguments that lower its mediation, a lane that workers take from |
//! | let a paused session, or one of a tree, go on | where it had a breach |
//! | a session that goes on from another | where that had a breach, or what a start would need |
//! | give a live session a context provider | a command |
//! | attest an agent's program | where every check passed; a failed one takes trust away |
//! | hooks of a settings file | taking them out: a hooked agent may then edit the file, and the daemon need not stay for it |
//! | an installed plugin | all but taking a grant back: a policy may allow, and one that is gone denies nothing |
//! | read the configuration anew | yes |
//! | move a sink past events | yes |
//! | erase from the log | yes |
//! | archive a log | of a live session, or to a file outside of the data folder |
//! | add or remove an operator key | always, by a key where there is one |
//!
//! All else is open to the role `operator`: to deny, stop or kill nothing more is needed, nor to add what tightens, put hooks in,
//! give prompts (their calls are judged), remove ended sessions, shut the daemon down (hooks then block, agents wait).
//!
//! Not covered: *which* program a gated session starts, and which MCP servers. A caller chooses PATH and `--program`; what stands behind
//! the name is for `session.require_attested` to hold, and attestations are confirmed. Nor the operator's own files: whoever writes as
//! this user can edit the configuration; a change of `operator.confirm` stands in the host chain.

use std::convert::Infallible;

use axum::Json;
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};

use super::App;
use super::error::ApiError;
use super::role::Peer;
use super::types::{CONFIRM_HEADER, ChallengeDoc, OperatorKeyDoc};
use crate::model::{Actor, Approval, ApprovalState, Effect, Event, OperatorKey, Subject, format_ms};
use crate::operator::{self, Challenge, How, Need};

/// Longest answer in bytes.
const ANSWER_MAX: usize = 512;

/// Who asks, and what was given in answer to a challenge.
pub struct Asking {
    peer: Option<Peer>,
    answer: Option<String>,
    actor: Actor,
}

impl<S: Send + Sync> FromRequestParts<S> for Asking {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let header = parts.headers.get(CONFIRM_HEADER).and_then(|v| v.to_str().ok());
        Ok(Self {
            peer: parts.extensions.get::<ConnectInfo<Peer>>().map(|c| c.0.clone()),
            answer: header.map(|h| h.chars().take(ANSWER_MAX).collect()),
            // Put there by `role::operator_only`; a route without it has an actor without a role.
            actor: parts.extensions.get::<Actor>().cloned().unwrap_or_default(),
        })
    }
}

/// A refusal, or the question that comes first.
pub enum Refusal {
    Error(ApiError),
    Challenge(Box<ChallengeDoc>),
}

impl<E: Into<ApiError>> From<E> for Refusal {
    fn from(e: E) -> Self {
        Self::Error(e.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Error(e) => e.into_response(),
            Self::Challenge(doc) => (StatusCode::PRECONDITION_REQUIRED, Json(*doc)).into_response(),
        }
    }
}

impl Asking {
    /// The actor, without a proof: for what needs none.
    pub fn actor(self) -> Actor {
        self.actor
    }

    /// The actor with what was proved. Errors: the challenge to answer first, or why the answer does not count.
    pub async fn confirmed(self, app: &App, need: Need, subject: Subject) -> Result<Actor, Refusal> {
        let mut actor = self.actor;
        let peer = self.peer.and_then(Peer::process).ok_or_else(|| ApiError::forbidden("a confirmation", "none (the peer is unknown)"))?;
        let shims: Vec<_> = app.manager.shims().into_iter().map(|(p, _)| p).collect();
        let (operators, answer) = (app.operators.clone(), self.answer);
        // why elsewhere: it looks through /proc and writes on a terminal.
        let judged = tokio::task::spawn_blocking(move || operators.check(need, &peer, &shims, &subject, answer.as_deref())).await;
        let failed =
            |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "BDL-API-020", "the confirmation broke off; see `beadle host logs`");
        match judged.map_err(failed)? {
            Ok(proof) => {
                actor.name = proof.name;
                actor.via = proof.via;
                actor.key = proof.key;
                Ok(actor)
            }
            Err(operator::Error::Challenge(c)) => Err(Refusal::Challenge(Box::new(challenge(*c)))),
            Err(e) => {
                tracing::warn!(code = e.code(), error = %e, pid = actor.pid, "not confirmed");
                Err(ApiError::from(e).into())
            }
        }
    }
}

/// An answer to a waiting call: a yes is confirmed with what exactly it lets run, a no with nothing.
///
/// `always` are words for rules that come with it.
pub async fn answering(asking: Asking, app: &App, approval: &Approval, effect: Effect, always: Option<String>) -> Result<Actor, Refusal> {
    // why not what was answered: the session says by whom, and nobody is bothered for it.
    if effect != Effect::Allow || approval.state != ApprovalState::Waiting {
        return Ok(asking.actor());
    }
    if approval.two_person && always.is_some() {
        let message = format!("{} needs two persons: no rule comes of it; approve it without --always", approval.id());
        return Err(ApiError::new(StatusCode::CONFLICT, "BDL-API-021", message).into());
    }
    let input = app.manager.store().events(&approval.session, approval.call, 1)?.into_iter().find_map(|e| match e.envelope.event {
        Event::ToolRequested(r) => Some(r.call.input),
        _ => None,
    });
    let changed = app.manager.store().events(&approval.session, approval.asked, 1)?.into_iter().find_map(|e| match e.envelope.event {
        Event::ApprovalRequested(a) => a.updated_input,
        _ => None,
    });
    let input = changed.or(input).unwrap_or_default();
    let mut subject = Subject::new("allow a call")
        .with("approval", approval.id().to_string())
        .with("tool", &approval.tool)
        .with("about", &approval.subject)
        .with("effect", effect.as_str())
        .with("input", blake3::hash(input.to_string().as_bytes()).to_hex().to_string());
    if let Some(rules) = always {
        subject = subject.with("and always", rules);
    }
    asking.confirmed(app, Need::Configured, subject).await
}

fn challenge(c: Challenge) -> ChallengeDoc {
    let (terminal, keys) = match c.how {
        How::Terminal(t) => (Some(t.path.display().to_string()), vec![]),
        How::Key(keys) => (None, keys.into_iter().map(key).collect()),
    };
    ChallengeDoc {
        code: "BDL-OPERATOR-001".to_owned(),
        message: format!("this needs a confirmation ({}); use the command line, which asks for it", c.subject.action),
        challenge: c.id,
        subject: c.subject,
        expires_in_ms: c.expires_in_ms,
        terminal,
        keys,
    }
}

pub(super) fn key(k: OperatorKey) -> OperatorKeyDoc {
    OperatorKeyDoc { name: k.name, derivation: k.derivation, public: k.public, added_at: format_ms(k.added_at), by: k.by }
}

impl From<operator::Error> for ApiError {
    fn from(e: operator::Error) -> Self {
        use operator::Error as E;
        let status = match &e {
            E::Store(_) => {
                let E::Store(inner) = e else { return Self::new(StatusCode::INTERNAL_SERVER_ERROR, "BDL-API-000", "unreachable") };
                return inner.into();
            }
            E::Form | E::KeyName(_) | E::KeyForm | E::Derivation | E::Passphrase => StatusCode::UNPROCESSABLE_ENTITY,
            E::NoKey(_) => StatusCode::NOT_FOUND,
            E::KeyTaken(_) | E::TooManyKeys => StatusCode::CONFLICT,
            E::TooSoon { .. } => StatusCode::TOO_MANY_REQUESTS,
            E::Stored(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::FORBIDDEN,
        };
        Self::new(status, e.code(), e.to_string())
    }
}
