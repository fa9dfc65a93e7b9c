//! `beadle trust`: pins a project's `beadle.toml` by its digest, after showing what that lets in.

use std::path::Path;

use super::args::TrustArgs;
use super::ask::{Terminal, Typed, parse};
use super::confirm::confirmed;
use super::exit::{Exit, UsageError};
use super::printer::Tone;
use super::text::{safe, safe_lines};
use super::{Context, Outcome};
use crate::api::types::{ApprovalAnswer, TrustRequest};
use crate::config::{self, PROJECT_FILE, Sources};
use crate::model::Effect;

/// Shows the file and what it may not say yet, asks, and pins exactly the bytes shown.
pub async fn trust(cx: &mut Context, args: TrustArgs) -> Outcome {
    let shown = safe(&args.dir.to_string_lossy());
    let dir = args.dir.canonicalize().map_err(|e| UsageError(format!("folder {shown}: {e}; give a project's folder")))?;
    let found = config::read_project(&dir)?
        .ok_or_else(|| UsageError(format!("folder {shown} has no {PROJECT_FILE}; there is nothing to trust")))?;
    let user = cx.folders()?.config_file();
    let load = |trusted: &dyn Fn(&Path, &str) -> bool| {
        config::load(&Sources { user: Some(&user), cwd: Some(&dir), env: &|name| std::env::var_os(name), trusted })
    };
    let ignored = load(&|_, _| false)?.project.map(|p| p.ignored).unwrap_or_default();
    load(&|_, _| true)?;
    let mut terminal = None;
    if !args.yes {
        cx.printer.notice(Tone::Plain, &safe_lines(&found.text))?;
        let list = if ignored.is_empty() { "nothing (it only tightens)".to_owned() } else { safe(&ignored.join(", ")) };
        cx.printer.notice(Tone::Question, &format!("Trusting it lets in: {list}\nTrust this file as it is? y or n:"))?;
        let opened = Terminal::open().ok_or_else(|| UsageError("there is no terminal to ask on; read the file, then use --yes".into()))?;
        let terminal = terminal.insert(opened);
        terminal.forget();
        let answer = terminal.line().await.and_then(|l| parse(&l));
        if !matches!(answer, Some(Typed::Answer(ApprovalAnswer { effect: Effect::Allow, always: None, .. }))) {
            cx.printer.note("not trusted")?;
            return Ok(Exit::No);
        }
    }
    let dir = dir.into_os_string().into_string().map_err(|_| UsageError(format!("folder {shown}: its path is not UTF-8")))?;
    let request = TrustRequest { dir, digest: found.digest };
    let doc = confirmed(cx, terminal.as_mut(), async |client| client.trust(&request).await).await?;
    if cx.printer.json() {
        cx.printer.document(&doc)?;
    } else {
        cx.printer.line(&format!("trusted {} as {}", safe(&doc.dir), safe(&doc.digest)))?;
    }
    Ok(Exit::Done)
}
