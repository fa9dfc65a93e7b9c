//! `beadle pause` and `beadle resume`.

use super::args::{PauseArgs, ResumeArgs};
use super::confirm::confirmed;
use super::exit::{Exit, UsageError};
use super::session::say;
use super::text::safe;
use super::{Context, Outcome};
use crate::api::types::{PauseRequest, TreeActRequest};
use crate::model::{Status, TreeAct};

pub async fn pause(cx: &mut Context, args: PauseArgs) -> Outcome {
    if args.tree {
        let request = TreeActRequest { act: TreeAct::Pause, grace_ms: None, mode: args.mode.map(Into::into), reason: args.reason };
        return super::tree::act(cx, &args.session, request).await;
    }
    let request = PauseRequest { mode: args.mode.map(Into::into), reason: args.reason };
    let doc = cx.client()?.pause(&args.session, &request).await?;
    let mode = doc.pause.as_ref().map_or("", |p| p.mode.as_str());
    say(cx, &doc, &format!("is paused ({mode}); `beadle resume` lets it go on"))
}

pub async fn resume(cx: &mut Context, args: ResumeArgs) -> Outcome {
    if args.tree {
        let request = TreeActRequest { act: TreeAct::Resume, grace_ms: None, mode: None, reason: None };
        return super::tree::act(cx, &args.session, request).await;
    }
    let session = cx.client()?.session(&args.session).await?;
    if session.status == Status::Ended {
        return super::branch::resume(cx, &session.id, args.prompt, &args.go_on).await;
    }
    if args.prompt.is_some() {
        let what = format!("session {} has not ended; give it a prompt with `beadle send`", safe(&session.id));
        return Err(UsageError(what).into());
    }
    let doc = confirmed(cx, None, async |client| client.resume(&session.id).await).await?;
    say(cx, &doc, "goes on")?;
    Ok(Exit::Done)
}
