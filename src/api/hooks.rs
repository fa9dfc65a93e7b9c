//! Hooks of agents: what the client `beadle-shim hook <agent>` posts, and the list of settings files that hold it.
//!
//! Any process of the host's own user may post a hook, the agents' own among them: for whom it speaks follows from its ancestry
//! alone. An answer is the exit code ([`EXIT_HEADER`]) and output of the hook command; 202 means that a person is asked and the
//! client shall post the same again. Every other status makes the client block the call.

use std::path::PathBuf;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::App;
use super::confirm::{Asking, Refusal};
use super::error::ApiError;
use super::role::{Peer, Role, STARTING};
use super::types::{EXIT_HEADER, HOLD_HEADER, HookedDoc, HookedRequest, HooksDoc, WAIT_HEADER};
use crate::model::{Clock, Subject, SystemClock, format_ms};
use crate::operator::Need;
use crate::process::{self, STABLE};
use crate::session::{HookCall, HookOutcome, Installed};

/// How long an answer is held when the client does not say, and at most.
const HOLD: Duration = Duration::from_millis(4_000);
const HOLD_MAX: Duration = Duration::from_secs(30);
/// How long a hook waits for the start of its own session, and how often it looks.
const START_WITHIN: Duration = Duration::from_secs(2);
const START_LOOK: Duration = Duration::from_millis(5);
/// Longest path of a settings file in bytes.
const PATH_MAX: usize = 4096;

pub async fn post(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(agent): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let begun = std::time::Instant::now();
    let mut role = peer.role(&app.manager);
    while role == Role::Nobody(STARTING) && begun.elapsed() < START_WITHIN {
        tokio::time::sleep(START_LOOK).await;
        role = peer.role(&app.manager);
    }
    if let Role::Nobody(_) = role {
        return Err(ApiError::forbidden("POST /v1/hooks", &role.name()));
    }
    let (uid, chain) = peer.chain().map_err(|e| ApiError::new(StatusCode::FORBIDDEN, e.code(), e.to_string()))?;
    let hold = headers.get(HOLD_HEADER).and_then(|v| v.to_str().ok()?.parse().ok()).map_or(HOLD, Duration::from_millis).min(HOLD_MAX);
    let can_wait = headers.contains_key(WAIT_HEADER);
    let outcome = app.manager.hook(HookCall { agent, body: body.into(), uid, chain, can_wait, hold, begun }).await?;
    Ok(match outcome {
        HookOutcome::Reply(r) => {
            let exit = r.exit.to_string();
            ([(EXIT_HEADER, exit.as_str()), (header::CONTENT_TYPE.as_str(), "application/octet-stream")], Body::from(r.body))
                .into_response()
        }
        HookOutcome::Wait => StatusCode::ACCEPTED.into_response(),
    })
}

pub async fn list(State(app): State<App>) -> Result<Json<HooksDoc>, ApiError> {
    Ok(Json(document(&app)))
}

pub async fn set(
    State(app): State<App>,
    asking: Asking,
    body: Result<Json<HookedRequest>, JsonRejection>,
) -> Result<Json<HooksDoc>, Refusal> {
    let Json(r) = body?;
    let path = PathBuf::from(&r.path);
    if !path.is_absolute() || r.path.len() > PATH_MAX {
        return Err(ApiError::malformed(format!("path is not an absolute one of at most {PATH_MAX} bytes")).into());
    }
    let loosens = !r.installed && app.manager.hooked().iter().any(|i| i.path == path);
    let actor = if loosens {
        let subject = Subject::new("take hooks out").with("agent", &r.agent).with("settings", &r.path);
        asking.confirmed(&app, Need::Configured, subject).await?
    } else {
        asking.actor()
    };
    tracing::info!(path = %path.display(), installed = r.installed, uid = actor.uid, "hooks of an agent");
    let installed = Installed { agent: r.agent, path: path.clone(), installed_at: SystemClock.wall_ms() };
    app.manager.set_hooked(path, r.installed.then_some(installed)).await?;
    Ok(Json(document(&app)))
}

fn document(app: &App) -> HooksDoc {
    let shim = app.about.folders.data.join("bin").join(STABLE);
    let doc = |i: Installed| HookedDoc { agent: i.agent, path: i.path.display().to_string(), installed_at: format_ms(i.installed_at) };
    HooksDoc {
        shim_ok: process::is_installed(&shim),
        shim: shim.display().to_string(),
        ask: app.manager.config().hooks_ask.as_str().to_owned(),
        files: app.manager.hooked().into_iter().map(doc).collect(),
    }
}
