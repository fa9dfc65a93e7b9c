//! The HTTP edge: every route on this page, handlers one file per noun.
//!
//! Invariants:
//! - every request has a role before it reaches a handler (`role`): what changes anything, and what shows other sessions, needs `operator`;
//!   a hook (`hooks`) and a server of the host's own tools (`host_tools`) speak for the session that their process belongs to, and for no
//!   other;
//! - bodies, pages and streams are capped; an error is a problem document with a stable code;
//! - handlers translate and call `session`; they hold no state.
//!
//! Called by `daemon` (server) and `cli` (types and client).

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{delete, get, post};

use crate::session::Manager;

mod account;
mod approvals;
mod attempts;
mod attestations;
mod branch;
pub mod client;
mod collect;
mod compact;
mod confirm;
mod context;
mod error;
mod events;
mod follow;
mod hooks;
mod host;
mod host_tools;
mod keep;
mod ledger;
mod memory;
mod numbers;
mod operator;
mod pause;
mod plugin_logs;
mod plugins;
mod queue;
mod records;
mod role;
mod rules;
mod sessions;
mod sinks;
mod tree;
pub mod types;
mod writes;

pub use follow::Tail;
pub use host::{About, policies, stored_trust};
pub use role::Peer;

/// What handlers share.
#[derive(Clone)]
pub struct App {
    pub manager: Manager,
    pub about: std::sync::Arc<About>,
    pub metrics: std::sync::Arc<crate::metrics::Metrics>,
    pub operators: std::sync::Arc<crate::operator::Operators>,
    pub sinks: crate::sink::Sinks,
    pub tail: std::sync::Arc<Tail>,
}

/// Every route.
pub fn router(app: App) -> Router {
    let operator = Router::new()
        .route("/v1/sessions", post(sessions::run).get(sessions::list))
        .route("/v1/sessions/{id}", get(sessions::show).delete(sessions::remove))
        .route("/v1/sessions/{id}/prompts", post(sessions::send))
        .route("/v1/sessions/{id}/compact", post(compact::compact))
        .route("/v1/sessions/{id}/compactions/{seq}/original", get(compact::original))
        .route("/v1/sessions/{id}/stop", post(sessions::stop))
        .route("/v1/sessions/{id}/pause", post(pause::pause))
        .route("/v1/sessions/{id}/resume", post(pause::resume))
        .route("/v1/sessions/{id}/tree", get(tree::show).post(tree::act))
        .route("/v1/sessions/{id}/branches", post(branch::branch))
        .route("/v1/sessions/{id}/handoffs", post(tree::hand_off))
        .route("/v1/sessions/{id}/tasks", get(tree::tasks).post(tree::add_task))
        .route("/v1/sessions/{id}/tasks/{task}", post(tree::set_task))
        .route("/v1/sessions/{id}/context", get(context::list).post(context::add))
        .route("/v1/sessions/{id}/context/{name}", delete(context::remove))
        .route("/v1/sessions/{id}/wait", get(sessions::wait))
        .route("/v1/sessions/{id}/processes", get(sessions::processes))
        .route("/v1/sessions/{id}/account", get(account::show))
        .route("/v1/sessions/{id}/attempts", get(attempts::list))
        .route("/v1/sessions/{id}/checkpoint", post(attempts::checkpoint))
        .route("/v1/rollback", post(attempts::roll_back))
        .route("/v1/sessions/{id}/events", get(events::of_session))
        .route("/v1/events", get(events::of_all))
        .route("/v1/sessions/{id}/logs", get(records::logs))
        .route("/v1/sessions/{id}/plugin-logs", get(plugin_logs::of_session))
        .route("/v1/sessions/{id}/verify", get(records::verify_session))
        .route("/v1/sessions/{id}/export", get(records::export))
        .route("/v1/sessions/{id}/transcripts", get(keep::transcripts))
        .route("/v1/sessions/{id}/transcript", get(keep::transcript))
        .route("/v1/sessions/{id}/archive", post(keep::archive))
        .route("/v1/sessions/{id}/archive/restore", post(keep::restore))
        .route("/v1/sessions/{id}/redact", post(keep::redact))
        .route("/v1/archives", post(keep::archive_ended))
        .route("/v1/verify", get(records::verify_all).post(records::verify))
        .route("/v1/writes", post(writes::write).layer(DefaultBodyLimit::max(types::WRITE_BODY_MAX)))
        .route("/v1/queue", get(queue::show).post(queue::hold))
        .route("/v1/queue/sessions", get(queue::list))
        .route("/v1/queue/sessions/{id}", post(queue::move_to).delete(queue::remove))
        .route("/v1/queue/dead", get(queue::dead))
        .route("/v1/queue/dead/{id}", post(queue::retry))
        .route("/v1/queue/leases", post(queue::lease))
        .route("/v1/queue/leases/{id}", post(queue::settle))
        .route("/v1/memory", get(memory::list).post(memory::add))
        .route("/v1/memory/{id}", delete(memory::remove))
        .route("/v1/rules", get(rules::list).post(rules::add))
        .route("/v1/rules/{id}", delete(rules::revoke))
        .route("/v1/approvals", get(approvals::list))
        .route("/v1/approvals/{session}/{call}", get(approvals::show).post(approvals::answer))
        .route("/v1/sinks", get(sinks::list))
        .route("/v1/sinks/{name}/dead-letters", get(sinks::dead_letters))
        .route("/v1/sinks/{name}/retry", post(sinks::retry))
        .route("/v1/sinks/{name}/skip", post(sinks::skip))
        .route("/v1/ledger", get(ledger::ledger))
        .route("/v1/ledger/tools", get(ledger::tools))
        .route("/v1/stats", get(numbers::stats))
        .route("/metrics", get(numbers::metrics))
        .route("/v1/hooks", get(hooks::list).post(hooks::set))
        .route("/v1/host", get(host::show))
        .route("/v1/host/shutdown", post(host::shutdown))
        .route("/v1/host/reload", post(host::reload))
        .route("/v1/host/reload/look", post(host::look_at_reload))
        .route("/v1/host/gc", post(collect::collect))
        .route("/v1/host/backup", post(collect::backup))
        .route("/v1/host/keep", post(host::keep))
        .route("/v1/plugins", get(plugins::list).post(plugins::add))
        .route("/v1/plugins/look", post(plugins::look))
        .route("/v1/plugins/{name}/logs", get(plugin_logs::of_plugin))
        .route("/v1/plugins/{name}", get(plugins::show).post(plugins::act).delete(plugins::remove))
        .route("/v1/plugin-files", post(plugins::stage).layer(DefaultBodyLimit::max(types::COMPONENT_MAX)))
        .route("/v1/programs", get(attestations::program))
        .route("/v1/attestations", get(attestations::list).post(attestations::add))
        .route("/v1/trust", get(host::trusted).post(host::trust))
        .route("/v1/operator", get(operator::show))
        .route("/v1/operator/keys", post(operator::add))
        .route("/v1/operator/keys/{name}", delete(operator::remove))
        .layer(middleware::from_fn_with_state(app.clone(), role::operator_only));
    Router::new()
        .merge(operator)
        // why apart: these are for agents, whose role is their session's.
        .route(
            "/v1/hooks/{agent}",
            post(hooks::post).layer(DefaultBodyLimit::max(types::HOOK_MAX)).layer(middleware::from_fn(error::apart)),
        )
        .route("/v1/host-tools", get(host_tools::show).post(host_tools::call).layer(middleware::from_fn(error::apart)))
        .route("/healthz", get(|| async { "ok" }))
        .fallback(error::no_route)
        .layer(DefaultBodyLimit::max(types::REQUEST_MAX))
        .with_state(app)
}
