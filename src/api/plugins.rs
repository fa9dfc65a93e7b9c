//! Installed plugins: components are handed over by content, then acted on by name.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::App;
use super::confirm::{Asking, Refusal};
use super::error::ApiError;
use super::types::{
    ComponentDoc, Page, PluginActRequest, PluginAddRequest, PluginDoc, PluginLookDoc, PluginLookRequest, PluginVersionDoc, WantDoc,
};
use crate::model::{Actor, Grants, Installed, PluginVersion, Subject, Wants};
use crate::operator::Need;
use crate::registry::{self, Registry};
use crate::session::{Looked, NewPlugin, PluginChange};

/// Deadline of a policy when none is given, in milliseconds.
const DEADLINE_MS: u64 = 100;

/// Keeps a component. Nothing is in force by it, so nothing is confirmed.
pub async fn stage(State(app): State<App>, body: Bytes) -> Result<(StatusCode, Json<ComponentDoc>), ApiError> {
    let bytes = body.len() as u64;
    let digest = app.manager.stage_plugin(body.into()).await?;
    Ok((StatusCode::CREATED, Json(ComponentDoc { digest, bytes })))
}

pub async fn look(State(app): State<App>, body: Result<Json<PluginLookRequest>, JsonRejection>) -> Result<Json<PluginLookDoc>, ApiError> {
    let Json(r) = body?;
    let looked = match &r.upgrade {
        Some(name) => {
            let looked = app.manager.look_at_successor(name, &r.digest).await?;
            let replay = app.manager.replay_successor(name, &looked).await?;
            let doc = looked_at(looked, Some(&app.manager.plugin(name)?));
            return Ok(Json(PluginLookDoc { replay: Some(replay), ..doc }));
        }
        None => {
            let config = r.config.unwrap_or_else(|| json!({}));
            app.manager.look_at_plugin(&r.digest, r.name.as_deref(), &config).await?
        }
    };
    Ok(Json(looked_at(looked, None)))
}

fn looked_at(l: Looked, before: Option<&Installed>) -> PluginLookDoc {
    let mut wants = wants(&l.version, before.map(|b| &b.grants));
    if let Some(old) = before.and_then(Installed::current) {
        let known = old.wanted();
        wants.iter_mut().for_each(|w| w.new = !Wants::parse([w.capability.as_str()]).0.beyond(&known).is_empty());
    }
    PluginLookDoc {
        name: l.name,
        plugin: l.plugin,
        version: l.version.version,
        purpose: l.version.purpose,
        kind: l.kind,
        digest: l.version.digest,
        moments: l.version.moments,
        wants,
        replaces: before.map(|b| b.version.clone()),
        replay: None,
    }
}

fn wants(version: &PluginVersion, grants: Option<&Grants>) -> Vec<WantDoc> {
    let granted = |capability: &str| {
        let want = Wants::parse([capability]).0;
        // why not where it is empty: a capability that this host does not know is never granted.
        !want.is_empty() && grants.is_some_and(|g| g.missing(&want).is_empty())
    };
    let want = |w: &crate::model::Wanted| WantDoc {
        granted: granted(&w.capability),
        capability: w.capability.clone(),
        reason: w.reason.clone(),
        new: false,
    };
    version.wants.iter().map(want).collect()
}

pub async fn list(State(app): State<App>) -> Result<Json<Page<PluginDoc>>, ApiError> {
    let (plugins, registry) = (app.manager.plugins(), app.manager.chains().registry().clone());
    let items = documents(plugins, registry).await?;
    Ok(Json(Page { items, next: None }))
}

pub async fn show(State(app): State<App>, Path(name): Path<String>) -> Result<Json<PluginDoc>, ApiError> {
    let plugin = app.manager.plugin(&name)?;
    document(&app, plugin).await.map(Json)
}

pub async fn add(
    State(app): State<App>,
    asking: Asking,
    body: Result<Json<PluginAddRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<PluginDoc>), Refusal> {
    let Json(r) = body?;
    let config = r.config.unwrap_or_else(|| json!({}));
    let looked = app.manager.look_at_plugin(&r.digest, r.name.as_deref(), &config).await?;
    let subject = Subject::new("install a plugin")
        .with("name", &looked.name)
        .with("kind", &looked.kind)
        .with("version", &looked.version.version)
        .with("digest", &looked.version.digest)
        .with("grants", r.grants.words().join(" "))
        .with("mode", word(&json!(r.mode)))
        .with("on_failure", word(&json!(r.on_failure)))
        .with("config", config.to_string());
    let actor = asking.confirmed(&app, Need::Configured, subject).await?;
    let new = NewPlugin {
        digest: r.digest,
        name: Some(looked.name),
        origin: r.origin,
        grants: r.grants,
        mode: r.mode,
        on_failure: r.on_failure,
        deadline_ms: r.deadline_ms.unwrap_or(DEADLINE_MS),
        config,
    };
    let plugin = app.manager.add_plugin(new, actor).await?;
    Ok((StatusCode::CREATED, Json(document(&app, plugin).await?)))
}

pub async fn remove(State(app): State<App>, asking: Asking, Path(name): Path<String>) -> Result<Json<PluginDoc>, Refusal> {
    let plugin = app.manager.plugin(&name)?;
    let actor = asking.confirmed(&app, Need::Configured, of(&plugin, "remove a plugin")).await?;
    let doc = document(&app, plugin).await?;
    app.manager.change_plugin(&name, PluginChange::Remove, actor).await?;
    Ok(Json(doc))
}

pub async fn act(
    State(app): State<App>,
    asking: Asking,
    Path(name): Path<String>,
    body: Result<Json<PluginActRequest>, JsonRejection>,
) -> Result<Json<PluginDoc>, Refusal> {
    let Json(r) = body?;
    let plugin = app.manager.plugin(&name)?;
    let (change, actor) = confirmed(&app, asking, &plugin, r).await?;
    let plugin = app.manager.change_plugin(&name, change, actor).await?;
    Ok(Json(document(&app, plugin).await?))
}

/// The change that is asked for, and who may make it: only to take a grant back needs no confirmation.
async fn confirmed(app: &App, asking: Asking, plugin: &Installed, r: PluginActRequest) -> Result<(PluginChange, Actor), Refusal> {
    use PluginActRequest as R;
    let (change, subject) = match r {
        R::Enable {} => (PluginChange::Enable, of(plugin, "enable a plugin")),
        R::Disable {} => (PluginChange::Disable, of(plugin, "disable a plugin")),
        R::Grant { grants } => {
            let subject = of(plugin, "grant a plugin").with("grants", grants.words().join(" "));
            (PluginChange::Grant(grants), subject)
        }
        R::Revoke { grants } => return Ok((PluginChange::Revoke(grants), asking.actor())),
        R::Configure { mode, on_failure, deadline_ms, config } => {
            let given = json!({ "mode": mode, "on_failure": on_failure, "deadline_ms": deadline_ms, "config": config });
            let subject = of(plugin, "configure a plugin").with("settings", given.to_string());
            (PluginChange::Configure { mode, on_failure, deadline_ms, config }, subject)
        }
        R::Upgrade { digest, origin, grants, accept_changes } => {
            let looked = app.manager.look_at_successor(&plugin.name, &digest).await?;
            let subject = of(plugin, "upgrade a plugin")
                .with("to version", &looked.version.version)
                .with("to digest", &digest)
                .with("further grants", grants.words().join(" "));
            let subject = if accept_changes { subject.with("changes", "looser decisions are accepted") } else { subject };
            (PluginChange::Upgrade { digest, origin, grants, accept: accept_changes }, subject)
        }
        R::RollBack { to, accept_changes } => {
            let target = app.manager.rollback_target(&plugin.name, to.as_deref())?;
            let subject = of(plugin, "roll a plugin back")
                .with("to version", &target.version)
                .with("to digest", &target.digest)
                .with("grants", target.grants.words().join(" "));
            let subject = if accept_changes { subject.with("changes", "looser decisions are accepted") } else { subject };
            // why its digest: what was confirmed is what is done, whatever the word stands for by then.
            (PluginChange::RollBack { to: Some(target.digest), accept: accept_changes }, subject)
        }
    };
    let actor = asking.confirmed(app, Need::Configured, subject).await?;
    Ok((change, actor))
}

fn of(plugin: &Installed, action: &str) -> Subject {
    Subject::new(action).with("name", &plugin.name).with("version", &plugin.version).with("digest", &plugin.digest)
}

fn word(v: &Value) -> String {
    v.as_str().unwrap_or_default().to_owned()
}

async fn document(app: &App, plugin: Installed) -> Result<PluginDoc, ApiError> {
    let mut docs = documents(vec![plugin], app.manager.chains().registry().clone()).await?;
    docs.pop().ok_or_else(|| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "BDL-API-022", "the plugin has no document"))
}

/// Reads every component, to say which of them are what they are pinned to.
async fn documents(plugins: Vec<Installed>, registry: Registry) -> Result<Vec<PluginDoc>, ApiError> {
    let read = tokio::task::spawn_blocking(move || plugins.into_iter().map(|p| doc(p, &registry)).collect()).await;
    read.map_err(|_| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "BDL-API-022", "reading the plugins broke off; see `beadle host logs`")
    })
}

fn doc(p: Installed, registry: &Registry) -> PluginDoc {
    let (state, detail) = match registry.get(&p.digest) {
        Ok(_) => ("ready", None),
        Err(e) => ("damaged", Some(e.to_string())),
    };
    let current = p.current().cloned();
    let config = registry::config(&p).unwrap_or_default();
    let version = |v: &PluginVersion| PluginVersionDoc {
        version: v.version.clone(),
        digest: v.digest.clone(),
        origin: v.origin.clone(),
        added_at: v.added_at.clone(),
        current: v.digest == p.digest,
    };
    PluginDoc {
        purpose: current.as_ref().map(|c| c.purpose.clone()).unwrap_or_default(),
        moments: current.as_ref().map(|c| c.moments.clone()).unwrap_or_default(),
        wants: current.map(|c| wants(&c, Some(&p.grants))).unwrap_or_default(),
        versions: p.versions.iter().map(version).collect(),
        name: p.name,
        plugin: p.plugin,
        kind: p.kind,
        enabled: p.enabled,
        version: p.version,
        digest: p.digest,
        state: state.to_owned(),
        detail,
        since: p.since,
        mode: p.mode,
        on_failure: p.on_failure,
        deadline_ms: p.deadline_ms,
        config,
        grants: p.grants,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mode;

    #[test]
    fn the_mode_is_a_word() {
        assert_eq!(word(&json!(Mode::Monitor)), "monitor");
    }
}
