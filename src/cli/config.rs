//! `beadle config`: what holds here, where it comes from, and whether it is good.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::args::ConfigArgs;
use super::exit::{Exit, UsageError};
use super::printer::Tone;
use super::text::{brief, safe};
use super::{Context, Outcome};
use crate::api::client::Client;
use crate::config::{self, Entry, Loaded, Plugin, Sources};

/// Every setting, the policies in their order, and the project's part.
pub async fn show(cx: &mut Context, args: ConfigArgs) -> Outcome {
    let loaded = load(cx, &args).await?;
    if cx.printer.json() {
        cx.printer.document(&document(&loaded))?;
        return Ok(Exit::Done);
    }
    let rows: Vec<_> =
        loaded.settings.iter().map(|s| vec![s.key.clone(), brief(&s.value.to_string(), 60), safe(&s.origin.to_string())]).collect();
    cx.printer.table(&["SETTING", "VALUE", "ORIGIN"], &rows)?;
    cx.printer.line("")?;
    let rows: Vec<_> = loaded.config.policies.iter().map(policy_row).collect();
    cx.printer.table(&["POLICY", "PLUGIN", "MODE", "ON FAILURE", "DEADLINE", "ORIGIN"], &rows)?;
    for p in &loaded.config.policies {
        let text = serde_json::to_string_pretty(&p.config)?;
        cx.printer.line(&format!("\n{} = {}", safe(&p.name), super::text::safe_lines(&text)))?;
    }
    remark(cx, &loaded)?;
    Ok(Exit::Done)
}

fn policy_row(p: &Entry) -> Vec<String> {
    let mode = json!(p.mode).as_str().unwrap_or_default().to_owned();
    let mode = if p.tighten_only { format!("{mode}, tightens only") } else { mode };
    vec![
        safe(&p.name),
        plugin(p),
        mode,
        p.on_failure.effect().as_str().to_owned(),
        format!("{} ms", p.deadline_ms),
        safe(&p.origin.to_string()),
    ]
}

fn plugin(p: &Entry) -> String {
    match &p.plugin {
        Plugin::Standard(name) => safe(name),
        Plugin::File(path) => safe(&path.to_string_lossy()),
        Plugin::Installed(name) => format!("installed:{}", safe(name)),
    }
}

fn document(loaded: &Loaded) -> serde_json::Value {
    let settings: Vec<_> =
        loaded.settings.iter().map(|s| json!({"key": s.key, "value": s.value, "origin": s.origin.to_string()})).collect();
    let policies: Vec<_> = loaded
        .config
        .policies
        .iter()
        .map(|p| {
            json!({
                "name": p.name, "plugin": plugin(p), "mode": p.mode, "on_failure": p.on_failure, "deadline_ms": p.deadline_ms,
                "config": p.config, "origin": p.origin.to_string(), "tighten_only": p.tighten_only,
            })
        })
        .collect();
    let project = loaded.project.as_ref().map(|p| json!({
        "dir": p.dir.to_string_lossy(), "path": p.path.to_string_lossy(), "digest": p.digest, "trusted": p.trusted, "ignored": p.ignored,
    }));
    json!({ "settings": settings, "policies": policies, "project": project })
}

/// 0 when everything could be read, 1 when not.
pub async fn check(cx: &mut Context, args: ConfigArgs) -> Outcome {
    let loaded = match load(cx, &args).await {
        Ok(loaded) => loaded,
        Err(e) => return wrong(cx, e),
    };
    if let Err(e) = super::policy::check(cx, &loaded.config).await {
        let Some(class) = super::classify(&e) else { return Err(e) };
        cx.printer.error(&super::text::safe_lines(&format!("{e:#}")), &class)?;
        return Ok(Exit::No);
    }
    let folder = match args.file.as_deref() {
        Some(f) => std::path::absolute(f)?.parent().map(Path::to_owned).unwrap_or_default(),
        None => cx.folders()?.config.clone(),
    };
    let (table, path) = match loaded.config.price_table(&folder) {
        Ok(found) => found,
        Err(e) => return wrong(cx, e.into()),
    };
    if cx.printer.json() {
        let from = path.map(|p| p.to_string_lossy().into_owned());
        let prices = json!({ "path": from, "digest": table.digest, "models": table.model_count() });
        cx.printer.document(&json!({ "ok": true, "prices": prices }))?;
    } else {
        let from = path.map_or_else(|| "built in".to_owned(), |p| safe(&p.to_string_lossy()));
        let counts = (loaded.settings.len(), loaded.config.policies.len(), table.model_count());
        let text = format!("✓ {} settings, {} policies and the prices of {} models ({from}) are good", counts.0, counts.1, counts.2);
        cx.printer.toned(Tone::Good, &text)?;
    }
    remark(cx, &loaded)?;
    Ok(Exit::Done)
}

/// Says what is wrong with the configuration.
fn wrong(cx: &mut Context, e: anyhow::Error) -> Outcome {
    let Some(mut class) = super::classify(&e) else { return Err(e) };
    class.exit = Exit::No;
    cx.printer.error(&super::text::safe_lines(&format!("{e:#}")), &class)?;
    Ok(Exit::No)
}

/// Says what was not taken from a project.
fn remark(cx: &mut Context, loaded: &Loaded) -> anyhow::Result<()> {
    let Some(p) = loaded.project.as_ref().filter(|p| !p.ignored.is_empty()) else { return Ok(()) };
    let why = if p.trusted { "of the host, never a project's" } else { "it is not trusted; `beadle trust` accepts it" };
    cx.printer.note(&format!("not taken from {}: {} ({why})", safe(&p.path.to_string_lossy()), safe(&p.ignored.join(", "))))?;
    Ok(())
}

/// Files and folders.
pub fn path(cx: &mut Context) -> Outcome {
    let f = cx.folders()?;
    let text = |p: &Path| safe(&p.to_string_lossy());
    if cx.printer.json() {
        let sockets: Vec<_> = f.sockets().iter().map(|p| p.to_string_lossy().into_owned()).collect();
        cx.printer.document(&json!({
            "config": f.config_file().to_string_lossy(), "data": f.data.to_string_lossy(), "cache": f.cache.to_string_lossy(),
            "log": f.log_file().to_string_lossy(), "sockets": sockets,
        }))?;
    } else if cx.printer.quiet() {
        cx.printer.line(&text(&f.config_file()))?;
    } else {
        let sockets: Vec<_> = f.sockets().iter().map(|p| text(p)).collect();
        cx.printer.fields(&[
            ("config", text(&f.config_file())),
            ("data", text(&f.data)),
            ("cache", text(&f.cache)),
            ("log", text(&f.log_file())),
            ("sockets", sockets.join(" ")),
        ])?;
    }
    Ok(Exit::Done)
}

fn cwd(args: &ConfigArgs) -> anyhow::Result<PathBuf> {
    let dir = args.cwd.clone().unwrap_or_else(|| PathBuf::from("."));
    Ok(dir.canonicalize().map_err(|e| UsageError(format!("folder {}: {e}; give one that is there", safe(&dir.to_string_lossy()))))?)
}

async fn load(cx: &mut Context, args: &ConfigArgs) -> anyhow::Result<Loaded> {
    let folders = cx.folders()?;
    if let Some(file) = args.file.as_deref().filter(|f| !f.exists()) {
        return Err(UsageError(format!("{}: no such file", safe(&file.to_string_lossy()))).into());
    }
    let user = args.file.clone().map_or_else(|| Ok(folders.config_file()), std::path::absolute)?;
    let cwd = cwd(args)?;
    // why without a start: looking at the configuration must work when the daemon cannot run because of it.
    let pins: BTreeMap<PathBuf, String> = match Client::without_start(folders).trusted().await {
        Ok(page) => page.items.into_iter().map(|t| (PathBuf::from(t.dir), t.digest)).collect(),
        Err(_) => {
            if config::find_project(&cwd)?.is_some() {
                cx.printer.note("no daemon runs: the project counts as not trusted here")?;
            }
            BTreeMap::new()
        }
    };
    let trusted = |dir: &Path, digest: &str| pins.get(dir).is_some_and(|d| d == digest);
    Ok(config::load(&Sources { user: Some(&user), cwd: Some(&cwd), env: &|name| std::env::var_os(name), trusted: &trusted })?)
}
