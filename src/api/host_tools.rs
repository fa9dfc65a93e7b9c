//! The host's own tools for agents that start a server of them (`beadle mcp`).
//!
//! For which session such a server speaks follows from its ancestry alone, as with hooks: whoever runs outside of one has no use for
//! this.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;

use super::App;
use super::error::ApiError;
use super::role::{Peer, Role, STARTING};
use super::types::{HostToolAnswer, HostToolDoc, HostToolRequest, HostToolsDoc};
use crate::model::{Actor, SessionId};
use crate::session::QUESTION_GONE;

/// How long an answer is held when the client does not say, and at most.
const HOLD_MS: u64 = 4_000;
const HOLD_MAX_MS: u64 = 8_000;
// why: a question that nobody has asked again for so long is withdrawn.
const _: () = assert!(HOLD_MAX_MS * 2 < QUESTION_GONE.as_millis() as u64);
/// Longest id of a call, and name of a tool, in bytes.
const NAME_MAX: usize = 128;

pub async fn show(State(app): State<App>, ConnectInfo(peer): ConnectInfo<Peer>) -> Result<Json<HostToolsDoc>, ApiError> {
    let (session, _) = session_of(&app, &peer, "GET /v1/host-tools")?;
    app.manager.has_tool_server(&session)?;
    Ok(Json(HostToolsDoc { session: session.to_string() }))
}

pub async fn call(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<HostToolRequest>, JsonRejection>,
) -> Result<Json<HostToolDoc>, ApiError> {
    let (session, by) = session_of(&app, &peer, "POST /v1/host-tools")?;
    let Json(r) = body?;
    if r.id.is_empty() || r.id.len() > NAME_MAX || r.name.len() > NAME_MAX || r.id.chars().any(char::is_control) {
        return Err(ApiError::malformed(format!("id and name have 1 to {NAME_MAX} bytes, and no control characters")));
    }
    if !r.arguments.is_object() {
        return Err(ApiError::malformed("arguments is not a JSON object"));
    }
    let hold = Duration::from_millis(r.hold_ms.unwrap_or(HOLD_MS).min(HOLD_MAX_MS));
    let answered = app.manager.host_tool(&session, r.id, r.name, r.arguments, by, hold).await?;
    Ok(Json(HostToolDoc { answer: answered.map(|a| HostToolAnswer { text: a.text, is_error: a.is_error }) }))
}

/// The session that the peer's process belongs to.
fn session_of(app: &App, peer: &Peer, what: &str) -> Result<(SessionId, Actor), ApiError> {
    let role = peer.role(&app.manager);
    match role {
        Role::Nobody(STARTING) => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "BDL-API-044", format!("{STARTING}; try again"))),
        Role::Session(ref id) => Ok((id.clone(), Actor { role: "agent".to_owned(), ..peer.actor(&role) })),
        role => {
            let message = format!("{what} is for an agent's own processes; this connection has the role {}", role.name());
            let mut e = ApiError::new(StatusCode::FORBIDDEN, "BDL-API-043", message);
            e.problem.hint = Some("let an agent that runs as a session start `beadle mcp`".to_owned());
            Err(e)
        }
    }
}
