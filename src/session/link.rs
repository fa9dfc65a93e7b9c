//! A session without a link to its shim: the link broke, or the shim was silent when the daemon came up.
//!
//! Invariants:
//! - a shim that holds its lock is alive, however long it is silent (stopped, starved, swapped out): its session is never called lost;
//! - meanwhile nothing of the agent is read or judged, and no frame gets a number: the agent waits at its question, answers wait in the
//!   shim's place, and who asks for something that needs the shim is told so at once;
//! - what was answered and not taken is sent again over the new link.
//!
//! Called by `run`.

use std::time::Duration;

use tokio::sync::watch;

use super::Error;
use super::command::Command;
use super::recovery::{self, Gone};
use super::run::{Ending, Runner};
use crate::model::SessionStopping;
use crate::process::{self, Adopted, Shim, kill_silent};

/// After an error that says nothing of the shim (no descriptor left, a folder that cannot be read).
const AGAIN: Duration = Duration::from_secs(1);

/// How the waiting for a link ended.
pub(super) enum Relinked {
    Linked,
    Gone(Gone),
    ShuttingDown,
}

impl Runner {
    /// Waits until the shim answers, or is known to have ended.
    pub(super) async fn relink(&mut self, shutdown: &mut watch::Receiver<bool>) -> Relinked {
        let (run_dir, marker) = (self.inner.run_dir(&self.id, self.session.attempt), self.id.to_string());
        let adopting = async move {
            loop {
                match Shim::adopt_patiently(&run_dir, &marker).await {
                    // An exit record was written, so it has ended; what it says is unknown.
                    Err(e @ process::Error::BadRecord { .. }) => return Err(e),
                    Err(e) => {
                        tracing::warn!(session = %marker, code = e.code(), error = %e, "the shim cannot be reached; trying again");
                        tokio::time::sleep(AGAIN).await;
                    }
                    adopted => return adopted,
                }
            }
        };
        tokio::pin!(adopting);
        loop {
            tokio::select! {
                biased;
                _ = shutdown.changed() => return Relinked::ShuttingDown,
                adopted = &mut adopting => return self.adopted(adopted).await,
                Some(command) = self.mailbox.recv() => self.meanwhile(command).await,
            }
        }
    }

    async fn adopted(&mut self, adopted: process::Result<Adopted>) -> Relinked {
        match adopted {
            Ok(Adopted::Live(handle, events, status)) => {
                match recovery::resend(&self.inner, &self.session, &handle, &status).await {
                    Ok(newest) => self.live.last_frame = self.live.last_frame.max(newest),
                    Err(e) => tracing::error!(session = %self.id, error = %e, "frames could not be sent again"),
                }
                let entry = self.inner.live().get_mut(&self.id).map(|l| l.shim = handle.clone());
                if entry.is_none() {
                    tracing::warn!(session = %self.id, "a session without an entry was adopted again");
                }
                self.shim = handle;
                self.shim_events = events;
                self.inbox.heard(status.out_bytes);
                self.align().await;
                Relinked::Linked
            }
            Ok(Adopted::Ended(record)) => Relinked::Gone(Gone::Exited(record)),
            Ok(Adopted::Lost { leftovers }) => Relinked::Gone(Gone::Lost(recovery::lost(&leftovers))),
            Err(e) => Relinked::Gone(Gone::Lost(e.to_string())),
        }
    }

    /// What can be done without the shim is; the rest is refused, and nothing of it done.
    async fn meanwhile(&mut self, command: Command) {
        let silent = || Error::Silent(self.id.clone());
        match command {
            Command::Prompt { reply, .. } | Command::Stop { kill: false, reply, .. } => drop(reply.send(Err(silent()))),
            Command::Pause { reply, .. } | Command::Continue { reply, .. } => drop(reply.send(Err(silent()))),
            Command::Compact { reply, .. } => drop(reply.send(Err(silent()))),
            Command::Resolve(_, reply) => drop(reply.send(Err(silent()))),
            Command::HostTool { reply, .. } => drop(reply.send(Err(Error::Busy))),
            // why dropped: a hook without an answer blocks its call.
            Command::Hook { reply, .. } => drop(reply),
            Command::Stop { kill: true, by, reply, .. } => {
                self.ending = Some(Ending::Kill);
                self.pending.events.push(SessionStopping { by, how: "kill".to_owned(), grace_ms: 0 }.into());
                self.commit().await;
                let shim = self.shim.shim();
                // An error is the runtime's end; the next kill tries again.
                let _ = tokio::task::spawn_blocking(move || kill_silent(shim)).await;
                drop(reply.send(self.recorded()));
            }
            other @ (Command::Report { .. } | Command::Record { .. } | Command::Look | Command::Attached(_)) => {
                drop(self.command(other).await)
            }
        }
    }
}
