//! `beadle fork`, and `beadle resume` of an ended session: a new session that goes on from another.
//!
//! Called by `mod.rs` and `pause`.

use super::args::{ForkArgs, GoOnArgs};
use super::ask::Terminal;
use super::confirm::confirmed;
use super::run::{environment, mcp_config, read_prompt, started, umask};
use super::{Context, Outcome};
use crate::api::types::BranchRequestDoc;
use crate::config;
use crate::model::BranchKind;

pub async fn fork(cx: &mut Context, args: ForkArgs) -> Outcome {
    let request = BranchRequestDoc { at: args.at, parent: args.parent, ..request(cx, BranchKind::Fork, args.prompt, &args.go_on)? };
    go_on(cx, &args.session, request, &args.go_on).await
}

/// Takes the work of an ended session up again.
pub async fn resume(cx: &mut Context, session: &str, prompt: Option<String>, args: &GoOnArgs) -> Outcome {
    let request = request(cx, BranchKind::Resume, prompt, args)?;
    go_on(cx, session, request, args).await
}

fn request(cx: &mut Context, how: BranchKind, prompt: Option<String>, args: &GoOnArgs) -> anyhow::Result<BranchRequestDoc> {
    let settings = config::load_for(&cx.folders()?, None, &|_, _| false)?.config;
    let limits = args.limits.limits();
    Ok(BranchRequestDoc {
        how,
        at: None,
        name: args.name.clone(),
        prompt: prompt.map(read_prompt).transpose()?,
        env: environment(cx, &settings, args.env.clone())?,
        umask: umask(),
        model: args.model.clone(),
        mcp_config: args.mcp_config.as_deref().map(mcp_config).transpose()?,
        limits: Some(limits).filter(|l| !l.is_empty()),
        keep_open: args.keep,
        attach: false,
        parent: None,
        replay: args.replay,
    })
}

async fn go_on(cx: &mut Context, session: &str, mut request: BranchRequestDoc, args: &GoOnArgs) -> Outcome {
    let mut terminal = if args.detach || args.wait || cx.printer.json() { None } else { Terminal::open() };
    request.attach = terminal.is_some();
    let doc = confirmed(cx, terminal.as_mut(), async |client| client.branch(session, &request).await).await?;
    started(cx, doc, terminal, args.detach, args.wait).await
}
