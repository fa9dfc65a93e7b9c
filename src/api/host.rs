//! The host about itself, its end, and trusted projects.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::App;
use super::confirm::{Asking, Refusal};
use super::error::ApiError;
use super::types::{
    HostDoc, KeptDoc, KeptProgramDoc, NoticesDoc, Page, PolicyDoc, RecoveredDoc, ReloadDoc, ReloadLookDoc, ReloadRequest, TrustDoc,
    TrustRequest,
};
use crate::config::{self, Folders};
use crate::model::{Event, Subject, format_ms};
use crate::notify::Counts;
use crate::operator::Need;
use crate::process;
use crate::session::Recovered;
use crate::store::{HostEvent, ProjectTrusted, Store};

/// Name of the host document that holds trusted projects.
const DOCUMENT: &str = "trust";
/// Most trusted projects.
const TRUST_MAX: usize = 2_000;

/// What the daemon knows of itself.
pub struct About {
    pub folders: Folders,
    pub started_at: i64,
    /// The executable.
    pub program: PathBuf,
    pub recovered: Recovered,
    pub shutdown: watch::Sender<bool>,
    /// What became of notices, by channel.
    pub told: Vec<(&'static str, Arc<Counts>)>,
}

/// One trusted project, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trusted {
    pub digest: String,
    pub trusted_at: i64,
}

/// The stored pins by folder.
pub fn stored_trust(store: &Store) -> Result<BTreeMap<PathBuf, Trusted>, crate::store::Error> {
    // why default: an unreadable list trusts nobody.
    Ok(store.setting(DOCUMENT)?.and_then(|b| serde_json::from_str(&b).ok()).unwrap_or_default())
}

pub async fn show(State(app): State<App>) -> Result<Json<HostDoc>, ApiError> {
    Ok(Json(document(&app).await?))
}

pub async fn shutdown(State(app): State<App>) -> Result<(StatusCode, Json<HostDoc>), ApiError> {
    let doc = document(&app).await?;
    app.about.shutdown.send_replace(true);
    Ok((StatusCode::ACCEPTED, Json(doc)))
}

/// It may loosen what live sessions may do, so it is confirmed like a change of their rules.
pub async fn reload(State(app): State<App>, asking: Asking, body: Bytes) -> Result<Json<ReloadDoc>, Refusal> {
    // why also none: before there was anything to accept, there was no body.
    let r: ReloadRequest = if body.is_empty() {
        ReloadRequest::default()
    } else {
        serde_json::from_slice(&body).map_err(|e| ApiError::malformed(e.to_string()))?
    };
    let subject = Subject::new("read the configuration anew").with("file", app.about.folders.config_file().display().to_string());
    let subject = if r.accept_changes { subject.with("changes", "looser decisions are accepted") } else { subject };
    let actor = asking.confirmed(&app, Need::Configured, subject).await?;
    let done = app.manager.reload(r.accept_changes, &actor).await?;
    let kept = done.kept.into_iter().map(|(session, why)| KeptDoc { session: session.to_string(), why }).collect();
    Ok(Json(ReloadDoc {
        live_count: app.manager.live_count() as u64,
        changed_count: done.changed as u64,
        kept,
        at_restart: done.at_restart.into_iter().map(str::to_owned).collect(),
        replay: Some(done.replay).filter(|r| r.judged > 0),
    }))
}

/// Nothing is changed by it, so nothing is confirmed.
pub async fn look_at_reload(State(app): State<App>) -> Result<Json<ReloadLookDoc>, ApiError> {
    Ok(Json(ReloadLookDoc { replay: app.manager.look_at_reload().await? }))
}

/// Keeps a copy of this daemon's executable, by which an upgrade can be taken back.
pub async fn keep(State(app): State<App>) -> Result<(StatusCode, Json<KeptProgramDoc>), ApiError> {
    let dir = app.about.folders.data.join("bin");
    let kept = tokio::task::spawn_blocking(move || process::keep_host(&dir)).await;
    let failed = |code: &'static str, why: String| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, code, why);
    match kept {
        Ok(Ok(path)) => Ok((StatusCode::CREATED, Json(KeptProgramDoc { path: path.display().to_string() }))),
        Ok(Err(e)) => Err(failed(e.code(), e.to_string())),
        Err(e) => Err(failed("BDL-API-019", format!("keeping a copy ended abnormally: {e}; try again"))),
    }
}

pub async fn trusted(State(app): State<App>) -> Result<Json<Page<TrustDoc>>, ApiError> {
    let items = stored_trust(app.manager.store())?.into_iter().map(|(dir, t)| doc(&dir, &t)).collect();
    Ok(Json(Page { items, next: None }))
}

pub async fn trust(
    State(app): State<App>,
    asking: Asking,
    body: Result<Json<TrustRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<TrustDoc>), Refusal> {
    let Json(r) = body?;
    let given = Path::new(&r.dir);
    let dir = given
        .canonicalize()
        .map_err(|e| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "BDL-API-006", format!("{}: {e}; give an existing folder", r.dir)))?;
    let found = config::read_project(&dir).map_err(|e| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, e.code(), e.to_string()))?;
    let Some(found) = found else {
        let message = format!("{} has no {}; there is nothing to trust", dir.display(), config::PROJECT_FILE);
        return Err(ApiError::new(StatusCode::NOT_FOUND, "BDL-API-006", message).into());
    };
    if found.digest != r.digest {
        let message =
            format!("{} has the digest {} now, not {}; read it again before you trust it", found.path.display(), found.digest, r.digest);
        return Err(ApiError::new(StatusCode::CONFLICT, "BDL-API-007", message).into());
    }
    let subject = Subject::new("trust a project").with("folder", dir.display().to_string()).with("digest", &found.digest);
    let actor = asking.confirmed(&app, Need::Configured, subject).await?;
    let store = app.manager.store();
    let mut list = stored_trust(store)?;
    if list.len() >= TRUST_MAX && !list.contains_key(&dir) {
        return Err(ApiError::new(StatusCode::CONFLICT, "BDL-API-008", format!("{TRUST_MAX} projects are trusted, the limit")).into());
    }
    let pin = Trusted { digest: found.digest.clone(), trusted_at: chrono::Utc::now().timestamp_millis() };
    list.insert(dir.clone(), pin.clone());
    let text = serde_json::to_string(&list).unwrap_or_default();
    let event = ProjectTrusted { dir: dir.display().to_string(), digest: found.digest.clone(), by: actor };
    store.note(HostEvent::ProjectTrusted(event), vec![(DOCUMENT.to_owned(), Some(text))]).await?;
    app.manager.chains().trust(dir.clone(), found.digest);
    Ok((StatusCode::CREATED, Json(doc(&dir, &pin))))
}

fn doc(dir: &Path, t: &Trusted) -> TrustDoc {
    TrustDoc { dir: dir.display().to_string(), digest: t.digest.clone(), trusted_at: format_ms(t.trusted_at) }
}

async fn document(app: &App) -> Result<HostDoc, ApiError> {
    let f = &app.about.folders;
    let assembled = app
        .manager
        .chains()
        .assemble(None, &[])
        .await
        .map_err(|e| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, e.code(), e.to_string()))?;
    let policies = policies(&assembled.events);
    Ok(HostDoc {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        program: app.about.program.display().to_string(),
        recovered: RecoveredDoc {
            adopted_count: app.about.recovered.adopted as u64,
            ended_count: app.about.recovered.ended as u64,
            failed_count: app.about.recovered.lost as u64,
        },
        started_at: format_ms(app.about.started_at),
        data: f.data.display().to_string(),
        socket: f.socket().display().to_string(),
        config: f.config_file().display().to_string(),
        log: f.log_file().display().to_string(),
        session_count: app.manager.store().session_count()?,
        live_count: app.manager.live_count() as u64,
        rss_kb: rss_kb(),
        policies,
        notices: app.about.told.iter().map(|(name, c)| notices(name, c)).collect(),
    })
}

fn notices(channel: &str, c: &Counts) -> NoticesDoc {
    let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
    NoticesDoc {
        channel: channel.to_owned(),
        delivered_count: read(&c.delivered),
        failed_count: read(&c.failed),
        outdated_count: read(&c.outdated),
        last_error: c.last_error(),
    }
}

/// The policies of a chain, from the events of its assembly.
pub fn policies(events: &[Event]) -> Vec<PolicyDoc> {
    events.iter().filter_map(policy).collect()
}

fn policy(e: &Event) -> Option<PolicyDoc> {
    Some(match e {
        Event::PluginLoaded(p) => PolicyDoc {
            name: p.policy.clone(),
            plugin: p.plugin.clone(),
            version: p.version.clone(),
            digest: p.digest.clone(),
            mode: p.mode,
            on_failure: p.on_failure,
            deadline_ms: p.deadline_ms,
            state: "ready".to_owned(),
            detail: None,
            snapshotted: p.snapshotted,
        },
        Event::PluginFailed(p) => PolicyDoc {
            name: p.policy.clone(),
            plugin: String::new(),
            version: String::new(),
            digest: String::new(),
            mode: crate::model::Mode::Enforce,
            on_failure: p.on_failure,
            deadline_ms: 0,
            state: "failed".to_owned(),
            detail: Some(p.detail.clone()),
            snapshotted: false,
        },
        _ => return None,
    })
}

pub(super) fn rss_kb() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64 / 1024
}
