//! `beadle daemon`: the service itself, in the foreground.

use super::args::DaemonArgs;
use super::exit::{Coded, Exit};
use super::{Context, Outcome};
use crate::daemon;

/// Runs until it is told to end. `--detach` leaves the caller's terminal session, so that a closed terminal does not end it.
pub async fn run(cx: &mut Context, args: DaemonArgs) -> Outcome {
    if args.detach {
        // why ignore: it fails only for the leader of a process group, which has no terminal to lose here.
        let _ = rustix::process::setsid();
    }
    let folders = cx.folders()?;
    daemon::run(folders).await.map_err(|e| {
        let exit = if matches!(e, daemon::Error::Config(_)) { Exit::Usage } else { Exit::Internal };
        Coded { exit, code: e.code().to_owned(), message: e.to_string() }
    })?;
    Ok(Exit::Done)
}
