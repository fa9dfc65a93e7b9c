//! `beadle plugin add ls rm enable disable set grant revoke upgrade rollback`: installed plugins.
//!
//! - what a component says of itself is shown before anything is asked, with everything that could act on a terminal taken out;
//! - a grant is given by its word alone: by `--grant`, or typed at the terminal after its reason was shown; `--yes` grants nothing.

use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::super::args::plugin_life::{PluginAddArgs, PluginLifeVerb, PluginSettings, PluginUpgradeArgs};
use super::super::ask::Terminal;
use super::super::confirm::confirmed;
use super::super::exit::{Exit, UsageError};
use super::super::printer::Tone;
use super::super::replay;
use super::super::text::{age, brief, safe};
use super::super::{Context, Outcome};
use crate::api::types::{COMPONENT_MAX, PluginActRequest, PluginAddRequest, PluginDoc, PluginLookDoc, PluginLookRequest, WantDoc};
use crate::model::{Clock, GrantError, Grants, SystemClock};

/// Characters of a digest that are shown in a table.
const DIGEST_SHOWN: usize = 12;
/// Largest configuration that is read, in bytes.
const CONFIG_MAX: u64 = 64 << 10;

pub async fn run(cx: &mut Context, verb: PluginLifeVerb) -> Outcome {
    use PluginActRequest as R;
    match verb {
        PluginLifeVerb::Add(args) => add(cx, args).await,
        PluginLifeVerb::Upgrade(args) => upgrade(cx, args).await,
        PluginLifeVerb::Ls { name } => ls(cx, name.as_deref()).await,
        PluginLifeVerb::Enable { name } => act(cx, &name, R::Enable {}, "is in use").await,
        PluginLifeVerb::Disable { name } => act(cx, &name, R::Disable {}, "is out of use").await,
        PluginLifeVerb::Rm { name } => {
            let doc = confirmed(cx, None, async |client| client.remove_plugin(&name).await).await?;
            say(cx, &doc, "was removed")
        }
        PluginLifeVerb::Set(args) => {
            if args.settings.is_empty() {
                return Err(UsageError("nothing to set; give --mode, --on-failure, --deadline-ms or --config".into()).into());
            }
            let PluginSettings { mode, on_failure, deadline_ms, .. } = args.settings;
            let config = config(args.settings.config.as_deref())?;
            let request = R::Configure { mode: mode.map(Into::into), on_failure: on_failure.map(Into::into), deadline_ms, config };
            act(cx, &args.name, request, "has new settings").await
        }
        PluginLifeVerb::Grant { name, grants } => act(cx, &name, R::Grant { grants: words(&grants)? }, "was granted that").await,
        PluginLifeVerb::Revoke { name, grants } => act(cx, &name, R::Revoke { grants: words(&grants)? }, "has it no more").await,
        PluginLifeVerb::Rollback { name, to, accept_changes } => {
            act(cx, &name, R::RollBack { to, accept_changes }, "was rolled back").await
        }
    }
}

async fn act(cx: &mut Context, name: &str, request: PluginActRequest, done: &str) -> Outcome {
    let doc = confirmed(cx, None, async |client| client.change_plugin(name, &request).await).await?;
    say(cx, &doc, done)
}

async fn add(cx: &mut Context, args: PluginAddArgs) -> Outcome {
    let mut grants = words(&args.grants)?;
    let config = config(args.settings.config.as_deref())?;
    let digest = stage(cx, &args.file).await?;
    let look = PluginLookRequest { digest: digest.clone(), name: args.name.clone(), config: config.clone(), upgrade: None };
    let found = cx.client()?.look_at_plugin(&look).await?;
    let mut terminal = None;
    if !args.yes {
        show(cx, &found)?;
        let opened = terminal.insert(terminal_for("install it")?);
        if !ask(cx, opened, &format!("Install it as {}? y or n:", safe(&found.name))).await? {
            cx.printer.note("not installed")?;
            return Ok(Exit::No);
        }
        ask_grants(cx, opened, found.wants.iter().filter(|w| !w.granted), &mut grants).await?;
    }
    let request = PluginAddRequest {
        digest,
        name: args.name,
        origin: origin(&args.file),
        grants,
        mode: args.settings.mode.map(Into::into).unwrap_or_default(),
        on_failure: args.settings.on_failure.map(Into::into).unwrap_or_default(),
        deadline_ms: args.settings.deadline_ms,
        config,
    };
    let doc = confirmed(cx, terminal.as_mut(), async |client| client.add_plugin(&request).await).await?;
    say(cx, &doc, "is installed and in use")
}

async fn upgrade(cx: &mut Context, args: PluginUpgradeArgs) -> Outcome {
    let mut grants = words(&args.grants)?;
    let digest = stage(cx, &args.file).await?;
    let look = PluginLookRequest { digest: digest.clone(), upgrade: Some(args.name.clone()), ..PluginLookRequest::default() };
    let found = cx.client()?.look_at_plugin(&look).await?;
    let mut terminal = None;
    if let Some(r) = &found.replay {
        replay::tell(cx, r)?;
    }
    if !args.yes {
        show(cx, &found)?;
        let opened = terminal.insert(terminal_for("upgrade it")?);
        let from = found.replaces.as_deref().map(safe).unwrap_or_default();
        let question = format!("Upgrade {} from {from} to {}? y or n:", safe(&found.name), safe(&found.version));
        if !ask(cx, opened, &question).await? {
            cx.printer.note("not upgraded")?;
            return Ok(Exit::No);
        }
        ask_grants(cx, opened, found.wants.iter().filter(|w| w.new), &mut grants).await?;
    }
    let request = PluginActRequest::Upgrade { digest, origin: origin(&args.file), grants, accept_changes: args.accept_changes };
    let doc = confirmed(cx, terminal.as_mut(), async |client| client.change_plugin(&args.name, &request).await).await?;
    say(cx, &doc, "was upgraded")
}

fn terminal_for(what: &str) -> Result<Terminal, UsageError> {
    Terminal::open().ok_or_else(|| UsageError(format!("there is no terminal to ask on; read what is shown, then {what} with --yes")))
}

async fn ask(cx: &mut Context, terminal: &mut Terminal, question: &str) -> anyhow::Result<bool> {
    cx.printer.notice(Tone::Question, question)?;
    terminal.forget();
    Ok(terminal.line().await.is_some_and(|l| matches!(l.trim(), "y" | "yes")))
}

/// Asks about each capability of its own; what the plugin leaves open is typed.
async fn ask_grants(
    cx: &mut Context,
    terminal: &mut Terminal,
    wants: impl Iterator<Item = &WantDoc>,
    grants: &mut Grants,
) -> anyhow::Result<()> {
    for want in wants {
        let (word, reason) = (safe(&want.capability), brief(&want.reason, 200));
        match want.capability.parse::<Grants>() {
            Ok(g) if g.iter().all(|one| grants.covers(one)) => {}
            Ok(g) => {
                if ask(cx, terminal, &format!("Grant {word} ({reason})? y or n:")).await? {
                    grants.add(&g).map_err(|e| UsageError(e.to_string()))?;
                }
            }
            Err(GrantError::Open(_)) => {
                let what = format!("It asks for {word} ({reason}). Type what to grant of it, in words like that, or nothing:");
                cx.printer.notice(Tone::Question, &what)?;
                terminal.forget();
                let typed = terminal.line().await.unwrap_or_default();
                let typed: Vec<String> = typed.split_whitespace().map(str::to_owned).collect();
                grants.add(&words(&typed)?).map_err(|e| UsageError(e.to_string()))?;
            }
            Err(_) => cx.printer.notice(Tone::Plain, &format!("It asks for {word}, which this host does not know: not granted."))?,
        }
    }
    Ok(())
}

/// Hands the file over; what is installed is these bytes, whatever becomes of the file.
async fn stage(cx: &Context, file: &Path) -> anyhow::Result<String> {
    let name = safe(&file.to_string_lossy());
    let fail =
        |why: String| UsageError(format!("plugin file {name}: {why}; give a component, a .wasm file of at most {COMPONENT_MAX} bytes"));
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(|e| fail(e.to_string()))?;
    if !opened.metadata().is_ok_and(|m| m.is_file()) {
        return Err(fail("it is not a regular file".into()).into());
    }
    opened.take(COMPONENT_MAX as u64 + 1).read_to_end(&mut bytes).map_err(|e| fail(e.to_string()))?;
    if bytes.is_empty() || bytes.len() > COMPONENT_MAX {
        return Err(fail(format!("it has {} bytes or more", bytes.len())).into());
    }
    Ok(cx.client()?.stage_plugin(bytes.into()).await?.digest)
}

fn origin(file: &Path) -> String {
    file.canonicalize().unwrap_or_else(|_| file.to_owned()).to_string_lossy().into_owned()
}

fn words(given: &[String]) -> Result<Grants, UsageError> {
    Grants::parse(given).map_err(|e| UsageError(e.to_string()))
}

/// JSON, or a file of it behind an `@`.
fn config(given: Option<&str>) -> anyhow::Result<Option<Value>> {
    let Some(given) = given else { return Ok(None) };
    let fail = |why: String| UsageError(format!("--config {}: {why}; give a JSON object, or @FILE", brief(given, 100)));
    let text = match given.strip_prefix('@') {
        Some(file) => {
            let mut text = String::new();
            let opened = std::fs::File::open(file).map_err(|e| fail(e.to_string()))?;
            opened.take(CONFIG_MAX + 1).read_to_string(&mut text).map_err(|e| fail(e.to_string()))?;
            text
        }
        None => given.to_owned(),
    };
    let value: Value = serde_json::from_str(&text).map_err(|e| fail(e.to_string()))?;
    if !value.is_object() {
        return Err(fail("it is no object".into()).into());
    }
    Ok(Some(value))
}

fn show(cx: &mut Context, found: &PluginLookDoc) -> anyhow::Result<()> {
    let kind = safe(&found.kind);
    let moments: Vec<&str> = found.moments.iter().map(|m| m.as_str()).collect();
    let lines = [
        format!("{} {}: {}", safe(&found.plugin), safe(&found.version), brief(&found.purpose, 400)),
        format!("  kind    {kind}{}{}", if moments.is_empty() { "" } else { ", takes part in " }, moments.join(", ")),
        format!("  digest  {}", safe(&found.digest)),
    ];
    for line in lines {
        cx.printer.notice(Tone::Plain, &line)?;
    }
    if found.wants.is_empty() {
        cx.printer.notice(Tone::Plain, "  wants   nothing beyond its own memory")?;
    }
    for w in &found.wants {
        let now = if w.new && found.replaces.is_some() { " (new)" } else { "" };
        cx.printer.notice(Tone::Plain, &format!("  wants   {}{now}: {}", safe(&w.capability), brief(&w.reason, 200)))?;
    }
    Ok(())
}

async fn ls(cx: &mut Context, name: Option<&str>) -> Outcome {
    if let Some(name) = name {
        let doc = cx.client()?.plugin(name).await?;
        return details(cx, &doc);
    }
    let page = cx.client()?.plugins().await?;
    if cx.printer.json() {
        for doc in &page.items {
            cx.printer.document(doc)?;
        }
        return Ok(Exit::Done);
    }
    if cx.printer.quiet() {
        for doc in &page.items {
            cx.printer.line(&safe(&doc.name))?;
        }
        return Ok(Exit::Done);
    }
    let now = SystemClock.wall_ms();
    let row = |p: &PluginDoc| {
        vec![
            safe(&p.name),
            safe(&p.version),
            safe(&p.kind),
            state(p).to_owned(),
            serde_json::to_value(p.mode).ok().and_then(|m| m.as_str().map(str::to_owned)).unwrap_or_default(),
            if p.grants.is_empty() { "-".to_owned() } else { brief(&p.grants.words().join(" "), 60) },
            safe(&p.digest).chars().take(DIGEST_SHOWN).collect(),
            age(&p.since, now),
        ]
    };
    let rows: Vec<_> = page.items.iter().map(row).collect();
    if rows.is_empty() {
        cx.printer.note("no plugin is installed; `beadle plugin add FILE` installs one")?;
    } else {
        cx.printer.table(&["NAME", "VERSION", "KIND", "STATE", "MODE", "GRANTS", "DIGEST", "SINCE"], &rows)?;
    }
    Ok(Exit::Done)
}

fn state(p: &PluginDoc) -> &str {
    match (p.enabled, p.state.as_str()) {
        (false, _) => "disabled",
        (_, "ready") => "enabled",
        _ => "damaged",
    }
}

fn details(cx: &mut Context, p: &PluginDoc) -> Outcome {
    if cx.printer.json() {
        cx.printer.document(p)?;
        return Ok(Exit::Done);
    }
    let on_failure = p.on_failure.effect().as_str();
    let mut lines = vec![
        format!("{} {}: {}", safe(&p.name), safe(&p.version), brief(&p.purpose, 400)),
        format!("  kind      {} ({})", safe(&p.kind), safe(&p.plugin)),
        format!("  state     {}{}", state(p), p.detail.as_deref().map(|d| format!(": {}", brief(d, 300))).unwrap_or_default()),
        format!(
            "  settings  {}, {on_failure} when it fails, {} ms",
            if p.mode == crate::model::Mode::Enforce { "enforce" } else { "monitor" },
            p.deadline_ms
        ),
        format!("  config    {}", brief(&p.config.to_string(), 400)),
    ];
    for w in &p.wants {
        let given = if w.granted { "granted" } else { "not granted" };
        lines.push(format!("  wants     {} ({given}): {}", safe(&w.capability), brief(&w.reason, 200)));
    }
    if !p.grants.is_empty() {
        lines.push(format!("  grants    {}", safe(&p.grants.words().join(" "))));
    }
    for v in &p.versions {
        let mark = if v.current { "in force" } else { "kept" };
        lines.push(format!("  version   {} {} ({mark}) from {}", safe(&v.version), safe(&v.digest), brief(&v.origin, 200)));
    }
    for line in lines {
        cx.printer.line(&line)?;
    }
    Ok(Exit::Done)
}

fn say(cx: &mut Context, doc: &PluginDoc, what: &str) -> Outcome {
    match (cx.printer.json(), cx.printer.quiet()) {
        (true, _) => cx.printer.document(doc)?,
        (_, true) => cx.printer.line(&safe(&doc.name))?,
        _ => {
            cx.printer.line(&format!("{} {} {what}", safe(&doc.name), safe(&doc.version)))?;
            let missing: Vec<String> = doc.wants.iter().filter(|w| !w.granted).map(|w| safe(&w.capability)).collect();
            if !missing.is_empty() && doc.enabled {
                cx.printer.note(&format!(
                    "not granted: {}; `beadle plugin grant {} GRANT` gives it",
                    missing.join(", "),
                    safe(&doc.name)
                ))?;
            }
        }
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_an_object_inline_or_in_a_file() {
        assert_eq!(config(None).unwrap(), None);
        assert_eq!(config(Some(r#"{"a":1}"#)).unwrap(), Some(serde_json::json!({"a": 1})));
        for bad in ["[]", "{", "@/nonexistent/file"] {
            assert!(config(Some(bad)).is_err_and(|e| e.to_string().contains("--config")), "{bad}");
        }
    }
}
