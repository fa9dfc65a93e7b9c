//! Pausing on an operator's word, or because of a breach, and going on.
//!
//! | mode | what is held | what goes on |
//! | --- | --- | --- |
//! | hold | the agent's words are not read and it is told nothing: each tool call waits at its gate | its processes, calls that were allowed before |
//! | freeze | the same, and every process of the tree is stopped | nothing |
//!
//! Invariants:
//! - the pause is on record before it is done, and its end before that is done: whoever takes the session up later does what the record says
//!   ([`Runner::align`]), so a pause survives the daemon;
//! - answers and prompts that come meanwhile are recorded, and told to the agent when it goes on; nothing is judged twice, nothing is lost;
//! - deadlines of questions to people go on (they were shown as times), and a denial by expiry is told when the session goes on; the
//!   session's own clock (closing its input, putting it away, compaction) stands still;
//! - a pause is of an agent that lives. One that ends meanwhile ends its session at once, with the outcome of its end, and what it still
//!   said is read; one that is done with its work and has not been heard lives, and ends when the session goes on. Where the plan of the
//!   session makes another attempt, that waits for the resume;
//! - a stop or kill needs no resume: the shim lets the tree go on with the signal that ends it.
//!
//! Called by `command`, `finish` (a breach) and `run`.

use std::time::Duration;

use tokio::time::Instant;

use super::hook::{Client, Tell};
use super::park::stage::Stage;
use super::run::{NEXT_TURN, Runner, told};
use super::{Error, live, recovery};
use crate::model::{Actor, Note, PauseMode, Session, SessionContinued, SessionPaused, Status};
use crate::process::Frozen;

/// Questions through hooks that may wait for a session to go on; further ones find the host busy, which blocks their call.
const HELD: usize = 256;
/// How long the shim may take to say that it did what it was told.
const CONFIRM: Duration = Duration::from_secs(10);
/// Longest reason in bytes.
const REASON_MAX: usize = 512;

/// A question through a hook, and who waits for its answer.
pub(super) type HeldHook = (Tell, Client);

impl Error {
    /// Why a session that stands so cannot be paused.
    pub(super) fn not_running(session: &Session) -> Self {
        let next = match (session.status, &session.pause) {
            (Status::Paused, Some(p)) if p.mode == PauseMode::Away => {
                "it goes on by itself when its question is answered: `beadle approvals`"
            }
            (Status::Paused, _) => "`beadle resume` lets it go on",
            (Status::Ended, _) => "start another with `beadle run`",
            (Status::Stopping, _) => "it is on its way out: `beadle wait`",
            _ => "try again in a moment",
        };
        Self::NotRunning { session: session.id.clone(), status: stands(session), next }
    }

    /// Why a session that stands so cannot be resumed.
    pub(super) fn not_paused(session: &Session) -> Self {
        let next = match (session.status, &session.pause) {
            (Status::Paused, _) => "it was put away and goes on by itself when its question is answered: `beadle approvals`",
            (Status::Ended, _) => "its work is taken up by a new session: POST …/branches, as `beadle resume` does",
            (Status::Stopping, _) => "it is on its way out: `beadle wait`",
            _ => "`beadle pause` would pause it",
        };
        Self::NotPaused { session: session.id.clone(), status: stands(session), next }
    }
}

/// Status, with what makes it plain.
fn stands(session: &Session) -> String {
    let more = match (&session.outcome, &session.pause) {
        (Some(o), _) => format!(" ({})", o.as_str()),
        (None, Some(p)) => format!(" ({})", p.mode.as_str()),
        (None, None) => String::new(),
    };
    format!("{}{more}", session.status.as_str())
}

impl Runner {
    /// On an operator's word, or for a breach: nothing is read from the agent, and nothing is told to it.
    pub(super) fn is_paused(&self) -> bool {
        !self.finishing && self.session.is_held()
    }

    pub(super) async fn pause(&mut self, mode: Option<PauseMode>, reason: String, by: Actor) -> Result<Session, Error> {
        if self.session.status != Status::Running || self.ending.is_some() {
            return Err(Error::not_running(&self.session));
        }
        let gated = self.driver.speaks() || self.external.is_some();
        let mode = mode.unwrap_or(if gated { PauseMode::Hold } else { PauseMode::Freeze });
        let why = self.cannot_pause(mode, gated);
        if let Some(why) = why {
            return Err(Error::NotPausable { session: self.id.clone(), why });
        }
        self.begin_pause(mode, live::cut(&reason, REASON_MAX), by).await;
        self.recorded()
    }

    fn cannot_pause(&self, mode: PauseMode, gated: bool) -> Option<&'static str> {
        match mode {
            _ if self.live.parking.stage != Stage::Running => Some("it is being put away or started anew; try again in a moment"),
            PauseMode::Away => Some("only the host puts a session away; use hold or freeze"),
            PauseMode::Hold if !gated => Some("it has no gate at which its calls could wait; use --mode freeze"),
            PauseMode::Freeze if self.external.is_some() => {
                Some("it was not started by the host, which stops no process of others; use --mode hold")
            }
            PauseMode::Freeze if self.shim.first_status().frozen == Frozen::Unknown => {
                Some("its shim is of an earlier version that cannot freeze; use --mode hold, or stop it")
            }
            PauseMode::Hold | PauseMode::Freeze => None,
        }
    }

    /// True when the session is paused now because of a breach; else it must be ended.
    pub(super) async fn pause_for(&mut self, breach: &str) -> bool {
        let mode = if self.external.is_some() { PauseMode::Hold } else { PauseMode::Freeze };
        if self.session.status != Status::Running || self.ending.is_some() || self.cannot_pause(mode, true).is_some() {
            return false;
        }
        self.begin_pause(mode, live::cut(&format!("breach: {breach}"), REASON_MAX), Actor::host()).await;
        true
    }

    async fn begin_pause(&mut self, mode: PauseMode, reason: String, by: Actor) {
        self.pending.events.push(SessionPaused { reason, mode, by: Some(by), call: None }.into());
        self.commit().await;
        super::failpoint::hit("pausing");
        if mode == PauseMode::Freeze && self.is_paused() {
            self.freeze().await;
        }
    }

    async fn freeze(&mut self) {
        let text = match tokio::time::timeout(CONFIRM, self.shim.freeze(true)).await {
            Ok(Ok(Frozen::Partly)) => "a process of the session did not stop within 2 s, so it is frozen in part only; see `beadle ps`",
            Ok(Ok(_)) => return,
            // The link is broken; the next one finds what the record says.
            Ok(Err(e)) => return told(&self.id, Err(e)),
            Err(_) => "the shim was told to freeze the session and has not confirmed it yet; see `beadle ps`",
        };
        self.pending.events.push(Note { text: text.to_owned() }.into());
        self.commit().await;
    }

    async fn thaw(&mut self) {
        match tokio::time::timeout(CONFIRM, self.shim.freeze(false)).await {
            Ok(done) => told(&self.id, done.map(drop)),
            Err(_) => tracing::warn!(session = %self.id, "the shim was told to let the session go on and has not confirmed it yet"),
        }
    }

    pub(super) async fn unpause(&mut self, by: Actor) -> Result<Session, Error> {
        let Some(pause) = self.session.pause.clone().filter(|_| self.is_paused()) else {
            return Err(Error::not_paused(&self.session));
        };
        let paused_ms = self.inner.clock.wall_ms().saturating_sub(pause.at).max(0).unsigned_abs();
        self.pending.events.push(SessionContinued { mode: pause.mode, by, paused_ms }.into());
        self.commit().await;
        super::failpoint::hit("continuing");
        let session = self.recorded()?;
        self.go_on(pause.mode).await;
        Ok(session)
    }

    async fn go_on(&mut self, mode: PauseMode) {
        if self.external.is_none() {
            // why first the words: what was allowed or denied meanwhile is at hand when it wakes.
            self.tell_withheld().await;
        }
        if mode == PauseMode::Freeze {
            self.thaw().await;
        }
        self.live.hooks.answer(self.session.last_seq);
        let wait = if self.live.prompts > self.live.turns { NEXT_TURN } else { Duration::ZERO };
        self.close_at = self.close_at.map(|t| t.max(Instant::now() + wait));
        self.witnesses.soon();
        for (tell, reply) in std::mem::take(&mut self.held_hooks) {
            if !reply.is_closed() {
                // None: what is held is a question, and no word of an end.
                let _ = self.hook(tell, reply).await;
            }
        }
    }

    /// Hands over what was recorded for the agent while it was paused.
    async fn tell_withheld(&mut self) {
        let status = match tokio::time::timeout(CONFIRM, self.shim.status()).await {
            Ok(Ok(status)) => status,
            Ok(Err(e)) => return told(&self.id, Err(e)),
            // It lives and is silent: what it has not taken goes to its next greeting, or from where it stood at the first.
            Err(_) => self.shim.first_status(),
        };
        match recovery::resend(&self.inner, &self.session, &self.shim, &status).await {
            Ok(newest) => self.live.last_frame = self.live.last_frame.max(newest),
            Err(e) => tracing::error!(session = %self.id, error = %e, "frames could not be sent again"),
        }
    }

    /// A task takes the session up, or has a new link: the tree stands as the record says.
    pub(super) async fn align(&mut self) {
        if self.external.is_some() || !self.shim.is_linked() {
            return;
        }
        let is = matches!(self.shim.first_status().frozen, Frozen::Yes | Frozen::Partly);
        let shall = self.is_paused() && self.session.pause.as_ref().is_some_and(|p| p.mode == PauseMode::Freeze);
        if shall {
            self.freeze().await;
        } else if is && self.session.status != Status::Stopping {
            self.thaw().await;
        }
    }

    /// Keeps a question until the session goes on. A client that is told to ask again does, and takes the place of what it asked before.
    pub(super) fn hold_hook(&mut self, tell: Tell, reply: Client) {
        self.held_hooks.retain(|(_, waits)| !waits.is_closed());
        if self.held_hooks.len() < HELD {
            self.held_hooks.push((tell, reply));
        }
        // Else dropped: a hook without an answer blocks its call.
    }
}
