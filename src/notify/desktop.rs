//! The desktop: `notify-send`, spoken to by arguments alone, on the operator's session bus.
//!
//! The daemon's environment is cleaned when it is started, so the bus is not taken from there but from where login managers put it:
//! `$XDG_RUNTIME_DIR/bus`, else `/run/user/<uid>/bus`, and only if it is a socket of our own user.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::{Error, Failure, Notice};
use crate::model::ApprovalState;

const PROGRAM: &str = "notify-send";
/// How long it may take; then it is killed.
const DEADLINE: Duration = Duration::from_secs(5);
/// Variables that it gets from the daemon's own.
const KEPT: &[&str] = &["PATH", "HOME", "LANG", "LC_ALL", "XDG_RUNTIME_DIR"];

/// See the module.
pub struct Desktop {
    program: PathBuf,
}

impl Desktop {
    /// Looks for the program once.
    pub fn find() -> Result<Self, Error> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let runs = |p: &PathBuf| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
        let found = std::env::split_paths(&path).filter(|d| d.is_absolute()).map(|d| d.join(PROGRAM)).find(runs);
        found.map(Self::at).ok_or(Error::NoNotifySend)
    }

    pub(super) fn at(program: PathBuf) -> Self {
        Self { program }
    }

    /// One try, within the deadline.
    pub async fn show(&self, notice: &Notice) -> Result<(), Failure> {
        let again = |why: String| Failure { why, again: true };
        let bus = bus()
            .ok_or_else(|| Failure { why: "there is no session bus; is anyone logged in at the desktop?".to_owned(), again: false })?;
        let (head, body) = notice.texts();
        let urgency = if notice.approval.state == ApprovalState::Waiting { "critical" } else { "low" };
        let mut command = Command::new(&self.program);
        command
            .args(["--app-name=beadle", "--category=im.received"])
            .arg(format!("--urgency={urgency}"))
            .args(["--", &head, &markup(&body)])
            .env_clear()
            .envs(KEPT.iter().filter_map(|n| Some((n, std::env::var_os(n)?))))
            .env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", bus.display()))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|e| again(format!("{}: {e}", self.program.display())))?;
        match tokio::time::timeout(DEADLINE, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(again(format!("{PROGRAM} ended with {status}"))),
            Ok(Err(e)) => Err(again(e.to_string())),
            Err(_) => {
                // why waited for: what is only dropped stays as a zombie until the runtime gets to it.
                let _ = child.kill().await;
                Err(Failure { why: format!("{PROGRAM} did not end within {} s", DEADLINE.as_secs()), again: false })
            }
        }
    }
}

fn bus() -> Option<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let given = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_absolute());
    let places = given.into_iter().chain([PathBuf::from(format!("/run/user/{uid}"))]).map(|d| d.join("bus"));
    let ours = |p: &PathBuf| p.metadata().is_ok_and(|m| m.file_type().is_socket() && m.uid() == uid);
    places.into_iter().find(ours)
}

/// Notification servers read the body as markup: what an agent wrote must not become any.
fn markup(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_writes_no_markup() {
        assert_eq!(markup("<a href='x'>&</a>"), "&lt;a href='x'&gt;&amp;&lt;/a&gt;");
    }
}
