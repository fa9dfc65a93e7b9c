//! Roles: what a connection may do follows from who its peer descends from, not from what it says.
//!
//! A process below a live session's shim has the role of that session, whatever user it is; one below a shim of ours whose session is
//! not known has none; everyone else of the host's own uid is the operator. The peer is held by pidfd where the kernel gives one, so a reused pid cannot borrow a role.
//!
//! Called for each connection (`Peer`) and each request (`operator_only`).

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use tokio::net::UnixListener;

use super::App;
use super::error::ApiError;
use crate::model::{Actor, SessionId};
use crate::process;
use crate::session::Manager;

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer(Option<std::sync::Arc<process::Peer>>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(process::Peer::of(stream.io()).ok().map(std::sync::Arc::new))
    }
}

/// Who speaks, as the host sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    Operator,
    Session(SessionId),
    /// Another user, or a peer that cannot be told any more.
    Nobody(&'static str),
}

/// Why a process of a session that is not live yet has no role.
pub(super) const STARTING: &str = "its session is only just starting";

impl Role {
    pub fn name(&self) -> String {
        match self {
            Self::Operator => "operator".to_owned(),
            Self::Session(id) => format!("session:{id}"),
            Self::Nobody(why) => format!("none ({why})"),
        }
    }
}

impl Peer {
    pub fn role(&self, manager: &Manager) -> Role {
        let Some(peer) = &self.0 else { return Role::Nobody("the peer is unknown") };
        if peer.uid != rustix::process::geteuid().as_raw() {
            return Role::Nobody("another user");
        }
        let shims = manager.shims();
        let ids: Vec<_> = shims.iter().map(|(p, _)| *p).collect();
        let Ok(chain) = process::chain_of(peer) else { return Role::Nobody("the peer has ended") };
        let mut owners = chain.iter().filter_map(|p| ids.iter().position(|shim| shim == p));
        if let Some((_, id)) = owners.next().and_then(|i| shims.get(i)) {
            return Role::Session(id.clone());
        }
        // why: a session's first process runs before its session is in that list; it is below this daemon all the same.
        if chain.iter().skip(1).any(|p| p.pid == std::process::id()) {
            return Role::Nobody(STARTING);
        }
        // why: its session may be unknown here (a backup took the place of the data folder), and it stays an agent's process.
        if chain.iter().any(|p| manager.is_shim(*p)) {
            return Role::Nobody("it belongs to a session that this host does not know");
        }
        Role::Operator
    }

    /// Its user, and itself with its parents, nearest first.
    pub fn chain(&self) -> process::Result<(u32, Vec<process::ProcessId>)> {
        let peer = self.0.as_ref().ok_or(process::Error::Peer("the socket tells nothing of it"))?;
        Ok((peer.uid, process::chain_of(peer)?))
    }

    /// The process itself; `None` when the kernel did not tell.
    pub fn process(self) -> Option<std::sync::Arc<process::Peer>> {
        self.0
    }

    /// For records.
    pub fn actor(&self, role: &Role) -> Actor {
        let Some(peer) = &self.0 else { return Actor { role: role.name(), ..Actor::default() } };
        let (exe, tty) = peer.whence();
        Actor { role: role.name(), uid: Some(peer.uid), pid: Some(peer.pid), exe, tty, ..Actor::default() }
    }
}

/// Lets only the operator through; handlers find the [`Actor`] in the request.
pub async fn operator_only(State(app): State<App>, ConnectInfo(peer): ConnectInfo<Peer>, mut request: Request, next: Next) -> Response {
    let role = peer.role(&app.manager);
    if role != Role::Operator {
        let what = format!("{} {}", request.method(), request.uri().path());
        tracing::warn!(role = %role.name(), %what, "refused");
        return ApiError::forbidden(&what, &role.name()).into_response();
    }
    // why: a browser page can reach a loopback port but never sets these on a unix socket; refusing them costs nothing.
    if request.headers().contains_key("origin") {
        return ApiError::new(StatusCode::FORBIDDEN, "BDL-API-004", "requests from web pages are refused; use the command line")
            .into_response();
    }
    let actor = peer.actor(&role);
    request.extensions_mut().insert(actor);
    next.run(request).await
}
