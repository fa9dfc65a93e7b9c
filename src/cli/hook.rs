//! `beadle hook`: hooks in an agent's settings, for sessions that were not started here.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::args::{HookInstallArgs, HookPlace, HookStatusArgs, HookUninstallArgs};
use super::confirm::confirmed;
use super::exit::{Coded, Exit, UsageError};
use super::printer::Tone;
use super::text::{micros, safe};
use super::{Context, Outcome};
use crate::agent::claude::settings::{self, BEGINS, DECIDES, Found, Hooks, OBSERVED};
use crate::api::client::Client;
use crate::api::types::{HOOK_MAX, HookedRequest, HooksDoc};
use crate::config::Folders;

mod file;

/// The agent's name on the wire.
const AGENT: &str = "claude";
/// Settings that an administrator forces on all users.
const MANAGED: &str = "/etc/claude-code/managed-settings.json";
/// How long `status` waits for the daemon.
const PROBE: Duration = Duration::from_secs(5);

pub async fn install(cx: &mut Context, args: HookInstallArgs) -> Outcome {
    let path = place(&args.place)?;
    let before = read(&path)?;
    let folders = cx.folders()?;
    let hooks = hooks(&folders)?;
    let after = settings::install(before.as_deref().unwrap_or_default(), &hooks).map_err(|e| refused(&path, &e))?;
    if args.print {
        cx.printer.octets(after.as_bytes())?;
        return Ok(Exit::Done);
    }
    // why first: from the moment they stand in the file, hooks that find no client or no daemon block every call.
    let doc = cx.client()?.set_hooked(&request(&path, true)).await?;
    if !doc.shim_ok {
        return Err(coded("BDL-HOOK-004", format!("the hook client {} is not as this version has it; see `beadle host logs`", doc.shim)));
    }
    let changed = before.as_deref() != Some(after.as_str());
    if changed && let Err(e) = file::replace(&path, before.as_deref(), &after) {
        if before.as_deref().map(settings::look).and_then(Result::ok).is_none_or(|f| f.events.is_empty()) {
            // why ignore: a file too many on that list keeps the daemon up, nothing worse; why it failed is what must be told.
            let _ = cx.client()?.set_hooked(&request(&path, false)).await;
        }
        return Err(refused(&path, &e));
    }
    if cx.printer.json() {
        let backup = (changed && before.is_some()).then(|| file::backup(&path));
        cx.printer.document(&json!({ "path": path, "changed": changed, "backup": backup, "client": doc.shim, "socket": hooks.socket }))?;
        return Ok(Exit::Done);
    }
    let shown = safe(&path.to_string_lossy());
    if !changed {
        cx.printer.line(&format!("{shown} holds the hooks already"))?;
        return Ok(Exit::Done);
    }
    cx.printer.line(&format!("hooks are in {shown}"))?;
    if before.is_some() {
        cx.printer.note(&format!("its earlier text is in {}", safe(&file::backup(&path).to_string_lossy())))?;
    }
    cx.printer.note(
        "sessions that run already have them from their next start; without the daemon every call is blocked, so it stays up from now on",
    )?;
    cx.printer.note("what is in force: `beadle hook status`")?;
    Ok(Exit::Done)
}

pub async fn uninstall(cx: &mut Context, args: HookUninstallArgs) -> Outcome {
    let path = place(&args.place)?;
    let before = read(&path)?;
    let after = before.as_deref().map(settings::uninstall).transpose().map_err(|e| refused(&path, &e))?;
    let changed = before != after;
    // why first: it may need a confirmation, without which the file stays as it is.
    let gone = request(&path, false);
    confirmed(cx, None, async |client| client.set_hooked(&gone).await).await?;
    if let (Some(after), true) = (&after, changed)
        && let Err(e) = take_out(&path, before.as_deref(), after)
    {
        cx.client()?.set_hooked(&request(&path, true)).await?;
        return Err(refused(&path, &e));
    }
    let shown = safe(&path.to_string_lossy());
    match (cx.printer.json(), changed) {
        (true, _) => cx.printer.document(&json!({ "path": path, "changed": changed }))?,
        (false, true) => cx.printer.line(&format!("hooks are out of {shown}"))?,
        (false, false) => cx.printer.line(&format!("{shown} holds no hooks of ours"))?,
    }
    Ok(Exit::Done)
}

/// Writes the settings without the hooks; a file that was made for them goes.
fn take_out(path: &Path, before: Option<&str>, after: &str) -> Result<(), Box<dyn std::error::Error>> {
    if after.trim() == "{}" && !file::backup(path).exists() {
        return Ok(std::fs::remove_file(path)?);
    }
    let kept = std::fs::read_to_string(file::backup(path)).ok();
    file::replace(path, before, after)?;
    if kept.as_deref() == Some(after) {
        let _ = std::fs::remove_file(file::backup(path));
    }
    Ok(())
}

/// One settings file as `status` shows it.
struct Seen {
    path: PathBuf,
    scope: &'static str,
    found: Result<Option<Found>, String>,
}

pub async fn status(cx: &mut Context, args: HookStatusArgs) -> Outcome {
    let project = match args.project {
        Some(dir) => dir,
        None => std::env::current_dir()?,
    };
    let begun = Instant::now();
    let client = Client::without_start(cx.folders()?);
    let asked = tokio::time::timeout(PROBE, client.hooks()).await;
    let probe_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    let (daemon, silence) = match asked {
        Ok(Ok(doc)) => (Some(doc), None),
        Ok(Err(e)) => (None, Some(e.to_string())),
        Err(_) => (None, Some(format!("it did not answer within {} s", PROBE.as_secs()))),
    };
    let seen = look_at(&project, daemon.as_ref());
    let problems = problems(&seen, daemon.as_ref(), silence.as_deref());
    let in_force = problems.is_empty();
    if cx.printer.json() {
        let files: Vec<_> = seen.iter().filter_map(document).collect();
        cx.printer.document(&json!({
            "agent": AGENT, "in_force": in_force, "problems": problems,
            "daemon": { "answers": daemon.is_some(), "probe_us": daemon.is_some().then_some(probe_us) },
            "client": daemon.as_ref().map(|d| json!({ "path": d.shim, "ok": d.shim_ok })),
            "ask": daemon.as_ref().map(|d| &d.ask), "files": files,
            "decides": [DECIDES], "records": std::iter::once(&BEGINS).chain(OBSERVED).collect::<Vec<_>>(),
        }))?;
        return Ok(if in_force { Exit::Done } else { Exit::No });
    }
    let answers = daemon.as_ref().map_or_else(|| "no answer".to_owned(), |_| format!("answers in {}", micros(probe_us)));
    let shim = daemon.as_ref().map(|d| format!("{}{}", safe(&d.shim), if d.shim_ok { "" } else { ", not as this version has it" }));
    let ask = daemon.as_ref().map(|d| safe(&d.ask));
    cx.printer.fields(&[("daemon", answers), ("client", shim.unwrap_or_default()), ("an ask", ask.unwrap_or_default())])?;
    let rows: Vec<Vec<String>> = seen.iter().filter_map(row).collect();
    if !rows.is_empty() {
        cx.printer.line("")?;
        cx.printer.table(&["SETTINGS", "SCOPE", "HOOKS"], &rows)?;
    }
    cx.printer.line("")?;
    for p in &problems {
        cx.printer.toned(Tone::Bad, &format!("✗ {}", safe(p)))?;
    }
    if in_force {
        cx.printer.toned(Tone::Good, &format!("✓ in force: {DECIDES} decides; {BEGINS}, {} are recorded", OBSERVED.join(", ")))?;
    }
    cx.printer.note("hooks fail open: a repository's settings can switch them off (`disableAllHooks`), and the agent goes on when a hook is killed; `beadle run` holds the gate instead")?;
    Ok(if in_force { Exit::Done } else { Exit::No })
}

/// Run by the agent when a conversation begins: the daemon is started if it must be, and told.
pub async fn begin(cx: &mut Context, home: Option<PathBuf>) -> Outcome {
    if let Some(home) = home.filter(|h| std::env::var_os("BEADLE_HOME").as_deref() != Some(h.as_os_str())) {
        // why exec: the daemon takes its folders from the environment, and who asks must stay the agent's own child.
        let error = std::process::Command::new(std::env::current_exe()?).args(["hook", "begin", AGENT]).env("BEADLE_HOME", home).exec();
        return Err(error.into());
    }
    let mut payload = Vec::new();
    std::io::stdin().lock().take(HOOK_MAX as u64 + 1).read_to_end(&mut payload)?;
    if payload.len() > HOOK_MAX {
        return Err(UsageError(format!("the hook's input is over {HOOK_MAX} bytes")).into());
    }
    cx.client()?.hook(AGENT, payload.into()).await?;
    Ok(Exit::Done)
}

fn hooks(folders: &Folders) -> anyhow::Result<Hooks> {
    let text = |p: &Path| {
        p.to_str().map(str::to_owned).ok_or_else(|| coded("BDL-HOOK-005", format!("{} is not UTF-8, so JSON cannot name it", p.display())))
    };
    let socket = folders.sockets().pop().unwrap_or_else(|| folders.socket());
    let home = std::env::var_os("BEADLE_HOME").filter(|h| !h.is_empty()).map(PathBuf::from);
    Ok(Hooks {
        client: text(&folders.data.join("bin").join(settings::PROGRAM))?,
        socket: text(&socket)?,
        host: text(&std::env::current_exe()?)?,
        home: home.as_deref().map(text).transpose()?,
    })
}

fn place(p: &HookPlace) -> anyhow::Result<PathBuf> {
    match &p.project {
        Some(dir) => {
            let dir = dir.canonicalize().map_err(|e| UsageError(format!("--project {}: {e}; give an existing folder", dir.display())))?;
            Ok(dir.join(".claude/settings.local.json"))
        }
        None => {
            user_settings().ok_or_else(|| UsageError("neither CLAUDE_CONFIG_DIR nor HOME is an absolute path; set one".to_owned()).into())
        }
    }
}

fn user_settings() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let dir = absolute("CLAUDE_CONFIG_DIR").or_else(|| absolute("HOME").map(|h| h.join(".claude")))?;
    Some(dir.join("settings.json"))
}

fn read(path: &Path) -> anyhow::Result<Option<String>> {
    file::read(path).map_err(|e| refused(path, &e))
}

fn request(path: &Path, installed: bool) -> HookedRequest {
    HookedRequest { agent: AGENT.to_owned(), path: path.display().to_string(), installed }
}

fn refused(path: &Path, why: &dyn std::fmt::Display) -> anyhow::Error {
    coded("BDL-HOOK-003", format!("settings {}: {why}", path.display()))
}

fn coded(code: &str, message: String) -> anyhow::Error {
    Coded { exit: Exit::No, code: code.to_owned(), message }.into()
}

fn look_at(project: &Path, daemon: Option<&HooksDoc>) -> Vec<Seen> {
    let mut places = vec![(PathBuf::from(MANAGED), "managed")];
    places.extend(user_settings().map(|p| (p, "user")));
    places.push((project.join(".claude/settings.json"), "project"));
    places.push((project.join(".claude/settings.local.json"), "project, local"));
    for f in daemon.into_iter().flat_map(|d| &d.files) {
        let path = PathBuf::from(&f.path);
        if !places.iter().any(|(p, _)| *p == path || p.canonicalize().is_ok_and(|c| c == path)) {
            places.push((path, "elsewhere"));
        }
    }
    let see = |(path, scope): (PathBuf, &'static str)| {
        let found = match std::fs::symlink_metadata(&path) {
            Err(_) => Ok(None),
            // why through links here: the agent reads what they lead to.
            Ok(_) => match path.canonicalize().and_then(|p| file::read(&p)) {
                Ok(text) => text.filter(|t| !t.trim().is_empty()).map(|t| settings::look(&t)).transpose().map_err(|e| e.to_string()),
                Err(e) => Err(e.to_string()),
            },
        };
        Seen { path, scope, found }
    };
    places.into_iter().map(see).collect()
}

fn problems(seen: &[Seen], daemon: Option<&HooksDoc>, silence: Option<&str>) -> Vec<String> {
    let mut out = Vec::new();
    let here = || seen.iter().filter(|s| s.scope != "elsewhere");
    let whole = |s: &&Seen| matches!(&s.found, Ok(Some(f)) if missing(f).is_empty());
    match here().find(whole) {
        None => out.push("no settings file that counts here holds all hooks; `beadle hook install claude`".to_owned()),
        Some(s) => {
            let clients = s.found.as_ref().ok().and_then(Option::as_ref).map(|f| f.clients.clone()).unwrap_or_default();
            if let Some(d) = daemon
                && clients.iter().any(|c| *c != d.shim)
            {
                out.push(format!("{} names another client than {}; install the hooks again", s.path.display(), d.shim));
            }
            if let Some(gone) = clients.iter().find(|c| !Path::new(c).is_file()) {
                out.push(format!(
                    "the client {gone} is not there, and the agent goes on without it; start the daemon (`beadle ls`) or install again"
                ));
            }
        }
    }
    for s in here() {
        match &s.found {
            Err(e) => out.push(format!("{} cannot be read: {e}", s.path.display())),
            Ok(Some(f)) if f.disables_all => out.push(format!("{} says disableAllHooks: no hook runs", s.path.display())),
            Ok(Some(f)) if f.managed_only && s.scope == "managed" => {
                out.push(format!("{} says allowManagedHooksOnly: hooks of users and projects do not run", s.path.display()));
            }
            Ok(_) => {}
        }
    }
    if let Some(why) = silence {
        out.push(format!(
            "the daemon does not answer, so every call is blocked ({why}); start it: `beadle ls`, or `beadle daemon` as a service"
        ));
    }
    if daemon.is_some_and(|d| !d.shim_ok) {
        out.push("the hook client is not as this version has it; end the daemon (`beadle host stop`), and start it again".to_owned());
    }
    out
}

fn missing(f: &Found) -> Vec<&'static str> {
    std::iter::once(&BEGINS).chain([&DECIDES]).chain(OBSERVED).filter(|e| !f.events.iter().any(|x| x == *e)).copied().collect()
}

fn document(s: &Seen) -> Option<serde_json::Value> {
    Some(match &s.found {
        Ok(None) => return None,
        Ok(Some(f)) => json!({
            "path": s.path, "scope": s.scope, "events": f.events, "missing": missing(f), "clients": f.clients,
            "disables_all": f.disables_all, "managed_only": f.managed_only,
        }),
        Err(e) => json!({ "path": s.path, "scope": s.scope, "error": e }),
    })
}

fn row(s: &Seen) -> Option<Vec<String>> {
    let said = match &s.found {
        Ok(None) => return None,
        Err(e) => safe(e),
        Ok(Some(f)) => {
            let count = match (f.events.len(), missing(f).len()) {
                (0, _) => "none of ours".to_owned(),
                (n, 0) => format!("all {n}"),
                (n, _) => format!("{n}, without {}", missing(f).join(", ")),
            };
            format!(
                "{count}{}{}",
                if f.disables_all { "; disableAllHooks" } else { "" },
                if f.managed_only { "; allowManagedHooksOnly" } else { "" }
            )
        }
    };
    Some(vec![safe(&s.path.to_string_lossy()), s.scope.to_owned(), said])
}
